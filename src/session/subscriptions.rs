//! The Topic Filters that a Session holds, as its part of the Session State. Matching is the
//! router's business; this is the list to be kept, restored and ended.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use hashbrown::HashMap;

use crate::codec::{SubscriptionOptions, Version};
use crate::topic::{TopicFilter, TopicName};

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
#[derive(Debug, Default)]
pub enum Subscriptions {
    /// Nothing yet.
    #[default]
    None,
    /// Most Sessions have one.
    One(Held),
    /// Looked through from end to end.
    Few(Box<Vec<Held>>),
    /// The Client chooses them, so they are hashed with a random seed: it must not know which
    /// ones collide.
    Many(Box<HashMap<Box<str>, Subscription>>),
}

/// A Topic Filter, and what was asked for with it.
type Held = (Box<str>, Subscription);

/// More than this are hashed.
const FEW: usize = 8;

impl Subscriptions {
    /// Notes a subscription; true: it replaces one with the same filter [MQTT-3.8.4-3].
    pub fn insert(&mut self, filter: &str, subscription: Subscription) -> bool {
        let mut is_known = false;
        *self = match std::mem::take(self) {
            Self::None => Self::One((filter.into(), subscription)),
            Self::Many(mut many) => {
                is_known = many.insert(filter.into(), subscription).is_some();
                Self::Many(many)
            }
            mut few => {
                let mut all = few.few_mut().iter_mut();
                if let Some((_, held)) = all.find(|(held, _)| **held == *filter) {
                    (*held, is_known) = (subscription, true);
                    few
                } else {
                    few.with((filter.into(), subscription))
                }
            }
        };
        is_known
    }

    /// These few and one more.
    fn with(self, held: Held) -> Self {
        match self {
            Self::One(one) => Self::Few(Box::new(vec![one, held])),
            Self::Few(mut few) if few.len() < FEW => {
                few.reserve_exact(1);
                few.push(held);
                Self::Few(few)
            }
            Self::Few(few) => Self::Many(Box::new(few.into_iter().chain([held]).collect())),
            Self::None | Self::Many(_) => self,
        }
    }

    fn few(&self) -> &[Held] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Few(few) => few,
            Self::None | Self::Many(_) => &[],
        }
    }

    fn few_mut(&mut self) -> &mut [Held] {
        match self {
            Self::One(one) => std::slice::from_mut(one),
            Self::Few(few) => few,
            Self::None | Self::Many(_) => &mut [],
        }
    }

    /// Whether the Client is subscribed to a topic, if only to what others publish (No Local).
    pub fn has_own(&self, topic: &str) -> bool {
        let Ok(topic) = TopicName::new(topic) else { return false };
        self.iter().any(|(filter, subscription)| {
            subscription.options.no_local
                && TopicFilter::new(filter).is_ok_and(|filter| filter.matches(topic))
        })
    }

    /// Forgets a subscription; false when there is none.
    pub fn remove(&mut self, filter: &str) -> bool {
        let existed = match self {
            Self::None => false,
            Self::One((held, _)) => **held == *filter,
            Self::Few(few) => {
                let at = few.iter().position(|(held, _)| **held == *filter);
                at.map(|at| few.swap_remove(at)).is_some()
            }
            Self::Many(many) => many.remove(filter).is_some(),
        };
        if existed && (matches!(self, Self::One(_)) || self.is_empty()) {
            *self = Self::None;
        }
        existed
    }

    /// What was asked for with this filter.
    pub fn get(&self, filter: &str) -> Option<&Subscription> {
        match self {
            Self::Many(many) => many.get(filter),
            few => few.few().iter().find(|(held, _)| **held == *filter).map(|(_, held)| held),
        }
    }

    /// Whether the filter is subscribed to.
    pub fn contains(&self, filter: &str) -> bool {
        self.get(filter).is_some()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Many(many) => many.len(),
            few => few.few().len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Each filter and what was asked for.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Subscription)> {
        let many = match self {
            Self::Many(many) => Some(many),
            _ => None,
        };
        let few = self.few().iter().map(|(filter, held)| (&**filter, held));
        few.chain(many.into_iter().flat_map(|many| many.iter()).map(|(f, held)| (&**f, held)))
    }
}

/// Subscriptions whose retained messages have not all been handed over.
#[derive(Debug, Default)]
pub struct RetainedDue(Option<Box<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    current: Option<Due>,
    /// Filters whose turn has not come, in order.
    filters: VecDeque<Box<str>>,
    /// How often they were subscribed to, and how: a Client that repeats a subscription a million
    /// times has one entry here. One without any has been ended again.
    fresh: HashMap<Box<str>, Vec<Round>>,
}

/// Subscriptions to one filter that differ and wait at once; of more the newest options count.
const ROUNDS_MAX: usize = 8;

/// Subscriptions made alike, each of which brings everything again [MQTT-3.8.4-4].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// What was asked for.
    pub subscription: Subscription,
    /// The last message that counts as retained for it: the later ones it gets as they come.
    pub until: u64,
    times: usize,
}

/// The filter whose turn it is.
#[derive(Debug)]
pub struct Due {
    /// The Topic Filter.
    pub filter: Box<str>,
    /// The topic after which it goes on; `None` at the beginning.
    pub after: Option<String>,
    /// This round and those that follow; never empty.
    rounds: Vec<Round>,
}

impl Due {
    /// This round.
    pub fn round(&self) -> Option<Round> {
        self.rounds.first().copied()
    }
}

impl RetainedDue {
    /// Adds a subscription.
    pub fn push(&mut self, filter: &str, subscription: Subscription, until: u64) {
        let Waiting { filters, fresh, .. } = &mut **self.0.get_or_insert_default();
        let round = Round { subscription, until, times: 1 };
        let Some(rounds) = fresh.get_mut(filter) else {
            fresh.insert(filter.into(), vec![round]);
            filters.push_back(filter.into());
            return;
        };
        let is_full = rounds.len() >= ROUNDS_MAX;
        // The first keeps its own end: what came later it has got as it came.
        match rounds.get_mut(1..).and_then(<[_]>::last_mut) {
            Some(last) if is_full || last.subscription == subscription => {
                *last = Round { times: last.times.saturating_add(1), ..round };
            }
            _ => rounds.push(round),
        }
    }

    /// The subscription has been ended.
    pub fn forget(&mut self, filter: &str) {
        let Some(Waiting { current, fresh, .. }) = self.0.as_deref_mut() else { return };
        current.take_if(|current| *current.filter == *filter);
        if let Some(rounds) = fresh.get_mut(filter) {
            rounds.clear();
        }
    }

    /// What is next.
    pub fn first(&mut self) -> Option<&Due> {
        let waiting = self.0.as_deref_mut()?;
        if waiting.current.is_none() {
            waiting.current = waiting.begin();
        }
        self.0.take_if(|waiting| waiting.current.is_none());
        self.0.as_ref()?.current.as_ref()
    }

    /// Goes on after this topic, or with the next round.
    pub fn advance(&mut self, after: Option<String>) {
        let Some(Waiting { current, .. }) = self.0.as_deref_mut() else { return };
        let Some(due) = current else { return };
        due.after = after;
        if due.after.is_some() {
            return;
        }
        match due.rounds.first_mut().filter(|round| round.times > 1) {
            Some(round) => round.times -= 1,
            None => drop(due.rounds.drain(..1.min(due.rounds.len()))),
        }
        current.take_if(|due| due.rounds.is_empty());
    }
}

impl Waiting {
    /// The next filter that is still subscribed to.
    fn begin(&mut self) -> Option<Due> {
        loop {
            let filter = self.filters.pop_front()?;
            let rounds = self.fresh.remove(&filter).unwrap_or_default();
            if !rounds.is_empty() {
                return Some(Due { filter, after: None, rounds });
            }
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

    /// What is handed over to the end, round by round: filter, identifier, end.
    fn rounds(due: &mut RetainedDue) -> Vec<(String, u32, u64)> {
        std::iter::from_fn(|| {
            let first = due.first()?;
            let round = first.round()?;
            let id = round.subscription.id.map_or(0, NonZeroU32::get);
            let served = (first.filter.to_string(), id, round.until);
            due.advance(None);
            Some(served)
        })
        .collect()
    }

    #[test]
    fn each_subscription_is_served_as_it_was_made() {
        let mut due = RetainedDue::default();
        due.push("a", subscription(1), 10);
        due.push("b", subscription(2), 11);
        due.push("a", subscription(3), 12);
        due.push("a", subscription(3), 13);
        due.push("a", subscription(4), 14);
        let [a1, a3, a4] = [("a", 1, 10), ("a", 3, 13), ("a", 4, 14)];
        let expected = [a1, a3, a3, a4, ("b", 2, 11)].map(|(f, id, until)| (f.into(), id, until));
        assert_eq!(rounds(&mut due), expected);
        assert!(due.0.is_none());
    }

    #[test]
    fn one_that_has_begun_goes_on_as_it_began() {
        let mut due = RetainedDue::default();
        due.push("a", subscription(1), 10);
        due.first();
        due.advance(Some("topic".into()));
        due.push("a", subscription(2), 11);
        assert_eq!(due.first().unwrap().after.as_deref(), Some("topic"));
        assert_eq!(rounds(&mut due), [("a".into(), 1, 10), ("a".into(), 2, 11)]);
    }

    #[test]
    fn one_that_has_ended_is_served_no_more() {
        let mut due = RetainedDue::default();
        due.push("a", subscription(1), 10);
        due.first();
        due.push("b", subscription(2), 11);
        due.forget("a");
        due.forget("b");
        due.push("a", subscription(3), 12);
        assert_eq!(rounds(&mut due), [("a".into(), 3, 12)]);
    }

    #[test]
    fn no_repetition_takes_more_than_its_place() {
        let mut due = RetainedDue::default();
        for n in 1..=1_000 {
            due.push("a", subscription(n), n.into());
            due.push("b", subscription(n), n.into());
            due.forget("b");
        }
        let waiting = due.0.as_ref().unwrap();
        assert_eq!((waiting.filters.len(), waiting.fresh["a"].len()), (2, ROUNDS_MAX));
        assert_eq!(rounds(&mut due).len(), 1_000);
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
