//! The properties of MQTT 5.0 crossed with the places where they may and may not stand. The table
//! here is written from table 2-4 and shares nothing with the codec's.

use whimbrel::codec::Version::V5;
use whimbrel::codec::{DecodeError, Packet, ReasonCode};

use crate::hostile::{decode, encode};
use crate::wide::{block, field, packet, varint};

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x32;
const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
const UNSUBSCRIBE: u8 = 0xA2;
const UNSUBACK: u8 = 0xB0;
const DISCONNECT: u8 = 0xE0;
const AUTH: u8 = 0xF0;
/// The Will Properties within CONNECT.
const WILL: u8 = 0;

const PLACES: [u8; 14] = [
    CONNECT,
    WILL,
    CONNACK,
    PUBLISH,
    PUBACK,
    PUBREC,
    PUBREL,
    PUBCOMP,
    SUBSCRIBE,
    SUBACK,
    UNSUBSCRIBE,
    UNSUBACK,
    DISCONNECT,
    AUTH,
];

const REASONED: &[u8] =
    &[CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, DISCONNECT, AUTH];

/// What values a property may have.
#[derive(Clone, Copy)]
enum Kind {
    Flag,
    U16,
    NonZeroU16,
    Alias,
    U32,
    NonZeroU32,
    Varint,
    Text,
    Topic,
    Binary,
    Pair,
}

/// Identifier, kind, places.
const TABLE: [(u8, Kind, &[u8]); 27] = [
    (1, Kind::Flag, &[PUBLISH, WILL]),
    (2, Kind::U32, &[PUBLISH, WILL]),
    (3, Kind::Text, &[PUBLISH, WILL]),
    (8, Kind::Topic, &[PUBLISH, WILL]),
    (9, Kind::Binary, &[PUBLISH, WILL]),
    (11, Kind::Varint, &[PUBLISH, SUBSCRIBE]),
    (17, Kind::U32, &[CONNECT, CONNACK, DISCONNECT]),
    (18, Kind::Text, &[CONNACK]),
    (19, Kind::U16, &[CONNACK]),
    (21, Kind::Text, &[CONNECT, CONNACK, AUTH]),
    (22, Kind::Binary, &[CONNECT, CONNACK, AUTH]),
    (23, Kind::Flag, &[CONNECT]),
    (24, Kind::U32, &[WILL]),
    (25, Kind::Flag, &[CONNECT]),
    (26, Kind::Text, &[CONNACK]),
    (28, Kind::Text, &[CONNACK, DISCONNECT]),
    (31, Kind::Text, REASONED),
    (33, Kind::NonZeroU16, &[CONNECT, CONNACK]),
    (34, Kind::U16, &[CONNECT, CONNACK]),
    (35, Kind::Alias, &[PUBLISH]),
    (36, Kind::Flag, &[CONNACK]),
    (37, Kind::Flag, &[CONNACK]),
    (38, Kind::Pair, &PLACES),
    (39, Kind::NonZeroU32, &[CONNECT, CONNACK]),
    (40, Kind::Flag, &[CONNACK]),
    (41, Kind::Flag, &[CONNACK]),
    (42, Kind::Flag, &[CONNACK]),
];

/// A packet with this block of properties, its length included, in this place.
fn with_block(place: u8, block: &[u8]) -> Vec<u8> {
    let id = b"\0\x07";
    let connect = |flags: u8| [b"\0\x04MQTT\x05", &[flags, 0, 0][..]].concat();
    match place {
        WILL => packet(0x10, &[&connect(6), b"\0", &field("c"), block, b"\0\x01w\0\x01m"]),
        CONNECT => packet(place, &[&connect(2), block, &field("c")]),
        CONNACK => packet(place, &[b"\0\0", block]),
        PUBLISH => packet(place, &[&field("t"), id, block, b"m"]),
        PUBACK | PUBREC | PUBREL | PUBCOMP => packet(place, &[id, b"\0", block]),
        SUBSCRIBE => packet(place, &[id, block, &field("f"), b"\0"]),
        UNSUBSCRIBE => packet(place, &[id, block, &field("f")]),
        SUBACK | UNSUBACK => packet(place, &[id, block, b"\0"]),
        _ => packet(place, &[b"\0", block]),
    }
}

fn with(place: u8, properties: &[u8]) -> Vec<u8> {
    with_block(place, &block(V5, properties))
}

/// Legal encodings of a value.
fn good(kind: Kind) -> Vec<Vec<u8>> {
    let all: &[&[u8]] = match kind {
        Kind::Flag => &[&[0], &[1]],
        Kind::U16 => &[&[0, 0], &[0xFF, 0xFF]],
        Kind::NonZeroU16 | Kind::Alias => &[&[0, 1], &[0xFF, 0xFF]],
        Kind::U32 => &[&[0, 0, 0, 0], &[0xFF; 4]],
        Kind::NonZeroU32 => &[&[0, 0, 0, 1], &[0xFF; 4]],
        Kind::Varint => &[&[1], &[0x80, 1], &[0x80, 0x80, 1], &[0xFF, 0xFF, 0xFF, 0x7F]],
        Kind::Text => &[b"\0\0", b"\0\x01x", b"\0\x03\xEF\xBB\xBF"],
        Kind::Topic => &[b"\0\x01x", b"\0\x03a//"],
        Kind::Binary => &[b"\0\0", b"\0\x03\0\xFF\xC0"],
        Kind::Pair => &[b"\0\0\0\0", b"\0\x01k\0\x01v"],
    };
    all.iter().map(|value| value.to_vec()).collect()
}

/// Illegal ones, and what is said of them.
fn bad(kind: Kind) -> Vec<(Vec<u8>, ReasonCode)> {
    use ReasonCode::{MalformedPacket, ProtocolError, TopicAliasInvalid};
    let all: &[(&[u8], ReasonCode)] = match kind {
        Kind::Flag => &[(&[2], ProtocolError), (&[0xFF], ProtocolError)],
        Kind::U16 | Kind::U32 => &[],
        Kind::NonZeroU16 => &[(&[0, 0], ProtocolError)],
        Kind::Alias => &[(&[0, 0], TopicAliasInvalid)],
        Kind::NonZeroU32 => &[(&[0, 0, 0, 0], ProtocolError)],
        Kind::Varint => &[
            (&[0], ProtocolError),
            (&[0x81, 0], MalformedPacket),
            (&[0x80, 0x80, 0x80, 0x80, 1], MalformedPacket),
        ],
        Kind::Text => &[(b"\0\x01\0", MalformedPacket), (b"\0\x02\xC0\x80", MalformedPacket)],
        Kind::Topic => &[
            (b"\0\x01\xFF", MalformedPacket),
            (b"\0\x01#", ProtocolError),
            (b"\0\x03a/+", ProtocolError),
            (b"\0\0", ProtocolError),
        ],
        Kind::Binary => &[],
        Kind::Pair => {
            &[(b"\0\x01k\0\x01\0", MalformedPacket), (b"\0\x01\xFF\0\x01v", MalformedPacket)]
        }
    };
    all.iter().map(|(value, reason)| (value.to_vec(), *reason)).collect()
}

/// A property of the table, with what must stand beside it: data needs a method.
fn property(id: u8, value: &[u8]) -> Vec<u8> {
    let method: &[u8] = if id == 22 { b"\x15\0\x01m" } else { b"" };
    [method, &[id], value].concat()
}

fn assert_taken(bytes: &[u8], what: &str) {
    let packet = decode(bytes, V5).unwrap_or_else(|e| panic!("{what} {bytes:02x?}: {e}")).unwrap();
    let again = encode(&packet, V5);
    assert_eq!(decode(&again, V5), Ok(Some(packet)), "{what} {bytes:02x?}");
    assert!(again == bytes || bytes[0] == AUTH, "{what} {bytes:02x?} became {again:02x?}");
}

fn reason(result: Result<Option<Packet<'_>>, DecodeError>) -> Option<ReasonCode> {
    result.err().map(|error| error.reason())
}

/// Section 2.2.2.2: elsewhere a property makes its packet malformed.
#[test]
fn every_property_is_taken_exactly_where_the_table_has_it() {
    for place in PLACES {
        for id in 0..=255 {
            let row = TABLE.iter().find(|(known, ..)| *known == id);
            let Some((_, kind, places)) = row else {
                for value in [&b""[..], &[0], &[0; 4], b"\0\x01x", b"\0\0\0\0"] {
                    let bytes = with(place, &[&varint(id.into()), value].concat());
                    let refused = Some(ReasonCode::MalformedPacket);
                    assert_eq!(reason(decode(&bytes, V5)), refused, "{id} in {place:#x}");
                }
                continue;
            };
            for value in good(*kind) {
                if places.contains(&place) {
                    assert_taken(&with(place, &property(id, &value)), "a property at home");
                } else {
                    let bytes = with(place, &[&[id], &value[..]].concat());
                    let refused = Some(ReasonCode::MalformedPacket);
                    assert_eq!(reason(decode(&bytes, V5)), refused, "{id} in {place:#x}");
                }
            }
        }
    }
}

#[test]
fn every_property_twice_is_a_protocol_error_unless_it_may_be_repeated() {
    for (id, kind, places) in TABLE {
        for &place in places {
            for second in good(kind) {
                let first = &good(kind)[0];
                let twice = [property(id, first), [&[id], &second[..]].concat()].concat();
                let bytes = with(place, &twice);
                // Section 3.3.2.3.8: a Server repeats Subscription Identifiers.
                if id == 38 || (id, place) == (11, PUBLISH) {
                    assert_taken(&bytes, "a repetition");
                } else {
                    let refused = Some(ReasonCode::ProtocolError);
                    assert_eq!(reason(decode(&bytes, V5)), refused, "{id} in {place:#x}");
                }
            }
        }
    }
}

#[test]
fn every_value_out_of_range_is_refused_with_the_right_reason() {
    for (id, kind, places) in TABLE {
        for &place in places {
            for (value, expected) in bad(kind) {
                let bytes = with(place, &property(id, &value));
                assert_eq!(reason(decode(&bytes, V5)), Some(expected), "{id} of {value:02x?}");
            }
            // Cut short within the block, and followed by the rest of the packet.
            for value in good(kind) {
                for len in 0..value.len() {
                    let bytes = with(place, &property(id, &value[..len]));
                    let refused = reason(decode(&bytes, V5));
                    let expected = Some(ReasonCode::MalformedPacket);
                    assert_eq!(refused, expected, "{id} {value:02x?} {len}");
                }
            }
        }
    }
}

/// Section 2.2.2.2: their order means nothing.
#[test]
fn any_two_properties_may_stand_in_either_order() {
    for (a, kind_a, places) in TABLE {
        for (b, kind_b, _) in
            TABLE.iter().filter(|(_, _, other)| other.iter().any(|place| places.contains(place)))
        {
            for &place in places
                .iter()
                .filter(|place| TABLE.iter().any(|(id, _, there)| id == b && there.contains(place)))
            {
                if a == *b || (a.min(*b), a.max(*b)) == (21, 22) {
                    continue;
                }
                let (first, second) = (&good(kind_a)[0], &good(*kind_b)[0]);
                let both = [property(a, first), property(*b, second)].concat();
                assert_taken(&with(place, &both), "two properties");
            }
        }
    }
}

/// Section 3.1.2.11.10
#[test]
fn authentication_data_without_a_method_is_a_protocol_error() {
    for place in [CONNECT, CONNACK, AUTH] {
        let alone = with(place, b"\x16\0\x01d");
        assert_eq!(reason(decode(&alone, V5)), Some(ReasonCode::ProtocolError));
        assert_taken(&with(place, b"\x16\0\x01d\x15\0\x01m"), "data before its method");
    }
}

#[test]
fn every_wrong_property_length_is_refused_or_bounds_what_is_read() {
    for (id, kind, places) in TABLE {
        for &place in places {
            let properties = property(id, &good(kind)[0]);
            let len = properties.len();
            for length in [
                vec![len as u8 | 0x80, 0],
                vec![len as u8 | 0x80, 0x80, 0x80, 0x80, 0],
                vec![0xFF; 5],
            ] {
                let bytes = with_block(place, &[length, properties.clone()].concat());
                let refused = Some(ReasonCode::MalformedPacket);
                assert_eq!(reason(decode(&bytes, V5)), refused, "{id} in {place:#x}");
            }
            for claimed in (0..len + 40).filter(|&claimed| claimed != len) {
                let bytes = with_block(place, &[varint(claimed), properties.clone()].concat());
                // A shorter block can be legal, with what follows as another field.
                match decode(&bytes, V5) {
                    Ok(Some(packet)) => {
                        let again = encode(&packet, V5);
                        assert_eq!(decode(&again, V5), Ok(Some(packet)), "{bytes:02x?}");
                    }
                    Ok(None) => panic!("{bytes:02x?} is whole"),
                    Err(_) => {}
                }
                if claimed > len + 30 {
                    assert!(decode(&bytes, V5).is_err(), "{bytes:02x?}");
                }
            }
        }
    }
}

/// A property's identifier is a Variable Byte Integer, in as few bytes as possible.
#[test]
fn an_identifier_of_more_bytes_than_needed_is_malformed() {
    for (id, kind, places) in TABLE {
        for &place in places {
            for long in [&[id | 0x80, 0][..], &[id | 0x80, 0x80, 0], &[id | 0x80, 0x80, 0x80, 0x80]]
            {
                let bytes = with(place, &[long, &good(kind)[0]].concat());
                let refused = Some(ReasonCode::MalformedPacket);
                assert_eq!(reason(decode(&bytes, V5)), refused, "{id} in {place:#x}");
            }
        }
    }
}
