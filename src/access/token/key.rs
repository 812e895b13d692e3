//! Keys that tokens are verified with: read from PEM, from JSON (a JWK or a set of them, RFC 7517),
//! or a secret.
//!
//! What a key is decides by which algorithms it verifies: a public key is never taken for a secret,
//! whatever a token says. A secret must be in a file of its own for that.

use std::path::Path;

use ring::hmac;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use rustls_pki_types::pem::{PemObject, SectionKind};
use serde::Deserialize;
use x509_parser::parse_x509_certificate;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::jws::{Algorithm, Quoted, Token, decode};
use crate::access::problem::FileError;

/// Keys of one source.
const KEYS_MAX: usize = 100;

/// Bytes of a secret: as many as SHA-256 has (RFC 7518, section 3.2).
const SECRET_LEN_MIN: usize = 32;

/// Bytes of an RSA modulus.
const MODULUS_LEN: std::ops::RangeInclusive<usize> = 256..=1024;

/// A key and what it is for.
#[derive(Clone, Debug)]
pub struct Key {
    material: Material,
    /// Its name.
    id: Option<String>,
    /// The only algorithm that it is for, if it says so.
    only: Option<Algorithm>,
}

#[derive(Clone)]
enum Material {
    Secret(Vec<u8>),
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Secret(_) => "secret",
            Self::Rsa { .. } => "RSA",
            Self::P256(_) => "P-256",
            Self::P384(_) => "P-384",
            Self::Ed25519(_) => "Ed25519",
        })
    }
}

/// Keys of one source.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<Key>);

impl Key {
    fn new(material: Material) -> Self {
        Self { material, id: None, only: None }
    }

    /// Whether a token may be signed with this key, by what it says of itself.
    fn fits(&self, token: &Token<'_>) -> bool {
        let is_named = match (&self.id, &token.key_id) {
            (Some(own), Some(asked)) => own == asked,
            // A key without a name is for all.
            _ => true,
        };
        is_named
            && self.only.is_none_or(|only| only == token.algorithm)
            && self.is_for(token.algorithm)
    }

    fn is_for(&self, algorithm: Algorithm) -> bool {
        use Algorithm::*;
        match self.material {
            Material::Secret(_) => matches!(algorithm, Hs256 | Hs384 | Hs512),
            Material::Rsa { .. } => {
                matches!(algorithm, Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512)
            }
            Material::P256(_) => algorithm == Es256,
            Material::P384(_) => algorithm == Es384,
            Material::Ed25519(_) => algorithm == EdDsa,
        }
    }

    fn has_signed(&self, token: &Token<'_>) -> bool {
        if !self.is_for(token.algorithm) {
            return false;
        }
        let Token { signed, signature, .. } = token;
        let verify = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(signed, signature).is_ok()
        };
        match (&self.material, rsa(token.algorithm), mac(token.algorithm)) {
            (Material::Secret(secret), _, Some(mac)) => {
                hmac::verify(&hmac::Key::new(mac, secret), signed, signature).is_ok()
            }
            (Material::Rsa { modulus, exponent }, Some(rsa), _) => {
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(rsa, signed, signature).is_ok()
            }
            (Material::P256(point), ..) => verify(&signature::ECDSA_P256_SHA256_FIXED, point),
            (Material::P384(point), ..) => verify(&signature::ECDSA_P384_SHA384_FIXED, point),
            (Material::Ed25519(key), ..) => verify(&signature::ED25519, key),
            _ => false,
        }
    }
}

fn rsa(algorithm: Algorithm) -> Option<&'static signature::RsaParameters> {
    Some(match algorithm {
        Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

fn mac(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    Some(match algorithm {
        Algorithm::Hs256 => hmac::HMAC_SHA256,
        Algorithm::Hs384 => hmac::HMAC_SHA384,
        Algorithm::Hs512 => hmac::HMAC_SHA512,
        _ => return None,
    })
}

/// What the keys say of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// One of them has signed it.
    Signed,
    /// None of those that it could be signed with has.
    Forged,
    /// It is signed with another key.
    NoKey,
}

impl Keys {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Who has signed a token.
    pub fn find(&self, token: &Token<'_>) -> Found {
        let mut fitting = self.0.iter().filter(|key| key.fits(token)).peekable();
        match (fitting.peek().is_some(), fitting.any(|key| key.has_signed(token))) {
            (false, _) => Found::NoKey,
            (true, true) => Found::Signed,
            (true, false) => Found::Forged,
        }
    }

    /// Reads public keys from a file: PEM or JSON.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let bytes = read_bytes(path)?;
        let text = String::from_utf8(bytes).map_err(|_| {
            FileError::whole(path, "it must be PEM or JSON (a JWK or a set of them)".into())
        })?;
        let keys = match text.trim_start().starts_with('{') {
            true => Self::of_json(&text, true),
            false => of_pem(&text),
        };
        keys.map_err(|what| FileError::whole(path, what))
    }

    /// Reads a secret from a file; a line feed at its end is none of it.
    pub fn read_secret(path: &Path) -> Result<Self, FileError> {
        let bytes = read_bytes(path)?;
        let secret = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
        let refuse = |what: String| Err(FileError::whole(path, what));
        if secret.starts_with(b"-----BEGIN") || secret.trim_ascii_start().starts_with(b"{\"") {
            return refuse("it holds a key, not a secret: name it in `key_file`".into());
        }
        if secret.len() < SECRET_LEN_MIN {
            return refuse(format!(
                "a secret of {} bytes can be guessed from any token; it needs {SECRET_LEN_MIN}, \
                 such as `openssl rand -hex 32` makes",
                secret.len()
            ));
        }
        Ok(Self(vec![Key::new(Material::Secret(secret.into()))]))
    }

    /// Reads JSON: a key, or a set of keys, of which those are left out that are for something
    /// else. Secrets are taken where the source is a file.
    pub fn of_json(text: &str, takes_secrets: bool) -> Result<Self, String> {
        let json = |error: serde_json::Error| {
            format!("no JWK and no set of them: {}", Quoted(&error.to_string()))
        };
        let value: serde_json::Value = serde_json::from_str(text).map_err(json)?;
        let written = match value.get("keys") {
            Some(serde_json::Value::Array(keys)) => keys.clone(),
            Some(_) => return Err("its `keys` is no list".into()),
            None => vec![value],
        };
        if written.len() > KEYS_MAX {
            return Err(format!("it has {} keys; at most {KEYS_MAX} are read", written.len()));
        }
        let (mut keys, mut last) = (Vec::new(), "it has no keys".to_owned());
        for (at, value) in written.into_iter().enumerate() {
            let jwk: Result<Jwk, _> = serde_json::from_value(value);
            match jwk
                .map_err(|error| Quoted(&error.to_string()).to_string())
                .and_then(|jwk| jwk.key(takes_secrets))
            {
                Ok(key) => keys.push(key),
                Err(why) => last = format!("no key that can be used; of number {}: {why}", at + 1),
            }
        }
        if keys.is_empty() { Err(last) } else { Ok(Self(keys)) }
    }
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, FileError> {
    std::fs::read(path).map_err(|error| FileError::whole(path, format!("cannot read it: {error}")))
}

/// Public keys and certificates in PEM.
fn of_pem(text: &str) -> Result<Keys, String> {
    let mut keys = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()).take(KEYS_MAX) {
        let (kind, der) = section.map_err(|error| format!("no PEM: {error}"))?;
        keys.push(match kind {
            SectionKind::PublicKey => {
                let (_, info) = SubjectPublicKeyInfo::from_der(&der)
                    .map_err(|error| format!("its PUBLIC KEY cannot be read: {error}"))?;
                of_info(&info)?
            }
            SectionKind::Certificate => {
                let (_, certificate) = parse_x509_certificate(&der)
                    .map_err(|error| format!("its CERTIFICATE cannot be read: {error}"))?;
                of_info(certificate.public_key())?
            }
            _ => {
                return Err("it holds a private key or something else; tokens are verified with \
                            the public one: `openssl pkey -pubout -in FILE`"
                    .into());
            }
        });
    }
    if keys.is_empty() {
        return Err("it must be JSON, or PEM with a block -----BEGIN PUBLIC KEY-----".into());
    }
    Ok(Keys(keys))
}

fn of_info(info: &SubjectPublicKeyInfo<'_>) -> Result<Key, String> {
    /// RFC 8410.
    const ED25519: &str = "1.3.101.112";
    let parsed = info.parsed().map_err(|error| format!("a key that cannot be read: {error}"))?;
    match parsed {
        PublicKey::RSA(key) => of_rsa(key.modulus, key.exponent),
        PublicKey::EC(point) => of_point(point.data()),
        PublicKey::Unknown(key) if info.algorithm.algorithm.to_id_string() == ED25519 => {
            of_ed25519(key)
        }
        _ => Err("a key that is none of RSA, P-256, P-384 and Ed25519".into()),
    }
}

fn of_rsa(modulus: &[u8], exponent: &[u8]) -> Result<Key, String> {
    let strip = |number: &[u8]| -> Vec<u8> {
        number.iter().copied().skip_while(|&byte| byte == 0).collect()
    };
    let (modulus, exponent) = (strip(modulus), strip(exponent));
    if !MODULUS_LEN.contains(&modulus.len()) || exponent.is_empty() {
        let bits = modulus.len() * 8;
        return Err(format!("an RSA key of {bits} bits; they have from 2048 to 8192"));
    }
    Ok(Key::new(Material::Rsa { modulus, exponent }))
}

fn of_point(point: &[u8]) -> Result<Key, String> {
    match (point.first(), point.len()) {
        (Some(4), 65) => Ok(Key::new(Material::P256(point.into()))),
        (Some(4), 97) => Ok(Key::new(Material::P384(point.into()))),
        _ => Err("an elliptic curve that is neither P-256 nor P-384".into()),
    }
}

fn of_ed25519(key: &[u8]) -> Result<Key, String> {
    match key.len() {
        32 => Ok(Key::new(Material::Ed25519(key.into()))),
        len => Err(format!("an Ed25519 key of {len} bytes")),
    }
}

/// A key in JSON.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
}

impl Jwk {
    fn key(&self, takes_secrets: bool) -> Result<Key, String> {
        if self.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
            return Err("it is not for signatures".into());
        }
        let only = match self.alg.as_deref().map(|name| (name, Algorithm::named(name))) {
            Some((name, None)) => return Err(format!("`alg` is {}", Quoted(name))),
            Some((_, only)) => only,
            None => None,
        };
        let key = self.material(takes_secrets)?;
        if only.is_some_and(|only| !key.is_for(only)) {
            return Err("its `alg` is for another kind of key".into());
        }
        Ok(Key { id: self.kid.clone(), only, ..key })
    }

    fn material(&self, takes_secrets: bool) -> Result<Key, String> {
        let part = |name: &str, part: &Option<String>| {
            let bytes = part.as_ref().and_then(|text| decode(text.as_bytes()));
            bytes.ok_or_else(|| format!("its `{name}` is missing or not base64url"))
        };
        match (&*self.kty, self.crv.as_deref().unwrap_or_default()) {
            ("RSA", _) => of_rsa(&part("n", &self.n)?, &part("e", &self.e)?),
            ("EC", curve @ ("P-256" | "P-384")) => {
                let (x, y) = (part("x", &self.x)?, part("y", &self.y)?);
                let len = if curve == "P-256" { 32 } else { 48 };
                match x.len() == len && y.len() == len {
                    true => of_point(&[&[4], &*x, &y].concat()),
                    false => Err(format!("its point is not of {curve}")),
                }
            }
            ("OKP", "Ed25519") => of_ed25519(&part("x", &self.x)?),
            ("oct", _) if !takes_secrets => Err("a secret does not come from an address".into()),
            ("oct", _) => match part("k", &self.k)? {
                secret if secret.len() < SECRET_LEN_MIN => {
                    Err(format!("a secret of fewer than {SECRET_LEN_MIN} bytes"))
                }
                secret => Ok(Key::new(Material::Secret(secret))),
            },
            (kind, curve) => Err(format!("a key of the kind {} {}", Quoted(kind), Quoted(curve))),
        }
    }
}
