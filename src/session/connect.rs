//! The CONNECT packet judged, and what is agreed for the connection.
//!
//! [`judge`] needs only the packet and our limits. Who the Client is and whether a Session exists
//! is for others to find out.

use std::borrow::Cow;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use super::{ProtocolError, auth::Exchange};
use crate::codec::frame::PACKET_MAX;
use crate::codec::property::{PropertyBuffer, PropertyId};
use crate::codec::{Connect, Publish, QoS, ReasonCode, Version};
use crate::topic::{TOPIC_BYTES_MAX, TopicFilter};

/// Whose ways the Server has where the standard leaves a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// Its own.
    #[default]
    Own,
    /// Those of mosquitto 2.1, byte for byte: there are Clients and tests that know no others.
    Mosquitto,
}

/// What the Server grants its Clients.
#[derive(Clone, Debug)]
pub struct Limits {
    /// PUBLISH packets of QoS 1 and 2 that a Client may have unacknowledged; announced as
    /// Receive Maximum.
    pub receive_maximum: NonZeroU16,
    /// PUBLISH packets of QoS 1 and 2 that we have unacknowledged at a Client at most, also when
    /// its Receive Maximum is larger or, before MQTT 5.0, unknown.
    pub inflight_max: NonZeroU16,
    /// Largest packet accepted, in bytes with its header.
    pub maximum_packet_size: usize,
    /// Topic Aliases that a Client may set on its connection.
    pub topic_alias_maximum: u16,
    /// Topic Aliases that we set on a connection at most.
    pub send_alias_maximum: u16,
    /// Longest Keep Alive in seconds; 0: any, also none.
    pub keep_alive_max_s: u16,
    /// Longest Session Expiry Interval in seconds; `u32::MAX`: no limit.
    pub session_expiry_max_s: u32,
    /// Highest QoS that a Client may publish with.
    pub maximum_qos: QoS,
    /// Whether messages may be retained.
    pub retain_available: bool,
    /// Subscriptions a Session may hold.
    pub subscriptions_max: usize,
    /// Of them Shared Subscriptions, without those to declared queues.
    pub shared_subscriptions_max: usize,
    /// Levels that a Topic Name or Topic Filter may have.
    pub topic_levels_max: usize,
    /// Bytes of the messages of QoS 1 and 2 on their way to a Client beyond which no more are
    /// sent; `usize::MAX`: no limit.
    pub inflight_bytes_max: usize,
    /// How they are answered.
    pub manner: Manner,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            receive_maximum: NonZeroU16::new(1024).unwrap_or(NonZeroU16::MAX),
            inflight_max: NonZeroU16::new(1024).unwrap_or(NonZeroU16::MAX),
            maximum_packet_size: 10 << 20,
            topic_alias_maximum: 64,
            send_alias_maximum: 64,
            keep_alive_max_s: 0,
            session_expiry_max_s: u32::MAX,
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            subscriptions_max: 1_000_000,
            shared_subscriptions_max: 1_000,
            topic_levels_max: 200,
            inflight_bytes_max: usize::MAX,
            manner: Manner::Own,
        }
    }
}

/// Terms that few listeners have.
#[derive(Clone, Debug)]
pub struct Special {
    /// As [`Limits::inflight_bytes_max`].
    pub inflight_bytes_max: usize,
    /// What stands before every topic of the Client for the others, and never for itself.
    pub mount_point: Option<Arc<str>>,
}

/// What was agreed at CONNECT, for this Network Connection.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Protocol version of the connection.
    pub version: Version,
    /// How the Client is answered.
    pub manner: Manner,
    /// Whether the Session outlives the connection, so that its state must be durable.
    pub durable: bool,
    /// Seconds that the Session outlives the connection.
    pub session_expiry_s: u32,
    /// The same as the Client asked for it.
    pub asked_session_expiry_s: u32,
    /// The longest that it may be set to.
    pub session_expiry_max_s: u32,
    /// Silence after which the Client is taken for lost, in milliseconds: one and a half times
    /// the Keep Alive [MQTT-3.1.2-22]; 0: never.
    pub keep_alive_ms: u32,
    /// Keep Alive imposed on the Client, in seconds [MQTT-3.1.2-21].
    pub server_keep_alive_s: Option<u16>,
    /// Exchanges of QoS 1 and 2 that we may have open at the Client: its Receive Maximum, within
    /// our own bound.
    pub send_window: u16,
    /// Largest packet that the Client takes, in bytes; beyond what a packet can have: any.
    maximum_packet_size: u32,
    /// Aliases that we may set.
    pub send_alias_maximum: u16,
    /// Aliases that the Client may set.
    pub topic_alias_maximum: u16,
    /// Unacknowledged PUBLISH packets that the Client may have; no limit before MQTT 5.0.
    pub receive_maximum: u32,
    /// Highest QoS that the Client may publish with.
    pub maximum_qos: QoS,
    /// Whether the Client may publish messages to be retained.
    pub retain_available: bool,
    /// Whether the Client wants to be told reasons in words [MQTT-3.1.2-29].
    pub wants_reasons: bool,
    /// What few listeners ask for.
    pub special: Option<Arc<Special>>,
    /// The method of enhanced authentication, when the Client chose one.
    pub authentication_method: Option<Box<Box<str>>>,
}

impl Terms {
    /// For a Session that waits for its Client: nothing is agreed until it comes.
    pub fn parked(session_expiry_s: u32, limits: &Limits) -> Self {
        Self {
            version: Version::V5,
            manner: limits.manner,
            durable: true,
            session_expiry_s,
            asked_session_expiry_s: session_expiry_s,
            session_expiry_max_s: limits.session_expiry_max_s,
            keep_alive_ms: 0,
            server_keep_alive_s: None,
            send_window: limits.inflight_max.get(),
            maximum_packet_size: u32::MAX,
            send_alias_maximum: 0,
            topic_alias_maximum: 0,
            receive_maximum: u32::MAX,
            maximum_qos: limits.maximum_qos,
            retain_available: limits.retain_available,
            wants_reasons: false,
            special: None,
            authentication_method: None,
        }
    }

    /// Largest packet that the Client takes, in bytes.
    pub fn maximum_packet_size(&self) -> usize {
        PACKET_MAX.min(self.maximum_packet_size as usize)
    }

    /// The method of enhanced authentication, when the Client chose one.
    pub fn authentication_method(&self) -> Option<&str> {
        self.authentication_method.as_ref().map(|method| &***method)
    }

    /// What stands before every topic of the Client for the others.
    pub fn mount_point(&self) -> Option<&str> {
        self.special.as_ref()?.mount_point.as_deref()
    }

    /// A topic as others know it; `None`: it would be too long.
    pub fn mounted<'t>(&self, topic: &'t str) -> Option<Cow<'t, str>> {
        match self.mount_point() {
            None => Some(Cow::Borrowed(topic)),
            Some(mount) if mount.len() + topic.len() > TOPIC_BYTES_MAX => None,
            Some(mount) => Some(Cow::Owned(format!("{mount}{topic}"))),
        }
    }

    /// A Topic Filter as others know it; a Shared Subscription's name stays in front. `None`: it
    /// would be too long.
    pub fn mounted_filter<'t>(&self, filter: TopicFilter<'t>) -> Option<Cow<'t, str>> {
        match filter.share_name() {
            Some(name) if self.mount_point().is_some() => {
                let mounted = self.mounted(filter.filter())?;
                let whole = format!("$share/{}/{mounted}", name.as_str());
                (whole.len() <= TOPIC_BYTES_MAX).then_some(Cow::Owned(whole))
            }
            _ => self.mounted(filter.as_str()),
        }
    }

    /// A topic as the Client knows it.
    pub fn unmounted<'t>(&self, topic: &'t [u8]) -> &'t [u8] {
        match self.mount_point() {
            None => topic,
            Some(mount) => topic.strip_prefix(mount.as_bytes()).unwrap_or(topic),
        }
    }

    /// Rules for a PUBLISH that depend on what was agreed.
    pub fn check_publish(&self, publish: &Publish<'_>) -> Result<(), ProtocolError> {
        if publish.qos > self.maximum_qos {
            let what = "a QoS above the Maximum QoS"; // [MQTT-3.2.2-11]
            return Err(ProtocolError { reason: ReasonCode::QoSNotSupported, what });
        }
        if publish.retain && !self.retain_available {
            let what = "RETAIN set where retained messages are not available"; // [MQTT-3.2.2-14]
            return Err(ProtocolError { reason: ReasonCode::RetainNotSupported, what });
        }
        if !publish.properties.is_empty()
            && publish.properties.subscription_identifiers().next().is_some()
        {
            return Err(ProtocolError::protocol(
                "a Subscription Identifier in a PUBLISH from a Client", // [MQTT-3.3.4-6]
            ));
        }
        Ok(())
    }
}

/// How a Client is known from its CONNECT packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identifier<'a> {
    /// By the Client Identifier that it gave.
    Given(&'a str),
    /// It asks the Server to assign one.
    ToAssign,
}

/// Judges a CONNECT packet. The error is the CONNACK's Reason Code.
pub fn judge<'a>(
    connect: &Connect<'a>,
    limits: &Limits,
) -> Result<(Identifier<'a>, Terms), ProtocolError> {
    let identifier = identifier(connect)?;
    if let Some(will) = &connect.will {
        let refuse = |reason, what| Err(ProtocolError { reason, what });
        if will.qos > limits.maximum_qos {
            return refuse(ReasonCode::QoSNotSupported, "Will QoS above the Maximum QoS");
        }
        if will.retain && !limits.retain_available {
            return refuse(ReasonCode::RetainNotSupported, "a retained Will is not available");
        }
        if levels(will.topic.as_str()) > limits.topic_levels_max {
            return refuse(ReasonCode::TopicNameInvalid, "a Will Topic of too many levels");
        }
    }
    let shortened = keep_alive_s(connect.keep_alive_s, limits.keep_alive_max_s);
    if limits.manner == Manner::Mosquitto
        && connect.version != Version::V5
        && shortened != connect.keep_alive_s
    {
        let what = "a Keep Alive above the longest, before MQTT 5.0";
        let reason = ReasonCode::ClientIdentifierNotValid; // As mosquitto does.
        return Err(ProtocolError { reason, what });
    }
    Ok((identifier, terms(connect, limits)))
}

fn identifier<'a>(connect: &Connect<'a>) -> Result<Identifier<'a>, ProtocolError> {
    let refused = |what| ProtocolError { reason: ReasonCode::ClientIdentifierNotValid, what };
    match (connect.client_id, connect.version) {
        ("", Version::V5) => Ok(Identifier::ToAssign), // [MQTT-3.1.3-6]
        ("", Version::V31) => Err(refused("an empty Client Identifier with MQTT 3.1")),
        ("", Version::V311) if connect.clean_start => Ok(Identifier::ToAssign),
        // [MQTT-3.1.3-8]
        ("", Version::V311) => Err(refused("an empty Client Identifier without Clean Session")),
        (given, _) => Ok(Identifier::Given(given)),
    }
}

fn terms(connect: &Connect<'_>, limits: &Limits) -> Terms {
    let properties = &connect.properties;
    let asked_session_expiry_s = connect.session_expiry_s();
    let session_expiry_s = asked_session_expiry_s.min(limits.session_expiry_max_s);
    let keep_alive_s = keep_alive_s(connect.keep_alive_s, limits.keep_alive_max_s);
    let v5 = connect.version == Version::V5;
    Terms {
        version: connect.version,
        manner: limits.manner,
        durable: session_expiry_s > 0,
        session_expiry_s,
        asked_session_expiry_s,
        session_expiry_max_s: limits.session_expiry_max_s,
        keep_alive_ms: u32::from(keep_alive_s) * 1500,
        server_keep_alive_s: (v5 && keep_alive_s != connect.keep_alive_s).then_some(keep_alive_s),
        send_window: properties
            .receive_maximum()
            .map_or(limits.inflight_max, |maximum| maximum.min(limits.inflight_max))
            .get(),
        maximum_packet_size: properties.maximum_packet_size().map_or(u32::MAX, NonZeroU32::get),
        send_alias_maximum: properties
            .topic_alias_maximum()
            .unwrap_or(0)
            .min(limits.send_alias_maximum),
        topic_alias_maximum: if v5 { limits.topic_alias_maximum } else { 0 },
        receive_maximum: if v5 { limits.receive_maximum.get().into() } else { u32::MAX },
        maximum_qos: limits.maximum_qos,
        retain_available: limits.retain_available,
        wants_reasons: v5 && properties.request_problem_information() != Some(0),
        special: None,
        authentication_method: properties
            .authentication_method()
            .map(|method| Box::new(method.into())),
    }
}

/// The Keep Alive that holds: the Client's, unless it is longer than we allow or absent.
fn keep_alive_s(asked: u16, max: u16) -> u16 {
    match (asked, max) {
        (asked, 0) => asked,
        (0, max) => max,
        (asked, max) => asked.min(max),
    }
}

/// How many levels a Topic Name or Topic Filter has.
pub fn levels(topic: &str) -> usize {
    1 + topic.bytes().filter(|&b| b == b'/').count()
}

/// The properties of a CONNACK that accepts: all that differs from what the specification
/// assumes when it is absent. In the order in which mosquitto 2.1 has them, since there are Clients
/// and tests that compare bytes.
pub fn connack_properties(
    terms: &Terms,
    limits: &Limits,
    assigned_client_id: Option<&str>,
    exchange: Option<&Exchange>,
) -> PropertyBuffer {
    let mut properties = PropertyBuffer::new();
    if terms.version != Version::V5 {
        return properties;
    }
    if terms.session_expiry_s != terms.asked_session_expiry_s {
        properties.u32(PropertyId::SessionExpiryInterval, terms.session_expiry_s);
    }
    if let Some(keep_alive_s) = terms.server_keep_alive_s {
        properties.u16(PropertyId::ServerKeepAlive, keep_alive_s);
    }
    if limits.topic_alias_maximum > 0 {
        properties.u16(PropertyId::TopicAliasMaximum, limits.topic_alias_maximum);
    }
    if let Some(client_id) = assigned_client_id {
        properties.str(PropertyId::AssignedClientIdentifier, client_id);
    }
    if let Some(exchange) = exchange {
        properties.str(PropertyId::AuthenticationMethod, exchange.method());
        if !exchange.last_data().is_empty() {
            properties.bytes(PropertyId::AuthenticationData, exchange.last_data());
        }
    }
    if !limits.retain_available {
        properties.u8(PropertyId::RetainAvailable, 0);
    }
    if let Ok(size) = u32::try_from(limits.maximum_packet_size) {
        properties.u32(PropertyId::MaximumPacketSize, size);
    }
    if limits.receive_maximum.get() != u16::MAX {
        properties.u16(PropertyId::ReceiveMaximum, limits.receive_maximum.get());
    }
    match limits.maximum_qos {
        QoS::AtMostOnce => properties.u8(PropertyId::MaximumQoS, 0),
        QoS::AtLeastOnce => properties.u8(PropertyId::MaximumQoS, 1),
        QoS::ExactlyOnce => {}
    }
    properties
}
