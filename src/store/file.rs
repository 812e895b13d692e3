//! The file of a store. Long writes go past the system's page cache.
//!
//! A busy broker's commits are mostly rows of messages that nobody reads soon. Through the page
//! cache each costs new memory, a copy into it and the bookkeeping of both: a third of all that a
//! message costs. So long writes are gathered, joined where they touch, and given to the disk as
//! they lie; short ones, and the few of an idle broker, go the usual way: there one fsync is faster
//! than a write and an fsync. Where the file system knows no other way, all go the usual one.
//!
//! What is gathered is written at the next [`StorageBackend::sync_data`]: no write was promised to
//! be on the disk before. Who reads it earlier has it written first. A store that survives no power
//! loss is not synced and waits for no disk: all of it goes the usual way.

use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::{Bound, Range};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use parking_lot::Mutex;
use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};
use rustix::fs::OFlags;
use rustix::io::{Errno, pwritev};

use super::Durability;
use super::error::OpenError;

/// What address, offset and length of such a write must be multiples of: enough for every usual
/// disk.
const PAGE: usize = 4096;

/// A write of so many bytes is long: a full row of messages.
const LONG: usize = 64 << 10;

/// With less in one place the page cache is quicker.
const RUN_MIN: usize = 128 << 10;

/// Pages that are gathered at most, and their memory is kept; with more they are written before.
const PAGES_MAX: usize = 2048;

/// Pieces of memory that the system takes in one call.
const SLICES_MAX: usize = 1024;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct StoreFile {
    backend: FileBackend,
    /// The backend's file.
    cached: File,
    /// The same file, past the page cache; `None` where the file system does not offer it, and
    /// where nothing is synced.
    direct: Option<File>,
    is_synced: bool,
    gathered: Mutex<Gathered>,
}

/// A page at an address that the disk can read from.
#[derive(Clone, Debug)]
#[repr(align(4096))]
struct Page([u8; PAGE]);

#[derive(Debug, Default)]
struct Gathered {
    pages: Vec<Page>,
    pieces: Vec<Piece>,
}

/// A write that was gathered.
#[derive(Clone, Debug)]
struct Piece {
    offset: u64,
    pages: Range<usize>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.offset.saturating_add((self.pages.len() * PAGE) as u64)
    }
}

impl Gathered {
    fn touches(&self, offset: u64, len: usize) -> bool {
        let end = offset.saturating_add(len as u64);
        self.pieces.iter().any(|piece| piece.offset < end && offset < piece.end())
    }

    fn add(&mut self, offset: u64, data: &[u8]) {
        let first = self.pages.len();
        self.pages.extend(data.as_chunks().0.iter().map(|bytes| Page(*bytes)));
        self.pieces.push(Piece { offset, pages: first..self.pages.len() });
    }

    fn slices(&self, run: &[Piece]) -> Vec<IoSlice<'_>> {
        let pages = run.iter().filter_map(|piece| self.pages.get(piece.pages.clone())).flatten();
        pages.map(|page| IoSlice::new(&page.0)).collect()
    }
}

impl StoreFile {
    /// `file` is open already, and opened at `path` once more.
    pub(super) fn new(file: File, path: &Path, durability: Durability) -> Result<Self, OpenError> {
        let is_synced = durability == Durability::Fsync;
        let open = || {
            let flags = OFlags::DIRECT.bits().cast_signed();
            let direct = File::options().write(true).custom_flags(flags).open(path);
            let note = |error: &io::Error| {
                tracing::debug!("{} is written through the page cache: {error}", path.display());
            };
            direct.inspect_err(note).ok()
        };
        let direct = is_synced.then(open).flatten();
        let cached = file.try_clone().map_err(|error| OpenError::unreadable(path, &error))?;
        let backend =
            FileBackend::new(file).map_err(|error| OpenError::of_database(path, &error))?;
        Ok(Self { backend, cached, direct, is_synced, gathered: Mutex::default() })
    }

    /// Writes what was gathered; after an error it still is, and is written the next time.
    fn put(&self, gathered: &mut Gathered) -> io::Result<()> {
        gathered.pieces.sort_unstable_by_key(|piece| piece.offset);
        for run in gathered.pieces.chunk_by(|left, right| left.end() == right.offset) {
            let mut slices = gathered.slices(run);
            let direct = self.direct.as_ref().filter(|_| slices.len() * PAGE >= RUN_MIN);
            let mut offset = run.first().map_or(0, |piece| piece.offset);
            for slices in slices.chunks_mut(SLICES_MAX) {
                offset = write_all(direct, &self.cached, slices, offset)?;
            }
        }
        gathered.pieces.clear();
        gathered.pages.clear();
        Ok(())
    }
}

/// Writes all of it, past the page cache if it can be; where the next byte belongs.
fn write_all(
    mut direct: Option<&File>,
    cached: &File,
    mut slices: &mut [IoSlice<'_>],
    mut offset: u64,
) -> io::Result<u64> {
    while !slices.is_empty() {
        match pwritev(direct.unwrap_or(cached), slices, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                IoSlice::advance_slices(&mut slices, written);
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            // This file system, or what is left after a part was written, cannot be.
            Err(Errno::INVAL) if direct.is_some() => direct = None,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(offset)
}

impl StorageBackend for StoreFile {
    fn len(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut gathered = self.gathered.lock();
        if gathered.touches(offset, out.len()) {
            self.put(&mut gathered)?;
        }
        drop(gathered);
        self.backend.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.put(&mut self.gathered.lock())?;
        self.backend.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if !self.is_synced {
            return Ok(());
        }
        self.put(&mut self.gathered.lock())?;
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let pages = data.len() / PAGE;
        let is_aligned = offset.is_multiple_of(PAGE as u64) && data.len().is_multiple_of(PAGE);
        let is_long = is_aligned && data.len() >= LONG && pages <= PAGES_MAX;
        let mut gathered = self.gathered.lock();
        if gathered.touches(offset, data.len()) || gathered.pages.len() + pages > PAGES_MAX {
            self.put(&mut gathered)?;
        }
        if is_long && self.direct.is_some() {
            gathered.add(offset, data);
            return Ok(());
        }
        drop(gathered);
        self.backend.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.put(&mut self.gathered.lock())?;
        self.backend.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.backend.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEN: usize = 1 << 20;

    fn opened(directory: &tempfile::TempDir) -> StoreFile {
        let path = directory.path().join("file");
        let file =
            File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        file.set_len(LEN as u64).unwrap();
        StoreFile::new(file, &path, Durability::Fsync).unwrap()
    }

    fn on_disk(directory: &tempfile::TempDir) -> Vec<u8> {
        std::fs::read(directory.path().join("file")).unwrap()
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// A page, how many pages, and what is written.
        Pages(usize, usize, u8),
        Bytes(usize, usize, u8),
        Read(usize, usize),
        Sync,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..240_usize, 1..80_usize, any::<u8>()).prop_map(|(p, n, b)| Step::Pages(p, n, b)),
            2 => (0..LEN, 1..9_000_usize, any::<u8>()).prop_map(|(o, n, b)| Step::Bytes(o, n, b)),
            2 => (0..LEN, 1..200_000_usize).prop_map(|(o, n)| Step::Read(o, n)),
            1 => Just(Step::Sync),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_read_is_what_was_written_last(steps in proptest::collection::vec(step(), 1..40)) {
            let directory = tempfile::tempdir().unwrap();
            let direct = opened(&directory);
            let mut known = vec![0; LEN];
            for step in steps {
                match step {
                    Step::Pages(page, pages, byte) => {
                        let start = page * PAGE;
                        let end = (start + pages * PAGE).min(LEN);
                        direct.write(start as u64, &vec![byte; end - start]).unwrap();
                        known[start..end].fill(byte);
                    }
                    Step::Bytes(start, len, byte) => {
                        let end = (start + len).min(LEN);
                        direct.write(start as u64, &vec![byte; end - start]).unwrap();
                        known[start..end].fill(byte);
                    }
                    Step::Read(start, len) => {
                        let end = (start + len).min(LEN);
                        let mut read = vec![1; end - start];
                        direct.read(start as u64, &mut read).unwrap();
                        prop_assert!(read == known[start..end]);
                    }
                    Step::Sync => {
                        direct.sync_data().unwrap();
                        prop_assert!(on_disk(&directory) == known);
                    }
                }
            }
            direct.close().unwrap();
            prop_assert!(on_disk(&directory) == known);
        }
    }

    #[test]
    fn what_could_not_be_written_is_written_later() {
        let directory = tempfile::tempdir().unwrap();
        let mut direct = opened(&directory);
        let path = directory.path().join("file");
        // Opened to be read only: each write to it is an error.
        direct.direct = Some(File::open(&path).unwrap());
        direct.write(0, &vec![7; RUN_MIN]).unwrap();
        assert!(direct.sync_data().is_err());
        assert!(direct.read(0, &mut [0]).is_err(), "not what the disk has, which is older");
        direct.direct = None;
        direct.sync_data().unwrap();
        assert_eq!(on_disk(&directory)[..RUN_MIN], vec![7; RUN_MIN]);
    }

    #[test]
    fn a_disk_that_wants_no_such_writes_gets_them_the_usual_way() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let direct = opened(&directory);
        // Bytes that are not aligned are what a larger alignment of the disk looks like.
        let bytes = vec![9; RUN_MIN + 1];
        let mut slices = [IoSlice::new(&bytes[1..])];
        let end = write_all(direct.direct.as_ref(), &direct.cached, &mut slices, 1).unwrap();
        assert_eq!(end, 1 + RUN_MIN as u64);
        assert_eq!(std::fs::read(&path).unwrap()[1..=RUN_MIN], bytes[1..]);
    }
}
