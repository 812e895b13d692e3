//! Who the Client is: at CONNECT by user name and password or by an exchange of AUTH packets, and
//! again later by another exchange (MQTT 5.0, section 4.12).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::opening::{Opening, Refusal, gone};
use super::{Connection, Ending, Options};
use crate::access::{Answer, Credentials, Denied, Identity, Verdict};
use crate::broker::Broker;
use crate::codec::frame::{self, Split};
use crate::codec::{Auth, Connect, DecodeError, Packet, ReasonCode};
use crate::doorman::Doorman;
use crate::doorman::guesses::Attempt;
use crate::net::tls::Certified;
use crate::net::transport::Origin;
use crate::session::ProtocolError;
use crate::session::auth::{self, Exchange};
use crate::session::connect::{Identifier, Manner, Terms};

/// How often who waits looks whether the broker is about to end.
const DELAY_STEP: Duration = Duration::from_millis(250);

/// A Client that has shown who it is.
pub(super) struct Admitted {
    pub identity: Identity,
    /// The exchange that it has shown it by.
    pub exchange: Option<Exchange>,
}

/// Who waits for a verdict is the task at the other end; not whoever was banned meanwhile.
struct Waiting {
    answer: oneshot::Sender<Verdict>,
    peer: Origin,
    doorman: Arc<Doorman>,
    broker: Arc<Broker>,
}

impl Answer for Waiting {
    fn is_awaited(&self) -> bool {
        let is_banned = || self.doorman.is_banned(self.peer, self.broker.now());
        !self.answer.is_closed() && !is_banned()
    }

    fn give(self: Box<Self>, verdict: Verdict) {
        let _ = self.answer.send(verdict);
    }
}

impl Opening<'_> {
    /// Finds out who the Client is and whether it may come in. Where many have failed to show it,
    /// the answer to another one who fails comes later.
    pub(super) async fn admit(
        &mut self,
        connect: &Connect<'_>,
        terms: &Terms,
        options: &Options,
    ) -> Result<Admitted, Refusal> {
        let result = self.prove(connect, terms, options).await;
        if let Err(Refusal::Told(_, reason, _)) = &result
            && let Some(attempt) = attempt(*reason, connect, terms)
        {
            let broker = self.broker;
            let peer = self.peer.origin();
            let delay = options.doorman.login_failed(peer, attempt, broker.now(), &broker.metrics);
            tokio::select! {
                () = self.delay(delay) => {}
                () = self.io.gone() => {}
            }
        }
        result
    }

    /// Lets time pass, unless the broker is about to end.
    async fn delay(&self, mut left: Duration) {
        while !left.is_zero() && !self.broker.is_closing() {
            let step = left.min(DELAY_STEP);
            tokio::time::sleep(step).await;
            left -= step;
        }
    }

    async fn prove(
        &mut self,
        connect: &Connect<'_>,
        terms: &Terms,
        options: &Options,
    ) -> Result<Admitted, Refusal> {
        let told = |reason, why: String| Refusal::Told(terms.version, reason, why);
        if terms.authentication_method.is_none() {
            let verdict = tokio::select! {
                biased;
                verdict = self.verdict(connect, options) => verdict,
                // The threads have others to judge.
                () = self.io.gone() => {
                    return Err(Refusal::Gone("it left before it was judged".into()));
                }
            };
            let identity = verdict.map_err(|Denied { reason, why }| {
                if reason == ReasonCode::ServerBusy {
                    self.broker.metrics.passwords_not_checked.increment();
                }
                let who = match connect.username {
                    Some(username) => format!("user {username:?} not let in"),
                    None => "not let in".into(),
                };
                told(reason, if why.is_empty() { who } else { format!("{who}: {why}") })
            })?;
            return Ok(Admitted { identity, exchange: None });
        }
        let exchange = self.exchange(connect, terms, options);
        let exchange = tokio::time::timeout(options.connect_timeout, exchange)
            .await
            .map_err(|_| Refusal::Gone("enhanced authentication took too long".into()))??;
        let username = exchange.username().map(Into::into);
        let identity = Identity { username, ..Identity::default() };
        Ok(Admitted { identity, exchange: Some(exchange) })
    }

    /// Judges user name and password. Who waits for a thread longer than for CONNECT waits no more.
    /// Where the listener names Clients by their certificates, nothing else is asked.
    async fn verdict(&self, connect: &Connect<'_>, options: &Options) -> Verdict {
        match &self.peer.certified {
            Certified::NotAsked => {}
            Certified::As(name) => {
                return Ok(Identity { username: Some(name.clone()), ..Identity::default() });
            }
            Certified::Nameless => {
                let reason = match options.admission.limits.manner {
                    Manner::Own => ReasonCode::NotAuthorized,
                    Manner::Mosquitto => ReasonCode::BadUserNameOrPassword,
                };
                return Err(Denied::new(reason, ""));
            }
        }
        let admission = &options.admission;
        let client_id = match admission.names_are_ids {
            true => connect.username,
            false => Some(connect.client_id).filter(|id| !id.is_empty()),
        };
        let credentials = Credentials {
            client_id,
            username: connect.username,
            password: connect.password.filter(|password| {
                // There it is no password, whatever the file says.
                admission.limits.manner == Manner::Own || !password.is_empty()
            }),
            is_loopback: self.peer.is_loopback,
            has_certificate: self.peer.has_certificate && admission.trusts_certificates,
            certificate_subject: self.peer.certificate_subject.as_deref(),
            address: self.peer.address,
            listener: &admission.place,
        };
        let (answer, verdict) = oneshot::channel();
        let (peer, broker, doorman) = (self.peer.origin(), self.broker.clone(), &options.doorman);
        let waiting = Waiting { answer, peer, doorman: doorman.clone(), broker };
        options.access.authenticate(&credentials, Box::new(waiting));
        match tokio::time::timeout(options.connect_timeout, verdict).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) if !self.is_let_in(&Identifier::ToAssign, options) => {
                Err(Denied::new(ReasonCode::Banned, "banned before it was judged"))
            }
            Ok(Err(_)) => Err(Denied::new(ReasonCode::ServerUnavailable, "")),
            Err(_) => Err(Denied::new(ReasonCode::ServerBusy, "not judged in time")),
        }
    }

    /// Carries out the exchange of AUTH packets that the Client asked for.
    async fn exchange(
        &mut self,
        connect: &Connect<'_>,
        terms: &Terms,
        options: &Options,
    ) -> Result<Exchange, Refusal> {
        let version = terms.version;
        let told = |reason, why: &str| Refusal::Told(version, reason, why.to_owned());
        let mut exchange = begin(terms, options).map_err(|error| told(error.reason, error.what))?;
        let data = connect.properties.authentication_data().unwrap_or_default();
        let mut is_over = exchange.begin(data).map_err(|error| told(error.reason, error.what))?;
        while !is_over {
            let properties = auth::properties(exchange.method(), exchange.last_data());
            let reason = ReasonCode::ContinueAuthentication; // [MQTT-4.12.0-2]
            let auth = Packet::Auth(Auth { reason, properties: properties.as_properties() });
            let _ = auth.encode(version, self.writer.buffer());
            if self.writer.backlog() > terms.maximum_packet_size() {
                self.writer.buffer().clear(); // [MQTT-3.1.2-24]
                let why = "its Maximum Packet Size leaves no room for AUTH";
                return Err(told(ReasonCode::PacketTooLarge, why));
            }
            self.flush().await.map_err(gone)?;
            let bytes = self.frame().await?;
            let packet = match frame::split(&bytes, usize::MAX) {
                Ok(Split::Frame(frame)) => Packet::decode(&frame, version),
                _ => Err(DecodeError::Malformed("no packet")),
            };
            is_over = match packet {
                // [MQTT-4.12.0-3]
                Ok(Packet::Auth(auth)) => exchange
                    .handle(&auth, ReasonCode::ContinueAuthentication)
                    .map_err(|error| told(error.reason, error.what))?,
                Ok(Packet::Disconnect(_)) => {
                    return Err(Refusal::Gone("disconnected during authentication".into()));
                }
                Ok(_) => {
                    let why = "another packet during authentication"; // [MQTT-3.1.2-30]
                    return Err(told(ReasonCode::ProtocolError, why));
                }
                Err(error) => return Err(told(error.reason(), &error.to_string())),
            };
        }
        Ok(exchange)
    }
}

impl Connection {
    /// An AUTH packet: the Client proves again who it is, by the method of its CONNECT
    /// [MQTT-4.12.1-1]. Everything else goes on meanwhile.
    pub(super) fn authenticate_again(&mut self, auth: &Auth<'_>) -> Result<(), Ending> {
        let Some(parts) = self.lease.parts.as_mut() else { return Err(Ending::Closed) };
        let few = self.few.get_or_insert_default();
        let (exchange, due) = match &mut few.exchange {
            Some(exchange) => (exchange, ReasonCode::ContinueAuthentication),
            none => {
                let exchange = begin(parts.session.terms(), &self.options).map_err(Ending::Rule)?;
                (none.insert(exchange), ReasonCode::ReAuthenticate)
            }
        };
        let handled = exchange.handle(auth, due); // [MQTT-4.12.1-2]
        if handled.as_ref().is_err_and(|error| is_failed_login(error.reason)) {
            let broker = &self.lease.broker;
            // It is cut off for it: there is no answer to be delayed.
            let (now, metrics) = (broker.now(), &broker.metrics);
            let _ = self.options.doorman.login_failed(self.peer, Attempt::Proof, now, metrics);
        }
        let is_over = handled.map_err(Ending::Rule)?;
        if is_over && exchange.username() != self.guard.subject.username.as_deref() {
            let what = "authenticated again as another user";
            return Err(Ending::Rule(ProtocolError { reason: ReasonCode::NotAuthorized, what }));
        }
        let reason = if is_over { ReasonCode::Success } else { ReasonCode::ContinueAuthentication };
        parts.session.authenticated(reason, exchange.last_data());
        if is_over {
            few.exchange = None;
        }
        Ok(())
    }
}

/// Whether somebody is refused for not having shown who it is.
fn is_failed_login(reason: ReasonCode) -> bool {
    matches!(reason, ReasonCode::BadUserNameOrPassword | ReasonCode::NotAuthorized)
}

/// What a login failed with, if it did.
fn attempt<'a>(reason: ReasonCode, connect: &Connect<'a>, terms: &Terms) -> Option<Attempt<'a>> {
    if !is_failed_login(reason) {
        return None;
    }
    Some(match reason {
        _ if terms.authentication_method.is_some() => Attempt::Proof,
        ReasonCode::NotAuthorized => Attempt::Silence,
        _ => Attempt::Guess(connect.username, connect.password),
    })
}

/// An exchange by the method that the Client chose.
fn begin(terms: &Terms, options: &Options) -> Result<Exchange, ProtocolError> {
    let method = terms.authentication_method().unwrap_or_default();
    let mechanism = options.access.mechanism(method).ok_or(ProtocolError {
        reason: ReasonCode::BadAuthenticationMethod, // [MQTT-4.12.0-1]
        what: "unknown authentication method",
    })?;
    Ok(Exchange::new(method, mechanism))
}
