//! Who may connect and what they may do.
//!
//! A Client that gives a User Name where there is a password file must prove it; the slow part
//! of that is done by the [`checkers`]' threads. A Client certificate that the listener verified
//! is proof too. Without proof Clients are let in everywhere, from this machine only, or nowhere.
//! The mechanisms of enhanced authentication read the same file. What an admitted Client may
//! publish, subscribe to and receive is for [`acl`] to say.
//!
//! Whoever has no password learns nothing from ours: an unknown user is answered as a wrong
//! password is, after the same work (see [`users`]).

pub mod acl;
pub mod book;
pub mod checkers;
pub mod file;
pub mod password;
pub mod problem;
pub mod random;
pub mod scram;
pub mod users;

use std::fmt;
use std::sync::Arc;

use crate::codec::ReasonCode;
use crate::session::auth::Mechanism;
use acl::guard::{Guard, Rules};
use acl::{Claims, Subject};
use book::Directory;
use checkers::{Checkers, Job};
use scram::Scram;

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

/// What a Client shows of itself.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// The User Name of its CONNECT packet.
    pub username: Option<&'a str>,
    /// The Password of the same.
    pub password: Option<&'a [u8]>,
    /// Whether the connection comes from this machine.
    pub is_loopback: bool,
    /// Whether it has shown a certificate that the listener trusts.
    pub has_certificate: bool,
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials of {:?}", self.username)
    }
}

/// Who an admitted Client is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The name that it has proven; `None`: it came without proof, or by its certificate.
    pub username: Option<Arc<str>>,
    /// What else its proof says of it.
    pub claims: Option<Arc<Claims>>,
}

/// The identity, or the CONNACK's Reason Code.
pub type Verdict = Result<Identity, ReasonCode>;

/// Who waits for a verdict.
pub trait Answer: Send {
    /// Whether somebody still does.
    fn is_awaited(&self) -> bool;

    /// Here it is.
    fn give(self: Box<Self>, verdict: Verdict);
}

/// What holds for the Clients of one listener.
#[derive(Debug, Default)]
pub struct Access {
    anonymous: Anonymous,
    passwords: Option<(Arc<Directory>, Arc<Checkers>)>,
    rules: Arc<Rules>,
}

impl Access {
    /// Without users.
    pub fn unproven(anonymous: Anonymous) -> Self {
        Self { anonymous, ..Self::default() }
    }

    /// With users who have passwords.
    pub fn with_passwords(
        anonymous: Anonymous,
        users: Arc<Directory>,
        checkers: Arc<Checkers>,
    ) -> Self {
        Self { anonymous, passwords: Some((users, checkers)), ..Self::default() }
    }

    /// What its Clients may do.
    pub fn ruled_by(self, rules: Arc<Rules>) -> Self {
        Self { rules, ..self }
    }

    /// What guards the broker from an admitted Client.
    pub fn guard(&self, identity: Identity, client_id: &Arc<str>) -> Arc<Guard> {
        let Identity { username, claims } = identity;
        let subject = Subject { username, client_id: client_id.clone(), claims };
        Arc::new(Guard::new(subject, self.rules.clone()))
    }

    /// Judges credentials; answers at once or, for a password, from a thread of the checkers.
    pub fn authenticate(&self, credentials: &Credentials<'_>, answer: Box<dyn Answer>) {
        let (Some((users, checkers)), Some(username)) = (&self.passwords, credentials.username)
        else {
            return answer.give(self.unproven_verdict(credentials));
        };
        let users = users.users();
        let question = users.question(username, credentials.password);
        if users.is_remembered(&question) {
            return answer.give(Ok(question.identity()));
        }
        if let Err(job) = checkers.submit(Job { users, question, answer }) {
            job.answer.give(Err(ReasonCode::ServerBusy));
        }
    }

    fn unproven_verdict(&self, credentials: &Credentials<'_>) -> Verdict {
        let admitted = match self.anonymous {
            Anonymous::Allowed => true,
            Anonymous::LoopbackOnly => credentials.is_loopback || credentials.has_certificate,
            Anonymous::Denied => credentials.has_certificate,
        };
        match (admitted, credentials.username) {
            (true, _) => Ok(Identity::default()),
            (false, Some(_)) => Err(ReasonCode::BadUserNameOrPassword),
            (false, None) => Err(ReasonCode::NotAuthorized),
        }
    }

    /// A new exchange by the mechanism of enhanced authentication with this name, if it is
    /// offered: SCRAM where the password file has a user for it.
    pub fn mechanism(&self, method: &str) -> Option<Box<dyn Mechanism>> {
        let users = self.passwords.as_ref()?.0.users();
        if method != scram::METHOD || !users.have_scram() {
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
        let (username, password) = (None, None);
        let credentials = Credentials { username, password, is_loopback, has_certificate };
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

    #[test]
    fn credentials_do_not_show_the_password() {
        let (username, password) = (Some("ali"), Some(&b"sesame"[..]));
        let credentials =
            Credentials { username, password, is_loopback: true, has_certificate: false };
        assert_eq!(format!("{credentials:?}"), "Credentials of Some(\"ali\")");
    }
}
