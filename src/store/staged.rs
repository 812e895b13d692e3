//! Storage that nothing is written to before it is known what is on it.
//!
//! Opening a file writes to it: it is marked as open, and repaired if it was not closed. A file
//! that then proves to be damaged, or another's, must be as it was found. So what opening changes
//! is kept in memory until [`Gate::open`] makes it on the disk, in the same order and with the same
//! syncs; without that the disk is only read.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};
use redb::{BackendError, StorageBackend};

const BLOCK: u64 = 4096;

#[derive(Debug)]
enum Step {
    SetLen(u64),
    Write(u64, Box<[u8]>),
    Sync,
}

/// What was changed and is not on the disk.
#[derive(Debug)]
struct Held {
    steps: Vec<Step>,
    blocks: BTreeMap<u64, Box<[u8]>>,
    len: u64,
    /// Bytes of the disk that still count: a file that was cut and grows again is zero beyond.
    kept: u64,
}

#[derive(Debug)]
struct Inner<B> {
    storage: B,
    is_open: AtomicBool,
    held: Mutex<Held>,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Staged<B>(Arc<Inner<B>>);

/// Lets what was held back through, and all that comes.
pub(super) struct Gate<B>(Arc<Inner<B>>);

impl<B: StorageBackend> Gate<B> {
    pub(super) fn open(&self) -> io::Result<()> {
        let mut held = self.0.held.lock();
        for step in held.steps.drain(..) {
            match step {
                Step::SetLen(len) => self.0.storage.set_len(len)?,
                Step::Write(offset, data) => self.0.storage.write(offset, &data)?,
                Step::Sync => self.0.storage.sync_data()?,
            }
        }
        held.blocks.clear();
        self.0.is_open.store(true, Ordering::Release);
        Ok(())
    }
}

impl<B: StorageBackend> Staged<B> {
    pub(super) fn new(storage: B) -> io::Result<(Self, Gate<B>)> {
        let len = storage.len()?;
        let held = Held { steps: Vec::new(), blocks: BTreeMap::new(), len, kept: len };
        let is_open = AtomicBool::new(false);
        let inner = Arc::new(Inner { storage, is_open, held: Mutex::new(held) });
        Ok((Self(inner.clone()), Gate(inner)))
    }

    /// What is held back; `None` once the gate is open.
    fn held(&self) -> Option<MutexGuard<'_, Held>> {
        let is_open = || self.0.is_open.load(Ordering::Acquire);
        if is_open() {
            return None;
        }
        let held = self.0.held.lock();
        (!is_open()).then_some(held)
    }

    /// A block as it would be on the disk.
    fn block(&self, held: &Held, number: u64) -> io::Result<Box<[u8]>> {
        if let Some(block) = held.blocks.get(&number) {
            return Ok(block.clone());
        }
        let mut block = vec![0; BLOCK as usize].into_boxed_slice();
        let start = number * BLOCK;
        let there = held.kept.saturating_sub(start).min(BLOCK) as usize;
        if let Some(there) = block.get_mut(..there).filter(|there| !there.is_empty()) {
            self.0.storage.read(start, there)?;
        }
        Ok(block)
    }
}

/// The blocks that a range touches: of each its number, where the part begins in it and in the
/// range, and how long the part is.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let end = offset.saturating_add(len as u64);
    (offset / BLOCK..end.div_ceil(BLOCK)).map(move |number| {
        let start = offset.max(number * BLOCK);
        let stop = end.min((number + 1) * BLOCK);
        let in_block = (start - number * BLOCK) as usize;
        (number, in_block, (start - offset) as usize, (stop - start) as usize)
    })
}

impl<B: StorageBackend> StorageBackend for Staged<B> {
    fn len(&self) -> io::Result<u64> {
        self.held().map_or_else(|| self.0.storage.len(), |held| Ok(held.len))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let Some(held) = self.held() else { return self.0.storage.read(offset, out) };
        if offset.saturating_add(out.len() as u64) > held.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (number, in_block, at, len) in parts(offset, out.len()) {
            let block = self.block(&held, number)?;
            if let (Some(out), Some(block)) =
                (out.get_mut(at..at + len), block.get(in_block..in_block + len))
            {
                out.copy_from_slice(block);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let Some(mut held) = self.held() else { return self.0.storage.set_len(len) };
        if len < held.len {
            held.kept = held.kept.min(len);
            drop(held.blocks.split_off(&len.div_ceil(BLOCK)));
            if let Some(last) = held.blocks.get_mut(&(len / BLOCK)) {
                last.iter_mut().skip((len % BLOCK) as usize).for_each(|byte| *byte = 0);
            }
        }
        held.len = len;
        held.steps.push(Step::SetLen(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let Some(mut held) = self.held() else { return self.0.storage.sync_data() };
        held.steps.push(Step::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let Some(mut held) = self.held() else { return self.0.storage.write(offset, data) };
        for (number, in_block, at, len) in parts(offset, data.len()) {
            let mut block = self.block(&held, number)?;
            if let (Some(block), Some(data)) =
                (block.get_mut(in_block..in_block + len), data.get(at..at + len))
            {
                block.copy_from_slice(data);
            }
            held.blocks.insert(number, block);
        }
        held.len = held.len.max(offset.saturating_add(data.len() as u64));
        held.steps.push(Step::Write(offset, data.into()));
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.0.storage.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.storage.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.0.storage.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.storage.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.storage.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.storage.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.storage.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;

    fn content(storage: &impl StorageBackend) -> Vec<u8> {
        let mut bytes = vec![0; storage.len().unwrap() as usize];
        storage.read(0, &mut bytes).unwrap();
        bytes
    }

    /// Held back or not, the same is read; on the disk it is when the gate opens.
    #[test]
    fn what_is_held_back_reads_as_if_it_were_there() {
        let (disk, twin) = (InMemoryBackend::new(), InMemoryBackend::new());
        for storage in [&disk, &twin] {
            storage.set_len(10_000).unwrap();
            storage.write(4000, &[7; 5000]).unwrap();
        }
        let before = content(&disk);
        let (staged, gate) = Staged::new(disk).unwrap();
        let write = |offset, data: &[u8]| {
            staged.write(offset, data).unwrap();
            twin.write(offset, data).unwrap();
        };
        let set_len = |len| {
            staged.set_len(len).unwrap();
            twin.set_len(len).unwrap();
        };
        write(4090, &[1; 20]);
        set_len(8200);
        set_len(30_000);
        write(8000, &[2; 9000]);
        set_len(8100);
        set_len(20_000);
        write(19_999, &[3]);
        assert_eq!(content(&staged), content(&twin));
        assert_eq!(content(&gate.0.storage), before);
        gate.open().unwrap();
        assert_eq!(content(&gate.0.storage), content(&twin));
        write(5, &[4; 9]);
        assert_eq!(content(&gate.0.storage), content(&twin));
    }
}
