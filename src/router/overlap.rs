//! Several subscriptions of one receiver that match the same topic become one route, so that the
//! receiver gets the message once [MQTT-3.3.5-1].

use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use triomphe::ThinArc;

use super::{Interest, Route, Subscriber};

/// So many routes are searched from end to end before they are numbered by receiver.
const SEARCHED: usize = 16;

/// Routes as they are found.
pub struct Overlap<S> {
    found: SmallVec<[Found<S>; 4]>,
    by_key: FxHashMap<u64, usize>,
}

struct Found<S> {
    route: Route<S>,
    ids: SmallVec<[u32; 2]>,
}

impl<S> Default for Overlap<S> {
    fn default() -> Self {
        Self { found: SmallVec::new(), by_key: FxHashMap::default() }
    }
}

impl<S: Subscriber> Overlap<S> {
    /// Adds a subscription that matches.
    pub fn add(&mut self, subscriber: &S, interest: &Interest) {
        let key = subscriber.key();
        if let Some(found) = self.position(key).and_then(|at| self.found.get_mut(at)) {
            found.route.qos = found.route.qos.max(interest.qos);
            found.route.retain_as_published |= interest.retain_as_published;
            found.ids.extend(interest.id.map(|id| id.get()));
            return;
        }
        let route = Route {
            subscriber: subscriber.clone(),
            qos: interest.qos,
            retain_as_published: interest.retain_as_published,
            subscription_ids: None,
        };
        self.found.push(Found { route, ids: interest.id.map(|id| id.get()).into_iter().collect() });
        match self.found.len() {
            ..=SEARCHED => {}
            len if self.by_key.is_empty() => {
                self.by_key.reserve(len);
                let keys = self.found.iter().map(|found| found.route.subscriber.key());
                self.by_key.extend(keys.zip(0..));
            }
            len => {
                self.by_key.insert(key, len - 1);
            }
        }
    }

    /// The routes.
    pub fn finish(self) -> Arc<[Route<S>]> {
        let routes = self.found.into_iter().map(|Found { mut route, ids }| {
            if !ids.is_empty() {
                route.subscription_ids = Some(ThinArc::from_header_and_slice((), &ids));
            }
            route
        });
        routes.collect()
    }

    fn position(&self, key: u64) -> Option<usize> {
        if self.by_key.is_empty() {
            return self.found.iter().position(|found| found.route.subscriber.key() == key);
        }
        self.by_key.get(&key).copied()
    }
}
