//! What a message costs at each station of its way, and what of it grows with the number of
//! subscriptions. `cargo bench --bench hot`; instructions instead of time: `benches/instructions.sh`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod stations;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use stations::{Pair, Shape};
use whimbrel::codec::{QoS, Version};
use whimbrel::queue::Queue;

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    for (name, version) in [("3.1.1", Version::V311), ("5.0", Version::V5)] {
        for payload in [16, 1024] {
            let packet = stations::publish_packet(version, QoS::AtLeastOnce, payload);
            group.bench_function(format!("decode PUBLISH, {name}, {payload} B"), |bencher| {
                bencher.iter(|| stations::decode(&packet, version));
            });
            let message = stations::message(QoS::AtMostOnce, payload);
            let mut out = Vec::new();
            group.bench_function(format!("encode PUBLISH, {name}, {payload} B"), |bencher| {
                bencher.iter(|| stations::encode(&message, version, &mut out));
            });
        }
    }
    group.finish();
}

fn filters(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("filter tree");
    for shape in [Shape::Exact, Shape::Plus, Shape::Mix] {
        for count in [1, 1_000, 1_000_000] {
            let tree = stations::filters(shape, count);
            // Topics far apart, as they come: one alone would stay in the processor's cache.
            let topics: Vec<String> =
                (0..1024).map(|n| stations::topic(n * 7919 % count)).collect();
            let mut next = 0;
            group.bench_function(BenchmarkId::new(format!("{shape:?}"), count), |bencher| {
                bencher.iter(|| {
                    next = (next + 1) % topics.len();
                    stations::matches(&tree, &topics[next])
                });
            });
        }
    }
    group.finish();
}

fn queue(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("queue");
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let (mut queue, message) = (Queue::of_session(false), stations::message(qos, 64));
        group.bench_function(format!("push and take, {qos:?}"), |bencher| {
            bencher.iter(|| stations::queue(&mut queue, &message));
        });
    }
    group.finish();
}

/// Decode, rules, kept routes, queue, window, encode, acknowledgements.
fn way(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("whole way");
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let mut pair = Pair::new(qos);
        group.bench_function(format!("{qos:?}"), |bencher| {
            bencher.iter(|| black_box(pair.pass()));
        });
    }
    group.finish();
}

criterion_group!(benches, codec, filters, queue, way);
criterion_main!(benches);
