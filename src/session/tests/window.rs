//! How much is sent without an acknowledgement.

use super::*;

/// Answers reads as a mailbox with `last` messages until none is asked for; returns how many
/// messages were sent.
fn read_all(bench: &mut Bench, mut effects: Vec<String>, last: u64) -> u64 {
    let mut sent = 0;
    while let Some(read) = effects
        .last()
        .and_then(|effect| effect.strip_prefix("read "))
    {
        let numbers: Vec<u64> = (read.split([' ', ',']))
            .filter_map(|word| word.parse().ok())
            .collect();
        let (most, after) = (numbers[0], numbers[1]);
        assert!(most > 0, "a read of nothing");
        let to = last.min(after + most);
        sent += to - after;
        effects = bench.page_read(page([last, 0], Lane::Normal, after + 1..=to));
    }
    sent
}

#[test]
fn of_600_waiting_a_window_is_sent_and_the_rest_as_it_is_acknowledged() {
    let mut bench = Bench::new(256);
    let effects = bench.registered(registration([0, 0], page([600, 0], Lane::Normal, 1..=64)));
    assert_eq!(read_all(&mut bench, effects, 600), 256 - 64);
    let effects = bench.ack([256, 0]);
    assert_eq!(effects[0], "acknowledge 256,0, 256 more");
    assert_eq!(read_all(&mut bench, effects, 600), 256);
    // A page is not read for less than a page.
    assert_eq!(bench.ack([256 + 63, 0]), ["acknowledge 319,0, 0 more"]);
    let effects = bench.ack([256 + 64, 0]);
    let expected = ["acknowledge 320,0, 64 more", "read 64 after 512,0"];
    assert_eq!(effects, expected);
    assert_eq!(read_all(&mut bench, effects, 600), 64);
    let effects = bench.ack([576, 0]);
    assert_eq!(read_all(&mut bench, effects, 600), 24);
    assert_eq!(
        bench.forwarded(Lane::Normal, 601),
        ["messages n601 to 601,0"]
    );
}

#[test]
fn short_pages_fill_the_window_to_its_last_message() {
    // Pages are cut short by bytes, or where the order of events allows. A client may wait for a
    // whole window before it acknowledges.
    let mut bench = Bench::new(100);
    let effects = bench.registered(registration([0, 0], page([200, 0], Lane::Normal, 1..=50)));
    assert_eq!(effects[2..], ["read 50 after 50,0"]);
    let effects = bench.page_read(page([200, 0], Lane::Normal, 51..=97));
    assert_eq!(effects[1..], ["read 3 after 97,0"]);
    let effects = bench.page_read(page([200, 0], Lane::Normal, 98..=100));
    assert_eq!(effects.len(), 1, "{effects:?}");
    assert_eq!(bench.ack([50, 0]), ["acknowledge 50,0, 50 more"]);
    assert_eq!(bench.ack([97, 0])[1..], ["read 64 after 100,0"]);
}

#[test]
fn a_window_smaller_than_a_page_is_read_when_nothing_is_in_flight() {
    let mut bench = Bench::new(3);
    let effects = bench.registered(registration([0, 0], page([9, 0], Lane::Normal, 1..=3)));
    assert_eq!(effects[1..], ["replay n1 n2 n3 to 3,0"]);
    assert_eq!(bench.ack([2, 0]), ["acknowledge 2,0, 0 more"]);
    let expected = ["acknowledge 3,0, 3 more", "read 3 after 3,0"];
    assert_eq!(bench.ack([3, 0]), expected);
}

#[test]
fn a_live_session_with_a_full_window_falls_back_to_the_mailbox() {
    let mut bench = Bench::live(2, [0, 0]);
    bench.forwarded(Lane::Normal, 1);
    bench.forwarded(Lane::Normal, 2);
    assert_eq!(bench.forwarded(Lane::Normal, 3), [""; 0]);
    assert_eq!(bench.forwarded(Lane::High, 1), [""; 0]);
    assert_eq!(bench.ack([1, 0]), ["acknowledge 1,0, 1 more"]);
    let expected = ["acknowledge 2,0, 1 more", "read 2 after 2,0"];
    assert_eq!(bench.ack([2, 0]), expected);
    let effects = bench.page_read(page([3, 1], Lane::High, 1..=1));
    assert_eq!(effects, ["messages h1 to 2,1", "read 1 after 2,1"]);
}

#[test]
fn held_forwards_stop_at_a_full_window() {
    let mut bench = Bench::live(2, [0, 0]);
    bench.forwarded(Lane::Normal, 3);
    bench.forwarded(Lane::Normal, 2);
    let expected = ["messages n1 to 1,0", "messages n2 to 2,0"];
    assert_eq!(bench.forwarded(Lane::Normal, 1), expected);
    let effects = bench.ack([2, 0]);
    assert_eq!(effects[1..], ["read 2 after 2,0"]);
    let effects = bench.page_read(page([3, 0], Lane::Normal, 3..=3));
    assert_eq!(effects, ["messages n3 to 3,0"]);
}

#[test]
fn an_acknowledgement_during_a_read_makes_no_second_one() {
    let mut bench = Bench::new(64);
    let effects = bench.registered(registration([0, 0], page([9, 0], Lane::Normal, 1..=4)));
    assert_eq!(effects[2..], ["read 60 after 4,0"]);
    assert_eq!(bench.ack([4, 0]), ["acknowledge 4,0, 4 more"]);
    assert_eq!(bench.ack([4, 0]), [""; 0]);
}

#[test]
fn missed_and_live_take_no_room() {
    let mut bench = Bench::new(1);
    let mut read = page([3, 0], Lane::Normal, 3..=3);
    read.run.as_mut().unwrap().expired = 2;
    bench.registered(registration([0, 0], read));
    // Only the message counts, and with it the window is full.
    assert_eq!(bench.forwarded(Lane::Normal, 4), [""; 0]);
    assert_eq!(bench.ack([2, 0]), ["acknowledge 2,0, 0 more"]);
    let expected = ["acknowledge 3,0, 1 more", "read 1 after 3,0"];
    assert_eq!(bench.ack([3, 0]), expected);
}

#[test]
fn an_ephemeral_message_counts_with_the_frame_before_it() {
    let mut bench = Bench::live(2, [0, 0]);
    bench.forwarded(Lane::Normal, 1);
    assert_eq!(bench.ephemeral(), ["messages e to 1,0"]);
    assert_eq!(bench.ephemeral(), [""; 0], "the window is full");
    assert_eq!(bench.ack([1, 0]), ["acknowledge 1,0, 1 more"]);
    assert_eq!(bench.ephemeral(), ["messages e to 1,0"]);
}

#[test]
fn an_ephemeral_message_after_a_gap_counts_until_the_gap_is_acknowledged() {
    let mut bench = Bench::new(1);
    let mut read = page([1, 0], Lane::Normal, 1..=1);
    let run = read.run.as_mut().unwrap();
    run.expired = 1;
    run.messages.clear();
    bench.registered(registration([0, 0], read));
    assert_eq!(bench.ephemeral(), ["messages e to 1,0"]);
    assert_eq!(bench.ephemeral(), [""; 0], "the window is full");
    assert_eq!(bench.ack([1, 0]), ["acknowledge 1,0, 0 more"]);
    assert_eq!(bench.ephemeral(), ["messages e to 1,0"]);
}

#[test]
fn an_ephemeral_message_is_free_where_its_cursor_is_acknowledged() {
    let mut bench = Bench::live(1, [5, 0]);
    for _ in 0..3 {
        assert_eq!(bench.ephemeral(), ["messages e to 5,0"]);
    }
    assert_eq!(bench.forwarded(Lane::Normal, 6), ["messages n6 to 6,0"]);
}

#[test]
fn what_acknowledges_itself_has_no_window() {
    let mut bench = Bench::automatic();
    let effects = bench.registered(registration([0, 0], page([600, 0], Lane::Normal, 1..=64)));
    assert_eq!(read_all(&mut bench, effects, 600), 600 - 64);
}

/// A window of 64, full of messages of a time line that ended; the first page after it waits.
fn full_at_a_fail_over() -> Bench {
    let mut bench = Bench::new(64);
    bench.registered(registration([0, 0], page([64, 0], Lane::Normal, 1..=64)));
    bench.session.register_again();
    let effects = bench.registered(after_fail_over([0, 0], page([64, 0], Lane::Normal, 1..=64)));
    assert_eq!(effects, [""; 0]);
    bench
}

#[test]
fn what_was_in_flight_at_a_fail_over_stays_so_until_it_is_acknowledged() {
    let mut bench = full_at_a_fail_over();
    assert_eq!(bench.ack([63, 0]), [""; 0]);
    assert_eq!(bench.ack([64, 0]), ["read 64 after 0,0"]);
}

#[test]
fn a_cursor_from_after_a_fail_over_covers_what_was_in_flight_before_it() {
    let mut bench = Bench::new(64);
    bench.registered(registration([0, 0], page([64, 0], Lane::Normal, 1..=64)));
    bench.session.register_again();
    let registration = Registration {
        store_lost: true,
        ..after_fail_over([0, 0], page([64, 0], Lane::Normal, 1..=64))
    };
    let effects = bench.registered(registration);
    assert_eq!(effects, ["missed ? StoreLost to 0,0 told"]);
    let told = Position {
        epoch: epoch(2),
        store_lost_told: true,
        ..position([0, 0])
    };
    let expected = ["acknowledge 0,0 told, 0 more", "read 64 after 0,0 told"];
    assert_eq!(bench.ack_position(told), expected);
}

#[test]
fn two_fail_overs_in_a_row_keep_what_is_in_flight() {
    let mut bench = full_at_a_fail_over();
    bench.session.register_again();
    let mut third = after_fail_over([0, 0], nothing([0, 0]));
    third.start.epoch = epoch(3);
    bench.registered(third);
    let mut next = forward(Lane::Normal, 1);
    next.epoch = epoch(3);
    assert_eq!(bench.session.forwarded(next), [], "the window is full");
    assert_eq!(bench.ack([64, 0]), ["read 64 after 0,0"]);
}
