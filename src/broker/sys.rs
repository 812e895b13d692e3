//! The broker speaks of itself: retained messages below `$SYS/broker/`, with mosquitto's names
//! and meanings, so that what reads mosquitto's reads these.
//!
//! They are made anew from the broker's counts every `sys_interval`, and only what has changed is
//! published. They are never stored, and Clients cannot publish among them.

use std::collections::BTreeMap;

use super::Broker;
use super::turn::Turn;
use crate::clock::Moment;
use crate::codec::{Properties, QoS};
use crate::journal::{Told, kind};
use crate::message::{Message, Parts};
use crate::metrics::DropReason;
use crate::store::Targets;

/// Whether a topic is the broker's own, so that Clients must not publish to it. Those where a
/// bridge from a mosquitto says how it fares are its own.
pub fn is_own(topic: &str) -> bool {
    let is_own = |rest: &str| rest.is_empty() || rest.starts_with('/');
    topic.strip_prefix("$SYS").is_some_and(is_own) && !is_bridge_state(topic)
}

fn is_bridge_state(topic: &str) -> bool {
    let name = topic.strip_prefix("$SYS/broker/connection/");
    let name = name.and_then(|rest| rest.strip_suffix("/state"));
    name.is_some_and(|name| !name.is_empty() && !name.contains('/'))
}

/// Memory of the process, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resident {
    /// Now.
    pub current: u64,
    /// The most so far.
    pub maximum: u64,
}

/// Counts whose rise in a minute is published as a load, by their names.
const LOADS: [&str; 8] = [
    "messages/received",
    "messages/sent",
    "publish/dropped",
    "publish/received",
    "publish/sent",
    "bytes/received",
    "bytes/sent",
    "sockets",
];

/// The one load that is not about traffic; beside [`LOADS`].
const CONNECTIONS: &str = "connections";

/// Times over which loads are averaged, in minutes.
const SPANS: [u8; 3] = [1, 5, 15];

/// An average that falls off with time, as that of Unix.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    counted: u64,
    averages: [f64; SPANS.len()],
}

impl Load {
    /// The count is this, so many seconds after it was told last.
    fn update(&mut self, count: u64, seconds: f64) {
        let risen = count.saturating_sub(std::mem::replace(&mut self.counted, count));
        let in_a_minute = risen as f64 * 60.0 / seconds;
        for (average, minutes) in self.averages.iter_mut().zip(SPANS) {
            let kept = (-seconds / (f64::from(minutes) * 60.0)).exp();
            *average = in_a_minute + kept * (*average - in_a_minute);
        }
    }
}

/// What was published so far.
#[derive(Debug)]
pub struct Sys {
    since: Moment,
    updated: Moment,
    clients_maximum: u64,
    loads: [Load; LOADS.len() + 1],
    /// By topic.
    published: BTreeMap<String, String>,
}

impl Sys {
    /// Nothing published yet by a broker that starts now.
    pub fn new(now: Moment) -> Self {
        let published = BTreeMap::new();
        Self { since: now, updated: now, clients_maximum: 0, loads: Default::default(), published }
    }

    /// Enters a value; true: it is another than before.
    fn is_news(&mut self, topic: &str, value: &str) -> bool {
        match self.published.get_mut(topic) {
            Some(former) if former == value => false,
            Some(former) => {
                value.clone_into(former);
                true
            }
            None => {
                self.published.insert(topic.into(), value.into());
                true
            }
        }
    }

    /// The averages, with their names.
    fn update_loads(&mut self, counts: [u64; LOADS.len() + 1], now: Moment) -> Vec<(String, f64)> {
        let seconds = now.since(self.updated) as f64 / 1000.0;
        let mut rows = Vec::new();
        let names = LOADS.into_iter().chain([CONNECTIONS]);
        for ((load, count), name) in self.loads.iter_mut().zip(counts).zip(names) {
            if seconds > 0.0 {
                load.update(count, seconds);
            }
            for (average, minutes) in load.averages.into_iter().zip(SPANS) {
                rows.push((format!("load/{name}/{minutes}min"), average));
            }
        }
        self.updated = now;
        rows
    }
}

impl Broker {
    /// Publishes what has changed since it was last called.
    pub fn publish_sys(&self, sys: &mut Sys, resident: Resident) {
        let now = self.now();
        let mut turn = Turn::default();
        let clients = self.registry.places.len() as u64;
        sys.clients_maximum = sys.clients_maximum.max(clients);
        let loads = sys.update_loads(self.load_counts(), now);
        let version = format!("whimbrel version {}", env!("CARGO_PKG_VERSION"));
        let uptime = format!("{} seconds", now.since(sys.since) / 1000);
        let texts = [("version", version), ("uptime", uptime)];
        let mut counts = self.sys_counts(resident);
        counts.push(("clients/maximum", sys.clients_maximum));
        counts.push(("connections/socket/count", self.metrics.connections_opened.value()));
        let texts = texts.into_iter().map(|(name, text)| (name.to_owned(), text));
        let counts = counts.into_iter().map(|(name, count)| (name.to_owned(), count.to_string()));
        let loads = loads.into_iter().map(|(name, average)| (name, format!("{average:.2}")));
        for (name, value) in texts.chain(counts).chain(loads) {
            let topic = format!("$SYS/broker/{name}");
            if sys.is_news(&topic, &value) {
                self.report(&topic, value.as_bytes(), &mut turn);
            }
        }
        self.finish(&mut turn, None);
    }

    /// Publishes lines of the log, which are not retained.
    pub fn publish_log(&self, told: impl IntoIterator<Item = Told>) {
        let mut turn = Turn::default();
        for Told { kind, line } in told {
            let letter = match kind {
                kind::ERROR => "E",
                kind::WARNING => "W",
                kind::NOTICE => "N",
                _ => "I",
            };
            let topic = format!("$SYS/broker/log/{letter}");
            let message = own_message(&topic, line.as_bytes(), false);
            let routes = self.router.routes(&topic, None);
            self.hand_on(message, Targets::new(), &routes, &mut turn);
        }
        self.finish(&mut turn, None);
    }

    fn report(&self, topic: &str, payload: &[u8], turn: &mut Turn) {
        let message = own_message(topic, payload, true);
        let routes = self.retained.publish_own(&message, || self.router.routes(topic, None));
        self.hand_on(message, Targets::new(), &routes, turn);
    }

    fn sys_counts(&self, resident: Resident) -> Vec<(&'static str, u64)> {
        let (metrics, traffic) = (&self.metrics, self.metrics.traffic.total());
        let total = self.registry.places.len() as u64;
        let left = metrics.clients_disconnected.value();
        let connected = metrics.clients_connected.value().saturating_sub(left);
        let away = total.saturating_sub(connected);
        let (stored, stored_bytes) = self.store.holds();
        let messages = stored + self.retained.len() as u64;
        let bytes = stored_bytes + self.retained.bytes() as u64;
        let (groups, shared) = self.groups.counts();
        let subscriptions = self.router.subscriptions().saturating_sub(groups as u64);
        vec![
            ("clients/total", total),
            ("clients/connected", connected),
            ("clients/active", connected),
            ("clients/disconnected", away),
            ("clients/inactive", away),
            ("clients/expired", metrics.sessions_expired.value()),
            ("messages/received", traffic.packets_received),
            ("messages/sent", traffic.packets_sent),
            ("messages/stored", messages),
            ("store/messages/count", messages),
            ("store/messages/bytes", bytes),
            ("retained messages/count", self.retained.len() as u64),
            ("subscriptions/count", subscriptions),
            ("shared_subscriptions/count", shared as u64),
            ("publish/messages/received", traffic.messages_received),
            ("publish/messages/sent", traffic.messages_sent),
            ("publish/messages/dropped", self.dropped_for_limits()),
            ("publish/bytes/received", traffic.payload_bytes_received),
            ("publish/bytes/sent", traffic.payload_bytes_sent),
            ("bytes/received", traffic.bytes_received),
            ("bytes/sent", traffic.bytes_sent),
            ("heap/current", resident.current),
            ("heap/maximum", resident.maximum),
        ]
    }

    /// In the order of [`LOADS`] and [`CONNECTIONS`].
    fn load_counts(&self) -> [u64; LOADS.len() + 1] {
        let traffic = self.metrics.traffic.total();
        [
            traffic.packets_received,
            traffic.packets_sent,
            self.dropped_for_limits(),
            traffic.messages_received,
            traffic.messages_sent,
            traffic.bytes_received,
            traffic.bytes_sent,
            self.metrics.connections_opened.value(),
            self.metrics.connects_received.value(),
        ]
    }

    /// mosquitto counts as dropped what was too much for a limit, and nothing else.
    fn dropped_for_limits(&self) -> u64 {
        let limits = [DropReason::QueueFull, DropReason::MemoryLimit];
        limits.into_iter().map(|reason| self.metrics.drops.value(reason)).sum()
    }
}

fn own_message(topic: &str, payload: &[u8], retain: bool) -> Message {
    let (qos, expires_at) = (QoS::AtMostOnce, Moment::NEVER);
    let properties = Properties::EMPTY;
    Message::new(0, &Parts { topic, qos, retain, expires_at, properties, payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_brokers_own_topics_are_its_own() {
        assert!(is_own("$SYS") && is_own("$SYS/broker/uptime") && is_own("$SYS/"));
        assert!(is_own("$SYS/broker/connection/b") && is_own("$SYS/broker/connection/b/c/state"));
        assert!(!is_own("$SYS/broker/connection/b/state"));
        assert!(!is_own("$SYSTEM") && !is_own("SYS/x") && !is_own("$sys/x"));
    }

    #[test]
    fn a_steady_load_is_reached_and_falls_off_again() {
        let mut load = Load::default();
        for n in 1..=600 {
            load.update(n * 10, 10.0);
        }
        assert!((load.averages[0] - 60.0).abs() < 0.01, "{:?}", load.averages);
        assert!((load.averages[1] - 60.0).abs() < 0.01, "{:?}", load.averages);
        load.update(6000, 60.0);
        // e to the -1 is left of it after a minute without.
        assert!((load.averages[0] - 60.0 / std::f64::consts::E).abs() < 0.01);
    }
}
