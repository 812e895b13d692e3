//! A second and a third opinion: `mqttbytes` 0.6.0 and `rmqtt-codec` 0.3.1 read the same bytes.
//!
//! All agree on legal packets but for the exceptions named here. Of the illegal ones, the others
//! take some; which, is listed exactly, so that neither their faults nor ours go unnoticed.

use std::panic::catch_unwind;

use bytes::BytesMut;
use tokio_util::codec::Decoder;
use whimbrel::codec::Version;

use crate::corpus::{illegal, legal};

/// Whether mqttbytes takes the packet whole; a panic of its is a no.
fn mqttbytes_takes(version: Version, bytes: &[u8]) -> bool {
    let bytes = bytes.to_vec();
    let taken = catch_unwind(move || {
        let mut stream = BytesMut::from(&bytes[..]);
        match version {
            Version::V5 => mqttbytes::v5::read(&mut stream, 1 << 20).is_ok(),
            _ => mqttbytes::v4::read(&mut stream, 1 << 20).is_ok(),
        }
    });
    taken.unwrap_or(false)
}

fn rmqtt_takes(version: Version, bytes: &[u8]) -> bool {
    let bytes = bytes.to_vec();
    let taken = catch_unwind(move || {
        let mut stream = BytesMut::from(&bytes[..]);
        match version {
            Version::V5 => {
                let mut codec = rmqtt_codec::v5::Codec::new(1 << 20, 1 << 20);
                matches!(codec.decode(&mut stream), Ok(Some(_)))
            }
            _ => {
                let mut codec = rmqtt_codec::v3::Codec::new(1 << 20);
                matches!(codec.decode(&mut stream), Ok(Some(_)))
            }
        }
    });
    taken.unwrap_or(false)
}

type Takes = fn(Version, &[u8]) -> bool;

/// Names of those packets that a codec takes, or does not take.
fn those(
    packets: Vec<(&'static str, Version, Vec<u8>)>,
    takes: Takes,
    expected: bool,
) -> Vec<String> {
    packets
        .into_iter()
        .filter(|(_, version, bytes)| takes(*version, bytes) == expected)
        .map(|(name, version, _)| format!("{name} {version}"))
        .collect()
}

#[test]
fn legal_packets_that_the_others_refuse_are_these() {
    let refused = (those(legal(), mqttbytes_takes, false), those(legal(), rmqtt_takes, false));
    let expected =
        (MQTTBYTES_REFUSES.map(String::from).to_vec(), RMQTT_REFUSES.map(String::from).to_vec());
    assert_eq!(refused, expected);
}

#[test]
fn illegal_packets_that_the_others_take_are_these() {
    let taken = (those(illegal(), mqttbytes_takes, true), those(illegal(), rmqtt_takes, true));
    let expected =
        (MQTTBYTES_TAKES.map(String::from).to_vec(), RMQTT_TAKES.map(String::from).to_vec());
    assert_eq!(taken, expected);
}

/// mqttbytes reads what was meant: topic, identifier, payload of legal PUBLISH packets.
#[test]
fn mqttbytes_reads_the_same_publish() {
    for (name, _, bytes) in legal()
        .into_iter()
        .filter(|(_, version, bytes)| *version == Version::V311 && bytes[0] >> 4 == 3)
    {
        let frame = match whimbrel::codec::frame::split(&bytes, 1000) {
            Ok(whimbrel::codec::frame::Split::Frame(frame)) => frame,
            other => panic!("{other:?}"),
        };
        let ours = whimbrel::codec::Packet::decode(&frame, Version::V311).unwrap();
        let whimbrel::codec::Packet::Publish(ours) = ours else { panic!() };
        let mut stream = BytesMut::from(&bytes[..]);
        let mqttbytes::v4::Packet::Publish(theirs) =
            mqttbytes::v4::read(&mut stream, 1000).unwrap()
        else {
            panic!()
        };
        assert_eq!(ours.topic.map(|topic| topic.as_str()), Some(&*theirs.topic), "{name}");
        assert_eq!(ours.packet_id.map_or(0, |id| id.get()), theirs.pkid, "{name}");
        assert_eq!(ours.payload, &theirs.payload[..], "{name}");
        let flags = (ours.dup, ours.qos as u8, ours.retain);
        assert_eq!(flags, (theirs.dup, theirs.qos as u8, theirs.retain), "{name}");
    }
}

const MQTTBYTES_REFUSES: [&str; 3] = ["connect 3.1 3.1", "disconnect 5 5.0", "auth 5.0"];

const RMQTT_REFUSES: [&str; 0] = [];

const MQTTBYTES_TAKES: [&str; 47] = [
    "flags of PUBREL 3.1.1",
    "flags of SUBSCRIBE 3.1.1",
    "flags of UNSUBSCRIBE 3.1.1",
    "flags of PINGREQ 3.1.1",
    "DUP with QoS 0 3.1.1",
    "wildcard in a name 3.1.1",
    "null in a name 3.1.1",
    "empty name 3.1.1",
    "identifier 0 in PUBACK 3.1.1",
    "SUBSCRIBE without filter 3.1.1",
    "UNSUBSCRIBE without filter 3.1.1",
    "reserved options 3.1.1",
    "bad filter 3.1.1",
    "empty filter 3.1.1",
    "PINGREQ with body 3.1.1",
    "reserved flag 3.1.1",
    "CONNECT and more 3.1.1",
    "length of 2 for 1 3.1.1",
    "flags of PUBREL 5.0",
    "flags of SUBSCRIBE 5.0",
    "flags of UNSUBSCRIBE 5.0",
    "flags of PINGREQ 5.0",
    "DUP with QoS 0 5.0",
    "wildcard in a name 5.0",
    "null in a name 5.0",
    "empty name 5.0",
    "identifier 0 in PUBACK 5.0",
    "SUBSCRIBE without filter 5.0",
    "UNSUBSCRIBE without filter 5.0",
    "reserved options 5.0",
    "bad filter 5.0",
    "empty filter 5.0",
    "PINGREQ with body 5.0",
    "reserved flag 5.0",
    "CONNECT and more 5.0",
    "password alone 3.1.1",
    "PUBACK and more 3.1.1",
    "DISCONNECT with body 3.1.1",
    "property twice 5.0",
    "flag of 2 5.0",
    "alias 0 5.0",
    "Response Topic # 5.0",
    "identifier property 0 5.0",
    "No Local shared 5.0",
    "Receive Maximum 0 5.0",
    "Packet Size 0 5.0",
    "data without method 5.0",
];

const RMQTT_TAKES: [&str; 23] = [
    "DUP with QoS 0 3.1.1",
    "wildcard in a name 3.1.1",
    "null in a name 3.1.1",
    "reserved options 3.1.1",
    "bad filter 3.1.1",
    "PINGREQ with body 3.1.1",
    "CONNECT and more 3.1.1",
    "length of 2 for 1 3.1.1",
    "DUP with QoS 0 5.0",
    "wildcard in a name 5.0",
    "null in a name 5.0",
    "empty name 5.0",
    "bad filter 5.0",
    "empty filter 5.0",
    "PINGREQ with body 5.0",
    "Will QoS alone 5.0",
    "Will RETAIN alone 5.0",
    "CONNECT and more 5.0",
    "password alone 3.1.1",
    "DISCONNECT with body 3.1.1",
    "Response Topic # 5.0",
    "No Local shared 5.0",
    "data without method 5.0",
];
