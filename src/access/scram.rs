//! SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's side, without channel binding.
//!
//! ```text
//!   n,,n=user,r=nonce               --> r=nonce+ours,s=salt,i=iterations
//!   c=biws,r=nonce+ours,p=proof     --> v=signature, or refused
//! ```
//!
//! The server keeps keys from which nobody can log in without breaking the hash, and proves by
//! its signature that it has them. An unknown user gets the same dialogue to its end.

use std::sync::Arc;

use base64ct::{Base64, Encoding};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::keys::{Key, Keys, base64, mac};
use super::users::Users;
use crate::session::auth::{Mechanism, Step};

/// Longest message that is looked at, in bytes.
const MESSAGE_MAX: usize = 4096;

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
}
