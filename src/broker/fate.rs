//! Why a message cannot stay in a queue.

use crate::metrics::DropReason;

/// See the head of this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was handed out as often as it may.
    Spent,
    /// A consumer refused it.
    Refused,
    /// No consumer who was there may receive it.
    Denied,
    /// Its consumer's Session ended before it was done with QoS 2 [MQTT-4.8.2-5].
    SessionEnded,
}

impl Fate {
    /// As a dead letter says it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Spent => "max-deliveries",
            Self::Refused => "rejected",
            Self::Denied => "not-authorized",
            Self::SessionEnded => "session-ended",
        }
    }

    /// What it counts as where there is no dead-letter topic.
    pub(super) fn drop_reason(self) -> DropReason {
        match self {
            Self::Spent => DropReason::DeliveriesSpent,
            Self::Refused => DropReason::Refused,
            Self::Denied => DropReason::ReceiveDenied,
            Self::SessionEnded => DropReason::SessionEnded,
        }
    }
}
