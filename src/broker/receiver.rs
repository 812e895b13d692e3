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

impl Subscriber for Receiver {
    fn key(&self) -> u64 {
        match self {
            Self::Session(mailbox) => mailbox.key(),
            Self::Group(group) => group.key(),
        }
    }
}
