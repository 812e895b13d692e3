//! Blocks of messages that have come to their end, kept by a thread for those that it makes next.
//!
//! A message is made where it is published and most often ends where it is received. Where these
//! are two threads, to give its memory back is dear: each block costs the one a place in a list
//! that belongs to the other, and the other a walk through that list. So the thread on which a
//! message ends keeps its block. Blocks serve again at their own length, so that nothing of what
//! was in them is left.

use std::cell::RefCell;

use triomphe::{Arc, ThinArc};

use super::{Fields, Header, weight_of};

/// A message's block.
pub(super) type Block = ThinArc<Header, u8>;

/// Bytes beside its header from which a block is not kept.
const LEN_END: usize = 512;

/// Memory of the blocks that a thread keeps, in bytes; beyond that it begins anew, so that what is
/// kept is of the lengths that come now.
const KEPT_BYTES_MAX: usize = 256 << 10;

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept::NONE) };
}

struct Kept {
    by_len: Vec<Vec<Block>>,
    /// Their weight.
    bytes: usize,
}

/// A block of these.
#[inline]
pub(super) fn make(header: Header, bytes: &[u8]) -> Block {
    let kept = || KEPT.try_with(|kept| kept.try_borrow_mut().ok()?.take(bytes.len()));
    if let Header::Whole(fields) = &header
        && let Ok(Some(mut block)) = kept()
        && block.with_arc_mut(|block| fill(block, *fields, bytes))
    {
        return block;
    }
    ThinArc::from_header_and_slice(header, bytes)
}

fn fill(
    block: &mut Arc<triomphe::HeaderSliceWithLengthProtected<Header, u8>>,
    fields: Fields,
    bytes: &[u8],
) -> bool {
    let Some(block) = Arc::get_mut(block) else { return false };
    *block.header_mut() = Header::Whole(fields);
    block.slice_mut().copy_from_slice(bytes);
    true
}

/// Keeps a block that nobody else has, and that holds no payload elsewhere.
#[inline]
pub(super) fn keep(block: Block) {
    let is_whole = matches!(block.header.header, Header::Whole(_));
    if is_whole && block.slice.len() < LEN_END && block.with_arc(Arc::is_unique) {
        let _ = KEPT.try_with(|kept| {
            if let Ok(mut kept) = kept.try_borrow_mut() {
                kept.add(block);
            }
        });
    }
}

impl Kept {
    const NONE: Self = Self { by_len: Vec::new(), bytes: 0 };

    fn take(&mut self, len: usize) -> Option<Block> {
        let block = self.by_len.get_mut(len)?.pop()?;
        self.bytes -= weight_of(len);
        Some(block)
    }

    fn add(&mut self, block: Block) {
        let len = block.slice.len();
        if self.bytes + weight_of(len) > KEPT_BYTES_MAX {
            *self = Self::NONE;
        }
        if self.by_len.len() < LEN_END {
            self.by_len.resize_with(LEN_END, Vec::new);
        }
        if let Some(kept) = self.by_len.get_mut(len) {
            self.bytes += weight_of(len);
            kept.push(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Message, Parts};

    fn message(id: u64, payload: &str) -> Message {
        Message::new(id, &Parts::of_payload(payload.as_bytes()))
    }

    fn kept_bytes() -> usize {
        KEPT.with_borrow(|kept| kept.bytes)
    }

    #[test]
    fn a_block_serves_again_when_nobody_else_has_it_and_nothing_of_before_is_left() {
        let first = message(7, "first");
        let another = first.clone();
        first.end();
        assert_eq!(kept_bytes(), 0, "somebody else has it");
        let weight = another.weight();
        another.end();
        assert_eq!(kept_bytes(), weight);
        let longer = message(8, "second");
        assert_eq!((kept_bytes(), longer.payload()), (weight, &b"second"[..]));
        let other = message(9, "other");
        assert_eq!((kept_bytes(), other.id(), other.payload()), (0, 9, &b"other"[..]));
    }

    #[test]
    fn a_thread_keeps_no_more_than_the_bound() {
        for (id, len) in (0..10_000).zip((0..400).cycle()) {
            message(id, &"x".repeat(len)).end();
            assert!(kept_bytes() <= KEPT_BYTES_MAX);
        }
        message(1, &"x".repeat(LEN_END)).end();
        assert!(kept_bytes() > 0);
    }
}
