//! SIGHUP: the configuration is read again, and what can change while the broker runs does.

use std::collections::BTreeMap;
use std::fmt;

use crate::broker::Broker;
use crate::config::Config;
use crate::journal::Journal;
use crate::process;

/// Reads the configuration again; the error says what is wrong with it.
pub type Reread<'a> = dyn Fn() -> Result<Config, String> + 'a;

/// When a setting that has changed holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// At once.
    AtOnce,
    /// For connections that come from then on.
    NewConnections,
    /// When the broker is started again.
    Restart,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AtOnce => "at once",
            Self::NewConnections => "for new connections",
            Self::Restart => "needs a restart",
        })
    }
}

/// Settings that change at once.
const AT_ONCE: &[&str] = &[
    "ban_duration",
    "check_retain_source",
    "exempt_networks",
    "failed_login_delay",
    "free_failed_logins",
    "global_max_connections",
    "log_dest",
    "log_facility",
    "log_level",
    "log_timestamp",
    "log_timestamp_format",
    "log_type",
    "max_address_flaps",
    "max_client_flaps",
    "max_connection_rate_per_address",
    "max_connections_per_address",
    "max_connections_per_user",
    "max_failed_login_delay",
    "max_failed_logins",
    "max_protocol_errors",
    "max_queue_memory",
    "max_queued_bytes",
    "max_queued_messages",
    "max_retained_bytes",
    "max_retained_messages",
    "max_shared_subscriptions",
    "max_subscriptions",
    "max_topic_levels",
    "max_tracked_peers",
    "offence_window",
    "queue_overflow",
    "queue_qos0_messages",
    "upgrade_outgoing_qos",
];

/// Settings that hold for connections to come.
const FOR_NEW: &[&str] = &[
    "accept_backoff",
    "acl_file",
    "allow_anonymous",
    "allow_zero_length_clientid",
    "authentication",
    "auto_id_prefix",
    "clientid_prefixes",
    "connect_timeout",
    "connection_messages",
    "global_max_clients",
    "max_byte_rate",
    "max_connection_rate",
    "max_connections",
    "max_inflight_bytes",
    "max_inflight_messages",
    "max_keepalive",
    "max_message_rate",
    "max_packet_size",
    "max_qos",
    "max_topic_alias",
    "max_topic_alias_broker",
    "message_size_limit",
    "password_file",
    "persistent_client_expiration",
    "receive_maximum",
    "retain_available",
    "set_tcp_nodelay",
    "stored_users",
];

/// What changes at once of what is given several times, by what its names begin with.
const TABLES_AT_ONCE: &[&str] = &["group ", "queue ", "role "];

/// What holds for connections to come of what is given several times, by what its names begin
/// with: listeners are opened and closed, and others are asked who Clients are; whoever is
/// connected stays so.
const TABLES_FOR_NEW: &[&str] = &["callout ", "listener ", "token "];

/// When a setting of this name holds once it is changed.
fn effect(name: &str) -> Effect {
    let is_in = |tables: &[&str]| tables.iter().any(|table| name.starts_with(table));
    if AT_ONCE.contains(&name) || is_in(TABLES_AT_ONCE) {
        Effect::AtOnce
    } else if FOR_NEW.contains(&name) || is_in(TABLES_FOR_NEW) {
        Effect::NewConnections
    } else {
        Effect::Restart
    }
}

/// Whether this is something that a queue cannot change while the broker runs, of one that there
/// is before and after.
fn is_set_of_queue(name: &str, old: &Config, new: &Config) -> bool {
    let Some((queue, key)) = name.split_once(": ").filter(|(table, _)| table.starts_with("queue "))
    else {
        return false;
    };
    let is_there = |config: &Config| config.given.contains_key(&format!("{queue}: name"));
    ["filter", "last_value", "priority"].contains(&key) && is_there(old) && is_there(new)
}

/// What differs between two configurations, and when what the second says holds in a broker that
/// was started with the first and reads it on SIGHUP.
pub fn differences(old: &Config, new: &Config) -> BTreeMap<String, Effect> {
    let names = old.given.keys().chain(new.given.keys());
    let differs = |name: &&String| old.given.get(*name) != new.given.get(*name);
    let when = |name: &str| match is_set_of_queue(name, old, new) {
        true => Effect::Restart,
        false => effect(name),
    };
    names.filter(differs).map(|name| (name.clone(), when(name))).collect()
}

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
    // What a queue cannot change it says itself.
    let needs_restart = |(name, effect): &(String, Effect)| {
        *effect == Effect::Restart && !name.starts_with("queue ")
    };
    for (name, _) in differences(config, &new).into_iter().filter(needs_restart) {
        tracing::warn!("SIGHUP: `{name}` is changed and needs a restart");
    }
    new.fit_memory(process::memory_total());
    broker.tune(&new.broker);
    for what in broker.redeclare(&new.broker.queues) {
        tracing::warn!("SIGHUP: needs a restart: {what}");
    }
    tracing::info!("SIGHUP: the configuration was read again");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::GLOBAL;

    /// What is read at the start alone.
    const NEEDS_RESTART: &[&str] = &[
        "certificate_check_interval",
        "commit_interval",
        "durability",
        "max_store_backlog",
        "max_waiting_passwords",
        "memory_limit",
        "min_free_space",
        "password_threads",
        "persistence_location",
        "pid_file",
        "session_takeover",
        "share_strategy",
        "shutdown_timeout",
        "store_cache_size",
        "sys_interval",
        "user",
        "workers",
    ];

    #[test]
    fn of_every_setting_it_is_said_when_it_holds() {
        for setting in GLOBAL {
            let lists = [AT_ONCE, FOR_NEW, NEEDS_RESTART];
            let times = lists.iter().filter(|list| list.contains(&setting.key)).count();
            assert_eq!(times, 1, "{}: is it in one of these lists?", setting.key);
        }
    }

    #[test]
    fn other_tokens_and_callouts_hold_for_connections_to_come() {
        for name in ["token t: key_file", "token t: issuer", "callout s: bearer_file", "callout s"]
        {
            assert_eq!(effect(name), Effect::NewConnections, "{name}");
        }
    }

    #[test]
    fn what_changes_at_once_is_a_setting() {
        let of_mosquitto = ["log_type"];
        for name in AT_ONCE.iter().chain(FOR_NEW) {
            let is_ours = GLOBAL.iter().any(|setting| setting.key == *name);
            assert!(is_ours || of_mosquitto.contains(name), "{name}");
        }
        assert!(AT_ONCE.is_sorted() && FOR_NEW.is_sorted());
    }
}
