//! Every rule of the ring.

use super::*;

const TIME_LINE: u64 = 7;
const LIMITS: ReadLimits = ReadLimits {
    messages_max: 64,
    bytes_max: 256 * 1024,
};
const NEVER: u64 = u64::MAX;
/// When the tests read, unless they say otherwise.
const NOW: u64 = 1_000;

/// Message `m5` is the event 5.
fn broadcast(sequence: u64) -> Broadcast {
    Broadcast {
        key: EventKey {
            creation_ms: 1,
            sequence,
        },
        time_ms: NOW,
        expires_ms: NEVER,
        exclude: None,
        json: format!("m{sequence}").into(),
    }
}

fn stream(first_sequence: u64, last_sequence: u64) -> BroadcastsStream {
    BroadcastsStream {
        time_line: TIME_LINE,
        first_sequence,
        last_sequence,
    }
}

/// A ring that has followed an empty stream up to this message.
fn filled(cap: u64, newest: u64) -> Ring {
    let ring = Ring::new(cap);
    assert_eq!(ring.begin(stream(1, 0)), 1);
    for sequence in 1..=newest {
        push(&ring, sequence, Some(broadcast(sequence)), NOW);
    }
    ring
}

/// `None` is no event.
fn push(ring: &Ring, sequence: u64, broadcast: Option<Broadcast>, now_ms: u64) {
    let content = broadcast.map_or(Content::Junk, Content::Event);
    ring.push(sequence, stored_ms(sequence), content, now_ms);
}

fn stored_ms(sequence: u64) -> u64 {
    5_000 + sequence
}

fn place(sequence: u64) -> Everyone {
    Everyone {
        creation: TIME_LINE,
        sequence,
    }
}

fn expiring(sequence: u64, expires_ms: u64) -> Option<Broadcast> {
    Some(Broadcast {
        expires_ms,
        ..broadcast(sequence)
    })
}

fn excluding(sequence: u64, user: &str) -> Option<Broadcast> {
    Some(Broadcast {
        exclude: Some(user.into()),
        ..broadcast(sequence)
    })
}

fn read(ring: &Ring, after: u64) -> String {
    read_as(ring, place(after), "ann", NOW)
}

fn read_as(ring: &Ring, after: Everyone, user: &str, now_ms: u64) -> String {
    shown(&ring.read(after, user, now_ms, LIMITS))
}

/// For example `evicted 2 to 5, expired 1 to 6, m7 m8 to 9, more`.
fn shown(read: &EveryoneRead) -> String {
    let mut parts = Vec::new();
    if read.store_lost {
        parts.push(format!("lost, from {}", read.start.sequence));
    }
    for (name, gone) in [("evicted", read.evicted), ("expired", read.expired)] {
        if gone.count > 0 {
            parts.push(format!("{name} {} to {}", gone.count, gone.end));
        }
    }
    let texts = read
        .messages
        .iter()
        .map(|message| format!("{} ", message.json));
    let more = if read.has_more { ", more" } else { "" };
    let texts: String = texts.collect();
    parts.push(format!("{texts}to {}{more}", read.end.sequence));
    parts.join(", ")
}

#[test]
fn what_follows_a_place_is_read_in_order() {
    let ring = filled(10, 4);
    assert_eq!(ring.newest(), place(4));
    assert_eq!(read(&ring, 0), "m1 m2 m3 m4 to 4");
    assert_eq!(read(&ring, 2), "m3 m4 to 4");
    assert_eq!(read(&ring, 4), "to 4");
    assert_eq!(ring.pending(place(1), "ann", NOW), 3);
    let message = &ring.read(place(3), "ann", NOW, LIMITS).messages[0];
    assert_eq!((message.sequence, message.key), (4, broadcast(4).key));
}

#[test]
fn nothing_is_read_of_an_empty_ring() {
    let ring = Ring::new(10);
    assert_eq!(ring.newest(), Everyone::default());
    ring.begin(stream(1, 0));
    assert_eq!(read(&ring, 0), "to 0");
    assert_eq!(ring.pending(place(0), "ann", NOW), 0);
}

#[test]
fn a_change_is_seen_by_who_waits_for_it() {
    let ring = filled(10, 1);
    let mut changes = ring.changes();
    assert!(!changes.has_changed().unwrap());
    push(&ring, 2, None, NOW);
    assert!(changes.has_changed().unwrap());
    assert_eq!(*changes.borrow_and_update(), place(2));
    push(&ring, 2, None, NOW);
    assert!(!changes.has_changed().unwrap(), "it was read before");
}

#[test]
fn the_cap_pushes_out_the_oldest_and_that_is_told_exactly() {
    let ring = filled(3, 5);
    assert_eq!(read(&ring, 0), "evicted 2 to 2, m3 m4 m5 to 5");
    assert_eq!(read(&ring, 1), "evicted 1 to 2, m3 m4 m5 to 5");
    assert_eq!(read(&ring, 2), "m3 m4 m5 to 5");
    assert_eq!(ring.pending(place(0), "ann", NOW), 3);
}

#[test]
fn a_cap_of_one_keeps_the_newest() {
    assert_eq!(read(&filled(1, 5), 0), "evicted 4 to 4, m5 to 5");
}

#[test]
fn what_expired_at_the_head_is_told_exactly_and_goes_with_the_next() {
    let ring = filled(10, 0);
    push(&ring, 1, expiring(1, 2_000), NOW);
    push(&ring, 2, expiring(2, 3_000), NOW);
    push(&ring, 3, expiring(3, NEVER), NOW);
    assert_eq!(read(&ring, 0), "m1 m2 m3 to 3");
    assert_eq!(read_as(&ring, place(0), "ann", 1_999), "m1 m2 m3 to 3");
    let at_its_time = read_as(&ring, place(0), "ann", 2_000);
    assert_eq!(at_its_time, "expired 1 to 1, m2 m3 to 3");
    assert_eq!(read_as(&ring, place(1), "ann", 2_000), "m2 m3 to 3");
    assert_eq!(ring.pending(place(0), "ann", 2_000), 2);
    push(&ring, 4, expiring(4, NEVER), 3_000);
    // Also for a clock that is behind: they are not there any more.
    assert_eq!(read(&ring, 0), "expired 2 to 2, m3 m4 to 4");
}

#[test]
fn what_expired_in_the_middle_is_told_where_it_lay() {
    let ring = filled(10, 1);
    push(&ring, 2, expiring(2, 2_000), NOW);
    push(&ring, 3, expiring(3, 2_000), NOW);
    push(&ring, 4, expiring(4, NEVER), NOW);
    push(&ring, 5, expiring(5, 2_000), NOW);
    let later = |after| read_as(&ring, place(after), "ann", 2_000);
    assert_eq!(later(0), "m1 to 1, more");
    assert_eq!(later(1), "expired 2 to 3, m4 to 4, more");
    assert_eq!(later(2), "expired 1 to 3, m4 to 4, more");
    assert_eq!(later(4), "expired 1 to 5, to 5");
    assert_eq!(ring.pending(place(0), "ann", 2_000), 2);
}

#[test]
fn what_came_too_late_is_told_as_expired() {
    let ring = filled(10, 0);
    push(&ring, 1, expiring(1, NOW), NOW);
    assert_eq!(read(&ring, 0), "expired 1 to 1, to 1");
}

#[test]
fn evicted_comes_before_expired() {
    let ring = filled(2, 3);
    push(&ring, 4, expiring(4, 2_000), NOW);
    // 1 and 2 are pushed out; 3 stays, and expires with 4 behind it.
    let later = read_as(&ring, place(0), "ann", 2_000);
    assert_eq!(later, "evicted 2 to 2, m3 to 3, more");
    push(&ring, 5, expiring(5, NEVER), 2_000);
    let later = read_as(&ring, place(0), "ann", 2_000);
    assert_eq!(later, "evicted 3 to 3, expired 1 to 4, m5 to 5");
}

#[test]
fn a_head_that_expired_is_not_evicted() {
    let ring = filled(2, 0);
    push(&ring, 1, expiring(1, 2_000), NOW);
    push(&ring, 2, expiring(2, NEVER), NOW);
    push(&ring, 3, expiring(3, NEVER), 2_000);
    assert_eq!(read(&ring, 0), "expired 1 to 1, m2 m3 to 3");
}

#[test]
fn an_excluded_user_gets_nothing_and_misses_nothing() {
    let ring = filled(10, 1);
    push(&ring, 2, excluding(2, "ann"), NOW);
    push(&ring, 3, excluding(3, "bob"), NOW);
    let mut expired = excluding(4, "ann");
    expired.as_mut().unwrap().expires_ms = 2_000;
    push(&ring, 4, expired, NOW);
    assert_eq!(read(&ring, 0), "m1 m3 to 4");
    assert_eq!(read(&ring, 3), "to 4");
    assert_eq!(read_as(&ring, place(0), "ann", 2_000), "m1 m3 to 4");
    assert_eq!(read_as(&ring, place(1), "bob", NOW), "m2 m4 to 4");
    let bob = read_as(&ring, place(2), "bob", 2_000);
    assert_eq!(bob, "expired 1 to 4, to 4");
    assert_eq!(ring.pending(place(0), "ann", NOW), 2);
    assert_eq!(ring.pending(place(0), "bob", 2_000), 2);
}

#[test]
fn whom_the_evicted_excluded_is_not_known_any_more() {
    let ring = filled(1, 0);
    push(&ring, 1, excluding(1, "ann"), NOW);
    push(&ring, 2, Some(broadcast(2)), NOW);
    assert_eq!(read(&ring, 0), "evicted 1 to 1, m2 to 2");
}

#[test]
fn a_read_has_at_most_so_many_messages_and_bytes_but_one() {
    let ring = filled(10, 3);
    push(&ring, 4, excluding(4, "ann"), NOW);
    push(&ring, 5, Some(broadcast(5)), NOW);
    let read = |after, messages_max, bytes_max| {
        let limits = ReadLimits {
            messages_max,
            bytes_max,
        };
        shown(&ring.read(place(after), "ann", NOW, limits))
    };
    assert_eq!(read(0, 2, 100), "m1 m2 to 2, more");
    // What the user does not get is passed with the message before it.
    assert_eq!(read(0, 3, 100), "m1 m2 m3 to 4, more");
    assert_eq!(read(0, 4, 100), "m1 m2 m3 m5 to 5");
    assert_eq!(read(0, 64, 4), "m1 m2 to 2, more");
    assert_eq!(read(0, 64, 5), "m1 m2 to 2, more");
    assert_eq!(read(0, 64, 1), "m1 to 1, more");
}

#[test]
fn a_repeated_copy_is_one_message() {
    let ring = filled(2, 2);
    push(&ring, 3, Some(broadcast(2)), NOW);
    assert_eq!(read(&ring, 0), "m1 m2 to 3");
    assert_eq!(read(&ring, 2), "to 3");
    // Its key is forgotten with its entry.
    push(&ring, 4, Some(broadcast(4)), NOW);
    push(&ring, 5, Some(broadcast(1)), NOW);
    assert_eq!(read(&ring, 3), "m4 m1 to 5");
}

#[test]
fn what_cannot_be_read_is_passed() {
    let ring = filled(10, 1);
    push(&ring, 2, None, NOW);
    push(&ring, 3, Some(broadcast(3)), NOW);
    assert_eq!(read(&ring, 0), "m1 m3 to 3");
    push(&ring, 4, None, NOW);
    assert_eq!(read(&ring, 1), "m3 to 4");
}

#[test]
fn what_a_later_version_wrote_is_told_where_it_lay() {
    let ring = filled(10, 1);
    let later = |sequence| ring.push(sequence, stored_ms(sequence), Content::Later, NOW);
    later(2);
    later(3);
    push(&ring, 4, Some(broadcast(4)), NOW);
    later(5);
    assert_eq!(read(&ring, 0), "m1 to 1, more");
    assert_eq!(read(&ring, 1), "expired 2 to 3, m4 to 4, more");
    assert_eq!(read(&ring, 2), "expired 1 to 3, m4 to 4, more");
    assert_eq!(read(&ring, 4), "expired 1 to 5, to 5");
    assert_eq!(ring.pending(place(0), "ann", NOW), 2);
    // Who follows is told each of them once.
    later(6);
    assert_eq!(read(&ring, 5), "expired 1 to 6, to 6");
    assert_eq!(read(&ring, 4), "expired 2 to 6, to 6");
}

#[test]
fn a_later_version_at_the_head_is_told_too() {
    let ring = filled(10, 0);
    ring.push(1, stored_ms(1), Content::Later, NOW);
    push(&ring, 2, Some(broadcast(2)), NOW);
    assert_eq!(read(&ring, 0), "expired 1 to 1, m2 to 2");
    assert_eq!(read(&ring, 1), "m2 to 2");
}

#[test]
fn what_the_stream_dropped_unread_is_told_as_evicted() {
    let ring = filled(10, 1);
    push(&ring, 5, Some(broadcast(5)), NOW);
    assert_eq!(read(&ring, 0), "m1 to 1, more");
    assert_eq!(read(&ring, 1), "evicted 3 to 4, m5 to 5");
    assert_eq!(read(&ring, 3), "evicted 1 to 4, m5 to 5");
    assert_eq!(read(&ring, 4), "m5 to 5");
    // The first that is read may be none that was expected.
    let ring = Ring::new(10);
    ring.begin(stream(3, 9));
    push(&ring, 6, Some(broadcast(6)), NOW);
    assert_eq!(read(&ring, 2), "evicted 3 to 5, m6 to 6");
    assert_eq!(read(&ring, 4), "evicted 1 to 5, m6 to 6");
}

#[test]
fn what_was_dropped_behind_what_expired_is_counted() {
    let ring = filled(10, 1);
    push(&ring, 2, expiring(2, 2_000), NOW);
    push(&ring, 5, Some(broadcast(5)), NOW);
    let later = |after| read_as(&ring, place(after), "ann", 2_000);
    assert_eq!(later(1), "expired 3 to 4, m5 to 5");
    assert_eq!(later(2), "evicted 2 to 4, m5 to 5");
}

#[test]
fn what_is_gone_takes_no_place_of_a_message() {
    let ring = filled(2, 1);
    ring.push(2, stored_ms(2), Content::Later, NOW);
    push(&ring, 5, Some(broadcast(5)), NOW);
    assert_eq!(read(&ring, 0), "m1 to 1, more");
    push(&ring, 6, Some(broadcast(6)), NOW);
    assert_eq!(read(&ring, 0), "evicted 1 to 1, expired 3 to 4, m5 m6 to 6");
}

#[test]
fn an_event_in_the_place_of_one_that_its_stream_lost_is_another() {
    let ring = filled(10, 1);
    let other = Broadcast {
        time_ms: NOW + 1,
        json: "other".into(),
        ..broadcast(1)
    };
    push(&ring, 2, Some(other.clone()), NOW);
    push(&ring, 3, Some(other), NOW);
    assert_eq!(read(&ring, 0), "m1 other to 3");
}

#[test]
fn the_mark_is_the_newest_message_and_when_it_was_stored() {
    let mark = |sequence, stored_ms| Mark {
        place: place(sequence),
        stored_ms,
    };
    let ring = filled(3, 2);
    assert_eq!(ring.mark(), mark(2, stored_ms(2)));
    push(&ring, 3, None, NOW);
    assert_eq!(ring.mark(), mark(3, stored_ms(3)));
    ring.begin(stream(1, 3));
    assert_eq!(ring.mark(), mark(3, stored_ms(3)));
    ring.begin(stream(1, 20));
    assert_eq!(ring.mark(), mark(17, 0));
}

#[test]
fn a_stream_is_begun_at_the_oldest_that_can_wait() {
    for (cap, first, last, next, expected) in [
        (10, 1, 0, 1, "to 0"),
        (10, 0, 0, 1, "to 0"),
        (10, 1, 5, 1, "to 0"),
        (10, 4, 5, 4, "expired 3 to 3, to 3"),
        (2, 1, 5, 4, "evicted 3 to 3, to 3"),
        (2, 4, 5, 4, "expired 3 to 3, to 3"),
        (2, 3, 5, 4, "evicted 3 to 3, to 3"),
        // All of it is gone.
        (10, 6, 5, 6, "expired 5 to 5, to 5"),
    ] {
        let ring = Ring::new(cap);
        let what = format!("{first} to {last}, at most {cap}");
        assert_eq!(ring.begin(stream(first, last)), next, "{what}");
        assert_eq!(read(&ring, 0), expected, "{what}");
        assert_eq!(ring.newest(), place(next - 1), "{what}");
    }
}

#[test]
fn a_stream_is_gone_on_with_after_an_outage() {
    let ring = filled(3, 4);
    assert_eq!(ring.begin(stream(1, 6)), 5);
    assert_eq!(read(&ring, 1), "m2 m3 m4 to 4");
    // Read again by a second consumer.
    push(&ring, 4, Some(broadcast(4)), NOW);
    push(&ring, 5, Some(broadcast(5)), NOW);
    assert_eq!(read(&ring, 1), "evicted 1 to 2, m3 m4 m5 to 5");
    // So long away that nothing here is among the youngest.
    assert_eq!(ring.begin(stream(1, 20)), 18);
    assert_eq!(read(&ring, 1), "evicted 16 to 17, to 17");
    // Or that all between expired.
    assert_eq!(ring.begin(stream(31, 32)), 31);
    assert_eq!(read(&ring, 1), "evicted 16 to 17, expired 13 to 30, to 30");
}

#[test]
fn a_place_of_another_stream_is_lost() {
    let ring = filled(3, 4);
    let other = BroadcastsStream {
        time_line: TIME_LINE + 1,
        ..stream(3, 5)
    };
    assert_eq!(ring.begin(other), 3);
    push(&ring, 3, Some(broadcast(3)), NOW);
    for sequence in [0, 3, 100] {
        assert_eq!(read(&ring, sequence), "lost, from 2, m3 to 3", "{sequence}");
        assert_eq!(ring.pending(place(sequence), "ann", NOW), 1);
    }
    let lost = read_as(&ring, Everyone::LOST, "ann", NOW);
    assert_eq!(lost, "lost, from 2, m3 to 3");
    // A device without a place gets all that is there; nothing was promised to it.
    let fresh = read_as(&ring, Everyone::default(), "ann", NOW);
    assert_eq!(fresh, "m3 to 3");
    // The events of the other stream are no repeats of those before.
    let end = ring.read(place(9), "ann", NOW, LIMITS).end;
    assert_eq!(end.creation, TIME_LINE + 1);
}

#[test]
fn nothing_follows_a_place_ahead_until_the_ring_is_there() {
    let ring = filled(10, 4);
    assert_eq!(read(&ring, 6), "to 6");
    assert_eq!(ring.pending(place(6), "ann", NOW), 0);
    let ahead = Everyone {
        creation: TIME_LINE + 1,
        sequence: 2,
    };
    let read_ahead = ring.read(ahead, "ann", NOW, LIMITS);
    assert_eq!((read_ahead.end, read_ahead.store_lost), (ahead, false));
    for sequence in 5..=7 {
        push(&ring, sequence, Some(broadcast(sequence)), NOW);
    }
    assert_eq!(read(&ring, 6), "m7 to 7");
}
