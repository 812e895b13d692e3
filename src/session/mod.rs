//! One Client's side of the protocol: MQTT chapters 3 and 4 without I/O, locks or a clock.
//!
//! The contract: [`Session::handle`] judges a packet and returns the one [`Action`] that it asks
//! of the broker. What the broker then did comes back as an answer (`published`, `subscribed`,
//! `committed`, ...). Bytes for the Client come out of [`Session::deliver`], for a message from
//! the queue, and [`Session::poll_answer`], for everything else: call it until it says that
//! nothing is ready. Time is always an argument.
//!
//! **Tickets.** Some answers may leave only once the store has committed what the broker gave it.
//! The Session does not know what that was or how long it takes: such an answer carries the open
//! ticket. The driver closes the ticket when it hands its changes to the store
//! ([`Session::close_ticket`]) and says [`Session::committed`] when they are durable. All answers
//! leave in the order in which they were given, so PUBACK and PUBREC packets follow the order of
//! their PUBLISH packets [MQTT-4.6.0-2, MQTT-4.6.0-3].
//!
//! What outlives a connection is the Session State of [MQTT-4.1.0-1]: subscriptions, what is in
//! flight in either direction, the Will until it is spent. [`Session::connected`] begins the next
//! connection on it.

pub mod alias;
pub mod auth;
pub mod connect;
pub mod incoming;
pub mod outgoing;
pub mod output;
pub mod record;
pub mod subscriptions;
pub mod will;

use std::sync::Arc;

use crate::clock::Moment;
use crate::codec::{
    Ack, Auth, Disconnect, Packet, PacketId, PacketType, Publish, ReasonCode, Subscribe,
    Unsubscribe, Version,
};
use crate::message::Message;
use crate::message::output::Output;
use crate::metrics::DropReason;
use crate::queue::Delivery;
use alias::{IncomingAliases, OutgoingAliases};
use connect::{Manner, Terms};
use incoming::Incoming;
use outgoing::{Outgoing, Refused, Relayed};
use output::{Answer, Answers};
use subscriptions::{RetainedDue, Subscriptions};
use will::Will;

/// Why a Network Connection must be closed: the Client broke a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {what}")]
pub struct ProtocolError {
    /// What an MQTT 5.0 Client is told.
    pub reason: ReasonCode,
    /// What an operator is told.
    pub what: &'static str,
}

impl ProtocolError {
    /// A Protocol Error (0x82) in the narrow sense.
    pub const fn protocol(what: &'static str) -> Self {
        Self { reason: ReasonCode::ProtocolError, what }
    }
}

/// The Topic Name that a PUBLISH means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topic<'p> {
    /// It stands in the packet.
    Named(&'p str),
    /// A Topic Alias stands for it.
    Aliased(Arc<str>),
}

impl Topic<'_> {
    /// The Topic Name.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Named(topic) => topic,
            Self::Aliased(topic) => topic,
        }
    }
}

/// What a packet asks of the broker. The answer to each is the method named.
#[derive(Debug)]
pub enum Action<'p> {
    /// Nothing: the Session has dealt with it.
    None,
    /// Distribute a message; answer a QoS above 0 with [`Session::published`].
    Publish {
        /// The packet.
        publish: Publish<'p>,
        /// The topic it means.
        topic: Topic<'p>,
    },
    /// A delivery is done with, to be forgotten by queue and store.
    Finished {
        /// What was delivered.
        delivery: Delivery,
        /// Whether the Client took it or refused it.
        refused: bool,
        /// The identifier of an exchange that is over with it, if the store knows of it.
        exchange: Option<PacketId>,
    },
    /// QoS 2: the Client has the message, which can be forgotten; its Packet Identifier cannot.
    /// PUBREL leaves as [`Session::relayed`] says.
    Relayed {
        /// The identifier.
        packet_id: PacketId,
        /// What was delivered.
        delivery: Delivery,
    },
    /// QoS 2: the exchange of an outgoing message is over; its Packet Identifier is free.
    Completed {
        /// The identifier.
        packet_id: PacketId,
    },
    /// QoS 2: the Client released an incoming Packet Identifier. PUBCOMP leaves as
    /// [`Session::released`] says.
    Release {
        /// The identifier.
        packet_id: PacketId,
    },
    /// Subscribe; answer with [`Session::subscribed`].
    Subscribe(Subscribe<'p>),
    /// Unsubscribe; answer with [`Session::unsubscribed`].
    Unsubscribe(Unsubscribe<'p>),
    /// Begin to authenticate again, or go on with it; answer with [`Session::authenticated`].
    Authenticate(Auth<'p>),
    /// Close the Network Connection: the Client is leaving. The Session has already forgotten
    /// the Will if it was a normal disconnection [MQTT-3.14.4-3].
    Disconnect {
        /// What the Client says.
        reason: ReasonCode,
    },
}

/// What became of a delivery.
#[derive(Debug)]
pub enum Delivered {
    /// It is in the output and done with: QoS 0.
    Sent,
    /// It is in the output and waits for the Client's acknowledgement.
    InFlight,
    /// QoS 2 of a durable Session, or from a declared queue: it leaves, with the open ticket, once
    /// the binding of its Packet Identifier is durable, and how often it was handed out.
    Held {
        /// The identifier that was bound to it.
        packet_id: PacketId,
    },
    /// It cannot be sent.
    Dropped {
        /// The delivery.
        delivery: Delivery,
        /// Why.
        reason: DropReason,
    },
}

/// A Client's Session.
#[derive(Debug)]
pub struct Session {
    client_id: Arc<str>,
    terms: Terms,
    /// Seconds that the Session outlives its connection; `u32::MAX` for ever.
    expiry_s: u32,
    will: Option<Box<Will>>,
    /// The broker's hold on this Client's filters.
    pub subscriptions: Subscriptions,
    /// Those whose retained messages have not all been handed over.
    pub retained_due: RetainedDue,
    incoming: Incoming,
    outgoing: Outgoing,
    /// Messages with identities up to this may have been sent before a crash; see
    /// [`Session::restore`].
    seen_to: u64,
    answers: Answers,
    incoming_aliases: IncomingAliases,
    outgoing_aliases: OutgoingAliases,
}

impl Session {
    /// A new Session, on the terms of its first connection.
    pub fn new(client_id: Arc<str>, terms: Terms, will: Option<Box<Will>>) -> Self {
        Self {
            client_id,
            expiry_s: terms.session_expiry_s,
            will,
            subscriptions: Subscriptions::default(),
            retained_due: RetainedDue::default(),
            incoming: Incoming::default(),
            outgoing: Outgoing::default(),
            seen_to: 0,
            answers: Answers::default(),
            incoming_aliases: IncomingAliases::default(),
            outgoing_aliases: OutgoingAliases::default(),
            terms,
        }
    }

    /// The next connection of an existing Session: what was in flight will be sent again, in the
    /// order in which it was first sent [MQTT-4.4.0-1]; aliases and quotas begin anew.
    pub fn connected(&mut self, terms: Terms, will: Option<Box<Will>>) {
        self.expiry_s = terms.session_expiry_s;
        self.will = will;
        self.incoming.connected();
        self.outgoing.connected();
        self.answers.connected();
        self.incoming_aliases = IncomingAliases::default();
        self.outgoing_aliases = OutgoingAliases::default();
        self.terms = terms;
    }

    /// The Client Identifier.
    pub fn client_id(&self) -> &Arc<str> {
        &self.client_id
    }

    /// What was agreed for this connection.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The protocol version of this connection.
    pub fn version(&self) -> Version {
        self.terms.version
    }

    /// Seconds that the Session outlives its connection; `u32::MAX` for ever.
    pub fn expiry_s(&self) -> u32 {
        self.expiry_s
    }

    /// The Will, when one is set and not spent.
    pub fn will(&self) -> Option<&Will> {
        self.will.as_deref()
    }

    /// Takes the Will out, to be published or forgotten.
    pub fn take_will(&mut self) -> Option<Box<Will>> {
        self.will.take()
    }

    /// Judges a packet; the Network Connection must be closed when it breaks a rule.
    pub fn handle<'p>(&mut self, packet: Packet<'p>) -> Result<Action<'p>, ProtocolError> {
        match packet {
            Packet::Publish(publish) => Ok(match self.handle_publish(&publish)? {
                Some(topic) => Action::Publish { publish, topic },
                None => Action::None,
            }),
            Packet::PubAck(ack) => self.handle_ack(PacketType::PubAck, ack),
            Packet::PubRec(ack) => self.handle_ack(PacketType::PubRec, ack),
            Packet::PubRel(ack) => self.handle_ack(PacketType::PubRel, ack),
            Packet::PubComp(ack) => self.handle_ack(PacketType::PubComp, ack),
            Packet::Subscribe(subscribe) => Ok(Action::Subscribe(subscribe)),
            Packet::Unsubscribe(unsubscribe) => Ok(Action::Unsubscribe(unsubscribe)),
            Packet::PingReq => {
                self.answers.ping();
                Ok(Action::None)
            }
            Packet::Disconnect(disconnect) => self.handle_disconnect(&disconnect),
            Packet::Auth(auth) if self.terms.authentication_method.is_some() => {
                Ok(Action::Authenticate(auth))
            }
            Packet::Auth(_) => Err(ProtocolError::protocol("AUTH without Authentication Method")),
            // [MQTT-3.1.0-2]
            Packet::Connect(_) => Err(ProtocolError::protocol("a second CONNECT")),
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                Err(ProtocolError::protocol("a packet that only a Server may send"))
            }
        }
    }

    /// The same for a PUBLISH, which is not wrapped and unwrapped for it: the topic of a message
    /// to be distributed, or none.
    #[inline]
    pub fn handle_publish<'p>(
        &mut self,
        publish: &Publish<'p>,
    ) -> Result<Option<Topic<'p>>, ProtocolError> {
        self.terms.check_publish(publish)?;
        let topic = self.incoming_aliases.resolve(publish, self.terms.topic_alias_maximum)?;
        if let Some(packet_id) = publish.packet_id {
            let fresh = self.incoming.begin(packet_id, publish.qos, self.terms.receive_maximum)?;
            if !fresh {
                // The first copy's fate is settled or will be before this answer leaves: the
                // answers are in order and this one waits for what is under way [MQTT-4.3.3-10].
                let reason = ReasonCode::Success;
                self.answers.push(Answer::PubRec { packet_id, reason }, true);
                return Ok(None);
            }
        }
        Ok(Some(topic))
    }

    /// The same for an acknowledgement, of one of its four types.
    #[inline]
    pub fn handle_ack<'p>(
        &mut self,
        kind: PacketType,
        ack: Ack<'_>,
    ) -> Result<Action<'p>, ProtocolError> {
        match kind {
            PacketType::PubAck => self.handle_puback(ack),
            PacketType::PubRec => self.handle_pubrec(ack),
            PacketType::PubRel => Ok(self.handle_pubrel(ack)),
            _ => self.handle_pubcomp(ack),
        }
    }

    /// The broker has dealt with a PUBLISH of QoS 1 or 2. `waits`: its acknowledgement leaves
    /// with the open ticket.
    pub fn published(&mut self, publish: &Publish<'_>, reason: ReasonCode, waits: bool) {
        let Some(packet_id) = publish.packet_id else { return };
        let is_mosquitto = self.terms.manner == Manner::Mosquitto;
        let answer = match publish.qos {
            crate::codec::QoS::ExactlyOnce => {
                if reason.is_error() {
                    // [MQTT-4.3.3-9]: a refused identifier may be used again at once.
                    self.incoming.forget(packet_id);
                }
                // There nobody knows yet who is subscribed.
                let is_open = is_mosquitto && reason == ReasonCode::NoMatchingSubscribers;
                let reason = if is_open { ReasonCode::Success } else { reason };
                Answer::PubRec { packet_id, reason }
            }
            _ => Answer::PubAck { packet_id, reason },
        };
        self.answers.push(answer, waits);
    }

    /// The broker could do nothing with a PUBLISH, which is to be handled again later as if it
    /// had not come.
    pub fn withdraw(&mut self, publish: &Publish<'_>) {
        if let Some(packet_id) = publish.packet_id {
            self.incoming.forget(packet_id);
            self.incoming.answered();
        }
    }

    fn handle_puback<'p>(&mut self, ack: Ack<'_>) -> Result<Action<'p>, ProtocolError> {
        Ok(match self.outgoing.acknowledge(ack.packet_id)? {
            Some((delivery, recorded)) => Action::Finished {
                delivery,
                refused: ack.reason.is_error(),
                exchange: recorded.then_some(ack.packet_id),
            },
            None => Action::None,
        })
    }

    fn handle_pubrec<'p>(&mut self, ack: Ack<'_>) -> Result<Action<'p>, ProtocolError> {
        let packet_id = ack.packet_id;
        if ack.reason.is_error() {
            return Ok(match self.outgoing.refuse(packet_id)? {
                Refused::Now(delivery) => {
                    Action::Finished { delivery, refused: true, exchange: Some(packet_id) }
                }
                Refused::Late => Action::Completed { packet_id },
                Refused::Unknown => Action::None,
            });
        }
        Ok(match self.outgoing.receive(packet_id)? {
            Relayed::Now(delivery) => Action::Relayed { packet_id, delivery },
            Relayed::Before => {
                self.answers.push(Answer::PubRel { packet_id, known: true }, true);
                Action::None
            }
            Relayed::Unknown => {
                self.answers.push(Answer::PubRel { packet_id, known: false }, false);
                Action::None
            }
        })
    }

    /// The broker has noted a PUBREC; PUBREL leaves, with the open ticket if it `waits`.
    pub fn relayed(&mut self, packet_id: PacketId, waits: bool) {
        self.answers.push(Answer::PubRel { packet_id, known: true }, waits);
    }

    fn handle_pubrel<'p>(&mut self, ack: Ack<'_>) -> Action<'p> {
        let packet_id = ack.packet_id;
        if self.incoming.release(packet_id) {
            return Action::Release { packet_id };
        }
        let reason = match self.terms.manner {
            Manner::Own => ReasonCode::PacketIdentifierNotFound,
            Manner::Mosquitto => ReasonCode::Success,
        };
        self.answers.push(Answer::PubComp { packet_id, reason }, false);
        Action::None
    }

    /// The broker has forgotten an incoming Packet Identifier; PUBCOMP leaves, with the open
    /// ticket if it `waits`.
    pub fn released(&mut self, packet_id: PacketId, waits: bool) {
        self.answers.push(Answer::PubComp { packet_id, reason: ReasonCode::Success }, waits);
    }

    fn handle_pubcomp<'p>(&mut self, ack: Ack<'_>) -> Result<Action<'p>, ProtocolError> {
        let packet_id = ack.packet_id;
        let known = self.outgoing.complete(packet_id)?;
        Ok(if known { Action::Completed { packet_id } } else { Action::None })
    }

    fn handle_disconnect<'p>(
        &mut self,
        disconnect: &Disconnect<'_>,
    ) -> Result<Action<'p>, ProtocolError> {
        if let Some(expiry_s) = disconnect.properties.session_expiry_interval() {
            // [MQTT-3.14.2-2] and "0 cannot be changed at DISCONNECT", section 3.14.2.2.2.
            if self.terms.asked_session_expiry_s == 0 && expiry_s != 0 {
                return Err(ProtocolError::protocol("Session Expiry set by DISCONNECT, 0 before"));
            }
            self.expiry_s = expiry_s.min(self.terms.session_expiry_max_s);
        }
        if disconnect.reason == ReasonCode::Success {
            self.will = None; // [MQTT-3.1.2-10, MQTT-3.14.4-3]
        }
        Ok(Action::Disconnect { reason: disconnect.reason })
    }

    /// The broker has dealt with a SUBSCRIBE: a Reason Code for each Topic Filter, in order
    /// [MQTT-3.8.4-6]. `waits`: SUBACK leaves with the open ticket.
    /// `why` says in words why a filter was refused.
    pub fn subscribed(
        &mut self,
        packet_id: PacketId,
        reasons: Box<[u8]>,
        why: Option<Box<str>>,
        waits: bool,
    ) {
        self.answers.push(Answer::SubAck { packet_id, reasons, why }, waits);
    }

    /// The broker has dealt with an UNSUBSCRIBE; as [`Session::subscribed`].
    pub fn unsubscribed(&mut self, packet_id: PacketId, reasons: Box<[u8]>, waits: bool) {
        self.answers.push(Answer::UnsubAck { packet_id, reasons }, waits);
    }

    /// The broker has dealt with an AUTH: the Client must say more, or has proven itself again.
    pub fn authenticated(&mut self, reason: ReasonCode, data: &[u8]) {
        self.answers.push(Answer::Auth { reason, data: data.into() }, false);
    }

    /// The connection has nothing to do for a while: memory that is not needed meanwhile goes.
    pub fn rest(&mut self) {
        self.answers.rest();
    }

    /// How many deliveries of QoS 1 and 2 may be taken from the queue now; 0 while what an
    /// earlier connection left must go first.
    pub fn window_free(&self) -> usize {
        let free = self.outgoing.window_free(self.terms.send_window);
        let Some(special) = &self.terms.special else { return free };
        match special.inflight_bytes_max {
            usize::MAX => free,
            // One by one, so that each is weighed before the next.
            max if self.outgoing.bytes_in_flight() < max => free.min(1),
            _ => 0,
        }
    }

    /// Whether messages may be sent now: a SUBACK that is waiting goes before the messages that
    /// its subscription brings.
    pub fn may_deliver(&self) -> bool {
        !self.answers.has_waiting_suback()
    }

    /// Writes a message from the queue into `out`. Take no more of QoS 1 and 2 than
    /// [`Session::window_free`] says.
    pub fn deliver(&mut self, delivery: Delivery, now: Moment, out: &mut Output) -> Delivered {
        self.write_delivery(delivery, now, out)
    }

    /// Closes the open ticket: what waits for it is what is now handed to the store.
    pub fn close_ticket(&mut self) -> u64 {
        self.answers.close_ticket()
    }

    /// Everything up to this ticket is durable.
    pub fn committed(&mut self, ticket: u64) {
        self.answers.committed(ticket);
    }

    /// Whether an answer waits for the open ticket, so that it must be closed.
    pub fn needs_ticket(&self) -> bool {
        self.answers.needs_ticket()
    }

    /// Whether everything handed to the store is durable.
    pub fn all_committed(&self) -> bool {
        self.answers.all_committed()
    }

    /// Answers that wait for the store, a measure of how far the Client is ahead of the disk.
    pub fn waiting_answers(&self) -> usize {
        self.answers.waiting()
    }

    /// Whether there is an answer that need not wait for the store.
    pub fn has_answer(&self) -> bool {
        self.answers.has_ready()
    }

    /// The same, where the first is no message.
    pub fn has_acknowledgement(&self) -> bool {
        self.answers.has_acknowledgement()
    }

    /// Whether [`Session::poll_answer`] may find something.
    pub fn owes(&self) -> bool {
        self.answers.has_any() || self.outgoing.has_again()
    }

    /// What of QoS 1 a connection that has ended leaves behind, to be put on record, so that also
    /// after a crash it is sent again in order, with its identifiers and with DUP
    /// [MQTT-4.4.0-1, MQTT-4.6.0-1, MQTT-3.3.1-1].
    pub fn put_on_record(&mut self) -> Vec<PacketId> {
        self.outgoing.put_on_record()
    }

    /// What is in flight to the Client.
    pub fn outgoing(&self) -> &Outgoing {
        &self.outgoing
    }

    /// Puts back what the store remembers of the exchanges, in the order of sending (without an
    /// identifier: it gets any, since nobody has noted which it was), and up to which identity the
    /// messages of the queue may have been sent: they carry DUP until they are acknowledged, over
    /// any number of crashes [MQTT-3.3.1-1].
    pub fn restore(
        &mut self,
        received: &[PacketId],
        sent: Vec<(Option<PacketId>, Option<Delivery>)>,
        seen_to: u64,
    ) {
        self.seen_to = seen_to;
        for &packet_id in received {
            self.incoming.restore(packet_id);
        }
        self.outgoing.restore(sent, seen_to);
    }

    /// Takes the unacknowledged deliveries that came from share groups, in the order of sending,
    /// with the Packet Identifiers that they had: they go back to their groups when the connection
    /// ends. QoS 2 that has left stays with its Client [MQTT-4.8.2-4], and is not sent to another
    /// when the Session ends [MQTT-4.8.2-5].
    pub fn give_back_shared(&mut self) -> Vec<(PacketId, Delivery)> {
        self.outgoing.give_back_shared()
    }

    /// The deliveries of a share group that are in flight.
    pub fn held_of(&self, source: u32) -> impl Iterator<Item = &Delivery> {
        self.outgoing.held_of(source)
    }

    /// See [`Outgoing::keep_shared`].
    pub fn keep_shared(
        &mut self,
        source: u32,
        rename: impl FnMut(&Delivery) -> Message,
    ) -> Vec<PacketId> {
        self.outgoing.keep_shared(source, rename)
    }

    /// Takes everything in flight, in the order of sending; for a Session that ends.
    pub fn abandon(&mut self) -> Vec<Delivery> {
        self.outgoing.abandon()
    }
}

#[cfg(test)]
mod tests;
