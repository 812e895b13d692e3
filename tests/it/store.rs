//! The operator's tools for the store, and stores of other times and other programs.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::broker::{Broker, program, run};
use crate::raw::{Client, Connect, packet};

const SOON: Duration = Duration::from_secs(20);

/// Runs `whimbrel store ...` for a broker's store.
fn tool(directory: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    run(program().arg("store").args(arguments).arg("--directory").arg(directory.join("data")), SOON)
}

fn sound(directory: &Path) {
    let (status, output) = tool(directory, &["check"]);
    assert_eq!((status, output.starts_with("sound: ")), (Some(0), true), "{output}");
}

/// A broker with something of everything in its store.
fn furnished() -> Broker {
    let broker = Broker::start("");
    let away = Connect::v5("away").durable();
    let mut client = Client::connect(broker.port, &away);
    client.subscribe_with(&[0x0B, 7], "t/#", 2);
    client.subscribe("$share/g/work", 1);
    let mut sender = Client::connect(broker.port, &Connect::v4("sender").durable());
    // Received and acknowledged by PUBREC alone.
    sender.publish(4, "t/two", "2");
    let received = client.read_publish();
    let [high, low] = received.id.to_be_bytes();
    client.send(&[0x50, 2, high, low]);
    client.expect(&[0x62, 2, high, low]);
    client.vanish();
    sender.publish(2, "t/one", "1");
    sender.publish(2, "work", "w");
    sender.publish(3, "kept", "k");
    // Received from the sender and not released.
    let bytes = sender.publish_bytes(4, "t/open", 5, &[], "o");
    sender.send(&bytes);
    sender.expect(&[0x50, 2, 0, 5]);
    broker
}

/// Everything of [`furnished`] is there.
fn is_whole(broker: &Broker) {
    let (mut client, present) = Client::resume(broker.port, &Connect::v5("away").durable());
    assert!(present);
    let mut packets: Vec<_> = (0..4).map(|_| client.read()).collect();
    packets.sort();
    let payload = |n: usize| *packets[n].last().unwrap();
    assert_eq!((payload(0), payload(1)), (b'w', b'1'), "{packets:02x?}");
    assert_eq!(payload(2), b'o');
    assert!(packets[1].windows(2).any(|bytes| bytes == [0x0B, 7]), "{packets:02x?}");
    assert_eq!(packets[3][0], 0x62, "the released identifier");
    let mut sender = Client::connect(broker.port, &Connect::v4("sender").durable());
    sender.send(&packet(0x3C, &[&[0, 6], b"t/open", &[0, 5], b"o"]));
    sender.expect(&[0x50, 2, 0, 5]);
    client.expect_nothing();
    sender.subscribe("kept", 0);
    assert_eq!(sender.receive().text(), "k");
}

#[test]
fn a_running_broker_says_what_is_in_its_store() {
    let broker = furnished();
    let (status, output) = tool(broker.directory(), &["stats"]);
    assert_eq!(status, Some(0), "{output}");
    for line in [
        "format: 2",
        "sessions and share groups: 3",
        "subscriptions: 2",
        "retained messages: 1",
        "messages waiting: 3",
        "QoS 2 identifiers in use: 2",
    ] {
        assert!(output.lines().any(|found| found == line), "no {line:?} in\n{output}");
    }
    sound(broker.directory());
}

#[test]
fn a_backup_of_a_running_broker_is_a_store_to_start_from() {
    let mut broker = furnished();
    let copy = broker.directory().join("copy.redb");
    let path = copy.display().to_string();
    let (status, output) = tool(broker.directory(), &["backup", &path]);
    assert_eq!(status, Some(0), "{output}");
    let (status, output) = tool(broker.directory(), &["backup", &path]);
    assert_eq!(status, Some(1));
    assert!(output.contains("is there already"), "{output}");
    let partial = broker.directory().join("other.redb.partial");
    std::fs::write(&partial, "somebody's").unwrap();
    let other = broker.directory().join("other.redb").display().to_string();
    let (status, output) = tool(broker.directory(), &["backup", &other]);
    assert_eq!(status, Some(1));
    assert!(output.contains("other.redb.partial is there already"), "{output}");
    assert_eq!(std::fs::read_to_string(&partial).unwrap(), "somebody's");
    std::fs::remove_file(&partial).unwrap();
    assert_eq!(tool(broker.directory(), &["backup", &other]).0, Some(0));
    // Messages are nobody's business who only has a place on the machine.
    for file in [&copy, &broker.directory().join("data/whimbrel.redb")] {
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    is_whole(&Broker::start_on(&copy));
    broker.kill_and_restart();
    is_whole(&broker);
}

#[test]
fn a_stopped_brokers_store_is_checked_and_copied_too() {
    let broker = furnished();
    let directory = broker.keep_directory();
    sound(&directory);
    let copy = directory.join("copy.redb");
    let (status, output) = tool(&directory, &["backup", &copy.display().to_string()]);
    assert_eq!(status, Some(0), "{output}");
    is_whole(&Broker::start_on(&copy));
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn what_is_no_store_is_refused_and_left_alone() {
    let directory = tempfile::TempDir::new().unwrap();
    let (status, output) = tool(directory.path(), &["stats"]);
    assert_eq!(status, Some(1));
    assert!(output.contains("there is no store in"), "{output}");
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let file = data.join("whimbrel.redb");
    for foreign in [&b"SQLite format 3\0 and more"[..], &[0; 8192]] {
        std::fs::write(&file, foreign).unwrap();
        for arguments in [&["stats"][..], &["check"]] {
            let (status, output) = tool(directory.path(), arguments);
            assert_eq!(status, Some(1), "{output}");
            assert!(output.contains("is not a store of this broker"), "{output}");
        }
        let config = directory.path().join("whimbrel.toml");
        std::fs::write(&config, "persistence_location = \"data\"\n[[listener]]\nport = 0\n")
            .unwrap();
        let (status, output) = run(program().arg("-c").arg(&config), SOON);
        assert_eq!(status, Some(1), "{output}");
        assert!(output.contains("is not a store of this broker"), "{output}");
        assert_eq!(std::fs::read(&file).unwrap(), foreign, "it was changed");
    }
}

/// A store whose bytes were changed behind the broker's back does not pass for a sound one.
#[test]
fn a_damaged_store_is_found_out() {
    let broker = furnished();
    let directory = broker.keep_directory();
    sound(&directory);
    let file = directory.join("data/whimbrel.redb");
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(6).position(|bytes| bytes == b"t/open").unwrap();
    bytes[at] ^= 0xFF;
    std::fs::write(&file, bytes).unwrap();
    let (status, output) = tool(&directory, &["check"]);
    assert_eq!(status, Some(1), "{output}");
    std::fs::remove_dir_all(directory).unwrap();
}

/// Stores of every format that was released are in `tests/data/store`: `format-N.redb`, made by
/// `STORE_FIXTURE=file cargo test --test it -- store::stores_of_all`.
#[test]
fn stores_of_all_formats_are_read() {
    if let Some(file) = std::env::var_os("STORE_FIXTURE") {
        let broker = furnished();
        let path = PathBuf::from(file).display().to_string();
        assert_eq!(tool(broker.directory(), &["backup", &path]).0, Some(0));
    }
    let mut count = 0;
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/store");
    for file in std::fs::read_dir(directory).unwrap() {
        is_whole(&Broker::start_on(&file.unwrap().path()));
        count += 1;
    }
    assert_eq!(count, 2);
}

#[test]
fn a_store_of_a_newer_format_is_refused() {
    let directory = tempfile::TempDir::new().unwrap();
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let database = redb::Database::create(data.join("whimbrel.redb")).unwrap();
    let write = database.begin_write().unwrap();
    let meta = redb::TableDefinition::<&str, &[u8]>::new("meta");
    write.open_table(meta).unwrap().insert("format", &9_u32.to_le_bytes()[..]).unwrap();
    write.commit().unwrap();
    drop(database);
    let (status, output) = tool(directory.path(), &["stats"]);
    assert_eq!(status, Some(1));
    assert!(output.contains("has store format 9, and this broker reads up to 2"), "{output}");
}

/// The socket is for the broker's own user.
#[test]
fn nobody_else_may_ask() {
    use std::os::unix::fs::PermissionsExt;
    let broker = Broker::start("");
    let socket = broker.directory().join("data/control.sock");
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let mut asked = UnixStream::connect(&socket).unwrap();
    asked.write_all(b"nonsense\n").unwrap();
    let mut answer = String::new();
    asked.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "error\nunknown request\n");
}
