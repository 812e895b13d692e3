//! The broker: what all Clients share.
//!
//! It joins the pure rooms to each other and to the store: which Session is where
//! ([`registry`]), who gets a message ([`publish`]), who subscribes ([`subscribe`]), who takes
//! from a share group ([`groups`]) or a declared queue ([`declared`]), what ends by itself
//! ([`expire`]). A connection's task calls it; nothing in it waits, except [`Broker::connect`] for
//! a Session that another connection holds.
//!
//! **Lock order.** registry entry -> retained -> share group table -> share group -> router ->
//! mailbox -> timeline -> store's inbox. Never two mailboxes, never two groups, none across an
//! `await`.
//!
//! **Order of effects.** A turn's changes go to the store before its messages go to queues, so
//! that what a receiver reports about a message never overtakes the message itself on its way to
//! the disk.

pub mod budget;
pub mod connect;
pub mod declared;
pub mod desk;
pub mod expire;
mod fate;
pub mod groups;
pub mod mailbox;
mod members;
pub mod memory;
pub mod publish;
pub mod recover;
mod redeclare;
pub mod receiver;
pub mod registry;
mod rules;
pub mod share;
pub mod subscribe;
pub mod sys;
pub mod timeline;
mod tuned;
pub mod turn;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use crate::access::acl::guard::Rules;
use crate::clock::{Clock, Moment};
use crate::codec::{PacketId, QoS};
use crate::metrics::{DropReason, Metrics};
use crate::queue::declaration::{Declaration, Strategy};
use crate::queue::{self, Delivery, Trace};
use crate::router::Router;
use crate::router::retained::{self, Retained};
use crate::session::connect::Limits;
use crate::store::tools::{Request, ToolError};
use crate::store::{Change, Fetch, Health, Lent, SessionId, Store};
use groups::Groups;
use mailbox::Mailbox;
use memory::Memory;
use publish::Source;
use receiver::Receiver;
use registry::Registry;
use timeline::Expiry;
use tuned::Tuned;
use turn::Turn;

/// Settings of the broker.
#[derive(Clone, Debug)]
pub struct Options {
    /// What Clients are granted.
    pub limits: Limits,
    /// Bounds of each Session's queue and of each share group's.
    pub queue: queue::Limits,
    /// Memory of the messages that all queues have at hand together, in bytes.
    pub queue_memory_max: usize,
    /// Memory of the process, in bytes; 0: no limit.
    pub memory_max: usize,
    /// Bounds of the retained messages.
    pub retained: retained::Limits,
    /// Who gets the next message of a share group that nobody declared.
    pub share_strategy: Strategy,
    /// The declared queues.
    pub queues: Vec<Declaration>,
    /// What holds for the Wills of Clients that have not been here since the start.
    pub rules: Arc<Rules>,
    /// Whether a Session may be taken over by another user than the one it belongs to.
    pub any_user_takes_over: bool,
    /// Whether a message is delivered with the QoS of the subscription, also a higher one.
    pub raises_qos: bool,
    /// Whether a retained message is sent only as long as who published it still may do so.
    pub asks_sources: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            queue: queue::Limits::default(),
            queue_memory_max: 256 << 20,
            memory_max: 0,
            retained: retained::Limits::default(),
            share_strategy: Strategy::default(),
            queues: Vec::new(),
            rules: Arc::default(),
            any_user_takes_over: false,
            raises_qos: false,
            asks_sources: false,
        }
    }
}

/// What a turn that waits for the store is told through: a mailbox and the ticket it closed.
#[derive(Debug)]
pub struct Waiter {
    /// Who waits.
    pub mailbox: Arc<Mailbox>,
    /// For what.
    pub ticket: u64,
}

/// What all Clients share.
pub struct Broker {
    /// For what the store is asked and answers later.
    me: Weak<Self>,
    options: Options,
    tuned: Tuned,
    clock: Clock,
    /// What the broker counts.
    pub metrics: Metrics,
    router: Router<Receiver>,
    retained: Retained<Source>,
    memory: Arc<Memory>,
    registry: Registry,
    groups: Groups,
    expiry: Expiry,
    store: Store<Waiter>,
    next_key: AtomicU64,
    /// Random, so that identifiers assigned after a restart differ from earlier ones.
    identifier_seed: u64,
    closing: AtomicBool,
}

impl Broker {
    /// The settings.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Takes over what of other settings can change while the broker runs.
    pub fn tune(&self, options: &Options) {
        self.tuned.set(options);
        self.memory.set_max(options.queue_memory_max);
        self.retained.set_limits(options.retained);
    }

    /// The clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The moment it is.
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Whether the broker is shutting down.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// A number that no other mailbox or group of this process has.
    fn next_key(&self) -> u64 {
        self.next_key.fetch_add(1, Ordering::Relaxed)
    }

    /// A delivery is done with, by success or for a reason to drop it: the store may forget it.
    ///
    /// `own` is the stored identity of the Session whose queue it was in.
    pub fn done(&self, delivery: Trace, own: Option<SessionId>, turn: &mut Turn) {
        let queue = match delivery.source {
            0 => own.filter(|_| delivery.qos != QoS::AtMostOnce),
            source => {
                let (stored, declared) = self.groups.owner(source);
                if let Some(queue) = declared.filter(|_| delivery.message != 0) {
                    turn.settled(queue, delivery.message);
                }
                stored
            }
        };
        if let Some(queue) = queue.filter(|_| delivery.message != 0) {
            turn.finished(delivery.message, queue);
        }
    }

    /// Notes that a delivery is held until that is durable: the Packet Identifier that QoS 2 is
    /// bound to, and how often a declared queue has handed it out.
    pub fn hold(
        &self,
        session: Option<SessionId>,
        packet_id: PacketId,
        delivery: &Delivery,
        turn: &mut Turn,
    ) {
        if let Some(session) = session.filter(|_| delivery.qos == QoS::ExactlyOnce) {
            self.bind(session, packet_id, delivery, turn);
        }
        let is_bound = session.is_none() && delivery.qos == QoS::ExactlyOnce;
        if (is_bound || delivery.attempts > 0)
            && let Some(queue) = self.groups.stored(delivery.source)
        {
            let lent = Lent { attempts: delivery.attempts, is_bound };
            turn.change(Change::Lent { queue, message: delivery.message.id(), lent });
        }
    }

    /// A delivery of QoS 2 that a Session had which is not stored goes back to its queue. To be
    /// submitted before another may have it.
    fn not_bound(&self, delivery: &Delivery) -> Option<Change> {
        let queue = self.groups.stored(delivery.source)?;
        let lent = Lent { attempts: delivery.attempts, is_bound: false };
        Some(Change::Lent { queue, message: delivery.message.id(), lent })
    }

    /// Notes that a delivery is bound to a Packet Identifier.
    pub fn bind(
        &self,
        session: SessionId,
        packet_id: PacketId,
        delivery: &Delivery,
        turn: &mut Turn,
    ) {
        let queue = match delivery.source {
            0 => session,
            source => self.groups.stored(source).unwrap_or(session),
        };
        turn.change(Change::Sent {
            session,
            packet_id: packet_id.get(),
            message: delivery.message.id(),
            queue,
            flags: publish::flags(delivery.qos, delivery.retain),
            subscription_ids: delivery.subscription_ids.clone(),
        });
    }

    /// A member of a share group has room for another delivery in place of this one.
    pub fn room(&self, delivery: Trace, member: u64, turn: &mut Turn) {
        if delivery.source == 0 {
            return; // Most are from a Session's own queue: nothing is looked for.
        }
        if let Some(group) = self.groups.by_source(delivery.source) {
            turn.room_in_group(&group, member);
        }
    }

    /// As [`Broker::done`], for what its receiver will never get.
    pub fn dropped(
        &self,
        delivery: Trace,
        reason: DropReason,
        own: Option<SessionId>,
        turn: &mut Turn,
    ) {
        self.metrics.drops.add(reason, 1);
        self.done(delivery, own, turn);
    }

    /// Asks the store for messages that a Session's queue wants.
    pub fn fetch(&self, mailbox: &Arc<Mailbox>, ids: Vec<u64>) {
        let Some(queue) = mailbox.stored() else { return };
        let (me, mailbox) = (self.me.clone(), mailbox.clone());
        let answer = move |page| {
            let mut dropped = queue::Dropped::new();
            mailbox.page(page, &mut dropped);
            if let (Some(broker), false) = (me.upgrade(), dropped.is_empty()) {
                let mut turn = Turn::default();
                for (delivery, reason) in dropped {
                    broker.dropped(delivery, reason, Some(queue), &mut turn);
                }
                broker.finish(&mut turn, None);
            }
        };
        self.store.fetch(Fetch { queue, ids, answer: Box::new(answer) });
    }

    /// Does what an operator asks for with the store; for a thread that may wait.
    pub fn store_tool(&self, request: &Request) -> Result<String, ToolError> {
        self.store.carry_out(request)
    }

    /// The rules of access have been replaced: what was kept of their answers is void.
    pub fn rules_replaced(&self) {
        self.router.forget_kept();
        let mut turn = Turn::default();
        for group in self.groups.all() {
            group.rules_replaced(self.now(), turn.remainder());
        }
        self.finish(&mut turn, None);
    }

    /// Whether so much waits for the store that no more should be taken in.
    pub fn store_is_crowded(&self) -> bool {
        self.store.is_crowded()
    }

    /// What the store can do now.
    pub fn store_health(&self) -> Health {
        self.store.health()
    }

    /// Closes the store once everything that waits is committed. No connection may be left.
    pub fn close(&self) {
        self.store.close();
    }
}
