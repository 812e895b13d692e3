//! The Topic Filters that a Session holds, as its part of the Session State. Matching is the
//! router's business; this is the list to be kept, restored and ended.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use hashbrown::HashMap;

use crate::codec::{SubscriptionOptions, Version};

/// What was asked for with a Topic Filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Maximum QoS, No Local, Retain As Published, Retain Handling.
    pub options: SubscriptionOptions,
    /// The Subscription Identifier.
    pub id: Option<NonZeroU32>,
}

/// It must fit a Variable Byte Integer (section 3.8.2.1.2).
const SUBSCRIPTION_ID_MAX: u32 = 268_435_455;

impl Subscription {
    /// As the store keeps it: options byte as on the wire, identifier u32 little-endian (0: none).
    pub fn encode(&self) -> Box<[u8]> {
        let options = self.options.as_u8();
        let id = self.id.map_or(0, NonZeroU32::get).to_le_bytes();
        Box::new([options, id[0], id[1], id[2], id[3]])
    }

    /// What [`Subscription::encode`] wrote; `None` when the bytes are something else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let &[options, a, b, c, d] = bytes else { return None };
        let id = u32::from_le_bytes([a, b, c, d]);
        let options = SubscriptionOptions::from_u8(options, Version::V5).ok()?;
        (id <= SUBSCRIPTION_ID_MAX).then_some(Self { options, id: NonZeroU32::new(id) })
    }
}

/// The Topic Filters of one Session, whole as subscribed (`$share/...` included).
#[derive(Debug)]
pub enum Subscriptions {
    /// Looked through from end to end: most Sessions have one or two.
    Few(Vec<(Box<str>, Subscription)>),
    /// The Client chooses them, so they are hashed with a random seed: it must not know which
    /// ones collide.
    Many(Box<HashMap<Box<str>, Subscription>>),
}

impl Default for Subscriptions {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

/// More than this are hashed.
const FEW: usize = 8;

impl Subscriptions {
    /// Notes a subscription; true: it replaces one with the same filter [MQTT-3.8.4-3].
    pub fn insert(&mut self, filter: &str, subscription: Subscription) -> bool {
        if let Self::Few(few) = self {
            if let Some((_, held)) = few.iter_mut().find(|(held, _)| **held == *filter) {
                *held = subscription;
                return true;
            }
            if few.len() < FEW {
                few.reserve_exact(1);
                few.push((filter.into(), subscription));
                return false;
            }
            *self = Self::Many(Box::new(few.drain(..).collect()));
        }
        match self {
            Self::Many(many) => many.insert(filter.into(), subscription).is_some(),
            Self::Few(_) => false,
        }
    }

    /// Forgets a subscription; false when there is none.
    pub fn remove(&mut self, filter: &str) -> bool {
        match self {
            Self::Few(few) => {
                let at = few.iter().position(|(held, _)| **held == *filter);
                at.map(|at| few.swap_remove(at)).is_some()
            }
            Self::Many(many) => {
                let existed = many.remove(filter).is_some();
                if many.is_empty() {
                    *self = Self::default();
                }
                existed
            }
        }
    }

    /// What was asked for with this filter.
    pub fn get(&self, filter: &str) -> Option<&Subscription> {
        match self {
            Self::Few(few) => few.iter().find(|(held, _)| **held == *filter).map(|(_, held)| held),
            Self::Many(many) => many.get(filter),
        }
    }

    /// Whether the filter is subscribed to.
    pub fn contains(&self, filter: &str) -> bool {
        self.get(filter).is_some()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Each filter and what was asked for.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Subscription)> {
        let (few, many) = match self {
            Self::Few(few) => (Some(few), None),
            Self::Many(many) => (None, Some(many)),
        };
        let few = few.into_iter().flatten().map(|(filter, held)| (&**filter, held));
        few.chain(many.into_iter().flat_map(|many| many.iter()).map(|(f, held)| (&**f, held)))
    }
}

/// Subscriptions whose retained messages have not all been handed over.
#[derive(Debug, Default)]
pub struct RetainedDue(Option<Box<DueAndAgain>>);

#[derive(Debug, Default)]
struct DueAndAgain {
    due: VecDeque<Due>,
    /// Those that have not begun, and how often they were made again meanwhile: a Client that
    /// repeats a subscription a million times has one entry here.
    fresh: HashMap<Box<str>, Again>,
}

/// Repetitions of a subscription, each of which brings everything again [MQTT-3.8.4-4].
#[derive(Clone, Copy, Debug)]
struct Again {
    times: usize,
    until: u64,
}

/// One of them.
#[derive(Debug)]
pub struct Due {
    /// The Topic Filter.
    pub filter: Box<str>,
    /// The topic after which it goes on; `None` at the beginning.
    pub after: Option<String>,
    /// The last message that counts as retained for it: the later ones it gets as they come.
    pub until: u64,
    /// What follows; `None` until it begins, when `fresh` hands it over.
    again: Option<Again>,
}

impl RetainedDue {
    /// Adds a subscription.
    pub fn push(&mut self, filter: &str, until: u64) {
        let DueAndAgain { due, fresh } = &mut **self.0.get_or_insert_default();
        if let Some(again) = fresh.get_mut(filter) {
            *again = Again { times: again.times + 1, until };
            return;
        }
        fresh.insert(filter.into(), Again { times: 0, until });
        due.push_back(Due { filter: filter.into(), after: None, until, again: None });
    }

    /// What is next.
    pub fn first(&self) -> Option<&Due> {
        self.0.as_ref()?.due.front()
    }

    /// Goes on after this topic, or with the next subscription.
    pub fn advance(&mut self, after: Option<String>) {
        let Some(DueAndAgain { due, fresh }) = self.0.as_deref_mut() else { return };
        let Some(first) = due.front_mut() else { return };
        let again = first.again.or_else(|| fresh.remove(&first.filter));
        let left = again.filter(|again| after.is_none() && again.times > 0);
        first.again = again;
        match (left, after) {
            (Some(Again { times, until }), _) => {
                (first.after, first.until) = (None, until);
                first.again = Some(Again { times: times - 1, until });
            }
            (None, None) => drop(due.pop_front()),
            (None, after) => first.after = after,
        }
        if due.is_empty() {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Version;
    use proptest::prelude::*;

    fn subscription(id: u32) -> Subscription {
        let options = SubscriptionOptions::from_u8(1, Version::V5).unwrap();
        Subscription { options, id: NonZeroU32::new(id) }
    }

    proptest! {
        #[test]
        fn few_and_many_are_the_same_to_who_uses_them(
            steps in prop::collection::vec((any::<bool>(), 0_u32..20), 0..100),
        ) {
            let mut subscriptions = Subscriptions::default();
            let mut model = std::collections::BTreeMap::new();
            for (n, (inserts, filter)) in (1..).zip(steps) {
                let filter = filter.to_string();
                if inserts {
                    let replaced = model.insert(filter.clone(), n).is_some();
                    prop_assert_eq!(subscriptions.insert(&filter, subscription(n)), replaced);
                } else {
                    prop_assert_eq!(subscriptions.remove(&filter), model.remove(&filter).is_some());
                }
                let mut held: Vec<_> = subscriptions
                    .iter()
                    .map(|(filter, held)| (filter.to_owned(), held.id.map_or(0, NonZeroU32::get)))
                    .collect();
                held.sort();
                let expected: Vec<_> = model.clone().into_iter().collect();
                prop_assert_eq!(&held, &expected);
                prop_assert_eq!(subscriptions.len(), model.len());
            }
        }
    }

    #[test]
    fn bytes_that_are_no_subscription_are_not_read_as_one() {
        let subscription = Subscription::decode(&[0x2D, 9, 0, 0, 0]).unwrap();
        assert_eq!(*subscription.encode(), [0x2D, 9, 0, 0, 0]);
        for bad in [
            &[0x2D, 9, 0, 0][..],            // too short
            &[0x2D, 9, 0, 0, 0, 0],          // too long
            &[0x03, 9, 0, 0, 0],             // QoS 3
            &[0x2D, 0xFF, 0xFF, 0xFF, 0x1F], // an identifier that no packet can carry
        ] {
            assert_eq!(Subscription::decode(bad), None, "{bad:02x?}");
        }
    }
}
