//! SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's side, without channel binding.
//!
//! ```text
//!   n,,n=user,r=nonce               --> r=nonce+ours,s=salt,i=iterations
//!   c=biws,r=nonce+ours,p=proof     --> v=signature, or refused
//! ```
//!
//! The server keeps keys from which nobody can log in without breaking the hash, and proves by
//! its signature that it has them. An unknown user gets the same dialogue to its end.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use base64ct::{Base64, Encoding};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::password::base64;
use super::users::Users;
use crate::session::auth::{Mechanism, Step};

/// The mechanism's name, which is the Authentication Method.
pub const METHOD: &str = "SCRAM-SHA-256";

/// How often new keys are hashed: what RFC 7677 asks for at least, since it is the Client, often a
/// small device, that pays for it.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).unwrap();

/// Longest message that is looked at, in bytes.
const MESSAGE_MAX: usize = 4096;

type Key = [u8; 32];

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

/// One exchange.
pub struct Scram {
    users: Arc<Users>,
    /// Our part of the nonce.
    nonce: String,
    state: State,
}

enum State {
    Begun,
    Challenged(Box<Challenge>),
    Over,
}

/// What was said so far.
struct Challenge {
    username: String,
    keys: Keys,
    /// Whether there is such a user; the keys are invented if not.
    is_known: bool,
    /// The beginning of the Client's first message: what it says about channel binding.
    header: String,
    nonce: String,
    /// The Client's first message without the header, a comma, our first message, and a comma.
    said: String,
}

impl Scram {
    /// An exchange; `nonce` is fresh, random, printable and without commas.
    pub fn new(users: Arc<Users>, nonce: String) -> Self {
        Self { users, nonce, state: State::Begun }
    }

    /// The Client's first message; our challenge.
    fn challenge(&mut self, message: &str) -> Option<Step> {
        let (binding, rest) = message.split_once(',')?;
        let (authzid, bare) = rest.split_once(',')?;
        // `y`: the Client could bind to the channel and thinks that we cannot, which is so.
        if !matches!(binding, "n" | "y") {
            return None;
        }
        let mut fields = bare.split(',');
        // An extension that must be understood would stand first, as `m=`.
        let username = saslname(fields.next()?.strip_prefix("n=")?)?;
        let theirs = fields.next()?.strip_prefix("r=")?;
        if !is_nonce(theirs) {
            return None;
        }
        // To act in the name of somebody else is not allowed to anybody.
        if !authzid.is_empty() && saslname(authzid.strip_prefix("a=")?)? != username {
            return None;
        }
        let (keys, is_known) = self.users.scram(&username);
        let nonce = format!("{theirs}{}", self.nonce);
        let salt = Base64::encode_string(&keys.salt);
        let challenge = format!("r={nonce},s={salt},i={}", keys.iterations);
        let said = format!("{bare},{challenge},");
        let header = format!("{binding},{authzid},");
        let state = Challenge { username, keys, is_known, header, nonce, said };
        self.state = State::Challenged(Box::new(state));
        Some(Step::Continue(challenge.into_bytes()))
    }
}

impl Challenge {
    /// The Client's last message; our verdict.
    fn judge(self, message: &str) -> Option<Step> {
        let (unproven, proof) = message.rsplit_once(",p=")?;
        let mut fields = unproven.split(',');
        let header = base64(fields.next()?.strip_prefix("c=")?)?;
        let nonce = fields.next()?.strip_prefix("r=")?;
        if *header != *self.header.as_bytes() || nonce != self.nonce {
            return None;
        }
        let proof = Key::try_from(&*base64(proof)?).ok()?;
        let said = [self.said.as_bytes(), unproven.as_bytes()].concat();
        let signature = mac(&self.keys.stored_key, &said);
        let mut client_key = proof;
        client_key.iter_mut().zip(signature).for_each(|(byte, of_signature)| *byte ^= of_signature);
        let is_proven = Sha256::digest(client_key).ct_eq(&self.keys.stored_key);
        if !bool::from(is_proven) || !self.is_known {
            return None;
        }
        let signature = Base64::encode_string(&mac(&self.keys.server_key, &said));
        Some(Step::Done { data: format!("v={signature}").into_bytes(), username: self.username })
    }
}

impl Mechanism for Scram {
    fn step(&mut self, data: &[u8]) -> Step {
        let state = std::mem::replace(&mut self.state, State::Over);
        let message = std::str::from_utf8(data).ok().filter(|text| text.len() <= MESSAGE_MAX);
        let step = message.and_then(|message| match state {
            State::Begun => self.challenge(message),
            State::Challenged(challenge) => challenge.judge(message),
            State::Over => None,
        });
        step.unwrap_or(Step::Refused)
    }
}

/// A user name as it stands in a message: `=2C` is a comma and `=3D` an equals sign.
fn saslname(written: &str) -> Option<String> {
    let mut parts = written.split('=');
    let mut name = parts.next()?.to_owned();
    for part in parts {
        let (sign, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => return None,
        };
        name.push(sign);
        name.push_str(rest);
    }
    let prepared = stringprep::saslprep(&name).ok()?;
    (!prepared.is_empty()).then(|| prepared.into_owned())
}

fn is_nonce(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::file::PasswordFile;

    const FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const CHALLENGE: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                             s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const LAST: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const VERDICT: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    /// The user of RFC 7677 and what stands for his password.
    fn exchange() -> Scram {
        let salt = base64("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let keys = Keys::new("pencil", &(*salt).try_into().unwrap()).unwrap();
        let file = PasswordFile::parse(&format!("user:{keys}\n")).unwrap();
        Scram::new(Arc::new(Users::new(file, [7; 32])), NONCE.into())
    }

    fn say(exchange: &mut Scram, message: &str) -> Step {
        exchange.step(message.as_bytes())
    }

    #[test]
    fn the_dialogue_of_rfc_7677_goes_as_printed() {
        let mut exchange = exchange();
        assert_eq!(say(&mut exchange, FIRST), Step::Continue(CHALLENGE.into()));
        let done = Step::Done { data: VERDICT.into(), username: "user".into() };
        assert_eq!(say(&mut exchange, LAST), done);
        assert_eq!(say(&mut exchange, LAST), Step::Refused);
    }

    #[test]
    fn what_is_not_exactly_the_proof_is_refused() {
        for bad in [
            LAST.replace("p=dHzb", "p=eHzb"),
            LAST.replace("c=biws", "c=eSws"),
            LAST.replace("$k0,", "$k1,"),
            LAST.replace("$k0,", "$k0,x=1,"),
            LAST.replace(",p=", ",q="),
            LAST.replace("VQ=", "VQ"),
            String::new(),
            format!("{LAST},{}", "x".repeat(MESSAGE_MAX)),
        ] {
            let mut exchange = exchange();
            say(&mut exchange, FIRST);
            assert_eq!(say(&mut exchange, &bad), Step::Refused, "{bad}");
            assert_eq!(say(&mut exchange, LAST), Step::Refused, "after {bad}");
        }
    }

    #[test]
    fn first_messages_that_are_not_for_us_are_refused() {
        for bad in [
            "p=tls-unique,,n=user,r=abc",
            "n,a=other,n=user,r=abc",
            "n,,m=ext,n=user,r=abc",
            "n,,n=user",
            "n,,n=user,r=",
            "n,,n=user,r=a\u{e9}",
            "n,,n=,r=abc",
            "n,,n=us=er,r=abc",
            "n,,r=abc,n=user",
            "x,,n=user,r=abc",
            "n=user,r=abc",
            "",
        ] {
            assert_eq!(say(&mut exchange(), bad), Step::Refused, "{bad}");
        }
        assert_eq!(exchange().step(b"n,,n=\xff,r=abc"), Step::Refused);
        for good in ["y,,n=user,r=abc", "n,a=user,n=user,r=abc", "n,,n=user,r=abc,x=later"] {
            assert!(matches!(say(&mut exchange(), good), Step::Continue(_)), "{good}");
        }
    }

    #[test]
    fn an_unknown_user_is_challenged_like_a_known_one_and_always_alike() {
        let challenge =
            |username: &str| match say(&mut exchange(), &format!("n,,n={username},r=abc")) {
                Step::Continue(challenge) => String::from_utf8(challenge).unwrap(),
                other => panic!("{other:?}"),
            };
        let unknown = challenge("nobody");
        assert_eq!(unknown, challenge("nobody"));
        assert_ne!(unknown, challenge("nobody2"));
        let known = challenge("user");
        assert_eq!(unknown.len(), known.len(), "{unknown} {known}");
        assert!(unknown.ends_with(",i=4096"), "{unknown}");
    }

    #[test]
    fn names_with_commas_are_unpacked() {
        assert_eq!(saslname("a=2Cb=3Dc").as_deref(), Some("a,b=c"));
        assert_eq!(saslname("a=2cb"), None);
        assert_eq!(saslname("=").as_deref(), None);
        // RFC 4013: a soft hyphen is mapped to nothing.
        assert_eq!(saslname("I\u{ad}X").as_deref(), Some("IX"));
    }

    #[test]
    fn keys_are_written_as_they_are_read_and_check_passwords_too() {
        let keys = Keys::new("pencil", &[5; 16]).unwrap();
        let read = Keys::parse(keys.to_string().strip_prefix("SCRAM-SHA-256$").unwrap()).unwrap();
        assert!(read.are_of(b"pencil") && !read.are_of(b"pencils") && !read.are_of(b"\xff"));
        assert_eq!(read.server_key, keys.server_key);
        assert!(Keys::new("\u{7}", &[5; 16]).is_none());
    }
}
