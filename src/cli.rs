//! The command line.

mod acl;
mod passwd;
mod user;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{ArgAction, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::config::read::{self, Problem};
use crate::config::{Config, settings};
use crate::control;
use crate::server::{self, ServerError};
use crate::store;
use crate::store::tools::{Request, ToolError};
use acl::{Explain, ExplainError};
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
  whimbrel -c whimbrel.toml --check-config say what is wrong with the file
  whimbrel settings                        list all settings
  whimbrel passwd -c users alice           make a password file, with alice in it
  whimbrel user add alice                  add a user to a running broker
  whimbrel acl explain alice x publish t   say which rule decides what alice may do
  whimbrel store backup FILE               copy the store, also while the broker runs

SIGTERM and SIGINT stop the broker: Clients are told, everything is committed, exit status 0.
SIGHUP has users, passwords and rules read again; if anything is wrong with them nothing changes.")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Configuration file (TOML)
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Listen on this port of localhost instead of 1883, for a broker without listeners in a file
    #[arg(short, long)]
    port: Option<u16>,
    /// Log more; twice for everything
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
    /// Check the configuration and exit: status 0 if it is good
    #[arg(long, alias = "test-config")]
    check_config: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve; what happens without a command
    Serve {
        /// Configuration file (TOML)
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print all settings as Markdown
    Settings,
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
        /// Configuration file (TOML)
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
}

/// Why the program ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The configuration is not good.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Config(Vec<Problem>),
    /// Arguments that do not go together.
    #[error("{0}")]
    Arguments(&'static str),
    /// The broker cannot start.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A tool for the store failed.
    #[error(transparent)]
    Store(#[from] ToolError),
    /// The broker says why.
    #[error("{0}")]
    Control(String),
    /// A password file was not changed.
    #[error(transparent)]
    Passwd(#[from] PasswdError),
    /// There is no answer to `acl explain`.
    #[error(transparent)]
    Explain(#[from] ExplainError),
    /// Standard output is gone.
    #[error("cannot write: {0}")]
    Output(#[from] std::io::Error),
}

/// Does what the command line says.
pub fn run() -> Result<(), CliError> {
    let mut arguments = Arguments::parse();
    if let Some(Command::Settings) = arguments.command {
        std::io::stdout().write_all(settings::markdown().as_bytes())?;
        return Ok(());
    }
    if let Some(Command::Passwd(passwd)) = &arguments.command {
        return Ok(passwd::run(passwd)?);
    }
    if let Some(
        Command::Serve { config }
        | Command::Store { config, .. }
        | Command::User { config, .. }
        | Command::Acl { config, .. },
    ) = &mut arguments.command
    {
        // Before the command or after it.
        arguments.config = config.take().or(arguments.config);
    }
    let config = configuration(&arguments)?;
    if let Some(Command::Store { command, directory, .. }) = &arguments.command {
        return store(command, directory.clone(), config.store);
    }
    if let Some(Command::User { command, directory, .. }) = &arguments.command {
        let directory = directory.as_ref().unwrap_or(&config.store.directory);
        let request = control::Request::User(user::request(command)?);
        let nobody =
            "no broker runs on this store; start it, or name another with -c or --directory";
        let answer = control::ask(directory, &request).ok_or(CliError::Arguments(nobody))?;
        let text = answer?.map_err(CliError::Control)?;
        std::io::stdout().write_all(text.as_bytes())?;
        return Ok(());
    }
    if let Some(Command::Acl { command: AclCommand::Explain(explain), .. }) = &arguments.command {
        let answer = acl::explain(explain, &config)?;
        std::io::stdout().write_all(answer.as_bytes())?;
        return Ok(());
    }
    if arguments.check_config {
        server::check(&config)?;
        let path = arguments.config.as_deref().unwrap_or(Path::new("(no file)"));
        writeln!(std::io::stdout(), "{}: ok", path.display())?;
        return Ok(());
    }
    log(&config, arguments.verbose);
    let reread = || {
        let lines = |problems: CliError| problems.to_string();
        configuration(&arguments).map_err(lines)
    };
    server::run(&config, &reread)?;
    Ok(())
}

/// Asks the broker that has the store open, or opens the store.
fn store(
    command: &StoreCommand,
    directory: Option<PathBuf>,
    mut options: store::Options,
) -> Result<(), CliError> {
    options.directory = directory.unwrap_or(options.directory);
    let request = match command {
        StoreCommand::Stats => Request::Stats,
        StoreCommand::Check => Request::Check,
        StoreCommand::Backup { file } => Request::Backup(std::path::absolute(file)?),
    };
    let online = control::Request::Store(request.clone());
    let text = match control::ask(&options.directory, &online) {
        Some(answer) => answer?.map_err(CliError::Control)?,
        None => request.carry_out_offline(&options)?,
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn configuration(arguments: &Arguments) -> Result<Config, CliError> {
    let mut config = match &arguments.config {
        Some(path) => read::read(path).map_err(CliError::Config)?,
        None => Config::default(),
    };
    match (config.listeners.is_empty(), arguments.port) {
        (true, None) => config.listen_locally(1883, true),
        (true, Some(port)) => config.listen_locally(port, false),
        (false, None) => {}
        (false, Some(_)) => {
            return Err(CliError::Arguments("--port is for a file without [[listener]]"));
        }
    }
    Ok(config)
}

fn log(config: &Config, verbose: u8) {
    let level = match verbose {
        0 => config.log_level.as_str(),
        1 => "debug",
        _ => "trace",
    };
    let filter = match (verbose, EnvFilter::try_from_default_env()) {
        (0, Ok(filter)) => filter,
        _ => EnvFilter::new(level),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // The journal has its own clock.
    let result = if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.without_time().try_init()
    } else {
        builder.try_init()
    };
    if let Err(error) = result {
        eprintln!("whimbrel: no log: {error}");
    }
}
