use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::Mutex;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::net::UnixStream;

use super::*;
use crate::access::Anonymous;
use crate::broker::mailbox::Mailbox;
use crate::broker::{self, Broker, Waiter};
use crate::clock::Clock;
use crate::net::transport::Peer;
use crate::session::Session;
use crate::store::{self, Durability, Outcome, Store};

/// What there is of each connection. An allocator has classes of sizes: a few bytes more than
/// these figures can cost 128. Ours gives a block of the next class to what is as large as its own,
/// less seven bytes, unless that is a power of two. The tests' runtime can have several threads,
/// which makes a connection 16 bytes larger than the broker's.
#[test]
fn an_idle_connection_is_small() {
    assert!(size_of::<Connection>() <= 448 - 8 + 16, "{}", size_of::<Connection>());
    assert!(size_of::<Session>() <= 240, "{}", size_of::<Session>());
    // Counters in front of it.
    assert!(size_of::<Mailbox>() <= 128 - 16, "{}", size_of::<Mailbox>());
    // With what the runtime adds to a task, 128.
    assert!(size_of::<Served<Arc<()>>>() <= 24, "{}", size_of::<Served<Arc<()>>>());
}

/// Thousands may wait for their CONNECT at once, and an allocator keeps what they have held.
#[tokio::test]
async fn who_has_not_said_connect_takes_little() {
    let broker = in_memory();
    let options = options();
    let far = Transport::Other(Box::new(duplex(1).1));
    let opening = open::open(far, Peer::direct(None), (None, None), &broker, &options);
    assert!(size_of_val(&opening) <= 1300, "{}", size_of_val(&opening));
}

/// A broker that stores nothing and whose clock stands.
fn in_memory() -> Arc<Broker> {
    at(Clock::manual(Moment::from_unix_ms(1)))
}

/// A broker that stores nothing, with a clock.
fn at(clock: Clock) -> Arc<Broker> {
    let store = store::Options { durability: Durability::Memory, ..store::Options::default() };
    let (broker, _) = Broker::open(broker::Options::default(), clock, &store).unwrap();
    broker
}

/// A Client of MQTT 3.1.1 whose connection has room for everything.
async fn client(broker: &Arc<Broker>, name: u8) -> DuplexStream {
    let (near, far) = duplex(16 << 20);
    connected(broker, name, near, Transport::Other(Box::new(far))).await
}

/// A Client of MQTT 3.1.1 at the near end of a connection.
async fn connected<S>(broker: &Arc<Broker>, name: u8, mut near: S, far: Transport) -> S
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    serve_at(broker, far);
    near.write_all(&[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 1, name])
        .await
        .unwrap();
    let mut connack = [0; 4];
    near.read_exact(&mut connack).await.unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    near
}

/// Serves the far end of a connection.
fn serve_at(broker: &Arc<Broker>, far: Transport) {
    tokio::spawn(serve_stream(far, Peer::direct(None), broker.clone(), options()));
}

fn options() -> Arc<Options> {
    Arc::new(Options {
        connect_timeout: Duration::from_secs(10),
        access: Arc::new(Access::unproven(Anonymous::Allowed)),
        doorman: Arc::default(),
        in_memory: true,
        admission: Admission::default(),
    })
}

/// A Client whose connection the runtime has to ask the system about.
async fn client_at_socket(broker: &Arc<Broker>, name: u8) -> UnixStream {
    let (near, far) = UnixStream::pair().unwrap();
    connected(broker, name, near, Transport::Other(Box::new(far))).await
}

async fn ping(client: &mut DuplexStream) {
    client.write_all(&[0xC0, 0]).await.unwrap();
    client.read_exact(&mut [0; 2]).await.unwrap();
}

/// On one thread, where everything has its turn in order: nothing depends on time.
#[tokio::test]
async fn who_never_stops_publishing_has_others_wait_for_a_few_packets_only() {
    let broker = in_memory();
    let (mut flood, mut other) = (client(&broker, b'f').await, client(&broker, b'o').await);
    let publish = [0x30, 4, 0, 1, b't', b'x'];
    // What kind of packets it sends is known from what came before.
    flood.write_all(&publish).await.unwrap();
    ping(&mut flood).await;
    flood.write_all(&publish.repeat(100_000)).await.unwrap();
    let (mut before, mut most) = (0, 0);
    for _ in 0..20 {
        ping(&mut other).await;
        let received = broker.metrics.traffic.total().messages_received;
        most = most.max(received - before);
        before = received;
    }
    assert!(before > 1000, "the flood goes on meanwhile: {before}");
    let of_a_read = GULP_LEAST as u64 / publish.len() as u64;
    assert!(most <= 2 * (of_a_read + PACKETS_MAX), "{most} while another waits for one");
}

/// Who has spoken between two turns of another is heard by its receivers before the second.
#[tokio::test]
async fn a_message_passes_who_never_stops_publishing() {
    let broker = in_memory();
    let mut flood = client(&broker, b'f').await;
    let mut from = client_at_socket(&broker, b'a').await;
    let mut to = client_at_socket(&broker, b'b').await;
    to.write_all(&[0x82, 6, 0, 1, 0, 1, b'o', 0]).await.unwrap();
    to.read_exact(&mut [0; 5]).await.unwrap();
    let publish = [0x30, 4, 0, 1, b't', b'x'];
    flood.write_all(&publish).await.unwrap();
    ping(&mut flood).await;
    flood.write_all(&publish.repeat(100_000)).await.unwrap();
    let mut most = 0;
    for _ in 0..20 {
        let before = broker.metrics.traffic.total().messages_received;
        from.write_all(&[0x30, 4, 0, 1, b'o', b'x']).await.unwrap();
        to.read_exact(&mut [0; 6]).await.unwrap();
        most = most.max(broker.metrics.traffic.total().messages_received - before);
    }
    let of_a_read = GULP_LEAST as u64 / publish.len() as u64;
    assert!(most <= of_a_read + 2, "{most} before the receiver has it");
    assert!(broker.metrics.traffic.total().messages_received < 100_000, "the flood goes on");
}

/// Notes the kinds of packets with which writes begin.
#[derive(Debug)]
struct Noting(DuplexStream, Arc<Mutex<Vec<u8>>>);

impl AsyncRead for Noting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Noting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.1.lock().push(bytes[0] >> 4);
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A PUBACK is a call to the system that a message should not have to wait for.
#[tokio::test]
async fn messages_are_written_before_they_are_acknowledged() {
    let broker = in_memory();
    let written = Arc::<Mutex<Vec<u8>>>::default();
    let mut clients = Vec::new();
    for name in b'a'..=b'd' {
        let (near, far) = duplex(1024);
        let far = Transport::Other(Box::new(Noting(far, written.clone())));
        clients.push(connected(&broker, name, near, far).await);
    }
    let [a, b, c, d] = &mut clients[..] else { unreachable!() };
    for (receiver, topic) in [(&mut *c, b'1'), (&mut *d, b'2')] {
        receiver.write_all(&[0x82, 6, 0, 1, 0, 1, topic, 0]).await.unwrap();
        receiver.read_exact(&mut [0; 5]).await.unwrap();
    }
    written.lock().clear();
    a.write_all(&[0x32, 6, 0, 1, b'1', 0, 9, b'x']).await.unwrap();
    b.write_all(&[0x32, 6, 0, 1, b'2', 0, 9, b'x']).await.unwrap();
    a.read_exact(&mut [0; 4]).await.unwrap();
    b.read_exact(&mut [0; 4]).await.unwrap();
    let (publish, puback) = (3, 4);
    assert_eq!(*written.lock(), [publish, publish, puback, puback]);
}

/// Reads a packet.
async fn packet(client: &mut DuplexStream) -> Vec<u8> {
    let mut packet = vec![0; 2];
    client.read_exact(&mut packet).await.unwrap();
    let len = packet[1].into();
    client.take(len).read_to_end(&mut packet).await.unwrap();
    packet
}

/// A Client of MQTT 5.
async fn client_of_5(broker: &Arc<Broker>, name: u8) -> DuplexStream {
    let (mut near, far) = duplex(1024);
    serve_at(broker, Transport::Other(Box::new(far)));
    let connect = [0x10, 14, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 0, 0, 1, name];
    near.write_all(&connect).await.unwrap();
    assert_eq!(packet(&mut near).await[..4][2..], [0, 0]);
    near
}

/// A receiver's thread looks at the clock; before it goes on, another publishes what it then finds.
#[tokio::test]
async fn nobody_is_told_that_more_time_is_left_than_was_given() {
    type Meanwhile = Box<dyn FnOnce() + Send>;
    let ms = Arc::new(AtomicU64::new(1));
    let meanwhile = Arc::<Mutex<Option<Meanwhile>>>::default();
    let clock = {
        let (ms, meanwhile) = (ms.clone(), meanwhile.clone());
        Clock::Other(Box::new(move || {
            let now = Moment::from_unix_ms(ms.load(Relaxed));
            let meanwhile = meanwhile.lock().take();
            meanwhile.into_iter().for_each(|meanwhile| meanwhile());
            now
        }))
    };
    let broker = at(clock);
    let mut receiver = client_of_5(&broker, b'r').await;
    receiver.write_all(&[0x82, 7, 0, 1, 0, 0, 1, b't', 2]).await.unwrap();
    assert_eq!(packet(&mut receiver).await, [0x90, 4, 0, 1, 0, 2]);
    for (qos, id) in [(1, 1), (2, 2)] {
        let publish = move |id| [0x30 | qos << 1, 12, 0, 1, b't', 0, id, 5, 2, 0, 0, 0, 100, b'x'];
        let (broker, ms) = (broker.clone(), ms.clone());
        *meanwhile.lock() = Some(Box::new(move || {
            ms.fetch_add(1, Relaxed);
            let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
            let publishes = async move {
                let mut sender = client_of_5(&broker, b's').await;
                sender.write_all(&publish(9)).await.unwrap();
                assert_eq!(packet(&mut sender).await, [0x30 + 0x10 * qos, 2, 0, 9]);
            };
            let thread = std::thread::spawn(move || runtime().unwrap().block_on(publishes));
            thread.join().unwrap();
        }));
        receiver.write_all(&[0xC0, 0]).await.unwrap();
        let packets = [packet(&mut receiver).await, packet(&mut receiver).await];
        assert!(packets.contains(&publish(id).to_vec()), "{packets:?}");
    }
}

#[tokio::test]
async fn what_came_before_a_broken_rule_is_acknowledged() {
    let broker = in_memory();
    let mut client = client(&broker, b'a').await;
    let no_packet = [0xF0, 0];
    let publish = [0x32, 6, 0, 1, b't', 0, 9, b'x'];
    client.write_all(&[&publish[..], &no_packet].concat()).await.unwrap();
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, [0x40, 2, 0, 9]);
}

/// A commit that failed is not made up for by the one after it.
#[tokio::test]
async fn what_the_store_could_not_keep_is_not_acknowledged() {
    let (fails, disk) = (Arc::<AtomicBool>::default(), redb::backends::InMemoryBackend::new);
    let its = fails.clone();
    let answer = move |waiters: &mut Vec<Waiter>, outcome| {
        let former = waiters.first().map(|first| (first.mailbox.clone(), first.ticket));
        broker::recover::answer(waiters, if its.load(Relaxed) { Outcome::Failed } else { outcome });
        if let (true, Some((mailbox, ticket))) = (its.load(Relaxed), former) {
            let (ticket, outcome) = (ticket + 1, Outcome::Durable);
            mailbox.post(Mail::Committed { ticket, outcome });
        }
    };
    let (clock, store) = (Clock::manual(Moment::from_unix_ms(1)), store::Options::default());
    let opened = Store::open_stepped(disk, &store, Box::new(answer), Box::new(|| ()));
    let (store, mut committer, recovered) = opened.unwrap();
    let (broker, _) = Broker::on(broker::Options::default(), clock, store, recovered);
    let (mut near, far) = duplex(1024);
    let options = Arc::new(Options { in_memory: false, ..(*options()).clone() });
    let (far, peer) = (Transport::Other(Box::new(far)), Peer::direct(None));
    tokio::spawn(serve_stream(far, peer, broker.clone(), options));
    let mut steps = (1..).map(|s| s * 1_000_000);
    let connect = [0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 0, 0, 0, 0, 1, b'c'];
    let subscribe = [0x82, 6, 0, 1, 0, 1, b't', 1];
    let publish = [0x32, 6, 0, 1, b't', 0, 9, b'x'];
    near.write_all(&[&connect[..], &subscribe].concat()).await.unwrap();
    let (mut answers, expected) = (Vec::new(), [0x20, 2, 0, 0, 0x90, 3, 0, 1, 1]);
    for now_us in steps.by_ref().take(100) {
        tokio::task::yield_now().await;
        committer.step(now_us);
        tokio::select! {
            biased;
            _ = near.read_buf(&mut answers) => {}
            () = std::future::ready(()) => {}
        }
    }
    assert_eq!(answers, expected);
    fails.store(true, Relaxed);
    near.write_all(&publish).await.unwrap();
    let mut bytes = Vec::new();
    for now_us in steps.take(100) {
        tokio::task::yield_now().await;
        committer.step(now_us);
    }
    near.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(broker.metrics.traffic.total().messages_received, 1);
    assert_eq!(bytes, [0x32, 6, 0, 1, b't', 0, 1, b'x'], "the message, and no PUBACK");
}

/// Also when two do so at once, each of which lets the other go first.
#[tokio::test]
async fn a_message_to_oneself_comes_after_its_puback() {
    let broker = in_memory();
    let mut clients = [client(&broker, b'a').await, client(&broker, b'b').await];
    for (client, topic) in clients.iter_mut().zip(b'1'..) {
        client.write_all(&[0x82, 6, 0, 1, 0, 1, topic, 0]).await.unwrap();
        client.read_exact(&mut [0; 5]).await.unwrap();
    }
    for (client, topic) in clients.iter_mut().zip(b'1'..) {
        client.write_all(&[0x32, 6, 0, 1, topic, 0, 9, b'x']).await.unwrap();
    }
    for (client, topic) in clients.iter_mut().zip(b'1'..) {
        let mut bytes = [0; 4 + 6];
        client.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes, [0x40, 2, 0, 9, 0x30, 4, 0, 1, topic, b'x']);
    }
}

/// What was handled ahead of its turn is not handled again in it.
#[tokio::test]
async fn what_went_ahead_is_handled_once() {
    let store = store::Options { durability: Durability::Memory, ..store::Options::default() };
    let options = broker::Options { memory_max: 1 << 30, ..broker::Options::default() };
    let (broker, _) = Broker::open(options, Clock::system(), &store).unwrap();
    let mut client = client(&broker, b'c').await;
    broker.note_memory((1 << 30) - 1);
    assert!(!broker.takes_messages());
    let publish = [0x33, 6, 0, 1, b't', 0, 9, b'x'];
    let filters: Vec<u8> = (0..100).flat_map(|n| [0, 2, b'a' + n / 26, b'a' + n % 26, 0]).collect();
    let len = filters.len() + 2;
    let subscribe = [&[0x82, (len & 127) as u8 | 128, (len >> 7) as u8, 0, 7], &filters[..]];
    client.write_all(&[&publish[..], &subscribe.concat(), &[0xC0, 0]].concat()).await.unwrap();
    let mut pong = [0; 2];
    client.read_exact(&mut pong).await.unwrap();
    assert_eq!(pong, [0xD0, 0], "ahead of PUBACK");
    broker.note_memory(1);
    broker.note_memory(1);
    assert!(broker.takes_messages());
    let (mut puback, mut suback) = ([0; 4], [0; 4 + 100]);
    client.read_exact(&mut puback).await.unwrap();
    client.read_exact(&mut suback).await.unwrap();
    assert_eq!((puback, suback[0]), ([0x40, 2, 0, 9], 0x90));
    // An answer of its own says that there was none before.
    client.write_all(&[0x82, 6, 0, 8, 0, 1, b'z', 0]).await.unwrap();
    let mut suback = [0; 5];
    client.read_exact(&mut suback).await.unwrap();
    assert_eq!(suback, [0x90, 3, 0, 8, 0]);
}

/// What ends by itself takes as long as what a Client asks for.
#[tokio::test]
async fn a_session_that_expires_loses_its_subscriptions_part_by_part() {
    let store = store::Options { durability: Durability::Memory, ..store::Options::default() };
    let start = Moment::from_unix_ms(1_800_000_000_000);
    let clock = Clock::manual(start);
    let (broker, _) = Broker::open(broker::Options::default(), clock, &store).unwrap();
    let connect = [
        &[0x10, 19, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 5, 0x11, 0, 0, 0, 1][..],
        &[0, 1, b'x'],
    ];
    let ((mut leaving, far), mut connack) = (duplex(16 << 20), [0; 2]);
    serve_at(&broker, Transport::Other(Box::new(far)));
    leaving.write_all(&connect.concat()).await.unwrap();
    leaving.read_exact(&mut connack).await.unwrap();
    leaving.read_exact(&mut vec![0; connack[1].into()]).await.unwrap();
    let filters: Vec<u8> = (0..20_000_u16)
        .flat_map(|n| {
            [0, 3, b'a' + (n / 676) as u8, b'a' + (n / 26 % 26) as u8, b'a' + (n % 26) as u8, 0]
        })
        .collect();
    let len = filters.len() + 3;
    let head = [0x82, (len & 127) as u8 | 128, (len >> 7 & 127) as u8 | 128, (len >> 14) as u8];
    leaving.write_all(&[&head[..], &[0, 7, 0], &filters].concat()).await.unwrap();
    let mut suback = vec![0; 4 + 3 + 20_000];
    leaving.read_exact(&mut suback).await.unwrap();
    assert!(suback[0] == 0x90 && suback[7..].iter().all(|&reason| reason == 0));
    leaving.write_all(&[0xE0, 0]).await.unwrap();
    assert_eq!(leaving.read(&mut [0]).await.unwrap(), 0);
    while broker.metrics.clients_disconnected.value() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!broker.expire());
    broker.clock().set(start.after_s(2));
    let mut parts = 0;
    while broker.expire() {
        assert_eq!(broker.metrics.sessions_expired.value(), 0);
        parts += 1;
    }
    assert!(parts >= 2, "{parts}");
    assert_eq!(broker.metrics.sessions_expired.value(), 1);
    assert_eq!(broker.metrics.sessions_ended.value(), 1);
    broker.clock().set(start.after_s(20));
    assert!(!broker.expire());
    assert_eq!(broker.metrics.sessions_ended.value(), 1);
}
