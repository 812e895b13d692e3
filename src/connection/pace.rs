//! How fast a Client is listened to, where its listener sets a limit.
//!
//! Who is too fast loses nothing: it is not read on until it may say more, so that what it sends
//! waits in its own system at last. It is written to meanwhile, and nobody is silent whom the
//! broker does not listen to.

use super::Connection;
use crate::clock::Moment;
use crate::doorman::bucket::{Bucket, Rate};

/// Bytes read at a time from a Client with a limit: so many may be kept until it may say more.
const READ_MAX: u64 = 16 << 10;

/// The part of a second's bytes below which it does not pay to read.
const QUANTUM: u64 = 16;

/// Longest wait after which a connection looks around again, in milliseconds.
const LOOK_MS: u64 = 1000;

/// Limits of a listener for each of its connections; `None`: no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// PUBLISH packets in a second.
    pub messages: Option<Rate>,
    /// Bytes in a second, before TLS and WebSocket.
    pub bytes: Option<Rate>,
}

/// What a connection with a limit has said.
#[derive(Debug)]
pub(super) struct Pace {
    rates: Rates,
    messages: Bucket,
    bytes: Bucket,
    /// When it may say more; the beginning of time if now.
    until: Moment,
    /// Whether that is for a message which is the next packet.
    holds_message: bool,
    /// Whether the next message has been counted, and could not be taken then.
    is_counted: bool,
}

/// Whether a Client is listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ear {
    Open,
    /// Again, from now on.
    Opens,
    Shut,
}

impl Pace {
    /// None where there is no limit.
    pub fn new(rates: Rates) -> Option<Self> {
        let is_free = rates.messages.is_none() && rates.bytes.is_none();
        let (messages, bytes) = (Bucket::default(), Bucket::default());
        let until = Moment::default();
        let (holds_message, is_counted) = (false, false);
        (!is_free).then_some(Self { rates, messages, bytes, until, holds_message, is_counted })
    }

    /// Whether the Client is listened to.
    pub fn ear(&mut self, now: Moment) -> Ear {
        if self.until == Moment::default() {
            return Ear::Open;
        }
        if now < self.until {
            return Ear::Shut;
        }
        (self.until, self.holds_message) = (Moment::default(), false);
        Ear::Opens
    }

    /// Whether a message is held that is the next packet.
    pub fn holds_message(&self) -> bool {
        self.holds_message
    }

    /// Whether there is a limit of bytes.
    pub fn counts_bytes(&self) -> bool {
        self.rates.bytes.is_some()
    }

    /// Milliseconds until it is worth looking again, while the Client is not listened to.
    pub fn wait_ms(&self, now: Moment) -> Option<u64> {
        (now < self.until).then(|| self.until.since(now).min(LOOK_MS))
    }

    /// Whether another message may come; if not, the Client is not listened to for a while.
    pub fn takes_message(&mut self, now: Moment) -> bool {
        let Some(rate) = self.rates.messages else { return true };
        let takes = std::mem::take(&mut self.is_counted) || self.messages.take(rate, now);
        if !takes {
            self.holds_message = true;
            self.wait(now, self.messages.wait_ms(rate, now, 1));
        }
        takes
    }

    /// The message that has just come will come again.
    pub fn comes_again(&mut self) {
        self.is_counted = true;
    }

    /// How many bytes may be read; if none, the Client is not listened to for a while.
    pub fn readable(&mut self, now: Moment) -> Option<usize> {
        let Some(rate) = self.rates.bytes else { return Some(READ_MAX as usize) };
        let quantum = (rate.get() / QUANTUM).clamp(1, READ_MAX);
        let left = self.bytes.left(rate, now);
        if left < quantum {
            self.wait(now, self.bytes.wait_ms(rate, now, quantum));
            return None;
        }
        usize::try_from(left.min(READ_MAX)).ok()
    }

    /// So many bytes were read.
    pub fn has_read(&mut self, now: Moment, bytes: usize) {
        if let Some(rate) = self.rates.bytes {
            self.bytes.spend(rate, now, bytes as u64);
        }
    }

    fn wait(&mut self, now: Moment, ms: u64) {
        self.until = self.until.max(now.after_ms(ms.max(1)));
    }
}

impl Connection {
    /// How fast the Client may be, where there is a limit.
    #[inline]
    pub(super) fn pace(&mut self) -> Option<&mut Pace> {
        self.few.as_mut()?.pace.as_mut()
    }

    /// The Client is not listened to for a while, since it was too fast.
    #[cold]
    pub(super) fn slowed(&mut self, what: &str) {
        self.lease.broker.metrics.connections_slowed.increment();
        if let Some(few) = self.few.as_mut()
            && !std::mem::replace(&mut few.was_slowed, true)
            && let Some(parts) = self.lease.parts.as_ref()
        {
            let client = parts.session.client_id();
            tracing::info!(?client, peer = %self.peer, "slowed down: above `{what}`");
        }
    }

    /// Whether another message is too much for now.
    #[inline]
    pub(super) fn is_too_fast(&mut self, now: Moment) -> bool {
        let is_too_fast = self.pace().is_some_and(|pace| !pace.takes_message(now));
        if is_too_fast {
            self.slowed("max_message_rate");
        }
        is_too_fast
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_unix_ms(1_800_000_000_000 + ms)
    }

    #[test]
    fn messages_come_at_their_rate() {
        let mut pace = Pace::new(Rates { messages: Rate::new(10), bytes: None }).unwrap();
        assert!((0..10).all(|_| pace.takes_message(at(0))));
        assert_eq!(pace.ear(at(0)), Ear::Open);
        assert!(!pace.takes_message(at(0)));
        assert_eq!((pace.ear(at(99)), pace.wait_ms(at(0))), (Ear::Shut, Some(100)));
        assert_eq!((pace.ear(at(100)), pace.ear(at(100))), (Ear::Opens, Ear::Open));
        assert!(pace.takes_message(at(100)) && !pace.takes_message(at(100)));
        assert_eq!(pace.readable(at(100)), Some(16 << 10));
    }

    #[test]
    fn a_message_that_comes_again_is_counted_once() {
        let mut pace = Pace::new(Rates { messages: Rate::new(2), bytes: None }).unwrap();
        for _ in 0..100 {
            assert!(pace.takes_message(at(0)));
            pace.comes_again();
        }
        assert!(pace.takes_message(at(0)) && pace.takes_message(at(0)));
        assert!(!pace.takes_message(at(0)), "the third");
    }

    #[test]
    fn bytes_are_read_at_their_rate_and_in_no_crumbs() {
        let mut pace = Pace::new(Rates { messages: None, bytes: Rate::new(16_000) }).unwrap();
        let mut read = 0;
        for ms in 0..10_000 {
            if pace.ear(at(ms)) == Ear::Shut {
                continue;
            }
            if let Some(bytes) = pace.readable(at(ms)) {
                assert!(bytes >= 1000, "{bytes}");
                pace.has_read(at(ms), bytes);
                read += bytes;
            }
        }
        assert!((174_000..=176_000).contains(&read), "a second's at once, and ten more: {read}");
        // A packet that came in one piece is made up for.
        pace.has_read(at(10_000), 160_000);
        assert_eq!(pace.readable(at(10_000)), None);
        assert!(pace.wait_ms(at(10_000)).is_some_and(|ms| ms == LOOK_MS));
        assert_eq!((pace.ear(at(19_000)), pace.ear(at(21_000))), (Ear::Shut, Ear::Opens));
    }

    #[test]
    fn without_a_limit_there_is_no_pace() {
        assert!(Pace::new(Rates::default()).is_none());
    }
}
