//! THE TABLE of mosquitto's options: every one of 2.0 and 2.1, and what becomes of it.
//!
//! An option that has the name of a setting of ours is that setting; the row says what happens
//! while there is no such setting. So a setting that is new is at once an option too.

use super::super::settings::{GLOBAL, LISTENER};

/// Where an option belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// To the broker.
    Global,
    /// To the listener above it, or to the default listener.
    Listener,
    /// To the listener above it if `per_listener_settings` is true, else to the broker.
    Security,
    /// To a bridge.
    Bridge,
}

/// What becomes of an option that is none of our settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The reader of the file deals with it.
    Read,
    /// It is accepted with a warning: what happens instead.
    Warned(&'static str),
    /// It is refused: to go on without it would not be what the operator relies on.
    Refused(&'static str),
}

/// An option of mosquitto's.
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// Where it belongs.
    pub scope: Scope,
    /// What becomes of it where there is no setting of its name.
    pub fate: Fate,
    /// What is to be said of it in the reference; may be empty.
    pub note: &'static str,
}

impl Row {
    /// Whether it is one of our settings.
    pub fn is_setting(&self) -> bool {
        let global = || GLOBAL.iter().any(|setting| setting.key == self.name);
        let listener = || LISTENER.iter().any(|setting| setting.key == self.name);
        match self.scope {
            Scope::Global => global(),
            Scope::Listener => listener(),
            Scope::Security => global() || listener(),
            Scope::Bridge => false,
        }
    }
}

/// The row of an option.
pub fn row(name: &str) -> Option<&'static Row> {
    let exact = OPTIONS.iter().find(|row| row.name == name);
    exact.or_else(|| {
        let is_prefix =
            |row: &&Row| row.name.strip_suffix('*').is_some_and(|prefix| name.starts_with(prefix));
        OPTIONS.iter().find(is_prefix)
    })
}

const PLUGIN: Fate = Fate::Refused(
    "Whimbrel loads no plugins, and who relies on one for authentication or access control would be open without it; use password_file and acl_file, or [[token]] and [[callout]] in a TOML file (docs/access.md)",
);
const BRIDGE: Fate = Fate::Refused("Whimbrel does not bridge to other brokers yet");
const PSK: Fate = Fate::Refused("pre-shared keys are not spoken by rustls; use certificates");
const ENGINE: Fate = Fate::Refused("keys in OpenSSL engines are not supported; use a PEM file");
const SOON: Fate = Fate::Refused("not supported yet, and unsafe to ignore");
const READ: Fate = Fate::Read;
const SAVED: Fate = Fate::Warned(
    "everything that was acknowledged is already on the disk; there is nothing to save at intervals",
);
const GONE: Fate = Fate::Warned("it has no effect, nor in mosquitto any more");

macro_rules! options {
    ($($name:literal $scope:ident, $fate:expr, $note:literal;)+) => {
        /// The options.
        pub const OPTIONS: &[Row] = &[
            $(Row { name: $name, scope: Scope::$scope, fate: $fate, note: $note },)+
        ];
    };
}

options! {
    "accept_protocol_versions" Listener, SOON, "";
    "acl_file" Security, SOON, "";
    "allow_anonymous" Security, SOON, "As there: false where a listener is given, else true for Clients on this machine.";
    "allow_duplicate_messages" Global, Fate::Warned("a message that matches several subscriptions of a Client is sent to it once, with the highest QoS of them"), "";
    "allow_zero_length_clientid" Security, SOON, "";
    "auth_opt_*" Security, PLUGIN, "";
    "auth_plugin" Security, PLUGIN, "";
    "auth_plugin_deny_special_chars" Security, PLUGIN, "";
    "auto_id_prefix" Security, SOON, "";
    "autosave_interval" Global, SAVED, "";
    "autosave_on_changes" Global, SAVED, "";
    "bind_address" Listener, READ, "";
    "bind_interface" Listener, SOON, "";
    "cafile" Listener, SOON, "";
    "capath" Listener, SOON, "";
    "certfile" Listener, SOON, "";
    "check_retain_source" Global, SOON, "The default is true. Who published before the broker's last start is not known: that is sent.";
    "ciphers" Listener, SOON, "Only suites that are safe: see docs/tls.md.";
    "ciphers_tls1.3" Listener, SOON, "Only suites that are safe: see docs/tls.md.";
    "clientid_prefixes" Global, SOON, "";
    "connection_messages" Global, SOON, "";
    "crlfile" Listener, SOON, "";
    "dhparamfile" Listener, Fate::Warned("keys are agreed by elliptic curves only"), "";
    "disable_client_cert_date_checks" Listener, SOON, "";
    "enable_control_api" Global, Fate::Warned("there is no $CONTROL; `whimbrel store` looks at a running broker"), "";
    "enable_proxy_protocol" Listener, SOON, "Proxies on this machine are trusted; give others with our `proxy_protocol_from`.";
    "ffdc_output" Global, GONE, "";
    "global_max_clients" Global, SOON, "";
    "global_max_connections" Global, SOON, "";
    "global_plugin" Global, PLUGIN, "But mosquitto_password_file and mosquitto_acl_file, which are password_file and acl_file.";
    "http_dir" Listener, Fate::Warned("no files are served over HTTP"), "";
    "include_dir" Global, READ, "";
    "keyfile" Listener, SOON, "";
    "listener" Global, READ, "";
    "listener_allow_anonymous" Listener, READ, "";
    "listener_auto_id_prefix" Listener, READ, "";
    "log_dest" Global, READ, "`dlt` and `android` are accepted with a warning and left out. Lines for `topic` wait up to 100 ms, are cut after 4 KiB, and are counted instead where more than 1,000 or 256 KiB wait.";
    "log_facility" Global, READ, "";
    "log_timestamp" Global, READ, "";
    "log_timestamp_format" Global, READ, "";
    "log_type" Global, READ, "`subscribe`, `unsubscribe`, `websockets` and `internal` are part of `debug`.";
    "max_connections" Listener, SOON, "";
    "max_inflight_bytes" Global, SOON, "";
    "max_inflight_messages" Global, READ, "Also announced as Receive Maximum. 0 is 65535.";
    "max_keepalive" Global, SOON, "";
    "max_log_entries" Global, GONE, "";
    "max_packet_size" Global, SOON, "";
    "max_qos" Listener, SOON, "";
    "max_queued_bytes" Global, SOON, "";
    "max_queued_messages" Global, SOON, "";
    "max_topic_alias" Listener, SOON, "";
    "max_topic_alias_broker" Listener, SOON, "";
    "maximum_qos" Listener, READ, "";
    "memory_limit" Global, SOON, "";
    "message_size_limit" Global, SOON, "As there a larger message is refused with 0x95, and dropped where an older Client cannot be told.";
    "mount_point" Listener, SOON, "";
    "packet_buffer_size" Global, Fate::Warned("buffers have the size that their use asks for"), "";
    "password_file" Security, SOON, "";
    "per_listener_settings" Global, READ, "";
    "persistence" Global, READ, "true: every acknowledged message is on the disk before it is acknowledged. false, the default as there: nothing is stored.";
    "persistence_file" Global, READ, "The store is a directory of this name and `.whimbrel` in persistence_location; persistence_location itself where it is not given. What mosquitto has written is left alone.";
    "persistence_location" Global, SOON, "";
    "persistent_client_expiration" Global, SOON, "";
    "pid_file" Global, SOON, "";
    "plugin" Security, PLUGIN, "But mosquitto_password_file and mosquitto_acl_file, which are password_file and acl_file.";
    "plugin_load" Global, PLUGIN, "But mosquitto_password_file and mosquitto_acl_file, which are password_file and acl_file.";
    "plugin_opt_*" Security, PLUGIN, "But mosquitto_password_file and mosquitto_acl_file, which are password_file and acl_file.";
    "plugin_use" Listener, PLUGIN, "But mosquitto_password_file and mosquitto_acl_file, which are password_file and acl_file.";
    "port" Listener, READ, "";
    "protocol" Listener, READ, "`mqtt` and `websockets`; `http_api` is refused.";
    "proxy_protocol_v2_require_tls" Listener, SOON, "";
    "psk_file" Security, PSK, "";
    "psk_hint" Listener, PSK, "";
    "queue_qos0_messages" Global, SOON, "In memory: a restart of the broker forgets them.";
    "require_certificate" Listener, SOON, "";
    "retain_available" Global, SOON, "";
    "retain_expiry_interval" Global, Fate::Warned("retained messages that have expired are removed every second"), "";
    "retained_persistence" Global, READ, "";
    "retry_interval" Global, GONE, "";
    "set_tcp_nodelay" Global, SOON, "The default is true.";
    "socket_domain" Listener, SOON, "";
    "store_clean_interval" Global, GONE, "";
    "sys_interval" Global, SOON, "";
    "tls_engine" Listener, ENGINE, "";
    "tls_engine_kpass_sha1" Listener, ENGINE, "";
    "tls_keyform" Listener, READ, "`pem`; `engine` is refused.";
    "tls_version" Listener, SOON, "The lowest version: 1.2 or 1.3.";
    "trace_level" Global, GONE, "";
    "trace_output" Global, GONE, "";
    "upgrade_outgoing_qos" Global, SOON, "Wills keep the QoS they were set with.";
    "use_identity_as_username" Listener, SOON, "";
    "use_subject_as_username" Listener, SOON, "";
    "use_username_as_clientid" Listener, SOON, "";
    "user" Global, SOON, "The default is `mosquitto`, as there. Keys are read and ports opened before.";
    "websockets_headers_size" Global, Fate::Warned("the head of a WebSocket request may have 16 KiB"), "";
    "websockets_log_level" Global, Fate::Warned("`log_type debug` is all there is"), "";
    "websockets_origin" Listener, SOON, "May be given several times.";
    "address" Bridge, BRIDGE, "";
    "addresses" Bridge, BRIDGE, "";
    "bridge_*" Bridge, BRIDGE, "";
    "cleansession" Bridge, BRIDGE, "";
    "clientid" Bridge, BRIDGE, "";
    "connection" Bridge, BRIDGE, "";
    "idle_timeout" Bridge, BRIDGE, "";
    "keepalive_interval" Bridge, BRIDGE, "";
    "local_cleansession" Bridge, BRIDGE, "";
    "local_clientid" Bridge, BRIDGE, "";
    "local_password" Bridge, BRIDGE, "";
    "local_username" Bridge, BRIDGE, "";
    "notification_topic" Bridge, BRIDGE, "";
    "notifications" Bridge, BRIDGE, "";
    "notifications_local_only" Bridge, BRIDGE, "";
    "password" Bridge, BRIDGE, "";
    "remote_clientid" Bridge, BRIDGE, "";
    "remote_password" Bridge, BRIDGE, "";
    "remote_username" Bridge, BRIDGE, "";
    "restart_timeout" Bridge, BRIDGE, "";
    "round_robin" Bridge, BRIDGE, "";
    "start_type" Bridge, BRIDGE, "";
    "threshold" Bridge, BRIDGE, "";
    "topic" Bridge, BRIDGE, "";
    "try_private" Bridge, BRIDGE, "";
    "username" Bridge, BRIDGE, "";
}
