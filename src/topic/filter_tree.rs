//! Topic Filters and what is kept for each, found by Topic Name.
//!
//! Filters without a wildcard sit in one hash map: one look-up whatever their number. The others
//! form a trie of levels: a node has children by name, a child for `+`, and the value of `#` below
//! it. Matching follows at most two children per level (the name's and `+`), so its cost is
//! bounded by the trie nodes whose path agrees with the topic so far, not by the number of
//! filters. It keeps its own stack: a topic of 30,000 levels costs no recursion.
//!
//! Peers choose the keys, so the maps hash with a random seed.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use super::has_wildcard;

/// A trie node that is not there.
const NONE: u32 = u32::MAX;

/// The node where every filter with a wildcard begins.
const ROOT: u32 = 0;

#[derive(Debug)]
struct Node<V> {
    parent: u32,
    /// What leads here from the parent.
    level: Box<str>,
    /// The child for `+`.
    plus: u32,
    /// How many children have names.
    named: u32,
    /// The value of the filter that ends here.
    here: Option<V>,
    /// The value of the filter that goes on with `#`.
    below: Option<V>,
}

impl<V> Node<V> {
    fn new(parent: u32, level: &str) -> Self {
        Self { parent, level: level.into(), plus: NONE, named: 0, here: None, below: None }
    }

    fn is_unused(&self) -> bool {
        self.plus == NONE && self.named == 0 && self.here.is_none() && self.below.is_none()
    }
}

/// Filters and their values.
#[derive(Debug)]
pub struct FilterTree<V> {
    exact: HashMap<Box<str>, V>,
    nodes: Vec<Node<V>>,
    free: Vec<u32>,
    /// The named children of all nodes: one table of node numbers instead of one table per node.
    edges: HashTable<u32>,
    hasher: DefaultHashBuilder,
    len: usize,
}

impl<V> Default for FilterTree<V> {
    fn default() -> Self {
        Self {
            exact: HashMap::new(),
            nodes: vec![Node::new(NONE, "")],
            free: Vec::new(),
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
            let len = &mut self.len;
            return self.exact.entry_ref(filter).or_insert_with(|| {
                *len += 1;
                V::default()
            });
        }
        let (path, hash) = split_hash(filter);
        let node = path.into_iter().flat_map(|p| p.split('/')).fold(ROOT, |node, level| {
            self.child(node, level).unwrap_or_else(|| self.add_child(node, level))
        });
        let slot = self.slot_mut(node, hash);
        if slot.is_none() {
            *slot = Some(V::default());
            self.len += 1;
        }
        self.slot_mut(node, hash).get_or_insert_default()
    }

    /// The filter's value.
    pub fn get(&self, filter: &str) -> Option<&V> {
        if !has_wildcard(filter) {
            return self.exact.get(filter);
        }
        let (node, hash) = self.find(filter)?;
        let node = self.nodes.get(node as usize)?;
        if hash { node.below.as_ref() } else { node.here.as_ref() }
    }

    /// The filter's value, to be changed.
    pub fn get_mut(&mut self, filter: &str) -> Option<&mut V> {
        if !has_wildcard(filter) {
            return self.exact.get_mut(filter);
        }
        let (node, hash) = self.find(filter)?;
        self.slot_mut(node, hash).as_mut()
    }

    /// Removes a filter, and every node that has no purpose without it.
    pub fn remove(&mut self, filter: &str) -> Option<V> {
        if !has_wildcard(filter) {
            let removed = self.exact.remove(filter);
            self.len -= usize::from(removed.is_some());
            if self.exact.is_empty() {
                self.exact = HashMap::new();
            }
            return removed;
        }
        let (node, hash) = self.find(filter)?;
        let removed = self.slot_mut(node, hash).take()?;
        self.len -= 1;
        self.prune(node);
        Some(removed)
    }

    /// Shows the value of every filter that matches a Topic Name.
    pub fn for_each_match<'t>(&'t self, topic: &str, mut visit: impl FnMut(&'t V)) {
        if let Some(value) = self.exact.get(topic) {
            visit(value);
        }
        if self.nodes.len() - self.free.len() == 1 && self.root_is_bare() {
            return;
        }
        // Pairs of a node and where in the topic its next level begins; past the end: no more.
        let mut stack = smallvec::SmallVec::<[(u32, usize); 16]>::new();
        stack.push((ROOT, 0));
        while let Some((at, start)) = stack.pop() {
            let Some(node) = self.nodes.get(at as usize) else { continue };
            let is_hidden = at == ROOT && topic.starts_with('$'); // [MQTT-4.7.2-1]
            if let Some(value) = node.below.as_ref().filter(|_| !is_hidden) {
                visit(value); // `#` matches the level above it too, section 4.7.1.2
            }
            let Some(rest) = topic.get(start..) else {
                if let Some(value) = &node.here {
                    visit(value);
                }
                continue;
            };
            let level = rest.split_once('/').map_or(rest, |(level, _)| level);
            // Past the end by one when this is the last level, so that `get` above finds nothing.
            let next = start + level.len() + 1;
            if node.plus != NONE && !is_hidden {
                stack.push((node.plus, next));
            }
            if node.named > 0
                && let Some(child) = self.child_named(at, level)
            {
                stack.push((child, next));
            }
        }
    }

    fn root_is_bare(&self) -> bool {
        self.nodes.first().is_none_or(|root| root.below.is_none())
    }

    fn find(&self, filter: &str) -> Option<(u32, bool)> {
        let (path, hash) = split_hash(filter);
        let mut levels = path.into_iter().flat_map(|path| path.split('/'));
        let node = levels.try_fold(ROOT, |node, level| self.child(node, level))?;
        Some((node, hash))
    }

    fn slot_mut(&mut self, node: u32, hash: bool) -> &mut Option<V> {
        debug_assert!((node as usize) < self.nodes.len());
        let at = (node as usize).min(self.nodes.len() - 1);
        #[expect(clippy::indexing_slicing, reason = "bounded above; the root is always there")]
        let node = &mut self.nodes[at];
        if hash { &mut node.below } else { &mut node.here }
    }

    fn child(&self, node: u32, level: &str) -> Option<u32> {
        if level == "+" {
            let plus = self.nodes.get(node as usize)?.plus;
            return (plus != NONE).then_some(plus);
        }
        self.child_named(node, level)
    }

    fn child_named(&self, node: u32, level: &str) -> Option<u32> {
        let is_it = |&child: &u32| {
            self.nodes.get(child as usize).is_some_and(|c| c.parent == node && *c.level == *level)
        };
        self.edges.find(self.hash(node, level), is_it).copied()
    }

    fn hash(&self, parent: u32, level: &str) -> u64 {
        self.hasher.hash_one((parent, level))
    }

    fn add_child(&mut self, parent: u32, level: &str) -> u32 {
        let node = Node::new(parent, level);
        let at = match self.free.pop() {
            Some(at) => {
                if let Some(slot) = self.nodes.get_mut(at as usize) {
                    *slot = node;
                }
                at
            }
            None => {
                self.nodes.push(node);
                u32::try_from(self.nodes.len() - 1).unwrap_or(NONE)
            }
        };
        if level == "+" {
            if let Some(parent) = self.nodes.get_mut(parent as usize) {
                parent.plus = at;
            }
            return at;
        }
        if let Some(parent) = self.nodes.get_mut(parent as usize) {
            parent.named += 1;
        }
        let hash = self.hash(parent, level);
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        self.edges.insert_unique(hash, at, |&child| {
            nodes.get(child as usize).map_or(0, |c| hasher.hash_one((c.parent, &*c.level)))
        });
        at
    }

    /// Removes a node that has no purpose, and then its parent likewise.
    fn prune(&mut self, mut at: u32) {
        while at != ROOT {
            let Some(node) = self.nodes.get(at as usize) else { return };
            if !node.is_unused() {
                return;
            }
            let (parent, is_plus) = (node.parent, &*node.level == "+");
            let hash = self.hash(parent, &node.level);
            if !is_plus && let Ok(edge) = self.edges.find_entry(hash, |&child| child == at) {
                edge.remove();
            }
            if let Some(parent) = self.nodes.get_mut(parent as usize) {
                if is_plus {
                    parent.plus = NONE;
                } else {
                    parent.named -= 1;
                }
            }
            if let Some(node) = self.nodes.get_mut(at as usize) {
                *node = Node::new(NONE, "");
            }
            self.free.push(at);
            at = parent;
        }
        if self.free.len() + 1 == self.nodes.len() {
            self.nodes.truncate(1);
            self.nodes.shrink_to_fit();
            self.free = Vec::new();
            self.edges = HashTable::new();
        }
    }

    #[cfg(test)]
    fn is_pristine(&self) -> bool {
        self.exact.is_empty() && self.nodes.len() == 1 && self.edges.is_empty() && self.len == 0
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
