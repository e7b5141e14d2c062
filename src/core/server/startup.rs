//! Starting and stopping a node, in the one order in which it is safe.
//!
//! How it works: [`start`] looks at the data dir without touching it, locks it, binds both listeners, makes missing
//! directories, begins to answer probes and to look for peers, who answer reads until the store is open, adopts partial
//! bodies, reclaims dead staging, gives the ballast up if the index could not open otherwise, opens the store, evicts
//! below the watermarks, restores the ballast, and follows the peers. Each step is named, timed, logged and kept (see
//! [`super::startup_status`]). [`RunningNode::stop`] goes the other way.
//!
//! Invariants: nothing is touched or created before the lock is held, but a missing data dir is created, since it
//! could not be locked otherwise; staging is reclaimed before the store opens, because a full disk may be full of
//! dead staging; the lock outlives the store.
//!
//! Failure: an error in any step ends the listeners that are up and gives everything back; see [`ServeError`].

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use super::listener::{self, Ending};
use super::node::{BoundAddresses, NodeContext, Seams};
use super::serve_error::{ServeError, chain};
use super::signals::{Signal, Signals};
use super::startup_status::StartupStatus;
use super::store_keeper::StoreKeeper;
use super::{
    control, doctor_watch, mesh_wiring, public, readiness_log, reclaim, run_state, space_keeper, store_heartbeat,
};
use crate::core::base::executor;
use crate::core::base::port_holder::port_holder;
use crate::core::config::Config;
use crate::core::data_dir::capacity;
use crate::core::data_dir::layout::{self, DataDirKind, EnsureError, Layout};
use crate::core::data_dir::lock::DataDirLock;
use crate::core::data_dir::run_record::RunRecord;
use crate::core::data_dir::space::is_storage_full;
use crate::core::store::error::StoreError;
use crate::core::store::{OpenReport, Store, StoreOptions};

/// After the drain's deadline the internal listener still gets this long to end its exchanges.
const INTERNAL_GRACE: Duration = Duration::from_secs(5);

/// Workers are cancelled, not asked; this is how long they may take to notice.
const WORKERS_GRACE: Duration = Duration::from_secs(5);

/// How often multipart uploads are looked at; they expire after a day, so minutes do not matter.
const JANITOR_INTERVAL: Duration = Duration::from_secs(600);

/// A node that runs: its parts, and the way to end it.
#[derive(Debug)]
pub struct RunningNode {
    /// What its parts share.
    pub node: Arc<NodeContext>,
    public: Ending,
    internal: Ending,
    listeners: Listeners,
    workers: TaskTracker,
    lock: Arc<Mutex<DataDirLock>>,
    record: OnceLock<RunRecord>,
}

#[derive(Debug, Default)]
struct Listeners {
    public: TaskTracker,
    internal: TaskTracker,
}

/// Runs a node until SIGTERM or SIGINT; SIGUSR1 drains it without ending it.
///
/// # Errors
/// What kept it from starting. A drain that passes its deadline is no error.
pub async fn serve(config: Config) -> Result<(), ServeError> {
    let mut signals = Signals::install().map_err(ServeError::Signals)?;
    raise_open_files();
    let seams = Seams::system();
    let running = tokio::select! {
        started = start(config, seams) => started?,
        () = signals.terminated() => {
            tracing::info!("stopped_while_starting");
            return Ok(());
        }
    };
    while signals.next().await == Signal::Drain {
        running.drain();
    }
    running.stop_unless_hurried(signals.terminated()).await;
    Ok(())
}

/// The soft limit of open files is a default for programs that use `select`; up to the hard one is ours to take.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        Ok(()) => tracing::debug!(from = ?limit.current, to = ?limit.maximum, "open_files_raised"),
        Err(error) => tracing::warn!(%error, current = ?limit.current, "open_files_not_raised"),
    }
}

/// Starts a node; it is serving, though perhaps not ready, when this returns.
///
/// # Errors
/// See [`ServeError`]; everything that was begun has been given back.
pub async fn start(mut config: Config, seams: Seams) -> Result<RunningNode, ServeError> {
    let status = StartupStatus::new(Arc::clone(&seams.clock));
    let wanted = Layout::new(&config.data_dir, &config.tmp_dir);
    let lock = status.step("lock", async { lock_data_dir(&wanted, &seams) }).await?;
    let (public, internal) = status.step("bind_listeners", bind_both(&config)).await?;
    config.node_url = reachable_url(config.node_url, &internal);
    let layout = status.step("make_directories", async { make_directories(&wanted, &seams) }).await?;
    bound_staging(&mut config, &seams);
    let node = NodeContext::new(config, layout, seams, status);
    node.readiness.set_lock_held(true);
    let running = RunningNode {
        node,
        public: Ending::default(),
        internal: Ending::default(),
        listeners: Listeners::default(),
        workers: TaskTracker::new(),
        lock: Arc::new(Mutex::new(lock)),
        record: OnceLock::new(),
    };
    running.listen(public, internal);
    mesh_wiring::start_discovery(&running.node, &running.workers);
    match running.open().await {
        Ok(()) => {
            running.start_watches();
            running.start_store_keeper();
            running.start_janitor();
            running.start_following();
            Ok(running)
        }
        Err(error) => {
            running.abandon(&error).await;
            Err(error)
        }
    }
}

/// Looks first: a lock file must not be made in somebody else's directory.
fn lock_data_dir(layout: &Layout, seams: &Seams) -> Result<DataDirLock, ServeError> {
    let path = layout.data_dir().to_path_buf();
    let kind = layout::detect_data_dir(layout).map_err(|source| ServeError::DataDir { path: path.clone(), source })?;
    match kind {
        DataDirKind::Foreign => return Err(ServeError::NotADataDir { path }),
        DataDirKind::SeedEra => {
            let reason =
                "it was written by the seed-era system; catch up from its nodes into a new directory".to_owned();
            return Err(ServeError::Incompatible { path, reason });
        }
        DataDirKind::Missing => {
            layout::create_data_dir(layout, seams.disk.as_ref()).map_err(|error| no_directory(error, &path))?;
        }
        DataDirKind::Empty | DataDirKind::Kura => {}
    }
    Ok(DataDirLock::try_acquire(layout, seams.clock.now_ms())?)
}

fn no_directory(error: EnsureError, path: &Path) -> ServeError {
    if is_storage_full(&error.source) {
        return ServeError::DiskFull { path: path.to_path_buf(), free_bytes: 0 };
    }
    ServeError::Directories(error)
}

async fn bind_both(config: &Config) -> Result<(TcpListener, TcpListener), ServeError> {
    let public = bind(SocketAddr::new(config.bind, config.port)).await?;
    let internal = bind(SocketAddr::new(config.bind, config.internal_port)).await?;
    Ok((public, internal))
}

async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => ServeError::PortTaken { address, holder: port_holder(address) },
        _ => ServeError::Bind { address, source },
    })
}

/// With the port left to the system, the node's own URL is known only now.
fn reachable_url(node_url: String, internal: &TcpListener) -> String {
    match (node_url.strip_suffix(":0"), internal.local_addr()) {
        (Some(base), Ok(bound)) => format!("{base}:{}", bound.port()),
        _ => node_url,
    }
}

/// What may be staged on a volume of this size. One that cannot be measured fails when the store opens.
fn bound_staging(config: &mut Config, seams: &Seams) {
    if let Ok(space) = seams.disk.space(&config.data_dir) {
        config.tmp_dir_max_bytes = capacity::staging_bytes(config.tmp_dir_max_bytes, space.total_bytes);
    }
}

/// The layout to go on with: its tmp dir may have moved onto the data dir's mount.
fn make_directories(layout: &Layout, seams: &Seams) -> Result<Layout, ServeError> {
    let ensured = layout::ensure_directories(layout, seams.disk.as_ref()).map_err(ServeError::Directories)?;
    for note in &ensured.notes {
        tracing::warn!(%note, "directories");
    }
    Ok(ensured.layout)
}

impl RunningNode {
    /// Where the listeners are bound.
    pub fn addresses(&self) -> Option<BoundAddresses> {
        self.node.addresses.get().copied()
    }

    /// Refuses new uploads from here on; what is under way ends, and reads go on.
    pub fn drain(&self) {
        if self.node.drain.begin() {
            tracing::info!(inflight = self.node.drain.inflight(), "drain_started");
        }
        self.public.away.cancel();
        self.node.readiness.drain();
    }

    /// Drains, ends the listeners and workers, and closes the store. Bounded by the drain's timeout and two graces.
    pub async fn stop(self) {
        self.stop_unless_hurried(std::future::pending()).await;
    }

    /// As [`Self::stop`], but waits for nobody once `hurried` resolves: whoever asks twice means now. The store is
    /// closed in order all the same.
    pub async fn stop_unless_hurried(self, hurried: impl Future<Output = ()>) {
        let began = self.node.seams.clock.monotonic();
        let timeout = self.node.config.drain_completion_timeout;
        self.drain();
        self.public.stop.cancel();
        self.listeners.public.close();
        let idle = async {
            self.listeners.public.wait().await;
            self.node.drain.idle().await;
        };
        let grace = tokio::select! {
            ended = tokio::time::timeout(timeout, idle) => {
                if ended.is_err() {
                    tracing::warn!(inflight = self.node.drain.inflight(), "drain_deadline_passed");
                }
                INTERNAL_GRACE
            }
            () = hurried => {
                tracing::warn!(inflight = self.node.drain.inflight(), "drain_cut_short");
                Duration::ZERO
            }
        };
        self.end(grace, None).await;
        let duration = self.node.seams.clock.monotonic().saturating_sub(began);
        tracing::info!(duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), "stopped");
    }

    /// Everything behind the drain: workers, listeners, store. The record keeps what went wrong with the store's files.
    async fn end(&self, internal_grace: Duration, trouble: Option<String>) {
        self.public.stop.cancel();
        self.public.abort.cancel();
        self.node.shutdown.cancel();
        self.internal.stop.cancel();
        self.listeners.internal.close();
        self.listeners.public.close();
        self.workers.close();
        if tokio::time::timeout(internal_grace, self.listeners.internal.wait()).await.is_err() {
            self.internal.abort.cancel();
            self.listeners.internal.wait().await;
        }
        self.listeners.public.wait().await;
        if tokio::time::timeout(WORKERS_GRACE, self.workers.wait()).await.is_err() {
            tracing::warn!("workers_still_running");
        }
        let trouble = trouble.or(self.close_store().await);
        if let Some(record) = self.record.get() {
            run_state::end(&self.node, record.clone(), trouble).await;
        }
    }

    async fn abandon(self, error: &ServeError) {
        self.end(INTERNAL_GRACE, error.trouble()).await;
    }

    /// What kept it from being closed in order, if anything did.
    async fn close_store(&self) -> Option<String> {
        let store = self.node.store.current()?;
        self.node.readiness.set_store_open(false);
        self.node.store.set(None);
        let lock = Arc::clone(&self.lock);
        let closed = executor::run(self.node.seams.executor.as_ref(), move || {
            let closed = store.close();
            drop((store, lock));
            closed
        });
        match closed.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => {
                tracing::error!(%error, "store_close_failed");
                Some(chain(&error))
            }
            Err(error) => {
                tracing::error!(%error, "store_close_failed");
                None
            }
        }
    }

    fn listen(&self, public: TcpListener, internal: TcpListener) {
        if let (Ok(public), Ok(internal)) = (public.local_addr(), internal.local_addr()) {
            tracing::info!(%public, %internal, "listening");
            let _ = self.node.addresses.set(BoundAddresses { public, internal });
        }
        let app = public::router(Arc::clone(&self.node));
        let open = self.node.server_metrics.connections.clone();
        self.listeners.public.spawn(listener::serve(public, app, open, self.public.clone()));
        let app = mesh_wiring::internal_router(&self.node);
        let open = self.node.server_metrics.internal_connections.clone();
        self.listeners.internal.spawn(listener::serve(internal, app, open, self.internal.clone()));
        self.workers.spawn(control::serve_control(Arc::clone(&self.node)));
    }

    /// Reclaims, opens, and puts the store where everybody finds it.
    async fn open(&self) -> Result<(), ServeError> {
        let status = &self.node.startup;
        status.step("adopt_partials", reclaim::adopt_partials(&self.node)).await.unwrap_or_else(|never| match never {});
        status.step("reclaim_staging", reclaim::dead_staging(&self.node, &self.lock)).await?;
        // Whether the index opens is what counts; the step keeps its error.
        let _ = status.step("release_ballast", space_keeper::release_ballast(&self.node)).await;
        self.start_record().await;
        let report = match status.step("open_store", self.open_store()).await {
            Err(ServeError::DiskFull { .. }) if reclaim::give_up_partials(&self.node).await > 0 => {
                status.step("open_store_without_partials", self.open_store()).await?
            }
            opened => opened?,
        };
        tracing::info!(?report, "store_opened");
        // The store may have found bodies whose commit was interrupted.
        reclaim::adopt_partials(&self.node).await.unwrap_or_else(|never| match never {});
        self.node.readiness.set_store_open(true);
        self.start_space_keeper().await
    }

    /// Comes below the watermarks, makes the ballast whole, and keeps it so.
    async fn start_space_keeper(&self) -> Result<(), ServeError> {
        let (node, status) = (&self.node, &self.node.startup);
        let unmeasured = |source| ServeError::DataDir { path: node.layout.data_dir().to_path_buf(), source };
        let keeper = status.step("evict_below_watermark", space_keeper::evict_below_watermark(node)).await;
        let restored = status.step("restore_ballast", space_keeper::restore_ballast(node, keeper.map_err(unmeasured)?));
        let worker = space_keeper::worker(node, restored.await.map_err(unmeasured)?);
        self.workers.spawn(worker.run(node.shutdown.clone()));
        Ok(())
    }

    async fn open_store(&self) -> Result<OpenReport, ServeError> {
        let options = store_options(&self.node);
        // The job may outlive this future (a signal during a slow open), and the lock must outlive the job.
        let lock = Arc::clone(&self.lock);
        let opened = executor::run(self.node.seams.executor.as_ref(), move || {
            let opened = Store::open(options);
            drop(lock);
            opened
        });
        let (store, report) = opened.await.unwrap_or(Err(StoreError::NotOpen)).map_err(|error| self.explain(error))?;
        self.node.store.set(Some(Arc::new(store)));
        Ok(report)
    }

    fn explain(&self, error: StoreError) -> ServeError {
        let path = self.node.layout.data_dir().to_path_buf();
        match error {
            StoreError::StorageFull { .. } => {
                let free_bytes = self.node.seams.disk.space(&path).map_or(0, |space| space.available_bytes);
                ServeError::DiskFull { path, free_bytes }
            }
            StoreError::Incompatible { path, reason } => ServeError::Incompatible { path, reason },
            other => ServeError::Store(other),
        }
    }

    /// The run record needs a little room, so it is written after staging was reclaimed.
    async fn start_record(&self) {
        let record = run_state::begin(&self.node).await;
        self.workers.spawn(run_state::keep(Arc::clone(&self.node), record.clone()));
        let _ = self.record.set(record);
    }

    /// Watches the read path of the store and what the doctor would find, and says in the log what readiness does.
    fn start_watches(&self) {
        self.workers.spawn(store_heartbeat::run(Arc::clone(&self.node)));
        self.workers.spawn(readiness_log::run(Arc::clone(&self.node)));
        self.workers.spawn(doctor_watch::run(Arc::clone(&self.node)));
    }

    /// Reopens the store if its writes stop.
    fn start_store_keeper(&self) {
        let (node, lock, options) = (Arc::clone(&self.node), Arc::clone(&self.lock), store_options(&self.node));
        self.workers.spawn(StoreKeeper { node, lock, options }.run());
    }

    /// Drops multipart uploads that nobody goes on with.
    fn start_janitor(&self) {
        let node = Arc::clone(&self.node);
        self.workers.spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(JANITOR_INTERVAL) => {}
                    () = node.shutdown.cancelled() => return,
                }
                let expired = node.uploads.expire().await;
                if expired > 0 {
                    tracing::info!(expired, "multipart_uploads_expired");
                }
            }
        });
    }

    /// Tombstones, catch-up and following go on behind the running node, over the peers that were met so far.
    fn start_following(&self) {
        mesh_wiring::start_following(&self.node, &self.workers);
    }
}

/// How a node's store is opened.
pub fn store_options(node: &NodeContext) -> StoreOptions {
    StoreOptions {
        layout: node.layout.clone(),
        tenant_id: node.config.tenant_id.clone(),
        instance_id: node.instance_id,
        durability: node.config.durability,
        inline_max_bytes: node.config.inline_max_bytes,
        read_cache_bytes: node.config.metadata_store_read_cache_bytes,
        open_files_max: node.config.metadata_store_max_open_files,
        clock: Arc::clone(&node.seams.clock),
        rng: Arc::clone(&node.seams.rng),
        disk: Arc::clone(&node.seams.disk),
        executor: Arc::clone(&node.seams.executor),
    }
}
