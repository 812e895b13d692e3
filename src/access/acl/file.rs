//! mosquitto's `acl_file`, with the meaning that mosquitto 2.1 gives it.
//!
//! ```text
//!   topic [read|write|readwrite|deny] FILTER     for Clients without a user name
//!   user NAME                                    the `topic` lines below are for this user
//!   pattern [read|write|readwrite|deny] FILTER   for everybody, with %u and %c
//! ```
//!
//! A Client's own `topic` lines go before the patterns, and in both lists `deny` goes before what
//! allows. `write` is publishing; `read` is judged when a message is delivered, so a subscription
//! is never refused. Whatever the file says, everybody may read `$SYS` and nobody write to it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::pattern::Pattern;
use super::{Action, Asked, Decision, Ground, Place, Subject};
use crate::access::problem::{FileError, Problem, read_text};

/// The only topics below `$SYS` that Clients write to.
const BRIDGE_STATES: [&str; 2] = ["$SYS/broker/connection/", "/state"];

/// What a line allows; nothing: `deny`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Allows {
    read: bool,
    write: bool,
}

const DENY: Allows = Allows { read: false, write: false };

#[derive(Debug)]
struct Line {
    allows: Allows,
    pattern: Pattern,
    /// Whether it says nothing of Clients without a user name.
    needs_username: bool,
    place: Place,
}

impl Line {
    fn decide(&self, subject: &Subject, asked: &Asked<'_>) -> Option<Decision<'_>> {
        if self.needs_username && subject.username.is_none() {
            return None;
        }
        let is_allowed = match asked.action {
            Action::Publish => self.allows.write,
            _ => self.allows.read,
        };
        let says_something = is_allowed || self.allows == DENY;
        (says_something && self.pattern.matches(asked.topic, subject))
            .then_some(Decision { allowed: is_allowed, ground: Ground::Rule(&self.place) })
    }
}

/// The rules of a file.
#[derive(Debug)]
pub struct AclFile {
    path: Arc<Path>,
    anonymous: Vec<Line>,
    users: HashMap<Box<str>, Vec<Line>>,
    patterns: Vec<Line>,
}

impl AclFile {
    /// A file without rules.
    pub fn empty(path: &Path) -> Self {
        let (anonymous, patterns) = (Vec::new(), Vec::new());
        Self { path: path.into(), anonymous, users: HashMap::new(), patterns }
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let text = read_text(path, "")?;
        let file = Self::parse(&text, path).map_err(|problems| FileError::new(path, problems))?;
        for line in &file.patterns {
            if line.pattern.has_stray() {
                let what = "%u and %c have a meaning only where they are a whole level";
                tracing::warn!("{}: {what}", line.place);
            } else if !line.pattern.has_level("%u") && !line.pattern.has_level("%c") {
                tracing::warn!("{}: a pattern without %u and %c", line.place);
            }
        }
        Ok(file)
    }

    /// Reads a text that stands in `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Vec<Problem>> {
        let mut file = Self::empty(path);
        let (mut user, mut problems) = (None, Vec::new());
        for (line, text) in (1..).zip(text.lines()) {
            if let Err(what) = file.line(line, text.trim_end(), &mut user) {
                problems.push(Problem { line, what });
            }
        }
        if problems.is_empty() { Ok(file) } else { Err(problems) }
    }

    fn line(&mut self, line: usize, text: &str, user: &mut Option<Box<str>>) -> Result<(), String> {
        if text.starts_with('#') {
            return Ok(());
        }
        let text = text.trim_start_matches(' ');
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let rest = rest.trim_start_matches(' ');
        match (word, rest) {
            ("", _) => {}
            ("user", "") => return Err("no user name after `user`".into()),
            ("user", name) => {
                self.users.entry(name.trim().into()).or_default();
                *user = Some(name.trim().into());
            }
            ("topic" | "pattern", "") => return Err(format!("no topic after `{word}`")),
            ("topic", rest) => {
                let rule = self.rule(line, text, rest, Pattern::plain)?;
                add(
                    match user {
                        None => &mut self.anonymous,
                        Some(user) => self.users.entry(user.clone()).or_default(),
                    },
                    rule,
                );
            }
            ("pattern", rest) => {
                let rule = self.rule(line, text, rest, Pattern::new)?;
                add(&mut self.patterns, rule);
            }
            _ => {
                let what = "a line begins with `user`, `topic`, `pattern` or `#`";
                return Err(format!("`{word}` is unknown; {what}"));
            }
        }
        Ok(())
    }

    fn rule(
        &self,
        line: usize,
        text: &str,
        rest: &str,
        pattern: fn(&str) -> Result<Pattern, crate::topic::TopicError>,
    ) -> Result<Line, String> {
        let both = Allows { read: true, write: true };
        let (allows, filter) = match rest.split_once(' ') {
            None => (both, rest),
            Some((access, filter)) => {
                let allows = match access {
                    "read" => Allows { write: false, ..both },
                    "write" => Allows { read: false, ..both },
                    "readwrite" => both,
                    "deny" => DENY,
                    _ => {
                        let known = "`read`, `write`, `readwrite` or `deny`";
                        return Err(format!(
                            "`{access}` is unknown; before a topic stands {known}"
                        ));
                    }
                };
                (allows, filter.trim())
            }
        };
        let pattern = pattern(filter).map_err(|error| format!("`{filter}`: {error}"))?;
        let place = Place { path: self.path.clone(), line, rule: text.into() };
        let needs_username = text.starts_with("pattern") && filter.contains("%u");
        Ok(Line { allows, pattern, needs_username, place })
    }

    /// What the file says; `None`: nothing.
    pub fn decide(&self, subject: &Subject, asked: &Asked<'_>) -> Option<Decision<'_>> {
        if let Some((allowed, what)) = always(asked) {
            return Some(Decision { allowed, ground: Ground::File(&self.path, what) });
        }
        let own = match &subject.username {
            None => Some(&self.anonymous),
            Some(username) => self.users.get(&**username),
        };
        let decided = |lines: &'_ Vec<Line>| -> Option<usize> {
            lines.iter().position(|line| line.decide(subject, asked).is_some())
        };
        let found = own.and_then(|lines| lines.get(decided(lines)?));
        if let Some(line) = found {
            return line.decide(subject, asked);
        }
        if self.patterns.is_empty() {
            return None;
        }
        if let Some(what) = dangerous(subject) {
            return Some(Decision { allowed: false, ground: Ground::File(&self.path, what) });
        }
        self.patterns.iter().find_map(|line| line.decide(subject, asked))
    }
}

/// `deny` goes before what allows.
fn add(lines: &mut Vec<Line>, line: Line) {
    let at = if line.allows == DENY { 0 } else { lines.len() };
    lines.insert(at, line);
}

/// What holds whatever stands in the file.
fn always(asked: &Asked<'_>) -> Option<(bool, &'static str)> {
    let [before, after] = BRIDGE_STATES;
    let is_bridge_state = |topic: &str| {
        let name = topic.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        name.is_some_and(|name| !name.contains('/'))
    };
    match asked.action {
        Action::Subscribe => Some((true, "subscribing is allowed; what is delivered is judged")),
        Action::Receive if asked.topic.starts_with("$SYS") => {
            Some((true, "everybody may read $SYS"))
        }
        Action::Publish if asked.topic.starts_with("$SYS") && !is_bridge_state(asked.topic) => {
            Some((false, "nobody may write to $SYS"))
        }
        _ if asked.topic.starts_with("$share") => Some((false, "$share is only subscribed to")),
        _ => None,
    }
}

/// Names that would have been wildcards in a pattern are denied all that patterns could allow.
fn dangerous(subject: &Subject) -> Option<&'static str> {
    let is_wild = |name: &str| name.contains(['+', '#']);
    if subject.username.as_deref().is_some_and(is_wild) {
        return Some("a user name with + or # is denied where there are patterns");
    }
    is_wild(&subject.client_id)
        .then_some("a Client Identifier with + or # is denied where there are patterns")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::QoS;

    fn subject(username: &str, client_id: &str) -> Subject {
        let username = (!username.is_empty()).then(|| username.into());
        Subject { username, client_id: client_id.into(), claims: None }
    }

    fn file(text: &str) -> AclFile {
        AclFile::parse(text, Path::new("acl")).unwrap()
    }

    fn ask<'a>(file: &'a AclFile, who: &Subject, action: Action, topic: &str) -> Decision<'a> {
        let asked = Asked { action, topic, qos: QoS::AtMostOnce, retain: false };
        file.decide(who, &asked).unwrap_or(Decision { allowed: false, ground: Ground::NoRule })
    }

    /// The read and write rights of a user as text.
    fn rights(file: &AclFile, username: &str, topic: &str) -> &'static str {
        let who = subject(username, "c");
        let may = |action| ask(file, &who, action, topic).allowed;
        match (may(Action::Receive), may(Action::Publish)) {
            (true, true) => "rw",
            (true, false) => "r",
            (false, true) => "w",
            (false, false) => "",
        }
    }

    /// As mosquitto's own test 09-acl-access-variants.
    #[test]
    fn lines_are_for_the_user_above_them_and_deny_goes_first() {
        let file = file(
            "topic readwrite topic/global/#\ntopic deny      topic/global/except\n\
             user username\n\
             topic readwrite topic/username/#\ntopic deny      topic/username/except\n\
             pattern readwrite pattern/%u/#\npattern deny      pattern/%u/except\n",
        );
        for (username, topic, expected) in [
            ("", "topic/global", "rw"),
            ("username", "topic/global", ""),
            ("", "topic/global/except", ""),
            ("", "topic/username", ""),
            ("username", "topic/username", "rw"),
            ("username", "topic/username/except", ""),
            ("", "pattern/username", ""),
            ("username", "pattern/username", "rw"),
            ("username", "pattern/username/except", ""),
            ("other", "pattern/username", ""),
            ("other", "pattern/other/a", "rw"),
        ] {
            assert_eq!(rights(&file, username, topic), expected, "{username} {topic}");
        }
    }

    #[test]
    fn a_line_that_does_not_speak_of_the_action_is_passed_over() {
        let file = file(
            "topic read a/#\ntopic write a/b\ntopic c\nuser ali\nuser baba\n\
                         topic read b c\nuser ali\ntopic x\n",
        );
        assert_eq!((rights(&file, "", "a/b"), rights(&file, "", "a/c")), ("rw", "r"));
        assert_eq!((rights(&file, "", "c"), rights(&file, "", "d")), ("rw", ""));
        // A topic may have spaces, and a user several parts.
        assert_eq!((rights(&file, "baba", "b c"), rights(&file, "ali", "x")), ("r", "rw"));
    }

    #[test]
    fn a_wildcard_does_not_reach_what_begins_with_a_dollar() {
        let file = file("topic #\ntopic $x/#\n");
        assert_eq!((rights(&file, "", "$y"), rights(&file, "", "$x/a")), ("", "rw"));
        assert_eq!(
            (rights(&file, "ali", "$SYS/broker/uptime"), rights(&file, "", "$SYS")),
            ("r", "r")
        );
        let who = subject("", "c");
        let state = "$SYS/broker/connection/c/state";
        assert!(!ask(&file, &who, Action::Publish, "$SYS/x").allowed);
        assert!(!ask(&file, &who, Action::Publish, state).allowed, "no line allows it");
        let states =
            AclFile::parse("pattern write $SYS/broker/connection/%c/state", Path::new("a"));
        assert!(ask(&states.unwrap(), &who, Action::Publish, state).allowed);
    }

    #[test]
    fn dangerous_names_get_nothing_from_patterns() {
        let file = file("topic a\npattern b/%c\npattern d\n");
        let may = |client_id: &str, topic: &str| {
            ask(&file, &subject("", client_id), Action::Publish, topic).allowed
        };
        assert!(may("c", "b/c") && may("c", "d") && may("#", "a"));
        assert!(!may("#", "b/#") && !may("#", "d") && !may("x+", "d") && !may("", "b/"));
        assert!(may("a/b", "d") && !may("a/b", "b/a/b"));
    }

    #[test]
    fn everybody_may_subscribe_and_an_empty_file_denies_the_rest() {
        let file = file("\n# nothing\n");
        assert!(ask(&file, &subject("", "c"), Action::Subscribe, "#").allowed);
        assert_eq!(rights(&file, "", "a"), "");
    }

    #[test]
    fn the_line_that_decided_is_told() {
        let file = file("# who\n\n  topic  write   a/#  \ntopic deny a/b\n");
        let told = |topic| ask(&file, &subject("", "c"), Action::Publish, topic).to_string();
        assert_eq!(told("a/c"), "allowed: acl:3: topic  write   a/#");
        assert_eq!(told("a/b"), "denied: acl:4: topic deny a/b");
        assert_eq!(told("c"), "denied: no rule matches");
    }

    #[test]
    fn everything_wrong_is_said_with_its_line() {
        let text = "user\ntopic\npattern read\ntopic rw a\n topics a\ntopic a/#/b\ntopic read  \n";
        let problems = AclFile::parse(text, Path::new("acl")).unwrap_err();
        let lines: Vec<_> = problems.iter().map(|problem| problem.line).collect();
        // `pattern read` is a pattern of the topic `read`.
        assert_eq!(lines, [1, 2, 4, 5, 6], "{problems:?}");
    }
}
