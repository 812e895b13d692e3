//! What the broker counts: one table.
//!
//! Counters only rise and are relaxed: they are for people, not for decisions. A message is never
//! discarded without a [`DropReason`]; each reason has its counter.
//!
//! What is counted for each packet is counted by a turn for itself ([`Tally`]) and added at its
//! end to a row that the thread has nearly for itself ([`Traffic`]): no two threads write to one
//! line of memory for each message.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A count that only rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The count.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value that comes and goes; none before it is set.
#[derive(Debug)]
pub struct Gauge(AtomicU64);

impl Default for Gauge {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl Gauge {
    /// It is this now.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    pub fn value(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|value| *value != u64::MAX)
    }
}

macro_rules! proofs {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// What those count who judge proofs of identity, below the broker.
        #[derive(Debug, Default)]
        pub struct Proofs {
            $($(#[doc = $doc])+ pub $name: Counter,)+
        }

        impl Proofs {
            fn rows(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($doc),+), self.$name.value()),)+]
            }
        }
    };
}

proofs! {
    /// Clients let in by a token.
    tokens_admitted,
    /// Tokens that were no good.
    tokens_refused,
    /// Times that keys of tokens were fetched.
    key_fetches,
    /// Times that they could not be.
    key_fetches_failed,
    /// Requests to callouts.
    callouts_asked,
    /// Requests that brought no answer, or none that is understood.
    callouts_failed,
    /// Clients let in by a callout, by an answer that was kept too.
    callouts_allowed,
    /// Clients refused by a callout, by an answer that was kept too.
    callouts_denied,
    /// Clients for whom an answer was kept.
    callouts_cached,
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Every counter of the broker that is not a drop.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[doc = $doc])+ pub $name: Counter,)+
            /// Whole days until the first certificate of a TLS listener expires.
            pub certificate_days_left: Gauge,
            /// What became of proofs of identity.
            pub proofs: Arc<Proofs>,
            /// What goes through connections.
            pub traffic: Traffic,
            /// Messages that a receiver did not get, by reason.
            pub drops: Drops,
        }

        impl Metrics {
            /// Each counter's name, meaning and value.
            pub fn rows(&self) -> Vec<(&'static str, &'static str, u64)> {
                let mut rows =
                    vec![$((stringify!($name), concat!($($doc),+), self.$name.value()),)+];
                rows.extend(self.proofs.rows());
                rows.extend(self.traffic.total().rows());
                rows
            }
        }
    };
}

counters! {
    /// Network Connections accepted.
    connections_opened,
    /// Network Connections ended.
    connections_closed,
    /// CONNECT packets answered with an error.
    connections_refused,
    /// CONNECT packets refused because the process has used up its memory.
    connections_refused_for_memory,
    /// Times that the process came near to its limit of memory.
    memory_limit_reached,
    /// PUBLISH packets refused, or not read on, because the process has used up its memory.
    publications_refused_for_memory,
    /// CONNECT packets refused because too many passwords, tokens or questions to a callout waited.
    passwords_not_checked,
    /// Clients that did not prove who they are: wrong passwords, and none where one is needed.
    failed_logins,
    /// Failed logins that were answered later, since there had been many from their address.
    failed_logins_delayed,
    /// Addresses and Client Identifiers banned.
    bans,
    /// Bans that have ended.
    bans_ended,
    /// Connections and Clients not let in because their address or Client Identifier is banned.
    connections_refused_banned,
    /// Connections refused because too many came in a second, by their listener or from their
    /// address.
    connections_refused_for_rate,
    /// Connections refused because there were too many at once: of their listener, of all, from
    /// their address, or of their user.
    connections_refused_too_many,
    /// Subscriptions refused because their Session has as many as it may, or the process has used
    /// up its memory.
    subscriptions_refused,
    /// Times that a Client was not read on for a while because it was too fast.
    connections_slowed,
    /// Addresses and Client Identifiers that were forgotten before their time for want of room.
    peers_forgotten,
    /// CONNECT packets received.
    connects_received,
    /// Clients let in.
    clients_connected,
    /// Clients that were let in and whose connection has ended.
    clients_disconnected,
    /// Sessions made.
    sessions_created,
    /// Sessions ended: expired, cleaned or not outliving their connection.
    sessions_ended,
    /// Sessions ended because their Session Expiry Interval had passed.
    sessions_expired,
    /// Wills published.
    wills_published,
    /// Messages that declared queues sent to their dead-letter topics.
    dead_letters,
}

/// Rows of [`Traffic`]: a thread has one of its own, but for those beyond so many, which share the
/// last.
const TRAFFIC_ROWS: usize = 17;

/// Traffic of all threads together.
#[derive(Debug, Default)]
pub struct Traffic([TrafficRow; TRAFFIC_ROWS]);

/// The row of this thread.
fn own_row() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static ROW: Cell<Option<usize>> = const { Cell::new(None) };
    }
    let next = || THREADS.fetch_add(1, Ordering::Relaxed).min(TRAFFIC_ROWS - 1);
    let row = ROW.get().unwrap_or_else(next);
    ROW.set(Some(row));
    row
}

macro_rules! traffic {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// What a turn has counted.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Tally {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        /// On a line of memory of its own, or two.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        struct TrafficRow {
            $($name: AtomicU64,)+
        }

        impl Traffic {
            /// Adds what a turn has counted, which begins anew.
            pub fn add(&self, tally: &mut Tally) {
                let Tally { $($name,)+ } = std::mem::take(tally);
                let own = own_row();
                let Some(row) = self.0.get(own) else { return };
                let is_shared = own == TRAFFIC_ROWS - 1;
                $(if $name != 0 && is_shared {
                    row.$name.fetch_add($name, Ordering::Relaxed);
                } else if $name != 0 {
                    let sum = row.$name.load(Ordering::Relaxed).wrapping_add($name);
                    row.$name.store(sum, Ordering::Relaxed);
                })+
            }

            /// The sums.
            pub fn total(&self) -> Tally {
                let mut total = Tally::default();
                for row in &self.0 {
                    $(total.$name += row.$name.load(Ordering::Relaxed);)+
                }
                total
            }
        }

        impl Tally {
            /// Each count's name, meaning and value.
            pub fn rows(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($doc),+), self.$name),)+]
            }
        }
    };
}

traffic! {
    /// MQTT Control Packets received from Clients.
    packets_received,
    /// MQTT Control Packets sent to Clients.
    packets_sent,
    /// Application Messages received from Clients.
    messages_received,
    /// Application Messages sent to Clients.
    messages_sent,
    /// Bytes of the payloads of messages received.
    payload_bytes_received,
    /// Bytes of the payloads of messages sent.
    payload_bytes_sent,
    /// Bytes received from Clients, before WebSocket and TLS.
    bytes_received,
    /// Bytes sent to Clients, before WebSocket and TLS.
    bytes_sent,
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal,)+) => {
        /// Why a receiver did not get a message. There is no drop without one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl DropReason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// As it stands in logs and metrics.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)+
                }
            }

            /// Its meaning in one sentence.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),+),)+
                }
            }
        }
    };
}

drop_reasons! {
    /// No subscription matched the topic.
    NoSubscriber = "no-subscriber",
    /// A QoS 0 message for a Session that has no connection.
    OfflineQos0 = "offline-qos0",
    /// The receiver's queue has reached its limit.
    QueueFull = "queue-full",
    /// The queues have reached the limit of memory that they share, or the process its own, and
    /// the store does not keep this message for its receiver.
    MemoryLimit = "memory-limit",
    /// The Message Expiry Interval passed before delivery began.
    Expired = "expired",
    /// Larger than the Maximum Packet Size that the receiver set.
    TooLargeForReceiver = "too-large-for-receiver",
    /// The receiver's Session ended with the message undelivered.
    SessionEnded = "session-ended",
    /// A share group has no consumer that could take a QoS 0 message.
    NoConsumer = "no-consumer",
    /// The broker did not accept it from its publisher, who was told or cut off.
    NotAccepted = "not-accepted",
    /// Its publisher may not publish it.
    PublishDenied = "publish-denied",
    /// Its receiver may not receive it.
    ReceiveDenied = "receive-denied",
    /// The receiver answered with an error code.
    Refused = "refused-by-receiver",
    /// A QoS 0 message was on its way when the connection broke.
    ConnectionLost = "connection-lost",
    /// Delivered, but not retained: the limit of retained messages is reached.
    NotRetained = "not-retained",
    /// A later message with the same key took its place in a queue that keeps only the last value.
    Superseded = "superseded",
    /// A declared queue without a dead-letter topic handed it out as often as it may.
    DeliveriesSpent = "deliveries-spent",
    /// It waited in a declared queue whose filter no longer matches its topic.
    NotInFilter = "not-in-filter",
    /// The store could not keep it; it was not acknowledged.
    NotStored = "not-stored",
    /// The store kept it and cannot read it any more: the file is damaged.
    Unreadable = "unreadable",
}

impl Metrics {
    /// All of them in the text format that Prometheus reads.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let head = |text: &mut String, name: &str, meaning: &str, kind: &str| {
            // What was a doc comment begins with a space.
            let meaning = meaning.trim();
            text.push_str(&format!("# HELP whimbrel_{name} {meaning}\n"));
            text.push_str(&format!("# TYPE whimbrel_{name} {kind}\n"));
        };
        for (name, meaning, value) in self.rows() {
            let name = format!("{name}_total");
            head(&mut text, &name, meaning, "counter");
            text.push_str(&format!("whimbrel_{name} {value}\n"));
        }
        let name = "messages_dropped_total";
        head(&mut text, name, "Messages that a receiver did not get, by reason.", "counter");
        for &reason in DropReason::ALL {
            let (label, value) = (reason.label(), self.drops.value(reason));
            text.push_str(&format!("whimbrel_{name}{{reason=\"{label}\"}} {value}\n"));
        }
        if let Some(days) = self.certificate_days_left.value() {
            let name = "certificate_days_left";
            let meaning = "Whole days until the first certificate of a TLS listener expires.";
            head(&mut text, name, meaning, "gauge");
            text.push_str(&format!("whimbrel_{name} {days}\n"));
        }
        text
    }
}

/// A counter for each [`DropReason`].
#[derive(Debug, Default)]
pub struct Drops([Counter; DropReason::ALL.len()]);

impl Drops {
    /// Counts `n` messages dropped for `reason`.
    pub fn add(&self, reason: DropReason, n: u64) {
        if let Some(counter) = self.0.get(reason as usize) {
            counter.add(n);
        }
    }

    /// How many were dropped for `reason`.
    pub fn value(&self, reason: DropReason) -> u64 {
        self.0.get(reason as usize).map_or(0, Counter::value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_of_all_threads_adds_up() {
        let traffic = Traffic::default();
        std::thread::scope(|scope| {
            for n in 0..40 {
                let traffic = &traffic;
                scope.spawn(move || {
                    let mut tally = Tally { packets_sent: 1, bytes_sent: n, ..Tally::default() };
                    traffic.add(&mut tally);
                    assert_eq!(tally, Tally::default());
                });
            }
        });
        let total = traffic.total();
        assert_eq!((total.packets_sent, total.bytes_sent), (40, 780));
        assert_eq!(total.packets_received, 0);
    }

    #[test]
    fn every_metric_is_told_with_its_kind_and_meaning() {
        let metrics = Metrics::default();
        assert!(!metrics.text().contains("certificate"));
        metrics.failed_logins.add(7);
        metrics.drops.add(DropReason::QueueFull, 3);
        metrics.certificate_days_left.set(29);
        let text = metrics.text();
        for line in [
            "# TYPE whimbrel_failed_logins_total counter\nwhimbrel_failed_logins_total 7\n",
            "whimbrel_messages_dropped_total{reason=\"queue-full\"} 3\n",
            "# TYPE whimbrel_certificate_days_left gauge\nwhimbrel_certificate_days_left 29\n",
            "whimbrel_tokens_admitted_total 0\n",
            "whimbrel_bytes_sent_total 0\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        let is_sample = |line: &&str| !line.starts_with('#');
        let is_good =
            |line: &str| line.split_once(' ').is_some_and(|(_, n)| n.parse::<u64>().is_ok());
        assert!(text.lines().filter(is_sample).all(is_good), "{text}");
    }

    #[test]
    fn every_reason_has_its_own_counter() {
        let drops = Drops::default();
        for (n, &reason) in (1..).zip(DropReason::ALL) {
            drops.add(reason, n);
        }
        let counted: Vec<u64> = DropReason::ALL.iter().map(|&r| drops.value(r)).collect();
        assert_eq!(counted, (1..=DropReason::ALL.len() as u64).collect::<Vec<_>>());
    }
}
