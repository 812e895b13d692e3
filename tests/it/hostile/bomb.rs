//! Legal packets that are large in an unkind way.

use std::collections::BTreeSet;
use std::hash::Hasher;

use super::Siege;
use crate::raw::{Client, Connect, field, packet, properties};

/// The packets that make and end these subscriptions.
fn requests(v5: bool, filters: &[String]) -> (Vec<u8>, Vec<u8>) {
    let none: &[u8] = if v5 { &[0] } else { &[] };
    let (mut make, mut end) = (vec![], vec![]);
    for filter in filters {
        make.extend([field(filter), vec![1]].concat());
        end.extend(field(filter));
    }
    (packet(0x82, &[&[0, 5], none, &make]), packet(0xA2, &[&[0, 6], none, &end]))
}

/// Subscribes to all in one packet and unsubscribes likewise; every filter is answered.
fn subscribe_and_unsubscribe(port: u16, connect: &Connect, filters: &[String]) {
    let mut client = Client::connect(port, connect);
    let v5 = connect.level == 5;
    let (make, end) = requests(v5, filters);
    client.send(&make);
    let suback = client.answer();
    let reasons = &suback[suback.len() - filters.len()..];
    assert!(suback[0] == 0x90 && reasons.iter().all(|&reason| reason == 1));
    client.send(&end);
    let unsuback = client.answer();
    assert_eq!(unsuback[0], 0xB0);
    if v5 {
        assert!(unsuback[unsuback.len() - filters.len()..].iter().all(|&reason| reason == 0));
    }
    // And once more, to end with them.
    client.send(&make);
    assert_eq!(client.answer()[0], 0x90);
    client.disconnect();
    if connect.level == 5 && !connect.clean {
        // The Session of one that stays is ended.
        Client::v5(port, &connect.id).disconnect();
    }
}

#[test]
fn ten_thousand_filters_in_one_packet_are_answered_one_by_one() {
    let mut siege = Siege::begin("max_shared_subscriptions = 10000");
    let plain = |n: usize| format!("bomb/{n}");
    let wild = |n: usize| format!("bomb/+/{n}/#");
    let shared = |n: usize| format!("$share/g{n}/bomb/{n}");
    for filter in [&plain as &dyn Fn(usize) -> String, &wild, &shared] {
        let filters: Vec<_> = (0..10_000).map(filter).collect();
        for connect in [Connect::v5("bomb"), Connect::v4("bomb"), Connect::v5("bomb").durable()] {
            subscribe_and_unsubscribe(siege.port, &connect, &filters);
            siege.check();
        }
    }
    siege.survived(96);
}

/// The same filter ten thousand times is one subscription.
#[test]
fn a_filter_repeated_in_one_packet_is_one_subscription() {
    let siege = Siege::begin("");
    let mut client = Client::v5(siege.port, "again");
    let (make, end) = requests(true, &vec!["again".to_owned(); 10_000]);
    client.send(&make);
    assert_eq!(client.answer()[0], 0x90);
    client.publish(0, "again", "once");
    assert_eq!(client.receive().text(), "once");
    client.expect_nothing();
    client.send(&end);
    let unsuback = client.answer();
    // "No subscription existed" for all but the first.
    let gone = unsuback.iter().rev().take(9_999).all(|&reason| reason == 0x11);
    assert!(gone && unsuback[unsuback.len() - 10_000] == 0);
    siege.survived(16);
}

/// Strings of 2^`blocks` variants that the hash function `FxHasher`, which has no secret, cannot
/// tell apart. It multiplies two halves of each 16 bytes after adding its state to them, so what
/// is added can be made to change places.
fn colliding(blocks: usize) -> Vec<String> {
    const SECOND: u64 = 0xA409_3822_299F_31D0;
    let mix = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        product as u64 ^ (product >> 64) as u64
    };
    let is_good = |byte: u8| byte.is_ascii_graphic() && !b"+#/$".contains(&byte);
    let is_ascii = |bytes: u64| bytes & 0x8080_8080_8080_8080 == 0;
    let mut seed = 1_u64;
    let mut letter = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 57) as u8
    };
    // Eight letters that are still letters when they have changed places.
    let mut letters = move |apart: u64| {
        let letters = apart.to_le_bytes().map(|apart| {
            std::iter::repeat_with(&mut letter).find(|&l| is_good(l) && is_good(l ^ apart)).unwrap()
        });
        u64::from_le_bytes(letters)
    };
    let (mut first, mut second) = (0x243F_6A88_85A3_08D3, 0x1319_8A2E_0370_7344);
    let mut all = vec![vec![]];
    let mut doubled = 0;
    while doubled < blocks {
        let apart: u64 = first ^ SECOND;
        let must_swap = if is_ascii(apart) { apart } else { 0 };
        let (x, y, mixed) = loop {
            let (x, y) = (letters(must_swap), letters(must_swap));
            let mixed = mix(first ^ x, SECOND ^ y);
            // So that the block after the next can swap.
            if is_ascii(mixed ^ SECOND) {
                break (x, y, mixed);
            }
        };
        let block = |x: u64, y: u64| [x.to_le_bytes(), y.to_le_bytes()].concat();
        let with = |all: &[Vec<u8>], block: &[u8]| -> Vec<Vec<u8>> {
            all.iter().map(|text| [text, block].concat()).collect()
        };
        let mut next = with(&all, &block(x, y));
        if is_ascii(apart) {
            next.extend(with(&all, &block(apart ^ y, apart ^ x)));
            doubled += 1;
        }
        all = next;
        (first, second) = (second, mixed);
    }
    let end = [b'e'; 16];
    all.into_iter().map(|text| String::from_utf8([&text[..], &end].concat()).unwrap()).collect()
}

/// That they cost no more than others is held by `tests/tidy.rs`: such keys are hashed with a seed.
#[test]
fn filters_made_to_collide_are_subscribed_to_like_others() {
    let filters = colliding(13);
    let hash = |filter: &String| {
        let mut hasher = rustc_hash::FxHasher::default();
        hasher.write(filter.as_bytes());
        hasher.finish()
    };
    let hashes: BTreeSet<_> = filters.iter().map(hash).collect();
    let different: BTreeSet<_> = filters.iter().collect();
    assert_eq!((hashes.len(), different.len()), (1, 1 << 13));
    let siege = Siege::begin("");
    subscribe_and_unsubscribe(siege.port, &Connect::v5("collide"), &filters);
    siege.survived(96);
}

/// A topic of so many levels.
fn deep(level: &str, levels: usize) -> String {
    vec![level; levels].join("/")
}

/// Beyond `max_topic_levels`: each kind of packet says so, or the connection of who cannot be
/// told ends.
#[test]
fn a_topic_of_too_many_levels_is_refused() {
    let mut siege = Siege::begin("");
    for levels in [201, 30_000] {
        let topic = deep("a", levels);
        let mut client = Client::v5(siege.port, "deep");
        for (flags, answer) in [(2, 0x40), (4, 0x50), (3, 0x40), (5, 0x50)] {
            let publish = client.publish_bytes(flags, &topic, 1, &[], "x");
            client.send(&publish);
            client.expect(&[answer, 3, 0, 1, 0x90]);
        }
        let publish = client.publish_bytes(1, &topic, 1, &[], "x");
        client.send(&publish);
        for filter in [deep("a", levels), deep("+", levels), deep("+", levels - 1) + "/#"] {
            assert_eq!(client.subscribe(&filter, 0), 0x8F);
            assert_eq!(client.unsubscribe(&filter).last(), Some(&0x11));
        }
        let mut client = Client::v4(siege.port, "deep");
        assert_eq!(client.subscribe(&topic, 0), 0x80);
        let publish = client.publish_bytes(2, &topic, 1, &[], "x");
        client.send(&publish);
        client.expect_close(0);
        let will = Connect::v5("deep").will(0, &[], &topic, "x");
        assert_eq!(Client::connect_with(siege.port, &will).1[3], 0x90);
        let will = Connect::v4("deep").will(0, &[], &topic, "x");
        assert_eq!(Client::connect_with(siege.port, &will).1[3], 3);
        siege.check();
    }
    siege.survived(16);
}

#[test]
fn a_topic_of_30000_levels_is_one_like_any_other_where_it_is_allowed() {
    let mut siege = Siege::begin("max_topic_levels = 65535");
    let topic = deep("a", 30_000);
    let filters =
        [topic.clone(), deep("+", 30_000), deep("+", 29_999) + "/#", deep("a", 20_000) + "/#"];
    for connect in [Connect::v5("deep"), Connect::v5("deep").durable(), Connect::v4("deep")] {
        for filter in &filters {
            let mut client = Client::connect(siege.port, &connect);
            assert_eq!(client.subscribe(filter, 2), 2);
            for flags in [0, 2, 4] {
                client.publish(flags, &topic, "x");
                assert_eq!(client.receive().topic, topic);
            }
            client.unsubscribe(filter);
            client.publish(3, &topic, "kept");
            assert_eq!(client.subscribe(filter, 0), 0);
            assert_eq!(client.receive().text(), "kept");
            client.publish(3, &topic, "");
            assert!(client.receive().payload.is_empty());
            client.unsubscribe(filter);
            client.disconnect();
        }
        siege.check();
    }
    let mut witness = Client::v5(siege.port, "deep-witness");
    witness.subscribe("a/#", 0);
    for connect in [Connect::v5("deep"), Connect::v4("deep")] {
        Client::connect(siege.port, &connect.will(0, &[], &topic, "gone")).vanish();
        assert_eq!(witness.receive().topic, topic);
    }
    siege.survived(48);
}

/// [MQTT-4.7.3-3]
#[test]
fn a_topic_of_65535_bytes_is_one_like_any_other() {
    let mut siege = Siege::begin("");
    let topic = "t".repeat(65_535);
    for connect in [
        Connect::v5("long"),
        Connect::v5("long").with(&[0x22, 0, 9]),
        Connect::v5("long").durable(),
        Connect::v4("long"),
    ] {
        let mut client = Client::connect(siege.port, &connect);
        assert_eq!(client.subscribe(&topic, 2), 2);
        for flags in [0, 2, 4] {
            client.publish(flags, &topic, "x");
            let received = client.receive();
            // The broker's alias stands for it from the second time on.
            assert!(received.topic == topic || (flags > 0 && received.topic.is_empty()));
        }
        client.publish(3, &topic, "");
        client.receive();
        assert_eq!(client.unsubscribe(&topic)[0], 0xB0);
        assert_eq!(client.subscribe(&format!("$share/g/{}", "t".repeat(65_526)), 0), 0);
        client.disconnect();
        siege.check();
    }
    // Every alias set to such a topic.
    let mut client = Client::v5(siege.port, "long-alias");
    for alias in 1..=64 {
        let topic = format!("{alias:02}{}", "t".repeat(65_533));
        let publish = client.publish_bytes(0, &topic, 0, &[0x23, 0, alias], "x");
        client.send(&publish);
    }
    client.expect_nothing();
    let mut witness = Client::v5(siege.port, "long-witness");
    witness.subscribe(&topic, 0);
    let id = "i".repeat(65_535);
    Client::connect(siege.port, &Connect::v5(&id).will(0, &[], &topic, "gone")).vanish();
    assert_eq!(witness.receive().text(), "gone");
    siege.survived(48);
}

/// Every identifier open at once: MQTT 3.1.1 has no Receive Maximum.
#[test]
fn a_client_may_leave_every_qos_2_identifier_open() {
    let mut siege = Siege::begin("");
    let mut client = Client::v4(siege.port, "open");
    let mut writing = client.stream().try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        for id in 1..=u16::MAX {
            let [high, low] = id.to_be_bytes();
            let publish = [0x34, 6, 0, 1, b'o', high, low, b'x'];
            std::io::Write::write_all(&mut writing, &publish).unwrap();
        }
    });
    for id in 1..=u16::MAX {
        let [high, low] = id.to_be_bytes();
        client.expect(&[0x50, 2, high, low]);
    }
    writer.join().unwrap();
    siege.check();
    client.send(&[0x62, 2, 0xFF, 0xFF]);
    client.expect(&[0x70, 2, 0xFF, 0xFF]);
    siege.survived(16);
}

/// [MQTT-3.3.2-17], [MQTT-3.3.2-18], [MQTT-3.1.3-10]
#[test]
fn thirty_thousand_user_properties_are_passed_on_in_order() {
    let siege = Siege::begin("");
    let mut client = Client::v5(siege.port, "props");
    client.subscribe("props", 1);
    let block: Vec<u8> = (0..30_000)
        .flat_map(|n| [&[0x26][..], &field("k"), &field(n.to_string())].concat())
        .collect();
    let with_length = packet(0, &[&block])[1..].to_vec();
    client.send(&packet(0x32, &[&field("props"), &[0, 1], &with_length, b"payload"]));
    let echoed = client.read_kind(0x30);
    assert!(echoed.windows(block.len()).any(|window| window == block));
    let connect = packet(
        0x10,
        &[
            &field("MQTT"),
            &[5, 6, 0, 0, 0],
            &field("props-will"),
            &with_length,
            &field("props"),
            &field("w"),
        ],
    );
    let mut willing = Client::open(siege.port, true);
    willing.send(&connect);
    assert_eq!(willing.read()[3], 0);
    willing.vanish();
    let echoed = client.read_kind(0x30);
    assert!(echoed.windows(block.len()).any(|window| window == block));
    siege.survived(32);
}

/// Subscriptions that all match: one copy, all identifiers [MQTT-3.3.4-4].
#[test]
fn four_thousand_overlapping_subscriptions_are_one_delivery() {
    let mut siege = Siege::begin("");
    let mut client = Client::v5(siege.port, "overlap");
    for n in 0..1 << 12 {
        let levels: Vec<_> = (0..12).map(|bit| if n >> bit & 1 == 0 { "a" } else { "+" }).collect();
        let filter = [field(levels.join("/")), vec![0]].concat();
        let id = properties(&[&[0x0B, n as u8 | 0x80, (n >> 7) as u8 | 0x80, 1]]);
        client.send(&packet(0x82, &[&[0, 1], &id, &filter]));
    }
    for _ in 0..1 << 12 {
        assert_eq!(client.answer(), [0x90, 4, 0, 1, 0, 0]);
    }
    Client::v4(siege.port, "overlap-sender").publish(0, &deep("a", 12), "x");
    let message = client.read_kind(0x30);
    let ids: BTreeSet<_> = message.windows(4).filter(|w| w[0] == 0x0B && w[3] == 1).collect();
    assert_eq!(ids.len(), 1 << 12);
    client.expect_nothing();
    siege.check();
    siege.survived(24);
}
