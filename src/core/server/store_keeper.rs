//! Brings a store whose writes have stopped back without a restart of the node.
//!
//! How it works: a store stops taking writes for good when its log could not be written or a sync failed: only opening
//! it anew shows what is on the disk. Once a second the keeper looks whether that happened. If so, it asks the volume
//! for a synced write and for the room that opening takes; only then it takes the store out of its handle, waits until
//! nobody reads from it any more, closes it, and opens it again under the same lock.
//!
//! Invariants: until the volume takes writes again the stopped store stays open, because it still serves reads. It is
//! opened anew only after the last holder let go of it. Between the two, requests wait as they do at start-up.
//!
//! An index whose tables do not match their checksums is closed and made anew in the same way.
//!
//! Failure: a try that fails is repeated after a pause that doubles up to a minute. The node's end ends the tries.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::node::NodeContext;
use crate::core::base::executor;
use crate::core::data_dir::lock::DataDirLock;
use crate::core::data_dir::space::usable_bytes;
use crate::core::staging::area::AreaKind;
use crate::core::store::error::StoreError;
use crate::core::store::room::{bytes_to_open, make_room_to_open};
use crate::core::store::{Store, StoreOptions};

/// How often a running store is looked at; each look is a few loads.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The longest pause between two tries: a volume that was mended is taken into use within this.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// How long readers may take to let go of the stopped store; after that it is put back and tried again later.
const HOLDERS_WAIT: Duration = Duration::from_secs(30);

/// How often they are looked at.
const HOLDERS_LOOK: Duration = Duration::from_millis(10);

/// What is written to ask the volume whether it takes writes.
const PROBE_BYTES: usize = 64 << 10;

/// Watches the store of a node that has opened it once.
pub(super) struct StoreKeeper {
    pub(super) node: Arc<NodeContext>,
    pub(super) lock: Arc<Mutex<DataDirLock>>,
    pub(super) options: StoreOptions,
}

impl StoreKeeper {
    /// Runs until the node's shutdown.
    pub(super) async fn run(self) {
        let mut pause = LOOK_INTERVAL;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.node.shutdown.cancelled() => return,
            }
            pause = if self.look().await { LOOK_INTERVAL } else { (pause * 2).min(PAUSE_MAX) };
        }
    }

    /// Whether the store takes writes, perhaps only now again.
    async fn look(&self) -> bool {
        if let Some(store) = self.node.store.current() {
            let damage = store.damage();
            let Some(reason) = damage.clone().or_else(|| store.stats().write_stopped) else { return true };
            if !self.takes_writes().await || (damage.is_some() && !self.condemn_index().await) {
                return false;
            }
            tracing::warn!(%reason, "store_reopening");
            if !self.close(store).await {
                return false;
            }
        }
        if self.node.shutdown.is_cancelled() {
            return true;
        }
        match self.open().await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "store_not_reopened");
                false
            }
        }
    }

    /// Has the next open make the index anew.
    async fn condemn_index(&self) -> bool {
        let options = self.options.clone();
        let requested = executor::run(self.options.executor.as_ref(), move || Store::request_rebuild(&options));
        match requested.await.unwrap_or(Err(StoreError::NotOpen)) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "store_index_not_condemned");
                false
            }
        }
    }

    /// Whether the volume has the room that opening takes, and makes a write durable.
    async fn takes_writes(&self) -> bool {
        let (disk, layout) = (Arc::clone(&self.options.disk), self.options.layout.clone());
        let name = format!("{}-{}", AreaKind::Uploads.label(), uuid::Uuid::now_v7());
        let probe = self.node.staging.folder(AreaKind::Uploads).join(name);
        let asked = executor::run(self.options.executor.as_ref(), move || {
            make_room_to_open(&layout, &disk)?;
            if usable_bytes(&disk.space(layout.data_dir())?) < bytes_to_open(&layout) {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            let file = disk.create_new(&probe)?;
            let written = disk.write_all_at(&file, &[0; PROBE_BYTES], 0).and_then(|()| disk.sync_data(&file));
            written.and(disk.unlink(&probe))
        });
        match asked.await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::debug!(%error, "store_volume_takes_no_writes");
                false
            }
            Err(_) => false,
        }
    }

    /// Takes the store out and closes it; false if somebody still reads from it.
    async fn close(&self, store: Arc<Store>) -> bool {
        self.node.readiness.set_store_open(false);
        self.node.store.set(None);
        let mut waited = Duration::ZERO;
        while Arc::strong_count(&store) > 1 {
            if waited >= HOLDERS_WAIT {
                tracing::warn!("store_still_in_use");
                self.put_in(store);
                return false;
            }
            tokio::time::sleep(HOLDERS_LOOK).await;
            waited += HOLDERS_LOOK;
        }
        let closed = executor::run(self.options.executor.as_ref(), move || {
            // It says that writes were stopped, which is why it is closed.
            let _ = store.close();
        });
        closed.await.is_ok()
    }

    async fn open(&self) -> Result<(), StoreError> {
        let (options, lock) = (self.options.clone(), Arc::clone(&self.lock));
        // The job may outlive this future, and the lock must outlive the job.
        let opened = executor::run(self.options.executor.as_ref(), move || {
            let opened = Store::open(options);
            drop(lock);
            opened
        });
        let (store, report) = opened.await.unwrap_or(Err(StoreError::NotOpen))?;
        tracing::info!(?report, "store_reopened");
        self.put_in(Arc::new(store));
        Ok(())
    }

    fn put_in(&self, store: Arc<Store>) {
        self.node.store.set(Some(store));
        self.node.readiness.set_store_open(true);
    }
}
