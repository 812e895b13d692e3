//! A file of our own, in TOML, becomes a [`Config`], or a list of everything that is wrong with it.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::openings::PASSWORDS;
use super::problem::{Problem, contradictions, nearest};
use super::settings::{CALLOUT, GLOBAL, GROUP, LISTENER, QUEUE, ROLE, RULE, Setting, TOKEN};
use super::value::{Written, fit};
use super::{Config, Listener, listener_name};
use crate::access::acl::Place;
use crate::access::acl::roles::{Group, Role, Rule};
use crate::access::{callout, token};
use crate::queue::Overflow;
use crate::queue::declaration::{Declaration, check_together};

/// Reads a text that stands in `path`.
pub(super) fn parse(text: &str, path: &Path) -> Result<Config, Vec<Problem>> {
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
    for (name, value) in reading.given {
        // A role's rules have the same names.
        let held = config.given.entry(name).or_default();
        if !held.is_empty() {
            held.push_str("; ");
        }
        held.push_str(&value);
    }
    if reading.problems.is_empty() { Ok(config) } else { Err(reading.problems) }
}

struct Reading<'a> {
    text: &'a str,
    path: &'a Path,
    given: Vec<(String, String)>,
    problems: Vec<Problem>,
}

/// The keys under which tables stand.
const TABLES: [&str; 6] = ["listener", "queue", "group", "role", "token", "callout"];

/// The key under which a role's rules stand.
const RULES: &str = "rule";

impl Reading<'_> {
    fn global(&mut self, table: &DeTable<'_>, config: &mut Config) {
        let mut listeners = Vec::new();
        for (key, value) in table {
            let name: &str = key.get_ref();
            for (value, table) in self.tables(&TABLES, key, value) {
                match name {
                    "listener" => listeners.push((value, table)),
                    "queue" => self.queue(value, table, config),
                    "group" => self.group(value, table, config),
                    "token" => self.token(value, table, config),
                    "callout" => self.callout(value, table, config),
                    _ => self.role(value, table, config),
                }
            }
            if !TABLES.contains(&name) {
                self.setting(GLOBAL, &TABLES, key, value, config);
            }
        }
        // Last: they are judged together with what holds for all of them.
        for (value, table) in listeners {
            self.listener(value, table, config);
        }
        for what in contradictions(config) {
            self.problem(None, what);
        }
    }

    fn queue(&mut self, value: &Spanned<DeValue<'_>>, table: &DeTable<'_>, config: &mut Config) {
        // What was acknowledged is not dropped, where nothing else is said.
        let queue = Declaration { overflow: Overflow::Reject, ..Declaration::default() };
        let (mut queue, before) = (queue, self.problems.len());
        let above = self.given.len();
        for (key, value) in table {
            self.setting(QUEUE, &[], key, value, &mut queue);
        }
        self.given_for(&format!("queue {}", queue.name), above);
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

    fn token(&mut self, value: &Spanned<DeValue<'_>>, table: &DeTable<'_>, config: &mut Config) {
        let (mut token, before) = (token::Options::default(), self.problems.len());
        let above = self.given.len();
        for (key, value) in table {
            self.setting(TOKEN, &[], key, value, &mut token);
        }
        for (key, _) in self.given.iter_mut().skip(above) {
            *key = format!("token {}: {key}", token.name);
        }
        if self.problems.len() == before
            && let Err(what) = token.check()
        {
            self.problem(Some(value.span()), what);
        }
        self.method_name("token", &token.name, value.span(), config);
        config.tokens.push(token);
    }

    fn callout(&mut self, value: &Spanned<DeValue<'_>>, table: &DeTable<'_>, config: &mut Config) {
        let (mut callout, before) = (callout::Options::default(), self.problems.len());
        let above = self.given.len();
        for (key, value) in table {
            self.setting(CALLOUT, &[], key, value, &mut callout);
        }
        for (key, _) in self.given.iter_mut().skip(above) {
            *key = format!("callout {}: {key}", callout.name);
        }
        if self.problems.len() == before
            && let Err(what) = callout.check()
        {
            self.problem(Some(value.span()), what);
        }
        self.method_name("callout", &callout.name, value.span(), config);
        config.callouts.push(callout);
    }

    /// Methods are called by their names, which must differ.
    fn method_name(&mut self, what: &str, name: &str, span: Range<usize>, config: &Config) {
        let tokens = config.tokens.iter().map(|token| &*token.name);
        let mut known = tokens.chain(config.callouts.iter().map(|callout| &*callout.name));
        if name.is_empty() {
            self.problem(Some(span), format!("a {what} needs `name`"));
        } else if name == PASSWORDS {
            self.problem(Some(span), format!("a {what} cannot be called \"{PASSWORDS}\""));
        } else if known.any(|other| other == name) {
            self.problem(Some(span), format!("two methods called {name:?}"));
        }
    }

    /// The tables under a key, if it is one of those under which tables stand.
    fn tables<'v>(
        &mut self,
        keys: &[&str],
        key: &Spanned<toml::de::DeString<'_>>,
        value: &'v Spanned<DeValue<'v>>,
    ) -> Vec<(&'v Spanned<DeValue<'v>>, &'v DeTable<'v>)> {
        let name: &str = key.get_ref();
        let DeValue::Array(values) = value.get_ref() else {
            if keys.contains(&name) {
                let dotted = if keys == [RULES] { "role.rule" } else { name };
                let what = format!("`{name}` is written [[{dotted}]], once for each {name}");
                self.problem(Some(key.span()), what);
            }
            return Vec::new();
        };
        let mut tables = Vec::new();
        for value in values.iter().filter(|_| keys.contains(&name)) {
            match value.get_ref() {
                DeValue::Table(table) => tables.push((value, table)),
                _ => {
                    let what = format!("a {name} is a table: write [[{name}]]");
                    self.problem(Some(value.span()), what);
                }
            }
        }
        tables
    }

    fn group(&mut self, value: &Spanned<DeValue<'_>>, table: &DeTable<'_>, config: &mut Config) {
        let (mut group, above) = (Group::default(), self.given.len());
        for (key, value) in table {
            self.setting(GROUP, &[], key, value, &mut group);
        }
        self.given_for(&format!("group {}", group.name), above);
        if group.name.is_empty() {
            self.problem(Some(value.span()), "a group needs `name`".into());
        } else if config.groups.iter().any(|other| other.name == group.name) {
            self.problem(Some(value.span()), format!("two groups called `{}`", group.name));
        }
        config.groups.push(group);
    }

    fn role<'v>(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        table: &'v DeTable<'v>,
        config: &mut Config,
    ) {
        let (mut role, mut rules, above) = (Role::default(), Vec::new(), self.given.len());
        for (key, value) in table {
            rules.extend(self.tables(&[RULES], key, value));
            if key.get_ref() != RULES {
                self.setting(ROLE, &[RULES], key, value, &mut role);
            }
        }
        for (value, table) in rules {
            role.rules.extend(self.rule(value, table, &role.name));
        }
        self.given_for(&format!("role {}", role.name), above);
        if role.name.is_empty() {
            self.problem(Some(value.span()), "a role needs `name`".into());
        } else if config.roles.iter().any(|other| other.name == role.name) {
            self.problem(Some(value.span()), format!("two roles called `{}`", role.name));
        }
        config.roles.push(role);
    }

    fn rule(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        table: &DeTable<'_>,
        role: &str,
    ) -> Option<Rule> {
        let (mut rule, before) = (Rule::default(), self.problems.len());
        for (key, value) in table {
            self.setting(RULE, &[], key, value, &mut rule);
        }
        let is_one = table.contains_key("allow") != table.contains_key("deny");
        if !is_one {
            self.problem(Some(value.span()), "a rule has either `allow` or `deny`".into());
        }
        if !table.contains_key("topic") {
            self.problem(Some(value.span()), "a rule needs `topic`".into());
        }
        if rule.qos_min > rule.qos_max {
            self.problem(Some(value.span()), "`min_qos` is above `max_qos`".into());
        }
        let text = format!("{} (role `{role}`)", shown(table));
        let (path, line) = (self.path.into(), self.line(value.span()));
        rule.place = Some(Place { path, line, rule: text.into() });
        (self.problems.len() == before).then_some(rule)
    }

    fn listener(&mut self, value: &Spanned<DeValue<'_>>, table: &DeTable<'_>, config: &mut Config) {
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
        self.given_for(&listener_name(&listener), above);
        config.listeners.push(listener);
    }

    /// What was given from `above` on belongs to one of several.
    fn given_for(&mut self, name: &str, above: usize) {
        for (key, _) in self.given.iter_mut().skip(above) {
            *key = format!("{name}: {key}");
        }
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

    fn line(&self, span: Range<usize>) -> usize {
        1 + self.text.bytes().take(span.start).filter(|&byte| byte == b'\n').count()
    }

    fn problem(&mut self, span: Option<Range<usize>>, what: String) {
        let line = span.map_or(0, |span| self.line(span));
        self.problems.push(Problem { path: self.path.to_owned(), line, what });
    }
}

/// A rule in one line, its verdict first.
fn shown(table: &DeTable<'_>) -> String {
    let value = |value: &DeValue<'_>| match value {
        DeValue::String(text) => format!("\"{text}\""),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Array(values) => {
            format!("[\"{}\"]", texts(values).unwrap_or_default().join("\", \""))
        }
        _ => String::new(),
    };
    let mut shown: Vec<_> = table
        .iter()
        .map(|(key, written)| format!("{} = {}", key.get_ref(), value(written.get_ref())))
        .collect();
    shown.sort_by_key(|entry| !entry.starts_with("allow") && !entry.starts_with("deny"));
    shown.join(", ")
}

/// The members of an array, if all are texts.
fn texts<'v>(values: &'v DeArray<'_>) -> Option<Vec<&'v str>> {
    values.iter().map(|value| value.get_ref().as_str()).collect()
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
    fn limits_that_cannot_be_are_said() {
        let text = "offence_window = 0\nfree_failed_logins = 0\nfailed_login_delay = -1\n\
                    exempt_networks = \"10.0.0.0/8\"\nmax_tracked_peers = 1\n\
                    max_client_flaps = -3\nban_duration = \"0s\"\n\
                    max_connection_rate = -1\nmax_byte_rate = \"1 MB/s\"\n";
        let time = "such as 30 (seconds), \"500ms\", \"5m\", \"7d\"";
        assert_eq!(
            problems(text),
            [
                &format!("w.toml:1: `offence_window` must be a time above 0, {time}"),
                "w.toml:2: `free_failed_logins` must be an integer from 1 to 1000000000",
                &format!("w.toml:3: `failed_login_delay` must be a time, {time}"),
                "w.toml:4: `exempt_networks` must be a list of addresses and networks, such as \
                 [\"192.0.2.7\", \"10.0.0.0/8\"]",
                "w.toml:5: `max_tracked_peers` must be an integer from 2 to 100000000",
                "w.toml:6: `max_client_flaps` must be an integer from 0 to 1000000000",
                &format!("w.toml:7: `ban_duration` must be a time above 0, {time}"),
                "w.toml:8: `max_connection_rate` must be an integer from 0 to 1000000000",
                "w.toml:9: `max_byte_rate` must be a size from 0 to 1099511627776 bytes, such as \
                 65536 or \"64 KiB\"",
            ]
        );
        let text = "failed_login_delay = \"10s\"\n";
        assert_eq!(
            problems(text),
            ["w.toml: `max_failed_login_delay` (5s) is below `failed_login_delay` (10s): raise \
              the one, lower the other, or set `failed_login_delay = 0` for no delay"]
        );
    }

    #[test]
    fn roles_are_read_with_their_lines() {
        let text = "[[role]]\nname = \"r\"\nusers = \"ali\"\n[[role.rule]]\n\
                    deny = [\"publish\"]\ntopic = \"a/%c\"\nmin_qos = 1\n";
        let config = parse(text, Path::new("w.toml")).unwrap();
        let rule = &config.roles[0].rules[0];
        assert_eq!((rule.allows, rule.qos_min as u8, rule.retain), (false, 1, None));
        let place = rule.place.as_ref().unwrap().to_string();
        let shown = "deny = [\"publish\"], min_qos = 1, topic = \"a/%c\" (role `r`)";
        assert_eq!(place, format!("w.toml:4: {shown}"));
    }

    #[test]
    fn roles_that_cannot_be_are_said() {
        let text = "[[group]]\nusers = \"a\"\n[[role]]\nname = \"r\"\nrule = 1\n\
                    [[role]]\nname = \"r\"\n[[role.rule]]\nallow = \"read\"\ntopic = \"a/x%u\"\n\
                    [[role.rule]]\nmin_qos = 2\nmax_qos = 1\n";
        assert_eq!(
            problems(text),
            [
                "w.toml:1: a group needs `name`",
                "w.toml:5: `rule` is written [[role.rule]], once for each rule",
                "w.toml:6: two roles called `r`",
                "w.toml:9: `allow` must be \"publish\" or \"subscribe\" or \"receive\", \
                 or a list of them",
                "w.toml:10: `topic` must be a Topic Filter, of which a level may be %u or %c",
                "w.toml:11: a rule has either `allow` or `deny`",
                "w.toml:11: a rule needs `topic`",
                "w.toml:11: `min_qos` is above `max_qos`",
            ]
        );
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
