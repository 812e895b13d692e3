//! The broker as a black box: the real program, real sockets, raw bytes and real clients.
//!
//! A file per feature. Tests share one broker unless they need their own settings; topics and
//! Client Identifiers are made unique by the test's name. That something does *not* arrive is
//! shown by something sent later that does, never by waiting.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    missing_docs
)]

mod abuse;
mod acl;
mod broker;
mod raw;
mod service;

mod bearer;
mod bypass;
mod callouts;
mod connect;
mod durability;
mod examples;
mod flow;
mod hostile;
mod import;
mod in_place;
mod in_the_wild;
mod listeners;
mod malformed;
mod memory;
mod mosquitto;
mod passwd;
mod passwords;
mod program;
mod proxy;
mod publish;
mod queues;
mod real_clients;
mod reload;
mod retained;
mod rights;
mod scram;
mod session;
mod shared;
mod store;
mod subscribe;
mod sys;
mod tls;
mod tokens;
mod trouble;
mod users;
mod will;
