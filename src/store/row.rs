//! Rows, byte by byte. All integers are little-endian.
//!
//! ```text
//! seg   records one after the other:
//!         message id u64 | body length u32 | number of targets u32
//!         per target: session u32 | flags u8 | number of subscription ids u8 | ids u32 each
//!                     | where flags has bit 3: expires u32, in seconds since the Unix epoch
//!         body (what Message::encode wrote)
//! ack   pairs one after the other: message id u64 | session u32
//! rx2   Packet Identifiers, u16 each
//! tx2   Packet Identifier u16 | message id u64 (0: the receiver has it) | queue u32
//!         flags u8 | number of subscription ids u8 | ids u32 each
//! lent  pairs one after the other: message id u64 | attempts, 7 bits, and highest: bound
//! retained   publisher u64 | body
//! ```
//!
//! Reading never trusts a length: a row that does not add up is an error, not a panic.

use smallvec::SmallVec;
use triomphe::ThinArc;

use super::{ATTEMPTS_MAX, Lent, SessionId, Target};
use crate::message::Message;
use crate::queue::SubscriptionIds;

/// A row that does not add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a row of table {0} is damaged")]
pub struct DamagedRow(pub &'static str);

/// Subscription identifiers of one target at most; more are left out, which the protocol cannot
/// notice but a Client with 256 overlapping subscriptions could.
const IDS_MAX: usize = u8::MAX as usize;

/// The bit of a target's flags that says that the message expires for it by itself.
const EXPIRES: u8 = 8;
/// Of a message that was handed out: a Session has it that ends with the broker.
const BOUND: u8 = !ATTEMPTS_MAX;

/// Appends a message and those who are to get it.
pub fn put_record<'t>(
    out: &mut Vec<u8>,
    id: u64,
    targets: impl ExactSizeIterator<Item = &'t Target>,
    body: impl FnOnce(&mut Vec<u8>),
) {
    out.extend_from_slice(&id.to_le_bytes());
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&u32::try_from(targets.len()).unwrap_or(u32::MAX).to_le_bytes());
    for target in targets {
        out.extend_from_slice(&target.session.0.to_le_bytes());
        let expires = if target.expires_s == 0 { 0 } else { EXPIRES };
        put_terms(out, target.flags & !EXPIRES | expires, &target.subscription_ids);
        if target.expires_s != 0 {
            out.extend_from_slice(&target.expires_s.to_le_bytes());
        }
    }
    let body_at = out.len();
    body(out);
    let length = u32::try_from(out.len() - body_at).unwrap_or(u32::MAX).to_le_bytes();
    if let Some(slot) = out.get_mut(length_at..length_at + 4) {
        slot.copy_from_slice(&length);
    }
}

/// Appends how a receiver gets a message: the flags and its subscriptions' identifiers.
fn put_terms(out: &mut Vec<u8>, flags: u8, ids: &SubscriptionIds) {
    let ids = ids.as_ref().map_or(&[][..], |ids| &ids.slice);
    let ids = ids.get(..IDS_MAX).unwrap_or(ids);
    out.extend_from_slice(&[flags, u8::try_from(ids.len()).unwrap_or(u8::MAX)]);
    for id in ids {
        out.extend_from_slice(&id.to_le_bytes());
    }
}

/// Reads what [`put_terms`] wrote.
fn terms(rest: &mut &[u8]) -> Option<(u8, SubscriptionIds)> {
    let [flags, ids] = take(rest)?;
    let mut next = || Some(u32::from_le_bytes(take(rest)?));
    let ids: SmallVec<[u32; 4]> = (0..ids).map(|_| next()).collect::<Option<_>>()?;
    Some((flags, (!ids.is_empty()).then(|| ThinArc::from_header_and_slice((), &ids))))
}

/// A message in a `seg` row.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The message's identity.
    pub id: u64,
    /// Those who were to get it when the row was written, as bytes.
    targets: &'a [u8],
    /// What [`Message::encode`] wrote.
    pub body: &'a [u8],
    /// Bytes of the whole record.
    pub len: usize,
}

impl Record<'_> {
    /// Those who were to get it when the row was written.
    pub fn targets(&self) -> impl Iterator<Item = Target> {
        let mut rest = self.targets;
        std::iter::from_fn(move || target(&mut rest))
    }
}

/// Reads a `seg` row, record by record; ends with an error where it does not add up.
pub fn records(mut row: &[u8]) -> impl Iterator<Item = Result<Record<'_>, DamagedRow>> {
    std::iter::from_fn(move || {
        if row.is_empty() {
            return None;
        }
        let record = record(row).ok_or(DamagedRow("seg"));
        row = match &record {
            Ok(record) => row.get(record.len..).unwrap_or_default(),
            Err(_) => &[],
        };
        Some(record)
    })
}

fn record(row: &[u8]) -> Option<Record<'_>> {
    let mut rest = row;
    let id = u64::from_le_bytes(take(&mut rest)?);
    let body_len = usize::try_from(u32::from_le_bytes(take(&mut rest)?)).ok()?;
    let count = u32::from_le_bytes(take(&mut rest)?);
    let targets = rest;
    for _ in 0..count {
        let [_, _, _, _, flags, ids] = take(&mut rest)?;
        rest = rest.get(usize::from(ids) * 4..)?;
        // 0 would say that it does not expire, which is said by the bit.
        if flags & EXPIRES != 0 && take(&mut rest)? == [0; 4] {
            return None;
        }
    }
    let targets = targets.get(..targets.len() - rest.len())?;
    let (body, rest) = rest.split_at_checked(body_len)?;
    Some(Record { id, targets, body, len: row.len() - rest.len() })
}

fn target(rest: &mut &[u8]) -> Option<Target> {
    let session = SessionId(u32::from_le_bytes(take(rest)?));
    let (flags, subscription_ids) = terms(rest)?;
    let expires_s = if flags & EXPIRES == 0 { 0 } else { u32::from_le_bytes(take(rest)?) };
    let flags = flags & !EXPIRES;
    Some(Target { session, flags, online: false, expires_s, subscription_ids })
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*taken)
}

/// Appends an acknowledgement.
pub fn put_ack(out: &mut Vec<u8>, message: u64, session: SessionId) {
    out.extend_from_slice(&message.to_le_bytes());
    out.extend_from_slice(&session.0.to_le_bytes());
}

/// Reads an `ack` row.
pub fn acks(mut row: &[u8]) -> Result<Vec<(u64, SessionId)>, DamagedRow> {
    let mut acks = Vec::with_capacity(row.len() / 12);
    while !row.is_empty() {
        let ack = take(&mut row).zip(take(&mut row));
        let (message, session) = ack.ok_or(DamagedRow("ack"))?;
        acks.push((u64::from_le_bytes(message), SessionId(u32::from_le_bytes(session))));
    }
    Ok(acks)
}

/// Packs the received QoS 2 identifiers of a Session.
pub fn put_received(ids: impl Iterator<Item = u16>) -> Vec<u8> {
    ids.flat_map(u16::to_le_bytes).collect()
}

/// Reads an `rx2` row.
pub fn received(row: &[u8]) -> Result<Vec<u16>, DamagedRow> {
    let (ids, rest) = row.as_chunks::<2>();
    if rest.is_empty() {
        Ok(ids.iter().map(|id| u16::from_le_bytes(*id)).collect())
    } else {
        Err(DamagedRow("rx2"))
    }
}

/// Packs what is known of messages that were handed out.
pub fn put_lent(lent: impl Iterator<Item = (u64, Lent)>) -> Vec<u8> {
    let mut out = Vec::new();
    for (message, lent) in lent {
        out.extend_from_slice(&message.to_le_bytes());
        out.push(lent.attempts.min(ATTEMPTS_MAX) | if lent.is_bound { BOUND } else { 0 });
    }
    out
}

/// Reads a `lent` row.
pub fn lent(mut row: &[u8]) -> Result<Vec<(u64, Lent)>, DamagedRow> {
    let mut lent = Vec::with_capacity(row.len() / 9);
    while !row.is_empty() {
        let pair = take(&mut row).zip(take(&mut row));
        let (message, [byte]) = pair.ok_or(DamagedRow("lent"))?;
        let is_bound = byte & BOUND != 0;
        let noted = Lent { attempts: byte & ATTEMPTS_MAX, is_bound };
        lent.push((u64::from_le_bytes(message), noted));
    }
    Ok(lent)
}

/// An outgoing exchange of QoS 2, or of QoS 1 that a connection left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Its identifier.
    pub packet_id: u16,
    /// The message; 0 when the receiver has it.
    pub message: u64,
    /// In whose queue the message is.
    pub queue: SessionId,
    /// How it is sent, which may differ from how the queue has it: the caller's flags.
    pub flags: u8,
    /// Identifiers of the subscriptions that matched.
    pub subscription_ids: SubscriptionIds,
}

/// Packs the outgoing exchanges of a Session.
pub fn put_sent<'e>(exchanges: impl Iterator<Item = &'e Exchange>) -> Vec<u8> {
    let mut out = Vec::new();
    for exchange in exchanges {
        out.extend_from_slice(&exchange.packet_id.to_le_bytes());
        out.extend_from_slice(&exchange.message.to_le_bytes());
        out.extend_from_slice(&exchange.queue.0.to_le_bytes());
        put_terms(&mut out, exchange.flags, &exchange.subscription_ids);
    }
    out
}

/// Reads a `tx2` row.
pub fn sent(mut row: &[u8]) -> Result<Vec<Exchange>, DamagedRow> {
    let mut exchanges = Vec::new();
    while !row.is_empty() {
        let exchange = exchange(&mut row).and_then(|exchange| {
            let (flags, subscription_ids) = terms(&mut row)?;
            Some(Exchange { flags, subscription_ids, ..exchange })
        });
        exchanges.push(exchange.ok_or(DamagedRow("tx2"))?);
    }
    Ok(exchanges)
}

/// Reads a `tx2` row of format 1, which does not say how a message is sent.
pub fn sent_1(mut row: &[u8]) -> Result<Vec<Exchange>, DamagedRow> {
    let mut exchanges = Vec::new();
    while !row.is_empty() {
        exchanges.push(exchange(&mut row).ok_or(DamagedRow("tx2"))?);
    }
    Ok(exchanges)
}

/// What all formats say of an exchange.
fn exchange(rest: &mut &[u8]) -> Option<Exchange> {
    Some(Exchange {
        packet_id: u16::from_le_bytes(take(rest)?),
        message: u64::from_le_bytes(take(rest)?),
        queue: SessionId(u32::from_le_bytes(take(rest)?)),
        flags: 0,
        subscription_ids: None,
    })
}

/// Packs a retained message and its publisher.
pub fn put_retained(message: &Message, publisher: u64) -> Vec<u8> {
    let mut out = publisher.to_le_bytes().to_vec();
    message.encode(&mut out);
    out
}

/// Reads a `retained` row.
pub fn retained(row: &[u8]) -> Result<(Message, u64), DamagedRow> {
    let mut rest = row;
    take(&mut rest)
        .and_then(|publisher| Some((Message::decode(0, rest)?, u64::from_le_bytes(publisher))))
        .ok_or(DamagedRow("retained"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target(session: u32, flags: u8, ids: &[u32]) -> Target {
        let ids = (!ids.is_empty()).then(|| ThinArc::from_header_and_slice((), ids));
        let (flags, expires_s) = (flags & !EXPIRES, u32::from(flags & EXPIRES) * 1000);
        let session = SessionId(session);
        Target { session, flags, online: true, expires_s, subscription_ids: ids }
    }

    proptest! {
        #[test]
        fn records_are_read_as_they_were_written(
            written in prop::collection::vec(
                (any::<u64>(),
                 prop::collection::vec(
                    (any::<u32>(), any::<u8>(), prop::collection::vec(any::<u32>(), 0..4)), 0..4),
                 prop::collection::vec(any::<u8>(), 0..50)),
                0..5),
        ) {
            let mut row = Vec::new();
            for (id, targets, body) in &written {
                let targets: Vec<_> =
                    targets.iter().map(|(s, flags, ids)| target(*s, *flags, ids)).collect();
                put_record(&mut row, *id, targets.iter(), |out| out.extend_from_slice(body));
            }
            let read: Vec<_> = records(&row).collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(read.len(), written.len());
            for (record, (id, targets, body)) in read.iter().zip(&written) {
                prop_assert_eq!((record.id, record.body), (*id, &body[..]));
                prop_assert_eq!(record.targets().count(), targets.len());
                for (target, (session, flags, ids)) in record.targets().zip(targets) {
                    prop_assert_eq!((target.session.0, target.flags), (*session, *flags & !EXPIRES));
                    prop_assert_eq!(target.expires_s, u32::from(*flags & EXPIRES) * 1000);
                    let read = target.subscription_ids.as_ref().map_or(&[][..], |ids| &ids.slice);
                    prop_assert_eq!(read, &ids[..]);
                }
            }
        }

        #[test]
        fn no_bytes_make_a_reader_panic(row in prop::collection::vec(any::<u8>(), 0..100)) {
            for record in records(&row).flatten() {
                let _ = record.targets().count();
            }
            let _ = acks(&row);
            let _ = received(&row);
            let _ = sent(&row);
            let _ = lent(&row);
            let _ = sent_1(&row);
            let _ = retained(&row);
        }

        #[test]
        fn exchanges_are_read_as_they_were_written(
            written in prop::collection::vec(
                (any::<u16>(), any::<u64>(), any::<u32>(), any::<u8>(),
                 prop::collection::vec(any::<u32>(), 0..4)),
                0..5),
        ) {
            let exchange = |(packet_id, message, queue, flags, ids): &(_, _, _, _, Vec<u32>)| {
                let Target { subscription_ids, .. } = target(0, 0, ids);
                let (packet_id, message, queue) = (*packet_id, *message, SessionId(*queue));
                Exchange { packet_id, message, queue, flags: *flags, subscription_ids }
            };
            let exchanges: Vec<_> = written.iter().map(exchange).collect();
            prop_assert_eq!(sent(&put_sent(exchanges.iter())), Ok(exchanges));
        }
    }
}
