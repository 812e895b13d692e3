//! So many in a second, and so many at once: a bucket that fills again while time passes.
//!
//! It is not counted down: it is known when all that was taken will have been made up for, and that
//! may lie up to a second ahead. So there is nothing to be done while nobody comes.

use std::num::NonZeroU64;

use crate::clock::Moment;

/// How much in a second.
pub type Rate = NonZeroU64;

/// How far ahead may be taken: what comes in at once when nothing came before.
const AHEAD_NS: u64 = 1_000_000_000;

const NS_IN_MS: u64 = 1_000_000;

/// The bucket; full at first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    /// When it is full again, in nanoseconds since the Unix epoch.
    full_at_ns: u64,
}

impl Bucket {
    /// Takes one, if there is one.
    pub fn take(&mut self, rate: Rate, now: Moment) -> bool {
        let (now_ns, cost_ns) = (nanoseconds(now), cost(rate, 1));
        let full_at_ns = self.full_at_ns.max(now_ns).saturating_add(cost_ns);
        // One is always in a full bucket.
        let has_one = full_at_ns - now_ns <= AHEAD_NS.max(cost_ns);
        if has_one {
            self.full_at_ns = full_at_ns;
        }
        has_one
    }

    /// Takes so many, also more than there are: that is made up for before there is anything again.
    pub fn spend(&mut self, rate: Rate, now: Moment, n: u64) {
        self.full_at_ns = self.full_at_ns.max(nanoseconds(now)).saturating_add(cost(rate, n));
    }

    /// How many there are.
    pub fn left(&self, rate: Rate, now: Moment) -> u64 {
        let ahead_ns = self.full_at_ns.saturating_sub(nanoseconds(now));
        let left = u128::from(AHEAD_NS.saturating_sub(ahead_ns)) * u128::from(rate.get());
        u64::try_from(left / u128::from(AHEAD_NS)).unwrap_or(u64::MAX)
    }

    /// Milliseconds until so many can be taken, of no more than a full bucket has.
    pub fn wait_ms(&self, rate: Rate, now: Moment, n: u64) -> u64 {
        let ahead_ns = self.full_at_ns.saturating_sub(nanoseconds(now));
        let room_ns = AHEAD_NS.saturating_sub(cost(rate, n));
        ahead_ns.saturating_sub(room_ns).div_ceil(NS_IN_MS)
    }
}

fn nanoseconds(moment: Moment) -> u64 {
    moment.unix_ms().saturating_mul(NS_IN_MS)
}

/// The time in which so many come, in nanoseconds.
fn cost(rate: Rate, n: u64) -> u64 {
    n.saturating_mul(AHEAD_NS) / rate
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_unix_ms(1_800_000_000_000 + ms)
    }

    #[test]
    fn as_many_as_in_a_second_come_at_once_and_then_at_their_rate() {
        for rate in [1, 2, 3, 7, 100, 999, 1000, 123_456] {
            let rate = Rate::new(rate).unwrap();
            let mut bucket = Bucket::default();
            let mut taken = |ms| (0_u64..).take_while(|_| bucket.take(rate, at(ms))).count() as u64;
            assert_eq!(taken(0), rate.get());
            // However often it is asked: what is left of a millisecond is not lost.
            let later: u64 = (1..=10_000).map(&mut taken).sum();
            // Costs are whole nanoseconds.
            assert!((0..=10 * rate.get() / 10_000).contains(&(later - 10 * rate.get())), "{later}");
            assert_eq!(taken(60_000), rate.get(), "it does not overflow");
        }
    }

    #[test]
    fn what_was_spent_is_made_up_for() {
        let (rate, mut bucket) = (Rate::new(1000).unwrap(), Bucket::default());
        assert_eq!((bucket.left(rate, at(0)), bucket.wait_ms(rate, at(0), 1000)), (1000, 0));
        bucket.spend(rate, at(0), 5000);
        assert_eq!((bucket.left(rate, at(0)), bucket.left(rate, at(4000))), (0, 0));
        assert_eq!(bucket.left(rate, at(4100)), 100);
        assert_eq!(bucket.wait_ms(rate, at(0), 100), 4100);
        assert_eq!(bucket.wait_ms(rate, at(4000), 100), 100);
        bucket.spend(rate, at(4100), u64::MAX);
        assert_eq!(bucket.left(rate, at(10_000)), 0);
    }
}
