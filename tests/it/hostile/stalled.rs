//! Peers that never read: what they leave unread is bounded and nobody waits for them.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::Siege;
use crate::listeners::{MQTT, WebSocket};
use crate::raw::{Client, Connect};

/// A connection whose kernel buffers are as small as they can be.
pub fn narrow(port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    socket.into()
}

fn stalled(port: u16, connect: &Connect, filter: &str, qos: u8) -> Client {
    let mut client = Client::over(narrow(port), connect.level == 5);
    client.send(&connect.bytes());
    assert_eq!(client.read()[3], 0);
    client.subscribe(filter, qos);
    client
}

/// Its queue is full at 1 MiB; the rest is dropped for it and for nobody else.
#[test]
fn a_subscriber_that_never_reads_costs_its_queue_and_no_more() {
    for overflow in ["drop-newest", "drop-oldest"] {
        let settings = format!("max_queued_bytes = \"1 MiB\"\nqueue_overflow = \"{overflow}\"");
        let mut siege = Siege::begin(&settings);
        let idle: Vec<_> = (0..12)
            .map(|n| {
                let connect = Connect::v5(&format!("idle-{n}"));
                let connect = if n % 3 == 0 { connect.durable() } else { connect };
                stalled(siege.port, &connect, "stalled/#", n % 3)
            })
            .collect();
        let mut reader = Client::v4(siege.port, "reader");
        reader.subscribe("stalled/#", 0);
        let mut sender = Client::v4(siege.port, "stalled-sender");
        let payload = vec![b'x'; 64 << 10];
        for n in 0..600 {
            let flags = if n % 8 == 0 { 2 } else { 0 };
            sender.publish(flags, "stalled/t", &payload);
            assert_eq!(reader.receive().payload.len(), payload.len());
            if n % 100 == 0 {
                siege.check();
            }
        }
        drop(idle);
        // Each: a queue of 1 MiB shared with the others, 256 KiB and one message written.
        siege.survived(48);
    }
}

/// It reads and never acknowledges: what it could be sent again is bounded by its window, the rest
/// by its queue.
#[test]
fn a_subscriber_that_never_acknowledges_costs_its_window_and_its_queue() {
    let settings = "max_inflight_messages = 20\nmax_queued_bytes = \"1 MiB\"";
    let mut siege = Siege::begin(settings);
    for connect in [Connect::v5("mute"), Connect::v4("mute")] {
        let mut mute = Client::connect(siege.port, &connect);
        mute.subscribe("mute/t", 1);
        let mut sender = Client::v4(siege.port, "mute-sender");
        for n in 0..150 {
            sender.publish(2, "mute/t", vec![b'x'; 256 << 10]);
            if n < 20 {
                assert_eq!(mute.read_publish().payload.len(), 256 << 10);
            }
        }
        mute.expect_nothing();
        siege.check();
    }
    siege.survived(40);
}

/// A large message that is never taken: the Client is not heard while it owes that much, but it
/// is not kept for ever [MQTT-3.1.2-22].
#[test]
fn a_client_that_takes_nothing_is_cut_by_its_keep_alive() {
    let siege = Siege::begin("");
    let mut witness = Client::v4(siege.port, "owing-witness");
    witness.subscribe("owing/will", 1);
    let connect = Connect::v5("owing").keep_alive(1).will(8, &[], "owing/will", "cut");
    let client = stalled(siege.port, &connect, "owing/t", 0);
    let mut sender = Client::v4(siege.port, "owing-sender");
    sender.publish(2, "owing/t", vec![b'x'; 9 << 20]);
    assert_eq!(witness.receive().text(), "cut");
    drop(client);
    siege.survived(64);
}

/// Asks for answers that it does not read, until it is no longer heard.
fn ask_without_reading(mut stream: &TcpStream, question: &[u8]) {
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let burst = question.repeat(32_000 / question.len());
    let mut sent = 0_usize;
    while stream.write_all(&burst).is_ok() {
        sent += burst.len();
        assert!(sent < 256 << 20, "the broker hears a peer that owes it everything");
    }
}

#[test]
fn who_does_not_read_its_answers_is_no_longer_heard() {
    let mut siege = Siege::begin("");
    let publish = [0x32, 6, 0, 1, b'a', 0, 1, b'x'];
    for question in [&[0xC0, 0][..], &[0x50, 2, 0, 1], &publish] {
        let mut client = Client::over(narrow(siege.port), false);
        client.send(&Connect::v4("asking").bytes());
        client.expect(&[0x20, 2, 0, 0]);
        ask_without_reading(client.stream(), question);
        siege.check();
    }
    siege.survived(32);
}

/// The same with WebSocket's own questions, which are answered beneath MQTT.
#[test]
fn who_does_not_read_its_pongs_does_not_fill_the_broker() {
    let mut siege = Siege::begin("");
    let (ws, head) = WebSocket::over(narrow(siege.ws), "/mqtt", MQTT);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let mut stream = ws.0.try_clone().unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let ping = [&[0x89, 0x80 | 125, 0, 0, 0, 0][..], &[b'p'; 125]].concat();
    let burst = ping.repeat(500);
    // As much as a fast peer sends in a second.
    for n in 0..1500 {
        if stream.write_all(&burst).is_err() {
            break;
        }
        if n % 100 == 0 {
            siege.check();
        }
    }
    siege.survived(24);
}

/// Retained messages are handed over as the subscriber takes them.
#[test]
fn retained_messages_wait_for_a_subscriber_that_never_reads() {
    let mut siege = Siege::begin("store_cache_size = \"1 MiB\"");
    let mut sender = Client::v4(siege.port, "retained-sender");
    for n in 0..200 {
        sender.publish(1, &format!("heavy/{n}"), vec![b'x'; 100_000]);
    }
    sender.expect_nothing();
    siege.check();
    let idle: Vec<_> = (0..40)
        .map(|n| stalled(siege.port, &Connect::v5(&format!("heavy-{n}")), "heavy/#", 1))
        .collect();
    siege.check();
    drop(idle);
    // The messages themselves are 20 MB; each subscriber has up to 256 KiB and a message written.
    siege.survived(120);
}
