//! Checks what a session does with the events for everyone.

use super::stream::Stream;
use super::witness::Device;
use crate::protocol::{Everyone, Position};

/// All time lines of the stream; the last is the one that counts.
pub struct Streams(pub Vec<Stream>);

impl Streams {
    pub fn current(&mut self) -> &mut Stream {
        self.0.last_mut().expect("there is always one")
    }

    fn of(&self, place: Everyone) -> &Stream {
        let mut all = self.0.iter();
        all.find(|stream| stream.time_line() == place.creation)
            .expect("a time line that was")
    }
}

/// What a frame says of the events for everyone.
pub enum Said<'a> {
    /// The ids among its messages that are such events, in their order.
    Messages(&'a [u64]),
    /// A `missed` that is not about the user's own; `None` for `store_lost`.
    Missed(Option<u64>),
    Nothing,
}

/// One connection's way along the stream.
#[derive(Default)]
pub struct Follower {
    /// As far as the cursors said.
    pub to: Everyone,
    /// The newest place when the connection began.
    backlog: Option<Everyone>,
}

impl Follower {
    /// The session took this registration, on the user's time line that it was on or on another.
    pub fn registered(
        &mut self,
        start: Everyone,
        newest: Everyone,
        is_same_line: bool,
        streams: &Streams,
        device: &Device,
    ) {
        self.to = match is_same_line {
            true => start.max(self.to),
            false => start,
        };
        self.backlog.get_or_insert(newest);
        let stream = streams.of(start);
        let joined = match device.joined.creation == start.creation {
            true => device.joined.sequence,
            false => 0,
        };
        for sequence in joined + 1..=start.sequence {
            let id = stream.id(sequence);
            let is_known = device.received.contains(&id) || device.missed.contains(&id);
            let is_known = is_known || stream.is_excluded(sequence);
            assert!(is_known, "event {id} at {sequence} was passed unseen");
        }
    }

    /// True where a message of the current stream waited when the connection began.
    pub fn is_backlog(&self, id: u64, streams: &Streams) -> bool {
        self.backlog.is_some_and(|backlog| {
            let stream = streams.of(backlog);
            (1..=backlog.sequence).any(|sequence| stream.id(sequence) == id)
        })
    }

    pub fn is_through(&self) -> bool {
        self.backlog.is_some_and(|backlog| self.to >= backlog)
    }

    /// Checks a frame with this cursor: all on the way to it was sent, told, or not for the user.
    pub fn check(
        &mut self,
        cursor: &Position,
        said: &Said,
        streams: &Streams,
        device: &mut Device,
    ) {
        let to = cursor.places.everyone;
        let stream = streams.of(to);
        if to.creation != self.to.creation {
            assert!(matches!(said, Said::Missed(None)), "another stream, untold");
            for sequence in 1..=to.sequence {
                assert!(stream.is_gone(sequence), "{sequence} was left out");
                device.missed.insert(stream.id(sequence));
            }
            self.to = to;
            return;
        }
        assert!(to >= self.to, "the cursor goes back");
        let mut expected = Vec::new();
        let mut untold = 0;
        let passed = self.to.sequence + 1..=to.sequence;
        let length = to.sequence - self.to.sequence;
        for sequence in passed {
            let id = stream.id(sequence);
            let is_sent = matches!(said, Said::Messages(ids) if ids.contains(&id));
            if is_sent {
                expected.push(id);
            } else if !stream.is_excluded(sequence) {
                assert!(stream.is_gone(sequence), "event {id} was left out");
                assert!(
                    matches!(said, Said::Missed(_)),
                    "event {id} is gone, untold"
                );
                untold += 1;
                device.missed.insert(id);
            }
        }
        match said {
            Said::Messages(ids) => {
                assert_eq!(*ids, expected, "in the order of their places");
                device.received.extend(expected);
            }
            Said::Missed(Some(count)) => assert!(
                (untold..=length).contains(count) && *count > 0,
                "{count} missed of {untold}"
            ),
            Said::Missed(None) => panic!("store_lost on the same stream"),
            Said::Nothing => {}
        }
        self.to = to;
    }
}
