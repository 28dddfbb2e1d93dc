//! How much one client may send.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// What may come in the long run, and at once after a pause.
#[derive(Debug)]
struct Rate {
    per_second: f64,
    burst: f64,
}

/// Frames; each may be an acknowledgement.
static FRAMES: Rate = Rate {
    per_second: 1_000.0,
    burst: 4_000.0,
};
static BYTES: Rate = Rate {
    per_second: 512.0 * 1024.0,
    burst: 2.0 * 1024.0 * 1024.0,
};

/// A token bucket.
#[derive(Debug)]
pub struct Allowance {
    rate: &'static Rate,
    left: f64,
    updated: Instant,
}

impl Allowance {
    pub fn of_frames(now: Instant) -> Allowance {
        Allowance::new(&FRAMES, now)
    }

    fn new(rate: &'static Rate, now: Instant) -> Allowance {
        Allowance {
            rate,
            left: rate.burst,
            updated: now,
        }
    }

    /// Takes some out; false where the client sends more than it may.
    pub fn take(&mut self, amount: usize, now: Instant) -> bool {
        let seconds = (now - self.updated).as_secs_f64();
        self.updated = now;
        let refilled = self.left + seconds * self.rate.per_second;
        self.left = refilled.min(self.rate.burst) - amount as f64;
        self.left >= 0.0
    }
}

/// More bytes than a client may send: the error of a read from a [`Metered`] connection.
#[derive(Debug, thiserror::Error)]
#[error("more bytes than a client may send")]
pub struct TooManyBytes;

impl TooManyBytes {
    /// True where a read failed for this reason.
    pub fn is_reason_of(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|reason| reason.is::<Self>())
    }
}

/// A client's connection. Its bytes are counted here and not by frames: fragments without end or
/// content never become a frame.
pub struct Metered {
    stream: TcpStream,
    allowance: Allowance,
}

impl Metered {
    pub fn new(stream: TcpStream) -> Metered {
        Metered {
            stream,
            allowance: Allowance::new(&BYTES, Instant::now()),
        }
    }

    /// The connection, whose bytes are counted no more.
    pub fn into_inner(self) -> TcpStream {
        self.stream
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let count = buffer.filled().len() - before;
        Poll::Ready(match self.allowance.take(count, Instant::now()) {
            true => Ok(()),
            false => Err(io::Error::other(TooManyBytes)),
        })
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_and_a_flood_does_not() {
        let now = Instant::now();
        let mut frames = Allowance::of_frames(now);
        for _ in 0..4_000 {
            assert!(frames.take(1, now));
        }
        assert!(!frames.take(1, now));
        let later = now + Duration::from_secs(10);
        assert!(frames.take(1, later));
        let mut bytes = Allowance::new(&BYTES, now);
        assert!(bytes.take(2 * 1024 * 1024, now));
        assert!(!bytes.take(1, now));
        assert!(!bytes.take(3 * 1024 * 1024, later));
    }
}
