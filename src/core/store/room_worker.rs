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
    /// Who is told.
    pub watch: SpaceWatch,
    /// Looks.
    pub keeper: RoomKeeper,
}

impl RoomWorker {
    /// Keeps the room until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let Self { store, executor, watch, mut keeper } = self;
        let mut pause = LOOK_PAUSE;
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = async { tokio::time::sleep(LOOK_PAUSE).await; watch.woken().await } => {}
                () = tokio::time::sleep(pause) => {}
            }
            let (wanted_bytes, open) = (watch.take_wanted(), store.current());
            let looked = run(executor.as_ref(), move || {
                let look = keeper.look(open.as_deref(), wanted_bytes);
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
