//! What a Client sends with QoS 1 and 2: identifiers and quota.
//!
//! A QoS 2 Packet Identifier is known from its PUBLISH to its PUBREL; a PUBLISH with a known one
//! is a repetition and is not distributed again [MQTT-4.3.3-10].

use rustc_hash::FxHashSet;

use super::ProtocolError;
use crate::codec::{PacketId, QoS, ReasonCode};

/// The Receiver's half of the QoS flows.
#[derive(Debug, Default)]
pub struct Incoming {
    /// QoS 2 identifiers between PUBLISH and PUBREL; most Clients never have one.
    received: Option<Box<FxHashSet<PacketId>>>,
    /// PUBLISH packets of QoS 1 and 2 of this connection that are not fully acknowledged: what
    /// the Receive Maximum bounds [MQTT-3.3.4-7].
    unanswered: u32,
}

impl Incoming {
    /// Quotas begin anew with each Network Connection.
    pub fn connected(&mut self) {
        self.unanswered = 0;
    }

    /// A PUBLISH of QoS 1 or 2 has come; false: it repeats one that is under way.
    pub fn begin(
        &mut self,
        packet_id: PacketId,
        qos: QoS,
        receive_maximum: u32,
    ) -> Result<bool, ProtocolError> {
        let is_known = |received: &FxHashSet<_>| received.contains(&packet_id);
        if qos == QoS::ExactlyOnce && self.received.as_deref().is_some_and(is_known) {
            return Ok(false);
        }
        if self.unanswered >= receive_maximum {
            return Err(ProtocolError {
                reason: ReasonCode::ReceiveMaximumExceeded,
                what: "more unacknowledged PUBLISH packets than the Receive Maximum allows",
            });
        }
        self.unanswered = self.unanswered.saturating_add(1);
        if qos == QoS::ExactlyOnce {
            self.restore(packet_id);
        }
        Ok(true)
    }

    /// An acknowledgement that ends an exchange is on its way.
    pub fn answered(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    /// A PUBREL has come; false when its identifier is not known.
    pub fn release(&mut self, packet_id: PacketId) -> bool {
        let Some(received) = self.received.as_deref_mut() else { return false };
        let known = received.remove(&packet_id);
        if received.is_empty() && received.capacity() > 64 {
            received.shrink_to_fit();
        }
        known
    }

    /// The identifier's PUBLISH was refused.
    pub fn forget(&mut self, packet_id: PacketId) {
        self.release(packet_id);
    }

    /// An identifier that the store remembers.
    pub fn restore(&mut self, packet_id: PacketId) {
        self.received.get_or_insert_default().insert(packet_id);
    }
}
