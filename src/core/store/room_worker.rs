//! The worker that keeps room for as long as a process has its store open.
//!
//! How it works: a look at a bounded interval, at once when somebody waits for room, and again without pause while there
//! is more to evict. Each look runs on the executor. What it saw is published to everybody who asks.
//!
//! Failure: a volume that cannot be measured is published as such and looked at again; the last decision stands.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::room::{Look, RoomKeeper};
use super::store_handle::StoreHandle;
use crate::core::base::executor::{StoreExecutor, run};
use crate::core::data_dir::capacity::Stage;
use crate::core::data_dir::space_watch::SpaceWatch;
use crate::core::staging::area::Staging;

/// Between two looks at a volume with room.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Between two looks while space is short or being freed: filesystems take a moment to count what was freed.
const SHORT_LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The least time between two looks, however often it is woken.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// What the worker works with.
#[derive(Debug)]
pub struct RoomWorker {
    /// The store, whenever it is open.
    pub store: StoreHandle,
    /// Where looks run.
    pub executor: Arc<dyn StoreExecutor>,
    /// What nobody works on at present gives way in it when the volume is pressed.
    pub staging: Staging,
    /// Who is told.
    pub watch: SpaceWatch,
    /// Looks.
    pub keeper: RoomKeeper,
}

impl RoomWorker {
    /// Keeps the room until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let Self { store, executor, staging, watch, mut keeper } = self;
        let mut pause = LOOK_PAUSE;
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = async { tokio::time::sleep(LOOK_PAUSE).await; watch.woken().await } => {}
                () = tokio::time::sleep(pause) => {}
            }
            let (wanted_bytes, open, staging) = (watch.take_wanted(), store.current(), staging.clone());
            let looked = run(executor.as_ref(), move || {
                let look = keeper.look(open.as_deref(), wanted_bytes);
                drop_parked_if_pressed(&staging, &look);
                (keeper, look)
            });
            // A look that was lost with its job, which only the end of the process does, is the last one.
            let Ok((kept, look)) = looked.await else { return };
            keeper = kept;
            pause = match look {
                Ok(look) => publish(&watch, look),
                Err(error) => {
                    tracing::warn!(%error, "volume_not_measured");
                    watch.publish_error(format!("the volume cannot be measured: {error}"));
                    LOOK_INTERVAL
                }
            };
        }
    }
}

/// What is half here gives way before more of what is whole does; peers have it.
fn drop_parked_if_pressed(staging: &Staging, look: &std::io::Result<Look>) {
    if look.as_ref().is_ok_and(|look| look.status.stage >= Stage::Pressed) {
        let bodies = staging.discard_all_parked();
        if bodies > 0 {
            tracing::info!(bodies, "parked_bodies_dropped");
        }
    }
}

/// Tells what was seen; how long the next look may wait.
fn publish(watch: &SpaceWatch, look: Look) -> Duration {
    let before = watch.stage();
    let Look { status, room, .. } = look;
    let is_short = status.stage > Stage::Normal || (status.excess_bytes > 0 && !status.is_exhausted);
    if status.stage != before {
        let (stage, free_bytes) = (status.stage, status.free_bytes);
        tracing::warn!(?before, ?stage, free_bytes, capacity_bytes = status.capacity_bytes, "space_stage_changed");
    }
    watch.publish(status, room);
    if is_short { SHORT_LOOK_INTERVAL } else { LOOK_INTERVAL }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::base::disk::RealDisk;
    use crate::core::base::executor::InlineExecutor;
    use crate::core::base::ids::{ArtifactId, Digest, Version};
    use crate::core::data_dir::layout::{Layout, ensure_directories};
    use crate::core::staging::area::{AreaKind, StagingOptions};
    use crate::core::staging::body_writer::{BodySpec, WRITE_BUFFER_BYTES};
    use crate::core::staging::budget::BudgetClass;
    use crate::core::staging::partials::PartialIdentity;

    #[tokio::test]
    async fn parked_bodies_give_way_once_the_volume_is_pressed() {
        const LENGTH: usize = 8 << 20;
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::with_default_tmp(root.path());
        ensure_directories(&layout, &RealDisk).unwrap();
        let options = StagingOptions { budget_bytes: 1 << 30, inline_max_bytes: 100, client_wait: Duration::ZERO };
        let staging = Staging::new(&layout, Arc::new(RealDisk), Arc::new(InlineExecutor), options);
        let (length, class) = (LENGTH as u64, BudgetClass::CatchUp);
        let version = Version { version_ms: 1, logical: 0, digest: Digest::of(b"x") };
        let identity = PartialIdentity { id: ArtifactId([1; 32]), version, size: length, note: Vec::new() };
        let area = AreaKind::Bootstrap;
        let spec = BodySpec { area, class, length: Some(length), length_max: length, sha256: false };
        let mut writer = staging.resume(spec, identity).await.unwrap();
        writer.write(bytes::Bytes::from(vec![1; 2 * WRITE_BUFFER_BYTES])).await.unwrap();
        writer.park().await;
        assert_eq!((staging.parked_bodies().len(), staging.reserved_bytes()), (1, length));
        let at = |stage| {
            let mut look = Look::default();
            look.status.stage = stage;
            drop_parked_if_pressed(&staging, &Ok(look));
            staging.parked_bodies().len()
        };
        assert_eq!((at(Stage::Paused), at(Stage::Pressed)), (1, 0));
        assert_eq!(staging.reserved_bytes(), 0);
    }
}
