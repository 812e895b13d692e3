//! What mosquitto has kept is taken over: its file is written by the real mosquitto, and what it
//! held arrives from our broker.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::broker::{Broker, free_port, program, run};
use crate::raw::{Client, Connect};

const SOON: Duration = Duration::from_secs(20);

/// A running mosquitto that keeps a file; killed when dropped.
struct Mosquitto {
    child: Child,
    port: u16,
    directory: TempDir,
}

impl Mosquitto {
    fn start(settings: &str) -> Self {
        let (directory, port) = (TempDir::new().unwrap(), free_port());
        let config = directory.path().join("mosquitto.conf");
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\n\
             persistence_location {}/\n{settings}\n",
            directory.path().display()
        );
        std::fs::write(&config, text).unwrap();
        // Debian has it where a user's PATH does not lead.
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap());
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let mut command = Command::new("mosquitto");
        command.env("PATH", path).arg("-c").arg(&config).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("tests/run.sh installs mosquitto");
        let started = Self { child, port, directory };
        let deadline = Instant::now() + SOON;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "mosquitto does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        started
    }

    /// SIGUSR1; the file that it has written.
    fn save(&self) -> PathBuf {
        let file = self.directory.path().join("mosquitto.db");
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "USR1", &pid]).status().unwrap().success());
        let deadline = Instant::now() + SOON;
        // It is put in its place when it is whole.
        while !file.exists() {
            assert!(Instant::now() < deadline, "mosquitto writes no file");
            std::thread::sleep(Duration::from_millis(5));
        }
        file
    }

    /// SIGTERM; the file that it has written.
    fn stop(&mut self) -> PathBuf {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        self.child.wait().unwrap();
        self.directory.path().join("mosquitto.db")
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Imports a file into a store below `directory`.
fn import(file: &Path, directory: &Path) -> (Option<i32>, String) {
    let mut command = program();
    command.args(["store", "import"]).arg(file).arg("--directory").arg(directory.join("data"));
    run(&mut command, SOON)
}

/// What was imported, by the lines that say so.
fn imported(file: &Path, directory: &Path, lines: &[&str]) {
    let (status, output) = import(file, directory);
    assert_eq!(status, Some(0), "{output}");
    assert_eq!(output.lines().collect::<Vec<_>>(), lines, "{output}");
    let mut command = program();
    command.args(["store", "check", "--directory"]).arg(directory.join("data"));
    let (status, output) = run(&mut command, SOON);
    assert_eq!(status, Some(0), "{output}");
}

/// A broker on what was imported.
fn broker(directory: &TempDir) -> Broker {
    Broker::start_on(&directory.path().join("data/whimbrel.redb"))
}

/// One of mosquitto's clients; what it says.
fn tool(name: &str, port: u16, arguments: &[&str]) -> String {
    let mut command = Command::new(name);
    command.args(["-h", "127.0.0.1", "-p", &port.to_string()]).args(arguments);
    let (status, output) = run(&mut command, SOON);
    assert_eq!(status, Some(0), "{arguments:?}: {output}");
    output
}

/// The value of a Message Expiry Interval that comes first.
fn expiry(properties: &[u8]) -> u32 {
    assert_eq!(properties[0], 2, "{properties:02x?}");
    u32::from_be_bytes(properties[1..5].try_into().unwrap())
}

#[test]
fn real_clients_get_what_mosquitto_kept_for_them() {
    let mut mosquitto = Mosquitto::start("queue_qos0_messages true\nmax_inflight_messages 3");
    let port = mosquitto.port;
    for (client, qos, version) in [("one", "1", "311"), ("two", "2", "5")] {
        let expiry: &[&str] = if version == "5" { &["-x", "86400"] } else { &[] };
        let begin = ["-i", client, "-c", "-q", qos, "-V", version, "-t", "deep/#", "-E"];
        tool("mosquitto_sub", port, &[&begin[..], expiry].concat());
    }
    for number in 0..9 {
        let (number, qos) = (number.to_string(), (number % 3).to_string());
        tool("mosquitto_pub", port, &["-t", "deep/x", "-q", &qos, "-m", &number]);
    }
    tool("mosquitto_pub", port, &["-t", "kept/a", "-q", "1", "-r", "-m", "k"]);
    tool("mosquitto_pub", port, &["-t", "kept/b", "-q", "0", "-r", "-m", "l"]);
    let file = mosquitto.stop();
    let directory = TempDir::new().unwrap();
    imported(
        &file,
        directory.path(),
        &[
            "version of the file: 6",
            "sessions: 2",
            "subscriptions: 2",
            "retained messages: 2",
            "messages waiting: 12",
            "Packet Identifiers in use toward Clients: 0",
            "QoS 2 identifiers in use by Clients: 0",
            "left out, messages of QoS 0 that waited: 6",
        ],
    );
    let broker = broker(&directory);
    let format = ["-C", "6", "-W", "20", "-F", "%t %p %q %r"];
    let one = ["-i", "one", "-c", "-q", "1", "-t", "other"];
    let output = tool("mosquitto_sub", broker.port, &[&one[..], &format].concat());
    let expected = [1, 2, 4, 5, 7, 8].map(|n| format!("deep/x {n} 1 0\n")).concat();
    assert_eq!(output, expected);
    let two = ["-i", "two", "-c", "-q", "2", "-V", "5", "-x", "86400", "-t", "other"];
    let output = tool("mosquitto_sub", broker.port, &[&two[..], &format].concat());
    // It tells of QoS 2 when the exchange is over.
    let mut lines: Vec<_> = output.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, [1, 2, 4, 5, 7, 8].map(|n| format!("deep/x {n} {} 0", n % 3)));
    let kept = ["-t", "kept/#", "-q", "2", "-C", "2", "-W", "20", "-F", "%t %p %q %r"];
    let output = tool("mosquitto_sub", broker.port, &kept);
    let mut lines: Vec<_> = output.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["kept/a k 1 1", "kept/b l 0 1"]);
}

#[test]
fn properties_options_and_lifetimes_come_along() {
    let mut mosquitto = Mosquitto::start("");
    let away = Connect::v5("away").durable();
    let mut client = Client::connect(mosquitto.port, &away);
    // RETAIN as published, and a Subscription Identifier.
    client.subscribe_with(&[0x0B, 7], "t/#", 2 | 8);
    // No Local.
    client.subscribe("own/#", 1 | 4);
    client.disconnect();
    let mut sender = Client::v5(mosquitto.port, "sender");
    let user = b"\x26\0\x01k\0\x01v".as_slice();
    let lifetime = [2, 0, 0, 0x0E, 0x10];
    let content = b"\x03\0\x04text".as_slice();
    let given = [&lifetime[..], content, user].concat();
    sender.send(&sender.publish_bytes(3, "t/kept", 1, &given, "k"));
    sender.answer();
    sender.send(&sender.publish_bytes(2, "t/one", 1, user, "1"));
    sender.answer();
    let file = mosquitto.stop();
    let directory = TempDir::new().unwrap();
    let (status, output) = import(&file, directory.path());
    assert_eq!(status, Some(0), "{output}");
    let broker = broker(&directory);

    let (mut client, present) = Client::resume(broker.port, &away);
    assert!(present);
    let kept = client.receive();
    assert_eq!((kept.topic.as_str(), kept.text(), kept.flags), ("t/kept", "k", 3));
    let left = expiry(&kept.properties);
    assert!((3000..=3600).contains(&left), "{left}");
    let rest = [&[0x0B, 7], content, user].concat();
    assert_eq!(kept.properties[5..], rest, "{:02x?}", kept.properties);
    let one = client.receive();
    assert_eq!((one.text(), one.flags), ("1", 2));
    assert_eq!(one.properties, [&[0x0B, 7], user].concat());
    // The subscriptions hold: what the Client publishes itself does not come by the one, and comes
    // as it was published by the other.
    client.publish(2, "own/x", "mine");
    client.publish(3, "t/new", "new");
    let new = client.receive();
    assert_eq!((new.text(), new.retain()), ("new", true));
    client.expect_nothing();
    let mut other = Client::v5(broker.port, "other");
    other.subscribe("t/kept", 2);
    let kept = other.receive();
    assert_eq!((kept.text(), kept.qos(), kept.retain()), ("k", 1, true));
    assert_eq!(kept.properties[5..], [content, user].concat());
}

#[test]
fn exchanges_go_on_where_they_stood() {
    let mut mosquitto = Mosquitto::start("");
    let slow = Connect::v4("slow").durable();
    let mut client = Client::connect(mosquitto.port, &slow);
    client.subscribe("t/#", 2);
    let giver = Connect::v4("giver").durable();
    let mut sender = Client::connect(mosquitto.port, &giver);
    sender.publish(2, "t/one", "1");
    sender.publish(4, "t/two", "2");
    sender.publish(4, "t/three", "3");
    let ids: Vec<u16> = (0..3).map(|_| client.read_publish().id).collect();
    // The second is received.
    let [high, low] = ids[1].to_be_bytes();
    client.send(&[0x50, 2, high, low]);
    client.expect(&[0x62, 2, high, low]);
    client.vanish();
    // Received by the broker, which distributes it when the PUBREL comes.
    sender.send(&sender.publish_bytes(4, "t/open", 55, &[], "o"));
    sender.expect(&[0x50, 2, 0, 55]);
    sender.vanish();
    let file = mosquitto.stop();
    let directory = TempDir::new().unwrap();
    imported(
        &file,
        directory.path(),
        &[
            "version of the file: 6",
            "sessions: 2",
            "subscriptions: 1",
            "retained messages: 0",
            "messages waiting: 3",
            "Packet Identifiers in use toward Clients: 3",
            "QoS 2 identifiers in use by Clients: 1",
        ],
    );
    let broker = broker(&directory);

    let mut sender = Client::connect(broker.port, &giver);
    sender.send(&[0x62, 2, 0, 55]);
    sender.expect(&[0x70, 2, 0, 55]);
    let (mut client, present) = Client::resume(broker.port, &slow);
    assert!(present);
    let one = client.read_publish();
    assert_eq!((one.text(), one.id, one.flags), ("1", ids[0], 0x0A));
    client.expect(&[0x62, 2, high, low]);
    let three = client.read_publish();
    assert_eq!((three.text(), three.id, three.flags), ("3", ids[2], 0x0C));
    let open = client.receive();
    assert_eq!((open.text(), open.flags), ("o", 4));
    client.send(&[0x70, 2, high, low]);
    client.expect_nothing();
}

/// Its Clients were connected, and some had their messages and had not said so.
#[test]
fn the_file_of_a_mosquitto_that_runs_is_taken_over_too() {
    let mosquitto = Mosquitto::start("max_inflight_messages 2");
    let busy = Connect::v5("busy").with(&[0x11, 0, 0, 0x0E, 0x10]);
    let busy = Connect { clean: false, ..busy };
    let mut client = Client::connect(mosquitto.port, &busy);
    client.subscribe("t", 1);
    let mut sender = Client::v4(mosquitto.port, "sender");
    for number in 1..=4 {
        sender.publish(2, "t", number.to_string());
    }
    let ids: Vec<u16> = (0..2).map(|_| client.read_publish().id).collect();
    let file = mosquitto.save();
    let directory = TempDir::new().unwrap();
    let lines =
        ["sessions: 1", "messages waiting: 4", "Packet Identifiers in use toward Clients: 2"];
    let (status, output) = import(&file, directory.path());
    assert_eq!(status, Some(0), "{output}");
    assert!(lines.iter().all(|line| output.lines().any(|said| said == *line)), "{output}");
    let broker = broker(&directory);
    let (mut client, present) = Client::resume(broker.port, &busy);
    assert!(present);
    let got: Vec<_> = (0..4).map(|_| client.receive()).collect();
    let texts: Vec<_> = got.iter().map(|got| (got.text(), got.dup())).collect();
    assert_eq!(texts, [("1", true), ("2", true), ("3", false), ("4", false)]);
    assert_eq!([got[0].id, got[1].id], ids[..]);
}

/// Where users prove who they are nobody else gets a Session; elsewhere nobody could.
#[test]
fn a_session_stays_its_owners_where_there_are_users() {
    let mut mosquitto = Mosquitto::start("");
    let ali = Connect::v4("phone").durable().user("ali", "secret");
    let mut client = Client::connect(mosquitto.port, &ali);
    client.subscribe("t", 1);
    client.disconnect();
    let file = mosquitto.stop();
    let directory = TempDir::new().unwrap();
    let (status, output) = import(&file, directory.path());
    let said = "left out, owners of Sessions, since the configuration has no users: 1";
    assert_eq!((status, output.contains(said)), (Some(0), true), "{output}");
    let (_, present) = Client::resume(broker(&directory).port, &ali);
    assert!(present);

    let directory = TempDir::new().unwrap();
    let users = directory.path().join("users");
    for (create, user) in [(true, "ali"), (false, "eve")] {
        let mut passwd = program();
        passwd.args(["passwd", "-b"]).args(create.then_some("-c")).arg(&users);
        assert_eq!(run(passwd.args([user, "secret"]), SOON).0, Some(0));
    }
    let config = directory.path().join("whimbrel.toml");
    std::fs::write(&config, "password_file = \"users\"\npersistence_location = \"data\"").unwrap();
    let mut command = program();
    let (status, output) =
        run(command.args(["store", "import"]).arg(&file).arg("-c").arg(&config), SOON);
    assert_eq!((status, output.contains("left out")), (Some(0), false), "{output}");
    let mut broker = Broker::start(&format!("password_file = \"{}\"", users.display()));
    broker.stop_and_take(&directory.path().join("data/whimbrel.redb"));
    let (_, connack) =
        Client::connect_with(broker.port, &Connect::v4("phone").durable().user("eve", "secret"));
    assert_eq!(connack, [0x20, 2, 0, 5]);
    let (_, present) = Client::resume(broker.port, &ali);
    assert!(present);
}

#[test]
fn nothing_is_overwritten_and_nothing_half_imported() {
    let mut mosquitto = Mosquitto::start("");
    let mut client = Client::connect(mosquitto.port, &Connect::v5("away").durable());
    client.subscribe("t/#", 2);
    client.disconnect();
    Client::v4(mosquitto.port, "sender").publish(3, "t/kept", "k");
    let file = mosquitto.stop();

    let running = Broker::start("");
    let (status, output) = import(&file, running.directory());
    assert_eq!(status, Some(1), "{output}");
    assert!(output.contains("is in use by another process"), "{output}");
    // One with a Session of the same Client, another with the same retained topic.
    let mut client = Client::connect(running.port, &Connect::v5("away").durable());
    client.subscribe("mine", 1);
    let other = Broker::start("");
    Client::v4(other.port, "x").publish(3, "t/kept", "mine");
    for (broker, said) in [
        (running, "the store has Sessions of these Clients already: \"away\""),
        (other, "the store has retained messages of these topics already: \"t/kept\""),
    ] {
        let directory = broker.keep_directory();
        let store = directory.join("data/whimbrel.redb");
        let before = stats(&directory);
        let (status, output) = import(&file, &directory);
        assert_eq!((status, output.contains(said)), (Some(1), true), "{output}");
        assert_eq!(stats(&directory), before, "{}", store.display());
        std::fs::remove_dir_all(directory).unwrap();
    }
    let directory = TempDir::new().unwrap();
    assert_eq!(import(&file, directory.path()).0, Some(0));
    let (status, output) = import(&file, directory.path());
    assert_eq!((status, output.contains("already")), (Some(1), true), "{output}");
    // A file that ends too early, one of another layout, and something else.
    let bytes = std::fs::read(&file).unwrap();
    let mut older = bytes.clone();
    older[22] = 4;
    for (bytes, said) in [
        (&bytes[..bytes.len() - 1], "is damaged: the end of the file at byte"),
        (&older, "is version 4 of mosquitto's file, and versions 5 and 6 are read"),
        (b"SQLite format 3\0 and more bytes than a header", "is no file of mosquitto's"),
    ] {
        let (file, directory) = (directory.path().join("other.db"), TempDir::new().unwrap());
        std::fs::write(&file, bytes).unwrap();
        let (status, output) = import(&file, directory.path());
        assert_eq!((status, output.contains(said)), (Some(1), true), "{output}");
        assert!(!directory.path().join("data").exists());
    }
}

fn stats(directory: &Path) -> String {
    let mut command = program();
    command.args(["store", "stats", "--directory"]).arg(directory.join("data"));
    run(&mut command, SOON).1
}

/// Files that other versions of mosquitto have written; `write.py` beside them says how.
#[test]
fn files_of_versions_5_and_6_hold_the_same() {
    for version in [5, 6] {
        let kept = format!("{}/tests/data/mosquitto", env!("CARGO_MANIFEST_DIR"));
        let file = PathBuf::from(format!("{kept}/version-{version}.db"));
        let directory = TempDir::new().unwrap();
        imported(
            &file,
            directory.path(),
            &[
                &*format!("version of the file: {version}"),
                "sessions: 4",
                "subscriptions: 4",
                "retained messages: 2",
                "messages waiting: 11",
                "Packet Identifiers in use toward Clients: 5",
                "QoS 2 identifiers in use by Clients: 1",
            ],
        );
        has_all(broker(&directory).port);
    }
}

/// Whether the Clients of `write.py` get what it left for them.
fn has_all(port: u16) {
    let resume = |connect: Connect| {
        let (client, present) = Client::resume(port, &connect);
        assert!(present);
        client
    };
    let texts = |client: &mut Client, n: usize| -> Vec<_> {
        let received = (0..n).map(|_| client.receive());
        received.map(|got| (got.topic.clone(), got.text().to_owned(), got.flags)).collect()
    };
    let entry = |topic: &str, text: &str, flags| (topic.to_owned(), text.to_owned(), flags);
    let mut flight = resume(Connect::v4("flight").durable());
    let one = flight.read_publish();
    assert_eq!((one.text(), one.id, one.flags), ("one", 1, 0x0A));
    let two = flight.read_publish();
    assert_eq!((two.text(), two.id, two.flags), ("two", 2, 0x0C));
    flight.expect(&[0x62, 2, 0, 3]);
    let mut five = resume(Connect::v5("five").durable());
    let with = five.receive();
    assert_eq!((with.text(), with.flags), ("with", 0x0A));
    assert_eq!(with.properties, b"\x0B\x07\x26\0\x03key\0\x05value");
    let plain = five.receive();
    assert_eq!((plain.text(), plain.properties.ends_with(b"\x03\0\x04text")), ("plain", true));
    let mut away = resume(Connect::v4("away").durable());
    let mut expected = Vec::new();
    for number in 0..3 {
        expected.push(entry("away/x", &format!("q1-{number}"), 2));
        expected.push(entry("away/x", &format!("q2-{number}"), 4));
    }
    expected.push(entry("away/sent", "released later", 4));
    assert_eq!(texts(&mut away, 7), expected);
    let mut sender = resume(Connect::v4("sender").durable());
    sender.send(&[0x62, 2, 0, 77]);
    sender.expect(&[0x70, 2, 0, 77]);
    // Its subscriptions hold.
    sender.publish(2, "x/once", "new");
    assert_eq!(texts(&mut away, 1), [entry("x/once", "new", 2)]);
    let mut reader = Client::v4(port, "reader");
    reader.subscribe("kept/#", 1);
    let mut kept = texts(&mut reader, 2);
    kept.sort();
    assert_eq!(kept, [entry("kept/0", "zero", 1), entry("kept/1", "one", 3)]);
}
