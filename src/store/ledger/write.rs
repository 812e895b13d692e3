//! The ledger's changes, written.

use redb::{ReadableTable, WriteTransaction};
use rustc_hash::FxHashSet;

use super::super::packer::{Packed, Packer, ROW_BYTES};
use super::super::row;
use super::super::tables::{ACK, LENT, META, RETAINED, RX2, SEG, SESSIONS, SUBS, TX2};
use super::{LENT_SHIFT, Ledger, Pending};

/// Rows are repacked only when the file has this much to gain.
const REPACK_FLOOR_BYTES: u64 = 32 << 20;

/// Rows looked at for repacking in one commit.
const REPACK_LOOKS: usize = 64;

/// Rows this young are left alone: their receivers may just not have answered yet.
const REPACK_AGE_ROWS: u64 = 20;

/// Identities of messages are spent in blocks of this many.
const MESSAGE_ID_BLOCK: u64 = 1 << 20;

/// Identities of Sessions are spent in blocks of this many.
const SESSION_ID_BLOCK: u32 = 1 << 10;

impl Ledger {
    pub(super) fn write_pending(
        &mut self,
        txn: &WriteTransaction,
        pending: &Pending,
    ) -> Result<(), redb::Error> {
        self.write_ids(txn, pending)?;
        self.write_sessions(txn, pending)?;
        self.write_exchanges(txn, pending)?;
        self.write_lent(txn, pending)?;
        write_retained(txn, pending)?;
        self.write_messages(txn, pending)
    }

    fn write_ids(&mut self, txn: &WriteTransaction, pending: &Pending) -> Result<(), redb::Error> {
        if let Some((&last, _)) = pending.fresh.last_key_value()
            && last >= self.message_ids_spent
        {
            self.message_ids_spent = last.saturating_add(MESSAGE_ID_BLOCK);
            let spent = self.message_ids_spent.to_le_bytes();
            txn.open_table(META)?.insert("message_ids", &spent[..])?;
        }
        if let Some(&last) = pending.sessions.keys().max()
            && last >= self.session_ids_spent
        {
            self.session_ids_spent = last.saturating_add(SESSION_ID_BLOCK);
            let spent = self.session_ids_spent.to_le_bytes();
            txn.open_table(META)?.insert("session_ids", &spent[..])?;
        }
        Ok(())
    }

    fn write_sessions(&self, txn: &WriteTransaction, pending: &Pending) -> Result<(), redb::Error> {
        if !pending.subs.is_empty() || pending.sessions.values().any(Option::is_none) {
            let mut table = txn.open_table(SUBS)?;
            for ((session, filter), options) in &pending.subs {
                match options {
                    Some(options) => drop(table.insert((*session, &**filter), &**options)?),
                    None => drop(table.remove((*session, &**filter))?),
                }
            }
            for (&session, _) in pending.sessions.iter().filter(|(_, record)| record.is_none()) {
                table.retain_in((session, "")..(session.saturating_add(1), ""), |_, _| false)?;
            }
        }
        if !pending.sessions.is_empty() {
            let mut table = txn.open_table(SESSIONS)?;
            for (session, record) in &pending.sessions {
                match record {
                    Some(record) => drop(table.insert(session, &**record)?),
                    None => drop(table.remove(session)?),
                }
            }
        }
        Ok(())
    }

    fn write_exchanges(
        &mut self,
        txn: &WriteTransaction,
        pending: &Pending,
    ) -> Result<(), redb::Error> {
        if !pending.received.is_empty() {
            let mut table = txn.open_table(RX2)?;
            for session in &pending.received {
                match self.received.get(session).filter(|ids| !ids.is_empty()) {
                    Some(ids) => {
                        let packed = row::put_received(ids.iter().copied());
                        table.insert(session, &packed[..])?;
                    }
                    None => {
                        self.received.remove(session);
                        table.remove(session)?;
                    }
                }
            }
        }
        if !pending.sent.is_empty() {
            let mut table = txn.open_table(TX2)?;
            for session in &pending.sent {
                match self.sent.get(session).filter(|exchanges| !exchanges.is_empty()) {
                    Some(exchanges) => {
                        table.insert(session, &row::put_sent(exchanges.iter())[..])?;
                    }
                    None => {
                        self.sent.remove(session);
                        table.remove(session)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn write_lent(&self, txn: &WriteTransaction, pending: &Pending) -> Result<(), redb::Error> {
        if pending.lent.is_empty() {
            return Ok(());
        }
        let mut table = txn.open_table(LENT)?;
        for &(queue, block) in &pending.lent {
            let first = block << LENT_SHIFT;
            let all = first..=first | ((1 << LENT_SHIFT) - 1);
            let lent = self.lent.get(&queue).into_iter().flat_map(|lent| lent.range(all.clone()));
            match row::put_lent(lent.map(|(&message, &lent)| (message, lent))) {
                row if row.is_empty() => drop(table.remove((queue, block))?),
                row => drop(table.insert((queue, block), &row[..])?),
            }
        }
        Ok(())
    }

    fn write_messages(
        &mut self,
        txn: &WriteTransaction,
        pending: &Pending,
    ) -> Result<(), redb::Error> {
        if pending.fresh.is_empty() && pending.acked.is_empty() {
            return Ok(());
        }
        let mut seg = txn.open_table(SEG)?;
        let mut ack = txn.open_table(ACK)?;
        let mut packer = Packer::default();
        for (&id, fresh) in &pending.fresh {
            let sessions = fresh.targets.iter().map(|target| target.session.0).collect();
            packer.add(id, &fresh.targets, sessions, |out| fresh.message.encode(out));
        }
        self.repack(&seg, &mut packer, &pending.dead)?;
        let mut dead = pending.dead.clone();
        for (bytes, packed) in packer.finish() {
            let number = self.rows.next_row();
            seg.insert(number, &bytes[..])?;
            self.enter(number, bytes.len(), bytes.len(), packed, &mut dead);
        }
        for &slot in &dead {
            if let Some(number) = self.rows.number(slot) {
                seg.remove(number)?;
            }
            self.rows.forget(slot, |dead_ack| ack.remove(dead_ack).map(drop))?;
        }
        let stay = pending.acked.iter().filter(|acked| !dead.contains(&acked.slot));
        if let Some(number) = self.rows.add_ack(stay.clone().map(|acked| acked.slot)) {
            let mut packed = Vec::new();
            for acked in stay {
                row::put_ack(&mut packed, acked.message, acked.session);
            }
            ack.insert(number, &packed[..])?;
        }
        self.rows.reuse(dead.into_iter());
        Ok(())
    }

    /// Enters a row that was written, and moves messages there that were in another; those that
    /// are left empty are added to `dead`.
    pub(super) fn enter(
        &mut self,
        number: u64,
        bytes: usize,
        live_bytes: usize,
        packed: Vec<Packed>,
        dead: &mut FxHashSet<u32>,
    ) {
        let slot = self.rows.enter(number, bytes, packed.len(), live_bytes);
        if packed.is_empty() {
            dead.insert(slot);
        }
        for Packed { id, sessions } in packed {
            if let Some(former) = self.live.insert(id, slot, sessions)
                && self.rows.one_less(former)
            {
                dead.insert(former);
            }
        }
    }

    /// Copies what lives of old, mostly dead rows into this commit's, so that a slow receiver's
    /// messages are copied once and then lie dense.
    fn repack(
        &self,
        seg: &impl ReadableTable<u64, &'static [u8]>,
        packer: &mut Packer,
        dead: &FxHashSet<u32>,
    ) -> Result<(), redb::Error> {
        let live_bytes = self.rows.live_bytes();
        if self.rows.bytes() <= REPACK_FLOOR_BYTES.max(live_bytes + live_bytes / 2) {
            return Ok(());
        }
        let mut budget = packer.len() + ROW_BYTES;
        for (slot, account) in self.rows.oldest().take(REPACK_LOOKS) {
            let is_sparse = u64::from(account.live_bytes) * 4 < u64::from(account.bytes);
            let is_old = account.number + REPACK_AGE_ROWS < self.rows.next_row();
            if !is_sparse || !is_old || dead.contains(&slot) {
                continue;
            }
            let Some(bytes) = seg.get(account.number)? else { continue };
            for record in row::records(bytes.value()).map_while(Result::ok) {
                if self.live.slot(record.id) != Some(slot) {
                    continue;
                }
                let sessions = self.live.sessions(record.id);
                let left = record.targets().filter(|t| sessions.contains(&t.session.0));
                let left: Vec<_> = left.collect();
                let body = record.body;
                packer.add(record.id, &left, sessions, |out| out.extend_from_slice(body));
                budget = budget.saturating_sub(record.len);
            }
            if budget == 0 {
                break;
            }
        }
        Ok(())
    }
}

fn write_retained(txn: &WriteTransaction, pending: &Pending) -> Result<(), redb::Error> {
    if pending.retained.is_empty() {
        return Ok(());
    }
    let mut table = txn.open_table(RETAINED)?;
    for (topic, kept) in &pending.retained {
        match kept {
            Some((message, publisher)) => {
                table.insert(&**topic, &row::put_retained(message, *publisher)[..])?;
            }
            None => drop(table.remove(&**topic)?),
        }
    }
    Ok(())
}
