//! A wide corpus: legal packets of every type in every version, with every combination of flags,
//! options and Reason Codes, written from the standards' tables.

use whimbrel::codec::Version;
use whimbrel::codec::Version::{V5, V31, V311};

pub const VERSIONS: [Version; 3] = [V31, V311, V5];

/// A type, length and body.
pub fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [vec![first], varint(body.len()), body].concat()
}

/// A Variable Byte Integer.
pub fn varint(mut value: usize) -> Vec<u8> {
    let mut out = vec![];
    loop {
        let byte = (value & 127) as u8;
        value >>= 7;
        out.push(if value > 0 { byte | 128 } else { byte });
        if value == 0 {
            return out;
        }
    }
}

/// A string or binary field.
pub fn field(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

/// A block of properties with its length, where the version has them.
pub fn block(version: Version, properties: &[u8]) -> Vec<u8> {
    if version == V5 { [&varint(properties.len()), properties].concat() } else { vec![] }
}

/// Protocol Name and level.
pub fn protocol(version: Version) -> Vec<u8> {
    match version {
        V31 => b"\0\x06MQIsdp\x03".to_vec(),
        V311 => b"\0\x04MQTT\x04".to_vec(),
        V5 => b"\0\x04MQTT\x05".to_vec(),
    }
}

/// The Reason Codes that each packet of MQTT 5.0 may carry (table 2-6), by the packet's first
/// byte.
pub const REASONS: [(u8, &[u8]); 9] = [
    (
        0x20,
        &[
            0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90,
            0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
        ],
    ),
    (0x40, &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]),
    (0x50, &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]),
    (0x62, &[0x00, 0x92]),
    (0x70, &[0x00, 0x92]),
    (0x90, &[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2]),
    (0xB0, &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91]),
    (
        0xE0,
        &[
            0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90,
            0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0,
            0xA1, 0xA2,
        ],
    ),
    (0xF0, &[0x00, 0x18, 0x19]),
];

/// A packet of MQTT 5.0 with this first byte, Reason Code and properties.
pub fn reasoned(first: u8, reason: u8, properties: &[u8]) -> Vec<u8> {
    let (block, id) = (block(V5, properties), b"\0\x07");
    match first {
        0x20 => packet(first, &[&[0, reason], &block]),
        0x40..=0x7F => packet(first, &[id, &[reason], &block]),
        0x90 | 0xB0 => packet(first, &[id, &block, &[reason]]),
        _ => packet(first, &[&[reason], &block]),
    }
}

/// Legal packets: version and bytes as the codec writes them.
pub fn wide() -> Vec<(Version, Vec<u8>)> {
    let mut all = vec![];
    for version in VERSIONS {
        all.extend(connects(version).into_iter().map(|bytes| (version, bytes)));
        all.extend(publishes(version).into_iter().map(|bytes| (version, bytes)));
        all.extend(requests(version).into_iter().map(|bytes| (version, bytes)));
        let id = b"\0\x07";
        for first in [0x40, 0x50, 0x62, 0x70] {
            all.push((version, packet(first, &[id])));
        }
        for first in [0xC0, 0xD0, 0xE0] {
            all.push((version, packet(first, &[])));
        }
        if version != V5 {
            all.push((version, packet(0x90, &[id, b"\0\x01\x02\x80"])));
            all.push((version, packet(0xB0, &[id])));
            all.extend((0..=5).map(|code| (version, packet(0x20, &[&[0, code]]))));
        }
    }
    all.push((V311, packet(0x20, &[&[1, 0]])));
    for (first, reasons) in REASONS {
        for &reason in reasons {
            let text = b"\x1F\0\x02no\x26\0\x01k\0\x01v";
            all.push((V5, reasoned(first, reason, text)));
            if matches!(first, 0x40..=0x7F) {
                // Without a Property Length, unless it is the Reason Code that is left out too.
                all.push((V5, packet(first, &[b"\0\x07", &[reason][..usize::from(reason > 0)]])));
            } else if first != 0xE0 {
                all.push((V5, reasoned(first, reason, b"")));
            }
        }
    }
    all.extend(
        (1..=0xA2).filter(|&code| is_reason(0xE0, code)).map(|c| (V5, packet(0xE0, &[&[c, 0]]))),
    );
    all.push((V5, packet(0x20, &[b"\x01\0\0"])));
    all
}

/// Whether a packet may carry a Reason Code.
pub fn is_reason(first: u8, reason: u8) -> bool {
    REASONS.iter().any(|(packet, reasons)| *packet == first && reasons.contains(&reason))
}

/// Legal packets that the codec writes in another way: the long forms of what can be left out,
/// and the two short forms that it does not use.
pub fn alternatives() -> Vec<(Version, Vec<u8>)> {
    let mut all = vec![(V5, packet(0xF0, &[])), (V5, packet(0xE0, &[&[0]]))];
    all.push((V5, packet(0xE0, &[&[0, 0]])));
    all.push((V5, packet(0xE0, &[&[4]])));
    for first in [0x40, 0x50, 0x62, 0x70] {
        all.push((V5, packet(first, &[b"\0\x07\0"])));
        all.push((V5, packet(first, &[b"\0\x07\0\0"])));
        all.push((V5, packet(first, &[b"\0\x07\x92\0"])));
    }
    all.retain(|(_, bytes)| bytes.len() < 6 || is_reason(bytes[0], bytes[4]));
    all
}

/// CONNECT with every combination of its flags.
fn connects(version: Version) -> Vec<Vec<u8>> {
    let mut all = vec![];
    for flags in (0..=255_u8).filter(|&flags| is_legal_connect(flags, version)) {
        let mut payload = field("c");
        if flags & 4 != 0 {
            payload.extend(block(version, b"\x18\0\0\0\x05"));
            payload.extend([field("w/t"), field("w")].concat());
        }
        if flags & 0x80 != 0 {
            payload.extend(field("u"));
        }
        if flags & 0x40 != 0 {
            payload.extend(field("p"));
        }
        let properties = block(version, b"\x11\0\0\0\x09");
        all.push(packet(0x10, &[&protocol(version), &[flags, 0, 10], &properties, &payload]));
    }
    all
}

/// Section 3.1.2.3.
pub fn is_legal_connect(flags: u8, version: Version) -> bool {
    let (will, qos, retain) = (flags & 4 != 0, flags >> 3 & 3, flags & 0x20 != 0);
    let (username, password) = (flags & 0x80 != 0, flags & 0x40 != 0);
    flags & 1 == 0
        && qos < 3
        && (will || (qos == 0 && !retain))
        && (version == V5 || username || !password)
}

/// PUBLISH with every combination of its flags.
fn publishes(version: Version) -> Vec<Vec<u8>> {
    let mut all = vec![];
    for flags in [0, 1, 2, 3, 10, 11, 4, 5, 12, 13] {
        let id: &[u8] = if flags & 6 == 0 { b"" } else { b"\x12\x34" };
        for payload in [&b""[..], b"payload"] {
            let none = block(version, b"");
            all.push(packet(0x30 | flags, &[&field("a/b"), id, &none, payload]));
        }
        if version == V5 {
            let some = block(V5, b"\x01\x01\x02\0\0\0\x09\x23\0\x02\x08\0\x01r\x26\0\x01k\0\x01v");
            all.push(packet(0x30 | flags, &[&field(""), id, &some, b"x"]));
        }
    }
    all
}

/// SUBSCRIBE with all options, UNSUBSCRIBE.
fn requests(version: Version) -> Vec<Vec<u8>> {
    let mut all = vec![];
    let (id, none) = (b"\0\x07", block(version, b""));
    let last = if version == V5 { 0x2F } else { 2 };
    for options in (0..=last).filter(|options| options & 3 < 3) {
        all.push(packet(0x82, &[id, &none, &field("a/+/#"), &[options], &field("b"), &[0]]));
        if options & 4 == 0 {
            all.push(packet(0x82, &[id, &none, &field("$share/g/+"), &[options]]));
        }
    }
    all.push(packet(0xA2, &[id, &none, &field("a/#"), &field("$share/g/a"), &field("/")]));
    if version == V5 {
        let properties = block(V5, b"\x0B\xFF\xFF\xFF\x7F\x26\0\0\0\0");
        all.push(packet(0x82, &[id, &properties, &field("a"), &[0]]));
        let properties = block(V5, b"\x26\0\x01k\0\x01v\x26\0\x01k\0\x01v");
        all.push(packet(0xA2, &[id, &properties, &field("a")]));
    }
    all
}
