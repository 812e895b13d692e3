//! A table that remembers the latest of many.
//!
//! It has two halves. What is used is in the young one; when that is full, or has had its time, it
//! becomes the old one, and what was left in the old one is forgotten. So there is no order to be
//! kept, and no more in it than it may hold.

use std::collections::HashMap;
use std::hash::Hash;

use crate::clock::Moment;

/// The table.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    /// Entries of the young half.
    half_max: usize,
    /// What is not used for so long may be forgotten.
    span_ms: u64,
    turned_at: Moment,
}

impl<K: Hash + Eq, V: Default> Recent<K, V> {
    /// A table of so many entries, each of which counts for so many milliseconds after its use.
    pub fn new(entries_max: usize, span_ms: u64) -> Self {
        let (young, old) = (HashMap::new(), HashMap::new());
        let half_max = (entries_max / 2).max(1);
        Self { young, old, half_max, span_ms, turned_at: Moment::default() }
    }

    /// So many from now on, each for so long.
    pub fn set(&mut self, entries_max: usize, span_ms: u64) {
        (self.half_max, self.span_ms) = ((entries_max / 2).max(1), span_ms);
    }

    /// The entry of a key, made if there is none; and how many had to be forgotten for it.
    pub fn entry(&mut self, key: K) -> (&mut V, usize) {
        let mut forgotten = 0;
        if !self.young.contains_key(&key) {
            let value = self.old.remove(&key).unwrap_or_default();
            if self.young.len() >= self.half_max {
                forgotten = self.turn();
            }
            return (self.young.entry(key).or_insert(value), forgotten);
        }
        (self.young.entry(key).or_default(), forgotten)
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }

    /// Lets go of what does not count any more.
    pub fn expire(&mut self, now: Moment) {
        if !self.is_empty() && now.since(self.turned_at) >= self.span_ms {
            self.turn();
            self.turned_at = now;
        }
    }

    /// The young half becomes the old one; how many the old one had.
    fn turn(&mut self) -> usize {
        let young = std::mem::take(&mut self.young);
        std::mem::replace(&mut self.old, young).len()
    }
}

/// So many times since then.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    since: Moment,
    times: u32,
}

impl Count {
    /// Once more; how often within the time that began with the first.
    pub fn note(&mut self, now: Moment, span_ms: u64) -> u32 {
        if self.times == 0 || now.since(self.since) >= span_ms {
            *self = Self { since: now, times: 0 };
        }
        self.times = self.times.saturating_add(1);
        self.times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_unix_ms(ms)
    }

    #[test]
    fn what_is_used_stays_and_the_table_keeps_its_bound() {
        let mut table: Recent<u32, Count> = Recent::new(20, 1000);
        let mut forgotten = 0;
        for n in 0..1000 {
            forgotten += table.entry(n).1;
            let (own, more) = table.entry(7777);
            own.note(at(0), 1000);
            forgotten += more;
            assert!(table.young.len() + table.old.len() <= 20);
        }
        assert_eq!(table.entry(7777).0.times, 1000);
        let kept = table.young.len() + table.old.len();
        assert_eq!(forgotten + kept, 1001, "every one is kept or counted");
    }

    #[test]
    fn what_counts_no_more_leaves_and_nothing_before() {
        let mut table: Recent<u32, Count> = Recent::new(20, 1000);
        table.expire(at(5000));
        table.entry(1).0.note(at(5000), 1000);
        table.expire(at(5500));
        assert_eq!(table.entry(1).0.note(at(5900), 1000), 2);
        table.expire(at(6000));
        assert_eq!(table.entry(1).0.note(at(6100), 1000), 1, "its time is over");
        for ms in [7000, 8000, 9000] {
            table.expire(at(ms));
        }
        assert!(table.young.is_empty() && table.old.is_empty());
    }
}
