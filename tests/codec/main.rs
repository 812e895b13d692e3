//! The codec against itself, against every damage of a byte, and against two other codecs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod corpus;
mod differential;
mod hostile;
mod property;
mod table;
mod wide;
