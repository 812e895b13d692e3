//! How many deliveries a receiver takes from its queue before others have their turn.
//!
//! As many as take about as long as the packets that a publisher may send in a turn. That must not
//! make a receiver fall behind of whom many publish to: QoS 0 would be dropped that there was time
//! for. So the portion grows while more comes between two looks than it is.

/// Deliveries that may be taken at a time in any case: to write so many takes about as long as to
/// read half as many, some fifty microseconds.
const LEAST: usize = 512;

/// The portion of a queue.
#[derive(Debug, Default)]
pub(super) struct Portion {
    /// How many times it was doubled.
    doubled: u8,
    /// What was left at the last look.
    left: u32,
}

impl Portion {
    /// How many of so many may be taken now.
    pub fn of(&mut self, len: usize) -> usize {
        let before = LEAST << self.doubled;
        if len < before / 4 {
            self.doubled = self.doubled.saturating_sub(1);
        } else if before < len && len.saturating_sub(self.left as usize) > before {
            self.doubled += 1;
        }
        LEAST << self.doubled
    }

    /// So many were left. Also where none could be taken since the Client does not read: what has
    /// come until then has not come too fast for this thread.
    pub fn leaves(&mut self, len: usize) {
        self.left = u32::try_from(len).unwrap_or(u32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes once, after so many have come.
    fn round(portion: &mut Portion, len: &mut usize, came: usize) -> usize {
        *len += came;
        let taken = portion.of(*len).min(*len);
        *len -= taken;
        portion.leaves(*len);
        taken
    }

    #[test]
    fn who_many_publish_to_falls_behind_only_for_a_while() {
        for came in [100, 513, 1000, 5000, 100_000] {
            let (mut portion, mut len, mut most) = (Portion::default(), 0, 0);
            for _ in 0..1000 {
                round(&mut portion, &mut len, came);
                most = most.max(len);
            }
            let rounds = came.div_ceil(LEAST).ilog2() as usize + 1;
            assert!(most <= rounds * came, "{most} of {came} at a time");
            assert_eq!(round(&mut portion, &mut len, came), came, "it has caught up");
        }
    }

    #[test]
    fn who_did_not_read_catches_up_slowly() {
        let (mut portion, mut len) = (Portion::default(), 0);
        for _ in 0..100 {
            len += 300;
            portion.of(len);
            portion.leaves(len);
        }
        let mut rounds = 0;
        while len > 0 {
            assert!(round(&mut portion, &mut len, 300) <= LEAST);
            rounds += 1;
        }
        assert_eq!(rounds, 30_000 / (512 - 300) + 1);
        portion.of(usize::MAX);
        assert!(portion.of(usize::MAX) > LEAST, "and no number is too large");
    }
}
