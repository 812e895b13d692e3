//! What the broker has heard of a connection: not all that it has read. A PUBLISH that the store
//! does not take is held back where its Client cannot be told so, and most of what is behind it
//! waits too. No Client sees when, but the log says so.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Once;
use std::task::{Context, Poll};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use whimbrel::connection::{HELD, Served};

use crate::pipe::Pipe;

thread_local! {
    /// The connection that has its turn.
    static TURN: RefCell<Option<Pipe>> = const { RefCell::new(None) };
}

/// A connection whose pipe learns what has been handled.
pub struct Heard {
    pipe: Pipe,
    served: Served<()>,
}

impl Heard {
    /// The connection at the other end of a pipe.
    pub fn new(pipe: Pipe, served: Served<()>) -> Self {
        Self { pipe, served }
    }
}

impl Future for Heard {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.pipe.turn();
        TURN.set(Some(self.pipe.clone()));
        let polled = Pin::new(&mut self.served).poll(cx);
        TURN.set(None);
        self.pipe.settle();
        polled
    }
}

/// Hears what the log says of what is held back, in every thread.
pub fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::subscriber::set_global_default(Listener).unwrap());
}

struct Listener;

/// The Packet Identifier of what is held; none of what is tried again.
struct Held(Option<u16>);

impl Visit for Held {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "packet_id" {
            self.0 = u16::try_from(value).ok();
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == HELD
    }

    fn event(&self, event: &Event<'_>) {
        let mut held = Held(None);
        event.record(&mut held);
        TURN.with_borrow(|pipe| match (pipe, held) {
            (Some(pipe), Held(Some(id))) => pipe.held(id),
            (Some(pipe), Held(None)) => pipe.tried_again(),
            (None, _) => {}
        });
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
