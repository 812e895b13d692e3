//! Reads pages of messages back, on a thread of its own: neither commits nor connections wait for
//! the disk to read.
//!
//! The committer knows where the messages are and begins the read transaction, so that nothing is
//! moved in between; each page is read in one short transaction, since one that is held makes the
//! file grow.

use std::sync::Arc;
use std::sync::mpsc;

use redb::ReadTransaction;
use rustc_hash::FxHashMap;

use super::ledger::Located;
use super::row;
use super::tables::SEG;
use super::{SessionId, Shared};
use crate::message::Message;
use crate::queue::{Fetched, SubscriptionIds};

/// A page that a queue wants.
pub struct Fetch {
    /// Whose queue: the Session's or the share group's.
    pub queue: SessionId,
    /// The messages, in the order in which they are wanted.
    pub ids: Vec<u64>,
    /// Gets the page.
    pub answer: Box<dyn FnOnce(Vec<Fetched>) + Send>,
}

/// A fetch whose messages were located.
pub(super) struct Job {
    pub(super) fetch: Fetch,
    pub(super) located: Vec<Located>,
    /// `None` when nothing of it is in the file.
    pub(super) txn: Option<ReadTransaction>,
}

/// Where jobs are done.
pub(super) enum Reader {
    /// On a thread, which ends when this is dropped.
    Thread(mpsc::Sender<Job>),
    /// Where they come from: for simulations.
    Here,
}

impl Reader {
    /// Starts the thread.
    pub(super) fn start<A: Send + 'static>(shared: Arc<Shared<A>>) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel::<Job>();
        std::thread::Builder::new().name("reader".into()).spawn(move || {
            for job in receiver {
                read(job, &shared);
            }
        })?;
        Ok(Self::Thread(sender))
    }

    /// Does a job, or has it done.
    pub(super) fn read<A>(&self, job: Job, shared: &Shared<A>) {
        match self {
            Self::Here => read(job, shared),
            // The thread ends only with its sender.
            Self::Thread(sender) => drop(sender.send(job)),
        }
    }
}

/// Reads a page and answers. What cannot be read now is tried again later.
fn read<A>(job: Job, shared: &Shared<A>) {
    let Job { fetch, located, txn } = job;
    let in_file = txn.map_or(Ok(FxHashMap::default()), |txn| from_file(&txn, &fetch, &located));
    let mut in_file = match in_file {
        Ok(in_file) => in_file,
        Err(error) => {
            tracing::error!("messages cannot be read from the store: {error}; trying again");
            shared.inbox.lock().fetches_later.push(fetch);
            return;
        }
    };
    let Fetch { ids, answer, .. } = fetch;
    let page = ids.into_iter().zip(located).map(|(id, located)| {
        let found = match located {
            Located::Fresh(message, subscription_ids) => Some((message, subscription_ids)),
            Located::Row(_) | Located::Nowhere => in_file.remove(&id),
        };
        Fetched { id, found }
    });
    answer(page.collect());
}

type Found = FxHashMap<u64, (Message, SubscriptionIds)>;

/// Reads each row once. Records that do not add up are left out.
fn from_file(
    txn: &ReadTransaction,
    fetch: &Fetch,
    located: &[Located],
) -> Result<Found, redb::Error> {
    let mut wanted: FxHashMap<u64, Vec<u64>> = FxHashMap::default();
    for (&id, located) in fetch.ids.iter().zip(located) {
        if let Located::Row(row) = located {
            wanted.entry(*row).or_default().push(id);
        }
    }
    let seg = txn.open_table(SEG)?;
    let mut found = Found::default();
    for (number, mut ids) in wanted {
        ids.sort_unstable();
        let Some(bytes) = seg.get(number)? else { continue };
        for record in row::records(bytes.value()).map_while(Result::ok) {
            if ids.binary_search(&record.id).is_err() {
                continue;
            }
            let target = record.targets().find(|target| target.session == fetch.queue);
            if let (Some(target), Some(message)) = (target, Message::decode(record.id, record.body))
            {
                found.insert(record.id, (message, target.subscription_ids));
            }
        }
    }
    Ok(found)
}
