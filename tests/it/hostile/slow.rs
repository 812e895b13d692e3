//! Peers that take their time, or are not there any more.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::Siege;
use crate::raw::{Client, Connect, field, packet};

/// Writes a byte every so often until the peer hangs up or there are no more; the bytes written.
fn drip(mut stream: &TcpStream, bytes: &[u8], pause: Duration) -> usize {
    for (at, byte) in bytes.iter().enumerate() {
        if stream.write_all(&[*byte]).is_err() {
            return at;
        }
        std::thread::sleep(pause);
    }
    bytes.len()
}

/// Reads to the end of the connection, however it ends.
fn wait_for_end(mut stream: &TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return,
            Err(e) => panic!("the connection does not end: {e}"),
        }
    }
}

/// A CONNECT that says it is so long.
fn endless_connect(length: [u8; 4]) -> Vec<u8> {
    [&[0x10][..], &length, &field("MQTT"), &[5, 2, 0, 0, 0], &[0xFF, 0xFF], &[b'x'; 4096]].concat()
}

#[test]
fn a_claim_of_256_mib_costs_its_sender_and_not_the_broker() {
    let mut siege = Siege::begin("max_packet_size = 268435455\nconnect_timeout = \"1s\"");
    // As the first packet: 150 of them are 37 GiB.
    let claim = [0xFA, 0xFF, 0xFF, 0x7F];
    let crowd: Vec<_> = (0..150)
        .map(|_| {
            let mut client = Client::open(siege.port, true);
            client.send(&endless_connect(claim));
            client
        })
        .collect();
    siege.check();
    for client in &crowd {
        wait_for_end(client.stream());
    }
    // As a later one: the Client is heard as long as its Keep Alive lasts.
    let mut crowd: Vec<_> = (0..150)
        .map(|n| {
            let connect = Connect::v5(&format!("claim-{n}")).keep_alive(1);
            let mut client = Client::connect(siege.port, &connect);
            client.send(&[&[0x30][..], &claim, &field("good/x"), &[0], &[0; 900]].concat());
            client
        })
        .collect();
    siege.check();
    for client in &mut crowd {
        client.expect_close(0x8D);
    }
    siege.survived(24);
}

#[test]
fn a_claim_above_the_maximum_is_refused_before_anything_follows() {
    let siege = Siege::begin("");
    for first in [0x10, 0x30, 0x32, 0x82, 0xA2, 0xE0, 0xF0] {
        // Before CONNECT nobody is told.
        let mut client = Client::open(siege.port, true);
        client.send(&[first, 0xFF, 0xFF, 0xFF, 0x7F]);
        assert_eq!(client.try_read(), None);
        let mut client = Client::v5(siege.port, "claim");
        client.send(&[first, 0xFF, 0xFF, 0xFF, 0x7F]);
        client.expect_close(0x95);
    }
    siege.survived(16);
}

#[test]
fn a_sender_slower_than_the_connect_timeout_is_cut() {
    let mut siege = Siege::begin("connect_timeout = \"1s\"");
    let connect = Connect::v5(&"x".repeat(200)).bytes();
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
    let upgrade = format!("GET /mqtt HTTP/1.1\r\nHost: {}\r\n", "x".repeat(100));
    let attacks: [(u16, &[u8]); 4] = [
        (siege.port, &connect),
        (siege.tls, hello),
        (siege.ws, upgrade.as_bytes()),
        (siege.wss, hello),
    ];
    std::thread::scope(|scope| {
        for (port, bytes) in attacks {
            for _ in 0..5 {
                scope.spawn(move || {
                    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
                    let written = drip(&stream, bytes, Duration::from_millis(50));
                    assert!(written < bytes.len(), "nobody has hung up on port {port}");
                    wait_for_end(&stream);
                });
                // Those who begin and stop.
                scope.spawn(move || {
                    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
                    stream.write_all(&bytes[..bytes.len() - 1]).unwrap();
                    wait_for_end(&stream);
                });
                // Those who never begin.
                scope.spawn(move || {
                    wait_for_end(&TcpStream::connect(("127.0.0.1", port)).unwrap());
                });
            }
        }
        siege.check();
    });
    siege.survived(16);
}

/// [MQTT-3.1.2-22]: a byte now and then is no packet.
#[test]
fn a_sender_slower_than_its_keep_alive_is_cut() {
    let mut siege = Siege::begin("");
    let large = packet(0x30, &[&field("good/x"), &[0], &[0; 3000]]);
    let mut client = Client::connect(siege.port, &Connect::v5("slow").keep_alive(1));
    let written = drip(client.stream(), &large[..500], Duration::from_millis(10));
    println!("{written} bytes were taken");
    client.expect_close(0x8D);
    siege.check();
    siege.survived(16);
}

#[test]
fn packets_may_come_a_byte_at_a_time() {
    let siege = Siege::begin("");
    let pause = Duration::ZERO;
    for connect in [Connect::v5("bytes"), Connect::v4("bytes")] {
        let mut client = Client::open(siege.port, connect.level == 5);
        drip(client.stream(), &connect.bytes(), pause);
        assert_eq!(client.read()[3], 0);
        let none: &[u8] = if connect.level == 5 { &[0] } else { &[] };
        let subscribe = packet(0x82, &[&[0, 1], none, &field("bytes/#"), &[2]]);
        drip(client.stream(), &subscribe, pause);
        assert_eq!(client.answer()[0], 0x90);
        let publish = client.publish_bytes(2, "bytes/a", 5, &[], "z".repeat(2000));
        drip(client.stream(), &publish, pause);
        assert_eq!(client.answer()[0], 0x40);
        assert_eq!(client.receive().payload, [b'z'; 2000]);
    }
    siege.survived(16);
}

/// Half-open: the peer has closed its side and would still read.
#[test]
fn a_half_closed_connection_ends() {
    let siege = Siege::begin("");
    let mut witness = Client::v4(siege.port, "half-witness");
    witness.subscribe("half/will", 1);
    let connect = Connect::v5("half").will(8, &[], "half/will", "gone");
    let mut client = Client::connect(siege.port, &connect);
    client.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.try_read(), None);
    assert_eq!(witness.receive().text(), "gone");
    for port in [siege.port, siege.tls, siege.ws, siege.wss] {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        wait_for_end(&stream);
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(&[0x16]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        wait_for_end(&stream);
    }
    siege.survived(16);
}

/// Half-open: the peer is silent and its Will is due.
#[test]
fn a_peer_that_is_no_longer_there_is_noticed_by_its_keep_alive() {
    let siege = Siege::begin("");
    let mut witness = Client::v4(siege.port, "silent-witness");
    witness.subscribe("silent/will", 1);
    let crowd: Vec<_> = (0..50)
        .map(|n| {
            let connect = Connect::v5(&format!("silent-{n}")).keep_alive(1);
            let will = connect.will(8, &[], "silent/will", &n.to_string());
            Client::connect(siege.port, &will)
        })
        .collect();
    let mut gone: Vec<usize> = (0..50).map(|_| witness.receive().text().parse().unwrap()).collect();
    gone.sort();
    assert_eq!(gone, (0..50).collect::<Vec<_>>());
    drop(crowd);
    siege.survived(16);
}
