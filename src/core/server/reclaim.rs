//! The start-up step that frees what no live process owns in the staging areas, before the store opens.
//!
//! Failure: what cannot be removed is logged and start-up goes on; if the volume is still too full, opening the store
//! says so.

use std::sync::{Arc, Mutex, PoisonError};

use super::node::NodeContext;
use super::serve_error::ServeError;
use crate::core::base::executor;
use crate::core::data_dir::layout;
use crate::core::data_dir::lock::DataDirLock;
use crate::core::staging::reclaim::{ReclaimOutcome, reclaim_dead_staging};

/// Reclaims every area, then makes what a full volume did not allow before: directories and the lock file.
///
/// # Errors
/// The volume cannot be asked for its space, or a directory cannot be made for another reason than a full volume.
pub async fn dead_staging(node: &Arc<NodeContext>, lock: &Arc<Mutex<DataDirLock>>) -> Result<(), ServeError> {
    let (owner, lock) = (Arc::clone(node), Arc::clone(lock));
    let done = executor::run(node.seams.executor.as_ref(), move || reclaim(&owner, &lock));
    done.await.unwrap_or(Ok(()))
}

fn reclaim(node: &NodeContext, lock: &Mutex<DataDirLock>) -> Result<(), ServeError> {
    let (layout, disk, now_ms) = (&node.layout, &node.seams.disk, node.seams.clock.now_ms());
    let mut lock = lock.lock().unwrap_or_else(PoisonError::into_inner);
    let outcome = reclaim_dead_staging(layout, &lock, Arc::clone(disk), now_ms)
        .map_err(|source| ServeError::DataDir { path: layout.tmp_dir().to_path_buf(), source })?;
    log(&outcome);
    layout::ensure_directories(layout, disk.as_ref()).map_err(ServeError::Directories)?;
    if let Err(error) = lock.complete(now_ms) {
        // The directory's own lock holds; the file is for people and for seed-era nodes.
        tracing::warn!(%error, "lock_file_not_completed");
    }
    Ok(())
}

fn log(outcome: &ReclaimOutcome) {
    let removed = outcome.removed();
    if removed.files > 0 {
        let (files, bytes, free_bytes) = (removed.files, removed.bytes, outcome.after.free_bytes);
        tracing::info!(files, bytes, free_bytes, "dead_staging_reclaimed");
    }
    for failed in &outcome.failed.items {
        tracing::warn!(path = %failed.path.display(), error = %failed.error, "staging_not_reclaimed");
    }
}
