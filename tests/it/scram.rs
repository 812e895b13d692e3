//! Enhanced authentication by SCRAM-SHA-256, with a client's side of its own, and by Python.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64ct::{Base64, Encoding};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::broker::{Broker, free_port, run, shared};
use crate::passwords::{broker, password_file};
use crate::raw::{Client, Connect, field, packet, properties};

const METHOD: &str = "SCRAM-SHA-256";
const CONTINUE: u8 = 0x18;
const AGAIN: u8 = 0x19;

pub fn auth_properties(method: &str, data: &str) -> Vec<u8> {
    [&[0x15], &field(method)[..], &[0x16], &field(data)].concat()
}

pub fn auth(reason: u8, method: &str, data: &str) -> Vec<u8> {
    packet(0xF0, &[&[reason], &properties(&[&auth_properties(method, data)])])
}

fn mac(key: &[u8], text: impl AsRef<[u8]>) -> [u8; 32] {
    let mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.chain_update(text).finalize().into_bytes().into()
}

/// A client's side.
struct Dialogue {
    password: String,
    bare: String,
    server_key: [u8; 32],
    said: String,
}

impl Dialogue {
    fn new(user: &str, password: &str) -> Self {
        let bare = format!("n={user},r=fyko+d2lbbFgONRv9qkxdawL");
        Self { password: password.into(), bare, server_key: [0; 32], said: String::new() }
    }

    fn first(&self) -> String {
        format!("n,,{}", self.bare)
    }

    /// The answer to a challenge.
    fn last(&mut self, challenge: &str) -> String {
        let fields: Vec<&str> = challenge.split(',').collect();
        let value = |at: usize, key: &str| fields[at].strip_prefix(key).unwrap();
        let (nonce, salt, iterations) = (value(0, "r="), value(1, "s="), value(2, "i="));
        assert_eq!(fields.len(), 3, "{challenge}");
        assert!(nonce.starts_with("fyko+d2lbbFgONRv9qkxdawL") && nonce.len() >= 24 + 24);
        let salt = Base64::decode_vec(salt).unwrap();
        // PBKDF2, one block of it.
        let mut block = mac(self.password.as_bytes(), [&salt[..], &[0, 0, 0, 1]].concat());
        let mut salted = block;
        for _ in 1..iterations.parse::<u32>().unwrap() {
            block = mac(self.password.as_bytes(), block);
            salted.iter_mut().zip(block).for_each(|(a, b)| *a ^= b);
        }
        let client_key = mac(&salted, "Client Key");
        let unproven = format!("c=biws,r={nonce}");
        self.said = format!("{},{challenge},{unproven}", self.bare);
        let signature = mac(&Sha256::digest(client_key), &self.said);
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        self.server_key = mac(&salted, "Server Key");
        format!("{unproven},p={}", Base64::encode_string(&proof))
    }

    /// What the server must end with.
    fn verdict(&self) -> String {
        format!("v={}", Base64::encode_string(&mac(&self.server_key, &self.said)))
    }
}

/// The data of an AUTH packet, which holds method and data and nothing else: a Reason String or
/// User Property cannot make it too large.
fn data_of(packet: &[u8], reason: u8) -> String {
    assert_eq!(packet[0], 0xF0, "not an AUTH: {packet:02x?}");
    let is_method = |window: &[u8]| window == METHOD.as_bytes();
    let method = packet.windows(METHOD.len()).position(is_method).expect("the method");
    let data = String::from_utf8(packet[method + METHOD.len() + 3..].to_vec()).unwrap();
    assert_eq!(packet, auth(reason, METHOD, &data), "{packet:02x?}");
    data
}

fn connect(id: &str, dialogue: &Dialogue) -> Connect {
    Connect::v5(id).with(&auth_properties(METHOD, &dialogue.first()))
}

/// A client that has been challenged; with the challenge.
fn challenged(port: u16, connect: &Connect) -> (Client, String) {
    let mut client = Client::open(port, true);
    client.send(&connect.bytes());
    let challenge = client.read();
    (client, data_of(&challenge, CONTINUE))
}

/// A client that has logged in.
fn logged_in(port: u16, id: &str, user: &str) -> Client {
    let mut dialogue = Dialogue::new(user, "sesame");
    let (mut client, challenge) = challenged(port, &connect(id, &dialogue));
    client.send(&auth(CONTINUE, METHOD, &dialogue.last(&challenge)));
    let connack = client.read();
    assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:02x?}");
    // [MQTT-4.12.0-5]
    let expected = auth_properties(METHOD, &dialogue.verdict());
    assert!(connack.windows(expected.len()).any(|w| w == expected), "{connack:02x?}");
    client
}

fn refused(client: &mut Client, reason: u8) {
    let connack = client.read();
    assert_eq!((connack[0], connack[3]), (0x20, reason), "{connack:02x?}");
    assert_eq!(client.try_read(), None);
}

struct Users {
    broker: Broker,
    _directory: TempDir,
}

fn users() -> Users {
    let directory = TempDir::new().unwrap();
    let broker = broker("", &password_file(directory.path()));
    Users { broker, _directory: directory }
}

/// [MQTT-4.12.0-2, MQTT-4.12.0-5, MQTT-3.15.2-2, MQTT-3.15.2-3]
#[test]
fn a_user_logs_in_by_scram_and_the_server_proves_itself() {
    let users = users();
    for user in ["both", "keys"] {
        let mut client = logged_in(users.broker.port, "scram-in", user);
        client.expect_nothing();
        client.disconnect();
    }
    assert!(users.broker.log().contains("user=\"keys\""));
}

/// [MQTT-3.15.2-2, MQTT-3.15.2-3]
#[test]
fn an_auth_packet_is_never_larger_than_the_client_takes() {
    let users = users();
    let port = users.broker.port;
    let dialogue = Dialogue::new("both", "sesame");
    let mut client = Client::open(port, true);
    client.send(&connect("scram-size", &dialogue).bytes());
    let exact = client.read().len() as u32;
    for (maximum, is_enough) in [(exact, true), (exact - 1, false)] {
        let property = [&[0x27], &maximum.to_be_bytes()[..]].concat();
        let mut client = Client::open(port, true);
        client.send(&connect("scram-size", &dialogue).with(&property).bytes());
        if is_enough {
            assert_eq!(client.read().len() as u32, exact);
        } else {
            refused(&mut client, 0x95);
        }
    }
}

/// [MQTT-4.12.0-4]
#[test]
fn a_wrong_proof_is_refused_and_an_unknown_user_after_the_same_dialogue() {
    let Users { mut broker, _directory } = users();
    let mut salts = vec![];
    for user in ["both", "keys", "argon2id", "nobody", "both", "nobody"] {
        let password = if user == "both" { "simsim" } else { "sesame" };
        let mut dialogue = Dialogue::new(user, if user == "keys" { "x" } else { password });
        let (mut client, challenge) = challenged(broker.port, &connect("scram-no", &dialogue));
        assert!(challenge.ends_with(",i=4096"), "{challenge}");
        salts.push((user, challenge.split(',').nth(1).unwrap().to_owned()));
        client.send(&auth(CONTINUE, METHOD, &dialogue.last(&challenge)));
        refused(&mut client, 0x87);
        if salts.len() == 4 {
            broker.stop_and_restart();
        }
    }
    // A restart does not show who was invented.
    assert_eq!(salts[0], salts[4]);
    assert_eq!(salts[3], salts[5]);
    assert_ne!(salts[2].1, salts[3].1);
}

/// [MQTT-3.1.2-30, MQTT-4.12.0-4, MQTT-4.12.0-5]
#[test]
fn only_auth_of_the_same_method_and_disconnect_may_come_in_between() {
    let users = users();
    let publish = packet(0x30, &[&field("scram/between"), &[0], b"x"]);
    for (between, answer) in [
        (publish.clone(), Some(0x82)),
        (vec![0xC0, 0], Some(0x82)),
        (vec![0xE0, 0], None),
        (auth(CONTINUE, "SCRAM-SHA-512", "x"), Some(0x82)),
        (auth(AGAIN, METHOD, "x"), Some(0x82)),
        (vec![0xF0, 0], Some(0x82)),
        (auth(CONTINUE, METHOD, "x"), Some(0x87)),
        (connect("scram-between", &Dialogue::new("both", "x")).bytes(), Some(0x82)),
    ] {
        let dialogue = Dialogue::new("both", "sesame");
        let (mut client, _) = challenged(users.broker.port, &connect("scram-between", &dialogue));
        client.send(&between);
        match answer {
            Some(reason) => refused(&mut client, reason),
            None => assert_eq!(client.try_read(), None),
        }
    }
    // Nor does it help to send everything at once.
    let mut client = Client::open(users.broker.port, true);
    let dialogue = Dialogue::new("both", "sesame");
    client.send(&[connect("scram-between", &dialogue).bytes(), publish].concat());
    data_of(&client.read(), CONTINUE);
    refused(&mut client, 0x82);
}

#[test]
fn channel_binding_and_other_methods_are_refused() {
    let users = users();
    let port = users.broker.port;
    let try_first = |method: &str, first: &str| {
        let mut client = Client::open(port, true);
        let connect = Connect::v5("scram-first").with(&auth_properties(method, first));
        client.send(&connect.bytes());
        client.read()
    };
    for (method, first, reason) in [
        (METHOD, "p=tls-unique,,n=both,r=abc", 0x87),
        (METHOD, "", 0x87),
        ("SCRAM-SHA-256-PLUS", "n,,n=both,r=abc", 0x8C),
        ("SCRAM-SHA-1", "n,,n=both,r=abc", 0x8C),
        ("scram-sha-256", "n,,n=both,r=abc", 0x8C),
    ] {
        let connack = try_first(method, first);
        assert_eq!((connack[0], connack[3]), (0x20, reason), "{method} {first}");
    }
    data_of(&try_first(METHOD, "y,,n=both,r=abc"), CONTINUE);
    // Where nobody has keys it is not offered.
    let connect = Connect::v5("scram-none").with(&auth_properties(METHOD, "n,,n=both,r=abc"));
    assert_eq!(Client::connect_with(shared(), &connect).1[3], 0x8C);
}

/// [MQTT-4.12.1-1]
#[test]
fn authenticating_again_leaves_everything_else_going() {
    let users = users();
    let mut client = logged_in(users.broker.port, "scram-again", "both");
    assert_eq!(client.subscribe("scram/again", 1), 1);
    for n in 0..3 {
        let mut dialogue = Dialogue::new("both", "sesame");
        client.send(&auth(AGAIN, METHOD, &dialogue.first()));
        let challenge = data_of(&client.read(), CONTINUE);
        client.publish(2, "scram/again", format!("during {n}"));
        assert_eq!(client.receive().text(), format!("during {n}"));
        client.expect_nothing();
        client.send(&auth(CONTINUE, METHOD, &dialogue.last(&challenge)));
        assert_eq!(data_of(&client.read(), 0), dialogue.verdict());
    }
    client.publish(2, "scram/again", "after");
    assert_eq!(client.receive().text(), "after");
    client.disconnect();
}

/// [MQTT-4.12.1-2]
#[test]
fn who_fails_to_authenticate_again_is_disconnected() {
    let users = users();
    let port = users.broker.port;
    // The password of another user, or none.
    for (user, password) in [("both", "simsim"), ("keys", "sesame"), ("nobody", "sesame")] {
        let mut client = logged_in(port, "scram-fail", "both");
        let mut dialogue = Dialogue::new(user, password);
        client.send(&auth(AGAIN, METHOD, &dialogue.first()));
        let challenge = data_of(&client.read(), CONTINUE);
        client.send(&auth(CONTINUE, METHOD, &dialogue.last(&challenge)));
        client.expect_close(0x87);
    }
    for (packets, reason) in [
        (vec![auth(AGAIN, METHOD, "nonsense")], 0x87),
        (vec![auth(AGAIN, "SCRAM-SHA-512", "n,,n=both,r=abc")], 0x82),
        (vec![auth(CONTINUE, METHOD, "n,,n=both,r=abc")], 0x82),
        (vec![vec![0xF0, 0]], 0x82),
        (vec![auth(AGAIN, METHOD, "n,,n=both,r=abc"); 2], 0x82),
    ] {
        let mut client = logged_in(port, "scram-fail", "both");
        for (at, packet) in packets.iter().enumerate() {
            client.send(packet);
            if at + 1 < packets.len() {
                data_of(&client.read(), CONTINUE);
            }
        }
        client.expect_close(reason);
    }
    // Who came by password cannot.
    let mut client = Client::connect(port, &Connect::v5("scram-fail").user("both", "sesame"));
    client.send(&auth(AGAIN, METHOD, "n,,n=both,r=abc"));
    client.expect_close(0x82);
}

#[test]
fn python_logs_in_by_scram_and_authenticates_again() {
    let users = users();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/scram.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(users.broker.port.to_string());
    let (status, output) = run(&mut command, Duration::from_secs(30));
    assert_eq!(status, Some(0), "{output}\n{}", users.broker.log());
    assert!(output.ends_with("4 of 4\n"), "{output}");
}

#[test]
fn a_wrong_proof_is_a_failed_login_also_when_it_comes_again() {
    let directory = TempDir::new().unwrap();
    let settings = "exempt_networks = []\nmax_failed_logins = 3\nfailed_login_delay = 0";
    let broker = broker(settings, &password_file(directory.path()));
    let fail = || {
        let mut dialogue = Dialogue::new("both", "simsim");
        let (mut client, challenge) = challenged(broker.port, &connect("scram-ban", &dialogue));
        client.send(&auth(CONTINUE, METHOD, &dialogue.last(&challenge)));
        refused(&mut client, 0x87);
    };
    let mut inside = logged_in(broker.port, "scram-inside", "both");
    let mut stays = logged_in(broker.port, "scram-stays", "both");
    (0..2).for_each(|_| fail());
    let mut dialogue = Dialogue::new("both", "simsim");
    inside.send(&auth(AGAIN, METHOD, &dialogue.first()));
    let challenge = data_of(&inside.read(), CONTINUE);
    inside.send(&auth(CONTINUE, METHOD, &dialogue.last(&challenge)));
    inside.expect_close(0x87);
    while !broker.log().contains("banned for 600s: 3 failed logins in 60s") {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut late = Client::open(broker.port, true);
    late.try_send(&connect("scram-late", &Dialogue::new("both", "sesame")).bytes());
    assert_eq!(late.try_read(), None);
    assert!(stays.try_ping());
}

#[test]
fn scram_is_no_way_round_a_method_before_the_passwords() {
    let directory = TempDir::new().unwrap();
    let file = password_file(directory.path());
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "x".repeat(64)).unwrap();
    let behind = free_port();
    let listeners = format!(
        "[[token]]\nname = \"t\"\nsecret_file = '{}'\n[[listener]]\nport = {behind}\n\
         bind_address = \"127.0.0.1\"\nauthentication = [\"t\", \"passwords\"]\n",
        secret.display()
    );
    let broker = Broker::start_with(&format!("password_file = '{}'", file.display()), &listeners);
    let dialogue = Dialogue::new("both", "sesame");
    let refused = Client::connect_with(behind, &connect("scram-behind", &dialogue)).1;
    assert_eq!((refused[0], refused[3]), (0x20, 0x8C), "{refused:02x?}");
    logged_in(broker.port, "scram-before", "both").disconnect();
}
