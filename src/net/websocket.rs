//! WebSocket as a byte stream: the bytes of binary frames one after the other, wherever frames
//! begin and end [MQTT-6.0.0-2].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

/// Settings of the upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The path that is upgraded, beside `/`.
    pub path: String,
    /// Subprotocols that are spoken, the preferred one first.
    pub subprotocols: Vec<String>,
    /// Largest frame accepted, in bytes.
    pub frame_bytes_max: usize,
}

/// Bytes of MQTT in a frame that is sent, at most.
const FRAME_SENT_MAX: usize = 64 << 10;

/// Bytes of the header of a frame that is sent, at most.
const FRAME_HEADER: usize = 10;

/// Bytes that wait to be sent, at most: frames of ours and pongs that the peer has not read.
/// Beyond that only the last ping is answered.
const WRITE_BUFFER_MAX: usize = 2 * FRAME_SENT_MAX;

/// What cannot be upgraded is closed; a wrong path or subprotocol is answered with an HTTP error.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    options: &Options,
) -> io::Result<WebSocket<S>> {
    let config = WebSocketConfig::default()
        .max_frame_size(Some(options.frame_bytes_max))
        .max_message_size(Some(options.frame_bytes_max))
        .read_buffer_size(8 << 10)
        .write_buffer_size(FRAME_SENT_MAX)
        .max_write_buffer_size(WRITE_BUFFER_MAX);
    #[expect(clippy::result_large_err, reason = "the signature is tungstenite's")]
    let callback = |request: &Request, response: Response| negotiate(request, response, options);
    let stream = tokio_tungstenite::accept_hdr_async_with_config(stream, callback, Some(config))
        .await
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    Ok(WebSocket { stream, incoming: Bytes::new(), unflushed: 0 })
}

/// Chooses the subprotocol [MQTT-6.0.0-4]. A client that offers none is served: some device
/// libraries leave the header out, and what they send is judged anyway.
#[expect(clippy::result_large_err, reason = "the signature is tungstenite's")]
fn negotiate(
    request: &Request,
    mut response: Response,
    options: &Options,
) -> Result<Response, ErrorResponse> {
    let refuse = |status: StatusCode, why: &str| {
        let mut response = ErrorResponse::new(Some(why.to_owned()));
        *response.status_mut() = status;
        Err(response)
    };
    let path = request.uri().path();
    if path != options.path && path != "/" {
        return refuse(StatusCode::NOT_FOUND, &format!("not found; use {}\n", options.path));
    }
    let offered: Vec<&str> = request
        .headers()
        .get_all("Sec-WebSocket-Protocol")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    if offered.is_empty() {
        return Ok(response);
    }
    let spoken = options.subprotocols.iter().find(|spoken| offered.contains(&spoken.as_str()));
    match spoken.and_then(|spoken| HeaderValue::from_str(spoken).ok()) {
        Some(spoken) => {
            response.headers_mut().insert("Sec-WebSocket-Protocol", spoken);
            Ok(response)
        }
        None => refuse(
            StatusCode::BAD_REQUEST,
            &format!("unknown subprotocol; use {}\n", options.subprotocols.join(" or ")),
        ),
    }
}

/// A WebSocket connection as a byte stream.
#[derive(Debug)]
pub struct WebSocket<S> {
    stream: WebSocketStream<S>,
    /// What of the last frame has not been read.
    incoming: Bytes,
    /// Bytes in frames that have not left.
    unflushed: usize,
}

impl<S> WebSocket<S> {
    /// What carries it.
    pub fn get_ref(&self) -> &S
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.stream.get_ref()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Sends all frames.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx)).map_err(io_error)?;
        self.unflushed = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.incoming.is_empty() {
            match ready!(Pin::new(&mut this.stream).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => this.incoming = bytes,
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(Message::Text(_))) => {
                    // [MQTT-6.0.0-1]
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "a WebSocket text frame",
                    )));
                }
                Some(Err(Error::ConnectionClosed | Error::AlreadyClosed)) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
            }
        }
        let len = this.incoming.len().min(buf.remaining());
        buf.put_slice(&this.incoming.split_to(len));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let sent = buf.get(..FRAME_SENT_MAX).unwrap_or(buf);
        if this.unflushed == 0 || this.unflushed.saturating_add(sent.len()) > FRAME_SENT_MAX {
            // Also what was answered to pings, so that there is room for a frame.
            ready!(this.poll_send(cx))?;
        }
        let frame = Message::Binary(Bytes::copy_from_slice(sent));
        match Pin::new(&mut this.stream).start_send(frame) {
            Ok(()) => {}
            Err(Error::WriteBufferFull(frame)) => {
                ready!(this.poll_send(cx))?;
                Pin::new(&mut this.stream).start_send(*frame).map_err(io_error)?;
            }
            Err(error) => return Poll::Ready(Err(io_error(error))),
        }
        this.unflushed += sent.len() + FRAME_HEADER;
        Poll::Ready(Ok(sent.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.unflushed > 0 { this.poll_send(cx) } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_close(cx)).map_err(io_error)?;
        // Nothing follows the Close frame; with TLS its end must be said too.
        Pin::new(this.stream.get_mut()).poll_shutdown(cx)
    }
}

fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    }
}
