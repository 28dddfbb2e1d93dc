//! Free ports on the loopback.

use std::net::TcpListener;
use std::sync::{LazyLock, Mutex};

/// Below the range from which the kernel takes ports for outgoing connections, so that no
/// client can sit on a port between its choice and its use.
const PORT_FIRST: u16 = 15_000;
/// Each test process has a block of its own, so that two at the same time do not meet.
const BLOCK_PORTS: u16 = 1_500;
const BLOCKS: u16 = 10;

/// The block's first port is never given out: listening on it makes the block this process's.
struct Block {
    guard: u16,
    _listener: TcpListener,
    /// Offset of the next candidate.
    next: Mutex<u16>,
}

static BLOCK: LazyLock<Block> = LazyLock::new(|| {
    let guards = (0..BLOCKS).map(|block| PORT_FIRST + block * BLOCK_PORTS);
    let mut blocks = guards.filter_map(|guard| {
        let listener = TcpListener::bind(("127.0.0.1", guard)).ok()?;
        Some(Block {
            guard,
            _listener: listener,
            next: Mutex::new(0),
        })
    });
    blocks
        .next()
        .expect("fewer than ten test processes at once")
});

/// A port that nobody listens on. Whoever is to listen there must still be checked.
pub fn free_port() -> u16 {
    free_ports(1)
}

/// `count` free ports in a row, the first of them returned.
pub fn free_ports(count: u16) -> u16 {
    // One caller at a time, or their runs would interleave.
    let mut next = BLOCK.next.lock().expect("not poisoned");
    let mut run = 0;
    for _ in 0..2 * BLOCK_PORTS {
        let offset = *next;
        *next = (*next + 1) % (BLOCK_PORTS - 1);
        let port = BLOCK.guard + 1 + offset;
        let is_free = TcpListener::bind(("127.0.0.1", port)).is_ok();
        run = match is_free {
            // A run may not cross the end of the block.
            true if offset == 0 => 1,
            true => run + 1,
            false => 0,
        };
        if run == count {
            return port + 1 - count;
        }
    }
    panic!("no {count} free ports in a row on 127.0.0.1");
}
