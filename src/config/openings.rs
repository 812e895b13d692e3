//! What is to be opened: each listener with all that holds for its Clients.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::{Config, Domain, Listener};
use crate::access::Anonymous;
use crate::access::book::Sources;
use crate::connection::{Admission, Rates};
use crate::doorman::bucket::Rate;
use crate::net::listener::{self, Bind};
use crate::net::proxy::secured::Asked;
use crate::net::{proxy, tls, websocket};
use crate::session::connect::Manner;
use crate::store::Durability;

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
pub(super) const PASSWORDS: &str = "passwords";

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
            (None, _) if self.requires_proxied_tls => self.asked_of_proxies().map(|_| None),
            (None, None) => Ok(None),
            (None, Some(_)) => Err("`proxy_protocol_from` needs `enable_proxy_protocol`".into()),
            (Some(_), _) if self.socket.is_some() => {
                Err("`enable_proxy_protocol` needs `port`: it is spoken over TCP only".into())
            }
            (Some(version), from) => {
                let local = || PROXIES_BY_DEFAULT.iter().flat_map(|text| text.parse()).collect();
                let from = from.clone().unwrap_or_else(local);
                Ok(Some(proxy::Options { version, from, asked: self.asked_of_proxies()? }))
            }
        }
    }

    /// Whether the TLS that its Clients speak is the proxy's, which says so.
    fn has_tls_of_proxies(&self) -> bool {
        self.proxy_version == Some(proxy::Version::Two) && self.certfile.is_empty()
    }

    /// What is asked of the TLS between the proxy and its Clients.
    fn asked_of_proxies(&self) -> Result<Asked, String> {
        if !self.has_tls_of_proxies() {
            return match self.requires_proxied_tls {
                true => {
                    Err("`proxy_protocol_v2_require_tls` needs `enable_proxy_protocol` 2, and \
                             no `certfile`"
                        .into())
                }
                false => Ok(Asked::default()),
            };
        }
        let name = match self.naming()? {
            None => false,
            Some(tls::Naming::CommonName) => true,
            Some(_) => {
                return Err("of a certificate proxies say the Common Name only: \
                            `use_identity_as_username`"
                    .into());
            }
        };
        let certificate = self.require_certificate;
        Ok(Asked { tls: self.requires_proxied_tls, certificate, name })
    }

    fn tls(&self) -> Result<Option<tls::Options>, String> {
        let (certificates, keys) = (&self.certfile, &self.keyfile);
        let has_authorities = self.cafile.is_some() || self.capath.is_some();
        if certificates.is_empty() && keys.is_empty() {
            let requires = self.require_certificate && !self.has_tls_of_proxies();
            return match has_authorities || requires || self.crlfile.is_some() {
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
