//! Root's rights are given up once what needs them is done: listeners are open and keys are read.

use std::path::PathBuf;

use thiserror::Error;

use crate::config::Config;
use crate::process::user::{self, User, UserError};
use crate::store::Durability;

/// Why the broker does not go on as another user.
#[derive(Debug, Error)]
pub enum RightsError {
    /// The user is not there, or cannot be become.
    #[error(transparent)]
    User(#[from] UserError),
    /// The store is somebody else's.
    #[error(
        "the user {user} cannot write {path}: `chown -R {user} {directory}`, or name another \
         `user` or `persistence_location`",
        path = .path.display(), directory = .directory.display()
    )]
    Store {
        /// Who.
        user: String,
        /// What.
        path: PathBuf,
        /// The store's directory.
        directory: PathBuf,
    },
}

/// Becomes the user for good; whose the store must be.
pub(super) fn give_up(config: &Config, user: &User) -> Result<(), RightsError> {
    let directory = &config.store.directory;
    let has_store = config.store.durability != Durability::Memory;
    let denied =
        |path| RightsError::Store { user: user.name.clone(), path, directory: directory.clone() };
    if has_store && let Err(error) = user.make_directory(directory) {
        tracing::warn!("cannot make the directory {}: {error}", directory.display());
    }
    user.assume()?;
    tracing::info!("going on as the user {}", user.name);
    if has_store && let Some(path) = user::not_writable(directory) {
        return Err(denied(path));
    }
    Ok(())
}
