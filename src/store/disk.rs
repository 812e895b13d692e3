//! What the file lies on: a directory of the file system, or whatever a test makes of it.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use redb::{Database, StorageBackend};

use super::Options;
use super::error::OpenError;
use super::file::StoreFile;
use super::format::{self, Read};

/// The name of the file in its directory.
pub const FILE: &str = "whimbrel.redb";

/// The extension of a directory that has the name which `persistence_file` gives.
pub const NAMED: &str = "whimbrel";

/// Where a store lies. It is opened at the start, and again after an error.
pub trait Disk: Send + 'static {
    /// Opens the file, or makes it, and has it read through before anything is written.
    fn open(&self, options: &Options, read: Read<'_>) -> Result<Database, OpenError>;

    /// Bytes that are free; `None` where nobody knows.
    fn free_bytes(&self, _options: &Options) -> Option<u64> {
        None
    }
}

/// A storage that is made anew each time.
impl<B: StorageBackend, F: Fn() -> B + Send + 'static> Disk for F {
    fn open(&self, options: &Options, read: Read<'_>) -> Result<Database, OpenError> {
        format::open(self(), options, Path::new("(storage)"), read)
    }
}

/// The permissions of a new store: messages are for who may receive them, not for every user of the
/// machine.
pub(super) const PRIVATE: u32 = 0o600;

/// The directory that the options name.
pub struct Directory;

impl Disk for Directory {
    fn open(&self, options: &Options, read: Read<'_>) -> Result<Database, OpenError> {
        let directory = &options.directory;
        std::fs::create_dir_all(directory)
            .map_err(|error| OpenError::Directory { path: directory.clone(), error })?;
        let path = directory.join(FILE);
        for other in if path.exists() { Vec::new() } else { others(directory) } {
            let (new, other) = (directory.display(), other.display());
            tracing::warn!(
                "the store in {new} is new and empty, and there is another in {other}: if that is \
                 this broker's, stop it and say where its store is as before"
            );
        }
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE)
            .open(&path)
            .map_err(|error| OpenError::unreadable(&path, &error))?;
        // After an fsync that failed, Linux counts the pages as clean: they are read as they were
        // written and will never be on the disk. What is built on them would be lost with them.
        if let Err(error) = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed) {
            tracing::warn!("the system may read the store from memory and not the disk: {error}");
        }
        format::open(StoreFile::new(file, &path, options.durability)?, options, &path, read)
    }

    fn free_bytes(&self, options: &Options) -> Option<u64> {
        let stat = rustix::fs::statvfs(&options.directory).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Where a broker may have had its store before it was told to have it in `directory`, if there is
/// one: in that above it, or in one with the name that `persistence_file` gives.
fn others(directory: &Path) -> Vec<PathBuf> {
    let above = directory.parent().filter(|above| !above.as_os_str().is_empty());
    let above = above.unwrap_or(Path::new("."));
    let is_named = |path: &Path| path.extension().is_some_and(|extension| extension == NAMED);
    let within = |place: &Path| {
        let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        paths.filter(|path| is_named(path)).collect::<Vec<_>>()
    };
    let mut all = within(directory);
    if is_named(directory) {
        all.extend(within(above));
        all.push(above.to_owned());
    }
    all.retain(|other| other != directory && other.join(FILE).exists());
    all
}

/// Opens the store of a directory, that is there, to read it: it is not written to.
pub fn look(options: &Options) -> Result<Database, OpenError> {
    let path = options.directory.join(FILE);
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path);
    let file = file.map_err(|error| OpenError::unreadable(&path, &error))?;
    let storage = redb::backends::FileBackend::new(file)
        .map_err(|error| OpenError::of_database(&path, &error))?;
    format::look(storage, options, &path)
}
