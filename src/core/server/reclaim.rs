//! The start-up steps that take over partial bodies and free what no live process owns in the staging areas, before the
//! store opens.
//!
//! Failure: what cannot be removed is logged and start-up goes on; if the volume is still too full, opening the store
//! says so.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use super::node::NodeContext;
use super::serve_error::ServeError;
use crate::core::base::executor;
use crate::core::data_dir::layout;
use crate::core::data_dir::lock::DataDirLock;
use crate::core::staging::parked::Adopted;
use crate::core::staging::reclaim::{ReclaimOutcome, reclaim_dead_staging};
use crate::core::store::salvage;

/// Takes over the long bodies that an earlier process had begun to fetch.
///
/// # Errors
/// None: what cannot be taken over is dead staging.
pub async fn adopt_partials(node: &Arc<NodeContext>) -> Result<(), Infallible> {
    let owner = Arc::clone(node);
    let adopt = move || {
        salvage::staged_bodies(&owner.layout, owner.seams.disk.as_ref(), &owner.config.tenant_id);
        owner.staging.adopt_partials()
    };
    let adopted = executor::run(node.seams.executor.as_ref(), adopt).await;
    let Adopted { partials, durable_bytes, removed } = adopted.unwrap_or_default();
    if partials > 0 || removed > 0 {
        tracing::info!(partials, durable_bytes, removed, "partials_adopted");
    }
    Ok(())
}

/// Frees them again, because the index has no room to open. Returns how many there were.
pub async fn give_up_partials(node: &Arc<NodeContext>) -> usize {
    let staging = node.staging.clone();
    let given_up = executor::run(node.seams.executor.as_ref(), move || staging.discard_all_parked()).await;
    let partials = given_up.unwrap_or(0);
    if partials > 0 {
        tracing::warn!(partials, "partials_given_up_for_room");
    }
    partials
}

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
