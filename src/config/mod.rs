//! Configuration: what the operator wrote becomes the options of every room.
//!
//! [`settings`] is the table: a row per setting, from which parsing, checking and the printed
//! reference follow. [`read`] reads TOML and reports everything that is wrong with it, not only
//! the first thing. Nothing else in the program reads configuration.

pub mod mosquitto;
pub mod read;
pub mod settings;
pub mod value;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::access::acl::roles::{Group, Role};
use crate::access::book::Sources;
use crate::access::{Anonymous, callout, checkers, token};
use crate::codec::{QoS, Version};
use crate::connection::{Admission, Rates};
use crate::doorman::bucket::Rate;
use crate::net::listener::{self, Bind};
use crate::net::{proxy, tls, websocket};
use crate::session::connect::Manner;
use crate::store::Durability;
use crate::{broker, doorman, journal, store};
use read::Problem;

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

/// The proxies that are trusted when the operator names none: those on this machine.
const PROXIES_BY_DEFAULT: [&str; 2] = ["127.0.0.0/8", "::1"];

/// A way to prove who one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The passwords of a file, or of the broker's own users.
    Passwords,
    /// Tokens of this name.
    Token(String),
    /// The service of this name.
    Callout(String),
}

/// How [`Proof::Passwords`] is called in the list of methods.
const PASSWORDS: &str = "passwords";

/// A listener as it is opened.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Its options.
    pub options: listener::Options,
    /// Who may come without proof of identity.
    pub anonymous: Anonymous,
    /// The ways to prove who one is, in order.
    pub proofs: Vec<Proof>,
    /// Whether User Names are believed where there is no way to prove one, as mosquitto does: not
    /// if another listener has a way, whose Clients' Sessions would be theirs who say their names.
    pub believes_names: bool,
    /// Where its users are written down.
    pub users: Sources,
    /// What its Clients may do.
    pub acl_file: Option<PathBuf>,
    /// Whether what its Clients do need not survive.
    pub in_memory: bool,
    /// What is asked of its Clients, and what they are granted.
    pub admission: Admission,
    /// New connections in a second; `None`: no limit.
    pub connection_rate: Option<Rate>,
    /// Whether the broker starts without it when the system has no such address family.
    pub is_optional: bool,
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

    /// Whether any listener's Clients prove who they are.
    pub fn knows_users(&self) -> bool {
        let by_all = self.password_file.is_some() || self.stored_users;
        let by_name = !self.tokens.is_empty() || !self.callouts.is_empty();
        by_all || by_name || self.listeners.iter().any(Listener::knows_users)
    }

    /// What is to be opened; the error names the listener and what is wrong with it.
    pub fn openings(&self) -> Result<Vec<Opening>, String> {
        let mut openings = Vec::new();
        let is_mosquitto = self.broker.limits.manner == Manner::Mosquitto;
        for listener in &self.listeners {
            let in_memory = self.is_in_memory(listener)?;
            let binds = listener.binds()?;
            let is_pair = binds.len() > 1;
            for bind in binds {
                let is_v6 = matches!(bind, Bind::Tcp(SocketAddr::V6(_)));
                let password_file = listener.password_file.as_ref().or(self.password_file.as_ref());
                let own = listener.stored_users.unwrap_or(self.stored_users);
                let mut users = Sources { file: password_file.cloned(), own };
                let proofs = self.proofs(listener, &users)?;
                if !proofs.contains(&Proof::Passwords) {
                    users = Sources::default();
                }
                // Who says how Clients prove themselves means them and nobody else.
                let default =
                    if proofs.is_empty() { Anonymous::default() } else { Anonymous::Denied };
                openings.push(Opening {
                    options: self.listener_options(listener, bind)?,
                    anonymous: listener.anonymous.or(self.anonymous).unwrap_or(default),
                    proofs,
                    believes_names: is_mosquitto && !self.knows_users(),
                    users,
                    acl_file: listener.acl_file.as_ref().or(self.acl_file.as_ref()).cloned(),
                    in_memory,
                    admission: self.admission(listener),
                    connection_rate: listener.connection_rate.unwrap_or(self.connection_rate),
                    is_optional: is_pair && is_v6,
                });
            }
        }
        Ok(openings)
    }

    /// The ways to prove who one is at a listener.
    fn proofs(&self, listener: &Listener, users: &Sources) -> Result<Vec<Proof>, String> {
        let has_users = !users.is_none();
        let tokens =
            self.tokens.iter().map(|token| (&token.name, Proof::Token(token.name.clone())));
        let callouts = self.callouts.iter();
        let callouts = callouts.map(|asked| (&asked.name, Proof::Callout(asked.name.clone())));
        let others: Vec<_> = tokens.chain(callouts).collect();
        let Some(methods) = listener.methods.as_ref().or(self.methods.as_ref()) else {
            let others = others.into_iter().map(|(_, proof)| proof);
            return Ok(has_users.then_some(Proof::Passwords).into_iter().chain(others).collect());
        };
        let named = |name: &String| match name.as_str() {
            PASSWORDS if has_users => Ok(Proof::Passwords),
            PASSWORDS => {
                Err("`authentication` has \"passwords\", which need a `password_file` or \
                              `stored_users`"
                    .into())
            }
            name => {
                let found = others.iter().find(|(other, _)| *other == name);
                found.map(|(_, proof)| proof.clone()).ok_or_else(|| {
                    format!(
                        "`authentication` has {name:?}, which is the `name` of no [[token]] and \
                         no [[callout]]"
                    )
                })
            }
        };
        let proofs: Vec<_> = methods.iter().map(named).collect::<Result<_, String>>()?;
        let is_twice = |at: usize| proofs.iter().skip(at + 1).any(|p| proofs.get(at) == Some(p));
        match (0..proofs.len()).any(is_twice) {
            true => Err("`authentication` has a method twice".into()),
            false => Ok(proofs),
        }
    }

    /// Whether a Client's proof of identity may say what it may do.
    pub fn proofs_have_rules(&self) -> bool {
        self.tokens.iter().any(token::Options::has_rules) || !self.callouts.is_empty()
    }

    /// Whether what a listener's Clients do need not survive; an error when it asks for more than
    /// the store gives. What is written with the store's care survives as much as the store's.
    fn is_in_memory(&self, listener: &Listener) -> Result<bool, String> {
        let care = |durability| match durability {
            Durability::Memory => 0,
            Durability::Written => 1,
            Durability::Fsync => 2,
        };
        match listener.durability {
            Some(own) if care(own) > care(self.store.durability) => {
                Err("a listener's `durability` cannot be higher than the one above".into())
            }
            own => Ok(own == Some(Durability::Memory)),
        }
    }

    fn admission(&self, listener: &Listener) -> Admission {
        let mut limits = self.broker.limits.clone();
        limits.maximum_qos = listener.maximum_qos.unwrap_or(limits.maximum_qos);
        let aliases = listener.topic_alias_maximum;
        limits.topic_alias_maximum = aliases.unwrap_or(limits.topic_alias_maximum);
        let aliases = listener.send_alias_maximum;
        limits.send_alias_maximum = aliases.unwrap_or(limits.send_alias_maximum);
        let prefix = listener.assigned_prefix.as_ref().unwrap_or(&self.assigned_prefix);
        Admission {
            limits,
            versions: listener.versions.clone(),
            assigns_ids: listener.assigns_ids.unwrap_or(self.assigns_ids),
            assigned_prefix: prefix.as_str().into(),
            required_prefix: self.required_prefix.as_deref().map(Into::into),
            names_are_ids: listener.names_are_ids,
            mount_point: listener.mount_point.as_deref().map(Into::into),
            trusts_certificates: !listener.distrusts_certificates,
            payload_max: self.payload_max,
            sessions_max: self.sessions_max,
            rates: Rates {
                messages: listener.message_rate.unwrap_or(self.rates.messages),
                bytes: listener.byte_rate.unwrap_or(self.rates.bytes),
            },
            port: listener.port.unwrap_or(0),
            place: match &listener.socket {
                Some(path) => path.to_string_lossy().into(),
                None => listener.port.unwrap_or(0).to_string().into(),
            },
            look: self.journal.look,
            is_reported: self.reports_connections,
        }
    }

    fn listener_options(
        &self,
        listener: &Listener,
        bind: Bind,
    ) -> Result<listener::Options, String> {
        let packet_max = self.broker.limits.maximum_packet_size;
        if !listener.is_websocket && !listener.websocket_origins.is_empty() {
            return Err("`websockets_origin` needs `protocol = \"websockets\"`".into());
        }
        let websocket = listener.is_websocket.then(|| websocket::Options {
            path: listener.websocket_path.clone().unwrap_or_else(|| "/mqtt".into()),
            origins: listener.websocket_origins.clone(),
            subprotocols: vec!["mqtt".into(), "mqttv3.1".into()],
            // A frame may hold several packets.
            frame_bytes_max: packet_max.saturating_mul(2).max(1 << 20),
        });
        Ok(listener::Options {
            bind,
            proxy: listener.proxy()?,
            tls: listener.tls()?,
            websocket,
            connections_max: listener.connections_max.unwrap_or(self.connections_max),
            backlog: 4096,
            nodelay: listener.is_prompt.unwrap_or(self.is_prompt),
            interface: listener.interface.clone(),
            handshake_timeout: self.connect_timeout,
            backoff_max: self.accept_backoff_max,
        })
    }
}

impl Listener {
    fn binds(&self) -> Result<Vec<Bind>, String> {
        if let Some(path) = &self.socket {
            return Ok(vec![Bind::Unix(path.clone())]);
        }
        let Some(port) = self.port else {
            return Err("a listener needs `port`, or `socket` for a unix socket".into());
        };
        let pair = |v4: Ipv4Addr, v6: Ipv6Addr| {
            [IpAddr::V4(v4), IpAddr::V6(v6)].map(|ip| Bind::Tcp(SocketAddr::new(ip, port))).to_vec()
        };
        let binds: Result<Vec<Bind>, String> = match self.bind_address.as_deref() {
            None => Ok(pair(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED)),
            Some("localhost") => Ok(pair(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST)),
            Some(host) => {
                let addresses = std::net::ToSocketAddrs::to_socket_addrs(&(host, port));
                let addresses = addresses.map_err(|e| format!("bind_address `{host}`: {e}"))?;
                Ok(addresses.map(Bind::Tcp).collect())
            }
        };
        let is_wanted = |bind: &Bind| match (self.domain, bind) {
            (Some(Domain::V4), Bind::Tcp(address)) => address.is_ipv4(),
            (Some(Domain::V6), Bind::Tcp(address)) => address.is_ipv6(),
            _ => true,
        };
        let binds: Vec<_> = binds?.into_iter().filter(is_wanted).collect();
        if binds.is_empty() {
            return Err("`bind_address` has no address of the `socket_domain`".into());
        }
        Ok(binds)
    }

    fn proxy(&self) -> Result<Option<proxy::Options>, String> {
        match (self.proxy_version, &self.proxy_from) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err("`proxy_protocol_from` needs `enable_proxy_protocol`".into()),
            (Some(_), _) if self.socket.is_some() => {
                Err("`enable_proxy_protocol` needs `port`: it is spoken over TCP only".into())
            }
            (Some(version), from) => {
                let local = || PROXIES_BY_DEFAULT.iter().flat_map(|text| text.parse()).collect();
                Ok(Some(proxy::Options { version, from: from.clone().unwrap_or_else(local) }))
            }
        }
    }

    fn tls(&self) -> Result<Option<tls::Options>, String> {
        let (certificates, keys) = (&self.certfile, &self.keyfile);
        let has_authorities = self.cafile.is_some() || self.capath.is_some();
        if certificates.is_empty() && keys.is_empty() {
            let asks = has_authorities || self.require_certificate || self.crlfile.is_some();
            return match asks {
                false => Ok(None),
                true => Err("`cafile` and `require_certificate` need `certfile`".into()),
            };
        }
        match (certificates.len(), keys.len()) {
            (_, 0) => return Err("`certfile` needs `keyfile`".into()),
            (0, _) => return Err("`keyfile` needs `certfile`".into()),
            (certificates, keys) if certificates != keys => {
                return Err(format!(
                    "`certfile` names {certificates} files and `keyfile` {keys}: write the key of \
                     each certificate at the same place"
                ));
            }
            _ => {}
        }
        let naming = self.naming()?;
        if self.require_certificate && !has_authorities {
            return Err("`require_certificate` needs `cafile`, to judge certificates by".into());
        }
        if (self.crlfile.is_some() || naming.is_some()) && !has_authorities {
            let key = if self.crlfile.is_some() { "crlfile" } else { "use_..._as_username" };
            return Err(format!("`{key}` needs `cafile`, to judge certificates by"));
        }
        let pair = |(certificate, key): (&PathBuf, &PathBuf)| tls::Pair {
            certificate: certificate.clone(),
            key: key.clone(),
        };
        Ok(Some(tls::Options {
            certificates: certificates.iter().zip(keys).map(pair).collect(),
            client_ca: self.cafile.clone(),
            client_ca_directory: self.capath.clone(),
            revoked: self.crlfile.clone(),
            require_certificate: self.require_certificate,
            is_timeless: self.is_timeless,
            naming,
            tls13_only: self.tls13_only,
            ciphers: self.ciphers.clone(),
            ciphers_tls13: self.ciphers_tls13.clone(),
        }))
    }

    fn naming(&self) -> Result<Option<tls::Naming>, String> {
        let asked = [
            (self.use_identity_as_username, tls::Naming::CommonName),
            (self.use_subject_as_username, tls::Naming::Subject),
            (self.use_san_as_username, tls::Naming::AlternativeName),
        ];
        let mut asked = asked.into_iter().filter(|(asked, _)| *asked).map(|(_, naming)| naming);
        match (asked.next(), asked.next()) {
            (naming, None) => Ok(naming),
            _ => Err("a Client has one user name: choose one of `use_identity_as_username`, \
                      `use_subject_as_username`, `use_san_as_username`"
                .into()),
        }
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
