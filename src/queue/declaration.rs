//! What an operator declares of a queue: what goes into it, its bounds, and how it is handed out.
//!
//! A share group that nobody declared has the declaration of [`Declaration::default`], without a
//! name and without bounds of its own.

use super::{Limits, Overflow};
use crate::topic::{QUEUE_PREFIX, TopicFilter, TopicName};

/// Who of several consumers gets the next message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Strategy {
    /// Each in turn, if it has room.
    #[default]
    RoundRobin,
    /// The one that holds the fewest.
    LeastInflight,
    /// Always the same one while it is there, so that everything keeps its order; others stand by.
    Sticky,
    /// The one that the topic's hash chooses of those that are there: order is kept by topic.
    HashTopic,
}

/// What becomes of a message that a consumer refuses, by a PUBACK or PUBREC with an error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReject {
    /// It goes back to the front of the queue.
    Requeue,
    /// It goes to the dead-letter topic.
    DeadLetter,
    /// It is dropped [MQTT-4.8.2-6].
    Drop,
}

/// What two messages have in common of which only the later is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LastValue {
    /// Their topic.
    Topic,
    /// The value of a User Property of this name; messages without it are all kept.
    UserProperty(Box<str>),
}

/// Priorities are 0 to 9, the highest first.
pub const PRIORITY_MAX: u8 = 9;

/// Messages that one consumer of a declared queue holds at most: enough for a far one to be busy,
/// and what a slow one holds does not wait for long.
pub const PREFETCH: u16 = 100;

/// See the head of this file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declaration {
    /// What it is called in `$queue/{name}`; empty for a share group that nobody declared.
    pub name: Box<str>,
    /// The Topic Filter of what goes into it.
    pub filter: Box<str>,
    /// Messages that wait.
    pub messages_max: Option<usize>,
    /// Weight of the messages that wait, in bytes.
    pub bytes_max: Option<usize>,
    /// What happens to a message beyond these bounds.
    pub overflow: Overflow,
    /// Seconds that a message waits at most; its own Message Expiry Interval holds too.
    pub message_ttl_s: Option<u32>,
    /// How often a message is handed out before it counts as one that nobody can take.
    pub deliveries_max: Option<u8>,
    /// Where such messages go.
    pub dead_letter: Option<Box<str>>,
    /// Milliseconds after which a consumer that has not answered loses a message of QoS 1.
    pub lease_ms: Option<u64>,
    /// Messages that one consumer holds at most, whatever it has room for; [`PREFETCH`] when not
    /// given.
    pub prefetch: Option<u16>,
    /// Who gets the next message; as in share groups that nobody declared when not given.
    pub strategy: Option<Strategy>,
    /// What becomes of a message that a consumer refuses.
    pub on_reject: Option<OnReject>,
    /// Of what only the last value is kept.
    pub last_value: Option<LastValue>,
    /// The User Property with a message's priority.
    pub priority: Option<Box<str>>,
    /// Whether messages of QoS 0 wait while there is no consumer.
    pub keeps_qos0: bool,
}

impl Declaration {
    /// A share group that nobody declared.
    pub fn undeclared(strategy: Strategy) -> Self {
        Self { strategy: Some(strategy), ..Self::default() }
    }

    /// Whether somebody declared it.
    pub fn is_declared(&self) -> bool {
        !self.name.is_empty()
    }

    /// How many messages a consumer may hold that has room for so many.
    pub fn window(&self, room: usize) -> usize {
        if !self.is_declared() {
            return room;
        }
        room.min(self.prefetch.unwrap_or(PREFETCH).into())
    }

    /// What becomes of a message that a consumer refuses.
    pub fn on_reject(&self) -> OnReject {
        self.on_reject.unwrap_or(match self.dead_letter {
            Some(_) => OnReject::DeadLetter,
            None => OnReject::Drop,
        })
    }

    /// The bounds of its queue: its own, and those of every queue for the rest.
    pub fn limits(&self, of_all: &Limits) -> Limits {
        if !self.is_declared() {
            return *of_all;
        }
        Limits {
            messages_max: self.messages_max.unwrap_or(of_all.messages_max),
            bytes_max: self.bytes_max.unwrap_or(of_all.bytes_max),
            overflow: self.overflow,
            ..*of_all
        }
    }

    /// What is wrong with it by itself, in words that follow its name.
    pub fn check(&self) -> Result<(), String> {
        let name = &self.name;
        if name.is_empty() {
            return Err("a queue needs a `name`".into());
        }
        if let Some(bad) = name.chars().find(|c| matches!(c, '/' | '+' | '#') || c.is_control()) {
            return Err(format!(
                "the name of a queue is one level of a topic: it cannot contain {bad:?}"
            ));
        }
        if TopicFilter::new(&[QUEUE_PREFIX, name].concat()).is_err() {
            return Err("the name of a queue is too long".into());
        }
        if self.filter.is_empty() {
            return Err("a queue needs a `filter`: the topics whose messages go into it".into());
        }
        let filter =
            TopicFilter::new(&self.filter).map_err(|error| format!("its `filter`: {error}"))?;
        if filter.is_shared() {
            return Err("its `filter` is what is published to, without $share or $queue".into());
        }
        self.check_fates(filter)
    }

    fn check_fates(&self, filter: TopicFilter<'_>) -> Result<(), String> {
        let Some(topic) = self.dead_letter.as_deref() else {
            return match self.on_reject {
                Some(OnReject::DeadLetter) => {
                    Err("`on_reject = \"dead-letter\"` needs a `dead_letter` topic".into())
                }
                _ => Ok(()),
            };
        };
        let topic = TopicName::new(topic).map_err(|error| format!("its `dead_letter`: {error}"))?;
        if filter.matches(topic) {
            return Err(format!(
                "its `dead_letter` topic {} matches its own `filter`: what nobody can take would \
                 come back for ever",
                topic.as_str()
            ));
        }
        Ok(())
    }
}

/// What is wrong with several declarations: which, and in words that follow its name. Each is to
/// be checked by itself before.
pub fn check_together(declarations: &[Declaration]) -> Result<(), (usize, String)> {
    for (at, declaration) in declarations.iter().enumerate() {
        let former = declarations.iter().take(at);
        if former.clone().any(|former| former.name == declaration.name) {
            return Err((at, "there is a queue of this name already".into()));
        }
        if let Some(name) = circle(declarations, declaration) {
            return Err((
                at,
                format!(
                    "its dead letters come back to it by way of queue `{name}`: what nobody can \
                     take would go in a circle"
                ),
            ));
        }
    }
    Ok(())
}

/// The queue by which the dead letters of `from` come back to it.
fn circle<'d>(declarations: &'d [Declaration], from: &Declaration) -> Option<&'d str> {
    let mut reached: Vec<&Declaration> = Vec::new();
    let mut topics: Vec<&str> = from.dead_letter.as_deref().into_iter().collect();
    while let Some(topic) = topics.pop() {
        let topic = TopicName::new(topic).ok()?;
        for next in declarations {
            let feeds = TopicFilter::new(&next.filter).is_ok_and(|filter| filter.matches(topic));
            if !feeds || reached.iter().any(|known| known.name == next.name) {
                continue;
            }
            if next.name == from.name {
                return reached.last().map(|last| &*last.name);
            }
            reached.push(next);
            topics.extend(next.dead_letter.as_deref());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(name: &str, filter: &str, dead_letter: Option<&str>) -> Declaration {
        let dead_letter = dead_letter.map(Into::into);
        Declaration { name: name.into(), filter: filter.into(), dead_letter, ..Default::default() }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_rule() {
        let wrong = |queue: Declaration| queue.check().expect_err("it is wrong");
        assert!(wrong(queue("", "a", None)).contains("needs a `name`"));
        assert!(wrong(queue("a/b", "a", None)).contains("one level"));
        assert!(wrong(queue("a+", "a", None)).contains("'+'"));
        assert!(wrong(queue("jobs", "", None)).contains("needs a `filter`"));
        assert!(wrong(queue("jobs", "a/#/b", None)).contains("# must be the last"));
        assert!(wrong(queue("jobs", "$share/g/a", None)).contains("without $share"));
        assert!(wrong(queue("jobs", "jobs/#", Some("jobs/dead"))).contains("matches its own"));
        assert!(wrong(queue("jobs", "jobs/#", Some("dead/+"))).contains("`dead_letter`"));
        let refuses =
            Declaration { on_reject: Some(OnReject::DeadLetter), ..queue("jobs", "jobs/#", None) };
        assert!(wrong(refuses).contains("needs a `dead_letter`"));
        assert_eq!(queue("jobs", "jobs/#", Some("dead/jobs")).check(), Ok(()));
    }

    #[test]
    fn names_are_unique_and_dead_letters_go_in_no_circle() {
        let twice = [queue("a", "a", None), queue("a", "b", None)];
        assert_eq!(check_together(&twice).unwrap_err().0, 1);
        let chain = [queue("a", "a", Some("b")), queue("b", "b", Some("c")), queue("c", "c", None)];
        assert_eq!(check_together(&chain), Ok(()));
        let circle =
            [queue("a", "a", Some("b")), queue("b", "b", Some("c")), queue("c", "c", Some("a"))];
        let (at, what) = check_together(&circle).unwrap_err();
        assert_eq!(at, 0);
        assert!(what.contains("by way of queue `c`"), "{what}");
    }
}
