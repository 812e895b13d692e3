//! Who may connect and what they may do.
//!
//! Today: Clients without proof of identity are let in everywhere, from this machine only, or
//! nowhere; a Client certificate that the listener verified is proof. What an admitted Client may
//! publish and subscribe to is not restricted.

use crate::codec::ReasonCode;
use crate::session::auth::Mechanism;

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
#[derive(Clone, Copy, Debug)]
pub struct Credentials<'a> {
    /// The User Name of its CONNECT packet.
    pub username: Option<&'a str>,
    /// Whether the connection comes from this machine.
    pub is_loopback: bool,
    /// Whether it has shown a certificate that the listener trusts.
    pub has_certificate: bool,
}

/// Judges credentials; the error is the CONNACK's Reason Code.
pub fn authenticate(anonymous: Anonymous, credentials: &Credentials<'_>) -> Result<(), ReasonCode> {
    let admitted = match anonymous {
        Anonymous::Allowed => true,
        Anonymous::LoopbackOnly => credentials.is_loopback || credentials.has_certificate,
        Anonymous::Denied => credentials.has_certificate,
    };
    match (admitted, credentials.username) {
        (true, _) => Ok(()),
        (false, Some(_)) => Err(ReasonCode::BadUserNameOrPassword),
        (false, None) => Err(ReasonCode::NotAuthorized),
    }
}

/// The mechanism of enhanced authentication with this name; none is offered yet.
pub fn mechanism(_method: &str) -> Option<Box<dyn Mechanism>> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(anonymous: Anonymous, is_loopback: bool, has_certificate: bool) -> bool {
        let credentials = Credentials { username: None, is_loopback, has_certificate };
        authenticate(anonymous, &credentials).is_ok()
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
