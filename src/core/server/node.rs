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

use super::doctor_watch::DoctorMetrics;
use super::drain::DrainState;
use super::live_metrics::LiveMetrics;
use super::metrics::ServerMetrics;
use super::startup_status::StartupStatus;
use super::store_heartbeat::LastBeat;
use crate::core::base::clock::{Clock, SystemClock};
use crate::core::base::disk::{Disk, RealDisk};
use crate::core::base::executor::{StoreExecutor, ThreadExecutor};
use crate::core::base::ids::InstanceId;
use crate::core::base::limits::BODY_BYTES_MAX;
use crate::core::base::rng::{Rng, RngExt, SystemRng};
use crate::core::bootstrap::engine::Engine;
use crate::core::bootstrap::flight::Flights;
use crate::core::bootstrap::lanes::Lanes;
use crate::core::bootstrap::metrics::CatchUpMetrics;
use crate::core::bootstrap::read_through::{ReadThrough, ReadThroughMetrics};
use crate::core::config::Config;
use crate::core::data_dir::layout::Layout;
use crate::core::data_dir::space_watch::SpaceWatch;
use crate::core::mesh::client::PeerClient;
use crate::core::mesh::discovery::{PeerSources, Resolver, SystemResolver};
use crate::core::mesh::http_transport::HttpTransport;
use crate::core::mesh::membership::{Membership, MembershipParts};
use crate::core::mesh::readiness::Readiness;
use crate::core::mesh::transport::PeerTransport;
use crate::core::staging::area::{Staging, StagingOptions};
use crate::core::staging::multipart::{MultipartOptions, MultipartUploads, UPLOADS_MAX, YIELDS_AFTER};
use crate::core::staging::parked::ResumeLimits;
use crate::core::store::metrics::StoreMetrics;
use crate::core::store::record::ArtifactKey;
use crate::core::store::store_handle::StoreHandle;
use crate::core::store::unopened::UnopenedStore;
use crate::core::telemetry::metrics::MetricsRegistry;

/// Blocking file and index jobs under way at once in one process. Disks gain little from more, and each holds a
/// thread's stack; waiting ones queue in order.
const BLOCKING_JOBS_MAX: usize = 64;

/// How long an upload waits for room in the staging ledger before it is told to come back.
const STAGING_CLIENT_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

/// Longest part of a multipart upload; the seed era's limit, which its clients keep to.
const PART_BYTES_MAX: u64 = 10 << 20;

/// The outside world of a node: time, chance, the volume, the threads and the network.
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
    /// How peers are reached.
    pub transport: Arc<dyn PeerTransport>,
    /// How names become addresses.
    pub resolver: Arc<dyn Resolver>,
}

impl Seams {
    /// The machine's own clock, randomness, disk, blocking threads and sockets. Call inside a runtime.
    pub fn system() -> Self {
        Self {
            clock: Arc::new(SystemClock::default()),
            rng: Arc::new(SystemRng),
            disk: Arc::new(RealDisk),
            executor: Arc::new(ThreadExecutor::new(tokio::runtime::Handle::current(), BLOCKING_JOBS_MAX)),
            transport: Arc::new(HttpTransport::default()),
            resolver: Arc::new(SystemResolver),
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
    /// Time, chance, volume, threads, network.
    pub seams: Seams,
    /// The store, once it is open.
    pub store: StoreHandle,
    /// When the store last answered.
    pub store_beat: LastBeat,
    /// The room on the volume.
    pub space: SpaceWatch,
    /// The staging areas and their ledger.
    pub staging: Staging,
    /// The open multipart uploads of the public plane, each with the name it will be stored under.
    pub uploads: MultipartUploads<ArtifactKey>,
    /// Whether this node takes traffic, and why not.
    pub readiness: Readiness,
    /// Who the peers are.
    pub membership: Arc<Membership>,
    /// What catches up from them.
    pub engine: Engine,
    /// What asks them for a read that missed here.
    pub read_through: ReadThrough,
    /// The registry behind `/metrics`; parts add their families to it.
    pub metrics: MetricsRegistry,
    /// The families of the listeners.
    pub server_metrics: ServerMetrics,
    /// The families that mirror a state.
    pub live_metrics: LiveMetrics,
    /// What the node's own doctor last found.
    pub doctor_metrics: DoctorMetrics,
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
        Self::with_resume_limits(config, layout, seams, startup, ResumeLimits::default())
    }

    /// The same with other bounds than the house's for bodies that can be taken up again.
    pub fn with_resume_limits(
        config: Config,
        layout: Layout,
        seams: Seams,
        startup: StartupStatus,
        resume: ResumeLimits,
    ) -> Arc<Self> {
        let metrics = MetricsRegistry::new();
        let instance_id = InstanceId(seams.rng.bytes());
        let store = StoreHandle::new(Arc::clone(&seams.executor));
        store.count_into(StoreMetrics::new(&metrics));
        let staging = staging(&config, &layout, &seams).with_resume_limits(resume);
        let sources = PeerSources {
            own_url: config.node_url.clone(),
            peers: config.peers.clone(),
            dns_name: config.discovery_dns_name.clone(),
        };
        let readiness = Readiness::new(sources.configured(), Arc::clone(&seams.clock));
        let space = SpaceWatch::default();
        let engine = engine(&config, &seams, &store, &staging, &metrics);
        let engine = Engine { circuits: readiness.circuits().clone(), space: space.clone(), ..engine };
        let unopened = UnopenedStore::new(layout.clone(), Arc::clone(&seams.executor));
        let membership = Membership::new(MembershipParts {
            sources,
            resolver: Arc::clone(&seams.resolver),
            client: engine.client.clone(),
            store: store.clone(),
            unopened: unopened.clone(),
            readiness: readiness.clone(),
            clock: Arc::clone(&seams.clock),
            rng: Arc::clone(&seams.rng),
            instance_id,
        });
        let membership = Arc::new(membership);
        let through = ReadThroughMetrics::new(&metrics);
        let mesh = (readiness.clone(), Arc::clone(&membership));
        let read_through = ReadThrough::new(engine.clone(), unopened, mesh, through);
        Arc::new(Self {
            instance_id,
            store,
            store_beat: LastBeat::default(),
            space,
            uploads: multipart_uploads(&config, &staging, &seams),
            staging,
            readiness,
            membership,
            engine,
            read_through,
            server_metrics: ServerMetrics::new(&metrics),
            live_metrics: LiveMetrics::new(&metrics, &config),
            doctor_metrics: DoctorMetrics::new(&metrics),
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

fn staging(config: &Config, layout: &Layout, seams: &Seams) -> Staging {
    let options = StagingOptions {
        budget_bytes: config.tmp_dir_max_bytes,
        inline_max_bytes: config.inline_max_bytes,
        client_wait: STAGING_CLIENT_WAIT,
    };
    Staging::new(layout, Arc::clone(&seams.disk), Arc::clone(&seams.executor), options)
}

fn engine(config: &Config, seams: &Seams, store: &StoreHandle, staging: &Staging, metrics: &MetricsRegistry) -> Engine {
    Engine {
        client: PeerClient::new(Arc::clone(&seams.transport), store.clone(), &config.tenant_id),
        store: store.clone(),
        staging: staging.clone(),
        space: SpaceWatch::default(),
        clock: Arc::clone(&seams.clock),
        rng: Arc::clone(&seams.rng),
        metrics: CatchUpMetrics::new(metrics),
        flights: Flights::default(),
        lanes: Lanes::default(),
        walked: Default::default(),
        circuits: Default::default(),
        concurrency: config.bootstrap_concurrency,
        peers: Arc::default(),
        peers_replaced: Arc::default(),
    }
}

fn multipart_uploads(config: &Config, staging: &Staging, seams: &Seams) -> MultipartUploads<ArtifactKey> {
    let options = MultipartOptions {
        uploads_max: UPLOADS_MAX,
        part_bytes_max: PART_BYTES_MAX,
        total_bytes_max: BODY_BYTES_MAX,
        idle_max: config.multipart_upload_ttl,
        yields_after: YIELDS_AFTER,
    };
    MultipartUploads::new(staging.clone(), options, Arc::clone(&seams.clock))
}
