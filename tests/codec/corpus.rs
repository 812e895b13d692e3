//! Legal packets of every type and version, as bytes written by hand from the standards.

use whimbrel::codec::Version;
use whimbrel::codec::Version::{V5, V31, V311};

/// A type, length and body.
pub fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    assert!(body.len() < 128);
    [&[first, body.len() as u8], &body[..]].concat()
}

/// Legal packets: name, version, bytes as the codec writes them.
pub fn legal() -> Vec<(&'static str, Version, Vec<u8>)> {
    let name = b"\0\x04MQTT";
    let topic: &[u8] = b"\0\x03a/b";
    vec![
        ("connect 3.1", V31, packet(0x10, &[b"\0\x06MQIsdp\x03\x02\0\x0A\0\x01c"])),
        ("connect", V311, packet(0x10, &[name, b"\x04\x02\0\x0A\0\x01c"])),
        ("connect, empty id", V311, packet(0x10, &[name, b"\x04\x02\0\0\0\0"])),
        (
            "connect with all",
            V311,
            packet(0x10, &[name, b"\x04\xEE\0\x0A\0\x01c", topic, b"\0\x01w\0\x01u\0\x01p"]),
        ),
        ("connect 5", V5, packet(0x10, &[name, b"\x05\x02\0\x0A\0\0\x01c"])),
        (
            "connect 5 with all",
            V5,
            packet(
                0x10,
                &[
                    name,
                    b"\x05\xEE\0\x0A\x23",
                    b"\x11\0\0\0\x09\x21\0\x05\x27\0\0\x01\0\x22\0\x02\x19\x01\x17\0",
                    b"\x15\0\x01m\x16\0\x01d\x26\0\x01k\0\x01v",
                    b"\0\x01c",
                    b"\x0E\x18\0\0\0\x03\x01\x01\x26\0\x02kk\0\0",
                    topic,
                    b"\0\x01w\0\x01u\0\x01p",
                ],
            ),
        ),
        ("connack", V311, packet(0x20, &[b"\x01\0"])),
        ("connack refused", V311, packet(0x20, &[b"\0\x05"])),
        ("connack 5", V5, packet(0x20, &[b"\0\0\x0C\x21\0\x05\x25\0\x24\x01\x12\0\x02id"])),
        ("publish 0", V311, packet(0x30, &[topic, b"payload"])),
        ("publish 1", V311, packet(0x32, &[topic, b"\0\x07", b"payload"])),
        ("publish 2", V311, packet(0x3D, &[topic, b"\xFF\xFF"])),
        ("publish 5", V5, packet(0x30, &[topic, b"\0", b"payload"])),
        (
            "publish 5 with all",
            V5,
            packet(
                0x33,
                &[
                    topic,
                    b"\0\x07",
                    b"\x1D\x01\x01\x02\0\0\0\x09\x23\0\x01\x08\0\x01r\x09\0\x01c",
                    b"\x03\0\x01t\x26\0\x01k\0\x01v",
                    b"payload",
                ],
            ),
        ),
        ("publish 5 by alias", V5, packet(0x30, &[b"\0\0\x03\x23\0\x01x"])),
        ("publish 5 with identifiers", V5, packet(0x30, &[topic, b"\x05\x0B\x01\x0B\x80\x01x"])),
        ("puback", V311, packet(0x40, &[b"\0\x07"])),
        ("pubrec", V311, packet(0x50, &[b"\0\x07"])),
        ("pubrel", V311, packet(0x62, &[b"\0\x07"])),
        ("pubcomp", V311, packet(0x70, &[b"\0\x07"])),
        ("puback 5", V5, packet(0x40, &[b"\0\x07"])),
        ("puback 5 with reason", V5, packet(0x40, &[b"\0\x07\x10"])),
        ("pubrec 5 with text", V5, packet(0x50, &[b"\0\x07\x97\x04\x1F\0\x01t"])),
        ("pubrel 5 with reason", V5, packet(0x62, &[b"\0\x07\x92"])),
        ("pubcomp 5 with reason", V5, packet(0x70, &[b"\0\x07\x92"])),
        ("subscribe", V311, packet(0x82, &[b"\0\x07", topic, b"\x01\0\x01#\x02"])),
        ("subscribe 5", V5, packet(0x82, &[b"\0\x07\x02\x0B\x09", topic, b"\x2D"])),
        ("suback", V311, packet(0x90, &[b"\0\x07\x01\x80"])),
        ("suback 5", V5, packet(0x90, &[b"\0\x07\0\x01\x8F"])),
        ("unsubscribe", V311, packet(0xA2, &[b"\0\x07", topic, topic])),
        ("unsubscribe 5", V5, packet(0xA2, &[b"\0\x07\0", topic])),
        ("unsuback", V311, packet(0xB0, &[b"\0\x07"])),
        ("unsuback 5", V5, packet(0xB0, &[b"\0\x07\0\0\x11"])),
        ("pingreq", V311, packet(0xC0, &[])),
        ("pingresp", V5, packet(0xD0, &[])),
        ("disconnect", V311, packet(0xE0, &[])),
        ("disconnect 5", V5, packet(0xE0, &[])),
        ("disconnect 5 with reason", V5, packet(0xE0, &[b"\x04\0"])),
        ("disconnect 5 with expiry", V5, packet(0xE0, &[b"\0\x05\x11\0\0\0\x09"])),
        ("auth", V5, packet(0xF0, &[b"\x18\x08\x15\0\x01m\x16\0\x01d"])),
    ]
}

/// Packets that must be refused: name, version, bytes.
pub fn illegal() -> Vec<(&'static str, Version, Vec<u8>)> {
    let name = b"\0\x04MQTT";
    let t: &[u8] = b"\0\x01t";
    let mut all = vec![];
    for version in [V311, V5] {
        let none: &[u8] = if version == V5 { b"\0" } else { b"" };
        let level: &[u8] = if version == V5 { b"\x05" } else { b"\x04" };
        all.extend([
            ("type 0", version, packet(0x00, &[])),
            ("flags of PUBREL", version, packet(0x60, &[b"\0\x01"])),
            ("flags of SUBSCRIBE", version, packet(0x80, &[b"\0\x01", none, t, b"\0"])),
            ("flags of UNSUBSCRIBE", version, packet(0xA0, &[b"\0\x01", none, t])),
            ("flags of PINGREQ", version, packet(0xC1, &[])),
            ("QoS 3", version, packet(0x36, &[t, b"\0\x01", none])),
            ("DUP with QoS 0", version, packet(0x38, &[t, none])),
            ("identifier 0", version, packet(0x32, &[t, b"\0\0", none])),
            ("wildcard in a name", version, packet(0x30, &[b"\0\x01#", none])),
            ("null in a name", version, packet(0x30, &[b"\0\x01\0", none])),
            ("surrogate in a name", version, packet(0x30, &[b"\0\x03\xED\xA0\x80", none])),
            ("overlong name", version, packet(0x30, &[b"\0\x02\xC0\x80", none])),
            ("empty name", version, packet(0x30, &[b"\0\0", none])),
            ("identifier 0 in PUBACK", version, packet(0x40, &[b"\0\0"])),
            ("SUBSCRIBE without filter", version, packet(0x82, &[b"\0\x01", none])),
            ("UNSUBSCRIBE without filter", version, packet(0xA2, &[b"\0\x01", none])),
            ("Maximum QoS 3", version, packet(0x82, &[b"\0\x01", none, t, b"\x03"])),
            ("reserved options", version, packet(0x82, &[b"\0\x01", none, t, b"\x40"])),
            ("bad filter", version, packet(0x82, &[b"\0\x01", none, b"\0\x02a#", b"\0"])),
            ("empty filter", version, packet(0x82, &[b"\0\x01", none, b"\0\0", b"\0"])),
            ("PINGREQ with body", version, packet(0xC0, &[b"\0"])),
            ("reserved flag", version, packet(0x10, &[name, level, b"\x03\0\0", none, t])),
            ("Will QoS alone", version, packet(0x10, &[name, level, b"\x0A\0\0", none, t])),
            ("Will RETAIN alone", version, packet(0x10, &[name, level, b"\x22\0\0", none, t])),
            ("CONNECT and more", version, packet(0x10, &[name, level, b"\x02\0\0", none, t, t])),
            ("wrong name", version, packet(0x10, &[b"\0\x04MQTX", level, b"\x02\0\0", none, t])),
            ("length of 2 for 1", version, b"\x30\x83\0\0\x01t".to_vec()),
        ]);
    }
    all.extend([
        ("password alone", V311, packet(0x10, &[name, b"\x04\x42\0\0", t, t])),
        ("AUTH", V311, packet(0xF0, &[])),
        ("PUBACK and more", V311, packet(0x40, &[b"\0\x01\0"])),
        ("DISCONNECT with body", V311, packet(0xE0, &[b"\0"])),
        ("unknown property", V5, packet(0x30, &[t, b"\x02\x7F\0"])),
        ("misplaced property", V5, packet(0x30, &[t, b"\x03\x21\0\x01"])),
        ("property twice", V5, packet(0x30, &[t, b"\x04\x01\0\x01\0"])),
        ("flag of 2", V5, packet(0x30, &[t, b"\x02\x01\x02"])),
        ("alias 0", V5, packet(0x30, &[t, b"\x03\x23\0\0"])),
        ("Response Topic #", V5, packet(0x30, &[t, b"\x04\x08\0\x01#"])),
        ("properties too long", V5, packet(0x30, &[t, b"\x09\x01\0"])),
        ("identifier property 0", V5, packet(0x82, &[b"\0\x01\x02\x0B\0", t, b"\0"])),
        ("Retain Handling 3", V5, packet(0x82, &[b"\0\x01\0", t, b"\x30"])),
        ("No Local shared", V5, packet(0x82, &[b"\0\x01\0\0\x0A$share/g/t\x04"])),
        ("reason of another", V5, packet(0x40, &[b"\0\x01\x92"])),
        ("Receive Maximum 0", V5, packet(0x10, &[name, b"\x05\x02\0\0\x03\x21\0\0", t])),
        ("Packet Size 0", V5, packet(0x10, &[name, b"\x05\x02\0\0\x05\x27\0\0\0\0", t])),
        ("data without method", V5, packet(0x10, &[name, b"\x05\x02\0\0\x04\x16\0\x01d", t])),
        ("reserved reason", V5, packet(0xE0, &[b"\x03"])),
        ("AUTH of 1", V5, packet(0xF0, &[b"\x01\0"])),
    ]);
    all
}
