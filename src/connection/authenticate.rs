//! Who the Client is: at CONNECT by user name and password or by an exchange of AUTH packets, and
//! again later by another exchange (MQTT 5.0, section 4.12).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;

use super::alarms::within;
use super::opening::{Opening, Refusal, gone};
use super::{Connection, Ending, Options};
use crate::access::acl::guard::Receives;
use crate::access::{Answer, Credentials, Denied, Identity, Verdict, token};
use crate::broker::Broker;
use crate::clock::Moment;
use crate::codec::frame::{self, Split};
use crate::codec::{Auth, Connect, DecodeError, Packet, ReasonCode};
use crate::doorman::Doorman;
use crate::doorman::guesses::Attempt;
use crate::net::tls::Certified;
use crate::net::transport::Origin;
use crate::session::ProtocolError;
use crate::session::auth::{self, Exchange, Progress};
use crate::session::connect::{Identifier, Manner, Terms};

/// How often who waits looks whether the broker is about to end.
const DELAY_STEP: Duration = Duration::from_millis(250);

/// A Client that has shown who it is.
pub(super) struct Admitted {
    pub identity: Identity,
    /// The exchange that it has shown it by.
    pub exchange: Option<Exchange>,
}

/// What a Client whose token is being judged waits for.
pub(super) struct Awaited {
    verdict: oneshot::Receiver<Verdict>,
    token: Box<[u8]>,
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
        if terms.authentication_method.is_none() {
            let identity = self.judged(connect, None, options).await?;
            return Ok(Admitted { identity, exchange: None });
        }
        let exchange = self.exchange(connect, terms, options);
        let (exchange, token) = within(options.connect_timeout, exchange)
            .await
            .ok_or_else(|| Refusal::Gone("enhanced authentication took too long".into()))??;
        let identity = match token {
            Some(token) => self.judged(connect, Some(&token), options).await?,
            None => {
                let username = exchange.username().map(Into::into);
                Identity { username, ..Identity::default() }
            }
        };
        Ok(Admitted { identity, exchange: Some(exchange) })
    }

    /// Who the threads that judge say that the Client is, by its password or by this token.
    async fn judged(
        &mut self,
        connect: &Connect<'_>,
        token: Option<&[u8]>,
        options: &Options,
    ) -> Result<Identity, Refusal> {
        let verdict = tokio::select! {
            biased;
            verdict = self.verdict(connect, token, options) => verdict,
            // The threads have others to judge.
            () = self.io.gone() => {
                return Err(Refusal::Gone("it left before it was judged".into()));
            }
        };
        verdict.map_err(|Denied { reason, why }| {
            if reason == ReasonCode::ServerBusy {
                self.broker.metrics.passwords_not_checked.increment();
            }
            let who = match connect.username {
                Some(username) => format!("user {username:?} not let in"),
                None => "not let in".into(),
            };
            let why = if why.is_empty() { who } else { format!("{who}: {why}") };
            Refusal::Told(connect.version, reason, why)
        })
    }

    /// Judges user name and password, or a token. Who waits for a thread longer than for CONNECT
    /// waits no more. Where the listener names Clients by their certificates, nothing else is
    /// asked.
    async fn verdict(
        &self,
        connect: &Connect<'_>,
        token: Option<&[u8]>,
        options: &Options,
    ) -> Verdict {
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
        let password = connect.password.filter(|password| {
            // There it is no password, whatever the file says.
            admission.limits.manner == Manner::Own || !password.is_empty()
        });
        let credentials = Credentials {
            client_id,
            username: connect.username,
            password: token.or(password),
            is_loopback: self.peer.is_loopback,
            has_certificate: self.peer.has_certificate && admission.trusts_certificates,
            certificate_subject: self.peer.certificate_subject.as_deref(),
            address: self.peer.address,
            listener: &admission.place,
        };
        let (answer, verdict) = oneshot::channel();
        let (peer, broker, doorman) = (self.peer.origin(), self.broker.clone(), &options.doorman);
        let waiting = Waiting { answer, peer, doorman: doorman.clone(), broker };
        match token {
            Some(_) => options.access.authenticate_token(&credentials, Box::new(waiting)),
            None => options.access.authenticate(&credentials, Box::new(waiting)),
        }
        match within(options.connect_timeout, verdict).await {
            Some(Ok(verdict)) => verdict,
            Some(Err(_)) if !self.is_let_in(&Identifier::ToAssign, options) => {
                Err(Denied::new(ReasonCode::Banned, "banned before it was judged"))
            }
            Some(Err(_)) => Err(Denied::new(ReasonCode::ServerUnavailable, "")),
            None => Err(Denied::new(ReasonCode::ServerBusy, "not judged in time")),
        }
    }

    /// Carries out the exchange of AUTH packets that the Client asked for; with the token that is
    /// to be judged, if it has given one.
    async fn exchange(
        &mut self,
        connect: &Connect<'_>,
        terms: &Terms,
        options: &Options,
    ) -> Result<(Exchange, Option<Vec<u8>>), Refusal> {
        let version = terms.version;
        let told = |reason, why: &str| Refusal::Told(version, reason, why.to_owned());
        if self.peer.certified != Certified::NotAsked {
            let why = "its certificate says who it is, and nothing else";
            return Err(told(ReasonCode::BadAuthenticationMethod, why));
        }
        let mut exchange = begin(terms, options).map_err(|error| told(error.reason, error.what))?;
        let data = connect.properties.authentication_data().unwrap_or_default();
        let mut progress = exchange.begin(data).map_err(|error| told(error.reason, error.what))?;
        loop {
            match progress {
                Progress::Over => return Ok((exchange, None)),
                Progress::Waits(token) => return Ok((exchange, Some(token))),
                Progress::Continues => {}
            }
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
            progress = match packet {
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
    }
}

impl Connection {
    /// An AUTH packet: the Client proves again who it is, by the method of its CONNECT
    /// [MQTT-4.12.1-1]. Everything else goes on meanwhile.
    pub(super) fn authenticate_again(&mut self, auth: &Auth<'_>) -> Result<(), Ending> {
        let Some(parts) = self.lease.parts.as_mut() else { return Err(Ending::Closed) };
        let few = self.few.get_or_insert_default();
        if few.verdict.is_some() {
            return Err(Ending::Rule(ProtocolError::protocol("AUTH out of turn")));
        }
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
        let reason = match handled.map_err(Ending::Rule)? {
            Progress::Continues => ReasonCode::ContinueAuthentication,
            Progress::Waits(token) => {
                self.ask_about(token.into());
                return Ok(());
            }
            Progress::Over if exchange.username() == self.guard.subject.username.as_deref() => {
                ReasonCode::Success
            }
            Progress::Over => return Err(another_user()),
        };
        parts.session.authenticated(reason, exchange.last_data());
        if reason == ReasonCode::Success {
            few.exchange = None;
        }
        Ok(())
    }

    /// Has a token judged by which the Client proves again who it is.
    fn ask_about(&mut self, token: Box<[u8]>) {
        let (answer, verdict) = oneshot::channel();
        let (broker, doorman) = (self.lease.broker.clone(), self.options.doorman.clone());
        let waiting = Waiting { answer, peer: self.peer, doorman, broker };
        let subject = &self.guard.subject;
        let credentials = Credentials {
            client_id: Some(&subject.client_id),
            username: subject.username.as_deref(),
            password: Some(&token),
            ..Credentials::default()
        };
        self.options.access.authenticate_token(&credentials, Box::new(waiting));
        self.few.get_or_insert_default().verdict = Some(Awaited { verdict, token });
    }

    /// Takes up what is said of that token, once it is: from then on the Client is who it says
    /// there, for as long and with what it may do by it.
    pub(super) fn hear_verdict(&mut self, cx: &mut Context<'_>, now: Moment) -> Result<(), Ending> {
        let Some(few) = self.few.as_mut() else { return Ok(()) };
        let Some(Awaited { verdict, token }) = few.verdict.as_mut() else { return Ok(()) };
        let Poll::Ready(verdict) = Pin::new(verdict).poll(cx) else { return Ok(()) };
        let subject = &self.guard.subject;
        // Who is banned is not judged, nor anybody when the broker is about to end.
        let verdict = verdict.unwrap_or_else(|_| Err(Denied::new(ReasonCode::ServerBusy, "")));
        let identity = verdict.map_err(|Denied { reason, why }| {
            tracing::info!(client = ?subject.client_id, "not authenticated again: {why}");
            if is_failed_login(reason) {
                let attempt = Attempt::Guess(subject.username.as_deref(), Some(token));
                let metrics = &self.lease.broker.metrics;
                let _ = self.options.doorman.login_failed(self.peer, attempt, now, metrics);
                let (reason, what) = (ReasonCode::NotAuthorized, "enhanced authentication failed");
                return Ending::Rule(ProtocolError { reason, what });
            }
            Ending::Ended(match reason {
                // It is not the token that is wrong.
                ReasonCode::BadAuthenticationMethod => ReasonCode::NotAuthorized,
                _ => ReasonCode::ServerBusy,
            })
        })?;
        if identity.username != subject.username {
            return Err(another_user());
        }
        let Some(parts) = self.lease.parts.as_mut() else { return Err(Ending::Closed) };
        self.guard = self.options.access.guard(identity, &subject.client_id, now);
        self.lease.broker.reguard(parts, self.guard.clone());
        // What is known by the former one.
        (self.publisher, self.receives, self.timer) = (None, Receives::default(), None);
        parts.session.authenticated(ReasonCode::Success, &[]);
        (few.verdict, few.exchange) = (None, None);
        self.few.take_if(|few| !few.is_needed());
        Ok(())
    }
}

fn another_user() -> Ending {
    let what = "authenticated again as another user";
    Ending::Rule(ProtocolError { reason: ReasonCode::NotAuthorized, what })
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
    let data = connect.properties.authentication_data();
    Some(match reason {
        _ if terms.authentication_method() == Some(token::METHOD) => {
            Attempt::Guess(connect.username, data)
        }
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
