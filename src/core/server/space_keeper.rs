//! The room on the node's volume: the steps of start-up that see to it, and the worker that goes on with it.
//!
//! How it works: before the store opens, the ballast is given up if the index could not open otherwise; once it is open,
//! what is over the watermarks is evicted and the ballast restored where there is room. From then on
//! [`RoomWorker`] looks at a bounded interval, and its findings reach uploads and catching up through the node's
//! [`SpaceWatch`](crate::core::data_dir::space_watch::SpaceWatch).
//!
//! Failure: none of this keeps a node from starting but a store that does not open: what was not done now is done by the
//! worker.

use std::sync::Arc;
use std::time::Duration;

use super::node::NodeContext;
use crate::core::base::executor;
use crate::core::bootstrap::large::drop_unwanted_bodies;
use crate::core::doctor::live::SpaceStatus;
use crate::core::store::room::{Look, RoomKeeper, make_room_to_open};
use crate::core::store::room_worker::RoomWorker;
use crate::core::store::{Store, error::StoreError};

/// Batches evicted before the node goes on to start; the worker does the rest.
const STARTUP_LOOKS_MAX: u32 = 64;

/// Looks for which dropped bytes are waited for at start ...
const FREED_LOOKS_MAX: u32 = 20;
/// ... each after this: a filesystem that frees in the background begins when it is asked how much is free.
const FREED_PAUSE: Duration = Duration::from_millis(30);

/// Gives the ballast's room to the index if it could not open otherwise.
pub(super) async fn release_ballast(node: &Arc<NodeContext>) -> Result<(), std::io::Error> {
    let owner = Arc::clone(node);
    let job = move || make_room_to_open(&owner.layout, &owner.seams.disk).map(drop);
    executor::run(node.seams.executor.as_ref(), job).await.unwrap_or(Ok(()))
}

/// Evicts what is over the watermarks; gives back who keeps the room from here on.
pub(super) async fn evict_below_watermark(node: &Arc<NodeContext>) -> Result<RoomKeeper, std::io::Error> {
    // What is half here gives way before anything that is whole.
    match drop_unwanted_bodies(&node.engine).await {
        Ok(0) => {}
        Ok(bodies) => {
            tracing::info!(bodies, "partials_dropped");
            wait_for_freed(node).await;
        }
        Err(error) => tracing::warn!(%error, "partials_not_looked_at"),
    }
    let owner = Arc::clone(node);
    let keeper = RoomKeeper::new(&owner.layout, Arc::clone(&owner.seams.disk), owner.config.cas_capacity_bytes)?;
    with_store(node, keeper, |keeper, store| keeper.settle(store, STARTUP_LOOKS_MAX)).await
}

/// Waits for a moment until the volume counts what was dropped: some filesystems free in the background, and what is
/// whole must not give way for room that is there already.
async fn wait_for_freed(node: &Arc<NodeContext>) {
    let mut before = None;
    for _ in 0..FREED_LOOKS_MAX {
        tokio::time::sleep(FREED_PAUSE).await;
        let owner = Arc::clone(node);
        let measure = move || owner.seams.disk.space(owner.layout.data_dir()).map(|space| space.available_bytes).ok();
        let free = executor::run(node.seams.executor.as_ref(), measure).await.ok().flatten();
        if free.is_none() || free == before {
            return;
        }
        before = free;
    }
}

/// Makes the ballast whole where there is room for it.
pub(super) async fn restore_ballast(node: &Arc<NodeContext>, keeper: RoomKeeper) -> Result<RoomKeeper, std::io::Error> {
    with_store(node, keeper, |keeper, store| keeper.look(Some(store), 0)).await
}

async fn with_store(
    node: &Arc<NodeContext>,
    keeper: RoomKeeper,
    work: impl FnOnce(&mut RoomKeeper, &Store) -> std::io::Result<Look> + Send + 'static,
) -> Result<RoomKeeper, std::io::Error> {
    let (mut keeper, watch) = (keeper, node.space.clone());
    let done = node.store.call(move |store| {
        let looked = work(&mut keeper, store);
        Ok((keeper, looked))
    });
    let (keeper, looked) = done.await.map_err(|error: StoreError| std::io::Error::other(error.to_string()))?;
    let Look { status, room, evicted } = looked?;
    if evicted > 0 {
        tracing::info!(evicted, free_bytes = status.free_bytes, stage = ?status.stage, "evicted_at_start");
    }
    watch.publish(status, room);
    Ok(keeper)
}

/// The worker of a node that has opened its store.
pub(super) fn worker(node: &NodeContext, keeper: RoomKeeper) -> RoomWorker {
    RoomWorker {
        store: node.store.clone(),
        executor: Arc::clone(&node.seams.executor),
        staging: node.staging.clone(),
        watch: node.space.clone(),
        keeper,
    }
}

/// What the node says of its room; `None` before the first look.
pub(super) fn status_of(node: &NodeContext) -> Option<SpaceStatus> {
    let status = node.space.status()?;
    Some(SpaceStatus {
        stage: status.stage,
        total_bytes: status.total_bytes,
        free_bytes: status.free_bytes,
        capacity_bytes: status.capacity_bytes,
        capacity_bound: status.bound,
        charged_bytes: status.charged_bytes,
        excess_bytes: status.excess_bytes,
        ballast_bytes: status.ballast_bytes,
        ballast_expected_bytes: status.ballast_expected_bytes,
        error: status.error,
    })
}
