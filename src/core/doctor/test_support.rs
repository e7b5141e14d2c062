//! Contexts for the tests of checks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::check::{Check, Outcome, Pulse};
use super::context::{Asked, Context, Mode, Settings, World};
use crate::core::base::clock::ManualClock;
use crate::core::base::disk::{Disk, RealDisk};
use crate::core::base::executor::InlineExecutor;
use crate::core::base::ids::{Digest, InstanceId};
use crate::core::base::rng::SeededRng;
use crate::core::config::{Config, Durability};
use crate::core::data_dir::layout::Layout;
use crate::core::mesh::transport::PeerTransport;
use crate::core::staging::body_writer::{StagedBody, StagedContent};
use crate::core::store::committer::{Carried, Operation, Put, PutMode, PutOrigin};
use crate::core::store::record::{ArtifactKey, Kind};
use crate::core::store::{Store, StoreOptions};

/// Settings of a node without peers whose data dir is given.
pub fn config(data_dir: &Path) -> Config {
    Config {
        data_dir: data_dir.to_owned(),
        tmp_dir: data_dir.join("tmp"),
        bind: std::net::Ipv4Addr::LOCALHOST.into(),
        port: 4000,
        internal_port: 7443,
        node_url: "http://127.0.0.1:7443".to_owned(),
        tenant_id: "default".to_owned(),
        region: "local".to_owned(),
        peers: Vec::new(),
        discovery_dns_name: None,
        durability: Durability::Process,
        tmp_dir_max_bytes: 1 << 30,
        cas_capacity_bytes: None,
        max_keyvalue_bytes: 1 << 20,
        inline_max_bytes: 16 << 10,
        drain_completion_timeout: std::time::Duration::from_secs(1),
        bootstrap_max_concurrent_peers: 1,
        bootstrap_concurrency: 1,
        multipart_upload_ttl: std::time::Duration::from_secs(60),
        metadata_store_read_cache_bytes: 1 << 20,
        metadata_store_max_open_files: 64,
        tokio_worker_threads: 1,
    }
}

/// A runtime that lives as long as the test process, for exchanges with peers.
pub fn runtime() -> tokio::runtime::Handle {
    static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
    });
    runtime.handle().clone()
}

pub fn world() -> World {
    World {
        clock: Arc::new(ManualClock::at(1_750_000_000_000)),
        disk: Arc::new(RealDisk),
        transport: None,
        runtime: runtime(),
        root: "/".into(),
        positions: None,
        watch: None,
    }
}

pub fn context(data_dir: &Path) -> Context {
    context_with(config(data_dir), Mode::Auto, world())
}

pub fn context_with(config: Config, mode: Mode, world: World) -> Context {
    Context::new(Settings::Resolved(Arc::new(config)), Asked { mode, ..Asked::default() }, world)
}

pub fn context_on(data_dir: &Path, disk: Arc<dyn Disk>) -> Context {
    context_with(config(data_dir), Mode::Auto, World { disk, ..world() })
}

pub fn context_with_peers(data_dir: &Path, peers: &[&str], transport: Arc<dyn PeerTransport>) -> Context {
    let config = Config { peers: peers.iter().map(|url| (*url).to_owned()).collect(), ..config(data_dir) };
    context_with(config, Mode::Auto, World { transport: Some(transport), ..world() })
}

pub fn invalid_context(problems: &[&str], data_dir: Option<&Path>) -> Context {
    let settings = Settings::Invalid {
        problems: problems.iter().map(|problem| (*problem).to_owned()).collect(),
        data_dir: data_dir.map(Path::to_owned),
        tmp_dir: None,
    };
    Context::new(settings, Asked::default(), world())
}

/// The outcome of one check; a check that cannot run fails the test.
pub fn look(check: &dyn Check, context: &Context) -> Outcome {
    check.run(context, &Pulse::default()).expect("the check runs")
}

/// A store in this data dir, open for writing.
pub fn store(data_dir: &Path) -> Store {
    let config = config(data_dir);
    let options = StoreOptions {
        layout: Layout::new(&config.data_dir, &config.tmp_dir),
        tenant_id: config.tenant_id,
        instance_id: InstanceId([1; 16]),
        durability: config.durability,
        inline_max_bytes: config.inline_max_bytes,
        read_cache_bytes: config.metadata_store_read_cache_bytes,
        open_files_max: config.metadata_store_max_open_files,
        clock: world().clock,
        rng: Arc::new(SeededRng::new(1)),
        disk: Arc::new(RealDisk),
        executor: Arc::new(InlineExecutor),
    };
    Store::open(options).expect("a store opens").0
}

/// A put of a body inside the index.
pub fn small_put(key: &str, body: &[u8]) -> Operation {
    let name = ArtifactKey { producer: "xcode".into(), namespace: "ios".into(), key: key.into() };
    let content = StagedContent::Inline(Bytes::copy_from_slice(body));
    Operation::Put(Box::new(Put {
        name,
        kind: Kind::Blob,
        content_type: "application/octet-stream".into(),
        attributes: BTreeMap::new(),
        carried: Carried::default(),
        body: StagedBody { length: body.len() as u64, digest: Digest::of(body), sha256: None, content },
        origin: PutOrigin::Local(PutMode::LastWriterWins),
    }))
}

/// Everything below a folder: name, size, mode and time of change.
pub fn listing(folder: &Path) -> Vec<(std::path::PathBuf, u64, u32, std::time::SystemTime)> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let about = path.symlink_metadata().expect("metadata");
        found.push((path.clone(), about.len(), about.mode(), about.modified().expect("a time")));
        if about.is_dir() {
            found.extend(listing(&path));
        }
    }
    found.sort();
    found
}
