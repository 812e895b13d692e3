//! TLS, WebSocket, unix sockets; connection limits.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::broker::{Broker, free_port, program, run};
use crate::raw::{Client, Connect};

/// Certificates made by `certs/make.sh`.
pub fn certificates() -> &'static PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap().keep();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/certs/make.sh");
        let (status, output) = run(Command::new(script).arg(&directory), Duration::from_secs(60));
        assert_eq!(status, Some(0), "{output}");
        directory
    })
}

/// A broker with listeners of every kind, and their ports.
pub struct All {
    pub broker: Broker,
    pub tls: u16,
    pub mutual: u16,
    pub optional: u16,
    pub expired: u16,
    pub ws: u16,
    pub wss: u16,
    pub socket: PathBuf,
}

pub fn all() -> All {
    let c = certificates().display();
    let [tls, mutual, optional, expired, ws, wss] = [(); 6].map(|()| free_port());
    let server = format!("certfile = \"{c}/server.pem\"\nkeyfile = \"{c}/server.key\"");
    let local = "bind_address = \"127.0.0.1\"";
    let listeners = format!(
        "[[listener]]\nport = {tls}\n{local}\n{server}\n\
         [[listener]]\nport = {mutual}\n{local}\n{server}\ncafile = \"{c}/ca.pem\"\n\
         require_certificate = true\nallow_anonymous = false\n\
         [[listener]]\nport = {optional}\n{local}\n{server}\ncafile = \"{c}/ca.pem\"\n\
         [[listener]]\nport = {expired}\n{local}\ncertfile = \"{c}/expired.pem\"\n\
         keyfile = \"{c}/expired.key\"\n\
         [[listener]]\nport = {ws}\n{local}\nprotocol = \"websockets\"\n\
         [[listener]]\nport = {wss}\n{local}\nprotocol = \"websockets\"\n{server}\n\
         [[listener]]\nsocket = \"mqtt.sock\"\n"
    );
    let broker = Broker::start_with("", &listeners);
    let socket = broker.directory().join("mqtt.sock");
    All { broker, tls, mutual, optional, expired, ws, wss, socket }
}

/// What `openssl s_client` says after sending a CONNECT.
pub fn tls_connect(port: u16, arguments: &[&str]) -> String {
    let ca = certificates().join("ca.pem");
    let connect = Connect::v4("tls").bytes();
    let octal: String = connect.iter().map(|byte| format!("\\{byte:03o}")).collect();
    let command = format!(
        "(printf '{octal}'; sleep 0.5) | timeout 5 openssl s_client -quiet -verify_return_error \
         -CAfile {} -connect 127.0.0.1:{port} {} 2>&1 | od -An -tx1 -c",
        ca.display(),
        arguments.join(" ")
    );
    run(Command::new("sh").arg("-c").arg(command), Duration::from_secs(20)).1
}

const CONNACK: &str = "20  02  00  00";

pub fn has_connack(output: &str) -> bool {
    output.replace('\n', " ").contains(CONNACK) || output.contains("20 02 00 00")
}

#[test]
fn tls_is_spoken_and_verified() {
    let all = all();
    let c = certificates().display().to_string();
    let name = "-verify_hostname localhost";
    assert!(has_connack(&tls_connect(all.tls, &[name])));
    assert!(has_connack(&tls_connect(all.tls, &["-tls1_2"])));
    assert!(!has_connack(&tls_connect(all.expired, &[])), "an expired certificate");
    assert!(!has_connack(&tls_connect(all.mutual, &[])), "no client certificate");
    let own = [&*format!("-cert {c}/client.pem"), &*format!("-key {c}/client.key")];
    assert!(has_connack(&tls_connect(all.mutual, &own)));
    let foreign = [&*format!("-cert {c}/foreign.pem"), &*format!("-key {c}/foreign.key")];
    assert!(!has_connack(&tls_connect(all.mutual, &foreign)), "a foreign certificate");
    assert!(has_connack(&tls_connect(all.optional, &[])), "no certificate where none is needed");
    assert!(has_connack(&tls_connect(all.optional, &own)));
    assert!(!has_connack(&tls_connect(all.optional, &foreign)), "a foreign one even there");
    // Plain bytes on a TLS port, and a TLS hello on a plain one, harm nobody.
    let mut plain = Client::open(all.tls, false);
    plain.send(&Connect::v4("plain").bytes());
    while plain.stream_end().is_none() {}
    assert!(!has_connack(&tls_connect(all.broker.port, &[])));
    assert!(has_connack(&tls_connect(all.tls, &[])));
}

#[test]
fn a_unix_socket_is_a_listener_like_any_other() {
    let all = all();
    let mut stream = std::os::unix::net::UnixStream::connect(&all.socket).unwrap();
    stream.write_all(&Connect::v4("unix").bytes()).unwrap();
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
}

/// A WebSocket made by hand: the upgrade's answer, and frames.
pub struct WebSocket(pub TcpStream);

impl WebSocket {
    pub fn open(port: u16, path: &str, protocol: &str) -> (Self, String) {
        Self::over(TcpStream::connect(("127.0.0.1", port)).unwrap(), path, protocol)
    }

    pub fn over(mut stream: TcpStream, path: &str, protocol: &str) -> (Self, String) {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
             {protocol}\r\n"
        )
        .unwrap();
        let mut head = vec![];
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte).unwrap() == 0 {
                break;
            }
            head.push(byte[0]);
        }
        (Self(stream), String::from_utf8_lossy(&head).into_owned())
    }

    pub fn frame(&mut self, first: u8, bytes: &[u8]) {
        assert!(self.try_frame(first, bytes));
    }

    /// Sends a frame, of at most 64 KiB, to a peer that may be gone.
    pub fn try_frame(&mut self, first: u8, bytes: &[u8]) -> bool {
        let mut frame = vec![first];
        match bytes.len() {
            len @ ..126 => frame.push(0x80 | len as u8),
            len => frame.extend([0x80 | 126, (len >> 8) as u8, len as u8]),
        }
        frame.extend([0; 4]);
        frame.extend(bytes);
        self.0.write_all(&frame).is_ok()
    }

    /// The payload of the next frame, of at most 64 KiB, and its first byte; none at the end.
    pub fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).ok()?;
        let mut len = u16::from(head[1]);
        if len == 126 {
            let mut long = [0; 2];
            self.0.read_exact(&mut long).ok()?;
            len = u16::from_be_bytes(long);
        }
        let mut payload = vec![0; usize::from(len)];
        self.0.read_exact(&mut payload).ok()?;
        Some((head[0], payload))
    }
}

pub const MQTT: &str = "Sec-WebSocket-Protocol: mqtt\r\n";

/// [MQTT-6.0.0-4]. Who offers `mqttv3.1` alone is by that name a Client of MQTT 3.1, of which
/// the standard does not speak.
#[test]
fn the_subprotocol_is_mqtt_for_all_that_offer_it() {
    let all = all();
    let selected = |header: &str| {
        let (_ws, head) = WebSocket::open(all.ws, "/mqtt", header);
        assert!(head.starts_with("HTTP/1.1 101"), "{header}: {head}");
        let head = head.to_lowercase();
        let lines = head.lines().filter_map(|line| line.strip_prefix("sec-websocket-protocol: "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    for offered in ["mqtt", "mqttv3.1, mqtt", "mqtt, mqttv3.1", "chat,mqtt", "mqttv3.1,chat,mqtt,x"]
    {
        let header = format!("Sec-WebSocket-Protocol: {offered}\r\n");
        assert_eq!(selected(&header), ["mqtt"], "{offered}");
    }
    let twice = "Sec-WebSocket-Protocol: mqttv3.1\r\nSec-WebSocket-Protocol: mqtt\r\n";
    assert_eq!(selected(twice), ["mqtt"]);
    assert_eq!(selected("Sec-WebSocket-Protocol: mqttv3.1\r\n"), ["mqttv3.1"]);
    assert_eq!(selected(""), Vec::<String>::new());
}

/// [MQTT-6.0.0-1] to [MQTT-6.0.0-4]
#[test]
fn websocket_frames_carry_the_stream_wherever_they_begin_and_end() {
    let all = all();
    let (mut ws, head) = WebSocket::open(all.ws, "/mqtt", MQTT);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.to_lowercase().contains("sec-websocket-protocol: mqtt\r\n"), "{head}");
    let connect = Connect::v4("ws").bytes();
    let (first, second) = connect.split_at(5);
    ws.frame(0x82, first);
    ws.frame(0x02, &[second, &[0xC0]].concat());
    ws.frame(0x89, b"ping");
    ws.frame(0x80, &[0]);
    let mut answers = vec![];
    let mut pong = false;
    while answers.len() < 6 || !pong {
        match ws.read().expect("a frame") {
            (0x82, bytes) => answers.extend(bytes),
            (0x8A, bytes) => pong = bytes == b"ping",
            other => panic!("{other:02x?}"),
        }
    }
    assert_eq!(answers, [0x20, 2, 0, 0, 0xD0, 0]);
    ws.frame(0x81, b"text");
    while ws.read().is_some() {}
    let (_, head) = WebSocket::open(all.ws, "/wrong", MQTT);
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    let (_, head) = WebSocket::open(all.ws, "/mqtt", "Sec-WebSocket-Protocol: chat\r\n");
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
}

#[test]
fn unmasked_and_giant_websocket_frames_are_refused() {
    let all = all();
    let (mut ws, _) = WebSocket::open(all.ws, "/mqtt", MQTT);
    ws.0.write_all(&[0x82, 2, 0xC0, 0]).unwrap();
    while ws.read().is_some() {}
    let (mut ws, _) = WebSocket::open(all.ws, "/mqtt", MQTT);
    ws.0.write_all(&[0x82, 0xFF, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    while ws.read().is_some() {}
    assert!(Client::resume(all.broker.port, &Connect::v4("witness")).0.try_ping());
}

#[test]
fn a_secure_websocket_ends_with_a_close_frame_and_the_end_of_tls() {
    let all = all();
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", "-CAfile"])
        .arg(certificates().join("ca.pem"))
        .args(["-connect", &format!("127.0.0.1:{}", all.wss)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut to, mut from) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
    write!(
        to,
        "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{MQTT}\r\n"
    )
    .unwrap();
    let mut head = vec![];
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        from.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let connect = Connect::v5("wss").bytes();
    to.write_all(&[&[0x82, 0x80 | connect.len() as u8, 0, 0, 0, 0], &connect[..]].concat())
        .unwrap();
    // A second CONNECT is answered with DISCONNECT 0x82.
    to.write_all(&[&[0x82, 0x80 | connect.len() as u8, 0, 0, 0, 0], &connect[..]].concat())
        .unwrap();
    let (mut bytes, mut complaints) = (vec![], String::new());
    from.read_to_end(&mut bytes).unwrap();
    client.stderr.take().unwrap().read_to_string(&mut complaints).unwrap();
    client.wait().unwrap();
    assert!(bytes.ends_with(&[0x82, 4, 0xE0, 2, 0x82, 0, 0x88, 0]), "{bytes:02x?}");
    assert!(!complaints.contains("unexpected eof"), "{complaints}");
}

#[test]
fn a_connection_too_many_is_closed() {
    let broker = Broker::start("max_connections = 2");
    let (first, _second) = (Client::v4(broker.port, "1"), Client::v4(broker.port, "2"));
    let mut third = Client::open(broker.port, false);
    third.try_send(&Connect::v4("3").bytes());
    assert_eq!(third.try_read(), None);
    first.disconnect();
    // Its place is free a moment after its end is seen.
    while !Client::open(broker.port, false).try_connect(&Connect::v4("3")) {}
}

#[test]
fn a_broker_without_descriptors_pauses_and_goes_on() {
    let broker = Broker::start_limited("-n 64", "accept_backoff = \"100ms\"");
    let crowd: Vec<_> = (0..100).map(|_| Client::open(broker.port, false)).collect();
    while !broker.log().contains("cannot accept on") {
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(crowd);
    let mut client = Client::v4(broker.port, "patient");
    assert!(client.try_ping());
}

#[test]
fn a_bad_certificate_is_said_at_the_start() {
    let c = certificates().display();
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("w.toml");
    std::fs::write(directory.path().join("empty.pem"), "nothing").unwrap();
    for (cert, key, expected) in [
        (format!("{c}/missing.pem"), format!("{c}/server.key"), "cannot read the certificate"),
        ("empty.pem".into(), format!("{c}/server.key"), "holds no certificate"),
        (format!("{c}/server.pem"), "empty.pem".into(), "holds no key"),
        (format!("{c}/server.pem"), format!("{c}/client.key"), "cannot be used with the key"),
    ] {
        let port = free_port();
        let text =
            format!("[[listener]]\nport = {port}\ncertfile = \"{cert}\"\nkeyfile = \"{key}\"");
        std::fs::write(&config, text).unwrap();
        let (status, output) = run(program().arg("-c").arg(&config), Duration::from_secs(20));
        assert_eq!(status, Some(1), "{output}");
        assert!(output.contains(expected), "{output}");
    }
}
