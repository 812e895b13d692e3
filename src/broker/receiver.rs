//! What the router routes to, and what is told of it.

use std::sync::Arc;

use super::mailbox::Mailbox;
use super::share::ShareGroup;
use crate::router::Subscriber;

/// What the router routes to.
#[derive(Clone, Debug)]
pub enum Receiver {
    /// A Session.
    Session(Arc<Mailbox>),
    /// A share group, which is one receiver whatever the number of its members.
    Group(Arc<ShareGroup>),
}

impl Receiver {
    /// Whether it is a declared queue.
    pub(super) fn is_declared(&self) -> bool {
        matches!(self, Self::Group(group) if group.is_declared())
    }

    /// A message that a share group has let in does not come.
    pub(super) fn let_out(&self) {
        if let Self::Group(group) = self {
            group.let_out();
        }
    }
}

impl Subscriber for Receiver {
    fn key(&self) -> u64 {
        match self {
            Self::Session(mailbox) => mailbox.key(),
            Self::Group(group) => group.key(),
        }
    }
}
