//! What the log tells of Clients that come and go: in our words or in mosquitto's.

use std::fmt::{self, Write};

use super::opening::Refusal;
use super::{Admission, Ending};
use crate::codec::{Connect, ReasonCode, Version};
use crate::journal::{Look, NOTICE};
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
struct Place<'a>(&'a Peer);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.address {
            Some(address) => write!(f, "{}:{}", address.ip().to_canonical(), address.port()),
            None => f.write_str(":0"),
        }
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
            notice!("New connection from {} on port {}.", Place(peer), self.port);
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
            Version::V31 => 1,
            Version::V311 => 2,
            Version::V5 => 5,
        };
        let (place, id, clean) = (Place(peer), Word(client_id), u8::from(connect.clean_start));
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
        let id = Word(client_id);
        match ending {
            Ending::Disconnected(_) => notice!("Client {id} disconnected."),
            Ending::Closed | Ending::Broken(_) => notice!("Client {id} closed its connection."),
            Ending::Silent => notice!("Client {id} has exceeded timeout, disconnecting."),
            Ending::Ended(ReasonCode::SessionTakenOver) => {
                notice!("Client {id} already connected, closing old connection.");
            }
            Ending::Ended(ReasonCode::ServerShuttingDown) => {}
            Ending::Rule(error) => self.report_reason(client_id, error.reason),
            Ending::Expired => self.report_reason(client_id, ReasonCode::NotAuthorized),
            Ending::Ended(reason) => self.report_reason(client_id, *reason),
        }
    }

    /// Somebody was not let in.
    pub(super) fn report_refused(&self, peer: &Peer, client_id: &str, refusal: &Refusal) {
        if !self.is_reported {
            return;
        }
        if self.is_mosquitto() {
            let id = if client_id.is_empty() { "<unknown>" } else { client_id };
            match refusal {
                Refusal::Gone(_) => notice!("Client {} closed its connection.", Word(id)),
                Refusal::Silent(error) => self.report_reason(id, error.reason()),
                Refusal::Told(_, reason, _) => self.report_reason(id, *reason),
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

    fn report_reason(&self, client_id: &str, reason: ReasonCode) {
        let id = Word(client_id);
        match reason {
            ReasonCode::NotAuthorized | ReasonCode::BadUserNameOrPassword => {
                notice!("Client {id} disconnected, not authorised.");
            }
            ReasonCode::MalformedPacket => {
                notice!("Client {id} disconnected due to malformed packet.");
            }
            ReasonCode::ProtocolError => {
                notice!("Client {id} disconnected due to protocol error.");
            }
            ReasonCode::PacketTooLarge => {
                notice!("Client {id} disconnected due to oversize packet.");
            }
            ReasonCode::QoSNotSupported | ReasonCode::RetainNotSupported => notice!(
                "Client {id} disconnected due to using not allowed feature (QoS too high, \
                 retain not supported, or bad AUTH method)."
            ),
            ReasonCode::AdministrativeAction => {
                notice!("Client {id} been disconnected by administrative action.");
            }
            reason => notice!("Client {id} disconnected: {reason}."),
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

/// A handshake came to nothing.
pub(super) fn handshake_failed(admission: &Admission, peer: &str, error: &std::io::Error) {
    // Whom the doorman does not let in he reports himself.
    if admission.is_reported && error.kind() != std::io::ErrorKind::PermissionDenied {
        notice!(peer = %peer, "handshake failed: {error}");
    }
}
