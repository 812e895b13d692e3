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
    /// QoS 2 identifiers between PUBLISH and PUBREL.
    received: FxHashSet<PacketId>,
    /// PUBLISH packets of QoS 1 and 2 of this connection that are not fully acknowledged: what
    /// the Receive Maximum bounds [MQTT-3.3.4-7].
    unanswered: usize,
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
        receive_maximum: usize,
    ) -> Result<bool, ProtocolError> {
        if qos == QoS::ExactlyOnce && self.received.contains(&packet_id) {
            return Ok(false);
        }
        if self.unanswered >= receive_maximum {
            return Err(ProtocolError {
                reason: ReasonCode::ReceiveMaximumExceeded,
                what: "more unacknowledged PUBLISH packets than the Receive Maximum allows",
            });
        }
        self.unanswered += 1;
        if qos == QoS::ExactlyOnce {
            self.received.insert(packet_id);
        }
        Ok(true)
    }

    /// An acknowledgement that ends an exchange is on its way.
    pub fn answered(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    /// A PUBREL has come; false when its identifier is not known.
    pub fn release(&mut self, packet_id: PacketId) -> bool {
        let known = self.received.remove(&packet_id);
        if self.received.is_empty() && self.received.capacity() > 64 {
            self.received.shrink_to_fit();
        }
        known
    }

    /// The identifier's PUBLISH was refused.
    pub fn forget(&mut self, packet_id: PacketId) {
        self.received.remove(&packet_id);
    }

    /// An identifier that the store remembers.
    pub fn restore(&mut self, packet_id: PacketId) {
        self.received.insert(packet_id);
    }
}
