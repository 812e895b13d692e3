//! `whimbrel user`: the broker's own users, changed while it runs.

use clap::Subcommand;

use super::passwd::{PasswdError, ask, check_password, check_user, secrets};
use crate::access::book::Request;

/// Longest name, in bytes: it goes to the broker in one line.
const NAME_MAX: usize = 4096;

/// What is to be done.
#[derive(Debug, Subcommand)]
pub enum User {
    /// Add a user; the password is asked for, or is a line of standard input
    Add {
        /// Write what SCRAM-SHA-256 needs too
        #[arg(long)]
        scram: bool,
        /// The user name
        name: String,
    },
    /// Change a user's password, which is asked for, or is a line of standard input
    Passwd {
        /// Write what SCRAM-SHA-256 needs too
        #[arg(long)]
        scram: bool,
        /// The user name
        name: String,
    },
    /// Remove a user, whose connections end
    Remove {
        /// The user name
        name: String,
    },
    /// List the user names
    List,
}

/// What the broker is asked to do.
pub fn request(user: &User) -> Result<Request, PasswdError> {
    let secrets_for = |name: &str, scram: bool| {
        check_user(name)?;
        if name.len() > NAME_MAX {
            return Err(PasswdError::UserName("must not be longer than 4,096 bytes"));
        }
        let password = ask()?;
        check_password(&password)?;
        secrets(&password, scram)
    };
    Ok(match user {
        User::List => Request::List,
        User::Remove { name } => Request::Remove(name.clone()),
        User::Add { name, scram } => Request::Add(name.clone(), secrets_for(name, *scram)?),
        User::Passwd { name, scram } => Request::Change(name.clone(), secrets_for(name, *scram)?),
    })
}
