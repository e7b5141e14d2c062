//! A node without listeners on a [`StepDisk`]: started in the order of a real one, with all that changes its volume, and
//! an oracle of what may be found there afterwards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use kura::core::base::clock::{Clock, ManualClock};
use kura::core::base::disk::Disk;
use kura::core::base::executor::{InlineExecutor, StoreExecutor};
use kura::core::base::ids::{ArtifactId, InstanceId, StoreId};
use kura::core::base::rng::SeededRng;
use kura::core::config::Durability;
use kura::core::data_dir::layout::{self, Layout};
use kura::core::data_dir::lock::{DataDirLock, LockError};
use kura::core::staging::area::{AreaKind, Staging, StagingOptions};
use kura::core::staging::body_writer::{BodySpec, StagedBody};
use kura::core::staging::budget::BudgetClass;
use kura::core::staging::multipart::{MultipartOptions, MultipartUploads};
use kura::core::staging::reclaim::{ReclaimOutcome, reclaim_dead_staging};
use kura::core::store::committer::{Carried, CommitOutcome, Operation, Put, PutMode, PutOrigin};
use kura::core::store::error::StoreError;
use kura::core::store::record::{ArtifactKey, Kind, Record};
use kura::core::store::room::make_room_to_open;
use kura::core::store::store_handle::StoreHandle;
use kura::core::store::{EvictGoal, OpenBody, OpenReport, Store, StoreOptions, salvage};

use crate::step_disk::StepDisk;

/// Bodies up to this size lie in the index.
pub const INLINE_MAX_BYTES: u64 = 1000;

pub const NOW_MS: u64 = 1_750_000_000_000;

const PRODUCER: &str = "gradle";

/// How long the lock of a node that has ended may stay behind.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Namespace and key.
pub type Name = (&'static str, String);

/// What may be found under each name, `None` for nothing: one thing once its change was acknowledged, and more while a
/// change is under way or when it failed.
#[derive(Debug, Clone, Default)]
pub struct Oracle {
    pub values: BTreeMap<Name, Vec<Option<Vec<u8>>>>,
    /// Acknowledged deletes of namespaces.
    pub deletes: BTreeMap<&'static str, u64>,
    /// What acknowledged evictions took.
    pub evicted: BTreeMap<Name, (Record, Vec<u8>)>,
}

impl Oracle {
    pub fn may(&mut self, name: &Name, value: Option<Vec<u8>>) {
        self.values.entry(name.clone()).or_insert_with(|| vec![None]).push(value);
    }

    pub fn must(&mut self, name: &Name, value: Option<Vec<u8>>) {
        self.values.insert(name.clone(), vec![value]);
    }

    /// All of these may go.
    pub fn may_go(&mut self, goes: impl Fn(&Name) -> bool) {
        self.values.iter_mut().filter(|(name, _)| goes(name)).for_each(|(_, values)| values.push(None));
    }
}

/// The node.
pub struct StepNode {
    pub root: PathBuf,
    pub disk: Arc<StepDisk>,
    pub oracle: Arc<Mutex<Oracle>>,
    pub clock: Arc<ManualClock>,
    rng: Arc<SeededRng>,
    runtime: tokio::runtime::Runtime,
    open: Option<Open>,
}

/// What a started node has.
pub struct Open {
    pub store: Arc<Store>,
    pub handle: StoreHandle,
    pub staging: Staging,
    pub uploads: MultipartUploads<()>,
    pub report: OpenReport,
    lock: DataDirLock,
}

impl StepNode {
    /// At a data dir, not started.
    pub fn at(root: &Path, oracle: Oracle) -> Self {
        Self {
            root: root.to_path_buf(),
            disk: Arc::new(StepDisk::new()),
            oracle: Arc::new(Mutex::new(oracle)),
            clock: Arc::new(ManualClock::at(NOW_MS)),
            rng: Arc::new(SeededRng::new(1)),
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"),
            open: None,
        }
    }

    pub fn layout(&self) -> Layout {
        Layout::with_default_tmp(&self.root)
    }

    pub fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub fn open(&self) -> &Open {
        self.open.as_ref().expect("a started node")
    }

    pub fn store(&self) -> &Store {
        &self.open().store
    }

    pub fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk) as Arc<dyn Disk>
    }

    fn options(&self) -> StoreOptions {
        StoreOptions {
            layout: self.layout(),
            tenant_id: "default".into(),
            instance_id: InstanceId([1; 16]),
            durability: Durability::Power,
            inline_max_bytes: INLINE_MAX_BYTES,
            read_cache_bytes: 1 << 20,
            open_files_max: 256,
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            rng: self.rng.clone(),
            disk: self.disk(),
            executor: Arc::new(InlineExecutor),
        }
    }

    /// As `serve` starts: lock, folders, salvage and reclaim, room, store.
    pub fn start(&mut self) -> Result<()> {
        assert!(self.open.is_none(), "it runs already");
        let layout = self.layout();
        layout::create_data_dir(&layout, self.disk.as_ref()).context("making the data dir")?;
        let lock = self.lock(&layout)?;
        layout::ensure_directories(&layout, self.disk.as_ref()).context("making folders")?;
        let executor: Arc<dyn StoreExecutor> = Arc::new(InlineExecutor);
        let options = StagingOptions {
            budget_bytes: 1 << 30,
            inline_max_bytes: INLINE_MAX_BYTES,
            client_wait: Duration::from_secs(1),
        };
        let staging = Staging::new(&layout, self.disk(), Arc::clone(&executor), options);
        salvage::staged_bodies(&layout, self.disk.as_ref(), "default");
        staging.adopt_partials();
        reclaim_dead_staging(&layout, &lock, self.disk(), self.clock.now_ms()).context("reclaiming")?;
        make_room_to_open(&layout, &self.disk()).context("making room")?;
        let (store, report) = Store::open(self.options()).context("opening the store")?;
        let (store, handle) = (Arc::new(store), StoreHandle::new(executor));
        handle.set(Some(Arc::clone(&store)));
        let options = MultipartOptions {
            uploads_max: 4,
            part_bytes_max: 1 << 20,
            total_bytes_max: 8 << 20,
            idle_max: Duration::from_secs(60),
            yields_after: Duration::from_secs(60),
        };
        let uploads = MultipartUploads::new(staging.clone(), options, Arc::clone(&self.clock) as Arc<dyn Clock>);
        self.open = Some(Open { store, handle, staging, uploads, report, lock });
        Ok(())
    }

    /// Another test that starts a process takes this one's open files along until that process has become another program,
    /// and with them the lock of a node that has just ended here.
    fn lock(&self, layout: &Layout) -> Result<DataDirLock> {
        let began = std::time::Instant::now();
        loop {
            match DataDirLock::try_acquire(layout, self.clock.now_ms()) {
                Err(LockError::Held { .. }) if began.elapsed() < LOCK_WAIT => std::thread::sleep(LOCK_WAIT / 1000),
                locked => return locked.context("locking"),
            }
        }
    }

    /// Ends as a kill does; what it staged is gone with it.
    pub fn kill(&mut self) {
        self.open = None;
    }

    /// What the keeper of a running node's store does: an index that is damaged is closed and made anew.
    pub fn keep_store(&mut self) -> Result<()> {
        if self.open.as_ref().is_some_and(|open| open.store.damage().is_some()) {
            self.kill();
            Store::request_rebuild(&self.options()).context("asking for a rebuild")?;
            self.start()?;
        }
        Ok(())
    }

    /// Ends in order.
    pub fn stop(&mut self) -> Result<()> {
        self.open.take().map_or(Ok(()), |open| open.store.close().context("closing"))
    }

    /// Ends as a kill does and starts again: a new epoch and a new extent.
    pub fn restart(&mut self) {
        self.kill();
        self.start().expect("starting again");
    }

    pub fn id(&self, name: &Name) -> ArtifactId {
        key_of(name).artifact_id("default")
    }

    pub fn record(&self, name: &Name) -> Option<Record> {
        self.store().lookup(&self.id(name)).expect("a lookup")
    }

    pub fn read(&self, name: &Name) -> Option<Vec<u8>> {
        let record = self.record(name)?;
        match self.store().open_body(&record).expect("opening a body")? {
            OpenBody::Inline(bytes) => Some(bytes.to_vec()),
            OpenBody::File(body) => {
                let mut bytes = vec![0; usize::try_from(body.length).expect("a length")];
                std::os::unix::fs::FileExt::read_exact_at(body.file.as_ref(), &mut bytes, 0).expect("reading a body");
                Some(bytes)
            }
        }
    }

    fn stage(&self, body: &[u8], area: AreaKind) -> Result<StagedBody> {
        let class = if area == AreaKind::Bootstrap { BudgetClass::CatchUp } else { BudgetClass::Client };
        let spec = BodySpec { area, class, length: Some(body.len() as u64), length_max: 1 << 30, sha256: false };
        let staging = self.open().staging.clone();
        self.runtime.block_on(async {
            let mut writer = staging.begin(spec).await?;
            writer.write(Bytes::copy_from_slice(body)).await?;
            Ok(writer.finish().await?)
        })
    }

    /// A client's write.
    pub fn put(&self, name: &Name, body: &[u8]) -> Result<()> {
        self.oracle().may(name, Some(body.to_vec()));
        let staged = self.stage(body, AreaKind::Uploads)?;
        self.commit_staged(name, body, staged)
    }

    fn commit_staged(&self, name: &Name, body: &[u8], staged: StagedBody) -> Result<()> {
        let put = put_of(name, staged, PutOrigin::Local(PutMode::LastWriterWins));
        let handle = self.open().handle.clone();
        match self.runtime.block_on(handle.commit(Operation::Put(Box::new(put))))? {
            CommitOutcome::Applied(_) => self.oracle().must(name, Some(body.to_vec())),
            other => panic!("{name:?}: {other:?}"),
        }
        Ok(())
    }

    /// What came from a peer, together.
    pub fn apply(&self, bodies: &[(Name, Vec<u8>)], version_ms: u64) -> Result<()> {
        let mut puts = Vec::new();
        for (name, body) in bodies {
            self.oracle().may(name, Some(body.clone()));
            puts.push(put_of(name, self.stage(body, AreaKind::Bootstrap)?, replicated(version_ms)));
        }
        let handle = self.open().handle.clone();
        let outcomes = self.runtime.block_on(handle.commit_replicated(puts))?;
        let mut failed = None;
        for ((name, body), outcome) in bodies.iter().zip(outcomes) {
            match outcome {
                Ok(CommitOutcome::Applied(_)) => self.oracle().must(name, Some(body.clone())),
                Ok(other) => panic!("{name:?}: {other:?}"),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// What becomes of one body that comes from a peer late; `None` from a store that takes no writes.
    pub fn offer(&self, name: &Name, body: &[u8], version_ms: u64) -> Option<CommitOutcome> {
        let staged = self.stage(body, AreaKind::Bootstrap).expect("staging a few bytes");
        let operation = Operation::Put(Box::new(put_of(name, staged, replicated(version_ms))));
        match self.store().submit(operation).wait() {
            Ok(outcome) => Some(outcome),
            Err(StoreError::WriteStopped { .. } | StoreError::IndexDamaged { .. }) => None,
            Err(error) => panic!("{name:?}: {error}"),
        }
    }

    /// A peer's newer version of bytes that are here.
    pub fn adopt(&self, name: &Name, version_ms: u64) -> Result<()> {
        let record = Record { version_ms, ..self.record(name).context("it is not here")? };
        self.store().submit(Operation::AdoptVersion(Box::new(record))).wait()?;
        Ok(())
    }

    pub fn delete(&self, namespace: &'static str) -> Result<()> {
        self.oracle().may_go(|(of, _)| *of == namespace);
        let operation = Operation::DeleteNamespace { namespace: namespace.into(), version_ms: None };
        let CommitOutcome::Deleted { version_ms } = self.store().submit(operation).wait()? else {
            panic!("{namespace} was not deleted");
        };
        let mut oracle = self.oracle();
        let gone: Vec<Name> = oracle.values.keys().filter(|(of, _)| *of == namespace).cloned().collect();
        gone.iter().for_each(|name| oracle.must(name, None));
        oracle.deletes.insert(namespace, version_ms);
        Ok(())
    }

    /// Makes room; what went is known from then on.
    pub fn evict(&self, goal: EvictGoal) -> Result<u64> {
        let names: Vec<Name> = self.oracle().values.keys().cloned().collect();
        let held = |name: Name| Some((name.clone(), (self.record(&name)?, self.read(&name)?)));
        let before: Vec<(Name, (Record, Vec<u8>))> = names.into_iter().filter_map(held).collect();
        self.oracle().may_go(|_| true);
        let report = self.store().evict(goal)?;
        for (name, held) in before {
            let is_left = self.record(&name).is_some();
            let mut oracle = self.oracle();
            if !is_left {
                oracle.must(&name, None);
                oracle.evicted.insert(name, held);
            } else if let Some(values) = oracle.values.get_mut(&name) {
                values.pop();
            }
        }
        Ok(report.artifacts)
    }

    /// A multipart upload from its start to its commit.
    pub fn put_in_parts(&self, name: &Name, parts: &[Vec<u8>]) -> Result<()> {
        let body = parts.concat();
        self.oracle().may(name, Some(body.clone()));
        let uploads = self.open().uploads.clone();
        let joined = self.runtime.block_on(async {
            let upload = uploads.start(()).await?;
            let mut numbers = Vec::new();
            for (part, number) in parts.iter().zip(1..) {
                let mut writer = uploads.part_writer(&upload, number, Some(part.len() as u64)).await?;
                writer.write(Bytes::copy_from_slice(part)).await?;
                writer.finish().await?;
                numbers.push(number);
            }
            anyhow::Ok(uploads.complete(&upload, &numbers, false).await?.1)
        })?;
        self.commit_staged(name, &body, joined)
    }

    /// Part of an upload whose client goes away.
    pub fn leave_upload(&self) -> Result<()> {
        let uploads = self.open().uploads.clone();
        self.runtime.block_on(async {
            let upload = uploads.start(()).await?;
            let mut writer = uploads.part_writer(&upload, 1, None).await?;
            writer.write(Bytes::from_static(&[7; 5000])).await?;
            writer.finish().await?;
            uploads.abort(&upload).await;
            Ok(())
        })
    }

    /// What `reclaim-staging` does while nobody serves.
    pub fn reclaim(&self) -> Result<ReclaimOutcome> {
        let open = self.open();
        Ok(reclaim_dead_staging(&self.layout(), &open.lock, self.disk(), self.clock.now_ms())?)
    }
}

fn key_of((namespace, key): &Name) -> ArtifactKey {
    ArtifactKey { producer: PRODUCER.into(), namespace: (*namespace).into(), key: key.clone() }
}

fn replicated(version_ms: u64) -> PutOrigin {
    PutOrigin::Replicated { version_ms, logical: 0, created_at_ms: version_ms, origin: StoreId([9; 16]) }
}

fn put_of(name: &Name, body: StagedBody, origin: PutOrigin) -> Put {
    Put {
        name: key_of(name),
        kind: Kind::Blob,
        content_type: "application/octet-stream".into(),
        attributes: BTreeMap::new(),
        carried: Carried::default(),
        body,
        origin,
    }
}
