//! What is sent to a Client with QoS 1 and 2: Packet Identifiers, the window, what is in flight.
//!
//! ```text
//!  QoS 1:  Sent --PUBACK--> free
//!  QoS 2:  [Held --commit-->] Sent --PUBREC--> Relayed --PUBCOMP--> free
//!                                   PUBREC >= 0x80 ---------------> free
//! ```
//!
//! Invariants:
//! 1. An identifier belongs to at most one exchange [MQTT-2.2.1-4]: it leaves `free` when it is
//!    bound and returns when the exchange is over.
//! 2. Never more PUBLISH packets sent on this connection wait for their answer than the Receive
//!    Maximum [MQTT-3.3.4-9]. PUBREL needs no room: the window is one of PUBLISH packets
//!    [MQTT-3.3.4-10].
//! 3. An identifier whose delivery went back to its share group is not used again before the
//!    Client has answered for it: a late PUBACK must not pass for that of another message.
//! 4. Identifiers are as small as they can be, so the table is as large as the window was used;
//!    or, where they rise, [`RISING`] entries.

use std::collections::VecDeque;

use super::ProtocolError;
use super::connect::Manner;
use crate::codec::{PacketId, QoS};
use crate::message::Message;
use crate::queue::Delivery;

/// How many identifiers are used in turn where mosquitto uses all: whoever compares them looks at
/// the first ones, and the table has a place for each.
const RISING: usize = 256;

/// Where an exchange stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Bound to its identifier; the PUBLISH has not left yet.
    Held,
    /// The PUBLISH is sent.
    Sent,
    /// QoS 2: the Client has the message; PUBREL is due or sent.
    Relayed,
}

/// One exchange.
#[derive(Debug)]
struct Exchange {
    /// Place in the order of first sending.
    order: u64,
    phase: Phase,
    /// Whether it has a place in the window of this connection.
    counted: bool,
    /// Whether the store knows of it although it is QoS 1: an earlier connection left it.
    recorded: bool,
    /// The message, until the Client has it.
    delivery: Option<Delivery>,
}

/// What a PUBREC found.
#[derive(Debug)]
pub enum Relayed {
    /// A message under way, now at the Client.
    Now(Delivery),
    /// An exchange that had got there already.
    Before,
    /// No exchange.
    Unknown,
}

/// What a PUBREC with an error found.
#[derive(Debug)]
pub enum Refused {
    /// A message under way.
    Now(Delivery),
    /// An exchange whose message the Client had taken before.
    Late,
    /// No exchange.
    Unknown,
}

/// What is to be sent again on a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// The PUBLISH with this identifier.
    Publish(PacketId),
    /// The PUBREL with this identifier.
    PubRel(PacketId),
}

/// The Sender's half of the QoS flows.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// Made when it is first needed: most Clients that only wait for messages never need it.
    flow: Option<Box<Flow>>,
}

/// What is or was in flight.
#[derive(Debug, Default)]
struct Flow {
    /// By Packet Identifier less one.
    table: Vec<Option<Exchange>>,
    free: VecDeque<PacketId>,
    /// Identifiers that the Client may still answer for, of deliveries that went back to their
    /// share groups; the oldest first.
    retired: VecDeque<PacketId>,
    /// Exchanges of this connection.
    open: usize,
    next_order: u64,
    /// PUBLISH packets of an earlier connection that are not yet sent on this one, in order.
    again_publish: VecDeque<PacketId>,
    /// PUBREL packets, in order [MQTT-4.6.0-4].
    again_pubrel: VecDeque<PacketId>,
}

impl Outgoing {
    /// A new connection: everything in flight is to be sent again.
    pub fn connected(&mut self) {
        // What an earlier connection used is not kept for one that may need nothing.
        self.flow.take_if(|flow| flow.is_unused());
        let is_relayed = |id: &PacketId| self.phase(*id) == Some(Phase::Relayed);
        let (pubrel, publish): (VecDeque<_>, VecDeque<_>) =
            self.in_order().into_iter().partition(is_relayed);
        let Some(flow) = self.flow.as_deref_mut() else { return };
        flow.open = 0;
        for exchange in flow.table.iter_mut().flatten() {
            exchange.counted = false;
        }
        (flow.again_publish, flow.again_pubrel) = (publish, pubrel);
    }

    /// How many more deliveries may be sent, of so many at once.
    pub fn window_free(&self, window: u16) -> usize {
        let window = usize::from(window);
        match self.flow.as_deref() {
            None => window,
            Some(flow) if flow.again_publish.is_empty() => window.saturating_sub(flow.open),
            Some(_) => 0,
        }
    }

    /// How many exchanges are open, on this connection or left by an earlier one.
    pub fn in_flight(&self) -> usize {
        self.flow.iter().flat_map(|flow| flow.table.iter()).flatten().count()
    }

    /// Bytes of payload that are on their way on this connection.
    pub fn bytes_in_flight(&self) -> usize {
        let all = self.flow.iter().flat_map(|flow| flow.table.iter()).flatten();
        let open = all.filter(|exchange| exchange.counted);
        let delivered = open.filter_map(|exchange| exchange.delivery.as_ref());
        delivered.map(|delivery| delivery.message.payload().len()).sum()
    }

    /// Takes the identifier that is to be bound next.
    pub fn take_id(&mut self, manner: Manner) -> PacketId {
        self.flow.get_or_insert_default().next_id(manner)
    }

    /// Gives back an identifier to which nothing is bound after all.
    pub fn give_back_id(&mut self, packet_id: PacketId) {
        self.flow.get_or_insert_default().free.push_back(packet_id);
    }

    /// Binds a delivery to an identifier that was taken.
    pub fn bind(&mut self, packet_id: PacketId, delivery: Delivery, phase: Phase) {
        let flow = self.flow.get_or_insert_default();
        flow.open += 1;
        let (order, delivery) = (flow.take_order(), Some(delivery));
        flow.put(packet_id, Exchange { order, phase, counted: true, recorded: false, delivery });
    }

    /// The delivery to be written for a PUBLISH that was held or is sent again, which it now is;
    /// `None` when the exchange has ended meanwhile.
    pub fn send(&mut self, packet_id: PacketId) -> Option<&Delivery> {
        let exchange = self.exchange_mut(packet_id)?;
        exchange.phase = Phase::Sent;
        exchange.delivery.as_ref()
    }

    /// The delivery that is bound to an identifier.
    pub fn delivery(&self, packet_id: PacketId) -> Option<&Delivery> {
        self.exchange(packet_id)?.delivery.as_ref()
    }

    /// Whether something is to be sent again.
    pub fn has_again(&self) -> bool {
        let flow = self.flow.as_deref();
        flow.is_some_and(|flow| !flow.again_publish.is_empty() || !flow.again_pubrel.is_empty())
    }

    /// The next thing to be sent again: in the order of first sending while the window has room,
    /// then what needs none.
    pub fn next_again(&mut self, window: u16) -> Option<Again> {
        let window = usize::from(window);
        let flow = self.flow.as_deref_mut()?;
        loop {
            let pubrel = flow.again_pubrel.front().copied();
            let publish = flow.again_publish.front().copied();
            let publish = publish.filter(|_| flow.open < window);
            let comes_first =
                |publish| pubrel.is_none_or(|id| flow.order(publish) < flow.order(id));
            if let Some(packet_id) = publish.filter(|&publish| comes_first(publish)) {
                flow.again_publish.pop_front();
                let Some(exchange) = flow.exchange_mut(packet_id) else { continue };
                exchange.counted = true;
                if let (Phase::Sent, Some(delivery)) = (exchange.phase, &mut exchange.delivery) {
                    delivery.dup = true; // [MQTT-3.3.1-1]
                }
                flow.open += 1;
                return Some(Again::Publish(packet_id));
            }
            let packet_id = flow.again_pubrel.pop_front()?;
            if flow.exchange(packet_id).is_some_and(|exchange| exchange.phase == Phase::Relayed) {
                return Some(Again::PubRel(packet_id));
            }
        }
    }

    fn phase(&self, packet_id: PacketId) -> Option<Phase> {
        Some(self.exchange(packet_id)?.phase)
    }

    /// Whether a PUBLISH that is held has never been sent.
    pub fn is_held(&self, packet_id: PacketId) -> bool {
        self.phase(packet_id) == Some(Phase::Held)
    }

    /// A PUBACK has come: what it is for, and whether the store knows of the exchange.
    pub fn acknowledge(
        &mut self,
        packet_id: PacketId,
    ) -> Result<Option<(Delivery, bool)>, ProtocolError> {
        match self.sent_qos(packet_id) {
            None => {
                if let Some(flow) = self.flow.as_deref_mut() {
                    flow.unretire(packet_id);
                }
                Ok(None)
            }
            Some(1) => {
                let ended = self.end(packet_id);
                Ok(ended.and_then(|exchange| Some((exchange.delivery?, exchange.recorded))))
            }
            Some(_) => Err(ProtocolError::protocol("PUBACK for a PUBLISH of QoS 2")),
        }
    }

    /// A PUBREC has come that says yes.
    pub fn receive(&mut self, packet_id: PacketId) -> Result<Relayed, ProtocolError> {
        if self.sent_qos(packet_id) == Some(1) {
            return Err(ProtocolError::protocol("PUBREC for a PUBLISH of QoS 1"));
        }
        let Some(exchange) = self.exchange_mut(packet_id) else { return Ok(Relayed::Unknown) };
        match exchange.phase {
            Phase::Held => Ok(Relayed::Unknown),
            Phase::Relayed => Ok(Relayed::Before),
            Phase::Sent => {
                exchange.phase = Phase::Relayed;
                Ok(exchange.delivery.take().map_or(Relayed::Before, Relayed::Now))
            }
        }
    }

    /// A PUBREC has come that says no: the exchange is over [MQTT-4.3.3-4].
    pub fn refuse(&mut self, packet_id: PacketId) -> Result<Refused, ProtocolError> {
        match self.sent_qos(packet_id) {
            None => Ok(Refused::Unknown),
            Some(1) => Err(ProtocolError::protocol("PUBREC for a PUBLISH of QoS 1")),
            Some(_) => Ok(match self.end(packet_id).and_then(|exchange| exchange.delivery) {
                Some(delivery) => Refused::Now(delivery),
                None => Refused::Late,
            }),
        }
    }

    /// A PUBCOMP has come; false when it belongs to no exchange.
    pub fn complete(&mut self, packet_id: PacketId) -> Result<bool, ProtocolError> {
        match self.exchange_mut(packet_id).map(|exchange| exchange.phase) {
            None | Some(Phase::Held) => Ok(false),
            Some(Phase::Sent) => Err(ProtocolError::protocol("PUBCOMP before PUBREC")),
            Some(Phase::Relayed) => Ok(self.end(packet_id).is_some()),
        }
    }

    /// An exchange whose PUBLISH cannot be sent on this connection is over.
    pub fn drop_exchange(&mut self, packet_id: PacketId) -> Option<Delivery> {
        self.end(packet_id).and_then(|exchange| exchange.delivery)
    }

    /// Exchanges that the store remembers, in order: without a delivery the Client has the
    /// message; without an identifier it gets one that no other has. Messages up to `seen_to` may
    /// have been sent.
    pub fn restore(&mut self, sent: Vec<(Option<PacketId>, Option<Delivery>)>, seen_to: u64) {
        if sent.is_empty() {
            return;
        }
        let flow = self.flow.get_or_insert_default();
        for packet_id in sent.iter().filter_map(|(packet_id, _)| *packet_id) {
            while flow.table.len() < usize::from(packet_id.get()) {
                let unused = flow.grow();
                flow.free.push_back(unused);
            }
            flow.free.retain(|&free| free != packet_id);
        }
        for (packet_id, delivery) in sent {
            let recorded = packet_id.is_some();
            let phase = match &delivery {
                None => Phase::Relayed,
                Some(delivery) if recorded || delivery.message.id() <= seen_to => Phase::Sent,
                Some(_) => Phase::Held,
            };
            let packet_id = packet_id.unwrap_or_else(|| flow.take_id());
            let order = flow.take_order();
            flow.put(packet_id, Exchange { order, phase, counted: false, recorded, delivery });
        }
    }

    /// The deliveries of a share group that are in flight.
    pub fn held_of(&self, source: u32) -> impl Iterator<Item = &Delivery> {
        let all = self.flow.iter().flat_map(|flow| flow.table.iter()).flatten();
        let deliveries = all.filter_map(|exchange| exchange.delivery.as_ref());
        deliveries.filter(move |delivery| delivery.source == source)
    }

    /// See [`super::Session::give_back_shared`].
    pub fn give_back_shared(&mut self) -> Vec<(PacketId, Delivery)> {
        let ids = self.in_order();
        let Some(flow) = self.flow.as_deref_mut() else { return Vec::new() };
        let back = |id: PacketId| {
            let exchange = flow.exchange_mut(id)?;
            let delivery = exchange.delivery.as_ref().filter(|delivery| delivery.source != 0)?;
            let was_sent = exchange.phase == Phase::Sent;
            if delivery.qos == QoS::ExactlyOnce && was_sent {
                return None;
            }
            let unused = if was_sent { &mut flow.retired } else { &mut flow.free };
            unused.push_back(id);
            let mut delivery = flow.take_out(id)?.delivery?;
            if !was_sent {
                delivery.attempts = delivery.attempts.saturating_sub(1);
            }
            Some((id, delivery))
        };
        ids.into_iter().filter_map(back).collect()
    }

    /// Makes the deliveries of a share group that the Client has left its own: what has begun is
    /// completed [MQTT-3.10.4-3]. `rename` gives each its new message; the identifiers are
    /// returned.
    pub fn keep_shared(
        &mut self,
        source: u32,
        mut rename: impl FnMut(&Delivery) -> Message,
    ) -> Vec<PacketId> {
        let mut kept = Vec::new();
        let table = self.flow.iter_mut().flat_map(|flow| flow.table.iter_mut());
        for (slot, id) in table.zip(1..=u16::MAX) {
            let delivery = slot.as_mut().and_then(|exchange| exchange.delivery.as_mut());
            if let Some(delivery) = delivery.filter(|delivery| delivery.source == source) {
                delivery.message = rename(delivery);
                delivery.source = 0;
                kept.extend(PacketId::new(id));
            }
        }
        kept
    }

    /// The identifiers of the deliveries of QoS 1 that are sent and not acknowledged, in the order
    /// of first sending, which the store knows from now on; without those it knew before.
    pub fn put_on_record(&mut self) -> Vec<PacketId> {
        let mut ids = self.in_order();
        ids.retain(|&id| {
            let exchange = self.exchange_mut(id).filter(|exchange| !exchange.recorded);
            let is_open = |exchange: &&mut Exchange| {
                let delivery = exchange.delivery.as_ref().filter(|_| exchange.phase == Phase::Sent);
                delivery.is_some_and(|delivery| delivery.qos == QoS::AtLeastOnce)
            };
            exchange.filter(is_open).map(|exchange| exchange.recorded = true).is_some()
        });
        ids
    }

    /// Takes every message in flight, in the order of sending.
    pub fn abandon(&mut self) -> Vec<Delivery> {
        let ids = self.in_order();
        ids.into_iter().filter_map(|id| self.drop_exchange(id)).collect()
    }

    /// The identifiers in use, in the order of first sending.
    fn in_order(&self) -> Vec<PacketId> {
        let table = self.flow.iter().flat_map(|flow| flow.table.iter());
        let numbered = table.zip(1..=u16::MAX);
        let mut ids: Vec<(u64, PacketId)> = numbered
            .filter_map(|(slot, id)| Some((slot.as_ref()?.order, PacketId::new(id)?)))
            .collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// The QoS of a PUBLISH that is sent and not answered; 2 once the Client has it.
    fn sent_qos(&self, packet_id: PacketId) -> Option<u8> {
        let exchange = self.exchange(packet_id)?;
        match exchange.phase {
            Phase::Held => None,
            Phase::Sent => Some(exchange.delivery.as_ref().map_or(2, |d| d.qos as u8)),
            Phase::Relayed => Some(2),
        }
    }

    fn exchange(&self, packet_id: PacketId) -> Option<&Exchange> {
        self.flow.as_deref()?.exchange(packet_id)
    }

    fn exchange_mut(&mut self, packet_id: PacketId) -> Option<&mut Exchange> {
        self.flow.as_deref_mut()?.exchange_mut(packet_id)
    }

    fn end(&mut self, packet_id: PacketId) -> Option<Exchange> {
        let flow = self.flow.as_deref_mut()?;
        let exchange = flow.take_out(packet_id)?;
        flow.free.push_back(packet_id);
        Some(exchange)
    }
}

impl Flow {
    /// Whether nothing of it would be missed.
    fn is_unused(&self) -> bool {
        self.retired.is_empty() && self.table.iter().all(Option::is_none)
    }

    fn exchange(&self, packet_id: PacketId) -> Option<&Exchange> {
        self.table.get(index(packet_id))?.as_ref()
    }

    fn exchange_mut(&mut self, packet_id: PacketId) -> Option<&mut Exchange> {
        self.table.get_mut(index(packet_id))?.as_mut()
    }

    fn order(&self, packet_id: PacketId) -> Option<u64> {
        Some(self.exchange(packet_id)?.order)
    }

    /// The next place in the order of first sending.
    fn take_order(&mut self) -> u64 {
        self.next_order += 1;
        self.next_order - 1
    }

    fn put(&mut self, packet_id: PacketId, exchange: Exchange) {
        if let Some(slot) = self.table.get_mut(index(packet_id)) {
            *slot = Some(exchange);
        }
    }

    /// The Client has answered for a delivery that went back to its share group.
    fn unretire(&mut self, packet_id: PacketId) {
        if let Some(at) = self.retired.iter().position(|&retired| retired == packet_id) {
            self.retired.remove(at);
            self.free.push_back(packet_id);
        }
    }

    fn take_out(&mut self, packet_id: PacketId) -> Option<Exchange> {
        let exchange = self.table.get_mut(index(packet_id))?.take()?;
        self.open = self.open.saturating_sub(usize::from(exchange.counted));
        Some(exchange)
    }

    /// The identifier to be bound next.
    fn next_id(&mut self, manner: Manner) -> PacketId {
        match manner {
            Manner::Mosquitto if self.table.len() < RISING => self.grow(),
            _ => self.take_id(),
        }
    }

    /// An identifier that nothing is bound to: a free one, a new one, or, when there are no more,
    /// the one that has waited longest for a Client that does not answer.
    fn take_id(&mut self) -> PacketId {
        if let Some(free) = self.free.pop_front() {
            return free;
        }
        match self.retired.front() {
            Some(&oldest) if self.table.len() >= usize::from(u16::MAX) => {
                self.retired.pop_front();
                oldest
            }
            _ => self.grow(),
        }
    }

    /// One more identifier. Invariants 1 and 2 bound the table by the largest window.
    fn grow(&mut self) -> PacketId {
        self.table.push(None);
        let id = u16::try_from(self.table.len()).unwrap_or(u16::MAX);
        PacketId::new(id).unwrap_or(PacketId::MAX)
    }
}

fn index(packet_id: PacketId) -> usize {
    usize::from(packet_id.get()) - 1
}
