//! The broker as it was: what the store remembers, put back before the first connection.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::declared;
use super::groups::Groups;
use super::mailbox::{Mail, Mailbox};
use super::memory::Memory;
use super::publish::Source;
use super::registry::{Memberships, Parked, Parts, Place, Registry};
use super::timeline::{Due, Expiry};
use super::tuned::Tuned;
use super::turn::Turn;
use super::{Broker, Options, Waiter};
use crate::access::acl::Subject;
use crate::access::acl::guard::Guard;
use crate::clock::{Clock, Moment};
use crate::codec::{PacketId, QoS};
use crate::metrics::Metrics;
use crate::queue::{Delivery, Stored};
use crate::router::Router;
use crate::router::retained::Retained;
use crate::session::Session;
use crate::session::connect::Terms;
use crate::session::record::Record;
use crate::session::subscriptions::Subscription;
use crate::store::{self, OpenError, Outcome, Recovered, RecoveredSession, Store, Waiting};
use crate::topic::TopicFilter;

/// What was put back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Restored {
    /// Sessions.
    pub sessions: usize,
    /// Messages that wait for a receiver.
    pub messages: usize,
    /// Retained messages.
    pub retained: usize,
}

impl Broker {
    /// A broker on a store, with everything that the store remembers.
    pub fn open(
        options: Options,
        clock: Clock,
        store_options: &store::Options,
    ) -> Result<(Arc<Self>, Restored), OpenError> {
        let (store, recovered) = Store::open(store_options, Box::new(answer))?;
        Ok(Self::on(options, clock, store, recovered))
    }

    /// A broker on a store that is open and told its waiters by [`answer`].
    pub fn on(
        options: Options,
        clock: Clock,
        store: Store<Waiter>,
        recovered: Recovered,
    ) -> (Arc<Self>, Restored) {
        let broker = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            retained: Retained::new(options.retained),
            memory: Arc::new(Memory::new(options.queue_memory_max, options.memory_max)),
            tuned: Tuned::new(&options),
            options,
            clock,
            metrics: Metrics::default(),
            router: Router::default(),
            registry: Registry::default(),
            groups: Groups::default(),
            expiry: Expiry::default(),
            store,
            next_key: AtomicU64::new(1),
            identifier_seed: RandomState::new().build_hasher().finish(),
            closing: AtomicBool::new(false),
        });
        let restored = broker.restore(recovered);
        (broker, restored)
    }

    fn restore(&self, recovered: Recovered) -> Restored {
        let now = self.now();
        let mut turn = Turn::default();
        let mut restored = Restored { retained: recovered.retained.len(), ..Restored::default() };
        for (message, publisher) in &recovered.retained {
            let source = Source { identity: *publisher, guard: None };
            if self.retained.set(message, source).is_err() {
                tracing::warn!(topic = message.topic_str(), "a retained message exceeds the limit");
            }
        }
        let (groups, sessions): (Vec<_>, Vec<_>) = recovered
            .sessions
            .into_iter()
            .partition(|session| Self::group_record(&session.record).is_some());
        let (queues, sessions): (Vec<_>, Vec<_>) = sessions
            .into_iter()
            .partition(|session| declared::Record::decode(&session.record).is_some());
        restored.messages += queues.iter().map(|queue| queue.queue.len()).sum::<usize>();
        self.restore_queues(queues, &recovered.file, &mut turn);
        let mut restored_groups = Vec::new();
        for group in groups {
            restored.messages += group.queue.len();
            let filter = Self::group_record(&group.record).map(TopicFilter::new);
            if let Some(Ok(filter)) = filter {
                let waiting = group.queue.into_iter();
                restored_groups.push(self.restore_group(filter, group.id, waiting, &group.lent));
            }
        }
        for session in sessions {
            restored.sessions += 1;
            restored.messages += session.queue.len() + session.sent.len();
            self.restore_session(session, now, &mut turn);
        }
        for group in restored_groups {
            self.end_if_deserted(&group, &mut turn);
        }
        self.finish(&mut turn, None);
        restored
    }

    fn restore_session(&self, recovered: RecoveredSession, now: Moment, turn: &mut Turn) {
        let Some(record) = Record::decode(&recovered.record) else {
            tracing::error!(session = recovered.id.0, "a session's record is damaged; left out");
            return;
        };
        let terms = Terms::parked(record.expiry_s, &self.options.limits);
        let mut session = Session::new(record.client_id.clone(), terms, record.will);
        let received: Vec<_> = recovered.received.into_iter().filter_map(PacketId::new).collect();
        let passed = recovered.sent.iter().filter(|(packet_id, _)| packet_id.is_none());
        let passed = passed.flat_map(|(_, waiting)| waiting).map(|waiting| waiting.message.id());
        // Who was connected when the broker died may have been sent any of these [MQTT-3.3.1-1].
        let last = recovered.queue.iter().map(|stored| stored.id).chain(passed).max().unwrap_or(0);
        let may_be_seen = record.disconnected_at.is_none();
        let seen_to = if may_be_seen { last.max(record.seen_to) } else { record.seen_to };
        let sent = recovered.sent.into_iter().map(|(packet_id, waiting)| {
            let waiting = waiting.map(|waiting| {
                let source = self.source_of(waiting.queue);
                let queue = self.groups.by_source(source).filter(|queue| queue.is_declared());
                let attempts = queue.map_or(0, |queue| queue.attempts(waiting.message.id()));
                Delivery { attempts, ..delivery(waiting, source) }
            });
            (packet_id.and_then(PacketId::new), waiting)
        });
        session.restore(&received, sent.collect(), seen_to);
        let subject = Subject { username: record.owner, client_id: record.client_id, claims: None };
        let guard = Arc::new(Guard::new(subject, self.options.rules.clone()));
        let (key, memory) = (self.next_key(), self.memory.clone());
        let mailbox = Mailbox::new(key, Some(recovered.id), true, memory, guard);
        mailbox.disconnected(false);
        let seen = |stored: Stored| if stored.id <= seen_to { stored.seen() } else { stored };
        mailbox.restore(recovered.queue.into_iter().map(seen));
        let mut parts = Parts { session, mailbox, groups: Memberships::default() };
        for (filter, options) in recovered.subscriptions {
            if let (Ok(filter), Some(subscription)) =
                (TopicFilter::new(&filter), Subscription::decode(&options))
            {
                parts.session.subscriptions.insert(filter.as_str(), subscription);
                self.route(&mut parts, filter, subscription, Some(false), turn);
            }
        }
        if record.disconnected_at.is_none() {
            // On record, so that its time does not begin anew with each start.
            self.put_on_record(&mut parts, Some(now), turn);
        }
        self.park_restored(parts, record.disconnected_at.unwrap_or(now));
    }

    /// A connection that was open when the broker ended has ended with it.
    fn park_restored(&self, parts: Parts, since: Moment) {
        let Parts { session, mailbox, groups, .. } = parts;
        let client_id = session.client_id().clone();
        let parting = self.next_key();
        let mut timers = smallvec::SmallVec::new();
        if let Some(will) = session.will() {
            let due = since.after_s(will.delay_s.into());
            let will = Due::Will { client_id: client_id.clone(), parting };
            timers.push(self.expiry.add(due, will));
        }
        if session.expiry_s() != u32::MAX {
            let due = since.after_s(session.expiry_s().into());
            let end = Due::Session { client_id: client_id.clone(), parting };
            timers.push(self.expiry.add(due, end));
        }
        let is_ending = false;
        let parked = Parked { session, mailbox, groups, parting, since, is_ending, timers };
        if self.registry.places.insert(client_id, Place::Parked(Box::new(parked))).is_none() {
            self.registry.take_place(usize::MAX);
        }
    }
}

/// Tells those who wait for the store.
pub fn answer(waiters: &mut Vec<Waiter>, outcome: Outcome) {
    for Waiter { mailbox, ticket } in waiters.drain(..) {
        mailbox.post(Mail::Committed { ticket, outcome });
    }
}

fn delivery(waiting: Waiting, source: u32) -> Delivery {
    let flags = waiting.flags;
    Delivery {
        subscription_ids: waiting.subscription_ids,
        source,
        qos: QoS::from_bits(flags & 3).unwrap_or(QoS::AtLeastOnce),
        retain: flags & 4 != 0,
        ..Delivery::new(waiting.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::declared;

    /// Sessions, share groups and declared queues are records of one table.
    #[test]
    fn a_session_on_record_is_taken_for_nothing_else() {
        for expiry_s in [0, 1, 2, 60, 3600, u32::MAX] {
            for owner in [None, Some("ali".into())] {
                let client_id = "a client of a good length".into();
                let (disconnected_at, seen_to, will) = (None, 0, None);
                let record =
                    Record { client_id, owner, expiry_s, disconnected_at, seen_to, will }.encode();
                assert!(Broker::group_record(&record).is_none(), "{expiry_s}");
                assert!(declared::Record::decode(&record).is_none(), "{expiry_s}");
            }
        }
    }
}
