//! Retained messages: the last one of each topic that was published to be kept.
//!
//! A message reaches a new subscription on one way only: as it is published, or as a retained
//! message. So setting a message and resolving its routes are one step ([`Retained::publish`]),
//! making a subscription is another ([`Retained::subscribe`]), and the two exclude each other. The
//! subscription is told which messages came before it. It gets those while they are held still
//! ([`Retained::hold`]), or one of them could come after that which has replaced it.

use std::collections::BTreeMap;

use parking_lot::{RwLock, RwLockReadGuard};
use std::sync::atomic::{AtomicUsize, Ordering};
use thiserror::Error;

use crate::clock::Moment;
use crate::message::Message;
use crate::topic::TopicFilter;
use crate::topic::name_tree::{NameTree, Named};

/// Bounds of the retained messages.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Topics.
    pub messages_max: usize,
    /// Memory, in bytes.
    pub bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { messages_max: 1_000_000, bytes_max: 1 << 30 }
    }
}

/// A bound is reached; what was retained before still is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the limit of retained messages is reached")]
pub struct Full;

/// What is kept of a publisher takes memory too.
pub trait Weight {
    /// In bytes. It counts with each of its messages: any may be the last to keep it.
    fn weight(&self) -> usize;
}

/// A retained message with what is known of its coming.
#[derive(Clone, Debug)]
pub struct Kept<P> {
    /// The message.
    pub message: Message,
    /// Who published it; the default is nobody whom anything could concern.
    pub publisher: P,
    /// Its place in the order in which messages were retained.
    order: u64,
}

impl<P: Weight> Kept<P> {
    fn weight(&self) -> usize {
        self.message.weight().saturating_add(self.publisher.weight())
    }
}

impl<P> Named for Kept<P> {
    fn topic_name(&self) -> &[u8] {
        self.message.topic()
    }
}

/// Which of the messages that a filter matches are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The filter.
    pub filter: TopicFilter<'a>,
    /// What [`Retained::subscribe`] said: later messages come as they are published.
    pub until: u64,
    /// The topic after which to go on.
    pub after: Option<&'a str>,
    /// So many of them.
    pub at_most: usize,
    /// Hardly more than this, by weight, in bytes.
    pub bytes: usize,
    /// So many names are looked at, matching or not: meanwhile nobody can retain anything.
    pub looks: usize,
}

/// One page of the messages that a filter matches.
#[derive(Debug)]
pub struct Page<P> {
    /// Some of the messages, in the order of their topics.
    pub messages: Vec<Kept<P>>,
    /// Where the next page begins; `None` when this is the last.
    pub next: Option<String>,
    /// How many names were looked at.
    pub looked: usize,
}

#[derive(Debug)]
struct Table<P> {
    names: NameTree<Kept<P>>,
    /// Those that expire, by when and by their places in the order below.
    expiring: BTreeMap<(Moment, u64), Message>,
    bytes: usize,
    /// What of it is the broker's own, which the limits do not count.
    own_messages: usize,
    own_bytes: usize,
    /// How many messages have been retained.
    order: u64,
}

/// The last message of each topic.
#[derive(Debug)]
pub struct Retained<P> {
    table: RwLock<Table<P>>,
    messages_max: AtomicUsize,
    bytes_max: AtomicUsize,
}

impl<P: Clone + Default + Weight> Retained<P> {
    /// Nothing retained.
    pub fn new(limits: Limits) -> Self {
        let (messages_max, bytes_max) = (limits.messages_max.into(), limits.bytes_max.into());
        let table = Table {
            names: NameTree::default(),
            expiring: BTreeMap::new(),
            bytes: 0,
            own_messages: 0,
            own_bytes: 0,
            order: 0,
        };
        Self { table: RwLock::new(table), messages_max, bytes_max }
    }

    fn limits(&self) -> Limits {
        Limits {
            messages_max: self.messages_max.load(Ordering::Relaxed),
            bytes_max: self.bytes_max.load(Ordering::Relaxed),
        }
    }

    /// From now on the bounds are others; what is retained stays.
    pub fn set_limits(&self, limits: Limits) {
        self.messages_max.store(limits.messages_max, Ordering::Relaxed);
        self.bytes_max.store(limits.bytes_max, Ordering::Relaxed);
    }

    /// Replaces what the topic retains [MQTT-3.3.1-5]; a message without payload clears it
    /// [MQTT-3.3.1-6] and is not kept itself [MQTT-3.3.1-7].
    pub fn set(&self, message: &Message, publisher: P) -> Result<(), Full> {
        self.table.write().set(message, publisher, &self.limits())
    }

    /// As [`Retained::set`], and resolves the `routes` before anybody else can subscribe. Where
    /// there is no room, what the topic retained is no longer true and goes, unless the message
    /// `can_be_refused`.
    pub fn publish<T>(
        &self,
        message: &Message,
        publisher: P,
        can_be_refused: bool,
        routes: impl FnOnce() -> T,
    ) -> (Result<(), Full>, T) {
        let mut table = self.table.write();
        let set = table.set(message, publisher, &self.limits());
        if set.is_err() && !can_be_refused {
            table.remove(message.topic_str());
        }
        (set, routes())
    }

    /// As [`Retained::publish`], for the broker's own messages: few, and never refused.
    pub fn publish_own<T>(&self, message: &Message, routes: impl FnOnce() -> T) -> T {
        let mut table = self.table.write();
        let none = Limits { messages_max: usize::MAX, bytes_max: usize::MAX };
        let (messages, bytes) = (table.names.len(), table.bytes);
        let _ = table.set(message, P::default(), &none);
        table.own_messages = (table.own_messages + table.names.len()).saturating_sub(messages);
        table.own_bytes = (table.own_bytes + table.bytes).saturating_sub(bytes);
        routes()
    }

    /// Nothing is retained or cleared while this is held.
    pub fn hold(&self) -> Held<'_, P> {
        Held(self.table.read())
    }

    /// Makes a subscription before anything else can be retained; what it returns, and the place
    /// of the last message that came before it.
    pub fn subscribe<T>(&self, subscribe: impl FnOnce() -> T) -> (T, u64) {
        let table = self.table.read();
        (subscribe(), table.order)
    }

    /// Removes what has expired, and returns it.
    pub fn expire(&self, now: Moment) -> Vec<Message> {
        let expired = |table: &Table<P>| {
            let (&(at, _), message) = table.expiring.first_key_value()?;
            (at <= now).then(|| message.clone())
        };
        let mut removed = Vec::new();
        // The table is let go of in between: many may expire at once, and others wait for it.
        while expired(&self.table.read()).is_some() {
            let mut table = self.table.write();
            if let Some(message) = expired(&table) {
                removed.extend(table.remove(message.topic_str()));
            }
        }
        removed
    }

    /// Whether a topic retains a message.
    pub fn contains(&self, topic: &str) -> bool {
        self.table.read().names.get(topic).is_some()
    }

    /// How many topics retain a message.
    pub fn len(&self) -> usize {
        self.table.read().names.len()
    }

    /// The weight of all, in bytes.
    pub fn bytes(&self) -> usize {
        self.table.read().bytes
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What is retained, held still.
pub struct Held<'a, P>(RwLockReadGuard<'a, Table<P>>);

impl<P> Held<'_, P> {
    /// What a topic retains.
    pub fn get(&self, topic: &str) -> Option<&Kept<P>> {
        self.0.names.get(topic)
    }
}

impl<P: Clone> Held<'_, P> {
    /// A page of the messages that are wanted and have not expired. They are to be on their way
    /// before this is let go of: those that replace them follow.
    pub fn matching(&self, wanted: &Wanted<'_>, now: Moment) -> Page<P> {
        let Wanted { filter, until, after, at_most, mut bytes, looks } = *wanted;
        let (mut messages, mut left) = (Vec::new(), looks);
        let next = self.0.names.matches(filter, after, &mut left, |kept| {
            if kept.order <= until && !kept.message.is_expired(now) {
                messages.push(kept.clone());
                bytes = bytes.saturating_sub(kept.message.weight());
            }
            messages.len() < at_most && bytes > 0
        });
        Page { messages, next, looked: looks.saturating_sub(left) }
    }
}

impl<P: Weight> Table<P> {
    fn set(&mut self, message: &Message, publisher: P, limits: &Limits) -> Result<(), Full> {
        let topic = message.topic_str();
        if message.payload().is_empty() {
            self.remove(topic);
            return Ok(());
        }
        let old = self.names.get(topic).map(Kept::weight);
        let new = message.weight().saturating_add(publisher.weight());
        let bytes = self.bytes.saturating_sub(old.unwrap_or(0)).saturating_add(new);
        let messages = self.names.len().saturating_sub(self.own_messages);
        let is_more = old.is_none() && messages >= limits.messages_max;
        if is_more || bytes.saturating_sub(self.own_bytes) > limits.bytes_max {
            return Err(Full);
        }
        self.order += 1;
        let kept = Kept { message: message.clone(), publisher, order: self.order };
        if message.expires_at() != Moment::NEVER {
            self.expiring.insert((message.expires_at(), self.order), message.clone());
        }
        if let Some(former) = self.names.insert(kept) {
            self.expiring.remove(&(former.message.expires_at(), former.order));
        }
        self.bytes = bytes;
        Ok(())
    }

    fn remove(&mut self, topic: &str) -> Option<Message> {
        let kept = self.names.remove(topic)?;
        self.expiring.remove(&(kept.message.expires_at(), kept.order));
        self.bytes = self.bytes.saturating_sub(kept.weight());
        Some(kept.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Properties, QoS};
    use crate::message::Parts;

    /// A publisher of this weight.
    impl Weight for u64 {
        fn weight(&self) -> usize {
            usize::try_from(*self).unwrap()
        }
    }

    fn message(topic: &str, payload: &str, expires_at: Moment) -> Message {
        let properties = Properties::EMPTY;
        let payload = payload.as_bytes();
        let qos = QoS::AtMostOnce;
        Message::new(0, &Parts { topic, qos, retain: true, expires_at, properties, payload })
    }

    fn found(retained: &Retained<u64>, filter: &str, now: u64) -> Vec<String> {
        let filter = TopicFilter::new(filter).unwrap();
        let wanted = Wanted {
            filter,
            until: u64::MAX,
            after: None,
            at_most: 100,
            bytes: usize::MAX,
            looks: 100,
        };
        let page = retained.hold().matching(&wanted, Moment::from_unix_ms(now));
        page.messages.iter().map(|kept| kept.message.topic_str().to_owned()).collect()
    }

    #[test]
    fn an_empty_payload_clears_and_is_not_kept() {
        let retained = Retained::new(Limits::default());
        retained.set(&message("a", "x", Moment::NEVER), 0).unwrap();
        retained.set(&message("b", "", Moment::NEVER), 0).unwrap();
        assert_eq!(found(&retained, "#", 0), ["a"]);
        retained.set(&message("a", "", Moment::NEVER), 0).unwrap();
        assert!(retained.is_empty());
    }

    #[test]
    fn what_has_expired_is_not_found_and_can_be_swept() {
        let retained = Retained::new(Limits::default());
        retained.set(&message("a", "x", Moment::from_unix_ms(10)), 0).unwrap();
        retained.set(&message("b", "x", Moment::NEVER), 0).unwrap();
        assert_eq!(found(&retained, "#", 9), ["a", "b"]);
        assert_eq!(found(&retained, "#", 10), ["b"]);
        assert_eq!(retained.expire(Moment::from_unix_ms(10)).len(), 1);
        assert_eq!(retained.len(), 1);
    }

    #[test]
    fn a_full_store_of_retained_messages_still_takes_replacements() {
        let limits = Limits { messages_max: 1, bytes_max: 1 << 20 };
        let retained = Retained::new(limits);
        retained.set(&message("a", "x", Moment::NEVER), 0).unwrap();
        assert_eq!(retained.set(&message("b", "x", Moment::NEVER), 0), Err(Full));
        retained.set(&message("a", "y", Moment::NEVER), 0).unwrap();
        assert_eq!(found(&retained, "#", 0), ["a"]);
    }

    #[test]
    fn what_is_kept_of_publishers_counts() {
        let retained = Retained::new(Limits { messages_max: 9, bytes_max: 10_000 });
        let set =
            |topic, payload, weight| retained.set(&message(topic, payload, Moment::NEVER), weight);
        set("a", "x", 9_000).unwrap();
        assert_eq!(set("b", "x", 9_000), Err(Full));
        set("a", "y", 0).unwrap();
        set("b", "x", 9_000).unwrap();
        set("a", "", 9_000).unwrap();
        set("b", "", 0).unwrap();
        assert_eq!(retained.bytes(), 0);
    }

    #[test]
    fn what_is_retained_after_a_subscription_is_not_retained_for_it() {
        let retained = Retained::new(Limits::default());
        retained.set(&message("a", "x", Moment::NEVER), 0).unwrap();
        retained.set(&message("b", "x", Moment::NEVER), 0).unwrap();
        let ((), until) = retained.subscribe(|| ());
        retained.set(&message("b", "y", Moment::NEVER), 0).unwrap();
        retained.set(&message("c", "x", Moment::NEVER), 0).unwrap();
        let filter = TopicFilter::new("#").unwrap();
        let wanted = Wanted { filter, until, after: None, at_most: 9, bytes: 999, looks: 99 };
        let page = retained.hold().matching(&wanted, Moment::from_unix_ms(0));
        let topics: Vec<_> = page.messages.iter().map(|kept| kept.message.topic_str()).collect();
        assert_eq!(topics, ["a"]);
    }
}
