//! One Client's side of the protocol, driven with packets and time.

use super::connect::{Identifier, Limits, judge};
use super::output::Polled;
use super::*;
use crate::codec::frame::{Split, split};
use crate::codec::{Properties, QoS};
use crate::message::{Message, Parts};

const NOW: Moment = Moment::from_unix_ms(1_000_000);

/// The terms of a CONNECT given as bytes.
fn terms(connect: &[u8]) -> Terms {
    let Ok(Split::Frame(frame)) = split(connect, 1000) else { panic!("no packet") };
    let Ok(Packet::Connect(connect)) = Packet::decode(&frame, Version::V5) else { panic!() };
    let (identifier, terms) = judge(&connect, &Limits::default()).unwrap();
    assert_eq!(identifier, Identifier::Given("x"));
    terms
}

const DURABLE: &[u8] =
    &[0x10, 19, 0, 4, b'M', b'Q', b'T', b'T', 5, 0, 0, 0, 5, 17, 0, 0, 0, 9, 0, 1, b'x'];
const TWO_AT_ONCE: &[u8] =
    &[0x10, 17, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 3, 0x21, 0, 2, 0, 1, b'x'];

fn session(connect: &[u8]) -> Session {
    Session::new("x".into(), terms(connect), None)
}

fn delivery(qos: QoS, payload: &str) -> Delivery {
    let (payload, properties) = (payload.as_bytes(), Properties::EMPTY);
    let parts =
        Parts { topic: "t", qos, retain: false, expires_at: Moment::NEVER, properties, payload };
    Delivery::new(Message::new(1, &parts))
}

fn ack(packet_id: u16) -> Ack<'static> {
    let packet_id = PacketId::new(packet_id).unwrap();
    Ack { packet_id, reason: ReasonCode::Success, properties: Properties::EMPTY }
}

/// Everything that the Session has to say now.
fn answers(session: &mut Session) -> Vec<u8> {
    let mut out = Output::default();
    while matches!(session.poll_answer(NOW, true, &mut out).unwrap(), Polled::Written) {}
    std::mem::take(out.bytes())
}

fn publish(packet_id: u16, qos: QoS) -> Publish<'static> {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(crate::topic::TopicName::new("t").unwrap()),
        packet_id: PacketId::new(packet_id),
        properties: Properties::EMPTY,
        payload: b"",
    }
}

#[test]
fn acknowledgements_wait_for_their_ticket_and_keep_their_order() {
    let mut session = session(DURABLE);
    for (id, waits) in [(1, true), (2, false)] {
        let publish = publish(id, QoS::AtLeastOnce);
        assert!(session.handle(Packet::Publish(publish)).is_ok());
        session.published(&publish, ReasonCode::Success, waits);
    }
    assert!(session.needs_ticket());
    let ticket = session.close_ticket();
    assert_eq!(answers(&mut session), [0; 0], "the second has nothing to wait for but the first");
    session.committed(ticket);
    assert_eq!(answers(&mut session), [0x40, 2, 0, 1, 0x40, 2, 0, 2]);
}

#[test]
fn a_ping_is_answered_while_the_disk_is_slow() {
    let mut session = session(DURABLE);
    let publish = publish(1, QoS::AtLeastOnce);
    session.handle(Packet::Publish(publish)).unwrap();
    session.published(&publish, ReasonCode::Success, true);
    session.handle(Packet::PingReq).unwrap();
    assert_eq!(answers(&mut session), [0xD0, 0]);
}

#[test]
fn a_ticket_of_an_earlier_connection_does_not_pass_for_a_new_one() {
    let mut session = session(DURABLE);
    let publish = publish(1, QoS::AtLeastOnce);
    session.handle(Packet::Publish(publish)).unwrap();
    session.published(&publish, ReasonCode::Success, true);
    let old = session.close_ticket();
    session.connected(terms(DURABLE), None);
    session.handle(Packet::Publish(publish)).unwrap();
    session.published(&publish, ReasonCode::Success, true);
    session.close_ticket();
    session.committed(old);
    assert_eq!(answers(&mut session), [0; 0]);
}

#[test]
fn qos_2_to_a_durable_session_leaves_when_its_binding_is_durable() {
    let mut session = session(DURABLE);
    let mut out = Output::default();
    let delivered = session.deliver(delivery(QoS::ExactlyOnce, "a"), NOW, &mut out);
    assert!(matches!(delivered, Delivered::Held { packet_id } if packet_id.get() == 1));
    let delivered = session.deliver(delivery(QoS::AtLeastOnce, "b"), NOW, &mut out);
    assert!(matches!(delivered, Delivered::InFlight));
    assert_eq!(out.left(), 0, "QoS 1 does not overtake it");
    let ticket = session.close_ticket();
    session.committed(ticket);
    let sent = answers(&mut session);
    assert_eq!(sent.iter().filter(|&&byte| byte == b'a' || byte == b'b').count(), 2);
    assert_eq!(sent[0], 0x34);
}

#[test]
fn the_window_opens_with_the_end_of_an_exchange() {
    let mut session = session(TWO_AT_ONCE);
    let mut out = Output::default();
    assert_eq!(session.window_free(), 2);
    session.deliver(delivery(QoS::AtLeastOnce, "a"), NOW, &mut out);
    session.deliver(delivery(QoS::ExactlyOnce, "b"), NOW, &mut out);
    assert_eq!(session.window_free(), 0);
    assert!(matches!(session.handle(Packet::PubAck(ack(1))), Ok(Action::Finished { .. })));
    assert_eq!(session.window_free(), 1);
    assert!(matches!(session.handle(Packet::PubRec(ack(2))), Ok(Action::Relayed { .. })));
    assert_eq!(session.window_free(), 1, "PUBREC alone does not open it");
    assert!(matches!(session.handle(Packet::PubComp(ack(2))), Ok(Action::Completed { .. })));
    assert_eq!(session.window_free(), 2);
}

#[test]
fn what_is_sent_again_obeys_the_new_window_and_goes_first() {
    let mut session = session(DURABLE);
    let mut out = Output::default();
    for payload in ["a", "b", "c"] {
        session.deliver(delivery(QoS::AtLeastOnce, payload), NOW, &mut out);
    }
    session.connected(terms(TWO_AT_ONCE), None);
    assert_eq!(session.window_free(), 0);
    let again = answers(&mut session);
    assert_eq!(again.iter().filter(|&&byte| byte == 0x3A).count(), 2, "{again:02x?}");
    session.handle(Packet::PubAck(ack(1))).unwrap();
    let again = answers(&mut session);
    assert_eq!((again[0], again.last()), (0x3A, Some(&b'c')));
    session.handle(Packet::PubAck(ack(2))).unwrap();
    assert_eq!(session.window_free(), 1, "new messages only when the old ones are sent");
}

#[test]
fn an_identifier_is_not_used_twice_at_once() {
    let mut outgoing = Outgoing::default();
    outgoing.restore(vec![(PacketId::new(3), None), (PacketId::new(1), None)], 0);
    let mut ids: Vec<u16> = (0..50)
        .map(|_| {
            let delivery = delivery(QoS::AtLeastOnce, "x");
            let packet_id = outgoing.take_id(Manner::Own);
            outgoing.bind(packet_id, delivery, outgoing::Phase::Sent);
            packet_id.get()
        })
        .collect();
    ids.extend([1, 3]);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 52);
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let will = [4, 0, 0, 0, 255, 255, 255, 255];
    assert!(Will::decode(&will).is_none(), "a will without a message");
    let record = record::Record {
        client_id: "ünïque".into(),
        owner: Some("ali".into()),
        expiry_s: 7,
        disconnected_at: Some(NOW),
        seen_to: 1 << 40,
        will: None,
    };
    let read = record::Record::decode(&record.encode()).unwrap();
    assert_eq!((&*read.client_id, read.expiry_s, read.seen_to), ("ünïque", 7, 1 << 40));
    assert_eq!((read.disconnected_at, read.will.is_none()), (Some(NOW), true));
    assert_eq!(read.owner.as_deref(), Some("ali"));
    let bytes = record.encode();
    for len in 0..bytes.len() {
        assert!(record::Record::decode(&bytes[..len]).is_none());
    }
    // As it was before a Session had an owner.
    let mut former = record::Record { owner: None, ..record }.encode().to_vec();
    assert_eq!(record::Record::decode(&former).unwrap().owner, None);
    assert_eq!(former.pop(), Some(0));
    former[0] = 3;
    let read = record::Record::decode(&former).unwrap();
    assert_eq!((&*read.client_id, read.seen_to, read.owner), ("ünïque", 1 << 40, None));
}
