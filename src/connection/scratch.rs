//! What a turn needs and an idle connection does not: one set for each thread.

use std::cell::Cell;
use std::collections::VecDeque;
use std::num::NonZeroU8;

use crate::broker::mailbox::Mail;
use crate::broker::turn::Turn;
use crate::message::output::Output;
use crate::queue::Delivery;

/// Bytes read at a time. Larger packets get a buffer of their own. Payloads are often a power of
/// two: with their headers some of them fit, where 128 KiB would cut the last one short each time
/// (CPU time of 64 KiB messages: 0.88, of 16 KiB: 0.95).
const INPUT_BYTES: usize = 144 << 10;

/// Bytes that the buffer for output begins with.
const OUTPUT_BYTES: usize = 64 << 10;

/// The set.
pub struct Scratch {
    /// Where reads go.
    pub input: Vec<u8>,
    /// Where packets are encoded to.
    pub output: Option<Box<Output>>,
    /// Mail taken.
    pub mail: Vec<Mail>,
    /// Deliveries taken.
    pub deliveries: VecDeque<Delivery>,
    /// What goes to the broker.
    pub turn: Turn,
    /// How many times a connection of the thread was read; it wraps, and is never 0.
    pub reads: NonZeroU8,
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            input: vec![0; INPUT_BYTES],
            output: Some(Box::new(Output::with_capacity(OUTPUT_BYTES))),
            mail: Vec::new(),
            deliveries: VecDeque::new(),
            turn: Turn::default(),
            reads: NonZeroU8::MIN,
        }
    }
}

impl Scratch {
    /// Lends the thread's set to `turns`.
    pub fn lend<T>(turns: impl FnOnce(&mut Self) -> T) -> T {
        let mut scratch = SCRATCH.take().unwrap_or_default();
        let result = turns(&mut scratch);
        SCRATCH.set(Some(scratch));
        result
    }
}
