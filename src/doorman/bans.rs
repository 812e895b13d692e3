//! Who is kept out, and until when: a bounded list that empties itself.

use std::collections::{BTreeSet, HashMap};

use super::Address;
use crate::clock::Moment;

/// Who may be banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Who {
    /// Whoever comes from there.
    Address(Address),
    /// Whoever gives the Client Identifier with this hash, which has a seed that nobody knows.
    Client(u64),
}

/// A ban.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ban {
    pub until: Moment,
    /// What the log calls who is banned.
    pub name: String,
    /// Connections refused for it.
    pub refused: u64,
}

/// The list.
#[derive(Debug)]
pub(super) struct Bans {
    by_who: HashMap<Who, Ban>,
    by_end: BTreeSet<(Moment, Who)>,
    max: usize,
}

impl Bans {
    /// An empty one for so many.
    pub fn new(max: usize) -> Self {
        Self { by_who: HashMap::new(), by_end: BTreeSet::new(), max }
    }

    /// So many from now on.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    pub fn len(&self) -> usize {
        self.by_who.len()
    }

    /// Whether somebody is banned.
    pub fn has(&self, who: Who, now: Moment) -> bool {
        self.by_who.get(&who).is_some_and(|ban| now < ban.until)
    }

    /// Whether somebody who is about to come in is banned, who is then refused.
    pub fn refuses(&mut self, who: Who, now: Moment) -> bool {
        match self.by_who.get_mut(&who) {
            Some(ban) if now < ban.until => {
                ban.refused += 1;
                true
            }
            _ => false,
        }
    }

    /// Bans somebody who is not banned; those that have to end for that.
    pub fn add(&mut self, who: Who, name: String, until: Moment) -> Vec<Ban> {
        let mut ended: Vec<Ban> = self.remove(who).into_iter().collect();
        while self.by_who.len() >= self.max
            && let Some(&(_, first)) = self.by_end.first()
        {
            ended.extend(self.remove(first));
        }
        self.by_end.insert((until, who));
        self.by_who.insert(who, Ban { until, name, refused: 0 });
        ended
    }

    /// Takes those off the list that are over.
    pub fn expire(&mut self, now: Moment) -> Vec<Ban> {
        let mut ended = Vec::new();
        while let Some(&(until, who)) = self.by_end.first()
            && until <= now
        {
            ended.extend(self.remove(who));
        }
        ended
    }

    /// All of them, those first that end first.
    pub fn iter(&self) -> impl Iterator<Item = &Ban> {
        self.by_end.iter().filter_map(|(_, who)| self.by_who.get(who))
    }

    /// Takes one off the list.
    pub fn remove(&mut self, who: Who) -> Option<Ban> {
        let ban = self.by_who.remove(&who)?;
        self.by_end.remove(&(ban.until, who));
        Some(ban)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_keeps_its_bound_and_ends_first_what_would_end_first() {
        let at = Moment::from_unix_ms;
        let mut bans = Bans::new(2);
        assert_eq!(bans.add(Who::Client(1), "1".into(), at(50)), []);
        assert_eq!(bans.add(Who::Client(2), "2".into(), at(20)), []);
        assert!(bans.refuses(Who::Client(2), at(0)) && bans.refuses(Who::Client(2), at(19)));
        assert!(!bans.refuses(Who::Client(2), at(20)), "it is over");
        let ended = bans.add(Who::Client(3), "3".into(), at(40));
        assert_eq!(ended, [Ban { until: at(20), name: "2".into(), refused: 2 }]);
        assert!(!bans.has(Who::Client(2), at(0)) && bans.has(Who::Client(1), at(0)));
        let ended = bans.expire(at(45)).into_iter().map(|ban| ban.name);
        assert_eq!(ended.collect::<Vec<_>>(), ["3"]);
        assert_eq!((bans.by_who.len(), bans.by_end.len()), (1, 1));
    }
}
