//! The command line.

mod acl;
mod against;
mod ban;
mod passwd;
mod user;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use clap::{ArgAction, Parser, Subcommand};

use crate::access::problem::FileError;
use crate::clock::Clock;
use crate::config::mosquitto::reference;
use crate::config::problem::Problem;
use crate::config::read;
use crate::config::{Config, settings};
use crate::control;
use crate::import::{self, ImportError, Terms};
use crate::journal::{self, Destination, Journal, Look};
use crate::process::user::{UserError, wanted};
use crate::server::{self, ServerError};
use crate::store::tools::{Request, ToolError};
use acl::{Explain, ExplainError};
use ban::Ban;
use passwd::{Passwd, PasswdError};
use user::User;

/// An MQTT broker that loses nothing it acknowledged.
#[derive(Debug, Parser)]
#[command(version, about, long_about = None, after_help = "\
Without a configuration the broker listens on localhost only: MQTT on port 1883, WebSocket on
port 8083. Its store is $STATE_DIRECTORY or ./whimbrel-data.

Examples:
  whimbrel                                 serve on localhost
  whimbrel -c whimbrel.toml                serve as the file says
  whimbrel -c /etc/mosquitto/mosquitto.conf  serve in mosquitto's place
  whimbrel -c whimbrel.toml --check-config say what is wrong with the file
  whimbrel -c new.toml --check-config --against old.toml  say what it would change
  whimbrel settings                        list all settings
  whimbrel passwd -c users alice           make a password file, with alice in it
  whimbrel user add alice                  add a user to a running broker
  whimbrel ban list                        say whom a running broker keeps out
  whimbrel acl explain alice x publish t   say which rule decides what alice may do
  whimbrel store backup FILE               copy the store, also while the broker runs
  whimbrel store import mosquitto.db       take over what mosquitto has kept

SIGTERM and SIGINT stop the broker: Clients are told, everything is committed, exit status 0.
SIGHUP has the configuration and all files that it names read again: listeners are opened, changed
and closed, and whoever is connected stays so. If anything is wrong nothing changes.")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Configuration file: TOML, or a mosquitto.conf
    #[arg(short, long, alias = "config-file", value_name = "FILE", overrides_with = "config")]
    config: Option<PathBuf>,
    /// Listen on this port of localhost instead of 1883, for a broker without listeners in a file
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Vec<u16>,
    /// Log more; twice for everything
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
    /// Go on in the background
    #[arg(short, long)]
    daemon: bool,
    /// Log nothing
    #[arg(short, long)]
    quiet: bool,
    /// Check the configuration and exit: status 0 if it is good
    #[arg(long, alias = "test-config")]
    check_config: bool,
    /// With --check-config: say what would change in a broker that was started with this file, and
    /// when; files that both name are not compared
    #[arg(long, value_name = "FILE", requires = "check_config")]
    against: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve; what happens without a command
    Serve {
        /// Configuration file: TOML, or a mosquitto.conf
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print all settings as Markdown
    Settings {
        /// The options of mosquitto instead, and what becomes of them
        #[arg(long)]
        mosquitto: bool,
    },
    /// Add and remove users of a password file, and change their passwords
    Passwd(Passwd),
    /// Add, change, remove and list the own users of a running broker (`stored_users`)
    User {
        #[command(subcommand)]
        command: User,
        /// Configuration file (TOML)
        #[arg(short, long, global = true, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The store's directory, if the configuration does not name it
        #[arg(long, global = true, value_name = "DIRECTORY")]
        directory: Option<PathBuf>,
    },
    /// Say who is banned by a running broker, and end bans
    Ban {
        #[command(subcommand)]
        command: Ban,
        /// Configuration file: TOML, or a mosquitto.conf
        #[arg(short, long, global = true, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The store's directory, if the configuration does not name it
        #[arg(long, global = true, value_name = "DIRECTORY")]
        directory: Option<PathBuf>,
    },
    /// Print what a running broker has counted, in the text format that Prometheus reads
    Metrics {
        /// Configuration file: TOML, or a mosquitto.conf
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The store's directory, if the configuration does not name it
        #[arg(long, value_name = "DIRECTORY")]
        directory: Option<PathBuf>,
    },
    /// Ask what Clients may do
    Acl {
        #[command(subcommand)]
        command: AclCommand,
        /// Configuration file (TOML)
        #[arg(short, long, global = true, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Look at the store, check it, copy it; also while the broker runs
    Store {
        #[command(subcommand)]
        command: StoreCommand,
        /// Configuration file: TOML, or a mosquitto.conf
        #[arg(short, long, global = true, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The store's directory, if the configuration does not name it
        #[arg(long, global = true, value_name = "DIRECTORY")]
        directory: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum AclCommand {
    /// Say whether a Client may do something, and which rule says so
    Explain(Explain),
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Say what is in it
    Stats,
    /// Read it all and say what does not add up: status 0 if it is sound. Of a stopped broker's
    /// store all pages are checked too
    Check,
    /// Copy it, consistent as of one moment, to a file that does not exist. To restore: stop the
    /// broker, put the file in place of whimbrel.redb, start the broker
    Backup {
        /// The copy
        file: PathBuf,
    },
    /// Take over what mosquitto has kept in its mosquitto.db: Sessions, subscriptions, messages.
    /// Both brokers must be stopped; nothing that is in the store already is touched
    Import {
        /// mosquitto's file, of version 5 or 6 (mosquitto 1.6 and 2)
        file: PathBuf,
    },
}

/// Why the program ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The configuration is not good.
    #[error("{}", listed(.0, ""))]
    Config(Vec<Problem>),
    /// The same of a mosquitto.conf.
    #[error("{}", listed(.0, "Error: "))]
    Mosquitto(Vec<Problem>),
    /// A file of passwords or rules that a mosquitto.conf names is not good.
    #[error("Error: {0}")]
    MosquittoFile(FileError),
    /// A command line that is not good, in mosquitto's place.
    #[error("{0}")]
    MosquittoArguments(clap::Error),
    /// Arguments that do not go together.
    #[error("{0}")]
    Arguments(&'static str),
    /// The broker cannot start.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A tool for the store failed.
    #[error(transparent)]
    Store(#[from] ToolError),
    /// Nothing was taken over.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The broker says why.
    #[error("{0}")]
    Control(String),
    /// A password file was not changed.
    #[error(transparent)]
    Passwd(#[from] PasswdError),
    /// There is no answer to `acl explain`.
    #[error(transparent)]
    Explain(#[from] ExplainError),
    /// The process does not become the user that the settings name.
    #[error(transparent)]
    User(#[from] UserError),
    /// Standard output is gone.
    #[error("cannot write: {0}")]
    Output(#[from] std::io::Error),
}

fn listed(problems: &[Problem], start: &str) -> String {
    let lines: Vec<_> = problems.iter().map(|problem| format!("{start}{problem}")).collect();
    lines.join("\n")
}

impl CliError {
    /// The process's exit status; as mosquitto's where a mosquitto.conf is not good.
    pub fn status(&self) -> u8 {
        match self {
            Self::Mosquitto(_) | Self::MosquittoFile(_) | Self::MosquittoArguments(_) => 3,
            _ => 1,
        }
    }
}

/// Does what the command line says.
pub fn run() -> Result<(), CliError> {
    let mut arguments = arguments()?;
    if let Some(Command::Settings { mosquitto }) = arguments.command {
        let page = if mosquitto { reference::markdown() } else { settings::markdown() };
        std::io::stdout().write_all(page.as_bytes())?;
        return Ok(());
    }
    if let Some(Command::Passwd(passwd)) = &arguments.command {
        return Ok(passwd::run(passwd)?);
    }
    if let Some(
        Command::Serve { config }
        | Command::Store { config, .. }
        | Command::User { config, .. }
        | Command::Ban { config, .. }
        | Command::Metrics { config, .. }
        | Command::Acl { config, .. },
    ) = &mut arguments.command
    {
        // Before the command or after it.
        arguments.config = config.take().or(arguments.config);
    }
    let mut config = configuration(&arguments)?;
    if let Some(Command::Store { command, directory, .. }) = &arguments.command {
        if let Some(directory) = directory {
            config.store.directory.clone_from(directory);
        }
        return store(command, &config);
    }
    if let Some(Command::User { command, directory, .. }) = &arguments.command {
        let request = control::Request::User(user::request(command)?);
        return have_done(&request, directory.as_ref().unwrap_or(&config.store.directory));
    }
    if let Some(Command::Ban { command, directory, .. }) = &arguments.command {
        let request = control::Request::Ban(ban::request(command)?);
        return have_done(&request, directory.as_ref().unwrap_or(&config.store.directory));
    }
    if let Some(Command::Metrics { directory, .. }) = &arguments.command {
        let directory = directory.as_ref().unwrap_or(&config.store.directory);
        return have_done(&control::Request::Metrics, directory);
    }
    if let Some(Command::Acl { command: AclCommand::Explain(explain), .. }) = &arguments.command {
        let answer = acl::explain(explain, &config)?;
        std::io::stdout().write_all(answer.as_bytes())?;
        return Ok(());
    }
    if arguments.check_config {
        return check_config(&arguments, &config);
    }
    if arguments.daemon && is_left_to_a_child()? {
        return Ok(());
    }
    adjust(&mut config.journal, &arguments);
    make_log_files(&config)?;
    let journal = Journal::start(&config.journal);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let reread = || {
        let mut config = configuration(&arguments).map_err(|error| error.to_string())?;
        adjust(&mut config.journal, &arguments);
        Ok(config)
    };
    server::run(&config, &journal, &reread).map_err(|error| failed(error, &config))?;
    Ok(())
}

/// What the command line says; asked for help or the version, the process ends here.
fn arguments() -> Result<Arguments, CliError> {
    Arguments::try_parse().or_else(|error| match error.use_stderr() && is_called_mosquitto() {
        true => Err(CliError::MosquittoArguments(error)),
        false => error.exit(),
    })
}

fn failed(error: ServerError, config: &Config) -> CliError {
    match error {
        ServerError::File(error) if config.journal.look == Look::Mosquitto => {
            CliError::MosquittoFile(error)
        }
        error => CliError::Server(error),
    }
}

/// Has the broker that runs on a store do something.
fn have_done(request: &control::Request, directory: &Path) -> Result<(), CliError> {
    let nobody = "no broker runs on this store; start it, or name another with -c or --directory";
    let answer = control::ask(directory, request).ok_or(CliError::Arguments(nobody))?;
    let text = answer?.map_err(CliError::Control)?;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// Says what is wrong with a configuration, and what it would change.
fn check_config(arguments: &Arguments, config: &Config) -> Result<(), CliError> {
    server::check(config).map_err(|error| failed(error, config))?;
    let path = arguments.config.as_deref().unwrap_or(Path::new("(no file)"));
    let mut out = std::io::stdout().lock();
    for warning in &config.warnings {
        writeln!(out, "{warning}")?;
    }
    if let Some(running) = &arguments.against {
        let running = read::read(running).map_err(CliError::Config)?;
        out.write_all(against::lines(&running, config).as_bytes())?;
    }
    writeln!(out, "{}: ok", path.display())?;
    Ok(())
}

/// Asks the broker that has the store open, or opens the store.
fn store(command: &StoreCommand, config: &Config) -> Result<(), CliError> {
    let options = &config.store;
    let request = match command {
        StoreCommand::Stats => Request::Stats,
        StoreCommand::Check => Request::Check,
        StoreCommand::Backup { file } => Request::Backup(std::path::absolute(file)?),
        StoreCommand::Import { file } => {
            if let Some(user) = wanted(&config.users)? {
                // Whose the store is to be.
                user.make_directory(&options.directory)?;
                user.assume()?;
            }
            let terms = Terms { now: Clock::system().now(), knows_users: config.knows_users() };
            let text = import::run(file, options, terms)?.to_string();
            std::io::stdout().write_all(text.as_bytes())?;
            return Ok(());
        }
    };
    let online = control::Request::Store(request.clone());
    let text = match control::ask(&options.directory, &online) {
        Some(answer) => answer?.map_err(CliError::Control)?,
        None => request.carry_out_offline(options)?,
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn configuration(arguments: &Arguments) -> Result<Config, CliError> {
    let mut config = match &arguments.config {
        Some(path) => read::read(path).map_err(|problems| match read::is_of_mosquitto(path) {
            true => CliError::Mosquitto(problems),
            false => CliError::Config(problems),
        })?,
        None if is_called_mosquitto() => {
            read::parse("", Path::new("mosquitto.conf")).map_err(CliError::Mosquitto)?
        }
        None => Config::default(),
    };
    let is_mosquitto = config.journal.look == Look::Mosquitto;
    match (config.listeners.is_empty(), arguments.port.as_slice()) {
        (true, []) => config.listen_locally(1883, !is_mosquitto),
        (true, ports) => ports.iter().for_each(|&port| config.listen_locally(port, false)),
        (false, []) => {}
        // As there.
        (false, _) if is_mosquitto => {}
        (false, _) => {
            return Err(CliError::Arguments("--port is for a file without [[listener]]"));
        }
    }
    Ok(config)
}

/// Whether the program stands in mosquitto's place under its name, as a link or a copy.
fn is_called_mosquitto() -> bool {
    let name = std::env::args_os().next();
    name.is_some_and(|name| Path::new(&name).file_name() == Some("mosquitto".as_ref()))
}

/// Makes the log's files that are not there, so that the user whom the process becomes may open
/// them again. What cannot be made is said when the log begins.
fn make_log_files(config: &Config) -> Result<(), UserError> {
    let Some(user) = wanted(&config.users)? else { return Ok(()) };
    for destination in &config.journal.destinations {
        if let Destination::File(path) = destination {
            let _ = user.make_file(path);
        }
    }
    Ok(())
}

/// In the environment of the process that goes on in the background.
const IN_BACKGROUND: &str = "WHIMBREL_IN_BACKGROUND";

/// Whether another process of this program serves in the background, which has no terminal.
/// False: this is it.
fn is_left_to_a_child() -> Result<bool, CliError> {
    if std::env::var_os(IN_BACKGROUND).is_some() {
        rustix::process::setsid().map_err(std::io::Error::from)?;
        return Ok(false);
    }
    let mut child = std::process::Command::new(std::env::current_exe()?);
    child.args(std::env::args_os().skip(1)).env(IN_BACKGROUND, "1");
    child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    Ok(true)
}

/// What the command line and the environment say of the log.
fn adjust(options: &mut journal::Options, arguments: &Arguments) {
    let from_environment = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    match (arguments.verbose, from_environment) {
        (0, None) => {}
        (0, Some(filter)) => options.filter = filter,
        (1, _) => options.filter = "debug".into(),
        (_, _) => options.filter = "trace".into(),
    }
    if arguments.verbose > 0 {
        options.kinds = journal::kind::ALL;
    }
    if arguments.quiet {
        options.destinations.clear();
    }
}
