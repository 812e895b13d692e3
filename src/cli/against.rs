//! What another configuration would change in a broker that runs.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::config::Config;
use crate::server::{Effect, differences};

/// A line for each setting that differs, and for each listener and the like that is there in one
/// of the two only. Values are not shown: some are secret.
pub(super) fn lines(running: &Config, new: &Config) -> String {
    let (before, after) = (tables(running), tables(new));
    let (mut lines, mut told) = (String::new(), BTreeSet::new());
    for (name, effect) in differences(running, new) {
        let table = table(&name);
        let what = match table.map(|table| (before.contains(table), after.contains(table))) {
            Some((false, true)) => "added",
            Some((true, false)) => "removed",
            _ => {
                let _ = writeln!(lines, "{name}: {effect}");
                continue;
            }
        };
        let table = table.unwrap_or_default();
        if told.insert(table.to_owned()) {
            let when = if effect == Effect::Restart { effect } else { Effect::AtOnce };
            let _ = writeln!(lines, "{table}: {what}, {when}");
        }
    }
    if lines.is_empty() { "no setting differs\n".into() } else { lines }
}

/// The listener or the like that a setting belongs to.
fn table(name: &str) -> Option<&str> {
    name.rsplit_once(": ").map(|(table, _)| table)
}

fn tables(config: &Config) -> BTreeSet<&str> {
    config.given.keys().filter_map(|name| table(name)).collect()
}
