//! A token as it is written: RFC 7515's compact form, three texts in base64 with dots between them.
//!
//! Nothing in it is believed here. The header says by which algorithm and key the token claims to
//! be signed; whether a key of ours does that, [`super::key`] says.

use std::fmt;

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::Deserialize;

/// Bytes of a token. They are much shorter, and somebody must read them.
pub const TOKEN_LEN_MAX: usize = 16 << 10;

/// How a token can be signed. `none` is no such way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-2.
    Hs256,
    /// The same.
    Hs384,
    /// The same.
    Hs512,
    /// RSA, PKCS #1 v1.5.
    Rs256,
    /// The same.
    Rs384,
    /// The same.
    Rs512,
    /// RSA, PSS.
    Ps256,
    /// The same.
    Ps384,
    /// The same.
    Ps512,
    /// ECDSA on P-256.
    Es256,
    /// ECDSA on P-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// All of them, by the names of RFC 7518 and RFC 8037.
    pub const NAMES: [(&str, Self); 12] = [
        ("HS256", Self::Hs256),
        ("HS384", Self::Hs384),
        ("HS512", Self::Hs512),
        ("RS256", Self::Rs256),
        ("RS384", Self::Rs384),
        ("RS512", Self::Rs512),
        ("PS256", Self::Ps256),
        ("PS384", Self::Ps384),
        ("PS512", Self::Ps512),
        ("ES256", Self::Es256),
        ("ES384", Self::Es384),
        ("EdDSA", Self::EdDsa),
    ];

    /// The one with this name; RFC 9864 calls the last one "Ed25519".
    pub fn named(name: &str) -> Option<Self> {
        let name = if name == "Ed25519" { "EdDSA" } else { name };
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, one)| *one == self).map_or("", |(name, _)| name)
    }
}

/// What a header says, as far as it matters.
#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood [RFC 7515, section 4.1.11].
    crit: Option<serde_json::Value>,
}

/// A token that nobody has verified yet.
pub struct Token<'a> {
    /// How it claims to be signed.
    pub algorithm: Algorithm,
    /// The key that it claims to be signed with.
    pub key_id: Option<String>,
    /// What is signed.
    pub signed: &'a [u8],
    /// The claims, as JSON.
    pub payload: Vec<u8>,
    /// The signature.
    pub signature: Vec<u8>,
}

/// What was given is no token, or not a good one.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does not look like one: somebody else may know what it is.
    NoToken,
    /// It looks like one and is not, for this reason.
    Bad(String),
}

impl<'a> Token<'a> {
    /// Takes a text apart.
    pub fn parse(text: &'a [u8]) -> Result<Self, Fault> {
        let mut parts = text.split(|&byte| byte == b'.');
        let (Some(first), Some(second), Some(third), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Fault::NoToken);
        };
        // Every JSON object begins so, unless it begins with a space.
        if !first.starts_with(b"ey") {
            return Err(Fault::NoToken);
        }
        if text.len() > TOKEN_LEN_MAX {
            return Err(Fault::Bad(format!("it is longer than {TOKEN_LEN_MAX} bytes")));
        }
        let header = decode(first).ok_or(Fault::NoToken)?;
        let header: Header = serde_json::from_slice(&header).map_err(|_| Fault::NoToken)?;
        let bad = |what: &str| Err(Fault::Bad(what.into()));
        if header.crit.is_some() {
            return bad("its header has `crit`: extensions that are not known here");
        }
        let Some(algorithm) = Algorithm::named(&header.alg) else {
            return Err(Fault::Bad(format!("it is signed by {}", Quoted(&header.alg))));
        };
        let Some(payload) = decode(second) else { return bad("its claims are not base64url") };
        let Some(signature) = decode(third) else { return bad("its signature is not base64url") };
        let signed = text.get(..first.len() + 1 + second.len()).unwrap_or_default();
        Ok(Self { algorithm, key_id: header.kid, signed, payload, signature })
    }
}

/// Bytes that are written in base64 with the alphabet for URLs, without padding.
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    Base64UrlUnpadded::decode_vec(std::str::from_utf8(text).ok()?).ok()
}

/// A text from a token as it may stand in the log.
pub(in crate::access) struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CHARS_MAX: usize = 64;
        let mut shown: String = self.0.chars().take(CHARS_MAX).collect();
        if shown.len() < self.0.len() {
            shown.push('…');
        }
        write!(f, "{shown:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(header: &str, payload: &str) -> String {
        let encode = |text: &str| Base64UrlUnpadded::encode_string(text.as_bytes());
        format!("{}.{}.AAAA", encode(header), encode(payload))
    }

    fn fault(text: &str) -> Fault {
        Token::parse(text.as_bytes()).err().expect("it is not good")
    }

    #[test]
    fn a_token_is_taken_apart() {
        let text = written(r#"{"alg":"ES256","kid":"k","typ":"JWT"}"#, "{}");
        let token = Token::parse(text.as_bytes()).ok().unwrap();
        assert_eq!((token.algorithm, token.key_id.as_deref()), (Algorithm::Es256, Some("k")));
        assert_eq!((&*token.payload, &*token.signature), (&b"{}"[..], &[0, 0, 0][..]));
        assert_eq!(token.signed, text.strip_suffix(".AAAA").unwrap().as_bytes());
    }

    #[test]
    fn what_is_something_else_is_left_to_others() {
        let missing = written(r#"{"typ":"JWT"}"#, "{}");
        let twice = written(r#"{"alg":"HS256","alg":"none"}"#, "{}");
        for text in ["", "sesame", "a.b", "a.b.c", "ey.b.c", "eyJ.b.c", "eyJh.e.e.e", &missing] {
            assert_eq!(fault(text), Fault::NoToken, "{text}");
        }
        assert_eq!(fault(&twice), Fault::NoToken);
        assert_eq!(Token::parse(b"ey\xff.b.c").err(), Some(Fault::NoToken));
    }

    #[test]
    fn what_is_a_bad_token_is_said() {
        let bad = |text: &str| match fault(text) {
            Fault::Bad(why) => why,
            Fault::NoToken => panic!("no token: {text}"),
        };
        for name in ["none", "None", "NONE", "", "ES512", "HS256 ", "hs256"] {
            let why = bad(&written(&format!(r#"{{"alg":"{name}"}}"#), "{}"));
            assert_eq!(why, format!("it is signed by {name:?}"));
        }
        let long = bad(&written(&format!(r#"{{"alg":"{}"}}"#, "x".repeat(5000)), "{}"));
        assert!(long.len() < 100, "{long}");
        assert!(bad(&written(r#"{"alg":"ES256","crit":["b64"]}"#, "{}")).contains("crit"));
        let good = written(r#"{"alg":"ES256"}"#, "{}");
        assert!(bad(&good.replace(".AAAA", ".AA A")).contains("signature"));
        assert!(bad(&good.replace(".AAAA", ".AAAA=")).contains("signature"));
        assert!(bad(&format!("{good}{}", "A".repeat(TOKEN_LEN_MAX))).contains("longer"));
    }
}
