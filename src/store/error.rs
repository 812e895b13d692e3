//! Why a store cannot be opened, said to the operator.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a store cannot be opened. Nothing has been written.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The directory cannot be made.
    #[error("cannot make the directory {path}: {error}", path = .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Another process has it open.
    #[error(
        "the store in {path} is in use by another process; stop that broker or give this one \
         another persistence_location",
        path = .path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The file is something else, or was damaged.
    #[error(
        "{path} is not a store of this broker or is damaged ({why}); it was left untouched: \
         restore it from a backup, or move it away to begin with an empty store",
        path = .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file was written by a newer version.
    #[error(
        "{path} has store format {found}, and this broker reads up to {known}; \
         use the broker that wrote it",
        path = .path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The file cannot be read or written.
    #[error("cannot open {path}: {why}", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The system gave no thread.
    #[error("cannot start the committer thread: {0}")]
    Thread(std::io::Error),
}

impl OpenError {
    pub(super) fn damaged(path: &Path, why: impl ToString) -> Self {
        Self::Damaged { path: path.to_owned(), why: why.to_string() }
    }

    pub(super) fn unreadable(path: &Path, why: impl ToString) -> Self {
        Self::Unreadable { path: path.to_owned(), why: why.to_string() }
    }

    pub(super) fn of_error(path: &Path, error: &redb::Error) -> Self {
        match error {
            redb::Error::Io(error) if !is_of_content(error) => {
                Self::Unreadable { path: path.to_owned(), why: error.to_string() }
            }
            other => Self::damaged(path, other),
        }
    }

    pub(super) fn of_database(path: &Path, error: &redb::DatabaseError) -> Self {
        match error {
            redb::DatabaseError::DatabaseAlreadyOpen => {
                Self::InUse { path: path.parent().unwrap_or(path).to_owned() }
            }
            redb::DatabaseError::Storage(redb::StorageError::Io(error))
                if !is_of_content(error) =>
            {
                Self::Unreadable { path: path.to_owned(), why: error.to_string() }
            }
            other => Self::damaged(path, other),
        }
    }
}

/// Whether an error is about what is in the file, not about reaching it.
fn is_of_content(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
}
