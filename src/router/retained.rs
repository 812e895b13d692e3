//! Retained messages: the last one of each topic that was published to be kept.

use parking_lot::RwLock;
use thiserror::Error;

use crate::clock::Moment;
use crate::message::Message;
use crate::topic::TopicFilter;
use crate::topic::name_tree::NameTree;

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

/// Names that one look at the tree passes over at most, so that nobody waits long for the lock.
const LOOKS_MAX: usize = 10_000;

/// One page of the messages that a filter matches.
#[derive(Debug, Default)]
pub struct Page {
    /// Some of the messages, in the order of their topics.
    pub messages: Vec<Message>,
    /// Where the next page begins; `None` when this is the last.
    pub next: Option<String>,
}

#[derive(Debug, Default)]
struct Kept {
    names: NameTree<Message>,
    bytes: usize,
}

/// The last message of each topic.
#[derive(Debug)]
pub struct Retained {
    kept: RwLock<Kept>,
    limits: Limits,
}

impl Retained {
    /// Nothing retained.
    pub fn new(limits: Limits) -> Self {
        Self { kept: RwLock::default(), limits }
    }

    /// Replaces what the topic retains [MQTT-3.3.1-5]; a message without payload clears it
    /// [MQTT-3.3.1-6] and is not kept itself [MQTT-3.3.1-7].
    pub fn set(&self, message: &Message) -> Result<(), Full> {
        let mut kept = self.kept.write();
        if message.payload().is_empty() {
            if let Some(old) = kept.names.remove(message.topic_str()) {
                kept.bytes = kept.bytes.saturating_sub(old.weight());
            }
            return Ok(());
        }
        let old = kept.names.get(message.topic_str()).map(Message::weight);
        let bytes = kept.bytes.saturating_sub(old.unwrap_or(0)).saturating_add(message.weight());
        let is_more = old.is_none() && kept.names.len() >= self.limits.messages_max;
        if is_more || bytes > self.limits.bytes_max {
            return Err(Full);
        }
        kept.names.insert(message.topic_str(), message.clone());
        kept.bytes = bytes;
        Ok(())
    }

    /// A page of the messages that match and have not expired, of `at_most` messages that weigh
    /// hardly more than `bytes`, beginning after the topic where the last page ended.
    pub fn matching(
        &self,
        filter: TopicFilter<'_>,
        after: Option<&str>,
        at_most: usize,
        mut bytes: usize,
        now: Moment,
    ) -> Page {
        let mut messages = Vec::new();
        let kept = self.kept.read();
        let next = kept.names.matches(filter, after, LOOKS_MAX, |message| {
            if !message.is_expired(now) {
                messages.push(message.clone());
                bytes = bytes.saturating_sub(message.weight());
            }
            messages.len() < at_most && bytes > 0
        });
        Page { messages, next }
    }

    /// Removes what has expired, and returns it.
    pub fn expire(&self, now: Moment) -> Vec<Message> {
        let expired: Vec<Message> = {
            let kept = self.kept.read();
            kept.names.values().filter(|message| message.is_expired(now)).cloned().collect()
        };
        let mut kept = self.kept.write();
        let mut removed = Vec::new();
        for message in expired {
            // It may have been replaced since.
            let topic = message.topic_str();
            if kept.names.get(topic).is_some_and(|held| held.is_expired(now))
                && let Some(old) = kept.names.remove(topic)
            {
                kept.bytes = kept.bytes.saturating_sub(old.weight());
                removed.push(old);
            }
        }
        removed
    }

    /// Whether a topic retains a message.
    pub fn contains(&self, topic: &str) -> bool {
        self.kept.read().names.get(topic).is_some()
    }

    /// How many topics retain a message.
    pub fn len(&self) -> usize {
        self.kept.read().names.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Properties, QoS};
    use crate::message::Parts;

    fn message(topic: &str, payload: &str, expires_at: Moment) -> Message {
        let properties = Properties::EMPTY;
        let payload = payload.as_bytes();
        let qos = QoS::AtMostOnce;
        Message::new(0, &Parts { topic, qos, retain: true, expires_at, properties, payload })
    }

    fn found(retained: &Retained, filter: &str, now: u64) -> Vec<String> {
        let filter = TopicFilter::new(filter).unwrap();
        let page = retained.matching(filter, None, 100, usize::MAX, Moment::from_unix_ms(now));
        page.messages.iter().map(|m| m.topic_str().to_owned()).collect()
    }

    #[test]
    fn an_empty_payload_clears_and_is_not_kept() {
        let retained = Retained::new(Limits::default());
        retained.set(&message("a", "x", Moment::NEVER)).unwrap();
        retained.set(&message("b", "", Moment::NEVER)).unwrap();
        assert_eq!(found(&retained, "#", 0), ["a"]);
        retained.set(&message("a", "", Moment::NEVER)).unwrap();
        assert!(retained.is_empty());
    }

    #[test]
    fn what_has_expired_is_not_found_and_can_be_swept() {
        let retained = Retained::new(Limits::default());
        retained.set(&message("a", "x", Moment::from_unix_ms(10))).unwrap();
        retained.set(&message("b", "x", Moment::NEVER)).unwrap();
        assert_eq!(found(&retained, "#", 9), ["a", "b"]);
        assert_eq!(found(&retained, "#", 10), ["b"]);
        assert_eq!(retained.expire(Moment::from_unix_ms(10)).len(), 1);
        assert_eq!(retained.len(), 1);
    }

    #[test]
    fn a_full_store_of_retained_messages_still_takes_replacements() {
        let limits = Limits { messages_max: 1, bytes_max: 1 << 20 };
        let retained = Retained::new(limits);
        retained.set(&message("a", "x", Moment::NEVER)).unwrap();
        assert_eq!(retained.set(&message("b", "x", Moment::NEVER)), Err(Full));
        retained.set(&message("a", "y", Moment::NEVER)).unwrap();
        assert_eq!(found(&retained, "#", 0), ["a"]);
    }
}
