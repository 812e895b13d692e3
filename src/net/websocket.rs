//! WebSocket as a byte stream: the bytes of binary frames one after the other, wherever frames
//! begin and end [MQTT-6.0.0-2].
//!
//! The upgrade is tungstenite's, the frames are our own ([`super::frames`]): bytes are handed on
//! as they come, so that an idle connection holds nothing and a frame costs its sender the bytes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::handshake::server::{create_response, write_response};
use tungstenite::http::{HeaderValue, StatusCode};

use super::frames::{self, Decoder, End, Opcode};

/// Settings of the upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The path that is upgraded, beside `/`.
    pub path: String,
    /// Origins whose pages may open one, such as `https://example.org`; all if none is named.
    /// What is no browser names none, and is not asked.
    pub origins: Vec<String>,
    /// Subprotocols that are spoken, the preferred one first.
    pub subprotocols: Vec<String>,
    /// Largest frame accepted, in bytes. No memory hangs on it: it is beyond what any Client has
    /// a use for, and a claim above it shows at once that what comes are no frames.
    pub frame_bytes_max: usize,
}

/// Bytes of a request, at most. Browsers and servers have agreed on about that.
const REQUEST_BYTES_MAX: usize = 16 << 10;

/// Bytes of MQTT in a frame that is sent, at most.
const FRAME_SENT_MAX: usize = 64 << 10;

/// Bytes in frames that wait to be sent, at most; a Pong and a Close may come on top.
const OUTGOING_MAX: usize = FRAME_SENT_MAX + frames::HEADER_BYTES_MAX;

/// Reads that carry nothing before others of the same thread have their turn: control frames may
/// come without end.
const EMPTY_READS_MAX: usize = 4;

/// What cannot be upgraded is closed; a wrong path or subprotocol is answered with an HTTP error.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    options: &Options,
) -> io::Result<WebSocket<S>> {
    let request = read_request(&mut stream).await?;
    let response = create_response(&request).map_err(invalid)?;
    let mut answer = vec![];
    match negotiate(&request, response, options) {
        Ok(response) => {
            write_upgrade(&response, &mut answer);
            stream.write_all(&answer).await?;
            stream.flush().await?;
        }
        Err(response) => {
            write_response(&mut answer, &response).map_err(invalid)?;
            answer.extend_from_slice(response.body().as_deref().unwrap_or_default().as_bytes());
            stream.write_all(&answer).await?;
            stream.shutdown().await?;
            return Err(invalid(format!("no upgrade: {}", response.status())));
        }
    }
    let decoder = Decoder::new(options.frame_bytes_max);
    Ok(WebSocket { stream, decoder, outgoing: vec![], is_flushed: true, is_closing: false })
}

/// Appends the answer that upgrades, with names written as mosquitto writes them: there are devices
/// that compare letters.
fn write_upgrade(response: &Response, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\n");
    out.extend_from_slice(b"Connection: Upgrade\r\n");
    for name in ["Sec-WebSocket-Accept", "Sec-WebSocket-Protocol"] {
        if let Some(value) = response.headers().get(name) {
            out.extend_from_slice(&[name.as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Reads the request. It is looked at as often as bytes come: with its size bounded, that costs
/// no more than the reads.
async fn read_request<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Request> {
    let mut head = Vec::with_capacity(1024);
    while head.len() < REQUEST_BYTES_MAX {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match Request::try_parse(&head).map_err(invalid)? {
            Some((len, request)) if len == head.len() => return Ok(request),
            // Section 4.1 of RFC 6455: a client waits for the answer.
            Some(_) => return Err(invalid("bytes before the upgrade was answered")),
            None => {}
        }
    }
    Err(invalid("a request for an upgrade that is too long"))
}

fn invalid(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
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
    let is_allowed = |origin: &HeaderValue| {
        options.origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes())
    };
    if !options.origins.is_empty()
        && request.headers().get("Origin").is_some_and(|o| !is_allowed(o))
    {
        return refuse(StatusCode::FORBIDDEN, "not for pages of this origin\n");
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

/// A WebSocket connection as a byte stream. Each write becomes a frame; frames leave when it is
/// flushed or they become many. The peer's Close frame is the end of what is read; ours is sent by
/// the shutdown. One task reads and writes: pings are answered by who reads.
#[derive(Debug)]
pub struct WebSocket<S> {
    stream: S,
    decoder: Decoder,
    /// Frames that have not left.
    outgoing: Vec<u8>,
    /// Whether the stream holds back nothing of those that have.
    is_flushed: bool,
    /// Whether Close is among the frames that were sent.
    is_closing: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Sends all frames.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sent = 0;
        let result = loop {
            let unsent = self.outgoing.get(sent..).unwrap_or_default();
            if unsent.is_empty() {
                break Poll::Ready(Ok(()));
            }
            match Pin::new(&mut self.stream).poll_write(cx, unsent) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => sent += n,
                other => break other.map_ok(|_| ()),
            }
        };
        self.is_flushed &= sent == 0;
        if sent == self.outgoing.len() {
            self.outgoing = Vec::new();
        } else if sent > 0 {
            self.outgoing.drain(..sent);
        }
        self.outgoing.shrink_to_fit();
        ready!(result)?;
        if !self.is_flushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Answers the last ping, unless the peer does not take what was sent before: then its answer
    /// stays owed. An error is left to who writes.
    fn answer(&mut self, cx: &mut Context<'_>) {
        if self.is_closing || !self.decoder.has_ping() {
            return;
        }
        if let Poll::Ready(Ok(())) = self.poll_send(cx)
            && let Some(ping) = self.decoder.take_ping()
        {
            frames::encode(Opcode::Pong, &ping, &mut self.outgoing);
            let _ = self.poll_send(cx);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        for _ in 0..EMPTY_READS_MAX {
            this.answer(cx);
            match this.decoder.end() {
                None => {}
                Some(End::Closed(_)) => return Poll::Ready(Ok(())),
                Some(End::Violated(violation)) => {
                    // It is told why as far as it listens.
                    let _ = Pin::new(&mut *this).poll_shutdown(cx);
                    return Poll::Ready(Err(invalid(violation)));
                }
            }
            // Read to where the bytes are wanted; frames are made away with in place.
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            let fresh = buf.filled_mut().get_mut(before..).unwrap_or_default();
            if fresh.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let carried = this.decoder.decode(fresh);
            buf.set_filled(before + carried);
            if carried > 0 {
                this.answer(cx);
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_closing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let sent = buf.get(..FRAME_SENT_MAX).unwrap_or(buf);
        if this.outgoing.len() + frames::HEADER_BYTES_MAX + sent.len() > OUTGOING_MAX {
            ready!(this.poll_send(cx))?;
        }
        frames::encode(Opcode::Binary, sent, &mut this.outgoing); // [MQTT-6.0.0-1]
        Poll::Ready(Ok(sent.len()))
    }

    /// What comes in pieces is one frame like what does not.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut whole = Vec::new();
        for buf in bufs {
            let room = FRAME_SENT_MAX.saturating_sub(whole.len());
            whole.extend_from_slice(buf.get(..room).unwrap_or(buf));
        }
        self.poll_write(cx, &whole)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.is_closing {
            this.is_closing = true;
            let code = this.decoder.end().and_then(End::answer).map(u16::to_be_bytes);
            let payload = code.as_ref().map_or(&[][..], |code| code);
            frames::encode(Opcode::Close, payload, &mut this.outgoing);
        }
        ready!(this.poll_send(cx))?;
        // Nothing follows the Close frame; with TLS its end must be said too.
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
