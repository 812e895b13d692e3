//! What a turn does with packets, deliveries and answers.

use std::collections::VecDeque;
use std::hint::black_box;
use std::num::NonZeroU8;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::scratch::Scratch;
use super::{Admission, Connection, Ending, admission};
use crate::broker::publish::Publisher;
use crate::broker::registry::Parts;
use crate::broker::turn::Turn;
use crate::clock::Moment;
use crate::codec::frame::{self, Frame, PacketType, Split};
use crate::codec::{Ack, DecodeError, Packet, Publish, QoS, ReasonCode};
use crate::message::Body;
use crate::metrics::DropReason;
use crate::queue::Delivery;
use crate::session::connect::Manner;
use crate::session::output::Polled;
use crate::session::{Action, Delivered, ProtocolError};
use crate::store::Change;
use crate::topic::TopicName;
use crate::wire::{Input, LARGE_BYTES};

/// Bytes of an unfinished packet that show that its sender is there.
const PROGRESS: usize = 1_000;

/// Packets that are handled before the next look at the clock, if the receivers of none of them
/// have to be found.
const PACKETS_PER_LOOK: usize = 64;

/// What is wrong with a topic that has no room for the mount point.
const LONG: &str = "a topic that is too long with the mount point";

impl Connection {
    /// Reads once and handles every whole packet; false when no bytes were there.
    pub(super) fn read(
        &mut self,
        cx: &mut Context<'_>,
        now: Moment,
        scratch: &mut Scratch,
    ) -> Result<bool, Ending> {
        let Scratch { input, turn, reads, .. } = scratch;
        if std::mem::take(&mut self.has_early_bytes) {
            let early = self.reader.take_kept();
            let (consumed, needed) = self.handle_all(&early, Some(&early), now, turn)?;
            self.has_handled(consumed);
            self.reader.keep_own(early, consumed, needed, self.usual_len());
            return Ok(true);
        }
        let kept = self.reader.kept();
        let max = self.pace().map_or(Some(usize::MAX), |pace| pace.readable(now));
        let Some(max) = max else {
            self.slowed("max_byte_rate");
            return Ok(false);
        };
        let gulp = gulp(self.usual_len());
        let max = if self.reader.needed() > gulp { max } else { max.min(gulp) };
        let read = match self.reader.poll_read_some(cx, &mut self.io, input, max) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Err(error)) => return Err(Ending::Broken(error)),
            Poll::Ready(Ok(read)) => read,
        };
        let fresh = read.bytes().saturating_sub(kept);
        if let Some(pace) = self.pace() {
            pace.has_read(now, fresh);
        }
        *reads = reads.checked_add(1).unwrap_or(NonZeroU8::MIN);
        let before = turn.tally.packets_received;
        // Before they are handled: that may be the connection's end.
        turn.tally.bytes_received += fresh as u64;
        let (consumed, len) = match read {
            Input::Closed => return Err(Ending::Closed),
            Input::Shared(len) => {
                let input = input.get(..len).unwrap_or_default();
                let (consumed, needed) = self.handle_all(input, None, now, turn)?;
                self.note_len(consumed, turn.tally.packets_received - before);
                let rest = input.get(consumed..).unwrap_or_default();
                self.reader.keep(rest, needed, self.usual_len());
                (consumed, len)
            }
            Input::Own(own) => {
                let len = own.len();
                let (consumed, needed) = self.handle_all(&own, Some(&own), now, turn)?;
                self.note_len(consumed, turn.tally.packets_received - before);
                self.reader.keep_own(own, consumed, needed, self.usual_len());
                (consumed, len)
            }
        };
        self.has_handled(consumed);
        // Keep Alive is fed by whole packets [MQTT-3.1.2-22], not by a byte now and then; but a
        // large packet on its way is not silence.
        if consumed > 0 || len >= self.heard_len as usize + PROGRESS {
            self.heard_at = now;
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            self.heard_len = if consumed > 0 { 0 } else { len };
        }
        if self.reader.kept() > super::UNFINISHED_MAX && self.lease.broker.memory_is_full() {
            return Err(Ending::Ended(ReasonCode::QuotaExceeded));
        }
        Ok(true)
    }

    /// Notes how long packets are, for the reads that follow.
    fn note_len(&mut self, consumed: usize, packets: u64) {
        if let Some(len) = (consumed as u64).checked_div(packets) {
            self.usual_log2 = len.checked_ilog2().map_or(0, |log2| log2 as u8);
        }
    }

    /// About how long packets are, rounded down.
    fn usual_len(&self) -> u32 {
        1 << self.usual_log2.min(31)
    }

    /// Handles the whole packets of the input; returns the bytes they took and how long the
    /// packet after them will be, as far as is known. `buffer`: where the input stands, if that can
    /// be held.
    fn handle_all(
        &mut self,
        input: &[u8],
        buffer: Option<&Arc<Vec<u8>>>,
        now: Moment,
        turn: &mut Turn,
    ) -> Result<(usize, usize), Ending> {
        let maximum = self.options.admission.limits.maximum_packet_size;
        let (mut consumed, mut handled, mut resolved) = (0, 0_usize, 0);
        // What was checked for the packets before need not be checked for these again.
        let known = self.publisher.as_ref().and_then(|publisher| publisher.last_topic());
        let known = known.as_deref().and_then(|topic| TopicName::new(topic).ok());
        loop {
            let found = self.publisher.as_ref().map_or(0, |publisher| publisher.resolved());
            let had_to_find = std::mem::replace(&mut resolved, found) != found && handled > 0;
            let looks = had_to_find || handled.is_multiple_of(PACKETS_PER_LOOK);
            if looks && handled > 0 && self.lease.broker.now() >= now.after_ms(super::TURNS_MS) {
                self.has_early_bytes = true;
                return Ok((consumed, 0));
            }
            handled += 1;
            let rest = input.get(consumed..).unwrap_or_default();
            match frame::split_of(self.version, rest, maximum).map_err(broken_rule)? {
                Split::NeedMore { at_least } => return Ok((consumed, at_least)),
                Split::Frame(frame) => {
                    if frame.kind == PacketType::Publish && self.is_too_fast(now) {
                        return Ok((consumed, frame.len));
                    }
                    if self.went_ahead(frame.kind) {
                        consumed += frame.len;
                        continue;
                    }
                    let body = Body::within(frame.body, buffer);
                    self.handle(&frame, body, known, now, turn)?;
                    if self.is_held_back() {
                        return Ok((consumed, frame.len));
                    }
                    consumed += frame.len;
                    if self.is_at_work() {
                        return Ok((consumed, 0));
                    }
                }
            }
        }
    }

    pub(super) fn handle(
        &mut self,
        frame: &Frame<'_>,
        body: Body<'_>,
        known: Option<TopicName<'_>>,
        now: Moment,
        turn: &mut Turn,
    ) -> Result<(), Ending> {
        if frame.kind == PacketType::Connect {
            // Whatever is in it [MQTT-3.1.0-2].
            return Err(Ending::Rule(ProtocolError::protocol("a second CONNECT")));
        }
        turn.tally.packets_received += 1;
        if frame.kind == PacketType::Publish {
            let publish = match Publish::of_frame(frame, self.version, known) {
                Ok(publish) => publish,
                Err(error) => return Err(broken_rule(error)),
            };
            let Some(parts) = self.lease.parts.as_mut() else { return Err(Ending::Closed) };
            return match parts.session.handle_publish(&publish).map_err(Ending::Rule)? {
                Some(topic) => self.publish(&publish, topic.as_str(), body, now, turn),
                None => Ok(()),
            };
        }
        let Some(parts) = self.lease.parts.as_mut() else { return Err(Ending::Closed) };
        let action = if frame.kind.is_ack() {
            let ack = Ack::of_frame(frame, self.version).map_err(broken_rule)?;
            parts.session.handle_ack(frame.kind, ack)
        } else {
            let packet = Packet::decode(frame, self.version).map_err(broken_rule)?;
            parts.session.handle(packet)
        };
        self.carry_out(action.map_err(Ending::Rule)?, body, now, turn)
    }

    /// Does what a packet with this body asks for.
    fn carry_out(
        &mut self,
        action: Action<'_>,
        body: Body<'_>,
        now: Moment,
        turn: &mut Turn,
    ) -> Result<(), Ending> {
        let Some(parts) = self.lease.parts.as_mut() else { return Err(Ending::Closed) };
        let broker = &self.lease.broker;
        let stored = parts.mailbox.stored();
        match action {
            Action::None => {}
            Action::Publish { publish, topic } => {
                self.publish(&publish, topic.as_str(), body, now, turn)?;
            }
            Action::Finished { delivery, refused: true, exchange } => {
                let exchange = stored.zip(exchange);
                broker.refused(delivery, parts.mailbox.key(), stored, exchange, turn);
            }
            Action::Finished { delivery, refused: false, exchange } => {
                if let (Some(session), Some(packet_id)) = (stored, exchange) {
                    turn.change(Change::Completed { session, packet_id: packet_id.get() });
                }
                broker.done(delivery.trace(), stored, turn);
                broker.room(delivery.trace(), parts.mailbox.key(), turn);
                delivery.message.end();
            }
            Action::Relayed { packet_id, delivery } => {
                if let Some(session) = stored {
                    turn.change(Change::Relayed { session, packet_id: packet_id.get() });
                }
                broker.done(delivery.trace(), stored, turn);
                broker.room(delivery.trace(), parts.mailbox.key(), turn);
                delivery.message.end();
                parts.session.relayed(packet_id, stored.is_some());
            }
            Action::Completed { packet_id } => {
                if let Some(session) = stored {
                    turn.change(Change::Completed { session, packet_id: packet_id.get() });
                }
            }
            Action::Release { packet_id } => {
                if let Some(session) = stored {
                    turn.change(Change::Released { session, packet_id: packet_id.get() });
                }
                parts.session.released(packet_id, stored.is_some());
            }
            Action::Subscribe(subscribe) if !self.options.admission.takes(&subscribe) => {
                return Err(admission::too_many_levels());
            }
            Action::Subscribe(subscribe) => self.subscribe(&subscribe, turn),
            Action::Unsubscribe(unsubscribe) => self.unsubscribe(&unsubscribe, turn),
            Action::Authenticate(auth) => self.authenticate_again(&auth)?,
            Action::Disconnect { reason } => return Err(Ending::Disconnected(reason)),
        }
        Ok(())
    }

    /// Publishes for the Client, and notes what it is told.
    fn publish(
        &mut self,
        publish: &Publish<'_>,
        topic: &str,
        body: Body<'_>,
        now: Moment,
        turn: &mut Turn,
    ) -> Result<(), Ending> {
        let Some(parts) = self.lease.parts.as_mut() else { return Err(Ending::Closed) };
        let broker = &self.lease.broker;
        if publish.payload.len() > self.options.admission.payload_max {
            return self.refuse_payload(publish);
        }
        let terms = parts.session.terms();
        let (unmounted, mounted);
        let (publish, topic) = if terms.mount_point().is_none() {
            (publish, topic)
        } else {
            let topic = terms.mounted(topic);
            let invalid = ReasonCode::TopicNameInvalid;
            mounted = topic.ok_or(Ending::Rule(ProtocolError { reason: invalid, what: LONG }))?;
            // The topic in the packet's body is not the one that is meant.
            unmounted = Publish { topic: None, ..*publish };
            (&unmounted, &*mounted)
        };
        let mailbox = &parts.mailbox;
        let publisher = self
            .publisher
            .get_or_insert_with(|| Box::new(Publisher::new(mailbox, self.guard.clone())));
        let published = broker.publish(publisher, publish, topic, body, now, turn);
        if published.later && !self.version.has_reason_codes() {
            // It cannot be told; it is not read on until the broker takes messages again.
            parts.session.withdraw(publish);
            self.hold_back(publish.packet_id, now);
            return Ok(());
        }
        turn.tally.messages_received += 1;
        turn.tally.payload_bytes_received += publish.payload.len() as u64;
        match published.reason {
            ReasonCode::NotAuthorized => broker.metrics.drops.add(DropReason::PublishDenied, 1),
            reason if reason.is_error() => broker.metrics.drops.add(DropReason::NotAccepted, 1),
            _ => {}
        }
        let admission = &self.options.admission;
        let reason = what_is_said(published.reason, publish, topic, parts, admission)?;
        let is_refused = reason.is_error();
        if publish.qos == QoS::ExactlyOnce
            && let (true, Some(session), Some(id)) =
                (is_refused, parts.mailbox.stored(), publish.packet_id)
        {
            turn.change(Change::Released { session, packet_id: id.get() });
        }
        let waits = published.waits && !self.options.in_memory;
        parts.session.published(publish, reason, waits);
        Ok(())
    }

    /// A message whose payload is larger than the listener takes.
    fn refuse_payload(&mut self, publish: &Publish<'_>) -> Result<(), Ending> {
        let Some(parts) = self.lease.parts.as_mut() else { return Err(Ending::Closed) };
        self.lease.broker.metrics.drops.add(DropReason::NotAccepted, 1);
        let (client, len) = (parts.session.client_id(), publish.payload.len());
        tracing::debug!(?client, bytes = len, "a message above message_size_limit is refused");
        let is_told = self.version.has_reason_codes();
        let reason = match self.options.admission.limits.manner {
            Manner::Own if publish.qos != QoS::AtMostOnce && !is_told => {
                return Err(Ending::Ended(ReasonCode::QuotaExceeded));
            }
            Manner::Own => ReasonCode::QuotaExceeded,
            Manner::Mosquitto => ReasonCode::PacketTooLarge,
        };
        parts.session.published(publish, reason, false);
        Ok(())
    }

    /// Writes the deliveries that were taken.
    pub(super) fn deliver(&mut self, now: &mut Moment, scratch: &mut Scratch) {
        let Scratch { deliveries, turn, .. } = scratch;
        let Some(parts) = self.lease.parts.as_mut() else { return };
        let broker = &self.lease.broker;
        let (stored, key) = (parts.mailbox.stored(), parts.mailbox.key());
        let (out, has_rules) = (self.writer.output(), self.guard.has_rules());
        let mut has_looked = false;
        for delivery in deliveries.drain(..) {
            if !has_looked && delivery.message.expires_at() != Moment::NEVER {
                // Another thread may have published it since this one looked at the clock, and
                // nobody is told that more time is left than was given [MQTT-3.3.2-6].
                (*now, has_looked) = (broker.now(), true);
            }
            if has_rules && !self.receives.allow(&self.guard, &delivery) {
                if broker.pass_on(&delivery, key, turn) {
                    continue;
                }
                broker.dropped(delivery.trace(), DropReason::ReceiveDenied, stored, turn);
                broker.room(delivery.trace(), key, turn);
                continue;
            }
            let payload_len = delivery.message.payload().len() as u64;
            let lent = (delivery.source != 0).then(|| delivery.trace());
            let delivered = parts.session.deliver(delivery, *now, out);
            if !matches!(delivered, Delivered::Dropped { .. }) {
                turn.tally.messages_sent += 1;
                turn.tally.payload_bytes_sent += payload_len;
                // What is held is sent, and counted as a packet, by `answer`.
                let is_written = !matches!(delivered, Delivered::Held { .. });
                turn.tally.packets_sent += u64::from(is_written);
            }
            match delivered {
                Delivered::Sent => {
                    if let Some(delivery) = lent {
                        broker.done(delivery, stored, turn);
                        broker.room(delivery, key, turn);
                    }
                }
                Delivered::InFlight => {}
                Delivered::Held { packet_id } => {
                    let delivery = parts.session.outgoing().delivery(packet_id);
                    if let Some(delivery) = delivery {
                        broker.hold(stored, packet_id, delivery, turn);
                    }
                }
                Delivered::Dropped { delivery, reason } => {
                    broker.dropped(delivery.trace(), reason, stored, turn);
                    broker.room(delivery.trace(), key, turn);
                }
            }
        }
    }

    /// Writes the answers that may leave; false when there were none.
    #[inline]
    pub(super) fn answer(&mut self, now: Moment, scratch: &mut Scratch) -> Result<bool, Ending> {
        match &self.lease.parts {
            Some(parts) if parts.session.owes() => self.answer_all(now, scratch),
            _ => Ok(false),
        }
    }

    fn answer_all(&mut self, now: Moment, scratch: &mut Scratch) -> Result<bool, Ending> {
        let backlog_max = self.deliver_backlog_max();
        let Some(parts) = self.lease.parts.as_mut() else { return Ok(false) };
        let mut any = false;
        loop {
            let may_again = self.writer.backlog() < backlog_max;
            let out = self.writer.output();
            match parts.session.poll_answer(now, may_again, out).map_err(Ending::Rule)? {
                Polled::Nothing => return Ok(any),
                Polled::Written => {
                    scratch.turn.tally.packets_sent += 1;
                    any = true;
                }
                Polled::Dropped(packet_id, delivery, reason) => {
                    let stored = parts.mailbox.stored();
                    let turn = &mut scratch.turn;
                    if let Some(session) = stored {
                        turn.change(Change::Completed { session, packet_id: packet_id.get() });
                    }
                    self.lease.broker.dropped(delivery.trace(), reason, stored, turn);
                    self.lease.broker.room(delivery.trace(), parts.mailbox.key(), turn);
                    any = true;
                }
            }
        }
    }
}

/// What the publisher is told; the end of its connection where it cannot be told, and must not
/// believe that the message was accepted.
fn what_is_said(
    reason: ReasonCode,
    publish: &Publish<'_>,
    topic: &str,
    parts: &Parts,
    admission: &Admission,
) -> Result<ReasonCode, Ending> {
    let terms = parts.session.terms();
    let can_be_told = terms.version.has_reason_codes();
    match reason {
        ReasonCode::Success => Ok(reason),
        ReasonCode::NotAuthorized => {
            admission.report_denied(parts.session.client_id(), publish, topic);
            // [MQTT-3.3.5-2] of 3.1.1 allows it, to go on.
            Ok(if can_be_told { reason } else { ReasonCode::Success })
        }
        ReasonCode::NoMatchingSubscribers
            if terms.manner == Manner::Mosquitto && parts.session.subscriptions.has_own(topic) =>
        {
            Ok(ReasonCode::Success)
        }
        reason if !reason.is_error() => Ok(reason),
        _ if !admission.takes_topic(topic) => Err(admission::too_many_levels()),
        reason if can_be_told => Ok(reason),
        // [MQTT-3.3.5-2] of 3.1.1.
        reason => Err(Ending::Ended(reason)),
    }
}

/// Bytes that are read at a time where packets have so many: so many of them as others can wait
/// for, or the beginning of a large one, whose rest is read to where it stays.
fn gulp(usual_len: u32) -> usize {
    let usual_len = usual_len as usize;
    if usual_len >= LARGE_BYTES {
        return super::GULP_LEAST;
    }
    usual_len.saturating_mul(super::PACKETS_MAX as usize).max(super::GULP_LEAST)
}

fn broken_rule(error: DecodeError) -> Ending {
    let what = match error {
        DecodeError::Malformed(what) | DecodeError::ProtocolError(what) => what,
        DecodeError::Topic(_) => "an invalid topic",
        DecodeError::TopicAliasInvalid => "a Topic Alias of 0",
        DecodeError::PacketTooLarge { .. } => "a packet above the Maximum Packet Size",
        DecodeError::UnsupportedVersion { .. } => "an unsupported protocol version",
    };
    Ending::Rule(ProtocolError { reason: error.reason(), what })
}

/// Looks at messages that another thread has made, so that their memory comes from there for many
/// at once: each is so short that otherwise its writing waits for it.
pub(super) fn look_at_all(deliveries: &VecDeque<Delivery>) {
    let ends = deliveries.iter().filter_map(|delivery| delivery.message.payload().last());
    black_box(ends.fold(0, |sum, byte| sum ^ byte));
}
