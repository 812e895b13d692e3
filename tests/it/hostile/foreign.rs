//! The wrong protocol on every port: MQTT, TLS, HTTP and noise.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::Siege;
use crate::raw::{Client, Connect};

/// A TLS ClientHello as browsers send it, in short: version 1.2, one cipher, no extensions.
fn client_hello() -> Vec<u8> {
    let body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 0x01], &[1, 0]].concat();
    let hello = [&[1, 0, 0, body.len() as u8], &body[..]].concat();
    [&[0x16, 3, 1, 0, hello.len() as u8], &hello[..]].concat()
}

/// What a server says to these bytes before it hangs up.
fn answer(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = vec![];
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn a_foreign_protocol_is_hung_up_on() {
    let mut siege = Siege::begin("");
    let http = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    let foreign = [
        ("TLS", client_hello()),
        ("half a ClientHello", client_hello()[..20].to_vec()),
        ("a TLS alert", vec![0x15, 3, 3, 0, 2, 2, 80]),
        ("a TLS record of the largest length", vec![0x16, 3, 3, 0xFF, 0xFF]),
        ("SSL 2", vec![0x80, 0x2E, 1, 0, 2]),
        ("HTTP", http),
        ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()),
        ("SMTP", b"EHLO x\r\n".to_vec()),
        ("PROXY protocol", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1883\r\n".to_vec()),
        ("PROXY protocol 2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C".to_vec()),
        ("AMQP", b"AMQP\0\0\x09\x01".to_vec()),
        ("Redis", b"*1\r\n$4\r\nPING\r\n".to_vec()),
        ("nothing", vec![]),
        ("zeros", vec![0; 5000]),
        ("ones", vec![0xFF; 5000]),
    ];
    for (what, bytes) in &foreign {
        println!("{what}");
        assert_eq!(answer(siege.port, bytes), [], "on the MQTT port");
        // TLS may answer with an alert or, to a hello, with more; never with MQTT or HTTP.
        for port in [siege.tls, siege.wss] {
            let said = answer(port, bytes);
            assert!(matches!(said.first(), None | Some(0x15 | 0x16)), "{said:02x?}");
        }
        let said = String::from_utf8_lossy(&answer(siege.ws, bytes)).into_owned();
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
        siege.check();
    }
    let connect = Connect::v4("foreign").bytes();
    for port in [siege.tls, siege.wss] {
        assert!(matches!(answer(port, &connect).first(), None | Some(0x15)));
    }
    siege.survived(16);
}

#[test]
fn noise_on_every_port_harms_nobody() {
    let mut siege = Siege::begin("");
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut state: u64 = 0x9E37_79B9_7F4A_7C15 ^ seed;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..400 {
        let len = random() % 600;
        let mut bytes: Vec<u8> = (0..len).map(|_| (random() >> 32) as u8).collect();
        // Now and then behind something that begins well.
        let beginning = match round % 5 {
            0 => Connect::v5("noise").bytes(),
            1 => client_hello(),
            2 => b"GET /mqtt HTTP/1.1\r\n".to_vec(),
            _ => vec![],
        };
        bytes.splice(0..0, beginning);
        let ports = [siege.port, siege.tls, siege.ws, siege.wss];
        answer(ports[round / 5 % ports.len()], &bytes);
    }
    siege.check();
    siege.survived(16);
}

/// What Clients say of themselves does not forge the log.
#[test]
fn a_client_identifier_cannot_write_lines_into_the_log() {
    let siege = Siege::begin("");
    let id = "x\n2026-01-01T00:00:00.000000Z  INFO stopped\r\u{1B}[2J\u{85}\u{2028}end";
    for connect in [Connect::v5(id), Connect::v4(id), Connect::v5(id).durable()] {
        Client::connect(siege.port, &connect).disconnect();
    }
    let connect = Connect::v5("method").with(&[0x15, 0, 3, b'\n', b'\n', 0x1B]);
    assert_eq!(Client::connect_with(siege.port, &connect).1[3], 0x8C);
    let log = siege.broker.log();
    let is_own = |line: &&str| line.contains(" INFO ") && !line.contains("INFO stopped\r");
    let forged: Vec<_> = log.lines().filter(|line| !is_own(line)).collect();
    assert!(log.contains("end"), "the identifier is in the log");
    let has_control = log.chars().any(|c| c.is_control() && c != '\n');
    assert!(forged.is_empty() && !has_control, "{forged:?}\n{log:?}");
    let lines = log.lines().filter(|line| line.starts_with("2026-01-01T00:00:00.000000Z"));
    assert_eq!(lines.count(), 0);
    siege.survived(16);
}
