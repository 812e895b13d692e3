//! The field of play: what all clients share, and the course of a test.

use std::cell::{Cell, RefCell, RefMut};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::runtime::Builder;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Duration, sleep, timeout};

use crate::broker::Broker;
use crate::cast::{self, Cast};
use crate::link::{Link, Packet};
use crate::random::Random;
use crate::raw::Connect;
use crate::receiver::{FENCE, number_of};
use crate::record::{Client, Fault, Record, Totals, Violation};

/// What everybody does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Receivers subscribe.
    SetUp,
    /// Publishers publish, and the broker is killed.
    Load,
    /// The broker is back, and publishers wait until somebody has looked at what it retains.
    Look,
    /// Publishers come to an end, receivers take all there is; those who come late do not.
    Drain,
    /// Those too.
    DrainAll,
    /// Everybody goes home.
    Over,
}

/// What all clients share.
pub struct Field {
    address: SocketAddr,
    record: RefCell<Record>,
    random: RefCell<Random>,
    stage: watch::Sender<Stage>,
    /// Rung when a client has done something.
    pub noticed: Notify,
    pub publishers_online: Cell<usize>,
    /// Exchanges that publishers have begun and not finished.
    pub exchanges_open: Cell<usize>,
    /// Messages that publishers may still begin in this life of the broker: where the machine is
    /// slow the load is no larger.
    pub budget: Cell<usize>,
    /// SUBACKs that are due before the load begins.
    pub subscriptions_due: Cell<usize>,
}

impl Field {
    pub fn record(&self) -> RefMut<'_, Record> {
        self.record.borrow_mut()
    }

    /// From `low` to below `high`.
    pub fn below(&self, low: u64, high: u64) -> u64 {
        self.random.borrow_mut().below(low, high)
    }

    /// True once in `n` times.
    pub fn once_in(&self, n: u64) -> bool {
        self.random.borrow_mut().once_in(n)
    }

    pub fn stage(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    /// Connects to the Session of a client as soon as the broker lets it; `None` when all is over.
    pub async fn connect(&self, client: Client, connect: &Connect) -> Option<Link> {
        let link = self.open(connect).await?;
        self.record().connected(client, link.session_present);
        self.noticed.notify_one();
        Some(link)
    }

    async fn open(&self, connect: &Connect) -> Option<Link> {
        while *self.stage.borrow() != Stage::Over {
            match timeout(CONNECT_MAX, Link::open(self.address, connect)).await {
                Ok(Ok(link)) => return Some(link),
                Ok(Err(_)) => sleep(Duration::from_millis(2)).await,
                Err(_) => panic!("no CONNACK for {} in {CONNECT_MAX:?}", connect.id),
            }
        }
        None
    }

    /// Waits until something is so; false when nothing happens any more and it is not.
    async fn until(&self, patience: Duration, is_so: impl Fn(&Self) -> bool) -> bool {
        loop {
            if is_so(self) {
                return true;
            }
            if timeout(patience, self.noticed.notified()).await.is_err() {
                return is_so(self);
            }
        }
    }
}

/// A test.
pub struct Options {
    /// Of the broker.
    pub settings: &'static str,
    /// How many times the broker is ended.
    pub ends: usize,
    pub seed: u64,
    /// How long nothing may happen while something is waited for.
    pub patience: Duration,
}

/// How a test went.
pub struct Report {
    pub violations: Vec<Violation>,
    pub totals: Totals,
    /// SIGKILL under load, SIGKILL while starting, SIGTERM.
    pub ends: [usize; 3],
    pub log: String,
}

/// Longest time for a connection that the broker does not refuse.
const CONNECT_MAX: Duration = Duration::from_secs(60);

/// Longest time for one life of the broker, far beyond what it takes.
const LIFE_MAX: Duration = Duration::from_secs(10);

/// Messages in one life of the broker at most.
const LIFE_MESSAGES_MAX: usize = 1_200;

/// Plays a test to its end.
pub fn play(options: &Options) -> Report {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let limit = LIFE_MAX * u32::try_from(options.ends + 20).unwrap();
    let game = async {
        let mut game = Game::begin(options).await;
        let actors = std::mem::take(&mut game.actors);
        tokio::select! {
            report = timeout(limit, game.play(options)) => report,
            never = panics_of(actors) => match never {},
        }
    };
    let played = LocalSet::new().block_on(&runtime, game);
    played.unwrap_or_else(|_| panic!("no end after {limit:?} with seed {}", options.seed))
}

/// Passes on the panic of an actor; otherwise has no end.
async fn panics_of(mut actors: JoinSet<()>) -> Infallible {
    while let Some(ended) = actors.join_next().await {
        ended.unwrap();
    }
    std::future::pending().await
}

struct Game {
    field: Rc<Field>,
    broker: Broker,
    cast: Cast,
    actors: JoinSet<()>,
    patience: Duration,
    fence: usize,
    /// Whether what is retained was looked at after the last start: every other time.
    looks: bool,
    ends: [usize; 3],
}

impl Game {
    async fn begin(options: &Options) -> Self {
        let mut random = Random::new(options.seed);
        let broker = Broker::start(options.settings, &mut random);
        let field = Rc::new(Field {
            address: broker.address,
            record: RefCell::default(),
            random: RefCell::new(random),
            stage: watch::Sender::new(Stage::SetUp),
            noticed: Notify::new(),
            publishers_online: Cell::new(0),
            exchanges_open: Cell::new(0),
            budget: Cell::new(0),
            subscriptions_due: Cell::new(0),
        });
        let mut actors = JoinSet::new();
        let cast = cast::enter(&field, &mut actors);
        let patience = options.patience;
        let game =
            Self { field, broker, cast, actors, patience, fence: 0, looks: false, ends: [0; 3] };
        let is_set_up = |field: &Field| field.subscriptions_due.get() == 0;
        assert!(
            game.field.until(Duration::from_secs(20), is_set_up).await,
            "{}",
            game.broker.log()
        );
        game
    }

    async fn play(mut self, options: &Options) -> Report {
        let mut until_drain = 0;
        while self.ends.iter().sum::<usize>() < options.ends {
            self.field.budget.set(LIFE_MESSAGES_MAX);
            self.field.stage.send_replace(Stage::Load);
            let publishers = self.cast.publishers;
            let are_online = |field: &Field| field.publishers_online.get() == publishers;
            self.field.until(LIFE_MAX, are_online).await;
            let load_ms = self.field.below(20, 300);
            sleep(Duration::from_millis(load_ms)).await;
            self.end_broker().await;
            if self.looks {
                self.look_at_retained().await;
            }
            if until_drain == 0 {
                self.drain(Stage::Drain).await;
                until_drain = 1 + self.field.below(4, 10);
            }
            until_drain -= 1;
        }
        self.drain(Stage::DrainAll).await;
        self.look_at_retained().await;
        self.field.stage.send_replace(Stage::Over);
        let status = self.broker.terminate().await;
        let mut record = self.field.record.take();
        let log = self.broker.log();
        if !status.success() || log.contains("panicked") {
            record.violated(Fault::Program, format!("the last broker ended with {status}"));
        }
        Report { violations: record.violations, totals: record.totals, ends: self.ends, log }
    }

    /// Ends the broker one way or the other, and starts it again; now and then a start is cut off
    /// too.
    async fn end_broker(&mut self) {
        if self.field.once_in(5) {
            let status = self.broker.terminate().await;
            self.ends[2] += 1;
            if !status.success() {
                self.field.record().violated(Fault::Program, format!("SIGTERM: {status}"));
            }
        } else {
            self.kill().await;
            self.ends[0] += 1;
        }
        while self.field.once_in(3) {
            self.broker.start_again();
            let start_us = self.field.below(0, 30_000);
            sleep(Duration::from_micros(start_us)).await;
            self.kill().await;
            self.ends[1] += 1;
        }
        let are_gone = |field: &Field| field.publishers_online.get() == 0;
        self.field.until(self.patience, are_gone).await;
        self.looks = !self.looks;
        if self.looks {
            self.field.stage.send_replace(Stage::Look);
        }
        self.broker.start_again();
    }

    async fn kill(&mut self) {
        if let Some(status) = self.broker.kill().await {
            let what = format!("it had ended by itself with {status}");
            self.field.record().violated(Fault::Program, what);
        }
    }

    /// A new client is sent what the topics retain.
    async fn look_at_retained(&self) {
        let Some(mut link) = self.field.open(&Connect::v5("watcher")).await else { return };
        let topics = &self.cast.retained;
        let accepted = |topic: &usize| self.field.record().last_accepted(*topic);
        let accepted: Vec<_> = topics.iter().map(|(topic, _)| accepted(topic)).collect();
        let mut found = vec![None; topics.len()];
        link.subscribe(1, "r/+", 1);
        let is_lacking = |(found, accepted): (&Option<usize>, &Option<usize>)| {
            found.is_none() && accepted.is_some()
        };
        let looking = async {
            link.flush().await?;
            while found.iter().zip(&accepted).any(is_lacking) {
                if let Packet::Publish(publish) = link.next().await?
                    && publish.retain()
                {
                    let at = topics.iter().position(|(_, name)| *name == publish.topic).unwrap();
                    found[at] = Some(number_of(&publish.payload));
                }
            }
            std::io::Result::Ok(())
        };
        let ended = timeout(self.patience, looking).await;
        if let Ok(Err(error)) = ended {
            self.field.record().violated(Fault::Program, format!("watcher: {error}"));
        }
        for (((topic, _), found), accepted) in topics.iter().zip(found).zip(accepted) {
            self.field.record().retained(*topic, found, accepted);
        }
    }

    /// Has everything delivered, and judges it.
    async fn drain(&mut self, stage: Stage) {
        self.field.stage.send_replace(stage);
        let are_done = |field: &Field| field.exchanges_open.get() == 0;
        if !self.field.until(self.patience, are_done).await {
            let open = self.field.exchanges_open.get();
            self.field
                .record()
                .violated(Fault::MessageLost, format!("{open} exchanges stand still"));
        }
        self.fence += 1;
        self.publish_fence().await;
        let fence = self.fence;
        let due = self.cast.due(stage);
        let is_behind =
            |field: &Field, client: &Client| field.record().behind_fence(*client, fence);
        let has_arrived =
            |field: &Field| !due.clients.iter().any(|client| is_behind(field, client));
        if !self.field.until(self.patience, has_arrived).await {
            for client in due.clients.iter().filter(|client| is_behind(&self.field, client)) {
                let what = format!("fence {fence} to {}", self.field.record().name(*client));
                self.field.record().violated(Fault::MessageLost, what);
            }
        }
        // What a group has lent out comes to its members in no order with their fences.
        let missing =
            |field: &Field| due.groups.iter().any(|group| field.record().missing(*group) > 0);
        self.field.until(self.patience, |field| !missing(field)).await;
        for audience in due.audiences {
            self.field.record().judge(audience);
        }
    }

    async fn publish_fence(&self) {
        let Some(mut link) = self.field.open(&Connect::v4("warden")).await else { return };
        link.publish(2, FENCE, 1, format!("{}:", self.fence).as_bytes());
        let fencing = async {
            link.flush().await?;
            link.next().await
        };
        let acknowledged = timeout(self.patience, fencing).await;
        if !matches!(acknowledged, Ok(Ok(Packet::PubAck { .. }))) {
            let what = format!("the fence is answered with {acknowledged:?}");
            self.field.record().violated(Fault::Program, what);
        }
    }
}
