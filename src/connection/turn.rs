//! A turn: what is done between two looks at others, and what is best done next.
//!
//! A turn that leaves nothing to do is the last: its read has found that there are no more bytes,
//! and its mailbox has nothing to take. Another turn, only to see that, costs as much as a small
//! packet (a lone message of QoS 1: 0.83 of the instructions with it).

use std::task::Context;

use super::scratch::Scratch;
use super::{Connection, Ending, READ_BACKLOG_MAX};
use crate::clock::Moment;
use crate::metrics::Tally;
use crate::session::output::Polled;

/// Packets of a turn after which another read may follow in it.
const LITTLE: u64 = 64;

/// Reads of a turn: what they bring may take long to be handled.
const READS_MAX: usize = 3;

/// What follows a turn.
pub(super) enum Next {
    /// Another, which may find something to do.
    Turn,
    /// Sleep, when what there is to write is written.
    Rest,
    /// Those who get what the Client has published have their turns before it is answered.
    GiveWay,
}

impl Connection {
    /// One turn, but for writing; whether it `may_give_way`. It looks at the clock again if `now`
    /// must not be before a message was published.
    pub(super) fn turn(
        &mut self,
        cx: &mut Context<'_>,
        now: &mut Moment,
        scratch: &mut Scratch,
        may_give_way: bool,
    ) -> Result<Next, Ending> {
        self.writer.borrow(&mut scratch.output);
        let result = self.act(cx, now, scratch);
        let now = *now;
        let is_drained = matches!(result, Ok((_, true)));
        let result = result.map(|(busy, _)| busy);
        let gives_way = may_give_way && is_drained && self.lets_others_write(&scratch.turn.tally);
        let result = match result {
            Ok(busy) if gives_way => Ok(busy),
            Ok(busy) => self.answer(now, scratch).map(|any| busy | any),
            // The store may have failed to keep what would be acknowledged.
            Err(ending @ Ending::Ended(_)) => Err(ending),
            Err(ending) => {
                self.acknowledge(now, scratch); // What came before it was all right.
                Err(ending)
            }
        };
        if matches!(result, Ok(false)) {
            return Ok(Next::Rest);
        }
        // Whatever ended the turn, what it began is handed over: the broker's books and the store's
        // must agree.
        self.hand_over(now, scratch);
        self.keep_undelivered(&mut scratch.turn);
        if gives_way && result.is_ok() {
            return Ok(Next::GiveWay);
        }
        let result = result.and_then(|_| self.answer(now, scratch));
        if scratch.turn.has_changes() {
            // Of what could not be sent. They must not come after those of another connection.
            self.lease.broker.finish(&mut scratch.turn, None);
        }
        result.map(|_| if is_drained && self.may_rest() { Next::Rest } else { Next::Turn })
    }

    /// Takes what there is for the Client, and hears it: whether there was anything, and whether no
    /// more bytes are there, so that the task is woken when some come.
    fn act(
        &mut self,
        cx: &mut Context<'_>,
        now: &mut Moment,
        scratch: &mut Scratch,
    ) -> Result<(bool, bool), Ending> {
        // Answers that waited come first: messages of a Client to itself after their PUBACK.
        let mut busy = self.has_answers() && self.answer(*now, scratch)?;
        self.hear_verdict(cx, *now)?;
        busy |= self.take(now, scratch)?;
        let now = *now;
        busy |= self.send_retained(now, scratch);
        let mut is_drained = false;
        if self.is_at_work() {
            self.go_on(&mut scratch.turn);
            busy = true;
        } else if self.is_heard(now) {
            let (any, drained) = self.read_all(cx, now, scratch, busy)?;
            (busy, is_drained) = (busy | any, drained);
        } else if self.writer.backlog() < READ_BACKLOG_MAX {
            // Nobody is silent whom the broker does not listen to.
            self.heard_at = now;
            busy |= self.look_ahead(cx, now, scratch)?;
        }
        Ok((busy, is_drained))
    }

    /// Acknowledges what came before the connection's end, as far as no message stands before
    /// that. Who says goodbye does not look for messages, and one of QoS 2 would be nobody else's.
    fn acknowledge(&mut self, now: Moment, scratch: &mut Scratch) {
        let Some(parts) = self.lease.parts.as_mut() else { return };
        while parts.session.has_acknowledgement() {
            match parts.session.poll_answer(now, false, self.writer.output()) {
                Ok(Polled::Written) => scratch.turn.tally.packets_sent += 1,
                _ => return,
            }
        }
    }

    /// Reads, and again where that was little: whether any bytes came, and whether there are no
    /// more; `busy`: whether the task was woken for something else.
    fn read_all(
        &mut self,
        cx: &mut Context<'_>,
        now: Moment,
        scratch: &mut Scratch,
        busy: bool,
    ) -> Result<(bool, bool), Ending> {
        let mut any = false;
        for _ in 0..READS_MAX {
            if (any || busy) && !self.has_early_bytes && self.io.is_silent(cx) {
                return Ok((any, true));
            }
            match self.read(cx, now, scratch) {
                Ok(false) => return Ok((any, true)),
                Ok(true) => any = true,
                // Found again, when what came before has been seen to.
                Err(Ending::Closed) if any => break,
                Err(ending) => return Err(ending),
            }
            let is_little = scratch.turn.tally.packets_received <= LITTLE && self.few.is_none();
            if !is_little || self.has_early_bytes || !self.is_heard(now) {
                break;
            }
        }
        Ok((any, false))
    }

    /// Whether answers to what has been published wait until those who get it have had their turn.
    fn lets_others_write(&self, tally: &Tally) -> bool {
        tally.messages_received > 0 && self.writer.backlog() == 0 && self.has_answers()
    }

    /// Whether there is an answer that may leave.
    pub(super) fn has_answers(&self) -> bool {
        self.lease.parts.as_ref().is_some_and(|parts| parts.session.has_answer())
    }

    /// Whether another turn would find nothing to do, where no more bytes have come.
    fn may_rest(&mut self) -> bool {
        let has_room = self.writer.backlog() < self.deliver_backlog_max();
        let Some(parts) = self.lease.parts.as_mut().filter(|_| has_room && self.few.is_none())
        else {
            return false;
        };
        let session = &mut parts.session;
        session.retained_due.first().is_none()
            && !parts.mailbox.has_ready(session.window_free() > 0, session.may_deliver())
    }
}
