//! One byte stream, however it is carried.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use super::tls::Certified;
use super::websocket::WebSocket;

/// A stream of bytes that is none of ours: a simulated network, say.
pub trait Stream: AsyncRead + AsyncWrite + fmt::Debug + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Sync + Unpin> Stream for T {}

/// A stream of bytes in both directions. Plain TCP is kept small; the others are boxed.
#[derive(Debug)]
pub enum Transport {
    /// TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// WebSocket over TCP.
    WebSocket(Box<WebSocket<TcpStream>>),
    /// WebSocket over TLS.
    SecureWebSocket(Box<WebSocket<TlsStream<TcpStream>>>),
    /// Anything else, for simulations.
    Other(Box<dyn Stream>),
}

/// Calls a method of whichever stream it is.
macro_rules! each {
    ($transport:expr, $stream:ident => $call:expr) => {
        match $transport {
            Transport::Tcp($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Transport::Unix($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Transport::Tls($stream) => {
                let $stream = Pin::new($stream.as_mut());
                $call
            }
            Transport::WebSocket($stream) => {
                let $stream = Pin::new($stream.as_mut());
                $call
            }
            Transport::SecureWebSocket($stream) => {
                let $stream = Pin::new($stream.as_mut());
                $call
            }
            Transport::Other($stream) => {
                let $stream = Pin::new($stream.as_mut());
                $call
            }
        }
    };
}

impl Transport {
    /// Whether the stream ends well when it is just closed.
    pub fn ends_by_closing(&self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Unix(_))
    }

    /// Waits until the peer has closed its side or broken the connection, as far as that can be
    /// seen without reading: of plain TCP, and not behind bytes that wait to be read.
    pub async fn gone(&self) {
        if let Self::Tcp(stream) = self
            && matches!(stream.peek(&mut [0]).await, Ok(0) | Err(_))
        {
            return;
        }
        std::future::pending().await
    }

    /// Whether a read would find nothing, as far as that is known without one; the task is woken
    /// when that has changed. Costs a third of a read that finds nothing.
    pub fn is_silent(&self, cx: &mut Context<'_>) -> bool {
        matches!(self, Self::Tcp(stream) if stream.poll_read_ready(cx).is_pending())
    }

    /// Whether what is written at once arrives as a frame that the peer sees.
    pub fn has_frames(&self) -> bool {
        matches!(self, Self::WebSocket(_) | Self::SecureWebSocket(_))
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => stream.poll_write_vectored(cx, bufs))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => stream.poll_shutdown(cx))
    }
}

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address; `None` for a unix socket.
    pub address: Option<SocketAddr>,
    /// Whether that is a proxy's, which has not said for whom it speaks.
    pub is_proxy: bool,
    /// Whether it is on this machine.
    pub is_loopback: bool,
    /// Whether it has shown a certificate that the listener trusts.
    pub has_certificate: bool,
    /// The subject of that.
    pub certificate_subject: Option<Arc<str>>,
    /// The version of TLS and the cipher suite that it speaks, with us or with its proxy.
    pub negotiated: Option<Box<str>>,
    /// Who it is by its certificate, where the listener asks for that.
    pub certified: Certified,
}

impl Peer {
    /// Who is at the other end of a connection that nobody passes on.
    pub fn direct(address: Option<SocketAddr>) -> Self {
        let is_loopback = address.is_none_or(|address| address.ip().to_canonical().is_loopback());
        Self {
            address,
            is_proxy: false,
            is_loopback,
            has_certificate: false,
            certificate_subject: None,
            negotiated: None,
            certified: Certified::NotAsked,
        }
    }

    /// What is left to be known of it once it has been let in.
    pub fn origin(&self) -> Origin {
        Origin { address: self.address, is_proxy: self.is_proxy }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.origin().fmt(f)
    }
}

/// Where somebody comes from.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    address: Option<SocketAddr>,
    is_proxy: bool,
}

impl Origin {
    /// The Client's address, as far as it is known.
    pub fn client_address(self) -> Option<SocketAddr> {
        self.address.filter(|_| !self.is_proxy)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => address.fmt(f),
            None => f.write_str("unix"),
        }
    }
}
