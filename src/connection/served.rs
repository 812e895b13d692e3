//! A connection as a task: it opens, is open, and says goodbye.
//!
//! Written by hand, since a task is as large as its largest moment and an idle connection should
//! not be: what opens and what says goodbye has a block of its own while it lasts.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::{Connection, Options, open};
use crate::broker::{Broker, desk};
use crate::net::listener::Accepted;
use crate::net::transport::{Peer, Transport};

/// Serves an accepted connection to its end; what is `held` is dropped with it.
pub fn serve<H: Unpin>(
    accepted: Accepted,
    broker: Arc<Broker>,
    options: Arc<Options>,
    held: H,
) -> Served<H> {
    broker.metrics.connections_opened.increment();
    Served::new(held, async move {
        let opened = open::accept(accepted, &broker, &options).await;
        counted(opened, &broker)
    })
}

/// Serves a byte stream that no listener has accepted: for simulations.
pub fn serve_stream(
    io: Transport,
    peer: Peer,
    broker: Arc<Broker>,
    options: Arc<Options>,
) -> Served<()> {
    broker.metrics.connections_opened.increment();
    Served::new((), async move {
        let opened = open::open(io, peer, (None, None), &broker, &options).await;
        counted(opened, &broker)
    })
}

/// What did not come to be open is counted as closed.
fn counted(opened: Option<Box<Connection>>, broker: &Broker) -> Option<Box<Connection>> {
    if opened.is_none() {
        broker.metrics.connections_closed.increment();
    }
    opened
}

/// A connection from its beginning to its end.
pub struct Served<H> {
    stage: Stage,
    _held: H,
}

enum Stage {
    /// It opens, or says goodbye; with what is open afterwards.
    Passing(Pin<Box<dyn Future<Output = Option<Box<Connection>>> + Send>>),
    Open(Option<Box<Connection>>),
}

impl<H> Served<H> {
    fn new(
        held: H,
        opening: impl Future<Output = Option<Box<Connection>>> + Send + 'static,
    ) -> Self {
        Self { stage: Stage::Passing(Box::pin(opening)), _held: held }
    }
}

impl<H: Unpin> Future for Served<H> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        desk::look();
        loop {
            self.stage = match &mut self.stage {
                Stage::Passing(passing) => Stage::Open(ready!(passing.as_mut().poll(cx))),
                Stage::Open(open) => {
                    let Some(connection) = open else { return Poll::Ready(()) };
                    let ending = ready!(connection.poll(cx));
                    let Some(connection) = open.take() else { return Poll::Ready(()) };
                    Stage::Passing(Box::pin(async move {
                        let broker = connection.lease.broker.clone();
                        connection.end(ending).await;
                        broker.metrics.connections_closed.increment();
                        None
                    }))
                }
            };
        }
    }
}
