//! Why a connection ends, and what is said and done then.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::Connection;
use super::scratch::Scratch;
use crate::codec::{Disconnect, Packet, Properties, ReasonCode};
use crate::metrics::Tally;
use crate::net::transport::Transport;
use crate::session::ProtocolError;
use crate::session::connect::Manner;
use crate::wire::Writer;

/// How long a closed connection is given to take the last bytes.
pub(super) const LINGER: Duration = Duration::from_millis(500);

/// Why a connection ended.
#[derive(Debug)]
pub enum Ending {
    /// The Client sent DISCONNECT.
    Disconnected(ReasonCode),
    /// The stream ended without one.
    Closed,
    /// The stream broke.
    Broken(io::Error),
    /// The Client broke a rule.
    Rule(ProtocolError),
    /// The Client was silent for longer than its Keep Alive.
    Silent,
    /// The Client's proof of who it is has expired.
    Expired,
    /// The broker ends it, for this reason.
    Ended(ReasonCode),
}

impl Ending {
    /// What an MQTT 5.0 Client is told; nothing when it has left itself.
    fn reason(&self) -> Option<ReasonCode> {
        match self {
            Self::Disconnected(_) | Self::Closed | Self::Broken(_) => None,
            Self::Rule(error) => Some(error.reason),
            Self::Silent => Some(ReasonCode::KeepAliveTimeout),
            Self::Expired => Some(ReasonCode::NotAuthorized),
            Self::Ended(reason) => Some(*reason),
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected(ReasonCode::Success) => f.write_str("client disconnected"),
            Self::Disconnected(reason) => write!(f, "client disconnected: {reason}"),
            Self::Closed => f.write_str("connection closed without DISCONNECT"),
            Self::Broken(error) => write!(f, "connection broken: {error}"),
            Self::Rule(error) => error.fmt(f),
            Self::Silent => f.write_str("keep alive timeout"),
            Self::Expired => f.write_str("its proof of identity has expired: Not authorized"),
            Self::Ended(reason) => reason.fmt(f),
        }
    }
}

/// Whether somebody is cut off or refused for bytes that are not as they must be.
pub(super) fn breaks_rules(reason: ReasonCode) -> bool {
    use ReasonCode::{MalformedPacket, PacketTooLarge, ProtocolError};
    matches!(reason, MalformedPacket | ProtocolError | PacketTooLarge)
}

impl Connection {
    /// Says goodbye, as far as there is somebody to hear it.
    pub(super) async fn end(mut self: Box<Self>, ending: Ending) {
        let client = match self.lease.parts.as_mut() {
            Some(parts) => parts.session.client_id().clone(),
            None => Arc::from(""),
        };
        if matches!(ending, Ending::Ended(ReasonCode::SessionTakenOver)) {
            self.hear_out().await;
        }
        self.options.admission.report_ended(&self.peer, &client, &ending);
        self.tell_doorman(&client, &ending);
        if let Some(reason) = ending.reason().filter(|_| self.version.has_reason_codes()) {
            let disconnect = Disconnect { reason, properties: Properties::EMPTY };
            let maximum = match self.lease.parts.as_ref() {
                Some(parts) => parts.session.terms().maximum_packet_size(),
                None => usize::MAX,
            };
            let mut goodbye = Vec::new();
            let encoded = match self.options.admission.limits.manner {
                Manner::Own => Packet::Disconnect(disconnect).encode(self.version, &mut goodbye),
                Manner::Mosquitto => {
                    goodbye.extend_from_slice(&Disconnect::short(reason));
                    Ok(())
                }
            };
            if encoded.is_ok() && goodbye.len() <= maximum {
                self.writer.buffer().append(&mut goodbye); // [MQTT-3.1.2-24]
                let mut tally = Tally { packets_sent: 1, ..Tally::default() };
                self.lease.broker.metrics.traffic.add(&mut tally);
            }
        }
        // The Session goes back first: who waits for it must not wait for this Client's network.
        while self.give_more() || self.lease.wind_down() {
            tokio::task::yield_now().await;
        }
        let is_taken_over = matches!(ending, Ending::Ended(ReasonCode::SessionTakenOver));
        self.lease.give_back(is_taken_over);
        let is_over = match ending {
            Ending::Broken(_) => true,
            // Nothing is to be said any more and nothing to be heard.
            Ending::Disconnected(_) | Ending::Closed => {
                self.io.ends_by_closing() && self.writer.is_idle()
            }
            _ => false,
        };
        if !is_over {
            let Self { io, writer, .. } = *self;
            let _ = tokio::time::timeout(LINGER, linger(io, writer)).await;
        }
    }

    /// Reads once more, what the Client had said before its next connection came: who speaks, goes
    /// and comes again at once has spoken.
    async fn hear_out(&mut self) {
        // The runtime looks at its sockets first.
        tokio::task::yield_now().await;
        std::future::poll_fn(|cx| {
            let now = self.lease.broker.now();
            // Now or never.
            self.held_back_until = self.held_back_until.min(now);
            Scratch::lend(|scratch| {
                if !self.is_at_work() && self.is_heard(now) {
                    let _ = self.read(cx, now, scratch);
                }
                self.hand_over(now, scratch);
                self.keep_undelivered(&mut scratch.turn);
                self.lease.broker.metrics.traffic.add(&mut scratch.turn.tally);
            });
            Poll::Ready(())
        })
        .await;
    }

    fn tell_doorman(&self, client_id: &str, ending: &Ending) {
        let (doorman, broker) = (&self.options.doorman, &self.lease.broker);
        if let Ending::Rule(error) = ending
            && breaks_rules(error.reason)
        {
            doorman.rule_broken(self.peer, broker.now(), &broker.metrics);
        }
        doorman.ended(self.peer, client_id, broker.now(), &broker.metrics);
    }
}

/// Sends what is left, says goodbye, and waits for the peer to close: a socket that is closed with
/// bytes unread resets the connection, and the last packet would be lost with it.
pub(super) async fn linger(mut io: Transport, mut writer: Writer) -> io::Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    while !writer.is_idle() {
        std::future::poll_fn(|cx| writer.poll_write(cx, &mut io)).await?;
    }
    io.shutdown().await?;
    let mut discarded = [0; 1024];
    while io.read(&mut discarded).await? > 0 {}
    Ok(())
}
