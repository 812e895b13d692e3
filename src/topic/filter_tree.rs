//! Topic Filters and what is kept for each, found by Topic Name.
//!
//! Filters without a wildcard are hashed: one look-up whatever their number. What is hashed are
//! small numbers, so that growing, which stops everybody, moves little. The others form a trie of
//! levels: a node has children by name, a child for `+`, and the value of `#` below it. Matching
//! follows at most two children per level (the name's and `+`), so its cost is bounded by the trie
//! nodes whose path agrees with the topic so far, not by the number of filters. It keeps its own
//! stack: a topic of 30,000 levels costs no recursion.
//!
//! Peers choose the keys, so the maps hash with a random seed.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::has_wildcard;
use super::level::Level;
use super::slab::Slab;

/// A node or a value that is not there.
const NONE: u32 = u32::MAX;

/// The node where every filter with a wildcard begins.
const ROOT: u32 = 0;

/// 40 bytes: most nodes have one child and no value, so values are kept elsewhere. Among a million
/// filters what is elsewhere is in no cache: so a short level and an only child are here (processor
/// time of a message that finds its way among those with `+`: 0.82).
#[derive(Debug)]
struct Node {
    /// What leads here from the parent.
    level: Level,
    parent: u32,
    /// The child for `+`.
    plus: u32,
    /// The child with a name, while there has been one at a time.
    only: u32,
    /// How many children with names are in the table.
    named: u32,
    /// The value of the filter that ends here.
    here: u32,
    /// The value of the filter that goes on with `#`.
    below: u32,
}

impl Node {
    fn new(parent: u32, level: &str) -> Self {
        let level = Level::new(level);
        Self { level, parent, plus: NONE, only: NONE, named: 0, here: NONE, below: NONE }
    }

    fn is_unused(&self) -> bool {
        [self.plus, self.only, self.here, self.below] == [NONE; 4] && self.named == 0
    }
}

/// A filter without a wildcard.
#[derive(Debug)]
struct Exact<V> {
    filter: Box<str>,
    value: V,
}

/// What a table holds: a number, and a part of the hash of what it stands for, so that a table
/// that grows need not look at a million filters while everybody waits.
#[derive(Clone, Copy, Debug)]
struct Spot {
    hash: u32,
    at: u32,
}

impl Spot {
    fn new(hash: u64, at: u32) -> Self {
        Self { hash: hash as u32, at }
    }

    /// The table's hash: the part, spread over all bits.
    fn spread(&self) -> u64 {
        u64::from(self.hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    /// The number in a table under this hash for which `is_it`.
    fn find(table: &HashTable<Self>, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let wanted = Self::new(hash, NONE);
        let eq = |spot: &Self| spot.hash == wanted.hash && is_it(spot.at);
        table.find(wanted.spread(), eq).map(|spot| spot.at)
    }

    fn insert(table: &mut HashTable<Self>, hash: u64, at: u32) {
        let spot = Self::new(hash, at);
        table.insert_unique(spot.spread(), spot, Self::spread);
    }

    fn remove(table: &mut HashTable<Self>, hash: u64, at: u32) {
        if let Ok(entry) = table.find_entry(Self::new(hash, at).spread(), |spot| spot.at == at) {
            entry.remove();
        }
    }
}

/// Filters and their values.
#[derive(Debug)]
pub struct FilterTree<V> {
    exacts: Slab<Exact<V>>,
    /// Their numbers, by filter.
    exact: HashTable<Spot>,
    /// The root is always there.
    nodes: Slab<Node>,
    values: Slab<V>,
    /// The named children of all nodes that have had several at a time: one table of node numbers
    /// instead of one table per node.
    edges: HashTable<Spot>,
    hasher: DefaultHashBuilder,
    len: usize,
}

impl<V> Default for FilterTree<V> {
    fn default() -> Self {
        let mut nodes = Slab::default();
        nodes.insert(Node::new(NONE, ""));
        Self {
            exacts: Slab::default(),
            exact: HashTable::new(),
            nodes,
            values: Slab::default(),
            edges: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            len: 0,
        }
    }
}

impl<V: Default> FilterTree<V> {
    /// No filters.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many filters there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The filter's value; a new one when the filter is new.
    pub fn entry(&mut self, filter: &str) -> &mut V {
        if !has_wildcard(filter) {
            return self.exact_entry(filter);
        }
        let (path, hash) = split_hash(filter);
        let node = path.into_iter().flat_map(|p| p.split('/')).fold(ROOT, |node, level| {
            self.child(node, level).unwrap_or_else(|| self.add_child(node, level))
        });
        if self.slot(node, hash) == NONE {
            let at = self.values.insert(V::default()).unwrap_or(NONE);
            self.set_slot(node, hash, at);
            self.len += 1;
        }
        let at = self.slot(node, hash);
        #[expect(clippy::expect_used, reason = "4,294,967,295 filters do not fit in memory")]
        self.values.get_mut(at).expect("a value was entered above")
    }

    /// The filter's value.
    pub fn get(&self, filter: &str) -> Option<&V> {
        if !has_wildcard(filter) {
            return self.exact(filter);
        }
        let (node, hash) = self.find(filter)?;
        self.values.get(self.slot(node, hash))
    }

    /// The filter's value, to be changed.
    pub fn get_mut(&mut self, filter: &str) -> Option<&mut V> {
        if !has_wildcard(filter) {
            let at = self.find_exact(filter)?;
            return self.exacts.get_mut(at).map(|exact| &mut exact.value);
        }
        let (node, hash) = self.find(filter)?;
        self.values.get_mut(self.slot(node, hash))
    }

    /// Removes a filter, and every node that has no purpose without it.
    pub fn remove(&mut self, filter: &str) -> Option<V> {
        if !has_wildcard(filter) {
            return self.remove_exact(filter);
        }
        let (node, hash) = self.find(filter)?;
        let removed = self.values.remove(self.slot(node, hash))?;
        self.set_slot(node, hash, NONE);
        self.len -= 1;
        self.prune(node);
        Some(removed)
    }

    /// Shows the value of every filter that matches a Topic Name.
    pub fn for_each_match<'t>(&'t self, topic: &str, mut visit: impl FnMut(&'t V)) {
        if let Some(value) = self.exact(topic) {
            visit(value);
        }
        if self.nodes.len() == 1 && self.values.len() == 0 {
            return;
        }
        // Pairs of a node and where in the topic its next level begins; past the end: no more.
        let mut stack = smallvec::SmallVec::<[(u32, usize); 16]>::new();
        stack.push((ROOT, 0));
        while let Some((at, start)) = stack.pop() {
            let Some(node) = self.nodes.get(at) else { continue };
            let is_hidden = at == ROOT && topic.starts_with('$'); // [MQTT-4.7.2-1]
            if let Some(value) = self.value(node.below).filter(|_| !is_hidden) {
                visit(value); // `#` matches the level above it too, section 4.7.1.2
            }
            let Some(rest) = topic.get(start..) else {
                self.value(node.here).into_iter().for_each(&mut visit);
                continue;
            };
            let level = rest.split_once('/').map_or(rest, |(level, _)| level);
            // Past the end by one when this is the last level, so that `get` above finds nothing.
            let next = start + level.len() + 1;
            if node.plus != NONE && !is_hidden {
                stack.push((node.plus, next));
            }
            if let Some(child) = self.child_named(at, node, level) {
                stack.push((child, next));
            }
        }
    }

    fn exact(&self, filter: &str) -> Option<&V> {
        self.exacts.get(self.find_exact(filter)?).map(|exact| &exact.value)
    }

    fn find_exact(&self, filter: &str) -> Option<u32> {
        if self.exact.is_empty() {
            return None;
        }
        let is_it = |at| self.exacts.get(at).is_some_and(|exact| *exact.filter == *filter);
        Spot::find(&self.exact, self.hasher.hash_one(filter), is_it)
    }

    fn exact_entry(&mut self, filter: &str) -> &mut V {
        let at = self.find_exact(filter).unwrap_or_else(|| {
            let exact = Exact { filter: filter.into(), value: V::default() };
            let at = self.exacts.insert(exact).unwrap_or(NONE);
            Spot::insert(&mut self.exact, self.hasher.hash_one(filter), at);
            self.len += 1;
            at
        });
        #[expect(clippy::expect_used, reason = "4,294,967,295 filters do not fit in memory")]
        self.exacts.get_mut(at).map(|exact| &mut exact.value).expect("entered above")
    }

    fn remove_exact(&mut self, filter: &str) -> Option<V> {
        let at = self.find_exact(filter)?;
        Spot::remove(&mut self.exact, self.hasher.hash_one(filter), at);
        if self.exact.is_empty() {
            self.exact = HashTable::new();
        }
        self.len -= 1;
        self.exacts.remove(at).map(|exact| exact.value)
    }

    fn value(&self, at: u32) -> Option<&V> {
        if at == NONE { None } else { self.values.get(at) }
    }

    fn find(&self, filter: &str) -> Option<(u32, bool)> {
        let (path, hash) = split_hash(filter);
        let mut levels = path.into_iter().flat_map(|path| path.split('/'));
        let node = levels.try_fold(ROOT, |node, level| self.child(node, level))?;
        Some((node, hash))
    }

    /// The number of the value of a node's filter, with or without `#`.
    fn slot(&self, node: u32, hash: bool) -> u32 {
        let slot = |node: &Node| if hash { node.below } else { node.here };
        self.nodes.get(node).map_or(NONE, slot)
    }

    fn set_slot(&mut self, node: u32, hash: bool, value: u32) {
        if let Some(node) = self.nodes.get_mut(node) {
            *(if hash { &mut node.below } else { &mut node.here }) = value;
        }
    }

    fn child(&self, at: u32, level: &str) -> Option<u32> {
        let node = self.nodes.get(at)?;
        if level == "+" {
            return (node.plus != NONE).then_some(node.plus);
        }
        self.child_named(at, node, level)
    }

    fn child_named(&self, at: u32, node: &Node, level: &str) -> Option<u32> {
        let is_named = |child| self.nodes.get(child).filter(|child| child.level.is(level));
        if node.only != NONE {
            return is_named(node.only).map(|_| node.only);
        }
        if node.named == 0 {
            return None;
        }
        let is_it = |child| is_named(child).is_some_and(|child| child.parent == at);
        Spot::find(&self.edges, self.hash(at, level.as_bytes()), is_it)
    }

    fn hash(&self, parent: u32, level: &[u8]) -> u64 {
        self.hasher.hash_one((parent, level))
    }

    fn add_child(&mut self, parent: u32, level: &str) -> u32 {
        let at = self.nodes.insert(Node::new(parent, level)).unwrap_or(NONE);
        let Some(node) = self.nodes.get_mut(parent) else { return at };
        if level == "+" {
            node.plus = at;
            return at;
        }
        if node.named == 0 && node.only == NONE {
            node.only = at;
            return at;
        }
        let former = std::mem::replace(&mut node.only, NONE);
        node.named += 1 + u32::from(former != NONE);
        if let Some(child) = self.nodes.get(former) {
            let hash = self.hash(parent, child.level.as_bytes());
            Spot::insert(&mut self.edges, hash, former);
        }
        let hash = self.hash(parent, level.as_bytes());
        Spot::insert(&mut self.edges, hash, at);
        at
    }

    /// Removes a node that has no purpose, and then its parent likewise.
    fn prune(&mut self, mut at: u32) {
        while at != ROOT {
            let Some(node) = self.nodes.get(at) else { return };
            if !node.is_unused() {
                return;
            }
            let (parent, hash) = (node.parent, self.hash(node.parent, node.level.as_bytes()));
            if let Some(node) = self.nodes.get_mut(parent) {
                if node.plus == at {
                    node.plus = NONE;
                } else if node.only == at {
                    node.only = NONE;
                } else {
                    node.named -= 1;
                    Spot::remove(&mut self.edges, hash, at);
                }
            }
            self.nodes.remove(at);
            at = parent;
        }
        if self.nodes.len() == 1 {
            self.edges = HashTable::new();
        }
    }

    #[cfg(test)]
    fn is_pristine(&self) -> bool {
        let is_bare = self.nodes.len() == 1 && self.values.len() == 0 && self.edges.is_empty();
        is_bare && self.exact.is_empty() && self.exacts.len() == 0 && self.len == 0
    }
}

/// A filter as the levels before `#` (none for `#` alone) and whether `#` follows.
fn split_hash(filter: &str) -> (Option<&str>, bool) {
    match filter.strip_suffix('#') {
        None => (Some(filter), false),
        Some(path) => (path.strip_suffix('/'), true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::{TopicFilter, TopicName};
    use proptest::prelude::*;

    fn matching(tree: &FilterTree<Vec<String>>, topic: &str) -> Vec<String> {
        let mut found = Vec::new();
        tree.for_each_match(topic, |filters| found.extend(filters.iter().cloned()));
        found.sort();
        found
    }

    #[test]
    fn a_deep_topic_needs_no_recursion() {
        let mut tree = FilterTree::<u8>::new();
        let deep = vec!["+"; 30_000].join("/");
        *tree.entry(&deep) = 1;
        let mut found = 0;
        tree.for_each_match(&vec!["a"; 30_000].join("/"), |_| found += 1);
        assert_eq!(found, 1);
        assert_eq!(tree.remove(&deep), Some(1));
        assert!(tree.is_pristine());
    }

    #[test]
    fn nodes_are_small() {
        assert_eq!(size_of::<Option<Node>>(), 40);
    }

    #[test]
    fn removing_one_filter_leaves_its_neighbours() {
        let mut tree = FilterTree::<u8>::new();
        for filter in ["a/+", "a/+/b", "a/#", "a", "#"] {
            *tree.entry(filter) = 1;
        }
        assert_eq!(tree.remove("a/+"), Some(1));
        assert_eq!(tree.remove("a/+"), None);
        assert_eq!((tree.get("a/+/b"), tree.get("a/+"), tree.len()), (Some(&1), None, 4));
    }

    fn level() -> impl Strategy<Value = String> {
        prop_oneof!["[ab]?", Just("+".to_owned()), Just("é".to_owned()), Just("$s".to_owned())]
    }

    fn filter() -> impl Strategy<Value = String> {
        (prop::collection::vec(level(), 1..4), any::<bool>()).prop_map(|(mut levels, hash)| {
            if hash {
                levels.push("#".to_owned());
            }
            levels.join("/")
        })
    }

    proptest! {
        #[test]
        fn the_tree_agrees_with_the_rule(
            filters in prop::collection::hash_set(filter(), 0..20),
            removed in prop::collection::vec(filter(), 0..10),
            topics in prop::collection::vec("(\\$?[abés]?/){0,3}[abé]?", 1..10),
        ) {
            let mut tree = FilterTree::<Vec<String>>::new();
            let mut held: Vec<String> = Vec::new();
            for filter in filters.iter().filter(|f| TopicFilter::new(f).is_ok()) {
                tree.entry(filter).push(filter.clone());
                held.push(filter.clone());
            }
            for filter in &removed {
                let was_held = held.iter().position(|held| held == filter);
                prop_assert_eq!(tree.remove(filter).is_some(), was_held.is_some());
                was_held.map(|at| held.swap_remove(at));
            }
            prop_assert_eq!(tree.len(), held.len());
            for topic in topics.iter().filter_map(|topic| TopicName::new(topic).ok()) {
                let mut expected: Vec<String> = held.iter()
                    .filter(|f| TopicFilter::new(f).is_ok_and(|filter| filter.matches(topic)))
                    .cloned().collect();
                expected.sort();
                prop_assert_eq!(matching(&tree, topic.as_str()), expected);
            }
            for filter in held {
                prop_assert!(tree.remove(&filter).is_some());
            }
            prop_assert!(tree.is_pristine());
        }
    }
}
