//! Pages, and how a replay ends.

use super::*;

fn replaying() -> Bench {
    let mut bench = Bench::live(256, [0, 0]);
    let effects = bench.session.reconcile();
    assert_eq!(bench.shown(effects), ["read 64 after 0,0"]);
    bench
}

#[test]
fn one_page_of_backlog_is_replayed_and_live_follows() {
    let mut bench = Bench::new(256);
    let effects = bench.registered(registration([0, 0], page([3, 0], Lane::Normal, 1..=3)));
    let expected = [
        "welcome 0,0, 3 pending",
        "replay n1 n2 n3 to 3,0",
        "replayed 3",
        "live 3,0, 3 replayed",
    ];
    assert_eq!(effects, expected);
    assert_eq!(bench.forwarded(Lane::Normal, 4), ["messages n4 to 4,0"]);
}

#[test]
fn a_messages_frame_carries_its_newest_place_and_the_times_in_order() {
    let mut session = Session::new(identity(false), 256).0;
    let mut read = page([3, 0], Lane::Normal, 1..=3);
    // Two workers appended side by side: the page is in the order of the events.
    read.run.as_mut().unwrap().messages.swap(1, 2);
    let effects = session.registered(registration([0, 0], read));
    let Effect::Send { frame, times_ms } = &effects[1] else {
        panic!("{effects:?}");
    };
    assert_eq!(shown_frame(frame), "replay n1 n3 n2 to 3,0");
    assert_eq!(*times_ms, [1_001, 1_003, 1_002]);
    let ServerFrame::Messages { cursor, .. } = frame else {
        panic!("{frame:?}");
    };
    assert_eq!(cursor.position.time_ms, 1_003);
}

#[test]
fn further_pages_are_read_before_live_is_told() {
    let mut bench = Bench::new(256);
    let effects = bench.registered(registration([0, 0], page([70, 2], Lane::High, 1..=2)));
    assert_eq!(effects[1..], ["replay h1 h2 to 0,2", "read 64 after 0,2"]);
    let effects = bench.page_read(page([70, 2], Lane::Normal, 1..=64));
    assert_eq!(effects, ["replay n1..n64 to 64,2", "read 64 after 64,2"]);
    let effects = bench.page_read(page([70, 2], Lane::Normal, 65..=70));
    let expected = [
        "replay n65..n70 to 70,2",
        "replayed 72",
        "live 70,2, 72 replayed",
    ];
    assert_eq!(effects, expected);
}

#[test]
fn what_came_after_the_beginning_follows_live() {
    let mut bench = Bench::new(256);
    bench.registered(registration([0, 0], page([2, 0], Lane::Normal, 1..=1)));
    let effects = bench.page_read(page([4, 0], Lane::Normal, 2..=4));
    let expected = [
        "replay n2 to 2,0",
        "replayed 2",
        "live 2,0, 2 replayed",
        "messages n3 n4 to 4,0",
    ];
    assert_eq!(effects, expected);
}

#[test]
fn what_an_earlier_connection_acknowledged_late_is_not_missed() {
    let mut bench = Bench::new(256);
    bench.registered(registration([0, 0], page([9, 0], Lane::Normal, 1..=2)));
    // Trimmed meanwhile: the page after 2 begins at 7, as if 3 to 6 had expired.
    let mut read = page([9, 0], Lane::Normal, 7..=9);
    read.run.as_mut().unwrap().expired = 4;
    (read.acknowledged, read.acknowledged_ms) = ([6, 0], 1_006);
    assert_eq!(bench.page_read(read), ["read 64 after 6,0"]);
    let effects = bench.page_read(page([9, 0], Lane::Normal, 7..=9));
    assert_eq!(effects[0], "replay n7 n8 n9 to 9,0");
    // An acknowledgement of what was sent before moves nothing back.
    assert_eq!(bench.ack([2, 0]), [""; 0]);
}

#[test]
fn live_does_not_wait_for_what_came_after_the_beginning() {
    let mut bench = Bench::new(256);
    bench.registered(registration([0, 0], page([2, 0], Lane::Normal, 1..=1)));
    let effects = bench.page_read(page([9, 0], Lane::Normal, 2..=2));
    let expected = [
        "replay n2 to 2,0",
        "replayed 2",
        "live 2,0, 2 replayed",
        "read 64 after 2,0",
    ];
    assert_eq!(effects, expected);
}

#[test]
fn a_high_message_that_came_after_the_beginning_is_no_replay() {
    let mut bench = Bench::new(256);
    bench.registered(registration([0, 0], page([2, 0], Lane::Normal, 1..=1)));
    let effects = bench.page_read(page([2, 1], Lane::High, 1..=1));
    assert_eq!(effects, ["messages h1 to 1,1", "read 64 after 1,1"]);
    let effects = bench.page_read(page([2, 1], Lane::Normal, 2..=2));
    let expected = ["replay n2 to 2,1", "replayed 2", "live 2,1, 2 replayed"];
    assert_eq!(effects, expected);
}

#[test]
fn a_forward_that_the_page_under_way_contains_does_not_matter() {
    let mut bench = replaying();
    assert_eq!(bench.forwarded(Lane::Normal, 1), [""; 0]);
    let effects = bench.page_read(page([1, 0], Lane::Normal, 1..=1));
    assert_eq!(effects, ["messages n1 to 1,0"]);
    assert_eq!(bench.forwarded(Lane::Normal, 2), ["messages n2 to 2,0"]);
}

#[test]
fn a_forward_beyond_the_page_under_way_makes_it_read_once_more() {
    for lane in Lane::ALL {
        let mut bench = replaying();
        assert_eq!(bench.forwarded(lane, 1), [""; 0]);
        assert_eq!(bench.page_read(nothing([0, 0])), ["read 64 after 0,0"]);
        assert_eq!(bench.page_read(nothing([0, 0])), [""; 0]);
        assert_eq!(bench.forwarded(lane, 1).len(), 1);
    }
}

#[test]
fn forwards_in_any_order_during_a_read_count_with_the_furthest() {
    let mut bench = replaying();
    for place in [3, 1, 2, 3] {
        assert_eq!(bench.forwarded(Lane::Normal, place), [""; 0]);
    }
    let effects = bench.page_read(page([2, 0], Lane::Normal, 1..=2));
    assert_eq!(effects, ["messages n1 n2 to 2,0", "read 64 after 2,0"]);
}

#[test]
fn a_forward_that_may_be_lost_during_a_read_makes_it_read_once_more() {
    let mut bench = replaying();
    assert_eq!(bench.session.reconcile(), []);
    assert_eq!(bench.page_read(nothing([0, 0])), ["read 64 after 0,0"]);
    let effects = bench.page_read(page([1, 0], Lane::Normal, 1..=1));
    assert_eq!(effects, ["messages n1 to 1,0"]);
}

#[test]
fn counters_beyond_the_page_under_way_make_it_read_once_more() {
    let mut bench = replaying();
    assert_eq!(bench.session.counted([0, 1]), []);
    assert_eq!(bench.page_read(nothing([0, 0])), ["read 64 after 0,0"]);
    assert_eq!(bench.session.counted([0, 1]), []);
    let effects = bench.page_read(page([0, 1], Lane::High, 1..=1));
    assert_eq!(effects, ["messages h1 to 0,1"]);
}

#[test]
fn what_was_repaired_from_the_mailbox_after_live_is_no_replay() {
    let mut bench = Bench::new(256);
    bench.registered(registration([0, 0], page([2, 0], Lane::Normal, 1..=2)));
    let effects = bench.session.reconcile();
    bench.shown(effects);
    let effects = bench.page_read(page([3, 0], Lane::Normal, 3..=3));
    assert_eq!(effects, ["messages n3 to 3,0"]);
}

#[test]
fn a_page_is_answered_once() {
    let mut bench = replaying();
    bench.page_read(page([2, 0], Lane::Normal, 1..=1));
    bench.number = 1;
    assert_eq!(bench.page_read(page([2, 0], Lane::Normal, 2..=2)), [""; 0]);
}

#[test]
fn a_page_of_another_time_line_makes_it_register() {
    let mut bench = replaying();
    let effects = bench.session.register_again();
    assert_eq!(bench.shown(effects), ["register, life Some(1)"]);
}
