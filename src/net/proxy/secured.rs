//! What a header of version 2 says of the TLS that a Client speaks with the proxy.

use super::ProxyError;

/// The extension about TLS.
const TLS: u8 = 0x20;
/// The extensions within it.
const VERSION: u8 = 0x21;
const COMMON_NAME: u8 = 0x22;
const CIPHER: u8 = 0x23;

/// Bits of what the Client did: it speaks TLS.
const SPEAKS_TLS: u8 = 1;
/// It showed a certificate, on this connection or before in the same session of TLS.
const SHOWED_CERTIFICATE: u8 = 1 << 1 | 1 << 2;

/// What is asked of the TLS between a Client and its proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// That there is some.
    pub tls: bool,
    /// That the Client showed a certificate which the proxy found good.
    pub certificate: bool,
    /// That its Common Name is the Client's user name.
    pub name: bool,
}

impl Asked {
    /// Whether a Client is what is asked for.
    pub(super) fn judge(self, secured: &Secured<'_>) -> Result<(), ProxyError> {
        if self.tls && !secured.is_tls {
            return Err(ProxyError::NoTls);
        }
        if self.certificate && !secured.has_certificate {
            return Err(ProxyError::NoCertificate);
        }
        Ok(())
    }
}

/// The TLS of a Client, as its proxy says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Secured<'h> {
    /// Whether it speaks any.
    pub is_tls: bool,
    /// Whether it showed a certificate, and the proxy found it good.
    pub has_certificate: bool,
    /// The Common Name of that.
    pub common_name: Option<&'h str>,
    /// The version of TLS.
    pub version: Option<&'h str>,
    /// The cipher suite.
    pub cipher: Option<&'h str>,
}

impl<'h> Secured<'h> {
    /// Reads the extensions of a header.
    pub fn read(mut extensions: &'h [u8]) -> Result<Self, ProxyError> {
        let mut secured = Self::default();
        while !extensions.is_empty() {
            let (kind, value) = take(&mut extensions)?;
            if kind == TLS {
                secured = Self::of_tls(value)?;
            }
        }
        Ok(secured)
    }

    fn of_tls(value: &'h [u8]) -> Result<Self, ProxyError> {
        let Some((&[did, verified @ ..], mut within)) = value.split_first_chunk::<5>() else {
            return Err(ProxyError::BadBinary("a short extension about TLS"));
        };
        let is_tls = did & SPEAKS_TLS != 0;
        let is_good = verified == [0; 4];
        let has_certificate = is_tls && is_good && did & SHOWED_CERTIFICATE != 0;
        let mut secured = Self { is_tls, has_certificate, ..Self::default() };
        while !within.is_empty() {
            let (kind, value) = take(&mut within)?;
            let text = std::str::from_utf8(value).ok();
            match kind {
                VERSION => secured.version = text,
                // Whose it would be if the proxy did not trust it is nobody's business.
                COMMON_NAME if has_certificate => secured.common_name = text,
                CIPHER => secured.cipher = text,
                _ => {}
            }
        }
        Ok(secured)
    }
}

/// Takes an extension off the front: its type and its value.
fn take<'h>(extensions: &mut &'h [u8]) -> Result<(u8, &'h [u8]), ProxyError> {
    let bad = ProxyError::BadBinary("an extension that does not end");
    let (&[kind, high, low], rest) = extensions.split_first_chunk().ok_or(bad)?;
    let len = usize::from(u16::from_be_bytes([high, low]));
    let (value, rest) = rest.split_at_checked(len).ok_or(bad)?;
    *extensions = rest;
    Ok((kind, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extension(kind: u8, value: &[u8]) -> Vec<u8> {
        let len = (value.len() as u16).to_be_bytes();
        [&[kind][..], &len, value].concat()
    }

    fn tls(did: u8, verified: u32, within: &[Vec<u8>]) -> Vec<u8> {
        let value = [&[did][..], &verified.to_be_bytes(), &within.concat()].concat();
        extension(TLS, &value)
    }

    #[test]
    fn the_proxy_says_how_the_client_came() {
        let named = [extension(VERSION, b"TLSv1.3"), extension(COMMON_NAME, b"pump")];
        let bytes = [extension(4, b"x"), tls(7, 0, &named), extension(5, b"id")].concat();
        let secured = Secured::read(&bytes).unwrap();
        assert!(secured.is_tls && secured.has_certificate);
        assert_eq!((secured.common_name, secured.version), (Some("pump"), Some("TLSv1.3")));
        assert_eq!(Secured::read(&extension(4, b"x")), Ok(Secured::default()));
    }

    #[test]
    fn a_certificate_that_the_proxy_does_not_trust_is_none() {
        for (did, verified) in [(7, 1), (1, 0), (6, 0), (0, 0)] {
            let bytes = tls(did, verified, &[extension(COMMON_NAME, b"pump")]);
            let secured = Secured::read(&bytes).unwrap();
            assert!(!secured.has_certificate && secured.common_name.is_none(), "{did} {verified}");
        }
    }

    #[test]
    fn extensions_that_do_not_end_are_refused() {
        let whole = [extension(4, b"xyz"), tls(7, 0, &[extension(COMMON_NAME, b"pump")])].concat();
        for len in (1..whole.len()).filter(|&len| len != 6) {
            assert!(Secured::read(&whole[..len]).is_err(), "{len}");
        }
        assert!(Secured::read(&tls(7, 0, &[vec![COMMON_NAME, 0, 9, b'x']])).is_err());
        assert!(Secured::read(&extension(TLS, &[7, 0, 0, 0])).is_err());
    }

    #[test]
    fn what_is_asked_is_asked() {
        let nothing = Secured::default();
        let tls = Secured { is_tls: true, ..nothing };
        let certified = Secured { has_certificate: true, ..tls };
        let asked = Asked { tls: true, ..Asked::default() };
        assert_eq!(asked.judge(&nothing), Err(ProxyError::NoTls));
        assert_eq!(asked.judge(&tls), Ok(()));
        let asked = Asked { certificate: true, ..Asked::default() };
        assert_eq!(asked.judge(&tls), Err(ProxyError::NoCertificate));
        assert_eq!(asked.judge(&certified), Ok(()));
        assert_eq!(Asked::default().judge(&nothing), Ok(()));
    }
}
