//! Wakes the tasks of a worker's thread from other threads, many by one system call.
//!
//! Waking a task of another thread's runtime costs a write to its event descriptor each time. So
//! who rings a bell that hangs on another thread leaves the waker at that thread's desk, and only
//! the first to do so wakes the desk, which then wakes the others where it costs nothing.

use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

thread_local! {
    static OWN: RefCell<Option<Arc<Desk>>> = const { RefCell::new(None) };
}

#[derive(Debug, Default)]
struct Inner {
    /// To be woken.
    left: Vec<Waker>,
    /// The desk's own, while it sleeps.
    own: Option<Waker>,
}

/// Where wakers are left.
#[derive(Debug, Default)]
pub struct Desk(Mutex<Inner>);

impl Desk {
    /// The desk of this thread, whose runtime is to carry out [`Desk::serve`].
    pub fn open() -> Arc<Self> {
        let desk = Arc::new(Self::default());
        OWN.set(Some(desk.clone()));
        desk
    }

    /// Wakes what is left here, for ever.
    pub async fn serve(self: Arc<Self>) {
        let mut woken = Vec::new();
        std::future::poll_fn(|cx| self.poll(cx, &mut woken)).await
    }

    fn poll(&self, cx: &Context<'_>, woken: &mut Vec<Waker>) -> Poll<()> {
        let mut inner = self.0.lock();
        std::mem::swap(&mut inner.left, woken);
        inner.own = Some(cx.waker().clone());
        drop(inner);
        woken.drain(..).for_each(Waker::wake);
        Poll::Pending
    }

    fn leave(&self, waker: Waker) {
        let mut inner = self.0.lock();
        inner.left.push(waker);
        let own = inner.own.take();
        drop(inner);
        if let Some(own) = own {
            own.wake();
        }
    }
}

/// Wakes a task, from whichever thread.
#[derive(Debug)]
pub struct Bell {
    waker: Waker,
    /// Of the task's thread; `None` where it has none.
    desk: Option<Arc<Desk>>,
}

impl Bell {
    /// The bell of the task that runs on this thread now.
    pub fn new(waker: &Waker) -> Self {
        Self { waker: waker.clone(), desk: OWN.with_borrow(Clone::clone) }
    }

    /// Whether it wakes the same task.
    pub fn is_of(&self, waker: &Waker) -> bool {
        self.waker.will_wake(waker)
    }

    /// Wakes the task.
    pub fn ring(self) {
        let is_here = |desk: &Arc<Desk>| {
            OWN.with_borrow(|own| own.as_ref().is_some_and(|own| Arc::ptr_eq(own, desk)))
        };
        match self.desk {
            Some(desk) if !is_here(&desk) => desk.leave(self.waker),
            _ => self.waker.wake(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn waker() -> (Arc<Count>, Waker) {
        let count = Arc::<Count>::default();
        (count.clone(), count.into())
    }

    #[test]
    fn bells_rung_from_afar_wake_the_desk_once_and_it_wakes_them_all() {
        let desk = Desk::open();
        let (own_count, own) = waker();
        let (task_count, task) = waker();
        let mut woken = Vec::new();
        assert!(desk.poll(&Context::from_waker(&own), &mut woken).is_pending());
        let bells: Vec<Bell> = (0..3).map(|_| Bell::new(&task)).collect();
        std::thread::spawn(|| bells.into_iter().for_each(Bell::ring)).join().unwrap();
        let counts = || (own_count.0.load(Ordering::Relaxed), task_count.0.load(Ordering::Relaxed));
        assert_eq!(counts(), (1, 0));
        assert!(desk.poll(&Context::from_waker(&own), &mut woken).is_pending());
        assert_eq!(counts(), (1, 3));
        Bell::new(&task).ring();
        assert_eq!(counts(), (1, 4), "a bell of the same thread needs no desk");
    }
}
