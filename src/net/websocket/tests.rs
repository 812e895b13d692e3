//! The stream by itself, in memory, with a Client made by hand.

use super::*;
use std::task::Waker;
use tokio::io::{DuplexStream, duplex};

fn request(path: &str, more: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
    .into_bytes()
}

fn options() -> Options {
    Options {
        path: "/mqtt".into(),
        origins: vec![],
        subprotocols: vec!["mqtt".into(), "mqttv3.1".into()],
        frame_bytes_max: 1 << 20,
    }
}

/// A connection, and the Client's end of a pipe that holds so many bytes each way.
async fn open(pipe: usize) -> (WebSocket<DuplexStream>, DuplexStream) {
    let (mut client, server) = duplex(pipe);
    let options = options();
    let (accepted, head) = tokio::join!(accept(server, &options), async {
        client.write_all(&request("/mqtt", "")).await.unwrap();
        head(&mut client).await
    });
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    (accepted.unwrap(), client)
}

async fn head(client: &mut DuplexStream) -> String {
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        match client.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// A masked frame of at most 125 bytes.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [9, 8, 7, 6];
    let masked = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    [first, 0x80 | payload.len() as u8].into_iter().chain(mask).chain(masked).collect()
}

fn noop() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn try_read(ws: &mut WebSocket<DuplexStream>) -> Poll<io::Result<Vec<u8>>> {
    let mut bytes = [0; 1000];
    let mut buf = ReadBuf::new(&mut bytes);
    let read = Pin::new(ws).poll_read(&mut noop(), &mut buf);
    read.map_ok(|()| buf.filled().to_vec())
}

/// What is in the pipe for the Client.
fn try_receive(client: &mut DuplexStream) -> Vec<u8> {
    let mut bytes = vec![0; 200_000];
    let mut buf = ReadBuf::new(&mut bytes);
    let _ = Pin::new(client).poll_read(&mut noop(), &mut buf);
    buf.filled().to_vec()
}

#[tokio::test]
async fn a_request_in_single_bytes_is_upgraded() {
    let (mut client, server) = duplex(1);
    let options = options();
    let more = format!("Sec-WebSocket-Protocol: x, mqtt\r\nX: {}\r\n", "x".repeat(2000));
    let (accepted, head) = tokio::join!(accept(server, &options), async {
        client.write_all(&request("/", &more)).await.unwrap();
        head(&mut client).await
    });
    assert!(head.contains("\r\nSec-WebSocket-Protocol: mqtt\r\n"), "{head}");
    accepted.unwrap();
}

#[tokio::test]
async fn a_request_that_is_none_is_not_answered_and_a_wrong_one_is_told() {
    let early = [request("/mqtt", ""), frame(0x82, b"early")].concat();
    for (bytes, answer) in [
        (early, ""),
        (vec![b'\n'; 1 << 16], ""),
        (request("/mqtt", &format!("X: {}\r\n", "x".repeat(1 << 16))), ""),
        (b"GET /mqtt HTTP/1.1\r\n".to_vec(), ""),
        (b"\x10\x0C\0\x04MQTT\x04\x02\0\0\0\0".to_vec(), ""),
        (request("/other", ""), "HTTP/1.1 404 "),
        (request("/mqtt", "Sec-WebSocket-Protocol: chat\r\n"), "HTTP/1.1 400 "),
    ] {
        let (mut client, server) = duplex(1 << 17);
        client.write_all(&bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let error = accept(server, &options()).await.unwrap_err();
        let head = head(&mut client).await;
        assert!(
            head.starts_with(answer) && head.is_empty() == answer.is_empty(),
            "{error}: {head}"
        );
    }
}

#[tokio::test]
async fn each_write_is_a_frame_and_a_turn_leaves_with_one_write() {
    /// Counts what it is given.
    #[derive(Debug)]
    struct Counted(Vec<usize>);

    impl AsyncWrite for Counted {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0.push(bytes.len());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncRead for Counted {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    let decoder = Decoder::new(0);
    let stream = Counted(vec![]);
    let outgoing = vec![];
    let mut ws = WebSocket { stream, decoder, outgoing, is_flushed: true, is_closing: false };
    for len in [2, 4, 300] {
        assert_eq!(ws.write(&vec![b'x'; len]).await.unwrap(), len);
    }
    assert_eq!(ws.stream.0, [0; 0]);
    ws.flush().await.unwrap();
    assert_eq!(ws.stream.0, [2 + 2 + 2 + 4 + 4 + 300]);
    assert_eq!(ws.outgoing.capacity(), 0, "nothing is kept while idle");
    // A large one is cut, and what is full leaves by itself.
    ws.stream.0.clear();
    let large = vec![b'x'; 100_000];
    assert_eq!(ws.write(&large).await.unwrap(), FRAME_SENT_MAX);
    assert_eq!(ws.write(&large[FRAME_SENT_MAX..]).await.unwrap(), 100_000 - FRAME_SENT_MAX);
    assert_eq!(ws.stream.0, [FRAME_SENT_MAX + 10]);
    ws.flush().await.unwrap();
    assert_eq!(ws.stream.0, [FRAME_SENT_MAX + 10, 100_000 - FRAME_SENT_MAX + 4]);
}

#[tokio::test]
async fn what_is_written_in_pieces_is_one_frame() {
    let (mut ws, mut client) = open(1 << 10).await;
    let pieces = [IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"c")];
    let written = Pin::new(&mut ws).poll_write_vectored(&mut noop(), &pieces);
    assert!(matches!(written, Poll::Ready(Ok(3))));
    ws.flush().await.unwrap();
    assert_eq!(try_receive(&mut client), b"\x82\x03abc");
}

#[tokio::test]
async fn who_does_not_read_is_written_to_no_longer() {
    let (mut ws, mut client) = open(1000).await;
    let payload: Vec<u8> = (0..5000).map(|n| n as u8).collect();
    let mut accepted = 0;
    while let Poll::Ready(written) = Pin::new(&mut ws).poll_write(&mut noop(), &payload) {
        accepted += written.unwrap();
        assert!(accepted < 100_000);
    }
    assert!(accepted > 50_000);
    assert!(Pin::new(&mut ws).poll_flush(&mut noop()).is_pending());
    assert!(ws.outgoing.capacity() <= OUTGOING_MAX, "{}", ws.outgoing.capacity());
    // When it reads, everything comes.
    let mut received = vec![];
    loop {
        let flushed = Pin::new(&mut ws).poll_flush(&mut noop());
        received.extend(try_receive(&mut client));
        if flushed.is_ready() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let mut expected = vec![];
    for _ in 0..accepted / payload.len() {
        frames::encode(Opcode::Binary, &payload, &mut expected);
    }
    assert!(received == expected);
    assert_eq!(ws.outgoing.capacity(), 0);
}

#[tokio::test]
async fn pings_are_answered_and_only_the_last_is_owed_to_who_does_not_read() {
    let (mut ws, mut client) = open(1000).await;
    client.write_all(&frame(0x89, b"one")).await.unwrap();
    assert!(try_read(&mut ws).is_pending());
    assert_eq!(try_receive(&mut client), b"\x8A\x03one");
    // With bytes before it; the answer does not wait for the next read.
    client.write_all(&[frame(0x82, b"data"), frame(0x89, b"two")].concat()).await.unwrap();
    let Poll::Ready(Ok(bytes)) = try_read(&mut ws) else { panic!() };
    assert_eq!(bytes, b"data");
    assert_eq!(try_receive(&mut client), b"\x8A\x03two");
    // The pipe to the Client is full.
    assert!(ws.write(&[b'x'; 1500]).await.is_ok());
    assert!(Pin::new(&mut ws).poll_flush(&mut noop()).is_pending());
    for n in 0..1000 {
        client.write_all(&frame(0x89, format!("ping {n}").as_bytes())).await.unwrap();
        assert!(try_read(&mut ws).is_pending());
    }
    assert!(ws.outgoing.capacity() < 1000);
    let mut received = try_receive(&mut client);
    assert!(try_read(&mut ws).is_pending());
    received.extend(try_receive(&mut client));
    assert_eq!(received.len(), 4 + 1500 + 2 + 8);
    assert!(received.ends_with(b"x\x8A\x08ping 999"));
}

#[tokio::test]
async fn control_frames_without_end_do_not_keep_the_thread() {
    struct Woken(std::sync::atomic::AtomicUsize);
    impl std::task::Wake for Woken {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let (mut ws, mut client) = open(100_000).await;
    client.write_all(&frame(0x8A, b"pong").repeat(600)).await.unwrap();
    client.write_all(&frame(0x82, b"data")).await.unwrap();
    let woken = std::sync::Arc::new(Woken(Default::default()));
    let waker = Waker::from(woken.clone());
    let mut bytes = [0; 1000];
    // The pongs are 6000 bytes.
    for expected in [Poll::Pending, Poll::Ready(&b"data"[..])] {
        let mut buf = ReadBuf::new(&mut bytes);
        let read = Pin::new(&mut ws).poll_read(&mut Context::from_waker(&waker), &mut buf);
        assert_eq!(read.map(|result| result.map(|()| buf.filled()).unwrap()), expected);
        assert_eq!(woken.0.load(std::sync::atomic::Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn the_close_frame_of_the_peer_is_the_end_and_is_answered_once() {
    for payload in [&b""[..], b"\x0F\xA0", b"\x0F\xA0reason"] {
        let (mut ws, mut client) = open(1000).await;
        let bytes = [frame(0x82, b"last"), frame(0x88, payload), frame(0x89, b"late")].concat();
        client.write_all(&bytes).await.unwrap();
        let mut read = vec![];
        ws.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"last");
        // What was begun may be brought to its end.
        ws.write_all(b"answer").await.unwrap();
        ws.shutdown().await.unwrap();
        ws.shutdown().await.unwrap();
        assert!(ws.write_all(b"more").await.is_err());
        let mut received = vec![];
        client.read_to_end(&mut received).await.unwrap();
        let code = payload.get(..2).unwrap_or_default();
        let close = [&[0x88, code.len() as u8], code].concat();
        assert_eq!(received, [&b"\x82\x06answer"[..], &close].concat());
    }
}

#[tokio::test]
async fn who_breaks_a_rule_is_told_which_after_what_came_before_it() {
    for (bad, code) in [
        (&b"\x82\x04MQTT"[..], 1002),
        (b"\x81\x84\0\0\0\0text", 1003),
        (b"\x88\x83\0\0\0\0\x03\xE8\xFF", 1007),
        (b"\x82\xFF\0\0\0\0\0\x10\0\x01\0\0\0\0", 1009),
    ] {
        let (mut ws, mut client) = open(1000).await;
        client.write_all(&[&frame(0x82, b"before"), bad].concat()).await.unwrap();
        let mut read = vec![];
        let error = ws.read_to_end(&mut read).await.unwrap_err();
        assert_eq!((read, error.kind()), (b"before".to_vec(), io::ErrorKind::InvalidData));
        assert!(ws.read(&mut [0]).await.is_err());
        assert!(ws.write_all(b"more").await.is_err());
        let mut received = vec![];
        client.read_to_end(&mut received).await.unwrap();
        let [high, low] = u16::to_be_bytes(code);
        assert_eq!(received, [0x88, 2, high, low]);
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends() {
    for len in 0..frame(0x82, b"data").len() {
        let (mut ws, mut client) = open(1000).await;
        client.write_all(&frame(0x82, b"data")[..len]).await.unwrap();
        drop(client);
        let mut read = vec![];
        ws.read_to_end(&mut read).await.unwrap();
        assert_eq!(read.len(), len.saturating_sub(6));
    }
}

#[tokio::test]
async fn bytes_are_read_to_wherever_they_are_wanted() {
    let (mut ws, mut client) = open(10_000).await;
    let sent: Vec<u8> = (0..1000).map(|n| n as u8).collect();
    let mut frames = vec![];
    for (n, part) in sent.chunks(7).enumerate() {
        frames.extend(frame(0x8A, b"pong"));
        frames.extend(frame(if n == 0 { 0x02 } else { 0 }, part));
    }
    client.write_all(&frames).await.unwrap();
    drop(client);
    let mut read = vec![b'!'];
    let mut bytes = [0; 1000];
    for room in (1..20).cycle() {
        let mut buf = ReadBuf::new(&mut bytes[..room]);
        buf.put_slice(b"!");
        std::future::poll_fn(|cx| Pin::new(&mut ws).poll_read(cx, &mut buf)).await.unwrap();
        let fresh = &buf.filled()[1..];
        assert_eq!(buf.filled()[0], b'!', "what was there is left alone");
        if room > 1 && fresh.is_empty() {
            break;
        }
        read.extend_from_slice(fresh);
    }
    assert_eq!(read[1..], sent);
}

#[tokio::test]
async fn pages_of_other_origins_are_not_let_in() {
    let options = Options { origins: vec!["https://a.example".into()], ..options() };
    let answered = async |more: &str| {
        let (mut client, server) = duplex(4096);
        let (_, head) = tokio::join!(accept(server, &options), async {
            client.write_all(&request("/mqtt", more)).await.unwrap();
            head(&mut client).await
        });
        head
    };
    assert!(answered("Origin: https://a.example\r\n").await.starts_with("HTTP/1.1 101 "));
    assert!(answered("").await.starts_with("HTTP/1.1 101 "));
    for other in ["https://a.example.org", "https://b.example", "null"] {
        let head = answered(&format!("Origin: {other}\r\n")).await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    }
}

#[tokio::test]
async fn the_answer_is_mosquittos() {
    let (mut client, server) = duplex(4096);
    let options = options();
    let (_, head) = tokio::join!(accept(server, &options), async {
        client.write_all(&request("/mqtt", "Sec-WebSocket-Protocol: mqtt\r\n")).await.unwrap();
        head(&mut client).await
    });
    let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
                    Sec-WebSocket-Protocol: mqtt\r\n\r\n";
    assert_eq!(head, expected);
}
