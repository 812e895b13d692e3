//! Values by small numbers, in blocks: growing moves nothing and holds little that is not used.

/// Values of one block.
const BLOCK: usize = 256;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Slab<T> {
    blocks: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { blocks: Vec::new(), free: Vec::new(), len: 0 }
    }
}

impl<T> Slab<T> {
    /// How many values there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a value; its number, or `None` when four thousand million are taken.
    pub(super) fn insert(&mut self, value: T) -> Option<u32> {
        if let Some(at) = self.free.pop() {
            *self.slot_mut(at)? = Some(value);
            self.len += 1;
            return Some(at);
        }
        let is_full = self.blocks.last().is_none_or(|block| block.len() == BLOCK);
        if is_full {
            // The first block grows with what there is.
            let capacity = if self.blocks.is_empty() { 1 } else { BLOCK };
            self.blocks.push(Vec::with_capacity(capacity));
        }
        let full = self.blocks.len().saturating_sub(1) * BLOCK;
        let block = self.blocks.last_mut()?;
        let at = u32::try_from(full + block.len()).ok()?;
        block.push(Some(value));
        self.len += 1;
        Some(at)
    }

    /// The value with this number.
    pub(super) fn get(&self, at: u32) -> Option<&T> {
        let at = at as usize;
        self.blocks.get(at / BLOCK)?.get(at % BLOCK)?.as_ref()
    }

    /// The value with this number, to be changed.
    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        self.slot_mut(at)?.as_mut()
    }

    /// Takes a value out; its number is used again.
    pub(super) fn remove(&mut self, at: u32) -> Option<T> {
        let value = self.slot_mut(at)?.take()?;
        self.len -= 1;
        if self.len == 0 {
            *self = Self::default();
        } else {
            self.free.push(at);
        }
        Some(value)
    }

    fn slot_mut(&mut self, at: u32) -> Option<&mut Option<T>> {
        let at = at as usize;
        self.blocks.get_mut(at / BLOCK)?.get_mut(at % BLOCK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_small_and_used_again() {
        let mut slab = Slab::default();
        let numbers: Vec<u32> = (0..1000).filter_map(|n| slab.insert(n)).collect();
        assert!(numbers.iter().copied().eq(0..1000));
        assert_eq!((slab.remove(7), slab.remove(7), slab.get(7)), (Some(7), None, None));
        assert_eq!(slab.insert(7000), Some(7));
        assert_eq!((slab.get(7), slab.get(999), slab.get(1000)), (Some(&7000), Some(&999), None));
        for at in 0..1000 {
            slab.remove(at);
        }
        assert_eq!((slab.len(), slab.blocks.len()), (0, 0));
    }
}
