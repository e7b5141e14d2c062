//! One answer for many puts: each part is told its outcome, and the last one sends them all.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::committer::{CommitOutcome, Put};
use super::error::StoreError;
use super::group::Pending;

/// The outcomes as they come in.
#[derive(Debug)]
struct Gathered {
    outcomes: Vec<Option<Result<CommitOutcome, StoreError>>>,
    missing: usize,
    sender: Option<oneshot::Sender<Vec<Result<CommitOutcome, StoreError>>>>,
}

/// The place of one put in its batch. If one is dropped without an outcome, whoever waits learns that the store is not
/// open.
#[derive(Debug)]
pub(crate) struct BatchPart {
    gathered: Arc<Mutex<Gathered>>,
    at: usize,
}

impl BatchPart {
    /// Tells the outcome of this put.
    pub(crate) fn give(self, outcome: Result<CommitOutcome, StoreError>) {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = gathered.outcomes.get_mut(self.at)
            && slot.replace(outcome).is_none()
        {
            gathered.missing -= 1;
        }
        if gathered.missing == 0
            && let Some(sender) = gathered.sender.take()
        {
            let outcomes = std::mem::take(&mut gathered.outcomes);
            // Nobody may be waiting any more; the changes stand all the same.
            drop(sender.send(outcomes.into_iter().flatten().collect()));
        }
    }
}

/// The work for these puts, and where their outcomes come.
pub(crate) fn parts(puts: Vec<Put>) -> (Vec<Pending>, oneshot::Receiver<Vec<Result<CommitOutcome, StoreError>>>) {
    let (sender, receiver) = oneshot::channel();
    let mut outcomes = Vec::new();
    outcomes.resize_with(puts.len(), || None);
    let missing = puts.len();
    if missing == 0 {
        drop(sender.send(Vec::new()));
        return (Vec::new(), receiver);
    }
    let gathered = Arc::new(Mutex::new(Gathered { outcomes, missing, sender: Some(sender) }));
    let part = |(at, put)| Pending::replicated(put, BatchPart { gathered: Arc::clone(&gathered), at });
    (puts.into_iter().enumerate().map(part).collect(), receiver)
}
