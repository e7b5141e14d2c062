//! What may end a run of catching up before it is done: a time, an amount of bytes, or too little free space.
//!
//! How it works: [`RunBounds::reached`] runs beside the passes and gives back the first bound that is met; the passes
//! are dropped then. That is as safe as a kill: guards free what is staged, cursors and commits are durable.
//!
//! Invariant: deletes are no part of this: the run applies those of every peer even after it was stopped.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::progress::Progress;
use crate::core::base::disk::Disk;
use crate::core::base::executor::{StoreExecutor, run};
use crate::core::mesh::reach::RowEnd;

/// Between two looks at the free space: what arrives in between on a fast link is far less than what is kept free.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Which bound ended a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoppedBy {
    /// Less than the wanted space is free.
    MinFree,
    /// As many bytes of bodies arrived as were allowed.
    MaxBytes,
    /// The time is over.
    Deadline,
}

impl StoppedBy {
    /// The flag that says so.
    pub fn flag(self) -> &'static str {
        match self {
            Self::MinFree => "--min-free",
            Self::MaxBytes => "--max-bytes",
            Self::Deadline => "--deadline",
        }
    }
}

/// A volume and how much of it stays free.
#[derive(Debug, Clone)]
pub struct MinFree {
    /// Bytes.
    pub bytes: u64,
    /// A path on the volume.
    pub path: PathBuf,
    /// Asks the volume.
    pub disk: Arc<dyn Disk>,
    /// Where that is done.
    pub executor: Arc<dyn StoreExecutor>,
}

/// The bounds of a run; none by default.
#[derive(Debug, Clone, Default)]
pub struct RunBounds {
    /// Free space to leave.
    pub min_free: Option<MinFree>,
    /// Bytes of bodies that may arrive.
    pub max_bytes: Option<u64>,
    /// How long the passes may take.
    pub deadline: Option<Duration>,
}

impl RunBounds {
    /// Waits for the first bound to be met; for ever if there is none.
    pub async fn reached(&self, arrived: &Arrived) -> StoppedBy {
        tokio::select! {
            biased;
            () = self.free_runs_low() => StoppedBy::MinFree,
            () = self.enough_arrived(arrived) => StoppedBy::MaxBytes,
            () = self.time_is_over() => StoppedBy::Deadline,
        }
    }

    async fn free_runs_low(&self) {
        let Some(min_free) = &self.min_free else { return std::future::pending().await };
        loop {
            let (disk, path) = (Arc::clone(&min_free.disk), min_free.path.clone());
            match run(min_free.executor.as_ref(), move || disk.space(&path)).await {
                Ok(Ok(space)) if space.free_bytes < min_free.bytes => return,
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(path = %min_free.path.display(), %error, "free_space_unknown"),
                Err(error) => tracing::warn!(path = %min_free.path.display(), %error, "free_space_unknown"),
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    async fn enough_arrived(&self, arrived: &Arrived) {
        let Some(max_bytes) = self.max_bytes else { return std::future::pending().await };
        while arrived.bytes.load(Ordering::Acquire) < max_bytes {
            arrived.more.notified().await;
        }
    }

    async fn time_is_over(&self) {
        match self.deadline {
            Some(deadline) => tokio::time::sleep(deadline).await,
            None => std::future::pending().await,
        }
    }
}

/// How many bytes of bodies arrived in a run.
#[derive(Debug, Default)]
pub struct Arrived {
    bytes: AtomicU64,
    more: Notify,
}

/// Hands progress on and counts what arrives.
#[derive(Debug)]
pub struct CountedProgress<'a> {
    /// Is told everything.
    pub inner: &'a dyn Progress,
    /// Counts.
    pub arrived: &'a Arrived,
}

impl Progress for CountedProgress<'_> {
    fn started(&self, peer: &str) {
        self.inner.started(peer);
    }

    fn tombstones_applied(&self, peer: &str) {
        self.inner.tombstones_applied(peer);
    }

    fn total(&self, peer: &str, rows: u64) {
        self.inner.total(peer, rows);
    }

    fn advanced(&self, peer: &str, rows: u64, bytes: u64) {
        if bytes > 0 {
            self.arrived.bytes.fetch_add(bytes, Ordering::AcqRel);
            // Keeps one wake-up for a waiter that looks between its look and its wait.
            self.arrived.more.notify_one();
        }
        self.inner.advanced(peer, rows, bytes);
    }

    fn row_ended(&self, peer: &str, end: RowEnd) {
        self.inner.row_ended(peer, end);
    }

    fn rows_ended(&self, peer: &str, ends: &[RowEnd]) {
        self.inner.rows_ended(peer, ends);
    }

    fn finished(&self, peer: &str, error: Option<&str>) {
        self.inner.finished(peer, error);
    }
}
