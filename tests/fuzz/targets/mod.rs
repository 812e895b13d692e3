//! What is fuzzed: functions over arbitrary bytes that panic when a promise does not hold.
//!
//! `tests/fuzz.sh` looks for inputs with coverage feedback; `tests/fuzz.rs` replays those that are
//! kept in `tests/data/fuzz/`, a file per target and a line per input.

pub mod corpus;
pub mod seeds;

mod codec;
mod config;
mod import;
mod proxy;
mod store;
mod token;
mod topic;
mod websocket;

/// A target's name and function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("codec", codec::run),
    ("topic", topic::run),
    ("websocket", websocket::run),
    ("proxy", proxy::run),
    ("config", config::run),
    ("store", store::run),
    ("import", import::run),
    ("token", token::run),
];
