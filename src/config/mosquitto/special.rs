//! Options of mosquitto's that are not simply one of our settings.

use std::borrow::Cow;
use std::path::Path;

use super::{INCLUDED_MAX, Listener, Reading, kind};
use crate::config::settings::kinds::destination;
use crate::store::Durability;

/// A decimal or hexadecimal number, as strtol reads it.
pub(super) fn integer(text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The value of an option as our setting of that name has it.
pub(super) fn in_our_words<'t>(name: &str, text: &'t str) -> Result<Cow<'t, str>, String> {
    let first = text.split_whitespace().next().unwrap_or_default();
    let number = integer(first);
    // Where mosquitto has a number for "no limit".
    let unlimited = match (name, number) {
        ("max_connections" | "global_max_connections" | "global_max_clients", Some(n)) => n < 0,
        ("max_queued_messages" | "max_queued_bytes" | "max_inflight_bytes", Some(n)) => n <= 0,
        _ => false,
    };
    Ok(match name {
        "max_inflight_bytes" if unlimited => "0".into(),
        "max_queued_bytes" if unlimited => (1_u64 << 50).to_string().into(),
        _ if unlimited => i64::MAX.to_string().into(),
        "max_packet_size" if number.is_some_and(|n| n > 268_435_455) => "268435455".into(),
        "max_connections" if number == Some(0) => {
            return Err("`max_connections 0` lets nobody in; -1 is no limit".into());
        }
        "persistent_client_expiration" => expiration(first)?.to_string().into(),
        _ => text.into(),
    })
}

/// Seconds.
fn expiration(text: &str) -> Result<u64, String> {
    let wrong = || {
        "`persistent_client_expiration` must be a number and s, h, d, w, m (months) or y, \
         such as 14d"
            .to_owned()
    };
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'h' => 3600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        'm' => 30 * 86_400,
        'y' => 365 * 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text.strip_suffix(unit).unwrap_or(text).parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).filter(|&seconds| seconds > 0).ok_or_else(wrong)
}

impl Reading {
    /// An option that the table leaves to the reader.
    pub(super) fn special(&mut self, name: &str, value: &str) {
        let first = value.split_whitespace().next().unwrap_or_default();
        match name {
            "listener" => self.begin_listener(value),
            "port" => self.port(first),
            "bind_address" => {
                self.current = self.default;
                let at = self.listener();
                self.ask_for(at);
                self.enter_listener(name, name, value);
            }
            "protocol" => self.protocol(first),
            "maximum_qos" => {
                self.listener();
                self.enter_listener(name, "max_qos", value);
            }
            "listener_allow_anonymous" => self.security(name, "allow_anonymous", value),
            "listener_auto_id_prefix" => self.security(name, "auto_id_prefix", value),
            "per_listener_settings" => self.per_listener(first),
            "include_dir" => self.include(value),
            "persistence" | "retained_persistence" => self.persistence(name, first),
            "max_inflight_messages" => {
                let is_any = integer(first).is_some_and(|number| number <= 0);
                let number = if is_any { "65535" } else { first };
                self.enter_global(name, number);
                self.enter_global("receive_maximum", number);
            }
            "persistence_file" if value.contains('/') => {
                self.problem(
                    "`persistence_file` is a name; the place is `persistence_location`".into(),
                );
            }
            "persistence_file" => self.store = Some(value.into()),
            "tls_keyform" if first == "pem" => {}
            "tls_keyform" => self.problem("`tls_keyform` must be pem: no engines".into()),
            "log_dest" => self.log_dest(value),
            "log_type" => self.log_type(first),
            _ => self.enter_global(name, value),
        }
    }

    fn begin_listener(&mut self, value: &str) {
        let mut words = value.split_whitespace();
        let port = words.next().and_then(integer).and_then(|port| u16::try_from(port).ok());
        let place = words.next().filter(|word| !word.starts_with('#'));
        let listener = match (port, place) {
            (Some(0), Some(path)) => Listener { socket: Some(path.into()), ..Listener::default() },
            (Some(0), None) => {
                return self.problem("a `listener` with port 0 needs the path of a socket".into());
            }
            (Some(port), place) => Listener {
                port: Some(port),
                bind_address: place.map(Into::into),
                ..Listener::default()
            },
            (None, _) => {
                return self.problem("`listener` must be a port from 0 to 65535".into());
            }
        };
        let at = self.draft(listener);
        self.ask_for(at);
        self.current = Some(at);
        self.given.push((Some(at), "listener".into(), value.into()));
    }

    fn ask_for(&mut self, at: usize) {
        if let Some(draft) = self.drafts.get_mut(at) {
            draft.is_asked_for = true;
        }
    }

    fn port(&mut self, value: &str) {
        let port = integer(value).and_then(|port| u16::try_from(port).ok());
        let Some(port) = port.filter(|&port| port != 0) else {
            return self.problem("`port` must be an integer from 1 to 65535".into());
        };
        self.current = self.default;
        let at = self.listener();
        self.ask_for(at);
        if let Some(draft) = self.drafts.get_mut(at) {
            draft.listener.port = Some(port);
        }
        self.given.push((Some(at), "listener".into(), port.to_string()));
    }

    fn protocol(&mut self, value: &str) {
        if value == "http_api" {
            return self.problem("`protocol http_api` is not spoken: remove this listener".into());
        }
        self.listener();
        self.enter_listener("protocol", "protocol", value);
    }

    fn per_listener(&mut self, value: &str) {
        match fit_bool(value) {
            Some(wanted) if wanted != self.per_listener && self.has_security => {
                let what = "`per_listener_settings` must stand before all options of security";
                self.problem(what.into());
            }
            Some(wanted) => self.per_listener = wanted,
            None => self.problem("`per_listener_settings` must be true or false".into()),
        }
    }

    fn persistence(&mut self, name: &str, value: &str) {
        let Some(wanted) = fit_bool(value) else {
            return self.problem(format!("`{name}` must be true or false"));
        };
        let durability = if wanted { Durability::Fsync } else { Durability::Memory };
        self.config.store.durability = durability;
        self.given.push((None, "durability".into(), format!("{durability:?}").to_lowercase()));
    }

    fn log_dest(&mut self, value: &str) {
        let (word, rest) = super::split(value);
        let fits = match word {
            "stdout" | "stderr" | "syslog" | "topic" | "none" => true,
            "file" => !rest.is_empty(),
            "dlt" | "android" => {
                return self.warn(format!("`log_dest {word}` is left out: there is no such log"));
            }
            _ => false,
        };
        if !fits {
            let what = "`log_dest` must be stdout, stderr, syslog, topic, none, or file and a path";
            return self.problem(what.into());
        }
        let destinations = &mut self.config.journal.destinations;
        if !std::mem::replace(&mut self.has_log_dest, true) || word == "none" {
            destinations.clear();
        }
        let text = if word == "file" { value } else { word };
        destinations.extend(destination(text));
        let all = format!("{destinations:?}");
        self.given.push((None, "log_dest".into(), all));
    }

    fn log_type(&mut self, word: &str) {
        let kinds = self.kinds.unwrap_or(0);
        let kinds = match word {
            "none" => 0,
            "all" => kind::ALL,
            "error" => kinds | kind::ERROR,
            "warning" => kinds | kind::WARNING,
            "notice" => kinds | kind::NOTICE,
            "information" => kinds | kind::INFORMATION,
            "debug" | "subscribe" | "unsubscribe" | "websockets" | "internal" => {
                kinds | kind::DEBUG
            }
            _ => {
                let what = "`log_type` must be error, warning, notice, information, debug, \
                            subscribe, unsubscribe, websockets, internal, all or none";
                return self.problem(what.into());
            }
        };
        self.kinds = Some(kinds);
        self.given.push((None, "log_type".into(), kinds.to_string()));
    }

    /// The files of a directory whose names end in .conf, in the order of their names.
    fn include(&mut self, directory: &str) {
        if self.is_included {
            return self.warn("`include_dir` counts in the main file only".into());
        }
        let mut paths = Vec::new();
        match std::fs::read_dir(directory) {
            Err(error) => return self.problem(format!("`include_dir` {directory}: {error}")),
            Ok(entries) => {
                let entries = entries.filter_map(Result::ok).take(INCLUDED_MAX);
                paths.extend(entries.map(|entry| entry.path()));
            }
        }
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
        paths.sort_by_key(|path| case_blind(path));
        let (main, line, current) = (self.path.clone(), self.line, self.current.take());
        self.is_included = true;
        for path in paths {
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    (self.path, self.current) = (path, None);
                    self.lines(&text);
                }
                Err(error) => self.problem(format!("cannot read {}: {error}", path.display())),
            }
        }
        self.is_included = false;
        (self.path, self.line, self.current) = (main, line, current);
    }
}

/// Letters in the order of the alphabet, of each the upper case first.
fn case_blind(path: &Path) -> Vec<(char, char)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.chars().map(|c| (c.to_ascii_uppercase(), c)).collect()
}

fn fit_bool(text: &str) -> Option<bool> {
    match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}
