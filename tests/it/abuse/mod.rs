//! Who does too much of something: is slowed down, refused or banned, and others are not.
//!
//! All of 127.0.0.0/8 is this machine, so a test has as many addresses as it wants.

mod bans;
mod crowds;
mod logins;
mod pace;

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::broker::Broker;
use crate::passwd::set;
use crate::passwords::SLOW;
use crate::raw::{Client, Connect};

/// A stream from 127.0.0.`host`.
fn stream(host: u8, port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // Or the port is in use for a broker that would listen on all addresses.
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, host], 0)).into()).unwrap();
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    socket.into()
}

/// A connection from 127.0.0.`host`, with CONNECT sent.
fn from(host: u8, port: u16, connect: &Connect) -> Client {
    let mut client = Client::over(stream(host, port), connect.level == 5);
    // Passwords take long, and longer where many tests have them checked.
    client.stream().set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    client.try_send(&connect.bytes());
    client
}

/// What the CONNACK says; `None`: the connection ended without one.
fn code(client: &mut Client) -> Option<u8> {
    let connack = client.try_read()?;
    assert_eq!(connack[0], 0x20, "{connack:02x?}");
    Some(connack[3])
}

/// For a broker that exempts nobody.
const OPEN: &str = "exempt_networks = []\nconnect_timeout = \"300s\"\n";

/// Whether a stream that nothing was said on is closed without a byte: the `connect_timeout` of
/// these brokers is longer than a test.
fn is_closed(mut stream: TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    match stream.read(&mut [0]) {
        Ok(len) => len == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// Whether somebody from there is.
fn is_shut_out(host: u8, port: u16) -> bool {
    is_closed(stream(host, port))
}

/// Waits for what comes by itself.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "not so: {what}");
    }
}

/// Whether a Client is let in; it leaves at once.
fn is_let_in(host: u8, port: u16, connect: &Connect) -> bool {
    let mut client = from(host, port, connect);
    let is_let_in = code(&mut client) == Some(0);
    if is_let_in {
        client.disconnect();
    }
    is_let_in
}

/// A broker that asks for a password, "sesame" of "ali" and none of "slow", and knows no exempt address but
/// 127.0.0.1.
fn guarded(settings: &str, listeners: &str) -> (Broker, TempDir) {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("passwords");
    set(&["-c", "-b"], &file, &["ali", "sesame"], "");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}{SLOW}")).unwrap();
    let settings = format!(
        "password_file = '{}'\nexempt_networks = [\"127.0.0.1\"]\nlog_level = \"debug\"\n\
         connect_timeout = \"300s\"\n\
         {settings}",
        file.display()
    );
    (Broker::start_with(&settings, listeners), directory)
}

/// Waits until the log has so many lines with this text.
fn logged(broker: &Broker, text: &str, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while broker.log().matches(text).count() < count {
        assert!(Instant::now() < deadline, "not {count} times {text:?} in\n{}", broker.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}
