//! The end of a socket's TCP connection.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};

use super::websocket::Socket;

/// Most bytes that are read and thrown away; a peer that sends more is not waiting for an answer.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// Read at one time.
const CHUNK_BYTES: usize = 4 * 1024;

/// Ends this side, and reads on until the peer has ended its own, at most until `until`.
///
/// A TCP connection that is dropped with bytes unread is reset, and a reset may take from the peer
/// what it has not read yet: the close frame that says why (RFC 6455 §7.1.1).
pub async fn linger(socket: Socket, until: Instant) {
    let mut stream = socket.into_inner().into_inner();
    let ending = async {
        stream.shutdown().await?;
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut count = 0;
        while count < BYTES_MAX {
            match stream.read(&mut chunk).await? {
                0 => break,
                read => count += read,
            }
        }
        Ok::<_, std::io::Error>(())
    };
    // A peer that is gone, or does not end, has heard what it will hear.
    let _ = timeout_at(until, ending).await;
}
