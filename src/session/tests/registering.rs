//! From the connection to its first page, and all over again.

use super::*;

#[test]
fn a_new_session_asks_for_its_registration() {
    let (session, effect) = Session::new(identity(false), 256);
    assert_eq!(effect, Effect::Register { again: None });
    assert_eq!(session.time_line(), None);
    assert_eq!(session.acknowledged(), None);
}

#[test]
fn welcome_says_where_the_device_starts_and_what_waits() {
    let mut session = Session::new(identity(false), 256).0;
    let effects = session.registered(registration([2, 1], page([4, 1], Lane::Normal, 3..=4)));
    let Some(Effect::Send { frame, .. }) = effects.first() else {
        panic!("{effects:?}");
    };
    let ServerFrame::Welcome(welcome) = frame else {
        panic!("{frame:?}");
    };
    assert_eq!(
        welcome.cursor,
        Cursor::new(position([2, 1]), "ann", "phone")
    );
    assert_eq!((&*welcome.user, &*welcome.device), ("ann", "phone"));
    assert_eq!((&*welcome.node, welcome.heartbeat_seconds), ("n1", 25));
    assert_eq!((welcome.pending, welcome.window), (2, 256));
    assert_eq!(session.time_line(), Some((epoch(1), Life(1))));
    assert_eq!(session.acknowledged(), Some(position([2, 1])));
}

#[test]
fn with_nothing_waiting_the_session_is_live_at_once() {
    let mut bench = Bench::live(256, [5, 2]);
    assert_eq!(bench.forwarded(Lane::Normal, 6), ["messages n6 to 6,2"]);
}

#[test]
fn a_forward_during_the_registration_is_read_from_the_mailbox() {
    let mut bench = Bench::new(256);
    assert_eq!(bench.forwarded(Lane::Normal, 1), [""; 0]);
    let effects = bench.registered(registration([0, 0], nothing([0, 0])));
    assert_eq!(
        effects,
        [
            "welcome 0,0, 0 pending",
            "live 0,0, 0 replayed",
            "read 64 after 0,0"
        ]
    );
    let effects = bench.page_read(page([1, 0], Lane::Normal, 1..=1));
    assert_eq!(effects, ["messages n1 to 1,0"]);
    assert_eq!(bench.forwarded(Lane::Normal, 2), ["messages n2 to 2,0"]);
}

#[test]
fn a_forward_of_any_time_line_during_the_registration_makes_it_read_once_more() {
    let mut other = forward(Lane::Normal, 1_000);
    other.epoch = epoch(9);
    other.life = None;
    let mut bench = Bench::new(256);
    assert_eq!(bench.session.forwarded(other), []);
    bench.registered(registration([0, 0], nothing([0, 0])));
    assert_eq!(bench.page_read(nothing([0, 0])), [""; 0]);
    assert_eq!(bench.forwarded(Lane::Normal, 1), ["messages n1 to 1,0"]);
}

#[test]
fn a_forward_that_may_be_lost_during_the_registration_makes_it_read_once_more() {
    let mut bench = Bench::new(256);
    assert_eq!(bench.session.reconcile(), []);
    let effects = bench.registered(registration([0, 0], nothing([0, 0])));
    assert_eq!(effects[2..], ["read 64 after 0,0"]);
}

#[test]
fn counters_beyond_the_first_page_make_it_read_once_more() {
    for (last, reads) in [([4, 0], false), ([5, 0], true), ([4, 1], true)] {
        let mut bench = Bench::new(256);
        assert_eq!(bench.session.counted(last), []);
        let effects = bench.registered(registration([4, 0], nothing([4, 0])));
        assert_eq!(effects.len() == 3, reads, "{last:?}: {effects:?}");
    }
}

#[test]
fn a_registration_that_may_be_older_than_the_time_line_is_repeated() {
    let mut bench = Bench::new(256);
    assert_eq!(bench.session.register_again(), []);
    let effects = bench.registered(registration([0, 0], page([1, 0], Lane::Normal, 1..=1)));
    assert_eq!(effects, ["register, life None"]);
    assert_eq!(bench.session.time_line(), None);
    let effects = bench.registered(after_fail_over([3, 0], nothing([3, 0])));
    assert_eq!(effects, ["welcome 3,0, 0 pending", "live 3,0, 0 replayed"]);
}

#[test]
fn registering_anew_can_be_repeated_too() {
    let mut bench = Bench::live(256, [1, 0]);
    let again = [Effect::Register {
        again: Some(Life(1)),
    }];
    assert_eq!(bench.session.register_again(), again);
    assert_eq!(bench.session.register_again(), []);
    let effects = bench
        .session
        .registered(registration([1, 0], nothing([1, 0])));
    assert_eq!(effects, again);
    let effects = bench
        .session
        .registered(registration([1, 0], nothing([1, 0])));
    assert_eq!(effects, []);
}

#[test]
fn an_answer_that_nobody_waits_for_changes_nothing() {
    let mut bench = Bench::live(256, [1, 0]);
    let effects = bench.registered(registration([0, 0], page([2, 0], Lane::Normal, 1..=2)));
    assert_eq!(effects, [""; 0]);
    assert_eq!(bench.forwarded(Lane::Normal, 2), ["messages n2 to 2,0"]);
}

#[test]
fn after_a_fail_over_it_starts_from_what_is_stored_without_welcome_replay_or_live() {
    let mut bench = Bench::live(256, [5, 0]);
    bench.session.register_again();
    let read = page([4, 1], Lane::High, 1..=1);
    let effects = bench.registered(after_fail_over([3, 0], read));
    assert_eq!(effects, ["messages h1 to 3,1", "read 64 after 3,1"]);
    let effects = bench.page_read(page([4, 1], Lane::Normal, 4..=4));
    assert_eq!(effects, ["messages n4 to 4,1"]);
    assert_eq!(bench.session.time_line(), Some((epoch(2), Life(1))));
    let acknowledged = bench.session.acknowledged().map(|position| position.places);
    assert_eq!(acknowledged, Some(position([3, 0]).places));
}

#[test]
fn a_fail_over_during_the_replay_tells_live_once_when_the_rest_is_through() {
    let mut bench = Bench::new(256);
    let effects = bench.registered(registration([0, 0], page([3, 0], Lane::Normal, 1..=1)));
    assert_eq!(effects[1..], ["replay n1 to 1,0", "read 64 after 1,0"]);
    bench.session.register_again();
    let effects = bench.registered(after_fail_over([0, 0], page([2, 0], Lane::Normal, 1..=2)));
    let expected = ["replay n1 n2 to 2,0", "replayed 3", "live 2,0, 3 replayed"];
    assert_eq!(effects, expected);
}

#[test]
fn on_the_same_time_line_it_goes_on_where_it_was() {
    let mut bench = Bench::live(256, [1, 0]);
    bench.forwarded(Lane::Normal, 2);
    bench.forwarded(Lane::Normal, 3);
    bench.ack([2, 0]);
    bench.session.register_again();
    // The acknowledgement was not stored yet.
    let effects = bench.registered(registration([1, 0], page([3, 0], Lane::Normal, 2..=3)));
    assert_eq!(effects, ["acknowledge 2,0, 0 more", "read 64 after 3,0"]);
    assert_eq!(bench.page_read(nothing([3, 0])), [""; 0]);
    assert_eq!(bench.forwarded(Lane::Normal, 4), ["messages n4 to 4,0"]);
}

#[test]
fn on_the_same_time_line_what_the_device_acknowledged_elsewhere_is_passed() {
    let mut bench = Bench::live(256, [1, 0]);
    bench.session.register_again();
    let effects = bench.registered(registration([4, 0], page([5, 0], Lane::Normal, 5..=5)));
    assert_eq!(effects, ["messages n5 to 5,0"]);
}

#[test]
fn on_the_same_time_line_the_backlog_stays_what_waited_at_the_beginning() {
    let mut bench = Bench::new(256);
    bench.registered(registration([0, 0], page([2, 0], Lane::Normal, 1..=1)));
    bench.session.register_again();
    let effects = bench.registered(registration([0, 0], page([3, 0], Lane::Normal, 1..=1)));
    assert_eq!(effects, ["read 64 after 1,0"]);
    let effects = bench.page_read(page([3, 0], Lane::Normal, 2..=3));
    let expected = [
        "replay n2 to 2,0",
        "replayed 2",
        "live 2,0, 2 replayed",
        "messages n3 to 3,0",
    ];
    assert_eq!(effects, expected);
}

#[test]
fn the_answer_to_a_read_from_before_is_stale() {
    let mut bench = Bench::live(256, [1, 0]);
    bench.session.reconcile();
    let stale = bench.session.register_again();
    assert_eq!(stale.len(), 1);
    assert_eq!(bench.page_read(page([2, 0], Lane::Normal, 2..=2)), [""; 0]);
    bench.session.reconcile();
    bench.registered(registration([1, 0], nothing([1, 0])));
    let read = page([9, 0], Lane::Normal, 2..=9);
    assert_eq!(bench.session.page_read(1, read), []);
    assert_eq!(bench.page_read(nothing([1, 0])), [""; 0]);
    assert_eq!(bench.forwarded(Lane::Normal, 2), ["messages n2 to 2,0"]);
}

#[test]
fn a_closed_session_does_nothing_more() {
    let mut session = Bench::live(256, [1, 0]).session;
    let code = crate::protocol::CloseCode::Replaced;
    let message = "replaced".to_owned();
    assert_eq!(
        session.close(code, "replaced"),
        [Effect::Close { code, message }]
    );
    assert_eq!(session.close(code, "again"), []);
    assert_eq!(
        session.registered(registration([0, 0], nothing([0, 0]))),
        []
    );
    assert_eq!(session.page_read(1, nothing([2, 0])), []);
    assert_eq!(session.forwarded(forward(Lane::Normal, 2)), []);
    assert_eq!(session.ephemeral(1, "e".into()), []);
    assert_eq!(session.hold_expired(), []);
    assert_eq!(session.reconcile(), []);
    assert_eq!(session.counted([9, 9]), []);
    assert_eq!(session.register_again(), []);
}

#[test]
fn a_session_closed_during_its_registration_does_not_begin() {
    let mut bench = Bench::new(256);
    let code = crate::protocol::CloseCode::GoingAway;
    assert_eq!(bench.session.close(code, "away").len(), 1);
    let effects = bench.registered(registration([0, 0], nothing([0, 0])));
    assert_eq!(effects, [""; 0]);
}
