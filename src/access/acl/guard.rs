//! The rules that hold now, and one Client's look at them.
//!
//! Rules can be replaced while Clients are connected. Who keeps an answer keeps the generation
//! with it that was there before it asked, and asks again when that has risen.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;
use parking_lot::RwLock;

use super::{Acl, Action, Asked, Permits, Subject, filter_to_ask};
use crate::clock::Moment;
use crate::codec::QoS;
use crate::queue::Delivery;

/// Topics whose answers are kept for a receiver; beyond that it begins anew.
const KEPT_TOPICS_MAX: usize = 1024;

/// Bytes of a topic whose answer is kept.
const KEPT_TOPIC_LEN_MAX: usize = 256;

/// The rules that hold now for the Clients of a listener.
#[derive(Debug, Default)]
pub struct Rules {
    current: RwLock<Arc<Acl>>,
    /// Rises with each replacement.
    replacements: AtomicU64,
    /// 0 where everything is allowed.
    generation: AtomicU64,
}

impl Rules {
    /// These rules.
    pub fn new(acl: Acl) -> Self {
        let rules = Self::default();
        rules.replace(acl);
        rules
    }

    /// Other rules from now on.
    pub fn replace(&self, acl: Acl) {
        let mut current = self.current.write();
        let number = self.replacements.fetch_add(1, Ordering::Relaxed) + 1;
        let generation = if acl.is_unrestricted() { 0 } else { number };
        *current = Arc::new(acl);
        self.generation.store(generation, Ordering::Release);
    }

    /// Stands for the rules that hold now; 0 where everything is allowed.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

/// One Client's look at the rules.
#[derive(Clone, Debug)]
pub struct Guard {
    /// Who it is.
    pub subject: Subject,
    rules: Arc<Rules>,
    /// When its proof of identity expires.
    until: Moment,
}

impl Default for Guard {
    fn default() -> Self {
        Self::new(Subject::default(), Arc::default())
    }
}

impl Guard {
    /// For a Client that these rules hold for.
    pub fn new(subject: Subject, rules: Arc<Rules>) -> Self {
        Self { subject, rules, until: Moment::NEVER }
    }

    /// Until then.
    pub fn until(self, until: Moment) -> Self {
        Self { until, ..self }
    }

    /// When the Client's proof of identity expires; [`Moment::NEVER`] for most.
    pub fn expires_at(&self) -> Moment {
        self.until
    }

    /// Which messages of a topic the Client may publish.
    pub fn publishes(&self, topic: &str) -> Permits {
        self.permits(Action::Publish, topic)
    }

    fn permits(&self, action: Action, topic: &str) -> Permits {
        if !self.has_rules() {
            return Permits::ALL;
        }
        let acl = self.rules.current.read().clone();
        let permits = acl.permits(&self.subject, action, topic);
        if permits == Permits::NONE {
            let asked = Asked { action, topic, qos: QoS::AtMostOnce, retain: false };
            let decision = acl.decide(&self.subject, &asked);
            tracing::debug!(client = ?self.subject.client_id, ?action, topic, "{decision}");
        }
        permits
    }

    /// Whether there are rules, so that it must be asked.
    pub fn has_rules(&self) -> bool {
        self.rules.generation() != 0 || self.subject.is_ruled()
    }

    /// How many rules may have to be asked for each Topic Filter.
    pub fn rules_of_subscriptions(&self) -> usize {
        match self.has_rules() {
            true => self.rules.current.read().rules_of_subscriptions(&self.subject),
            false => 0,
        }
    }

    /// Whether the Client may subscribe to a Topic Filter, given as a whole.
    pub fn subscribes(&self, filter: &str, qos: QoS) -> bool {
        let topic = filter_to_ask(filter);
        self.allows(&Asked { action: Action::Subscribe, topic, qos, retain: false })
    }

    /// Whether the Client may publish a message like this one. Who asks for one topic again and
    /// again keeps [`Guard::publishes`] instead.
    pub fn may_publish(&self, topic: &str, qos: QoS, retain: bool) -> bool {
        self.allows(&Asked { action: Action::Publish, topic, qos, retain })
    }

    fn allows(&self, asked: &Asked<'_>) -> bool {
        if !self.has_rules() {
            return true;
        }
        let acl = self.rules.current.read().clone();
        let decision = acl.decide(&self.subject, asked);
        if !decision.allowed {
            let Asked { action, topic, .. } = asked;
            tracing::debug!(client = ?self.subject.client_id, ?action, topic, "{decision}");
        }
        decision.allowed
    }
}

/// What a Client may receive, as far as it was asked.
#[derive(Debug, Default)]
pub struct Receives(Option<Box<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    generation: u64,
    topics: HashMap<Box<str>, Permits>,
}

impl Receives {
    /// Whether the Client may receive a message, where there are rules.
    pub fn allow(&mut self, guard: &Guard, delivery: &Delivery) -> bool {
        let Delivery { message, qos, retain, .. } = delivery;
        self.allow_topic(guard, message.topic_str(), *qos, *retain)
    }

    /// The same, for one of this topic.
    pub fn allow_topic(&mut self, guard: &Guard, topic: &str, qos: QoS, retain: bool) -> bool {
        let generation = guard.rules.generation();
        let kept = self.0.get_or_insert_default();
        if kept.generation != generation {
            **kept = Kept { generation, ..Kept::default() };
        }
        if let Some(permits) = kept.topics.get(topic) {
            return permits.allow(qos, retain);
        }
        let permits = guard.permits(Action::Receive, topic);
        if kept.topics.len() >= KEPT_TOPICS_MAX {
            kept.topics = HashMap::default();
        }
        if topic.len() <= KEPT_TOPIC_LEN_MAX {
            kept.topics.insert(topic.into(), permits);
        }
        permits.allow(qos, retain)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::access::acl::file::AclFile;

    fn acl(text: &str) -> Acl {
        let file = AclFile::parse(text, Path::new("acl")).unwrap();
        Acl::new(Some(Arc::new(file)), Arc::default())
    }

    #[test]
    fn answers_are_kept_until_the_rules_are_replaced() {
        let rules = Arc::new(Rules::new(acl("topic read a")));
        let guard = Guard::new(Subject::default(), rules.clone());
        let mut receives = Receives::default();
        let mut may = |topic: &str| receives.allow_topic(&guard, topic, QoS::AtMostOnce, false);
        assert!(may("a") && may("a") && !may("b") && !may("b"));
        rules.replace(acl("topic read b"));
        assert!(!may("a") && may("b"));
        rules.replace(Acl::default());
        assert!(may("a") && may("c"));
        rules.replace(acl("topic read b"));
        assert!(!may("a") && may("b"));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let guard = Guard::new(Subject::default(), Arc::new(Rules::new(acl("topic read #"))));
        let mut receives = Receives::default();
        for n in 0..3 * KEPT_TOPICS_MAX {
            assert!(receives.allow_topic(&guard, &format!("a/{n}"), QoS::AtMostOnce, false));
        }
        assert!(receives.allow_topic(&guard, &"a".repeat(10_000), QoS::AtMostOnce, false));
        let kept = receives.0.unwrap();
        assert!(kept.topics.len() <= KEPT_TOPICS_MAX);
        assert!(kept.topics.keys().all(|topic| topic.len() <= KEPT_TOPIC_LEN_MAX));
    }
}
