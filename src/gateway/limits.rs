//! Every limit of a gateway: its value, and what happens beyond it.
//!
//! Each is counted in `catchup_limits_total{limit="…"}` when it is hit. What a setting decides
//! stands in [`GatewayLimits`]; the rest are the constants here, or beside the one place that
//! keeps them.
//!
//! | what | most | beyond it | `limit` |
//! |---|---|---|---|
//! | requests that are no sockets yet ([`REQUESTS_MAX`]) | 2,048 | the client that has been silent for longest is dropped; where all wait for the gateway, others wait in the kernel's queue | `requests` |
//! | time of a TCP connection that is no socket ([`REQUESTS_SECONDS_MAX`]) | 25 s | closed, whatever it asks | – |
//! | head of a request, time and size ([`HEAD_SECONDS_MAX`], [`HEAD_BYTES_MAX`]) | 10 s, 32 KiB | the TCP connection is closed, or 431 | `handshake` for the time |
//! | query string ([`QUERY_BYTES_MAX`]) | 16 KiB | 400 | – |
//! | admission: keys, the turn, the first page ([`ADMISSION_SECONDS_MAX`]) | 10 s | 503 / 1013 with a retry delay | `handshake` |
//! | upgrade after the answer ([`UPGRADE_SECONDS_MAX`]) | 10 s | given up | `handshake` |
//! | new sockets a second (`CATCHUP_CONNECTS_PER_SECOND`) | 500 | wait their turn for [`CONNECT_QUEUE`] (1 s), then 503 / 1013 with a retry delay of their own: no two are asked to come back at one moment | `accept_rate` |
//! | sockets of the node (`CATCHUP_MAX_CONNECTIONS`) | 50,000 | 429 / 4029 | `connections` |
//! | sockets of one user ([`USER_CONNECTIONS_MAX`]) | 32 | 429 / 4029 | `user_connections` |
//! | sockets of one peer address (`CATCHUP_MAX_CONNECTIONS_PER_ADDRESS`) | 25,000 | 429 / 4029. Generous, because behind a proxy all clients have its address; an IPv6 client counts as its /64 network | `address_connections` |
//! | devices of one user (`mailbox::DEVICES_MAX`) | 16 | the longest unseen is forgotten; if all are connected, 429 / 4029 | `devices` |
//! | mailbox reads of all sockets at one time ([`REPLAYS_MAX`]) | 64 | wait in order, as long as their socket is there: many users who return at once share Redis page by page | `replays` |
//! | a client's frames (`allowance`) | 1,000/s, 4,000 at once | 4029 | `client_frames` |
//! | a client's bytes (`allowance`) | 512 KiB/s, 2 MiB at once | 4029 | `client_frames` |
//! | one frame of a client (`protocol::CLIENT_FRAME_BYTES_MAX`) | 64 KiB | 4002 | – |
//! | messages sent and not acknowledged (`session::WINDOW_MESSAGES`) | 256 | the rest waits in the mailbox | – |
//! | forwards that wait for one socket (`registry::CONNECTION_QUEUE_MAX`) | 64 | dropped: the socket reads its mailbox | `socket_queue` |
//! | forwards held behind a missing one (`session::HELD_FORWARDS_MAX`) | 16, 75 ms | dropped: the socket reads its mailbox | – |
//! | forwards that wait for the node (`bus::connect`) | 2,048, each at most 256 KiB | dropped: all sockets compare with their mailboxes | `forward_queue` |
//! | sockets told to compare a second (`reconcile`) | 10,000 | wait | – |
//! | frames that wait to be written to one socket | those of one step, 512 KiB | nothing more is read for it | – |
//! | no progress on a socket (`outbox::NO_PROGRESS`) | 30 s | 4008 | `no_progress` |
//! | a client's answer to a close (`connection`), and the end of its TCP connection (`linger`) | 2 s, 4 MiB | its TCP connection is closed | – |
//! | key set: size, keys, fetches (`auth::key_set`, `auth::fetch`) | 256 KiB, 64, one in 5 s | the last good set stays; tokens of unknown keys wait for the next fetch | – |

use std::time::Duration;

/// Most requests that are not sockets yet, at one time; each holds about 14 KiB.
pub const REQUESTS_MAX: usize = 2_048;
/// A TCP connection that has not become a socket ends after this: it holds a place among the
/// requests. Longer than the head and the admission together.
pub const REQUESTS_SECONDS_MAX: Duration = Duration::from_secs(25);
/// A client that takes longer over the head of a request loses its connection.
pub const HEAD_SECONDS_MAX: Duration = Duration::from_secs(10);
/// Longest head of a request; a token may be 8 KiB of it.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Longest query string that is looked at; a token may be 8 KiB of it.
pub const QUERY_BYTES_MAX: usize = 16 * 1024;
/// How long letting a client in may take, with all its waits.
pub const ADMISSION_SECONDS_MAX: Duration = Duration::from_secs(10);
/// How long the upgrade may take.
pub const UPGRADE_SECONDS_MAX: Duration = Duration::from_secs(10);
/// How long a client may take to answer a close, and the socket to take it.
pub const CLOSE_SECONDS_MAX: Duration = Duration::from_secs(2);
/// How long a new socket waits for its turn.
pub const CONNECT_QUEUE: Duration = Duration::from_secs(1);
/// Most sockets of one user. More than devices, because a replaced one takes a moment to go.
pub const USER_CONNECTIONS_MAX: usize = 32;
/// Most registrations and pages that are read from mailboxes at one time. One Redis serves no more
/// at a time, and these hold at most 16 MiB.
pub const REPLAYS_MAX: usize = 64;

/// The limits that settings decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatewayLimits {
    /// Most sockets.
    pub connections_max: u32,
    /// Most sockets from one peer address.
    pub address_connections_max: u32,
    /// New sockets a second; at least 1.
    pub connects_per_second: u32,
}
