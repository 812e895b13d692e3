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
//! 2. Never more exchanges of this connection are open than the Receive Maximum
//!    [MQTT-3.3.4-9]; those of an earlier connection count once they are sent again.
//! 3. Identifiers are as small as they can be, so the table is as large as the window was used.

use std::collections::VecDeque;

use super::ProtocolError;
use crate::codec::PacketId;
use crate::queue::Delivery;

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

/// What is to be sent again on a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// The PUBLISH with this identifier.
    Publish(PacketId),
    /// The PUBREL with this identifier.
    PubRel(PacketId),
}

/// The Sender's half of the QoS flows.
#[derive(Debug)]
pub struct Outgoing {
    /// By Packet Identifier less one.
    table: Vec<Option<Exchange>>,
    free: VecDeque<PacketId>,
    window: usize,
    /// Exchanges of this connection.
    open: usize,
    next_order: u64,
    /// Left by an earlier connection and not yet sent on this one.
    again: VecDeque<PacketId>,
}

impl Outgoing {
    /// Nothing in flight; at most `window` exchanges at once.
    pub fn new(window: usize) -> Self {
        Self {
            table: Vec::new(),
            free: VecDeque::new(),
            window,
            open: 0,
            next_order: 0,
            again: VecDeque::new(),
        }
    }

    /// A new connection, with its window: everything in flight is to be sent again.
    pub fn connected(&mut self, window: usize) {
        self.window = window;
        self.open = 0;
        self.again = self.in_order().into();
    }

    /// How many more deliveries may be sent.
    pub fn window_free(&self) -> usize {
        if self.again.is_empty() { self.window.saturating_sub(self.open) } else { 0 }
    }

    /// How many exchanges are open, on this connection or left by an earlier one.
    pub fn in_flight(&self) -> usize {
        self.table.iter().flatten().count()
    }

    /// Binds a delivery to a free identifier.
    pub fn bind(&mut self, delivery: Delivery, phase: Phase) -> PacketId {
        let packet_id = self.free.pop_front().unwrap_or_else(|| self.grow());
        let order = self.next_order;
        self.next_order += 1;
        self.open += 1;
        self.put(packet_id, Exchange { order, phase, delivery: Some(delivery) });
        packet_id
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
        self.table.get(index(packet_id))?.as_ref()?.delivery.as_ref()
    }

    /// The next thing to be sent again, if the window has room for it.
    pub fn next_again(&mut self) -> Option<Again> {
        while self.open < self.window {
            let packet_id = self.again.pop_front()?;
            let Some(exchange) = self.exchange_mut(packet_id) else { continue };
            let relayed = exchange.phase == Phase::Relayed;
            if let (Phase::Sent, Some(delivery)) = (exchange.phase, &mut exchange.delivery) {
                delivery.dup = true; // [MQTT-3.3.1-1]
            }
            self.open += 1;
            return Some(if relayed {
                Again::PubRel(packet_id)
            } else {
                Again::Publish(packet_id)
            });
        }
        None
    }

    /// A PUBACK has come.
    pub fn acknowledge(&mut self, packet_id: PacketId) -> Result<Option<Delivery>, ProtocolError> {
        match self.sent_qos(packet_id) {
            None => Ok(None),
            Some(1) => Ok(self.end(packet_id).and_then(|exchange| exchange.delivery)),
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
    pub fn refuse(&mut self, packet_id: PacketId) -> Result<Option<Delivery>, ProtocolError> {
        match self.sent_qos(packet_id) {
            None => Ok(None),
            Some(1) => Err(ProtocolError::protocol("PUBREC for a PUBLISH of QoS 1")),
            Some(_) => Ok(self.end(packet_id).and_then(|exchange| exchange.delivery)),
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

    /// An exchange that the store remembers; without a delivery the Client has the message.
    pub fn restore(&mut self, packet_id: PacketId, delivery: Option<Delivery>) {
        while self.table.len() < usize::from(packet_id.get()) {
            let unused = self.grow();
            self.free.push_back(unused);
        }
        self.free.retain(|&free| free != packet_id);
        let phase = if delivery.is_some() { Phase::Sent } else { Phase::Relayed };
        let order = self.next_order;
        self.next_order += 1;
        self.put(packet_id, Exchange { order, phase, delivery });
    }

    /// See [`super::Session::give_back_shared`].
    pub fn give_back_shared(&mut self, all: bool) -> Vec<Delivery> {
        let shared = |exchange: &Exchange| {
            exchange.delivery.as_ref().is_some_and(|delivery| {
                delivery.source != 0 && (all || delivery.qos == crate::codec::QoS::AtLeastOnce)
            })
        };
        let ids = self.in_order();
        let back = |id: PacketId| {
            let exchange = self.exchange_mut(id)?;
            if !shared(exchange) {
                return None;
            }
            let sent = exchange.phase == Phase::Sent;
            let mut delivery = self.drop_exchange(id)?;
            delivery.dup |= sent;
            Some(delivery)
        };
        ids.into_iter().filter_map(back).collect()
    }

    /// Takes every message in flight, in the order of sending.
    pub fn abandon(&mut self) -> Vec<Delivery> {
        let ids = self.in_order();
        ids.into_iter().filter_map(|id| self.drop_exchange(id)).collect()
    }

    /// The identifiers in use, in the order of first sending.
    fn in_order(&self) -> Vec<PacketId> {
        let numbered = self.table.iter().zip(1..=u16::MAX);
        let mut ids: Vec<(u64, PacketId)> = numbered
            .filter_map(|(slot, id)| Some((slot.as_ref()?.order, PacketId::new(id)?)))
            .collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// The QoS of a PUBLISH that is sent and not answered; 2 once the Client has it.
    fn sent_qos(&self, packet_id: PacketId) -> Option<u8> {
        let exchange = self.table.get(index(packet_id))?.as_ref()?;
        match exchange.phase {
            Phase::Held => None,
            Phase::Sent => Some(exchange.delivery.as_ref().map_or(2, |d| d.qos as u8)),
            Phase::Relayed => Some(2),
        }
    }

    fn exchange_mut(&mut self, packet_id: PacketId) -> Option<&mut Exchange> {
        self.table.get_mut(index(packet_id))?.as_mut()
    }

    fn put(&mut self, packet_id: PacketId, exchange: Exchange) {
        if let Some(slot) = self.table.get_mut(index(packet_id)) {
            *slot = Some(exchange);
        }
    }

    fn end(&mut self, packet_id: PacketId) -> Option<Exchange> {
        let exchange = self.table.get_mut(index(packet_id))?.take()?;
        self.open = self.open.saturating_sub(1);
        self.free.push_back(packet_id);
        Some(exchange)
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
