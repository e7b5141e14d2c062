//! The swappable store: what the rest of the process holds, whether or not a store is open right now.

use std::sync::Arc;

use super::committer::{CommitOutcome, Operation};
use super::error::StoreError;
use super::facade::Store;
use crate::core::base::executor::StoreExecutor;

/// A handle to the store of this process; cheap to clone. The store behind it can be opened, closed and swapped.
#[derive(Debug, Clone)]
pub struct StoreHandle {
    _executor: Arc<dyn StoreExecutor>,
}

impl StoreHandle {
    /// A handle without a store yet.
    pub fn new(executor: Arc<dyn StoreExecutor>) -> Self {
        Self { _executor: executor }
    }

    /// Puts a store in, or takes it out. Waiters are woken.
    pub fn set(&self, store: Option<Arc<Store>>) {
        let _ = store;
        todo!()
    }

    /// The store if one is open, at once. For O(1) reads of counters only.
    pub fn current(&self) -> Option<Arc<Store>> {
        todo!()
    }

    /// Waits until a store is open, at most [`crate::core::base::limits::STORE_OPEN_WAIT`].
    pub async fn ready(&self) -> Result<Arc<Store>, StoreError> {
        todo!()
    }

    /// Runs blocking work against the store on the executor; waits for it to be open first.
    pub async fn call<R, F>(&self, work: F) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnOnce(&Store) -> Result<R, StoreError> + Send + 'static,
    {
        let _ = work;
        todo!()
    }

    /// Hands a change to the committer and waits until it is durable and visible.
    pub async fn commit(&self, operation: Operation) -> Result<CommitOutcome, StoreError> {
        let _ = operation;
        todo!()
    }
}
