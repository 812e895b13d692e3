//! A connection whose Client is not known yet, and why it may come to nothing.

use std::io;
use std::sync::Arc;

use super::scratch::Scratch;
use crate::broker::Broker;
use crate::codec::frame::{self, Split};
use crate::codec::{DecodeError, ReasonCode, Version};
use crate::metrics::Tally;
use crate::net::transport::{Peer, Transport};
use crate::wire::{Input, Reader, Writer};

/// A connection whose Client is not known yet.
pub(super) struct Opening<'a> {
    pub(super) io: Transport,
    pub(super) peer: Peer,
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) broker: &'a Arc<Broker>,
    /// Largest packet accepted, in bytes.
    pub(super) maximum: usize,
    /// As the Client gave it; for the log.
    pub(super) client_id: String,
}

/// Why a Client is not let in.
pub(super) enum Refusal {
    /// The stream ended or broke, or the time is over; there is nobody to tell.
    Gone(String),
    /// What came is not MQTT; it is not answered.
    Silent(DecodeError),
    /// It is told why.
    Told(Version, ReasonCode, String),
}

impl Refusal {
    pub(super) fn breaks_rules(&self) -> bool {
        match self {
            Self::Gone(_) => false,
            Self::Silent(_) => true,
            Self::Told(_, reason, _) => super::ending::breaks_rules(*reason),
        }
    }
}

impl Opening<'_> {
    /// Reads one whole packet, of which the first must be CONNECT [MQTT-3.1.0-1].
    pub(super) async fn frame(&mut self) -> Result<Vec<u8>, Refusal> {
        let mut maximum = self.maximum;
        if self.broker.memory_is_full() {
            maximum = maximum.min(super::UNFINISHED_MAX);
        }
        let kept = Arc::unwrap_or_clone(self.reader.take_kept());
        let mut had = kept.len();
        if let Some(packet) = self.first(kept, maximum)? {
            return Ok(packet);
        }
        loop {
            let (reader, io) = (&mut self.reader, &mut self.io);
            let read = std::future::poll_fn(|cx| {
                Scratch::lend(|scratch| {
                    reader.poll_read(cx, io, &mut scratch.input).map_ok(|read| match read {
                        Input::Closed => None,
                        Input::Shared(len) => Some(scratch.input.get(..len)?.to_vec()),
                        Input::Own(own) => Some(Arc::unwrap_or_clone(own)),
                    })
                })
            });
            let bytes = read.await.map_err(gone)?;
            let bytes = bytes.ok_or_else(|| Refusal::Gone("closed before CONNECT".into()))?;
            let bytes_received = bytes.len().saturating_sub(had) as u64;
            self.count(Tally { bytes_received, ..Tally::default() });
            had = bytes.len();
            if let Some(packet) = self.first(bytes, maximum)? {
                return Ok(packet);
            }
        }
    }

    pub(super) fn count(&self, mut tally: Tally) {
        self.broker.metrics.traffic.add(&mut tally);
    }

    /// Takes the first packet off the bytes and keeps the rest.
    fn first(&mut self, mut bytes: Vec<u8>, maximum: usize) -> Result<Option<Vec<u8>>, Refusal> {
        match frame::split(&bytes, maximum) {
            Ok(Split::Frame(frame)) => {
                let rest = bytes.split_off(frame.len);
                self.reader.keep(&rest, rest.len() + 1, 0);
                self.count(Tally { packets_received: 1, ..Tally::default() });
                Ok(Some(bytes))
            }
            Ok(Split::NeedMore { at_least }) => {
                self.reader.keep_own(Arc::new(bytes), 0, at_least, 0);
                Ok(None)
            }
            Err(error) => Err(Refusal::Silent(error)),
        }
    }
}

pub(super) fn gone(error: io::Error) -> Refusal {
    Refusal::Gone(error.to_string())
}
