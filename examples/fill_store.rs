//! Fills the store of a data dir with many small artifacts of random bytes, as fast as the committer takes them.
//!
//! Usage: `cargo run --release --example fill_store -- DATA_DIR COUNT BYTES [FIRST]`; keys are numbered from FIRST on.

#![expect(clippy::print_stdout, reason = "it says what it did")]
#![expect(clippy::expect_used, reason = "a fill that failed is of no use")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use kura::core::base::clock::{Clock, SystemClock};
use kura::core::base::disk::RealDisk;
use kura::core::base::executor::ThreadExecutor;
use kura::core::base::ids::{Digest, InstanceId};
use kura::core::base::rng::{Rng, RngExt, SeededRng, SystemRng};
use kura::core::config::Durability;
use kura::core::data_dir::layout::{Layout, create_data_dir, ensure_directories};
use kura::core::staging::body_writer::{StagedBody, StagedContent};
use kura::core::store::committer::{Carried, Put, PutMode, PutOrigin};
use kura::core::store::record::{ArtifactKey, Kind};
use kura::core::store::store_handle::StoreHandle;
use kura::core::store::{Store, StoreOptions};

/// Puts handed in at a time.
const BATCH: u64 = 1024;

struct Asked {
    data_dir: PathBuf,
    count: u64,
    bytes: usize,
    first: u64,
}

fn asked() -> Asked {
    let mut arguments = std::env::args().skip(1);
    let data_dir = PathBuf::from(arguments.next().expect("DATA_DIR"));
    let count = arguments.next().and_then(|text| text.parse().ok()).expect("COUNT");
    let bytes = arguments.next().and_then(|text| text.parse().ok()).expect("BYTES");
    let first = arguments.next().map_or(0, |text| text.parse().expect("FIRST"));
    Asked { data_dir, count, bytes, first }
}

fn open(data_dir: &std::path::Path, executor: Arc<ThreadExecutor>) -> Arc<Store> {
    let layout = Layout::with_default_tmp(data_dir);
    if !data_dir.exists() {
        create_data_dir(&layout, &RealDisk).expect("a data dir");
    }
    let layout = ensure_directories(&layout, &RealDisk).expect("its folders").layout;
    let (store, _) = Store::open(StoreOptions {
        layout,
        tenant_id: "default".to_owned(),
        instance_id: InstanceId(SystemRng.bytes()),
        durability: Durability::Process,
        inline_max_bytes: 32 << 10,
        read_cache_bytes: 64 << 20,
        open_files_max: 512,
        clock: Arc::new(SystemClock::default()),
        rng: Arc::new(SystemRng),
        disk: Arc::new(RealDisk),
        executor,
    })
    .expect("a store");
    Arc::new(store)
}

fn put(number: u64, bytes: usize, random: &SeededRng) -> Put {
    let mut body = vec![0; bytes];
    random.fill(&mut body);
    let digest = Digest::of(&body);
    let content = StagedContent::Inline(Bytes::from(body));
    Put {
        name: ArtifactKey { producer: "metro".to_owned(), namespace: "metro".to_owned(), key: format!("{number:08x}") },
        kind: Kind::Blob,
        content_type: "application/octet-stream".to_owned(),
        attributes: BTreeMap::new(),
        carried: Carried::default(),
        body: StagedBody { length: bytes as u64, digest, sha256: None, content },
        origin: PutOrigin::Local(PutMode::LastWriterWins),
    }
}

fn main() {
    let asked = asked();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let executor = Arc::new(ThreadExecutor::new(runtime.handle().clone(), 4));
    let store = open(&asked.data_dir, executor.clone());
    let handle = StoreHandle::new(executor);
    handle.set(Some(Arc::clone(&store)));
    let random = SeededRng::new(SystemClock::default().now_ms());
    let started = Instant::now();
    runtime.block_on(async {
        let mut next = asked.first;
        let end = asked.first + asked.count;
        while next < end {
            let until = (next + BATCH).min(end);
            let puts = (next..until).map(|number| put(number, asked.bytes, &random)).collect();
            let outcomes = handle.commit_replicated(puts).await.expect("a store that takes writes");
            outcomes.into_iter().for_each(|outcome| drop(outcome.expect("a put")));
            next = until;
        }
    });
    handle.set(None);
    store.close().expect("a clean stop");
    println!("{} artifacts of {} bytes in {:?}", asked.count, asked.bytes, started.elapsed());
}
