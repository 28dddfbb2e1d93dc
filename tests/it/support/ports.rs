//! Free ports on the loopback.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range from which the kernel takes ports for outgoing connections, so that no
/// client of another test can sit on a port between its choice and its use.
const PORT_FIRST: u16 = 15_000;
const PORT_COUNT: u16 = 15_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port that nobody listens on; no other call of this process returns it. Another process
/// may still take it before it is used: whoever listens there must be checked.
pub fn free_port() -> u16 {
    for _ in 0..PORT_COUNT {
        let port = next();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port on 127.0.0.1");
}

/// `count` free ports in a row, the first of them returned.
pub fn free_ports(count: u16) -> u16 {
    let mut run = 0;
    for _ in 0..PORT_COUNT {
        let port = next();
        let is_free = TcpListener::bind(("127.0.0.1", port)).is_ok();
        run = match is_free {
            // A run may not cross the end of the range.
            true if port == PORT_FIRST => 1,
            true => run + 1,
            false => 0,
        };
        if run == count {
            return port + 1 - count;
        }
    }
    panic!("no {count} free ports in a row on 127.0.0.1");
}

fn next() -> u16 {
    // Test processes that run at the same time begin at different places.
    let start = (std::process::id() % 60) as u16 * 250;
    let offset = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(start) % PORT_COUNT;
    PORT_FIRST + offset
}
