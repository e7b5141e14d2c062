//! Measures what the inline threshold costs and buys: put and get rates and space, by threshold and by body size.
//!
//! How it works: a store on the volume of the given folder takes artifacts from many writers at once through the same
//! staging and committer as a node, then is read at random, then every second artifact is replaced. The figures are
//! printed as the tables of `docs/performance.md`. Space is what the volume allocates, by bytes stored, without the
//! index's logs.
//!
//! Usage: `cargo run --release --example inline_threshold -- FOLDER [ARTIFACTS] [ROUNDS]`

#![expect(clippy::print_stdout, reason = "the tables are the result")]
#![expect(clippy::expect_used, reason = "a failed measurement has no result")]

use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kura::core::base::clock::SystemClock;
use kura::core::base::disk::{Disk, RealDisk};
use kura::core::base::executor::{StoreExecutor, ThreadExecutor};
use kura::core::base::ids::InstanceId;
use kura::core::base::rng::{Rng, RngExt, SeededRng, SystemRng};
use kura::core::config::Durability;
use kura::core::data_dir::layout::{Layout, ensure_directories};
use kura::core::staging::area::{AreaKind, Staging, StagingOptions};
use kura::core::staging::body_writer::BodySpec;
use kura::core::staging::budget::BudgetClass;
use kura::core::store::committer::{Carried, Operation, Put, PutMode, PutOrigin};
use kura::core::store::record::{ArtifactKey, Kind};
use kura::core::store::store_handle::StoreHandle;
use kura::core::store::{OpenBody, Store, StoreOptions};

const THRESHOLDS_KIB: [u64; 5] = [1, 4, 16, 64, 256];
const SIZES: [usize; 6] = [512, 2 << 10, 8 << 10, 32 << 10, 64 << 10, 128 << 10];
const WRITERS: usize = 64;
const READERS: usize = 8;

/// What one run came to.
#[derive(Debug, Clone, Copy)]
struct Figures {
    puts_per_s: f64,
    put_mib_per_s: f64,
    gets_per_s: f64,
    space: f64,
    space_after_replacing: f64,
}

struct Node {
    store: Arc<Store>,
    handle: StoreHandle,
    staging: Staging,
    layout: Layout,
}

fn open(folder: &Path, inline_max_bytes: u64) -> Node {
    let layout = Layout::with_default_tmp(folder);
    std::fs::create_dir_all(folder).expect("the folder");
    ensure_directories(&layout, &RealDisk).expect("folders");
    let executor: Arc<dyn StoreExecutor> = Arc::new(ThreadExecutor::new(tokio::runtime::Handle::current(), 16));
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let options = StoreOptions {
        layout: layout.clone(),
        tenant_id: "default".into(),
        instance_id: InstanceId(SystemRng.bytes()),
        durability: Durability::Power,
        inline_max_bytes,
        read_cache_bytes: 32 << 20,
        open_files_max: 512,
        clock: Arc::new(SystemClock::default()),
        rng: Arc::new(SystemRng),
        disk: Arc::clone(&disk),
        executor: Arc::clone(&executor),
    };
    let store = Arc::new(Store::open(options).expect("a store").0);
    let handle = StoreHandle::new(Arc::clone(&executor));
    handle.set(Some(Arc::clone(&store)));
    let staging_options =
        StagingOptions { budget_bytes: 4 << 30, inline_max_bytes, client_wait: Duration::from_secs(60) };
    let staging = Staging::new(&layout, disk, executor, staging_options);
    Node { store, handle, staging, layout }
}

fn key(n: usize) -> ArtifactKey {
    ArtifactKey { producer: "gradle".into(), namespace: "bench".into(), key: format!("{n:08}") }
}

async fn put(node: &Node, n: usize, body: Bytes) {
    let spec = BodySpec {
        area: AreaKind::Uploads,
        class: BudgetClass::Client,
        length: Some(body.len() as u64),
        length_max: 1 << 30,
        sha256: false,
    };
    let mut writer = node.staging.begin(spec).await.expect("room");
    writer.write(body).await.expect("a write");
    let put = Put {
        name: key(n),
        kind: Kind::Blob,
        content_type: "application/octet-stream".into(),
        attributes: BTreeMap::new(),
        carried: Carried::default(),
        body: writer.finish().await.expect("a body"),
        origin: PutOrigin::Local(PutMode::LastWriterWins),
    };
    node.handle.commit(Operation::Put(Box::new(put))).await.expect("a commit");
}

async fn get(node: &Node, n: usize) -> usize {
    let id = key(n).artifact_id("default");
    let read = node.handle.call(move |store| {
        let record = store.lookup(&id)?.expect("an artifact");
        Ok(match store.open_body(&record)?.expect("a body") {
            OpenBody::Inline(bytes) => bytes.len(),
            OpenBody::File(file) => {
                let mut bytes = vec![0; usize::try_from(file.length).unwrap_or(0)];
                file.file.read_exact_at(&mut bytes, 0).expect("the bytes");
                bytes.len()
            }
        })
    });
    read.await.expect("a read")
}

/// Runs `work` for 0..count with so many at a time.
async fn in_parallel<F>(node: &Arc<Node>, count: usize, at_once: usize, work: impl Fn(Arc<Node>, usize) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut running = tokio::task::JoinSet::new();
    for n in 0..count {
        if running.len() >= at_once {
            running.join_next().await;
        }
        running.spawn(work(Arc::clone(node), n));
    }
    while running.join_next().await.is_some() {}
}

/// Bytes that do not compress, as build outputs mostly do not.
fn content(rng: &SeededRng, size: usize) -> Bytes {
    let mut bytes = vec![0; size];
    rng.fill(&mut bytes);
    bytes.into()
}

fn allocated_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("a listing").filter_map(Result::ok);
    // The logs are preallocated and of a fixed size whatever is stored.
    let counted = entries.filter(|entry| entry.path().extension().is_none_or(|extension| extension != "log"));
    counted
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => found.blocks() * 512 + allocated_bytes(&entry.path()),
            Ok(found) => found.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

async fn measure(folder: &Path, threshold: u64, sizes: &[usize]) -> Figures {
    let _ = std::fs::remove_dir_all(folder);
    let node = Arc::new(open(folder, threshold));
    let rng = SeededRng::new(7);
    let bodies: Arc<Vec<Bytes>> = Arc::new(sizes.iter().map(|size| content(&rng, *size)).collect());
    let total: usize = sizes.iter().sum();

    let started = Instant::now();
    let source = Arc::clone(&bodies);
    in_parallel(&node, sizes.len(), WRITERS, move |node, n| {
        let body = source.get(n).cloned().unwrap_or_default();
        async move { put(&node, n, body).await }
    })
    .await;
    let put_s = started.elapsed().as_secs_f64();

    let order: Arc<Vec<usize>> = Arc::new((0..sizes.len() * 2).map(|_| pick(&rng, sizes.len())).collect());
    let reads = order.len();
    let started = Instant::now();
    in_parallel(&node, reads, READERS, move |node, n| {
        let at = order.get(n).copied().unwrap_or(0);
        async move {
            get(&node, at).await;
        }
    })
    .await;
    let get_s = started.elapsed().as_secs_f64();

    tokio::task::block_in_place(|| node.store.close().expect("a close"));
    let live = allocated_bytes(node.layout.data_dir());
    drop(node);
    let node = Arc::new(open(folder, threshold));
    in_parallel(&node, sizes.len() / 2, WRITERS, move |node, n| {
        let body = bodies.get(n * 2).cloned().unwrap_or_default();
        async move { put(&node, n * 2, body).await }
    })
    .await;
    tokio::task::block_in_place(|| node.store.close().expect("a close"));
    let replaced = allocated_bytes(node.layout.data_dir());
    let _ = std::fs::remove_dir_all(folder);
    let count = sizes.len() as f64;
    Figures {
        puts_per_s: count / put_s,
        put_mib_per_s: total as f64 / put_s / f64::from(1 << 20),
        gets_per_s: reads as f64 / get_s,
        space: live as f64 / total as f64,
        space_after_replacing: replaced as f64 / total as f64,
    }
}

fn pick(rng: &SeededRng, bound: usize) -> usize {
    usize::try_from(rng.below(bound as u64)).unwrap_or(0)
}

/// Sizes as a build cache sees them: log-uniform from 100 B to 1 MiB.
fn mixed_sizes(count: usize) -> Vec<usize> {
    let rng = SeededRng::new(3);
    let (low, high) = (100.0_f64.ln(), f64::from(1 << 20).ln());
    let draw = |_| (low + (high - low) * (rng.below(1 << 20) as f64 / f64::from(1 << 20))).exp();
    (0..count).map(draw).map(|size| size as usize).collect()
}

/// The run with the median put rate.
async fn median(folder: &Path, threshold: u64, sizes: &[usize], rounds: usize) -> Figures {
    let mut runs = Vec::new();
    for _ in 0..rounds {
        runs.push(measure(folder, threshold, sizes).await);
    }
    runs.sort_by(|one, two| one.puts_per_s.total_cmp(&two.puts_per_s));
    runs.get(runs.len() / 2).copied().expect("a round")
}

fn row(name: &str, figures: Figures) {
    let Figures { puts_per_s, put_mib_per_s, gets_per_s, space, space_after_replacing } = figures;
    println!(
        "| {name} | {puts_per_s:.0} | {put_mib_per_s:.0} | {gets_per_s:.0} | {space:.2} | {space_after_replacing:.2} |"
    );
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |at: usize, default| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    let root = arguments.get(1).expect("the folder to measure in");
    let (count, rounds) = (number(2, 3000), number(3, 3));
    let folder = Path::new(root).join("inline-threshold-bench");
    let heads = "puts/s | put MiB/s | gets/s | space | space after replacing half |\n|---|---|---|---|---|---|";
    println!("{count} artifacts of 100 B to 1 MiB, log-uniform\n\n| threshold | {heads}");
    let mixed = mixed_sizes(count);
    for threshold in THRESHOLDS_KIB {
        row(&format!("{threshold} KiB"), median(&folder, threshold << 10, &mixed, rounds).await);
    }
    println!("\n{count} artifacts of one size\n\n| size, place | {heads}");
    for size in SIZES {
        let sizes = vec![size; count];
        row(&format!("{size} B, inline"), median(&folder, size as u64, &sizes, rounds).await);
        row(&format!("{size} B, file"), median(&folder, size as u64 - 1, &sizes, rounds).await);
    }
}
