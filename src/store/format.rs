//! A file of redb becomes a store: one of this format, begun or brought to it.

use std::path::Path;

use redb::{Database, ReadableDatabase, StorageBackend};

use super::error::OpenError;
use super::tables::{self, FORMAT, META, u32_of};
use super::{Options, migrate};

/// Opens a store on any storage, or begins one there; `path` is for errors.
pub fn open(
    storage: impl StorageBackend,
    options: &Options,
    path: &Path,
) -> Result<Database, OpenError> {
    let database = Database::builder()
        .set_cache_size(options.cache_bytes)
        .create_with_backend(storage)
        .map_err(|error| OpenError::of_database(path, &error))?;
    check_format(&database, path)?;
    Ok(database)
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
