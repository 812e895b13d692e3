//! What can be written to the store.

use smallvec::SmallVec;

use super::SessionId;
use crate::message::Message;
use crate::queue::SubscriptionIds;

/// Who is to get a message.
#[derive(Clone, Debug)]
pub struct Target {
    /// The Session or share group.
    pub session: SessionId,
    /// The caller's: kept and given back.
    pub flags: u8,
    /// Whether it may finish with the message right away.
    pub online: bool,
    /// When the message expires for it, in seconds since the Unix epoch; 0: when the message does.
    pub expires_s: u32,
    /// Identifiers of the subscriptions that matched.
    pub subscription_ids: SubscriptionIds,
}

/// Who is to get a message: most have one receiver.
pub type Targets = SmallVec<[Target; 1]>;

/// Something that must survive.
#[derive(Clone, Debug)]
pub enum Change {
    /// A message for these receivers; stored once however many they are.
    Message {
        /// The message, with an identity from [`super::Store::next_message_id`].
        message: Message,
        /// Its receivers.
        targets: Targets,
    },
    /// A receiver has finished with a message.
    Finished {
        /// The message's identity.
        message: u64,
        /// The receiver.
        session: SessionId,
    },
    /// A Session or share group is new or has changed.
    SessionPut {
        /// Which.
        session: SessionId,
        /// The caller's: kept and given back.
        record: Box<[u8]>,
    },
    /// A Session or share group has ended. Its messages are finished one by one.
    SessionEnded {
        /// Which.
        session: SessionId,
    },
    /// A subscription is new or has changed.
    Subscribed {
        /// Whose.
        session: SessionId,
        /// The whole Topic Filter.
        filter: Box<str>,
        /// The caller's: kept and given back.
        options: Box<[u8]>,
    },
    /// A subscription has ended.
    Unsubscribed {
        /// Whose.
        session: SessionId,
        /// The whole Topic Filter.
        filter: Box<str>,
    },
    /// What a topic retains is another message, or nothing.
    Retained {
        /// The topic.
        topic: Box<str>,
        /// The message, and a number that stands for its publisher: kept and given back.
        kept: Option<(Message, u64)>,
    },
    /// QoS 2: a message with this Packet Identifier has been received.
    Received {
        /// From whom.
        session: SessionId,
        /// The identifier.
        packet_id: u16,
    },
    /// QoS 2: the sender has released the Packet Identifier.
    Released {
        /// From whom.
        session: SessionId,
        /// The identifier.
        packet_id: u16,
    },
    /// QoS 2: a Packet Identifier is bound to a message that will be sent.
    Sent {
        /// To whom.
        session: SessionId,
        /// The identifier.
        packet_id: u16,
        /// The message.
        message: u64,
        /// In whose queue the message is: the Session's or a share group's.
        queue: SessionId,
        /// The caller's: kept and given back.
        flags: u8,
        /// Identifiers of the subscriptions that matched.
        subscription_ids: SubscriptionIds,
    },
    /// QoS 2: the receiver has the message; only the Packet Identifier is kept.
    Relayed {
        /// To whom.
        session: SessionId,
        /// The identifier.
        packet_id: u16,
    },
    /// QoS 2: the exchange is over, and the message goes back to its queue.
    Unbound {
        /// To whom.
        session: SessionId,
        /// The identifier.
        packet_id: u16,
    },
    /// A queue hands out a message, or takes it back; the store forgets that when the queue has
    /// finished with the message.
    Lent {
        /// The queue.
        queue: SessionId,
        /// The message.
        message: u64,
        /// What is to be known of it now.
        lent: Lent,
    },
    /// QoS 2: the exchange is over.
    Completed {
        /// To whom.
        session: SessionId,
        /// The identifier.
        packet_id: u16,
    },
}

impl Change {
    /// Memory that it holds, about, in bytes.
    pub(super) fn weight(&self) -> usize {
        let inside = match self {
            Self::Message { message, .. } => message.weight(),
            Self::Retained { kept: Some((message, _)), .. } => message.weight(),
            Self::SessionPut { record, .. } => record.len(),
            _ => 0,
        };
        size_of::<Self>() + inside
    }
}

/// What the store knows of a message that a queue has handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lent {
    /// How often, if that is counted; at most [`ATTEMPTS_MAX`].
    pub attempts: u8,
    /// Whether a Session has it, with QoS 2, that the store does not know: it ends with the
    /// broker, and nobody else may have the message then [MQTT-4.8.2-5].
    pub is_bound: bool,
}

/// So often a message can be handed out and that be known.
pub const ATTEMPTS_MAX: u8 = 0x7F;
