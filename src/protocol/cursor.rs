//! The opaque cursor: a position, bound to one user and one device.
//!
//! Layout, before base64url without padding (RFC 4648 §5): version (1 byte), flags (1: `store_lost`
//! was told), epoch (20), life (8),
//! places normal, high, everyone's creation and sequence (8 each), time (8), owner (8); integers in
//! big-endian order.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::position::{Epoch, Everyone, Life, Places, Position};

/// Most characters a cursor may have (contract §4). Longer text is not decoded.
pub const CURSOR_CHARACTERS_MAX: usize = 200;

const VERSION: u8 = 1;
const BYTES: usize = 1 + 1 + 20 + 8 + 4 * 8 + 8 + 8;

/// A decoded cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub position: Position,
    owner: u64,
}

/// The text is not a cursor of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor: send back one that the gateway sent on this connection, unchanged")]
pub struct InvalidCursor;

impl Cursor {
    pub fn new(position: Position, user: &str, device: &str) -> Cursor {
        Cursor {
            position,
            owner: owner_hash(user, device),
        }
    }

    /// True where the cursor was made for this user's device.
    pub fn belongs_to(&self, user: &str, device: &str) -> bool {
        self.owner == owner_hash(user, device)
    }

    pub fn decode(text: &str) -> Result<Cursor, InvalidCursor> {
        if text.len() > CURSOR_CHARACTERS_MAX {
            return Err(InvalidCursor);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidCursor)?;
        let bytes: &[u8; BYTES] = bytes.as_slice().try_into().map_err(|_| InvalidCursor)?;
        if bytes[0] != VERSION || bytes[1] > 1 {
            return Err(InvalidCursor);
        }
        let mut epoch = [0; 20];
        epoch.copy_from_slice(&bytes[2..22]);
        let number = |index: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[22 + 8 * index..30 + 8 * index]);
            u64::from_be_bytes(number)
        };
        Ok(Cursor {
            position: Position {
                epoch: Epoch::from_bytes(epoch),
                life: Life(number(0)),
                places: Places {
                    own: [number(1), number(2)],
                    everyone: Everyone {
                        creation: number(3),
                        sequence: number(4),
                    },
                },
                time_ms: number(5),
                store_lost_told: bytes[1] == 1,
            },
            owner: number(6),
        })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let position = &self.position;
        let places = &position.places;
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.push(VERSION);
        bytes.push(u8::from(position.store_lost_told));
        bytes.extend_from_slice(position.epoch.as_bytes());
        for number in [
            position.life.0,
            places.own[0],
            places.own[1],
            places.everyone.creation,
            places.everyone.sequence,
            position.time_ms,
            self.owner,
        ] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        formatter.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo; RFC 9923): it keeps one device's cursor from being taken for
/// another's by mistake. It is no secret: a forged cursor only harms the forger's own mailbox.
fn owner_hash(user: &str, device: &str) -> u64 {
    let text = user.bytes().chain([0]).chain(device.bytes());
    text.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor() -> Cursor {
        let position = Position {
            epoch: Epoch::from_bytes([7; 20]),
            life: Life(u64::MAX),
            places: Places {
                own: [1, u64::MAX - 1],
                everyone: Everyone {
                    creation: 3,
                    sequence: 4,
                },
            },
            time_ms: 5,
            store_lost_told: true,
        };
        Cursor::new(position, "ann", "phone")
    }

    #[test]
    fn a_cursor_survives_its_text() {
        let text = cursor().to_string();
        assert!(text.len() <= CURSOR_CHARACTERS_MAX);
        assert!(
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        );
        assert_eq!(Cursor::decode(&text), Ok(cursor()));
    }

    #[test]
    fn a_cursor_belongs_to_one_user_and_device() {
        assert!(cursor().belongs_to("ann", "phone"));
        assert!(!cursor().belongs_to("ann", "laptop"));
        assert!(!cursor().belongs_to("annphone", ""));
    }

    #[test]
    fn junk_is_no_cursor() {
        let mut other_version = URL_SAFE_NO_PAD.decode(cursor().to_string()).unwrap();
        other_version[0] = 9;
        for junk in [
            "",
            "junk",
            "====",
            "é",
            &"A".repeat(201),
            &cursor().to_string()[1..],
            &URL_SAFE_NO_PAD.encode(other_version),
        ] {
            assert_eq!(Cursor::decode(junk), Err(InvalidCursor), "{junk}");
        }
    }
}
