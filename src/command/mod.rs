//! One file a subcommand.

pub mod dev;
