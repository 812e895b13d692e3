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

mod bans;
pub mod bucket;
pub mod guesses;
pub mod operator;
mod recent;
pub mod seats;

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use crate::clock::Moment;
use crate::metrics::Metrics;
use crate::net::proxy::Network;
use crate::net::transport::Origin;
use bans::{Ban, Bans, Who};
use bucket::{Bucket, Rate};
use guesses::{Attempt, Guesses};
use recent::{Count, Recent};
use seats::Seats;

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
    /// What an address or a Client is banned for.
    pub offences_max: Limits,
    /// How long it is.
    pub ban: Duration,
    /// Connections of an address in a second; `None`: no limit.
    pub address_rate: Option<Rate>,
    /// Connections of an address at once; 0: no limit.
    pub address_connections_max: u32,
    /// Clients of a user at once; 0: no limit.
    pub user_connections_max: u32,
}

/// How often something is done within the window until who does it is banned; 0: it never is.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Logins from an address that fail, each with something else.
    pub failed_logins: u32,
    /// Packets and handshakes from an address that break the rules.
    pub protocol_errors: u32,
    /// Connections from an address that end.
    pub address_flaps: u32,
    /// Connections with a Client Identifier that end.
    pub client_flaps: u32,
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
            offences_max: Limits {
                // Who waits for its answers comes to 20 in a minute.
                failed_logins: 100,
                protocol_errors: 0,
                address_flaps: 0,
                client_flaps: 0,
            },
            ban: Duration::from_secs(600),
            address_rate: None,
            address_connections_max: 0,
            user_connections_max: 0,
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

/// How long the bucket of an address is remembered after its last connection, in milliseconds.
const ARRIVALS_MS: u64 = 2_000;

/// Longest part of a Client Identifier that is kept for the log, in characters.
const NAME_CHARS_MAX: usize = 64;

/// What is counted, of an address or a Client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Offence {
    FailedLogin,
    ProtocolError,
    Flap,
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FailedLogin => "failed logins",
            Self::ProtocolError => "protocol errors",
            Self::Flap => "connections that ended",
        })
    }
}

/// Who watches the door.
#[derive(Debug)]
pub struct Doorman {
    options: RwLock<Arc<Options>>,
    tables: Mutex<Tables>,
    seats: Seats,
    /// Bans in the list, so that nobody waits for a look at an empty one.
    banned: AtomicUsize,
    seed: RandomState,
}

#[derive(Debug)]
struct Tables {
    failures: Recent<Who, Count>,
    guesses: Recent<Who, Count>,
    tried: Recent<Who, Guesses>,
    errors: Recent<Who, Count>,
    flaps: Recent<Who, Count>,
    arrivals: Recent<Address, Bucket>,
    bans: Bans,
}

impl Default for Doorman {
    fn default() -> Self {
        Self::new(Options::default())
    }
}

impl Doorman {
    /// One who has seen nobody yet.
    pub fn new(options: Options) -> Self {
        let table = || Recent::new(options.tracked_max, options.window_ms());
        let bans = Bans::new(options.tracked_max);
        // A bucket that is full again is as good as a new one.
        let arrivals = Recent::new(options.tracked_max, ARRIVALS_MS);
        let [failures, guesses, errors, flaps] = std::array::from_fn(|_| table());
        let tried = Recent::new(options.tracked_max, options.window_ms());
        let tables = Tables { failures, guesses, tried, errors, flaps, arrivals, bans };
        let (banned, seed) = (AtomicUsize::new(0), RandomState::new());
        let (tables, options) = (Mutex::new(tables), RwLock::new(Arc::new(options)));
        Self { options, tables, seats: Seats::default(), banned, seed }
    }

    /// What is to be counted from now on, and how far. What was counted stays, and so do bans, but
    /// for addresses that are exempt now.
    pub fn tune(&self, options: Options) {
        let mut tables = self.tables.lock();
        let (max, span_ms) = (options.tracked_max, options.window_ms());
        let Tables { failures, guesses, tried, errors, flaps, arrivals, bans } = &mut *tables;
        [failures, guesses, errors, flaps].into_iter().for_each(|table| table.set(max, span_ms));
        tried.set(max, span_ms);
        arrivals.set(max, ARRIVALS_MS);
        bans.set_max(max);
        *self.options.write() = Arc::new(options);
    }

    fn options(&self) -> Arc<Options> {
        self.options.read().clone()
    }

    /// Of a Client Identifier.
    fn hash(&self, client_id: &str) -> u64 {
        self.seed.hash_one(client_id)
    }

    /// By what a peer is counted; `None`: it is not.
    pub fn address(&self, peer: Origin) -> Option<Address> {
        let address = peer.client_address()?.ip().to_canonical();
        let is_exempt = self.options().exempt.iter().any(|network| network.contains(address));
        (!is_exempt).then(|| address.into())
    }

    /// Whether a connection that comes from there is let in, as far as is known before it says
    /// anything.
    pub fn admits(&self, peer: Origin, now: Moment, metrics: &Metrics) -> bool {
        let rate = self.options().address_rate;
        if self.has_no_bans() && rate.is_none() {
            return true;
        }
        let Some(address) = self.address(peer) else { return true };
        let is_slow = || rate.is_none_or(|rate| self.comes_slowly(address, rate, now, metrics));
        self.is_free(address, now, metrics) && is_slow()
    }

    fn comes_slowly(&self, address: Address, rate: Rate, now: Moment, metrics: &Metrics) -> bool {
        let mut tables = self.tables.lock();
        let (bucket, forgotten) = tables.arrivals.entry(address);
        let comes_slowly = bucket.take(rate, now);
        metrics.peers_forgotten.add(forgotten as u64);
        if !comes_slowly {
            metrics.connections_refused_for_rate.increment();
            tracing::debug!(%address, "not let in: more than {rate} connections in a second");
        }
        comes_slowly
    }

    /// Whether somebody who has come in is banned by now.
    pub fn is_banned(&self, peer: Origin, now: Moment) -> bool {
        let has = |address| self.tables.lock().bans.has(Who::Address(address), now);
        !self.has_no_bans() && self.address(peer).is_some_and(has)
    }

    fn has_no_bans(&self) -> bool {
        self.banned.load(Ordering::Relaxed) == 0
    }

    fn is_free(&self, address: Address, now: Moment, metrics: &Metrics) -> bool {
        self.has_no_bans() || self.has_no_ban(Who::Address(address), now, metrics, &address)
    }

    /// Whether a Client is let in: it may have been banned, or its address, since it came.
    pub fn admits_client(
        &self,
        peer: Origin,
        client_id: &str,
        now: Moment,
        metrics: &Metrics,
    ) -> bool {
        if self.has_no_bans() {
            return true;
        }
        let who = Who::Client(self.hash(client_id));
        let address = self.address(peer);
        address.is_none_or(|address| self.is_free(address, now, metrics))
            && self.has_no_ban(who, now, metrics, &name(client_id))
    }

    fn has_no_ban(
        &self,
        who: Who,
        now: Moment,
        metrics: &Metrics,
        name: &dyn fmt::Display,
    ) -> bool {
        let is_refused = self.tables.lock().bans.refuses(who, now);
        if is_refused {
            metrics.connections_refused_banned.increment();
            tracing::debug!(who = %name, "not let in: banned");
        }
        !is_refused
    }

    /// A login from there failed; by how much the answer is to be delayed.
    pub fn login_failed(
        &self,
        peer: Origin,
        attempt: Attempt<'_>,
        now: Moment,
        metrics: &Metrics,
    ) -> Duration {
        metrics.failed_logins.increment();
        let Some(address) = self.address(peer) else { return Duration::ZERO };
        let who = Who::Address(address);
        if self.is_offence(who, attempt, metrics) {
            self.note(Offence::FailedLogin, who, now, metrics, || address.to_string());
        }
        let failures = self.failures(who, now, metrics);
        let delay = self.options().delay_of(failures);
        if !delay.is_zero() {
            metrics.failed_logins_delayed.increment();
            let window = self.options().window;
            tracing::debug!(%address, "{failures} failed logins in {window:?}: delayed {delay:?}");
            if failures == self.options().failures_free.saturating_add(1) {
                tracing::warn!(%address, "{failures} failed logins in {window:?}: slowed down");
            }
        }
        delay
    }

    /// Whether a ban may come of it: whoever shows nothing, or the same as before, guesses nothing.
    fn is_offence(&self, who: Who, attempt: Attempt<'_>, metrics: &Metrics) -> bool {
        if self.limit(Offence::FailedLogin, who) == 0 {
            return false;
        }
        let (username, password) = match attempt {
            Attempt::Silence => return false,
            Attempt::Proof => return true,
            Attempt::Guess(username, password) => (username, password),
        };
        let guess = self.seed.hash_one((username, password));
        let mut tables = self.tables.lock();
        let (tried, forgotten) = tables.tried.entry(who);
        metrics.peers_forgotten.add(forgotten as u64);
        tried.take(guess)
    }

    /// How often logins from there have failed within the window, if that matters.
    fn failures(&self, who: Who, now: Moment, metrics: &Metrics) -> u32 {
        if self.options().delay.is_zero() {
            return 0;
        }
        let mut tables = self.tables.lock();
        let (count, forgotten) = tables.failures.entry(who);
        metrics.peers_forgotten.add(forgotten as u64);
        count.note(now, self.options().window_ms())
    }

    /// Something that came from there broke the rules.
    pub fn rule_broken(&self, peer: Origin, now: Moment, metrics: &Metrics) {
        if let Some(address) = self.address(peer) {
            let who = Who::Address(address);
            self.note(Offence::ProtocolError, who, now, metrics, || address.to_string());
        }
    }

    /// The connection of a Client that had been let in has ended.
    pub fn ended(&self, peer: Origin, client_id: &str, now: Moment, metrics: &Metrics) {
        if let Some(address) = self.address(peer) {
            let who = Who::Address(address);
            self.note(Offence::Flap, who, now, metrics, || address.to_string());
        }
        let who = Who::Client(self.hash(client_id));
        self.note(Offence::Flap, who, now, metrics, || name(client_id));
    }

    /// Counts, and bans who does it too often.
    fn note(
        &self,
        offence: Offence,
        who: Who,
        now: Moment,
        metrics: &Metrics,
        name: impl FnOnce() -> String,
    ) {
        let max = self.limit(offence, who);
        if max == 0 {
            return;
        }
        let mut tables = self.tables.lock();
        let table = match offence {
            Offence::FailedLogin => &mut tables.guesses,
            Offence::ProtocolError => &mut tables.errors,
            Offence::Flap => &mut tables.flaps,
        };
        let (count, forgotten) = table.entry(who);
        let times = count.note(now, self.options().window_ms());
        metrics.peers_forgotten.add(forgotten as u64);
        if times < max || tables.bans.has(who, now) {
            return;
        }
        let name = name();
        let (ban, window) = (self.options().ban, self.options().window);
        tracing::warn!(who = %name, "banned for {ban:?}: {times} {offence} in {window:?}");
        metrics.bans.increment();
        let ended = tables.bans.add(who, name, now.after_ms(millis(ban)));
        self.banned.store(tables.bans.len(), Ordering::Relaxed);
        drop(tables);
        report_ended(&ended, "the list is full", now, metrics);
    }

    fn limit(&self, offence: Offence, who: Who) -> u32 {
        let max = self.options().offences_max;
        match (offence, who) {
            (Offence::FailedLogin, _) => max.failed_logins,
            (Offence::ProtocolError, _) => max.protocol_errors,
            (Offence::Flap, Who::Address(_)) => max.address_flaps,
            (Offence::Flap, Who::Client(_)) => max.client_flaps,
        }
    }

    /// Lets go of what does not count any more; to be called every now and then.
    pub fn expire(&self, now: Moment, metrics: &Metrics) {
        let mut tables = self.tables.lock();
        tables.failures.expire(now);
        tables.guesses.expire(now);
        tables.tried.expire(now);
        tables.errors.expire(now);
        tables.flaps.expire(now);
        tables.arrivals.expire(now);
        let ended = tables.bans.expire(now);
        self.banned.store(tables.bans.len(), Ordering::Relaxed);
        drop(tables);
        report_ended(&ended, "the list is full", now, metrics);
    }
}

/// Reports bans that have ended; `why` they did if that was before their time.
fn report_ended(ended: &[Ban], why: &str, now: Moment, metrics: &Metrics) {
    for Ban { until, name, refused } in ended {
        metrics.bans_ended.increment();
        if *until <= now {
            tracing::info!(who = %name, refused, "no longer banned");
        } else {
            tracing::warn!(who = %name, refused, "no longer banned: {why}");
        }
    }
}

/// A Client Identifier in the log.
fn name(client_id: &str) -> String {
    let shown: String = client_id.chars().take(NAME_CHARS_MAX).collect();
    let more = if shown.len() < client_id.len() { "..." } else { "" };
    format!("client {shown:?}{more}")
}

#[cfg(test)]
mod tests;
