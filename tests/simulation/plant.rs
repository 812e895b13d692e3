//! Planted faults: what a broker with a bug would look like from outside.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::packet::Packet;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// PUBACK and PUBREC leave before anything is committed. Only to Clients of 3.1.1: those of
    /// 5.0 would notice by the Reason Code.
    AcknowledgesEarly,
    /// Two of three syncs of the disk do nothing.
    SkipsFsync,
    /// A PUBLISH leaves with the Packet Identifier of another that is not acknowledged.
    ReusesIdentifier,
    /// A PUBREL does not leave.
    ForgetsPubRel,
    /// A Client's PUBACK is not noticed.
    ForgetsPubAck,
    /// A message of QoS 2 leaves once more as a new one.
    SendsTwice,
    /// A message is lost.
    LosesMessage,
    /// Two messages change places.
    Reorders,
    /// Two messages that a share group lends change places.
    ReordersShared,
    /// What is retained leaves as if it were not.
    ForgetsRetain,
    /// DUP is not set on what was sent before.
    ForgetsDup,
    /// A PUBLISH leaves without its Subscription Identifiers.
    ForgetsSubscriptionIds,
    /// A Will does not wait for its Will Delay Interval.
    IgnoresWillDelay,
    /// A Client's next connection takes nothing over: the one before goes on.
    KeepsBoth,
    /// Every listener is one with `durability = "memory"`.
    MixesListeners,
    /// Messages of the queue with priorities change places.
    IgnoresPriority,
}

/// The fault of a world, if any, and how far it has got.
#[derive(Clone, Debug, Default)]
pub struct Plant(Option<(Fault, Arc<Mutex<State>>)>);

#[derive(Debug, Default)]
struct State {
    /// PUBLISH packets that have left, all together.
    sent: usize,
    /// By connection: identifiers that the Client has not acknowledged.
    open: BTreeMap<usize, Vec<u16>>,
    /// By connection: a packet that is held back.
    held: BTreeMap<usize, Packet>,
    /// By connection: acknowledgements that have left before their time.
    early: BTreeMap<usize, Vec<Packet>>,
}

/// So many packets that a fault could strike pass before it does.
const EVERY: usize = 5;

impl Plant {
    /// This fault.
    pub fn new(fault: Fault) -> Self {
        Self(Some((fault, Arc::default())))
    }

    /// Whether it is this one.
    pub fn is(&self, fault: Fault) -> bool {
        self.0.as_ref().is_some_and(|(planted, _)| *planted == fault)
    }

    /// Whether the broker is to notice nothing of a packet that it reads.
    pub fn swallows(&self, conn: usize, packet: &Packet) -> bool {
        let Some((fault, state)) = &self.0 else { return false };
        let mut state = state.lock();
        if let Packet::PubAck { id, .. } | Packet::PubComp { id, .. } = packet {
            state.open.entry(conn).or_default().retain(|open| open != id);
        }
        *fault == Fault::ForgetsPubAck && matches!(packet, Packet::PubAck { .. }) && state.strikes()
    }

    /// What the broker reads in place of a packet.
    pub fn misreads(&self, packet: &Packet) -> Packet {
        let mut packet = packet.clone();
        let (Some((fault, state)), Packet::Connect(connect)) = (&self.0, &mut packet) else {
            return packet;
        };
        match fault {
            Fault::IgnoresWillDelay => {
                connect.will.iter_mut().for_each(|will| will.delay_s = 0);
            }
            Fault::KeepsBoth if state.lock().strikes() => connect.client_id.push('2'),
            _ => {}
        }
        packet
    }

    /// What leaves at once when a packet was read.
    pub fn answers(&self, conn: usize, v5: bool, packet: &Packet) -> Option<Packet> {
        let (Fault::AcknowledgesEarly, state) = self.0.as_ref()? else { return None };
        if v5 {
            return None;
        }
        let Packet::Publish(publish) = packet else { return None };
        let (id, reason) = (publish.id, 0);
        let answer = match publish.qos {
            0 => return None,
            1 => Packet::PubAck { id, reason },
            _ => Packet::PubRec { id, reason },
        };
        state.lock().early.entry(conn).or_default().push(answer.clone());
        Some(answer)
    }

    /// What leaves in place of a packet.
    pub fn replaces(&self, conn: usize, packet: Packet) -> Vec<Packet> {
        let Some((fault, state)) = &self.0 else { return vec![packet] };
        state.lock().replaces(*fault, conn, packet)
    }
}

impl State {
    fn strikes(&mut self) -> bool {
        self.sent += 1;
        self.sent.is_multiple_of(EVERY)
    }

    fn replaces(&mut self, fault: Fault, conn: usize, packet: Packet) -> Vec<Packet> {
        let mut publish = match packet {
            Packet::Publish(publish) => publish,
            Packet::PubRel { .. } if fault == Fault::ForgetsPubRel && self.strikes() => {
                return vec![];
            }
            Packet::PubAck { id, .. } | Packet::PubRec { id, .. } => {
                let early = self.early.entry(conn).or_default();
                let is_it = |answer: &Packet| match (answer, &packet) {
                    (Packet::PubAck { id: early, .. }, Packet::PubAck { .. })
                    | (Packet::PubRec { id: early, .. }, Packet::PubRec { .. }) => *early == id,
                    _ => false,
                };
                return match early.iter().position(is_it) {
                    Some(at) => {
                        early.remove(at);
                        vec![]
                    }
                    None => vec![packet],
                };
            }
            other => return vec![other],
        };
        let again = publish.clone();
        match fault {
            Fault::ReusesIdentifier if publish.qos > 0 => {
                let open = self.open.get(&conn).and_then(|open| open.first().copied());
                if let Some(open) = open.filter(|_| self.strikes()) {
                    publish.id = open;
                }
                self.open.entry(conn).or_default().push(publish.id);
            }
            Fault::SendsTwice if publish.qos == 2 && !publish.dup && self.strikes() => {
                publish.id += 40_000;
                return vec![Packet::Publish(again), Packet::Publish(publish)];
            }
            Fault::LosesMessage if publish.qos > 0 && self.strikes() => return vec![],
            Fault::Reorders | Fault::ReordersShared | Fault::IgnoresPriority
                if publish.qos > 0 && publish.topic.starts_with(reordered(fault)) =>
            {
                if let Some(held) = self.held.remove(&conn) {
                    return vec![Packet::Publish(publish), held];
                }
                if fault != Fault::Reorders || self.strikes() {
                    self.held.insert(conn, Packet::Publish(publish));
                    return vec![];
                }
            }
            Fault::ForgetsSubscriptionIds if self.strikes() => publish.subscription_ids.clear(),
            Fault::ForgetsRetain => publish.retain = false,
            Fault::ForgetsDup => publish.dup = false,
            _ => {}
        }
        vec![Packet::Publish(publish)]
    }
}

/// What the topics begin with whose messages change places.
fn reordered(fault: Fault) -> &'static str {
    match fault {
        Fault::ReordersShared => "q/",
        Fault::IgnoresPriority => "$q/prio/",
        _ => "",
    }
}
