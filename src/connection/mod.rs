//! One Network Connection: the loop in which bytes become packets, packets become actions of the
//! broker, and answers and messages become bytes.
//!
//! A turn: take mail and deliveries; read once and handle every whole packet; let answers out;
//! hand the turn's changes and messages to the broker. Turns go on while they get something done,
//! up to a measure ([`PACKETS_MAX`]) after which all others have theirs. Then, or when it is much
//! ([`GATHER_MAX`]), what they have to say is written with one call: a message to oneself leaves
//! with its PUBACK. Who has published, and is told no more for now, lets those who get its messages
//! write first. The task sleeps until bytes come, the Client takes bytes, the mailbox rings, or the
//! Keep Alive runs out. Writing is one of these arms and never waited for in the middle: a Client
//! that does not read is still heard, until it owes us too much.
//!
//! Everything that a turn needs and an idle connection does not is lent by the thread
//! ([`scratch`]).

mod ahead;
mod alarms;
mod admission;
mod authenticate;
mod ending;
mod handle;
mod open;
mod opening;
mod pace;
mod report;
mod request;
mod scratch;
mod served;
mod turn;
#[cfg(test)]
mod tests;

use std::io;
use std::num::NonZeroU8;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::access::Access;
use crate::access::acl::guard::{Guard, Receives};
use crate::broker::Waiter;
use crate::broker::mailbox::Mail;
use crate::broker::publish::Publisher;
use crate::broker::registry::Lease;
use crate::broker::turn::Undelivered;
use crate::clock::Moment;
use crate::codec::{ReasonCode, Version};
use crate::doorman::Doorman;
use crate::doorman::seats::Seat;
use crate::net::listener::Permit;
use crate::net::transport::{Origin, Transport};
use crate::session::auth::Exchange;
use crate::store::{Outcome, Submitted};
use crate::wire::{Reader, Writer};
pub use admission::Admission;
pub use ahead::HELD;
use ahead::{Ahead, HELD_BACK_LOOK_MS};
use alarms::Alarm;
use authenticate::Awaited;
pub use ending::Ending;
pub use pace::Rates;
use pace::{Ear, Pace};
use request::Unfinished;
use scratch::Scratch;
pub use served::{Served, serve, serve_stream};
use turn::Next;

/// Settings of connections.
#[derive(Clone, Debug)]
pub struct Options {
    /// Longest time from the end of the handshake to a whole CONNECT packet.
    pub connect_timeout: Duration,
    /// Who may come.
    pub access: Arc<Access>,
    /// Who is slowed down or kept out for what it did before.
    pub doorman: Arc<Doorman>,
    /// Whether what these Clients do need not survive: their Sessions are not stored, and their
    /// messages are acknowledged before they are.
    pub in_memory: bool,
    /// What is asked of these Clients, and what they are granted.
    pub admission: Admission,
}

/// Bytes that a Client may leave unread before it gets no more messages from its queue. Of large
/// messages several are written at once (CPU time of 64 KiB ones: 0.91 of that with 256 KiB).
const DELIVER_BACKLOG_MAX: usize = 512 << 10;

/// The same while memory is short.
const DELIVER_BACKLOG_SHORT: usize = 16 << 10;

/// Bytes of a packet that is not whole yet, which a connection may hold while memory is full.
const UNFINISHED_MAX: usize = 256 << 10;

/// Bytes that a Client may leave unread before it is no longer heard.
const READ_BACKLOG_MAX: usize = 1 << 20;

/// Answers that may wait for the store before the Client is no longer heard: it is slowed down to
/// the speed of the disk.
const WAITING_ANSWERS_MAX: usize = 4096;

/// Bytes that turns gather before they are written although another turn follows at once.
const GATHER_MAX: usize = 64 << 10;

/// Turns without a pause before others of the same thread have theirs.
const TURNS_MAX: usize = 8;

/// Packets after which a turn is the last without a pause: so long, some fifty microseconds, a
/// Client that never stops has others wait.
const PACKETS_MAX: u64 = 256;

/// Bytes that are read at a time at least.
const GULP_LEAST: usize = 4 << 10;

/// Bytes of a packet before any has come, as a logarithm: as much as there is may be read.
const USUAL_LOG2: u8 = 10;

/// Time after which a turn is the last without a pause, and in a turn no further packet is handled,
/// in milliseconds: a PUBLISH may have to find its way through thousands of filters.
const TURNS_MS: u64 = 2;

/// A connection whose Client has been let in.
struct Connection {
    io: Transport,
    reader: Reader,
    writer: Writer,
    lease: Lease,
    /// Made when it first publishes.
    publisher: Option<Box<Publisher>>,
    peer: Origin,
    options: Arc<Options>,
    /// Who the Client is, and what it may do.
    guard: Arc<Guard>,
    /// What it may receive, as far as that was asked.
    receives: Receives,
    few: Option<Box<Few>>,
    version: Version,
    /// When the last packet came, or a good part of one; of a Client that is not listened to since
    /// it owes us too much: when it last took some of it.
    heard_at: Moment,
    /// Bytes of an unfinished packet that were there then.
    heard_len: u32,
    keep_alive_ms: u32,
    timer: Option<Timer>,
    /// Bytes of a packet of the kind that came last: the logarithm, rounded down.
    usual_log2: u8,
    /// Whether bytes that came with CONNECT have not been looked at.
    has_early_bytes: bool,
    /// When the next packet, a PUBLISH that the broker could not take, is tried again; the
    /// beginning of time when there is none such.
    held_back_until: Moment,
    /// While others have their turn: the thread's reads until then.
    gave_way: Option<NonZeroU8>,
    /// Held for its drop: the listener's count of connections.
    _permit: Option<Permit>,
}

/// What few connections have.
#[derive(Default)]
struct Few {
    /// The Client authenticates again.
    exchange: Option<Exchange>,
    /// What others will say of the token that it has given for that.
    verdict: Option<Awaited>,
    /// How fast it may be.
    pace: Option<Pace>,
    /// Whether the log says that it was too fast.
    was_slowed: bool,
    /// What stands behind a PUBLISH that is held.
    ahead: Ahead,
    /// What it has published and some have not got.
    undelivered: Option<Undelivered>,
    /// A request that has been carried out in part.
    unfinished: Option<Unfinished>,
    /// Held for their drop: where the connections of an address or a user are counted.
    _seats: Seats,
}

impl Few {
    /// Whether the connection is one of the few.
    fn is_needed(&self) -> bool {
        let Seats { of_address, of_user } = &self._seats;
        let is_bounded = self.pace.is_some() || of_address.is_some() || of_user.is_some();
        is_bounded || self.exchange.is_some() || self.is_at_work() || self.ahead.is_needed()
    }

    /// Whether something is not finished.
    fn is_at_work(&self) -> bool {
        self.unfinished.is_some() || self.undelivered.is_some()
    }
}

/// The seats of a connection.
#[derive(Default)]
struct Seats {
    of_address: Option<Seat>,
    of_user: Option<Seat>,
}

/// An alarm that is set.
struct Timer {
    due: Moment,
    /// Held for its drop.
    _alarm: Alarm,
}

impl Connection {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        let mut now = self.lease.broker.now();
        if self.guard.expires_at() <= now {
            return Poll::Ready(Ending::Expired);
        }
        Scratch::lend(|scratch| {
            let gave_way = self.gave_way.take();
            if gave_way.is_some_and(|reads| reads != scratch.reads) {
                // Who has been heard meanwhile woke others, which now stand behind this one.
                return if self.has_answers() {
                    after_those_woken(cx)
                } else {
                    after_the_others(cx)
                };
            }
            let (until, mut packets) = (now.after_ms(TURNS_MS), 0);
            for turn in 1..=TURNS_MAX {
                let turned = self.turn(cx, &mut now, scratch, gave_way.is_none());
                let tally = &scratch.turn.tally;
                let handled = tally.packets_received + tally.packets_sent;
                packets += handled;
                let is_busy = matches!(turned, Ok(Next::Turn));
                let is_last = turn == TURNS_MAX
                    || packets + handled > PACKETS_MAX // Another might be as long.
                    || self.is_at_work()
                    || is_busy && self.lease.broker.now() >= until;
                let gathers = is_busy && !is_last && self.writer.backlog() < GATHER_MAX;
                let written = if gathers { Ok(false) } else { self.write(cx, now, scratch) };
                self.lease.broker.metrics.traffic.add(&mut scratch.turn.tally);
                match turned.and_then(|next| Ok((next, written.map_err(Ending::Broken)?))) {
                    Err(ending) => return Poll::Ready(ending),
                    Ok((Next::GiveWay, _)) => {
                        self.gave_way = Some(scratch.reads);
                        return after_those_woken(cx);
                    }
                    Ok((Next::Rest, false)) => match self.sleep(cx, now) {
                        Some(ending) => return ending,
                        None if is_last => break,
                        None => {}
                    },
                    Ok(_) if is_last => break,
                    Ok(_) => {}
                }
            }
            self.gave_way = Some(scratch.reads);
            after_the_others(cx)
        })
    }

    /// Writes what the turns have gathered; true when the peer took only a part of it: a turn that
    /// ends with answers for the next one is not followed by sleep.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        now: Moment,
        scratch: &mut Scratch,
    ) -> io::Result<bool> {
        let backlog = self.writer.backlog();
        let polled = if self.writer.is_idle() {
            Poll::Ready(Ok(0))
        } else {
            self.writer.poll_write(cx, &mut self.io)
        };
        self.writer.give_back(&mut scratch.output);
        let Poll::Ready(written) = polled else { return Ok(false) };
        let written = written?;
        scratch.turn.tally.bytes_sent += written as u64;
        if written > 0 && backlog >= READ_BACKLOG_MAX {
            self.heard_at = now; // All that can be heard of it is that it takes something.
        }
        Ok(written > 0 && self.writer.backlog() > 0)
    }

    fn is_held_back(&self) -> bool {
        self.held_back_until != Moment::default()
    }

    /// Whether the Client is listened to: not while it owes us too much, and not while it has said
    /// more than it may.
    fn is_heard(&mut self, now: Moment) -> bool {
        if let Some(pace) = self.pace() {
            match pace.ear(now) {
                Ear::Shut => return false,
                Ear::Opens => (self.has_early_bytes, self.heard_at) = (true, now),
                Ear::Open => {}
            }
        }
        if self.is_held_back() {
            let broker = &self.lease.broker;
            if !broker.takes_messages() || broker.now() < self.held_back_until {
                return false;
            }
            self.try_again();
        }
        let broker = &self.lease.broker;
        let waiting = self.lease.parts.as_ref().map_or(0, |parts| parts.session.waiting_answers());
        let is_ahead = waiting > 0 && broker.store_is_crowded();
        self.writer.backlog() < READ_BACKLOG_MAX && waiting < WAITING_ANSWERS_MAX && !is_ahead
    }

    /// Bytes that the Client may leave unread before it gets no more messages from its queue.
    fn deliver_backlog_max(&self) -> usize {
        if self.lease.broker.memory_is_short() {
            DELIVER_BACKLOG_SHORT
        } else {
            DELIVER_BACKLOG_MAX
        }
    }

    /// Hands over what is retained for new subscriptions, once SUBACK has left.
    fn send_retained(&mut self, now: Moment, scratch: &mut Scratch) -> bool {
        let subscribes = self.is_subscribing();
        match self.lease.parts.as_mut() {
            Some(parts) if parts.session.may_deliver() && !subscribes => {
                self.lease.broker.send_retained(parts, now, &mut scratch.turn)
            }
            _ => false,
        }
    }

    /// Takes what the mailbox holds.
    fn take(&mut self, now: &mut Moment, scratch: &mut Scratch) -> Result<bool, Ending> {
        if self.lease.parts.as_ref().is_none_or(|parts| !parts.mailbox.is_used()) {
            return Ok(false);
        }
        let backlog = self.writer.backlog();
        let room = self.deliver_backlog_max().saturating_sub(backlog);
        let subscribes = self.is_subscribing();
        let Some(parts) = self.lease.parts.as_mut() else { return Ok(false) };
        let bytes = if parts.session.may_deliver() && !subscribes { room } else { 0 };
        let window = parts.session.window_free();
        let Scratch { mail, deliveries, .. } = scratch;
        let taken = parts.mailbox.take(window, bytes, mail, deliveries);
        if let Some(ids) = taken.wanted {
            self.lease.broker.fetch(&parts.mailbox, ids);
        }
        if !taken.any {
            return Ok(false);
        }
        let mut ending = None;
        let hoards = self.reader.kept() > UNFINISHED_MAX;
        for mail in scratch.mail.drain(..) {
            match mail {
                Mail::Committed { ticket, outcome: Outcome::Durable } => {
                    parts.session.committed(ticket);
                }
                Mail::Committed { outcome: Outcome::Failed, .. } => {
                    ending = Some(ReasonCode::QuotaExceeded);
                }
                Mail::Close(reason) => ending = Some(reason),
                Mail::MemoryFull if hoards => ending = Some(ReasonCode::QuotaExceeded),
                Mail::MemoryFull => {}
            }
        }
        if let Some(reason) = ending {
            parts.mailbox.give_back(scratch.deliveries.drain(..));
            return Err(Ending::Ended(reason));
        }
        if taken.is_from_afar {
            handle::look_at_all(&scratch.deliveries);
        }
        self.deliver(now, scratch);
        Ok(true)
    }

    /// Hands the turn to the broker, and closes the Session's ticket if something waits for it.
    fn hand_over(&mut self, now: Moment, scratch: &mut Scratch) {
        let broker = &self.lease.broker;
        let Some(parts) = self.lease.parts.as_mut() else { return };
        let turn = &mut scratch.turn;
        let needs_ticket = parts.session.needs_ticket();
        if !turn.has_changes() {
            if !turn.is_empty() {
                broker.finish_some(turn, None, now);
            }
            if needs_ticket && parts.session.all_committed() {
                let ticket = parts.session.close_ticket();
                parts.session.committed(ticket);
            }
            return;
        }
        if !needs_ticket {
            broker.finish_some(turn, None, now);
            return;
        }
        let ticket = parts.session.close_ticket();
        let mailbox = parts.mailbox.clone();
        let waiter = Waiter { mailbox, ticket };
        if broker.finish_some(turn, Some(waiter), now) == Submitted::Done {
            parts.session.committed(ticket);
        }
    }

    /// Hangs up the bell and sets the timer; `None`: the mailbox has something already.
    fn sleep(&mut self, cx: &mut Context<'_>, now: Moment) -> Option<Poll<Ending>> {
        if let Poll::Ready(ending) = self.poll_timer(cx, now) {
            return Some(Poll::Ready(ending));
        }
        let paced_ms = self.pace().and_then(|pace| pace.wait_ms(now));
        if let Some(look_ms) = self.is_held_back().then_some(HELD_BACK_LOOK_MS).or(paced_ms) {
            self.timer = None;
            if self.poll_sleep(cx, now, look_ms) {
                cx.waker().wake_by_ref();
            }
        }
        let has_room = self.writer.backlog() < self.deliver_backlog_max();
        let Some(parts) = self.lease.parts.as_mut() else {
            return Some(Poll::Ready(Ending::Closed));
        };
        parts.session.rest();
        if self.lease.broker.memory_is_short() {
            self.publisher = None; // It can be made anew.
        } else if let Some(publisher) = &mut self.publisher {
            publisher.rest();
        }
        let may_deliver = has_room && parts.session.may_deliver();
        let window_open = parts.session.window_free() > 0;
        parts.mailbox.sleep(window_open, may_deliver, cx.waker()).then_some(Poll::Pending)
    }

    /// Lazy: a packet only notes the time, and the timer looks at the note when it fires. Ready
    /// when the Client was silent for too long, or its proof of identity has expired.
    fn poll_timer(&mut self, cx: &mut Context<'_>, now: Moment) -> Poll<Ending> {
        let keep_alive_ms = self.keep_alive_ms.into();
        loop {
            let (mut left_ms, until) = (u64::MAX, self.guard.expires_at());
            if keep_alive_ms > 0 {
                left_ms = u64::saturating_sub(keep_alive_ms, now.since(self.heard_at));
                if left_ms == 0 {
                    return Poll::Ready(Ending::Silent);
                }
            }
            if until != Moment::NEVER {
                left_ms = left_ms.min(until.since(now));
                if left_ms == 0 {
                    return Poll::Ready(Ending::Expired);
                }
            }
            if left_ms == u64::MAX || !self.poll_sleep(cx, now, left_ms) {
                return Poll::Pending;
            }
        }
    }

    /// Sees to it that the task is woken in so many milliseconds or before; true: now.
    fn poll_sleep(&mut self, cx: &mut Context<'_>, now: Moment, ms: u64) -> bool {
        let is_due = match &mut self.timer {
            Some(timer) => timer.due <= now,
            none => {
                let _alarm = Alarm::after_ms(ms, cx.waker());
                *none = Some(Timer { due: now.after_ms(ms), _alarm });
                false
            }
        };
        self.timer.take_if(|_| is_due);
        is_due
    }
}

/// Has the task polled again after those that have been woken by now.
fn after_those_woken(cx: &mut Context<'_>) -> Poll<Ending> {
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Has the task polled again once the thread has looked who else has something to do: to be woken
/// at once would keep it from its sockets as long as there are tasks.
fn after_the_others(cx: &mut Context<'_>) -> Poll<Ending> {
    let _ = pin!(tokio::task::yield_now()).poll(cx);
    Poll::Pending
}
