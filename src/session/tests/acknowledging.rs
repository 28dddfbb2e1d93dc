//! The client's acknowledgements, and what it is closed for.

use super::*;
use crate::protocol::CloseCode;

/// Live at 0, with messages 1 to 3 sent.
fn three_sent() -> Bench {
    let mut bench = Bench::live(256, [0, 0]);
    for place in 1..=3 {
        bench.forwarded(Lane::Normal, place);
    }
    bench
}

#[test]
fn an_acknowledgement_stands_for_everything_before_it() {
    let mut bench = three_sent();
    assert_eq!(bench.ack([2, 0]), ["acknowledge 2,0, 2 more"]);
    assert_eq!(bench.ack([3, 0]), ["acknowledge 3,0, 1 more"]);
    let acknowledged = bench.session.acknowledged().map(|position| position.places);
    assert_eq!(acknowledged, Some(position([3, 0]).places));
}

#[test]
fn a_repeated_or_older_acknowledgement_changes_nothing() {
    let mut bench = three_sent();
    bench.ack([2, 0]);
    for place in [2, 1, 0] {
        assert_eq!(bench.ack([place, 0]), [""; 0]);
    }
}

#[test]
fn an_acknowledgement_carries_the_time_of_its_cursor() {
    let mut bench = three_sent();
    let given = Position {
        time_ms: 1_003,
        ..position([3, 0])
    };
    bench.ack_position(given);
    assert_eq!(bench.session.acknowledged(), Some(given));
}

#[test]
fn junk_is_a_bad_request_before_and_after_the_registration() {
    for mut bench in [Bench::new(256), three_sent()] {
        let effects = bench.session.ack("junk");
        let [Effect::Close { code, message }] = effects.as_slice() else {
            panic!("{effects:?}");
        };
        assert_eq!(*code, CloseCode::BadRequest);
        assert!(message.starts_with("not a cursor"), "{message}");
    }
}

#[test]
fn the_cursor_of_another_user_or_device_was_never_sent() {
    for (user, device) in [("ann", "laptop"), ("bob", "phone")] {
        for mut bench in [Bench::new(256), three_sent()] {
            let text = Cursor::new(position([1, 0]), user, device).to_string();
            let effects = bench.session.ack(&text);
            assert_eq!(bench.shown(effects), ["close 4010"]);
        }
    }
}

#[test]
fn a_cursor_beyond_what_was_sent_was_never_sent() {
    for places in [[4, 0], [0, 1]] {
        assert_eq!(three_sent().ack(places), ["close 4010"]);
    }
}

#[test]
fn a_cursor_of_another_epoch_or_life_is_ignored() {
    let mut bench = three_sent();
    for (epoch, life) in [(epoch(2), Life(1)), (epoch(1), Life(2))] {
        let given = Position {
            epoch,
            life,
            ..position([99, 0])
        };
        assert_eq!(bench.ack_position(given), [""; 0]);
    }
    assert_eq!(bench.ack([1, 0]), ["acknowledge 1,0, 1 more"]);
}

#[test]
fn the_cursor_of_an_earlier_connection_counts_where_this_one_has_come_so_far() {
    let mut bench = Bench::new(256);
    bench.registered(registration([0, 0], page([3, 0], Lane::Normal, 1..=3)));
    assert_eq!(bench.ack([2, 0]), ["acknowledge 2,0, 0 more"]);
    assert_eq!(bench.ack([3, 0]), ["acknowledge 3,0, 3 more"]);
}

#[test]
fn the_cursor_of_an_earlier_connection_may_say_that_store_lost_was_told() {
    let mut bench = three_sent();
    let given = Position {
        store_lost_told: true,
        ..position([0, 0])
    };
    let effects = bench.ack_position(given);
    assert_eq!(effects, ["acknowledge 0,0 told, 0 more"]);
}

#[test]
fn an_acknowledgement_before_the_registration_counts_after_it() {
    let mut bench = Bench::new(256);
    assert_eq!(bench.ack([1, 0]), [""; 0]);
    assert_eq!(bench.ack([2, 0]), [""; 0]);
    let effects = bench.registered(registration([0, 0], page([3, 0], Lane::Normal, 1..=3)));
    assert_eq!(effects.last().unwrap(), "acknowledge 2,0, 0 more");
}

#[test]
fn a_cursor_from_before_a_fail_over_sent_before_the_registration_is_ignored() {
    let mut bench = Bench::new(256);
    bench.ack([99, 0]);
    let effects = bench.registered(after_fail_over([0, 0], nothing([0, 0])));
    assert_eq!(effects, ["welcome 0,0, 0 pending", "live 0,0, 0 replayed"]);
}

#[test]
fn a_cursor_beyond_all_sent_before_the_registration_was_never_sent() {
    let mut bench = Bench::new(256);
    bench.ack([1, 0]);
    let effects = bench.registered(registration([0, 0], nothing([0, 0])));
    assert_eq!(effects.last().unwrap(), "close 4010");
}

#[test]
fn the_cursors_of_welcome_and_live_can_be_acknowledged() {
    let mut bench = Bench::live(256, [2, 1]);
    assert_eq!(bench.ack([2, 1]), [""; 0]);
    assert_eq!(bench.forwarded(Lane::Normal, 3), ["messages n3 to 3,1"]);
}

#[test]
fn while_registering_anew_acknowledgements_count_for_the_time_line_they_are_of() {
    let mut bench = three_sent();
    bench.session.register_again();
    assert_eq!(bench.ack([2, 0]), ["acknowledge 2,0, 2 more"]);
    assert_eq!(bench.ack([4, 0]), ["close 4010"]);
}

#[test]
fn after_a_fail_over_cursors_from_before_it_are_ignored() {
    let mut bench = three_sent();
    bench.session.register_again();
    bench.registered(after_fail_over([0, 0], page([1, 0], Lane::Normal, 1..=1)));
    assert_eq!(bench.ack([3, 0]), [""; 0]);
    let given = Position {
        epoch: epoch(2),
        ..position([1, 0])
    };
    assert_eq!(bench.ack_position(given), ["acknowledge 1,0, 1 more"]);
}

#[test]
fn after_the_close_acknowledgements_still_count_and_nothing_else_happens() {
    let mut bench = three_sent();
    bench.session.close(CloseCode::GoingAway, "away");
    assert_eq!(bench.ack([2, 0]), ["acknowledge 2,0, 2 more"]);
    assert_eq!(bench.ack([9, 0]), [""; 0]);
    assert_eq!(bench.session.ack("junk"), []);
}

#[test]
fn what_acknowledges_itself_does_so_with_each_frame() {
    let mut bench = Bench::automatic();
    let mut read = page([3, 0], Lane::Normal, 2..=3);
    read.run.as_mut().unwrap().expired = 1;
    let effects = bench.registered(registration([0, 0], read));
    let expected = [
        "missed 1 Expired to 1,0",
        "acknowledge 1,0, 0 more",
        "replay n2 n3 to 3,0",
        "acknowledge 3,0, 2 more",
        "replayed 2",
        "live 3,0, 2 replayed",
    ];
    assert_eq!(effects[1..], expected);
    let expected = ["messages n4 to 4,0", "acknowledge 4,0, 1 more"];
    assert_eq!(bench.forwarded(Lane::Normal, 4), expected);
    assert_eq!(bench.ephemeral(), ["messages e to 4,0"]);
}
