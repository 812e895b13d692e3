//! Whimbrel, an MQTT broker.
#![forbid(unsafe_code)]

pub mod access;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod codec;
pub mod config;
pub mod connection;
pub mod message;
pub mod metrics;
pub mod net;
pub mod queue;
pub mod router;
pub mod server;
pub mod session;
pub mod store;
pub mod topic;
pub mod wire;
