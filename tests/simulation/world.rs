//! A world: one broker, its disk, its Clients, and the time they live in.
//!
//! Everything runs on one thread, in a runtime whose time stands still while there is something
//! to do. So a history has one course, and the same seed gives it again.

use std::any::Any;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use whimbrel::access::{Access, Anonymous};
use whimbrel::broker::{self, Broker, Waiter};
use whimbrel::clock::{Clock, Moment};
use whimbrel::connection;
use whimbrel::net::transport::{Peer, Transport};
use whimbrel::store::committer::{Committer, Next};
use whimbrel::store::{self, Store};

use crate::client::{Acks, Client, payload};
use crate::disk::Disk;
use crate::heard::{self, Heard};
use crate::history::{self, CLIENTS, Connect, Deed, History, LONG_S};
use crate::log::{Event, Log};
use crate::model::{self, Model};
use crate::packet::{self, Filter, Publish};
use crate::pipe::{Link, pipe};
use crate::plant::{Fault, Plant};

/// When the world begins, in milliseconds since the Unix epoch.
const BEGIN_MS: u64 = 1_700_000_000_000;

/// How long a broker is down.
const DOWN_MS: u64 = 5;

/// How long everything may take to come to rest at the end.
const PATIENCE_MS: u64 = 20_000;

/// See the head of this file.
struct World {
    log: Log,
    disk: Disk,
    plant: Plant,
    broker: Option<Running>,
    clients: Vec<Client>,
    model: Model,
    disk_ms: u64,
    next_conn: usize,
    next_number: u32,
    next_subscription: u32,
    next_tick: u64,
    /// The seed of the power cut that was prepared.
    cut: Option<u64>,
    at_hand_max: usize,
    /// How long the disk is to fail.
    fails_ms: u64,
    /// When it works again.
    heals_at: Option<u64>,
    /// How often the broker was started.
    starts: usize,
    /// Whether events are printed.
    shows: bool,
    /// Of all events.
    digest: DefaultHasher,
}

/// A broker that runs.
struct Running {
    broker: Arc<Broker>,
    /// Of a listener as the store is, and of one with `durability = "memory"`.
    listeners: [Arc<connection::Options>; 2],
    connections: Vec<JoinHandle<()>>,
    committer: JoinHandle<()>,
    /// Whether its store takes nothing any more; nobody has it look at what is due then.
    is_closed: bool,
}

/// A promise that was broken, or nothing.
pub type Outcome = Result<(), String>;

/// Goes through a history. `disk` holds an empty store.
pub fn run(history: &History, plant: Option<Fault>, disk: &Disk) -> Outcome {
    let lived = catch_unwind(AssertUnwindSafe(|| live(history, plant, disk, false).0));
    lived.unwrap_or_else(|panic| Err(format!("a panic: {}", message_of(&*panic))))
}

/// Goes through a history and shows every event.
pub fn show(history: &History, plant: Option<Fault>, disk: &Disk) {
    let _ = catch_unwind(AssertUnwindSafe(|| live(history, plant, disk, true)));
}

/// A number that stands for all events of a history.
pub fn digest(history: &History, disk: &Disk) -> u64 {
    live(history, None, disk, false).1
}

/// What a panic says.
fn message_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?")
}

fn live(history: &History, plant: Option<Fault>, disk: &Disk, shows: bool) -> (Outcome, u64) {
    heard::listen();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.unwrap_or_else(|error| panic!("{error}"));
    runtime.block_on(async {
        let mut world = World::new(history, plant, disk.copy());
        world.shows = shows;
        let outcome = world.live(history).await;
        (outcome.and(world.leave().await), world.digest.finish())
    })
}

/// A disk with a store in which nothing is.
pub fn empty_store() -> Disk {
    let disk = Disk::new();
    let answer = Box::new(broker::recover::answer);
    let same = disk.clone();
    let (store, _) = Store::open_on(move || same.clone(), &store::Options::default(), answer)
        .unwrap_or_else(|error| panic!("{error}"));
    drop(store);
    disk
}

/// The committer's life: what its thread does, in the world's time.
async fn commit(
    mut committer: Committer<Waiter>,
    bell: Arc<Notify>,
    (log, disk): (Log, Disk),
    disk_ms: u64,
) {
    let mut has_failed = false;
    loop {
        let next = committer.step(log.now() * 1000);
        if disk.has_failed() && !has_failed {
            log.push(Event::Failed);
        }
        has_failed = disk.has_failed();
        log.ring();
        match next {
            Next::Never => return,
            Next::AtTheBell => bell.notified().await,
            Next::Within(us) => {
                tokio::time::sleep(Duration::from_millis(us.div_ceil(1000).min(1))).await;
            }
        }
        if disk_ms > 0 {
            tokio::time::sleep(Duration::from_millis(disk_ms)).await;
        }
    }
}

impl World {
    fn new(history: &History, plant: Option<Fault>, disk: Disk) -> Self {
        let plant = plant.map_or_else(Plant::default, Plant::new);
        if plant.is(Fault::SkipsFsync) {
            disk.lie();
        } else if history.is_written {
            disk.outlive();
        }
        Self {
            log: Log::new(),
            disk,
            plant,
            broker: None,
            clients: CLIENTS
                .iter()
                .enumerate()
                .map(|(index, (name, v5))| Client::new(index, name, *v5))
                .collect(),
            model: Model::new(),
            disk_ms: history.disk_ms,
            next_conn: 0,
            next_number: 0,
            next_subscription: 0,
            next_tick: 1000,
            cut: None,
            at_hand_max: history.at_hand_max,
            fails_ms: 0,
            heals_at: None,
            starts: 0,
            shows: false,
            digest: DefaultHasher::new(),
        }
    }

    async fn live(&mut self, history: &History) -> Outcome {
        self.start()?;
        for step in &history.steps {
            self.perform(&step.deed).await?;
            self.pass(step.then_ms).await?;
        }
        self.come_to_rest().await?;
        self.audit(history.seed).await
    }

    fn start(&mut self) -> Outcome {
        let (bell, log) = (Arc::new(Notify::new()), self.log.clone());
        let rung = bell.clone();
        let retry_us = model::RETRY_MS * 1000;
        let options = store::Options { retry_us, ..store::Options::default() };
        let answer = Box::new(broker::recover::answer);
        let ring = Box::new(move || rung.notify_one());
        let disk = self.disk.clone();
        let opened = Store::open_stepped(move || disk.opened(), &options, answer, ring);
        let (store, committer, recovered) =
            opened.map_err(|error| format!("the store cannot be opened: {error}"))?;
        let time = log.clone();
        let clock = Clock::Other(Box::new(move || Moment::from_unix_ms(BEGIN_MS + time.now())));
        let queues = crate::queues::declarations();
        let mut broker_options = broker::Options { queues, ..broker::Options::default() };
        broker_options.queue.at_hand_max = self.at_hand_max;
        let (broker, _) = Broker::on(broker_options, clock, store, recovered);
        let committer =
            tokio::spawn(commit(committer, bell, (log, self.disk.clone()), self.disk_ms));
        let listener = |in_memory| {
            Arc::new(connection::Options {
                connect_timeout: Duration::from_secs(10),
                access: Arc::new(Access::unproven(Anonymous::Allowed)),
                doorman: Arc::default(),
                in_memory,
                admission: connection::Admission::default(),
            })
        };
        let listeners = [listener(false), listener(true)];
        self.broker =
            Some(Running { broker, listeners, connections: vec![], committer, is_closed: false });
        self.starts += 1;
        self.log.push(Event::Up);
        Ok(())
    }

    /// Lets so many milliseconds pass.
    async fn pass(&mut self, ms: u64) -> Outcome {
        let until = self.log.now() + ms;
        loop {
            let next = self.turn().await?;
            if self.log.now() >= until {
                return Ok(());
            }
            self.log.rung_or(next.min(until)).await;
        }
    }

    /// Does what is due now, and looks at what has happened. When the next thing is due.
    async fn turn(&mut self) -> Result<u64, String> {
        loop {
            let now = self.log.now();
            let mut next = self.next_tick;
            for client in &mut self.clients {
                next = next.min(client.pump(&self.log));
            }
            self.look()?;
            if !self.disk.power().is_on() {
                let seed = self.cut.take().unwrap_or_default();
                self.crash(seed).await?;
                continue;
            }
            if self.disk.has_failed() && self.heals_at.is_none() {
                self.heals_at = Some(now + self.fails_ms);
                continue;
            }
            if let Some(at) = self.heals_at {
                if at <= now {
                    self.heal();
                    continue;
                }
                next = next.min(at);
            }
            if self.next_tick <= now {
                self.next_tick += 1000;
                if let Some(running) = self.broker.as_ref().filter(|running| !running.is_closed) {
                    self.log.push(Event::Tick);
                    let broker = running.broker.clone();
                    self.look()?;
                    while broker.expire() {}
                }
                continue;
            }
            return Ok(next);
        }
    }

    /// Shows the model what has happened.
    fn look(&mut self) -> Outcome {
        for (at, event) in self.log.take() {
            if self.shows {
                println!("{at:>7} ms {event:?}");
            }
            format!("{at} {event:?}").hash(&mut self.digest);
            let broken = self.model.event(at, event);
            broken.map_err(|what| format!("at {at} ms: {what}"))?;
        }
        Ok(())
    }

    /// Cuts the power, and starts the broker on what the disk has kept.
    async fn crash(&mut self, seed: u64) -> Outcome {
        let kept = self.disk.cut(seed);
        (self.heals_at, self.cut) = (None, None);
        self.look()?;
        self.log.push(Event::Down { orderly: false });
        for client in &mut self.clients {
            client.pump(&self.log);
        }
        self.look()?;
        self.leave().await?;
        tokio::time::sleep(Duration::from_millis(DOWN_MS)).await;
        self.disk = kept;
        self.start()
    }

    /// The disk works again.
    fn heal(&mut self) {
        self.disk.heal();
        if self.heals_at.take().is_some() {
            self.log.push(Event::Healed);
        }
    }

    /// Ends everything that runs.
    async fn leave(&mut self) -> Outcome {
        let Some(Running { broker, connections, committer, .. }) = self.broker.take() else {
            return Ok(());
        };
        self.disk.cut(0);
        let mut outcome = Ok(());
        for task in connections.into_iter().chain([committer]) {
            task.abort();
            if let Some(panic) = task.await.err().and_then(|error| error.try_into_panic().ok()) {
                outcome = Err(format!("a task of the broker: {}", message_of(&*panic)));
            }
        }
        drop(broker);
        outcome
    }

    /// Where the broker ends connections by itself, that must be seen when it happens.
    fn widen(&self) {
        self.clients.iter().for_each(Client::widen);
    }

    /// Stops the broker as a signal does, and starts it again.
    async fn restart(&mut self) -> Outcome {
        self.widen();
        self.heal();
        let starts = self.starts;
        for _ in 0..100 {
            let Some(running) = &mut self.broker else { return Ok(()) };
            if running.connections.iter().all(JoinHandle::is_finished) {
                break;
            }
            self.log.push(Event::Stopping);
            running.broker.close_connections();
            self.pass(20).await?;
            if self.starts != starts {
                return Ok(());
            }
        }
        if self.model.has_open_connections() {
            return Err("the broker does not stop: connections are open".into());
        }
        let Some(running) = &mut self.broker else { return Ok(()) };
        for task in running.connections.drain(..) {
            // A Client that has not come to the point.
            task.abort();
            let _ = task.await;
        }
        let Some(running) = &mut self.broker else { return Ok(()) };
        running.broker.close();
        running.is_closed = true;
        for _ in 0..100 {
            let is_over = self.broker.as_ref().is_some_and(|b| b.committer.is_finished());
            if is_over {
                break;
            }
            self.pass(20).await?;
            if self.starts != starts {
                return Ok(());
            }
        }
        if self.broker.as_ref().is_some_and(|b| !b.committer.is_finished()) {
            return Err("the broker does not stop: the store is not closed".into());
        }
        self.look()?;
        self.log.push(Event::Down { orderly: true });
        self.leave().await?;
        self.disk = self.disk.copy();
        tokio::time::sleep(Duration::from_millis(DOWN_MS)).await;
        self.start()
    }

    async fn perform(&mut self, deed: &Deed) -> Outcome {
        let now = self.log.now();
        match deed {
            Deed::Connect(client, connect) => self.connect(*client, connect),
            Deed::Disconnect { client, will, expiry_s } => {
                self.clients[*client].disconnect(if *will { 4 } else { 0 }, *expiry_s, now);
            }
            Deed::Cut { client, how, loses } => self.clients[*client].cut(*how, *loses, now),
            Deed::Stall(client, stalled) => self.clients[*client].stall(*stalled),
            Deed::Acks(client, acks) => self.clients[*client].acks = *acks,
            Deed::Release(client) => self.clients[*client].release(now),
            Deed::Subscribe(client, filters) => self.subscribe(*client, filters.clone()),
            Deed::Unsubscribe(client, filter) => {
                self.clients[*client].unsubscribe((*filter).to_owned());
            }
            Deed::Publish { client, topic, qos, retain, expiry_s, priority, len } => {
                self.next_number += 1;
                self.clients[*client].publish(Publish {
                    dup: false,
                    qos: *qos,
                    retain: *retain,
                    topic: (*topic).to_owned(),
                    id: 0,
                    expiry_s: *expiry_s,
                    subscription_ids: vec![],
                    count: None,
                    reason: None,
                    priority: *priority,
                    payload: if *len == 0 { vec![] } else { payload(self.next_number, *len) },
                });
            }
            Deed::Ping(client) => self.clients[*client].ping(),
            Deed::PowerCut { yields, seed } => {
                for _ in 0..*yields {
                    tokio::task::yield_now().await;
                }
                self.crash(*seed).await?;
            }
            Deed::PowerCutAtSync { syncs, seed } => {
                self.cut = Some(*seed);
                self.disk.cut_after_syncs(*syncs);
            }
            Deed::DiskError { operations, for_ms, forgets } => {
                self.fails_ms = *for_ms;
                self.disk.fail_after(*operations, *for_ms > 0, *forgets);
            }
            Deed::Restart => self.restart().await?,
            Deed::Wait { ms } => self.pass(*ms).await?,
        }
        Ok(())
    }

    fn connect(&mut self, index: usize, connect: &Connect) {
        let Some(running) = &mut self.broker else { return };
        if self.clients[index].is_connecting() {
            return;
        }
        let conn = self.next_conn;
        self.next_conn += 1;
        let client = &mut self.clients[index];
        let context = (&self.log, self.disk.power(), &self.plant);
        let mut link = connect.link;
        if connect.keep_alive_s > 0 {
            link.capacity = Link::GOOD.capacity;
        }
        let (near, far) = pipe(conn, client.v5, link, context);
        let is_roomy = link.capacity >= Link::GOOD.capacity;
        let in_memory = connect.in_memory;
        self.log.push(Event::Opened { conn, client: index, is_roomy, in_memory });
        let peer = Peer::direct(None);
        let far = Transport::Other(Box::new(far));
        let is_mixed_up = self.plant.is(Fault::MixesListeners);
        let options = running.listeners[usize::from(in_memory || is_mixed_up)].clone();
        let broker = running.broker.clone();
        let served = connection::serve_stream(far, peer, broker, options);
        running.connections.push(tokio::spawn(Heard::new(near.clone(), served)));
        let will = connect.will.as_ref().map(|will| {
            self.next_number += 1;
            packet::Will {
                topic: will.topic.to_owned(),
                payload: payload(self.next_number, 1),
                qos: will.qos,
                retain: will.retain,
                delay_s: will.delay_s,
                expiry_s: None,
            }
        });
        client.acks = connect.acks;
        let packet = packet::Connect {
            client_id: client.name.clone(),
            clean_start: connect.clean_start,
            keep_alive_s: connect.keep_alive_s,
            expiry_s: connect.expiry_s,
            receive_maximum: connect.receive_maximum,
            will,
        };
        client.connect((conn, near, in_memory), packet, &self.log);
    }

    fn subscribe(&mut self, client: usize, filters: Vec<Filter>) {
        let client = &mut self.clients[client];
        let subscription_id = client.v5.then(|| {
            self.next_subscription += 1;
            self.next_subscription
        });
        client.subscribe(subscription_id, filters);
    }

    /// Everybody comes, keeps to the rules, and waits until all is done.
    async fn come_to_rest(&mut self) -> Outcome {
        self.heal();
        if self.cut.is_some() {
            self.crash(1).await?;
        }
        let calm = Connect {
            clean_start: false,
            expiry_s: LONG_S,
            keep_alive_s: 0,
            receive_maximum: None,
            will: None,
            link: Link::GOOD,
            acks: Acks::Prompt,
            in_memory: false,
        };
        let end = self.log.now() + PATIENCE_MS;
        loop {
            let now = self.log.now();
            for index in 0..self.clients.len() {
                let client = &mut self.clients[index];
                client.acks = Acks::Prompt;
                client.release(now);
                client.stall(false);
                if !client.is_established() {
                    self.connect(index, &calm);
                }
            }
            self.pass(500).await?;
            let waits = self.clients.iter().find(|c| !c.is_established() || !c.is_settled());
            let verdict = match waits {
                Some(client) if !client.is_established() => {
                    Err(format!("{} cannot connect", client.name))
                }
                Some(client) => Err(format!("{} waits for {}", client.name, client.waits_for())),
                None => self.model.verdict(),
            };
            match verdict {
                Ok(()) => return Ok(()),
                Err(what) if self.log.now() >= end => return Err(format!("at the end: {what}")),
                Err(_) => {}
            }
        }
    }

    /// After a last power cut nothing that was done comes back, and all that is retained is there.
    async fn audit(&mut self, seed: u64) -> Outcome {
        self.pass(1000).await?;
        self.crash(seed).await?;
        let auditor = CLIENTS.len() - 1;
        self.come_to_rest().await?;
        let all = Filter {
            filter: "#".into(),
            qos: 2,
            no_local: false,
            retain_as_published: false,
            retain_handling: 0,
        };
        let _ = auditor;
        self.subscribe(0, vec![all]);
        // What waits in queues has outlived all that, and is consumed now.
        for (at, name) in crate::queues::NAMES.iter().enumerate() {
            self.subscribe(at % CLIENTS.len(), vec![history::consumes(name, 2)]);
        }
        self.model.drain();
        self.come_to_rest().await
    }
}
