//! The accounts of the `seg` and `ack` rows: how much of each is alive, and what holds what.
//!
//! Invariants:
//! 1. `Row::live` counts the live messages of a row; a row with none is removed by the next write.
//! 2. An acknowledgement of a message that is in a row which stays is in an `ack` row as long as
//!    that row stays. Without it, a crash would bring the message back for a receiver that has
//!    finished with it.

use std::collections::BTreeMap;

use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

/// A row of `seg`.
#[derive(Debug, Default)]
struct Row {
    number: u64,
    live: u32,
    /// Bytes of the live messages; since nobody keeps the length of each, what one that is
    /// finished leaves is taken for as long as those that stay.
    live_bytes: u32,
    bytes: u32,
    /// The `ack` rows that mention it.
    acks: SmallVec<[u64; 2]>,
}

/// A row as it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    /// Its key in the table.
    pub(super) number: u64,
    /// Its bytes.
    pub(super) bytes: u32,
    /// Those of the messages that live, about.
    pub(super) live_bytes: u32,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// By slot, a number that is small and used again.
    slots: Vec<Row>,
    free: Vec<u32>,
    by_number: BTreeMap<u64, u32>,
    /// For each `ack` row, how many `seg` rows it mentions.
    acks: FxHashMap<u64, u32>,
    next_row: u64,
    next_ack: u64,
    bytes: u64,
    live_bytes: u64,
}

impl Rows {
    /// Bytes of all rows.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of what lives in them, about.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// The number of the row that is written next.
    pub(super) fn next_row(&self) -> u64 {
        self.next_row
    }

    /// The number of the row in a slot.
    pub(super) fn number(&self, slot: u32) -> Option<u64> {
        self.slots.get(slot as usize).map(|row| row.number)
    }

    /// The rows, the oldest first.
    pub(super) fn oldest(&self) -> impl Iterator<Item = (u32, Account)> {
        self.by_number.values().filter_map(|&slot| {
            let row = self.slots.get(slot as usize)?;
            let Row { number, bytes, live_bytes, .. } = *row;
            Some((slot, Account { number, bytes, live_bytes }))
        })
    }

    /// Enters a row of so many bytes, with so many live messages of so many bytes.
    pub(super) fn enter(
        &mut self,
        number: u64,
        bytes: usize,
        live: usize,
        live_bytes: usize,
    ) -> u32 {
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let row = Row {
            number,
            live: small(live),
            live_bytes: small(live_bytes),
            bytes: small(bytes),
            acks: SmallVec::new(),
        };
        self.bytes += u64::from(row.bytes);
        self.live_bytes += u64::from(row.live_bytes);
        self.next_row = self.next_row.max(number + 1);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Row::default());
            small(self.slots.len() - 1)
        });
        if let Some(free) = self.slots.get_mut(slot as usize) {
            *free = row;
        }
        self.by_number.insert(number, slot);
        slot
    }

    /// A message of the row in this slot lives no more, or not there; true: none is left.
    pub(super) fn one_less(&mut self, slot: u32) -> bool {
        let Some(row) = self.slots.get_mut(slot as usize) else { return false };
        let share = row.live_bytes.checked_div(row.live).unwrap_or(0);
        row.live = row.live.saturating_sub(1);
        let share = if row.live == 0 { row.live_bytes } else { share };
        row.live_bytes -= share;
        self.live_bytes = self.live_bytes.saturating_sub(u64::from(share));
        row.live == 0
    }

    /// Removes the rows in these slots, calls `remove` for their numbers, and `remove_ack` for
    /// those of the `ack` rows that mention nothing else. The slots may be used again after
    /// [`Rows::reuse`].
    pub(super) fn forget(
        &mut self,
        slot: u32,
        mut remove_ack: impl FnMut(u64) -> Result<(), redb::StorageError>,
    ) -> Result<(), redb::StorageError> {
        let Some(row) = self.slots.get_mut(slot as usize) else { return Ok(()) };
        let row = std::mem::take(row);
        self.by_number.remove(&row.number);
        self.bytes = self.bytes.saturating_sub(u64::from(row.bytes));
        for number in row.acks {
            let Some(mentions) = self.acks.get_mut(&number) else { continue };
            *mentions = mentions.saturating_sub(1);
            if *mentions == 0 {
                self.acks.remove(&number);
                remove_ack(number)?;
            }
        }
        Ok(())
    }

    /// Slots of rows that are gone, and that nothing points to any more.
    pub(super) fn reuse(&mut self, slots: impl Iterator<Item = u32>) {
        self.free.extend(slots);
    }

    /// The number of the next `ack` row, which mentions the rows in these slots; `None` when it
    /// mentions none.
    pub(super) fn add_ack(&mut self, slots: impl Iterator<Item = u32>) -> Option<u64> {
        let number = self.next_ack;
        let mut mentions = 0;
        for slot in slots {
            let Some(row) = self.slots.get_mut(slot as usize) else { continue };
            if row.acks.last() != Some(&number) {
                row.acks.push(number);
                mentions += 1;
            }
        }
        if mentions == 0 {
            return None;
        }
        self.next_ack += 1;
        self.acks.insert(number, mentions);
        Some(number)
    }

    /// An `ack` row that was found and mentions these rows; it goes with the last of them.
    pub(super) fn restore_ack(&mut self, number: u64, rows: &FxHashSet<u64>) {
        self.next_ack = self.next_ack.max(number + 1);
        let mut mentions = 0;
        for row in rows {
            let slot = self.by_number.get(row);
            if let Some(row) = slot.and_then(|&slot| self.slots.get_mut(slot as usize)) {
                row.acks.push(number);
                mentions += 1;
            }
        }
        self.acks.insert(number, mentions);
    }
}
