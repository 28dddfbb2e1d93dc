//! What other processes send over NATS, and what its streams hold.

use bytes::Bytes;
use catchup::bus::{Broadcast, GatewayMessage, StoredMessage, judge};
use catchup::protocol::EventKey;

pub fn bus(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(message) = GatewayMessage::decode(&bytes) {
        let encoded = message.encode();
        // The flags of a spot may be written in two ways; what they mean is the same.
        assert_eq!(GatewayMessage::decode(&encoded), Ok(message));
    }
    if let Ok(broadcast) = Broadcast::decode(&bytes) {
        let encoded = broadcast.encode().expect("its message is JSON");
        assert_eq!(Broadcast::decode(&encoded), Ok(broadcast));
    }
    if let Ok(text) = std::str::from_utf8(&bytes)
        && let Ok(key) = text.parse::<EventKey>()
    {
        assert_eq!(key.to_string(), text.to_ascii_lowercase());
    }
    let (subject, headers) = bytes.split_at(bytes.len().min(8));
    let stored = StoredMessage {
        sequence: 1,
        time_ms: 0,
        subject: String::from_utf8_lossy(subject).into_owned(),
        is_subject_utf8: std::str::from_utf8(subject).is_ok(),
        headers: headers.to_vec(),
        data: Vec::new(),
    };
    // It says whether the client library would panic on it.
    let _: Result<(), _> = judge(&stored);
}
