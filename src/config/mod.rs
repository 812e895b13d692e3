//! Configuration: what the operator wrote becomes the options of every room.
//!
//! [`settings`] is the table: a row per setting, from which parsing, checking and the printed
//! reference follow. [`read`] reads TOML and reports everything that is wrong with it, not only
//! the first thing. Nothing else in the program reads configuration.

pub mod mosquitto;
mod openings;
pub mod problem;
pub mod read;
pub mod settings;
pub mod value;
mod whimbrel;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::access::acl::roles::{Group, Role};
use crate::access::{Anonymous, callout, checkers, token};
use crate::codec::{QoS, Version};
use crate::connection::Rates;
use crate::doorman::bucket::Rate;
use crate::net::proxy;
use crate::store::Durability;
use crate::{broker, doorman, journal, store};
pub use openings::{Opening, Proof};
use problem::Problem;

/// Everything that the program needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// For the broker.
    pub broker: broker::Options,
    /// For the store.
    pub store: store::Options,
    /// Memory of the process, in bytes; 0: no limit.
    pub memory_limit: Option<usize>,
    /// Who may come without proof of identity, where a listener does not say otherwise.
    pub anonymous: Option<Anonymous>,
    /// Users and their passwords, where a listener does not say otherwise.
    pub password_file: Option<PathBuf>,
    /// Whether the broker's own users may come, where a listener does not say otherwise.
    pub stored_users: bool,
    /// Tokens that Clients may prove themselves by.
    pub tokens: Vec<token::Options>,
    /// Services that are asked who Clients are.
    pub callouts: Vec<callout::Options>,
    /// The names of the ways to prove who one is, in order, where a listener does not say
    /// otherwise; all that there are when not given.
    pub methods: Option<Vec<String>>,
    /// What Clients may do, where a listener does not say otherwise.
    pub acl_file: Option<PathBuf>,
    /// What Clients may do, beside the files.
    pub roles: Vec<Role>,
    /// Users with roles in common.
    pub groups: Vec<Group>,
    /// For the threads that check passwords.
    pub checkers: checkers::Options,
    /// For who is slowed down or kept out.
    pub doorman: doorman::Options,
    /// Where Clients come in.
    pub listeners: Vec<Listener>,
    /// Threads that serve connections.
    pub workers: usize,
    /// Longest time to a CONNECT packet.
    pub connect_timeout: Duration,
    /// Connections of each listener that does not say otherwise.
    pub connections_max: usize,
    /// Longest pause in accepting when descriptors run out.
    pub accept_backoff_max: Duration,
    /// How long connections are given to end when the broker does.
    pub shutdown_timeout: Duration,
    /// New connections of each listener in a second, where it does not say otherwise; `None`: no
    /// limit.
    pub connection_rate: Option<Rate>,
    /// How fast each Client may be, where a listener does not say otherwise.
    pub rates: Rates,
    /// Connections of all listeners together.
    pub connections_total_max: usize,
    /// Whether small packets are sent without delay, where a listener does not say otherwise.
    pub is_prompt: bool,
    /// Whether a Client without Client Identifier is given one, where a listener does not say
    /// otherwise.
    pub assigns_ids: bool,
    /// What such an identifier begins with, where a listener does not say otherwise.
    pub assigned_prefix: String,
    /// What the identifiers that Clients give must begin with.
    pub required_prefix: Option<String>,
    /// Largest payload of a message that is published, in bytes.
    pub payload_max: usize,
    /// Sessions that there may be.
    pub sessions_max: usize,
    /// Whom the process becomes when root has started it: the first of these users that there is.
    pub users: Vec<String>,
    /// Where the process writes its number.
    pub pid_file: Option<PathBuf>,
    /// For the log.
    pub journal: journal::Options,
    /// Whether the log tells of Clients that come and go.
    pub reports_connections: bool,
    /// What the settings say that was accepted and means something else here.
    pub warnings: Vec<Problem>,
    /// What was given, as text by name: what a reload has changed.
    pub given: BTreeMap<String, String>,
    /// Time between two looks whether a certificate's files have changed; none when zero.
    pub certificate_check_interval: Duration,
    /// Time between two reports below `$SYS`; none when zero.
    pub sys_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let directory = std::env::var_os("STATE_DIRECTORY").map(PathBuf::from);
        Self {
            broker: broker::Options::default(),
            store: store::Options {
                directory: directory.unwrap_or_else(|| PathBuf::from("whimbrel-data")),
                ..store::Options::default()
            },
            memory_limit: None,
            anonymous: None,
            password_file: None,
            stored_users: false,
            tokens: Vec::new(),
            callouts: Vec::new(),
            methods: None,
            acl_file: None,
            roles: Vec::new(),
            groups: Vec::new(),
            checkers: checkers::Options::default(),
            doorman: doorman::Options::default(),
            listeners: Vec::new(),
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            connect_timeout: Duration::from_secs(10),
            connections_max: 1_000_000,
            accept_backoff_max: Duration::from_secs(1),
            shutdown_timeout: Duration::from_secs(5),
            connection_rate: None,
            rates: Rates::default(),
            connections_total_max: usize::MAX,
            is_prompt: true,
            assigns_ids: true,
            assigned_prefix: "auto-".into(),
            required_prefix: None,
            payload_max: usize::MAX,
            sessions_max: usize::MAX,
            users: Vec::new(),
            pid_file: None,
            journal: journal::Options::default(),
            reports_connections: true,
            warnings: Vec::new(),
            given: BTreeMap::new(),
            certificate_check_interval: Duration::from_secs(30),
            sys_interval: Duration::from_secs(10),
        }
    }
}

/// One `[[listener]]`.
#[derive(Clone, Debug, Default)]
pub struct Listener {
    /// TCP port; none for a unix socket.
    pub port: Option<u16>,
    /// Address or host name; all addresses when not given.
    pub bind_address: Option<String>,
    /// Path of a unix socket.
    pub socket: Option<PathBuf>,
    /// Whether WebSocket is spoken.
    pub is_websocket: bool,
    /// The path that is upgraded to WebSocket.
    pub websocket_path: Option<String>,
    /// The origins whose pages may come by WebSocket.
    pub websocket_origins: Vec<String>,
    /// The version of the PROXY protocol that connections begin with.
    pub proxy_version: Option<proxy::Version>,
    /// The proxies that are trusted; those on this machine when not given.
    pub proxy_from: Option<Vec<proxy::Network>>,
    /// See [`proxy::secured::Asked::tls`].
    pub requires_proxied_tls: bool,
    /// The server's certificates.
    pub certfile: Vec<PathBuf>,
    /// Their keys, in the same order.
    pub keyfile: Vec<PathBuf>,
    /// Authorities for Client certificates.
    pub cafile: Option<PathBuf>,
    /// A directory of them.
    pub capath: Option<PathBuf>,
    /// Client certificates that are revoked.
    pub crlfile: Option<PathBuf>,
    /// Whether a Client's user name is its certificate's Common Name.
    pub use_identity_as_username: bool,
    /// Whether it is the certificate's whole subject.
    pub use_subject_as_username: bool,
    /// Whether it is the certificate's first Subject Alternative Name.
    pub use_san_as_username: bool,
    /// Cipher suites of TLS 1.2.
    pub ciphers: Option<String>,
    /// Cipher suites of TLS 1.3.
    pub ciphers_tls13: Option<String>,
    /// Whether Clients must show a certificate.
    pub require_certificate: bool,
    /// Whether that may be out of date.
    pub is_timeless: bool,
    /// Whether TLS 1.2 is refused.
    pub tls13_only: bool,
    /// Connections at once.
    pub connections_max: Option<usize>,
    /// New connections in a second; of what is given, `None` is no limit.
    pub connection_rate: Option<Option<Rate>>,
    /// Messages of each Client in a second.
    pub message_rate: Option<Option<Rate>>,
    /// Bytes of each Client in a second.
    pub byte_rate: Option<Option<Rate>>,
    /// Who may come without proof of identity.
    pub anonymous: Option<Anonymous>,
    /// Users and their passwords.
    pub password_file: Option<PathBuf>,
    /// Whether the broker's own users may come.
    pub stored_users: Option<bool>,
    /// The names of the ways to prove who one is, in order.
    pub methods: Option<Vec<String>>,
    /// What its Clients may do.
    pub acl_file: Option<PathBuf>,
    /// Whether small packets are sent without delay.
    pub is_prompt: Option<bool>,
    /// The network interface it listens on.
    pub interface: Option<String>,
    /// The only family of addresses it listens on.
    pub domain: Option<Domain>,
    /// What stands before all topics of its Clients.
    pub mount_point: Option<String>,
    /// Highest QoS that its Clients may publish with.
    pub maximum_qos: Option<QoS>,
    /// Topic Aliases that its Clients may set.
    pub topic_alias_maximum: Option<u16>,
    /// Topic Aliases that are set for its Clients.
    pub send_alias_maximum: Option<u16>,
    /// The versions of MQTT that are spoken; all if none is named.
    pub versions: Vec<Version>,
    /// Whether the User Name takes the place of the Client Identifier.
    pub names_are_ids: bool,
    /// Whether a Client without Client Identifier is given one.
    pub assigns_ids: Option<bool>,
    /// What such an identifier begins with.
    pub assigned_prefix: Option<String>,
    /// Whether a certificate that was verified is no proof of identity.
    pub distrusts_certificates: bool,
    /// What an acknowledged message of its Clients survives, if less than elsewhere.
    pub durability: Option<Durability>,
}

impl Listener {
    /// Whether it has users of its own, or takes them from certificates.
    fn knows_users(&self) -> bool {
        let by_certificate = self.use_identity_as_username
            || self.use_subject_as_username
            || self.use_san_as_username;
        self.password_file.is_some() || self.stored_users == Some(true) || by_certificate
    }
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Config {
    /// Listeners on this machine only, for a broker that was told nothing: MQTT on `port`, and
    /// WebSocket on 8083 if `with_websocket`.
    pub fn listen_locally(&mut self, port: u16, with_websocket: bool) {
        let local = |port, is_websocket| Listener {
            port: Some(port),
            bind_address: Some("localhost".into()),
            is_websocket,
            ..Listener::default()
        };
        self.listeners.push(local(port, false));
        if with_websocket {
            self.listeners.push(local(8083, true));
        }
    }

    /// Makes the bounds of memory fit into that of the process; `total` is what the machine has.
    /// The limit exists unless the operator says otherwise: a broker that the system kills for its
    /// memory comes back to the same flood, and has lost what it does not store.
    pub fn fit_memory(&mut self, total: Option<usize>) {
        let limit = self.memory_limit.or(total.map(|total| total / 4 * 3)).unwrap_or(0);
        self.broker.memory_max = limit;
        if limit > 0 {
            let Self { store, broker, .. } = self;
            store.cache_bytes = store.cache_bytes.min(limit / 8);
            store.backlog_bytes_max = store.backlog_bytes_max.min(limit / 8);
            broker.queue_memory_max = broker.queue_memory_max.min(limit / 4);
        }
    }

    /// Whether a Client's proof of identity may say what it may do.
    pub fn proofs_have_rules(&self) -> bool {
        self.tokens.iter().any(token::Options::has_rules) || !self.callouts.is_empty()
    }

    /// Whether any listener's Clients prove who they are.
    pub fn knows_users(&self) -> bool {
        let by_all = self.password_file.is_some() || self.stored_users;
        let by_name = !self.tokens.is_empty() || !self.callouts.is_empty();
        by_all || by_name || self.listeners.iter().any(Listener::knows_users)
    }
}

/// How a listener is called where its settings are listed.
fn listener_name(listener: &Listener) -> String {
    match (&listener.socket, listener.port, &listener.bind_address) {
        (Some(path), _, _) => format!("listener {}", path.display()),
        (None, Some(port), Some(address)) => format!("listener {port} {address}"),
        (None, port, _) => format!("listener {}", port.unwrap_or(0)),
    }
}

/// A path that the configuration gives: relative to the file that gives it.
fn relative_to(base: &Path, path: &str) -> PathBuf {
    base.join(path)
}
