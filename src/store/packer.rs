//! Fills `seg` rows: one commit's messages one after the other, a new row when one is full.

use super::live::Sessions;
use super::{Target, row};

/// A `seg` row is filled up to this: just under 16 pages of redb, with room for its header.
pub(super) const ROW_BYTES: usize = (64 << 10) - 64;

/// A record in a row.
#[derive(Debug)]
pub(super) struct Packed {
    /// The message's identity.
    pub(super) id: u64,
    /// Who has yet to finish with it.
    pub(super) sessions: Sessions,
}

/// Fills rows with records.
#[derive(Debug, Default)]
pub(super) struct Packer {
    full: Vec<(Vec<u8>, Vec<Packed>)>,
    bytes: Vec<u8>,
    packed: Vec<Packed>,
    len: usize,
}

impl Packer {
    pub(super) fn add(
        &mut self,
        id: u64,
        targets: &[Target],
        sessions: Sessions,
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = self.bytes.len();
        row::put_record(&mut self.bytes, id, targets.iter(), body);
        let len = self.bytes.len() - start;
        self.len += len;
        if self.bytes.len() > ROW_BYTES && start > 0 {
            let record = self.bytes.split_off(start);
            self.close();
            self.bytes = record;
        }
        self.packed.push(Packed { id, sessions });
    }

    fn close(&mut self) {
        if !self.packed.is_empty() {
            self.full.push((std::mem::take(&mut self.bytes), std::mem::take(&mut self.packed)));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn finish(mut self) -> Vec<(Vec<u8>, Vec<Packed>)> {
        self.close();
        self.full
    }
}
