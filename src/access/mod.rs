//! Who may connect and what they may do.
//!
//! A listener has [`Method`]s by which Clients prove who they are, passwords, [`token`]s and
//! [`callout`]s, and tries them in order ([`case`]); the slow part of that is done by the
//! [`checkers`]' threads. A
//! Client certificate that the listener verified is proof too. Without proof Clients are let in
//! everywhere, from this machine only, or nowhere. The mechanisms of enhanced authentication read
//! the file of passwords. What an admitted Client may publish, subscribe to and receive is for
//! [`acl`] to say.
//!
//! Whoever has no password learns nothing from ours: an unknown user is refused as a wrong password
//! is, after the same work (see [`users`]). What methods behind the passwords add to that can be
//! told: how long a callout takes, and that the Server is unavailable while one does not answer.

pub mod acl;
pub mod book;
pub mod callout;
pub mod case;
pub mod checkers;
pub mod file;
pub mod http;
pub mod keys;
pub mod password;
pub mod problem;
pub mod random;
pub mod scram;
pub mod token;
pub mod users;
mod verdict;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::clock::{self, Moment};
use crate::codec::ReasonCode;
use crate::session::auth::Mechanism;
use acl::Subject;
use acl::guard::{Guard, Rules};
use case::{Case, Method};
use checkers::Checkers;
use scram::Scram;
use token::Bearer;
use verdict::Shown;
pub use verdict::{Answer, Credentials, Denied, Identity, Verdict};

/// Whether Clients may connect without proving who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Anonymous {
    /// From anywhere.
    Allowed,
    /// Only over loopback addresses and unix sockets.
    #[default]
    LoopbackOnly,
    /// Never.
    Denied,
}

/// What holds for the Clients of one listener.
#[derive(Debug, Default)]
pub struct Access {
    anonymous: Anonymous,
    /// The ways to prove who one is, and the threads that judge.
    methods: Option<(Arc<[Method]>, Arc<Checkers>)>,
    /// Those of them that judge a token which is given by enhanced authentication.
    tokens: Arc<[Method]>,
    /// Whether the listener has others by now; one for all whose tokens are the same.
    is_retired: Arc<AtomicBool>,
    /// Whether a User Name is believed where there is no way to prove it.
    believes_names: bool,
    rules: Arc<Rules>,
}

impl Access {
    /// Where nobody proves anything.
    pub fn unproven(anonymous: Anonymous) -> Self {
        Self { anonymous, ..Self::default() }
    }

    /// As mosquitto: where nobody can prove anything, a Client has the User Name that it gives.
    pub fn believing_names(self) -> Self {
        let believes_names = self.methods.is_none();
        Self { believes_names, ..self }
    }

    /// With ways to prove who one is, tried in this order.
    pub fn with_methods(
        anonymous: Anonymous,
        methods: Vec<Method>,
        checkers: Arc<Checkers>,
    ) -> Self {
        // No way round a service that says of everybody who comes in.
        let tokens = methods.iter().take_while(|method| !method.judges_the_silent());
        let tokens = tokens.filter(|method| matches!(method, Method::Tokens(_))).cloned().collect();
        Self { anonymous, methods: Some((methods.into(), checkers)), tokens, ..Self::default() }
    }

    /// What its Clients may do.
    pub fn ruled_by(self, rules: Arc<Rules>) -> Self {
        Self { rules, ..self }
    }

    /// In place of what held for the Clients of the same listener: they can give new tokens as long
    /// as these are judged by the same.
    pub fn succeeding(self, former: &Self) -> Self {
        if self.has_tokens_of(former) {
            return Self { is_retired: former.is_retired.clone(), ..self };
        }
        former.retire();
        self
    }

    fn has_tokens_of(&self, other: &Self) -> bool {
        let is_same = |pair: (&Method, &Method)| match pair {
            (Method::Tokens(own), Method::Tokens(other)) => Arc::ptr_eq(own, other),
            _ => false,
        };
        self.tokens.len() == other.tokens.len()
            && self.tokens.iter().zip(other.tokens.iter()).all(is_same)
    }

    /// Nobody is to come by these tokens any more, nor to stay by another one.
    pub fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
    }

    /// What guards the broker from an admitted Client; it is `now`.
    pub fn guard(&self, identity: Identity, client_id: &Arc<str>, now: Moment) -> Arc<Guard> {
        let Identity { username, claims, expires_at } = identity;
        let subject = Subject { username, client_id: client_id.clone(), claims };
        let guard = Guard::new(subject, self.rules.clone());
        Arc::new(match expires_at {
            // The wall clock may not be the broker's; one more, since both are rounded down.
            Some(expiry) => {
                guard.until(now.after_ms(expiry.since(clock::wall()).saturating_add(1)))
            }
            None => guard,
        })
    }

    /// Judges credentials; answers at once or from a thread of the checkers.
    pub fn authenticate(&self, credentials: &Credentials<'_>, answer: Box<dyn Answer>) {
        let unproven = self.unproven_verdict(credentials);
        let has_shown = credentials.username.is_some() || credentials.password.is_some();
        let asks_all = |methods: &[Method]| methods.iter().any(Method::judges_the_silent);
        let (methods, checkers) = match &self.methods {
            Some(methods) if has_shown || asks_all(&methods.0) => methods,
            _ => return answer.give(unproven),
        };
        if let (Some(Method::Passwords(directory)), Some(username)) =
            (methods.first(), credentials.username)
        {
            let users = directory.users();
            let question = users.question(username, credentials.password);
            if users.is_remembered(&question) {
                return answer.give(Ok(question.identity()));
            }
        }
        let shown = Shown::new(credentials);
        let home = Arc::downgrade(checkers);
        checkers.submit(Case::new(methods.clone(), shown, unproven, answer, home));
    }

    /// Judges a token that was given by enhanced authentication, as the Password of these
    /// credentials.
    pub fn authenticate_token(&self, credentials: &Credentials<'_>, answer: Box<dyn Answer>) {
        let unproven = Err(Denied::new(ReasonCode::NotAuthorized, ""));
        match &self.methods {
            Some((_, checkers)) if !self.is_retired.load(Ordering::Relaxed) => {
                let (shown, home) = (Shown::new(credentials), Arc::downgrade(checkers));
                checkers.submit(Case::new(self.tokens.clone(), shown, unproven, answer, home));
            }
            _ => {
                let why = "other settings for tokens hold by now";
                answer.give(Err(Denied::new(ReasonCode::BadAuthenticationMethod, why)));
            }
        }
    }

    fn unproven_verdict(&self, credentials: &Credentials<'_>) -> Verdict {
        let admitted = match self.anonymous {
            Anonymous::Allowed => true,
            Anonymous::LoopbackOnly => credentials.is_loopback || credentials.has_certificate,
            Anonymous::Denied => credentials.has_certificate,
        };
        match (admitted, credentials.username) {
            (true, Some(name)) if self.believes_names => {
                Ok(Identity { username: Some(name.into()), ..Identity::default() })
            }
            (true, _) => Ok(Identity::default()),
            (false, Some(_)) => Err(Denied::new(ReasonCode::BadUserNameOrPassword, "")),
            (false, None) => Err(Denied::new(ReasonCode::NotAuthorized, "")),
        }
    }

    /// A new exchange by the mechanism of enhanced authentication with this name, if it is
    /// offered: tokens where no callout goes before them; SCRAM where the password file has a user
    /// for it, and no other method goes before the passwords, which it would be a way round.
    pub fn mechanism(&self, method: &str) -> Option<Box<dyn Mechanism>> {
        if method == token::METHOD && !self.tokens.is_empty() {
            return Some(Box::new(Bearer));
        }
        let Some(Method::Passwords(directory)) = self.methods.as_ref()?.0.first() else {
            return None;
        };
        let users = directory.users();
        if method != keys::METHOD || !users.have_scram() {
            return None;
        }
        let nonce =
            random::text().inspect_err(|error| tracing::error!("no nonce: {error}")).ok()?;
        Some(Box::new(Scram::new(users, nonce)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(anonymous: Anonymous, is_loopback: bool, has_certificate: bool) -> bool {
        let credentials = Credentials { is_loopback, has_certificate, ..Credentials::default() };
        Access::unproven(anonymous).unproven_verdict(&credentials).is_ok()
    }

    #[test]
    fn by_default_strangers_come_from_this_machine_only() {
        assert!(verdict(Anonymous::default(), true, false));
        assert!(!verdict(Anonymous::default(), false, false));
    }

    #[test]
    fn a_verified_certificate_is_proof() {
        assert!(verdict(Anonymous::Denied, false, true));
        assert!(!verdict(Anonymous::Denied, true, false));
    }
}
