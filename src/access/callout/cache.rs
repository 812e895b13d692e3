//! Answers of a callout that are kept, by what the Clients have shown. Passwords are not: they go
//! into a code that nobody can read them from.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use super::answer::Word;
use crate::access::keys::mac;
use crate::access::random::Secret;
use crate::access::verdict::Shown;
use crate::clock::Moment;

type Mark = [u8; 32];

/// See the head of this file.
pub(super) struct Cache {
    secret: Secret,
    max: usize,
    kept: HashMap<Mark, (Word, Moment)>,
    /// From the oldest on; each is kept.
    order: VecDeque<Mark>,
    /// How often all was forgotten.
    cleared: u64,
}

impl Cache {
    pub fn new(max: usize, secret: Secret) -> Self {
        Self { secret, max, kept: HashMap::new(), order: VecDeque::new(), cleared: 0 }
    }

    /// All that is asked, but the port that the Client comes from.
    fn mark(&self, shown: &Shown) -> Mark {
        let address = shown.address.map(|address| address.ip().to_canonical().to_string());
        let parts = [
            shown.client_id.as_deref().map(str::as_bytes),
            shown.username.as_deref().map(str::as_bytes),
            shown.password.as_deref(),
            address.as_deref().map(str::as_bytes),
            Some(shown.listener.as_bytes()),
            shown.certificate_subject.as_deref().map(str::as_bytes),
        ];
        let mut text = Vec::new();
        for part in parts {
            // So that nothing can be taken for something else.
            text.push(u8::from(part.is_some()));
            let part = part.unwrap_or_default();
            text.extend((part.len() as u64).to_be_bytes());
            text.extend(part);
        }
        mac(&self.secret, &text)
    }

    /// What was said of a Client that has shown the same, if it holds now.
    pub fn get(&self, shown: &Shown, now: Moment) -> Option<Word> {
        let (word, until) = self.kept.get(&self.mark(shown))?;
        let is_over = match word {
            Word::Allow(identity) => identity.expires_at.is_some_and(|end| end <= now),
            _ => false,
        };
        (*until > now && !is_over).then(|| word.clone())
    }

    /// Keeps what was said, in place of the oldest if there is no room.
    pub fn put(&mut self, shown: &Shown, word: Word, until: Moment) {
        let mark = self.mark(shown);
        if self.kept.insert(mark, (word, until)).is_some() {
            return;
        }
        self.order.push_back(mark);
        if self.order.len() > self.max
            && let Some(oldest) = self.order.pop_front()
        {
            self.kept.remove(&oldest);
        }
    }

    /// How often all was forgotten: what was asked for before that must not be kept.
    pub fn cleared(&self) -> u64 {
        self.cleared
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.cleared += 1;
        self.kept.clear();
        self.order.clear();
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answers", self.kept.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::verdict::{Credentials, Identity};

    fn shown(username: &str, password: &[u8]) -> Shown {
        let (username, password) = (Some(username), Some(password));
        Shown::new(&Credentials { username, password, ..Credentials::default() })
    }

    fn allow(expires_at: Option<Moment>) -> Word {
        Word::Allow(Identity { expires_at, ..Identity::default() })
    }

    fn at(seconds: u64) -> Moment {
        Moment::default().after_s(seconds)
    }

    #[test]
    fn an_answer_holds_for_its_time_and_for_what_was_shown() {
        let mut cache = Cache::new(10, [7; 32]);
        let ali = shown("ali", b"sesame");
        cache.put(&ali, allow(None), at(10));
        assert_eq!(cache.get(&ali, at(9)), Some(allow(None)));
        assert_eq!(cache.get(&ali, at(10)), None);
        for other in [shown("ali", b"sesam"), shown("alis", b"esame"), shown("", b"alisesame")] {
            assert_eq!(cache.get(&other, at(1)), None);
        }
        let other_id = Shown { client_id: Some("c".into()), ..shown("ali", b"sesame") };
        assert_eq!(cache.get(&other_id, at(1)), None);
        let other_port =
            |port| Shown { address: Some(([127, 0, 0, 1], port).into()), ..shown("baba", b"x") };
        cache.put(&other_port(1), Word::Ignore, at(10));
        assert_eq!(cache.get(&other_port(2), at(1)), Some(Word::Ignore));
        cache.put(&ali, allow(Some(at(5))), at(10));
        assert_eq!(cache.get(&ali, at(4)), Some(allow(Some(at(5)))));
        assert_eq!(cache.get(&ali, at(5)), None);
        cache.clear();
        assert_eq!(cache.get(&ali, at(1)), None);
    }

    #[test]
    fn no_more_are_kept_than_may_be_and_the_oldest_go() {
        let mut cache = Cache::new(3, [7; 32]);
        let of = |n: u32| shown(&n.to_string(), b"");
        for n in 0..100 {
            cache.put(&of(n), Word::Ignore, at(10));
            cache.put(&of(n), Word::Deny(String::new()), at(10));
            assert!(cache.kept.len() <= 3 && cache.order.len() == cache.kept.len());
        }
        let kept = (0..100).filter(|&n| cache.get(&of(n), at(1)).is_some());
        assert_eq!(kept.collect::<Vec<_>>(), [97, 98, 99]);
    }
}
