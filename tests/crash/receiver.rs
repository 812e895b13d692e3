//! A client that receives: always there, coming and going, away, or late. It remembers the QoS 2
//! identifiers it has received, and answers as slowly as it is told to.

use std::collections::{HashSet, VecDeque};
use std::io::Result;
use std::rc::Rc;

use tokio::time::{Duration, Instant, sleep, sleep_until};

use crate::field::{Field, Stage};
use crate::link::{Link, Packet};
use crate::raw::{Connect, Received};
use crate::record::{Audience, Client, Fault};

/// The topic of what shows that everything before it has arrived.
pub const FENCE: &str = "fence";

/// When it is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Always,
    ComesAndGoes,
    /// Comes when queues are drained.
    Away,
    /// Comes at the end of the test.
    Late,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    No,
    Asked,
    Yes,
    Ending,
}

/// One subscription.
pub struct Subscription {
    filter: String,
    qos: u8,
    held: Held,
    /// Whether it is ended and made again all the time.
    toggles: bool,
    /// Under which name the record has it; nothing for what must not be held to it.
    recorded: Option<(Audience, String)>,
}

impl Subscription {
    pub fn new(filter: &str, qos: u8, toggles: bool) -> Self {
        Self { filter: filter.into(), qos, held: Held::Asked, toggles, recorded: None }
    }

    pub fn recorded(mut self, audience: Audience, filter: &str) -> Self {
        self.recorded = Some((audience, filter.into()));
        self
    }
}

/// What a receiver is like.
pub struct Receiver {
    pub field: Rc<Field>,
    pub client: Client,
    pub connect: Connect,
    pub presence: Presence,
    /// Longest time until it acknowledges.
    pub delay_ms: u64,
    /// To whom its messages count.
    pub audience: Audience,
    pub subscriptions: Vec<Subscription>,
    /// QoS 2 identifiers received and not released.
    pub received: HashSet<u16>,
    /// Acknowledgements and when they are due.
    pub answers: VecDeque<(Instant, u8, u16)>,
}

impl Receiver {
    pub async fn run(mut self) {
        for at in 0..self.subscriptions.len() {
            self.note(at, Held::Asked);
        }
        loop {
            let mut stage = self.field.stage();
            let wanted = |stage: &Stage| self.is_wanted(*stage) || *stage == Stage::Over;
            let _ = stage.wait_for(wanted).await;
            let Some(mut link) = self.field.connect(self.client, &self.connect).await else {
                return;
            };
            if !link.session_present {
                self.received.clear();
            }
            self.field.record().begins(self.audience);
            let _ = self.serve(&mut link).await;
            self.answers.clear();
            if self.presence == Presence::ComesAndGoes && *stage.borrow() == Stage::Load {
                let away_ms = self.field.below(0, 60);
                sleep(Duration::from_millis(away_ms)).await;
            }
        }
    }

    fn is_wanted(&self, stage: Stage) -> bool {
        match stage {
            Stage::SetUp | Stage::DrainAll => true,
            Stage::Load | Stage::Look => {
                matches!(self.presence, Presence::Always | Presence::ComesAndGoes)
            }
            Stage::Drain => self.presence != Presence::Late,
            Stage::Over => false,
        }
    }

    /// Until the connection ends or this client ends it.
    async fn serve(&mut self, link: &mut Link) -> Result<()> {
        self.ask_again(link);
        link.flush().await?;
        let mut stage = self.field.stage();
        let after = |ms: u64| Instant::now() + Duration::from_millis(ms);
        let leave_at = after(self.field.below(3, 90));
        let mut toggle_at = after(self.field.below(5, 80));
        let toggles = self.subscriptions.iter().any(|subscription| subscription.toggles);
        loop {
            let now = *stage.borrow_and_update();
            if !self.is_wanted(now) {
                return self.leave(link).await;
            }
            let answer_at = self.answers.front().map(|(at, ..)| *at);
            let leaves = self.presence == Presence::ComesAndGoes && now == Stage::Load;
            tokio::select! {
                packet = link.next() => self.handle(packet?, now),
                () = sleep_until(answer_at.unwrap_or(leave_at)), if answer_at.is_some() => {}
                () = sleep_until(leave_at), if leaves => return self.leave(link).await,
                () = sleep_until(toggle_at), if toggles && now == Stage::Load => {
                    self.toggle(link);
                    toggle_at = after(self.field.below(5, 80));
                }
                _ = stage.changed() => {}
            }
            self.answer(link, now);
            self.field.noticed.notify_one();
            link.flush().await?;
        }
    }

    /// With DISCONNECT, or just gone.
    async fn leave(&mut self, link: &mut Link) -> Result<()> {
        if self.field.once_in(2) {
            link.send(&[0xE0, 0]);
        }
        link.flush().await
    }

    /// Sends the acknowledgements that are due: while queues are drained, all.
    fn answer(&mut self, link: &mut Link, stage: Stage) {
        let now = Instant::now();
        while let Some(&(due, first, id)) = self.answers.front()
            && (due <= now || matches!(stage, Stage::SetUp | Stage::Drain | Stage::DrainAll))
        {
            link.acknowledge(first, id);
            self.answers.pop_front();
        }
    }

    /// Adds an acknowledgement behind those that wait [MQTT-4.6.0-2].
    fn later(&mut self, first: u8, id: u16) {
        let delay_ms = self.field.below(0, self.delay_ms + 1);
        let due = Instant::now() + Duration::from_millis(delay_ms);
        let due = self.answers.back().map_or(due, |(last, ..)| due.max(*last));
        self.answers.push_back((due, first, id));
    }

    fn handle(&mut self, packet: Packet, stage: Stage) {
        match packet {
            Packet::Publish(publish) => self.receive(&publish),
            Packet::PubRel { id } => {
                self.received.remove(&id);
                self.later(0x70, id);
            }
            Packet::SubAck { id, reason } => {
                let at = usize::from(id) - 1;
                if reason != self.subscriptions[at].qos {
                    self.violated(Fault::Refused, format!("SUBSCRIBE: {reason:#x}"));
                }
                if self.subscriptions[at].held == Held::Asked {
                    self.note(at, Held::Yes);
                }
                if stage == Stage::SetUp {
                    self.field.subscriptions_due.set(self.field.subscriptions_due.get() - 1);
                }
            }
            Packet::UnsubAck { id, reason } => {
                if reason >= 0x80 {
                    self.violated(Fault::Refused, format!("UNSUBSCRIBE: {reason:#x}"));
                }
                self.note(usize::from(id) - 1, Held::No);
            }
            Packet::Disconnect => {}
            other => panic!("a receiver is sent {other:?}"),
        }
    }

    fn receive(&mut self, publish: &Received) {
        match publish.qos() {
            1 => self.later(0x40, publish.id),
            2 => {
                self.later(0x50, publish.id);
                if !self.received.insert(publish.id) {
                    if !publish.dup() {
                        let what = format!("identifier {} of {}", publish.id, publish.topic);
                        self.violated(Fault::WithoutDup, what);
                    }
                    return; // [MQTT-4.3.3-10]
                }
            }
            _ => self.violated(Fault::Invented, format!("QoS 0: {publish:?}")),
        }
        let number = number_of(&publish.payload);
        let mut record = self.field.record();
        if publish.topic == FENCE {
            record.fenced(self.client, number);
        } else {
            record.delivered(self.audience, &publish.topic, number, publish.dup());
        }
    }

    fn violated(&self, fault: Fault, what: String) {
        let mut record = self.field.record();
        let what = format!("{}: {what}", record.name(self.client));
        record.violated(fault, what);
    }

    /// Asks again for what was asked for on a connection that ended before the answer.
    fn ask_again(&self, link: &mut Link) {
        for (subscription, id) in self.subscriptions.iter().zip(1..) {
            match subscription.held {
                Held::Asked => link.subscribe(id, &subscription.filter, subscription.qos),
                Held::Ending => link.unsubscribe(id, &subscription.filter),
                Held::Yes | Held::No => {}
            }
        }
    }

    /// Ends a subscription or makes it again.
    fn toggle(&mut self, link: &mut Link) {
        let at = self.field.below(0, self.subscriptions.len() as u64) as usize;
        let id = at as u16 + 1;
        let Subscription { filter, qos, held, toggles, .. } = &self.subscriptions[at];
        let held = match held {
            Held::Yes if *toggles => Held::Ending,
            Held::No => Held::Asked,
            _ => return,
        };
        match held {
            Held::Ending => link.unsubscribe(id, filter),
            _ => link.subscribe(id, filter, *qos),
        }
        self.note(at, held);
    }

    fn note(&mut self, at: usize, held: Held) {
        let subscription = &mut self.subscriptions[at];
        subscription.held = held;
        let Some((audience, filter)) = &subscription.recorded else { return };
        let mut record = self.field.record();
        match held {
            Held::Asked => record.subscribing(*audience, filter),
            Held::Yes => record.subscribed(*audience, filter),
            Held::Ending => record.unsubscribing(*audience, filter),
            Held::No => record.unsubscribed(*audience, filter),
        }
    }
}

/// The number at the head of a payload.
pub fn number_of(payload: &[u8]) -> usize {
    let digits: Vec<u8> = payload.iter().copied().take_while(|byte| *byte != b':').collect();
    String::from_utf8(digits).unwrap().parse().unwrap()
}
