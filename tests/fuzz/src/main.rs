//! One libFuzzer program for all targets: `FUZZ_TARGET` says which. See `scripts/fuzz`.
//!
//! A target panics where a promise of the code breaks: it reads or refuses any bytes without a
//! panic, what it read it writes back the same, limits hold, and errors show no secret.

#![no_main]

mod bus;
mod client;
mod configuration;
mod publisher;
mod store;
mod tokens;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

/// The targets, each with a folder of the same name in `seeds`.
const TARGETS: [(&str, fn(&[u8])); 10] = [
    ("event", publisher::event),
    ("subject", publisher::subject),
    ("client_frame", client::client_frame),
    ("cursor", client::cursor),
    ("query", client::query),
    ("token", tokens::token),
    ("key_set", tokens::key_set),
    ("bus", bus::bus),
    ("store", store::store),
    ("configuration", configuration::configuration),
];

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.iter().find(|target| target.0 == name);
    let names: Vec<&str> = TARGETS.iter().map(|target| target.0).collect();
    found
        .unwrap_or_else(|| panic!("FUZZ_TARGET must be one of {}", names.join(", ")))
        .1
});

fuzz_target!(|bytes: &[u8]| TARGET(bytes));
