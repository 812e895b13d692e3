//! Bytes that no peer should send: the connection ends with the right reason, and nobody else
//! notices.

use crate::broker::shared;
use crate::raw::{Client, Connect, field, packet};

/// Packets after CONNECT that must be refused, and the MQTT 5.0 Reason Code.
fn refused() -> Vec<(&'static str, Vec<u8>, u8)> {
    let topic = field("t");
    vec![
        ("packet type 0", vec![0x00, 0], 0x81),
        ("reserved flags of SUBSCRIBE", packet(0x80, &[&[0, 1, 0], &topic, &[0]]), 0x81),
        ("reserved flags of PUBREL", vec![0x60, 2, 0, 1], 0x81),
        ("a length of five bytes", vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1], 0x81),
        ("a length of too many bytes", vec![0x30, 0x84, 0x00, 0, 1, b't', 0], 0x81),
        ("QoS 3", packet(0x36, &[&topic, &[0, 1, 0]]), 0x81),
        ("DUP with QoS 0", packet(0x38, &[&topic, &[0]]), 0x81),
        ("a wildcard in a Topic Name", packet(0x30, &[&field("a/+"), &[0]]), 0x81),
        ("a null character", packet(0x30, &[&field("a\0"), &[0]]), 0x81),
        ("a surrogate", packet(0x30, &[&field([0xED, 0xA0, 0x80]), &[0]]), 0x81),
        ("an overlong encoding", packet(0x30, &[&field([0xC0, 0x80]), &[0]]), 0x81),
        ("a topic longer than the packet", packet(0x30, &[&[0, 9, b't']]), 0x81),
        ("an identifier of 0", packet(0x32, &[&topic, &[0, 0, 0]]), 0x82),
        ("an unknown property", packet(0x30, &[&topic, &[2, 0x7F, 0]]), 0x81),
        ("a property of another packet", packet(0x30, &[&topic, &[3, 0x21, 0, 1]]), 0x81),
        ("a property twice", packet(0x30, &[&topic, &[4, 1, 0, 1, 0]]), 0x82),
        ("properties longer than the packet", packet(0x30, &[&topic, &[9, 1, 0]]), 0x81),
        ("a Payload Format Indicator of 2", packet(0x30, &[&topic, &[2, 1, 2]]), 0x82),
        ("a Response Topic with a wildcard", packet(0x30, &[&topic, &[4, 8, 0, 1, b'#']]), 0x82),
        ("a Subscription Identifier from a Client", packet(0x30, &[&topic, &[2, 11, 1]]), 0x82),
        ("SUBSCRIBE without a filter", packet(0x82, &[&[0, 1, 0]]), 0x82),
        ("reserved subscription options", packet(0x82, &[&[0, 1, 0], &topic, &[0x40]]), 0x81),
        ("a Maximum QoS of 3", packet(0x82, &[&[0, 1, 0], &topic, &[3]]), 0x81),
        ("a Retain Handling of 3", packet(0x82, &[&[0, 1, 0], &topic, &[0x30]]), 0x82),
        ("a Subscription Identifier of 0", packet(0x82, &[&[0, 1, 2, 11, 0], &topic, &[0]]), 0x82),
        ("a bad filter", packet(0x82, &[&[0, 1, 0], &field("a#"), &[0]]), 0x81),
        ("a filter without options", packet(0x82, &[&[0, 1, 0], &topic]), 0x81),
        ("UNSUBSCRIBE without a filter", packet(0xA2, &[&[0, 1, 0]]), 0x82),
        ("a reason that PUBACK cannot carry", packet(0x40, &[&[0, 1, 0x92]]), 0x81),
        ("bytes after the end", packet(0x40, &[&[0, 1, 0, 0, 7]]), 0x81),
        ("a PINGREQ with a body", packet(0xC0, &[&[0]]), 0x81),
        ("a CONNACK from a Client", vec![0x20, 3, 0, 0, 0], 0x82),
        ("a PINGRESP from a Client", vec![0xD0, 0], 0x82),
    ]
}

#[test]
fn malformed_packets_close_the_connection_with_the_right_reason() {
    let mut witness = Client::v4(shared(), "mal-witness");
    witness.subscribe("mal/witness", 1);
    for (what, bytes, reason) in refused() {
        println!("{what}");
        let mut client = Client::v5(shared(), "mal");
        client.send(&bytes);
        client.expect_close(reason);
        witness.publish(0, "mal/witness", what);
        assert_eq!(witness.receive().text(), what);
    }
}

#[test]
fn what_is_reserved_in_mqtt_3_1_1_closes_the_connection() {
    for bytes in [
        vec![0xF0, 0],
        packet(0x30, &[&field("")]),
        packet(0x82, &[&[0, 1], &field("t"), &[4]]),
        packet(0x82, &[&[0, 1]]),
        packet(0xE0, &[&[0]]),
        packet(0x40, &[&[0, 1, 0]]),
    ] {
        let mut client = Client::v4(shared(), "mal-4");
        client.send(&bytes);
        client.expect_close(0);
    }
}

/// [MQTT-3.1.4-1]
#[test]
fn a_malformed_connect_is_refused() {
    let v5 = |flags: u8, properties: &[u8], rest: &[u8]| {
        packet(0x10, &[&field("MQTT"), &[5, flags, 0, 0], properties, rest])
    };
    for (what, bytes, reason) in [
        ("reserved flag", v5(1, &[0], &field("x")), 0x81),
        ("Will QoS without Will", v5(8, &[0], &field("x")), 0x81),
        (
            "Will QoS 3",
            v5(0x1C, &[0], &[&field("x")[..], &[0], &field("t"), &field("")].concat()),
            0x81,
        ),
        ("Receive Maximum 0", v5(2, &[3, 0x21, 0, 0], &field("x")), 0x82),
        ("Maximum Packet Size 0", v5(2, &[5, 0x27, 0, 0, 0, 0], &field("x")), 0x82),
        ("data without method", v5(2, &[4, 0x16, 0, 1, 1], &field("x")), 0x82),
        ("Will Delay outside of a Will", v5(2, &[5, 0x18, 0, 0, 0, 1], &field("x")), 0x81),
        ("no Client Identifier", v5(2, &[0], &[]), 0x81),
        ("bytes after the end", v5(2, &[0], &[&field("x")[..], &[0]].concat()), 0x81),
    ] {
        println!("{what}");
        let mut client = Client::open(shared(), true);
        client.send(&bytes);
        client.expect(&[0x20, 3, 0, reason, 0]);
        assert_eq!(client.try_read(), None);
    }
    let password_only = packet(0x10, &[&field("MQTT"), &[4, 0x42, 0, 0], &field("x"), &field("p")]);
    let wrong_name = packet(0x10, &[&field("MQTX"), &[4, 2, 0, 0], &field("x")]);
    for bytes in [password_only, wrong_name, vec![0x11, 0], b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        let mut client = Client::open(shared(), false);
        client.send(&bytes);
        assert_eq!(client.try_read(), None);
    }
}

/// Every packet cut short, then the end of the stream: nothing breaks.
#[test]
fn truncated_packets_harm_nobody() {
    let connect = Connect::v5("mal-cut").bytes();
    for len in 0..connect.len() {
        Client::open(shared(), true).send(&connect[..len]);
    }
    for (_, bytes, _) in refused() {
        let mut client = Client::v5(shared(), "mal-cut");
        client.try_send(&bytes[..bytes.len() - 1]);
    }
    let mut client = Client::v4(shared(), "mal-cut-witness");
    client.expect_nothing();
}

#[test]
fn random_bytes_harm_nobody() {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..300 {
        let mut client = if round % 2 == 0 {
            Client::open(shared(), false)
        } else {
            Client::v5(shared(), &format!("mal-random-{round}"))
        };
        let bytes: Vec<u8> = (0..random() % 200).map(|_| random() as u8).collect();
        client.try_send(&bytes);
    }
    let mut client = Client::v4(shared(), "mal-random-witness");
    client.expect_nothing();
}

/// [MQTT-3.1.0-2, MQTT-3.14.2-1]
#[test]
fn a_second_connect_is_a_protocol_error_whatever_is_in_it() {
    let mut client = Client::v5(shared(), "second-connect");
    client.send(&[0x10, 10, 0, 4, b'M', b'Q', b'T', b'T', 6, 2, 0, 0]);
    client.expect_close(0x82);
}
