//! Every damage that one byte, one cut or one wrong length can do to the wide corpus.

use whimbrel::codec::frame::{Split, split, split_of};
use whimbrel::codec::{DecodeError, Packet, Version};

use crate::wide::{
    REASONS, VERSIONS, alternatives, block, field, is_legal_connect, is_reason, packet, protocol,
    reasoned, varint, wide,
};

const MAXIMUM: usize = 1 << 20;

/// The first packet of the bytes; `None` when they are only its beginning.
pub fn decode(bytes: &[u8], version: Version) -> Result<Option<Packet<'_>>, DecodeError> {
    match split_of(version, bytes, MAXIMUM)? {
        Split::NeedMore { at_least } => {
            assert!(at_least > bytes.len());
            Ok(None)
        }
        Split::Frame(frame) => {
            assert!(frame.len <= bytes.len());
            Packet::decode(&frame, version).map(Some)
        }
    }
}

pub fn encode(packet: &Packet<'_>, version: Version) -> Vec<u8> {
    let mut out = vec![];
    packet.encode(version_of(packet, version), &mut out).unwrap();
    out
}

/// CONNECT carries its own.
fn version_of(packet: &Packet<'_>, version: Version) -> Version {
    if let Packet::Connect(connect) = packet { connect.version } else { version }
}

/// What must hold of any bytes whatever: no panic, no more is read than the packet, and what is
/// taken can be written and is then the same.
fn judge(bytes: &[u8], version: Version) {
    let alone = decode(bytes, version);
    let followed = [bytes, &[0xAA; 9]].concat();
    if !matches!(alone, Ok(None)) {
        assert_eq!(decode(&followed, version), alone, "{version} {bytes:02x?}: reads on");
    }
    if let Ok(Some(packet)) = alone {
        let version = version_of(&packet, version);
        let again = encode(&packet, version);
        assert_eq!(decode(&again, version), Ok(Some(packet)), "{version} {bytes:02x?}");
    }
}

fn everything() -> Vec<(Version, Vec<u8>)> {
    let all = [wide(), alternatives()].concat();
    let types: std::collections::BTreeSet<_> =
        all.iter().map(|(version, bytes)| (*version, bytes[0] >> 4)).collect();
    assert_eq!(types.len(), 14 + 14 + 15, "a type is missing in a version: {types:?}");
    all
}

#[test]
fn the_wide_corpus_is_read_and_written_the_same() {
    for (version, bytes) in wide() {
        let packet = decode(&bytes, version);
        let packet = packet.unwrap_or_else(|e| panic!("{version} {bytes:02x?}: {e}")).unwrap();
        assert_eq!(encode(&packet, version), bytes, "{version} {packet:?}");
    }
    for (version, bytes) in alternatives() {
        let packet = decode(&bytes, version).unwrap().unwrap();
        let again = encode(&packet, version);
        assert_ne!(again, bytes);
        assert_eq!(decode(&again, version), Ok(Some(packet)), "{version} {bytes:02x?}");
    }
}

#[test]
fn every_single_byte_of_every_packet_can_be_wrong() {
    for (version, bytes) in everything() {
        let mut changed = bytes.clone();
        for at in 0..bytes.len() {
            for value in (0..=255).filter(|&value| value != bytes[at]) {
                changed[at] = value;
                judge(&changed, version);
            }
            changed[at] = bytes[at];
        }
    }
}

/// As a stream that ends, and with a Remaining Length that says so.
#[test]
fn every_packet_can_be_cut_anywhere() {
    for (version, bytes) in everything() {
        for len in 0..bytes.len() {
            assert_eq!(decode(&bytes[..len], version), Ok(None), "{version} {bytes:02x?}");
        }
        let body = &bytes[1 + varint(bytes.len() - 2).len()..];
        for len in 0..body.len() {
            judge(&packet(bytes[0], &[&body[..len]]), version);
            judge(&packet(bytes[0], &[&body[len..]]), version);
        }
    }
}

#[test]
fn every_wrong_remaining_length_is_refused_or_bounds_what_is_read() {
    for (version, bytes) in everything() {
        let body = &bytes[2..];
        let len = body.len();
        assert!(len < 128);
        // More bytes than needed, and more than there may be.
        let low = len as u8 | 0x80;
        for length in [&[low, 0][..], &[low, 0x80, 0], &[low, 0x80, 0x80, 0]] {
            let long = [&bytes[..1], length, body].concat();
            assert!(decode(&long, version).is_err(), "{version} {long:02x?}");
        }
        for length in [&[low, 0x80, 0x80, 0x80, 0][..], &[0xFF; 4], &[0xFF; 9]] {
            let long = [&bytes[..1], length, body].concat();
            assert!(decode(&long, version).is_err(), "{version} {long:02x?}");
        }
        // Another length than the packet's.
        for claimed in (0..len + 20).filter(|&claimed| claimed != len) {
            let lying = [&bytes[..1], &varint(claimed), body].concat();
            match split(&lying, MAXIMUM) {
                Ok(Split::NeedMore { at_least }) => {
                    assert_eq!(at_least, 1 + varint(claimed).len() + claimed);
                    assert!(claimed > len);
                }
                Ok(Split::Frame(frame)) => {
                    assert_eq!((frame.body, claimed < len), (&body[..claimed], true));
                    judge(&lying[..frame.len], version);
                }
                Err(error) => panic!("{version} {lying:02x?}: {error}"),
            }
        }
        // More than is accepted: known from the header alone.
        for claimed in [MAXIMUM, 268_435_455] {
            let giant = [&bytes[..1], &varint(claimed)].concat();
            let refused =
                matches!(decode(&giant, version), Err(DecodeError::PacketTooLarge { .. }));
            assert!(refused, "{version} {giant:02x?}");
        }
    }
}

/// [MQTT-3.1.2-3], [MQTT-3.1.2-11] to [MQTT-3.1.2-13], of 3.1.1 also [MQTT-3.1.2-22]
#[test]
fn connect_flags_are_legal_or_refused() {
    for version in VERSIONS {
        for flags in 0..=255_u8 {
            let mut payload = field("c");
            if flags & 4 != 0 {
                payload.extend([block(version, b""), field("w"), field("")].concat());
            }
            for flag in [0x80, 0x40] {
                payload.extend(if flags & flag != 0 { field("x") } else { vec![] });
            }
            let properties = block(version, b"");
            let connect =
                packet(0x10, &[&protocol(version), &[flags, 0, 0], &properties, &payload]);
            let taken = decode(&connect, version).is_ok();
            // MQTT 3.1 disregards the reserved flag, and those of a Will that is not there.
            let disregarded = match (version, flags & 4) {
                (Version::V31, 0) => 0x39,
                (Version::V31, _) => 0x01,
                _ => 0,
            };
            let is_legal = is_legal_connect(flags & !disregarded, version);
            assert_eq!(taken, is_legal, "{version} flags {flags:08b}");
        }
    }
}

/// [MQTT-2.1.3-1], of 3.1.1 [MQTT-2.2.2-2]. To MQTT 3.1 the flags of most packets mean nothing; what
/// has a QoS of 1 keeps it.
#[test]
fn flags_of_the_fixed_header_are_legal_or_refused() {
    for (version, bytes) in wide().into_iter().filter(|(_, bytes)| bytes[0] >> 4 != 3) {
        for flags in (0..16).filter(|&flags| flags != bytes[0] & 15) {
            let changed = [&[bytes[0] & 0xF0 | flags], &bytes[1..]].concat();
            let kind = bytes[0] >> 4;
            let is_free = match kind {
                1 | 15 => false,
                6 | 8 | 10 => flags & 6 == 2,
                _ => true,
            };
            if version == Version::V31 && is_free {
                assert_eq!(decode(&changed, version), decode(&bytes, version), "{changed:02x?}");
                assert!(split(&changed, MAXIMUM).is_err());
                continue;
            }
            let refused = Err(DecodeError::Malformed("reserved flags of the fixed header"));
            assert_eq!(decode(&changed, version), refused, "{version} {changed:02x?}");
            // Nothing more is waited for.
            assert_eq!(decode(&changed[..1], version), refused);
        }
    }
}

/// Table 2-6; [MQTT-3.2.2-8], [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.6.2-1], [MQTT-3.7.2-1],
/// [MQTT-3.9.3-2], [MQTT-3.11.3-2], [MQTT-3.14.2-1], [MQTT-3.15.2-1]
#[test]
fn a_reason_code_is_taken_exactly_where_it_belongs() {
    for (first, _) in REASONS {
        for reason in 0..=255 {
            let bytes = reasoned(first, reason, b"");
            let expected = is_reason(first, reason);
            assert_eq!(decode(&bytes, Version::V5).is_ok(), expected, "{bytes:02x?}");
        }
    }
}

/// Before MQTT 5.0: of SUBACK [MQTT-3.9.3-2], of CONNACK table 3.1.
#[test]
fn a_return_code_is_taken_exactly_where_it_belongs() {
    for version in [Version::V31, Version::V311] {
        for code in 0..=255 {
            let connack = packet(0x20, &[&[0, code]]);
            assert_eq!(decode(&connack, version).is_ok(), code <= 5, "{connack:02x?}");
            let suback = packet(0x90, &[&[0, 1, code]]);
            let expected = matches!(code, 0..=2 | 0x80);
            assert_eq!(decode(&suback, version).is_ok(), expected, "{suback:02x?}");
        }
    }
}

/// A string's bytes to the packet that carries them.
type Carrier = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// Every string field of every packet, with the versions that have it.
fn carriers() -> Vec<(&'static str, Version, Carrier)> {
    let mut all: Vec<(&'static str, Version, Carrier)> = vec![];
    for v in VERSIONS {
        let head = move |flags: u8| [&protocol(v)[..], &[flags, 0, 0], &block(v, b"")].concat();
        let none = move || block(v, b"");
        let own: Carrier = Box::new(move |s| packet(0x10, &[&head(2), &field(s)]));
        all.push(("Client Identifier", v, own));
        all.push((
            "Will Topic",
            v,
            Box::new(move |s| {
                packet(0x10, &[&head(6), &field("c"), &none(), &field(s), &field("m")])
            }),
        ));
        all.push((
            "User Name",
            v,
            Box::new(move |s| packet(0x10, &[&head(0x82), &field("c"), &field(s)])),
        ));
        all.push(("Topic Name", v, Box::new(move |s| packet(0x30, &[&field(s), &none(), b"m"]))));
        let subscribe: Carrier =
            Box::new(move |s| packet(0x82, &[b"\0\x01", &none(), &field(s), &[1]]));
        all.push(("filter of SUBSCRIBE", v, subscribe));
        let unsubscribe: Carrier =
            Box::new(move |s| packet(0xA2, &[b"\0\x01", &none(), &field("a"), &field(s)]));
        all.push(("filter of UNSUBSCRIBE", v, unsubscribe));
    }
    let property = |id: u8, first: u8, before: &'static [u8], after: &'static [u8]| -> Carrier {
        Box::new(move |s| {
            let property = [&[id], &field(s)[..]].concat();
            packet(first, &[before, &block(Version::V5, &property), after])
        })
    };
    let connect = b"\0\x04MQTT\x05\x02\0\0";
    let will = b"\0\x04MQTT\x05\x06\0\0\0\0\x01c";
    let rest = b"\0\x01w\0\0";
    all.extend([
        ("Content Type", Version::V5, property(3, 0x30, b"\0\x01t", b"m")),
        ("Response Topic", Version::V5, property(8, 0x30, b"\0\x01t", b"m")),
        ("Content Type of a Will", Version::V5, property(3, 0x10, will, rest)),
        ("Response Topic of a Will", Version::V5, property(8, 0x10, will, rest)),
        ("Authentication Method", Version::V5, property(0x15, 0x10, connect, b"\0\x01c")),
        ("Authentication Method in AUTH", Version::V5, property(0x15, 0xF0, b"\x18", b"")),
        ("Assigned Client Identifier", Version::V5, property(0x12, 0x20, b"\0\0", b"")),
        ("Response Information", Version::V5, property(0x1A, 0x20, b"\0\0", b"")),
        ("Server Reference", Version::V5, property(0x1C, 0xE0, b"\x9C", b"")),
    ]);
    for (first, _) in REASONS {
        let reason: Carrier =
            Box::new(move |s| reasoned(first, 0, &[&[0x1F], &field(s)[..]].concat()));
        all.push(("Reason String", Version::V5, reason));
        let name: Carrier =
            Box::new(move |s| reasoned(first, 0, &[&[0x26], &field(s)[..], &field("v")].concat()));
        all.push(("name of a User Property", Version::V5, name));
        let value: Carrier =
            Box::new(move |s| reasoned(first, 0, &[&[0x26], &field("k")[..], &field(s)].concat()));
        all.push(("value of a User Property", Version::V5, value));
    }
    all
}

/// [MQTT-1.5.4-1], [MQTT-1.5.4-2], [MQTT-1.5.7-1], [MQTT-3.1.3-4], [MQTT-3.1.3-11],
/// [MQTT-3.1.3-12], [MQTT-3.3.2-1], [MQTT-3.3.2-13], [MQTT-3.3.2-19], [MQTT-3.8.3-1],
/// [MQTT-3.10.3-1]
#[test]
fn bad_utf8_is_malformed_in_every_string_of_every_packet() {
    const BAD: [&[u8]; 16] = [
        b"\x80",             // a continuation alone
        b"a\xBF",            //
        b"\xC3",             // the beginning of a character alone
        b"\xE2\x82",         //
        b"\xF0\x9F\x98",     //
        b"\xC3a",            //
        b"\xC0\x80",         // null, overlong
        b"\xC1\xBF",         // overlong
        b"\xE0\x9F\xBF",     //
        b"\xF0\x8F\xBF\xBF", //
        b"\xED\xA0\x80",     // U+D800
        b"\xED\xBF\xBF",     // U+DFFF
        b"\xF4\x90\x80\x80", // above U+10FFFF
        b"\xF8\x88\x80\x80\x80",
        b"\xFF",
        b"a\0b", // U+0000
    ];
    for (name, version, carrier) in carriers() {
        for bad in BAD {
            let bytes = carrier(bad);
            let refused = matches!(decode(&bytes, version), Err(DecodeError::Malformed(_)));
            assert!(refused, "{name} {version} {bad:02x?}: {:?}", decode(&bytes, version));
        }
    }
}

/// [MQTT-1.5.4-3] among others: U+FEFF, noncharacters and control characters stay what they are.
#[test]
fn odd_but_legal_strings_pass_unchanged_in_every_field() {
    let longest = "ä".repeat(32_767);
    for (name, version, carrier) in carriers() {
        for good in
            ["\u{FEFF}", "a\u{FEFF}b", "\u{FFFF}", "\u{10FFFF}", "\u{1}\u{7F}\u{85}", &longest]
        {
            let bytes = carrier(good.as_bytes());
            let packet = decode(&bytes, version);
            let packet = packet.unwrap_or_else(|e| panic!("{name} {version}: {e}")).unwrap();
            let again = encode(&packet, version);
            assert!(again.windows(good.len()).any(|w| w == good.as_bytes()), "{name} {version}");
            assert_eq!(decode(&again, version), Ok(Some(packet)), "{name} {version}");
        }
    }
}

/// The Protocol Name is bytes, and is MQTT or MQIsdp with its own levels.
#[test]
fn protocol_names_and_levels_are_taken_in_their_pairs() {
    for name in ["MQTT", "MQIsdp", "mqtt", "MQTT\0", "MQT", "", "MQTTS", "MQIsdP", "\u{FEFF}MQTT"] {
        for level in 0..=255_u8 {
            let none: &[u8] = if level == 5 { b"\0" } else { b"" };
            let connect = packet(0x10, &[&field(name), &[level, 2, 0, 0], none, &field("c")]);
            let taken = decode(&connect, Version::V5).map(|packet| match packet {
                Some(Packet::Connect(connect)) => connect.version,
                other => panic!("{other:?}"),
            });
            // The highest bit is set by bridges.
            let expected = match (name, level) {
                ("MQIsdp", 3 | 0x83) => Some(Version::V31),
                ("MQTT", 4 | 0x84) => Some(Version::V311),
                ("MQTT", 5) => Some(Version::V5),
                _ => None,
            };
            assert_eq!(taken.ok(), expected, "{name:?} {level}");
        }
    }
}
