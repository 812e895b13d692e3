//! Topic Names and what is kept for each, found by Topic Filter: the retained messages.
//!
//! A B-tree in the order of the names' levels serves exact look-ups, walks below a prefix, and
//! walks that stop and go on later. A filter's levels before its first wildcard are a prefix: only
//! names below it are looked at. A walk looks at so many names and then lets go, so that one
//! subscription to `#` does not stop a broker with a million names.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Bound;

use super::{TopicFilter, TopicName};

/// What is kept for a Topic Name, and knows it: the tree holds no names of its own.
pub trait Named {
    /// The bytes of a valid Topic Name.
    fn topic_name(&self) -> &[u8];
}

impl Named for &str {
    fn topic_name(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// The order of names is that of their levels: `a/b` stands right after `a` and before `a-b`, since
/// the separator sorts before every other character.
fn order(name: &[u8], other: &[u8]) -> Ordering {
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    let mut differing = name.iter().zip(other).filter(|(a, b)| a != b);
    differing.next().map_or(name.len().cmp(&other.len()), |(a, b)| rank(a).cmp(&rank(b)))
}

/// A value where the set compares it by its name; a name that is looked for is one too.
#[derive(Debug)]
struct Entry<V>(V);

impl<'n, V: Named + 'n> Borrow<dyn Named + 'n> for Entry<V> {
    fn borrow(&self) -> &(dyn Named + 'n) {
        &self.0
    }
}

impl Ord for dyn Named + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        order(self.topic_name(), other.topic_name())
    }
}

impl PartialOrd for dyn Named + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn Named + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for dyn Named + '_ {}

impl<V: Named> Ord for Entry<V> {
    fn cmp(&self, other: &Self) -> Ordering {
        order(self.0.topic_name(), other.0.topic_name())
    }
}

impl<V: Named> PartialOrd for Entry<V> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<V: Named> PartialEq for Entry<V> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<V: Named> Eq for Entry<V> {}

/// Values by the names that they are kept for.
#[derive(Debug)]
pub struct NameTree<V>(BTreeSet<Entry<V>>);

impl<V> Default for NameTree<V> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<V: Named> NameTree<V> {
    /// How many names there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets its name's value and returns the former one.
    pub fn insert(&mut self, value: V) -> Option<V> {
        self.0.replace(Entry(value)).map(|entry| entry.0)
    }

    /// Removes a name.
    pub fn remove(&mut self, name: &str) -> Option<V> {
        self.0.take(&name as &dyn Named).map(|entry| entry.0)
    }

    /// A name's value.
    pub fn get(&self, name: &str) -> Option<&V> {
        self.0.get(&name as &dyn Named).map(|entry| &entry.0)
    }

    /// Shows the values whose names match the filter, in order, beginning after the name `after`.
    /// Stops when `visit` returns false or none of the `looks` is left, of which each name takes
    /// one; returns the name to go on after, `None` when all have been shown.
    pub fn matches<'t>(
        &'t self,
        filter: TopicFilter<'_>,
        after: Option<&str>,
        looks: &mut usize,
        mut visit: impl FnMut(&'t V) -> bool,
    ) -> Option<String> {
        let Some(prefix) = literal_prefix(filter.filter()) else {
            if after.is_none()
                && let Some(value) = self.get(filter.filter())
            {
                visit(value);
            }
            return None;
        };
        let start = match &after {
            Some(name) => Bound::Excluded(name as &dyn Named),
            None => Bound::Included(&prefix as &dyn Named),
        };
        let below = |name: &str| match name.strip_prefix(prefix) {
            Some(rest) => prefix.is_empty() || rest.is_empty() || rest.starts_with('/'),
            None => false,
        };
        let range = self.0.range::<dyn Named, _>((start, Bound::Unbounded));
        for Entry(value) in range {
            let name = std::str::from_utf8(value.topic_name()).unwrap_or_default();
            if !below(name) {
                return None;
            }
            let is_match = TopicName::new(name).is_ok_and(|topic| filter.matches(topic));
            *looks = looks.saturating_sub(1);
            if (is_match && !visit(value)) || *looks == 0 {
                return Some(name.to_owned());
            }
        }
        None
    }
}

/// The levels before a filter's first wildcard (empty when there are none); `None` when the
/// filter has no wildcard.
fn literal_prefix(filter: &str) -> Option<&str> {
    let wildcard = filter.find(['+', '#'])?;
    Some(filter.get(..wildcard.saturating_sub(1)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matching(tree: &NameTree<&str>, filter: &str, page: usize, looks: usize) -> Vec<String> {
        let filter = TopicFilter::new(filter).unwrap();
        let (mut found, mut after) = (Vec::new(), None::<String>);
        loop {
            let mut room = page;
            let next = tree.matches(filter, after.as_deref(), &mut looks.clone(), |name| {
                found.push((*name).to_owned());
                room -= 1;
                room > 0
            });
            match next {
                None => return found,
                next => after = next,
            }
        }
    }

    #[test]
    fn a_wildcard_below_a_prefix_finds_what_is_below_it() {
        let mut tree = NameTree::default();
        for name in ["a", "a/b", "a/b/c", "a-b", "ab", "b", "$SYS/a", "/a"] {
            tree.insert(name);
        }
        assert_eq!(matching(&tree, "a/#", 9, 99), ["a", "a/b", "a/b/c"]);
        assert_eq!(matching(&tree, "a/+", 9, 99), ["a/b"]);
        assert_eq!(matching(&tree, "/#", 9, 99), ["/a"]);
        assert_eq!(matching(&tree, "$SYS/#", 9, 99), ["$SYS/a"]);
        assert_eq!(matching(&tree, "#", 9, 99).len(), 7);
    }

    proptest! {
        #[test]
        fn the_tree_agrees_with_the_rule_whatever_the_page(
            names in prop::collection::btree_set("(\\$?[ab-]?/){0,3}[ab]?", 0..20),
            filter in "((\\+|[ab]?)/){0,3}(#|\\+|[ab])",
            page in 1usize..5,
            looks in 1usize..5,
        ) {
            let mut tree = NameTree::default();
            let names: Vec<_> = names.iter().filter(|name| TopicName::new(name).is_ok()).collect();
            for name in &names {
                tree.insert(name.as_str());
            }
            let rule = TopicFilter::new(&filter).unwrap();
            let mut expected: Vec<String> = names.iter()
                .filter(|name| TopicName::new(name).is_ok_and(|topic| rule.matches(topic)))
                .map(|name| (*name).clone()).collect();
            let mut found = matching(&tree, &filter, page, looks);
            found.sort();
            expected.sort();
            prop_assert_eq!(found, expected);
        }
    }
}
