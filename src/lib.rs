//! Whimbrel, an MQTT broker: this is the map of the house.
//!
//! # The data path
//!
//! ```text
//!            one connection's task                                 another connection's task
//! bytes -> wire::Reader     one read, many packets                  wire::Writer -> bytes
//!          codec            a borrowed view of a packet             one write a turn ^
//!          session          the rules; returns an Action                             |
//!          broker::publish  routes, retained, the store's changes   session::deliver |
//!          broker::turn     store first, then one push and one      windows, identifiers
//!             |             bell for each receiver ---------------> mailbox: queue, bell
//!             v
//!          store::committer one fsync for all that wait
//!             |
//!             +-> mail: the ticket is durable -> session::poll_answer -> PUBACK
//! ```
//!
//! # The laws
//!
//! 1. The modules below stand bottom first, and that order is the law: a module names only
//!    modules above its own line. `tests/tidy.rs` checks it.
//! 2. `topic`, `codec`, `message`, `queue` and `session` are pure: no runtime, lock, clock, log,
//!    randomness or file. Time comes in as an argument, what they want leaves as a value.
//! 3. Each package has one home: redb in `store`, rustls and tungstenite in `net`.
//! 4. Nothing reads configuration but `config`; every room has `Options` of plain values.
//! 5. An acknowledgement is an answer: it leaves when the broker says so, and for what must
//!    survive the broker says so only from the store's commit. See the tickets of [`session`].
//! 6. The protocol version is data: one codec and one session for 3.1, 3.1.1 and 5.0.
//! 7. A rule that is judged from the packet alone lives in `codec`; one that needs this Client's
//!    state in `session`; anything else in `broker`.
//! 8. No drop without a [`metrics::DropReason`].
//!
//! # Where the house departs from its first drawing
//!
//! * A Session returns one [`session::Action`] for a packet and writes its own answers, instead of
//!   queueing outputs: the hot path borrows the packet from the read buffer to the end.
//! * What is in flight is in the hands of its consumer, not of the queue: a Session's window
//!   bounds it, so a queue counts only what is ready.
#![forbid(unsafe_code)]

pub mod metrics;
pub mod clock;
pub mod process;
pub mod journal;
pub mod net;
pub mod doorman;
pub mod topic;
pub mod codec;
pub mod message;
pub mod wire;
pub mod queue;
pub mod session;
pub mod router;
pub mod store;
pub mod access;
pub mod broker;
pub mod import;
pub mod connection;
pub mod control;
pub mod config;
pub mod server;
pub mod cli;
