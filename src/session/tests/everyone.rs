//! The events for everyone: followed while live, read with the pages of a replay.

use super::*;
use crate::session::{EveryonePlaced, EveryoneRead, Gone};

const TIME_LINE: u64 = 7;

pub(super) fn place(sequence: u64) -> Everyone {
    Everyone {
        creation: TIME_LINE,
        sequence,
    }
}

/// Message `e5` of the sequence 5, whose original has this key and time.
pub(super) fn everyone_message(sequence: u64, time_ms: u64) -> EveryonePlaced {
    EveryonePlaced {
        sequence,
        key: key(time_ms),
        time_ms,
        json: format!("e{sequence}").into(),
    }
}

/// All that follows a place, in a ring that has come to `newest`.
pub(super) fn everyone_after(after: u64, newest: u64) -> EveryoneRead {
    EveryoneRead {
        start: place(after),
        messages: (after + 1..=newest)
            .map(|sequence| everyone_message(sequence, 2_000 + sequence))
            .collect(),
        end: place(newest),
        newest: place(newest),
        ..EveryoneRead::default()
    }
}

pub(super) fn with_everyone(everyone: EveryoneRead, read: PageRead) -> PageRead {
    PageRead { everyone, ..read }
}

/// A registration that starts at this place among the events for everyone.
pub(super) fn registration_at(start: [u64; 2], sequence: u64, read: PageRead) -> Registration {
    let mut registration = registration(start, read);
    registration.start.places.everyone = place(sequence);
    registration
}

pub(super) fn position_at(own: [u64; 2], sequence: u64) -> Position {
    let mut position = position(own);
    position.places.everyone = place(sequence);
    position
}

impl Bench {
    /// Live at place 3 of the own messages and place 5 of the events for everyone.
    fn live_at_5(window: u32) -> Bench {
        let mut bench = Bench::new(window);
        let read = with_everyone(everyone_after(5, 5), nothing([3, 0]));
        let effects = bench.registered(registration_at([3, 0], 5, read));
        let expected = ["welcome 3,0,7/5, 0 pending", "live 3,0,7/5, 0 replayed"];
        assert_eq!(effects, expected);
        bench
    }

    pub(super) fn everyone_read(&mut self, read: EveryoneRead) -> Vec<String> {
        let effects = self.session.everyone_read(read, NOW_MS);
        self.shown(effects)
    }
}

fn gone(count: u64, end: u64) -> Gone {
    Gone { count, end }
}

#[test]
fn a_live_session_follows_from_its_place() {
    let mut bench = Bench::live_at_5(256);
    assert_eq!(bench.session.follows_everyone(), Some(place(5)));
    let effects = bench.everyone_read(everyone_after(5, 7));
    assert_eq!(effects, ["messages e6 e7 to 3,0,7/7"]);
    assert_eq!(bench.session.follows_everyone(), Some(place(7)));
    // The user's own messages go on beside them.
    assert_eq!(bench.forwarded(Lane::Normal, 4), ["messages n4 to 4,0,7/7"]);
    assert_eq!(
        bench.everyone_read(everyone_after(7, 8)),
        ["messages e8 to 4,0,7/8"]
    );
}

#[test]
fn what_the_user_does_not_get_is_passed_in_silence() {
    let mut bench = Bench::live_at_5(256);
    let mut read = everyone_after(5, 9);
    read.messages.retain(|message| message.sequence == 7);
    assert_eq!(bench.everyone_read(read), ["messages e7 to 3,0,7/7"]);
    assert_eq!(bench.session.follows_everyone(), Some(place(9)));
    let mut read = everyone_after(9, 12);
    read.messages.clear();
    assert_eq!(bench.everyone_read(read), [""; 0]);
    assert_eq!(bench.session.follows_everyone(), Some(place(12)));
    // The next cursor says that it was passed.
    assert_eq!(
        bench.forwarded(Lane::Normal, 4),
        ["messages n4 to 4,0,7/12"]
    );
}

#[test]
fn a_full_window_stops_it_and_an_acknowledgement_goes_on() {
    let mut bench = Bench::live_at_5(2);
    let effects = bench.everyone_read(everyone_after(5, 9));
    assert_eq!(effects, ["messages e6 e7 to 3,0,7/7"]);
    assert_eq!(bench.session.follows_everyone(), None);
    // What comes for the user alone is read once there is room, all in its order.
    assert_eq!(bench.forwarded(Lane::Normal, 4), [""; 0]);
    assert_eq!(bench.session.follows_everyone(), None);
    let effects = bench.ack_position(position_at([3, 0], 7));
    let expected = [
        "acknowledge 3,0,7/7, 2 more, at leisure",
        "read 2 after 3,0,7/7",
    ];
    assert_eq!(effects, expected);
    let read = with_everyone(everyone_after(7, 9), page([4, 0], Lane::Normal, 4..=4));
    let effects = bench.page_read(read);
    assert_eq!(effects, ["messages n4 e8 to 4,0,7/8"]);
}

#[test]
fn a_read_of_a_session_that_is_not_live_is_left() {
    let mut bench = Bench::live_at_5(256);
    let effects = bench.session.reconcile();
    bench.shown(effects);
    assert_eq!(bench.session.follows_everyone(), None);
    assert_eq!(bench.everyone_read(everyone_after(5, 6)), [""; 0]);
    let read = with_everyone(everyone_after(5, 6), nothing([3, 0]));
    assert_eq!(bench.page_read(read), ["messages e6 to 3,0,7/6"]);
    bench
        .session
        .close(crate::protocol::CloseCode::GoingAway, "");
    assert_eq!(bench.session.follows_everyone(), None);
}

#[test]
fn what_is_gone_is_told_before_what_follows_each_with_its_cursor() {
    let mut bench = Bench::live_at_5(256);
    let mut read = everyone_after(5, 12);
    // 9 excluded the user, and 10 expired behind it.
    read.messages.retain(|message| message.sequence > 10);
    (read.evicted, read.expired) = (gone(3, 8), gone(1, 10));
    let expected = [
        "missed 3 Evicted to 3,0,7/8",
        "missed 1 Expired to 3,0,7/10",
        "messages e11 e12 to 3,0,7/12",
    ];
    assert_eq!(bench.everyone_read(read), expected);
}

#[test]
fn a_lost_stream_is_told_and_followed_from_where_it_is() {
    let mut bench = Bench::live_at_5(256);
    let at = |sequence| Everyone {
        creation: 8,
        sequence,
    };
    let read = EveryoneRead {
        store_lost: true,
        start: at(2),
        messages: vec![everyone_message(3, 9_000)],
        end: at(3),
        newest: at(3),
        ..EveryoneRead::default()
    };
    let expected = ["missed ? StoreLost to 3,0,8/2", "messages e3 to 3,0,8/3"];
    assert_eq!(bench.everyone_read(read), expected);
    // What was told has to be stored soon, or it is told again.
    let mut given = position([3, 0]);
    given.places.everyone = at(2);
    assert_eq!(bench.ack_position(given), ["acknowledge 3,0,8/2, 0 more"]);
    given.places.everyone = at(3);
    let effects = bench.ack_position(given);
    assert_eq!(effects, ["acknowledge 3,0,8/3, 1 more, at leisure"]);
}

#[test]
fn a_missed_that_is_acknowledged_is_stored_soon_and_each_of_several() {
    let mut bench = Bench::live_at_5(256);
    let mut read = everyone_after(5, 12);
    read.messages.retain(|message| message.sequence > 10);
    (read.evicted, read.expired) = (gone(3, 8), gone(2, 10));
    bench.everyone_read(read);
    let mut ack = |sequence| bench.ack_position(position_at([3, 0], sequence));
    assert_eq!(ack(8), ["acknowledge 3,0,7/8, 0 more"]);
    assert_eq!(ack(8), [""; 0]);
    assert_eq!(ack(10), ["acknowledge 3,0,7/10, 0 more"]);
    assert_eq!(ack(12), ["acknowledge 3,0,7/12, 2 more, at leisure"]);
}

#[test]
fn the_place_goes_with_the_next_of_the_users_own() {
    let mut bench = Bench::live_at_5(256);
    bench.everyone_read(everyone_after(5, 6));
    bench.forwarded(Lane::Normal, 4);
    let effects = bench.ack_position(position_at([3, 0], 6));
    assert_eq!(effects, ["acknowledge 3,0,7/6, 1 more, at leisure"]);
    let effects = bench.ack_position(position_at([4, 0], 6));
    assert_eq!(effects, ["acknowledge 4,0,7/6, 1 more"]);
}

#[test]
fn what_acknowledges_itself_does_so_at_leisure() {
    let mut bench = Bench::automatic();
    let read = with_everyone(everyone_after(5, 5), nothing([0, 0]));
    bench.registered(registration_at([0, 0], 5, read));
    let expected = [
        "messages e6 to 0,0,7/6",
        "acknowledge 0,0,7/6, 1 more, at leisure",
    ];
    assert_eq!(bench.everyone_read(everyone_after(5, 6)), expected);
}

/// What was told as missed is stored soon, or it is told again.
#[test]
fn a_missed_that_acknowledges_itself_is_stored_soon() {
    let mut bench = Bench::automatic();
    let read = with_everyone(everyone_after(5, 5), nothing([0, 0]));
    bench.registered(registration_at([0, 0], 5, read));
    let mut read = everyone_after(5, 12);
    read.messages.retain(|message| message.sequence > 10);
    (read.evicted, read.expired) = (gone(3, 8), gone(2, 10));
    let expected = [
        "missed 3 Evicted to 0,0,7/8",
        "acknowledge 0,0,7/8, 0 more",
        "missed 2 Expired to 0,0,7/10",
        "acknowledge 0,0,7/10, 0 more",
        "messages e11 e12 to 0,0,7/12",
        "acknowledge 0,0,7/12, 2 more, at leisure",
    ];
    assert_eq!(bench.everyone_read(read), expected);
    let at = |sequence| Everyone {
        creation: 8,
        sequence,
    };
    let read = EveryoneRead {
        store_lost: true,
        start: at(2),
        end: at(2),
        newest: at(2),
        ..EveryoneRead::default()
    };
    let expected = [
        "missed ? StoreLost to 0,0,8/2",
        "acknowledge 0,0,8/2, 0 more",
    ];
    assert_eq!(bench.everyone_read(read), expected);
}

#[test]
fn an_acknowledgement_beyond_the_place_was_never_sent() {
    let mut bench = Bench::live_at_5(256);
    let mut read = everyone_after(5, 6);
    (read.newest, read.has_more) = (place(7), true);
    bench.everyone_read(read);
    let effects = bench.ack_position(position_at([3, 0], 7));
    assert_eq!(effects, ["close 4010"]);
}

/// Nobody can tell it from one that the stream lost.
#[test]
fn an_acknowledgement_beyond_the_stream_is_ignored() {
    let mut bench = Bench::live_at_5(256);
    bench.everyone_read(everyone_after(5, 6));
    bench.forwarded(Lane::Normal, 4);
    assert_eq!(bench.ack_position(position_at([3, 0], 7)), [""; 0]);
    let mut other_line = position_at([3, 0], 1);
    other_line.places.everyone.creation = TIME_LINE + 1;
    assert_eq!(bench.ack_position(other_line), [""; 0]);
    // What it says of the user's own messages counts, and is judged.
    let effects = bench.ack_position(position_at([4, 0], 99));
    assert_eq!(effects, ["acknowledge 4,0,7/5, 0 more"]);
    let effects = bench.ack_position(position_at([4, 0], 6));
    assert_eq!(effects, ["acknowledge 4,0,7/6, 2 more, at leisure"]);
    assert_eq!(bench.ack_position(position_at([5, 0], 99)), ["close 4010"]);
}

/// A client in a hurry repeats its last cursor, which the stream lost meanwhile.
#[test]
fn a_place_that_was_lost_meanwhile_is_no_fault_of_the_client() {
    let mut bench = Bench::new(256);
    bench.ack_position(position_at([0, 0], 9));
    let read = EveryoneRead {
        store_lost: true,
        start: place(2),
        end: place(2),
        newest: place(2),
        ..EveryoneRead::default()
    };
    let mut registration = registration([0, 0], with_everyone(read, nothing([0, 0])));
    registration.start.places.everyone = Everyone::LOST;
    let expected = [
        "welcome 0,0,1/0, 0 pending",
        "missed ? StoreLost to 0,0,7/2",
        "live 0,0,7/2, 0 replayed",
    ];
    assert_eq!(bench.registered(registration), expected);
}

#[test]
fn the_backlog_is_what_waited_when_the_connection_began() {
    let mut bench = Bench::new(256);
    // The ring has come to 8; the page under way was cut.
    let mut read = everyone_after(5, 8);
    read.messages.truncate(1);
    (read.end, read.has_more) = (place(6), true);
    let effects = bench.registered(registration_at(
        [0, 0],
        5,
        with_everyone(read, nothing([0, 0])),
    ));
    let expected = [
        "welcome 0,0,7/5, 0 pending",
        "replay e6 to 0,0,7/6",
        "read 64 after 0,0,7/6",
    ];
    assert_eq!(effects, expected);
    // Meanwhile 9 came: it is live.
    let read = with_everyone(everyone_after(6, 9), nothing([0, 0]));
    let expected = [
        "replay e7 e8 to 0,0,7/8",
        "replayed 3",
        "live 0,0,7/8, 3 replayed",
        "messages e9 to 0,0,7/9",
    ];
    assert_eq!(bench.page_read(read), expected);
    assert_eq!(bench.session.follows_everyone(), Some(place(9)));
}

#[test]
fn a_backlog_that_the_user_does_not_get_is_through() {
    let mut bench = Bench::new(256);
    let mut read = everyone_after(5, 8);
    read.messages.clear();
    let read = with_everyone(read, nothing([0, 0]));
    let effects = bench.registered(registration_at([0, 0], 5, read));
    assert_eq!(effects[1..], ["live 0,0,7/8, 0 replayed"]);
}

#[test]
fn a_device_from_a_node_that_was_ahead_is_through_at_once() {
    let mut bench = Bench::new(256);
    let mut read = everyone_after(6, 6);
    (read.start, read.end) = (place(9), place(9));
    let read = with_everyone(read, nothing([0, 0]));
    let effects = bench.registered(registration_at([0, 0], 9, read));
    assert_eq!(effects[1..], ["live 0,0,7/9, 0 replayed"]);
}

#[test]
fn more_than_a_frame_takes_comes_in_several() {
    let mut bench = Bench::live_at_5(256);
    let effects = bench.everyone_read(everyone_after(5, 105));
    let expected = [
        "messages e6..e69 to 3,0,7/69",
        "messages e70..e105 to 3,0,7/105",
    ];
    assert_eq!(effects, expected);
    let mut read = everyone_after(105, 110);
    for message in &mut read.messages {
        message.json = "x".repeat(100_000).into();
    }
    let effects = bench.session.everyone_read(read, NOW_MS);
    let frames: Vec<usize> = (effects.iter())
        .map(|effect| match effect {
            Effect::Send { times_ms, .. } => times_ms.len(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(frames, [2, 2, 1]);
}

#[test]
fn registered_anew_it_goes_on_from_the_further_place() {
    let mut bench = Bench::live_at_5(256);
    bench.everyone_read(everyone_after(5, 8));
    let effects = bench.session.register_again();
    bench.shown(effects);
    // What was sent and not acknowledged is on its way: the page follows the stored place.
    let read = with_everyone(everyone_after(5, 9), nothing([3, 0]));
    let effects = bench.registered(registration_at([3, 0], 5, read));
    assert_eq!(effects, ["read 64 after 3,0,7/8"]);
    let read = with_everyone(everyone_after(8, 9), nothing([3, 0]));
    assert_eq!(bench.page_read(read), ["messages e9 to 3,0,7/9"]);
}

#[test]
fn after_a_fail_over_it_goes_on_from_what_is_acknowledged() {
    let mut bench = Bench::live_at_5(256);
    bench.everyone_read(everyone_after(5, 8));
    bench.ack_position(position_at([3, 0], 7));
    let effects = bench.session.register_again();
    bench.shown(effects);
    assert_eq!(bench.session.acknowledged(), Some(position_at([3, 0], 7)));
    let read = with_everyone(everyone_after(7, 8), nothing([0, 0]));
    let mut registration = registration_at([0, 0], 7, read);
    registration.start.epoch = epoch(2);
    let effects = bench.registered(registration);
    assert_eq!(effects, ["messages e8 to 0,0,7/8"]);
}
