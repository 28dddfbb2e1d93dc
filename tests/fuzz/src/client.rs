//! What clients send.

use catchup::gateway::Parameters;
use catchup::protocol::{
    CLIENT_FRAME_BYTES_MAX, CURSOR_CHARACTERS_MAX, ClientFrame, Cursor, Epoch, Everyone, Life,
    Places, Position,
};

pub fn client_frame(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(frame) = ClientFrame::parse(text) else {
        return;
    };
    assert!(text.len() <= CLIENT_FRAME_BYTES_MAX);
    match frame {
        ClientFrame::Ack { cursor } => drop(Cursor::decode(&cursor)),
        ClientFrame::Token { .. } => {}
    }
}

/// A text as a cursor, and the bytes as what a cursor holds.
pub fn cursor(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(cursor) = Cursor::decode(text)
    {
        assert_eq!(cursor.to_string(), text);
    }
    let mut epoch = [0; 20];
    let length = bytes.len().min(20);
    epoch[..length].copy_from_slice(&bytes[..length]);
    let numbers = bytes[length..].chunks(8).map(|chunk| {
        let mut number = [0; 8];
        number[..chunk.len()].copy_from_slice(chunk);
        u64::from_be_bytes(number)
    });
    let mut numbers = numbers.chain(std::iter::repeat(0));
    let mut next = || numbers.next().unwrap_or_default();
    let position = Position {
        epoch: Epoch::from_bytes(epoch),
        life: Life(next()),
        places: Places {
            own: [next(), next()],
            everyone: Everyone {
                creation: next(),
                sequence: next(),
            },
        },
        time_ms: next(),
        store_lost_told: next() % 2 == 1,
    };
    let cursor = Cursor::new(position, "ann", "phone");
    let text = cursor.to_string();
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    assert!(text.len() <= CURSOR_CHARACTERS_MAX && text.bytes().all(is_allowed));
    assert_eq!(Cursor::decode(&text), Ok(cursor));
}

/// A query string; what was read of one is read the same when all of it is escaped.
pub fn query(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let parameters = Parameters::parse(text);
    if parameters.fault.is_some() {
        return;
    }
    let named = [
        ("user", &parameters.user),
        ("token", &parameters.token),
        ("device", &parameters.device),
        ("cursor", &parameters.cursor),
        ("ack", &parameters.ack),
        ("refuse", &parameters.refuse),
    ];
    let pairs = named.iter().filter_map(|(name, value)| {
        let escaped = value.as_ref()?.bytes().map(|byte| format!("%{byte:02X}"));
        Some(format!("{name}={}", escaped.collect::<String>()))
    });
    let again = Parameters::parse(&pairs.collect::<Vec<_>>().join("&"));
    if again.fault.is_none() {
        assert!(again == parameters);
    }
}
