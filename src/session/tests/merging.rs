//! A page and the events for everyone of the same time, in one order.

use super::everyone::{everyone_message, place, registration_at, with_everyone};
use super::*;
use crate::session::EveryoneRead;

/// A run of these messages, each by its place and time, in the order of their times.
fn own(lane: Lane, messages: &[(u64, u64)]) -> Run {
    let messages = messages.iter().map(|&(place, time_ms)| {
        let mut waiting = waiting(lane, place);
        waiting.key = key(time_ms);
        waiting.message.time_ms = time_ms;
        waiting
    });
    Run {
        lane,
        evicted: 0,
        expired: 0,
        messages: messages.collect(),
    }
}

/// Events for everyone from place 1 on, of these times.
fn everyone(times_ms: &[u64]) -> EveryoneRead {
    let newest = place(times_ms.len() as u64);
    EveryoneRead {
        start: place(0),
        messages: (1..)
            .zip(times_ms)
            .map(|(sequence, time_ms)| everyone_message(sequence, *time_ms))
            .collect(),
        end: newest,
        newest,
        ..EveryoneRead::default()
    }
}

fn read(last: u64, run: Run, everyone: EveryoneRead) -> PageRead {
    let mut read = with_everyone(everyone, nothing([last, 0]));
    read.run = Some(run);
    read
}

/// What a fresh session makes of its first page, after `welcome`.
fn first(window: u32, read: PageRead) -> Vec<String> {
    let mut bench = Bench::new(window);
    let mut effects = bench.registered(registration_at([0, 0], 0, read));
    effects.remove(0);
    effects
}

#[test]
fn both_come_in_one_frame_in_the_order_of_their_events() {
    let run = own(Lane::Normal, &[(1, 10), (2, 30), (3, 50)]);
    let effects = first(256, read(3, run, everyone(&[5, 20, 40, 60])));
    let expected = [
        "replay e1..e4 to 3,0,7/4",
        "replayed 7",
        "live 3,0,7/4, 7 replayed",
    ];
    assert_eq!(effects, expected);
    let run = own(Lane::Normal, &[(1, 10)]);
    let effects = first(256, read(1, run, everyone(&[5, 20])));
    assert_eq!(effects[0], "replay e1 n1 e2 to 1,0,7/2");
}

#[test]
fn high_priority_goes_first_alone() {
    let mut page = read(0, own(Lane::High, &[(1, 100)]), everyone(&[5]));
    page.last = [0, 1];
    let effects = first(256, page);
    assert_eq!(effects, ["replay h1 to 0,1,7/0", "read 64 after 0,1,7/0"]);
}

#[test]
fn what_is_younger_than_the_page_waits_for_the_pages_before_it() {
    // The mailbox has 4; this page, 2 of them.
    let run = own(Lane::Normal, &[(1, 10), (2, 30)]);
    let effects = first(256, read(4, run, everyone(&[20, 40])));
    let expected = ["replay n1 e1 n2 to 2,0,7/1", "read 64 after 2,0,7/1"];
    assert_eq!(effects, expected);
}

#[test]
fn the_page_waits_for_older_events_that_were_not_read_yet() {
    let run = own(Lane::Normal, &[(1, 10), (2, 30)]);
    let mut cut = everyone(&[5, 20]);
    (cut.newest, cut.has_more) = (place(9), true);
    let effects = first(256, read(2, run, cut));
    let expected = ["replay e1 n1 e2 to 1,0,7/2", "read 64 after 1,0,7/2"];
    assert_eq!(effects, expected);
}

#[test]
fn a_page_of_nothing_but_gaps_lets_the_others_wait() {
    let mut run = own(Lane::Normal, &[]);
    run.expired = 2;
    let effects = first(256, read(4, run.clone(), everyone(&[5])));
    let expected = ["missed 2 Expired to 2,0,7/0", "read 64 after 2,0,7/0"];
    assert_eq!(effects, expected);
    // To the end of the mailbox.
    let effects = first(256, read(2, run, everyone(&[5])));
    assert_eq!(effects[1], "replay e1 to 2,0,7/1");
}

#[test]
fn messages_whose_places_are_out_of_order_stay_in_one_frame() {
    // Two workers: place 3 is older than place 1. No cursor may name 3 without 1 and 2.
    let run = own(Lane::Normal, &[(3, 10), (1, 20), (2, 40), (4, 60)]);
    let effects = first(2, read(4, run, everyone(&[30, 50])));
    // The window is smaller than what belongs together.
    assert_eq!(effects, ["replay n3 n1 n2 to 3,0,7/0"]);
    let run = own(Lane::Normal, &[(3, 10), (1, 20), (2, 40), (4, 60)]);
    let effects = first(4, read(4, run, everyone(&[30, 50])));
    assert_eq!(
        effects,
        ["replay n3..e1 to 3,0,7/1"],
        "the rest waits for room"
    );
}

#[test]
fn frames_are_cut_between_messages_and_not_between_the_halves() {
    let messages: Vec<(u64, u64)> = (1..=64).map(|place| (place, 10 * place)).collect();
    let times: Vec<u64> = (1..=40).map(|index| 10 * index + 5).collect();
    let run = own(Lane::Normal, &messages);
    let effects = first(256, read(64, run, everyone(&times)));
    let expected = [
        "replay n1..e32 to 32,0,7/32",
        "replay n33..n64 to 64,0,7/40",
        "replayed 104",
        "live 64,0,7/40, 104 replayed",
    ];
    assert_eq!(effects, expected);
}

#[test]
fn bytes_cut_a_frame_as_well() {
    let mut run = own(Lane::Normal, &[(1, 10), (2, 30)]);
    for waiting in &mut run.messages {
        waiting.message.json = "x".repeat(100_000).into();
    }
    let mut everyone = everyone(&[20, 40]);
    for message in &mut everyone.messages {
        message.json = "y".repeat(100_000).into();
    }
    let mut bench = Bench::new(256);
    let registration = registration_at([0, 0], 0, read(2, run, everyone));
    let effects = bench.session.registered(registration);
    let times: Vec<&[u64]> = (effects.iter())
        .filter_map(|effect| match effect {
            Effect::Send { times_ms, .. } if !times_ms.is_empty() => Some(&times_ms[..]),
            _ => None,
        })
        .collect();
    assert_eq!(times, [[10, 20], [30, 40]]);
}

#[test]
fn a_message_that_came_since_is_no_replay_wherever_it_stands() {
    let mut bench = Bench::new(256);
    let mut cut = everyone(&[5, 20]);
    cut.messages.truncate(1);
    (cut.end, cut.has_more) = (place(1), true);
    let run = own(Lane::Normal, &[(1, 10)]);
    bench.registered(registration_at([0, 0], 0, read(1, run, cut)));
    // Own message 2 and the event 3 came since; the event 2 waited.
    let mut rest = everyone(&[0, 20, 25]);
    rest.start = place(1);
    rest.messages.remove(0);
    let run = own(Lane::Normal, &[(1, 10), (2, 15)]);
    let expected = [
        "replay n1 e2 to 1,0,7/2",
        "replayed 3",
        "live 1,0,7/2, 3 replayed",
        "messages n2 e3 to 2,0,7/3",
    ];
    assert_eq!(bench.page_read(read(2, run, rest)), expected);
}

/// What waits, by the times of the events: the own messages from place 1 on, and those for everyone.
struct Waits {
    own: Vec<u64>,
    everyone: Vec<u64>,
}

impl Waits {
    /// Each of so many events is one or the other.
    fn random(count: u64, random: &mut walk::Random) -> Waits {
        let (own, everyone) = (1..=count).partition(|_| random.coin());
        Waits { own, everyone }
    }

    /// A page after a position, of which either half may be cut anywhere.
    fn page(&self, after: &Position, most: usize, random: &mut walk::Random) -> PageRead {
        let (from, last) = (after.places.own[0], self.own.len() as u64);
        let most = if random.coin() { most } else { most.min(3) };
        let end = last.min(from + most as u64);
        let messages: Vec<(u64, u64)> = (from + 1..=end)
            .map(|place| (place, self.own[place as usize - 1]))
            .collect();
        let mut events = everyone(&self.everyone);
        let passed = after.places.everyone.sequence;
        events.start = place(passed);
        events.messages.drain(..passed as usize);
        let most = [1, 5, 64][random.below(3)];
        if events.messages.len() > most {
            events.messages.truncate(most);
            (events.end, events.has_more) = (place(passed + most as u64), true);
        }
        match messages.is_empty() {
            true => with_everyone(events, nothing([last, 0])),
            false => read(last, own(Lane::Normal, &messages), events),
        }
    }

    /// The times of all that a session sends, whose client acknowledges only when nothing more
    /// comes.
    fn sent(&self, window: u32, random: &mut walk::Random) -> Vec<u64> {
        let mut bench = Bench::new(window);
        let start = registration_at([0, 0], 0, nothing([0, 0])).start;
        let first = self.page(&start, 64.min(window as usize), random);
        let mut effects = bench.session.registered(registration_at([0, 0], 0, first));
        let mut times = Vec::new();
        loop {
            let (mut asked, mut acknowledged) = (None, None);
            for effect in effects {
                match effect {
                    Effect::ReadPage {
                        number,
                        after,
                        messages_max,
                    } => asked = Some((number, self.page(&after, messages_max, random))),
                    Effect::Send { frame, times_ms } => {
                        times.extend(times_ms);
                        if let ServerFrame::Messages { cursor, .. } = frame {
                            acknowledged = Some(cursor.to_string());
                        }
                    }
                    _ => {}
                }
            }
            effects = match (asked, acknowledged) {
                (Some((number, page)), _) => bench.session.page_read(number, page),
                (None, Some(cursor)) => bench.session.ack(&cursor),
                (None, None) => return times,
            };
        }
    }
}

#[test]
fn whatever_the_pages_are_all_comes_once_in_the_order_of_the_events() {
    for seed in 0..2_000 {
        let mut random = walk::Random::new(seed);
        let count = 1 + random.below(150) as u64;
        let waits = Waits::random(count, &mut random);
        let window = [1, 2, 64, 100, 256][random.below(5)];
        let times = waits.sent(window, &mut random);
        let expected: Vec<u64> = (1..=count).collect();
        assert_eq!(times, expected, "seed {seed}, window {window}");
    }
}
