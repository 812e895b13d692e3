//! What is written is read; what is damaged is refused or read as something that can be written;
//! nothing panics.

use proptest::prelude::*;
use whimbrel::codec::frame::{Split, split};
use whimbrel::codec::{DecodeError, Packet, Version};

use crate::corpus::{illegal, legal};

/// The first packet of the bytes; `None` when they are only its beginning.
fn decode(bytes: &[u8], version: Version) -> Result<Option<Packet<'_>>, DecodeError> {
    match split(bytes, 1 << 20)? {
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

fn encode(packet: &Packet<'_>, version: Version) -> Vec<u8> {
    let mut out = b"before".to_vec();
    packet.encode(version, &mut out).unwrap();
    assert_eq!(out[..6], *b"before");
    out.split_off(6)
}

#[test]
fn every_legal_packet_is_read_and_written_the_same() {
    for (name, version, bytes) in legal() {
        let packet = decode(&bytes, version).unwrap_or_else(|e| panic!("{name}: {e}")).unwrap();
        assert_eq!(encode(&packet, version), bytes, "{name}");
    }
}

#[test]
fn every_illegal_packet_is_refused() {
    for (name, version, bytes) in illegal() {
        assert!(decode(&bytes, version).is_err(), "{name} {version}: {bytes:02x?}");
    }
}

#[test]
fn a_packet_that_is_cut_short_is_not_taken_for_a_whole_one() {
    for (name, version, bytes) in legal() {
        for len in 0..bytes.len() {
            assert!(matches!(decode(&bytes[..len], version), Ok(None)), "{name} at {len}");
        }
    }
}

/// The body cut short, with a length that says so.
#[test]
fn a_packet_never_reads_past_its_end() {
    for (_, version, bytes) in legal() {
        for len in 0..bytes.len() - 2 {
            let mut short = vec![bytes[0], len as u8];
            short.extend(&bytes[2..2 + len]);
            let alone = decode(&short, version).map(|packet| format!("{packet:?}"));
            short.extend([0xAA; 50]);
            let followed = decode(&short, version).map(|packet| format!("{packet:?}"));
            assert_eq!(alone, followed, "what follows a packet changes nothing");
        }
    }
}

#[test]
fn every_change_of_one_byte_is_refused_or_can_be_written_again() {
    for (name, version, bytes) in legal() {
        for at in 0..bytes.len() {
            for value in 0..=255 {
                let mut changed = bytes.clone();
                changed[at] = value;
                let Ok(Some(packet)) = decode(&changed, version) else { continue };
                let version = if let Packet::Connect(c) = &packet { c.version } else { version };
                let again = encode(&packet, version);
                assert_eq!(decode(&again, version), Ok(Some(packet)), "{name} {changed:02x?}");
            }
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_harm_nobody(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for version in [Version::V31, Version::V311, Version::V5] {
            let _ = decode(&bytes, version);
        }
    }

    #[test]
    fn random_bodies_harm_nobody(
        first in any::<u8>(),
        body in prop::collection::vec(any::<u8>(), 0..127),
    ) {
        let bytes = [&[first, body.len() as u8], &body[..]].concat();
        for version in [Version::V311, Version::V5] {
            if let Ok(Some(packet)) = decode(&bytes, version) {
                let version = if let Packet::Connect(c) = &packet { c.version } else { version };
                let again = encode(&packet, version);
                prop_assert_eq!(decode(&again, version), Ok(Some(packet)));
            }
        }
    }

    #[test]
    fn payloads_and_topics_pass_unchanged(
        topic in "[^\\x00+#]{1,80}",
        payload in prop::collection::vec(any::<u8>(), 0..40_000),
        id in 1..=u16::MAX,
    ) {
        let mut body = (topic.len() as u16).to_be_bytes().to_vec();
        body.extend(topic.as_bytes());
        body.extend(id.to_be_bytes());
        body.extend(&payload);
        let mut bytes = vec![0x32];
        whimbrel::codec::primitive::put_varint(body.len(), &mut bytes);
        bytes.extend(body);
        let Ok(Some(Packet::Publish(publish))) = decode(&bytes, Version::V311) else {
            panic!("{bytes:02x?}")
        };
        prop_assert_eq!(publish.topic.map(|topic| topic.as_str()), Some(&*topic));
        prop_assert_eq!(publish.packet_id.map(|id| id.get()), Some(id));
        prop_assert_eq!(publish.payload, payload);
    }
}
