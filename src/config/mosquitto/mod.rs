//! A mosquitto.conf becomes a [`Config`], or a list of everything that is wrong with it.
//!
//! A line is an option: a name, white space, a value. What an option means is said by the table of
//! [`options`]; where it has the name of one of our settings, it is that setting. Paths are
//! relative to the working directory, as they are there.

pub mod options;
mod plugins;
pub mod reference;
mod special;

use std::path::{Path, PathBuf};

use super::problem::{Problem, contradictions, nearest};
use super::settings::{GLOBAL, LISTENER, Setting};
use super::value::{Kind, Value, Written, fit};
use super::{Config, Listener};
use crate::access::Anonymous;
use crate::journal::{Look, Timestamp, kind};
use crate::session::connect::Manner;
use crate::store::Durability;
use crate::store::disk::NAMED;
use options::{Fate, Row, Scope};
use plugins::BuiltIn;

/// The port of the listener that a file describes without an option `listener`.
const DEFAULT_PORT: u16 = 1883;

/// Files that an `include_dir` may have.
const INCLUDED_MAX: usize = 1000;

/// Whether a text is a mosquitto.conf rather than TOML: in its first line that says something a
/// name is followed by white space and no equals sign.
pub fn is_mosquitto(text: &str, path: &Path) -> bool {
    let says = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let Some(line) = text.lines().map(str::trim).find(says) else {
        return path.extension().is_some_and(|extension| extension == "conf");
    };
    let (name, rest) = split(line);
    let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
    is_name && !rest.starts_with('=') && (!rest.is_empty() || options::row(name).is_some())
}

/// A name, and what follows it.
fn split(line: &str) -> (&str, &str) {
    let (name, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    (name, rest.trim())
}

/// What holds where a mosquitto.conf says nothing, as in mosquitto 2.1.
fn defaults() -> Config {
    let mut config = Config::default();
    let twenty = std::num::NonZeroU16::new(20).unwrap_or(std::num::NonZeroU16::MIN);
    let limits = &mut config.broker.limits;
    limits.maximum_packet_size = 2_000_000;
    limits.receive_maximum = twenty;
    limits.inflight_max = twenty;
    limits.topic_alias_maximum = 10;
    limits.send_alias_maximum = 10;
    limits.manner = Manner::Mosquitto;
    // 200 separators.
    limits.topic_levels_max = 201;
    config.users = vec!["mosquitto".into(), "nobody".into()];
    config.broker.queue.messages_max = 1000;
    // mosquitto counts what the Client's socket does not take at once; that takes as many.
    config.broker.queue.qos0_max = 100_000;
    config.broker.queue.bytes_max = usize::MAX;
    config.store.durability = Durability::Memory;
    config.journal.look = Look::Mosquitto;
    config.journal.timestamp = Timestamp::Unix;
    config.journal.kinds = kind::DEFAULT;
    config.broker.asks_sources = true;
    // Which of it is written is for the kinds to say.
    config.journal.filter = "debug".into();
    config
}

/// Reads a text that stands in `path`.
pub fn parse(text: &str, path: &Path) -> Result<Config, Vec<Problem>> {
    let mut reading = Reading {
        config: defaults(),
        drafts: Vec::new(),
        current: None,
        default: None,
        per_listener: false,
        has_security: false,
        has_bridge: false,
        has_plugin: false,
        plugin: None,
        loaded: Vec::new(),
        has_log_dest: false,
        kinds: None,
        store: None,
        path: path.to_owned(),
        line: 0,
        is_included: false,
        given: Vec::new(),
        problems: Vec::new(),
    };
    reading.lines(text);
    reading.finish()
}

/// The names of all options, mosquitto's and ours.
fn known() -> impl Iterator<Item = &'static str> {
    let ours = GLOBAL.iter().map(|setting| setting.key);
    let listeners = LISTENER.iter().map(|setting| setting.key);
    options::OPTIONS.iter().map(|row| row.name).chain(ours).chain(listeners)
}

/// A text without what would break a line.
fn one_line(text: &str) -> String {
    let escaped =
        |c: char| if c.is_control() { c.escape_default().collect() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

/// A listener that is being described.
struct Draft {
    listener: Listener,
    path: PathBuf,
    line: usize,
    /// Whether the file asks for it, and does not only say how one would be.
    is_asked_for: bool,
    /// Whether a certificate gives the Client its name.
    has_identity: bool,
}

struct Reading {
    config: Config,
    drafts: Vec<Draft>,
    /// The listener that options belong to.
    current: Option<usize>,
    /// The one without an option `listener`.
    default: Option<usize>,
    per_listener: bool,
    has_security: bool,
    has_bridge: bool,
    has_plugin: bool,
    /// The plugin that options belong to.
    plugin: Option<BuiltIn>,
    /// What plugins are for the listeners that name them: name, setting, value.
    loaded: Vec<(String, &'static str, String)>,
    has_log_dest: bool,
    kinds: Option<u8>,
    /// What stands for the name of the store in its place.
    store: Option<String>,
    path: PathBuf,
    line: usize,
    is_included: bool,
    /// Listener's place if it is one's, name, value.
    given: Vec<(Option<usize>, String, String)>,
    problems: Vec<Problem>,
}

impl Reading {
    fn lines(&mut self, text: &str) {
        for (at, line) in text.lines().enumerate() {
            self.line = at + 1;
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                let (name, value) = split(line);
                self.option(name, value);
            }
        }
    }

    fn problem(&mut self, what: String) {
        let what = one_line(&what);
        self.problems.push(Problem { path: self.path.clone(), line: self.line, what });
    }

    fn warn(&mut self, what: String) {
        let what = one_line(&what);
        let warning = Problem { path: self.path.clone(), line: self.line, what };
        self.config.warnings.push(warning);
    }

    fn option(&mut self, name: &str, value: &str) {
        let Some(row) = options::row(name) else { return self.of_ours(name, value) };
        if value.is_empty() && row.fate == Fate::Read {
            return self.problem(format!("`{name}` has no value"));
        }
        if row.scope == Scope::Security {
            self.has_security = true;
        }
        match row.fate {
            Fate::Read => self.special(name, value),
            _ if row.is_setting() => self.setting(row, value),
            _ if self.is_built_in(row, name, value) => {}
            // It asks for nothing.
            _ if value == "false" => {}
            Fate::Warned(instead) => self.warn(format!("`{name}`: {instead}")),
            Fate::Refused(reason) => self.refuse(row, name, reason),
        }
    }

    /// Says why; once for a bridge or a plugin, not for each of its options.
    fn refuse(&mut self, row: &Row, name: &str, reason: &str) {
        let is_plugin = name.contains("plugin") || name.starts_with("auth_opt_");
        let said = match row.scope {
            Scope::Bridge => std::mem::replace(&mut self.has_bridge, true),
            _ if is_plugin => std::mem::replace(&mut self.has_plugin, true),
            _ => false,
        };
        if !said {
            self.problem(format!("`{name}`: {reason}"));
        }
    }

    /// An option that mosquitto does not have: one of our settings, or a mistake.
    fn of_ours(&mut self, name: &str, value: &str) {
        let is_listeners = LISTENER.iter().any(|setting| setting.key == name);
        if is_listeners && self.current.is_some() {
            self.enter_listener(name, name, value);
        } else if GLOBAL.iter().any(|setting| setting.key == name) {
            self.enter_global(name, value);
        } else if is_listeners {
            self.listener();
            self.enter_listener(name, name, value);
        } else {
            let what = match nearest(name, known()) {
                Some(near) => format!("unknown option `{name}`; did you mean `{near}`?"),
                None => format!("unknown option `{name}`; docs/mosquitto.md lists all"),
            };
            self.problem(what);
        }
    }

    fn setting(&mut self, row: &Row, value: &str) {
        match row.scope {
            Scope::Security if self.per_listener => self.security(row.name, row.name, value),
            Scope::Listener => {
                self.listener();
                self.enter_listener(row.name, row.name, value);
            }
            _ => self.enter_global(row.name, value),
        }
    }

    /// Enters a setting of security into the listener above.
    fn security(&mut self, option: &str, key: &str, value: &str) {
        if !LISTENER.iter().any(|setting| setting.key == key) {
            return self.problem(format!("`{option}` cannot be set for one listener"));
        }
        if self.current.is_none() {
            let what = format!("`{option}` needs a `listener` above it: `per_listener_settings`");
            return self.problem(what);
        }
        self.enter_listener(option, key, value);
    }

    /// The listener that options belong to: the one above, or the default one.
    fn listener(&mut self) -> usize {
        if let Some(at) = self.current {
            return at;
        }
        let at = match self.default {
            Some(at) => at,
            None => self.draft(Listener { port: Some(DEFAULT_PORT), ..Listener::default() }),
        };
        (self.default, self.current) = (Some(at), Some(at));
        at
    }

    fn draft(&mut self, listener: Listener) -> usize {
        let (path, line) = (self.path.clone(), self.line);
        self.drafts.push(Draft { listener, path, line, is_asked_for: false, has_identity: false });
        self.drafts.len() - 1
    }

    fn enter_global(&mut self, name: &str, text: &str) {
        let Some(setting) = GLOBAL.iter().find(|setting| setting.key == name) else { return };
        match self.value(name, setting, text) {
            Ok(value) => {
                (setting.enter)(&mut self.config, &value, Path::new(""));
                self.refuse_second_file(None, name);
                self.given.push((None, name.into(), value.to_string()));
            }
            Err(what) => self.problem(what),
        }
    }

    fn enter_listener(&mut self, option: &str, key: &str, text: &str) {
        let Some(setting) = LISTENER.iter().find(|setting| setting.key == key) else { return };
        match self.value(option, setting, text) {
            Ok(value) => {
                let at = self.current;
                if let Some(draft) = at.and_then(|at| self.drafts.get_mut(at)) {
                    (setting.enter)(&mut draft.listener, &value, Path::new(""));
                    draft.has_identity |= value.bool()
                        && ["use_identity_as_username", "use_subject_as_username"].contains(&key);
                }
                self.refuse_second_file(at, key);
                self.given.push((at, key.into(), value.to_string()));
            }
            Err(what) => self.problem(what),
        }
    }

    fn value<T>(&self, name: &str, setting: &Setting<T>, text: &str) -> Result<Value, String> {
        let text = special::in_our_words(name, text)?;
        let first = text.split_whitespace().next().unwrap_or_default();
        let written = match setting.kind {
            Kind::Bool | Kind::Choice(&["true", "false", "loopback"]) => match first {
                "true" | "1" => Written::Bool(true),
                "false" | "0" => Written::Bool(false),
                other => Written::Text(other),
            },
            Kind::Int { .. } => special::integer(first).map_or(Written::Other, Written::Int),
            Kind::Size { .. } | Kind::Time | Kind::Span => {
                special::integer(first).map_or(Written::Text(&text), Written::Int)
            }
            Kind::Choice(_) => Written::Text(first),
            Kind::Text | Kind::Path | Kind::Paths | Kind::Pattern | Kind::Like { .. } => {
                Written::Text(&text)
            }
            Kind::Networks | Kind::Texts | Kind::Words(_) => {
                let separator = |c: char| c == ',' || c.is_whitespace();
                Written::Texts(text.split(separator).filter(|word| !word.is_empty()).collect())
            }
        };
        let wrong = || format!("`{name}` must be {}, not `{text}`", setting.kind.describe());
        fit(setting.kind, &written).ok_or_else(wrong)
    }

    /// A listener that no `listener`, `port` or `bind_address` asks for is not opened, as there.
    fn warn_of_what_is_not_asked_for(&mut self) {
        let Some(draft) = self.default.and_then(|at| self.drafts.get(at)) else { return };
        if draft.is_asked_for {
            return;
        }
        (self.path, self.line) = (draft.path.clone(), draft.line);
        self.warn("options of a listener have no effect without `listener` above them".into());
        let default = self.default;
        self.given.retain(|(at, ..)| at.is_none() || *at != default);
    }

    /// Puts listeners and what depends on the whole file in its place.
    fn finish(mut self) -> Result<Config, Vec<Problem>> {
        self.end_plugin();
        if let Some(kinds) = self.kinds {
            self.config.journal.kinds = kinds;
        }
        self.warn_of_what_is_not_asked_for();
        if let Some(name) = self.store.take() {
            let directory = &mut self.config.store.directory;
            *directory = directory.join(format!("{name}.{NAMED}"));
        }
        let is_local = !self.drafts.iter().any(|draft| draft.is_asked_for);
        if !is_local && !self.per_listener {
            // Who opens the broker to others says who may come.
            self.config.anonymous.get_or_insert(Anonymous::Denied);
        }
        if is_local && self.config.anonymous != Some(Anonymous::Denied) {
            self.config.anonymous = Some(Anonymous::LoopbackOnly);
        }
        let names: Vec<String> =
            self.drafts.iter().map(|draft| super::listener_name(&draft.listener)).collect();
        let drafts = std::mem::take(&mut self.drafts).into_iter();
        for draft in drafts.filter(|draft| draft.is_asked_for) {
            (self.path, self.line) = (draft.path, draft.line);
            let mut listener = draft.listener;
            if self.per_listener {
                listener.anonymous.get_or_insert(Anonymous::Denied);
            }
            listener.distrusts_certificates = !draft.has_identity;
            let alone = Config { listeners: vec![listener.clone()], ..self.config.clone() };
            if let Err(what) = alone.openings() {
                self.problem(what);
            }
            self.config.listeners.push(listener);
        }
        // Names that are only believed own nothing.
        let is_said = self.given.iter().any(|(_, name, _)| name == "session_takeover");
        self.config.broker.any_user_takes_over |= !is_said && !self.config.knows_users();
        for what in contradictions(&self.config) {
            self.problem(what);
        }
        for (at, name, value) in std::mem::take(&mut self.given) {
            let listener = at.and_then(|at| names.get(at));
            let name = listener.map_or(name.clone(), |listener| format!("{listener}: {name}"));
            self.config.given.insert(name, value);
        }
        if self.problems.is_empty() { Ok(self.config) } else { Err(self.problems) }
    }
}

#[cfg(test)]
mod tests;
