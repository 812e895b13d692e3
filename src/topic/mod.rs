//! Topic Names, Topic Filters and ShareNames: checked strings (MQTT section 4.7), and the trees
//! that find one by the other. Who holds one of these types need not check again.

pub mod filter_tree;
mod level;
pub mod name_tree;
mod slab;

use thiserror::Error;

/// Longest topic in bytes: its length is a Two Byte Integer [MQTT-4.7.3-3].
pub const TOPIC_BYTES_MAX: usize = 65_535;

/// Separates the levels of a topic.
pub const LEVEL_SEPARATOR: char = '/';

/// Why a string is not a Topic Name or Topic Filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TopicError {
    /// [MQTT-4.7.3-1]
    #[error("a topic has at least one character")]
    Empty,
    /// [MQTT-4.7.3-3]
    #[error("a topic has at most 65,535 bytes")]
    TooLong,
    /// [MQTT-4.7.3-2]
    #[error("a topic must not contain the null character")]
    ContainsNul,
    /// [MQTT-4.7.0-1]
    #[error("a Topic Name must not contain the wildcards + and #")]
    WildcardInName,
    /// [MQTT-4.7.1-1]
    #[error("# must be the last character and stand alone in its level")]
    MisplacedHash,
    /// [MQTT-4.7.1-2]
    #[error("+ must stand alone in its level")]
    MisplacedPlus,
    /// [MQTT-4.8.2-1]
    #[error("a ShareName has at least one character, none of them / + #")]
    BadShareName,
    /// [MQTT-4.8.2-2]
    #[error("a Shared Subscription is written $share/ShareName/filter")]
    NoShareFilter,
}

/// What a message is published to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TopicName<'a>(&'a str);

impl<'a> TopicName<'a> {
    /// Checks a string.
    pub fn new(topic: &'a str) -> Result<Self, TopicError> {
        check_length(topic)?;
        if may_contain_forbidden(topic.as_bytes()) {
            for byte in topic.bytes() {
                match byte {
                    0 => return Err(TopicError::ContainsNul),
                    b'+' | b'#' => return Err(TopicError::WildcardInName),
                    _ => {}
                }
            }
        }
        Ok(Self(topic))
    }

    /// The string.
    pub fn as_str(self) -> &'a str {
        self.0
    }
}

/// Names a share group among those of one filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShareName<'a>(&'a str);

impl<'a> ShareName<'a> {
    /// The string.
    pub fn as_str(self) -> &'a str {
        self.0
    }
}

/// What is subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicFilter<'a> {
    whole: &'a str,
    share_name: Option<ShareName<'a>>,
    filter: &'a str,
}

/// What a Shared Subscription begins with [MQTT-4.8.2-1].
const SHARE_PREFIX: &str = "$share/";

/// What a subscription to a declared queue begins with.
pub const QUEUE_PREFIX: &str = "$queue/";

impl<'a> TopicFilter<'a> {
    /// Checks a string; a Shared Subscription is taken apart.
    pub fn new(whole: &'a str) -> Result<Self, TopicError> {
        check_length(whole)?;
        let Some(shared) = whole.strip_prefix(SHARE_PREFIX) else {
            if whole == "$share" {
                return Err(TopicError::NoShareFilter);
            }
            check_filter(whole)?;
            return Ok(Self { whole, share_name: None, filter: whole });
        };
        let (name, filter) = shared.split_once('/').ok_or(TopicError::NoShareFilter)?;
        if name.is_empty() || name.contains(['+', '#']) {
            return Err(TopicError::BadShareName);
        }
        if filter.is_empty() {
            return Err(TopicError::NoShareFilter);
        }
        check_filter(whole.strip_prefix(SHARE_PREFIX).unwrap_or_default())?;
        Ok(Self { whole, share_name: Some(ShareName(name)), filter })
    }

    /// The whole string, as subscribed.
    pub fn as_str(self) -> &'a str {
        self.whole
    }

    /// What topics are matched against.
    pub fn filter(self) -> &'a str {
        self.filter
    }

    /// The share group, for a Shared Subscription.
    pub fn share_name(self) -> Option<ShareName<'a>> {
        self.share_name
    }

    /// The declared queue, for a filter that names one: `$queue/{name}`.
    pub fn queue_name(self) -> Option<&'a str> {
        self.whole.strip_prefix(QUEUE_PREFIX)
    }

    /// Whether its messages go to one of several consumers: a Shared Subscription, or one to a
    /// declared queue.
    pub fn is_shared(self) -> bool {
        self.share_name.is_some() || self.queue_name().is_some()
    }

    /// Whether the filter matches the topic: the rule itself, which the trees must agree with.
    pub fn matches(self, topic: TopicName<'_>) -> bool {
        let first_is_wildcard = self.filter.starts_with(['+', '#']);
        if topic.0.starts_with('$') && first_is_wildcard {
            return false; // [MQTT-4.7.2-1]
        }
        let mut names = topic.0.split('/');
        for level in self.filter.split('/') {
            match (level, names.next()) {
                ("#", _) => return true,
                ("+", Some(_)) => {}
                (level, Some(name)) if level == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }
}

/// Whether there may be a byte that no Topic Name has; false only if there is none. Eight bytes are
/// looked at together.
fn may_contain_forbidden(bytes: &[u8]) -> bool {
    let (eights, _) = bytes.as_chunks::<8>();
    // The last eight are for those beyond the last whole chunk.
    let Some(last) = bytes.last_chunk::<8>() else { return true };
    eights.iter().chain([last]).fold(0, |found, &eight| {
        let eight = u64::from_ne_bytes(eight);
        let without_bit_3 = eight & !repeated(0x08); // Which is all that tells + from #.
        found | zeros(eight) | zeros(without_bit_3 ^ repeated(b'#'))
    }) != 0
}

/// Not 0 exactly when one of the eight bytes is.
const fn zeros(eight: u64) -> u64 {
    eight.wrapping_sub(repeated(1)) & !eight & repeated(0x80)
}

/// Eight times this byte.
const fn repeated(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Whether a filter contains a wildcard.
pub fn has_wildcard(filter: &str) -> bool {
    filter.bytes().any(|byte| matches!(byte, b'+' | b'#'))
}

fn check_length(topic: &str) -> Result<(), TopicError> {
    match topic.len() {
        0 => Err(TopicError::Empty),
        1..=TOPIC_BYTES_MAX => Ok(()),
        _ => Err(TopicError::TooLong),
    }
}

fn check_filter(filter: &str) -> Result<(), TopicError> {
    if !may_contain_forbidden(filter.as_bytes()) {
        return Ok(());
    }
    let (mut before, mut bytes) = (b'/', filter.bytes().peekable());
    while let Some(byte) = bytes.next() {
        match byte {
            0 => return Err(TopicError::ContainsNul),
            b'#' if before != b'/' || bytes.peek().is_some() => {
                return Err(TopicError::MisplacedHash);
            }
            b'+' if before != b'/' || bytes.peek().is_some_and(|&next| next != b'/') => {
                return Err(TopicError::MisplacedPlus);
            }
            _ => before = byte,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_no_wildcards_and_no_null() {
        assert_eq!(TopicName::new(""), Err(TopicError::Empty));
        assert_eq!(TopicName::new("a/+"), Err(TopicError::WildcardInName));
        assert_eq!(TopicName::new("a\0"), Err(TopicError::ContainsNul));
        assert_eq!(TopicName::new(&"x".repeat(65_536)), Err(TopicError::TooLong));
        for topic in ["/", "a//b", "/a", "a/", "$SYS/x", "ünïcode/ 😀 "] {
            assert!(TopicName::new(topic).is_ok(), "{topic}");
        }
    }

    #[test]
    fn eight_bytes_at_a_time_none_is_overlooked_and_none_accused() {
        let others = ['\u{1}', '"', '$', '*', ',', '\u{80}', 'ã', 'ë'];
        for len in 1..30 {
            for at in 0..len {
                let with = |c: char| ["x".repeat(at), c.into(), "x".repeat(len - at - 1)].concat();
                for (c, error) in [
                    ('\0', TopicError::ContainsNul),
                    ('+', TopicError::WildcardInName),
                    ('#', TopicError::WildcardInName),
                ] {
                    assert_eq!(TopicName::new(&with(c)), Err(error), "{c:?} {at} {len}");
                }
                for c in others {
                    assert!(TopicName::new(&with(c)).is_ok(), "{c:?} {at} {len}");
                }
            }
        }
    }

    #[test]
    fn wildcards_stand_alone_and_hash_stands_last() {
        for filter in ["#", "+", "a/#", "+/+", "/+", "a/+/b", "+/a/#", "/#"] {
            assert!(TopicFilter::new(filter).is_ok(), "{filter}");
        }
        for filter in ["a#", "a/#/b", "##", "#/", "a/b#"] {
            assert_eq!(TopicFilter::new(filter), Err(TopicError::MisplacedHash), "{filter}");
        }
        for filter in ["a+", "+a/b", "a/++"] {
            assert_eq!(TopicFilter::new(filter), Err(TopicError::MisplacedPlus), "{filter}");
        }
    }

    #[test]
    fn a_shared_subscription_is_taken_apart() {
        let filter = TopicFilter::new("$share/g/a/+").unwrap();
        assert_eq!(filter.share_name().map(ShareName::as_str), Some("g"));
        assert_eq!((filter.filter(), filter.as_str()), ("a/+", "$share/g/a/+"));
        for (bad, error) in [
            ("$share", TopicError::NoShareFilter),
            ("$share/g", TopicError::NoShareFilter),
            ("$share/g/", TopicError::NoShareFilter),
            ("$share//a", TopicError::BadShareName),
            ("$share/+/a", TopicError::BadShareName),
            ("$share/g#/a", TopicError::BadShareName),
            ("$share/g/a#", TopicError::MisplacedHash),
        ] {
            assert_eq!(TopicFilter::new(bad), Err(error), "{bad}");
        }
    }

    #[test]
    fn the_examples_of_the_specification_match() {
        for (filter, topic, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/x", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/x", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
        ] {
            let (filter, topic) =
                (TopicFilter::new(filter).unwrap(), TopicName::new(topic).unwrap());
            assert_eq!(filter.matches(topic), expected, "{filter:?} {topic:?}");
        }
    }
}
