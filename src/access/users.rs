//! The users of a password file, and questions about them.
//!
//! Nobody can find out who is in the file. For a name that is not, somebody who is stands in:
//! who, is derived from the name and a secret, so that it is always the same, and the stranger's
//! password is checked against his, at his cost, and found wrong. So unknown names differ from
//! known ones by nothing, also in a file of fast and slow hashes.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use subtle::ConstantTimeEq;

use super::file::PasswordFile;
use super::keys::{Keys, mac};
use super::password::Hash;
use super::random::Secret;
use super::verdict::Identity;

/// The users of one password file.
pub struct Users {
    secret: Secret,
    places: HashMap<Arc<str>, usize>,
    users: Vec<User>,
    /// The places of those who can use SCRAM.
    with_scram: Vec<usize>,
}

/// A user; at least one of both is there.
struct User {
    hash: Option<Hash>,
    scram: Option<Keys>,
    /// The mark of the password that was last found right: a Client that comes again need not
    /// wait for a thread.
    remembered: Mutex<Option<[u8; 32]>>,
}

impl User {
    fn new(hash: Option<Hash>, scram: Option<Keys>) -> Self {
        Self { hash, scram, remembered: Mutex::default() }
    }

    fn has_password(&self, password: &[u8]) -> bool {
        match (&self.hash, &self.scram) {
            (Some(hash), _) => hash.is_of(password),
            (None, Some(keys)) => keys.are_of(password),
            (None, None) => false,
        }
    }
}

/// Whether a password is a user's.
pub struct Question {
    username: Arc<str>,
    password: Box<[u8]>,
    /// Whether there is such a user.
    is_known: bool,
    /// Whether there is such a user and a password.
    is_earnest: bool,
    /// The user's, or the stand-in's.
    place: usize,
    mark: [u8; 32],
}

impl Question {
    /// Whether there is such a user.
    pub fn is_of_user(&self) -> bool {
        self.is_known
    }

    /// Who it is, if the password is right.
    pub fn identity(&self) -> Identity {
        Identity { username: Some(self.username.clone()), ..Identity::default() }
    }
}

impl Users {
    /// The users of a file.
    pub fn new(file: PasswordFile, secret: Secret) -> Self {
        let mut named: Vec<(Arc<str>, User)> = file
            .into_secrets()
            .into_iter()
            .map(|(name, hash, scram)| (name, User::new(hash, scram)))
            .collect();
        // In an order that does not change when the file's does.
        named.sort_by(|(one, _), (other, _)| one.cmp(other));
        let places = named.iter().enumerate().map(|(place, (name, _))| (name.clone(), place));
        let places = places.collect();
        let users: Vec<User> = named.into_iter().map(|(_, user)| user).collect();
        let with_scram = (0..users.len())
            .filter(|&place| users.get(place).is_some_and(|user| user.scram.is_some()))
            .collect();
        Self { secret, places, users, with_scram }
    }

    /// What a name means that is not there: a number, always the same.
    fn number(&self, purpose: &[u8], username: &str) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.derived(purpose, username);
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    fn derived(&self, purpose: &[u8], username: &str) -> [u8; 32] {
        mac(&self.secret, &[purpose, b":", username.as_bytes()].concat())
    }

    /// Makes a question of a Client's credentials.
    pub fn question(&self, username: &str, password: Option<&[u8]>) -> Question {
        let stand_in = self.number(b"password", username) % (self.users.len() as u64).max(1);
        let known = self.places.get_key_value(username);
        let place = known.map_or(stand_in as usize, |(_, &place)| place);
        let mark = mac(&self.secret, &[&place.to_be_bytes(), password.unwrap_or(b"")].concat());
        Question {
            username: known.map_or_else(|| username.into(), |(name, _)| name.clone()),
            password: password.unwrap_or(b"").into(),
            is_known: known.is_some(),
            is_earnest: known.is_some() && password.is_some(),
            place,
            mark,
        }
    }

    /// Whether the same question was answered with yes before.
    pub fn is_remembered(&self, question: &Question) -> bool {
        let remembered = self.users.get(question.place).and_then(|user| *user.remembered.lock());
        let is_same = remembered.unwrap_or_default().ct_eq(&question.mark).into();
        is_same && question.is_earnest
    }

    /// Answers the question. Slow by design.
    pub fn answer(&self, question: &Question) -> bool {
        let Some(user) = self.users.get(question.place) else { return false };
        let is_right = user.has_password(&question.password) & question.is_earnest;
        if is_right {
            *user.remembered.lock() = Some(question.mark);
        }
        is_right
    }

    /// Whether anybody can use SCRAM.
    pub fn have_scram(&self) -> bool {
        !self.with_scram.is_empty()
    }

    /// A user's keys for SCRAM, and whether they are real.
    pub fn scram(&self, username: &str) -> (Keys, bool) {
        let known = self.places.get(username).and_then(|&place| self.users.get(place));
        let number = self.number(b"scram", username) % (self.with_scram.len() as u64).max(1);
        let stand_in =
            self.with_scram.get(number as usize).and_then(|&place| self.users.get(place));
        let keys = |user: Option<&User>| user.and_then(|user| user.scram.clone());
        let mut invented = keys(stand_in).unwrap_or_else(Keys::of_nobody);
        let salt = [self.derived(b"salt", username), self.derived(b"more salt", username)].concat();
        let len = invented.salt.len().min(salt.len());
        invented.salt = salt.get(..len).unwrap_or_default().into();
        invented.stored_key = self.derived(b"stored key", username);
        match keys(known) {
            Some(keys) => (keys, true),
            None => (invented, false),
        }
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} users", self.users.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::password::argon2id;

    /// Two with quick hashes, made by mosquitto_passwd; passwords "sesame".
    const FILE: &str = concat!(
        "ali:$6$QV3JUCwTe/nllveL$FyzgqggWByJEcnA2zdcS0bcCQd75BTcEwhSseo6FZ3NTTKi+",
        "uj9KXJ1oCtTPEQbTu1yaqx/K1fgu+lGQFsj8EA==\n",
        "baba:$7$101$rEe7aM67m/zsm5VF$nVH76w8GC2r1wjiuzbt/Qm9P+kBVaxrXpmBKhCTRiTj7iEziG",
        "MfqXutSCbDREPP95llDFzbvvzC+dN2GlnYB+Q==\n",
    );

    fn users() -> Users {
        Users::new(PasswordFile::parse(FILE).unwrap(), [7; 32])
    }

    fn is_right(users: &Users, username: &str, password: Option<&str>) -> bool {
        users.answer(&users.question(username, password.map(str::as_bytes)))
    }

    #[test]
    fn only_the_right_password_of_a_user_is_right() {
        let users = users();
        assert!(
            is_right(&users, "ali", Some("sesame")) && is_right(&users, "baba", Some("sesame"))
        );
        for (username, password) in
            [("ali", Some("simsim")), ("ali", None), ("Ali", Some("sesame")), ("", Some("sesame"))]
        {
            assert!(!is_right(&users, username, password), "{username} {password:?}");
        }
        let nobody = Users::new(PasswordFile::parse("").unwrap(), [7; 32]);
        assert!(!is_right(&nobody, "ali", Some("sesame")) && !nobody.have_scram());
    }

    #[test]
    fn a_password_that_was_right_is_remembered_for_its_user_only() {
        let users = users();
        let ask = |username: &str, password: &str| {
            users.is_remembered(&users.question(username, Some(password.as_bytes())))
        };
        assert!(!ask("ali", "sesame"));
        assert!(is_right(&users, "ali", Some("sesame")));
        assert!(ask("ali", "sesame") && !ask("ali", "simsim") && !ask("baba", "sesame"));
        assert!(!is_right(&users, "ali", Some("simsim")));
        assert!(ask("ali", "sesame") && !ask("ali", "simsim"));
        // Not even those for whom ali stands in.
        let strangers = (0..100).map(|n| format!("stranger-{n}"));
        assert!(!strangers.into_iter().any(|name| ask(&name, "sesame")));
    }

    /// So that each costs what a user of the file costs.
    #[test]
    fn everybody_in_the_file_stands_in_for_some_stranger() {
        let users = users();
        let stand_in = |n: u32| users.question(&format!("stranger-{n}"), Some(b"x")).place;
        let places: Vec<usize> = (0..100).map(stand_in).collect();
        assert!(places.contains(&0) && places.contains(&1));
        assert_eq!(places, (0..100).map(stand_in).collect::<Vec<_>>());
    }

    #[test]
    fn a_user_may_have_a_hash_and_keys() {
        let hash = argon2id(b"sesame", &[1; 16]).unwrap();
        let keys = Keys::new("sesame", &[2; 16]).unwrap();
        let file = PasswordFile::parse(&format!("{FILE}cassim:{hash}\ncassim:{keys}\n")).unwrap();
        let users = Users::new(file, [7; 32]);
        assert!(is_right(&users, "cassim", Some("sesame")));
        let (found, is_known) = users.scram("cassim");
        assert!(is_known && found.stored_key == keys.stored_key);
        for name in ["ali", "nobody"] {
            let (invented, is_known) = users.scram(name);
            assert!(!is_known && invented.salt != keys.salt, "{name}");
            assert_eq!((invented.salt.len(), invented.iterations), (16, keys.iterations));
        }
    }
}
