//! Packets of every type and version: what is decoded can be encoded and decodes to the same.

use whimbrel::clock::Moment;
use whimbrel::codec::frame::{Frame, Split, split};
use whimbrel::codec::primitive::varint_len;
use whimbrel::codec::{Packet, Publish, Version};
use whimbrel::message::Message;
use whimbrel::session::will::Will;
use whimbrel::topic::TopicFilter;

const PACKET_BYTES_MAX: usize = 1 << 20;

/// The first byte chooses the version, the others are a stream of packets.
pub fn run(bytes: &[u8]) {
    let Some((&choice, mut stream)) = bytes.split_first() else { return };
    let version = match choice % 3 {
        0 => Version::V31,
        1 => Version::V311,
        _ => Version::V5,
    };
    loop {
        match split(stream, PACKET_BYTES_MAX) {
            Ok(Split::Frame(frame)) => {
                assert!((2..=stream.len()).contains(&frame.len));
                // [MQTT-1.5.5-1]
                assert_eq!(frame.len, 1 + varint_len(frame.body.len()) + frame.body.len());
                packet(&frame, version);
                stream = &stream[frame.len..];
            }
            Ok(Split::NeedMore { at_least }) => {
                assert!(at_least > stream.len());
                return;
            }
            Err(_) => return,
        }
    }
}

fn packet(frame: &Frame<'_>, version: Version) {
    let Ok(packet) = Packet::decode(frame, version) else { return };
    // CONNECT brings its own version.
    let version = if let Packet::Connect(connect) = &packet { connect.version } else { version };
    let mut encoded = vec![];
    packet.encode(version, &mut encoded).expect("what was decoded can be encoded");
    let Ok(Split::Frame(again)) = split(&encoded, PACKET_BYTES_MAX + 8) else {
        panic!("{packet:?} was encoded as something else: {encoded:02x?}")
    };
    assert_eq!(again.len, encoded.len());
    assert_eq!(Packet::decode(&again, version), Ok(packet));
    match packet {
        Packet::Publish(publish) => message(frame.body, &publish),
        Packet::Subscribe(subscribe) => {
            let options = |(filter, options)| (TopicFilter::as_str(filter), options);
            let filters: Vec<_> = subscribe.filters().map(options).collect();
            let payload = whimbrel::codec::Subscribe::payload(filters.into_iter());
            assert!(frame.body.ends_with(&payload) && !payload.is_empty());
        }
        Packet::Unsubscribe(unsubscribe) => {
            let len: usize = unsubscribe.filters().map(|filter| 2 + filter.as_str().len()).sum();
            assert!(len > 2 && len < frame.body.len());
        }
        Packet::Connect(connect) => {
            if let Some(will) = &connect.will {
                let message =
                    Will::new(will, will.topic.as_str()).message(0, Moment::from_unix_ms(1));
                assert_eq!(message.topic_str(), will.topic.as_str());
                assert_eq!(message.payload(), will.payload);
            }
        }
        _ => {}
    }
}

/// A message is what its PUBLISH was, also after a stay in the store.
fn message(body: &[u8], publish: &Publish<'_>) {
    let topic = publish.topic.map_or("by/alias", |topic| topic.as_str());
    let message = Message::of_publish(7, body.into(), publish, topic, Moment::from_unix_ms(1));
    let mut stored = vec![];
    message.encode(&mut stored);
    let read = Message::decode(7, &stored).expect("what was encoded can be decoded");
    for message in [&message, &read] {
        assert_eq!(message.topic_str(), topic);
        assert_eq!(message.payload(), publish.payload);
        assert_eq!((message.qos(), message.retain()), (publish.qos, publish.retain));
    }
    assert_eq!(message.expires_at(), read.expires_at());
}
