//! The plugins of mosquitto 2.1 that are its own `password_file` and `acl_file`: what is built in
//! here too. Others are refused.

use std::path::Path;

use super::Reading;
use super::options::Row;

/// A plugin that is built in.
#[derive(Debug)]
pub(super) struct BuiltIn {
    /// The setting that is its one option.
    key: &'static str,
    of: Of,
    /// Where it stands, until the option has been given.
    lacks: Option<usize>,
}

/// Whom a plugin is for.
#[derive(Debug)]
enum Of {
    /// All listeners.
    All,
    /// The listener above it, if `per_listener_settings` is true; others may stand between it and
    /// its option.
    Above(Option<usize>),
    /// The listeners that name it.
    Named(String),
}

/// The setting that a plugin is, by the name of its file.
fn key_of(path: &str) -> Option<&'static str> {
    match Path::new(path).file_stem()?.to_str()? {
        "mosquitto_password_file" => Some("password_file"),
        "mosquitto_acl_file" => Some("acl_file"),
        _ => None,
    }
}

impl Reading {
    /// An option about plugins; false: it is about one that is not built in.
    pub(super) fn is_built_in(&mut self, row: &Row, name: &str, value: &str) -> bool {
        match name {
            "plugin" | "global_plugin" => {
                let of = if name == "plugin" { Of::Above(self.current) } else { Of::All };
                self.begin_plugin(value, of)
            }
            "plugin_load" => {
                let (called, path) = super::split(value);
                self.begin_plugin(path, Of::Named(called.into()))
            }
            "plugin_use" => self.use_plugin(value),
            _ if row.name == "plugin_opt_*" => self.plugin_option(row, name, value),
            _ => false,
        }
    }

    fn begin_plugin(&mut self, path: &str, of: Of) -> bool {
        self.end_plugin();
        let lacks = Some(self.line);
        self.plugin = key_of(path).map(|key| BuiltIn { key, of, lacks });
        self.plugin.is_some()
    }

    /// To go on without the option would let in or allow whom it does not.
    pub(super) fn end_plugin(&mut self) {
        if let Some(BuiltIn { key, lacks: Some(line), .. }) = self.plugin.take() {
            self.line = line;
            self.problem(format!("this plugin needs `plugin_opt_{key}`"));
        }
    }

    fn plugin_option(&mut self, row: &Row, name: &str, value: &str) -> bool {
        let Some(plugin) = &mut self.plugin else { return false };
        let key = plugin.key;
        if name.strip_prefix("plugin_opt_") != Some(key) {
            self.problem(format!("this plugin has no option but `plugin_opt_{key}`"));
            return true;
        }
        plugin.lacks = None;
        match &plugin.of {
            Of::Named(called) => self.loaded.push((called.clone(), key, value.into())),
            Of::Above(at) if self.per_listener => {
                let at = *at;
                let below = std::mem::replace(&mut self.current, at);
                self.security(row.name, key, value);
                self.current = below;
            }
            Of::Above(_) | Of::All => self.enter_global(key, value),
        }
        true
    }

    /// Of two files that are for one listener only one would hold: who is denied by the other
    /// would be let in.
    pub(super) fn refuse_second_file(&mut self, at: Option<usize>, key: &str) {
        let is_here = |other: Option<usize>| other == at || other.is_none() || at.is_none();
        let is_second = self.given.iter().any(|(other, name, _)| name == key && is_here(*other));
        if is_second && ["password_file", "acl_file"].contains(&key) {
            self.problem(format!(
                "a listener has one `{key}`, and this is a second: make them one"
            ));
        }
    }

    fn use_plugin(&mut self, called: &str) -> bool {
        let used = self.loaded.iter().filter(|(name, ..)| name == called);
        let used: Vec<_> = used.map(|(_, key, value)| (*key, value.clone())).collect();
        if !used.is_empty() {
            self.listener();
        }
        for (key, value) in &used {
            self.enter_listener("plugin_use", key, value);
        }
        !used.is_empty()
    }
}
