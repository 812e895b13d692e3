//! Bounds of a queue, and what happens there.

/// Which message goes when a queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The one that arrives.
    #[default]
    DropNewest,
    /// The one that has waited longest.
    DropOldest,
    /// None: its publisher is told before, by who asks [`super::lanes::Lanes::has_room`]; what
    /// cannot be told, QoS 0, goes as it arrives.
    Reject,
}

/// Bounds of a queue.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages that are ready.
    pub messages_max: usize,
    /// Messages of QoS 0 that are ready for a Client that is there, when they are counted apart;
    /// 0: they are not.
    pub qos0_max: usize,
    /// Weight of the messages that are ready, in bytes.
    pub bytes_max: usize,
    /// What happens to a message beyond a bound.
    pub overflow: Overflow,
    /// Weight of the messages at hand beyond which the store alone keeps them, in bytes.
    pub at_hand_max: usize,
    /// Weight of the messages at hand beyond which those that the store does not keep are
    /// dropped, in bytes.
    pub memory_max: usize,
    /// Whether QoS 0 is kept for a Client that is away.
    pub keeps_qos0: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            messages_max: 100_000,
            qos0_max: 0,
            bytes_max: 64 << 20,
            overflow: Overflow::DropNewest,
            at_hand_max: 1 << 20,
            memory_max: usize::MAX,
            keeps_qos0: false,
        }
    }
}

impl Limits {
    /// No bounds, for what was accepted before.
    pub const NONE: Self = Self {
        messages_max: usize::MAX,
        qos0_max: 0,
        bytes_max: usize::MAX,
        overflow: Overflow::DropNewest,
        at_hand_max: usize::MAX,
        memory_max: usize::MAX,
        keeps_qos0: false,
    };
}
