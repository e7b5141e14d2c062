//! A node of the simulation: a whole one, but for its listeners; it can die at any moment and come back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use kura::core::base::clock::Clock as _;
use kura::core::base::disk::{Disk, RealDisk};
use kura::core::base::ids::{Digest, Seq};
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
use kura::core::staging::parked::ResumeLimits;
use kura::core::staging::partials::PartialIdentity;
use kura::core::staging::reclaim::reclaim_dead_staging;
use kura::core::store::committer::{Carried, CommitOutcome, Operation, Put, PutMode, PutOrigin};
use kura::core::store::record::{ArtifactKey, Kind, Record};
use kura::core::store::recount::recount;
use kura::core::store::room::RoomKeeper;
use kura::core::store::room_worker::RoomWorker;
use kura::core::store::walk::ManifestPageRequest;
use kura::core::store::wanted::Wanted;
use kura::core::store::{EvictGoal, OpenBody, Store};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use crate::clock::SimClock;
use crate::fuse::{Fuse, MortalDisk, MortalExecutor};
use crate::network::{Network, url};
use crate::oracle::{Deletes, Holdings, Name, Oracle};
use crate::volume::{self, FillingDisk, Fullness, Room};

/// Bodies up to this size lie in the index.
const INLINE_MAX_BYTES: u64 = 1000;

/// Turns of the runtime within which everything of a dead node must be gone.
const DYING_TURNS_MAX: usize = 1000;

/// Files of the middle size are taken up after a cut, and the longer ones after a kill too.
const RESUME_LIMITS: ResumeLimits =
    ResumeLimits { resumable_bytes_min: 10 << 10, partial_bytes_min: 30 << 10, sync_every_bytes: 8 << 10 };

/// The tool all artifacts are of: one that the seed era knows too.
const PRODUCER: &str = "gradle";

/// The tenant of all nodes.
pub const TENANT: &str = "default";

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
    snapshot: PathBuf,
    network: Network,
    oracle: Arc<Mutex<Oracle>>,
    pub clock: Arc<SimClock>,
    pub starts: u64,
    /// What bodies may take.
    pub capacity: Option<u64>,
    fullness: Fullness,
    /// Its lives in which the volume was full.
    pub full_lives: BTreeSet<u64>,
    running: Option<Running>,
}

struct Running {
    node: Arc<NodeContext>,
    workers: TaskTracker,
    clients: JoinSet<()>,
    fuse: Arc<Fuse>,
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
            capacity: None,
            fullness: Fullness::default(),
            full_lives: BTreeSet::new(),
            number,
            nodes,
            seed,
            folder: root.join(format!("node-{number}")),
            snapshot: root.join(format!("snapshot-{number}")),
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
            tenant_id: TENANT.to_owned(),
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
            metadata_store_max_open_files: 16,
            tokio_worker_threads: 1,
        }
    }

    /// Whether it died by itself and was not cleared away yet.
    pub fn is_dead(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.fuse.has_burned())
    }

    fn seams(&self, fuse: &Arc<Fuse>) -> Seams {
        let chance = (self.seed << 16) ^ (u64::try_from(self.number).unwrap_or(0) << 8) ^ self.starts;
        let disk = FillingDisk(self.fullness.clone());
        Seams {
            clock: self.clock.clone(),
            rng: Arc::new(SeededRng::new(chance)),
            disk: Arc::new(MortalDisk { inner: Arc::new(disk), fuse: Arc::clone(fuse) }),
            executor: Arc::new(MortalExecutor(Arc::clone(fuse))),
            transport: Arc::new(self.network.transport_of(self.number, self.starts, fuse)),
            resolver: Arc::new(FixedResolver::default()),
        }
    }

    fn new_fuse(&self) -> Arc<Fuse> {
        let (network, number) = (self.network.clone(), self.number);
        Fuse::new(Box::new(move || {
            network.memory.attach(&url(number), None);
            network.note(&format!("{number} dies"));
            network.deaths.notify_one();
        }))
    }

    /// Its volume is full from now on, or has room again.
    pub fn fill(&mut self, room: Room) {
        self.fullness.set(room);
        self.note_fullness();
    }

    fn note_fullness(&mut self) {
        if self.fullness.is_full() {
            self.full_lives.insert(self.starts);
        }
    }

    /// Starts if it is down. On a full volume it may stay down, until it is tried again.
    pub fn start(&mut self) -> Result<()> {
        if self.is_up() {
            return Ok(());
        }
        match self.start_in_order() {
            Err(_) if self.fullness.is_full() => {
                self.network.note(&format!("{} finds no room to start", self.number));
                Ok(())
            }
            started => started,
        }
    }

    /// The steps of a real start.
    fn start_in_order(&mut self) -> Result<()> {
        self.starts += 1;
        self.note_fullness();
        let fuse = self.new_fuse();
        let (config, seams) = (self.config(), self.seams(&fuse));
        let layout = Layout::new(&config.data_dir, &config.tmp_dir);
        if !self.folder.exists() {
            layout::create_data_dir(&layout, &RealDisk).context("making the data dir")?;
        }
        let lock = DataDirLock::try_acquire(&layout, self.clock.now_ms()).context("locking the data dir")?;
        let disk: Arc<dyn Disk> = Arc::clone(&seams.disk);
        let layout = layout::ensure_directories(&layout, disk.as_ref()).context("making directories")?.layout;
        let status = StartupStatus::new(self.clock.clone());
        let node = NodeContext::with_resume_limits(config, layout.clone(), seams, status, RESUME_LIMITS);
        node.readiness.set_lock_held(true);
        node.staging.adopt_partials();
        reclaim_dead_staging(&layout, &lock, disk, self.clock.now_ms()).context("reclaiming")?;
        let (store, _) = Store::open(store_options(&node)).context("opening the store")?;
        store.set_capacity(self.capacity);
        node.store.set(Some(Arc::new(store)));
        node.readiness.set_store_open(true);
        self.network.memory.attach(&url(self.number), Some(mesh_wiring::internal_router(&node)));
        let workers = TaskTracker::new();
        mesh_wiring::start(&node, &workers);
        if self.capacity.is_some() {
            let worker = self.room_worker(&node).context("measuring the volume")?;
            workers.spawn(worker.run(node.shutdown.clone()));
        }
        self.running = Some(Running { node, workers, clients: JoinSet::new(), fuse, _lock: lock });
        Ok(())
    }

    /// Keeps its room as in a real node.
    fn room_worker(&self, node: &NodeContext) -> Result<RoomWorker> {
        let keeper = RoomKeeper::new(&node.layout, Arc::clone(&node.seams.disk), self.capacity)?;
        let (store, executor, watch) = (node.store.clone(), Arc::clone(&node.seams.executor), node.space.clone());
        Ok(RoomWorker { store, executor, staging: node.staging.clone(), watch, keeper })
    }

    /// Ends at once: connections are reset, tasks are dropped wherever they wait, the store is not closed.
    pub async fn crash(&mut self) -> Result<()> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        running.fuse.burn();
        running.node.shutdown.cancel();
        running.clients.abort_all();
        let store = running.node.store.current().map(|store| Arc::downgrade(&store));
        running.node.store.set(None);
        running.workers.close();
        for _ in 0..DYING_TURNS_MAX {
            while running.clients.try_join_next().is_some() {}
            running.fuse.clear_away();
            let store_is_gone = store.as_ref().is_none_or(|store| store.strong_count() == 0);
            if store_is_gone && running.workers.is_empty() && running.clients.is_empty() {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
        bail!("node {} does not die: {} workers", self.number, running.workers.len())
    }

    /// It dies at this step from now on.
    pub fn light_fuse(&self, steps: u64) {
        self.running.iter().for_each(|running| running.fuse.light(steps));
    }

    /// It does not die by itself any more.
    pub fn put_out_fuse(&self) {
        self.running.iter().for_each(|running| running.fuse.put_out());
    }

    /// It dies and comes back with an empty volume.
    pub async fn wipe(&mut self) -> Result<()> {
        self.crash().await?;
        volume::empty(&self.folder)?;
        self.start()
    }

    /// A copy of its volume is kept.
    pub fn keep_snapshot(&self) -> Result<()> {
        volume::copy(&self.folder, &self.snapshot)
    }

    /// It dies and comes back with the volume that was kept; false if none was.
    pub async fn restore(&mut self) -> Result<bool> {
        if !self.snapshot.exists() {
            return Ok(false);
        }
        self.crash().await?;
        volume::copy(&self.snapshot, &self.folder)?;
        self.start().map(|()| true)
    }

    /// It dies and comes back with a copy of this volume, and nothing it kept of its own is put back later.
    pub async fn become_clone_of(&mut self, other: &Path) -> Result<()> {
        self.crash().await?;
        volume::empty(&self.snapshot)?;
        volume::copy(other, &self.folder)?;
        self.start()
    }

    /// Frees this much if its room is bounded, as if its volume were short of space.
    pub fn evict(&self, bytes: u64) -> Result<()> {
        if self.capacity.is_none() || !self.is_up() || self.is_dead() {
            return Ok(());
        }
        let evicted = self.store()?.evict(EvictGoal { bytes, under_pressure: true });
        let evicted = evicted.map_err(anyhow::Error::from);
        self.network.note(&format!("{} evicts {bytes}: {}", self.number, shown(&evicted, &self.folder)));
        if self.is_dead() { Ok(()) } else { evicted.map(drop) }
    }

    pub fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    /// A client sends a body; it is answered unless the node dies first.
    pub fn put(&mut self, upload: Upload) {
        let Some(running) = &mut self.running else { return };
        let (node, oracle, network, number) =
            (Arc::clone(&running.node), Arc::clone(&self.oracle), self.network.clone(), self.number);
        let folder = self.folder.clone();
        running.clients.spawn(async move {
            let digest = Digest::of(&upload.body);
            locked(&oracle).write_begun(&upload.name, digest);
            let name = upload.name.clone();
            let outcome = send(&node, upload).await;
            network.note(&format!("{number} answers {name:?} {}", shown(&outcome, &folder)));
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
        let outcome = running.node.store.commit(operation).await;
        if running.fuse.has_burned() && outcome.is_err() {
            // It may be there or not.
            locked(&self.oracle).delete_unanswered(namespace, self.clock.now_ms());
            return Ok(());
        }
        let outcome = outcome.context("deleting")?;
        self.network.note(&format!("{} deletes {namespace:?} {outcome:?}", self.number));
        let CommitOutcome::Deleted { version_ms } = outcome else { bail!("a delete came to {outcome:?}") };
        locked(&self.oracle).deleted(namespace, version_ms);
        Ok(())
    }

    fn node(&self) -> Result<&Arc<NodeContext>> {
        Ok(&self.running.as_ref().context("the node is down")?.node)
    }

    pub fn store(&self) -> Result<Arc<Store>> {
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

    /// All that it says of what it holds, but for what each node has of its own.
    pub fn descriptions(&self) -> Result<BTreeMap<Name, Record>> {
        let entry = |record: Record| {
            let name = (record.name.namespace.clone(), record.name.key.clone());
            (name, Record { received_at_ms: 0, body: None, seq: Seq(0), ..record })
        };
        Ok(self.records()?.into_iter().map(entry).collect())
    }

    /// What is deleted by its listing.
    pub fn deletes(&self) -> Result<Deletes> {
        let tombstones = self.store()?.tombstone_page(None, 4096)?.tombstones;
        Ok(tombstones.into_iter().map(|tombstone| (tombstone.namespace, tombstone.version_ms)).collect())
    }

    /// Whether it takes traffic.
    pub fn is_ready(&self) -> Result<bool> {
        Ok(self.node()?.readiness.snapshot().ready)
    }

    /// What it wants of all that must be somewhere.
    fn wants(&self) -> Result<Vec<Wanted>> {
        let mut wanted = self.store()?.wanted_page(None, 4096)?;
        let oracle = locked(&self.oracle);
        wanted.retain(|row| oracle.is_kept(&(row.name.1.clone(), row.name.2.clone()), &row.version));
        Ok(wanted)
    }

    /// Bodies that were begun and are nowhere any more. They stay until their room is needed, because a holder may return.
    fn parked_in_vain(&self) -> Result<Vec<PartialIdentity>> {
        let mut parked = self.node()?.staging.parked_bodies();
        let oracle = locked(&self.oracle);
        parked.retain(|body| {
            let name = Record::from_bytes(&body.note).map(|record| (record.name.namespace, record.name.key));
            name.is_ok_and(|name| !oracle.is_kept(&name, &body.version))
        });
        Ok(parked)
    }

    /// Whether it asks for something just now that is nowhere any more, as it does now and then for ever.
    pub fn asks_for_what_is_nowhere(&self) -> Result<bool> {
        let (noted, kept) = (self.store()?.wanted_page(None, 4096)?.len(), self.wants()?.len());
        Ok(noted > kept && self.node()?.engine.flights.count() > 0)
    }

    /// Why it has not come to rest yet.
    pub fn unrest(&self) -> Result<Option<String>> {
        let node = self.node()?;
        let snapshot = node.readiness.snapshot();
        let wanted = self.wants()?;
        let parked_in_vain: u64 = self.parked_in_vain()?.iter().map(|body| body.size).sum();
        let number = self.number;
        Ok(if !snapshot.complete {
            Some(format!("node {number} is not complete: {:?}", snapshot.reasons))
        } else if !wanted.is_empty() {
            Some(format!("node {number} wants {wanted:?}"))
        } else if node.staging.reserved_bytes() > parked_in_vain {
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
            let parked = if area == AreaKind::Bootstrap { self.parked_in_vain()?.len() } else { 0 };
            ensure!(left <= parked, "{left} names are left in {area:?}, for {parked} parked bodies");
        }
        for record in self.records()? {
            check_body(&store, &record)?;
            ensure!(record.content_type == "text/plain", "{:?} has become {:?}", record.name, record.content_type);
            // The seed era knows no attributes.
            let is_kept = record.attributes.get("tag").is_some_and(|tag| tag == "kept");
            ensure!(is_kept || self.network.has_seed_era(), "{:?} lost an attribute", record.name);
        }
        let count = recount(&store)?;
        ensure!(count.mismatches.is_empty(), "the store does not add up: {:?}", count.mismatches);
        ensure!(count.garbage == 0, "{} bodies wait to be removed", count.garbage);
        Ok(())
    }
}

/// Without where this run lies, which another one's record would not have.
fn shown<T: std::fmt::Debug>(outcome: &Result<T>, folder: &Path) -> String {
    match outcome {
        Ok(outcome) => format!("{outcome:?}"),
        Err(error) => format!("{error:#}").replace(&folder.display().to_string(), "its folder"),
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
        name: ArtifactKey { producer: PRODUCER.to_owned(), namespace, key },
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
    Ok(())
}
