//! Filter tree and name tree against the plain rule, `TopicFilter::matches`.

use std::collections::{BTreeMap, BTreeSet};

use whimbrel::topic::filter_tree::FilterTree;
use whimbrel::topic::name_tree::NameTree;
use whimbrel::topic::{TopicFilter, TopicName};

/// The rule is asked about every pair.
const LINES_MAX: usize = 200;

#[derive(Default)]
struct Trees<'a> {
    /// By what is subscribed to: of `$share/a/$share/b/c` that is `$share/b/c`, which is no group.
    filters: BTreeMap<&'a str, TopicFilter<'a>>,
    filter_tree: FilterTree<Option<&'a str>>,
    names: BTreeSet<&'a str>,
    name_tree: NameTree<&'a str>,
}

/// Each line is a letter and a topic: `s`ubscribe, `u`nsubscribe, `p`ublish, `r`etain, `d`elete
/// what is retained, `l`ook what is retained.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut trees = Trees::default();
    for line in text.split('\n').take(LINES_MAX) {
        let mut rest = line.chars();
        let letter = rest.next();
        let (topic, filter) = (TopicName::new(rest.as_str()), TopicFilter::new(rest.as_str()));
        if let (Ok(topic), Ok(filter)) = (topic, filter)
            && filter.share_name().is_none()
        {
            assert!(filter.matches(topic), "a filter without wildcards is the topic itself");
        }
        match (letter, topic, filter) {
            (Some('s'), _, Ok(filter)) => trees.subscribe(filter),
            (Some('u'), _, Ok(filter)) => trees.unsubscribe(filter.filter()),
            (Some('p'), Ok(topic), _) => trees.publish(topic),
            (Some('r'), Ok(topic), _) => trees.retain(topic.as_str()),
            (Some('d'), Ok(topic), _) => trees.delete(topic.as_str()),
            (Some('l'), _, Ok(filter)) => trees.look(filter),
            _ => {}
        }
    }
    for filter in trees.filters.into_keys() {
        assert_eq!(trees.filter_tree.remove(filter), Some(Some(filter)));
    }
    assert!(trees.filter_tree.is_empty());
}

impl<'a> Trees<'a> {
    fn subscribe(&mut self, subscribed: TopicFilter<'a>) {
        let filter = subscribed.filter();
        let is_new = self.filter_tree.entry(filter).replace(filter).is_none();
        assert_eq!(is_new, self.filters.insert(filter, subscribed).is_none());
        assert_eq!(self.filter_tree.len(), self.filters.len());
        assert_eq!(self.filter_tree.get(filter), Some(&Some(filter)));
    }

    fn unsubscribe(&mut self, filter: &str) {
        let removed = self.filter_tree.remove(filter).is_some();
        assert_eq!(removed, self.filters.remove(filter).is_some());
        assert_eq!(self.filter_tree.get(filter), None);
    }

    fn publish(&self, topic: TopicName<'_>) {
        let mut found = vec![];
        self.filter_tree.for_each_match(topic.as_str(), |filter| found.extend(*filter));
        found.sort_unstable();
        let matching = self.filters.iter().filter(|(_, filter)| filter.matches(topic));
        let expected: Vec<_> = matching.map(|(filter, _)| *filter).collect();
        assert_eq!(found, expected, "{topic:?}");
    }

    fn retain(&mut self, topic: &'a str) {
        let before = self.name_tree.insert(topic);
        assert_eq!(before.is_none(), self.names.insert(topic));
        assert_eq!(self.name_tree.len(), self.names.len());
    }

    fn delete(&mut self, topic: &str) {
        assert_eq!(self.name_tree.remove(topic).is_some(), self.names.remove(topic));
        assert_eq!(self.name_tree.get(topic), None);
    }

    /// Whatever the size of a page, each name comes once.
    fn look(&self, filter: TopicFilter<'_>) {
        let mut expected: Vec<_> = self.names.iter().copied().collect();
        expected.retain(|name| TopicName::new(name).is_ok_and(|topic| filter.matches(topic)));
        for (page, looks) in [(usize::MAX, usize::MAX), (1, usize::MAX), (2, 3), (usize::MAX, 1)] {
            let (mut found, mut after) = (vec![], None::<String>);
            loop {
                let mut room = page;
                after =
                    self.name_tree.matches(filter, after.as_deref(), &mut looks.clone(), |name| {
                        found.push(*name);
                        room -= 1;
                        room > 0
                    });
                if after.is_none() {
                    break;
                }
            }
            found.sort_unstable();
            assert_eq!(found, expected, "{filter:?}, pages of {page}, {looks} looks");
        }
    }
}
