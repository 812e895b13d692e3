//! Wakes the tasks of a worker's thread from other threads, seldom by a system call.
//!
//! Waking a task of another thread's runtime costs a write to its event descriptor each time, even
//! while that thread is busy. So who rings a bell that hangs on another thread leaves the waker at
//! that thread's desk. The thread looks there before each turn of a connection, before it sleeps,
//! and when it wakes up; only who comes first while it sleeps wakes it.

use std::cell::Cell;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Waker;

use parking_lot::{Mutex, MutexGuard};

thread_local! {
    static OWN: Cell<Option<&'static Desk>> = const { Cell::new(None) };
    /// An empty list, in exchange for that of a desk.
    static EMPTY: Cell<Vec<Waker>> = const { Cell::new(Vec::new()) };
}

/// The thread is awake, and nothing is left at its desk.
const AWAKE: u8 = 0;
/// It sleeps, nobody has woken it yet, and nothing is left.
const ASLEEP: u8 = 1;
/// Something is left.
const USED: u8 = 2;

/// Where wakers are left. On a line of memory of its own, or two: its thread looks often.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Desk {
    /// To be woken.
    left: Mutex<Vec<Waker>>,
    /// Comes to be and ceases to be `USED` while `left` is locked; to sleep and to wake up where
    /// nothing is left needs no lock.
    state: AtomicU8,
}

impl Desk {
    /// Opens this thread's, which is to live as long as the process. Its runtime is to call
    /// [`before_sleep`] and [`after_sleep`].
    pub fn open() {
        OWN.set(Some(Box::leak(Box::default())));
    }

    fn changes(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn leave(&self, waker: Waker) {
        if self.changes(ASLEEP, AWAKE) {
            waker.wake();
            return;
        }
        let mut left = self.left.lock();
        left.push(waker);
        if self.state.swap(USED, Ordering::AcqRel) == ASLEEP {
            // It has fallen asleep just now.
            self.wake(left);
        }
    }

    /// Wakes what is left here.
    fn serve(&self) {
        if self.state.load(Ordering::Relaxed) == USED {
            self.wake(self.left.lock());
        }
    }

    fn wake(&self, mut left: MutexGuard<'_, Vec<Waker>>) {
        let mut all = EMPTY.take();
        std::mem::swap(&mut *left, &mut all);
        self.state.store(AWAKE, Ordering::Release);
        drop(left);
        all.drain(..).for_each(Waker::wake);
        EMPTY.set(all);
    }
}

/// Wakes what is left at this thread's desk.
#[inline]
pub fn look() {
    if let Some(desk) = OWN.get() {
        desk.serve();
    }
}

/// As [`look`], and if nothing is left the thread sleeps from now on.
pub fn before_sleep() {
    if let Some(desk) = OWN.get().filter(|desk| !desk.changes(AWAKE, ASLEEP)) {
        desk.serve();
    }
}

/// The thread does not sleep any more.
pub fn after_sleep() {
    if let Some(desk) = OWN.get().filter(|desk| !desk.changes(ASLEEP, AWAKE)) {
        desk.serve();
    }
}

/// Wakes a task, from whichever thread.
#[derive(Debug)]
pub struct Bell {
    waker: Waker,
    /// Of the task's thread; `None` where it has none.
    desk: Option<&'static Desk>,
}

impl Bell {
    /// The bell of the task that runs on this thread now.
    pub fn new(waker: &Waker) -> Self {
        Self { waker: waker.clone(), desk: OWN.get() }
    }

    /// Whether it wakes the same task.
    pub fn is_of(&self, waker: &Waker) -> bool {
        self.waker.will_wake(waker)
    }

    /// The desk of the task's thread, if that is not this one.
    fn desk_afar(&self) -> Option<&'static Desk> {
        self.desk.filter(|desk| !OWN.get().is_some_and(|own| std::ptr::eq(own, *desk)))
    }

    /// Whether the task belongs to another worker.
    pub fn is_afar(&self) -> bool {
        self.desk_afar().is_some()
    }

    /// Wakes the task.
    pub fn ring(self) {
        match self.desk_afar() {
            Some(desk) => desk.leave(self.waker),
            None => self.waker.wake(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc::channel;
    use std::task::Wake;
    use std::thread::{self, Thread};
    use std::time::Duration;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn ring_from_afar(waker: &Waker, times: usize) {
        let bells: Vec<Bell> = (0..times).map(|_| Bell::new(waker)).collect();
        thread::spawn(|| bells.into_iter().for_each(Bell::ring)).join().unwrap();
    }

    #[test]
    fn bells_rung_from_afar_wake_a_thread_once_that_sleeps_and_wait_for_one_that_is_awake() {
        Desk::open();
        let count = Arc::<Count>::default();
        let waker = Waker::from(count.clone());
        let woken = || count.0.load(Ordering::Relaxed);
        ring_from_afar(&waker, 3);
        assert_eq!(woken(), 0, "the thread is awake");
        look();
        assert_eq!(woken(), 3);
        before_sleep();
        ring_from_afar(&waker, 3);
        assert_eq!(woken(), 4, "the first has woken the thread");
        after_sleep();
        assert_eq!(woken(), 6);
        ring_from_afar(&waker, 1);
        before_sleep();
        assert_eq!(woken(), 7);
        ring_from_afar(&waker, 1);
        assert_eq!(woken(), 7, "it had something to do and does not sleep");
        Bell::new(&waker).ring();
        assert_eq!(woken(), 8, "a bell of the same thread needs no desk");
    }

    /// Wakes a thread that sleeps, and counts.
    struct Wakes(Thread, AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.unpark();
        }
    }

    /// The thread sleeps whenever nothing has been left, and only a waker ends its sleep.
    #[test]
    fn whoever_rings_is_heard_however_the_thread_falls_asleep() {
        const RINGS: usize = 20_000;
        let (bells, rung) = channel();
        let (done, is_done) = channel();
        thread::spawn(move || {
            Desk::open();
            let wakes = Arc::new(Wakes(thread::current(), AtomicUsize::new(0)));
            let (waker, mut left) = (Waker::from(wakes.clone()), 3 * RINGS);
            for _ in 0..3 {
                bells.send((0..RINGS).map(|_| Bell::new(&waker)).collect::<Vec<_>>()).unwrap();
            }
            while left > 0 {
                before_sleep();
                let heard = wakes.1.swap(0, Ordering::Relaxed);
                if heard == 0 {
                    thread::park();
                }
                left -= heard;
                after_sleep();
            }
            done.send(()).unwrap();
        });
        for bells in rung.iter().take(3) {
            thread::spawn(move || {
                for (at, bell) in bells.into_iter().enumerate() {
                    bell.ring();
                    // Now and then the sleeper gets to sleep.
                    (0..at % 64 * 32).for_each(|_| std::hint::spin_loop());
                }
            });
        }
        is_done.recv_timeout(Duration::from_secs(60)).expect("it sleeps, and was rung for");
    }
}
