//! The file of a store. Long writes go past the system's page cache.
//!
//! A busy broker's commits are mostly rows of messages that nobody reads soon. Through the page
//! cache each costs new memory, a copy into it and the bookkeeping of both: a third of all that a
//! message costs. So long writes are gathered, joined where they touch, and given to the disk as
//! they lie; short ones, and the few of an idle broker, go the usual way: there one fsync is faster
//! than a write and an fsync. Where the file system knows no other way, all go the usual one.
//!
//! What is gathered is written at the next [`StorageBackend::sync_data`]: no write was promised to
//! be on the disk before. Who reads it earlier gets it from here: redb, which has little memory of
//! its own ([`super::Options::cache_bytes`]), reads each row once more before it commits. A store
//! that survives no power loss is not synced and waits for no disk: all of it goes the usual way.

use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::{Bound, Range};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use parking_lot::{RwLock, RwLockUpgradableReadGuard};
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

/// How much is gathered.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// With fewer pages in one place the page cache is quicker.
    run_min: usize,
    /// Pages that are gathered at most, and their memory is kept; with more they are written
    /// before.
    pages_max: usize,
    /// Pieces of memory that the system takes in one call.
    slices_max: usize,
}

const BOUNDS: Bounds = Bounds { run_min: 32, pages_max: 2048, slices_max: 1024 };

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
    bounds: Bounds,
    /// Who reads from the disk does not wait for what is being written.
    gathered: RwLock<Gathered>,
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

    /// Reads what lies in one piece; false: it does not.
    fn read(&self, offset: u64, mut out: &mut [u8]) -> bool {
        let end = offset.saturating_add(out.len() as u64);
        let mut pieces = self.pieces.iter();
        let Some(piece) = pieces.find(|piece| piece.offset <= offset && end <= piece.end()) else {
            return false;
        };
        let start = (offset - piece.offset) as usize;
        let mut skipped = start % PAGE;
        let pages = self.pages.get(piece.pages.clone()).unwrap_or_default();
        for page in pages.iter().skip(start / PAGE) {
            let (_, bytes) = page.0.split_at(skipped);
            let len = bytes.len().min(out.len());
            let (part, rest) = std::mem::take(&mut out).split_at_mut(len);
            part.copy_from_slice(bytes.split_at(len).0);
            (out, skipped) = (rest, 0);
        }
        true
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
        let gathered = RwLock::default();
        Ok(Self { backend, cached, direct, is_synced, bounds: BOUNDS, gathered })
    }

    /// Writes what was gathered; after an error it still is, and is written the next time.
    fn put(&self) -> io::Result<()> {
        let gathered = self.gathered.upgradable_read();
        let mut pieces = gathered.pieces.clone();
        pieces.sort_unstable_by_key(|piece| piece.offset);
        for run in pieces.chunk_by(|left, right| left.end() == right.offset) {
            let mut slices = gathered.slices(run);
            let direct = self.direct.as_ref().filter(|_| slices.len() >= self.bounds.run_min);
            let mut offset = run.first().map_or(0, |piece| piece.offset);
            for slices in slices.chunks_mut(self.bounds.slices_max) {
                offset = write_all(direct, &self.cached, slices, offset)?;
            }
        }
        let mut gathered = RwLockUpgradableReadGuard::upgrade(gathered);
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
        let gathered = self.gathered.read();
        if gathered.read(offset, out) {
            return Ok(());
        }
        let is_in_the_way = gathered.touches(offset, out.len());
        drop(gathered);
        if is_in_the_way {
            self.put()?;
        }
        self.backend.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.put()?;
        self.backend.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if !self.is_synced {
            return Ok(());
        }
        self.put()?;
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (pages, pages_max) = (data.len() / PAGE, self.bounds.pages_max);
        let is_aligned = offset.is_multiple_of(PAGE as u64) && data.len().is_multiple_of(PAGE);
        let is_long = is_aligned && data.len() >= LONG && pages <= pages_max;
        let is_in_the_way = |gathered: &Gathered| {
            gathered.touches(offset, data.len())
                || is_long && gathered.pages.len() + pages > pages_max
        };
        if is_in_the_way(&self.gathered.read()) {
            self.put()?;
        }
        if is_long && self.direct.is_some() {
            self.gathered.write().add(offset, data);
            return Ok(());
        }
        self.backend.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        let put = self.put();
        // In any case: a file that stays locked cannot be opened again.
        self.backend.close()?;
        put
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

    /// Writes as redb does: within the file.
    fn write(file: &StoreFile, known: &mut [u8], place: Range<usize>, byte: u8) {
        let place = place.start.min(known.len())..place.end.min(known.len());
        file.write(place.start as u64, &vec![byte; place.len()]).unwrap();
        known[place].fill(byte);
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
        SetLen(usize),
        Sync,
    }

    fn step() -> impl Strategy<Value = Step> {
        let pages = |(page, pages, byte)| Step::Pages(page, pages, byte);
        let bytes = |(start, len, byte)| Step::Bytes(start, len, byte);
        prop_oneof![
            4 => (0..240_usize, 1..120_usize, any::<u8>()).prop_map(pages),
            2 => (0..LEN, 1..9_000_usize, any::<u8>()).prop_map(bytes),
            2 => (0..LEN, 1..200_000_usize).prop_map(|(o, n)| Step::Read(o, n)),
            1 => (1..LEN / PAGE).prop_map(|pages| Step::SetLen(pages * PAGE)),
            1 => Just(Step::Sync),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_read_was_written_last(steps in proptest::collection::vec(step(), 1..40)) {
            let directory = tempfile::tempdir().unwrap();
            let mut file = opened(&directory);
            // So that a megabyte comes to all of them.
            file.bounds = Bounds { run_min: 32, pages_max: 100, slices_max: 20 };
            let mut known = vec![0; LEN];
            for step in steps {
                match step {
                    Step::Pages(page, pages, byte) => {
                        let start = page * PAGE;
                        let end = start + pages * PAGE;
                        write(&file, &mut known, start..end, byte);
                    }
                    Step::Bytes(start, len, byte) => {
                        write(&file, &mut known, start..start + len, byte);
                    }
                    Step::Read(start, len) => {
                        let end = (start + len).min(known.len());
                        let mut read = vec![1; end.saturating_sub(start)];
                        file.read(start as u64, &mut read).unwrap();
                        prop_assert!(read == known[start.min(end)..end]);
                    }
                    Step::SetLen(len) => {
                        file.set_len(len as u64).unwrap();
                        known.resize(len, 0);
                    }
                    Step::Sync => {
                        file.sync_data().unwrap();
                        prop_assert!(on_disk(&directory) == known);
                    }
                }
            }
            file.close().unwrap();
            prop_assert!(on_disk(&directory) == known);
        }
    }

    #[test]
    fn what_is_gathered_is_read_without_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let file = opened(&directory);
        for row in 0..3 {
            file.write(row * LONG as u64, &vec![row as u8; LONG]).unwrap();
        }
        let mut read = vec![9; LONG - 100];
        file.read(LONG as u64 + 50, &mut read).unwrap();
        assert_eq!(read, vec![1; LONG - 100]);
        assert_eq!(on_disk(&directory)[..3 * LONG], vec![0; 3 * LONG]);
        file.read(2 * LONG as u64 - 1, &mut read[..2]).unwrap();
        assert_eq!(read[..2], [1, 2], "of two rows");
        assert_eq!(on_disk(&directory)[2 * LONG..3 * LONG], vec![2; LONG]);
    }

    #[test]
    fn what_could_not_be_written_is_written_later() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = opened(&directory);
        let path = directory.path().join("file");
        // Opened to be read only: each write to it is an error.
        file.direct = Some(File::open(&path).unwrap());
        file.write(0, &vec![7; 32 * PAGE]).unwrap();
        assert!(file.sync_data().is_err());
        let mut read = [0];
        file.read(0, &mut read).unwrap();
        assert_eq!(read, [7], "not what the disk has, which is older");
        file.direct = None;
        file.sync_data().unwrap();
        assert_eq!(on_disk(&directory)[..32 * PAGE], vec![7; 32 * PAGE]);
    }

    #[test]
    fn a_disk_that_wants_no_such_writes_gets_them_the_usual_way() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let file = opened(&directory);
        // Bytes that are not aligned are what a larger alignment of the disk looks like.
        let bytes = vec![9; LONG + 1];
        let mut slices = [IoSlice::new(&bytes[1..])];
        let end = write_all(file.direct.as_ref(), &file.cached, &mut slices, 1).unwrap();
        assert_eq!(end, 1 + LONG as u64);
        assert_eq!(std::fs::read(&path).unwrap()[1..=LONG], bytes[1..]);
    }
}
