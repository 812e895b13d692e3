//! In mosquitto's place: its files, its defaults, its log, its command line. Where it can be shown
//! that the real one does the same, it is.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::broker::{free_port, program, run};
use crate::raw::{Client, Connect};

pub const SOON: Duration = Duration::from_secs(20);

/// A broker, ours or mosquitto, with a mosquitto.conf; killed when dropped.
pub struct Served {
    pub child: Child,
    pub port: u16,
    pub directory: TempDir,
}

impl Served {
    /// In the text, PORT and DIR stand for a free port and for a directory.
    pub fn start(text: &str) -> Self {
        Self::of(program(), text)
    }

    pub fn of(mut program: Command, text: &str) -> Self {
        let (directory, port) = (TempDir::new().unwrap(), free_port());
        let path = directory.path().join("m.conf");
        let at = directory.path().display().to_string();
        let text = text.replace("PORT", &port.to_string()).replace("DIR", &at);
        // The directory is for the user of the tests.
        std::fs::write(&path, text + "\nuser root\n").unwrap();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        program.arg("-c").arg(&path).env_remove("RUST_LOG").current_dir(directory.path());
        let child = program.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let served = Self { child, port, directory };
        served.wait();
        served
    }

    pub fn wait(&self) {
        let deadline = Instant::now() + SOON;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < deadline, "it does not listen\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// SIGTERM, and its exit status.
    pub fn stop(&mut self) -> Option<i32> {
        signal(self.child.id(), "TERM");
        self.child.wait().unwrap().code()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn signal(pid: u32, name: &str) {
    let kill = Command::new("kill").args(["-s", name, &pid.to_string()]).status();
    assert!(kill.unwrap().success());
}

pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub const OPEN: &str = "listener PORT 127.0.0.1\nallow_anonymous true\n";

#[test]
fn debians_file_serves_and_keeps_what_it_acknowledged() {
    let debian = "# Place your local configuration in /etc/mosquitto/conf.d/\n\n\
        pid_file DIR/mosquitto.pid\n\npersistence true\npersistence_location DIR/lib/\n\n\
        log_dest file DIR/mosquitto.log\n\ninclude_dir DIR/conf.d\n";
    let directory = TempDir::new().unwrap();
    let (port, at) = (free_port(), directory.path().display().to_string());
    std::fs::create_dir(directory.path().join("conf.d")).unwrap();
    let local = format!("listener {port} 127.0.0.1\nallow_anonymous true\n");
    std::fs::write(directory.path().join("conf.d/local.conf"), local).unwrap();
    std::fs::write(directory.path().join("conf.d/README"), "no option\n").unwrap();
    let debian = debian.replace("DIR", &at) + "user root\n";
    std::fs::write(directory.path().join("m.conf"), debian).unwrap();
    let serve = || {
        let mut program = program();
        program.arg("-c").arg(directory.path().join("m.conf")).env_remove("RUST_LOG");
        let child = program.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let served = Served { child, port, directory: TempDir::new().unwrap() };
        served.wait();
        served
    };
    let mut first = serve();
    let pid = || std::fs::read_to_string(directory.path().join("mosquitto.pid"));
    until("a pid file", || pid().is_ok_and(|pid| pid.trim() == first.child.id().to_string()));
    let mut client = Client::v4(port, "kept");
    client.publish(3, "kept", "retained");
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let mut second = serve();
    let mut client = Client::v4(port, "reader");
    client.subscribe("kept", 1);
    assert_eq!(client.receive().text(), "retained");
    assert_eq!(second.stop(), Some(0));
    assert!(pid().is_err(), "the pid file is removed");
    let log = || std::fs::read_to_string(directory.path().join("mosquitto.log")).unwrap();
    assert!(log().contains(" as kept (p4, c1, k"), "{}", log());
    // With another name for the store it is a new one, which is said.
    let (said, main) =
        ("is new and empty, and there is another in", directory.path().join("m.conf"));
    assert!(!log().contains(said), "{}", log());
    let text = std::fs::read_to_string(&main).unwrap();
    std::fs::write(main, format!("{text}persistence_file a.db\n")).unwrap();
    let _third = serve();
    let new = format!("{at}/lib/a.db.whimbrel {said} {at}/lib");
    // It listens before it opens the store.
    until("the new store is told of", || log().contains(&new));
}

#[test]
fn the_file_of_the_package_is_good() {
    let debian = Path::new("/etc/mosquitto/mosquitto.conf");
    if debian.exists() {
        let (status, output) = run(program().arg("--test-config").arg("-c").arg(debian), SOON);
        assert_eq!(status, Some(0), "{output}");
    }
}

#[test]
fn an_mqtt_5_client_is_told_mosquittos_limits() {
    let served = Served::start(OPEN);
    let (_, connack) = Client::connect_with(served.port, &Connect::v5("limits"));
    let has = |bytes: &[u8]| connack.windows(bytes.len()).any(|window| window == bytes);
    assert!(has(&[0x21, 0, 20]), "Receive Maximum: {connack:?}");
    assert!(has(&[0x22, 0, 10]), "Topic Alias Maximum: {connack:?}");
    assert!(has(&[&[0x27][..], &2_000_000_u32.to_be_bytes()].concat()), "{connack:?}");
}

/// Byte for byte, also the order of the properties.
#[test]
fn connack_is_that_of_mosquitto() {
    if !Path::new("/usr/sbin/mosquitto").exists() {
        return;
    }
    let text = format!(
        "retain_available false\nmax_packet_size 5000\nmax_inflight_messages 7\n{OPEN}max_qos 1\n"
    );
    // 2.0 answers a Keep Alive of 0 otherwise than 2.1.
    let connect = |id: &str| Connect::v5(id).keep_alive(60);
    let connacks = [program(), Command::new("/usr/sbin/mosquitto")].map(|program| {
        let served = Served::of(program, &text);
        let (_, named) = Client::connect_with(served.port, &connect("named"));
        let (_, mut given) = Client::connect_with(served.port, &connect(""));
        // The identifiers have different lengths; what is around them is the same.
        let at = given.windows(5).position(|bytes| bytes == b"auto-").unwrap();
        let len = usize::from(given[at - 1]);
        given.drain(at - 1..at + len);
        given[1] = 0;
        given[4] = 0;
        (named, given)
    });
    assert_eq!(connacks[0], connacks[1]);
    assert!(connacks[0].0.ends_with(&[0x21, 0, 7, 0x24, 1]), "{connacks:02x?}");
}

#[test]
fn a_keep_alive_that_is_too_long_is_refused_or_shortened() {
    let served = Served::start(&format!("{OPEN}max_keepalive 100\n"));
    for seconds in [0, 101] {
        let connect = Connect::v4("long").keep_alive(seconds);
        assert_eq!(Client::connect_with(served.port, &connect).1, [0x20, 2, 0, 2]);
        let connect = Connect::v5("long").keep_alive(seconds);
        let (_, connack) = Client::connect_with(served.port, &connect);
        assert!(connack.windows(3).any(|window| window == [0x13, 0, 100]), "{connack:?}");
    }
    let connect = Connect::v4("short").keep_alive(100);
    assert_eq!(Client::connect_with(served.port, &connect).1, [0x20, 2, 0, 0]);
}

#[test]
fn with_a_listener_nobody_is_let_in_unless_it_is_said() {
    let served = Served::start("listener PORT 127.0.0.1\n");
    assert_eq!(Client::connect_with(served.port, &Connect::v4("a")).1, [0x20, 2, 0, 5]);
    let (_, connack) = Client::connect_with(served.port, &Connect::v5("a").user("u", "p"));
    assert_eq!(connack[3], 0x87);
}

/// The lines that tell of Clients, without what differs from run to run.
fn told(log: &str) -> Vec<String> {
    let line = |line: &str| {
        let line = line.split_once(": ")?.1;
        let starts = ["New connection from", "New client connected", "Client "];
        starts.iter().any(|start| line.starts_with(start)).then_some(())?;
        let numbers = line.split_whitespace().map(|word| match word {
            _ if word.starts_with("127.0.0.1:") => "ADDRESS",
            _ if word.starts_with("[127.0.0.1:") => "[ADDRESS]",
            word => word,
        });
        let words: Vec<_> = numbers.collect();
        Some(words.join(" ").split(" on port ").next().unwrap_or_default().to_owned())
    };
    log.lines().filter_map(line).collect()
}

/// Clients that come and go in each way.
fn history(served: &Served) {
    let lines = |n: usize| until("its lines", || told(&served.log()).len() >= n);
    // Those of the connection by which it was seen to listen.
    lines(2);
    let before = told(&served.log()).len();
    let connect = Connect::v5("user").keep_alive(30).user("name", "password");
    Client::connect(served.port, &connect).disconnect();
    lines(before + 3);
    Client::v4(served.port, "gone").vanish();
    lines(before + 6);
    let mut old = Client::v4(served.port, "twice");
    lines(before + 8);
    let new = Client::v4(served.port, "twice");
    assert_eq!(old.stream_end(), Some(()));
    lines(before + 11);
    new.disconnect();
    lines(before + 12);
}

/// What mosquitto 2.1.2 says; Debian's is older and says it otherwise.
#[test]
fn the_log_tells_of_clients_as_mosquitto_does() {
    let served = Served::start(OPEN);
    history(&served);
    let mut lines = told(&served.log());
    // Without the connection by which it was seen to listen.
    lines.retain(|line| {
        line != "Client 127.0.0.1 [ADDRESS] disconnected: connection closed by client."
    });
    lines.sort();
    assert_eq!(
        lines,
        [
            "Client gone [ADDRESS] disconnected: connection closed by client.",
            "Client twice [ADDRESS] disconnected.",
            "Client twice [ADDRESS] disconnected: session taken over.",
            "Client user [ADDRESS] disconnected.",
            "New client connected from ADDRESS as gone (p4, c1, k0).",
            "New client connected from ADDRESS as twice (p4, c1, k0).",
            "New client connected from ADDRESS as twice (p4, c1, k0).",
            "New client connected from ADDRESS as user (p5, c1, k30, u'name').",
            "New connection from ADDRESS",
            "New connection from ADDRESS",
            "New connection from ADDRESS",
            "New connection from ADDRESS",
            "New connection from ADDRESS",
        ]
    );
}

#[test]
fn who_is_not_let_in_is_told_of() {
    let served = Served::start("listener PORT 127.0.0.1\n");
    let _ = Client::connect_with(served.port, &Connect::v4("a\nb"));
    let refused = "Client a\\nb [ADDRESS] disconnected: not authorised.".to_owned();
    until("its line", || told(&served.log()).contains(&refused));
    let silent = Served::start(&format!("{OPEN}connection_messages false\nlog_type all\n"));
    Client::v4(silent.port, "unseen").disconnect();
    assert!(!silent.log().contains("unseen"), "{}", silent.log());
}

#[test]
fn topics_of_a_mount_point_are_seen_from_within_and_from_without() {
    let other = free_port();
    let served = Served::start(&format!(
        "listener PORT 127.0.0.1\nmount_point house/\nlistener {other} 127.0.0.1\n\
         allow_anonymous true\n"
    ));
    let mut within = Client::v5(served.port, "within");
    let mut without = Client::v5(other, "without");
    assert_eq!(within.subscribe("#", 1), 1);
    assert_eq!(within.subscribe("$share/g/room", 1), 1);
    assert_eq!(without.subscribe("house/#", 1), 1);
    within.publish(2, "a/b", "1");
    assert_eq!(within.receive().topic, "a/b");
    assert_eq!(without.receive().topic, "house/a/b");
    without.publish(0, "a/b", "outside");
    without.publish(0, "house/c", "2");
    assert_eq!(within.receive().topic, "c");
    assert_eq!(without.receive().topic, "house/c");
    assert_eq!(within.unsubscribe("#").last(), Some(&0));
    let will = Connect::v5("dying").will(4, &[], "will", "gone");
    Client::connect(served.port, &will).vanish();
    assert_eq!(without.receive().topic, "house/will");
}

#[test]
fn qos_0_waits_for_who_is_away_if_it_is_said() {
    let served = Served::start(&format!("{OPEN}queue_qos0_messages true\n"));
    let mut away = Client::connect(served.port, &Connect::v4("away").durable());
    away.subscribe("q0", 0);
    away.disconnect();
    let mut publisher = Client::v4(served.port, "publisher");
    publisher.publish(0, "q0", "kept");
    assert!(publisher.try_ping());
    let (mut back, is_present) = Client::resume(served.port, &Connect::v4("away").durable());
    assert!(is_present);
    assert_eq!(back.receive().text(), "kept");
}

#[test]
fn a_message_has_the_qos_of_the_subscription_if_it_is_said() {
    let served = Served::start(&format!("{OPEN}upgrade_outgoing_qos true\n"));
    let mut client = Client::v4(served.port, "raised");
    client.subscribe("up", 1);
    client.publish(0, "up", "x");
    assert_eq!(client.receive().qos(), 1);
}

#[test]
fn bytes_in_flight_are_bounded_and_one_message_always_goes() {
    let served = Served::start(&format!("{OPEN}max_inflight_bytes 100\n"));
    let mut receiver = Client::v4(served.port, "slow");
    receiver.subscribe("big", 1);
    let mut publisher = Client::v4(served.port, "publisher");
    for _ in 0..2 {
        publisher.publish(2, "big", vec![b'x'; 200]);
    }
    let first = receiver.read_publish();
    assert!(receiver.is_silent(), "the second waits");
    let id = first.id.to_be_bytes();
    receiver.send(&[0x40, 2, id[0], id[1]]);
    assert_eq!(receiver.read_publish().payload.len(), 200);
}

#[test]
fn a_listener_says_who_may_come_and_by_which_name() {
    let served = Served::start(&format!(
        "{OPEN}accept_protocol_versions 4\nallow_zero_length_clientid false\n\
         clientid_prefixes ok-\n"
    ));
    let connack = |connect: &Connect| Client::connect_with(served.port, connect).1;
    assert_eq!(connack(&Connect::v5("ok-1"))[3], 0x84);
    assert_eq!(connack(&Connect::v4("")), [0x20, 2, 0, 2]);
    assert_eq!(connack(&Connect::v4("other")), [0x20, 2, 0, 5]);
    assert_eq!(connack(&Connect::v4("ok-1")), [0x20, 2, 0, 0]);
    let served = Served::start(&format!("{OPEN}use_username_as_clientid true\n"));
    assert_eq!(Client::connect_with(served.port, &Connect::v4("x")).1, [0x20, 2, 0, 5]);
    let mut first = Client::connect(served.port, &Connect::v4("x").user("me", ""));
    let _second = Client::connect(served.port, &Connect::v4("y").user("me", ""));
    assert_eq!(first.stream_end(), Some(()));
}

#[test]
fn a_payload_that_is_too_large_is_refused() {
    let served = Served::start(&format!("{OPEN}message_size_limit 10\n"));
    let mut client = Client::v5(served.port, "large");
    let large = client.publish_bytes(2, "a", 1, &[], [b'x'; 11]);
    client.send(&large);
    assert_eq!(client.read_kind(0x40)[4], 0x95);
    client.subscribe("a", 0);
    client.publish(0, "a", [b'x'; 11]);
    client.publish(0, "a", [b'y'; 10]);
    assert_eq!(client.receive().text(), "yyyyyyyyyy");
}

#[test]
fn sighup_takes_over_what_it_can_and_a_bad_file_changes_nothing() {
    let served = Served::start(&format!("{OPEN}log_dest stderr\nlog_dest file DIR/one\n"));
    let conf = served.path("m.conf");
    let text = std::fs::read_to_string(&conf).unwrap();
    let hangup = |text: &str, said: &str| {
        std::fs::write(&conf, text).unwrap();
        signal(served.child.id(), "HUP");
        until(said, || served.log().contains(said));
    };
    let mut away = Client::connect(served.port, &Connect::v4("away").durable());
    away.subscribe("q0", 0);
    away.disconnect();
    std::fs::rename(served.path("one"), served.path("moved")).unwrap();
    hangup(&format!("{text}colour blue\n"), "SIGHUP: nothing is changed: ");
    assert!(served.path("one").exists(), "its log is opened anew");
    let more = "queue_qos0_messages true\nsys_interval 9\n";
    hangup(&format!("{text}{more}"), "SIGHUP: the configuration was read again");
    assert!(served.log().contains("SIGHUP: `sys_interval` is changed and needs a restart"));
    assert!(!served.log().contains("`queue_qos0_messages`"), "{}", served.log());
    let mut publisher = Client::v4(served.port, "publisher");
    publisher.publish(0, "q0", "kept");
    assert!(publisher.try_ping());
    let (mut back, _) = Client::resume(served.port, &Connect::v4("away").durable());
    assert_eq!(back.receive().text(), "kept");
}

#[test]
fn it_goes_on_in_the_background_if_it_is_said() {
    let directory = TempDir::new().unwrap();
    let (port, at) = (free_port(), directory.path().display().to_string());
    let conf = directory.path().join("m.conf");
    let text = format!("{OPEN}pid_file DIR/pid\nuser root\n").replace("PORT", &port.to_string());
    std::fs::write(&conf, text.replace("DIR", &at)).unwrap();
    let (status, output) = run(program().arg("-d").arg("-c").arg(&conf), SOON);
    assert_eq!((status, &*output), (Some(0), ""));
    let pid = || std::fs::read_to_string(directory.path().join("pid")).ok();
    until("a pid file", || pid().is_some_and(|pid| pid.ends_with('\n')));
    let number = pid().unwrap().trim().parse().unwrap();
    until("a listener", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    Client::v4(port, "daemon").disconnect();
    signal(number, "TERM");
    until("its end", || pid().is_none());
    std::fs::write(&conf, "colour blue\n").unwrap();
    assert_eq!(run(program().arg("-d").arg("-c").arg(&conf), SOON).0, Some(3));
}

#[test]
fn the_page_for_those_who_come_from_mosquitto_is_up_to_date() {
    let (_, written) = run(program().arg("settings").arg("--mosquitto"), SOON);
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/mosquitto.md");
    let kept = std::fs::read_to_string(kept).unwrap_or_default();
    let command = "cargo run -- settings --mosquitto > docs/mosquitto.md";
    assert!(kept == written, "write it anew: {command}");
}
