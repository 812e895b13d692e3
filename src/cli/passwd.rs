//! `whimbrel passwd`: users and passwords in a password file, as mosquitto_passwd does it.

use std::io::{self, BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::access::file::Lines;
use crate::access::keys::Keys;
use crate::access::{password, random};

/// Longest password, in bytes: as much as CONNECT can hold.
const PASSWORD_MAX: u64 = 65_535;

/// Arguments of the command.
#[derive(Debug, Args)]
#[command(after_help = "\
The password is asked for twice, or is a line of standard input if that is no terminal. A running
broker knows of the change after SIGHUP.

Examples:
  whimbrel passwd -c users alice           make the file `users`, with alice in it
  whimbrel passwd users bob                add bob, or give him another password
  whimbrel passwd --scram users bob        the same, for SCRAM-SHA-256 too
  whimbrel passwd -D users bob             remove bob
  whimbrel passwd -U users                 hash the passwords of a file of user:password")]
pub struct Passwd {
    /// Make the file, which must not exist
    #[arg(short, long, conflicts_with_all = ["delete", "upgrade"])]
    create: bool,
    /// Take the password from the command line, where others can see it
    #[arg(short, long, requires = "password", conflicts_with_all = ["delete", "upgrade"])]
    batch: bool,
    /// Remove the user
    #[arg(short = 'D', long, conflicts_with = "upgrade")]
    delete: bool,
    /// Hash the passwords that are not hashed
    #[arg(short = 'U', long, conflicts_with = "user")]
    upgrade: bool,
    /// Write what SCRAM-SHA-256 needs too; for a user who has it already it is always renewed
    #[arg(long, conflicts_with = "delete")]
    scram: bool,
    /// The password file
    file: PathBuf,
    /// The user
    #[arg(required_unless_present = "upgrade")]
    user: Option<String>,
    /// The password, with -b
    #[arg(requires = "batch")]
    password: Option<String>,
}

/// Why the file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum PasswdError {
    /// The file cannot be read or written.
    #[error("{}: {error}{hint}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
        /// What to do about it.
        hint: &'static str,
    },
    /// There is no such user.
    #[error("{}: no user `{user}`", .path.display())]
    NoUser {
        /// The file.
        path: PathBuf,
        /// Who is not there.
        user: String,
    },
    /// What a line of the file or a CONNECT packet cannot hold.
    #[error("a user name {0}")]
    UserName(&'static str),
    /// The same for passwords.
    #[error("a password {0}")]
    Password(&'static str),
    /// The terminal, standard input or the system's randomness failed.
    #[error("no password: {0}")]
    Input(#[from] io::Error),
    /// It cannot be hashed.
    #[error("the password cannot be hashed: {0}")]
    Hash(String),
}

/// Does what the arguments say.
pub fn run(arguments: &Passwd) -> Result<(), PasswdError> {
    let Passwd { file, user, scram, .. } = arguments;
    let mut lines = read(arguments)?;
    match user {
        None => {
            for (user, password) in lines.not_hashed() {
                check_password(&password)?;
                let scram = *scram || lines.has_scram(&user);
                lines.set(&user, &secrets(&password, scram)?);
            }
        }
        Some(user) if arguments.delete => {
            if !lines.remove(user) {
                return Err(PasswdError::NoUser { path: file.clone(), user: user.clone() });
            }
        }
        Some(user) => {
            check_user(user)?;
            let password = match &arguments.password {
                Some(password) => password.clone(),
                None => ask()?,
            };
            check_password(&password)?;
            // Else the old password would still do there.
            let scram = *scram || lines.has_scram(user);
            lines.set(user, &secrets(&password, scram)?);
        }
    }
    lines.write(file).map_err(|error| failed(file, error, ""))
}

fn failed(path: &Path, error: io::Error, hint: &'static str) -> PasswdError {
    PasswdError::File { path: path.to_owned(), error, hint }
}

fn read(arguments: &Passwd) -> Result<Lines, PasswdError> {
    let file = &arguments.file;
    if !arguments.create {
        return Lines::read(file).map_err(|error| {
            let is_missing = error.kind() == io::ErrorKind::NotFound && !arguments.upgrade;
            failed(file, error, if is_missing { "; -c makes a new one" } else { "" })
        });
    }
    if file.exists() {
        let error = io::ErrorKind::AlreadyExists.into();
        return Err(failed(file, error, "; without -c it is changed"));
    }
    Ok(Lines::default())
}

pub(super) fn secrets(password: &str, scram: bool) -> Result<Vec<String>, PasswdError> {
    let hash = password::argon2id(password.as_bytes(), &random::bytes()?);
    let mut secrets = vec![hash.map_err(|error| PasswdError::Hash(error.to_string()))?];
    if scram {
        let unfit = PasswdError::Password("for SCRAM may hold no control characters (RFC 4013)");
        secrets.push(Keys::new(password, &random::bytes()?).ok_or(unfit)?.to_string());
    }
    Ok(secrets)
}

pub(super) fn check_user(user: &str) -> Result<(), PasswdError> {
    Err(PasswdError::UserName(match user {
        "" => "must not be empty",
        _ if user.contains(':') => "must not hold `:`, which ends it in the file",
        _ if user.starts_with('#') => "must not begin with `#`, which makes a line a comment",
        _ if user.contains(char::is_control) => "must not hold control characters",
        _ if user.len() as u64 > PASSWORD_MAX => "must not be longer than 65,535 bytes",
        _ => return Ok(()),
    }))
}

pub(super) fn check_password(password: &str) -> Result<(), PasswdError> {
    Err(PasswdError::Password(match password {
        "" => "must not be empty",
        _ if password.len() as u64 > PASSWORD_MAX => "must not be longer than 65,535 bytes",
        _ => return Ok(()),
    }))
}

pub(super) fn ask() -> Result<String, PasswdError> {
    if !io::stdin().is_terminal() {
        let mut line = String::new();
        io::stdin().lock().take(PASSWORD_MAX + 2).read_line(&mut line)?;
        let line = line.strip_suffix('\n').unwrap_or(&line);
        return Ok(line.strip_suffix('\r').unwrap_or(line).to_owned());
    }
    let password = rpassword::prompt_password("Password: ")?;
    if password != rpassword::prompt_password("The same again: ")? {
        return Err(PasswdError::Password("and its repetition must be the same"));
    }
    Ok(password)
}
