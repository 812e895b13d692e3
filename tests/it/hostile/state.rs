//! Packets out of state: what a peer may not send now, or not at all.

use super::Siege;
use crate::raw::{Client, Connect, field, packet, properties};

/// What becomes of a connection.
enum Fate<'a> {
    /// It goes on, and this is the answer.
    Answered(&'a [u8]),
    /// It goes on without an answer.
    Ignored,
    /// It is closed, with this reason for MQTT 5.0.
    Closed(u8),
}

use Fate::{Answered, Closed, Ignored};

fn expect(mut client: Client, fate: &Fate<'_>) {
    match fate {
        Answered(answer) => {
            client.expect(answer);
            client.expect_nothing();
        }
        Ignored => client.expect_nothing(),
        Closed(reason) => client.expect_close(*reason),
    }
}

/// [MQTT-3.1.0-2], [MQTT-4.3.3-4], [MQTT-4.3.3-11] and what only a Server may send.
#[test]
fn packets_that_fit_no_exchange_are_answered_ignored_or_refused() {
    let mut siege = Siege::begin("");
    let connect = Connect::v5("unasked").bytes();
    for (what, bytes, fate, fate_v4) in [
        ("a second CONNECT", &connect[..], Closed(0x82), Closed(0)),
        ("PUBACK of nothing", &[0x40, 2, 0, 9], Ignored, Ignored),
        ("PUBREC of nothing", &[0x50, 2, 0, 9], Answered(&[0x62, 3, 0, 9, 0x92]), {
            Answered(&[0x62, 2, 0, 9])
        }),
        ("PUBREL of nothing", &[0x62, 2, 0, 9], Answered(&[0x70, 3, 0, 9, 0x92]), {
            Answered(&[0x70, 2, 0, 9])
        }),
        ("PUBCOMP of nothing", &[0x70, 2, 0, 9], Ignored, Ignored),
        ("refusing PUBREC of nothing", &[0x50, 3, 0, 9, 0x97], Ignored, Closed(0)),
        ("PUBACK of the largest identifier", &[0x40, 2, 0xFF, 0xFF], Ignored, Ignored),
        ("AUTH", &[0xF0, 0], Closed(0x82), Closed(0)),
        ("AUTH again", &[0xF0, 2, 0x19, 0], Closed(0x82), Closed(0)),
        ("CONNACK", &[0x20, 3, 0, 0, 0], Closed(0x82), Closed(0)),
        ("SUBACK", &[0x90, 4, 0, 1, 0, 0], Closed(0x82), Closed(0)),
        ("UNSUBACK", &[0xB0, 4, 0, 1, 0, 0], Closed(0x82), Closed(0)),
        ("PINGRESP", &[0xD0, 0], Closed(0x82), Closed(0)),
        ("flags of DISCONNECT", &[0xE1, 0], Closed(0x81), Closed(0)),
        ("flags of AUTH", &[0xF2, 0], Closed(0x81), Closed(0)),
    ] {
        println!("{what}");
        for (connect, fate) in [(Connect::v5("x"), fate), (Connect::v4("y"), fate_v4)] {
            let mut client = Client::connect(siege.port, &connect);
            client.send(bytes);
            expect(client, &fate);
        }
        siege.check();
    }
    siege.survived(16);
}

/// A subscriber with one message of this QoS in flight, and the message's identifier.
fn in_flight(port: u16, connect: &Connect, qos: u8) -> (Client, [u8; 2]) {
    let mut client = Client::connect(port, connect);
    client.subscribe("in/flight", qos);
    Client::v4(port, "in-flight-sender").publish(qos << 1, "in/flight", "x");
    let id = client.read_publish().id.to_be_bytes();
    (client, id)
}

/// Each acknowledgement against each stage of each exchange.
#[test]
fn an_acknowledgement_of_the_wrong_kind_is_a_protocol_error() {
    let mut siege = Siege::begin("");
    let acks = [("PUBACK", 0x40), ("PUBREC", 0x50), ("PUBREL", 0x62), ("PUBCOMP", 0x70)];
    for (name, first) in acks {
        for stage in ["QoS 1 sent", "QoS 2 sent", "QoS 2 received"] {
            println!("{name} when {stage}");
            let qos = if stage == "QoS 1 sent" { 1 } else { 2 };
            for connect in [Connect::v5("wrong-ack"), Connect::v4("wrong-ack")] {
                let (mut client, [high, low]) = in_flight(siege.port, &connect, qos);
                if stage == "QoS 2 received" {
                    client.send(&[0x50, 2, high, low]);
                    client.expect(&[0x62, 2, high, low]);
                }
                client.send(&[first, 2, high, low]);
                let unknown: &[u8] = if connect.level == 5 {
                    &[0x70, 3, high, low, 0x92]
                } else {
                    &[0x70, 2, high, low]
                };
                let released = [0x62, 2, high, low];
                expect(
                    client,
                    &match (name, stage) {
                        ("PUBACK", "QoS 1 sent") => Ignored,
                        ("PUBREC", "QoS 2 sent" | "QoS 2 received") => Answered(&released),
                        ("PUBCOMP", "QoS 2 received") => Ignored,
                        // The other direction has identifiers of its own.
                        ("PUBREL", _) => Answered(unknown),
                        _ => Closed(if connect.level == 5 { 0x82 } else { 0 }),
                    },
                );
            }
        }
        siege.check();
    }
    siege.survived(16);
}

/// [MQTT-3.1.0-1]: whatever it is, and it is not acted on.
#[test]
fn nothing_but_connect_may_come_first() {
    let mut siege = Siege::begin("");
    for v5 in [true, false] {
        let none: &[u8] = if v5 { &[0] } else { &[] };
        for bytes in [
            packet(0x20, &[&[0, 0], none]),
            packet(0x30, &[&field("good/x"), none, b"first"]),
            packet(0x32, &[&field("good/x"), &[0, 1], none, b"first"]),
            packet(0x34, &[&field("good/x"), &[0, 1], none, b"first"]),
            vec![0x40, 2, 0, 1],
            vec![0x50, 2, 0, 1],
            vec![0x62, 2, 0, 1],
            vec![0x70, 2, 0, 1],
            packet(0x82, &[&[0, 1], none, &field("good/+"), &[1]]),
            packet(0x90, &[&[0, 1], none, &[0]]),
            packet(0xA2, &[&[0, 1], none, &field("good/+")]),
            vec![0xC0, 0],
            vec![0xD0, 0],
            vec![0xE0, 0],
            vec![0xF0, 0],
            packet(0xF0, &[&[0x18], &properties(&[&[0x15], &field("X")])]),
        ] {
            let mut client = Client::open(siege.port, v5);
            client.try_send(&[bytes, Connect::v5("late").bytes()].concat());
            assert_eq!(client.try_read(), None);
        }
    }
    siege.check();
    siege.survived(16);
}

/// [MQTT-3.1.4-6], of 3.1.1 [MQTT-3.1.4-5]
#[test]
fn what_follows_a_refused_connect_is_not_acted_on() {
    let siege = Siege::begin("max_qos = 1");
    let will = |connect: Connect| connect.will(0x10, &[], "w", "x");
    let method = Connect::v5("refused").with(&[0x15, 0, 1, b'X']);
    for (connect, reason) in [
        (will(Connect::v5("refused")), 0x9B),
        (Connect { level: 9, ..Connect::v5("refused") }, 0x84),
        (method, 0x8C),
        (Connect::v4("").durable(), 2),
        (Connect { level: 3, ..Connect::v4("") }, 2),
    ] {
        let v5 = connect.level >= 5;
        let none: &[u8] = if v5 { &[0] } else { &[] };
        let publish = packet(0x30, &[&field("good/x"), none, b"refused"]);
        let subscribe = packet(0x82, &[&[0, 1], none, &field("good/+"), &[1]]);
        let mut client = Client::open(siege.port, v5);
        client.send(&[connect.bytes(), publish.clone(), subscribe, publish].concat());
        assert_eq!(client.read()[3], reason, "{reason:#x}");
        assert_eq!(client.try_read(), None);
    }
    siege.survived(16);
}

/// [MQTT-3.14.4-1] and [MQTT-3.14.4-2] seen from the other side.
#[test]
fn what_follows_a_disconnect_is_not_acted_on() {
    let siege = Siege::begin("");
    for v5 in [true, false] {
        let connect = if v5 { Connect::v5("after") } else { Connect::v4("after") };
        let mut client = Client::connect(siege.port, &connect);
        let publish = client.publish_bytes(2, "good/x", 1, &[], "after");
        client.send(&[vec![0xE0, 0], publish.clone(), publish].concat());
        assert_eq!(client.try_read(), None);
    }
    siege.survived(16);
}

/// What a Client may ask for with an identifier: a name, the packet, the answer's first byte.
fn requests(client: &Client) -> Vec<(&'static str, Vec<u8>, u8)> {
    let topic = "reuse/t";
    vec![
        ("QoS 1", client.publish_bytes(2, topic, 7, &[], "1"), 0x40),
        ("QoS 1 again", client.publish_bytes(10, topic, 7, &[], "1"), 0x40),
        ("QoS 2", client.publish_bytes(4, topic, 7, &[], "2"), 0x50),
        ("QoS 2 again", client.publish_bytes(12, topic, 7, &[], "2"), 0x50),
        ("SUBSCRIBE", packet(0x82, &[&[0, 7, 0], &field("reuse/other"), &[2]]), 0x90),
        ("UNSUBSCRIBE", packet(0xA2, &[&[0, 7, 0], &field("reuse/other")]), 0xB0),
    ]
}

/// One identifier for two requests at once, in every combination: each is answered, and of two
/// with QoS 2 one is passed on [MQTT-4.3.3-10]; the end of the exchange ends it for all.
#[test]
fn an_identifier_can_be_used_for_everything_at_once() {
    let mut siege = Siege::begin("");
    let mut witness = Client::v4(siege.port, "reuse-witness");
    witness.subscribe("reuse/t", 0);
    for first in 0..6 {
        for second in 0..6 {
            let mut client = Client::v5(siege.port, "reuse");
            let all = requests(&client);
            let (one, two) = (&all[first], &all[second]);
            println!("{} and {}", one.0, two.0);
            client.send(&[&one.1[..], &two.1].concat());
            for expected in [one.2, two.2] {
                let answer = client.read();
                assert_eq!((answer[0], &answer[2..4]), (expected, &[0, 7][..]), "{answer:02x?}");
            }
            let is_qos2 = [one.2, two.2].contains(&0x50);
            client.send(&[0x62, 2, 0, 7]);
            let released: &[u8] = if is_qos2 { &[0x70, 2, 0, 7] } else { &[0x70, 3, 0, 7, 0x92] };
            client.expect(released);
            // After that the identifier is a new one.
            client.publish(4, "reuse/t", "end");
            let mut expected: Vec<_> =
                [one, two].iter().filter(|r| r.2 == 0x40).map(|_| "1").collect();
            expected.extend(is_qos2.then_some("2"));
            let mut received = vec![];
            loop {
                match witness.receive().text() {
                    "end" => break,
                    text => received.push(text.to_owned()),
                }
            }
            received.sort();
            assert_eq!(received, expected);
        }
        siege.check();
    }
    siege.survived(16);
}

/// Both sides count for themselves: the broker's message 1 and the Client's message 1.
#[test]
fn the_same_identifier_in_both_directions_is_two_exchanges() {
    let siege = Siege::begin("");
    for connect in [Connect::v5("both"), Connect::v4("both")] {
        let (mut client, [high, low]) = in_flight(siege.port, &connect, 2);
        let id = u16::from_be_bytes([high, low]);
        let publish = client.publish_bytes(4, "both/ways", id, &[], "x");
        client.send(&publish);
        let received = client.read();
        assert_eq!((received[0], &received[2..4]), (0x50, &[high, low][..]));
        client.send(&[0x50, 2, high, low, 0x62, 2, high, low]);
        let mut answers = [client.read(), client.read()];
        answers.sort();
        assert_eq!(answers, [vec![0x62, 2, high, low], vec![0x70, 2, high, low]]);
        client.send(&[0x70, 2, high, low]);
        client.expect_nothing();
    }
    siege.survived(16);
}

/// [MQTT-3.3.4-7], section 4.9: every mixture of QoS 1 and 2 beyond the Receive Maximum.
#[test]
fn a_window_overrun_is_cut_whatever_it_is_made_of() {
    let mut siege = Siege::begin("receive_maximum = 3");
    for last in [2, 4] {
        let mut client = Client::v5(siege.port, "overrun");
        for id in 1..=3 {
            let publish = client.publish_bytes(4, "overrun", id, &[], "x");
            client.send(&publish);
            assert_eq!(client.read()[0], 0x50);
        }
        // What is acknowledged at once has room only where there is some.
        client.send(&[0x62, 2, 0, 1]);
        client.expect(&[0x70, 2, 0, 1]);
        for id in 10..30 {
            let publish = client.publish_bytes(2, "overrun", id, &[], "x");
            client.send(&publish);
            assert_eq!(client.read()[0], 0x40);
        }
        // A repetition takes no room.
        let again = client.publish_bytes(12, "overrun", 2, &[], "x");
        client.send(&again);
        assert_eq!(client.read()[0], 0x50);
        let fill = client.publish_bytes(4, "overrun", 1, &[], "x");
        client.send(&fill);
        assert_eq!(client.read()[0], 0x50);
        let publish = client.publish_bytes(last, "overrun", 9, &[], "x");
        client.send(&publish);
        client.expect_close(0x93);
    }
    siege.check();
    siege.survived(16);
}

/// [MQTT-3.3.2-9], [MQTT-3.3.2-12]: from 1 to the maximum and no further.
#[test]
fn every_topic_alias_up_to_the_maximum_is_taken_and_none_above() {
    for maximum in [0_u16, 1, 300] {
        let siege = Siege::begin(&format!("max_topic_alias = {maximum}"));
        let mut witness = Client::v4(siege.port, "alias-witness");
        witness.subscribe("alias/#", 0);
        let mut client = Client::v5(siege.port, "alias");
        let publish = |client: &mut Client, topic: &str, alias: u16| {
            let [high, low] = alias.to_be_bytes();
            let bytes = client.publish_bytes(0, topic, 0, &[0x23, high, low], "x");
            client.send(&bytes);
        };
        for alias in 1..=maximum {
            publish(&mut client, &format!("alias/{alias}"), alias);
        }
        for alias in 1..=maximum {
            publish(&mut client, "", alias);
        }
        for alias in (1..=maximum).chain(1..=maximum) {
            assert_eq!(witness.receive().topic, format!("alias/{alias}"));
        }
        for alias in [0, maximum + 1, u16::MAX] {
            for topic in ["alias/x", ""] {
                let mut client = Client::v5(siege.port, "alias");
                publish(&mut client, topic, alias);
                client.expect_close(0x94);
            }
        }
        witness.expect_nothing();
        siege.survived(16);
    }
}

/// [MQTT-3.3.2-7]
#[test]
fn a_topic_alias_ends_with_its_connection() {
    let siege = Siege::begin("");
    let connect = Connect::v5("alias-end").durable();
    let mut client = Client::connect(siege.port, &connect);
    let publish = client.publish_bytes(2, "alias/end", 1, &[0x23, 0, 1], "x");
    client.send(&publish);
    assert_eq!(client.read()[0], 0x40);
    client.disconnect();
    let (mut client, present) = Client::resume(siege.port, &Connect { clean: false, ..connect });
    assert!(present);
    let publish = client.publish_bytes(2, "", 1, &[0x23, 0, 1], "x");
    client.send(&publish);
    client.expect_close(0x82);
    siege.survived(16);
}

/// Section 3.3.2.3.4 and [MQTT-3.3.2-1]: MQTT 3.1.1 knows no aliases.
#[test]
fn an_empty_topic_is_refused_where_no_alias_can_stand_for_it() {
    let siege = Siege::begin("");
    for flags in [0, 2, 4] {
        let mut client = Client::v4(siege.port, "no-topic");
        let publish = client.publish_bytes(flags, "", 1, &[], "x");
        client.send(&publish);
        client.expect_close(0);
        let mut client = Client::v5(siege.port, "no-topic");
        let publish = client.publish_bytes(flags, "", 1, &[], "x");
        client.send(&publish);
        client.expect_close(0x82);
    }
    siege.survived(16);
}
