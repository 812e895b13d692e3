//! Hashed passwords, as they stand in a password file after `user:`.
//!
//! ```text
//! $argon2id$v=19$m=19456,t=2,p=1$salt$hash      argon2id; what we write; mosquitto 2.1
//! $7$iterations$salt$hash                       PBKDF2-HMAC-SHA512; mosquitto 2.0
//! $6$salt$hash                                  SHA-512 of password and salt; mosquitto 1.x
//! SCRAM-SHA-256$iterations:salt$stored:server   keys of RFC 5802, as PostgreSQL writes them
//! ```

use std::fmt;
use std::num::NonZeroU32;

use argon2::password_hash::phc::{Output, PasswordHash};
use argon2::{Argon2, Params, PasswordHasher, Version};
use sha2::{Digest, Sha512};
use subtle::ConstantTimeEq;

use super::keys::{FIELD_MAX, Keys, base64};

/// What stands after `user:`.
#[derive(Debug)]
pub enum Stored {
    /// A hash of the password.
    Hash(Hash),
    /// Keys for SCRAM.
    Scram(Keys),
}

/// A hash of a password and how it is made.
#[derive(Clone)]
pub struct Hash {
    method: Method,
    salt: Box<[u8]>,
    hash: Box<[u8]>,
}

#[derive(Clone)]
enum Method {
    Sha512,
    Pbkdf2 { iterations: NonZeroU32 },
    Argon2id { params: Params, version: Version },
}

/// Why a text is no [`Stored`]. The text itself may be a password and is never shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is a password as it is.
    #[error("a password that is not hashed")]
    NotHashed,
    /// It is some other hash.
    #[error("a hash of a kind that is not known here: $argon2id$, $7$, $6$ and SCRAM-SHA-256$ are")]
    UnknownKind,
    /// It begins like a hash.
    #[error("a damaged hash: {0}")]
    Damaged(&'static str),
}

impl Stored {
    /// Reads what stands after `user:`.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        if let Some(keys) = text.strip_prefix("SCRAM-SHA-256$") {
            let form = "SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey is its form";
            return Keys::parse(keys).map(Self::Scram).ok_or(Fault::Damaged(form));
        }
        if let Some(rest) = text.strip_prefix("$6$") {
            let hash = Hash::sha512(rest).ok_or(Fault::Damaged("$6$salt$hash is its form"));
            return hash.map(Self::Hash);
        }
        if let Some(rest) = text.strip_prefix("$7$") {
            let form = "$7$iterations$salt$hash is its form";
            return Hash::pbkdf2(rest).map(Self::Hash).ok_or(Fault::Damaged(form));
        }
        if text.starts_with("$argon2id$") {
            let form = "$argon2id$v=19$m=...,t=...,p=...$salt$hash is its form";
            return Hash::argon2id(text).map(Self::Hash).ok_or(Fault::Damaged(form));
        }
        let is_marked = text.strip_prefix('$').is_some_and(|rest| rest.contains('$'));
        Err(if is_marked { Fault::UnknownKind } else { Fault::NotHashed })
    }
}

impl Hash {
    fn sha512(text: &str) -> Option<Self> {
        let (salt, hash) = text.split_once('$')?;
        Some(Self { method: Method::Sha512, salt: base64(salt)?, hash: base64_of_sha512(hash)? })
    }

    fn pbkdf2(text: &str) -> Option<Self> {
        let (iterations, rest) = text.split_once('$')?;
        let (salt, hash) = rest.split_once('$')?;
        let method = Method::Pbkdf2 { iterations: iterations.parse().ok()? };
        Some(Self { method, salt: base64(salt)?, hash: base64_of_sha512(hash)? })
    }

    fn argon2id(text: &str) -> Option<Self> {
        let parsed = PasswordHash::new(text).ok()?;
        let params = Params::try_from(&parsed).ok()?;
        let version = match parsed.version {
            Some(version) => Version::try_from(version).ok()?,
            // The reference implementation leaves it out for the first version.
            None => Version::V0x10,
        };
        Some(Self {
            method: Method::Argon2id { params, version },
            salt: (*parsed.salt?).into(),
            hash: parsed.hash?.as_bytes().into(),
        })
    }

    /// Whether this is the password's hash. Slow by design.
    pub fn is_of(&self, password: &[u8]) -> bool {
        let mut buffer = [0; FIELD_MAX];
        let Some(made) = buffer.get_mut(..self.hash.len()) else { return false };
        let is_made = match &self.method {
            Method::Sha512 => {
                let digest = Sha512::new().chain_update(password).chain_update(&self.salt);
                made.copy_from_slice(&digest.finalize());
                true
            }
            Method::Pbkdf2 { iterations } => {
                pbkdf2::pbkdf2_hmac::<Sha512>(password, &self.salt, iterations.get(), made);
                true
            }
            Method::Argon2id { params, version } => {
                Argon2::new(argon2::Algorithm::Argon2id, *version, params.clone())
                    .hash_password_into(password, &self.salt, made)
                    .inspect_err(|error| tracing::error!("a password cannot be checked: {error}"))
                    .is_ok()
            }
        };
        is_made & bool::from(made.ct_eq(&self.hash))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.method {
            Method::Sha512 => "Hash($6$)",
            Method::Pbkdf2 { .. } => "Hash($7$)",
            Method::Argon2id { .. } => "Hash($argon2id$)",
        })
    }
}

/// The text that stands for a password from now on: argon2id with the parameters that OWASP
/// recommends, 19 MiB and two passes.
pub fn argon2id(password: &[u8], salt: &[u8; 16]) -> Result<String, argon2::password_hash::Error> {
    Argon2::default().hash_password_with_salt(password, salt).map(|hash| hash.to_string())
}

fn base64_of_sha512(text: &str) -> Option<Box<[u8]>> {
    base64(text).filter(|hash| hash.len() == <Sha512 as Digest>::output_size())
}

const _: () = assert!(Output::MAX_LENGTH <= FIELD_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    /// By Debian's mosquitto_passwd 2.0.11: `-H sha512`, and without; the password is "sesame".
    const SHA512: &str = "$6$QV3JUCwTe/nllveL$FyzgqggWByJEcnA2zdcS0bcCQd75BTcEwhSseo6FZ3NTTKi+\
        uj9KXJ1oCtTPEQbTu1yaqx/K1fgu+lGQFsj8EA==";
    const PBKDF2: &str = "$7$101$rEe7aM67m/zsm5VF$nVH76w8GC2r1wjiuzbt/Qm9P+kBVaxrXpmBKhCTRiTj7iEziG\
        MfqXutSCbDREPP95llDFzbvvzC+dN2GlnYB+Q==";
    /// By the reference implementation: `echo -n sesame | argon2 saltsalt -id -t 2 -k 64 -p 2 -e`.
    const ARGON2ID: &str = "$argon2id$v=19$m=64,t=2,p=2$c2FsdHNhbHQ$\
        4wQ6hhtWrJ6KnjPDlP9pO3l+SoZDxI6snhcnIFhC2iY";

    fn is_of(stored: &str, password: &str) -> bool {
        match Stored::parse(stored).unwrap() {
            Stored::Hash(hash) => hash.is_of(password.as_bytes()),
            Stored::Scram(keys) => keys.are_of(password.as_bytes()),
        }
    }

    #[test]
    fn hashes_of_others_are_understood() {
        for stored in [SHA512, PBKDF2, ARGON2ID] {
            assert!(is_of(stored, "sesame"), "{stored}");
            for wrong in ["", "sesam", "sesame ", "Sesame"] {
                assert!(!is_of(stored, wrong), "{stored}: {wrong}");
            }
        }
    }

    #[test]
    fn what_is_written_is_read_and_salted() {
        let [one, two] = [[1; 16], [2; 16]].map(|salt| argon2id(b"sesame", &salt).unwrap());
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert!(is_of(&one, "sesame") && is_of(&two, "sesame") && !is_of(&one, "simsim"));
        assert_ne!(one, two);
    }

    #[test]
    fn what_is_no_hash_is_told_apart_from_what_is_a_bad_one() {
        for plain in ["", "sesame", "$ecret", "x$6$y", "SCRAM"] {
            assert_eq!(Stored::parse(plain).unwrap_err(), Fault::NotHashed, "{plain}");
        }
        for other in ["$5$salt$hash", "$2b$12$abc", "$argon2i$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA"]
        {
            assert_eq!(Stored::parse(other).unwrap_err(), Fault::UnknownKind, "{other}");
        }
        let cut = |text: &str| text.chars().take(text.len() - 4).collect::<String>();
        for bad in [
            "$6$".into(),
            "$6$c2FsdA==".into(),
            "$6$c2FsdA==$aGFzaA==".into(),
            cut(SHA512),
            cut(PBKDF2),
            PBKDF2.replace("$101$", "$0$"),
            PBKDF2.replace("$101$", "$-1$"),
            "$argon2id$v=19$m=8,t=1,p=1".into(),
            "$argon2id$v=18$m=64,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2g".into(),
            "$argon2id$v=19$m=64,t=0,p=1$c2FsdHNhbHQ$aGFzaGhhc2g".into(),
            "SCRAM-SHA-256$4096".into(),
            "SCRAM-SHA-256$0:c2FsdA==$aGFzaA==:aGFzaA==".into(),
        ] {
            assert!(matches!(Stored::parse(&bad), Err(Fault::Damaged(_))), "{bad}");
        }
    }

    #[test]
    fn neither_debug_output_nor_faults_show_a_secret() {
        for stored in [SHA512, PBKDF2, ARGON2ID] {
            let shown = format!("{:?}", Stored::parse(stored).unwrap());
            assert!(shown.len() < 30, "{shown}");
        }
        assert!(!Stored::parse("sesame").unwrap_err().to_string().contains("sesame"));
    }
}
