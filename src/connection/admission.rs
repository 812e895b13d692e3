//! What a listener asks of those who come by it, and grants them.

use std::sync::Arc;

use super::{Ending, Rates};
use crate::codec::{Connect, ReasonCode, Subscribe, Version};
use crate::journal::Look;
use crate::session::ProtocolError;
use crate::session::connect::{Identifier, Limits, Manner, Special, levels};

/// Rules of a listener for its Clients.
#[derive(Clone, Debug)]
pub struct Admission {
    /// What they are granted.
    pub limits: Limits,
    /// The versions of MQTT that are spoken; all if none is named.
    pub versions: Vec<Version>,
    /// Whether a Client without Client Identifier is given one.
    pub assigns_ids: bool,
    /// What such an identifier begins with.
    pub assigned_prefix: Arc<str>,
    /// What the identifiers that Clients give must begin with.
    pub required_prefix: Option<Arc<str>>,
    /// Whether the User Name takes the place of the Client Identifier.
    pub names_are_ids: bool,
    /// What stands before all topics of these Clients.
    pub mount_point: Option<Arc<str>>,
    /// Whether a certificate that the listener verified is proof of identity.
    pub trusts_certificates: bool,
    /// Largest payload of a message that is published, in bytes.
    pub payload_max: usize,
    /// Sessions that there may be, with and without a connection, for a new one to be made.
    pub sessions_max: usize,
    /// How fast each of them may be.
    pub rates: Rates,
    /// The listener's port, for the log; 0 for a unix socket.
    pub port: u16,
    /// The same as text, or the path of the socket.
    pub place: Arc<str>,
    /// How the log tells of these Clients. As mosquitto's: they are also answered as there where
    /// the standard leaves it open.
    pub look: Look,
    /// Whether the log tells of Clients that come and go.
    pub is_reported: bool,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            versions: Vec::new(),
            assigns_ids: true,
            assigned_prefix: "auto-".into(),
            required_prefix: None,
            names_are_ids: false,
            mount_point: None,
            trusts_certificates: true,
            payload_max: usize::MAX,
            sessions_max: usize::MAX,
            rates: Rates::default(),
            port: 0,
            place: "".into(),
            look: Look::Own,
            is_reported: true,
        }
    }
}

impl Admission {
    /// The terms that few listeners have, if this one has any.
    pub(super) fn special(&self) -> Option<Arc<Special>> {
        let inflight_bytes_max = self.limits.inflight_bytes_max;
        let mount_point = self.mount_point.clone();
        let is_special = mount_point.is_some() || inflight_bytes_max != usize::MAX;
        is_special.then(|| Arc::new(Special { inflight_bytes_max, mount_point }))
    }

    /// Whether a PUBLISH with this topic is taken; mosquitto takes one of too many levels for
    /// malformed.
    pub(super) fn takes_topic(&self, topic: &str) -> bool {
        let Limits { manner, topic_levels_max, .. } = self.limits;
        manner == Manner::Own || levels(topic) <= topic_levels_max
    }

    /// The same for a SUBSCRIBE.
    pub(super) fn takes(&self, subscribe: &Subscribe<'_>) -> bool {
        let Limits { manner, topic_levels_max, .. } = self.limits;
        let mut filters = subscribe.filters();
        manner == Manner::Own
            || filters.all(|(filter, _)| levels(filter.as_str()) <= topic_levels_max)
    }

    /// Whether the version is spoken here.
    pub(super) fn check_version(&self, version: Version) -> Result<(), ProtocolError> {
        if self.versions.is_empty() || self.versions.contains(&version) {
            return Ok(());
        }
        let reason = ReasonCode::UnsupportedProtocolVersion;
        Err(ProtocolError { reason, what: "a version that this listener does not accept" })
    }

    /// Whether a Will may be published one day. A Protocol Error is not answered.
    pub(super) fn check_will(&self, connect: &Connect<'_>) -> Result<(), ProtocolError> {
        let Some(will) = &connect.will else { return Ok(()) };
        let is_mosquitto = self.limits.manner == Manner::Mosquitto;
        if is_mosquitto && will.topic.as_str().starts_with("$CONTROL/") {
            return Err(ProtocolError::protocol("a Will below $CONTROL"));
        }
        if will.payload.len() > self.payload_max {
            let reason = match (is_mosquitto, connect.version) {
                (true, Version::V31 | Version::V311) => ReasonCode::NotAuthorized,
                _ => ReasonCode::PacketTooLarge,
            };
            return Err(ProtocolError { reason, what: "a Will above message_size_limit" });
        }
        Ok(())
    }

    /// The identifier by which the Client is known here.
    pub(super) fn identify<'a>(
        &self,
        connect: &Connect<'a>,
        identifier: Identifier<'a>,
    ) -> Result<Identifier<'a>, ProtocolError> {
        let refuse = |reason, what| Err(ProtocolError { reason, what });
        if self.names_are_ids {
            return match connect.username {
                Some(name) if !name.is_empty() => Ok(Identifier::Given(name)),
                _ => refuse(ReasonCode::NotAuthorized, "no User Name to be its Client Identifier"),
            };
        }
        match (identifier, &self.required_prefix) {
            (Identifier::ToAssign, _) if !self.assigns_ids => {
                let what = "no Client Identifier, and none is assigned here";
                let reason = match (self.limits.manner, connect.version) {
                    (Manner::Mosquitto, Version::V5) => ReasonCode::UnspecifiedError,
                    _ => ReasonCode::ClientIdentifierNotValid,
                };
                refuse(reason, what)
            }
            (Identifier::Given(id), Some(prefix)) if !id.starts_with(&**prefix) => {
                refuse(ReasonCode::NotAuthorized, "a Client Identifier without the prefix")
            }
            (identifier, _) => Ok(identifier),
        }
    }
}

/// What mosquitto tells who has a topic of too many levels.
pub(super) fn too_many_levels() -> Ending {
    let (reason, what) = (ReasonCode::MalformedPacket, "a topic of too many levels");
    Ending::Rule(ProtocolError { reason, what })
}
