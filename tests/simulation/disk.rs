//! A disk in memory whose power can be cut.
//!
//! What was not synced is lost, kept or torn, sector by sector and in any combination. Which, is
//! decided by the seed of the cut and the sector's place, so it does not depend on the order in
//! which a batch was written. A cut in the middle of a batch is a cut at the sync that ends it:
//! every set of sectors that the former can leave, the latter can leave too.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use redb::StorageBackend;

use crate::random::Random;

const SECTOR: usize = 512;

/// Whether the machine has power. Everything in it stops when it has not.
#[derive(Clone, Debug)]
pub struct Power(Arc<AtomicBool>);

impl Power {
    fn on() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    fn cut(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// See the head of this file. A clone is the same disk.
#[derive(Clone, Debug)]
pub struct Disk(Arc<Mutex<Platter>>, Power);

#[derive(Clone, Debug, Default)]
struct Platter {
    synced: Vec<u8>,
    written: Vec<u8>,
    /// Sectors that differ, or may, and that the next sync makes alike.
    dirty: BTreeSet<usize>,
    /// Sectors that differ and that no sync looks at any more.
    lost: BTreeSet<usize>,
    /// Whether it most often only says that it syncs, and how often it has been asked.
    lies: bool,
    asked: u64,
    /// Whether the system goes on when the power is cut: only the process ends.
    outlives: bool,
    /// Whether an error was returned.
    failed: bool,
    /// So many syncs from now the power is cut.
    cut_after_syncs: Option<u64>,
    /// So many operations that change the disk from now one fails.
    fail_after: Option<u64>,
    /// Whether all that come after it fail too, until it is healed.
    fails_on: bool,
    /// Whether a sync that fails is the last that is heard of what was to be synced, as with
    /// Linux: it is read as it was written and is not on the disk.
    forgets: bool,
}

impl Disk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::with(Vec::new(), false)
    }

    /// The power it hangs on.
    pub fn power(&self) -> &Power {
        &self.1
    }

    /// Another disk with the same content, all of it synced.
    pub fn copy(&self) -> Self {
        let Platter { written, outlives, .. } = &*self.0.lock();
        let copy = Self::with(written.clone(), false);
        copy.0.lock().outlives = *outlives;
        copy
    }

    fn with(content: Vec<u8>, lies: bool) -> Self {
        let platter =
            Platter { synced: content.clone(), written: content, lies, ..Platter::default() };
        Self(Arc::new(Mutex::new(platter)), Power::on())
    }

    /// The same disk, opened anew: what is read is what is on it, as far as it will not be synced.
    pub fn opened(&self) -> Self {
        let mut platter = self.0.lock();
        let Platter { synced, written, lost, .. } = &mut *platter;
        for sector in std::mem::take(lost) {
            let start = (sector * SECTOR).min(written.len());
            let end = (start + SECTOR).min(written.len());
            let there = end.min(synced.len()).max(start);
            written[start..end].fill(0);
            if let Some(old) = synced.get(start..there) {
                written[start..there].copy_from_slice(old);
            }
        }
        drop(platter);
        self.clone()
    }

    /// From now on two of three syncs do nothing, and what was not synced is lost as a whole.
    pub fn lie(&self) {
        self.0.lock().lies = true;
    }

    /// From now on a cut is the end of the process alone: what was written is there.
    pub fn outlive(&self) {
        self.0.lock().outlives = true;
    }

    /// Cuts the power at the sync after the next `n`.
    pub fn cut_after_syncs(&self, n: u64) {
        self.0.lock().cut_after_syncs = Some(n);
    }

    /// Fails at the operation after the next `n`.
    pub fn fail_after(&self, n: u64, fails_on: bool, forgets: bool) {
        let mut platter = self.0.lock();
        platter.fail_after = Some(n);
        (platter.fails_on, platter.forgets) = (fails_on, forgets);
    }

    /// It works again, and goes on to.
    pub fn heal(&self) {
        let mut platter = self.0.lock();
        (platter.fail_after, platter.failed) = (None, false);
    }

    /// Whether an error was returned.
    pub fn has_failed(&self) -> bool {
        self.0.lock().failed
    }

    /// Cuts the power, and returns the disk as it is when the power is back.
    pub fn cut(&self, seed: u64) -> Self {
        self.1.cut();
        let platter = self.0.lock();
        let mut random = Random::new(seed);
        if platter.lies {
            return Self::with(platter.synced.clone(), true);
        }
        if platter.outlives {
            let kept = Self::with(platter.written.clone(), false);
            kept.outlive();
            return kept;
        }
        let kept_in_8 = random.pick(&[0, 1, 4, 7, 8]);
        let len = match random.one_in(2) {
            true => platter.written.len(),
            false => platter.synced.len(),
        };
        let mut after = platter.synced.clone();
        after.resize(platter.written.len().max(after.len()), 0);
        for &sector in &platter.dirty {
            let mut random =
                Random::new(seed ^ (sector as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93));
            let start = sector * SECTOR;
            let end = (start + SECTOR).min(platter.written.len());
            if start >= end {
                continue;
            }
            let torn_at = match (random.below(8) < kept_in_8, random.one_in(8)) {
                (_, true) => start + random.below((end - start) as u64) as usize,
                (true, false) => end,
                (false, false) => start,
            };
            after[start..torn_at].copy_from_slice(&platter.written[start..torn_at]);
        }
        after.truncate(len);
        Self::with(after, platter.lies)
    }
}

impl Platter {
    /// What every operation that changes something asks first.
    fn may_change(&mut self, power: &Power) -> io::Result<()> {
        if !power.is_on() {
            return Err(io::Error::other("no power"));
        }
        if self.failed && self.fails_on {
            return Err(io::Error::other("simulated error"));
        }
        match self.fail_after {
            Some(0) => {
                self.fail_after = None;
                self.failed = true;
                Err(io::Error::other("simulated error"))
            }
            Some(n) => {
                self.fail_after = Some(n - 1);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().written.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.0.lock();
        if !self.1.is_on() {
            return Err(io::Error::other("no power"));
        }
        if platter.failed && platter.fails_on {
            return Err(io::Error::other("simulated error"));
        }
        let start = offset as usize;
        let bytes = platter.written.get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut platter = self.0.lock();
        platter.may_change(&self.1)?;
        let (old, new) = (platter.written.len(), len as usize);
        platter.written.resize(new, 0);
        platter.dirty.extend(old.min(new) / SECTOR..old.max(new).div_ceil(SECTOR));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platter = self.0.lock();
        if let Err(error) = platter.may_change(&self.1) {
            if platter.forgets && platter.failed {
                let dirty = std::mem::take(&mut platter.dirty);
                platter.lost.extend(dirty);
            }
            return Err(error);
        }
        match platter.cut_after_syncs {
            Some(0) => {
                self.1.cut();
                return Err(io::Error::other("no power"));
            }
            Some(n) => platter.cut_after_syncs = Some(n - 1),
            None => {}
        }
        platter.asked += 1;
        if platter.lies && !platter.asked.is_multiple_of(3) {
            return Ok(());
        }
        let Platter { synced, written, dirty, .. } = &mut *platter;
        synced.resize(written.len(), 0);
        for sector in std::mem::take(dirty) {
            let start = (sector * SECTOR).min(written.len());
            let end = (start + SECTOR).min(written.len());
            synced[start..end].copy_from_slice(&written[start..end]);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut platter = self.0.lock();
        platter.may_change(&self.1)?;
        let start = offset as usize;
        let end = start + data.len();
        let Some(room) = platter.written.get_mut(start..end) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        room.copy_from_slice(data);
        for sector in start / SECTOR..end.div_ceil(SECTOR) {
            platter.lost.remove(&sector);
            platter.dirty.insert(sector);
        }
        Ok(())
    }
}
