//! What a Client shows of itself, and what is said of it: the words that all who judge share.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::acl::Claims;
use crate::clock::Moment;
use crate::codec::ReasonCode;

/// What a Client shows of itself.
#[derive(Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// Its Client Identifier; `None`: it is given one.
    pub client_id: Option<&'a str>,
    /// The User Name of its CONNECT packet.
    pub username: Option<&'a str>,
    /// The Password of the same.
    pub password: Option<&'a [u8]>,
    /// Whether the connection comes from this machine.
    pub is_loopback: bool,
    /// Whether it has shown a certificate that the listener trusts.
    pub has_certificate: bool,
    /// The subject of that, as RFC 2253 writes it.
    pub certificate_subject: Option<&'a str>,
    /// Where it comes from.
    pub address: Option<SocketAddr>,
    /// The listener's port or path.
    pub listener: &'a str,
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials of {:?}", self.username)
    }
}

/// What a Client has shown, kept while it waits.
#[derive(Default)]
pub(super) struct Shown {
    pub client_id: Option<Box<str>>,
    pub username: Option<Box<str>>,
    pub password: Option<Box<[u8]>>,
    pub address: Option<SocketAddr>,
    pub listener: Box<str>,
    pub certificate_subject: Option<Box<str>>,
}

impl Shown {
    pub fn new(credentials: &Credentials<'_>) -> Self {
        let owned = |text: Option<&str>| text.map(Into::into);
        Self {
            client_id: owned(credentials.client_id),
            username: owned(credentials.username),
            password: credentials.password.map(Into::into),
            address: credentials.address,
            listener: credentials.listener.into(),
            certificate_subject: owned(credentials.certificate_subject),
        }
    }
}

/// Who an admitted Client is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The name that it has proven; `None`: it came without proof, or by its certificate.
    pub username: Option<Arc<str>>,
    /// What else its proof says of it.
    pub claims: Option<Arc<Claims>>,
    /// When its proof expires, by the wall clock.
    pub expires_at: Option<Moment>,
}

/// Who it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The CONNACK's Reason Code.
    pub reason: ReasonCode,
    /// Why, for the log; nothing where there is nothing to add.
    pub why: String,
}

impl Denied {
    /// For a reason that is always the same.
    pub fn new(reason: ReasonCode, why: &str) -> Self {
        Self { reason, why: why.into() }
    }
}

/// Who a Client is, or why it is not let in.
pub type Verdict = Result<Identity, Denied>;

/// Who waits for a verdict.
pub trait Answer: Send {
    /// Whether somebody still does.
    fn is_awaited(&self) -> bool;

    /// Here it is.
    fn give(self: Box<Self>, verdict: Verdict);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_do_not_show_the_password() {
        let (username, password) = (Some("ali"), Some(&b"sesame"[..]));
        let credentials = Credentials { username, password, ..Credentials::default() };
        assert_eq!(format!("{credentials:?}"), "Credentials of Some(\"ali\")");
    }
}
