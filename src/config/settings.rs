//! THE TABLE: every setting, once.

use std::path::Path;

use super::value::{Kind, Value};
use super::{Config, Domain, Listener, relative_to};
use crate::codec::QoS;
use crate::journal::Timestamp;
use crate::net::proxy;
use crate::queue::Overflow;
use crate::queue::declaration::{Declaration, LastValue, OnReject};
use crate::store::ATTEMPTS_MAX;

/// A setting of the scope `T`.
pub struct Setting<T> {
    /// Its key in TOML; where mosquitto has the same setting it has the same name.
    pub key: &'static str,
    /// What its value must be.
    pub kind: Kind,
    /// What holds when it is not given.
    pub default: &'static str,
    /// What it is for, in a sentence or two.
    pub doc: &'static str,
    /// Enters a value that fits; paths are relative to the directory given.
    pub enter: fn(&mut T, &Value, &Path),
}

macro_rules! settings {
    ($name:ident: $scope:ty; $($key:literal $kind:expr, $default:literal, $doc:literal => $enter:expr;)+) => {
        /// The settings of one scope.
        pub const $name: &[Setting<$scope>] = &[
            $(Setting { key: $key, kind: $kind, default: $default, doc: $doc, enter: $enter },)+
        ];
    };
}

mod access;
pub(super) mod kinds;

pub use access::{CALLOUT, GROUP, ROLE, RULE, TOKEN};
use kinds::*;

settings! { GLOBAL: Config;
    "allow_anonymous" ANONYMOUS, "\"loopback\"; false where Clients can prove who they are",
        "Who may connect without proving who they are: everybody, nobody, or Clients on this machine."
        => |c, v, _| c.anonymous = Some(anonymous(v));
    "password_file" Kind::Path, "none",
        "Users and their hashed passwords, as `whimbrel passwd` and mosquitto_passwd write them; read at the start and on SIGHUP. Who gives a user name must give its password, whatever `allow_anonymous` is."
        => |c, v, base| c.password_file = Some(relative_to(base, v.text()));
    "stored_users" Kind::Bool, "false",
        "Whether the broker's own users may connect, whom `whimbrel user` adds and removes while it runs; beside those of a `password_file`, which goes first."
        => |c, v, _| c.stored_users = v.bool();
    "authentication" Kind::Texts, "\"passwords\", then each `[[token]]`, then each `[[callout]]`",
        "The methods by which Clients prove who they are, in order: \"passwords\" for the `password_file` and the broker's own users, else the name of a `[[token]]` or a `[[callout]]`. A method that does not know a Client passes it on to the next; the first that knows it decides."
        => |c, v, _| c.methods = Some(v.texts().to_vec());
    "acl_file" Kind::Path, "none",
        "What Clients may publish and read, as mosquitto's `acl_file` says it; read again on SIGHUP. With it, or with a `[[role]]`, all that no rule allows is denied."
        => |c, v, base| c.acl_file = Some(relative_to(base, v.text()));
    "session_takeover" Kind::Choice(&["same-user", "any-user"]), "\"same-user\"",
        "Who may take over the Session of a user: only the same user, or whoever gives its Client Identifier. Others are refused (0x87). A Session of a Client without a user name belongs to nobody, and to whoever takes it over."
        => |c, v, _| c.broker.any_user_takes_over = v.text() == "any-user";
    "password_threads" Kind::Int { min: 1, max: 1024 }, "half the number of cores",
        "Threads that check passwords."
        => |c, v, _| c.checkers.threads = v.usize();
    "max_waiting_passwords" COUNT, "1000",
        "Passwords that wait to be checked; a Client beyond them, or that waits longer than `connect_timeout`, is told that the Server is busy."
        => |c, v, _| c.checkers.waiting_max = v.usize();
    "offence_window" Kind::Span, "\"1m\"",
        "Time within which failed logins and the like from one address are counted together: one of IPv4, or the /64 network of one of IPv6. It begins with the first."
        => |c, v, _| c.doorman.window = v.time();
    "free_failed_logins" Kind::Int { min: 1, max: 1_000_000_000 }, "5",
        "Failed logins from one address that are answered at once; the answers to more of them within `offence_window` are delayed."
        => |c, v, _| c.doorman.failures_free = v.u32();
    "failed_login_delay" Kind::Time, "\"250ms\"",
        "The first of these delays; each next one is twice as long. 0: none."
        => |c, v, _| c.doorman.delay = v.time();
    "max_failed_login_delay" Kind::Time, "\"5s\"",
        "The longest of them."
        => |c, v, _| c.doorman.delay_max = v.time();
    "max_failed_logins" LIMIT, "100",
        "Failed logins within `offence_window`, each with another User Name or Password, for which an address is banned; 0: never."
        => |c, v, _| c.doorman.offences_max.failed_logins = v.u32();
    "max_protocol_errors" LIMIT, "0",
        "Packets and handshakes that break the rules, within `offence_window`, for which an address is banned; 0: never."
        => |c, v, _| c.doorman.offences_max.protocol_errors = v.u32();
    "max_address_flaps" LIMIT, "0",
        "Connections that end within `offence_window` for which their address is banned; 0: never. All Clients behind one address count together."
        => |c, v, _| c.doorman.offences_max.address_flaps = v.u32();
    "max_client_flaps" LIMIT, "0",
        "Connections that end within `offence_window` for which their Client Identifier is banned; 0: never. Two devices with one identifier, which take each other's place, come to it; whoever may use an identifier can have it banned."
        => |c, v, _| c.doorman.offences_max.client_flaps = v.u32();
    "ban_duration" Kind::Span, "\"10m\"",
        "How long a ban lasts. Banned addresses are refused before they say anything, banned Client Identifiers with 0x8A (Banned), or 5 before MQTT 5.0. A ban does not outlast the broker."
        => |c, v, _| c.doorman.ban = v.time();
    "max_connection_rate" LIMIT, "0",
        "New connections of each listener in a second, and as many at once; others are closed as they come. 0: no limit."
        => |c, v, _| c.connection_rate = rate(v);
    "max_connection_rate_per_address" LIMIT, "0",
        "New connections from one address in a second, and as many at once; others are closed as they come. 0: no limit."
        => |c, v, _| c.doorman.address_rate = rate(v);
    "max_message_rate" LIMIT, "0",
        "Messages that a Client may publish in a second, and as many at once; it is not read on until it may publish more, and loses nothing. 0: no limit."
        => |c, v, _| c.rates.messages = rate(v);
    "max_byte_rate" BYTES_LIMIT, "0",
        "The same for the bytes that a Client sends, before TLS and WebSocket. 0: no limit."
        => |c, v, _| c.rates.bytes = rate(v);
    "max_connections_per_address" LIMIT, "0",
        "Connections from one address at once; others are closed as they come. 0: no limit."
        => |c, v, _| c.doorman.address_connections_max = v.u32();
    "max_connections_per_user" LIMIT, "0",
        "Clients of one user at once; others are refused (0x97, before MQTT 5.0 with 3), but not one that takes the place of a Client with its identifier. Clients without a user are not counted. 0: no limit."
        => |c, v, _| c.doorman.user_connections_max = v.u32();
    "exempt_networks" Kind::Networks, "[\"127.0.0.0/8\", \"::1\"]",
        "Where Clients come from whose addresses are never slowed down, counted or banned. A local proxy that does not speak the PROXY protocol makes everybody local."
        => |c, v, _| c.doorman.exempt = v.networks().to_vec();
    "max_tracked_peers" Kind::Int { min: 2, max: 100_000_000 }, "65536",
        "Addresses and Client Identifiers of which such things are remembered, for each of these limits, and bans at once; of more of them the oldest are forgotten."
        => |c, v, _| c.doorman.tracked_max = v.usize();
    "persistence_location" Kind::Path, "$STATE_DIRECTORY or \"whimbrel-data\"",
        "The directory of the store."
        => |c, v, base| c.store.directory = relative_to(base, v.text());
    "durability" DURABILITY, "\"fsync\"",
        "What an acknowledged message survives: power loss; the end of the process only; nothing."
        => |c, v, _| c.store.durability = durability(v);
    "store_cache_size" Kind::Size { min: 1 << 16, max: 1 << 40 }, "\"256 KiB\"",
        "Memory for the store's cache, half of it for what one commit writes. The system has the file in memory too, and messages wait beside the cache to be written, so more gains little."
        => |c, v, _| c.store.cache_bytes = v.usize();
    "commit_interval" Kind::Time, "\"1ms\"",
        "Least time between two commits of the store while many wait for them; a longer one makes bigger batches."
        => |c, v, _| c.store.commit_interval_us = v.time().as_micros() as u64;
    "max_store_backlog" Kind::Size { min: 1 << 20, max: 1 << 40 }, "\"64 MiB\"",
        "Memory of what waits to be written; beyond it publishers are not read until the disk has caught up."
        => |c, v, _| c.store.backlog_bytes_max = v.usize();
    "min_free_space" Kind::Size { min: 0, max: 1 << 50 }, "\"64 MiB\"",
        "Free space of the disk below which messages that must be stored are refused (0x97), or their publishers before MQTT 5.0 not read."
        => |c, v, _| c.store.free_bytes_min = v.usize() as u64;
    "workers" Kind::Int { min: 1, max: 1024 }, "the number of cores",
        "Threads that serve connections."
        => |c, v, _| c.workers = v.usize();
    "max_connections" COUNT, "1000000",
        "Connections of each listener at once."
        => |c, v, _| c.connections_max = v.usize();
    "connect_timeout" Kind::Time, "\"10s\"",
        "Longest time for a handshake, and again for the CONNECT packet."
        => |c, v, _| c.connect_timeout = v.time();
    "accept_backoff" Kind::Time, "\"1s\"",
        "Longest pause in accepting connections when the process has no descriptors left."
        => |c, v, _| c.accept_backoff_max = v.time();
    "shutdown_timeout" Kind::Time, "\"5s\"",
        "How long connections are given to end when the broker does."
        => |c, v, _| c.shutdown_timeout = v.time();
    "max_packet_size" Kind::Size { min: 20, max: 268_435_455 }, "\"10 MiB\"",
        "Largest packet accepted; announced to MQTT 5.0 Clients. Bounds what one Client can make the broker hold."
        => |c, v, _| c.broker.limits.maximum_packet_size = v.usize();
    "max_inflight_messages" WINDOW, "1024",
        "Messages of QoS 1 and 2 on their way to a Client at once, if its Receive Maximum is not lower."
        => |c, v, _| c.broker.limits.inflight_max = window(v);
    "receive_maximum" WINDOW, "1024",
        "Messages of QoS 1 and 2 on their way from an MQTT 5.0 Client at once; announced to it."
        => |c, v, _| c.broker.limits.receive_maximum = window(v);
    "max_topic_alias" U16, "64",
        "Topic Aliases that a Client may set; announced to it."
        => |c, v, _| c.broker.limits.topic_alias_maximum = v.u16();
    "max_topic_alias_broker" U16, "64",
        "Topic Aliases that the broker sets for a Client that takes them."
        => |c, v, _| c.broker.limits.send_alias_maximum = v.u16();
    "max_keepalive" U16, "0",
        "Longest Keep Alive in seconds; 0: any, also none. MQTT 5.0 Clients are told (Server Keep Alive)."
        => |c, v, _| c.broker.limits.keep_alive_max_s = v.u16();
    "persistent_client_expiration" Kind::Time, "never",
        "Longest time that a Session waits for its Client."
        => |c, v, _| {
            let seconds = u32::try_from(v.time().as_secs()).unwrap_or(u32::MAX);
            c.broker.limits.session_expiry_max_s = seconds;
        };
    "max_qos" Kind::Int { min: 0, max: 2 }, "2",
        "Highest quality of service that Clients may publish with."
        => |c, v, _| c.broker.limits.maximum_qos =
            QoS::from_bits(v.u16() as u8).unwrap_or(QoS::ExactlyOnce);
    "retain_available" Kind::Bool, "true",
        "Whether messages may be retained."
        => |c, v, _| c.broker.limits.retain_available = v.bool();
    "max_retained_messages" COUNT, "1000000",
        "Topics that may retain a message."
        => |c, v, _| c.broker.retained.messages_max = v.usize();
    "max_retained_bytes" Kind::Size { min: 0, max: 1 << 50 }, "\"1 GiB\"",
        "Memory for retained messages, and for what `check_retain_source` keeps of their publishers."
        => |c, v, _| c.broker.retained.bytes_max = v.usize();
    "max_queued_messages" COUNT, "100000",
        "Messages that wait for one Session or share group, beside those on their way."
        => |c, v, _| c.broker.queue.messages_max = v.usize();
    "max_queued_bytes" Kind::Size { min: 1, max: 1 << 50 }, "\"64 MiB\"",
        "Size of the messages that wait for one Session or share group: on the disk for Sessions that outlive their connection, in memory for the others."
        => |c, v, _| c.broker.queue.bytes_max = v.usize();
    "memory_limit" Kind::Size { min: 0, max: 1 << 50 }, "three quarters of what the machine or its control group has",
        "Memory of the whole process; 0: no limit. From 70 % of it on what is stored leaves memory; from 85 % on messages that must be kept, new sessions and new subscriptions are refused (0x97; publishers before MQTT 5.0 are not read), until 75 %. `store_cache_size` and `max_store_backlog` are at most an eighth of it each, `max_queue_memory` a quarter."
        => |c, v, _| c.memory_limit = Some(v.usize());
    "max_queue_memory" Kind::Size { min: 1 << 20, max: 1 << 50 }, "\"256 MiB\"",
        "Memory of the messages that all queues have at hand together. Beyond it those that are stored are left to the store, and others dropped."
        => |c, v, _| c.broker.queue_memory_max = v.usize();
    "queue_overflow" Kind::Choice(&["drop-newest", "drop-oldest"]), "\"drop-newest\"",
        "Which message goes when a queue is full."
        => |c, v, _| c.broker.queue.overflow = match v.text() {
            "drop-oldest" => Overflow::DropOldest,
            _ => Overflow::DropNewest,
        };
    "share_strategy" STRATEGY, "\"round-robin\"",
        "Who gets the next message of a share group: each member in turn; the one that holds the fewest; always the same while it is there; or the one that the topic's hash chooses. A member gets no more than its Receive Maximum allows."
        => |c, v, _| c.broker.share_strategy = strategy(v);
    "max_subscriptions" COUNT, "1000000",
        "Subscriptions that a Session may hold."
        => |c, v, _| c.broker.limits.subscriptions_max = v.usize();
    "max_shared_subscriptions" COUNT, "1000",
        "Shared Subscriptions that a Session may hold, without those to declared queues: each of their groups is told whenever the Client comes or goes, at once."
        => |c, v, _| c.broker.limits.shared_subscriptions_max = v.usize();
    "max_topic_levels" Kind::Int { min: 1, max: 65_535 }, "200",
        "Levels that a Topic Name or Topic Filter may have."
        => |c, v, _| c.broker.limits.topic_levels_max = v.usize();
    "certificate_check_interval" Kind::Time, "\"30s\"",
        "Time between two looks whether certificates, keys, authorities or revocation lists have changed; they are read again then, and on SIGHUP, without a connection being dropped. 0: on SIGHUP only."
        => |c, v, _| c.certificate_check_interval = v.time();
    "sys_interval" Kind::Time, "\"10s\"",
        "Time between two reports of the broker on itself in the topics `$SYS/broker/...`, which have mosquitto's names; 0: none."
        => |c, v, _| c.sys_interval = v.time();
    "log_level" Kind::Choice(&["error", "warn", "info", "debug", "trace"]), "\"info\"",
        "Least level of what is logged; RUST_LOG and -v go before it."
        => |c, v, _| c.journal.filter = v.text().into();
    "log_dest" DESTINATION, "\"stderr\"",
        "Where the log goes. A file is opened anew on SIGHUP; \"topic\": to `$SYS/broker/log/E`, `W`, `N` and `I`, without debugging. In a mosquitto.conf it may be given several times."
        => |c, v, _| c.journal.destinations = destination(v.text()).into_iter().collect();
    "log_facility" Kind::Int { min: 0, max: 7 }, "daemon",
        "With `log_dest = \"syslog\"`: log as local0 to local7."
        => |c, v, _| c.journal.facility = u8::try_from(v.int()).ok();
    "log_timestamp" Kind::Bool, "true",
        "Whether a time stands before each line."
        => |c, v, _| if !v.bool() { c.journal.timestamp = Timestamp::None };
    "log_timestamp_format" STRFTIME, "date and time; with a mosquitto.conf seconds since 1970",
        "How that time is written."
        => |c, v, _| if c.journal.timestamp != Timestamp::None {
            c.journal.timestamp = Timestamp::Strftime(v.text().into());
        };
    "connection_messages" Kind::Bool, "true",
        "Whether the log tells of Clients that come and go."
        => |c, v, _| c.reports_connections = v.bool();
    "user" Kind::Text, "none; with a mosquitto.conf \"mosquitto\", or \"nobody\" where there is none",
        "Whom the process becomes, with its groups, when root has started it: after listeners are open and all files are read, before the store is opened. What SIGHUP has read again must be readable for this user. \"root\": nobody."
        => |c, v, _| c.users = vec![v.text().into()];
    "pid_file" Kind::Path, "none",
        "Where the process writes its number."
        => |c, v, base| c.pid_file = Some(relative_to(base, v.text()));
    "global_max_connections" COUNT, "no limit",
        "Connections of all listeners at once."
        => |c, v, _| c.connections_total_max = v.usize();
    "global_max_clients" COUNT, "no limit",
        "Sessions, with and without a connection; a Client that would need one more is refused (0x89, before MQTT 5.0 with 3)."
        => |c, v, _| c.sessions_max = v.usize();
    "set_tcp_nodelay" Kind::Bool, "true",
        "Whether small packets are sent without delay."
        => |c, v, _| c.is_prompt = v.bool();
    "allow_zero_length_clientid" Kind::Bool, "true",
        "Whether a Client without Client Identifier is given one."
        => |c, v, _| c.assigns_ids = v.bool();
    "auto_id_prefix" PREFIX, "\"auto-\"",
        "What the identifiers that are given to Clients without one begin with."
        => |c, v, _| c.assigned_prefix = v.text().into();
    "clientid_prefixes" Kind::Text, "none",
        "What a Client Identifier must begin with; others are not let in."
        => |c, v, _| c.required_prefix = Some(v.text().into());
    "max_inflight_bytes" Kind::Size { min: 0, max: 1 << 50 }, "0",
        "Payload of the messages of QoS 1 and 2 on their way to a Client at once; one is always sent. 0: no limit."
        => |c, v, _| c.broker.limits.inflight_bytes_max = unless_zero(v);
    "message_size_limit" Kind::Size { min: 0, max: 268_435_455 }, "0",
        "Largest payload of a message; larger ones are refused (0x97), dropped with QoS 0, and end the connection of an older Client with QoS 1 and 2. 0: no limit but `max_packet_size`."
        => |c, v, _| c.payload_max = unless_zero(v);
    "check_retain_source" Kind::Bool, "false",
        "Whether a retained message is sent only as long as who published it may still publish it: a change of the rules holds for what was retained before. Who published before the broker's last start, or while this was off, is not known; that is sent."
        => |c, v, _| c.broker.asks_sources = v.bool();
    "queue_qos0_messages" Kind::Bool, "false",
        "Whether messages of QoS 0 wait in memory for a Client that is away."
        => |c, v, _| c.broker.queue.keeps_qos0 = v.bool();
    "upgrade_outgoing_qos" Kind::Bool, "false",
        "Whether a message is delivered with the QoS of the subscription even if it was published with a lower one."
        => |c, v, _| c.broker.raises_qos = v.bool();
}

settings! { QUEUE: Declaration;
    "name" Kind::Text, "none",
        "What the queue is called: Clients consume from it by subscribing to `$queue/NAME`, or to `$share/NAME/FILTER`."
        => |q, v, _| q.name = v.text().into();
    "filter" Kind::Text, "none",
        "The Topic Filter of the messages that go into the queue, from now on and whether anybody consumes or not."
        => |q, v, _| q.filter = v.text().into();
    "max_messages" COUNT, "as `max_queued_messages`",
        "Messages that wait."
        => |q, v, _| q.messages_max = Some(v.usize());
    "max_bytes" Kind::Size { min: 1, max: 1 << 50 }, "as `max_queued_bytes`",
        "Size of the messages that wait."
        => |q, v, _| q.bytes_max = Some(v.usize());
    "overflow" Kind::Choice(&["drop-oldest", "drop-newest", "reject"]), "\"reject\"",
        "What happens beyond these bounds. \"reject\": the publisher is answered 0x97 (Quota exceeded), or before MQTT 5.0 not read until there is room; QoS 0 is dropped."
        => |q, v, _| q.overflow = match v.text() {
            "drop-oldest" => Overflow::DropOldest,
            "drop-newest" => Overflow::DropNewest,
            _ => Overflow::Reject,
        };
    "message_ttl" Kind::Time, "none",
        "Longest time that a message waits, in whole seconds; its own Message Expiry Interval holds too."
        => |q, v, _| q.message_ttl_s = Some(u32::try_from(v.time().as_secs().max(1)).unwrap_or(u32::MAX));
    "max_deliveries" Kind::Int { min: 1, max: 127 }, "no limit",
        "How often a message is handed out; then it goes to `dead_letter`, or is dropped."
        => |q, v, _| q.deliveries_max = Some(u8::try_from(v.int()).unwrap_or(ATTEMPTS_MAX));
    "dead_letter" Kind::Text, "none",
        "The topic that messages are published to which nobody could take. It must not match the queue's own filter."
        => |q, v, _| q.dead_letter = Some(v.text().into());
    "lease" Kind::Time, "none",
        "How long a consumer may take to acknowledge a message of QoS 1 before it goes to another; looked at once a second. QoS 2 stays with its consumer."
        => |q, v, _| q.lease_ms = Some(u64::try_from(v.time().as_millis()).unwrap_or(u64::MAX).max(1));
    "prefetch" Kind::Int { min: 1, max: 65_535 }, "100",
        "How many messages one consumer holds at most that it has not acknowledged; its Receive Maximum and `max_inflight_messages` hold too. A slow consumer holds up that many."
        => |q, v, _| q.prefetch = Some(u16::try_from(v.int()).unwrap_or(u16::MAX));
    "strategy" STRATEGY, "as `share_strategy`",
        "Who gets the next message."
        => |q, v, _| q.strategy = Some(strategy(v));
    "on_reject" Kind::Choice(&["requeue", "dead-letter", "drop"]), "\"dead-letter\" with a `dead_letter`, else \"drop\"",
        "What becomes of a message that a consumer refuses, by a PUBACK or PUBREC of 0x80 or above."
        => |q, v, _| q.on_reject = Some(match v.text() {
            "requeue" => OnReject::Requeue,
            "dead-letter" => OnReject::DeadLetter,
            _ => OnReject::Drop,
        });
    "last_value" Kind::Text, "none",
        "Of the messages that wait and have the same key, only the last is kept. The key is \"topic\", or the value of the User Property of this name."
        => |q, v, _| q.last_value = Some(match v.text() {
            "topic" => LastValue::Topic,
            name => LastValue::UserProperty(name.into()),
        });
    "priority" Kind::Text, "none",
        "The User Property that says a message's priority, from 0 to 9; the highest goes first, and those without it have 0."
        => |q, v, _| q.priority = Some(v.text().into());
    "queue_qos0_messages" Kind::Bool, "false",
        "Whether messages of QoS 0 wait too while there is no consumer; in memory only."
        => |q, v, _| q.keeps_qos0 = v.bool();
}

settings! { LISTENER: Listener;
    "port" PORT, "none",
        "TCP port."
        => |l, v, _| l.port = Some(v.u16());
    "bind_address" Kind::Text, "all addresses",
        "Address or host name to listen on."
        => |l, v, _| l.bind_address = Some(v.text().into());
    "socket" Kind::Path, "none",
        "Path of a unix socket, instead of `port`."
        => |l, v, base| l.socket = Some(relative_to(base, v.text()));
    "protocol" Kind::Choice(&["mqtt", "websockets"]), "\"mqtt\"",
        "What is spoken over TCP or TLS."
        => |l, v, _| l.is_websocket = v.text() == "websockets";
    "websocket_path" Kind::Text, "\"/mqtt\"",
        "The path that is upgraded to WebSocket, beside `/`."
        => |l, v, _| l.websocket_path = Some(v.text().into());
    "websockets_origin" Kind::Texts, "any",
        "The origins, such as \"https://example.org\", whose pages may come by WebSocket, as browsers say it; who names none is let in."
        => |l, v, _| l.websocket_origins.extend(v.texts().iter().cloned());
    "enable_proxy_protocol" Kind::Int { min: 1, max: 2 }, "none",
        "The version of the PROXY protocol whose header every connection must begin with, before TLS and WebSocket. Who it names counts as the Client, also for `allow_anonymous`."
        => |l, v, _| l.proxy_version = Some(if v.int() == 1 { proxy::Version::One } else { proxy::Version::Two });
    "proxy_protocol_from" Kind::Networks, "[\"127.0.0.0/8\", \"::1\"]",
        "The proxies that are trusted to send the header; connections from elsewhere are closed."
        => |l, v, _| l.proxy_from = Some(v.networks().to_vec());
    "proxy_protocol_v2_require_tls" Kind::Bool, "false",
        "Whether the header must say that the Client speaks TLS with the proxy. `require_certificate` and `use_identity_as_username` go by the header too where there is no `certfile`: the proxy must say that it found the certificate good."
        => |l, v, _| l.requires_proxied_tls = v.bool();
    "certfile" Kind::Paths, "none",
        "The server's certificate and those that vouch for it (PEM); makes it a TLS listener. Of several a Client gets the one for the host that it names (SNI), or the first."
        => |l, v, base| l.certfile = v.texts().iter().map(|path| relative_to(base, path)).collect();
    "keyfile" Kind::Paths, "none",
        "The key of the server's certificate (PEM); as many as there are certificates, in the same order."
        => |l, v, base| l.keyfile = v.texts().iter().map(|path| relative_to(base, path)).collect();
    "cafile" Kind::Path, "none",
        "Authorities that vouch for Client certificates (PEM); Clients are asked for one."
        => |l, v, base| l.cafile = Some(relative_to(base, v.text()));
    "capath" Kind::Path, "none",
        "A directory of such files, beside `cafile` or instead of it."
        => |l, v, base| l.capath = Some(relative_to(base, v.text()));
    "crlfile" Kind::Path, "none",
        "Client certificates that are revoked (PEM, version 2 with a CRL number as RFC 5280 asks); the list of each one's authority must be in it and not be out of date."
        => |l, v, base| l.crlfile = Some(relative_to(base, v.text()));
    "require_certificate" Kind::Bool, "false",
        "Whether a Client must show a certificate."
        => |l, v, _| l.require_certificate = v.bool();
    "disable_client_cert_date_checks" Kind::Bool, "false",
        "Whether Client certificates are taken before and after the time for which they were made; such as for devices that nobody can give a new one. All else is checked."
        => |l, v, _| l.is_timeless = v.bool();
    "use_identity_as_username" Kind::Bool, "false",
        "Whether a Client's user name is the Common Name of its certificate. Passwords are not asked for then, and who has no such name is not let in."
        => |l, v, _| l.use_identity_as_username = v.bool();
    "use_subject_as_username" Kind::Bool, "false",
        "The same with the whole subject, such as \"CN=pump 7,OU=plant,O=example\" (RFC 2253)."
        => |l, v, _| l.use_subject_as_username = v.bool();
    "use_san_as_username" Kind::Bool, "false",
        "The same with the first DNS name, mail address or URI of its Subject Alternative Names."
        => |l, v, _| l.use_san_as_username = v.bool();
    "ciphers" Kind::Text, "all safe ones",
        "Cipher suites of TLS 1.2, by OpenSSL's names with colons between them."
        => |l, v, _| l.ciphers = Some(v.text().into());
    "ciphers_tls1.3" Kind::Text, "all",
        "Cipher suites of TLS 1.3. In TOML the key has quotation marks: \"ciphers_tls1.3\"."
        => |l, v, _| l.ciphers_tls13 = Some(v.text().into());
    "tls_version" Kind::Choice(&["tlsv1.2", "tlsv1.3"]), "\"tlsv1.2\"",
        "Lowest TLS version."
        => |l, v, _| l.tls13_only = v.text() == "tlsv1.3";
    "max_connections" COUNT, "as above",
        "Connections at once."
        => |l, v, _| l.connections_max = Some(v.usize());
    "max_connection_rate" LIMIT, "as above",
        "New connections in a second."
        => |l, v, _| l.connection_rate = Some(rate(v));
    "max_message_rate" LIMIT, "as above",
        "Messages that a Client may publish in a second."
        => |l, v, _| l.message_rate = Some(rate(v));
    "max_byte_rate" BYTES_LIMIT, "as above",
        "Bytes that a Client may send in a second."
        => |l, v, _| l.byte_rate = Some(rate(v));
    "allow_anonymous" ANONYMOUS, "as above",
        "Who may connect here without proving who they are."
        => |l, v, _| l.anonymous = Some(anonymous(v));
    "password_file" Kind::Path, "as above",
        "Users and their hashed passwords for this listener, instead of those above."
        => |l, v, base| l.password_file = Some(relative_to(base, v.text()));
    "stored_users" Kind::Bool, "as above",
        "Whether the broker's own users may connect here."
        => |l, v, _| l.stored_users = Some(v.bool());
    "authentication" Kind::Texts, "as above",
        "The methods by which Clients prove here who they are, in order."
        => |l, v, _| l.methods = Some(v.texts().to_vec());
    "acl_file" Kind::Path, "as above",
        "What Clients of this listener may publish and read, instead of the file above. Roles hold for all listeners."
        => |l, v, base| l.acl_file = Some(relative_to(base, v.text()));
    "durability" DURABILITY, "as above",
        "What an acknowledged message of these Clients survives. \"memory\": their Sessions are not stored and their messages are acknowledged at once; anything else: as above."
        => |l, v, _| l.durability = Some(durability(v));
    "set_tcp_nodelay" Kind::Bool, "true",
        "Whether small packets are sent without delay."
        => |l, v, _| l.is_prompt = Some(v.bool());
    "bind_interface" Kind::Text, "none",
        "Name of the network interface to listen on, alone."
        => |l, v, _| l.interface = Some(v.text().into());
    "socket_domain" Kind::Choice(&["ipv4", "ipv6"]), "both",
        "The only family of addresses to listen on."
        => |l, v, _| l.domain = Some(if v.text() == "ipv4" { Domain::V4 } else { Domain::V6 });
    "mount_point" TOPIC, "none",
        "What is put before all topics of these Clients and taken from what they are sent, so that they see only what is below it."
        => |l, v, _| l.mount_point = Some(v.text().into());
    "max_qos" Kind::Int { min: 0, max: 2 }, "as above",
        "Highest quality of service that these Clients may publish with."
        => |l, v, _| l.maximum_qos = QoS::from_bits(v.u16() as u8);
    "max_topic_alias" U16, "as above",
        "Topic Aliases that these Clients may set; announced to them."
        => |l, v, _| l.topic_alias_maximum = Some(v.u16());
    "max_topic_alias_broker" U16, "as above",
        "Topic Aliases that the broker sets for those of these Clients that take them."
        => |l, v, _| l.send_alias_maximum = Some(v.u16());
    "accept_protocol_versions" VERSIONS, "all",
        "The versions of MQTT that are spoken: 3 for 3.1, 4 for 3.1.1, 5 for 5.0."
        => |l, v, _| l.versions = versions(v.text()).unwrap_or_default();
    "use_username_as_clientid" Kind::Bool, "false",
        "Whether the User Name takes the place of the Client Identifier; who has none is not let in."
        => |l, v, _| l.names_are_ids = v.bool();
    "allow_zero_length_clientid" Kind::Bool, "as above",
        "Whether a Client without Client Identifier is given one."
        => |l, v, _| l.assigns_ids = Some(v.bool());
    "auto_id_prefix" PREFIX, "as above",
        "What the identifiers that are given to Clients without one begin with."
        => |l, v, _| l.assigned_prefix = Some(v.text().into());
}

/// Rows of a table in Markdown.
fn rows<T>(settings: &[Setting<T>]) -> String {
    let row = |setting: &Setting<T>| {
        let Setting { key, kind, default, doc, .. } = setting;
        format!("| `{key}` | {} | {default} | {doc} |\n", kind.describe())
    };
    settings.iter().map(row).collect()
}

/// The reference as Markdown.
pub fn markdown() -> String {
    const HEAD: &str = "| key | value | default | meaning |\n| --- | --- | --- | --- |\n";
    let [global, listener, queue] = [rows(GLOBAL), rows(LISTENER), rows(QUEUE)];
    let [token, callout] = [rows(TOKEN), rows(CALLOUT)];
    let [group, role, rule] = [rows(GROUP), rows(ROLE), rows(RULE)];
    format!(
        "# Settings\n\nWritten by `whimbrel settings`; a test keeps it up to date.\n\n\
         The file is TOML. At the top level:\n\n{HEAD}{global}\n\
         In each `[[listener]]`:\n\n{HEAD}{listener}\n\
         In each `[[queue]]`:\n\n{HEAD}{queue}\n\
         In each `[[token]]`:\n\n{HEAD}{token}\n\
         In each `[[callout]]`:\n\n{HEAD}{callout}\n\
         In each `[[group]]` of users:\n\n{HEAD}{group}\n\
         In each `[[role]]`:\n\n{HEAD}{role}\n\
         In each `[[role.rule]]`, of which the first that matches decides:\n\n{HEAD}{rule}"
    )
}
