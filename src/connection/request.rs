//! What takes long and is done part by part: SUBSCRIBE and UNSUBSCRIBE, of which a packet may have
//! a million Topic Filters, and a PUBLISH that very many get. The other Clients of the thread want
//! to be heard too.
//!
//! While something is not finished the Client is not listened to. It gets no messages before
//! SUBACK: those of its new subscriptions come after that. What it waits for is answered meanwhile.

use std::num::NonZeroU32;

use super::Connection;
use crate::broker::Broker;
use crate::broker::registry::Parts;
use crate::broker::subscribe::Answered;
use crate::broker::turn::Turn;
use crate::codec::{PacketId, Subscribe, Unsubscribe, Version, subscribe, unsubscribe};
use crate::store::{Change, SessionId};

/// What is asked for.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// With this Subscription Identifier.
    Subscribe(Option<NonZeroU32>),
    Unsubscribe,
}

/// A request, as far as it has been carried out.
#[derive(Debug)]
struct Request {
    kind: Kind,
    version: Version,
    packet_id: PacketId,
    answered: Answered,
}

/// A request with the Topic Filters that are left.
#[derive(Debug)]
pub(super) struct Unfinished {
    request: Request,
    filters: Box<[u8]>,
    /// Bytes of them that are done with.
    at: usize,
}

impl Connection {
    /// A SUBSCRIBE has come.
    pub(super) fn subscribe(&mut self, subscribe: &Subscribe<'_>, turn: &mut Turn) {
        let kind = Kind::Subscribe(subscribe.properties.subscription_identifiers().next());
        self.begin(kind, subscribe.packet_id, subscribe.filters().rest(), turn);
    }

    /// An UNSUBSCRIBE has come.
    pub(super) fn unsubscribe(&mut self, unsubscribe: &Unsubscribe<'_>, turn: &mut Turn) {
        let filters = unsubscribe.filters();
        self.begin(Kind::Unsubscribe, unsubscribe.packet_id, filters.rest(), turn);
    }

    fn begin(&mut self, kind: Kind, packet_id: PacketId, filters: &[u8], turn: &mut Turn) {
        let Some(parts) = self.lease.parts.as_mut() else { return };
        let answered = Answered::default();
        let mut request = Request { kind, version: self.version, packet_id, answered };
        let left = request.carry_out(&self.lease.broker, parts, filters, turn);
        if left.is_empty() {
            request.answer(parts);
        } else {
            let unfinished = Unfinished { request, filters: left.into(), at: 0 };
            self.few.get_or_insert_default().unfinished = Some(unfinished);
        }
    }

    /// Goes on with what is not finished.
    pub(super) fn go_on(&mut self, turn: &mut Turn) {
        if let Some(few) = self.few.as_mut()
            && let Some(undelivered) = few.undelivered.as_mut()
        {
            if !undelivered.go_on(turn) {
                few.undelivered = None;
                self.is_finished();
            }
            return;
        }
        let Some(parts) = self.lease.parts.as_mut() else { return };
        let Some(few) = self.few.as_mut() else { return };
        let Some(Unfinished { mut request, filters, at }) = few.unfinished.take() else { return };
        let rest = filters.get(at..).unwrap_or_default();
        let left = request.carry_out(&self.lease.broker, parts, rest, turn).len();
        if left > 0 {
            let at = filters.len().saturating_sub(left);
            few.unfinished = Some(Unfinished { request, filters, at });
            return;
        }
        if parts.mailbox.stored().is_some() && !turn.has_changes() {
            // Whatever it is, it waits for what was changed in the turns before this one.
            turn.change(Change::Finished { message: 0, session: SessionId(0) });
        }
        request.answer(parts);
        self.is_finished();
    }

    /// What came behind it has its turn.
    fn is_finished(&mut self) {
        self.has_early_bytes = true;
        self.few.take_if(|few| !few.is_needed());
    }

    /// Keeps what of the turn some have not got.
    pub(super) fn keep_undelivered(&mut self, turn: &mut Turn) {
        if let Some(undelivered) = turn.undelivered(&self.lease.broker) {
            let few = self.few.get_or_insert_default();
            few.undelivered = Some(undelivered);
        }
    }

    /// Gives some more receivers what is theirs; false when there was nothing to do.
    pub(super) fn give_more(&mut self) -> bool {
        let Some(few) = self.few.as_mut() else { return false };
        let Some(undelivered) = few.undelivered.as_mut() else { return false };
        let mut turn = Turn::default();
        if !undelivered.go_on(&mut turn) {
            few.undelivered = None;
        }
        self.lease.broker.finish(&mut turn, None);
        true
    }

    /// Whether there is something that is not finished.
    pub(super) fn is_at_work(&self) -> bool {
        self.few.as_ref().is_some_and(|few| few.is_at_work())
    }

    /// Whether it is a SUBSCRIBE.
    pub(super) fn is_subscribing(&self) -> bool {
        let unfinished = self.few.as_ref().and_then(|few| few.unfinished.as_ref());
        unfinished.is_some_and(|u| matches!(u.request.kind, Kind::Subscribe(_)))
    }
}

impl Request {
    /// Carries out a part; what is left of the Topic Filters.
    fn carry_out<'f>(
        &mut self,
        broker: &Broker,
        parts: &mut Parts,
        filters: &'f [u8],
        turn: &mut Turn,
    ) -> &'f [u8] {
        match self.kind {
            Kind::Subscribe(id) => {
                let mut filters = subscribe::Filters::of(filters, self.version);
                broker.subscribe(parts, &mut filters, id, &mut self.answered, turn);
                filters.rest()
            }
            Kind::Unsubscribe => {
                let mut filters = unsubscribe::Filters::of(filters);
                broker.unsubscribe(parts, &mut filters, &mut self.answered, turn);
                filters.rest()
            }
        }
    }

    /// Has the answer leave, with the open ticket where what was changed must survive.
    fn answer(self, parts: &mut Parts) {
        let Answered { reasons, why } = self.answered;
        let waits = parts.mailbox.stored().is_some();
        match self.kind {
            Kind::Subscribe(_) => {
                parts.session.subscribed(self.packet_id, reasons.into(), why, waits);
            }
            Kind::Unsubscribe => parts.session.unsubscribed(self.packet_id, reasons.into(), waits),
        }
    }
}
