//! SIGHUP: the configuration is read again, and what can change while the broker runs does.

use std::collections::BTreeSet;

use crate::broker::Broker;
use crate::config::Config;
use crate::journal::Journal;
use crate::process;

/// Reads the configuration again; the error says what is wrong with it.
pub type Reread<'a> = dyn Fn() -> Result<Config, String> + 'a;

/// Settings that change at once; others are noted for the next start.
const AT_ONCE: &[&str] = &[
    "log_dest",
    "log_facility",
    "log_level",
    "log_timestamp",
    "log_timestamp_format",
    "log_type",
    "max_queue_memory",
    "max_queued_bytes",
    "max_queued_messages",
    "max_retained_bytes",
    "max_retained_messages",
    "max_subscriptions",
    "max_topic_levels",
    "queue_overflow",
    "queue_qos0_messages",
    "upgrade_outgoing_qos",
];

/// What changes at once of what is given several times, by what its names begin with.
const TABLES_AT_ONCE: &[&str] = &["group ", "queue ", "role "];

/// Reads the configuration again; a file that is not good is said to be. The log's files are
/// opened anew in any case: they may have been moved away.
pub(super) fn read(journal: &Journal, reread: &Reread<'_>) -> Option<Config> {
    let read = reread().and_then(|new| new.openings().map(|_| new));
    read.inspect_err(|why| {
        journal.reopen();
        for line in why.lines() {
            tracing::error!("SIGHUP: nothing is changed: {line}");
        }
    })
    .ok()
}

/// Takes over what can change.
pub(super) fn take_over(config: &Config, mut new: Config, broker: &Broker, journal: &Journal) {
    journal.change(&new.journal);
    for warning in &new.warnings {
        tracing::warn!("{warning}");
    }
    for name in waiting(config, &new) {
        tracing::warn!("SIGHUP: `{name}` is changed and needs a restart");
    }
    new.fit_memory(process::memory_total());
    broker.tune(&new.broker);
    for what in broker.redeclare(&new.broker.queues) {
        tracing::warn!("SIGHUP: needs a restart: {what}");
    }
    tracing::info!("SIGHUP: the configuration was read again");
}

/// What differs from how the broker was started and needs another start.
fn waiting<'c>(old: &'c Config, new: &'c Config) -> BTreeSet<&'c str> {
    let names = old.given.keys().chain(new.given.keys());
    let differs = |name: &&String| old.given.get(*name) != new.given.get(*name);
    let is_waiting = |name: &&str| {
        !AT_ONCE.contains(name) && !TABLES_AT_ONCE.iter().any(|table| name.starts_with(table))
    };
    names.filter(differs).map(String::as_str).filter(is_waiting).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::GLOBAL;

    #[test]
    fn what_changes_at_once_is_a_setting() {
        let of_mosquitto = ["log_type"];
        for name in AT_ONCE {
            let is_ours = GLOBAL.iter().any(|setting| setting.key == *name);
            assert!(is_ours || of_mosquitto.contains(name), "{name}");
        }
        assert!(AT_ONCE.is_sorted());
    }
}
