//! What the log tells of Clients that come and go: in our words or in mosquitto's.

use std::fmt::{self, Write};
use std::net::SocketAddr;

use super::opening::Refusal;
use super::{Admission, Ending};
use crate::codec::{Connect, PacketId, Publish, ReasonCode, Version};
use crate::journal::{Look, NOTICE};
use crate::net::proxy::ProxyError;
use crate::net::transport::{Origin, Peer};
use crate::session::connect::Terms;

/// Characters of a text of a Client's in a line.
const WORD_MAX: usize = 512;

/// A text of a Client's within a line: what would break the line is escaped.
struct Word<'a>(&'a str);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars().take(WORD_MAX) {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// As mosquitto writes a peer.
struct Place(Option<SocketAddr>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => write!(f, "{}:{}", address.ip().to_canonical(), address.port()),
            None => f.write_str(":0"),
        }
    }
}

/// As mosquitto names a Client that may not have said who it is, and where it is.
struct Somebody<'a>(&'a str, Option<SocketAddr>);

impl fmt::Display for Somebody<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(client_id, address) = *self;
        match (client_id, address) {
            ("", Some(address)) => write!(f, "{}", address.ip().to_canonical())?,
            ("", None) => f.write_str("<unknown>")?,
            (client_id, _) => write!(f, "{}", Word(client_id))?,
        }
        write!(f, " [{}]", Place(address))
    }
}

macro_rules! notice {
    ($($text:tt)+) => {
        tracing::event!(target: NOTICE, tracing::Level::INFO, $($text)+)
    };
}

impl Admission {
    fn is_mosquitto(&self) -> bool {
        self.look == Look::Mosquitto
    }

    /// A connection was accepted.
    pub(super) fn report_arrival(&self, peer: &Peer) {
        if self.is_reported && self.is_mosquitto() {
            notice!("New connection from {} on port {}.", Place(peer.address), self.port);
        }
    }

    /// A handshake is over.
    pub(super) fn report_negotiated(&self, peer: &Peer) {
        if let Some(negotiated) = peer.negotiated.as_deref()
            && self.is_reported
            && self.is_mosquitto()
        {
            let place = Place(peer.address);
            notice!("Connection from {place} negotiated {}", Word(negotiated));
        }
    }

    /// A Client was let in.
    pub(super) fn report_connected(
        &self,
        peer: &Peer,
        connect: &Connect<'_>,
        client_id: &str,
        user: Option<&str>,
        (terms, session_present): (&Terms, bool),
    ) {
        if !self.is_reported {
            return;
        }
        if !self.is_mosquitto() {
            notice!(
                client = ?client_id, user, peer = %peer, version = %terms.version,
                keep_alive_s = connect.keep_alive_s, clean_start = connect.clean_start,
                session_present, "connected"
            );
            return;
        }
        let version = match terms.version {
            Version::V31 => 3,
            Version::V311 => 4,
            Version::V5 => 5,
        };
        let (place, id, clean) =
            (Place(peer.address), Word(client_id), u8::from(connect.clean_start));
        let keep_alive = terms.server_keep_alive_s.unwrap_or(connect.keep_alive_s);
        match user.or(connect.username) {
            Some(user) => notice!(
                "New client connected from {place} as {id} \
                 (p{version}, c{clean}, k{keep_alive}, u'{}').",
                Word(user)
            ),
            None => notice!(
                "New client connected from {place} as {id} (p{version}, c{clean}, k{keep_alive})."
            ),
        }
    }

    /// A Client is gone.
    pub(super) fn report_ended(&self, peer: &Origin, client_id: &str, ending: &Ending) {
        if !self.is_reported {
            return;
        }
        if !self.is_mosquitto() {
            notice!(client = ?client_id, peer = %peer, reason = %ending, "disconnected");
            return;
        }
        let who = Somebody(client_id, peer.client_address());
        match ending {
            Ending::Disconnected(_) => notice!("Client {who} disconnected."),
            Ending::Closed | Ending::Broken(_) => said_why(&who, "connection closed by client"),
            Ending::Silent => said_why(&who, "exceeded timeout"),
            Ending::Ended(ReasonCode::ServerShuttingDown) => {}
            Ending::Rule(error) => report_reason(&who, error.reason),
            Ending::Expired => report_reason(&who, ReasonCode::NotAuthorized),
            Ending::Ended(reason) => report_reason(&who, *reason),
        }
    }

    /// Somebody was not let in.
    pub(super) fn report_refused(&self, peer: &Peer, client_id: &str, refusal: &Refusal) {
        if !self.is_reported {
            return;
        }
        if self.is_mosquitto() {
            let who = Somebody(client_id, peer.address);
            match refusal {
                Refusal::Gone(_) => said_why(&who, "connection closed by client"),
                Refusal::Silent(error) => report_reason(&who, error.reason()),
                Refusal::Told(_, reason, _) => report_reason(&who, *reason),
            }
            return;
        }
        match refusal {
            Refusal::Gone(why) => notice!(peer = %peer, "not connected: {why}"),
            Refusal::Silent(error) => notice!(peer = %peer, "not connected: {error}"),
            Refusal::Told(_, reason, why) => {
                notice!(peer = %peer, "not connected: {why}: {reason}")
            }
        }
    }

    /// A message is not published.
    pub(super) fn report_denied(&self, client_id: &str, publish: &Publish<'_>, topic: &str) {
        if self.is_mosquitto() {
            tracing::debug!(
                "Denied PUBLISH from {} (d{}, q{}, r{}, m{}, '{}', ... ({} bytes))",
                Word(client_id),
                u8::from(publish.dup),
                publish.qos as u8,
                u8::from(publish.retain),
                publish.packet_id.map_or(0, PacketId::get),
                Word(topic),
                publish.payload.len()
            );
        }
    }

    /// What a Client that is refused is told, of two codes that mean the same to it.
    pub(super) fn told(&self, reason: ReasonCode) -> ReasonCode {
        match reason {
            ReasonCode::BadUserNameOrPassword if self.is_mosquitto() => ReasonCode::NotAuthorized,
            reason => reason,
        }
    }
}

fn said_why(who: &Somebody<'_>, why: &str) {
    notice!("Client {who} disconnected: {why}.");
}

/// In mosquitto's words, as far as it has some.
fn report_reason(who: &Somebody<'_>, reason: ReasonCode) {
    let why = match reason {
        ReasonCode::NotAuthorized | ReasonCode::BadUserNameOrPassword => "not authorised",
        ReasonCode::MalformedPacket => "malformed packet",
        ReasonCode::ProtocolError => "protocol error",
        ReasonCode::PacketTooLarge => "oversize packet",
        ReasonCode::QoSNotSupported | ReasonCode::RetainNotSupported => {
            "used disallowed feature (QoS too high, retain not supported, or bad AUTH method)"
        }
        ReasonCode::AdministrativeAction => "administrative action",
        ReasonCode::ReceiveMaximumExceeded => "receive maximum exceeded",
        ReasonCode::ImplementationSpecificError => "implementation specific error",
        ReasonCode::ClientIdentifierNotValid => "client identifier not valid",
        ReasonCode::ServerUnavailable => "server unavailable",
        ReasonCode::ServerBusy => "server busy",
        ReasonCode::Banned => "client banned",
        ReasonCode::BadAuthenticationMethod => "bad authentication method",
        ReasonCode::QuotaExceeded => "quota exceeded",
        ReasonCode::ConnectionRateExceeded => "connection rate exceeded",
        ReasonCode::SessionTakenOver => "session taken over",
        ReasonCode::TopicAliasInvalid => "topic alias invalid",
        reason => return notice!("Client {who} disconnected: {reason}."),
    };
    said_why(who, why);
}

/// A handshake came to nothing.
pub(super) fn handshake_failed(
    admission: &Admission,
    proxy: Origin,
    client: Option<SocketAddr>,
    error: &std::io::Error,
) {
    // Whom the doorman does not let in he reports himself.
    if !admission.is_reported || error.kind() == std::io::ErrorKind::PermissionDenied {
        return;
    }
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<ProxyError>());
    match cause.filter(|_| admission.is_mosquitto()) {
        Some(ProxyError::NoTls | ProxyError::NoCertificate) => {
            notice!("Connection from {} rejected, {error}.", Place(client));
        }
        Some(_) => notice!(peer = %proxy, "Connection rejected, corrupt PROXY header. {error}"),
        None => notice!(peer = %proxy, "handshake failed: {error}"),
    }
}
