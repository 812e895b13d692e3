//! For a queue that keeps only the last value of each key: which message that is.

use std::sync::Arc;

use hashbrown::HashMap;
use rustc_hash::FxHashMap;

use super::declaration::LastValue;
use crate::message::Message;

type Key = Arc<[u8]>;

/// See the head of this file.
#[derive(Debug)]
pub struct LastValues {
    rule: LastValue,
    latest: HashMap<Key, u64>,
    /// The keys of the messages in `latest`, with the priority and weight of each in the queue.
    keys: FxHashMap<u64, (Key, u8, usize)>,
}

/// A message that is in the queue and has a later one now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superseded {
    /// The message.
    pub id: u64,
    /// Its priority in the queue.
    pub priority: u8,
    /// Its weight in the queue.
    pub weight: usize,
}

impl LastValues {
    /// Nothing yet.
    pub fn new(rule: LastValue) -> Self {
        Self { rule, latest: HashMap::new(), keys: FxHashMap::default() }
    }

    /// A message has come: the one before it with the same key.
    pub fn enter(&mut self, message: &Message, priority: u8, weight: usize) -> Option<Superseded> {
        let key = Key::from(self.key(message)?);
        let id = message.id();
        self.keys.insert(id, (key.clone(), priority, weight));
        let former = self.latest.insert(key, id).filter(|&former| former != id)?;
        let (_, priority, weight) = self.keys.remove(&former)?;
        Some(Superseded { id: former, priority, weight })
    }

    /// Whether a message is the latest with its key, or has none.
    pub fn is_latest(&self, message: &Message) -> bool {
        let latest = self.key(message).and_then(|key| self.latest.get(key));
        latest.is_none_or(|&latest| latest == message.id())
    }

    /// A message is done with.
    pub fn forget(&mut self, id: u64) {
        if let Some((key, ..)) = self.keys.remove(&id)
            && self.latest.get(&key) == Some(&id)
        {
            self.latest.remove(&key);
        }
    }

    fn key<'m>(&self, message: &'m Message) -> Option<&'m [u8]> {
        match &self.rule {
            LastValue::Topic => Some(message.topic()),
            LastValue::UserProperty(name) => message.user_property(name).map(str::as_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::message;
    use super::*;
    use crate::codec::QoS;

    #[test]
    fn the_later_of_two_messages_with_a_key_is_the_latest() {
        let mut values = LastValues::new(LastValue::Topic);
        let [one, two, other] =
            [(1, "a"), (2, "a"), (3, "b")].map(|(id, t)| message(id, QoS::AtLeastOnce, t));
        assert_eq!(values.enter(&one, 0, 10), None);
        assert_eq!(values.enter(&other, 0, 20), None);
        let superseded = Superseded { id: 1, priority: 0, weight: 10 };
        assert_eq!(values.enter(&two, 0, 30), Some(superseded));
        assert!(!values.is_latest(&one) && values.is_latest(&two));
        values.forget(2);
        assert!(values.is_latest(&one));
        assert_eq!((values.latest.len(), values.keys.len()), (1, 1));
    }

    #[test]
    fn messages_without_the_user_property_have_no_key() {
        let mut values = LastValues::new(LastValue::UserProperty("device".into()));
        for id in 1..=2 {
            assert_eq!(values.enter(&message(id, QoS::AtLeastOnce, "a"), 0, 1), None);
        }
        assert!(values.keys.is_empty());
    }
}
