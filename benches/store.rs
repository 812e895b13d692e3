//! The store beside what the disk itself allows: the same bytes appended to a file, with one
//! fdatasync for each group. Run it on the disk that counts: `STORE_BENCH=DIRECTORY cargo bench
//! --bench store`; the default is the directory for temporary files.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use whimbrel::clock::Moment;
use whimbrel::codec::{Properties, QoS};
use whimbrel::message::{Message, Parts};
use whimbrel::store::{Change, Options, SessionId, Store, Target};

const PAYLOAD: usize = 256;

/// Messages of one group: what one fsync serves.
const GROUPS: [usize; 3] = [1, 100, 1000];

fn directory() -> tempfile::TempDir {
    match std::env::var_os("STORE_BENCH") {
        Some(directory) => tempfile::TempDir::new_in(PathBuf::from(directory)).unwrap(),
        None => tempfile::TempDir::new().unwrap(),
    }
}

fn message(id: u64) -> Message {
    let parts = Parts {
        topic: "bench/topic",
        qos: QoS::AtLeastOnce,
        retain: false,
        expires_at: Moment::NEVER,
        properties: Properties::EMPTY,
        payload: &[b'x'; PAYLOAD],
    };
    Message::new(id, &parts)
}

struct Durable {
    store: Store<u32>,
    answers: Receiver<()>,
    session: SessionId,
    _directory: tempfile::TempDir,
}

impl Durable {
    fn new() -> Self {
        let directory = directory();
        let (sender, answers) = channel();
        let answer = move |waiting: &mut Vec<u32>, _| {
            waiting.clear();
            let _ = sender.send(());
        };
        let options = Options {
            directory: directory.path().join("data"),
            commit_interval_us: 0,
            ..Options::default()
        };
        let (store, _) = Store::open(&options, Box::new(answer)).unwrap();
        let session = store.next_session_id();
        let durable = Self { store, answers, session, _directory: directory };
        durable.commit(vec![Change::SessionPut { session, record: Box::from([1]) }]);
        durable
    }

    fn commit(&self, mut changes: Vec<Change>) {
        self.store.submit(&mut changes, Some(1));
        self.answers.recv().unwrap();
    }

    /// A group of messages for a Session that is away, and the end of them.
    fn cycle(&self, group: usize) {
        let ids: Vec<u64> = (0..group).map(|_| self.store.next_message_id()).collect();
        let session = self.session;
        let stored = |&id: &u64| {
            let target =
                Target { session, flags: 1, online: false, expires_s: 0, subscription_ids: None };
            Change::Message { message: message(id), targets: std::iter::once(target).collect() }
        };
        self.commit(ids.iter().map(stored).collect());
        let finished = |message| Change::Finished { message, session };
        self.store.submit(&mut ids.into_iter().map(finished).collect(), None);
    }
}

fn store(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("durable messages");
    for size in GROUPS {
        group.throughput(Throughput::Elements(size as u64));
        let directory = directory();
        let mut log = File::create(directory.path().join("log")).unwrap();
        let bytes = vec![b'x'; size * (PAYLOAD + 40)];
        group.bench_function(BenchmarkId::new("append and fdatasync", size), |bencher| {
            bencher.iter(|| {
                log.write_all(&bytes).unwrap();
                log.sync_data().unwrap();
            });
        });
        let durable = Durable::new();
        group.bench_function(BenchmarkId::new("store", size), |bencher| {
            bencher.iter(|| durable.cycle(size));
        });
    }
    group.finish();
}

criterion_group!(benches, store);
criterion_main!(benches);
