//! A Topic Filter in a rule, in which a whole level `%u` or `%c` stands for the asking Client's
//! user name or Client Identifier.
//!
//! What stands in for `%u` and `%c` is only ever compared as text: a Client that calls itself `+`
//! or `#` gains nothing by it, nor one whose name has several levels.

use super::Subject;
use crate::topic::{TopicError, TopicFilter};

/// The filter of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    /// Whether `%u` and `%c` have their meaning.
    is_filled_in: bool,
}

/// One level of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level<'a> {
    Text(&'a str),
    /// `+`
    Any,
    /// `#`
    Rest,
    /// `%u` or `%c` of a Client that has none.
    Nothing,
}

impl<'a> Level<'a> {
    fn of(written: &'a str) -> Self {
        match written {
            "+" => Self::Any,
            "#" => Self::Rest,
            text => Self::Text(text),
        }
    }
}

impl Pattern {
    /// A filter in which `%u` and `%c` have their meaning.
    pub fn new(text: &str) -> Result<Self, TopicError> {
        TopicFilter::new(text)?;
        Ok(Self { text: text.into(), is_filled_in: true })
    }

    /// A filter in which they have none.
    pub fn plain(text: &str) -> Result<Self, TopicError> {
        Ok(Self { is_filled_in: false, ..Self::new(text)? })
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it has such a level.
    pub fn has_level(&self, level: &str) -> bool {
        self.text.split('/').any(|written| written == level)
    }

    /// Whether `%u` or `%c` stands where it has no meaning: beside other text in its level.
    pub fn has_stray(&self) -> bool {
        let is_stray = |level: &str| {
            (level.contains("%u") || level.contains("%c")) && level != "%u" && level != "%c"
        };
        self.text.split('/').any(is_stray)
    }

    fn levels<'a>(&'a self, subject: &'a Subject) -> impl Iterator<Item = Level<'a>> {
        let named = |name: &'a str| match name {
            "" => Level::Nothing,
            name => Level::Text(name),
        };
        self.text.split('/').map(move |written| match written {
            "%u" if self.is_filled_in => subject.username.as_deref().map_or(Level::Nothing, named),
            "%c" if self.is_filled_in => named(&subject.client_id),
            written => Level::of(written),
        })
    }

    /// What begins with `$` is not matched by a wildcard there [MQTT-4.7.2-1].
    fn is_shut_to(&self, topic: &str) -> bool {
        topic.starts_with('$') && self.text.starts_with(['+', '#'])
    }

    /// Whether it matches a Topic Name.
    pub fn matches(&self, topic: &str, subject: &Subject) -> bool {
        if self.is_shut_to(topic) {
            return false;
        }
        let mut names = topic.split('/');
        for level in self.levels(subject) {
            match (level, names.next()) {
                (Level::Rest, _) => return true,
                (Level::Any, Some(_)) => {}
                (Level::Text(text), Some(name)) if text == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }

    /// Whether it matches every Topic Name that a Topic Filter matches.
    pub fn covers(&self, filter: &str, subject: &Subject) -> bool {
        if self.is_shut_to(filter) {
            return false;
        }
        let mut asked = filter.split('/').map(Level::of);
        for level in self.levels(subject) {
            match (level, asked.next()) {
                (Level::Rest, _) => return true,
                (Level::Any, Some(Level::Any | Level::Text(_))) => {}
                (Level::Text(text), Some(Level::Text(name))) if text == name => {}
                _ => return false,
            }
        }
        asked.next().is_none()
    }

    /// Whether there is a Topic Name that both it and a Topic Filter match.
    pub fn meets(&self, filter: &str, subject: &Subject) -> bool {
        let asked_is_shut = self.text.starts_with('$') && filter.starts_with(['+', '#']);
        if self.is_shut_to(filter) || asked_is_shut {
            return false;
        }
        let mut asked = filter.split('/').map(Level::of);
        for level in self.levels(subject) {
            match (level, asked.next()) {
                (Level::Nothing, _) => return false,
                (Level::Rest, _) | (_, Some(Level::Rest)) => return true,
                (Level::Text(one), Some(Level::Text(other))) if one != other => return false,
                (_, Some(_)) => {}
                (_, None) => return false,
            }
        }
        matches!(asked.next(), None | Some(Level::Rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::TopicName;

    fn subject(username: Option<&str>, client_id: &str) -> Subject {
        Subject { username: username.map(Into::into), client_id: client_id.into(), claims: None }
    }

    const FILTERS: [&str; 19] = [
        "#", "+", "a", "a/#", "a/+", "+/#", "+/+", "a/b", "a/b/#", "a/+/c", "+/b", "/", "/#", "+/",
        "$x", "$x/#", "$x/+", "a/b/c", "b",
    ];

    const TOPICS: [&str; 14] = [
        "a", "b", "a/b", "a/c", "a/b/c", "a/x/c", "/", "a/", "/b", "$x", "$x/a", "b/b", "", "x/y/z",
    ];

    fn matched(filter: &str) -> Vec<&'static str> {
        let filter = TopicFilter::new(filter).unwrap();
        let topics = TOPICS.iter().filter(|topic| !topic.is_empty());
        topics.copied().filter(|topic| filter.matches(TopicName::new(topic).unwrap())).collect()
    }

    /// Against the rule itself, for every pair.
    #[test]
    fn filters_match_cover_and_meet_as_their_topics_say() {
        let nobody = Subject::default();
        for one in FILTERS {
            let pattern = Pattern::new(one).unwrap();
            for topic in TOPICS.iter().filter(|topic| !topic.is_empty()) {
                let expected = matched(one).contains(topic);
                assert_eq!(pattern.matches(topic, &nobody), expected, "{one} {topic}");
            }
            for other in FILTERS {
                let (mine, asked) = (matched(one), matched(other));
                let covers = asked.iter().all(|topic| mine.contains(topic));
                // The topics are few: what does not cover them does not cover the filter.
                assert!(covers || !pattern.covers(other, &nobody), "{one} covers {other}");
                let meets = asked.iter().any(|topic| mine.contains(topic));
                assert!(!meets || pattern.meets(other, &nobody), "{one} meets {other}");
            }
        }
        for (one, other, covers, meets) in [
            ("#", "a/+/#", true, true),
            ("a/#", "a", true, true),
            ("a/+", "a/#", false, true),
            ("+/b", "a/+", false, true),
            ("a/b", "a/+", false, true),
            ("a/b/c", "a/+", false, false),
            ("a/b", "#", false, true),
            ("#", "$x/#", false, false),
            ("$x/#", "#", false, false),
            ("$x/#", "$x/+", true, true),
            ("a/+/c", "a/b/c", true, true),
            ("a", "a/#", false, true),
            ("a", "b/#", false, false),
        ] {
            let pattern = Pattern::new(one).unwrap();
            assert_eq!(pattern.covers(other, &nobody), covers, "{one} covers {other}");
            assert_eq!(pattern.meets(other, &nobody), meets, "{one} meets {other}");
        }
    }

    #[test]
    fn a_name_stands_for_its_level_as_text_only() {
        let pattern = Pattern::new("u/%u/c/%c").unwrap();
        let ali = subject(Some("ali"), "x");
        assert!(pattern.matches("u/ali/c/x", &ali) && pattern.covers("u/ali/c/x", &ali));
        assert!(!pattern.matches("u/ali/c/y", &ali) && !pattern.matches("u/%u/c/%c", &ali));
        assert!(!pattern.matches("u/ali/c/x", &subject(None, "x")));
        assert!(!pattern.matches("u//c/x", &subject(Some(""), "x")));
        for name in ["+", "#"] {
            let sly = subject(Some(name), "x");
            assert!(!pattern.matches("u/ali/c/x", &sly));
            assert!(!pattern.covers(&format!("u/{name}/c/x"), &sly), "{name}");
            assert!(!pattern.covers("u/ali/c/x", &sly), "{name}");
        }
        assert!(!pattern.matches("u/a/b/c/x", &subject(Some("a/b"), "x")));
        let plain = Pattern::plain("u/%u").unwrap();
        assert!(plain.matches("u/%u", &ali) && !plain.matches("u/ali", &ali));
    }

    #[test]
    fn a_name_beside_other_text_is_noticed() {
        assert!(Pattern::new("a/x%u/b").unwrap().has_stray());
        assert!(!Pattern::new("a/%u/%c").unwrap().has_stray());
    }
}
