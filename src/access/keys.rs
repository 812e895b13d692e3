//! What SCRAM-SHA-256 keeps of a password.

use std::fmt;
use std::num::NonZeroU32;

use base64ct::{Base64, Encoding};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The mechanism's name, which is the Authentication Method.
pub const METHOD: &str = "SCRAM-SHA-256";

/// How often new keys are hashed: what RFC 7677 asks for at least, since it is the Client, often a
/// small device, that pays for it.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).unwrap();

/// Longest salt and longest hash that is read, in bytes.
pub(super) const FIELD_MAX: usize = 256;

/// A key, or what one hashes to.
pub type Key = [u8; 32];

/// What is kept of a password.
#[derive(Clone)]
pub struct Keys {
    /// How often it is hashed.
    pub iterations: NonZeroU32,
    /// With what it is hashed.
    pub salt: Box<[u8]>,
    /// What the Client's key hashes to.
    pub stored_key: Key,
    /// What the Server signs with.
    pub server_key: Key,
}

impl Keys {
    /// Reads `iterations:salt$StoredKey:ServerKey`.
    pub fn parse(text: &str) -> Option<Self> {
        let (how, keys) = text.split_once('$')?;
        let (iterations, salt) = how.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let key = |text| Key::try_from(&*base64(text)?).ok();
        Some(Self {
            iterations: iterations.parse().ok()?,
            salt: base64(salt)?,
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }

    /// The keys of a password; `None` for one that SASLprep (RFC 4013) does not allow.
    pub fn new(password: &str, salt: &[u8; 16]) -> Option<Self> {
        let password = stringprep::saslprep(password).ok()?;
        let salted = salted(password.as_bytes(), salt, ITERATIONS);
        Some(Self {
            iterations: ITERATIONS,
            salt: (*salt).into(),
            stored_key: stored_key(&salted),
            server_key: mac(&salted, b"Server Key"),
        })
    }

    /// Keys that nobody has; for names that are not known.
    pub(super) fn of_nobody() -> Self {
        let (salt, key) = ([0; 16].into(), Key::default());
        Self { iterations: ITERATIONS, salt, stored_key: key, server_key: key }
    }

    /// Whether they come from this password.
    pub fn are_of(&self, password: &[u8]) -> bool {
        let prepared = std::str::from_utf8(password).ok().map(stringprep::saslprep);
        let password = match &prepared {
            Some(Ok(prepared)) => prepared.as_bytes(),
            _ => password,
        };
        let salted = salted(password, &self.salt, self.iterations);
        stored_key(&salted).ct_eq(&self.stored_key).into()
    }
}

/// As PostgreSQL writes it.
impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [salt, stored, server] =
            [&*self.salt, &self.stored_key, &self.server_key].map(Base64::encode_string);
        write!(f, "{METHOD}${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

/// HMAC-SHA-256.
pub(super) fn mac(key: &[u8], text: &[u8]) -> Key {
    match Hmac::<Sha256>::new_from_slice(key) {
        Ok(mac) => mac.chain_update(text).finalize().into_bytes().into(),
        Err(_) => unreachable!("HMAC takes keys of any length"),
    }
}

fn salted(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Key {
    pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password, salt, iterations.get())
}

fn stored_key(salted: &Key) -> Key {
    Sha256::digest(mac(salted, b"Client Key")).into()
}

/// A field in base64.
pub(super) fn base64(text: &str) -> Option<Box<[u8]>> {
    let bytes = Base64::decode_vec(text).ok()?;
    (1..=FIELD_MAX).contains(&bytes.len()).then(|| bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_as_they_are_read_and_check_passwords_too() {
        let keys = Keys::new("pencil", &[5; 16]).unwrap();
        let read = Keys::parse(keys.to_string().strip_prefix("SCRAM-SHA-256$").unwrap()).unwrap();
        assert!(read.are_of(b"pencil") && !read.are_of(b"pencils") && !read.are_of(b"\xff"));
        assert_eq!(read.server_key, keys.server_key);
        assert!(Keys::new("\u{7}", &[5; 16]).is_none());
    }
}
