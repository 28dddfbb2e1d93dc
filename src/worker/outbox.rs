//! From a batch to the gateways: who gets what, as one message a gateway.

use std::collections::HashMap;

use crate::bus::{Payload, Recipient, Spot, encoded_bytes};
use crate::event::UserId;
use crate::mailbox::Connection;

/// Most recipients of one forward.
const RECIPIENTS_MAX: usize = 2_000;
/// Most bytes of one forward, unless one message alone is larger.
const FORWARD_BYTES_MAX: usize = 256 * 1024;

/// The forwards of one batch, grouped by the gateway processes that hold the recipients.
pub(super) struct Outbox {
    /// By node and incarnation; few, so they are searched one by one below a node.
    parcels: HashMap<String, Vec<Parcel>>,
    forward_bytes_max: usize,
    event: usize,
    recipient: usize,
}

/// What goes to one gateway process.
struct Parcel {
    incarnation: String,
    sealed: Vec<Content>,
    open: Content,
    /// The event whose payload is the last of `open`, and the recipient that was added last.
    event: Option<usize>,
    recipient: usize,
}

/// The payloads and recipients of one forward.
#[derive(Default)]
pub(super) struct Content {
    pub payloads: Vec<Payload>,
    pub recipients: Vec<Recipient>,
    payload_bytes: usize,
    recipient_bytes: usize,
}

impl Outbox {
    /// `max_payload` is the server's limit on one message, in bytes.
    pub fn new(max_payload: usize) -> Outbox {
        Outbox {
            parcels: HashMap::new(),
            forward_bytes_max: FORWARD_BYTES_MAX.min(max_payload),
            event: 0,
            recipient: 0,
        }
    }

    /// Adds a user who gets the current event's payload, once for each gateway process that holds
    /// any of the user's connections.
    pub fn add(
        &mut self,
        payload: &Payload,
        user: &UserId,
        connections: &[Connection],
        spot: Option<Spot>,
    ) {
        self.recipient += 1;
        for connection in connections {
            if !self.parcels.contains_key(&connection.node) {
                self.parcels.insert(connection.node.clone(), Vec::new());
            }
            let Some(parcels) = self.parcels.get_mut(&connection.node) else {
                continue;
            };
            let of_process = |parcel: &Parcel| parcel.incarnation == connection.incarnation;
            let index = parcels.iter().position(of_process).unwrap_or_else(|| {
                parcels.push(Parcel::new(&connection.incarnation));
                parcels.len() - 1
            });
            let parcel = &mut parcels[index];
            if parcel.recipient != self.recipient {
                parcel.recipient = self.recipient;
                parcel.add(self.event, payload, user, spot, self.forward_bytes_max);
            }
        }
    }

    /// What is added from here on belongs to the next event.
    pub fn end_of_event(&mut self) {
        self.event += 1;
    }

    /// What goes to each gateway process, by node and incarnation; never empty.
    pub fn into_parcels(self) -> impl Iterator<Item = (String, String, Vec<Content>)> {
        self.parcels.into_iter().flat_map(|(node, parcels)| {
            parcels.into_iter().map(move |parcel| {
                let mut contents = parcel.sealed;
                contents.push(parcel.open);
                (node.clone(), parcel.incarnation, contents)
            })
        })
    }
}

impl Parcel {
    fn new(incarnation: &str) -> Parcel {
        Parcel {
            incarnation: incarnation.to_owned(),
            sealed: Vec::new(),
            open: Content::default(),
            event: None,
            recipient: 0,
        }
    }

    fn add(
        &mut self,
        event: usize,
        payload: &Payload,
        user: &UserId,
        spot: Option<Spot>,
        bytes_max: usize,
    ) {
        let mut recipient = Recipient {
            user: user.shared(),
            payload: 0,
            spot,
        };
        let content = &self.open;
        let payload_bytes = match self.event == Some(event) {
            true => 0,
            false => payload.encoded_bytes(),
        };
        let bytes = encoded_bytes(
            content.payload_bytes + payload_bytes,
            content.recipient_bytes + recipient.encoded_bytes(),
        );
        let is_full = content.recipients.len() == RECIPIENTS_MAX || bytes > bytes_max;
        if is_full && !content.recipients.is_empty() {
            self.sealed.push(std::mem::take(&mut self.open));
            self.event = None;
        }
        let content = &mut self.open;
        if self.event != Some(event) {
            self.event = Some(event);
            content.payload_bytes += payload.encoded_bytes();
            content.payloads.push(payload.clone());
        }
        // There are at most as many payloads as recipients.
        recipient.payload = u32::try_from(content.payloads.len() - 1).unwrap_or(u32::MAX);
        content.recipient_bytes += recipient.encoded_bytes();
        content.recipients.push(recipient);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Lane;

    fn connection(node: &str, device: &str) -> Connection {
        Connection {
            device: device.into(),
            node: node.into(),
            incarnation: format!("{node}-1"),
            number: 1,
            order: 1,
        }
    }

    fn payload(bytes: usize) -> Payload {
        Payload {
            time_ms: 1,
            json: "x".repeat(bytes).into(),
        }
    }

    fn user(index: usize) -> UserId {
        UserId::parse(&format!("user-{index}")).unwrap()
    }

    fn spot(place: u64) -> Option<Spot> {
        Some(Spot {
            lane: Lane::Normal,
            place,
            life: None,
        })
    }

    fn contents<'a>(outbox: &'a Outbox, node: &str) -> Vec<&'a Content> {
        let parcel = &outbox.parcels[node][0];
        parcel.sealed.iter().chain([&parcel.open]).collect()
    }

    #[test]
    fn a_payload_goes_once_and_a_user_once_a_node() {
        let mut outbox = Outbox::new(1024 * 1024);
        let both = [
            connection("a", "1"),
            connection("b", "2"),
            connection("a", "3"),
        ];
        outbox.add(&payload(10), &user(1), &both, spot(1));
        outbox.add(&payload(10), &user(2), &both[..1], spot(1));
        outbox.end_of_event();
        outbox.add(&payload(20), &user(1), &both[..1], spot(2));
        outbox.end_of_event();
        let [content] = contents(&outbox, "a")[..] else {
            panic!("one forward a node");
        };
        let indexes: Vec<u32> = content.recipients.iter().map(|it| it.payload).collect();
        assert_eq!(indexes, [0, 0, 1]);
        assert_eq!(content.payloads.len(), 2);
        assert_eq!(contents(&outbox, "b")[0].recipients.len(), 1);
    }

    #[test]
    fn forwards_are_split_at_their_limits_and_keep_the_order() {
        let mut outbox = Outbox::new(1024 * 1024);
        let here = [connection("a", "1")];
        for index in 0..2 * RECIPIENTS_MAX + 1 {
            outbox.add(&payload(100), &user(index), &here, spot(index as u64));
        }
        outbox.end_of_event();
        for _ in 0..4 {
            outbox.add(&payload(100_000), &user(0), &here, None);
            outbox.end_of_event();
        }
        let contents = contents(&outbox, "a");
        let recipients: Vec<usize> = contents.iter().map(|it| it.recipients.len()).collect();
        assert_eq!(recipients, [RECIPIENTS_MAX, RECIPIENTS_MAX, 3, 2]);
        for content in &contents {
            let bytes = encoded_bytes(content.payload_bytes, content.recipient_bytes);
            assert!(bytes <= FORWARD_BYTES_MAX);
            for recipient in &content.recipients {
                assert!((recipient.payload as usize) < content.payloads.len());
            }
        }
        let places = contents.iter().flat_map(|content| &content.recipients);
        let places: Vec<u64> = places.filter_map(|it| Some(it.spot?.place)).collect();
        assert!(places.is_sorted());
    }

    #[test]
    fn a_server_with_small_messages_gets_small_forwards() {
        let mut outbox = Outbox::new(4_096);
        let here = [connection("a", "1")];
        for index in 0..100 {
            outbox.add(&payload(1_000), &user(index), &here, spot(1));
        }
        let contents = contents(&outbox, "a");
        assert!(contents.len() > 1);
        for content in contents {
            assert!(encoded_bytes(content.payload_bytes, content.recipient_bytes) <= 4_096);
        }
    }
}
