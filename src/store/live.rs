//! Which messages in the file have a receiver left, and where they lie: 16 bytes for each that
//! has one receiver.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// Who has yet to finish with a message.
pub(super) type Sessions = SmallVec<[u32; 4]>;

/// A message in the file.
#[derive(Clone, Copy, Debug)]
struct Place {
    slot: u32,
    /// Its only receiver, or [`MANY`].
    session: u32,
}

/// The receivers are in `Live::many`. No Session has this number: they are counted from 1.
const MANY: u32 = u32::MAX;

/// Parts of the table. Each grows at its own time, so that no commit waits for the moving of
/// millions of entries.
const PARTS: usize = 64;

/// What became of a message when one of its receivers finished with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Finished {
    /// Where it lies.
    pub(super) slot: u32,
    /// Whether nobody is left.
    pub(super) is_last: bool,
}

/// Sixteen messages of a part that follow each other lie side by side, and the next sixteen
/// anywhere: messages come, and mostly go, in the order of their numbers, and each would else be a
/// miss of the processor's cache. (To enter one takes a third of the time.)
#[derive(Debug, Default)]
struct Sixteens(u64);

impl Hasher for Sixteens {
    fn write_u64(&mut self, id: u64) {
        let in_part = id / PARTS as u64;
        let (sixteen, place) = (in_part / 16, in_part % 16);
        let anywhere = sixteen.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_right(32);
        // The lowest bits say where, the highest which of those that are there.
        self.0 = (anywhere & !15 | place) ^ place.rotate_right(4);
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(self.0 << 8 | u64::from(byte));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Part of the table.
type Part = HashMap<u64, Place, BuildHasherDefault<Sixteens>>;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Live {
    parts: Box<[Part]>,
    many: FxHashMap<u64, Sessions>,
}

impl Default for Live {
    fn default() -> Self {
        let parts = (0..PARTS).map(|_| Part::default()).collect();
        Self { parts, many: FxHashMap::default() }
    }
}

impl Live {
    fn part(&self, id: u64) -> Option<&Part> {
        self.parts.get(id as usize % PARTS)
    }

    fn part_mut(&mut self, id: u64) -> Option<&mut Part> {
        self.parts.get_mut(id as usize % PARTS)
    }

    /// How many messages there are.
    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(Part::len).sum()
    }

    /// The slot of the row in which a message lies.
    pub(super) fn slot(&self, id: u64) -> Option<u32> {
        Some(self.part(id)?.get(&id)?.slot)
    }

    /// Who has yet to finish with a message.
    pub(super) fn sessions(&self, id: u64) -> Sessions {
        match self.part(id).and_then(|part| part.get(&id)) {
            None => Sessions::new(),
            Some(place) if place.session == MANY => self.many.get(&id).cloned().unwrap_or_default(),
            Some(place) => SmallVec::from_slice(&[place.session]),
        }
    }

    /// Enters a message, or moves it; the slot it was in before.
    pub(super) fn insert(&mut self, id: u64, slot: u32, mut sessions: Sessions) -> Option<u32> {
        let session = match sessions[..] {
            [session] => session,
            _ => MANY,
        };
        if session == MANY {
            // It was collected with room for as many again.
            sessions.shrink_to_fit();
            self.many.insert(id, sessions);
        } else {
            self.many.remove(&id);
        }
        let former = self.part_mut(id)?.insert(id, Place { slot, session });
        former.map(|place| place.slot)
    }

    /// A receiver has finished with a message; `None` when it had nothing to do with it.
    pub(super) fn finish(&mut self, id: u64, session: u32) -> Option<Finished> {
        let part = self.parts.get_mut(id as usize % PARTS)?;
        let place = *part.get(&id)?;
        let is_last = if place.session == MANY {
            let sessions = self.many.get_mut(&id)?;
            let before = sessions.len();
            sessions.retain(|held| *held != session);
            if sessions.len() == before {
                return None;
            }
            sessions.is_empty()
        } else if place.session == session {
            true
        } else {
            return None;
        };
        if is_last {
            part.remove(&id);
            self.many.remove(&id);
            // A backlog that is gone gives its memory back.
            if part.capacity() > 1024 && part.len() < part.capacity() / 8 {
                part.shrink_to(part.len() * 2);
            }
        }
        Some(Finished { slot: place.slot, is_last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_live_until_all_its_receivers_have_finished() {
        let mut live = Live::default();
        live.insert(5, 1, SmallVec::from_slice(&[7, 8]));
        live.insert(6, 1, SmallVec::from_slice(&[7]));
        assert_eq!(live.finish(5, 9), None);
        assert_eq!(live.finish(5, 7), Some(Finished { slot: 1, is_last: false }));
        assert_eq!(live.finish(5, 7), None);
        assert_eq!(live.insert(5, 2, live.sessions(5)), Some(1));
        assert_eq!(live.finish(5, 8), Some(Finished { slot: 2, is_last: true }));
        assert_eq!(live.slot(5), None);
        assert_eq!(live.finish(6, 8), None);
        assert_eq!(live.finish(6, 7), Some(Finished { slot: 1, is_last: true }));
        assert_eq!(size_of::<(u64, Place)>(), 16);
    }
}
