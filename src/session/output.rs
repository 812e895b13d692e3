//! The answers a Client waits for, in the order in which they must leave.

use std::cell::Cell;
use std::collections::VecDeque;

use super::connect::Manner;
use super::outgoing::Again;
use super::{Delivered, ProtocolError, Session, auth};
use crate::clock::Moment;
use crate::codec::property::{PropertyBuffer, PropertyId};
use crate::codec::{
    Ack, Auth, EncodeError, Packet, PacketId, PacketType, Properties, QoS, ReasonCode, SubAck,
    Version, publish,
};
use crate::message::output::{HELD_BYTES, Output};
use crate::metrics::DropReason;
use crate::queue::Delivery;
use crate::session::outgoing::Phase;

/// A packet that leaves in its turn.
#[derive(Debug)]
pub enum Answer {
    /// QoS 1 message accepted or refused.
    PubAck {
        /// Its identifier.
        packet_id: PacketId,
        /// The verdict.
        reason: ReasonCode,
    },
    /// QoS 2 message accepted or refused.
    PubRec {
        /// Its identifier.
        packet_id: PacketId,
        /// The verdict.
        reason: ReasonCode,
    },
    /// QoS 2 message that the Client has.
    PubRel {
        /// Its identifier.
        packet_id: PacketId,
        /// Whether the identifier belongs to an exchange.
        known: bool,
    },
    /// QoS 2 exchange over.
    PubComp {
        /// Its identifier.
        packet_id: PacketId,
        /// Success, or that the identifier is not known.
        reason: ReasonCode,
    },
    /// A QoS 2 message that was held until its identifier was durable.
    Publish {
        /// Its identifier.
        packet_id: PacketId,
    },
    /// Subscriptions made.
    SubAck {
        /// The SUBSCRIBE's identifier.
        packet_id: PacketId,
        /// A Reason Code for each filter.
        reasons: Box<[u8]>,
        /// Why a filter was refused, in words.
        why: Option<Box<str>>,
    },
    /// A step of authenticating again, or its good end.
    Auth {
        /// Continue authentication or Success.
        reason: ReasonCode,
        /// Authentication Data.
        data: Box<[u8]>,
    },
    /// Subscriptions ended.
    UnsubAck {
        /// The UNSUBSCRIBE's identifier.
        packet_id: PacketId,
        /// A Reason Code for each filter.
        reasons: Box<[u8]>,
    },
}

type List = VecDeque<(u64, Answer)>;

/// Answers that there is room for in a list that a thread keeps.
const SPARE_MAX: usize = 64;

thread_local! {
    /// An empty list for who next has something to answer: most have one answer, and rest.
    static SPARE: Cell<List> = const { Cell::new(List::new()) };
}

/// Answers in order, each with the ticket it waits for.
#[derive(Debug)]
pub struct Answers {
    queue: List,
    open_ticket: u64,
    /// Whether an answer waits for the open ticket.
    open_is_used: bool,
    durable_ticket: u64,
    pings: u32,
    waiting_subacks: u32,
    /// Messages that are held; those after them wait behind them, whatever their QoS above 0.
    held: u32,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            open_ticket: 1,
            open_is_used: false,
            durable_ticket: 0,
            pings: 0,
            waiting_subacks: 0,
            held: 0,
        }
    }
}

impl Answers {
    /// What an earlier connection did not answer is not answered on this one. Tickets go on: an
    /// old one that comes late must not pass for a new one.
    pub fn connected(&mut self) {
        self.queue = VecDeque::new();
        self.open_is_used = false;
        self.pings = 0;
        self.waiting_subacks = 0;
        self.held = 0;
    }

    /// Adds an answer; `waits`: for the open ticket.
    pub fn push(&mut self, answer: Answer, waits: bool) {
        match answer {
            Answer::SubAck { .. } => self.waiting_subacks += 1,
            Answer::Publish { .. } => self.held += 1,
            _ => {}
        }
        self.open_is_used |= waits;
        if self.queue.capacity() == 0 {
            self.queue = SPARE.take();
        }
        self.queue.push_back((if waits { self.open_ticket } else { 0 }, answer));
    }

    /// A PINGREQ was received. Its answer does not wait for others: a slow disk is not a dead
    /// connection.
    pub fn ping(&mut self) {
        self.pings = self.pings.saturating_add(1);
    }

    /// Whether the open ticket is waited for.
    pub fn needs_ticket(&self) -> bool {
        self.open_is_used
    }

    /// Closes the open ticket and returns its number.
    pub fn close_ticket(&mut self) -> u64 {
        let ticket = self.open_ticket;
        self.open_ticket += 1;
        self.open_is_used = false;
        ticket
    }

    /// Everything up to this ticket is durable.
    pub fn committed(&mut self, ticket: u64) {
        self.durable_ticket = self.durable_ticket.max(ticket);
    }

    /// Whether every ticket that was closed is durable.
    pub fn all_committed(&self) -> bool {
        self.durable_ticket + 1 == self.open_ticket
    }

    /// Answers that have not left.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Whether the first of them waits for nothing.
    pub fn has_ready(&self) -> bool {
        self.queue.front().is_some_and(|(ticket, _)| *ticket <= self.durable_ticket)
    }

    /// The same, where that is no message.
    pub fn has_acknowledgement(&self) -> bool {
        let is_message = matches!(self.queue.front(), Some((_, Answer::Publish { .. })));
        self.pings > 0 || self.has_ready() && !is_message
    }

    /// Whether anything may leave.
    pub fn has_any(&self) -> bool {
        self.pings > 0 || self.has_ready()
    }

    /// Whether a SUBACK has not left.
    pub fn has_waiting_suback(&self) -> bool {
        self.waiting_subacks > 0
    }

    /// Gives back memory that an idle Session does not need.
    pub fn rest(&mut self) {
        if self.queue.is_empty() && self.queue.capacity() > 0 {
            let list = std::mem::take(&mut self.queue);
            if list.capacity() <= SPARE_MAX {
                SPARE.set(list);
            }
        }
    }

    fn poll(&mut self) -> Option<Answer> {
        if !self.has_ready() {
            return None;
        }
        let (_, answer) = self.queue.pop_front()?;
        match answer {
            Answer::SubAck { .. } => self.waiting_subacks = self.waiting_subacks.saturating_sub(1),
            Answer::Publish { .. } => self.held = self.held.saturating_sub(1),
            _ => {}
        }
        Some(answer)
    }
}

/// What [`Session::poll_answer`] did.
#[derive(Debug)]
pub enum Polled {
    /// Nothing is ready.
    Nothing,
    /// A packet was written.
    Written,
    /// A message that was in flight cannot be sent on this connection.
    Dropped(PacketId, Delivery, DropReason),
}

impl Session {
    /// Writes the next answer that may leave into `out`, or, if there `may` be one `again`, what
    /// an earlier connection left. Fails when the Client's Maximum Packet Size is too small for an
    /// answer that it must get.
    pub fn poll_answer(
        &mut self,
        now: Moment,
        may_again: bool,
        out: &mut Output,
    ) -> Result<Polled, ProtocolError> {
        if self.answers.pings > 0 {
            self.answers.pings -= 1;
            self.write(&Packet::PingResp, out)?;
            return Ok(Polled::Written);
        }
        if let Some(answer) = self.answers.poll() {
            return self.write_answer(answer, now, out);
        }
        match may_again.then(|| self.outgoing.next_again(self.terms.send_window)).flatten() {
            None => Ok(Polled::Nothing),
            Some(Again::Publish(packet_id)) => Ok(self.write_bound(packet_id, now, out)),
            Some(Again::PubRel(packet_id)) => {
                self.write_answer(Answer::PubRel { packet_id, known: true }, now, out)
            }
        }
    }

    fn write_answer(
        &mut self,
        answer: Answer,
        now: Moment,
        out: &mut Output,
    ) -> Result<Polled, ProtocolError> {
        let properties = Properties::EMPTY;
        match answer {
            Answer::PubAck { packet_id, reason } => {
                self.incoming.answered();
                self.write_ack(PacketType::PubAck, packet_id, reason, out)?;
            }
            Answer::PubRec { packet_id, reason } => {
                if reason.is_error() {
                    self.incoming.answered();
                }
                self.write_ack(PacketType::PubRec, packet_id, reason, out)?;
            }
            Answer::PubRel { packet_id, known } => {
                let unknown = ReasonCode::PacketIdentifierNotFound;
                let reason = if known { ReasonCode::Success } else { unknown };
                self.write_ack(PacketType::PubRel, packet_id, reason, out)?;
            }
            Answer::PubComp { packet_id, reason } => {
                self.incoming.answered();
                self.write_ack(PacketType::PubComp, packet_id, reason, out)?;
            }
            Answer::Publish { packet_id } => return Ok(self.write_bound(packet_id, now, out)),
            Answer::SubAck { packet_id, reasons, why } => {
                self.write_suback(packet_id, &reasons, why.as_deref(), out)?;
            }
            Answer::Auth { reason, data } => {
                let method = self.terms.authentication_method().unwrap_or_default();
                let properties = auth::properties(method, &data);
                let properties = properties.as_properties();
                self.write(&Packet::Auth(Auth { reason, properties }), out)?;
            }
            Answer::UnsubAck { packet_id, reasons } => {
                let reasons = &reasons;
                self.write(&Packet::UnsubAck(SubAck { packet_id, properties, reasons }), out)?;
            }
        }
        Ok(Polled::Written)
    }

    /// Appends a SUBACK, with the reason in words where there is room for it [MQTT-3.9.2-1].
    fn write_suback(
        &self,
        packet_id: PacketId,
        reasons: &[u8],
        why: Option<&str>,
        out: &mut Output,
    ) -> Result<(), ProtocolError> {
        let mut said = PropertyBuffer::new();
        if let Some(why) = why.filter(|_| self.terms.wants_reasons) {
            said.str(PropertyId::ReasonString, why);
            let properties = said.as_properties();
            let suback = Packet::SubAck(SubAck { packet_id, properties, reasons });
            if self.write(&suback, out).is_ok() {
                return Ok(());
            }
        }
        let properties = Properties::EMPTY;
        self.write(&Packet::SubAck(SubAck { packet_id, properties, reasons }), out)
    }

    /// Appends a packet.
    fn write(&self, packet: &Packet<'_>, out: &mut Output) -> Result<(), ProtocolError> {
        self.write_within(out, |version, out| packet.encode(version, out))
    }

    /// The same for an acknowledgement, which is not wrapped for it.
    fn write_ack(
        &self,
        kind: PacketType,
        packet_id: PacketId,
        reason: ReasonCode,
        out: &mut Output,
    ) -> Result<(), ProtocolError> {
        let ack = Ack { packet_id, reason, properties: Properties::EMPTY };
        self.write_within(out, |version, out| ack.encode(kind, version, out))
    }

    /// Appends what `encode` does, within the Client's Maximum Packet Size [MQTT-3.1.2-24].
    #[inline]
    fn write_within(
        &self,
        out: &mut Output,
        encode: impl FnOnce(Version, &mut Vec<u8>) -> Result<(), EncodeError>,
    ) -> Result<(), ProtocolError> {
        let out = out.bytes();
        let start = out.len();
        let too_large = ProtocolError {
            reason: ReasonCode::PacketTooLarge,
            what: "the Client's Maximum Packet Size leaves no room for an answer",
        };
        encode(self.terms.version, out).map_err(|_| too_large)?;
        if out.len() - start > self.terms.maximum_packet_size() {
            out.truncate(start);
            return Err(too_large);
        }
        Ok(())
    }

    /// See [`Session::deliver`].
    pub(super) fn write_delivery(
        &mut self,
        delivery: Delivery,
        now: Moment,
        out: &mut Output,
    ) -> Delivered {
        let manner = self.terms.manner;
        if delivery.is_expired(now) {
            if manner == Manner::Mosquitto && delivery.qos != QoS::AtMostOnce {
                // There it has its identifier from when it is queued.
                let unused = self.outgoing.take_id(manner);
                self.outgoing.give_back_id(unused);
            }
            return Delivered::Dropped { delivery, reason: DropReason::Expired }; // [MQTT-3.3.2-5]
        }
        if delivery.qos == QoS::AtMostOnce {
            if !self.write_publish(&delivery, None, now, out) {
                let reason = DropReason::TooLargeForReceiver;
                return Delivered::Dropped { delivery, reason };
            }
            delivery.message.end();
            return Delivered::Sent;
        }
        let packet_id = self.outgoing.take_id(manner);
        let is_shared = delivery.source != 0;
        if (delivery.qos == QoS::ExactlyOnce && (self.terms.durable || is_shared))
            || delivery.attempts > 0
        {
            // Its binding is made durable first, so that a crash cannot bind the message to
            // another identifier, or another Client, and have it taken twice; and so is how often
            // a declared queue has handed it out.
            self.outgoing.bind(packet_id, delivery, Phase::Held);
            self.answers.push(Answer::Publish { packet_id }, true);
            return Delivered::Held { packet_id };
        }
        if self.answers.held > 0 {
            // Messages keep their order across QoS 1 and 2, which nobody must rely on and many do.
            self.outgoing.bind(packet_id, delivery, Phase::Held);
            self.answers.push(Answer::Publish { packet_id }, false);
            return Delivered::InFlight;
        }
        if !self.write_publish(&delivery, Some(packet_id), now, out) {
            self.outgoing.give_back_id(packet_id);
            return Delivered::Dropped { delivery, reason: DropReason::TooLargeForReceiver };
        }
        self.outgoing.bind(packet_id, delivery, Phase::Sent);
        Delivered::InFlight
    }

    /// Writes a PUBLISH whose delivery is bound to an identifier.
    fn write_bound(&mut self, packet_id: PacketId, now: Moment, out: &mut Output) -> Polled {
        let was_held = self.outgoing.is_held(packet_id);
        let Some(delivery) = self.outgoing.send(packet_id).cloned() else {
            return Polled::Written;
        };
        if was_held && delivery.is_expired(now) {
            // Its delivery has not begun [MQTT-3.3.2-5].
            return match self.outgoing.drop_exchange(packet_id) {
                Some(delivery) => Polled::Dropped(packet_id, delivery, DropReason::Expired),
                None => Polled::Written,
            };
        }
        if self.write_publish(&delivery, Some(packet_id), now, out) {
            return Polled::Written;
        }
        match self.outgoing.drop_exchange(packet_id) {
            Some(d) => Polled::Dropped(packet_id, d, DropReason::TooLargeForReceiver),
            None => Polled::Written,
        }
    }

    /// Appends a PUBLISH; false when it is larger than the Client takes [MQTT-3.1.2-25].
    fn write_publish(
        &mut self,
        delivery: &Delivery,
        packet_id: Option<PacketId>,
        now: Moment,
        out: &mut Output,
    ) -> bool {
        let message = &delivery.message;
        let version = self.terms.version;
        let mut outgoing = publish::Outgoing {
            dup: delivery.dup && packet_id.is_some(), // [MQTT-3.3.1-2]
            qos: delivery.qos,
            retain: delivery.retain,
            topic: self.terms.unmounted(message.topic()),
            packet_id,
            topic_alias: None,
            message_expiry_s: None,
            subscription_ids: &[],
            delivery_count: delivery.attempts,
            properties: message.properties(),
            payload: message.payload(),
        };
        if version == Version::V5 {
            outgoing.message_expiry_s = message.expiry_left_s(now);
            outgoing.subscription_ids =
                delivery.subscription_ids.as_ref().map_or(&[][..], |ids| &ids.slice);
        }
        // Judged with the topic in full: an alias is not given to what may not be sent.
        if outgoing.encoded_len(version) > self.terms.maximum_packet_size() {
            return false;
        }
        if self.terms.send_alias_maximum > 0 {
            let alias =
                self.outgoing_aliases.alias_of(outgoing.topic, self.terms.send_alias_maximum);
            let is_known = alias.is_some_and(|(_, known)| known);
            outgoing.topic_alias = alias.map(|(alias, _)| alias);
            if is_known {
                outgoing.topic = &[];
            }
            // An alias is longer than a short topic.
            if outgoing.encoded_len(version) > self.terms.maximum_packet_size() {
                outgoing.topic_alias = None;
                outgoing.topic = self.terms.unmounted(message.topic());
                if !is_known {
                    self.outgoing_aliases.forget_last();
                }
            }
        }
        if outgoing.payload.len() < HELD_BYTES {
            outgoing.encode(version, out.bytes());
        } else {
            outgoing.encode_head(version, out.bytes());
            out.hold(message.clone());
        }
        true
    }
}
