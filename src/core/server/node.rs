//! What every part of a running node shares: settings, seams, store, staging, metrics, readiness and the way down.
//!
//! How it works: [`NodeContext::new`] is made once the lock is held and the directories exist, before anything is
//! opened, so that probes are answered at once; the store arrives later through its [`StoreHandle`]. It is handed around as
//! an `Arc` to the public plane, the internal plane, the probes, the control socket and the workers.
//!
//! Invariant: making one touches no disk and no network.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use super::drain::DrainState;
use super::metrics::ServerMetrics;
use super::startup_status::StartupStatus;
use crate::core::base::clock::{Clock, SystemClock};
use crate::core::base::disk::{Disk, RealDisk};
use crate::core::base::executor::{StoreExecutor, ThreadExecutor};
use crate::core::base::ids::InstanceId;
use crate::core::base::limits::BODY_BYTES_MAX;
use crate::core::base::rng::{Rng, RngExt, SystemRng};
use crate::core::config::Config;
use crate::core::data_dir::layout::Layout;
use crate::core::mesh::readiness::Readiness;
use crate::core::staging::area::{Staging, StagingOptions};
use crate::core::staging::multipart::{MultipartOptions, MultipartUploads, UPLOADS_MAX};
use crate::core::store::record::ArtifactKey;
use crate::core::store::store_handle::StoreHandle;
use crate::core::telemetry::metrics::MetricsRegistry;

/// Blocking file and index jobs under way at once in one process. Disks gain little from more, and each holds a
/// thread's stack; waiting ones queue in order.
const BLOCKING_JOBS_MAX: usize = 64;

/// How long an upload waits for room in the staging ledger before it is told to come back.
const STAGING_CLIENT_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

/// Longest part of a multipart upload; the seed era's limit, which its clients keep to.
const PART_BYTES_MAX: u64 = 10 << 20;

/// The outside world of a node: time, chance, the volume and the threads.
#[derive(Debug, Clone)]
pub struct Seams {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub rng: Arc<dyn Rng>,
    /// The volume.
    pub disk: Arc<dyn Disk>,
    /// Where blocking work runs.
    pub executor: Arc<dyn StoreExecutor>,
}

impl Seams {
    /// The machine's own clock, randomness, disk and blocking threads. Call inside a runtime.
    pub fn system() -> Self {
        Self {
            clock: Arc::new(SystemClock::default()),
            rng: Arc::new(SystemRng),
            disk: Arc::new(RealDisk),
            executor: Arc::new(ThreadExecutor::new(tokio::runtime::Handle::current(), BLOCKING_JOBS_MAX)),
        }
    }
}

/// Where the listeners ended up; ports given as 0 are known only after binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct BoundAddresses {
    /// The public plane and the probes.
    pub public: SocketAddr,
    /// The plane for peers.
    pub internal: SocketAddr,
}

/// Everything the parts of one running node share.
#[derive(Debug)]
pub struct NodeContext {
    /// The resolved settings.
    pub config: Arc<Config>,
    /// Names on disk.
    pub layout: Layout,
    /// This run of this process.
    pub instance_id: InstanceId,
    /// Time, chance, volume, threads.
    pub seams: Seams,
    /// The store, once it is open.
    pub store: StoreHandle,
    /// The staging areas and their ledger.
    pub staging: Staging,
    /// The open multipart uploads of the public plane, each with the name it will be stored under.
    pub uploads: MultipartUploads<ArtifactKey>,
    /// Whether this node takes traffic, and why not.
    pub readiness: Readiness,
    /// The registry behind `/metrics`; parts add their families to it.
    pub metrics: MetricsRegistry,
    /// The families of the listeners.
    pub server_metrics: ServerMetrics,
    /// The start-up steps so far.
    pub startup: StartupStatus,
    /// Whether the node is going away, and what is still in flight.
    pub drain: DrainState,
    /// Cancelled when workers and listeners must end.
    pub shutdown: CancellationToken,
    /// Set once both listeners are bound.
    pub addresses: OnceLock<BoundAddresses>,
}

impl NodeContext {
    /// Builds the shared parts; opens and binds nothing. The layout is the one that
    /// [`ensure_directories`](crate::core::data_dir::layout::ensure_directories) came to.
    pub fn new(config: Config, layout: Layout, seams: Seams, startup: StartupStatus) -> Arc<Self> {
        let metrics = MetricsRegistry::new();
        let options = StagingOptions {
            budget_bytes: config.tmp_dir_max_bytes,
            inline_max_bytes: config.inline_max_bytes,
            client_wait: STAGING_CLIENT_WAIT,
        };
        let sources_configured = !config.peers.is_empty() || config.discovery_dns_name.is_some();
        let staging = Staging::new(&layout, Arc::clone(&seams.disk), Arc::clone(&seams.executor), options);
        Arc::new(Self {
            instance_id: InstanceId(seams.rng.bytes()),
            store: StoreHandle::new(Arc::clone(&seams.executor)),
            uploads: multipart_uploads(&config, &staging, &seams),
            staging,
            readiness: Readiness::new(sources_configured, Arc::clone(&seams.clock)),
            server_metrics: ServerMetrics::new(&metrics),
            startup,
            drain: DrainState::default(),
            shutdown: CancellationToken::new(),
            addresses: OnceLock::new(),
            config: Arc::new(config),
            layout,
            seams,
            metrics,
        })
    }
}

fn multipart_uploads(config: &Config, staging: &Staging, seams: &Seams) -> MultipartUploads<ArtifactKey> {
    let options = MultipartOptions {
        uploads_max: UPLOADS_MAX,
        part_bytes_max: PART_BYTES_MAX,
        total_bytes_max: BODY_BYTES_MAX,
        idle_max: config.multipart_upload_ttl,
    };
    MultipartUploads::new(staging.clone(), options, Arc::clone(&seams.clock))
}
