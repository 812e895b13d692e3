//! The listeners that are open, and how some of them are opened, changed and closed while the
//! broker runs.
//!
//! A change has three steps. [`Doors::plan`] opens and reads all that is new: it may fail, and then
//! nothing has changed. [`Doors::make_room`] closes those in whose place others are to be opened,
//! and opens these; if that fails they are opened again. [`Doors::take_over`] does the rest, which
//! cannot fail. Whoever is connected stays so, under the settings under which it came, also when
//! its listener is closed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::ServerError;
use super::certificates::Watched;
use crate::access::Access;
use crate::broker::Broker;
use crate::config::Opening;
use crate::connection;
use crate::doorman::bucket::{Bucket, Rate};
use crate::journal::Look;
use crate::net::listener::{Bind, ListenError, Listener};
use crate::net::tls::Tls;

/// Connections of all listeners.
#[derive(Debug)]
pub(super) struct Connections {
    now: AtomicUsize,
    max: AtomicUsize,
}

impl Connections {
    /// None yet, of so many.
    pub fn new(max: usize) -> Self {
        Self { now: AtomicUsize::new(0), max: AtomicUsize::new(max) }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    /// Whether there are as many as may be.
    fn are_full(&self) -> bool {
        self.count() >= self.max.load(Ordering::Relaxed)
    }

    /// So many may be from now on.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }
}

/// One connection in the count.
struct Counted(Arc<Connections>);

impl Counted {
    fn new(connections: &Arc<Connections>) -> Self {
        connections.now.fetch_add(1, Ordering::Relaxed);
        Self(connections.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Connections that are accepted before others of the thread have their turn.
const ACCEPTS_MAX: usize = 16;

/// Where connections go.
#[derive(Clone)]
pub(super) struct Hall {
    pub broker: Arc<Broker>,
    /// Those that serve; the first accepts.
    pub workers: Arc<[Handle]>,
    pub connections: Arc<Connections>,
}

impl Hall {
    /// The first worker accepts: what it keeps costs no change of threads.
    fn accepting(&self) -> Handle {
        self.workers.first().cloned().unwrap_or_else(Handle::current)
    }

    async fn accept(self, listener: Arc<Listener>, terms: Terms) {
        let Self { broker, workers, connections } = self;
        let Terms { options, rate } = terms;
        let (metrics, mut arrivals) = (&broker.metrics, Bucket::default());
        let mut turns = workers.iter().cycle();
        loop {
            for worker in turns.by_ref().take(ACCEPTS_MAX) {
                let accepted = listener.accept().await;
                let now = broker.now();
                if accepted.is_surplus() || connections.are_full() {
                    metrics.connections_refused_too_many.increment();
                    tracing::debug!(peer = %accepted.peer(), "a connection too many");
                    continue;
                }
                if rate.is_some_and(|rate| !arrivals.take(rate, now)) {
                    metrics.connections_refused_for_rate.increment();
                    tracing::debug!(peer = %accepted.peer(), "a connection too fast");
                    continue;
                }
                if !options.doorman.admits(accepted.peer().origin(), now, metrics) {
                    continue;
                }
                let (broker, options) = (broker.clone(), options.clone());
                let counted = Counted::new(&connections);
                worker.spawn(connection::serve(accepted, broker, options, counted));
            }
            // Who comes in crowds must not keep those waiting whom this thread serves; but a pause
            // after each of them would cost a system call.
            tokio::task::yield_now().await;
        }
    }
}

/// What holds for those who come by a listener.
#[derive(Clone)]
struct Terms {
    options: Arc<connection::Options>,
    /// New ones in a second.
    rate: Option<Rate>,
}

/// A listener that is open.
struct Door {
    opening: Opening,
    listener: Arc<Listener>,
    options: Arc<connection::Options>,
    accepting: JoinHandle<()>,
}

impl Door {
    /// Whether a listener of this opening would be this one.
    fn is_that_of(&self, opening: &Opening) -> bool {
        let (own, other) = (&self.opening.options, &opening.options);
        own.bind == other.bind && own.interface == other.interface
    }

    /// Whether one of this opening may find its place taken by this one.
    fn is_in_the_way_of(&self, opening: &Opening) -> bool {
        match (&self.opening.options.bind, &opening.options.bind) {
            (Bind::Tcp(own), Bind::Tcp(other)) => own.port() == other.port(),
            (own, other) => own == other,
        }
    }

    /// Nobody is accepted any more.
    async fn stop(&mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
    }
}

/// What becomes of the listeners.
#[derive(Default)]
pub(super) struct Plan {
    /// By their numbers.
    kept: Vec<(u64, Opening, Option<Arc<Tls>>)>,
    opened: Vec<(Listener, Opening)>,
    /// To be opened where others stand that are to be closed.
    displacing: Vec<Opening>,
    closed: BTreeSet<u64>,
}

/// See the head of this file.
pub(super) struct Doors {
    hall: Hall,
    watched: Arc<Watched>,
    doors: BTreeMap<u64, Door>,
    next: u64,
}

/// Opens a listener; `None`: the broker does without it.
fn open(opening: &Opening) -> Result<Option<Listener>, ListenError> {
    match Listener::bind(&opening.options) {
        Ok(listener) => Ok(Some(listener)),
        Err(ListenError::Refused { bind, error }) if opening.is_optional => {
            tracing::debug!("not listening on {bind}: {error}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Opens all, and says where they listen. To be called within the runtime that will accept.
pub(super) fn open_all(openings: &[Opening]) -> Result<Vec<(Listener, Opening)>, ListenError> {
    let mut listeners = Vec::new();
    for opening in openings {
        if let Some(listener) = open(opening)? {
            tell_open(&listener, opening);
            listeners.push((listener, opening.clone()));
        }
    }
    Ok(listeners)
}

fn tell_open(listener: &Listener, opening: &Opening) {
    let tls = if opening.options.tls.is_some() { " with TLS" } else { "" };
    let websocket = if opening.options.websocket.is_some() { ", WebSocket" } else { "" };
    let proxy = if opening.options.proxy.is_some() { ", PROXY protocol" } else { "" };
    let place = listener.local_address();
    match (opening.admission.look, &place) {
        // What scripts look for in its log, and more.
        (Look::Mosquitto, Bind::Tcp(address)) => {
            let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
            let port = address.port();
            tracing::info!(
                "Opening {family} listen socket on port {port}. {place}{tls}{websocket}{proxy}"
            );
        }
        _ => tracing::info!("listening on {place}{tls}{websocket}{proxy}"),
    }
}

fn opened(opening: Opening) -> Result<Option<(Listener, Opening)>, ListenError> {
    Ok(open(&opening)?.map(|listener| (listener, opening)))
}

impl Doors {
    /// None is open yet.
    pub fn new(hall: Hall, watched: Arc<Watched>) -> Self {
        Self { hall, watched, doors: BTreeMap::new(), next: 0 }
    }

    /// Lets Clients in by a listener.
    pub fn add(&mut self, listener: Listener, opening: Opening, options: Arc<connection::Options>) {
        self.next += 1;
        self.serve(self.next, Arc::new(listener), opening, options);
    }

    fn serve(
        &mut self,
        number: u64,
        listener: Arc<Listener>,
        opening: Opening,
        options: Arc<connection::Options>,
    ) {
        let terms = Terms { options: options.clone(), rate: opening.connection_rate };
        let accept = self.hall.clone().accept(listener.clone(), terms);
        let accepting = self.hall.accepting().spawn(accept);
        self.doors.insert(number, Door { opening, listener, options, accepting });
    }

    /// Has the certificates watched that are in use.
    pub fn watch(&self) {
        let of_door =
            |door: &Door| Some((door.listener.local_address(), door.listener.tls()?.clone()));
        self.watched.set(self.doors.values().filter_map(of_door).collect());
    }

    /// What is to be done so that these are open and no others.
    pub fn plan(&self, openings: Vec<Opening>) -> Result<Plan, ListenError> {
        let mut plan = Plan { closed: self.doors.keys().copied().collect(), ..Plan::default() };
        let mut fresh = Vec::new();
        for opening in openings {
            let is_it = |number: &&u64| {
                self.doors.get(*number).is_some_and(|door| door.is_that_of(&opening))
            };
            match plan.closed.iter().find(is_it).copied() {
                Some(number) => {
                    plan.closed.remove(&number);
                    let tls = Listener::read_tls(&opening.options)?;
                    plan.kept.push((number, opening, tls));
                }
                None => fresh.push(opening),
            }
        }
        let accepting = self.hall.accepting();
        let _entered = accepting.enter();
        for opening in fresh {
            let is_in_the_way = |number: &u64| {
                self.doors.get(number).is_some_and(|door| door.is_in_the_way_of(&opening))
            };
            match open(&opening) {
                Ok(listener) => plan.opened.extend(listener.map(|listener| (listener, opening))),
                Err(ListenError::InUse { .. }) if plan.closed.iter().any(is_in_the_way) => {
                    plan.displacing.push(opening);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(plan)
    }

    /// Opens what could not be opened while others stood there. On an error these are open again,
    /// or it says that they are not.
    pub async fn make_room(&mut self, plan: &mut Plan) -> Result<(), ServerError> {
        let displacing = std::mem::take(&mut plan.displacing);
        if displacing.is_empty() {
            return Ok(());
        }
        let mut displaced = Vec::new();
        for (number, mut door) in std::mem::take(&mut self.doors) {
            let is_in_the_way = displacing.iter().any(|opening| door.is_in_the_way_of(opening));
            if is_in_the_way && plan.closed.remove(&number) {
                door.stop().await;
                tell_closed(&door);
                displaced.push((door.opening, door.options));
            } else {
                self.doors.insert(number, door);
            }
        }
        // Their sockets are closed by now.
        let accepting = self.hall.accepting();
        let _entered = accepting.enter();
        let all: Result<Vec<_>, _> = displacing.into_iter().map(opened).collect();
        let error = match all {
            Ok(all) => {
                plan.opened.extend(all.into_iter().flatten());
                displaced.iter().for_each(|(_, options)| options.access.retire());
                return Ok(());
            }
            Err(error) => error,
        };
        let mut lost = 0;
        for (opening, options) in displaced {
            match opened(opening) {
                Ok(Some((listener, opening))) => {
                    tell_open(&listener, &opening);
                    self.add(listener, opening, options);
                }
                Ok(None) => lost += 1,
                Err(error) => {
                    lost += 1;
                    tracing::error!("a listener stays closed: {error}");
                }
            }
        }
        self.watch();
        Err(if lost == 0 { error.into() } else { ServerError::Lost { error, lost } })
    }

    /// Does what is planned; `options` says what holds for those who come by a listener.
    pub async fn take_over(
        &mut self,
        plan: Plan,
        options: impl Fn(&Opening, Option<&Access>) -> connection::Options,
    ) {
        for (number, opening, tls) in plan.kept {
            let Some(mut door) = self.doors.remove(&number) else { continue };
            door.stop().await;
            let bind = door.listener.local_address();
            // Nobody else has it: its task has ended.
            let Some(listener) = Arc::get_mut(&mut door.listener) else { continue };
            listener.change(&opening.options, tls);
            if opening.options.tls.is_some() {
                tracing::info!("the certificates for {bind} have been read again");
            }
            let options = Arc::new(options(&opening, Some(&door.options.access)));
            self.serve(number, door.listener, opening, options);
        }
        for number in plan.closed {
            let Some(mut door) = self.doors.remove(&number) else { continue };
            door.stop().await;
            door.options.access.retire();
            tell_closed(&door);
        }
        for (listener, opening) in plan.opened {
            tell_open(&listener, &opening);
            let options = Arc::new(options(&opening, None));
            self.add(listener, opening, options);
        }
        self.watch();
    }

    /// Closes all.
    pub async fn close(mut self) {
        for door in self.doors.values_mut() {
            door.stop().await;
        }
    }
}

fn tell_closed(door: &Door) {
    let (bind, left) = (door.listener.local_address(), door.listener.connections());
    tracing::info!("no longer listening on {bind}; {left} connections stay until they end");
}
