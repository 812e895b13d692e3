//! The store by itself: what is answered is there after a reopen, a kill or a power cut, and what
//! is finished does not come back.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redb::{ReadableDatabase, ReadableTable, StorageBackend};
use whimbrel::clock::Moment;
use whimbrel::codec::{Properties, QoS};
use whimbrel::message::{Message, Parts};
use whimbrel::queue::Fetched;
use whimbrel::store::{
    Change, Fetch, Health, Options, Outcome, Recovered, SessionId, Store, Submitted, Target,
};

type Answers = Receiver<(Vec<u32>, Outcome)>;

/// A disk that forgets, sector by sector, what was not synced when the power is cut.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Platter>>);

#[derive(Debug, Default)]
struct Platter {
    synced: Vec<u8>,
    written: Vec<u8>,
    /// A disk that only says that it syncs: the planted fault.
    lies: bool,
    /// After so many more writes and syncs the disk takes nothing.
    fails_after: Option<usize>,
}

const SECTOR: usize = 512;

impl Disk {
    /// The disk after a power cut: each sector that was not synced is the old or the new one.
    fn cut(&self, mut random: impl FnMut() -> u64) -> Self {
        let platter = self.0.lock();
        let mut after = platter.synced.clone();
        after.resize(platter.written.len(), 0);
        for (old, new) in after.chunks_mut(SECTOR).zip(platter.written.chunks(SECTOR)) {
            if random() & 1 == 0 {
                old.copy_from_slice(new);
            }
        }
        let lies = platter.lies;
        let platter = Platter { synced: after.clone(), written: after, lies, fails_after: None };
        Self(Arc::new(Mutex::new(platter)))
    }
}

impl Platter {
    fn skip_then_fail(&mut self, skipped: usize) {
        self.fails_after = Some(skipped);
    }

    fn recover(&mut self) {
        self.fails_after = None;
    }

    fn fail(&mut self) -> Result<(), io::Error> {
        match &mut self.fails_after {
            None => Ok(()),
            Some(0) => Err(io::ErrorKind::StorageFull.into()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.0.lock().written.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let platter = self.0.lock();
        let start = offset as usize;
        let bytes = platter.written.get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.0.lock().written.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut platter = self.0.lock();
        platter.fail()?;
        if !platter.lies {
            platter.synced = platter.written.clone();
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let start = offset as usize;
        let mut platter = self.0.lock();
        platter.fail()?;
        platter.written[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

fn open(disk: &Disk) -> Option<(Store<u32>, Answers, Recovered)> {
    let (sender, answers) = channel();
    let answer = move |answers: &mut Vec<u32>, outcome| {
        let _ = sender.send((std::mem::take(answers), outcome));
    };
    let options = Options {
        commit_interval_us: 0,
        retry_us: 10_000,
        backlog_bytes_max: 1 << 20,
        ..Options::default()
    };
    let disk = disk.clone();
    let (store, recovered) =
        Store::open_on(move || disk.clone(), &options, Box::new(answer)).ok()?;
    Some((store, answers, recovered))
}

fn message(id: u64, payload: &str) -> Message {
    let parts = Parts {
        topic: "t",
        qos: QoS::AtLeastOnce,
        retain: false,
        expires_at: Moment::NEVER,
        properties: Properties::EMPTY,
        payload: payload.as_bytes(),
    };
    Message::new(id, &parts)
}

fn stored(message: Message, sessions: &[SessionId], online: bool) -> Change {
    let target =
        |&session| Target { session, flags: 1, online, expires_s: 0, subscription_ids: None };
    Change::Message { message, targets: sessions.iter().map(target).collect() }
}

fn session(store: &Store<u32>) -> (SessionId, Change) {
    let session = store.next_session_id();
    (session, Change::SessionPut { session, record: Box::from(&b"who"[..]) })
}

/// Submits, and waits until it is durable.
fn commit(store: &Store<u32>, answers: &Answers, mut changes: Vec<Change>) {
    assert_eq!(store.submit(&mut changes, Some(7)), Submitted::Pending);
    let answer = answers.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(answer, (vec![7], Outcome::Durable));
}

/// The topic `t` retains a message.
fn retained(payload: &str) -> Change {
    Change::Retained { topic: "t".into(), kept: Some((message(0, payload), 7)) }
}

/// What waits for each Session.
fn queues(recovered: &Recovered) -> BTreeMap<u32, Vec<u64>> {
    let ids = |session: &whimbrel::store::RecoveredSession| {
        session.queue.iter().map(|stored| stored.id).collect()
    };
    recovered.sessions.iter().map(|session| (session.id.0, ids(session))).collect()
}

#[test]
fn what_was_answered_is_there_after_a_reopen_and_identities_are_new() {
    let disk = Disk::default();
    let (store, answers, _) = open(&disk).unwrap();
    let ((a, put_a), (b, put_b)) = (session(&store), session(&store));
    let (one, two) = (store.next_message_id(), store.next_message_id());
    let changes = vec![
        put_a,
        put_b,
        Change::Subscribed { session: a, filter: "f/#".into(), options: Box::from([9]) },
        stored(message(one, "one"), &[a, b], false),
        stored(message(two, "two"), &[a], false),
        retained("kept"),
        Change::Received { session: a, packet_id: 5 },
        Change::Sent {
            session: a,
            packet_id: 6,
            message: two,
            queue: a,
            flags: 6,
            subscription_ids: None,
        },
    ];
    commit(&store, &answers, changes);
    commit(
        &store,
        &answers,
        vec![
            Change::Finished { message: one, session: a },
            Change::Received { session: a, packet_id: 8 },
            Change::Released { session: a, packet_id: 5 },
        ],
    );
    drop(store);
    let (store, _, recovered) = open(&disk).unwrap();
    assert_eq!(queues(&recovered), BTreeMap::from([(a.0, vec![]), (b.0, vec![one])]));
    let first = &recovered.sessions[0];
    assert_eq!((&*first.record, &first.received[..]), (&b"who"[..], &[8][..]));
    assert_eq!(first.subscriptions, [("f/#".into(), Box::from(&[9_u8][..]))]);
    let (id, bound) = &first.sent[0];
    assert_eq!((*id, bound.as_ref().unwrap().message.payload()), (Some(6), &b"two"[..]));
    assert_eq!((recovered.retained[0].0.payload(), recovered.retained[0].1), (&b"kept"[..], 7));
    assert!(store.next_message_id() > two);
    assert!(store.next_session_id() > b);
}

/// A segment of which one message lives must not bring back the others.
#[test]
fn a_finished_message_does_not_come_back_with_its_neighbours() {
    let disk = Disk::default();
    let (store, answers, _) = open(&disk).unwrap();
    let (a, put) = session(&store);
    let ids: Vec<u64> = (0..10).map(|_| store.next_message_id()).collect();
    let mut changes = vec![put];
    changes.extend(ids.iter().map(|&id| stored(message(id, "x"), &[a], false)));
    commit(&store, &answers, changes);
    for &id in &ids[1..] {
        let changes = vec![Change::Finished { message: id, session: a }, retained("barrier")];
        commit(&store, &answers, changes);
        let (_, _, recovered) = open(&disk.cut(|| 1)).unwrap();
        assert!(!queues(&recovered)[&a.0].contains(&id));
    }
    drop(store);
    let (_, _, recovered) = open(&disk).unwrap();
    assert_eq!(queues(&recovered)[&a.0], [ids[0]]);
}

#[test]
fn a_message_that_is_finished_at_once_is_answered_and_never_written() {
    let disk = Disk::default();
    let (store, answers, _) = open(&disk).unwrap();
    let (a, put) = session(&store);
    commit(&store, &answers, vec![put]);
    let id = store.next_message_id();
    store.submit(&mut vec![stored(message(id, "UNWRITTEN"), &[a], true)], Some(1));
    store.submit(&mut vec![Change::Finished { message: id, session: a }], None);
    let answer = answers.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(answer, (vec![1], Outcome::Durable));
    store.close();
    let platter = disk.0.lock();
    assert!(!platter.written.windows(9).any(|bytes| bytes == b"UNWRITTEN"));
}

#[test]
fn an_ended_session_leaves_nothing() {
    let disk = Disk::default();
    let (store, answers, _) = open(&disk).unwrap();
    let (a, put) = session(&store);
    let id = store.next_message_id();
    let subscribed = Change::Subscribed { session: a, filter: "f".into(), options: Box::from([0]) };
    commit(&store, &answers, vec![put, subscribed, stored(message(id, "x"), &[a], false)]);
    let finished = Change::Finished { message: id, session: a };
    commit(&store, &answers, vec![finished, Change::SessionEnded { session: a }]);
    drop(store);
    let (_, _, recovered) = open(&disk).unwrap();
    assert!(recovered.sessions.is_empty());
}

/// Rows of messages in the file, and their bytes.
fn rows(disk: &Disk) -> (usize, usize) {
    let database = redb::Database::builder().create_with_backend(disk.clone()).unwrap();
    let read = database.begin_read().unwrap();
    let table = read.open_table(whimbrel::store::tables::SEG).unwrap();
    let sizes = table.iter().unwrap().map(|row| row.unwrap().1.value().len());
    sizes.fold((0, 0), |(rows, bytes), len| (rows + 1, bytes + len))
}

/// A slow receiver's messages lie scattered among finished ones: they are moved together.
#[test]
fn rows_that_are_mostly_finished_are_repacked() {
    let disk = Disk::default();
    let (store, answers, _) = open(&disk).unwrap();
    let ((slow, put_slow), (quick, put_quick)) = (session(&store), session(&store));
    commit(&store, &answers, vec![put_slow, put_quick]);
    let payload = "x".repeat(10_000);
    let (mut kept, mut done) = (vec![], vec![]);
    for _ in 0..60 {
        let ids: Vec<u64> = (0..60).map(|_| store.next_message_id()).collect();
        let receiver = |n: usize| if n.is_multiple_of(6) { slow } else { quick };
        let changes = ids.iter().enumerate();
        let changes = changes.map(|(n, &id)| stored(message(id, &payload), &[receiver(n)], false));
        commit(&store, &answers, changes.collect());
        for (n, id) in ids.into_iter().enumerate() {
            if n.is_multiple_of(6) { kept.push(id) } else { done.push(id) }
        }
    }
    for ids in done.chunks(100) {
        let finished = |&message| Change::Finished { message, session: quick };
        let mut changes: Vec<_> = ids.iter().map(finished).collect();
        changes.push(retained("barrier"));
        commit(&store, &answers, changes);
    }
    drop(store);
    let (rows, bytes) = rows(&disk);
    let live = kept.len() * payload.len();
    assert!(bytes < 32 << 20, "{rows} rows of {bytes} bytes for {live} that live");
    let (_, _, recovered) = open(&disk).unwrap();
    assert_eq!(queues(&recovered)[&slow.0], kept);
    assert!(queues(&recovered)[&quick.0].is_empty());
}

/// One history: messages to a few Sessions, finished in random order, then a power cut. Returns
/// how many promises were broken.
fn history(seed: u64, lies: bool) -> usize {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 8
    };
    let disk = Disk::default();
    let (store, answers, _) = open(&disk).unwrap();
    let (sessions, puts): (Vec<_>, Vec<_>) = (0..3).map(|_| session(&store)).unzip();
    commit(&store, &answers, puts);
    disk.0.lock().lies = lies;
    let mut wanted: BTreeSet<(u32, u64)> = BTreeSet::new();
    for _ in 0..random() % 12 + 3 {
        let mut changes = vec![];
        for _ in 0..random() % 4 + 1 {
            let id = store.next_message_id();
            let count = random() as usize % 3 + 1;
            let payload = "x".repeat(random() as usize % 300);
            changes.push(stored(message(id, &payload), &sessions[..count], false));
            wanted.extend(sessions[..count].iter().map(|session| (session.0, id)));
        }
        let finished: Vec<_> = wanted.iter().copied().filter(|_| random() % 3 == 0).collect();
        for (session, message) in finished {
            changes.push(Change::Finished { message, session: SessionId(session) });
            wanted.remove(&(session, message));
        }
        commit(&store, &answers, changes);
    }
    // Under way when the power is cut, and not answered: may be there or not.
    let late = store.next_message_id();
    store.submit(&mut vec![stored(message(late, "late"), &sessions[..1], false)], Some(7));
    let Some((_, _, recovered)) = open(&disk.cut(random)) else { return 1 };
    let found: BTreeSet<(u32, u64)> = queues(&recovered)
        .into_iter()
        .flat_map(|(session, ids)| ids.into_iter().map(move |id| (session, id)))
        .filter(|(_, id)| *id != late)
        .collect();
    found.symmetric_difference(&wanted).count()
}

#[test]
fn a_power_cut_loses_nothing_that_was_answered_and_brings_nothing_back() {
    for seed in 0..150 {
        assert_eq!(history(seed, false), 0, "seed {seed}");
    }
}

/// The check above is worth something: it sees a disk that does not sync.
#[test]
fn a_disk_that_lies_is_found_out() {
    let broken = (0..20).filter(|&seed| history(seed, true) > 0).count();
    assert!(broken > 10, "only {broken} of 20");
}

#[test]
fn a_topic_that_retains_nothing_any_more_is_forgotten() {
    let disk = Disk::default();
    let (store, answers, _) = open(&disk).unwrap();
    let nothing = Change::Retained { topic: "t".into(), kept: None };
    commit(&store, &answers, vec![retained("x")]);
    commit(&store, &answers, vec![nothing]);
    drop(store);
    assert!(open(&disk).unwrap().2.retained.is_empty());
}

/// Asks for messages and waits for the page.
fn fetch(store: &Store<u32>, queue: SessionId, ids: &[u64]) -> Vec<Fetched> {
    let (sender, page) = channel();
    let answer = Box::new(move |page| sender.send(page).unwrap());
    store.fetch(Fetch { queue, ids: ids.to_vec(), answer });
    page.recv_timeout(Duration::from_secs(10)).unwrap()
}

fn payload(fetched: &Fetched) -> Option<&[u8]> {
    fetched.found.as_ref().map(|(message, _)| message.payload())
}

#[test]
fn messages_are_read_back_whether_they_are_written_or_not() {
    let disk = Disk::default();
    let (store, answers, _) = open(&disk).unwrap();
    let ((a, put_a), (b, put_b)) = (session(&store), session(&store));
    let ids: Vec<u64> = (0..4).map(|_| store.next_message_id()).collect();
    let written = vec![
        put_a,
        put_b,
        stored(message(ids[0], "zero"), &[a, b], false),
        stored(message(ids[1], "one"), &[a], false),
    ];
    commit(&store, &answers, written);
    // Held back, because its receiver may finish with it: in memory when the page is asked for.
    store.submit(&mut vec![stored(message(ids[2], "two"), &[a], true)], None);
    let page = fetch(&store, a, &[ids[2], ids[0], ids[1], ids[3]]);
    assert_eq!(
        page.iter().map(|fetched| fetched.id).collect::<Vec<_>>(),
        [ids[2], ids[0], ids[1], ids[3]]
    );
    let payloads: Vec<_> = page.iter().map(payload).collect();
    assert_eq!(payloads, [Some(&b"two"[..]), Some(b"zero"), Some(b"one"), None]);
    assert_eq!(payload(&fetch(&store, b, &[ids[1]])[0]), None, "it is not for b");
    commit(&store, &answers, vec![Change::Finished { message: ids[0], session: a }, retained("x")]);
    assert_eq!(payload(&fetch(&store, b, &[ids[0]])[0]), Some(&b"zero"[..]));
}

/// Every way in which one commit may fail: at its first write, at its second, ..., at its sync.
#[test]
fn what_could_not_be_written_is_written_when_it_can_be() {
    for failures_from in 0..12 {
        let disk = Disk::default();
        let (store, answers, _) = open(&disk).unwrap();
        let (a, put) = session(&store);
        let ids: Vec<u64> = (0..4).map(|_| store.next_message_id()).collect();
        let first = vec![
            put,
            stored(message(ids[0], "0"), &[a], false),
            stored(message(ids[1], "1"), &[a], false),
            Change::Received { session: a, packet_id: 1 },
            Change::Sent {
                session: a,
                packet_id: 2,
                message: ids[1],
                queue: a,
                flags: 2,
                subscription_ids: None,
            },
        ];
        commit(&store, &answers, first);
        disk.0.lock().skip_then_fail(failures_from);
        store.submit(
            &mut vec![
                stored(message(ids[2], "2"), &[a], false),
                stored(message(ids[3], "3"), &[a], false),
                Change::Finished { message: ids[0], session: a },
                Change::Received { session: a, packet_id: 3 },
                Change::Released { session: a, packet_id: 1 },
                Change::Relayed { session: a, packet_id: 2 },
                retained("kept"),
            ],
            Some(5),
        );
        while store.health() == Health::Good && answers.try_recv().is_err() {
            std::thread::yield_now();
        }
        // Comes while the disk fails, and finishes what may or may not be in the file.
        let wait = store.health() != Health::Good;
        store.submit(
            &mut vec![Change::Finished { message: ids[2], session: a }, retained("newer")],
            Some(6),
        );
        disk.0.lock().recover();
        let mut answered = vec![];
        while !answered.contains(&6) {
            let (some, outcome) = answers.recv_timeout(Duration::from_secs(10)).unwrap();
            assert_eq!(outcome, Outcome::Durable);
            answered.extend(some);
        }
        assert!(!wait || answered == [5, 6], "{failures_from}: {answered:?}");
        assert_eq!(store.health(), Health::Good);
        assert_eq!(payload(&fetch(&store, a, &[ids[3]])[0]), Some(&b"3"[..]));
        store.close();
        let (_, _, recovered) = open(&disk.cut(|| 1)).unwrap();
        assert_eq!(queues(&recovered)[&a.0], [ids[3]], "{failures_from}");
        assert_eq!(recovered.sessions[0].received, [3]);
        assert!(matches!(recovered.sessions[0].sent[..], [(Some(2), None)]));
        assert_eq!(recovered.retained[0].0.payload(), b"newer");
    }
}

/// Who publishes is to wait while more lies before the disk than the limit says.
#[test]
fn a_store_that_is_behind_says_so_until_it_has_caught_up() {
    let disk = Disk::default();
    let (store, answers, _) = open(&disk).unwrap();
    let (a, put) = session(&store);
    commit(&store, &answers, vec![put]);
    let payload = "x".repeat(10_000);
    let mut count = 0;
    {
        // The disk takes its time.
        let _stalled = disk.0.lock();
        while !store.is_crowded() {
            let id = store.next_message_id();
            store.submit(&mut vec![stored(message(id, &payload), &[a], false)], Some(count));
            count += 1;
            assert!(count < 1_000, "10 MB wait and nobody says so");
        }
    }
    let mut answered = 0;
    while answered < count as usize {
        answered += answers.recv_timeout(Duration::from_secs(10)).unwrap().0.len();
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while store.is_crowded() {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
}

#[test]
fn a_store_that_is_closed_while_its_disk_fails_acknowledges_nothing() {
    let disk = Disk::default();
    let (store, answers, _) = open(&disk).unwrap();
    disk.0.lock().skip_then_fail(0);
    store.submit(&mut vec![session(&store).1], Some(5));
    store.close();
    assert_eq!(answers.recv().unwrap(), (vec![5], Outcome::Failed));
}

/// A store with something of everything, closed or left open.
fn furnished(closes: bool) -> Vec<u8> {
    let disk = Disk::default();
    let (store, answers, _) = open(&disk).unwrap();
    let ((first, put_first), (second, put_second)) = (session(&store), session(&store));
    commit(&store, &answers, vec![put_first, put_second, retained("kept")]);
    for n in 0..60 {
        let id = store.next_message_id();
        let message = message(id, &"x".repeat(n * 7));
        commit(&store, &answers, vec![stored(message, &[first, second], false)]);
        if n % 3 == 0 {
            let finished = Change::Finished { message: id, session: first };
            commit(&store, &answers, vec![finished, retained("kept")]);
        }
    }
    if closes {
        store.close();
        drop(store);
    }
    disk.0.lock().written.clone()
}

/// Whatever is wrong with a file: it is opened, or it is refused and as it was found.
#[test]
fn a_damaged_file_is_refused_and_not_written_to() {
    let mut seed = 7_u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    let mut refused = 0;
    for closes in [true, false] {
        let sound = furnished(closes);
        let pages: Vec<usize> =
            (0..sound.len()).step_by(4096).filter(|&at| sound[at..][..4096] != [0; 4096]).collect();
        for _ in 0..200 {
            let mut written = sound.clone();
            for _ in 0..=random(3) {
                let at = pages[random(pages.len())] + random(4096);
                written[at] ^= 1 << random(8);
            }
            if random(8) == 0 {
                written.truncate(random(sound.len()));
            }
            let damaged = written.clone();
            let platter = Platter { synced: written.clone(), written, ..Platter::default() };
            let disk = Disk(Arc::new(Mutex::new(platter)));
            if open(&disk).is_none() {
                refused += 1;
                assert!(disk.0.lock().written == damaged, "it was written to");
            }
        }
    }
    assert!(refused > 50, "only {refused} were refused");
}
