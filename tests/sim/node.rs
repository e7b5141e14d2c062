//! A node of the simulation: a whole one, but for its listeners; it can die at any moment and come back.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use kura::core::base::clock::Clock as _;
use kura::core::base::disk::{Disk, FaultDisk, RealDisk, VolumeSpace};
use kura::core::base::executor::InlineExecutor;
use kura::core::base::ids::Digest;
use kura::core::base::rng::SeededRng;
use kura::core::config::{Config, Durability};
use kura::core::data_dir::layout::{self, Layout};
use kura::core::data_dir::lock::DataDirLock;
use kura::core::mesh::discovery::FixedResolver;
use kura::core::server::mesh_wiring;
use kura::core::server::node::{NodeContext, Seams};
use kura::core::server::startup::store_options;
use kura::core::server::startup_status::StartupStatus;
use kura::core::staging::area::AreaKind;
use kura::core::staging::body_writer::BodySpec;
use kura::core::staging::budget::BudgetClass;
use kura::core::staging::reclaim::reclaim_dead_staging;
use kura::core::store::committer::{Carried, CommitOutcome, Operation, Put, PutMode, PutOrigin};
use kura::core::store::record::{ArtifactKey, Kind, Record};
use kura::core::store::recount::recount;
use kura::core::store::walk::ManifestPageRequest;
use kura::core::store::{OpenBody, Store};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use crate::clock::SimClock;
use crate::network::{Network, url};
use crate::oracle::{Holdings, Name, Oracle};

/// Bodies up to this size lie in the index.
const INLINE_MAX_BYTES: u64 = 1000;

/// Turns of the runtime within which everything of a dead node must be gone.
const DYING_TURNS_MAX: usize = 1000;

/// A small volume keeps RocksDB's buffers small, and with them the time to open it.
const VOLUME: VolumeSpace = VolumeSpace {
    total_bytes: 256 << 20,
    free_bytes: 200 << 20,
    available_bytes: 200 << 20,
    block_bytes: 4096,
    total_inodes: 1 << 20,
    free_inodes: 1 << 20,
};

/// A body to be stored.
#[derive(Debug, Clone)]
pub struct Upload {
    pub name: Name,
    pub body: Vec<u8>,
    pub pause: Duration,
    pub once: bool,
}

pub struct SimNode {
    number: usize,
    nodes: usize,
    seed: u64,
    folder: PathBuf,
    network: Network,
    oracle: Arc<Mutex<Oracle>>,
    pub clock: Arc<SimClock>,
    pub starts: u64,
    running: Option<Running>,
}

struct Running {
    node: Arc<NodeContext>,
    workers: TaskTracker,
    clients: JoinSet<()>,
    _lock: DataDirLock,
}

impl SimNode {
    pub fn new(
        number: usize,
        nodes: usize,
        seed: u64,
        root: &Path,
        network: &Network,
        oracle: &Arc<Mutex<Oracle>>,
    ) -> Self {
        Self {
            number,
            nodes,
            seed,
            folder: root.join(format!("node-{number}")),
            network: network.clone(),
            oracle: Arc::clone(oracle),
            clock: Arc::new(SimClock::new(tokio::time::Instant::now())),
            starts: 0,
            running: None,
        }
    }

    pub fn is_up(&self) -> bool {
        self.running.is_some()
    }

    fn config(&self) -> Config {
        Config {
            data_dir: self.folder.clone(),
            tmp_dir: self.folder.join("tmp"),
            bind: std::net::Ipv4Addr::LOCALHOST.into(),
            port: 4000,
            internal_port: 7443,
            node_url: url(self.number),
            tenant_id: "default".to_owned(),
            region: "local".to_owned(),
            peers: (0..self.nodes).map(url).collect(),
            discovery_dns_name: None,
            durability: Durability::Power,
            tmp_dir_max_bytes: 1 << 20,
            cas_capacity_bytes: None,
            max_keyvalue_bytes: 1 << 20,
            inline_max_bytes: INLINE_MAX_BYTES,
            drain_completion_timeout: Duration::from_secs(1),
            bootstrap_max_concurrent_peers: 2,
            bootstrap_concurrency: 4,
            multipart_upload_ttl: Duration::from_secs(60),
            metadata_store_read_cache_bytes: 1 << 20,
            metadata_store_max_open_files: 64,
            tokio_worker_threads: 1,
        }
    }

    fn seams(&self) -> Seams {
        let chance = (self.seed << 16) ^ (u64::try_from(self.number).unwrap_or(0) << 8) ^ self.starts;
        let disk = FaultDisk::new(Arc::new(RealDisk));
        disk.set_space(Some(VOLUME));
        Seams {
            clock: self.clock.clone(),
            rng: Arc::new(SeededRng::new(chance)),
            disk: Arc::new(disk),
            executor: Arc::new(InlineExecutor),
            transport: Arc::new(self.network.transport_of(self.number)),
            resolver: Arc::new(FixedResolver::default()),
        }
    }

    /// The steps of a real start, in its order.
    pub fn start(&mut self) -> Result<()> {
        if self.is_up() {
            return Ok(());
        }
        self.starts += 1;
        let (config, seams) = (self.config(), self.seams());
        let layout = Layout::new(&config.data_dir, &config.tmp_dir);
        if self.starts == 1 {
            layout::create_data_dir(&layout, &RealDisk).context("making the data dir")?;
        }
        let lock = DataDirLock::try_acquire(&layout, self.clock.now_ms()).context("locking the data dir")?;
        let disk: Arc<dyn Disk> = Arc::clone(&seams.disk);
        let layout = layout::ensure_directories(&layout, disk.as_ref()).context("making directories")?.layout;
        let status = StartupStatus::new(self.clock.clone());
        let node = NodeContext::new(config, layout.clone(), seams, status);
        node.readiness.set_lock_held(true);
        reclaim_dead_staging(&layout, &lock, disk, self.clock.now_ms()).context("reclaiming")?;
        let (store, _) = Store::open(store_options(&node)).context("opening the store")?;
        node.store.set(Some(Arc::new(store)));
        node.readiness.set_store_open(true);
        self.network.memory.attach(&url(self.number), Some(mesh_wiring::internal_router(&node)));
        let workers = TaskTracker::new();
        mesh_wiring::start(&node, &workers);
        self.running = Some(Running { node, workers, clients: JoinSet::new(), _lock: lock });
        Ok(())
    }

    /// Ends at once: connections are reset, tasks are dropped wherever they wait, the store is not closed.
    pub async fn crash(&mut self) -> Result<()> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        self.network.memory.attach(&url(self.number), None);
        running.node.shutdown.cancel();
        running.clients.abort_all();
        let store = running.node.store.current().map(|store| Arc::downgrade(&store));
        running.node.store.set(None);
        running.workers.close();
        for _ in 0..DYING_TURNS_MAX {
            while running.clients.try_join_next().is_some() {}
            let store_is_gone = store.as_ref().is_none_or(|store| store.strong_count() == 0);
            if store_is_gone && running.workers.is_empty() && running.clients.is_empty() {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
        bail!("node {} does not die: {} workers", self.number, running.workers.len())
    }

    /// A client sends a body; it is answered unless the node dies first.
    pub fn put(&mut self, upload: Upload) {
        let Some(running) = &mut self.running else { return };
        let (node, oracle, network, number) =
            (Arc::clone(&running.node), Arc::clone(&self.oracle), self.network.clone(), self.number);
        running.clients.spawn(async move {
            let digest = Digest::of(&upload.body);
            locked(&oracle).write_begun(&upload.name, digest);
            let name = upload.name.clone();
            let outcome = send(&node, upload).await;
            network.note(&format!("{number} answers {name:?} {outcome:?}"));
            let version = match outcome {
                Ok(CommitOutcome::Applied(record)) => Some(record.version()),
                Ok(_) => None,
                // It may have been stored before the node went.
                Err(_) => return,
            };
            locked(&oracle).write_answered(&name, digest, version);
        });
    }

    /// A client deletes a namespace.
    pub async fn delete(&mut self, namespace: &str) -> Result<()> {
        let Some(running) = &self.running else { return Ok(()) };
        let operation = Operation::DeleteNamespace { namespace: namespace.to_owned(), version_ms: None };
        let outcome = running.node.store.commit(operation).await.context("deleting")?;
        self.network.note(&format!("{} deletes {namespace:?} {outcome:?}", self.number));
        let CommitOutcome::Deleted { version_ms } = outcome else { bail!("a delete came to {outcome:?}") };
        locked(&self.oracle).deleted(namespace, version_ms);
        Ok(())
    }

    fn node(&self) -> Result<&Arc<NodeContext>> {
        Ok(&self.running.as_ref().context("the node is down")?.node)
    }

    fn store(&self) -> Result<Arc<Store>> {
        self.node()?.store.current().context("no store is open")
    }

    fn records(&self) -> Result<Vec<Record>> {
        let request = ManifestPageRequest { after: None, prefix: String::new(), rows_max: 4096, producers: &[] };
        Ok(self.store()?.manifest_page(&request)?.records)
    }

    /// What it holds by its listing.
    pub fn holdings(&self) -> Result<Holdings> {
        let entry = |record: Record| ((record.name.namespace.clone(), record.name.key.clone()), record.version());
        Ok(self.records()?.into_iter().map(entry).collect())
    }

    /// Why it has not come to rest yet.
    pub fn unrest(&self) -> Result<Option<String>> {
        let (node, store) = (self.node()?, self.store()?);
        let snapshot = node.readiness.snapshot();
        let wanted = store.wanted_page(None, 10)?;
        let number = self.number;
        Ok(if !snapshot.complete {
            Some(format!("node {number} is not complete: {:?}", snapshot.reasons))
        } else if !wanted.is_empty() {
            Some(format!("node {number} wants {wanted:?}"))
        } else if node.staging.reserved_bytes() > 0 {
            Some(format!("node {number} has {} bytes reserved", node.staging.reserved_bytes()))
        } else {
            None
        })
    }

    /// What has to hold of every node at rest, whatever it was given.
    pub fn check(&self) -> Result<()> {
        let (node, store) = (self.node()?, self.store()?);
        ensure!(node.engine.flights.count() == 0, "artifacts are on their way at rest");
        for area in [AreaKind::Uploads, AreaKind::Parts, AreaKind::Bootstrap] {
            let left = std::fs::read_dir(node.staging.folder(area)).context("listing an area")?.count();
            ensure!(left == 0, "{left} names are left in {area:?}");
        }
        for record in self.records()? {
            check_body(&store, &record)?;
        }
        let count = recount(&store)?;
        ensure!(count.mismatches.is_empty(), "the store does not add up: {:?}", count.mismatches);
        ensure!(count.garbage == 0, "{} bodies wait to be removed", count.garbage);
        Ok(())
    }
}

pub fn locked(oracle: &Mutex<Oracle>) -> std::sync::MutexGuard<'_, Oracle> {
    oracle.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn send(node: &NodeContext, upload: Upload) -> Result<CommitOutcome> {
    let spec = BodySpec {
        area: AreaKind::Uploads,
        class: BudgetClass::Client,
        length: Some(u64::try_from(upload.body.len())?),
        length_max: 1 << 20,
        sha256: false,
    };
    let mut writer = node.staging.begin(spec).await?;
    for piece in upload.body.chunks(16 << 10) {
        writer.write(Bytes::copy_from_slice(piece)).await?;
        if !upload.pause.is_zero() {
            tokio::time::sleep(upload.pause).await;
        }
    }
    let (namespace, key) = upload.name;
    let mode = if upload.once { PutMode::WriteOnce } else { PutMode::LastWriterWins };
    let put = Put {
        name: ArtifactKey { producer: "ccache".to_owned(), namespace, key },
        kind: Kind::Blob,
        content_type: "text/plain".to_owned(),
        attributes: [("tag".to_owned(), "kept".to_owned())].into(),
        carried: Carried::default(),
        body: writer.finish().await?,
        origin: PutOrigin::Local(mode),
    };
    Ok(node.store.commit(Operation::Put(Box::new(put))).await?)
}

fn check_body(store: &Store, record: &Record) -> Result<()> {
    use std::os::unix::fs::FileExt as _;
    let name = &record.name;
    let body = match store.open_body(record)?.with_context(|| format!("{name:?} has no good body"))? {
        OpenBody::Inline(bytes) => bytes.to_vec(),
        OpenBody::File(file) => {
            let mut bytes = vec![0; usize::try_from(file.length)?];
            file.file.read_exact_at(&mut bytes, 0).with_context(|| format!("reading {name:?}"))?;
            bytes
        }
    };
    ensure!(Digest::of(&body) == record.digest, "{name:?} reads back as something else");
    ensure!(record.attributes.get("tag").is_some_and(|tag| tag == "kept"), "{name:?} lost an attribute");
    Ok(())
}
