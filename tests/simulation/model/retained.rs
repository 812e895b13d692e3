//! What each topic retains.

use super::Model;
use super::session::{Handed, Span, Sure};
use super::track::{Track, Via};

/// A value that a topic had.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The message; nothing when the topic was cleared.
    pub(super) number: Option<u32>,
    pub(super) at: u64,
    pub(super) order: u64,
    pub(super) publisher: usize,
    pub(super) qos: u8,
    pub(super) expires_at: Option<u64>,
    pub(super) acked: bool,
    /// Whether it may have been lost in a crash.
    pub(super) lost: bool,
}

impl Kept {
    /// A value that is new.
    pub fn new(number: Option<u32>, at: u64, order: u64, publisher: usize, qos: u8) -> Self {
        let (expires_at, acked, lost) = (None, false, false);
        Self { number, at, order, publisher, qos, expires_at, acked, lost }
    }
}

/// The values of a topic, the oldest first.
#[derive(Debug, Default)]
pub struct Topic {
    values: Vec<Kept>,
    /// The topic has the value here or one of those after it; beyond all: it has none.
    from: usize,
    /// Whether it may have none.
    maybe_none: bool,
}

impl Model {
    /// A topic has a new value.
    pub(super) fn retain(&mut self, topic: &str, kept: Kept) {
        let known = self.retained.entry(topic.to_owned()).or_default();
        known.from = known.values.len();
        known.maybe_none = false;
        known.values.push(kept);
        self.replaced(topic);
    }

    /// A topic may have this value, now or later.
    pub(super) fn maybe_retain(&mut self, topic: &str, kept: Kept) {
        self.maybe_retain_now(topic, kept);
        self.wild.insert(topic.to_owned());
    }

    /// A topic has this value or one that it may have had before.
    pub(super) fn maybe_retain_now(&mut self, topic: &str, kept: Kept) {
        let known = self.retained.entry(topic.to_owned()).or_default();
        known.maybe_none |= known.values.is_empty();
        known.values.push(Kept { lost: true, ..kept });
        self.replaced(topic);
    }

    /// What was about to be handed over may not be any more.
    fn replaced(&mut self, topic: &str) {
        for client in 0..self.sessions.len() {
            self.no_more_handed(client, |handed| handed.topic == topic);
        }
    }

    /// What was about to be handed over for a subscription need not be.
    pub(super) fn no_more_handed(&mut self, client: usize, which: impl Fn(&Handed) -> bool) {
        let session = &mut self.sessions[client];
        for ((_, via), track) in &mut session.tracks {
            let Via::Handed(uid) = via else { continue };
            if track.writes == 0 && session.handed.get(uid).is_some_and(&which) {
                track.must = false;
            }
        }
    }

    /// The publisher has been told that its value is safe.
    pub(super) fn retained_acked(&mut self, order: u64) {
        for kept in self.retained.values_mut().flat_map(|topic| topic.values.iter_mut()) {
            kept.acked |= kept.order == order;
        }
    }

    /// A value was refused, or may have been: the topic may have any that it had.
    pub(super) fn retained_refused(&mut self, order: u64) {
        for topic in self.retained.values_mut() {
            for kept in topic.values.iter_mut().filter(|kept| kept.order == order) {
                kept.lost = true;
                (topic.from, topic.maybe_none) = (0, true);
            }
        }
    }

    /// The power is cut: the values since the last one that is safe may be there.
    pub(super) fn crash_retained(&mut self) {
        let settled = self.settled();
        for topic in self.retained.values_mut() {
            let is_firm = |kept: &Kept| !kept.lost && (kept.acked || settled(kept.at));
            let firm = topic.values.iter().rposition(is_firm);
            topic.from = topic.from.min(firm.unwrap_or(0));
            topic.maybe_none |= firm.is_none();
            for kept in topic.values.iter_mut().skip(firm.map_or(0, |firm| firm + 1)) {
                kept.lost = true;
            }
        }
    }

    /// A subscription is made: what its topics retain is handed over.
    pub(super) fn hand_over(
        &mut self,
        client: usize,
        span: &Span,
        retain_handling: u8,
        existed: Sure,
    ) {
        if retain_handling == 2 || (retain_handling == 1 && existed == Sure::Yes) {
            return;
        }
        let certain = retain_handling == 0 || existed == Sure::No;
        let now = self.now;
        let session = &mut self.sessions[client];
        let mut uid = self.seq << 16 | (session.handed.len() as u64);
        for (topic, known) in self.retained.iter().filter(|(topic, _)| span.matches(topic)) {
            let is_wild = self.wild.contains(topic);
            let from = if is_wild { 0 } else { known.from };
            let candidates = known.values.get(from..).unwrap_or_default();
            let is_sure = candidates.len() == 1 && !known.maybe_none && !is_wild;
            for kept in candidates {
                let Some(number) = kept.number else { continue };
                if span.no_local && kept.publisher == client {
                    continue;
                }
                let left = kept.expires_at.map_or(u64::MAX, |at| at.saturating_sub(now));
                if left == 0 {
                    continue;
                }
                let track = Track {
                    must: certain && is_sure && left > 10_000,
                    durable: session.stored,
                    at: now,
                    qos: [kept.qos.min(span.qos)].into(),
                    retain: [true].into(),
                    ids: Some(span.id.into_iter().collect()),
                    ..Track::default()
                };
                uid += 1;
                session.tracks.insert((number, Via::Handed(uid)), track);
                let (topic, filter) = (topic.clone(), span.filter.clone());
                session.handed.insert(uid, Handed { topic, filter });
            }
        }
    }
}
