//! Wakes the tasks of a worker's thread from other threads, seldom by a system call.
//!
//! Waking a task of another thread's runtime costs a write to its event descriptor each time, even
//! while that thread is busy. So who rings a bell that hangs on another thread leaves the waker at
//! that thread's desk. The thread looks there before each turn of a connection, before it sleeps,
//! and when it wakes up; only who comes first while it sleeps wakes it.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use parking_lot::Mutex;

thread_local! {
    static OWN: Cell<Option<&'static Desk>> = const { Cell::new(None) };
    /// An empty list, in exchange for that of a desk.
    static EMPTY: Cell<Vec<Waker>> = const { Cell::new(Vec::new()) };
}

#[derive(Debug, Default)]
struct Inner {
    /// To be woken.
    left: Vec<Waker>,
    /// Whether the thread sleeps, and nobody has woken it yet.
    sleeps: bool,
}

/// Where wakers are left. On a line of memory of its own, or two: its thread looks often.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Desk {
    inner: Mutex<Inner>,
    /// Whether something may be left; a look at it needs no lock.
    is_used: AtomicBool,
}

impl Desk {
    /// Opens this thread's, which is to live as long as the process. Its runtime is to call
    /// [`before_sleep`] and [`after_sleep`].
    pub fn open() {
        OWN.set(Some(Box::leak(Box::default())));
    }

    fn leave(&self, waker: Waker) {
        let mut inner = self.inner.lock();
        if std::mem::take(&mut inner.sleeps) {
            drop(inner);
            waker.wake();
            return;
        }
        inner.left.push(waker);
        self.is_used.store(true, Ordering::Relaxed);
    }

    /// Wakes what is left here; `sleeps`: whether the thread then sleeps, if it is nothing.
    fn serve(&self, sleeps: bool) {
        let mut left = EMPTY.take();
        let mut inner = self.inner.lock();
        std::mem::swap(&mut inner.left, &mut left);
        self.is_used.store(false, Ordering::Relaxed);
        inner.sleeps = sleeps && left.is_empty();
        drop(inner);
        left.drain(..).for_each(Waker::wake);
        EMPTY.set(left);
    }
}

/// Wakes what is left at this thread's desk.
#[inline]
pub fn look() {
    if let Some(desk) = OWN.get().filter(|desk| desk.is_used.load(Ordering::Relaxed)) {
        desk.serve(false);
    }
}

/// As [`look`], and if nothing is left the thread sleeps from now on.
pub fn before_sleep() {
    if let Some(desk) = OWN.get() {
        desk.serve(true);
    }
}

/// The thread does not sleep any more.
pub fn after_sleep() {
    if let Some(desk) = OWN.get() {
        desk.serve(false);
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
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn ring_from_afar(waker: &Waker, times: usize) {
        let bells: Vec<Bell> = (0..times).map(|_| Bell::new(waker)).collect();
        std::thread::spawn(|| bells.into_iter().for_each(Bell::ring)).join().unwrap();
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
}
