//! Topic Names and what is kept for each, found by Topic Filter: the retained messages.
//!
//! A B-tree in the order of the names' levels serves exact look-ups, walks below a prefix, and
//! walks that stop and go on later. A filter's levels before its first wildcard are a prefix: only
//! names below it are looked at. A walk looks at so many names and then lets go, so that one
//! subscription to `#` does not stop a broker with a million names.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::{TopicFilter, TopicName};

/// A name whose order is that of its levels: `a/b` stands right after `a` and before `a-b`,
/// since the separator sorts before every other character.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key(Box<[u8]>);

impl Key {
    fn new(name: &str) -> Self {
        // The null character is not in any topic and sorts first.
        Self(name.bytes().map(|byte| if byte == b'/' { 0 } else { byte }).collect())
    }

    fn name(&self) -> String {
        let bytes = self.0.iter().map(|&byte| if byte == 0 { b'/' } else { byte }).collect();
        String::from_utf8(bytes).unwrap_or_default()
    }
}

/// Names and their values.
#[derive(Debug)]
pub struct NameTree<V>(BTreeMap<Key, V>);

impl<V> Default for NameTree<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<V> NameTree<V> {
    /// How many names there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets a name's value and returns the former one.
    pub fn insert(&mut self, name: &str, value: V) -> Option<V> {
        self.0.insert(Key::new(name), value)
    }

    /// Removes a name.
    pub fn remove(&mut self, name: &str) -> Option<V> {
        self.0.remove(&Key::new(name))
    }

    /// A name's value.
    pub fn get(&self, name: &str) -> Option<&V> {
        self.0.get(&Key::new(name))
    }

    /// Every value, in the order of the names.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values()
    }

    /// Shows the values whose names match the filter, in order, beginning after the name `after`.
    /// Stops when `visit` returns false or `looks` names have been looked at; returns the name to
    /// go on after, `None` when all have been shown.
    pub fn matches<'t>(
        &'t self,
        filter: TopicFilter<'_>,
        after: Option<&str>,
        looks: usize,
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
        let start = match after {
            Some(name) => Bound::Excluded(Key::new(name)),
            None => Bound::Included(Key::new(prefix)),
        };
        let end = Key::new(prefix);
        let below = |key: &Key| match key.0.strip_prefix(&*end.0) {
            Some(rest) => prefix.is_empty() || rest.first().is_none_or(|&byte| byte == 0),
            None => false,
        };
        for (looked, (key, value)) in self.0.range((start, Bound::Unbounded)).enumerate() {
            if !below(key) {
                return None;
            }
            let name = key.name();
            let is_match = TopicName::new(&name).is_ok_and(|topic| filter.matches(topic));
            if (is_match && !visit(value)) || looked + 1 >= looks {
                return Some(name);
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

    fn matching(tree: &NameTree<String>, filter: &str, page: usize, looks: usize) -> Vec<String> {
        let filter = TopicFilter::new(filter).unwrap();
        let (mut found, mut after) = (Vec::new(), None::<String>);
        loop {
            let mut room = page;
            let next = tree.matches(filter, after.as_deref(), looks, |name| {
                found.push(name.clone());
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
            tree.insert(name, name.to_owned());
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
                tree.insert(name, (*name).clone());
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
