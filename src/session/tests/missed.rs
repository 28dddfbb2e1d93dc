//! What will not come is told, exactly.

use super::*;
use crate::protocol::MissedReason;

/// `from` and `to` of the `missed` frames.
fn times(effects: &[Effect]) -> Vec<(MissedReason, Option<u64>, u64)> {
    let missed = effects.iter().filter_map(|effect| match effect {
        Effect::Send {
            frame:
                ServerFrame::Missed {
                    reason,
                    from_ms,
                    to_ms,
                    ..
                },
            ..
        } => Some((*reason, *from_ms, *to_ms)),
        _ => None,
    });
    missed.collect()
}

fn gap(evicted: u64, expired: u64, mut read: PageRead) -> PageRead {
    let run = read.run.as_mut().unwrap();
    (run.evicted, run.expired) = (evicted, expired);
    read
}

/// A page without messages: all up to its last place is gone.
fn all_gone(evicted: u64, expired: u64, last: [u64; 2], lane: Lane) -> PageRead {
    #[expect(clippy::reversed_empty_ranges, reason = "no messages")]
    gap(evicted, expired, page(last, lane, 1..=0))
}

#[test]
fn evicted_and_expired_come_before_the_messages_each_with_its_cursor() {
    let mut bench = Bench::new(256);
    let read = gap(2, 3, page([7, 0], Lane::Normal, 6..=7));
    let effects = bench.registered(registration([0, 0], read));
    let expected = [
        "missed 2 Evicted to 2,0",
        "missed 3 Expired to 5,0",
        "replay n6 n7 to 7,0",
        "replayed 2",
        "live 7,0, 2 replayed",
    ];
    assert_eq!(effects[1..], expected);
}

#[test]
fn the_times_of_a_gap_are_those_of_the_messages_around_it() {
    let mut session = Session::new(identity(false), 256).0;
    let mut registration = registration([4, 0], gap(1, 1, page([7, 0], Lane::Normal, 7..=7)));
    registration.start.time_ms = 1_004;
    let effects = session.registered(registration);
    let around = (Some(1_004), 1_007);
    let expected = [
        (MissedReason::Evicted, around.0, around.1),
        (MissedReason::Expired, around.0, around.1),
    ];
    assert_eq!(times(&effects), expected);
}

#[test]
fn a_gap_with_nothing_around_it_begins_with_null_and_ends_with_now() {
    let mut session = Session::new(identity(false), 256).0;
    let read = all_gone(0, 3, [3, 0], Lane::Normal);
    let effects = session.registered(registration([0, 0], read));
    assert_eq!(times(&effects), [(MissedReason::Expired, None, NOW_MS)]);
}

#[test]
fn where_all_is_gone_live_follows_with_nothing_replayed() {
    let mut bench = Bench::new(256);
    let read = all_gone(0, 3, [3, 0], Lane::Normal);
    let effects = bench.registered(registration([0, 0], read));
    assert_eq!(
        effects[1..],
        ["missed 3 Expired to 3,0", "live 3,0, 0 replayed"]
    );
    assert_eq!(bench.forwarded(Lane::Normal, 4), ["messages n4 to 4,0"]);
}

#[test]
fn a_gap_in_the_middle_is_told_with_its_page() {
    let mut bench = Bench::new(256);
    let effects = bench.registered(registration([0, 0], page([4, 0], Lane::Normal, 1..=2)));
    assert_eq!(effects[1..], ["replay n1 n2 to 2,0", "read 64 after 2,0"]);
    let effects = bench.page_read(gap(0, 1, page([4, 0], Lane::Normal, 4..=4)));
    let expected = [
        "missed 1 Expired to 3,0",
        "replay n4 to 4,0",
        "replayed 3",
        "live 4,0, 3 replayed",
    ];
    assert_eq!(effects, expected);
}

#[test]
fn a_gap_of_a_live_session_is_told_too() {
    let mut bench = Bench::live(256, [3, 0]);
    bench.forwarded(Lane::High, 2);
    let effects = bench.session.hold_expired();
    bench.shown(effects);
    let effects = bench.page_read(gap(1, 0, page([3, 2], Lane::High, 2..=2)));
    assert_eq!(effects, ["missed 1 Evicted to 3,1", "messages h2 to 3,2"]);
}

#[test]
fn a_gap_that_ends_the_backlog_is_followed_by_live() {
    let mut bench = Bench::new(256);
    bench.registered(registration([0, 0], page([2, 0], Lane::Normal, 1..=1)));
    let effects = bench.page_read(gap(1, 1, page([4, 0], Lane::Normal, 4..=4)));
    let expected = [
        "missed 1 Evicted to 2,0",
        "missed 1 Expired to 3,0",
        "replayed 1",
        "live 3,0, 1 replayed",
        "messages n4 to 4,0",
    ];
    assert_eq!(effects, expected);
}

#[test]
fn the_time_before_a_gap_is_that_of_the_last_acknowledged_message() {
    let mut bench = Bench::live(256, [0, 0]);
    bench.forwarded(Lane::Normal, 1);
    let cursor = Position {
        time_ms: 1_001,
        ..position([1, 0])
    };
    bench.ack_position(cursor);
    bench.forwarded(Lane::Normal, 2);
    let effects = bench.session.reconcile();
    bench.shown(effects);
    let read = gap(0, 1, page([4, 0], Lane::Normal, 4..=4));
    let effects = bench.session.page_read(bench.number, read);
    let expected = [(MissedReason::Expired, Some(1_001), 1_004)];
    assert_eq!(times(&effects), expected);
}

/// High priority comes first in a replay, and may be younger than what is missed after it.
#[test]
fn the_time_before_a_gap_is_not_that_of_a_message_sent_ahead() {
    let mut session = Session::new(identity(false), 256).0;
    let mut registration = registration([4, 0], page([6, 9], Lane::High, 9..=9));
    registration.start.time_ms = 1_004;
    let effects = session.registered(registration);
    let cursor = effects.iter().find_map(|effect| match effect {
        Effect::Send {
            frame: ServerFrame::Messages { cursor, .. },
            ..
        } => Some(cursor.to_string()),
        _ => None,
    });
    session.ack(&cursor.unwrap());
    let read = gap(1, 0, page([6, 9], Lane::Normal, 6..=6));
    let Some(Effect::ReadPage { number, .. }) = effects.last() else {
        panic!("{effects:?}");
    };
    let effects = session.page_read(*number, read);
    let around = (MissedReason::Evicted, Some(1_004), 1_006);
    assert_eq!(times(&effects), [around]);
}

fn store_lost(start: [u64; 2], read: PageRead) -> Registration {
    Registration {
        store_lost: true,
        ..registration(start, read)
    }
}

#[test]
fn an_owed_store_lost_comes_first_and_every_cursor_after_it_says_so() {
    let mut bench = Bench::new(256);
    let read = gap(0, 1, page([2, 0], Lane::Normal, 2..=2));
    let effects = bench.registered(store_lost([0, 0], read));
    let expected = [
        "welcome 0,0, 2 pending",
        "missed ? StoreLost to 0,0 told",
        "missed 1 Expired to 1,0 told",
        "replay n2 to 2,0 told",
        "replayed 1",
        "live 2,0 told, 1 replayed",
    ];
    assert_eq!(effects, expected);
    assert_eq!(
        bench.forwarded(Lane::Normal, 3),
        ["messages n3 to 3,0 told"]
    );
}

#[test]
fn store_lost_with_nothing_after_it_ends_now() {
    let mut session = Session::new(identity(false), 256).0;
    let effects = session.registered(store_lost([0, 0], nothing([0, 0])));
    assert_eq!(times(&effects), [(MissedReason::StoreLost, None, NOW_MS)]);
}

#[test]
fn only_a_cursor_that_says_so_settles_an_owed_store_lost() {
    let mut bench = Bench::new(256);
    bench.registered(store_lost([1, 0], nothing([1, 0])));
    assert_eq!(bench.ack([1, 0]), [""; 0]);
    let told = Position {
        store_lost_told: true,
        ..position([1, 0])
    };
    assert_eq!(bench.ack_position(told), ["acknowledge 1,0 told, 0 more"]);
    assert_eq!(bench.ack_position(told), [""; 0]);
}

#[test]
fn a_store_lost_of_a_later_time_line_is_told_in_the_middle() {
    let mut bench = Bench::live(256, [5, 0]);
    bench.session.register_again();
    let registration = Registration {
        store_lost: true,
        ..after_fail_over([0, 0], page([1, 0], Lane::Normal, 1..=1))
    };
    let expected = ["missed ? StoreLost to 0,0 told", "messages n1 to 1,0 told"];
    assert_eq!(bench.registered(registration), expected);
}
