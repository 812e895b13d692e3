//! The PROXY protocol: headers of both versions, and what is believed from whom.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::broker::{Broker, free_port};
use crate::listeners::{MQTT, WebSocket, certificates, has_connack, tls_connect};
use crate::raw::{Client, Connect};

/// A broker with these listeners, each a port and its settings.
fn broker(settings: &str, listeners: &[(u16, &str)]) -> Broker {
    let listeners: String = listeners
        .iter()
        .map(|(port, more)| {
            format!("[[listener]]\nport = {port}\nbind_address = \"127.0.0.1\"\n{more}\n")
        })
        .collect();
    Broker::start_with(settings, &listeners)
}

/// A header of version 1 for a Client at this address.
fn line(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().unwrap();
    let (family, to) = if client.is_ipv4() { ("TCP4", "10.0.0.1") } else { ("TCP6", "fe80::1") };
    format!("PROXY {family} {} {to} {} 1883\r\n", client.ip(), client.port()).into_bytes()
}

/// A header of version 2.
fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u16).to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &len, body].concat()
}

/// A header of version 2 for a Client at this address, with two extensions.
fn binary_of(client: &str) -> Vec<u8> {
    let extensions = b"\x04\0\x02xx\xE0\0\x01y";
    let client: SocketAddr = client.parse().unwrap();
    let ports = [client.port().to_be_bytes(), 1883_u16.to_be_bytes()].concat();
    match client {
        SocketAddr::V4(v4) => {
            let ips = [v4.ip().octets(), [10, 0, 0, 1]].concat();
            binary(0x21, 0x11, &[&ips[..], &ports, extensions].concat())
        }
        SocketAddr::V6(v6) => {
            let ips = [v6.ip().octets(), [0; 16]].concat();
            binary(0x21, 0x21, &[&ips[..], &ports, extensions].concat())
        }
    }
}

/// Sends a header and CONNECT at once; what the CONNACK says, `None` when there is none.
fn answer(port: u16, header: &[u8], id: &str) -> Option<u8> {
    let mut client = Client::open(port, false);
    client.try_send(&[header, &Connect::v4(id).bytes()].concat());
    let code = client.try_read().map(|connack| connack[3]);
    if code == Some(0) {
        client.disconnect();
    }
    code
}

/// The log's line of this Client's connection.
fn connected(broker: &Broker, id: &str) -> String {
    let log = broker.log();
    let is_it =
        |line: &&str| line.contains(&format!("client={id:?} ")) && line.contains("connected");
    log.lines().find(is_it).unwrap_or_else(|| panic!("{id} did not connect")).to_owned()
}

/// The log's lines of refused connections, once there are so many.
fn refused(broker: &Broker, count: usize) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let log = broker.log();
        let lines = log.lines().filter(|line| line.contains("handshake failed: "));
        let lines: Vec<_> = lines.map(str::to_owned).collect();
        if lines.len() >= count {
            return lines;
        }
        assert!(Instant::now() < deadline, "not {count} refused in\n{log}");
        thread::sleep(Duration::from_millis(5));
    }
}

const V1: &str = "enable_proxy_protocol = 1";
const V2: &str = "enable_proxy_protocol = 2";

#[test]
fn the_client_that_the_header_names_is_the_one_in_the_log() {
    let (one, two) = (free_port(), free_port());
    let broker = broker("allow_anonymous = true", &[(one, V1), (two, V2)]);
    for (id, port, header, peer) in [
        ("a", one, line("203.0.113.7:4711"), "peer=203.0.113.7:4711 "),
        ("b", one, line("[2001:db8::7]:4712"), "peer=[2001:db8::7]:4712 "),
        ("c", two, binary_of("203.0.113.8:4713"), "peer=203.0.113.8:4713 "),
        ("d", two, binary_of("[2001:db8::8]:4714"), "peer=[2001:db8::8]:4714 "),
        ("e", one, b"PROXY UNKNOWN\r\n".to_vec(), "peer=127.0.0.1:"),
        ("f", two, binary(0x20, 0, b""), "peer=127.0.0.1:"),
        ("g", two, binary(0x21, 0, b"ignored"), "peer=127.0.0.1:"),
    ] {
        assert_eq!(answer(port, &header, id), Some(0), "{id}");
        let line = connected(&broker, id);
        assert!(line.contains(peer), "{line}");
    }
}

/// By default, strangers come from this machine only.
#[test]
fn a_client_from_elsewhere_is_no_local_one_because_its_proxy_is() {
    const NOT_AUTHORIZED: u8 = 5;
    let (one, two) = (free_port(), free_port());
    let _broker = broker("", &[(one, V1), (two, V2)]);
    for (port, header, code) in [
        (one, line("203.0.113.7:1"), NOT_AUTHORIZED),
        (one, line("127.0.0.1:1"), 0),
        (one, line("[::1]:1"), 0),
        (one, b"PROXY UNKNOWN\r\n".to_vec(), NOT_AUTHORIZED),
        (two, binary_of("203.0.113.7:1"), NOT_AUTHORIZED),
        (two, binary_of("[::ffff:203.0.113.7]:1"), NOT_AUTHORIZED),
        (two, binary_of("127.0.0.1:1"), 0),
        // A Client of a unix socket of the proxy.
        (two, binary(0x21, 0x31, &[b'/'; 216]), NOT_AUTHORIZED),
        (two, binary(0x20, 0, b""), 0),
    ] {
        assert_eq!(answer(port, &header, "who"), Some(code), "{header:02x?}");
    }
}

/// What a proxy says of the TLS of a Client with this name, or without a certificate.
fn secured(name: Option<&str>) -> Vec<u8> {
    let extension =
        |kind: u8, value: &[u8]| [&[kind][..], &(value.len() as u16).to_be_bytes(), value].concat();
    let did = if name.is_some() { 7 } else { 1 };
    let name = name.map(|name| extension(0x22, name.as_bytes())).unwrap_or_default();
    let within = [&[did, 0, 0, 0, 0][..], &extension(0x21, b"TLSv1.3"), &name].concat();
    let addresses = [203, 0, 113, 7, 10, 0, 0, 1, 0, 9, 7, 91];
    binary(0x21, 0x11, &[&addresses[..], &extension(0x20, &within)].concat())
}

#[test]
fn the_proxys_tls_counts_where_it_is_asked_for() {
    let [tls, certified, named] = [(); 3].map(|()| free_port());
    let require_tls = format!("{V2}\nproxy_protocol_v2_require_tls = true");
    let require_certificate = format!("{V2}\nrequire_certificate = true");
    let identity = format!("{V2}\nuse_identity_as_username = true");
    let listeners = [(tls, &*require_tls), (certified, &require_certificate), (named, &identity)];
    let broker = broker("allow_anonymous = true", &listeners);
    let plain = binary_of("203.0.113.7:9");
    for (port, header, code) in [
        (tls, plain.clone(), None),
        (tls, binary(0x21, 0, b""), None),
        (tls, secured(None), Some(0)),
        (certified, plain.clone(), None),
        (certified, secured(None), None),
        (certified, secured(Some("pump")), Some(0)),
        (named, plain, Some(5)),
        (named, secured(None), Some(5)),
        (named, secured(Some("")), Some(5)),
        (named, secured(Some("pump")), Some(0)),
    ] {
        assert_eq!(answer(port, &header, "secured"), code, "{header:02x?}");
    }
    assert_eq!(broker.log().matches("user=\"pump\"").count(), 1, "{}", broker.log());
    let lines = refused(&broker, 4);
    assert!(lines[0].contains("client did not connect using TLS"), "{lines:?}");
    assert!(lines[3].contains("client did not provide a certificate"), "{lines:?}");
}

#[test]
fn a_header_may_come_in_single_bytes() {
    let (one, two) = (free_port(), free_port());
    let broker = broker("allow_anonymous = true", &[(one, V1), (two, V2)]);
    for (id, port, header) in
        [("x1", one, line("203.0.113.7:9")), ("x2", two, binary_of("203.0.113.7:9"))]
    {
        let mut client = Client::open(port, false);
        for byte in [&header[..], &Connect::v4(id).bytes()].concat() {
            client.send(&[byte]);
        }
        client.expect(&[0x20, 2, 0, 0]);
        assert!(client.try_ping());
        assert!(connected(&broker, id).contains("peer=203.0.113.7:9 "));
    }
}

#[test]
fn what_is_not_the_header_is_refused_with_a_line_in_the_log() {
    let (one, two, strict) = (free_port(), free_port(), free_port());
    let foreign = format!("{V2}\nproxy_protocol_from = [\"10.0.0.0/8\", \"192.0.2.1\"]");
    let broker = broker("", &[(one, V1), (two, V2), (strict, &foreign)]);
    let cases = [
        (one, b"".to_vec(), "no PROXY header of version 1"),
        (two, b"".to_vec(), "no PROXY header of version 2"),
        (one, b"GET / HTTP/1.1\r\n\r\n".to_vec(), "no PROXY header of version 1"),
        (one, binary_of("203.0.113.7:1"), "no PROXY header of version 1"),
        (two, line("203.0.113.7:1"), "no PROXY header of version 2"),
        (one, b"PROXY TCP4 a b c d\r\n".to_vec(), "not two IPv4 addresses and ports"),
        (one, [b"PROXY UNKNOWN", &[b' '; 200][..]].concat(), "longer than 107 bytes"),
        (two, binary(0x2F, 0x11, &[0; 12]), "an unknown version or command"),
        (two, binary(0x21, 0x12, &[0; 12]), "an unknown family or protocol"),
        (two, binary(0x21, 0x11, &[0; 11]), "too short for its addresses"),
        (two, binary(0x21, 0x11, &[0; 5000]), "longer than 2,048 bytes"),
        (strict, binary_of("203.0.113.7:1"), "this is no trusted proxy"),
    ];
    for (before, (port, header, why)) in cases.into_iter().enumerate() {
        assert_eq!(answer(port, &header, "who"), None, "{header:02x?}");
        let lines = refused(&broker, before + 1);
        assert_eq!(lines.len(), before + 1, "{lines:?}");
        let line = &lines[before];
        assert!(line.contains(why) && line.contains("peer=127.0.0.1:"), "{line}");
    }
    assert!(!broker.log().contains(" connected"), "{}", broker.log());
}

#[test]
fn a_header_that_does_not_end_is_not_waited_for() {
    let (one, two) = (free_port(), free_port());
    let broker = broker("connect_timeout = \"300ms\"", &[(one, V1), (two, V2)]);
    for (port, beginning) in [(one, &b""[..]), (one, b"PROXY TCP4 203"), (two, b"\r\n\r\n\0")] {
        let mut client = Client::open(port, false);
        client.send(beginning);
        assert_eq!(client.try_read(), None);
    }
    let lines = refused(&broker, 3);
    assert!(lines.iter().all(|line| line.contains("timed out")), "{lines:?}");
}

/// A proxy that puts a header before each connection.
fn proxy(broker_port: u16, header: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let mut broker = TcpStream::connect(("127.0.0.1", broker_port)).unwrap();
            broker.write_all(&header).unwrap();
            let (from, to) = (client.try_clone().unwrap(), broker.try_clone().unwrap());
            thread::spawn(move || relay(from, to));
            thread::spawn(move || relay(broker, client));
        }
    });
    port
}

fn relay(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

#[test]
fn the_header_comes_before_tls_and_websocket() {
    let (tls, ws) = (free_port(), free_port());
    let c = certificates().display();
    let tls_settings = format!("{V2}\ncertfile = \"{c}/server.pem\"\nkeyfile = \"{c}/server.key\"");
    let ws_settings = format!("{V1}\nprotocol = \"websockets\"");
    let broker = broker("allow_anonymous = true", &[(tls, &tls_settings), (ws, &ws_settings)]);
    assert!(has_connack(&tls_connect(proxy(tls, binary_of("203.0.113.7:77")), &[])));
    assert!(connected(&broker, "tls").contains("peer=203.0.113.7:77 "));
    let (mut client, head) = WebSocket::open(proxy(ws, line("203.0.113.7:78")), "/mqtt", MQTT);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    client.frame(0x82, &Connect::v4("ws").bytes());
    assert_eq!(client.read(), Some((0x82, vec![0x20, 2, 0, 0])));
    assert!(connected(&broker, "ws").contains("peer=203.0.113.7:78 "));
    // TLS comes after the header, not before it.
    assert!(!has_connack(&tls_connect(tls, &[])));
}
