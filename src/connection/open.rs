//! From an accepted socket to a Client that has been let in: handshakes, CONNECT, CONNACK.
//!
//! Nobody is known here yet, so everything is bounded in time and nothing is kept for a Client
//! that does not come to the point.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::Poll;

use super::alarms::within;
use super::authenticate::Admitted;
use super::ending::linger;
use super::opening::{Opening, Refusal};
use super::pace::Pace;
use super::report::handshake_failed;
use super::{Admission, Connection, Few, Options, Seats, USUAL_LOG2};
use crate::access::acl::guard::{Guard, Receives};
use crate::broker::connect::{Connected, Request};
use crate::broker::mailbox::Mail;
use crate::broker::registry::Lease;
use crate::broker::sys;
use crate::broker::turn::Turn;
use crate::broker::{Broker, Waiter};
use crate::clock::Moment;
use crate::codec::frame::{self, Frame, PacketType, Split};
use crate::codec::{ConnAck, Connect, DecodeError, Packet, ReasonCode, Version};
use crate::doorman::seats::{Full, Seat};
use crate::metrics::Tally;
use crate::net::listener::{Accepted, Permit};
use crate::net::tls::Certified;
use crate::net::transport::{Peer, Transport};
use crate::session::connect::{Identifier, Manner, Terms, connack_properties, judge};
use crate::session::will::Will;
use crate::store::{Health, Outcome, Submitted};
use crate::wire::{Reader, Writer};

/// A Client that has been let in.
struct LetIn {
    lease: Lease,
    terms: Terms,
    guard: Arc<Guard>,
    seats: Seats,
}

/// Opens an accepted connection; `None` when it came to nothing, which was logged.
pub(super) async fn accept(
    accepted: Accepted,
    broker: &Arc<Broker>,
    options: &Arc<Options>,
) -> Option<Box<Connection>> {
    let mut peer = accepted.peer().clone();
    let proxy = peer.origin();
    options.admission.report_arrival(accepted.peer());
    let (doorman, metrics) = (&options.doorman, &broker.metrics);
    // Whoever comes through a proxy has no address yet.
    let Ok(seat) = doorman.seat(peer.origin(), metrics) else {
        metrics.connections_refused.increment();
        return None;
    };
    let mut behind_proxy = None;
    let admits = |peer| match doorman.admits(peer, broker.now(), metrics) {
        true => doorman.seat(peer, metrics).map(|seat| behind_proxy = seat).is_ok(),
        false => false,
    };
    match accepted.open(&mut peer, admits).await {
        Ok((io, permit)) => {
            options.admission.report_negotiated(&peer);
            let held = (Some(permit), seat.or(behind_proxy));
            open(io, peer, held, broker, options).await
        }
        Err(error) => {
            broker.metrics.connections_refused.increment();
            let client = peer.origin().client_address();
            handshake_failed(&options.admission, proxy, client, &error);
            if error.kind() == io::ErrorKind::InvalidData {
                options.doorman.rule_broken(peer.origin(), broker.now(), &broker.metrics);
            }
            None
        }
    }
}

/// Lets the Client of a byte stream in.
pub(super) async fn open(
    io: Transport,
    peer: Peer,
    (permit, of_address): (Option<Permit>, Option<Seat>),
    broker: &Arc<Broker>,
    options: &Arc<Options>,
) -> Option<Box<Connection>> {
    let mut writer = Writer::default();
    if io.has_frames() {
        writer.by_packet();
    }
    let maximum = options.admission.limits.maximum_packet_size;
    let (reader, client_id) = (Reader::default(), String::new());
    let mut opening = Opening { io, peer, reader, writer, broker, maximum, client_id };
    let result = match within(options.connect_timeout, opening.frame()).await {
        // In a block of its own, which the next one gets: thousands may wait at once for CONNECT,
        // and hardly anybody behind it.
        Some(Ok(bytes)) => Box::pin(opening.connect(&bytes, options)).await,
        Some(Err(refusal)) => Err(refusal),
        None => Err(Refusal::Gone("no CONNECT packet in time".into())),
    };
    match result {
        Ok(mut let_in) => {
            let_in.seats.of_address = of_address;
            Some(opening.established(let_in, options.clone(), permit))
        }
        Err(refusal) => {
            broker.metrics.connections_refused.increment();
            if refusal.breaks_rules() {
                let peer = opening.peer.origin();
                options.doorman.rule_broken(peer, broker.now(), &broker.metrics);
            }
            options.admission.report_refused(&opening.peer, &opening.client_id, &refusal);
            Box::pin(opening.refuse(refusal, &options.admission)).await;
            None
        }
    }
}

impl Opening<'_> {
    /// Judges CONNECT, lets the Client in, and finds its Session.
    async fn connect(&mut self, bytes: &[u8], options: &Options) -> Result<LetIn, Refusal> {
        let Ok(Split::Frame(frame)) = frame::split(bytes, usize::MAX) else {
            return Err(Refusal::Gone("no packet".into()));
        };
        let manner = options.admission.limits.manner;
        let connect = decode(&frame, manner)?;
        self.broker.metrics.connects_received.increment();
        let version = connect.version;
        self.client_id = connect.client_id.to_owned();
        let told = |reason: ReasonCode, why: &str| Refusal::Told(version, reason, why.to_owned());
        let admission = &options.admission;
        let limits = &admission.limits;
        let judged = admission.check_version(version).and_then(|()| judge(&connect, limits));
        let (identifier, mut terms) = judged.map_err(|error| told(error.reason, error.what))?;
        let identifier = admission
            .identify(&connect, identifier)
            .map_err(|error| told(error.reason, error.what))?;
        if !self.is_let_in(&identifier, options) {
            return Err(told(ReasonCode::Banned, "banned"));
        }
        terms.special = admission.special();
        terms.durable &= !options.in_memory;
        let admitted = Box::pin(self.admit(&connect, &terms, options)).await?;
        let (client_id, assigned) = match identifier {
            Identifier::Given(client_id) => (Arc::from(client_id), connect.client_id.is_empty()),
            Identifier::ToAssign => {
                let (prefix, manner) = (&admission.assigned_prefix, limits.manner);
                (self.broker.assign_client_id(prefix, manner), true)
            }
        };
        let clean_start = connect.clean_start;
        self.is_served(&terms, &client_id, clean_start)
            .map_err(|(reason, why)| told(reason, why))?;
        let will = will(&connect, &terms, admission)?;
        let Admitted { identity, exchange } = admitted;
        let guard = options.access.guard(identity, &client_id, self.broker.now());
        let user = guard.subject.username.as_ref();
        let seat = options.doorman.seat_user(user, &client_id, &self.broker.metrics);
        let many = |Full| told(ReasonCode::QuotaExceeded, "the user has too many connections");
        let of_user = seat.map_err(many)?;
        let request = Request {
            client_id: client_id.clone(),
            clean_start,
            terms: terms.clone(),
            will,
            guard: guard.clone(),
            sessions_max: admission.sessions_max,
        };
        let Connected { lease, session_present } = self.session(request, version).await?;
        let known = (&terms, session_present);
        let user = guard.subject.username.as_deref();
        admission.report_connected(&self.peer, &connect, &client_id, user, known);
        let assigned = assigned.then_some(&*client_id);
        let properties = connack_properties(&terms, limits, assigned, exchange.as_ref());
        let connack = ConnAck {
            session_present, // [MQTT-3.2.2-2, MQTT-3.2.2-3]
            reason: ReasonCode::Success,
            properties: properties.as_properties(),
        };
        let _ = Packet::ConnAck(connack).encode(version, self.writer.buffer());
        self.count(Tally { packets_sent: 1, ..Tally::default() });
        if self.writer.backlog() > terms.maximum_packet_size() {
            // [MQTT-3.1.2-24]: it cannot be told what it must know.
            self.writer.buffer().clear();
            let mut lease = lease;
            lease.never_began();
            return Err(Refusal::Gone("its Maximum Packet Size leaves no room for CONNACK".into()));
        }
        let seats = Seats { of_user, of_address: None };
        Ok(LetIn { lease, terms, guard, seats })
    }

    /// Whether the broker is in a state to serve a Client.
    fn is_served(
        &self,
        terms: &Terms,
        client_id: &str,
        clean_start: bool,
    ) -> Result<(), (ReasonCode, &'static str)> {
        if self.broker.is_closing() {
            return Err((ReasonCode::ServerUnavailable, "shutting down"));
        }
        if terms.durable && self.broker.store_health() >= Health::Down {
            return Err((ReasonCode::QuotaExceeded, "the store cannot be written"));
        }
        if !self.broker.has_room_for(client_id, clean_start) {
            return Err((ReasonCode::QuotaExceeded, "memory_limit is reached"));
        }
        Ok(())
    }

    /// Whether neither the Client nor its address is banned.
    pub(super) fn is_let_in(&self, identifier: &Identifier<'_>, options: &Options) -> bool {
        let (now, metrics) = (self.broker.now(), &self.broker.metrics);
        let (peer, doorman) = (self.peer.origin(), &options.doorman);
        match identifier {
            Identifier::Given(client_id) => doorman.admits_client(peer, client_id, now, metrics),
            Identifier::ToAssign => doorman.admits_client(peer, "", now, metrics),
        }
    }

    /// Finds or makes the Session, and waits until that is durable.
    async fn session(&self, request: Request, version: Version) -> Result<Connected, Refusal> {
        let mut turn = Turn::default();
        let connected = self.broker.connect(request, &mut turn).await;
        let mut connected =
            connected.map_err(|(reason, why)| Refusal::Told(version, reason, why.into()))?;
        let result = self.durable(&mut connected, &mut turn, version).await;
        if result.is_err() {
            connected.lease.never_began();
        }
        result.map(|()| connected)
    }

    async fn durable(
        &self,
        connected: &mut Connected,
        turn: &mut Turn,
        version: Version,
    ) -> Result<(), Refusal> {
        let Some(parts) = connected.lease.parts.as_mut() else {
            return Err(Refusal::Gone("no session".into()));
        };
        if !turn.has_changes() {
            self.broker.finish(turn, None);
            return Ok(());
        }
        let ticket = parts.session.close_ticket();
        let mailbox = parts.mailbox.clone();
        let waiter = Waiter { mailbox: mailbox.clone(), ticket };
        if self.broker.finish(turn, Some(waiter)) == Submitted::Done {
            parts.session.committed(ticket);
            return Ok(());
        }
        let (mut mail, mut none) = (Vec::new(), VecDeque::new());
        loop {
            std::future::poll_fn(|cx| {
                if mailbox.take(0, 0, &mut mail, &mut none).any
                    || !mailbox.sleep(false, false, cx.waker())
                {
                    return Poll::Ready(());
                }
                Poll::Pending
            })
            .await;
            let mut is_durable = false;
            for mail in mail.drain(..) {
                match mail {
                    Mail::Committed { ticket: committed, outcome: Outcome::Durable } => {
                        parts.session.committed(committed);
                        is_durable |= committed == ticket;
                    }
                    Mail::Committed { outcome: Outcome::Failed, .. } => {
                        let reason = ReasonCode::ServerUnavailable;
                        return Err(Refusal::Told(version, reason, "the store failed".into()));
                    }
                    Mail::MemoryFull => {}
                    Mail::Close(reason) => {
                        return Err(Refusal::Told(
                            version,
                            reason,
                            "ended while connecting".into(),
                        ));
                    }
                }
            }
            // Not before all of the mail is read: who wants this Session asks once.
            if is_durable {
                return Ok(());
            }
        }
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        let (writer, io) = (&mut self.writer, &mut self.io);
        while !writer.is_idle() {
            std::future::poll_fn(|cx| writer.poll_write(cx, io)).await?;
        }
        Ok(())
    }

    fn established(
        self,
        let_in: LetIn,
        options: Arc<Options>,
        permit: Option<Permit>,
    ) -> Box<Connection> {
        let LetIn { lease, terms, guard, seats } = let_in;
        let pace = Pace::new(options.admission.rates);
        let few = Few { pace, _seats: seats, ..Few::default() };
        let Self { io, peer, reader, writer, broker, .. } = self;
        Box::new(Connection {
            io,
            reader,
            writer,
            lease,
            publisher: None,
            usual_log2: USUAL_LOG2,
            peer: peer.origin(),
            options,
            guard,
            receives: Receives::default(),
            few: few.is_needed().then(|| Box::new(few)),
            version: terms.version,
            heard_at: broker.now(),
            heard_len: 0,
            keep_alive_ms: terms.keep_alive_ms,
            timer: None,
            has_early_bytes: true,
            held_back_until: Moment::default(),
            gave_way: None,
            _permit: permit,
        })
    }

    /// Says why, where there is somebody to say it to, and closes [MQTT-3.2.2-7].
    async fn refuse(mut self, refusal: Refusal, admission: &Admission) {
        match refusal {
            Refusal::Gone(_) | Refusal::Silent(_) => {}
            Refusal::Told(version, reason, _) => {
                let reason = match self.peer.certified {
                    Certified::Nameless => reason,
                    _ => admission.told(reason),
                };
                let reason = if reason.is_allowed_in(PacketType::ConnAck) {
                    reason
                } else {
                    ReasonCode::ServerBusy
                };
                let properties = crate::codec::Properties::EMPTY;
                // [MQTT-3.2.2-6]: no Session is present for who is refused.
                let connack = ConnAck { session_present: false, reason, properties };
                let _ = Packet::ConnAck(connack).encode(version, self.writer.buffer());
                let Self { io, writer, .. } = self;
                let _ = tokio::time::timeout(super::ending::LINGER, linger(io, writer)).await;
            }
        }
    }
}

fn decode<'a>(frame: &Frame<'a>, manner: Manner) -> Result<Connect<'a>, Refusal> {
    if frame.kind != PacketType::Connect {
        let error = DecodeError::ProtocolError("the first packet is not CONNECT");
        return Err(Refusal::Silent(error));
    }
    match Packet::decode(frame, Version::V5) {
        Ok(Packet::Connect(connect)) => Ok(connect),
        Ok(_) => Err(Refusal::Gone("no CONNECT".into())),
        Err(error) => Err(match (Connect::peek_version(frame.body), &error) {
            // Before MQTT 5.0 only a version that is not spoken is answered [MQTT-3.1.2-2].
            (Some(_), DecodeError::Malformed(_) | DecodeError::Topic(_))
                if manner == Manner::Mosquitto =>
            {
                Refusal::Silent(error)
            }
            (Some(version), DecodeError::UnsupportedVersion { .. })
            | (Some(version @ Version::V5), _) => {
                Refusal::Told(version, error.reason(), error.to_string())
            }
            _ => Refusal::Silent(error),
        }),
    }
}

/// The Will of a Client, below the mount point; why it must not have it.
fn will(
    connect: &Connect<'_>,
    terms: &Terms,
    admission: &Admission,
) -> Result<Option<Box<Will>>, Refusal> {
    let Some(will) = &connect.will else { return Ok(None) };
    let told = |reason, why: &str| Refusal::Told(terms.version, reason, why.into());
    let topic = will.topic.as_str();
    if sys::is_own(topic) {
        return Err(told(ReasonCode::NotAuthorized, "a Will for a topic of the broker's own"));
    }
    admission.check_will(connect).map_err(|error| match error.reason {
        // It is not answered.
        ReasonCode::ProtocolError => Refusal::Gone(error.what.into()),
        reason => told(reason, error.what),
    })?;
    let topic = terms.mounted(topic);
    let long = || told(ReasonCode::TopicNameInvalid, "a Will Topic that is too long");
    Ok(Some(Box::new(Will::new(will, &topic.ok_or_else(long)?))))
}
