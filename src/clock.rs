//! Time as a value.
//!
//! Everything above this file takes a [`Moment`] as an argument; only [`Clock`] reads the system's
//! clocks, so a test can own time. A `Moment` counts from the Unix epoch, because Session and
//! Message Expiry go on while the broker is down, but within a process it follows the monotonic
//! clock: a step of the wall clock neither expires everything nor stops expiry.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A point in time in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// Later than every moment that a clock will show.
    pub const NEVER: Self = Self(u64::MAX);

    /// The moment so many milliseconds after the Unix epoch.
    pub const fn from_unix_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn unix_ms(self) -> u64 {
        self.0
    }

    /// This moment and so many seconds; [`Moment::NEVER`] at the end of time.
    pub const fn after_s(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1000)))
    }

    /// This moment and so many milliseconds; [`Moment::NEVER`] at the end of time.
    pub const fn after_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this moment, 0 when `earlier` is not earlier.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Where [`Moment`]s come from: the system's clocks, a hand that sets them, or somebody else's
/// time.
pub enum Clock {
    /// Wall clock at the start, monotonic clock from there.
    System {
        /// What the wall clock showed when this clock was made.
        unix_ms_at_start: u64,
        /// What the monotonic clock showed then.
        start: Instant,
    },
    /// Shows what it was set to, in milliseconds since the Unix epoch.
    Manual(AtomicU64),
    /// Shows what the function says: a simulation's time.
    Other(Box<dyn Fn() -> Moment + Send + Sync>),
}

impl Clock {
    /// The system's clock.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn system() -> Self {
        Self::System { unix_ms_at_start: wall().unix_ms(), start: Instant::now() }
    }

    /// A clock that stands at `moment` until it is set.
    pub fn manual(moment: Moment) -> Self {
        Self::Manual(AtomicU64::new(moment.0))
    }

    /// The moment it is.
    pub fn now(&self) -> Moment {
        match self {
            Self::System { unix_ms_at_start, start } => {
                let elapsed = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
                Moment(unix_ms_at_start.saturating_add(elapsed))
            }
            Self::Manual(ms) => Moment(ms.load(Ordering::Relaxed)),
            Self::Other(now) => now(),
        }
    }

    /// The monotonic instant that `moment` falls on, for timers of the async runtime.
    pub fn instant_of(&self, moment: Moment) -> Option<Instant> {
        match self {
            Self::System { unix_ms_at_start, start } => {
                let ms = moment.0.saturating_sub(*unix_ms_at_start);
                start.checked_add(Duration::from_millis(ms))
            }
            Self::Manual(_) | Self::Other(_) => None,
        }
    }

    /// Moves a manual clock to `moment`; the system's clock does not obey.
    pub fn set(&self, moment: Moment) {
        if let Self::Manual(ms) = self {
            ms.store(moment.0, Ordering::Relaxed);
        }
    }
}

/// What the wall clock shows: for times that others have set, such as the expiry of a token. It
/// may step; what is measured here is measured by [`Clock`].
pub fn wall() -> Moment {
    Moment(u64::try_from(since_1970().as_millis()).unwrap_or(u64::MAX))
}

/// The same, as exact as it is shown: for the log.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Measures short times within one thread.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Begins to measure.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Microseconds since the start.
    pub fn elapsed_us(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_does_not_wrap() {
        assert_eq!(Moment::NEVER.after_s(1), Moment::NEVER);
        assert_eq!(Moment::from_unix_ms(5).since(Moment::from_unix_ms(9)), 0);
        assert_eq!(Moment::from_unix_ms(5).after_s(2).unix_ms(), 2005);
    }

    #[test]
    fn a_manual_clock_stands_still_until_set() {
        let clock = Clock::manual(Moment::from_unix_ms(7));
        assert_eq!(clock.now().unix_ms(), 7);
        clock.set(Moment::from_unix_ms(9));
        assert_eq!(clock.now().unix_ms(), 9);
    }
}
