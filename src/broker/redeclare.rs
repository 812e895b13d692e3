//! Queues that are declared, changed, or declared no more while the broker runs.

use std::sync::Arc;

use dashmap::mapref::entry::Entry;

use super::Broker;
use super::groups::everything;
use super::receiver::Receiver;
use super::share::{Inner, ShareGroup};
use super::turn::Turn;
use crate::queue::declaration::Declaration;
use crate::topic::{QUEUE_PREFIX, TopicFilter};

/// What became of a declaration that was changed.
struct Changed {
    /// The filter.
    filter: Box<str>,
    /// Whether anything comes into the queue again.
    is_opened: bool,
    is_changed: bool,
    /// What needs a restart, in words.
    later: Vec<String>,
}

impl Broker {
    /// Takes over declarations, which were checked, in place of those before. Returns what needs a
    /// restart, in words.
    pub fn redeclare(&self, declarations: &[Declaration]) -> Vec<String> {
        let (mut turn, mut later) = (Turn::default(), Vec::new());
        for declaration in declarations {
            let name = declaration.name.clone();
            let strategy = declaration.strategy.or(Some(self.options.share_strategy));
            let declaration = Declaration { strategy, ..declaration.clone() };
            let queue = self.groups.by_name.get(&name).map(|queue| queue.clone());
            let said = match queue {
                Some(queue) => self.change_queue(&queue, declaration),
                None => self.add_queue(declaration, &mut turn),
            };
            later.extend(said.into_iter().map(|what| format!("queue `{name}`: {what}")));
        }
        let queues: Vec<_> = self.groups.by_name.iter().map(|queue| queue.clone()).collect();
        for queue in queues {
            let name = queue.state().declaration.name;
            if !declarations.iter().any(|declaration| declaration.name == name) {
                self.close_queue(&queue, &name);
            }
        }
        self.finish(&mut turn, None);
        later
    }

    fn add_queue(&self, declaration: Declaration, turn: &mut Turn) -> Vec<String> {
        // A Session that outlived the queue may be the member of a group of that name.
        let queue = [QUEUE_PREFIX, &declaration.name].concat();
        if self.groups.by_filter.contains_key(queue.as_str()) {
            return vec![format!(
                "`{queue}` has consumers of before; a restart makes them its own"
            )];
        }
        let shared = format!("$share/{}/{}", declaration.name, declaration.filter);
        match self.groups.by_filter.entry(shared.as_str().into()) {
            Entry::Occupied(_) => {
                vec![format!("`{shared}` has consumers already, as a share group without a queue")]
            }
            // Held until the queue is there: nobody makes that share group meanwhile.
            Entry::Vacant(_vacant) => {
                tracing::info!(queue = ?declaration.name, "the queue is declared");
                self.new_queue(declaration, None, turn);
                Vec::new()
            }
        }
    }

    fn change_queue(&self, queue: &Arc<ShareGroup>, declaration: Declaration) -> Vec<String> {
        let name = declaration.name.clone();
        let Changed { filter, is_opened, is_changed, later } = queue.change(declaration);
        if let (true, Ok(filter)) = (is_opened, TopicFilter::new(&filter)) {
            let receiver = Receiver::Group(queue.clone());
            self.router.subscribe(filter.filter(), receiver, everything());
        }
        if is_changed || is_opened {
            tracing::info!(queue = ?name, "the declaration of the queue is changed");
        }
        later
    }

    fn close_queue(&self, queue: &ShareGroup, name: &str) {
        let Some(filter) = queue.close() else { return };
        self.router.unsubscribe(&filter, queue.key());
        let (messages, _) = queue.waiting();
        tracing::warn!(
            queue = ?name, messages,
            "the queue is not declared any more: nothing new goes into it, and what waits can be \
             taken from $queue/NAME"
        );
    }
}

impl ShareGroup {
    fn change(&self, declaration: Declaration) -> Changed {
        let mut inner = self.inner.lock();
        // Others may have what was kept for somebody by the strategy before.
        inner.rejoin_apart();
        let Inner { rules, members, .. } = &mut *inner;
        let (before, was_open) = (rules.declaration().clone(), rules.is_open());
        let later = rules.change(declaration);
        members.changed(rules.declaration());
        let is_changed = *rules.declaration() != before;
        let is_opened = rules.is_open() && !was_open;
        Changed { filter: before.filter, is_opened, is_changed, later }
    }

    /// Lets nothing more in; the filter of what came in, if anything did.
    fn close(&self) -> Option<Box<str>> {
        let mut inner = self.inner.lock();
        inner.rules.close().then(|| inner.rules.declaration().filter.clone())
    }
}
