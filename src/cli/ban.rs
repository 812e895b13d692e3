//! `whimbrel ban`: who is banned, and is so no longer.

use clap::Subcommand;

use super::CliError;
use crate::doorman::operator::Request;

/// Longest name, in bytes: it goes to the broker in one line.
const NAME_MAX: usize = 4096;

/// What is to be done.
#[derive(Debug, Subcommand)]
pub enum Ban {
    /// List who is banned, for how long, and how many connections were refused for it
    List,
    /// End a ban before its time
    Lift {
        /// An address, or a Client Identifier
        who: String,
    },
}

/// What the broker is asked to do.
pub fn request(ban: &Ban) -> Result<Request, CliError> {
    match ban {
        Ban::List => Ok(Request::List),
        Ban::Lift { who } if who.contains('\n') || who.len() > NAME_MAX => {
            Err(CliError::Arguments("no name of a ban: it must be one line of at most 4,096 bytes"))
        }
        Ban::Lift { who } => Ok(Request::Lift(who.clone())),
    }
}
