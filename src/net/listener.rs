//! Listeners: where Clients come in.
//!
//! [`Listener::accept`] yields a socket that no reactor knows yet; [`Accepted::open`] is run by
//! the worker that will serve it, so that it is registered once. When the process has no
//! descriptors left, accepting pauses instead of spinning. A listener's options can change: who has
//! come before keeps those under which it came.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::net::{SocketAddrAny, SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol as SocketProtocol, SockRef, Socket, Type};
use thiserror::Error;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;

use super::proxy;
use super::tls::{self, Certified, Tls, TlsError};
use super::transport::{Origin, Peer, Transport};
use super::websocket::{self, WebSocket};

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Bind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Settings of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where to listen.
    pub bind: Bind,
    /// The PROXY protocol, if connections come through a proxy. Over TCP only.
    pub proxy: Option<proxy::Options>,
    /// TLS, if it is spoken.
    pub tls: Option<tls::Options>,
    /// WebSocket, if it is spoken.
    pub websocket: Option<websocket::Options>,
    /// Connections at once; more are a surplus.
    pub connections_max: usize,
    /// Connections that wait to be accepted.
    pub backlog: u32,
    /// Whether small packets are sent without delay (TCP_NODELAY).
    pub nodelay: bool,
    /// The network interface it listens on, if not on all.
    pub interface: Option<String>,
    /// Longest time for PROXY header, TLS handshake and WebSocket upgrade together.
    pub handshake_timeout: Duration,
    /// Longest pause when the process has no descriptors left.
    pub backoff_max: Duration,
}

/// Why a listener cannot be opened.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Somebody else listens there.
    #[error("cannot listen on {bind}: it is in use; is another broker running?")]
    InUse {
        /// Where.
        bind: Bind,
    },
    /// The system refuses.
    #[error("cannot listen on {bind}: {error}")]
    Refused {
        /// Where.
        bind: Bind,
        /// Why.
        error: io::Error,
    },
    /// TLS cannot be set up.
    #[error("cannot listen on {bind}: {error}")]
    Tls {
        /// Where.
        bind: Bind,
        /// Why.
        error: TlsError,
    },
}

#[derive(Debug)]
enum Socks {
    Tcp(AsyncFd<TcpListener>),
    Unix(AsyncFd<std::os::unix::net::UnixListener>),
}

/// Where Clients come in.
#[derive(Debug)]
pub struct Listener {
    socket: Socks,
    shared: Arc<Shared>,
}

/// What a listener's connections share.
#[derive(Debug)]
struct Shared {
    options: Options,
    tls: Option<Arc<Tls>>,
    /// Also those that came under other options.
    connections: Arc<AtomicUsize>,
}

/// A connection that was accepted and is not served yet.
#[derive(Debug)]
pub struct Accepted {
    socket: Stream,
    peer: Peer,
    permit: Permit,
    is_surplus: bool,
}

#[derive(Debug)]
enum Stream {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// One of the connections that a listener may have; dropped, it is free again.
#[derive(Debug)]
pub struct Permit(Arc<Shared>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Listener {
    /// Begins to listen. To be called within the runtime that will accept.
    pub fn bind(options: &Options) -> Result<Self, ListenError> {
        let tls = Self::read_tls(options)?;
        let socket = match &options.bind {
            Bind::Tcp(address) => listen_tcp(options, *address).map(Socks::Tcp),
            Bind::Unix(path) => listen_unix(path).map(Socks::Unix),
        };
        let socket = socket.map_err(|error| {
            let bind = options.bind.clone();
            match error.kind() {
                io::ErrorKind::AddrInUse => ListenError::InUse { bind },
                _ => ListenError::Refused { bind, error },
            }
        })?;
        let options = options.clone();
        let shared = Arc::new(Shared { options, tls, connections: Arc::default() });
        Ok(Self { socket, shared })
    }

    /// Takes other options, and what [`Listener::read_tls`] made of them, for connections to come.
    /// It listens where it did: `bind` and `interface` are those of before.
    pub fn change(&mut self, options: &Options, tls: Option<Arc<Tls>>) {
        if let Socks::Tcp(socket) = &self.socket {
            // Where the system refuses, packets are delayed as before.
            let _ = SockRef::from(socket.get_ref()).set_tcp_nodelay(options.nodelay);
        }
        let (options, connections) = (options.clone(), self.shared.connections.clone());
        self.shared = Arc::new(Shared { options, tls, connections });
    }

    /// How many connections that it has accepted there are.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Reads what the options say of TLS.
    pub fn read_tls(options: &Options) -> Result<Option<Arc<Tls>>, ListenError> {
        let tls = options.tls.as_ref().map(Tls::open).transpose();
        let tls = tls.map_err(|error| ListenError::Tls { bind: options.bind.clone(), error })?;
        Ok(tls.map(Arc::new))
    }

    /// Its TLS, whose files can be read again.
    pub fn tls(&self) -> Option<&Arc<Tls>> {
        self.shared.tls.as_ref()
    }

    /// Where it listens; the port is known even if the settings left it open.
    pub fn local_address(&self) -> Bind {
        match &self.socket {
            Socks::Tcp(socket) => match socket.get_ref().local_addr() {
                Ok(address) => Bind::Tcp(address),
                Err(_) => self.shared.options.bind.clone(),
            },
            Socks::Unix(_) => self.shared.options.bind.clone(),
        }
    }

    /// The next connection.
    pub async fn accept(&self) -> Accepted {
        let mut pause = Duration::from_millis(100);
        loop {
            match self.accept_one().await {
                Ok(accepted) => return accepted,
                Err(error) if is_exhaustion(&error) => {
                    let bind = &self.shared.options.bind;
                    tracing::warn!("cannot accept on {bind}: {error}; trying again in {pause:?}");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(self.shared.options.backoff_max);
                }
                // The connection was gone before it was accepted.
                Err(error) => tracing::debug!("accept: {error}"),
            }
        }
    }

    async fn accept_one(&self) -> io::Result<Accepted> {
        let (socket, address) = match &self.socket {
            Socks::Tcp(listener) => {
                let (socket, address) = accept(listener).await?;
                let address = address.and_then(|address| SocketAddr::try_from(address).ok());
                (Stream::Tcp(socket.into()), address)
            }
            Socks::Unix(listener) => (Stream::Unix(accept(listener).await?.0.into()), None),
        };
        let connections = self.shared.connections.fetch_add(1, Ordering::Relaxed);
        let permit = Permit(self.shared.clone());
        let is_surplus = connections >= self.shared.options.connections_max;
        // Until a proxy has said for whom it speaks.
        let is_proxy = self.shared.options.proxy.is_some();
        let peer = Peer { is_proxy, ..Peer::direct(address) };
        Ok(Accepted { socket, peer, permit, is_surplus })
    }
}

impl Accepted {
    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Whether it is one too many for its listener, and only to be dropped.
    pub fn is_surplus(&self) -> bool {
        self.is_surplus
    }

    /// Makes a byte stream of it: PROXY header, TLS handshake and WebSocket upgrade, where the
    /// listener speaks them. To be called within the runtime that will serve it. `peer` becomes
    /// who it is; whom a proxy names is let in by `admits`, or nothing more is heard of it.
    pub async fn open(
        self,
        peer: &mut Peer,
        admits: impl FnMut(Origin) -> bool,
    ) -> io::Result<(Transport, Permit)> {
        let Self { socket, permit, .. } = self;
        let timeout = permit.0.options.handshake_timeout;
        let transport = match socket {
            Stream::Unix(socket) => Transport::Unix(UnixStream::from_std(socket)?),
            Stream::Tcp(socket) => {
                let stream = TcpStream::from_std(socket)?;
                let options = &permit.0.options;
                match (&options.proxy, &permit.0.tls, &options.websocket) {
                    (None, None, None) => Transport::Tcp(stream),
                    _ => {
                        let open = handshake(stream, &permit.0, peer, admits);
                        // Boxed: a handshake's state must not be carried by idle connections.
                        tokio::time::timeout(timeout, Box::pin(open))
                            .await
                            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??
                    }
                }
            }
        };
        Ok((transport, permit))
    }
}

async fn handshake(
    mut stream: TcpStream,
    shared: &Shared,
    peer: &mut Peer,
    mut admits: impl FnMut(Origin) -> bool,
) -> io::Result<Transport> {
    let Options { proxy, websocket, .. } = &shared.options;
    if let Some(options) = proxy {
        proxy::accept(&mut stream, options, peer).await?;
        if !admits(peer.origin()) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "not let in"));
        }
    }
    let (stream, naming) = match &shared.tls {
        None => {
            let Some(options) = websocket else { return Ok(Transport::Tcp(stream)) };
            let stream: WebSocket<TcpStream> = websocket::accept(stream, options).await?;
            return Ok(Transport::WebSocket(Box::new(stream)));
        }
        Some(tls) => (TlsAcceptor::from(tls.config()).accept(stream).await?, tls.naming()),
    };
    // With TLS of the listener's own the proxy's is not asked for.
    peer.negotiated = tls::negotiated(stream.get_ref().1);
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    peer.has_certificate = certificate.is_some();
    peer.certified = Certified::by(naming, certificate.map(|der| &**der));
    peer.certificate_subject = certificate.and_then(|der| tls::subject_of(der));
    Ok(match websocket {
        None => Transport::Tls(Box::new(stream)),
        Some(options) => {
            Transport::SecureWebSocket(Box::new(websocket::accept(stream, options).await?))
        }
    })
}

/// The next socket, which does not block: one system call.
async fn accept<L>(listener: &AsyncFd<L>) -> io::Result<(OwnedFd, Option<SocketAddrAny>)>
where
    L: AsRawFd + AsFd,
{
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    loop {
        let mut guard = listener.readable().await?;
        let accepted = guard.try_io(|listener| Ok(acceptfrom_with(listener.get_ref(), flags)?));
        if let Ok(accepted) = accepted {
            return accepted;
        }
    }
}

fn listen_tcp(options: &Options, address: SocketAddr) -> io::Result<AsyncFd<TcpListener>> {
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM, Some(SocketProtocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // So that [::] and 0.0.0.0 can be listened on side by side.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    if let Some(interface) = &options.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    socket.bind(&address.into())?;
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(options.nodelay)?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    register(socket.into())
}

/// Registers a listener with the runtime's reactor.
#[expect(deprecated, reason = "unsound for types that may change their descriptor; these do not")]
fn register<L: AsRawFd>(listener: L) -> io::Result<AsyncFd<L>> {
    AsyncFd::new(listener)
}

fn listen_unix(path: &Path) -> io::Result<AsyncFd<std::os::unix::net::UnixListener>> {
    use std::os::unix::net::{UnixListener, UnixStream};
    let is_socket = path.metadata().is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket {
        match UnixStream::connect(path) {
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            // Left behind by a process that did not end well.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?;
            }
            Err(_) => {}
        }
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    register(listener)
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Bind::Unix(path) = &self.shared.options.bind {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Whether the process or the system has run out of something that will come back.
fn is_exhaustion(error: &io::Error) -> bool {
    // EMFILE, ENFILE, ENOBUFS, ENOMEM.
    matches!(error.raw_os_error(), Some(24 | 23 | 105 | 12))
}
