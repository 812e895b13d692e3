//! WebSocket: any bytes as the request for the upgrade and as frames; and valid frames, whose
//! bytes must come out whole and in order.

use std::cell::RefCell;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, WriteHalf, duplex};
use tokio::runtime::{Builder, Runtime};
use whimbrel::net::websocket::{self, Options};

const REQUEST: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
const FRAME_BYTES_MAX: usize = 1 << 12;

thread_local! {
    static RUNTIME: RefCell<Runtime> =
        RefCell::new(Builder::new_current_thread().build().expect("a runtime"));
}

/// The first byte says what the others are: the whole stream, what follows a good request, or
/// the content of good frames. The second says in which pieces the stream comes.
pub fn run(bytes: &[u8]) {
    let Some((&[what, piece], rest)) = bytes.split_first_chunk() else { return };
    let piece = 1 + usize::from(piece);
    match what % 4 {
        0 => drop(exchange(rest, b"", piece)),
        1 | 2 => drop(exchange(REQUEST, rest, piece)),
        _ => {
            let (frames, content) = frames(rest);
            let received = exchange(REQUEST, &frames, piece);
            assert_eq!(received.expect("good frames"), content, "of {frames:02x?}");
        }
    }
}

/// Sends the request and, once that is answered, the frames; what the upgraded connection yields
/// to its end. Its answers are read, and what is written through it is sent.
fn exchange(request: &[u8], frames: &[u8], piece: usize) -> std::io::Result<Vec<u8>> {
    let (client, server) = duplex(256);
    RUNTIME.with_borrow_mut(|runtime| {
        runtime.block_on(async {
            let ((), received) = tokio::join!(send(client, request, frames, piece), serve(server));
            received
        })
    })
}

async fn serve(stream: DuplexStream) -> std::io::Result<Vec<u8>> {
    let options = Options {
        origins: vec![],
        path: "/mqtt".into(),
        subprotocols: vec!["mqtt".into(), "mqttv3.1".into()],
        frame_bytes_max: FRAME_BYTES_MAX,
    };
    let mut stream = websocket::accept(stream, &options).await?;
    let mut received = vec![];
    let result = stream.read_to_end(&mut received).await;
    let _ = stream.write_all(b"answer").await;
    let _ = stream.shutdown().await;
    result.map(|_| received)
}

async fn send(client: DuplexStream, request: &[u8], frames: &[u8], piece: usize) {
    let (mut read, mut write) = tokio::io::split(client);
    pieces(&mut write, request, piece).await;
    let mut answers = vec![];
    // RFC 6455, section 4.1: nothing is sent before the answer has come.
    while !frames.is_empty() && !answers.ends_with(b"\r\n\r\n") {
        answers.push(read.read_u8().await.expect("a good request is answered"));
    }
    let sending = async {
        pieces(&mut write, frames, piece).await;
        let _ = write.shutdown().await;
    };
    let (_, result) = tokio::join!(sending, read.read_to_end(&mut answers));
    result.expect("a pipe in memory does not break");
    assert!(answers.is_empty() || answers.starts_with(b"HTTP/1.1 "), "{answers:02x?}");
}

async fn pieces(write: &mut WriteHalf<DuplexStream>, bytes: &[u8], piece: usize) {
    for piece in bytes.chunks(piece) {
        if write.write_all(piece).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Frames with this content: each begins with a byte for its kind and one for its length.
fn frames(mut rest: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut frames, mut content) = (vec![], vec![]);
    let mut is_open = false;
    while let Some((&[kind, len], after)) = rest.split_first_chunk() {
        let (part, after) = after.split_at(usize::from(len).min(after.len()));
        rest = after;
        let is_last = kind & 1 == 1;
        match kind % 8 {
            // Ping and Pong, of at most 125 bytes, may come within a message.
            6 => frame(0x89, part.get(..125).unwrap_or(part), &mut frames),
            7 => frame(0x8A, part.get(..125).unwrap_or(part), &mut frames),
            _ => {
                let opcode = if is_open { 0 } else { 2 };
                frame(u8::from(is_last) << 7 | opcode, part, &mut frames);
                content.extend_from_slice(part);
                is_open = !is_last;
            }
        }
    }
    if is_open {
        frame(0x80, b"", &mut frames);
    }
    frame(0x88, b"", &mut frames);
    (frames, content)
}

fn frame(first: u8, part: &[u8], out: &mut Vec<u8>) {
    out.push(first);
    match part.len() {
        len @ 0..126 => out.push(0x80 | len as u8),
        len => {
            out.push(0xFE);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
    }
    let mask = [0xA5, 0x3C, first, 0x17];
    out.extend_from_slice(&mask);
    out.extend(part.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}
