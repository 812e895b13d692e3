//! The file opened, and the accounts of what is in it.

use redb::Database;

use super::disk::Disk;
use super::error::OpenError;
use super::ledger::Ledger;
use super::recover::{Ids, RecoverError, recover};
use super::{Options, Recovered};

/// Opens the file and reads it through; nothing is written to one that cannot be.
pub(super) fn open(
    disk: &dyn Disk,
    options: &Options,
) -> Result<(Database, Ledger, (Recovered, Ids)), OpenError> {
    let mut read = None;
    let database = disk.open(options, &mut |database| {
        let mut ledger = Ledger::default();
        let recovered = recover(database, &mut ledger).map_err(|error| match error {
            RecoverError::Database(error) => OpenError::of_error(&options.directory, &error),
            RecoverError::Row(error) => OpenError::damaged(&options.directory, error),
        })?;
        read = Some((ledger, recovered));
        Ok(())
    })?;
    let unread = || OpenError::damaged(&options.directory, "it was not read");
    let (ledger, recovered) = read.ok_or_else(unread)?;
    Ok((database, ledger, recovered))
}
