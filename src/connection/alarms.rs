//! When idle connections want to be woken: all of a thread's in one wheel, 32 bytes each. A timer
//! of the runtime's own would be four times that, and there is one for each Client.
//!
//! Time is cut into ticks, and the wheel has a list for each of the next ones. What is due later
//! than the wheel reaches waits in the last of them and is put into another one then. A task of
//! the thread's runtime, the [`Keeper`], sleeps until the next list that is not empty; it is there
//! while there is an alarm at all.

use std::cell::RefCell;
use std::future::poll_fn;
use std::num::NonZeroU32;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// An alarm goes off up to so much too late, in milliseconds.
const TICK_MS: u64 = 128;

/// Lists of the wheel: a little more than two minutes.
const LISTS: usize = 1024;

/// No slot.
const NONE: u32 = u32::MAX;

thread_local! {
    static WHEEL: RefCell<Wheel> = RefCell::new(Wheel::default());
}

/// A connection's alarm. It belongs to the thread that it was made on, as its task does.
#[derive(Debug)]
pub struct Alarm {
    /// The number of its slot, and one: so that no alarm takes no more room than one.
    above_slot: NonZeroU32,
}

impl Alarm {
    /// Wakes the task in so many milliseconds, or a little later; once. To be called within the
    /// thread's runtime.
    pub fn after_ms(ms: u64, waker: &Waker) -> Self {
        let (slot, keeper) = WHEEL.with_borrow_mut(|wheel| wheel.add(ms, waker.clone()));
        match keeper {
            Some(keeper) => keeper.wake(),
            None => Keeper::see_to(),
        }
        Self { above_slot: NonZeroU32::MIN.saturating_add(slot) }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // When the thread ends, the wheel may have ended before. A waker is dropped when nothing
        // is borrowed: a task may go with it, and the task's alarm.
        drop(WHEEL.try_with(|wheel| wheel.borrow_mut().remove(self.above_slot.get() - 1)));
    }
}

/// What comes of a future within so much time, or a little more. A timer of the runtime's would
/// often be the next one due, and then cost a system call when it is set.
pub async fn within<T>(time: Duration, future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut set) = (pin!(future), None);
    poll_fn(|cx| {
        if let Poll::Ready(done) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        match &set {
            Some((Some(due), _)) if *due <= Instant::now() => return Poll::Ready(None),
            Some(_) => {}
            None => {
                let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                let due = Instant::now().checked_add(time);
                set = Some((due, Alarm::after_ms(ms, cx.waker())));
            }
        }
        Poll::Pending
    })
    .await
}

/// One alarm. 32 bytes.
#[derive(Debug)]
struct Slot {
    /// None: it has gone off, or nobody has this slot.
    waker: Option<Waker>,
    due: Tick,
    /// The neighbours in its list; of a slot that nobody has, `next` is another one such.
    next: u32,
    prev: u32,
    list: u16,
}

/// Counted from the start of the wheel: enough for 17 years.
type Tick = u32;

#[derive(Debug)]
struct Wheel {
    slots: Vec<Slot>,
    /// The first slot that nobody has.
    free: u32,
    /// Slots that somebody has.
    held: usize,
    /// The first slot of each list.
    lists: Box<[u32]>,
    /// When the first tick was.
    start: Instant,
    /// The last tick whose list was looked at.
    hand: Tick,
    /// What the keeper sleeps until.
    wakes_at: Tick,
    has_keeper: bool,
    keeper: Option<Waker>,
}

impl Default for Wheel {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: NONE,
            held: 0,
            lists: vec![NONE; LISTS].into(),
            start: Instant::now(),
            hand: 0,
            wakes_at: 0,
            has_keeper: false,
            keeper: None,
        }
    }
}

impl Wheel {
    fn elapsed_ms(&self) -> u64 {
        let elapsed = Instant::now().saturating_duration_since(self.start);
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }

    /// A new alarm, and the keeper if it sleeps for too long.
    fn add(&mut self, ms: u64, waker: Waker) -> (u32, Option<Waker>) {
        if self.held == 0 && !self.has_keeper {
            // Nothing of what was before counts, perhaps not even its clock.
            (self.start, self.hand) = (Instant::now(), 0);
        }
        // One more, since what has elapsed is rounded down: never too early.
        let due = self.elapsed_ms().saturating_add(ms).saturating_add(1).div_ceil(TICK_MS);
        let due = Tick::try_from(due).unwrap_or(Tick::MAX);
        let slot = Slot { waker: Some(waker), due, next: NONE, prev: NONE, list: 0 };
        let mut at = self.free;
        match self.slots.get_mut(at as usize) {
            Some(unused) => {
                self.free = unused.next;
                *unused = slot;
            }
            None => {
                at = u32::try_from(self.slots.len()).unwrap_or(NONE);
                self.slots.push(slot);
            }
        }
        self.held += 1;
        self.link(at);
        (at, self.keeper.take_if(|_| due < self.wakes_at))
    }

    /// Puts a slot into the list of its tick, or into the last that there is.
    fn link(&mut self, at: u32) {
        let Some(slot) = self.slots.get_mut(at as usize) else { return };
        let tick = slot.due.clamp(self.hand + 1, self.hand + LISTS as Tick - 1);
        slot.list = (tick % LISTS as Tick) as u16;
        let Some(first) = self.lists.get_mut(usize::from(slot.list)) else { return };
        (slot.next, slot.prev) = (*first, NONE);
        let next = std::mem::replace(first, at);
        if let Some(next) = self.slots.get_mut(next as usize) {
            next.prev = at;
        }
    }

    /// Takes a slot out of its list.
    fn unlink(&mut self, at: u32) {
        let Some(&Slot { next, prev, list, .. }) = self.slots.get(at as usize) else { return };
        if let Some(next) = self.slots.get_mut(next as usize) {
            next.prev = prev;
        }
        if let Some(prev) = self.slots.get_mut(prev as usize) {
            prev.next = next;
        } else if let Some(first) = self.lists.get_mut(usize::from(list)) {
            *first = next;
        }
    }

    /// Nobody has the slot any more.
    fn remove(&mut self, at: u32) -> Option<Waker> {
        let waker = self.slots.get_mut(at as usize)?.waker.take();
        if waker.is_some() {
            self.unlink(at);
        }
        self.held -= 1;
        if self.held == 0 {
            (self.slots, self.free) = (Vec::new(), NONE);
        } else if let Some(slot) = self.slots.get_mut(at as usize) {
            slot.next = std::mem::replace(&mut self.free, at);
        }
        waker
    }

    /// Goes on to the present tick; what is due by then is added to `due`. Returns when the next
    /// list that is not empty is due.
    fn turn(&mut self, due: &mut Vec<Waker>) -> Option<Tick> {
        let now = Tick::try_from(self.elapsed_ms() / TICK_MS).unwrap_or(Tick::MAX);
        while self.hand < now {
            let Some(next) = self.next_list() else {
                self.hand = now;
                return None;
            };
            if next > now {
                self.hand = now;
                break;
            }
            self.hand = next;
            self.look_at(next, due);
        }
        self.next_list()
    }

    /// The next tick whose list is not empty.
    fn next_list(&self) -> Option<Tick> {
        (self.hand + 1..self.hand + LISTS as Tick).find(|tick| {
            self.lists.get((tick % LISTS as Tick) as usize).is_some_and(|&first| first != NONE)
        })
    }

    /// Empties the list of a tick: what is due is added to `due`, the others come later.
    fn look_at(&mut self, tick: Tick, due: &mut Vec<Waker>) {
        let Some(first) = self.lists.get_mut((tick % LISTS as Tick) as usize) else { return };
        let mut at = std::mem::replace(first, NONE);
        while let Some(slot) = self.slots.get_mut(at as usize) {
            let next = slot.next;
            if slot.due <= tick {
                due.extend(slot.waker.take());
            } else {
                self.link(at);
            }
            at = next;
        }
    }
}

/// Wakes whose alarm is due.
struct Keeper {
    sleep: Pin<Box<Sleep>>,
    due: Vec<Waker>,
}

impl Keeper {
    /// Begins one on this thread's runtime, if there is none.
    fn see_to() {
        let is_needed =
            WHEEL.with_borrow_mut(|wheel| !std::mem::replace(&mut wheel.has_keeper, true));
        if is_needed {
            let sleep = Box::pin(sleep_until(Instant::now()));
            tokio::spawn(Self { sleep, due: Vec::new() });
        }
    }
}

impl Future for Keeper {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { sleep, due } = &mut *self;
        loop {
            let next = WHEEL.with_borrow_mut(|wheel| {
                let next = wheel.turn(due)?;
                wheel.wakes_at = next;
                wheel.keeper = Some(cx.waker().clone());
                Some(wheel.start + Duration::from_millis(u64::from(next) * TICK_MS))
            });
            // Outside: a task may go with its last waker, and its alarm with it.
            due.drain(..).for_each(Waker::wake);
            let Some(next) = next else { return Poll::Ready(()) };
            sleep.as_mut().reset(next);
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Its work is done, or its runtime ends.
        let _ = WHEEL.try_with(|wheel| {
            let mut wheel = wheel.borrow_mut();
            (wheel.has_keeper, wheel.keeper) = (false, None);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_runtime<T>(test: impl Future<Output = T>) -> T {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap().block_on(test)
    }

    /// How long an alarm takes that is set for so many milliseconds.
    async fn wait(ms: u64) -> u64 {
        let (start, mut alarm) = (Instant::now(), None);
        poll_fn(|cx| {
            if alarm.is_some() {
                return Poll::Ready(());
            }
            alarm = Some(Alarm::after_ms(ms, cx.waker()));
            Poll::Pending
        })
        .await;
        u64::try_from(start.elapsed().as_millis()).unwrap()
    }

    #[test]
    fn alarms_go_off_in_time_whatever_their_distance() {
        in_runtime(async {
            let turn = LISTS as u64 * TICK_MS;
            let distances = [1, 100, 127, 128, 129, 1000, turn - 1, turn, turn + 1, 5 * turn];
            let waits: Vec<_> = distances.map(|ms| (ms, tokio::spawn(wait(ms)))).into();
            for (ms, waited) in waits {
                let waited = waited.await.unwrap();
                assert!((ms..=ms + TICK_MS + 1).contains(&waited), "{ms}: {waited}");
            }
        });
    }

    #[test]
    fn a_sooner_alarm_wakes_the_keeper_that_sleeps_for_a_later_one() {
        in_runtime(async {
            let later = tokio::spawn(wait(60_000));
            tokio::time::sleep(Duration::from_millis(10_000)).await;
            assert!(wait(1000).await <= 1000 + TICK_MS + 1);
            assert!((60_000..=60_000 + TICK_MS + 1).contains(&later.await.unwrap()));
        });
    }

    #[test]
    fn a_future_has_its_time_and_not_much_more() {
        in_runtime(async {
            let start = Instant::now();
            let sleep = |ms| tokio::time::sleep(Duration::from_millis(ms));
            assert_eq!(within(Duration::from_millis(500), sleep(400)).await, Some(()));
            assert_eq!(within(Duration::from_millis(500), sleep(5000)).await, None);
            let waited = u64::try_from(start.elapsed().as_millis()).unwrap();
            assert!((900..=900 + TICK_MS + 2).contains(&waited), "{waited}");
        });
    }

    #[test]
    fn what_is_dropped_leaves_nothing_behind_and_a_new_runtime_has_a_new_keeper() {
        for _ in 0..2 {
            in_runtime(async {
                let waits: Vec<_> = (0..100).map(|n| tokio::spawn(wait(n % 7 * 1000))).collect();
                tokio::time::sleep(Duration::from_millis(2500)).await;
                for n in [99, 0, 50, 51, 3] {
                    waits[n].abort();
                }
                tokio::time::sleep(Duration::from_millis(1000)).await;
            });
            WHEEL.with_borrow(|wheel| {
                assert_eq!((wheel.held, wheel.slots.len(), wheel.has_keeper), (0, 0, false));
                assert!(wheel.lists.iter().all(|&first| first == NONE));
            });
        }
    }

    #[test]
    fn a_slot_is_small() {
        assert_eq!((size_of::<Slot>(), size_of::<Alarm>()), (32, 4));
    }
}
