//! WebSocket: frames of every shape, and upgrades that are none.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::Siege;
use crate::listeners::{MQTT, WebSocket};
use crate::raw::{Client, Connect, field, packet};

const BINARY: u8 = 0x82;
/// The first fragment of a binary message, those between, and the last.
const FIRST: u8 = 0x02;
const MORE: u8 = 0x00;
const LAST: u8 = 0x80;

fn open(port: u16) -> WebSocket {
    let (ws, head) = WebSocket::open(port, "/mqtt", MQTT);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    ws
}

/// Reads binary frames until so many bytes of MQTT have come; how many pongs were among them.
fn answers(ws: &mut WebSocket, len: usize) -> (Vec<u8>, usize) {
    let (mut answers, mut pongs) = (vec![], 0);
    while answers.len() < len {
        match ws.read().expect("a frame") {
            (BINARY, bytes) => answers.extend(bytes),
            (0x8A, _) => pongs += 1,
            other => panic!("{other:02x?}"),
        }
    }
    (answers, pongs)
}

fn expect_end(ws: &mut WebSocket) {
    while ws.read().is_some() {}
}

/// CONNECT, SUBSCRIBE and PUBLISH to itself, and the bytes of all answers.
fn conversation() -> (Vec<u8>, Vec<u8>) {
    let subscribe = packet(0x82, &[&[0, 1], &field("ws/t"), &[0]]);
    let publish = packet(0x30, &[&field("ws/t"), &[b'x'; 300]]);
    let sent = [Connect::v4("ws").bytes(), subscribe, publish.clone(), vec![0xC0, 0]].concat();
    let expected = [vec![0x20, 2, 0, 0, 0x90, 3, 0, 1, 0, 0xD0, 0], publish].concat();
    (sent, expected)
}

/// PINGRESP may come before what was asked before it.
fn assert_same_bytes(mut answers: Vec<u8>, mut expected: Vec<u8>) {
    answers.sort();
    expected.sort();
    assert_eq!(answers, expected);
}

/// [MQTT-6.0.0-2]: frame limits mean nothing.
#[test]
fn packets_and_frames_need_not_agree() {
    let mut siege = Siege::begin("");
    let (sent, expected) = conversation();
    for size in [1, 2, 3, 7, 64, sent.len()] {
        // A message a piece; then all pieces as fragments of one message.
        let mut ws = open(siege.ws);
        for piece in sent.chunks(size) {
            ws.frame(BINARY, piece);
        }
        assert_same_bytes(answers(&mut ws, expected.len()).0, expected.clone());
        let mut ws = open(siege.ws);
        ws.frame(FIRST, &[]);
        for piece in sent.chunks(size) {
            ws.frame(MORE, piece);
        }
        ws.frame(LAST, &[]);
        assert_same_bytes(answers(&mut ws, expected.len()).0, expected.clone());
    }
    siege.check();
    siege.survived(16);
}

#[test]
fn control_frames_may_stand_between_fragments() {
    let siege = Siege::begin("");
    let (sent, expected) = conversation();
    let mut ws = open(siege.ws);
    let (first, rest) = sent.split_at(5);
    ws.frame(FIRST, first);
    let mut pings = 0;
    for piece in rest.chunks(11) {
        ws.frame(0x89, b"between");
        ws.frame(0x8A, b"a pong that nobody asked for");
        ws.frame(MORE, piece);
        pings += 1;
    }
    ws.frame(LAST, &[]);
    let (bytes, pongs) = answers(&mut ws, expected.len());
    assert_same_bytes(bytes, expected);
    // Section 5.5.3 of RFC 6455: the last ping's pong may stand for those before it.
    assert!((1..=pings).contains(&pongs), "{pongs} of {pings}");
    siege.survived(16);
}

/// [MQTT-6.0.0-1], and what RFC 6455 forbids.
#[test]
fn frames_that_must_not_be_end_the_connection() {
    let mut siege = Siege::begin("");
    let connect = Connect::v4("ws-bad").bytes();
    let large = [&[BINARY, 0xFF][..], &(1_u64 << 40).to_be_bytes(), &[0; 4]].concat();
    let most = [&[BINARY, 0xFF][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat();
    let frames: [(&str, Vec<Vec<u8>>); 12] = [
        ("text", vec![vec![0x81, 0x84, 0, 0, 0, 0, b't', b'e', b'x', b't']]),
        ("text in fragments", vec![vec![0x01, 0x80, 0, 0, 0, 0], vec![0x80, 0x80, 0, 0, 0, 0]]),
        ("no mask", vec![vec![BINARY, 2, 0xC0, 0]]),
        ("a fragment of nothing", vec![vec![MORE, 0x80, 0, 0, 0, 0]]),
        (
            "a message within a message",
            vec![vec![FIRST, 0x80, 0, 0, 0, 0], vec![BINARY, 0x80, 0, 0, 0, 0]],
        ),
        ("reserved bits", vec![vec![BINARY | 0x40, 0x80, 0, 0, 0, 0]]),
        ("a reserved kind", vec![vec![0x83, 0x80, 0, 0, 0, 0]]),
        ("a reserved control kind", vec![vec![0x8B, 0x80, 0, 0, 0, 0]]),
        ("a ping in fragments", vec![vec![0x09, 0x80, 0, 0, 0, 0]]),
        ("a long ping", vec![[&[0x89, 0xFE, 0, 126, 0, 0, 0, 0][..], &[0; 126]].concat()]),
        ("a length of a TiB", vec![large]),
        ("the largest length", vec![most]),
    ];
    for (what, frames) in frames {
        println!("{what}");
        for is_connected in [false, true] {
            let mut ws = open(siege.ws);
            if is_connected {
                ws.frame(BINARY, &connect);
                assert_eq!(answers(&mut ws, 4).0, [0x20, 2, 0, 0]);
            }
            for frame in &frames {
                let _ = ws.0.write_all(frame);
            }
            expect_end(&mut ws);
        }
        siege.check();
    }
    siege.survived(16);
}

/// Frames as large as may be that never come, and a message of fragments without end.
#[test]
fn the_claim_of_a_frame_is_bounded_in_memory_and_time() {
    let mut siege = Siege::begin("connect_timeout = \"2s\"");
    let claim = [&[BINARY, 0xFF][..], &(20_u64 << 20).to_be_bytes(), &[0; 4]].concat();
    // In every other one a packet that claims as much begins.
    let connect = [&[0x10, 0x80, 0x80, 0x80, 0x08], &[0; 100][..]].concat();
    let publish = [&[0x30, 0x80, 0x80, 0x80, 0x08], &[0; 100][..]].concat();
    let mut crowd: Vec<_> = (0..400)
        .map(|n| {
            let mut ws = open(siege.ws);
            if n % 2 == 0 {
                ws.frame(BINARY, &Connect::v4(&format!("ws-claim-{n}")).keep_alive(2).bytes());
                assert_eq!(answers(&mut ws, 4).0, [0x20, 2, 0, 0]);
            }
            ws.0.write_all(&claim).unwrap();
            match n % 4 {
                0 => ws.0.write_all(&publish).unwrap(),
                1 => ws.0.write_all(&connect).unwrap(),
                _ => {}
            }
            if n % 100 == 99 {
                siege.check();
            }
            ws
        })
        .collect();
    crowd.iter_mut().for_each(expect_end);
    // A message of fragments is as long as the stream that it carries: the packet that begins in
    // this one is refused.
    let mut ws = open(siege.ws);
    ws.frame(FIRST, &[]);
    let fragment = vec![0; 60_000];
    let mut sent = 0;
    while ws.try_frame(MORE, &fragment) {
        sent += fragment.len();
        assert!(sent < 128 << 20, "a message of {sent} bytes is taken");
    }
    siege.survived(8);
}

/// A peer that says goodbye in WebSocket's way, or in neither.
#[test]
fn a_close_frame_ends_the_connection_as_if_it_had_broken() {
    let siege = Siege::begin("");
    let mut witness = Client::v4(siege.port, "ws-witness");
    witness.subscribe("ws/will", 1);
    for close in [&[][..], &[0x03, 0xE8], &[0x03], &[0xFF; 100]] {
        let mut ws = open(siege.ws);
        let connect = Connect::v4("ws-close").will(8, &[], "ws/will", "gone").bytes();
        ws.frame(BINARY, &connect);
        assert_eq!(answers(&mut ws, 4).0, [0x20, 2, 0, 0]);
        ws.frame(0x88, close);
        expect_end(&mut ws);
        assert_eq!(witness.receive().text(), "gone");
    }
    siege.survived(16);
}

/// The head of the answer to a request; empty when the connection ended without one.
fn head_of(port: u16, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let _ = stream.write_all(request);
    let mut head = vec![];
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

fn upgrade(first_line: &str, headers: &str) -> Vec<u8> {
    format!("{first_line}\r\nHost: x\r\n{headers}\r\n").into_bytes()
}

#[test]
fn what_is_no_upgrade_is_not_upgraded() {
    let mut siege = Siege::begin("");
    let good = "Upgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
    let get = "GET /mqtt HTTP/1.1";
    let without = |name: &str| {
        let lines = good.split_inclusive("\r\n").filter(|line| !line.starts_with(name));
        lines.collect::<String>()
    };
    let huge = format!("{good}X-Filler: {}\r\n", "x".repeat(1 << 20));
    let many = good.to_owned() + &"X-Filler: x\r\n".repeat(10_000);
    assert!(head_of(siege.ws, &upgrade(get, good)).starts_with("HTTP/1.1 101"));
    for (what, request) in [
        ("POST", upgrade("POST /mqtt HTTP/1.1", good)),
        ("HEAD", upgrade("HEAD /mqtt HTTP/1.1", good)),
        ("no method", upgrade("/mqtt HTTP/1.1", good)),
        ("another path", upgrade("GET /other HTTP/1.1", good)),
        ("a path above", upgrade("GET /mqtt/../../etc/passwd HTTP/1.1", good)),
        ("an encoded path", upgrade("GET /%6dqtt%00 HTTP/1.1", good)),
        ("a long path", upgrade(&format!("GET /{} HTTP/1.1", "m".repeat(60_000)), good)),
        ("HTTP/1.0", upgrade("GET /mqtt HTTP/1.0", good)),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("HTTP/9.9", upgrade("GET /mqtt HTTP/9.9", good)),
        ("no Upgrade", upgrade(get, &without("Upgrade"))),
        ("no Connection", upgrade(get, &without("Connection"))),
        ("no key", upgrade(get, &without("Sec-WebSocket-Key"))),
        ("no version", upgrade(get, &without("Sec-WebSocket-Version"))),
        ("another version", upgrade(get, &good.replace("13", "8"))),
        ("an unknown subprotocol", upgrade(get, &format!("{good}Sec-WebSocket-Protocol: x\r\n"))),
        ("no headers", b"GET /mqtt HTTP/1.1\r\n\r\n".to_vec()),
        ("huge headers", upgrade(get, &huge)),
        ("many headers", upgrade(get, &many)),
        ("a header without a name", upgrade(get, &format!("{good}: x\r\n"))),
        ("a null in a header", upgrade(get, &format!("{good}X: \0\r\n"))),
        ("MQTT", Connect::v4("no-upgrade").bytes()),
        ("a frame", vec![BINARY, 0x80, 0, 0, 0, 0]),
        ("line ends", b"\r\n".repeat(40_000)),
    ] {
        println!("{what}");
        let mut request = request;
        // So that a broker that waits for more is told that there is none.
        request.extend(b"\r\n\r\n");
        let head = head_of(siege.ws, &request);
        assert!(!head.contains("101"), "{what}: {head}");
        siege.check();
    }
    siege.survived(16);
}

/// Section 4.1 of RFC 6455: a client waits for the answer before it sends more.
#[test]
fn frames_before_the_upgrade_is_answered_are_refused() {
    let siege = Siege::begin("");
    let request = upgrade(
        "GET /mqtt HTTP/1.1",
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n",
    );
    let frame = [BINARY, 0x82, 0, 0, 0, 0, 0xC0, 0];
    assert_eq!(head_of(siege.ws, &[&request[..], &frame].concat()), "");
    siege.survived(16);
}
