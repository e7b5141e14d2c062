//! The store through its public face: what is put is read back, what is deleted stays deleted, and a reopen changes
//! nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::committer::{Carried, CommitOutcome, Operation, Put, PutMode, PutOrigin};
use super::record::{ArtifactKey, Kind};
use super::walk::{CursorCheck, FeedRequest, FeedRow, ManifestPageRequest};
use super::*;
use crate::core::base::clock::{Clock as _, ManualClock};
use crate::core::base::disk::{Disk, RealDisk};
use crate::core::base::executor::{InlineExecutor, StoreExecutor, ThreadExecutor};
use crate::core::base::ids::{ArtifactId, Digest, InstanceId, Seq, StoreId};
use crate::core::base::rng::SeededRng;
use crate::core::config::Durability;
use crate::core::data_dir::layout::Layout;
use crate::core::staging::body_writer::{StagedBody, StagedContent};
use crate::core::store::record::Record;

pub(super) const NOW_MS: u64 = 1_750_000_000_000;

/// A data dir with the seams of a simulation; each open draws from the same generator.
pub(super) struct Bench {
    pub(super) root: tempfile::TempDir,
    pub(super) clock: Arc<ManualClock>,
    pub(super) rng: Arc<SeededRng>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) executor: Arc<dyn StoreExecutor>,
    pub(super) durability: Durability,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::on(Arc::new(RealDisk))
    }

    pub(super) fn on(disk: Arc<dyn Disk>) -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            clock: Arc::new(ManualClock::at(NOW_MS)),
            rng: Arc::new(SeededRng::new(1)),
            disk,
            executor: Arc::new(InlineExecutor),
            durability: Durability::Power,
        }
    }

    pub(super) fn layout(&self) -> Layout {
        Layout::with_default_tmp(self.root.path())
    }

    pub(super) fn options(&self) -> StoreOptions {
        StoreOptions {
            layout: self.layout(),
            tenant_id: "default".into(),
            instance_id: InstanceId([1; 16]),
            durability: self.durability,
            inline_max_bytes: 1024,
            read_cache_bytes: 1 << 20,
            open_files_max: 256,
            clock: self.clock.clone(),
            rng: self.rng.clone(),
            disk: self.disk.clone(),
            executor: self.executor.clone(),
        }
    }

    pub(super) fn open(&self) -> Store {
        Store::open(self.options()).unwrap().0
    }
}

pub(super) fn name(namespace: &str, key: &str) -> ArtifactKey {
    ArtifactKey { producer: "xcode".into(), namespace: namespace.into(), key: key.into() }
}

pub(super) fn id(namespace: &str, key: &str) -> ArtifactId {
    name(namespace, key).artifact_id("default")
}

pub(super) fn put(namespace: &str, key: &str, body: &[u8], origin: PutOrigin) -> Operation {
    let body = StagedBody {
        length: body.len() as u64,
        digest: Digest::of(body),
        sha256: None,
        content: StagedContent::Inline(Bytes::copy_from_slice(body)),
    };
    Operation::Put(Box::new(Put {
        name: name(namespace, key),
        kind: Kind::Blob,
        content_type: "application/octet-stream".into(),
        attributes: BTreeMap::new(),
        carried: Carried::default(),
        body,
        origin,
    }))
}

pub(super) fn local(namespace: &str, key: &str, body: &[u8]) -> Operation {
    put(namespace, key, body, PutOrigin::Local(PutMode::LastWriterWins))
}

pub(super) fn replicated(namespace: &str, key: &str, body: &[u8], version_ms: u64) -> Operation {
    let origin = StoreId([9; 16]);
    put(namespace, key, body, PutOrigin::Replicated { version_ms, logical: 0, created_at_ms: version_ms, origin })
}

pub(super) fn delete(namespace: &str, version_ms: Option<u64>) -> Operation {
    Operation::DeleteNamespace { namespace: namespace.into(), version_ms }
}

pub(super) fn applied(store: &Store, operation: Operation) -> Record {
    match store.submit(operation).wait().unwrap() {
        CommitOutcome::Applied(record) => *record,
        other => panic!("not applied: {other:?}"),
    }
}

pub(super) fn outcome(store: &Store, operation: Operation) -> CommitOutcome {
    store.submit(operation).wait().unwrap()
}

pub(super) fn body(store: &Store, namespace: &str, key: &str) -> Option<Vec<u8>> {
    let record = store.lookup(&id(namespace, key)).unwrap()?;
    match store.open_body(&record).unwrap()? {
        OpenBody::Inline(bytes) => Some(bytes.to_vec()),
        OpenBody::File(file) => {
            use std::os::unix::fs::FileExt as _;
            let mut bytes = vec![0; file.length as usize];
            file.file.read_exact_at(&mut bytes, 0).unwrap();
            Some(bytes)
        }
    }
}

fn everything() -> ManifestPageRequest {
    ManifestPageRequest { after: None, prefix: String::new(), rows_max: 1000, producers: &[] }
}

fn feed(after: Seq) -> FeedRequest {
    FeedRequest { after, up_to: None, rows_max: 1000, bytes_max: 1 << 20, inline_up_to: 16 << 10 }
}

#[test]
fn what_is_put_is_read_back_after_a_clean_and_after_an_unclean_stop() {
    let bench = Bench::new();
    let (store, report) = Store::open(bench.options()).unwrap();
    assert!(report.created && !report.unclean);
    let record = applied(&store, local("ios", "a", b"one"));
    assert_eq!((record.version_ms, record.seq, record.size), (NOW_MS, Seq(1), 3));
    assert_eq!(body(&store, "ios", "a").unwrap(), b"one");
    store.close().unwrap();
    drop(store);
    let (store, report) = Store::open(bench.options()).unwrap();
    assert!(!report.created && !report.unclean);
    assert_eq!(body(&store, "ios", "a").unwrap(), b"one");
    applied(&store, local("ios", "b", b"two"));
    drop(store);
    let (store, report) = Store::open(bench.options()).unwrap();
    assert!(report.unclean);
    assert_eq!(store.lookup(&id("ios", "a")).unwrap().unwrap(), record);
    assert_eq!(body(&store, "ios", "b").unwrap(), b"two");
    assert_eq!((store.stats().artifacts, store.stats().body_bytes, store.stats().head_seq), (2, 6, Seq(2)));
}

#[test]
fn a_thread_commits_groups_and_everybody_is_answered() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut bench = Bench::new();
    bench.executor = Arc::new(ThreadExecutor::new(runtime.handle().clone(), 4));
    let store = Arc::new(bench.open());
    let handle = store_handle::StoreHandle::new(bench.executor.clone());
    handle.set(Some(store.clone()));
    runtime.block_on(async {
        let puts = (0..200).map(|n| handle.commit(local("ios", &format!("k{n}"), format!("body {n}").as_bytes())));
        let outcomes = futures_util::future::join_all(puts).await;
        assert!(outcomes.into_iter().all(|outcome| matches!(outcome, Ok(CommitOutcome::Applied(_)))));
    });
    assert_eq!((store.stats().artifacts, *store.head().borrow()), (200, Seq(200)));
    let feed = store.feed_page(&feed(Seq(0))).unwrap();
    assert_eq!((feed.rows.len(), feed.next, feed.head_seq), (200, Seq(200), Seq(200)));
    handle.set(None);
    store.close().unwrap();
    assert!(matches!(store.submit(local("ios", "late", b"x")).wait(), Err(error::StoreError::NotOpen)));
}

#[test]
fn a_write_once_artifact_stays_and_a_later_write_wins_otherwise() {
    let bench = Bench::new();
    let store = bench.open();
    let first = applied(&store, local("ios", "a", b"one"));
    let again = outcome(&store, put("ios", "a", b"two", PutOrigin::Local(PutMode::WriteOnce)));
    assert_eq!(again, CommitOutcome::AlreadyPresent(Box::new(first.clone())));
    let second = applied(&store, local("ios", "a", b"two"));
    assert_eq!((second.version_ms, second.seq), (first.version_ms + 1, Seq(2)));
    assert_eq!(body(&store, "ios", "a").unwrap(), b"two");
    assert_eq!((store.stats().artifacts, store.stats().body_bytes), (1, 3));
    let rows = store.feed_page(&feed(Seq(0))).unwrap().rows;
    assert!(matches!(rows.as_slice(), [FeedRow::Put(record, Some(body))] if record.seq == Seq(2) && body == "two"));
}

#[test]
fn a_tombstone_beats_an_older_manifest_in_either_order_and_spares_a_newer_one() {
    for delete_first in [true, false] {
        let bench = Bench::new();
        let store = bench.open();
        if delete_first {
            assert_eq!(outcome(&store, delete("ios", Some(200))), CommitOutcome::Deleted { version_ms: 200 });
            assert_eq!(outcome(&store, replicated("ios", "a", b"old", 100)), CommitOutcome::Tombstoned);
            applied(&store, replicated("ios", "b", b"new", 201));
        } else {
            applied(&store, replicated("ios", "a", b"old", 100));
            applied(&store, replicated("ios", "b", b"new", 201));
            applied(&store, replicated("", "a", b"other", 100));
            assert_eq!(outcome(&store, delete("ios", Some(200))), CommitOutcome::Deleted { version_ms: 200 });
            assert_eq!(body(&store, "", "a").unwrap(), b"other");
        }
        assert_eq!(store.lookup(&id("ios", "a")).unwrap(), None);
        assert_eq!(body(&store, "ios", "b").unwrap(), b"new");
        assert_eq!(outcome(&store, delete("ios", Some(200))), CommitOutcome::DeleteIgnored);
        assert_eq!(outcome(&store, delete("ios", Some(150))), CommitOutcome::DeleteIgnored);
        let page = store.tombstone_page(None, 10).unwrap();
        assert_eq!((page.tombstones.len(), page.tombstones[0].version_ms, page.next_after), (1, 200, None));
        let log = tombstone_log::read(&bench.layout().tombstones_log()).unwrap();
        assert_eq!(log, [("ios".to_owned(), 200)]);
    }
}

#[test]
fn a_delete_asked_for_here_takes_what_was_stamped_ahead_of_the_clock() {
    let bench = Bench::new();
    let store = bench.open();
    applied(&store, local("ios", "a", b"one"));
    let second = applied(&store, local("ios", "a", b"two"));
    assert_eq!(second.version_ms, NOW_MS + 1);
    assert_eq!(outcome(&store, delete("ios", None)), CommitOutcome::Deleted { version_ms: NOW_MS + 1 });
    assert_eq!(store.lookup(&id("ios", "a")).unwrap(), None);
    assert_eq!((store.stats().artifacts, store.stats().body_bytes), (0, 0));
    let third = applied(&store, local("ios", "a", b"three"));
    assert_eq!(third.version_ms, NOW_MS + 2);
    assert_eq!(outcome(&store, delete("ios", None)), CommitOutcome::Deleted { version_ms: NOW_MS + 2 });
}

#[test]
fn equal_versions_are_decided_by_the_higher_digest_on_every_node() {
    let bodies = [b"x".as_slice(), b"y"];
    let winner = bodies.iter().max_by_key(|body| Digest::of(body)).unwrap();
    for order in [[0, 1], [1, 0]] {
        let bench = Bench::new();
        let store = bench.open();
        for at in order {
            outcome(&store, replicated("ios", "a", bodies[at], 100));
        }
        assert_eq!(body(&store, "ios", "a").unwrap(), *winner);
    }
}

#[test]
fn a_version_far_ahead_is_refused_and_a_chain_of_local_writes_stays_within_the_bound() {
    let bench = Bench::new();
    let store = bench.open();
    let bound = NOW_MS + crate::core::base::limits::CLOCK_SKEW_MAX_MS;
    let refused = outcome(&store, replicated("ios", "a", b"x", bound + 1));
    assert_eq!(refused, CommitOutcome::ClockSkew { version_ms: bound + 1 });
    assert_eq!(outcome(&store, delete("ios", Some(bound + 1))), CommitOutcome::ClockSkew { version_ms: bound + 1 });
    applied(&store, replicated("ios", "a", b"x", bound));
    for logical in 1..4 {
        let record = applied(&store, local("ios", "a", b"mine"));
        assert_eq!((record.version_ms, record.logical), (bound, logical));
    }
}

#[test]
fn a_newer_version_of_the_same_bytes_is_adopted_without_a_body() {
    let bench = Bench::new();
    let store = bench.open();
    let first = applied(&store, replicated("ios", "a", b"same", 100));
    let offered = Record { version_ms: 150, body: None, seq: Seq(0), ..first.clone() };
    assert_eq!(store.wants(&offered).unwrap(), Wants::Adopt);
    let CommitOutcome::Applied(adopted) = outcome(&store, Operation::AdoptVersion(Box::new(offered.clone()))) else {
        panic!("not adopted")
    };
    assert_eq!((adopted.version_ms, adopted.seq, adopted.body), (150, Seq(2), first.body));
    assert_eq!(body(&store, "ios", "a").unwrap(), b"same");
    assert_eq!(store.wants(&offered).unwrap(), Wants::AlreadyHere);
    assert!(matches!(outcome(&store, Operation::AdoptVersion(Box::new(offered.clone()))), CommitOutcome::Stale(_)));
    let other = Record { digest: Digest([0; 32]), version_ms: 200, ..offered.clone() };
    assert_eq!(store.wants(&other).unwrap(), Wants::Fetch);
    assert_eq!(outcome(&store, Operation::AdoptVersion(Box::new(other))), CommitOutcome::BodyNeeded);
    let absent = Record { name: name("ios", "absent"), ..offered };
    assert_eq!(outcome(&store, Operation::AdoptVersion(Box::new(absent))), CommitOutcome::BodyNeeded);
    assert_eq!((store.stats().artifacts, store.stats().body_bytes), (1, 4));
}

#[test]
fn manifest_pages_walk_in_id_order_with_prefix_cursor_and_producers() {
    let bench = Bench::new();
    let store = bench.open();
    for n in 0..50 {
        applied(&store, local("ios", &format!("k{n}"), b"x"));
    }
    let all = store.manifest_page(&everything()).unwrap();
    assert_eq!((all.records.len(), all.next_after), (50, None));
    let ids: Vec<_> = all.records.iter().map(|record| record.name.artifact_id("default")).collect();
    assert!(ids.is_sorted());
    let (mut walked, mut after) = (Vec::new(), None);
    loop {
        let page = store.manifest_page(&ManifestPageRequest { after, rows_max: 7, ..everything() }).unwrap();
        walked.extend(page.records.iter().map(|record| record.name.artifact_id("default")));
        match page.next_after {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(walked, ids);
    for prefix in ["a", "0", "5f", "ff0"] {
        let page = store.manifest_page(&ManifestPageRequest { prefix: prefix.into(), ..everything() }).unwrap();
        let expected = ids.iter().filter(|id| id.to_string().starts_with(prefix)).count();
        assert_eq!(page.records.len(), expected, "prefix {prefix}");
    }
    let page = store.manifest_page(&ManifestPageRequest { producers: &["gradle"], ..everything() }).unwrap();
    assert!(page.records.is_empty());
}

#[test]
fn the_seed_eras_digest_matches_the_recorded_vector() {
    let bench = Bench::new();
    let store = bench.open();
    applied(&store, replicated("ios", "blob/artifact-1", b"x", 1_750_000_000_000));
    let buckets = store.digest_v1(3, &["xcode"]).unwrap();
    assert_eq!(buckets.len(), 1);
    assert_eq!((buckets[0].prefix.as_str(), buckets[0].count), ("81d", 1));
    assert_eq!(buckets[0].hash, "73bfa658d5f42f9094325f05d5ff09ef3a6a4ca0c93ed38bf5a3c63bc6553a0a");
    assert!(store.digest_v1(3, &["gradle"]).unwrap().is_empty());
}

#[test]
fn feed_pages_are_bounded_and_never_pass_the_head_or_the_asked_end() {
    let bench = Bench::new();
    let store = bench.open();
    for n in 0..20 {
        applied(&store, local("ios", &format!("k{n}"), &[7; 100]));
    }
    let by_rows = store.feed_page(&FeedRequest { rows_max: 3, ..feed(Seq(0)) }).unwrap();
    assert_eq!((by_rows.rows.len(), by_rows.next, by_rows.head_seq), (3, Seq(3), Seq(20)));
    let by_bytes = store.feed_page(&FeedRequest { bytes_max: 1, ..feed(Seq(5)) }).unwrap();
    assert_eq!((by_bytes.rows.len(), by_bytes.next), (1, Seq(6)));
    let up_to = store.feed_page(&FeedRequest { up_to: Some(Seq(10)), ..feed(Seq(8)) }).unwrap();
    assert_eq!((up_to.rows.len(), up_to.next), (2, Seq(10)));
    let end = store.feed_page(&feed(Seq(20))).unwrap();
    assert_eq!((end.rows.len(), end.next), (0, Seq(20)));
    let beyond = store.feed_page(&feed(Seq(99))).unwrap();
    assert_eq!((beyond.rows.len(), beyond.next), (0, Seq(99)));
    let no_bodies = store.feed_page(&FeedRequest { inline_up_to: 99, ..feed(Seq(19)) }).unwrap();
    assert!(matches!(no_bodies.rows.as_slice(), [FeedRow::Put(_, None)]));
}

#[test]
fn cursors_hold_within_an_epoch_clamp_at_the_next_and_void_elsewhere() {
    let bench = Bench::new();
    let store = bench.open();
    applied(&store, local("ios", "a", b"x"));
    let first = store.stats().epoch;
    assert_eq!(store.check_cursor(first, Seq(1)).unwrap(), CursorCheck::Valid(Seq(1)));
    assert_eq!(store.check_cursor(first, Seq(2)).unwrap(), CursorCheck::Void);
    drop(store);
    let store = bench.open();
    applied(&store, local("ios", "b", b"x"));
    let second = store.stats().epoch;
    assert_ne!(first, second);
    assert_eq!(store.check_cursor(first, Seq(1)).unwrap(), CursorCheck::Valid(Seq(1)));
    // The first epoch may have numbered a row 2 that was lost; the second numbered it anew.
    assert_eq!(store.check_cursor(first, Seq(2)).unwrap(), CursorCheck::Clamped(Seq(1)));
    assert_eq!(store.check_cursor(second, Seq(2)).unwrap(), CursorCheck::Valid(Seq(2)));
    let unknown = crate::core::base::ids::Epoch([9; 8]);
    assert_eq!(store.check_cursor(unknown, Seq(0)).unwrap(), CursorCheck::Void);
}

#[test]
fn another_tenant_is_refused_and_read_only_needs_a_store() {
    let bench = Bench::new();
    assert!(Store::open_read_only(bench.options()).is_err());
    assert_eq!(std::fs::read_dir(bench.root.path()).unwrap().count(), 0);
    bench.open().close().unwrap();
    let options = StoreOptions { tenant_id: "other".into(), ..bench.options() };
    assert!(matches!(Store::open(options), Err(error::StoreError::Incompatible { .. })));
    let _ = bench.clock.now_ms();
}

#[test]
fn what_a_peers_record_carries_is_kept_and_handed_on() {
    let bench = Bench::new();
    let store = bench.open();
    let Operation::Put(mut put) = replicated("ios", "k", b"body", NOW_MS) else { panic!("a put") };
    put.carried = Carried { flags: 6, expires_at_ms: Some(NOW_MS + 60_000), unknown: vec![(200, b"later".to_vec())] };
    let carried = put.carried.clone();
    assert!(matches!(store.submit(Operation::Put(put)).wait().unwrap(), CommitOutcome::Applied(_)));
    let record = store.lookup(&id("ios", "k")).unwrap().unwrap();
    let Record { flags, expires_at_ms, unknown, .. } = record;
    assert_eq!(Carried { flags, expires_at_ms, unknown }, carried);
}
