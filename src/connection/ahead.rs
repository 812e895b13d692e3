//! What stands behind a PUBLISH that is held: packets that do not wait for it.
//!
//! A Client that says too much, or more than the broker can take now, is not silent, and the broker
//! is not either: who hears no PINGRESP gives up and comes again, and says it all once more. So
//! while a PUBLISH is held what comes behind it is kept, so much of it, and looked through. PINGREQ
//! and the acknowledgements of what the Client was sent are handled, and passed over in their turn;
//! everything else waits for it.

use std::task::{Context, Poll};

use super::scratch::Scratch;
use super::{Connection, Ending};
use crate::clock::Moment;
use crate::codec::PacketId;
use crate::codec::frame::{self, PacketType, Split};
use crate::wire::Input;

/// The target of what the log tells of PUBLISH packets that are held back, and tried again.
pub const HELD: &str = "whimbrel::held";

/// How often a connection that is held back looks whether the broker takes messages again.
pub(super) const HELD_BACK_LOOK_MS: u64 = 250;

/// Bytes of a Client that are kept while a PUBLISH is held.
const AHEAD_MAX: usize = 32 << 10;

/// What has been looked through.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Bytes of what is kept.
    looked: usize,
    /// Packets among them that have been handled.
    handled: u32,
    /// Whether nothing more comes, or what comes is judged in its turn.
    is_over: bool,
}

impl Ahead {
    /// Whether packets that were handled still stand there, or bytes that were looked at.
    pub(super) fn is_needed(&self) -> bool {
        self.handled > 0 || self.looked > 0
    }
}

impl Connection {
    /// The next packet, a PUBLISH, is held back: its Client cannot be told that nothing took it.
    pub(super) fn hold_back(&mut self, packet_id: Option<PacketId>, now: Moment) {
        self.held_back_until = now.after_ms(HELD_BACK_LOOK_MS);
        if let Some(pace) = self.pace() {
            pace.comes_again();
        }
        let packet_id = packet_id.map(PacketId::get);
        tracing::debug!(
            target: HELD,
            client = ?self.guard.subject.client_id,
            packet_id,
            "held back until messages are taken again"
        );
    }

    /// What was held back is tried again.
    pub(super) fn try_again(&mut self) {
        tracing::debug!(target: HELD, client = ?self.guard.subject.client_id, "tried again");
        self.held_back_until = Moment::default();
        self.has_early_bytes = true;
    }

    /// Whether a PUBLISH is held that is the next packet.
    fn holds_publish(&mut self) -> bool {
        self.is_held_back() || self.pace().is_some_and(|pace| pace.holds_message())
    }

    /// Keeps what comes while a PUBLISH is held, and handles what does not wait for it; false when
    /// nothing came.
    pub(super) fn look_ahead(
        &mut self,
        cx: &mut Context<'_>,
        now: Moment,
        scratch: &mut Scratch,
    ) -> Result<bool, Ending> {
        if !self.holds_publish() {
            return Ok(false);
        }
        let ahead = &self.few.get_or_insert_default().ahead;
        let wants_more = !ahead.is_over && !self.lease.broker.memory_is_short();
        let room = AHEAD_MAX.saturating_sub(self.reader.kept());
        let came = wants_more && room > 0 && self.keep_more(cx, now, room, scratch)?;
        while let Some(packet) = self.next_ahead() {
            let maximum = self.options.admission.limits.maximum_packet_size;
            if let Ok(Split::Frame(frame)) = frame::split_of(self.version, &packet, maximum) {
                self.handle(&frame, frame.body.into(), None, now, &mut scratch.turn)?;
            }
        }
        Ok(came)
    }

    /// Reads once and keeps that.
    fn keep_more(
        &mut self,
        cx: &mut Context<'_>,
        now: Moment,
        room: usize,
        scratch: &mut Scratch,
    ) -> Result<bool, Ending> {
        if self.pace().is_some_and(|pace| pace.counts_bytes()) {
            return Ok(false);
        }
        let kept = self.reader.kept();
        let read = self.reader.poll_read_some(cx, &mut self.io, &mut scratch.input, room);
        let len = match read {
            Poll::Pending => return Ok(false),
            Poll::Ready(Err(error)) => return Err(Ending::Broken(error)),
            // What it said before it left is heard to the end.
            Poll::Ready(Ok(Input::Closed)) => {
                self.few.get_or_insert_default().ahead.is_over = true;
                return Ok(false);
            }
            Poll::Ready(Ok(Input::Shared(len))) => {
                self.reader.keep(scratch.input.get(..len).unwrap_or_default(), 0, 0);
                len
            }
            Poll::Ready(Ok(Input::Own(own))) => {
                let len = own.len();
                self.reader.keep_own(own, 0, 0, 0);
                len
            }
        };
        self.heard_at = now;
        scratch.turn.tally.bytes_received += len.saturating_sub(kept) as u64;
        Ok(true)
    }

    /// The next packet that does not wait.
    fn next_ahead(&mut self) -> Option<Vec<u8>> {
        let maximum = self.options.admission.limits.maximum_packet_size;
        let Ahead { looked, handled, is_over } = &mut self.few.as_mut()?.ahead;
        loop {
            let rest = self.reader.kept_bytes().get(*looked..)?;
            match frame::split_of(self.version, rest, maximum) {
                Ok(Split::NeedMore { .. }) => return None,
                Ok(Split::Frame(frame)) if !ends_all(frame.kind) => {
                    *looked += frame.len;
                    if goes_ahead(frame.kind) {
                        *handled += 1;
                        return Some(rest.get(..frame.len)?.to_vec());
                    }
                }
                Ok(Split::Frame(_)) | Err(_) => {
                    *is_over = true;
                    return None;
                }
            }
        }
    }

    /// Whether this packet was handled before its turn, and is done with.
    pub(super) fn went_ahead(&mut self, kind: PacketType) -> bool {
        match self.few.as_mut() {
            Some(few) if few.ahead.handled > 0 && goes_ahead(kind) => {
                few.ahead.handled -= 1;
                true
            }
            _ => false,
        }
    }

    /// So many bytes of what was kept have been handled.
    pub(super) fn has_handled(&mut self, bytes: usize) {
        if let Some(few) = self.few.as_mut() {
            few.ahead.looked = few.ahead.looked.saturating_sub(bytes);
            few.ahead.is_over = false;
        }
    }
}

/// Behind these nothing counts.
fn ends_all(kind: PacketType) -> bool {
    matches!(kind, PacketType::Disconnect | PacketType::Connect)
}

/// Not PUBREL, which is for a PUBLISH that came before.
fn goes_ahead(kind: PacketType) -> bool {
    use PacketType::{PingReq, PubAck, PubComp, PubRec};
    matches!(kind, PingReq | PubAck | PubRec | PubComp)
}
