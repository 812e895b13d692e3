//! Repeats one station of a message's way a given number of times, to be run below callgrind by
//! `benches/instructions.sh`, which counts the processor's instructions: they do not depend on
//! what else the machine does. Arguments: STATION COUNT.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod stations;

use std::hint::black_box;

use stations::{Pair, Shape};
use whimbrel::codec::{QoS, Version};
use whimbrel::queue::Queue;

fn repeat<T>(count: usize, mut station: impl FnMut() -> T) {
    (0..count).for_each(|_| drop(black_box(Some(station()))));
}

fn route(shape: Shape, filters: usize, count: usize) {
    let tree = stations::filters(shape, filters);
    let topic = stations::topic(filters / 2);
    repeat(count, || stations::matches(&tree, &topic));
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [station, count] = &arguments[..] else {
        println!("see benches/instructions.sh");
        return;
    };
    let count: usize = count.parse().unwrap();
    match &**station {
        "decode" => {
            let packet = stations::publish_packet(Version::V311, QoS::AtLeastOnce, 64);
            repeat(count, || stations::decode(&packet, Version::V311));
        }
        "encode" => {
            let (message, mut out) = (stations::message(QoS::AtMostOnce, 64), Vec::new());
            repeat(count, || stations::encode(&message, Version::V311, &mut out));
        }
        "queue" => {
            let mut queue = Queue::of_session(false);
            let message = stations::message(QoS::AtLeastOnce, 64);
            repeat(count, || stations::queue(&mut queue, &message));
        }
        "route-1" => route(Shape::Mix, 1, count),
        "route-exact" => route(Shape::Exact, 100_000, count),
        "route-plus" => route(Shape::Plus, 100_000, count),
        "route-mix" => route(Shape::Mix, 100_000, count),
        "way-qos0" | "way-qos1" => {
            let qos = if station == "way-qos0" { QoS::AtMostOnce } else { QoS::AtLeastOnce };
            let mut pair = Pair::new(qos);
            repeat(count, || pair.pass());
        }
        other => panic!("no station {other}"),
    }
}
