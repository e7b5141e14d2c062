//! Passes over a peer of the seed era that lives in memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use futures_util::FutureExt;

use super::*;
use crate::core::base::clock::{Clock, ManualClock};
use crate::core::base::disk::RealDisk;
use crate::core::base::executor::InlineExecutor;
use crate::core::base::ids::{ArtifactId, InstanceId};
use crate::core::base::rng::SeededRng;
use crate::core::bootstrap::engine::PeerSource;
use crate::core::bootstrap::metrics::CatchUpMetrics;
use crate::core::bootstrap::plan::{Action, PlannedItem};
use crate::core::bootstrap::progress::{NoProgress, RecordedProgress};
use crate::core::bootstrap::settle::bootstrap_artifact_from_peer;
use crate::core::bootstrap::source::SourceRow;
use crate::core::config::Durability;
use crate::core::data_dir::layout::{Layout, create_data_dir, ensure_directories};
use crate::core::mesh::client::PeerClient;
use crate::core::mesh::memory_transport::{LinkFault, MemoryTransport};
use crate::core::staging::area::{AreaKind, Staging, StagingOptions};
use crate::core::store::store_handle::StoreHandle;
use crate::core::store::wanted::WantedReason;
use crate::core::store::{Store, StoreOptions};
use crate::core::telemetry::metrics::MetricsRegistry;

const PEER: &str = "http://seed:7443";
const NOW_MS: u64 = 1_760_000_000_000;

struct Bench {
    _root: tempfile::TempDir,
    engine: Engine,
    clock: Arc<ManualClock>,
    links: MemoryTransport,
    registry: MetricsRegistry,
}

/// The bodies a peer lists: key, what it answers, or `None` for 404.
type Bodies = Vec<(&'static str, &'static [u8])>;

fn id(key: &str) -> ArtifactId {
    ArtifactId::compute("nx", "default", "nx", key)
}

/// A peer without digest that lists these keys, each as large as its body.
fn seed_peer(bodies: Bodies, fetched: Arc<AtomicUsize>) -> Router {
    let mut rows: Vec<serde_json::Value> = bodies
        .iter()
        .map(|(key, body)| {
            serde_json::json!({
                "artifact_id": id(key).to_string(), "producer": "nx", "namespace_id": "nx", "key": key,
                "content_type": "text/plain", "size": body.len(), "version_ms": 1000, "created_at_ms": 1000,
            })
        })
        .collect();
    rows.sort_by_key(|row| row["artifact_id"].to_string());
    let page = serde_json::json!({"manifests": rows, "next_after": null});
    let artifact = move |Path(wanted): Path<String>| {
        fetched.fetch_add(1, Ordering::SeqCst);
        let body = bodies.iter().find(|(key, _)| id(key).to_string() == wanted).map(|(_, body)| *body);
        async move { body.map_or_else(|| StatusCode::NOT_FOUND.into_response(), IntoResponse::into_response) }
    };
    Router::new()
        .route("/_internal/bootstrap/manifests", get(move || async move { axum::Json(page) }))
        .route("/_internal/bootstrap/artifacts/{id}", get(artifact))
        .route(
            "/_internal/bootstrap/namespace_tombstones",
            get(|| async { axum::Json(serde_json::json!({"tombstones": [], "next_after": null})) }),
        )
}

impl Bench {
    fn new(budget_bytes: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::with_default_tmp(root.path().join("data"));
        create_data_dir(&layout, &RealDisk).unwrap();
        ensure_directories(&layout, &RealDisk).unwrap();
        let clock = Arc::new(ManualClock::at(NOW_MS));
        let rng = Arc::new(SeededRng::new(1));
        let executor = Arc::new(InlineExecutor);
        let options = StagingOptions { budget_bytes, inline_max_bytes: 1, client_wait: Duration::from_millis(1) };
        let staging = Staging::new(&layout, Arc::new(RealDisk), executor.clone(), options);
        let store = StoreHandle::new(executor.clone());
        let opened = Store::open(StoreOptions {
            layout,
            tenant_id: "default".to_owned(),
            instance_id: InstanceId([1; 16]),
            durability: Durability::Process,
            inline_max_bytes: 1,
            read_cache_bytes: 1 << 20,
            open_files_max: 64,
            clock: clock.clone(),
            rng: rng.clone(),
            disk: Arc::new(RealDisk),
            executor,
        });
        store.set(Some(Arc::new(opened.unwrap().0)));
        let (links, registry) = (MemoryTransport::new(), MetricsRegistry::new());
        let engine = Engine {
            space: crate::core::data_dir::space_watch::SpaceWatch::default(),
            client: PeerClient::new(Arc::new(links.clone()), store.clone(), "default"),
            store,
            staging,
            clock: clock.clone(),
            rng,
            metrics: CatchUpMetrics::new(&registry),
            flights: Default::default(),
            lanes: Default::default(),
            walked: Default::default(),
            circuits: Default::default(),
            concurrency: 4,
            peers: Default::default(),
            peers_replaced: Default::default(),
        };
        Self { _root: root, engine, clock, links, registry }
    }

    /// Makes requests for these keys' bodies fail so.
    fn break_bodies(&self, faults: Vec<(&'static str, LinkFault)>) {
        let fault = move |path: &str| {
            let hit = faults.iter().find(|(key, _)| path.ends_with(&id(key).to_string()));
            hit.map(|(_, fault)| fault.clone())
        };
        self.links.set_rule(Some(Arc::new(move |request| fault(&request.path_and_query))));
    }

    async fn pass(&self, progress: &dyn Progress) -> Result<PassSummary, PassError> {
        let peer = Peer { url: PEER.to_owned(), source: PeerSource::Seed };
        let engine = &self.engine;
        let pass = Pass { engine, peer: &peer, progress, log: None, dry_run: false, is_retry: false };
        bootstrap_manifests_from_peer(&pass).await
    }

    /// As `serve` does it every few seconds.
    async fn walk_again(&self) -> PassSummary {
        let peer = Peer { url: PEER.to_owned(), source: PeerSource::Seed };
        let (engine, progress) = (&self.engine, &NoProgress);
        let pass = Pass { engine, peer: &peer, progress, log: None, dry_run: false, is_retry: true };
        bootstrap_manifests_from_peer(&pass).await.unwrap()
    }

    fn store(&self) -> Arc<Store> {
        self.engine.store.current().unwrap()
    }

    fn wanted(&self) -> Vec<(ArtifactId, WantedReason)> {
        self.store().wanted_page(None, 100).unwrap().into_iter().map(|row| (row.id, row.reason)).collect()
    }

    fn staged(&self) -> usize {
        std::fs::read_dir(self.engine.staging.folder(AreaKind::Bootstrap)).unwrap().count()
    }
}

#[tokio::test(start_paused = true)]
async fn bootstrap_continues_past_a_failing_artifact_and_reports_partial() {
    let bench = Bench::new(1 << 20);
    let fetched = Arc::new(AtomicUsize::new(0));
    let peer = seed_peer(vec![("one", b"first body"), ("two", b"second body"), ("three", b"third body")], fetched);
    bench.links.attach(PEER, Some(peer));
    bench.break_bodies(vec![("two", LinkFault::Status(StatusCode::INTERNAL_SERVER_ERROR))]);
    let progress = RecordedProgress::default();

    let summary = bench.pass(&progress).await.unwrap();
    assert!(!summary.is_clean(), "the failure surfaces, for a retry");
    assert_eq!((summary.count(Outcome::Applied), summary.count(Outcome::Failed)), (2, 1));
    let here = |key: &str| bench.store().lookup(&id(key)).unwrap().is_some();
    assert!(here("one") && here("three") && !here("two"), "healthy artifacts are applied, not stranded");
    assert_eq!(bench.wanted(), [(id("two"), WantedReason::Failed)]);
    assert_eq!((bench.staged(), bench.engine.staging.reserved_bytes()), (0, 0));
    let calls = progress.0.lock().unwrap();
    assert_eq!(calls.first().unwrap(), "started http://seed:7443");
    assert_eq!(calls.last().unwrap(), "finished http://seed:7443 1 artifacts failed, 0 wait for a peer");
    let metrics = bench.registry.encode().unwrap();
    assert!(metrics.contains("kura_bootstrap_runs_total{result=\"error\"} 1"), "{metrics}");
    assert!(metrics.contains("kura_bootstrap_applied_items_total{item_type=\"artifact\"} 2"), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_lists_the_same_as_before_is_not_walked_again_however_little_of_it_is_here() {
    let bench = Bench::new(1 << 20);
    let buckets = serde_json::json!({"prefix_len": 3, "buckets": [{"prefix": "000", "count": 2, "hash": "as it was"}]});
    let digest = Router::new().route("/_internal/bootstrap/digest", get(move || async move { axum::Json(buckets) }));
    let bodies = vec![("one", &b"first body"[..]), ("two", b"second body")];
    bench.links.attach(PEER, Some(seed_peer(bodies, Arc::default()).merge(digest)));
    let listed = Arc::new(AtomicUsize::new(0));
    let (count, two) = (Arc::clone(&listed), id("two").to_string());
    bench.links.set_rule(Some(Arc::new(move |request| {
        let path = &request.path_and_query;
        path.contains("/manifests").then(|| count.fetch_add(1, Ordering::SeqCst));
        path.ends_with(&two).then_some(LinkFault::Status(StatusCode::INTERNAL_SERVER_ERROR))
    })));
    assert!(!bench.pass(&NoProgress).await.unwrap().is_clean());
    bench.links.set_rule(None);
    let counted = Arc::clone(&listed);
    bench.links.set_rule(Some(Arc::new(move |request| {
        request.path_and_query.contains("/manifests").then(|| counted.fetch_add(1, Ordering::SeqCst));
        None
    })));
    assert!(bench.pass(&NoProgress).await.unwrap().is_clean());
    assert_eq!(listed.load(Ordering::SeqCst), 2, "an unclean walk does not count");
    for _ in 0..3 {
        bench.walk_again().await;
    }
    assert_eq!(listed.load(Ordering::SeqCst), 2, "our own bucket differs, and still nothing is new");
    bench.clock.advance(Duration::from_secs(600));
    bench.walk_again().await;
    assert_eq!(listed.load(Ordering::SeqCst), 3, "now and then everything is");
}

#[tokio::test(start_paused = true)]
async fn every_way_a_body_can_fail_has_its_own_end_and_leaks_nothing() {
    let bench = Bench::new(1 << 20);
    let keys = ["refused", "cut", "stalled", "lost", "down", "whole"];
    let bodies = keys.map(|key| (key, &b"a body of some bytes"[..])).to_vec();
    bench.links.attach(PEER, Some(seed_peer(bodies, Arc::default())));
    bench.break_bodies(vec![
        ("refused", LinkFault::Status(StatusCode::SERVICE_UNAVAILABLE)),
        ("cut", LinkFault::CutBodyAfter(7)),
        ("stalled", LinkFault::StallBodyAfter(7)),
        ("lost", LinkFault::Status(StatusCode::NOT_FOUND)),
        ("down", LinkFault::Refuse),
    ]);
    let summary = bench.pass(&NoProgress).await.unwrap();
    let count = |outcome| summary.count(outcome);
    assert_eq!((count(Outcome::Applied), count(Outcome::Failed), count(Outcome::Unavailable)), (1, 3, 1));
    assert_eq!(count(Outcome::WaitingForPeer), 1);
    assert_eq!((bench.staged(), bench.engine.staging.reserved_bytes(), bench.engine.flights.count()), (0, 0, 0));
    let mut expected = vec![
        (id("refused"), WantedReason::Failed),
        (id("cut"), WantedReason::Failed),
        (id("stalled"), WantedReason::Failed),
        (id("lost"), WantedReason::Unavailable),
        (id("down"), WantedReason::WaitingForPeer),
    ];
    expected.sort_by_key(|(id, _)| *id);
    assert_eq!(bench.wanted(), expected);

    bench.links.set_rule(None);
    let summary = bench.pass(&NoProgress).await.unwrap();
    assert_eq!((summary.count(Outcome::Applied), summary.is_clean()), (5, true));
    assert_eq!(bench.wanted(), [], "what came is no longer wanted");
}

#[tokio::test(start_paused = true)]
async fn what_is_applied_is_never_fetched_again() {
    let bench = Bench::new(1 << 20);
    let fetched = Arc::new(AtomicUsize::new(0));
    bench.links.attach(PEER, Some(seed_peer(vec![("one", b"body one"), ("two", b"body two")], Arc::clone(&fetched))));
    for _ in 0..3 {
        assert!(bench.pass(&NoProgress).await.unwrap().is_clean());
    }
    assert_eq!(fetched.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_body_larger_than_the_budget_goes_alone() {
    let bench = Bench::new(16);
    let bodies = vec![("one", &b"longer than the whole budget"[..]), ("two", b"also longer than the budget")];
    bench.links.attach(PEER, Some(seed_peer(bodies, Arc::default())));
    let summary = bench.pass(&NoProgress).await.unwrap();
    assert_eq!(summary.count(Outcome::Applied), 2);
    assert_eq!(bench.engine.staging.reserved_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_pass_that_is_dropped_leaves_no_staged_byte() {
    let bench = Bench::new(1 << 20);
    bench.links.attach(PEER, Some(seed_peer(vec![("one", b"a body of some bytes")], Arc::default())));
    bench.break_bodies(vec![("one", LinkFault::StallBodyAfter(7))]);
    let mut pass = Box::pin(bench.pass(&NoProgress));
    for _ in 0..20 {
        assert!((&mut pass).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    drop(pass);
    assert_eq!((bench.staged(), bench.engine.staging.reserved_bytes(), bench.engine.flights.count()), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn wanted_artifacts_are_retried_when_due_and_only_then() {
    let bench = Bench::new(1 << 20);
    let peers = vec![Peer { url: PEER.to_owned(), source: PeerSource::Seed }];
    bench.links.attach(PEER, Some(seed_peer(vec![("one", b"a body")], Arc::default())));
    bench.break_bodies(vec![("one", LinkFault::CutBodyAfter(2))]);
    bench.pass(&NoProgress).await.unwrap();
    bench.links.set_rule(None);
    bench.engine.set_usable_peers(peers);
    let retry = || crate::core::bootstrap::retry::retry_due(&bench.engine, &NoProgress);
    assert_eq!(retry().await.unwrap(), 0, "not due yet");
    bench.clock.advance(Duration::from_secs(3));
    assert!(bench.clock.now_ms() > NOW_MS);
    assert_eq!(retry().await.unwrap(), 1);
    assert_eq!(bench.wanted(), []);
    assert!(bench.store().lookup(&id("one")).unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn passes_over_many_peers_fetch_one_artifact_once() {
    let bench = Bench::new(1 << 20);
    let fetched = Arc::new(AtomicUsize::new(0));
    let seen = Mutex::new(Vec::new());
    let urls = ["http://a", "http://b", "http://c", "http://d"];
    for url in urls {
        let bodies = vec![("one", &b"body one"[..]), ("two", b"body two")];
        bench.links.attach(url, Some(seed_peer(bodies, Arc::clone(&fetched))));
    }
    let passes = urls.map(|url| {
        let (bench, seen) = (&bench, &seen);
        async move {
            let peer = Peer { url: url.to_owned(), source: PeerSource::Seed };
            let (engine, progress) = (&bench.engine, &NoProgress);
            let pass = Pass { engine, peer: &peer, progress, log: None, dry_run: false, is_retry: false };
            let summary = bootstrap_manifests_from_peer(&pass).await.unwrap();
            seen.lock().unwrap().push(summary.count(Outcome::Applied));
        }
    });
    futures_util::future::join_all(passes).await;
    assert_eq!(seen.lock().unwrap().iter().sum::<u64>(), 2);
    assert_eq!(fetched.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_wanted_version_is_not_given_up_because_its_bytes_are_here_under_an_older_one() {
    let bench = Bench::new(1 << 20);
    bench.links.attach(PEER, Some(seed_peer(vec![("one", b"a body")], Arc::default())));
    bench.pass(&NoProgress).await.unwrap();
    let here = bench.store().lookup(&id("one")).unwrap().unwrap();
    let row = crate::core::store::wanted::Wanted {
        id: id("one"),
        version: crate::core::base::ids::Version { version_ms: 2000, ..here.version() },
        size: here.size,
        name: (here.name.producer, here.name.namespace, here.name.key),
        holders: vec![PEER.to_owned()],
        reason: WantedReason::Failed,
        error: None,
        attempts: 1,
        next_try_ms: 0,
    };
    assert!(bench.store().note_wanted(&[row]).unwrap());
    bench.engine.set_usable_peers(vec![Peer { url: PEER.to_owned(), source: PeerSource::Seed }]);
    crate::core::bootstrap::retry::retry_due(&bench.engine, &NoProgress).await.unwrap();
    assert_eq!(bench.store().lookup(&id("one")).unwrap().unwrap().version_ms, 2000);
    assert_eq!(bench.wanted(), []);
}

#[tokio::test(start_paused = true)]
async fn walking_again_leaves_what_is_wanted_to_its_own_pauses() {
    let bench = Bench::new(1 << 20);
    let fetched = Arc::new(AtomicUsize::new(0));
    bench.links.attach(PEER, Some(seed_peer(vec![("one", b"a body")], Arc::clone(&fetched))));
    bench.break_bodies(vec![("one", LinkFault::CutBodyAfter(2))]);
    bench.pass(&NoProgress).await.unwrap();
    let before = bench.store().wanted_page(None, 10).unwrap();
    for _ in 0..5 {
        let summary = bench.walk_again().await;
        assert_eq!(summary.count(Outcome::Failed), 1, "it is not settled, and says so");
    }
    assert_eq!(fetched.load(Ordering::SeqCst), 1, "no request in vain");
    assert_eq!(bench.store().wanted_page(None, 10).unwrap(), before, "and no row written");
    bench.links.set_rule(None);
    bench.clock.advance(Duration::from_secs(3));
    assert_eq!(bench.walk_again().await.count(Outcome::Applied), 1, "due again");
}

#[tokio::test(start_paused = true)]
async fn a_large_body_of_the_feed_is_noted_and_comes_beside_it() {
    let bench = Bench::new(1 << 20);
    let bodies = vec![("good", &b"a body"[..]), ("stalled", b"another body"), ("bad", b"a third one")];
    bench.links.attach(PEER, Some(seed_peer(bodies.clone(), Arc::default())));
    let faults = vec![("stalled", LinkFault::StallHead), ("bad", LinkFault::CutBodyAfter(2))];
    bench.break_bodies(faults);
    let row = |(key, body): &(&str, &[u8])| {
        let name = crate::core::store::record::ArtifactKey {
            producer: "nx".to_owned(),
            namespace: "nx".to_owned(),
            key: (*key).to_owned(),
        };
        let record = crate::core::mesh::wire::unhashed_record(name, String::new(), body.len() as u64, 1000, 1000);
        SourceRow::Artifact(Box::new(record), None)
    };
    let peer = Peer { url: PEER.to_owned(), source: PeerSource::Seed };
    let (engine, progress) = (&bench.engine, &NoProgress);
    let pass = Pass { engine, peer: &peer, progress, log: None, dry_run: false, is_retry: false };
    let mut tasks = tokio::task::JoinSet::new();
    let begun = crate::core::bootstrap::beside::fetch_beside(&pass, bodies.iter().map(row).collect(), &mut tasks);
    begun.now_or_never().expect("nothing waits for a body").unwrap();
    assert_eq!(bench.wanted().len(), 3, "the cursor may pass the rows now");
    for _ in 0..2 {
        tasks.join_next().await.unwrap().unwrap();
    }
    assert!(bench.store().lookup(&id("good")).unwrap().is_some());
    let reasons: BTreeMap<_, _> = bench.wanted().into_iter().collect();
    let expected = [(id("stalled"), WantedReason::WaitingForPeer), (id("bad"), WantedReason::Failed)];
    assert_eq!(reasons, expected.into());
    let again = bodies.iter().take(1).map(row).collect();
    crate::core::bootstrap::beside::fetch_beside(&pass, again, &mut tasks).await.unwrap();
    assert_eq!(bench.wanted().len(), 2, "what is here already is not noted");
    drop(tasks);
    tokio::task::yield_now().await;
    assert_eq!((bench.staged(), bench.engine.staging.reserved_bytes()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_version_to_be_adopted_is_fetched_if_its_bytes_went_since_the_plan_was_made() {
    let bench = Bench::new(1 << 20);
    bench.links.attach(PEER, Some(seed_peer(vec![("one", b"a body"), ("two", b"a body")], Arc::default())));
    bench.break_bodies(vec![("two", LinkFault::CutBodyAfter(2))]);
    let planned = |key: &str, body: Option<&'static [u8]>| {
        let name = crate::core::store::record::ArtifactKey {
            producer: "nx".to_owned(),
            namespace: "nx".to_owned(),
            key: key.to_owned(),
        };
        let mut record = crate::core::mesh::wire::unhashed_record(name, String::new(), 6, 1000, 1000);
        record.digest = crate::core::base::ids::Digest::of(b"a body");
        let body = body.map(bytes::Bytes::from_static);
        PlannedItem { id: id(key), record: Box::new(record), body, action: Action::Adopt }
    };
    let peer = Peer { url: PEER.to_owned(), source: PeerSource::Seed };
    let (engine, progress) = (&bench.engine, &NoProgress);
    let pass = Pass { engine, peer: &peer, progress, log: None, dry_run: false, is_retry: false };
    let settle = |item| bootstrap_artifact_from_peer(&pass, item, Duration::ZERO);
    let end = settle(planned("one", Some(b"a body"))).await.unwrap();
    assert_eq!((end.outcome, end.bytes), (Outcome::Applied, 6));
    assert!(bench.store().lookup(&id("one")).unwrap().is_some(), "or the cursor would pass what is nowhere");
    let end = settle(planned("two", None)).await.unwrap();
    assert_eq!(end.outcome, Outcome::Failed, "and if it does not come it is noted");
}

#[path = "bulk_tests.rs"]
mod bulk_tests;
#[path = "retry_tests.rs"]
mod retry_tests;
