//! The messages to a gateway on its own subject, as bytes.
//!
//! Layout, integers in big-endian order, texts with their length in front (2 bytes; a payload's 4):
//!
//! | message | fields |
//! |---|---|
//! | any | format version (1 byte), kind (1) |
//! | [`Forward`] | sender, link number (8), epoch (20), payloads (count 4): time (8), JSON; recipients (count 4): user, payload (4), flags (1), place (8), life (8, where flagged) |
//! | [`Replace`] | user, device, number (8) |
//! | [`Announcement`] | excluded user, or an empty text; payload |
//!
//! A gateway that does not know the format version drops the message: what was forwarded is in the
//! mailbox.

use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::{Epoch, Lane, Life};

const VERSION: u8 = 1;
const KIND_FORWARD: u8 = 1;
const KIND_REPLACE: u8 = 2;
const KIND_ANNOUNCEMENT: u8 = 3;
/// Flags of a recipient: it has a spot; the spot's lane is high; the spot has a life.
const FLAG_SPOT: u8 = 1;
const FLAG_HIGH: u8 = 2;
const FLAG_LIFE: u8 = 4;
/// A forward without payloads and recipients is at most this long, with a sender's name of
/// 128 bytes.
const FORWARD_HEAD_BYTES: usize = 2 + 2 + 128 + 8 + 20 + 4 + 4;

/// What a gateway hears on its subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayMessage {
    Forward(Forward),
    Replace(Replace),
    Announcement(Announcement),
}

/// Messages for users that are connected to the gateway. Losing it is harmless: all but ephemeral
/// messages are in the mailboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// The worker.
    pub sender: String,
    /// Counts the forwards from this sender to this life of the gateway, from 0: a skipped number
    /// is a lost forward. A forward without recipients only carries the number on.
    pub link_number: u64,
    /// The store's time line in which the places were given.
    pub epoch: Epoch,
    pub payloads: Vec<Payload>,
    pub recipients: Vec<Recipient>,
}

/// One message, sent once whatever number of recipients it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// When JetStream stored the event, in milliseconds since 1970.
    pub time_ms: u64,
    /// The message exactly as it goes to the client.
    pub json: Arc<str>,
}

/// One user who gets one of the payloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    pub user: Arc<str>,
    /// Index into the forward's payloads.
    pub payload: u32,
    /// Where the message lies in the user's mailbox; `None` for an ephemeral one.
    pub spot: Option<Spot>,
}

/// A place in a mailbox, in the forward's epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    pub lane: Lane,
    pub place: u64,
    pub life: Option<Life>,
}

/// A newer connection of a device took over: the one with this number ends (close 4009).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replace {
    pub user: Arc<str>,
    pub device: String,
    pub number: u64,
}

/// An ephemeral message for everyone who is connected, on the subject that all gateways hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    pub payload: Payload,
    /// The user who gets nothing.
    pub exclude: Option<Arc<str>>,
}

/// The bytes are not a message of this format version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a gateway message of format version {VERSION}")]
pub struct InvalidForward;

/// At most so many bytes has a forward with payloads and recipients of these sizes.
pub fn encoded_bytes(payload_bytes: usize, recipient_bytes: usize) -> usize {
    FORWARD_HEAD_BYTES + payload_bytes + recipient_bytes
}

impl Payload {
    /// Its share of a forward's length.
    pub fn encoded_bytes(&self) -> usize {
        8 + 4 + self.json.len()
    }
}

impl Recipient {
    /// Its share of a forward's length, at most.
    pub fn encoded_bytes(&self) -> usize {
        2 + self.user.len() + 4 + 1 + 8 + 8
    }
}

impl GatewayMessage {
    /// The bytes that [`GatewayMessage::decode`] reads.
    pub fn encode(&self) -> Bytes {
        match self {
            GatewayMessage::Forward(forward) => forward.encode(),
            GatewayMessage::Replace(replace) => {
                let mut bytes = vec![VERSION, KIND_REPLACE];
                put_text(&mut bytes, &replace.user);
                put_text(&mut bytes, &replace.device);
                bytes.extend(replace.number.to_be_bytes());
                bytes.into()
            }
            GatewayMessage::Announcement(announcement) => {
                let mut bytes = vec![VERSION, KIND_ANNOUNCEMENT];
                put_text(&mut bytes, announcement.exclude.as_deref().unwrap_or(""));
                put_payload(&mut bytes, &announcement.payload);
                bytes.into()
            }
        }
    }

    /// Reads what [`GatewayMessage::encode`] wrote; never takes more memory than a small multiple
    /// of the input.
    ///
    /// # Errors
    ///
    /// Other format versions, other kinds, anything cut off or left over.
    pub fn decode(bytes: &Bytes) -> Result<GatewayMessage, InvalidForward> {
        let mut reader = Reader(bytes);
        if reader.byte()? != VERSION {
            return Err(InvalidForward);
        }
        let message = match reader.byte()? {
            KIND_FORWARD => GatewayMessage::Forward(Forward::decode(&mut reader)?),
            KIND_REPLACE => GatewayMessage::Replace(Replace {
                user: reader.text()?.into(),
                device: reader.text()?.to_owned(),
                number: reader.number()?,
            }),
            KIND_ANNOUNCEMENT => GatewayMessage::Announcement(Announcement {
                // A user id is never empty.
                exclude: Some(reader.text()?)
                    .filter(|user| !user.is_empty())
                    .map(Into::into),
                payload: reader.payload()?,
            }),
            _ => return Err(InvalidForward),
        };
        match reader.0.is_empty() {
            true => Ok(message),
            false => Err(InvalidForward),
        }
    }
}

impl Forward {
    fn encode(&self) -> Bytes {
        let payloads: usize = self.payloads.iter().map(Payload::encoded_bytes).sum();
        let recipients: usize = self.recipients.iter().map(Recipient::encoded_bytes).sum();
        let mut bytes = Vec::with_capacity(encoded_bytes(payloads, recipients));
        bytes.extend([VERSION, KIND_FORWARD]);
        put_text(&mut bytes, &self.sender);
        bytes.extend(self.link_number.to_be_bytes());
        bytes.extend(self.epoch.as_bytes());
        put_count(&mut bytes, self.payloads.len());
        for payload in &self.payloads {
            put_payload(&mut bytes, payload);
        }
        put_count(&mut bytes, self.recipients.len());
        for recipient in &self.recipients {
            put_text(&mut bytes, &recipient.user);
            bytes.extend(recipient.payload.to_be_bytes());
            put_spot(&mut bytes, recipient.spot);
        }
        bytes.into()
    }

    fn decode(reader: &mut Reader) -> Result<Forward, InvalidForward> {
        let sender = reader.text()?.to_owned();
        let link_number = reader.number()?;
        let mut epoch = [0; 20];
        epoch.copy_from_slice(reader.take(20)?);
        let payload_count = reader.count()?;
        let mut payloads = Vec::with_capacity(reader.at_most(payload_count, 12));
        for _ in 0..payload_count {
            payloads.push(reader.payload()?);
        }
        let recipient_count = reader.count()?;
        let mut recipients = Vec::with_capacity(reader.at_most(recipient_count, 7));
        for _ in 0..recipient_count {
            let user = reader.text()?.into();
            let payload = u32::try_from(reader.count()?).map_err(|_| InvalidForward)?;
            if payload as usize >= payloads.len() {
                return Err(InvalidForward);
            }
            let spot = reader.spot()?;
            recipients.push(Recipient {
                user,
                payload,
                spot,
            });
        }
        Ok(Forward {
            sender,
            link_number,
            epoch: Epoch::from_bytes(epoch),
            payloads,
            recipients,
        })
    }
}

/// Names and ids have at most 128 bytes; what is longer than the length can say is cut, and the
/// reader refuses the message.
fn put_text(bytes: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    bytes.extend(length.to_be_bytes());
    bytes.extend(&text.as_bytes()[..usize::from(length)]);
}

fn put_payload(bytes: &mut Vec<u8>, payload: &Payload) {
    bytes.extend(payload.time_ms.to_be_bytes());
    put_count(bytes, payload.json.len());
    bytes.extend(payload.json.as_bytes());
}

fn put_count(bytes: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    bytes.extend(count.to_be_bytes());
}

fn put_spot(bytes: &mut Vec<u8>, spot: Option<Spot>) {
    let Some(spot) = spot else {
        bytes.push(0);
        return;
    };
    let high = match spot.lane {
        Lane::Normal => 0,
        Lane::High => FLAG_HIGH,
    };
    let life = spot.life.map_or(0, |_| FLAG_LIFE);
    bytes.push(FLAG_SPOT | high | life);
    bytes.extend(spot.place.to_be_bytes());
    if let Some(life) = spot.life {
        bytes.extend(life.0.to_be_bytes());
    }
}

/// Takes fields off the front of what is left.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], InvalidForward> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(InvalidForward)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, InvalidForward> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u64, InvalidForward> {
        let mut number = [0; 8];
        number.copy_from_slice(self.take(8)?);
        Ok(u64::from_be_bytes(number))
    }

    fn count(&mut self) -> Result<usize, InvalidForward> {
        let mut count = [0; 4];
        count.copy_from_slice(self.take(4)?);
        usize::try_from(u32::from_be_bytes(count)).map_err(|_| InvalidForward)
    }

    fn text(&mut self) -> Result<&'a str, InvalidForward> {
        let length = usize::from(self.byte()?) << 8 | usize::from(self.byte()?);
        text(self.take(length)?)
    }

    fn payload(&mut self) -> Result<Payload, InvalidForward> {
        let time_ms = self.number()?;
        let length = self.count()?;
        let json = text(self.take(length)?)?.into();
        Ok(Payload { time_ms, json })
    }

    fn spot(&mut self) -> Result<Option<Spot>, InvalidForward> {
        let flags = self.byte()?;
        if flags == 0 {
            return Ok(None);
        }
        if flags & FLAG_SPOT == 0 || flags > FLAG_SPOT | FLAG_HIGH | FLAG_LIFE {
            return Err(InvalidForward);
        }
        let lane = match flags & FLAG_HIGH {
            0 => Lane::Normal,
            _ => Lane::High,
        };
        let place = self.number()?;
        let life = match flags & FLAG_LIFE {
            0 => None,
            _ => Some(Life(self.number()?)),
        };
        Ok(Some(Spot { lane, place, life }))
    }

    /// A count as far as what is left can hold it, so that a lie reserves no memory.
    fn at_most(&self, count: usize, bytes_each_min: usize) -> usize {
        count.min(self.0.len() / bytes_each_min)
    }
}

fn text(bytes: &[u8]) -> Result<&str, InvalidForward> {
    std::str::from_utf8(bytes).map_err(|_| InvalidForward)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward() -> Forward {
        let spot = |lane, life| {
            Some(Spot {
                lane,
                place: 7,
                life,
            })
        };
        let recipient = |user: &str, payload, spot| Recipient {
            user: user.into(),
            payload,
            spot,
        };
        Forward {
            sender: "worker-1".into(),
            link_number: u64::MAX,
            epoch: Epoch::from_bytes([9; 20]),
            payloads: vec![
                Payload {
                    time_ms: 1,
                    json: "{\"id\":\"é\"}".into(),
                },
                Payload {
                    time_ms: 2,
                    json: "".into(),
                },
            ],
            recipients: vec![
                recipient("ann", 0, spot(Lane::Normal, Some(Life(3)))),
                recipient("ben", 1, spot(Lane::High, None)),
                recipient(&"c".repeat(128), 1, spot(Lane::High, Some(Life(u64::MAX)))),
                recipient("d", 0, None),
            ],
        }
    }

    fn messages() -> Vec<GatewayMessage> {
        let empty = Forward {
            payloads: vec![],
            recipients: vec![],
            ..forward()
        };
        let replace = Replace {
            user: "ann".into(),
            device: "phone".into(),
            number: 5,
        };
        vec![
            GatewayMessage::Forward(forward()),
            GatewayMessage::Forward(empty),
            GatewayMessage::Replace(replace),
        ]
    }

    #[test]
    fn messages_survive_their_bytes() {
        for message in messages() {
            assert_eq!(GatewayMessage::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn the_length_is_never_above_what_was_foretold() {
        let forward = forward();
        let payloads = forward.payloads.iter().map(Payload::encoded_bytes).sum();
        let recipients = forward
            .recipients
            .iter()
            .map(Recipient::encoded_bytes)
            .sum();
        let bytes = GatewayMessage::Forward(forward).encode();
        assert!(bytes.len() <= encoded_bytes(payloads, recipients));
    }

    #[test]
    fn what_is_cut_off_left_over_or_of_another_version_is_refused() {
        for message in messages() {
            let bytes = message.encode();
            for length in 0..bytes.len() {
                assert_eq!(
                    GatewayMessage::decode(&bytes.slice(..length)),
                    Err(InvalidForward)
                );
            }
            let mut longer = bytes.to_vec();
            longer.push(0);
            assert_eq!(GatewayMessage::decode(&longer.into()), Err(InvalidForward));
            let mut other = bytes.to_vec();
            other[0] = 2;
            assert_eq!(GatewayMessage::decode(&other.into()), Err(InvalidForward));
        }
        let mut outside = forward();
        outside.recipients[0].payload = 2;
        let bytes = GatewayMessage::Forward(outside).encode();
        assert_eq!(GatewayMessage::decode(&bytes), Err(InvalidForward));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(0_u8..=255, 0..200)) {
            let mut framed = vec![VERSION, KIND_FORWARD];
            framed.extend(&bytes);
            for bytes in [bytes, framed] {
                if let Ok(message) = GatewayMessage::decode(&bytes.into()) {
                    assert_eq!(GatewayMessage::decode(&message.encode()), Ok(message));
                }
            }
        }
    }
}
