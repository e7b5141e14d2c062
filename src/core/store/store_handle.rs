//! The swappable store: what the rest of the process holds, whether or not a store is open right now.
//!
//! How it works: a watch channel holds the store; waiters sleep on it. Blocking work runs on the executor. A large
//! staged body is synced there before it reaches the committer, so that the committer's own sync of it is short and
//! one large body never holds up the small ones behind it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use super::committer::{CommitOutcome, CommitTicket, Operation, Put};
use super::error::StoreError;
use super::facade::Store;
use super::metrics::StoreMetrics;
use crate::core::base::executor::{StoreExecutor, run};
use crate::core::base::limits::STORE_OPEN_WAIT;
use crate::core::config::Durability;
use crate::core::staging::body_writer::StagedContent;

/// Staged files from this length on are synced before they reach the committer; shorter ones are cheaper to sync
/// together with the rest of their group.
const EARLY_SYNC_BYTES_MIN: u64 = 1 << 20;

/// A handle to the store of this process; cheap to clone. The store behind it can be opened, closed and swapped.
#[derive(Debug, Clone)]
pub struct StoreHandle {
    executor: Arc<dyn StoreExecutor>,
    store: watch::Sender<Option<Arc<Store>>>,
    metrics: Arc<OnceLock<StoreMetrics>>,
}

impl StoreHandle {
    /// A handle without a store yet.
    pub fn new(executor: Arc<dyn StoreExecutor>) -> Self {
        Self { executor, store: watch::Sender::new(None), metrics: Arc::default() }
    }

    /// Has every store that is put in count into these families. The first ones stay.
    pub fn count_into(&self, metrics: StoreMetrics) {
        let _ = self.metrics.set(metrics);
    }

    /// Puts a store in, or takes it out. Waiters are woken.
    pub fn set(&self, store: Option<Arc<Store>>) {
        if let (Some(store), Some(metrics)) = (&store, self.metrics.get()) {
            // A store that was in before counts already.
            let _ = store.core().metrics.set(metrics.clone());
        }
        self.store.send_replace(store);
    }

    /// The store if one is open, at once. For O(1) reads of counters only.
    pub fn current(&self) -> Option<Arc<Store>> {
        self.store.borrow().clone()
    }

    /// Waits until a store is open, at most [`STORE_OPEN_WAIT`].
    ///
    /// # Errors
    /// [`StoreError::NotOpen`] if none was opened in that time.
    pub async fn ready(&self) -> Result<Arc<Store>, StoreError> {
        self.ready_within(STORE_OPEN_WAIT).await
    }

    /// Waits until a store is open, at most this long.
    ///
    /// # Errors
    /// [`StoreError::NotOpen`] if none was opened in that time.
    pub async fn ready_within(&self, wait: Duration) -> Result<Arc<Store>, StoreError> {
        if let Some(store) = self.current() {
            return Ok(store);
        }
        let mut changes = self.store.subscribe();
        let opened = tokio::time::timeout(wait, changes.wait_for(Option::is_some)).await;
        match opened {
            Ok(Ok(store)) => store.clone().ok_or(StoreError::NotOpen),
            _ => Err(StoreError::NotOpen),
        }
    }

    /// Runs blocking work against the store on the executor; waits for it to be open first.
    ///
    /// # Errors
    /// What the work says, and [`StoreError::NotOpen`] if there is no store.
    pub async fn call<R, F>(&self, work: F) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnOnce(&Store) -> Result<R, StoreError> + Send + 'static,
    {
        let store = self.ready().await?;
        run(self.executor.as_ref(), move || work(&store)).await.unwrap_or(Err(StoreError::NotOpen))
    }

    /// Hands a change to the committer and waits until it is durable and visible. The change goes on if the caller
    /// stops waiting.
    ///
    /// # Errors
    /// What the committer says, and [`StoreError::NotOpen`] if there is no store.
    pub async fn commit(&self, operation: Operation) -> Result<CommitOutcome, StoreError> {
        let store = self.ready().await?;
        let operation = match needs_early_sync(&store, &operation) {
            true => operation,
            false => match store.try_submit(operation) {
                Ok(ticket) => return ticket.await,
                Err(operation) => operation,
            },
        };
        let submitted = run(self.executor.as_ref(), move || sync_and_submit(&store, operation)).await;
        submitted.unwrap_or(Err(StoreError::NotOpen))?.await
    }

    /// Hands in replicated puts that came together and waits until each is visible or refused; the outcomes are in their
    /// order. Bodies inside the index are durable within a second, before any cursor that was saved after them.
    ///
    /// # Errors
    /// [`StoreError::NotOpen`] if there is no store.
    pub async fn commit_replicated(
        &self,
        puts: Vec<Put>,
    ) -> Result<Vec<Result<CommitOutcome, StoreError>>, StoreError> {
        let store = self.ready().await?;
        let (ticket, waiting) = store.try_submit_batch(puts);
        if !waiting.is_empty() {
            let sent = run(self.executor.as_ref(), move || store.send_all(waiting)).await;
            sent.map_err(|_| StoreError::NotOpen)?;
        }
        ticket.await
    }
}

/// Whether a long staged file lies behind the change, whose data has to be durable.
fn needs_early_sync(store: &Store, operation: &Operation) -> bool {
    let Operation::Put(put) = operation else { return false };
    let is_long = matches!(put.body.content, StagedContent::File(_)) && put.body.length >= EARLY_SYNC_BYTES_MIN;
    is_long && store.core().options.durability == Durability::Power
}

/// A failed sync here fails this change only: the file is dropped and nothing of it was acknowledged.
fn sync_and_submit(store: &Store, operation: Operation) -> Result<CommitTicket, StoreError> {
    if let Operation::Put(put) = &operation
        && let StagedContent::File(staged) = &put.body.content
        && needs_early_sync(store, &operation)
    {
        let core = store.core();
        let synced = core.options.disk.sync_data(staged.file());
        synced.map_err(|source| core.io_error("sync a staged body in", core.options.layout.tmp_dir(), source))?;
    }
    Ok(store.submit(operation))
}
