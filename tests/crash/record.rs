//! What was acknowledged, what has arrived, and where the two disagree.
//!
//! The record counts events. What a client has *asked* for is noted before the bytes leave, what
//! was *acknowledged* after they have come; so of two events of which the broker must have seen
//! one first, that one has the smaller number.
//!
//! A message concerns a subscription for certain when SUBACK had come before it was sent first
//! and UNSUBSCRIBE had not been sent when it was acknowledged. It does not concern it for certain
//! when it was acknowledged before SUBSCRIBE was sent, or sent after UNSUBACK had come. Anything
//! between may go either way.

use std::collections::HashMap;
use std::fmt;

/// What the broker did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A Session that CONNACK had acknowledged is not present.
    SessionLost,
    /// An acknowledged message has not arrived.
    MessageLost,
    /// A QoS 2 message has arrived twice.
    Twice,
    /// A message has arrived for the first time after one that was published later, or again on a
    /// connection on which a later one had already arrived.
    OutOfOrder,
    /// A message came again without DUP [MQTT-3.3.1-1].
    WithoutDup,
    /// A message came that nobody sent.
    Invented,
    /// A message came for a subscription that UNSUBACK had ended.
    NotSubscribed,
    /// A topic retains less than was acknowledged.
    RetainedLost,
    /// A request was refused.
    Refused,
    /// The program misbehaved.
    Program,
}

#[derive(Clone, Debug)]
pub struct Violation {
    pub fault: Fault,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.fault, self.what)
    }
}

/// Names a topic.
pub type Topic = usize;
/// Names somebody to whom messages are due: a Session, or a share group.
pub type Audience = usize;
/// Names a client.
pub type Client = usize;

/// The number of an event.
type At = u64;

struct Topics {
    name: String,
    qos: u8,
    /// By the number in their payload.
    messages: Vec<Sent>,
}

struct Sent {
    first_at: At,
    /// PUBACK or PUBREC.
    accepted_at: Option<At>,
    times: u8,
}

struct Holding {
    filter: String,
    asked_at: At,
    granted_at: Option<At>,
    end_asked_at: Option<At>,
    ended_at: Option<At>,
}

#[derive(Clone, Copy, Default)]
struct Got {
    times: u8,
    without_dup: u8,
}

struct Receiver {
    name: String,
    is_exact: bool,
    is_group: bool,
    holdings: Vec<Holding>,
    /// By topic and number.
    got: Vec<Vec<Got>>,
    /// By topic: the number of the newest message that has arrived.
    newest: Vec<usize>,
    /// By topic: the same on this connection.
    newest_here: Vec<usize>,
    /// By topic: messages below this are judged.
    judged: Vec<usize>,
}

struct Known {
    name: String,
    has_session: bool,
    fence: usize,
}

/// Totals, to see that something was tried at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub accepted: u64,
    pub delivered: u64,
    pub repeated: u64,
    pub resumed: u64,
    pub retained: u64,
    /// Messages of which it is certain that they concern a subscription.
    pub due: u64,
    /// Messages of which it is certain that the subscription was not there.
    pub not_due: u64,
}

#[derive(Default)]
pub struct Record {
    now: At,
    topics: Vec<Topics>,
    by_name: HashMap<String, Topic>,
    receivers: Vec<Receiver>,
    clients: Vec<Known>,
    pub violations: Vec<Violation>,
    pub totals: Totals,
}

impl Record {
    pub fn topic(&mut self, name: &str, qos: u8) -> Topic {
        self.by_name.insert(name.into(), self.topics.len());
        self.topics.push(Topics { name: name.into(), qos, messages: Vec::new() });
        for receiver in &mut self.receivers {
            receiver.add_topic();
        }
        self.topics.len() - 1
    }

    /// `is_exact`: its subscriptions are of QoS 2.
    pub fn audience(&mut self, name: &str, is_exact: bool, is_group: bool) -> Audience {
        let mut receiver = Receiver {
            name: name.into(),
            is_exact,
            is_group,
            holdings: vec![],
            got: vec![],
            newest: vec![],
            newest_here: vec![],
            judged: vec![],
        };
        self.topics.iter().for_each(|_| receiver.add_topic());
        self.receivers.push(receiver);
        self.receivers.len() - 1
    }

    pub fn client(&mut self, name: &str) -> Client {
        self.clients.push(Known { name: name.into(), has_session: false, fence: 0 });
        self.clients.len() - 1
    }

    fn tick(&mut self) -> At {
        self.now += 1;
        self.now
    }

    pub fn violated(&mut self, fault: Fault, what: String) {
        self.violations.push(Violation { fault, what });
    }

    /// CONNACK has come for a Session that outlives its connections.
    pub fn connected(&mut self, client: Client, session_present: bool) {
        let known = &mut self.clients[client];
        let had_session = std::mem::replace(&mut known.has_session, true);
        self.totals.resumed += u64::from(session_present);
        if had_session && !session_present {
            let what = format!("{} finds no Session", known.name);
            self.violated(Fault::SessionLost, what);
        }
    }

    /// A new message is about to be sent; its number.
    pub fn sending(&mut self, topic: Topic) -> usize {
        let first_at = self.tick();
        let messages = &mut self.topics[topic].messages;
        messages.push(Sent { first_at, accepted_at: None, times: 1 });
        messages.len() - 1
    }

    pub fn sending_again(&mut self, topic: Topic, number: usize) {
        let sent = &mut self.topics[topic].messages[number];
        sent.times = sent.times.saturating_add(1);
    }

    /// PUBACK or PUBREC has come.
    pub fn accepted(&mut self, topic: Topic, number: usize) {
        let now = self.tick();
        self.totals.accepted += 1;
        self.topics[topic].messages[number].accepted_at.get_or_insert(now);
    }

    pub fn subscribing(&mut self, audience: Audience, filter: &str) {
        let asked_at = self.tick();
        self.receivers[audience].holdings.push(Holding {
            filter: filter.into(),
            asked_at,
            granted_at: None,
            end_asked_at: None,
            ended_at: None,
        });
    }

    pub fn subscribed(&mut self, audience: Audience, filter: &str) {
        let now = self.tick();
        self.holding(audience, filter).granted_at = Some(now);
    }

    pub fn unsubscribing(&mut self, audience: Audience, filter: &str) {
        let now = self.tick();
        self.holding(audience, filter).end_asked_at = Some(now);
    }

    pub fn unsubscribed(&mut self, audience: Audience, filter: &str) {
        let now = self.tick();
        self.holding(audience, filter).ended_at = Some(now);
    }

    fn holding(&mut self, audience: Audience, filter: &str) -> &mut Holding {
        let mut holdings = self.receivers[audience].holdings.iter_mut().rev();
        holdings.find(|holding| holding.filter == filter).unwrap()
    }

    /// A connection begins on which this audience, if it is a Session, is sent its messages.
    pub fn begins(&mut self, audience: Audience) {
        self.receivers[audience].newest_here.fill(0);
    }

    /// A message has arrived that is no repetition in the sense of QoS 2.
    pub fn delivered(&mut self, audience: Audience, topic: &str, number: usize, dup: bool) {
        self.totals.delivered += 1;
        let topic = self.by_name[topic];
        let sent = &self.topics[topic];
        let receiver = &mut self.receivers[audience];
        let what = format!("{} to {}, message {number}", sent.name, receiver.name);
        let Some(message) = sent.messages.get(number) else {
            return self.violated(Fault::Invented, what);
        };
        let got = receiver.got(topic, number);
        got.times = got.times.saturating_add(1);
        got.without_dup = got.without_dup.saturating_add(u8::from(!dup));
        let Got { times, without_dup } = *got;
        let newest = receiver.newest[topic];
        receiver.newest[topic] = newest.max(number + 1);
        let newest_here = receiver.newest_here[topic];
        receiver.newest_here[topic] = number + 1;
        // What its publisher sent again counts as new [MQTT-4.3.2-5], also if nobody was there to
        // get it the first time.
        let was_due = message.times == 1 || receiver.is_held_since(sent, message.first_at);
        let is_late = times == 1 && number + 1 < newest && was_due;
        let is_late_here = message.times == 1 && number < newest_here;
        let is_exact = receiver.is_exact && sent.qos == 2;
        let fault = if times > 1 && is_exact {
            Some(Fault::Twice)
        } else if !receiver.is_group && without_dup > message.times {
            Some(Fault::WithoutDup)
        } else if !receiver.is_group && (is_late || is_late_here) {
            Some(Fault::OutOfOrder)
        } else if !receiver.may_get(sent, message) {
            Some(Fault::NotSubscribed)
        } else {
            None
        };
        self.totals.repeated += u64::from(times > 1);
        if let Some(fault) = fault {
            self.violated(fault, format!("{what}; the newest was {}", newest.wrapping_sub(1)));
        }
    }

    /// The last acknowledged message of a topic.
    pub fn last_accepted(&self, topic: Topic) -> Option<usize> {
        self.topics[topic].messages.iter().rposition(|sent| sent.accepted_at.is_some())
    }

    /// What a topic was found to retain, and the last message that was acknowledged before it was
    /// looked for.
    pub fn retained(&mut self, topic: Topic, found: Option<usize>, accepted: Option<usize>) {
        self.totals.retained += u64::from(found.is_some());
        let sent = &self.topics[topic];
        let what = format!("{}: retains {found:?}, acknowledged {accepted:?}", sent.name);
        if found.is_some_and(|number| number >= sent.messages.len()) {
            self.violated(Fault::Invented, what);
        } else if found < accepted {
            self.violated(Fault::RetainedLost, what);
        }
    }

    pub fn fenced(&mut self, client: Client, fence: usize) {
        let known = &mut self.clients[client];
        known.fence = known.fence.max(fence);
    }

    pub fn behind_fence(&self, client: Client, fence: usize) -> bool {
        self.clients[client].fence < fence
    }

    pub fn name(&self, client: Client) -> &str {
        &self.clients[client].name
    }

    /// How many messages somebody waits for in vain so far.
    pub fn missing(&self, audience: Audience) -> usize {
        let numbers = |topic: Topic| self.receivers[audience].judged[topic]..;
        let missing = |topic: Topic| {
            let len = self.topics[topic].messages.len();
            numbers(topic)
                .take_while(|n| *n < len)
                .filter(|n| self.lacks(audience, topic, *n))
                .count()
        };
        (0..self.topics.len()).map(missing).sum()
    }

    fn lacks(&self, audience: Audience, topic: Topic, number: usize) -> bool {
        let (receiver, sent) = (&self.receivers[audience], &self.topics[topic]);
        let got = receiver.got[topic].get(number).is_some_and(|got| got.times > 0);
        !got && receiver.must_get(sent, &sent.messages[number])
    }

    /// Judges all messages that are not judged yet: nothing is under way any more.
    pub fn judge(&mut self, audience: Audience) {
        for topic in 0..self.topics.len() {
            let from = self.receivers[audience].judged[topic];
            let to = self.topics[topic].messages.len();
            for number in from..to {
                let (receiver, sent) = (&self.receivers[audience], &self.topics[topic]);
                let message = &sent.messages[number];
                self.totals.due += u64::from(receiver.must_get(sent, message));
                let is_not_due = receiver.has_matching(sent) && !receiver.may_get(sent, message);
                self.totals.not_due += u64::from(is_not_due);
                if self.lacks(audience, topic, number) {
                    let what = format!("{} to {}, message {number}", sent.name, receiver.name);
                    self.violated(Fault::MessageLost, what);
                }
            }
            self.receivers[audience].judged[topic] = to;
        }
    }
}

impl Receiver {
    fn add_topic(&mut self) {
        self.got.push(Vec::new());
        self.newest.push(0);
        self.newest_here.push(0);
        self.judged.push(0);
    }

    fn got(&mut self, topic: Topic, number: usize) -> &mut Got {
        let got = &mut self.got[topic];
        if got.len() <= number {
            got.resize(number + 1, Got::default());
        }
        &mut got[number]
    }

    fn must_get(&self, topic: &Topics, message: &Sent) -> bool {
        let Some(accepted_at) = message.accepted_at else { return false };
        self.holdings.iter().any(|holding| {
            holding.granted_at.is_some_and(|at| at < message.first_at)
                && holding.end_asked_at.is_none_or(|at| at > accepted_at)
                && matches(&holding.filter, &topic.name)
        })
    }

    /// Whether there has been one subscription from before this moment up to now.
    fn is_held_since(&self, topic: &Topics, at: At) -> bool {
        self.holdings.iter().any(|holding| {
            holding.granted_at.is_some_and(|granted_at| granted_at < at)
                && holding.end_asked_at.is_none()
                && matches(&holding.filter, &topic.name)
        })
    }

    fn has_matching(&self, topic: &Topics) -> bool {
        self.holdings.iter().any(|holding| matches(&holding.filter, &topic.name))
    }

    fn may_get(&self, topic: &Topics, message: &Sent) -> bool {
        self.holdings.iter().any(|holding| {
            message.accepted_at.is_none_or(|at| at > holding.asked_at)
                && holding.ended_at.is_none_or(|at| at > message.first_at)
                && matches(&holding.filter, &topic.name)
        })
    }
}

/// Whether a Topic Filter matches a topic.
pub fn matches(filter: &str, topic: &str) -> bool {
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}
