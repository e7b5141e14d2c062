//! A data dir for one run of `kura bootstrap`: locked, made if missing, dead staging reclaimed, the store open.
//!
//! How it works: the same steps in the same order as a starting node, without its listeners. A dry run locks nothing
//! and opens the store for reading only, so it works beside a running node.
//!
//! Invariant: nothing is touched before the lock is held, but the making of a missing data dir.

use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use super::flight::Flights;
use super::lanes::Lanes;
use super::large::drop_unwanted_bodies;
use super::metrics::CatchUpMetrics;
use crate::core::base::clock::Clock;
use crate::core::base::disk::Disk;
use crate::core::base::executor::{StoreExecutor, run};
use crate::core::base::ids::{InstanceId, StoreId};
use crate::core::base::rng::{Rng, RngExt};
use crate::core::config::Config;
use crate::core::data_dir::identity::{Identity, IdentityState};
use crate::core::data_dir::layout::{self, DataDirKind, EnsureError, Layout};
use crate::core::data_dir::lock::{DataDirLock, LockError};
use crate::core::data_dir::space_watch::SpaceWatch;
use crate::core::mesh::client::PeerClient;
use crate::core::mesh::membership::OwnIdentity;
use crate::core::mesh::transport::PeerTransport;
use crate::core::staging::area::{Staging, StagingOptions};
use crate::core::staging::reclaim::reclaim_dead_staging;
use crate::core::store::error::StoreError;
use crate::core::store::room::{RoomKeeper, make_room_to_open};
use crate::core::store::room_worker::RoomWorker;
use crate::core::store::salvage;
use crate::core::store::store_handle::StoreHandle;
use crate::core::store::{OpenReport, Store, StoreOptions};
use crate::core::telemetry::metrics::MetricsRegistry;

/// Nobody else stages bytes in this process, so nothing waits for room as a client.
const CLIENT_WAIT: Duration = Duration::from_secs(5);

/// Batches evicted before the run begins; the worker goes on beside it.
const EVICT_LOOKS_MAX: u32 = 64;

/// Why a data dir could not be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none, and a dry run makes none.
    #[error("there is no data directory at {}", path.display())]
    Missing {
        /// Where.
        path: PathBuf,
    },
    /// It holds something else.
    #[error("{} is not a kura data directory: it holds other things", path.display())]
    NotADataDir {
        /// Where.
        path: PathBuf,
    },
    /// It is one of the seed era.
    #[error("{} was written by the seed-era system", path.display())]
    SeedEra {
        /// Where.
        path: PathBuf,
    },
    /// It could not be looked at.
    #[error("failed to read {}", path.display())]
    Unreadable {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Its identity could not be read or replaced.
    #[error("failed to renew {}", path.display())]
    Identity {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A directory could not be made.
    #[error(transparent)]
    Directories(#[from] EnsureError),
    /// It is in use, or the lock could not be tried.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The store did not open.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The outside world of a run.
#[derive(Debug, Clone)]
pub struct RunSeams {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub rng: Arc<dyn Rng>,
    /// The volume.
    pub disk: Arc<dyn Disk>,
    /// Where blocking work runs.
    pub executor: Arc<dyn StoreExecutor>,
    /// Carries requests to peers.
    pub transport: Arc<dyn PeerTransport>,
}

/// How a data dir is opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenMode {
    /// Look only: no lock, nothing written.
    pub dry_run: bool,
    /// Give the data a store id of its own before the store is opened.
    pub new_identity: bool,
    /// Make the index anew from body files and the log of tombstones.
    pub rebuild_index: bool,
}

/// An open data dir with everything a run needs. The lock is held until this is dropped.
#[derive(Debug)]
pub struct OpenedDataDir {
    /// Catches up.
    pub engine: Engine,
    /// Who this data dir is.
    pub own: OwnIdentity,
    /// What opening found and did.
    pub report: OpenReport,
    store: Arc<Store>,
    executor: Arc<dyn StoreExecutor>,
    /// Keeps the room on the volume; none in a dry run.
    room: Option<(CancellationToken, JoinHandle<()>)>,
    _lock: Option<DataDirLock>,
}

impl OpenedDataDir {
    /// Opens the data dir of these settings.
    pub async fn open(config: &Config, seams: &RunSeams, mode: OpenMode) -> Result<Self, OpenError> {
        let dry_run = mode.dry_run;
        let configured = Layout::new(&config.data_dir, &config.tmp_dir);
        let instance_id = InstanceId(seams.rng.bytes());
        let (layout, lock) = if dry_run {
            look(&configured)?;
            (configured, None)
        } else {
            let (layout, lock) = prepare(&configured, seams, &config.tenant_id)?;
            (layout, Some(lock))
        };
        if mode.new_identity {
            renew_identity(&layout, seams)?;
        }
        let options = store_options(config, seams, &layout, instance_id);
        let opened = run(seams.executor.as_ref(), move || open_store(options, mode));
        let (store, report) = opened.await.unwrap_or(Err(StoreError::NotOpen))?;
        let store = Arc::new(store);
        let handle = StoreHandle::new(Arc::clone(&seams.executor));
        handle.set(Some(Arc::clone(&store)));
        let own = OwnIdentity {
            node_url: config.node_url.clone(),
            tenant_id: config.tenant_id.clone(),
            instance_id,
            store_id: Some(store.stats().store_id),
        };
        let engine = engine(config, seams, &layout, handle);
        let executor = Arc::clone(&seams.executor);
        let mut opened = Self { engine, own, report, store, executor, room: None, _lock: lock };
        if !dry_run {
            let staging = opened.engine.staging.clone();
            // A lost job means that the process ends.
            let adopted = run(seams.executor.as_ref(), move || staging.adopt_partials()).await.unwrap_or_default();
            tracing::debug!(?adopted, "partials_adopted");
            // What is half here gives way before anything that is whole.
            drop_unwanted_bodies(&opened.engine).await?;
            opened.keep_room(config, seams, &layout).await?;
        }
        Ok(opened)
    }

    /// Comes below the watermarks as a starting node does, and keeps to them for as long as this is open.
    async fn keep_room(&mut self, config: &Config, seams: &RunSeams, layout: &Layout) -> Result<(), OpenError> {
        let unreadable = |source| OpenError::Unreadable { path: layout.data_dir().to_path_buf(), source };
        let keeper = RoomKeeper::new(layout, Arc::clone(&seams.disk), config.cas_capacity_bytes);
        let mut keeper = keeper.map_err(unreadable)?;
        let store = Arc::clone(&self.store);
        let settled = run(self.executor.as_ref(), move || {
            let settled = keeper.settle(&store, EVICT_LOOKS_MAX).and_then(|_| keeper.look(Some(&store), 0));
            (keeper, settled)
        });
        let Ok((keeper, settled)) = settled.await else { return Err(StoreError::NotOpen.into()) };
        let look = settled.map_err(unreadable)?;
        let watch = self.engine.space.clone();
        watch.publish(look.status, look.room);
        let (store, executor, cancel) =
            (self.engine.store.clone(), Arc::clone(&self.executor), CancellationToken::new());
        let worker = RoomWorker { store, executor, staging: self.engine.staging.clone(), watch, keeper };
        self.room = Some((cancel.clone(), tokio::spawn(worker.run(cancel))));
        Ok(())
    }

    /// Marks the stop as clean and gives the data dir back.
    pub async fn close(mut self) -> Result<(), StoreError> {
        if let Some((cancel, worker)) = self.room.take() {
            cancel.cancel();
            // However it ended, it no longer uses the store.
            let _ = worker.await;
        }
        self.engine.store.set(None);
        let store = Arc::clone(&self.store);
        run(self.executor.as_ref(), move || store.close()).await.unwrap_or(Err(StoreError::NotOpen))
    }
}

fn open_store(options: StoreOptions, mode: OpenMode) -> Result<(Store, OpenReport), StoreError> {
    if mode.dry_run {
        return Store::open_read_only(options).map(|store| (store, OpenReport::default()));
    }
    if mode.rebuild_index && matches!(Identity::load(&options.layout), Ok(IdentityState::Ok(_))) {
        Store::request_rebuild(&options)?;
    }
    Store::open(options)
}

fn look(layout: &Layout) -> Result<DataDirKind, OpenError> {
    let path = layout.data_dir().to_path_buf();
    let kind = layout::detect_data_dir(layout);
    match kind.map_err(|source| OpenError::Unreadable { path: path.clone(), source })? {
        DataDirKind::Missing | DataDirKind::Empty => Err(OpenError::Missing { path }),
        DataDirKind::Foreign => Err(OpenError::NotADataDir { path }),
        DataDirKind::SeedEra => Err(OpenError::SeedEra { path }),
        DataDirKind::Kura => Ok(DataDirKind::Kura),
    }
}

/// Makes what is missing, locks, and frees what dead processes staged.
fn prepare(configured: &Layout, seams: &RunSeams, tenant_id: &str) -> Result<(Layout, DataDirLock), OpenError> {
    match look(configured) {
        Ok(_) => {}
        Err(OpenError::Missing { .. }) => layout::create_data_dir(configured, seams.disk.as_ref())?,
        Err(error) => return Err(error),
    }
    let now_ms = seams.clock.now_ms();
    let mut lock = DataDirLock::try_acquire(configured, now_ms)?;
    let layout = layout::ensure_directories(configured, seams.disk.as_ref())?.layout;
    salvage::staged_bodies(&layout, seams.disk.as_ref(), tenant_id);
    let reclaimed = reclaim_dead_staging(&layout, &lock, Arc::clone(&seams.disk), now_ms);
    reclaimed.map_err(|source| OpenError::Unreadable { path: layout.tmp_dir().to_path_buf(), source })?;
    layout::ensure_directories(&layout, seams.disk.as_ref())?;
    // Whether the index opens is what counts.
    if let Err(error) = make_room_to_open(&layout, &seams.disk) {
        tracing::warn!(%error, "ballast_not_released");
    }
    if let Err(error) = lock.complete(now_ms) {
        // The directory's own lock holds; the file is for people and for seed-era nodes.
        tracing::warn!(%error, "lock_file_not_completed");
    }
    Ok((layout, lock))
}

/// Gives data that was copied a name of its own: peers then take it for what it is, another store, and walk it anew.
/// What it knows of its peers stays true.
fn renew_identity(layout: &Layout, seams: &RunSeams) -> Result<(), OpenError> {
    let failed = |source| OpenError::Identity { path: layout.identity(), source };
    // A data dir that was only just made has a fresh name already; one that cannot be used is refused by the store.
    if let IdentityState::Ok(mut identity) = Identity::load(layout).map_err(failed)? {
        identity.store_id = StoreId(seams.rng.bytes());
        identity.store(layout, seams.disk.as_ref()).map_err(failed)?;
    }
    Ok(())
}

fn store_options(config: &Config, seams: &RunSeams, layout: &Layout, instance_id: InstanceId) -> StoreOptions {
    StoreOptions {
        layout: layout.clone(),
        tenant_id: config.tenant_id.clone(),
        instance_id,
        durability: config.durability,
        inline_max_bytes: config.inline_max_bytes,
        read_cache_bytes: config.metadata_store_read_cache_bytes,
        open_files_max: config.metadata_store_max_open_files,
        clock: Arc::clone(&seams.clock),
        rng: Arc::clone(&seams.rng),
        disk: Arc::clone(&seams.disk),
        executor: Arc::clone(&seams.executor),
    }
}

fn engine(config: &Config, seams: &RunSeams, layout: &Layout, store: StoreHandle) -> Engine {
    let options = StagingOptions {
        budget_bytes: config.tmp_dir_max_bytes,
        inline_max_bytes: config.inline_max_bytes,
        client_wait: CLIENT_WAIT,
    };
    let staging = Staging::new(layout, Arc::clone(&seams.disk), Arc::clone(&seams.executor), options);
    Engine {
        client: PeerClient::new(Arc::clone(&seams.transport), store.clone(), &config.tenant_id),
        store,
        staging,
        space: SpaceWatch::default(),
        clock: Arc::clone(&seams.clock),
        rng: Arc::clone(&seams.rng),
        metrics: CatchUpMetrics::new(&MetricsRegistry::new()),
        flights: Flights::default(),
        lanes: Lanes::default(),
        walked: Default::default(),
        circuits: Default::default(),
        concurrency: config.bootstrap_concurrency,
        peers: Arc::new(RwLock::default()),
        peers_replaced: Arc::default(),
    }
}

impl OpenError {
    /// Whether freeing space is what helps.
    pub fn is_disk_full(&self) -> bool {
        let full = |error: &std::io::Error| error.kind() == std::io::ErrorKind::StorageFull;
        match self {
            Self::Store(StoreError::StorageFull { .. }) => true,
            Self::Directories(error) => full(&error.source),
            Self::Unreadable { source, .. } | Self::Identity { source, .. } => full(source),
            _ => false,
        }
    }
}
