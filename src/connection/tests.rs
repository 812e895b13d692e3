use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::access::Anonymous;
use crate::broker;
use crate::broker::mailbox::Mailbox;
use crate::clock::Clock;
use crate::session::Session;
use crate::store::{self, Durability};

/// The size of what a function returns.
fn size<A, B, C, T>(_: impl Fn(A, B, C) -> T) -> usize {
    size_of::<T>()
}

/// What there is of each connection. An allocator has classes of sizes: a few bytes more than
/// these figures can cost 128.
#[test]
fn an_idle_connection_is_small() {
    assert!(size_of::<Connection>() <= 512, "{}", size_of::<Connection>());
    assert!(size_of::<Session>() <= 240, "{}", size_of::<Session>());
    // Counters in front of it.
    assert!(size_of::<Mailbox>() <= 128 - 16, "{}", size_of::<Mailbox>());
    // With what the runtime adds to a task, 256.
    assert!(size(serve) <= 96, "{}", size(serve));
}

/// A Client of MQTT 3.1.1 whose connection has room for everything.
async fn client(broker: &Arc<Broker>, name: u8) -> DuplexStream {
    let options = Arc::new(Options {
        connect_timeout: Duration::from_secs(10),
        access: Arc::new(Access::unproven(Anonymous::Allowed)),
        doorman: Arc::default(),
        in_memory: true,
        admission: Admission::default(),
    });
    let (mut near, far) = duplex(16 << 20);
    let far = Transport::Other(Box::new(far));
    tokio::spawn(serve_stream(far, Peer::direct(None), broker.clone(), options));
    near.write_all(&[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 1, name])
        .await
        .unwrap();
    let mut connack = [0; 4];
    near.read_exact(&mut connack).await.unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    near
}

async fn ping(client: &mut DuplexStream) {
    client.write_all(&[0xC0, 0]).await.unwrap();
    client.read_exact(&mut [0; 2]).await.unwrap();
}

/// On one thread, where everything has its turn in order: nothing depends on time.
#[tokio::test]
async fn who_never_stops_publishing_has_others_wait_for_a_few_packets_only() {
    let store = store::Options { durability: Durability::Memory, ..store::Options::default() };
    let clock = Clock::manual(Moment::from_unix_ms(1));
    let (broker, _) = Broker::open(broker::Options::default(), clock, &store).unwrap();
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
    let of_a_read = (u64::from(GULP_LEAST_KIB) << 10) / publish.len() as u64;
    assert!(most <= 2 * (of_a_read + PACKETS_MAX), "{most} while another waits for one");
}
