//! The process stays within its memory: what would have to be kept is refused, what makes room
//! goes on, and so does everything when there is room again.

use std::time::{Duration, Instant};

use crate::broker::Broker;
use crate::raw::{Client, Connect};

const LIMIT_KIB: u64 = 128 << 10;

const SETTINGS: &str = "memory_limit = \"128 MiB\"";

const SOON: Duration = Duration::from_secs(20);

/// A message that must be kept for a Session that is away; whether it was taken.
fn keep(publisher: &mut Client) -> bool {
    let bytes = publisher.publish_bytes(2, "kept/q", 7, &[], "x");
    publisher.send(&bytes);
    let puback = publisher.answer();
    assert_eq!(puback[..1], [0x40], "{puback:02x?}");
    match puback[..] {
        [_, 2, 0, 7] => true,
        [_, _, 0, 7, 0x97, ..] => false,
        _ => panic!("neither taken nor refused for memory: {puback:02x?}"),
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_flood_is_refused_before_the_memory_is_used_up_until_there_is_room_again() {
    let broker = Broker::start(SETTINGS);
    let away = Connect::v5("away").durable();
    Client::connect(broker.port, &away).subscribe("kept/#", 1);
    let mut present = Client::v5(broker.port, "present");
    present.subscribe("live", 0);
    let mut publisher = Client::v5(broker.port, "publisher");
    let mut old = Client::v4(broker.port, "old");
    let mut kept = 0;
    let mut flood = Client::v4(broker.port, "flood");
    let payload = vec![0; 16 << 10];
    // Slowly enough for the broker, which looks at its memory ten times a second.
    let mut topics = 0;
    while keep(&mut publisher) {
        kept += 1;
        for _ in 0..4 {
            flood.publish(1, &format!("flood/{topics}"), &payload);
            topics += 1;
        }
        flood.expect_nothing();
        assert!(topics < 16_000, "{topics} messages of 16 KiB are retained");
    }
    for n in topics..topics + 1_000 {
        flood.publish(1, &format!("flood/{n}"), &payload);
    }
    flood.expect_nothing();
    assert!(broker.rss_kib() < LIMIT_KIB, "{} KiB", broker.rss_kib());

    // Who is new finds no room; 0x03 is what there was before MQTT 5.0.
    let refused = |connect: &Connect| Client::connect_with(broker.port, connect).1[3];
    assert_eq!(refused(&Connect::v5("new")), 0x97);
    assert_eq!(refused(&Connect::v4("new")), 3);
    assert_eq!(publisher.subscribe("more", 0), 0x97);
    assert_eq!(present.subscribe("live", 0), 0);
    // Who is there is served, and who was away takes what is there for him.
    old.publish(0, "live", "still");
    assert_eq!(present.receive().text(), "still");
    let (mut back, is_present) = Client::resume(broker.port, &away);
    assert!(is_present);
    for _ in 0..kept {
        assert_eq!(back.receive().text(), "x");
    }
    // Who cannot be told is not read on.
    let held_back = old.publish_bytes(2, "kept/held", 9, &[], "held");
    old.send(&held_back);

    for n in 0..topics + 1_000 {
        flood.publish(1, &format!("flood/{n}"), "");
    }
    old.expect(&[0x40, 2, 0, 9]);
    assert_eq!(back.receive().text(), "held");
    assert!(keep(&mut publisher));
    assert_eq!(publisher.subscribe("more", 0), 0);
    drop(Client::v5(broker.port, "new"));
    let log = broker.log();
    assert_eq!(log.matches("are refused until it is less").count(), 1, "{log}");
}

/// Half a packet is memory too, which nobody but its sender can end.
#[test]
fn who_holds_large_packets_half_sent_is_cut_when_memory_is_full() {
    let broker = Broker::start(SETTINGS);
    let away = Connect::v5("away").durable();
    Client::connect(broker.port, &away).subscribe("kept/#", 1);
    let mut publisher = Client::v5(broker.port, "publisher");
    let half = vec![0; 6 << 20];
    let size = 9_u32 << 20;
    let header = [0x30, 0x80 | size as u8 & 0x7F, 0x80 | (size >> 7) as u8 & 0x7F];
    let header = [&header[..], &[0x80 | (size >> 14) as u8 & 0x7F, (size >> 21) as u8]].concat();
    let hoarder = |n| Client::v5(broker.port, &format!("hoarder{n}"));
    let mut idle: Vec<_> = (0..30).map(hoarder).collect();
    let mut hoarders = Vec::new();
    while keep(&mut publisher) {
        let mut hoarder = idle.pop().expect("not yet full");
        hoarder.send(&header);
        hoarder.try_send(&half);
        hoarders.push(hoarder);
    }
    wait_until("no room came back", || keep(&mut publisher));
    for mut hoarder in hoarders {
        assert_eq!(hoarder.try_read().expect("it is told")[..3], [0xE0, 2, 0x97]);
    }
}
