//! A receiver as the rest of the broker sees it: a queue to push to and a bell to ring.
//!
//! A Session keeps its mailbox as long as it lives, so its queue fills while the Client is away.
//! The bell is the waker of the connection's task. It hangs there only while the task sleeps and
//! is taken down by the first ring: a bell already rung is not rung again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Waker;

use parking_lot::{Mutex, MutexGuard};

use super::desk::Bell;
use super::fate::Fate;
use super::memory::{Memory, Share};
use crate::access::acl::guard::Guard;
use crate::clock::Moment;
use crate::codec::{QoS, ReasonCode};
use crate::queue::{Delivery, Dropped, Fetched, Limits, Queue, Stored, Trace};
use crate::store::{Outcome, SessionId};

/// What others have to say to a connection's task.
#[derive(Debug)]
pub enum Mail {
    /// What the ticket stands for is durable, or could not be stored.
    Committed {
        /// The ticket.
        ticket: u64,
        /// Durable or not.
        outcome: Outcome,
    },
    /// The process has used up its memory: who holds much of it for nothing must end.
    MemoryFull,
    /// The connection must end and give the Session back, for this reason.
    Close(ReasonCode),
}

#[derive(Debug, Default)]
struct Inner {
    /// Made for the first message: many Clients wait for years.
    queue: Option<Box<Queue>>,
    share: Share,
    mail: Vec<Mail>,
    bell: Option<Bell>,
    /// Whether another worker has rung it since the last look.
    is_from_afar: bool,
    online: bool,
    /// Whether the store keeps messages of QoS 1 and 2 for the queue.
    in_store: bool,
    /// Who has the Session, and what it may do.
    guard: Arc<Guard>,
    /// Whether the Session is no more: what still arrives on routes resolved before is refused.
    ended: bool,
}

impl Inner {
    fn queue(&mut self) -> &mut Queue {
        let in_store = self.in_store;
        self.queue.get_or_insert_with(|| Box::new(Queue::of_session(in_store)))
    }

    /// Reports what the queue holds.
    fn report(&mut self, memory: &Memory) {
        let at_hand = self.queue.as_deref().map_or(0, Queue::at_hand);
        self.share.report(at_hand, memory);
    }

    fn has_ready(&self, window_open: bool, may_deliver: bool) -> bool {
        let has_ready =
            |queue: &Queue| queue.has_ready(window_open) || window_open && queue.wants_page();
        !self.mail.is_empty() || may_deliver && self.queue.as_deref().is_some_and(has_ready)
    }

    fn leave_to_store(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.leave_to_store();
        }
    }
}

/// A Session's mailbox.
#[derive(Debug)]
pub struct Mailbox {
    key: u64,
    /// The Session's identity in the store, when it outlives its connections; 0 is none.
    stored: SessionId,
    memory: Arc<Memory>,
    inner: Mutex<Inner>,
    /// Whether something may be there to take. Who adds something sets it, and who has taken all
    /// clears it, with `inner` locked; to look at it needs no lock: who then goes to sleep looks
    /// again with it.
    is_used: AtomicBool,
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.inner.get_mut().share.end(&self.memory);
    }
}

/// What pushes leave to be done: what found no room, and what queues want of the store.
#[derive(Debug, Default)]
pub struct Remainder {
    /// Deliveries that a queue had to let go.
    pub overflow: Dropped,
    /// QoS 0 deliveries for a Client that is away.
    pub offline: u64,
    /// QoS 0 deliveries for a share group that nobody takes from.
    pub no_consumer: u64,
    /// Deliveries for a Session or a share group that ended after the route to it was resolved,
    /// with its identity in the store.
    pub ended: Vec<(Trace, Option<SessionId>)>,
    /// Messages that share groups, by their marks, want to have at hand in a lane of their queues.
    pub wanted: Vec<(u32, usize, Vec<u64>)>,
    /// What declared queues, by their marks, cannot keep.
    pub spent: Vec<(u32, Delivery, Fate)>,
}

impl Remainder {
    /// Whether nothing is left to be done.
    pub fn is_empty(&self) -> bool {
        self.overflow.is_empty()
            && self.offline == 0
            && self.no_consumer == 0
            && self.ended.is_empty()
            && self.wanted.is_empty()
            && self.spent.is_empty()
    }
}

/// What was taken from a mailbox beside mail and deliveries.
#[derive(Debug, Default)]
pub struct Taken {
    /// Whether anything was.
    pub any: bool,
    /// Whether some may have been made by another worker.
    pub is_from_afar: bool,
    /// Messages that are wanted from the store, to come by [`Mailbox::page`].
    pub wanted: Option<Vec<u64>>,
}

impl Mailbox {
    /// An empty mailbox of a Client that is connected; `in_store`: its messages of QoS 1 and 2
    /// can be read back from the store.
    pub fn new(
        key: u64,
        stored: Option<SessionId>,
        in_store: bool,
        memory: Arc<Memory>,
        guard: Arc<Guard>,
    ) -> Arc<Self> {
        let in_store = in_store && stored.is_some();
        let inner = Mutex::new(Inner { online: true, in_store, guard, ..Inner::default() });
        let stored = stored.unwrap_or(SessionId(0));
        Arc::new(Self { key, stored, memory, inner, is_used: AtomicBool::new(false) })
    }

    /// The Session's identity in the store, when it outlives its connections.
    pub fn stored(&self) -> Option<SessionId> {
        Some(self.stored).filter(|stored| *stored != SessionId(0))
    }

    /// Who has the Session, or had it last, and what it may do.
    pub fn guard(&self) -> Arc<Guard> {
        self.inner.lock().guard.clone()
    }

    /// Somebody has the Session from now on.
    pub fn set_guard(&self, guard: Arc<Guard>) {
        self.inner.lock().guard = guard;
    }

    /// Whether the Client is connected.
    pub fn is_online(&self) -> bool {
        self.inner.lock().online
    }

    /// Locks it, to add something.
    fn add(&self) -> MutexGuard<'_, Inner> {
        let inner = self.inner.lock();
        self.is_used.store(true, Relaxed);
        inner
    }

    /// Adds deliveries, in order, and rings the bell once.
    pub fn push(
        &self,
        deliveries: impl Iterator<Item = Delivery>,
        limits: &Limits,
        now: Moment,
        remainder: &mut Remainder,
    ) {
        let mut inner = self.add();
        // Nobody is there to take what the store keeps anyhow.
        let at_hand_max = if inner.online { limits.at_hand_max } else { 0 };
        let qos0_max = if inner.online { limits.qos0_max } else { 0 };
        let limits = self.memory.bound(&Limits { at_hand_max, qos0_max, ..*limits });
        for delivery in deliveries {
            if inner.ended {
                remainder.ended.push((delivery.trace(), self.stored()));
            } else if delivery.qos == QoS::AtMostOnce && !inner.online && !limits.keeps_qos0 {
                remainder.offline += 1;
            } else {
                inner.queue().push(delivery, &limits, now, &mut remainder.overflow);
            }
        }
        self.release(inner);
    }

    /// Reports what the queue holds, lets go of the lock, and rings the bell.
    fn release(&self, mut inner: MutexGuard<'_, Inner>) {
        inner.report(&self.memory);
        let bell = inner.bell.take();
        inner.is_from_afar |= bell.as_ref().is_some_and(Bell::is_afar);
        drop(inner);
        if let Some(bell) = bell {
            bell.ring();
        }
    }

    /// Puts deliveries that were taken and not sent back where they were.
    pub fn give_back(&self, deliveries: impl DoubleEndedIterator<Item = Delivery>) {
        self.add().queue().give_back(deliveries);
    }

    /// Leaves mail and rings the bell.
    pub fn post(&self, mail: Mail) {
        let mut inner = self.add();
        inner.mail.push(mail);
        self.release(inner);
    }

    /// Whether something may be there to take.
    #[inline]
    pub fn is_used(&self) -> bool {
        self.is_used.load(Relaxed)
    }

    /// Takes all mail, and deliveries: QoS 1 and 2 as many as `window`, all together until they
    /// weigh `bytes` or others should have their turn.
    pub fn take(
        &self,
        mut window: usize,
        mut bytes: usize,
        mail: &mut Vec<Mail>,
        deliveries: &mut VecDeque<Delivery>,
    ) -> Taken {
        let mut inner = self.inner.lock();
        mail.append(&mut inner.mail);
        let may_deliver = bytes > 0;
        let mut wanted = None;
        if let Some(queue) = &mut inner.queue {
            let mut left = queue.portion();
            if queue.take_all(window, bytes, left, deliveries) {
                left = 0;
            }
            while bytes > 0 && left > 0 {
                left -= 1;
                let Some(delivery) = queue.take(window > 0) else { break };
                bytes = bytes.saturating_sub(delivery.message.weight());
                window -= usize::from(delivery.qos != QoS::AtMostOnce);
                deliveries.push_back(delivery);
            }
            queue.rests();
            wanted =
                if window > 0 && may_deliver { queue.wanted(self.memory.is_short()) } else { None };
        }
        inner.report(&self.memory);
        self.is_used.store(inner.queue.as_deref().is_some_and(|queue| !queue.is_empty()), Relaxed);
        let any = !mail.is_empty() || !deliveries.is_empty();
        Taken { any, is_from_afar: std::mem::take(&mut inner.is_from_afar), wanted }
    }

    /// The messages that were wanted; what the store has lost is added to `dropped`.
    pub fn page(&self, page: Vec<Fetched>, dropped: &mut Dropped) {
        let mut inner = self.add();
        inner.queue().page(page, dropped);
        if !inner.online {
            inner.leave_to_store();
        }
        self.release(inner);
    }

    /// Leaves to the store what it keeps anyhow, because memory is short.
    pub fn leave_to_store(&self) {
        let mut inner = self.inner.lock();
        inner.leave_to_store();
        self.release(inner);
    }

    /// Puts back what the store remembers at a start, for a Client that is away.
    pub fn restore(&self, entries: impl Iterator<Item = Stored>) {
        self.add().queue().restore(entries);
    }

    /// Whether there is mail, or something to take or to ask the store for where that is allowed.
    pub fn has_ready(&self, window_open: bool, may_deliver: bool) -> bool {
        self.is_used() && self.inner.lock().has_ready(window_open, may_deliver)
    }

    /// Hangs up the bell, unless there already is something to do.
    pub fn sleep(&self, window_open: bool, may_deliver: bool, bell: &Waker) -> bool {
        let mut inner = self.inner.lock();
        if inner.has_ready(window_open, may_deliver) {
            return false;
        }
        match &inner.bell {
            Some(hung) if hung.is_of(bell) => {}
            _ => inner.bell = Some(Bell::new(bell)),
        }
        true
    }

    /// The Client is gone: its bell is taken down and QoS 0 is no longer kept, except where it
    /// `keeps_qos0`. Returns how many QoS 0 messages are dropped by that and what share groups
    /// had lent.
    pub fn disconnected(&self, keeps_qos0: bool) -> (usize, Vec<Delivery>) {
        let mut inner = self.inner.lock();
        inner.online = false;
        inner.bell = None;
        inner.mail = Vec::new();
        let Some(queue) = &mut inner.queue else { return (0, Vec::new()) };
        let lent = unsent(queue.extract(|delivery| delivery.source != 0));
        queue.leave_to_store();
        let cleared = if keeps_qos0 { 0 } else { queue.clear_qos0() };
        inner.queue.take_if(|queue| queue.is_empty());
        inner.report(&self.memory);
        (cleared, lent)
    }

    /// Takes out what a share group had lent and nobody has taken, in order.
    pub fn give_up(&self, source: u32) -> Vec<Delivery> {
        let lent = |queue: &mut Box<Queue>| queue.extract(|delivery| delivery.source == source);
        unsent(self.inner.lock().queue.as_mut().map(lent).unwrap_or_default())
    }

    /// The Client is back. Nobody can have asked this connection to end yet: who did meant the
    /// one before.
    pub fn reconnected(&self) {
        let mut inner = self.inner.lock();
        inner.online = true;
        inner.mail.retain(|mail| !matches!(mail, Mail::Close(_)));
    }

    /// Takes everything that is ready, for a Session that ends, and everything to come is refused.
    pub fn end(&self) -> Vec<Trace> {
        let mut inner = self.inner.lock();
        inner.ended = true;
        inner.queue.take().map(|mut queue| queue.clear()).unwrap_or_default()
    }

    /// Messages that are ready, and their bytes.
    pub fn waiting(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        inner.queue.as_deref().map_or((0, 0), |queue| (queue.len(), queue.bytes()))
    }
}

/// Deliveries that a declared queue has lent in vain: that does not count.
fn unsent(mut lent: Vec<Delivery>) -> Vec<Delivery> {
    for delivery in &mut lent {
        delivery.attempts = delivery.attempts.saturating_sub(1);
    }
    lent
}

impl Mailbox {
    /// What tells this receiver from others.
    pub fn key(&self) -> u64 {
        self.key
    }
}
