//! The subscribers of one filter. Most have one; a filter that a whole fleet has subscribed to has
//! a hundred thousand, each of which must be found when it comes again or goes, while everybody
//! waits: so those are numbered by receiver.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::{Interest, Subscriber};

/// So many are searched from end to end.
const FEW: usize = 32;

/// See the head of this file.
#[derive(Debug)]
pub enum Subscribers<S> {
    /// In the order in which they came.
    Few(SmallVec<[(S, Interest); 1]>),
    /// Numbered.
    Many(Box<Many<S>>),
}

/// Subscribers, and where in the list each is.
#[derive(Debug)]
pub struct Many<S> {
    list: Vec<(S, Interest)>,
    places: FxHashMap<u64, usize>,
}

impl<S> Default for Subscribers<S> {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

impl<S: Subscriber> Subscribers<S> {
    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, (S, Interest)> {
        match self {
            Self::Few(few) => few.iter(),
            Self::Many(many) => many.list.iter(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.iter().len() == 0
    }

    /// Adds one, or replaces what it wants; true: it is new.
    pub fn insert(&mut self, subscriber: S, interest: Interest) -> bool {
        let key = subscriber.key();
        let held = match self {
            Self::Few(few) => few.iter_mut().find(|(held, _)| held.key() == key),
            Self::Many(many) => many.places.get(&key).and_then(|&at| many.list.get_mut(at)),
        };
        if let Some((_, held)) = held {
            *held = interest;
            return false;
        }
        match self {
            Self::Few(few) if few.len() < FEW => few.push((subscriber, interest)),
            Self::Few(few) => {
                let mut list: Vec<_> = few.drain(..).collect();
                list.push((subscriber, interest));
                let places = list.iter().map(|(held, _)| held.key()).zip(0..).collect();
                *self = Self::Many(Box::new(Many { list, places }));
            }
            Self::Many(many) => {
                many.places.insert(key, many.list.len());
                many.list.push((subscriber, interest));
            }
        }
        true
    }

    /// Removes one; false when it is none.
    pub fn remove(&mut self, key: u64) -> bool {
        match self {
            Self::Few(few) => match few.iter().position(|(held, _)| held.key() == key) {
                Some(at) => drop(few.remove(at)),
                None => return false,
            },
            Self::Many(many) => {
                let Some(at) = many.places.remove(&key) else { return false };
                many.list.swap_remove(at);
                if let Some((moved, _)) = many.list.get(at) {
                    many.places.insert(moved.key(), at);
                }
                // Not as soon as they are few: one who comes and goes would have them all moved.
                if many.list.len() <= FEW / 2 {
                    *self = Self::Few(many.list.drain(..).collect());
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::codec::QoS;

    #[derive(Clone, Debug)]
    struct Key(u64);

    impl Subscriber for Key {
        fn key(&self) -> u64 {
            self.0
        }
    }

    proptest! {
        #[test]
        fn few_and_many_are_the_same_to_who_uses_them(
            steps in prop::collection::vec((any::<bool>(), 0_u64..100, 1_u32..9), 0..400),
        ) {
            let (mut subscribers, mut model) = (Subscribers::default(), BTreeMap::new());
            // More come than go at first.
            for (n, (comes, key, id)) in steps.into_iter().enumerate() {
                if comes || n < 60 {
                    let id = std::num::NonZeroU32::new(id);
                    let interest = Interest {
                        qos: QoS::AtLeastOnce, no_local: false, retain_as_published: false, id,
                    };
                    let is_new = model.insert(key, interest).is_none();
                    prop_assert_eq!(subscribers.insert(Key(key), interest), is_new);
                } else {
                    prop_assert_eq!(subscribers.remove(key), model.remove(&key).is_some());
                }
                let held: BTreeMap<_, _> = subscribers.iter().map(|(s, i)| (s.key(), *i)).collect();
                prop_assert_eq!(&held, &model);
                prop_assert_eq!(subscribers.iter().len(), model.len());
                prop_assert_eq!(subscribers.is_empty(), model.is_empty());
            }
        }
    }
}
