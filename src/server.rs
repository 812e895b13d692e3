//! Builds the broker from a [`Config`], serves until it is told to stop, and stops in reverse
//! order: listeners, connections, store.
//!
//! Each worker is a thread with a runtime of its own. A connection stays with the worker it was
//! given to, so its wake-ups do not cross threads unless its messages do.
//!
//! SIGHUP has the configuration and all that it names read again: [`reload`], [`doors`].

mod admission;
mod certificates;
mod doors;
mod rights;
mod sys;

mod reload;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use sd_notify::NotifyState;
use thiserror::Error;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use crate::access::Access;
use crate::access::problem::FileError;
use crate::broker::Broker;
use crate::broker::desk::{self, Desk};
use crate::clock::Clock;
use crate::config::{Config, Opening};
use crate::connection;
use crate::control::{Control, Offices};
use crate::doorman::Doorman;
use crate::journal::{IN_PLACE_OF, Journal, Look};
use crate::net::listener::{ListenError, Listener};
use crate::process;
use crate::store::{Durability, Health, OpenError};
use admission::{Admission, Files};
use certificates::Watched;
use doors::{Connections, Doors, Hall};
use rights::RightsError;

/// How often the process looks at the memory that it uses.
const MEMORY_LOOK: Duration = Duration::from_millis(100);

/// Turns in which lines of the log are published at a look: enough for all that can wait.
const LOG_TURNS: usize = 16;

pub use reload::{Effect, Reread, differences};

/// Why the broker cannot start.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The store was damaged while the broker ran.
    #[error("the store is damaged; what was acknowledged before is in it: restore or repair it")]
    Damaged,
    /// A listener cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A listener cannot be opened, nor others that were closed for it.
    #[error("{error}; {lost} listeners that were closed for it could not be opened again")]
    Lost {
        /// Why it cannot.
        error: ListenError,
        /// How many others.
        lost: usize,
    },
    /// A file of passwords or rules cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Root's rights are not given up.
    #[error(transparent)]
    Rights(#[from] RightsError),
    /// A listener's settings do not make sense.
    #[error("{0}")]
    Settings(String),
    /// The number of the process cannot be written.
    #[error("cannot write `pid_file` {path}: {error}")]
    PidFile {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The system gave no thread, runtime or signal handler.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

/// The file with the number of the process; removed when dropped, or made empty where the process
/// may no longer remove it.
struct PidFile(PathBuf, File);

impl PidFile {
    fn write(path: &Path) -> Result<Self, ServerError> {
        let mut options = File::options();
        let options = options.write(true).create(true).truncate(true);
        let written = process::user::open_to_write(path, options).and_then(|mut file| {
            writeln!(file, "{}", std::process::id())?;
            Ok(file)
        });
        match written {
            Ok(file) => Ok(Self(path.to_owned(), file)),
            Err(error) => Err(ServerError::PidFile { path: path.to_owned(), error }),
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if std::fs::remove_file(&self.0).is_err() {
            let _ = self.1.set_len(0);
        }
    }
}

/// A thread that serves connections.
struct Worker {
    handle: Handle,
    stop: Arc<Notify>,
    thread: JoinHandle<()>,
}

impl Worker {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = runtime()?;
        let handle = runtime.handle().clone();
        let stop = Arc::new(Notify::new());
        let stopped = stop.clone();
        let thread =
            std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                Desk::open();
                runtime.block_on(stopped.notified());
            })?;
        Ok(Self { handle, stop, thread })
    }
}

fn runtime() -> io::Result<Runtime> {
    let mut builder = Builder::new_current_thread();
    builder.on_thread_park(desk::before_sleep).on_thread_unpark(desk::after_sleep);
    builder.enable_all().build()
}

/// Serves until SIGTERM or SIGINT; SIGHUP has the configuration read again, by `reread`.
pub fn run(config: &Config, journal: &Journal, reread: &Reread<'_>) -> Result<(), ServerError> {
    tell_state(config, "starting");
    let openings = config.openings().map_err(ServerError::Settings)?;
    let mut files = Files::read(config, &openings)?;
    let user = process::user::wanted(&config.users).map_err(RightsError::User)?;
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(descriptors) => tracing::debug!(descriptors, "connections are bounded by descriptors"),
        Err(error) => tracing::warn!("the limit of open files cannot be raised: {error}"),
    }
    let runtime = runtime()?;
    let _entered = runtime.enter();
    let first = Worker::start(0)?;
    let others = (1..config.workers).map(Worker::start);
    // Listeners before the store: of two brokers that are started by mistake, the second says
    // first what its operator knows about, the port.
    let listeners = {
        // The first worker accepts: what it keeps costs no change of threads.
        let _entered = first.handle.enter();
        doors::open_all(&openings)?
    };
    let _pid_file = config.pid_file.as_deref().map(PidFile::write).transpose()?;
    let workers: Vec<Worker> =
        std::iter::once(Ok(first)).chain(others).collect::<io::Result<_>>()?;
    if let Some(user) = &user {
        rights::give_up(config, user)?;
        let again = reread().and_then(|config| check(&config).map_err(|e| e.to_string()));
        if let Err(why) = again {
            tracing::warn!("SIGHUP will change nothing, for {} may not do it: {why}", user.name);
        }
    }
    let mut admission = Admission::rules(config, &mut files);
    let mut fitted = config.clone();
    fitted.fit_memory(process::memory_total());
    fitted.broker.rules = admission.absent();
    let (broker, restored) = Broker::open(fitted.broker, Clock::system(), &fitted.store)?;
    admission.methods(config, &openings, files, &broker.metrics.proofs)?;
    let control = control(config);
    tracing::info!(
        store = %config.store.directory.display(), durability = ?config.store.durability,
        sessions = restored.sessions, messages = restored.messages, retained = restored.retained,
        "store open"
    );
    let doorman = Arc::new(Doorman::new(config.doorman.clone()));
    let house = House { config, broker: &broker, admission, doorman, journal, reread };
    let served = runtime.block_on(house.serve(listeners, control, &workers));
    for Worker { stop, thread, .. } in workers {
        stop.notify_one();
        let _ = thread.join();
    }
    broker.close();
    tell_state(config, "terminating");
    tracing::info!("stopped");
    served
}

/// What is served, and how.
struct House<'a> {
    config: &'a Config,
    broker: &'a Arc<Broker>,
    admission: Admission,
    doorman: Arc<Doorman>,
    journal: &'a Journal,
    reread: &'a Reread<'a>,
}

impl House<'_> {
    async fn serve(
        mut self,
        listeners: Vec<(Listener, Opening)>,
        control: Option<Control>,
        workers: &[Worker],
    ) -> Result<(), ServerError> {
        let (config, broker) = (self.config, self.broker);
        let mut hangup = signal(SignalKind::hangup())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let connections = Arc::new(Connections::new(config.connections_total_max));
        let hall = Hall {
            broker: broker.clone(),
            workers: workers.iter().map(|worker| worker.handle.clone()).collect(),
            connections: connections.clone(),
        };
        let watched = Arc::new(Watched::default());
        let mut doors = Doors::new(hall, watched.clone());
        for (listener, opening) in listeners {
            let options = self.options(config, &opening, None);
            doors.add(listener, opening, Arc::new(options));
        }
        doors.watch();
        let kept = certificates::keep(broker.clone(), watched, config.certificate_check_interval);
        let mut tasks = vec![tokio::spawn(kept)];
        if let Some(control) = control {
            let (broker, book, doorman) =
                (broker.clone(), self.admission.book(), self.doorman.clone());
            let offices = Offices { broker, book, doorman };
            tasks.push(tokio::spawn(async move { control.serve(&offices).await }));
        }
        if !config.sys_interval.is_zero() {
            tasks.push(tokio::spawn(sys::report(broker.clone(), config.sys_interval)));
        }
        let mut keeper = {
            let (broker, doorman) = (broker.clone(), self.doorman.clone());
            let journal = self.journal.clone();
            tokio::spawn(async move { keep(&broker, &doorman, &journal).await })
        };
        tell_state(config, "running");
        tell_systemd(NotifyState::Ready);
        let name = loop {
            tokio::select! {
                _ = hangup.recv() => self.reload(&mut doors, &connections).await,
                _ = terminate.recv() => break "SIGTERM",
                _ = interrupt.recv() => break "SIGINT",
                _ = &mut keeper => break "the store is damaged",
            }
        };
        keeper.abort();
        tracing::info!("{name}: stopping");
        tell_systemd(NotifyState::Stopping);
        doors.close().await;
        for task in &tasks {
            task.abort();
        }
        for task in tasks {
            let _ = task.await;
        }
        close(config, broker, &connections).await;
        if broker.store_health() == Health::Broken {
            return Err(ServerError::Damaged);
        }
        Ok(())
    }

    /// What holds for those who come by a listener, and what of it for those who came before.
    fn options(
        &self,
        config: &Config,
        opening: &Opening,
        former: Option<&Access>,
    ) -> connection::Options {
        let access = self.admission.access(opening);
        let access = match former {
            Some(former) => access.succeeding(former),
            None => access,
        };
        connection::Options {
            doorman: self.doorman.clone(),
            connect_timeout: config.connect_timeout,
            access: Arc::new(access),
            in_memory: opening.in_memory,
            admission: opening.admission.clone(),
        }
    }

    /// Reads the configuration, and who may come and what they may do, again. What is not good
    /// changes nothing.
    async fn reload(&mut self, doors: &mut Doors, connections: &Connections) {
        let Some(new) = reload::read(self.journal, self.reread) else { return };
        match self.try_reload(&new, doors).await {
            Ok(()) => {
                connections.set_max(new.connections_total_max);
                self.doorman.tune(new.doorman.clone());
                reload::take_over(self.config, new, self.broker, self.journal);
            }
            Err(error @ ServerError::Lost { .. }) => {
                tracing::error!("SIGHUP: nothing else is changed: {error}; SIGHUP tries again");
            }
            Err(error) => tracing::error!("SIGHUP: nothing is changed: {error}"),
        }
        self.admission.forget_prepared();
    }

    /// Listeners, and who may come by them.
    async fn try_reload(&mut self, new: &Config, doors: &mut Doors) -> Result<(), ServerError> {
        let openings = new.openings().map_err(ServerError::Settings)?;
        let mut files = Files::read(new, &openings)?;
        self.admission.prepare(new, &openings, &mut files, &self.broker.metrics.proofs)?;
        let mut plan = doors.plan(openings)?;
        doors.make_room(&mut plan).await?;
        self.admission.replace(files);
        self.broker.rules_replaced();
        doors.take_over(plan, |opening, former| self.options(new, opening, former)).await;
        Ok(())
    }
}

/// Says in mosquitto's place what scripts wait for in its log: its name, and how it is.
fn tell_state(config: &Config, state: &str) {
    if config.journal.look == Look::Mosquitto {
        let version = env!("CARGO_PKG_VERSION");
        tracing::info!("whimbrel {version} in place of mosquitto version {IN_PLACE_OF} {state}");
    }
}

/// Tells systemd how the broker is, where it waits to hear that.
fn tell_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("systemd is not told how the broker is: {error}");
    }
}

/// Does what is due once a second, and looks at the memory and at what is to be published of the
/// log more often; until the store is damaged.
async fn keep(broker: &Broker, doorman: &Doorman, journal: &Journal) {
    tokio::join!(expire(broker, doorman), watch(broker, journal));
}

async fn expire(broker: &Broker, doorman: &Doorman) {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    while broker.store_health() != Health::Broken {
        seconds.tick().await;
        while broker.expire() {
            tokio::task::yield_now().await;
        }
        doorman.expire(broker.now(), &broker.metrics);
    }
}

async fn watch(broker: &Broker, journal: &Journal) {
    let mut often = tokio::time::interval(MEMORY_LOOK);
    while broker.store_health() != Health::Broken {
        often.tick().await;
        publish_log(broker, journal).await;
        if broker.options().memory_max > 0
            && let Some(used) = process::memory_used()
        {
            broker.note_memory(used);
            if broker.memory_is_short() {
                process::return_memory();
            }
        }
    }
}

/// Publishes what the log has told; others have their turn in between. What is told meanwhile may
/// have to wait for the next look.
async fn publish_log(broker: &Broker, journal: &Journal) {
    for _ in 0..LOG_TURNS {
        let told = journal.told();
        if told.is_empty() {
            return;
        }
        broker.publish_log(told);
        tokio::task::yield_now().await;
    }
}

/// Reads what the settings name and says what is wrong with it, without serving.
pub fn check(config: &Config) -> Result<(), ServerError> {
    let openings = config.openings().map_err(ServerError::Settings)?;
    Files::read(config, &openings)?;
    process::user::wanted(&config.users).map_err(RightsError::User)?;
    for opening in &openings {
        Listener::read_tls(&opening.options)?;
    }
    Ok(())
}

/// The operator's socket, where there is a store.
fn control(config: &Config) -> Option<Control> {
    if config.store.durability == Durability::Memory {
        return None;
    }
    let no_control = |error: &io::Error| {
        tracing::warn!("no control socket: {error}; `whimbrel store` needs a stopped broker");
    };
    Control::open(&config.store.directory).inspect_err(no_control).ok()
}

/// Ends all connections, and waits for them as long as the settings allow.
async fn close(config: &Config, broker: &Broker, connections: &Connections) {
    let gone = async {
        while connections.count() > 0 {
            // Again each time: a Client may have been on its way in.
            broker.close_connections();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(config.shutdown_timeout, gone).await.is_err() {
        let left = connections.count();
        tracing::warn!("{left} connections did not end in time and are cut");
    }
}
