//! The way to the committer: a bounded queue to one thread, or, under an inline executor, the caller itself.
//!
//! How it works: the thread takes whatever has gathered while it was busy, up to a bound, as one group; so the groups
//! grow with the load and a lone change waits for nobody. Under an inline executor each change is a group of its own,
//! and what it leaves to be done in the background is done before `submit` returns.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::batch;
use super::committer::{BatchTicket, CommitTicket, Operation, Put};
use super::error::StoreError;
use super::evaluate::Work;
use super::evaluate_evict::{Evicted, Eviction};
use super::group::{Answer, Groups, Pending};
use super::maintenance::{Maintenance, Wake};
use super::state::Core;
use crate::core::base::ids::Seq;

/// Changes that wait for the committer; more wait in their senders.
const QUEUE_CHANGES_MAX: usize = 1024;

/// Changes committed together: enough to share a sync, few enough to answer soon.
const GROUP_CHANGES_MAX: usize = 256;

/// Inline bodies committed together; the batch is held in memory twice while it is written.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// Puts of a batch committed together: a page of a peer. Nobody waits for them, but others wait behind them.
const BATCH_CHANGES_MAX: usize = 2048;

/// Inline bodies of a batch committed together: they lie in memory once, and go into a table file.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// The answer to come of a piece of an eviction.
pub(crate) type Started = Receiver<Result<Evicted, StoreError>>;

/// What travels to the thread.
#[derive(Debug)]
pub(crate) enum Message {
    Work(Box<Pending>),
    /// Puts that came together, as many as fit in a group.
    Batch(Vec<Pending>),
    Close,
}

/// The sending side.
#[derive(Debug)]
pub(crate) struct CommitQueue(Mode);

#[derive(Debug)]
enum Mode {
    Thread { sender: SyncSender<Message>, thread: Mutex<Option<JoinHandle<Groups>>> },
    Inline { groups: Mutex<Option<Groups>>, core: Arc<Core> },
}

impl CommitQueue {
    /// A committer of its own thread, which wakes the maintenance.
    pub(crate) fn on_thread(groups: Groups, core: Arc<Core>, wake: SyncSender<Wake>) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE_CHANGES_MAX);
        let body = move || run(groups, &core, &receiver, &wake);
        let thread = std::thread::Builder::new().name("kura-committer".to_owned()).spawn(body)?;
        Ok(Self(Mode::Thread { sender, thread: Mutex::new(Some(thread)) }))
    }

    /// A committer in the caller.
    pub(crate) fn inline(groups: Groups, core: Arc<Core>) -> Self {
        Self(Mode::Inline { groups: Mutex::new(Some(groups)), core })
    }

    /// Hands in a change; waits for room in the queue.
    pub(crate) fn submit(&self, operation: Operation) -> CommitTicket {
        let (sender, receiver) = oneshot::channel();
        self.send(Pending::new(Work::Change(operation), Answer::Change(sender)));
        CommitTicket(receiver)
    }

    /// Hands in a change unless it had to wait for room.
    pub(crate) fn try_submit(&self, operation: Operation) -> Result<CommitTicket, Operation> {
        let Mode::Thread { sender, .. } = &self.0 else { return Ok(self.submit(operation)) };
        let (answer, receiver) = oneshot::channel();
        let pending = Box::new(Pending::new(Work::Change(operation), Answer::Change(answer)));
        match sender.try_send(Message::Work(pending)) {
            Err(TrySendError::Full(Message::Work(pending))) => match pending.work {
                Work::Change(operation) => Err(operation),
                Work::Purge { .. } | Work::Evict(_) | Work::Relocate { .. } => Ok(CommitTicket(receiver)),
            },
            // A closed queue drops the answer's sender, so the ticket says that the store is not open.
            _ => Ok(CommitTicket(receiver)),
        }
    }

    /// Hands in puts that came together; what had to wait for room comes back, for [`CommitQueue::send_all`].
    pub(crate) fn try_submit_batch(&self, puts: Vec<Put>) -> (BatchTicket, Vec<Message>) {
        let (parts, receiver) = batch::parts(puts);
        let mut left = Vec::new();
        for message in messages(parts) {
            match &self.0 {
                Mode::Thread { sender, .. } if left.is_empty() => match sender.try_send(message) {
                    Err(TrySendError::Full(message)) => left.push(message),
                    // A closed queue drops the parts, so the ticket says that the store is not open.
                    Err(TrySendError::Disconnected(_)) | Ok(()) => {}
                },
                Mode::Thread { .. } => left.push(message),
                Mode::Inline { groups, core } => {
                    if let Message::Batch(group) = message {
                        self.run_inline(groups, core, group);
                    }
                }
            }
        }
        (BatchTicket(receiver), left)
    }

    /// Hands in what had to wait, waiting for room.
    pub(crate) fn send_all(&self, messages: Vec<Message>) {
        if let Mode::Thread { sender, .. } = &self.0 {
            messages.into_iter().for_each(|message| drop(sender.send(message)));
        }
    }

    /// Removes the next rows of a deleted namespace; where it goes on.
    pub(crate) fn purge(&self, namespace: &str, after: Seq) -> Result<Option<Seq>, StoreError> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let work = Work::Purge { namespace: namespace.to_owned(), after };
        self.send(Pending::new(work, Answer::Purge(sender)));
        receiver.recv().unwrap_or(Err(StoreError::NotOpen))
    }

    /// Evicts what of this is still as it was when it was chosen.
    pub(crate) fn evict(&self, eviction: Eviction) -> Result<Evicted, StoreError> {
        self.start(Work::Evict(eviction)).recv().unwrap_or(Err(StoreError::NotOpen))
    }

    /// Hands in work of an eviction; its answer comes later.
    pub(crate) fn start(&self, work: Work) -> Started {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.send(Pending::new(work, Answer::Evict(sender)));
        receiver
    }

    fn send(&self, pending: Pending) {
        match &self.0 {
            // A closed queue drops the pending work, and with it the sender of its answer.
            Mode::Thread { sender, .. } => drop(sender.send(Message::Work(Box::new(pending)))),
            Mode::Inline { groups, core } => self.run_inline(groups, core, vec![pending]),
        }
    }

    fn run_inline(&self, groups: &Mutex<Option<Groups>>, core: &Core, group: Vec<Pending>) {
        let follow_up = {
            let mut groups = groups.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(groups) = groups.as_mut() else { return };
            groups.run(group)
        };
        let maintenance = Maintenance::new(core);
        maintenance.purge_all(self, &follow_up.purges);
        maintenance.sweep_these(&follow_up.garbage);
    }

    /// Commits exactly these together, in the caller.
    #[cfg(test)]
    pub(crate) fn run_group(&self, group: Vec<Pending>) {
        let Mode::Inline { groups, .. } = &self.0 else { return };
        if let Some(groups) = groups.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            groups.run(group);
        }
    }

    /// Waits for what was handed in and ends the committer. `None` if it had ended before or panicked.
    pub(crate) fn close(&self) -> Option<Groups> {
        match &self.0 {
            Mode::Thread { sender, thread } => {
                let thread = thread.lock().unwrap_or_else(PoisonError::into_inner).take()?;
                let _ = sender.send(Message::Close);
                thread.join().ok()
            }
            Mode::Inline { groups, .. } => groups.lock().unwrap_or_else(PoisonError::into_inner).take(),
        }
    }
}

/// Says that writes are stopped if the committer dies of a panic: its state is not to be trusted then.
struct StopOnPanic<'a>(&'a Core);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop_writes("the committer panicked");
        }
    }
}

fn run(mut groups: Groups, core: &Core, receiver: &Receiver<Message>, wake: &SyncSender<Wake>) -> Groups {
    let _guard = StopOnPanic(core);
    loop {
        let first = match receiver.recv() {
            Ok(Message::Work(first)) => vec![*first],
            Ok(Message::Batch(first)) => first,
            Ok(Message::Close) | Err(_) => return groups,
        };
        let (group, close) = gather(first, receiver);
        let follow_up = groups.run(group);
        for namespace in follow_up.purges {
            // Full: the maintenance finds the purge in the index by itself.
            let _ = wake.try_send(Wake::Purge(namespace));
        }
        if !follow_up.garbage.is_empty() {
            // Full: the next look through the index finds it.
            let _ = wake.try_send(Wake::Sweep(follow_up.garbage));
        }
        if close {
            return groups;
        }
    }
}

/// Parts of a batch as messages, none larger than a group may be.
fn messages(parts: Vec<Pending>) -> Vec<Message> {
    let mut messages = Vec::new();
    let (mut some, mut bytes) = (Vec::new(), 0);
    for part in parts {
        if some.len() == BATCH_CHANGES_MAX || bytes >= BATCH_BYTES_MAX {
            messages.push(Message::Batch(std::mem::take(&mut some)));
            bytes = 0;
        }
        bytes += part.inline_bytes();
        some.push(part);
    }
    if !some.is_empty() {
        messages.push(Message::Batch(some));
    }
    messages
}

/// What waits in the queue behind the first, up to the bounds of a group.
fn gather(first: Vec<Pending>, receiver: &Receiver<Message>) -> (Vec<Pending>, bool) {
    let mut bytes: usize = first.iter().map(Pending::inline_bytes).sum();
    let mut group = first;
    while group.len() < GROUP_CHANGES_MAX && bytes < GROUP_BYTES_MAX {
        match receiver.try_recv() {
            Ok(Message::Work(pending)) => {
                bytes += pending.inline_bytes();
                group.push(*pending);
            }
            Ok(Message::Batch(more)) => {
                bytes += more.iter().map(Pending::inline_bytes).sum::<usize>();
                group.extend(more);
            }
            Ok(Message::Close) | Err(TryRecvError::Disconnected) => return (group, true),
            Err(TryRecvError::Empty) => break,
        }
    }
    (group, false)
}

/// Waits for a message for a while; `Err(true)` = nothing came, `Err(false)` = nobody can send any more.
pub(crate) fn receive<T>(receiver: &Receiver<T>, wait: std::time::Duration) -> Result<T, bool> {
    receiver.recv_timeout(wait).map_err(|error| error == RecvTimeoutError::Timeout)
}
