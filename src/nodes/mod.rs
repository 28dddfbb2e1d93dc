//! Who is alive, and who owns what: leases of gateways, heartbeats of workers.

mod directory;
pub mod fleet;
pub mod lease;

pub use directory::Directory;
