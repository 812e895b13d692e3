//! The stations of a message's way, for those who measure them: each with what it needs, in memory
//! and without sockets.

use std::collections::VecDeque;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use whimbrel::broker::connect::{Connected, Request};
use whimbrel::broker::publish::Publisher;
use whimbrel::broker::registry::Lease;
use whimbrel::broker::subscribe::Answered;
use whimbrel::broker::turn::Turn;
use whimbrel::broker::{self, Broker};
use whimbrel::clock::{Clock, Moment};
use whimbrel::codec::frame::{Split, split_of};
use whimbrel::codec::publish::Outgoing;
use whimbrel::codec::{Packet, Properties, Publish, QoS, Version};
use whimbrel::message::output::Output;
use whimbrel::message::{Message, Parts};
use whimbrel::queue::{Delivery, Limits, Queue};
use whimbrel::session::connect::{self, judge};
use whimbrel::session::output::Polled;
use whimbrel::session::{Action, Delivered};
use whimbrel::store::{Durability, Options};
use whimbrel::topic::TopicName;
use whimbrel::topic::filter_tree::FilterTree;

pub const TOPIC: &str = "plant/line7/sensor/temperature";
const NOW: Moment = Moment::from_unix_ms(1_000_000);

/// A PUBLISH packet.
pub fn publish_packet(version: Version, qos: QoS, payload: usize) -> Vec<u8> {
    let publish = Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(TopicName::new(TOPIC).unwrap()),
        packet_id: if qos == QoS::AtMostOnce { None } else { std::num::NonZeroU16::new(1) },
        properties: Properties::EMPTY,
        payload: &vec![b'x'; payload],
    };
    let mut out = Vec::new();
    Packet::Publish(publish).encode(version, &mut out).unwrap();
    out
}

/// Bytes to packet.
pub fn decode(bytes: &[u8], version: Version) -> usize {
    let Ok(Split::Frame(frame)) = split_of(version, black_box(bytes), 1 << 28) else { panic!() };
    match Packet::decode(&frame, version) {
        Ok(Packet::Publish(publish)) => publish.payload.len(),
        other => panic!("{other:?}"),
    }
}

/// Message to bytes.
pub fn encode(message: &Message, version: Version, out: &mut Vec<u8>) {
    out.clear();
    let outgoing = Outgoing {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: message.topic(),
        packet_id: None,
        topic_alias: None,
        message_expiry_s: None,
        subscription_ids: &[],
        properties: message.properties(),
        payload: message.payload(),
        delivery_count: 0,
    };
    outgoing.encode(version, out);
}

/// A message of so many bytes.
pub fn message(qos: QoS, payload: usize) -> Message {
    Message::new(
        0,
        &Parts {
            topic: TOPIC,
            qos,
            retain: false,
            expires_at: Moment::NEVER,
            properties: Properties::EMPTY,
            payload: &vec![b'x'; payload],
        },
    )
}

/// What a filter tree is filled with.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    Exact,
    Plus,
    /// A third each of exact, `+` and `#`.
    Mix,
}

/// A tree of so many filters, of which the one for `topic(0)` is one.
pub fn filters(shape: Shape, count: usize) -> FilterTree<u32> {
    let mut tree = FilterTree::new();
    for n in 0..count {
        let filter = match (shape, n % 3) {
            (Shape::Exact, _) | (Shape::Mix, 0) => topic(n),
            (Shape::Plus, _) | (Shape::Mix, 1) => format!("plant/{n}/+/temperature"),
            (Shape::Mix, _) => format!("plant/{n}/#"),
        };
        *tree.entry(&filter) += 1;
    }
    tree
}

/// The topic that the filter of this number matches.
pub fn topic(n: usize) -> String {
    format!("plant/{n}/sensor/temperature")
}

/// How many filters match.
pub fn matches(tree: &FilterTree<u32>, topic: &str) -> u32 {
    let mut found = 0;
    tree.for_each_match(black_box(topic), |n| found += n);
    found
}

/// A message into a queue and out of it.
pub fn queue(queue: &mut Queue, message: &Message) {
    let delivery = Delivery::new(message.clone());
    queue.push(delivery, &Limits::default(), NOW, &mut Vec::new());
    assert!(black_box(queue.take(true)).is_some());
}

/// Two Clients of a broker: what one publishes the other gets.
pub struct Pair {
    pub broker: Arc<Broker>,
    pub publisher: Lease,
    pub subscriber: Lease,
    routes: Publisher,
    turn: Turn,
    packet: Vec<u8>,
    deliveries: VecDeque<Delivery>,
    mail: Vec<broker::mailbox::Mail>,
    out: Output,
}

impl Pair {
    pub fn new(qos: QoS) -> Self {
        let store = Options { durability: Durability::Memory, ..Options::default() };
        let options = broker::Options::default();
        let (broker, _) = Broker::open(options, Clock::manual(NOW), &store).unwrap();
        let (publisher, mut subscriber) = (lease(&broker, "p"), lease(&broker, "s"));
        let mut turn = Turn::default();
        let body = [&[0, 1, 0, TOPIC.len() as u8][..], TOPIC.as_bytes(), &[qos as u8]].concat();
        let packet = [&[0x82, body.len() as u8][..], &body].concat();
        let Ok(Split::Frame(frame)) = split_of(Version::V311, &packet, 1000) else { panic!() };
        let Ok(Packet::Subscribe(subscribe)) = Packet::decode(&frame, Version::V311) else {
            panic!()
        };
        let (filters, answered) = (&mut subscribe.filters(), &mut Answered::default());
        broker.subscribe(subscriber.parts.as_mut().unwrap(), filters, None, answered, &mut turn);
        broker.finish(&mut turn, None);
        let mailbox = &publisher.parts.as_ref().unwrap().mailbox;
        let routes = Publisher::new(mailbox, Arc::default());
        let packet = publish_packet(Version::V311, qos, 64);
        let (deliveries, mail, out) = Default::default();
        Self { broker, publisher, subscriber, routes, turn, packet, deliveries, mail, out }
    }

    /// One message from the publisher's bytes to the subscriber's, with the publisher's answer.
    pub fn pass(&mut self) -> usize {
        let Self { broker, publisher, subscriber, routes, turn, packet, deliveries, mail, out } =
            self;
        let from = publisher.parts.as_mut().unwrap();
        let Ok(Split::Frame(frame)) = split_of(Version::V311, packet, 1000) else { panic!() };
        let known = routes.last_topic();
        let known = known.as_deref().map(|topic| TopicName::new(topic).unwrap());
        let publish = Publish::of_frame(&frame, Version::V311, known).unwrap();
        let Ok(Some(topic)) = from.session.handle_publish(&publish) else { panic!() };
        let published =
            broker.publish(routes, &publish, topic.as_str(), frame.body.into(), NOW, turn);
        from.session.published(&publish, published.reason, published.waits);
        broker.finish(turn, None);
        out.clear();
        while !matches!(from.session.poll_answer(NOW, true, out), Ok(Polled::Nothing)) {}
        let to = subscriber.parts.as_mut().unwrap();
        to.mailbox.take(to.session.window_free(), 1 << 20, mail, deliveries);
        let mut sent = 0;
        for delivery in deliveries.drain(..) {
            match to.session.deliver(delivery, NOW, out) {
                Delivered::Sent => {}
                Delivered::InFlight => acknowledge(&mut to.session),
                other => panic!("{other:?}"),
            }
            sent += 1;
        }
        assert_eq!(sent, 1);
        out.left()
    }
}

fn acknowledge(session: &mut whimbrel::session::Session) {
    let bytes = [0x40, 2, 0, 1];
    let Ok(Split::Frame(frame)) = split_of(Version::V311, &bytes, 1000) else { panic!() };
    let ack = Packet::decode(&frame, Version::V311).unwrap();
    assert!(matches!(session.handle(ack), Ok(Action::Finished { .. })));
}

fn lease(broker: &Arc<Broker>, client_id: &str) -> Lease {
    let bytes = [0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 1, client_id.as_bytes()[0]];
    let Ok(Split::Frame(frame)) = split_of(Version::V311, &bytes, 1000) else { panic!() };
    let Ok(Packet::Connect(connect)) = Packet::decode(&frame, Version::V5) else { panic!() };
    let (_, terms) = judge(&connect, &connect::Limits::default()).unwrap();
    let request = Request {
        client_id: client_id.into(),
        clean_start: true,
        terms,
        will: None,
        guard: Arc::default(),
        sessions_max: usize::MAX,
    };
    let mut turn = Turn::default();
    let connected = pin!(broker.connect(request, &mut turn));
    match connected.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(Connected { lease, .. })) => lease,
        _ => panic!("the Session is somewhere else"),
    }
}
