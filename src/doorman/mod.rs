//! Who is slowed down or kept out for what came from its address before.
//!
//! Whoever comes is counted by its address: one of IPv4, or the /64 network of one of IPv6, since
//! that is what one machine has. Where a trusted proxy says for whom it speaks, it is that one's
//! address; networks that are exempt and unix sockets are not counted.
//!
//! All tables are bounded. What they forget for want of room is counted; it is what was not heard
//! of for the longest time.
//!
//! One lock, held for a look and never across an `await`. Nothing here is asked for each packet.

mod recent;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Moment;
use crate::metrics::Metrics;
use crate::net::proxy::Network;
use crate::net::transport::Origin;
use recent::{Count, Recent};

/// Settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose addresses are not counted.
    pub exempt: Vec<Network>,
    /// Entries of each table.
    pub tracked_max: usize,
    /// Time within which what comes from one address is counted together.
    pub window: Duration,
    /// Failed logins within that time that are answered at once.
    pub failures_free: u32,
    /// By how much the next answer is delayed; for each one after it twice as much. Zero: none is.
    pub delay: Duration,
    /// The longest delay.
    pub delay_max: Duration,
}

impl Default for Options {
    fn default() -> Self {
        let loopback = ["127.0.0.0/8", "::1"];
        Self {
            exempt: loopback.into_iter().flat_map(str::parse).collect(),
            tracked_max: 65_536,
            window: Duration::from_secs(60),
            failures_free: 5,
            delay: Duration::from_millis(250),
            delay_max: Duration::from_secs(5),
        }
    }
}

impl Options {
    /// What of the settings contradicts itself.
    pub fn check(&self) -> Result<(), String> {
        if !self.delay.is_zero() && self.delay_max < self.delay {
            return Err(format!(
                "`max_failed_login_delay` ({:?}) is below `failed_login_delay` ({:?}): raise the \
                 one, lower the other, or set `failed_login_delay = 0` for no delay",
                self.delay_max, self.delay
            ));
        }
        Ok(())
    }

    fn window_ms(&self) -> u64 {
        millis(self.window)
    }

    /// By how much an answer is delayed, of so many within the window.
    fn delay_of(&self, failures: u32) -> Duration {
        match failures.saturating_sub(self.failures_free) {
            0 => Duration::ZERO,
            n => self.delay.saturating_mul(1 << (n - 1).min(20)).min(self.delay_max),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What is counted as one: an address of IPv4, or a /64 network of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(IpAddr);

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
            v4 => v4,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(v4) => v4.fmt(f),
            IpAddr::V6(v6) => write!(f, "{v6}/64"),
        }
    }
}

/// Who watches the door.
#[derive(Debug)]
pub struct Doorman {
    options: Options,
    tables: Mutex<Tables>,
}

#[derive(Debug)]
struct Tables {
    failures: Recent<Address, Count>,
}

impl Default for Doorman {
    fn default() -> Self {
        Self::new(Options::default())
    }
}

impl Doorman {
    /// One who has seen nobody yet.
    pub fn new(options: Options) -> Self {
        let failures = Recent::new(options.tracked_max, options.window_ms());
        Self { options, tables: Mutex::new(Tables { failures }) }
    }

    /// By what a peer is counted; `None`: it is not.
    pub fn address(&self, peer: Origin) -> Option<Address> {
        let address = peer.client_address()?.ip().to_canonical();
        let is_exempt = self.options.exempt.iter().any(|network| network.contains(address));
        (!is_exempt).then(|| address.into())
    }

    /// A login from there failed; by how much the answer is to be delayed.
    pub fn login_failed(&self, peer: Origin, now: Moment, metrics: &Metrics) -> Duration {
        metrics.failed_logins.increment();
        let Some(address) = self.address(peer) else { return Duration::ZERO };
        let failures = {
            let mut tables = self.tables.lock();
            let (count, forgotten) = tables.failures.entry(address);
            metrics.peers_forgotten.add(forgotten as u64);
            count.note(now, self.options.window_ms())
        };
        let delay = self.options.delay_of(failures);
        if !delay.is_zero() {
            metrics.failed_logins_delayed.increment();
            let window = self.options.window;
            tracing::debug!(%address, "{failures} failed logins in {window:?}: delayed {delay:?}");
            if failures == self.options.failures_free.saturating_add(1) {
                tracing::warn!(%address, "{failures} failed logins in {window:?}: slowed down");
            }
        }
        delay
    }

    /// Lets go of what does not count any more; to be called every now and then.
    pub fn expire(&self, now: Moment) {
        self.tables.lock().failures.expire(now);
    }
}

#[cfg(test)]
mod tests;
