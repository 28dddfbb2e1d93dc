//! Forwards to a live session: in order, reordered, repeated, lost, from elsewhere.

use super::*;
use crate::session::HELD_FORWARDS_MAX;

#[test]
fn the_next_place_of_each_lane_is_sent() {
    let mut bench = Bench::live(256, [4, 7]);
    assert_eq!(bench.forwarded(Lane::Normal, 5), ["messages n5 to 5,7"]);
    assert_eq!(bench.forwarded(Lane::High, 8), ["messages h8 to 5,8"]);
    assert_eq!(bench.forwarded(Lane::Normal, 6), ["messages n6 to 6,8"]);
}

#[test]
fn a_live_frame_carries_the_time_of_its_event() {
    let mut bench = Bench::live(256, [4, 0]);
    let effects = bench.session.forwarded(forward(Lane::Normal, 5));
    let [Effect::Send { times_ms, .. }] = effects.as_slice() else {
        panic!("{effects:?}");
    };
    assert_eq!(*times_ms, [1_005]);
}

#[test]
fn a_repeated_forward_is_dropped() {
    let mut bench = Bench::live(256, [4, 0]);
    bench.forwarded(Lane::Normal, 5);
    for place in [5, 4, 1] {
        assert_eq!(bench.forwarded(Lane::Normal, place), [""; 0]);
    }
}

#[test]
fn reordered_forwards_are_held_and_sent_in_order() {
    let mut bench = Bench::live(256, [0, 0]);
    assert_eq!(bench.forwarded(Lane::Normal, 3), ["hold"]);
    assert_eq!(bench.forwarded(Lane::Normal, 2), [""; 0]);
    assert_eq!(bench.forwarded(Lane::Normal, 3), [""; 0]);
    assert_eq!(bench.forwarded(Lane::Normal, 5), [""; 0]);
    let expected = [
        "messages n1 to 1,0",
        "messages n2 to 2,0",
        "messages n3 to 3,0",
    ];
    assert_eq!(bench.forwarded(Lane::Normal, 1), expected);
    let expected = ["messages n4 to 4,0", "messages n5 to 5,0"];
    assert_eq!(bench.forwarded(Lane::Normal, 4), expected);
}

#[test]
fn a_hole_in_one_lane_does_not_hold_the_other() {
    let mut bench = Bench::live(256, [0, 0]);
    assert_eq!(bench.forwarded(Lane::Normal, 2), ["hold"]);
    assert_eq!(bench.forwarded(Lane::High, 1), ["messages h1 to 0,1"]);
    assert_eq!(bench.forwarded(Lane::High, 3), [""; 0]);
    let expected = ["messages n1 to 1,1", "messages n2 to 2,1"];
    assert_eq!(bench.forwarded(Lane::Normal, 1), expected);
    let effects = bench.session.hold_expired();
    assert_eq!(bench.shown(effects), ["read 64 after 2,1"]);
}

#[test]
fn a_lost_forward_is_read_when_the_hold_expires() {
    let mut bench = Bench::live(256, [0, 0]);
    assert_eq!(bench.forwarded(Lane::Normal, 2), ["hold"]);
    let effects = bench.session.hold_expired();
    assert_eq!(bench.shown(effects), ["read 64 after 0,0"]);
    let effects = bench.page_read(page([2, 0], Lane::Normal, 1..=2));
    assert_eq!(effects, ["messages n1 n2 to 2,0"]);
    // What was held is in the page.
    assert_eq!(bench.forwarded(Lane::Normal, 3), ["messages n3 to 3,0"]);
}

#[test]
fn what_was_held_before_a_read_is_not_sent_after_it() {
    let mut bench = Bench::live(256, [0, 0]);
    bench.forwarded(Lane::Normal, 3);
    let effects = bench.session.reconcile();
    bench.shown(effects);
    bench.page_read(page([1, 0], Lane::Normal, 1..=1));
    // Read, it may be gone by then; held, it would be sent in place of its `missed`.
    assert_eq!(bench.forwarded(Lane::Normal, 2), ["messages n2 to 2,0"]);
    assert_eq!(bench.session.hold_expired(), []);
}

#[test]
fn a_hold_that_was_filled_expires_without_effect() {
    let mut bench = Bench::live(256, [0, 0]);
    bench.forwarded(Lane::Normal, 2);
    bench.forwarded(Lane::Normal, 1);
    assert_eq!(bench.session.hold_expired(), []);
    assert_eq!(bench.forwarded(Lane::Normal, 3), ["messages n3 to 3,0"]);
}

#[test]
fn each_hold_after_a_filled_one_has_its_own_time() {
    let mut bench = Bench::live(256, [0, 0]);
    bench.forwarded(Lane::Normal, 2);
    bench.forwarded(Lane::Normal, 1);
    assert_eq!(bench.forwarded(Lane::Normal, 4), ["hold"]);
}

#[test]
fn a_hold_that_expires_while_reading_changes_nothing() {
    let mut bench = Bench::live(256, [0, 0]);
    bench.forwarded(Lane::Normal, 2);
    bench.session.reconcile();
    assert_eq!(bench.session.hold_expired(), []);
}

#[test]
fn one_forward_more_than_may_be_held_falls_back_to_the_mailbox() {
    let mut bench = Bench::live(256, [0, 0]);
    let held = HELD_FORWARDS_MAX as u64;
    for place in 2..2 + held / 2 {
        bench.forwarded(Lane::Normal, place);
        let effects = bench.forwarded(Lane::High, place);
        assert_eq!(effects, [""; 0]);
    }
    let effects = bench.forwarded(Lane::Normal, 2 + held);
    assert_eq!(effects, ["read 64 after 0,0"]);
}

#[test]
fn a_forward_of_another_epoch_is_not_sent_and_makes_it_compare() {
    let mut other = forward(Lane::Normal, 1);
    other.epoch = epoch(2);
    let mut bench = Bench::live(256, [0, 0]);
    let effects = bench.session.forwarded(other.clone());
    assert_eq!(effects, [Effect::CheckEpoch]);
    bench.session.reconcile();
    assert_eq!(bench.session.forwarded(other), [Effect::CheckEpoch]);
    assert_eq!(bench.page_read(nothing([0, 0])), [""; 0]);
}

#[test]
fn a_forward_of_another_life_makes_it_register() {
    for life in [None, Some(Life(2))] {
        let mut other = forward(Lane::Normal, 1);
        other.life = life;
        let mut bench = Bench::live(256, [0, 0]);
        let effects = bench.session.forwarded(other.clone());
        assert_eq!(bench.shown(effects), ["register, life Some(1)"]);
        assert_eq!(bench.session.forwarded(other), []);
    }
}

#[test]
fn what_was_held_before_registering_anew_is_not_sent_after_it() {
    let mut bench = Bench::live(256, [0, 0]);
    bench.forwarded(Lane::Normal, 2);
    bench.session.register_again();
    bench.registered(after_fail_over([0, 0], nothing([0, 0])));
    let mut next = forward(Lane::Normal, 1);
    next.epoch = epoch(2);
    let effects = bench.session.forwarded(next);
    assert_eq!(bench.shown(effects), ["messages n1 to 1,0"]);
}

#[test]
fn counters_show_a_lost_forward() {
    let mut bench = Bench::live(256, [3, 3]);
    assert_eq!(bench.session.counted([3, 3]), []);
    assert_eq!(bench.session.counted([2, 0]), []);
    let effects = bench.session.counted([3, 4]);
    assert_eq!(bench.shown(effects), ["read 64 after 3,3"]);
    let effects = bench.page_read(page([3, 4], Lane::High, 4..=4));
    assert_eq!(effects, ["messages h4 to 3,4"]);
}

#[test]
fn reconciling_where_nothing_is_missing_sends_nothing() {
    let mut bench = Bench::live(256, [3, 3]);
    let effects = bench.session.reconcile();
    assert_eq!(bench.shown(effects), ["read 64 after 3,3"]);
    assert_eq!(bench.page_read(nothing([3, 3])), [""; 0]);
    assert_eq!(bench.forwarded(Lane::Normal, 4), ["messages n4 to 4,3"]);
}

#[test]
fn an_ephemeral_message_is_sent_at_the_place_before_it() {
    let mut bench = Bench::live(256, [3, 3]);
    assert_eq!(bench.ephemeral(), ["messages e to 3,3"]);
    assert_eq!(bench.forwarded(Lane::Normal, 4), ["messages n4 to 4,3"]);
    assert_eq!(bench.ephemeral(), ["messages e to 4,3"]);
}

#[test]
fn an_ephemeral_message_is_dropped_while_registering_or_replaying() {
    let mut bench = Bench::new(256);
    assert_eq!(bench.ephemeral(), [""; 0]);
    bench.registered(registration([0, 0], page([2, 0], Lane::Normal, 1..=1)));
    assert_eq!(bench.ephemeral(), [""; 0]);
}
