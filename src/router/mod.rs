//! Who gets a message: Topic Filters and the receivers that subscribed to them.
//!
//! A receiver is opaque here. What is asked for is the list of routes of a topic, with each
//! receiver once ([`overlap`]). Callers keep that list: [`Router::generation`] rises with every
//! change, so a list computed at the present generation is right. A reader takes the generation
//! *before* it computes, and a change is made *before* it is counted, so a list that missed a
//! change is never taken for one that knows it.

pub mod overlap;
pub mod retained;
mod subscribers;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::codec::QoS;
use crate::queue::SubscriptionIds;
use crate::topic::filter_tree::FilterTree;
use overlap::Overlap;
use subscribers::Subscribers;

/// A receiver of messages.
pub trait Subscriber: Clone {
    /// What tells it from others.
    fn key(&self) -> u64;
}

/// What a receiver wants of a filter's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Maximum QoS.
    pub qos: QoS,
    /// Nothing that the receiver published itself.
    pub no_local: bool,
    /// RETAIN as published.
    pub retain_as_published: bool,
    /// Subscription Identifier.
    pub id: Option<NonZeroU32>,
}

/// A receiver of a topic's messages, with all its subscriptions merged.
#[derive(Clone, Debug)]
pub struct Route<S> {
    /// The receiver.
    pub subscriber: S,
    /// The highest QoS of its subscriptions that match [MQTT-3.3.4-2].
    pub qos: QoS,
    /// Whether one of them wants RETAIN as published.
    pub retain_as_published: bool,
    /// The identifiers of all of them [MQTT-3.3.4-4].
    pub subscription_ids: SubscriptionIds,
}

/// All receivers of a topic, shared between a cache and the turns that use it.
#[derive(Debug)]
pub struct Routes<S>(Arc<[Route<S>]>);

impl<S> Clone for Routes<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> Routes<S> {
    /// Each receiver once.
    pub fn iter(&self) -> std::slice::Iter<'_, Route<S>> {
        self.0.iter()
    }

    /// The last receiver, and the others.
    pub fn split_last(&self) -> Option<(&Route<S>, &[Route<S>])> {
        self.0.split_last()
    }

    /// The same without those at these places.
    #[must_use]
    pub fn without(&self, places: &[usize]) -> Self
    where
        S: Clone,
    {
        let others = self.0.iter().enumerate().filter(|(at, _)| !places.contains(at));
        Self(others.map(|(_, route)| route.clone()).collect())
    }

    /// Whether there are no receivers.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this is the very same list.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Subscriptions of all receivers.
#[derive(Debug)]
pub struct Router<S> {
    filters: RwLock<FilterTree<Subscribers<S>>>,
    generation: AtomicU64,
    subscriptions: AtomicU64,
}

impl<S: Subscriber> Default for Router<S> {
    fn default() -> Self {
        Self {
            filters: RwLock::new(FilterTree::new()),
            generation: AtomicU64::new(0),
            subscriptions: AtomicU64::new(0),
        }
    }
}

impl<S: Subscriber> Router<S> {
    /// Adds a subscription, or replaces that of the same receiver and filter [MQTT-3.8.4-3].
    pub fn subscribe(&self, filter: &str, subscriber: S, interest: Interest) {
        let mut filters = self.filters.write();
        if filters.entry(filter).insert(subscriber, interest) {
            self.subscriptions.fetch_add(1, Ordering::Relaxed);
        }
        self.changed();
    }

    /// Ends a subscription; false when there is none.
    pub fn unsubscribe(&self, filter: &str, key: u64) -> bool {
        let mut filters = self.filters.write();
        let Some(subscribers) = filters.get_mut(filter) else { return false };
        if !subscribers.remove(key) {
            return false;
        }
        if subscribers.is_empty() {
            filters.remove(filter);
        }
        self.subscriptions.fetch_sub(1, Ordering::Relaxed);
        self.changed();
        true
    }

    /// Rises with every change.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Has everybody resolve the routes anew that they keep.
    pub fn forget_kept(&self) {
        self.changed();
    }

    /// How many subscriptions there are.
    pub fn subscriptions(&self) -> u64 {
        self.subscriptions.load(Ordering::Relaxed)
    }

    /// Who gets a message that `publisher` publishes to this Topic Name.
    pub fn routes(&self, topic: &str, publisher: Option<u64>) -> Routes<S> {
        let filters = self.filters.read();
        let mut overlap = Overlap::default();
        filters.for_each_match(topic, |subscribers| {
            for (subscriber, interest) in subscribers.iter() {
                // [MQTT-3.8.3-3]
                if !(interest.no_local && publisher == Some(subscriber.key())) {
                    overlap.add(subscriber, interest);
                }
            }
        });
        Routes(overlap.finish())
    }

    /// Counts a change, while the lock is still held.
    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug)]
    struct Key(u64);

    impl Subscriber for Key {
        fn key(&self) -> u64 {
            self.0
        }
    }

    fn interest(qos: QoS, id: u32) -> Interest {
        Interest { qos, no_local: false, retain_as_published: false, id: NonZeroU32::new(id) }
    }

    fn routes(router: &Router<Key>, topic: &str) -> Vec<(u64, QoS, Vec<u32>)> {
        let routes = router.routes(topic, Some(1));
        let mut routes: Vec<_> = routes
            .iter()
            .map(|route| {
                let ids = route.subscription_ids.as_ref();
                let ids = ids.map_or(Vec::new(), |ids| ids.slice.to_vec());
                (route.subscriber.0, route.qos, ids)
            })
            .collect();
        routes.sort();
        routes
    }

    #[test]
    fn overlapping_subscriptions_are_one_route_with_the_highest_qos_and_all_identifiers() {
        let router = Router::default();
        router.subscribe("a/#", Key(1), interest(QoS::AtLeastOnce, 7));
        router.subscribe("a/+", Key(1), interest(QoS::ExactlyOnce, 0));
        router.subscribe("a/b", Key(1), interest(QoS::AtMostOnce, 9));
        router.subscribe("a/b", Key(2), interest(QoS::AtMostOnce, 0));
        let mut found = routes(&router, "a/b");
        found[0].2.sort();
        assert_eq!(found, [(1, QoS::ExactlyOnce, vec![7, 9]), (2, QoS::AtMostOnce, vec![])]);
    }

    #[test]
    fn many_receivers_are_merged_too() {
        let router = Router::default();
        for key in 0..1000 {
            router.subscribe("a", Key(key), interest(QoS::AtMostOnce, 1));
            router.subscribe("#", Key(key), interest(QoS::AtLeastOnce, 2));
        }
        let found = routes(&router, "a");
        assert_eq!(found.len(), 1000);
        assert!(found.iter().all(|(_, qos, ids)| *qos == QoS::AtLeastOnce && ids.len() == 2));
    }

    #[test]
    fn no_local_leaves_out_only_the_publisher_and_only_that_subscription() {
        let router = Router::default();
        let no_local = Interest { no_local: true, ..interest(QoS::ExactlyOnce, 1) };
        router.subscribe("a", Key(1), no_local);
        router.subscribe("a", Key(2), no_local);
        assert_eq!(routes(&router, "a"), [(2, QoS::ExactlyOnce, vec![1])]);
        router.subscribe("+", Key(1), interest(QoS::AtMostOnce, 0));
        assert_eq!(routes(&router, "a")[0], (1, QoS::AtMostOnce, vec![]));
    }

    #[test]
    fn a_subscription_replaces_one_with_the_same_filter() {
        let router = Router::default();
        router.subscribe("a", Key(1), interest(QoS::ExactlyOnce, 1));
        let before = router.generation();
        router.subscribe("a", Key(1), interest(QoS::AtMostOnce, 0));
        assert!(router.generation() > before);
        assert_eq!(routes(&router, "a"), [(1, QoS::AtMostOnce, vec![])]);
        assert!(router.unsubscribe("a", 1));
        assert!(!router.unsubscribe("a", 1));
        assert_eq!(router.subscriptions(), 0);
        assert!(router.routes("a", None).is_empty());
    }
}
