//! A file of redb becomes a store: one of this format, begun or brought to it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::{Database, ReadableDatabase, StorageBackend};

use super::error::OpenError;
use super::staged::{Gate, Staged};
use super::tables::{self, FORMAT, META, u32_of};
use super::{Options, migrate};

/// Reads a store through.
pub type Read<'r> = &'r mut dyn FnMut(&Database) -> Result<(), OpenError>;

/// Opens a store on any storage, or begins one there, and has it read through; nothing is written
/// before that is done. `path` is for errors.
pub fn open(
    storage: impl StorageBackend,
    options: &Options,
    path: &Path,
    read: Read<'_>,
) -> Result<Database, OpenError> {
    let (database, gate) = held_back(storage, options, path, read)?;
    gate.open().map_err(|error| OpenError::unreadable(path, &error))?;
    Ok(database)
}

/// Opens a store only to read it: whatever is changed is changed in memory.
pub fn look(
    storage: impl StorageBackend,
    options: &Options,
    path: &Path,
) -> Result<Database, OpenError> {
    Ok(held_back(storage, options, path, &mut |_| Ok(()))?.0)
}

fn held_back<B: StorageBackend>(
    storage: B,
    options: &Options,
    path: &Path,
    read: Read<'_>,
) -> Result<(Database, Gate<B>), OpenError> {
    let staged = Staged::new(storage);
    let (staged, gate) = staged.map_err(|error| OpenError::unreadable(path, &error))?;
    let opened = sensible(path, || {
        let database = Database::builder()
            .set_cache_size(options.cache_bytes)
            .create_with_backend(staged)
            .map_err(|error| OpenError::of_database(path, &error))?;
        check_format(&database, path)?;
        read(&database)?;
        Ok(database)
    });
    Ok((opened?, gate))
}

/// Where redb finds what cannot be it may panic: then the file is damaged.
fn sensible<T>(path: &Path, open: impl FnOnce() -> Result<T, OpenError>) -> Result<T, OpenError> {
    catch_unwind(AssertUnwindSafe(open))
        .unwrap_or_else(|_| Err(OpenError::damaged(path, "it contradicts itself")))
}

fn check_format(database: &Database, path: &Path) -> Result<(), OpenError> {
    let damaged = |error: redb::Error| OpenError::damaged(path, error);
    let found = format(database).map_err(damaged)?;
    match found {
        None => begin(database).map_err(damaged),
        Some(FORMAT) => Ok(()),
        Some(found) if found > FORMAT => {
            Err(OpenError::Newer { path: path.to_owned(), found, known: FORMAT })
        }
        Some(0) => Err(OpenError::damaged(path, "its format has no number")),
        Some(found) => migrate::migrate(database, found, path),
    }
}

/// The file's format; `None` for a file without any table.
fn format(database: &Database) -> Result<Option<u32>, redb::Error> {
    let read = database.begin_read()?;
    let meta = match read.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => {
            let is_empty = read.list_tables()?.next().is_none();
            return Ok(if is_empty { None } else { Some(0) });
        }
        Err(error) => return Err(error.into()),
    };
    let format = meta.get("format")?;
    Ok(Some(format.map_or(0, |value| u32_of(value.value()))))
}

fn begin(database: &Database) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    tables::make(&write)?;
    write.commit()?;
    Ok(())
}
