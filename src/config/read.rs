//! A TOML file becomes a [`Config`], or a list of everything that is wrong with it.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::settings::{GLOBAL, LISTENER, QUEUE, Setting};
use super::value::{Written, fit};
use super::{Config, Listener, listener_name, mosquitto};
use crate::queue::declaration::{Declaration, check_together};

/// Something wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong and what to write instead.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path.display(), self.what),
            line => write!(f, "{}:{line}: {}", self.path.display(), self.what),
        }
    }
}

/// Reads a file: TOML or a mosquitto.conf.
pub fn read(path: &Path) -> Result<Config, Vec<Problem>> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        vec![Problem { path: path.to_owned(), line: 0, what: format!("cannot read it: {error}") }]
    })?;
    parse(&text, path)
}

/// Reads a text that stands in `path`, in whichever of the two languages it is.
pub fn parse(text: &str, path: &Path) -> Result<Config, Vec<Problem>> {
    if mosquitto::is_mosquitto(text, path) {
        return mosquitto::parse(text, path);
    }
    let mut reading = Reading { text, path, given: Vec::new(), problems: Vec::new() };
    let mut config = Config::default();
    match DeTable::parse(text) {
        Ok(table) => reading.global(table.get_ref(), &mut config),
        Err(error) => {
            let what = error.message().to_owned();
            reading.problem(error.span(), what);
        }
    }
    reading.problems.sort_by_key(|problem| problem.line);
    config.given.extend(reading.given);
    if reading.problems.is_empty() { Ok(config) } else { Err(reading.problems) }
}

struct Reading<'a> {
    text: &'a str,
    path: &'a Path,
    given: Vec<(String, String)>,
    problems: Vec<Problem>,
}

/// The key under which listeners stand.
const LISTENERS: &str = "listener";

/// The key under which declared queues stand.
const QUEUES: &str = "queue";

impl Reading<'_> {
    fn global(&mut self, table: &DeTable<'_>, config: &mut Config) {
        for (key, value) in table {
            let each = match &**key.get_ref() {
                LISTENERS => Self::listener,
                QUEUES => Self::queue,
                _ => {
                    self.setting(GLOBAL, &[LISTENERS, QUEUES], key, value, config);
                    continue;
                }
            };
            let DeValue::Array(tables) = value.get_ref() else {
                let key_name = key.get_ref();
                let what = format!("`{key_name}` is written [[{key_name}]], once for each");
                self.problem(Some(key.span()), what);
                continue;
            };
            for table in tables.iter() {
                each(self, table, config);
            }
        }
        for what in duplicates(config) {
            self.problem(None, what);
        }
    }

    fn queue(&mut self, value: &Spanned<DeValue<'_>>, config: &mut Config) {
        let DeValue::Table(table) = value.get_ref() else {
            let what = "a queue is a table: write [[queue]]".into();
            self.problem(Some(value.span()), what);
            return;
        };
        let (mut queue, before) = (Declaration::default(), self.problems.len());
        for (key, value) in table {
            self.setting(QUEUE, &[], key, value, &mut queue);
        }
        config.broker.queues.push(queue.clone());
        if self.problems.len() > before {
            return;
        }
        let together = || check_together(&config.broker.queues).map_err(|(_, what)| what);
        if let Err(what) = queue.check().and_then(|()| together()) {
            let name = if queue.name.is_empty() {
                String::new()
            } else {
                format!("queue `{}`: ", queue.name)
            };
            self.problem(Some(value.span()), name + &what);
        }
    }

    fn listener(&mut self, value: &Spanned<DeValue<'_>>, config: &mut Config) {
        let DeValue::Table(table) = value.get_ref() else {
            let what = "a listener is a table: write [[listener]]".into();
            self.problem(Some(value.span()), what);
            return;
        };
        let (mut listener, before) = (Listener::default(), self.problems.len());
        let above = self.given.len();
        for (key, value) in table {
            self.setting(LISTENER, &[], key, value, &mut listener);
        }
        let alone = Config { listeners: vec![listener.clone()], ..config.clone() };
        if self.problems.len() == before
            && let Err(what) = alone.openings()
        {
            self.problem(Some(value.span()), what);
        }
        let name = listener_name(&listener);
        for (key, _) in self.given.iter_mut().skip(above) {
            *key = format!("{name}: {key}");
        }
        config.listeners.push(listener);
    }

    fn setting<T>(
        &mut self,
        settings: &[Setting<T>],
        others: &[&str],
        key: &Spanned<toml::de::DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
        target: &mut T,
    ) {
        let name = key.get_ref();
        let Some(setting) = settings.iter().find(|setting| setting.key == *name) else {
            let known = settings.iter().map(|setting| setting.key).chain(others.iter().copied());
            let what = match nearest(name, known) {
                Some(near) => format!("unknown key `{name}`; did you mean `{near}`?"),
                None => format!("unknown key `{name}`; `whimbrel settings` lists all keys"),
            };
            self.problem(Some(key.span()), what);
            return;
        };
        let written = match value.get_ref() {
            DeValue::Boolean(value) => Written::Bool(*value),
            DeValue::Integer(value) => i64::from_str_radix(value.as_str(), value.radix())
                .map_or(Written::Other, Written::Int),
            DeValue::String(value) => Written::Text(value),
            DeValue::Array(values) => texts(values).map_or(Written::Other, Written::Texts),
            _ => Written::Other,
        };
        match fit(setting.kind, &written) {
            Some(value) => {
                let base = self.path.parent().unwrap_or(Path::new(""));
                (setting.enter)(target, &value, base);
                self.given.push((name.to_string(), value.to_string()));
            }
            None => {
                let what = format!("`{name}` must be {}", setting.kind.describe());
                self.problem(Some(value.span()), what);
            }
        }
    }

    fn problem(&mut self, span: Option<Range<usize>>, what: String) {
        let line = span.map_or(0, |span| {
            1 + self.text.bytes().take(span.start).filter(|&byte| byte == b'\n').count()
        });
        self.problems.push(Problem { path: self.path.to_owned(), line, what });
    }
}

/// Listeners in the same place.
pub(super) fn duplicates(config: &Config) -> Vec<String> {
    let mut said = Vec::new();
    for (at, listener) in config.listeners.iter().enumerate() {
        let same = |other: &&Listener| {
            other.port == listener.port
                && other.bind_address == listener.bind_address
                && other.socket == listener.socket
                && other.interface == listener.interface
                && other.domain == listener.domain
                && other.port != Some(0)
        };
        if config.listeners.iter().take(at).any(|other| same(&other)) {
            let place = match (&listener.socket, listener.port) {
                (Some(path), _) => path.display().to_string(),
                (None, port) => format!("port {}", port.unwrap_or(0)),
            };
            said.push(format!("two listeners on {place}"));
        }
    }
    said
}

/// The members of an array, if all are texts.
fn texts<'v>(values: &'v DeArray<'_>) -> Option<Vec<&'v str>> {
    values.iter().map(|value| value.get_ref().as_str()).collect()
}

/// The known name that a wrong one most resembles, if one does.
pub(super) fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    known
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .min()
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::proxy::Version;

    fn problems(text: &str) -> Vec<String> {
        let problems = parse(text, Path::new("w.toml")).expect_err("it has problems");
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn everything_that_is_wrong_is_said_with_its_line() {
        let text = "max_qos = 3\nmax_conections = 5\n\n[[listener]]\nport = \"x\"\ncolour = 1\n";
        assert_eq!(
            problems(text),
            [
                "w.toml:1: `max_qos` must be an integer from 0 to 2",
                "w.toml:2: unknown key `max_conections`; did you mean `max_connections`?",
                "w.toml:5: `port` must be an integer from 0 to 65535",
                "w.toml:6: unknown key `colour`; `whimbrel settings` lists all keys",
            ]
        );
    }

    #[test]
    fn a_listener_that_cannot_be_is_said_where_it_stands() {
        let text = "[[listener]]\nport = 1\n\n[[listener]]\nprotocol = \"mqtt\"\n";
        assert_eq!(
            problems(text),
            ["w.toml:4: a listener needs `port`, or `socket` for a unix socket"]
        );
        let text = "[[listener]]\nport = 1\ncertfile = \"c\"\n";
        assert_eq!(problems(text), ["w.toml:1: `certfile` needs `keyfile`"]);
        let text = "[[listener]]\nsocket = \"s\"\nenable_proxy_protocol = 2\n";
        assert_eq!(
            problems(text),
            ["w.toml:1: `enable_proxy_protocol` needs `port`: it is spoken over TCP only"]
        );
        let text = "[[listener]]\nport = 1\nproxy_protocol_from = [\"10.0.0.0/8\"]\n";
        assert_eq!(
            problems(text),
            ["w.toml:1: `proxy_protocol_from` needs `enable_proxy_protocol`"]
        );
    }

    #[test]
    fn a_listener_behind_a_proxy_trusts_this_machine_or_whom_it_is_told() {
        let trusted = |text: &str| {
            let config = parse(text, Path::new("w.toml")).unwrap();
            config.openings().unwrap()[0].options.proxy.clone().unwrap()
        };
        let text = "[[listener]]\nport = 1\nenable_proxy_protocol = 1\n";
        let by_default = trusted(text);
        assert_eq!(by_default.version, Version::One);
        assert_eq!(by_default.from, ["127.0.0.0/8", "::1"].map(|text| text.parse().unwrap()));
        let told = trusted(&format!("{text}proxy_protocol_from = [\"192.0.2.7\"]\n"));
        assert_eq!(told.from, ["192.0.2.7".parse().unwrap()]);
    }

    #[test]
    fn two_listeners_in_one_place_are_refused() {
        let text = "[[listener]]\nport = 1\n[[listener]]\nport = 1\n";
        assert_eq!(problems(text), ["w.toml: two listeners on port 1"]);
    }

    #[test]
    fn a_text_that_is_no_toml_is_refused_with_its_line() {
        assert!(problems("a = 1\nb = = 2\n")[0].starts_with("w.toml:2: "));
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let text = "persistence_location = \"data\"\n";
        let config = parse(text, Path::new("/etc/whimbrel/w.toml")).unwrap();
        assert_eq!(config.store.directory, Path::new("/etc/whimbrel/data"));
    }
}
