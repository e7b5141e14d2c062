//! The internal plane of whole nodes that reach each other in memory.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{Method, header};
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::super::slots::Slots;
use super::*;
use crate::core::base::clock::ManualClock;
use crate::core::base::disk::RealDisk;
use crate::core::base::executor::InlineExecutor;
use crate::core::base::ids::{ArtifactId, Epoch, InstanceId, Seq, StoreId};
use crate::core::base::rng::SeededRng;
use crate::core::bootstrap::engine::{Engine, KuraPeer, Peer, PeerSource};
use crate::core::bootstrap::metrics::CatchUpMetrics;
use crate::core::bootstrap::pass::{Pass, PassError, PassSummary, bootstrap_manifests_from_peer};
use crate::core::bootstrap::progress::NoProgress;
use crate::core::bootstrap::report::Outcome;
use crate::core::bootstrap::retry::retry_due;
use crate::core::bootstrap::source::ManifestSource;
use crate::core::bootstrap::source_feed::{FeedMode, FeedSource};
use crate::core::config::Config;
use crate::core::data_dir::layout::{Layout, create_data_dir, ensure_directories};
use crate::core::doctor::test_support;
use crate::core::mesh::client::{FeedQuery, PeerClient, PeerError};
use crate::core::mesh::discovery::{FixedResolver, PeerSources};
use crate::core::mesh::feed_frames::Frame;
use crate::core::mesh::membership::{Membership, MembershipParts};
use crate::core::mesh::memory_transport::{LinkFault, MemoryTransport};
use crate::core::mesh::readiness::Readiness;
use crate::core::mesh::wire::{PeerFeatures, PeerLimits, RECORD_HEADER};
use crate::core::staging::area::{AreaKind, Staging, StagingOptions};
use crate::core::staging::body_writer::BodySpec;
use crate::core::staging::budget::BudgetClass;
use crate::core::store::committer::{Carried, CommitOutcome, Operation, Put, PutMode, PutOrigin};
use crate::core::store::record::{ArtifactKey, Kind};
use crate::core::store::store_handle::StoreHandle;
use crate::core::store::unopened::UnopenedStore;
use crate::core::store::{Store, StoreOptions};
use crate::core::telemetry::metrics::MetricsRegistry;

#[path = "large_tests.rs"]
mod large_tests;

const NOW_MS: u64 = 1_760_000_000_000;

/// A node without listeners: its plane is called, its engine calls others.
struct Node {
    root: tempfile::TempDir,
    url: String,
    context: Arc<InternalContext>,
    engine: Engine,
    links: MemoryTransport,
    clock: Arc<ManualClock>,
    options: StoreOptions,
}

impl Node {
    fn new(number: u8, network: &MemoryTransport) -> Self {
        let root = tempfile::tempdir().unwrap();
        let url = format!("http://node-{number}:7443");
        let config = Config { node_url: url.clone(), ..test_support::config(&root.path().join("data")) };
        let layout = Layout::new(&config.data_dir, &config.tmp_dir);
        create_data_dir(&layout, &RealDisk).unwrap();
        ensure_directories(&layout, &RealDisk).unwrap();
        let (clock, rng) = (Arc::new(ManualClock::at(NOW_MS)), Arc::new(SeededRng::new(number.into())));
        let executor = Arc::new(InlineExecutor);
        let options =
            StagingOptions { budget_bytes: 1 << 26, inline_max_bytes: 1000, client_wait: Duration::from_millis(10) };
        let staging = Staging::new(&layout, Arc::new(RealDisk), executor.clone(), options);
        let staging = staging.with_resume_limits(large_tests::LIMITS);
        let store = StoreHandle::new(executor.clone());
        let options = StoreOptions {
            layout,
            tenant_id: "default".to_owned(),
            instance_id: InstanceId([number; 16]),
            durability: config.durability,
            inline_max_bytes: 1000,
            read_cache_bytes: 1 << 20,
            open_files_max: 64,
            clock: clock.clone(),
            rng: rng.clone(),
            disk: Arc::new(RealDisk),
            executor: executor.clone(),
        };
        store.set(Some(Arc::new(Store::open(options.clone()).unwrap().0)));
        let links = network.with_own_links();
        let client = PeerClient::new(Arc::new(links.clone()), store.clone(), "default");
        let unopened = UnopenedStore::new(options.layout.clone(), executor.clone());
        let readiness = Readiness::new(false, clock.clone());
        let membership = Membership::new(MembershipParts {
            sources: PeerSources { own_url: url.clone(), peers: Vec::new(), dns_name: None },
            resolver: Arc::new(FixedResolver::default()),
            client: client.clone(),
            store: store.clone(),
            unopened,
            readiness: readiness.clone(),
            clock: clock.clone(),
            rng: rng.clone(),
            instance_id: InstanceId([number; 16]),
        });
        let metrics = CatchUpMetrics::new(&MetricsRegistry::new());
        let engine = Engine {
            space: crate::core::data_dir::space_watch::SpaceWatch::default(),
            client,
            store: store.clone(),
            staging: staging.clone(),
            clock: clock.clone(),
            rng,
            metrics: metrics.clone(),
            flights: Default::default(),
            lanes: Default::default(),
            walked: Default::default(),
            circuits: readiness.circuits().clone(),
            concurrency: 4,
            peers: Default::default(),
            peers_replaced: Default::default(),
        };
        let context = Arc::new(InternalContext {
            config: Arc::new(config),
            instance_id: InstanceId([number; 16]),
            store,
            staging,
            readiness,
            membership: Arc::new(membership),
            metrics,
            clock: clock.clone(),
            executor,
            bulk: Slots::for_bulk(),
            bodies: Slots::for_bodies(),
            shutdown: Default::default(),
        });
        network.attach(&url, Some(router(Arc::clone(&context))));
        Self { root, url, context, engine, links, clock, options }
    }

    fn store(&self) -> Arc<Store> {
        self.context.store.current().unwrap()
    }

    async fn put(&self, producer: &str, key: &str, body: &[u8]) -> ArtifactId {
        let spec = BodySpec {
            area: AreaKind::Uploads,
            class: BudgetClass::Client,
            length: Some(body.len() as u64),
            length_max: 1 << 30,
            sha256: false,
        };
        let mut writer = self.context.staging.begin(spec).await.unwrap();
        writer.write(Bytes::copy_from_slice(body)).await.unwrap();
        let name = ArtifactKey { producer: producer.to_owned(), namespace: "ns".to_owned(), key: key.to_owned() };
        let id = name.artifact_id("default");
        let put = Put {
            name,
            kind: Kind::Blob,
            content_type: "text/plain".to_owned(),
            attributes: [("tag".to_owned(), "t".to_owned())].into(),
            carried: Carried::default(),
            body: writer.finish().await.unwrap(),
            origin: PutOrigin::Local(PutMode::LastWriterWins),
        };
        let outcome = self.context.store.commit(Operation::Put(Box::new(put))).await.unwrap();
        assert!(matches!(outcome, CommitOutcome::Applied(_)), "{outcome:?}");
        id
    }

    async fn call(&self, method: Method, path: &str, headers: &[(header::HeaderName, &str)], body: &[u8]) -> Answer {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(Body::from(body.to_vec())).unwrap();
        let response = router(Arc::clone(&self.context)).oneshot(request).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Answer { status, headers, body }
    }

    async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, &[], b"").await
    }

    fn as_peer(&self) -> Peer {
        let stats = self.store().stats();
        let features = PeerFeatures::of(&FEATURES.map(str::to_owned));
        let limits = PeerLimits { page_bytes_max: 32 << 20, page_rows_max: 4096, body_bytes_max: 1 << 30 };
        let source = PeerSource::Kura { store_id: stats.store_id, artifacts: stats.artifacts, features, limits };
        Peer { url: self.url.clone(), source }
    }

    fn kura(&self) -> KuraPeer {
        self.as_peer().kura().unwrap()
    }

    async fn pass_over(&self, other: &Self) -> PassSummary {
        self.try_pass_over(other).await.unwrap()
    }

    async fn try_pass_over(&self, other: &Self) -> Result<PassSummary, PassError> {
        let peer = other.as_peer();
        let (engine, progress) = (&self.engine, &NoProgress);
        let pass = Pass { engine, peer: &peer, progress, log: None, dry_run: false, is_retry: false };
        bootstrap_manifests_from_peer(&pass).await
    }

    fn holds(&self, id: &ArtifactId) -> bool {
        self.store().lookup(id).unwrap().is_some()
    }

    /// The body files of this node.
    fn body_files(&self) -> Vec<std::path::PathBuf> {
        let folders = std::fs::read_dir(self.root.path().join("data/bodies")).unwrap();
        let folders = folders.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
        folders.flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())).collect()
    }
}

struct Answer {
    status: u16,
    headers: http::HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

#[path = "backfill_tests.rs"]
mod backfill;

fn one() -> Node {
    Node::new(1, &MemoryTransport::new())
}

#[tokio::test]
async fn malformed_requests_are_refused_with_a_message_and_change_nothing() {
    let node = one();
    let long = "n".repeat(257);
    let ok = "producer=nx&namespace_id=&key=k&content_type=a";
    let table: Vec<(Method, String, u16)> = vec![
        (Method::GET, "bootstrap/manifests?limit=0".into(), 400),
        (Method::GET, "bootstrap/manifests?limit=-1".into(), 400),
        (Method::GET, "bootstrap/manifests?limit=x".into(), 400),
        (Method::GET, "bootstrap/manifests?after=zz".into(), 400),
        (Method::GET, "bootstrap/manifests?prefix=XYZ".into(), 400),
        (Method::GET, "bootstrap/digest?prefix_len=0".into(), 400),
        (Method::GET, "bootstrap/digest?prefix_len=9".into(), 400),
        (Method::GET, "bootstrap/namespace_tombstones?limit=0".into(), 400),
        (Method::GET, "bootstrap/artifacts/nonsense".into(), 400),
        (Method::GET, format!("bootstrap/artifacts/{}", "A".repeat(64)), 400),
        (Method::GET, format!("bootstrap/artifacts/{}", "a".repeat(64)), 404),
        (Method::GET, "feed?order=by_version".into(), 400),
        (Method::GET, "feed?order=version&position=ff".into(), 400),
        (Method::GET, "feed?after=x".into(), 400),
        (Method::GET, "digest?prefix_len=2".into(), 400),
        (Method::GET, "digest?prefix_len=-1".into(), 400),
        (Method::GET, "digest?prefix=ab&prefix_len=2".into(), 400),
        (Method::GET, "digest?prefix=AB&prefix_len=3".into(), 400),
        (Method::GET, "holdings".into(), 400),
        (Method::GET, "holdings?prefix=abcd".into(), 400),
        (Method::GET, "holdings?prefix=a&after=x".into(), 400),
        (Method::GET, "feed?epoch=short".into(), 400),
        (Method::GET, "feed?max_rows=0".into(), 400),
        (Method::PUT, "replicate/artifact".into(), 400),
        (Method::PUT, ok.replace("nx", "bazel"), 400),
        (Method::PUT, ok.replace("&namespace_id=", ""), 400),
        (Method::PUT, ok.replace("key=k", "key="), 400),
        (Method::PUT, ok.replace("key=k", "key=a%00b"), 400),
        (Method::PUT, ok.replace("namespace_id=", &format!("namespace_id={long}")), 400),
        (Method::PUT, ok.replace("content_type=a", ""), 400),
        (Method::PUT, format!("{ok}&version_ms=soon"), 400),
        (Method::PUT, format!("{ok}&inline=maybe"), 400),
        (Method::DELETE, "replicate/namespace".into(), 400),
        (Method::DELETE, "replicate/namespace?namespace_id=a%00b&version_ms=1".into(), 400),
        (Method::DELETE, "replicate/namespace?namespace_id=a&version_ms=x".into(), 400),
        (Method::POST, "bulk".into(), 400),
        (Method::GET, "bulk".into(), 405),
        (Method::GET, "nowhere".into(), 404),
        (Method::POST, "status".into(), 405),
    ];
    let head = node.store().stats().head_seq;
    for (method, path, expected) in table {
        let path = if path.contains('/') || path.contains('?') || !path.contains('=') {
            path
        } else {
            format!("replicate/artifact?{path}")
        };
        let answer = node.call(method.clone(), &format!("/_internal/{path}"), &[], b"x").await;
        assert_eq!(answer.status, expected, "{method} {path}");
        if expected == 400 {
            assert!(answer.json()["message"].is_string(), "{path}");
        }
    }
    assert_eq!(node.store().stats().head_seq, head);
}

#[tokio::test]
async fn the_status_names_the_store_and_who_reached_it() {
    let node = one();
    let sender = "ab".repeat(16);
    let name = header::HeaderName::from_static(STORE_ID_HEADER);
    node.call(Method::GET, "/_internal/status", &[(name, &sender)], b"").await;
    let status = node.get("/_internal/status?scope=global").await.json();
    assert_eq!((&status["node_url"], &status["tenant_id"]), (&node.url.clone().into(), &"default".into()));
    assert_eq!(status["kura"]["store_id"], node.store().stats().store_id.to_string());
    assert_eq!(status["kura"]["seen_inbound"], serde_json::json!([sender]));
    assert_eq!(status["kura"]["protocol"], serde_json::json!({"min": 1, "max": 1}));
    node.context.store.set(None);
    let status = node.get("/_internal/status").await;
    assert_eq!((status.status, &status.json()["kura"]["store_id"]), (200, &serde_json::Value::Null));
}

#[tokio::test]
async fn seed_era_listings_hold_the_producers_of_that_era_only() {
    let node = one();
    let nx = node.put("nx", "1", b"body").await;
    node.put("bazel", "ac/2", b"body").await;
    node.put("turborepo", "3", b"body").await;
    let page = node.get("/_internal/bootstrap/manifests").await.json();
    assert_eq!(page["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&page["manifests"][0]["artifact_id"], &page["next_after"]),
        (&nx.to_string().into(), &serde_json::Value::Null)
    );
    let digest = node.get("/_internal/bootstrap/digest").await.json();
    assert_eq!((&digest["prefix_len"], digest["buckets"].as_array().unwrap().len()), (&3.into(), 1));
    for key in 0..5 {
        node.put("gradle", &key.to_string(), b"body").await;
    }
    let (mut after, mut seen) = (String::new(), Vec::new());
    loop {
        let page = node.get(&format!("/_internal/bootstrap/manifests?limit=2&after={after}")).await.json();
        seen.extend(page["manifests"].as_array().unwrap().iter().map(|row| row["artifact_id"].to_string()));
        match page["next_after"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    assert!(seen.len() == 6 && seen.is_sorted(), "{seen:?}");
}

#[tokio::test]
async fn what_a_node_holds_is_listed_whoever_made_it_page_by_page() {
    let node = one();
    let mut put = Vec::new();
    for key in 0..40 {
        put.push(node.put(["bazel", "nx"][key % 2], &key.to_string(), b"body").await.to_string());
    }
    let mut seen = Vec::new();
    for digit in 0..16 {
        let mut after = String::new();
        loop {
            let page = node.get(&format!("/_internal/holdings?prefix={digit:x}&limit=2&after={after}")).await.json();
            let rows = page["rows"].as_array().unwrap();
            assert!(rows.len() <= 2 && rows.iter().all(|row| row["version_ms"].as_u64().unwrap() > 0));
            seen.extend(rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()));
            let Some(next) = page["next_after"].as_str() else { break };
            after = next.to_owned();
        }
    }
    put.sort();
    assert_eq!(seen, put);
    let first = seen[0].get(..1).unwrap();
    let parts = node.get(&format!("/_internal/digest?prefix={first}&prefix_len=3")).await.json();
    let whole = node.get("/_internal/digest?prefix_len=1").await.json();
    let count = |buckets: &serde_json::Value| {
        let ours =
            buckets.as_array().unwrap().iter().filter(|bucket| bucket["prefix"].as_str().unwrap().starts_with(first));
        ours.map(|bucket| bucket["count"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(count(&parts["buckets"]), count(&whole["buckets"]));
    assert!(parts["buckets"].as_array().unwrap().iter().all(|bucket| bucket["prefix"].as_str().unwrap().len() == 3));
}

#[tokio::test]
async fn a_body_is_served_whole_in_parts_and_only_in_the_wanted_version() {
    let node = one();
    let body: Vec<u8> = (0..5000_u32).map(|n| n as u8).collect();
    for (key, body) in [("small", &body[..100]), ("large", &body[..])] {
        let id = node.put("nx", key, body).await;
        let path = format!("/_internal/bootstrap/artifacts/{id}");
        let whole = node.get(&path).await;
        assert_eq!((whole.status, &whole.body[..]), (200, body));
        assert_eq!(whole.headers[header::CONTENT_LENGTH], body.len().to_string());
        assert!(whole.headers.contains_key(RECORD_HEADER));
        let part = node.call(Method::GET, &path, &[(header::RANGE, "bytes=10-19")], b"").await;
        assert_eq!((part.status, &part.body[..]), (206, &body[10..20]));
        assert_eq!(part.headers[header::CONTENT_RANGE], format!("bytes 10-19/{}", body.len()));
        assert_eq!(node.call(Method::GET, &path, &[(header::RANGE, "bytes=9999-")], b"").await.status, 416);
        assert_eq!(node.call(Method::GET, &path, &[(header::RANGE, "bytes=9-1")], b"").await.status, 400);
        let etag = whole.headers[header::ETAG].to_str().unwrap();
        assert_eq!(node.call(Method::GET, &path, &[(header::IF_MATCH, etag)], b"").await.status, 200);
        assert_eq!(node.call(Method::GET, &path, &[(header::IF_MATCH, "\"other\"")], b"").await.status, 412);
    }
}

#[tokio::test]
async fn a_lost_or_corrupt_body_is_a_404_before_the_first_byte_and_is_withdrawn() {
    for damage in ["lose", "corrupt"] {
        let node = one();
        let id = node.put("nx", "1", &[7; 5000]).await;
        let file = node.body_files().remove(0);
        match damage {
            "lose" => std::fs::remove_file(&file).unwrap(),
            _ => {
                let mut bytes = std::fs::read(&file).unwrap();
                bytes[2500] ^= 1;
                std::fs::write(&file, bytes).unwrap();
            }
        }
        let answer = node.get(&format!("/_internal/bootstrap/artifacts/{id}")).await;
        assert_eq!(answer.status, 404, "{damage}");
        assert!(!node.holds(&id), "{damage}: a bad body is withdrawn");
        assert_eq!(node.store().wanted_page(None, 9).unwrap().len(), 1, "{damage}: and wanted back");
    }
}

#[tokio::test]
async fn seed_era_peers_push_artifacts_and_deletes() {
    let node = one();
    let put = |version: u64, extra: &'static str| {
        format!(
            "/_internal/replicate/artifact?producer=nx&namespace_id=ns&key=k&content_type=a&version_ms={version}{extra}"
        )
    };
    let id = ArtifactId::compute("nx", "default", "ns", "k");
    assert_eq!(node.call(Method::PUT, &put(100, ""), &[], b"first").await.status, 204);
    assert_eq!(node.store().lookup(&id).unwrap().unwrap().version_ms, 100);
    assert_eq!(node.call(Method::PUT, &put(100, ""), &[], b"other").await.status, 204, "an equal version is ignored");
    let body = node.get(&format!("/_internal/bootstrap/artifacts/{id}")).await.body;
    assert_eq!(&body[..], b"first");
    let large = vec![0; (1 << 20) + 1];
    assert_eq!(node.call(Method::PUT, &put(200, "&inline=true"), &[], &large).await.status, 413);
    let delete = |version: u64| format!("/_internal/replicate/namespace?namespace_id=ns&version_ms={version}");
    assert_eq!(node.call(Method::DELETE, &delete(150), &[], b"").await.status, 204);
    assert!(!node.holds(&id));
    assert_eq!(node.call(Method::PUT, &put(120, ""), &[], b"late").await.status, 204);
    assert!(!node.holds(&id), "what was deleted does not come back");
    assert_eq!(node.call(Method::PUT, &put(160, ""), &[], b"newer").await.status, 204);
    assert!(node.holds(&id));
    assert_eq!(node.context.staging.reserved_bytes(), 0);
}

#[tokio::test]
async fn a_body_that_is_not_what_its_key_says_is_refused() {
    let node = one();
    let key = format!("blob%2F{}%2F4", "ab".repeat(32));
    let path =
        format!("/_internal/replicate/artifact?producer=reapi&namespace_id=&key={key}&content_type=a&version_ms=9");
    assert_eq!(node.call(Method::PUT, &path, &[], b"body").await.status, 400);
}

fn query(after: u64) -> FeedQuery {
    FeedQuery {
        cursor: None,
        after: Seq(after),
        up_to: None,
        origin_only: false,
        inline_up_to: 1 << 10,
        inline_origin_only: false,
        wait: Duration::ZERO,
        rows_max: 100,
        bytes_max: 1 << 20,
    }
}

#[tokio::test(start_paused = true)]
async fn the_feed_gives_pages_and_waits_for_rows_at_its_end() {
    let node = one();
    node.put("nx", "1", b"inline body").await;
    node.put("nx", "2", &[1; 5000]).await;
    let client = &node.engine.client;
    let page = client.feed(&node.url, &query(0)).await.unwrap();
    assert_eq!((page.header.next, page.header.head_seq), (Seq(2), Seq(2)));
    let bodies: Vec<_> = page.rows.iter().map(|row| matches!(row, Frame::Row { body: Some(_), .. })).collect();
    assert_eq!(bodies, [true, false], "only small bodies ride along");
    let one_row = FeedQuery { rows_max: 1, ..query(0) };
    assert_eq!(client.feed(&node.url, &one_row).await.unwrap().header.next, Seq(1));

    let waiting = FeedQuery { wait: Duration::from_secs(20), ..query(2) };
    let started = tokio::time::Instant::now();
    assert_eq!(client.feed(&node.url, &waiting).await.unwrap().rows, []);
    assert_eq!(started.elapsed(), Duration::from_secs(20));
    let (page, ()) = tokio::join!(client.feed(&node.url, &waiting), async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        node.put("nx", "3", b"x").await;
    });
    assert_eq!(page.unwrap().header.next, Seq(3));
    assert_eq!(started.elapsed(), Duration::from_secs(23), "a write ends the wait");
    node.context.shutdown.cancel();
    assert_eq!(client.feed(&node.url, &FeedQuery { after: Seq(3), ..waiting }).await.unwrap().rows, []);
    assert_eq!(started.elapsed(), Duration::from_secs(23), "and so does shutting down");
}

#[tokio::test]
async fn a_cursor_of_another_store_or_epoch_is_void() {
    let node = one();
    node.put("nx", "1", b"x").await;
    let stats = node.store().stats();
    let asked = |cursor| FeedQuery { cursor: Some(cursor), ..query(1) };
    let client = &node.engine.client;
    assert!(client.feed(&node.url, &asked((stats.store_id, stats.epoch))).await.is_ok());
    for cursor in [(StoreId([9; 16]), stats.epoch), (stats.store_id, Epoch([9; 8]))] {
        let refused = client.feed(&node.url, &asked(cursor)).await;
        assert!(matches!(refused, Err(PeerError::CursorVoid { .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn a_page_that_is_cut_or_changed_on_the_way_is_an_error() {
    let network = MemoryTransport::new();
    let (one, two) = (Node::new(1, &network), Node::new(2, &network));
    one.put("nx", "1", b"an inline body that rides along").await;
    let length = two.engine.client.feed(&one.url, &query(0)).await.map(|_| ()).is_ok();
    assert!(length);
    for fault in [LinkFault::CutBodyAfter(40), LinkFault::CorruptByteAt(3)] {
        two.links.set_rule(Some(Arc::new(move |_| Some(fault.clone()))));
        assert!(two.engine.client.feed(&one.url, &query(0)).await.is_err());
    }
}

#[tokio::test]
async fn a_node_catches_up_from_a_kura_peer_by_the_feed_and_fetches_nothing_twice() {
    let network = MemoryTransport::new();
    let (one, two) = (Node::new(1, &network), Node::new(2, &network));
    let mut ids = Vec::new();
    for producer in ["nx", "bazel", "turborepo", "ccache"] {
        ids.push(one.put(producer, "small", b"small").await);
        ids.push(one.put(producer, "large", &[3; 40_000]).await);
    }
    one.context
        .store
        .commit(Operation::DeleteNamespace { namespace: "gone".to_owned(), version_ms: Some(5) })
        .await
        .unwrap();
    let summary = two.pass_over(&one).await;
    assert_eq!((summary.count(Outcome::Applied), summary.is_clean()), (8, true));
    assert!(ids.iter().all(|id| two.holds(id)));
    let (ours, theirs) = (two.store().lookup(&ids[0]).unwrap().unwrap(), one.store().lookup(&ids[0]).unwrap().unwrap());
    assert_eq!((ours.version(), &ours.attributes, ours.origin), (theirs.version(), &theirs.attributes, theirs.origin));
    assert_eq!(two.store().tombstone_page(None, 9).unwrap().tombstones.len(), 1);
    let cursor = two.store().cursor(&one.store().stats().store_id.to_string()).unwrap().unwrap();
    assert_eq!((cursor.followed, cursor.epoch), (one.store().stats().head_seq, one.store().stats().epoch));

    let again = two.pass_over(&one).await;
    assert_eq!(again.outcomes.values().sum::<u64>(), 0, "the cursor is behind everything");
    two.store().save_cursor(&one.store().stats().store_id.to_string(), None).unwrap();
    two.put("nx", "its own", b"x").await;
    let relisted = two.pass_over(&one).await;
    assert_eq!((relisted.count(Outcome::AlreadyPresent), relisted.bytes), (8, 0), "listed again, not fetched again");
}

#[tokio::test]
async fn what_one_kura_holder_cannot_deliver_comes_from_another_at_once() {
    let network = MemoryTransport::new();
    let (one, two, three) = (Node::new(1, &network), Node::new(2, &network), Node::new(3, &network));
    let id = one.put("nx", "1", &[5; 9000]).await;
    assert_eq!(two.pass_over(&one).await.count(Outcome::Applied), 1);
    std::fs::remove_file(one.body_files().remove(0)).unwrap();
    three.engine.set_usable_peers(vec![one.as_peer(), two.as_peer()]);
    let summary = three.pass_over(&one).await;
    assert_eq!((summary.count(Outcome::Applied), three.holds(&id)), (1, true));
    assert_eq!(three.store().wanted_page(None, 9).unwrap(), []);

    one.engine.set_usable_peers(vec![two.as_peer(), three.as_peer()]);
    one.clock.advance(Duration::from_secs(10));
    assert_eq!(retry_due(&one.engine, &NoProgress).await.unwrap(), 1, "the loser fetches what it withdrew");
    assert!(one.holds(&id));
}

#[tokio::test]
async fn a_corrupted_transfer_is_not_committed_and_is_tried_again_by_the_next_pass() {
    let network = MemoryTransport::new();
    let (one, two) = (Node::new(1, &network), Node::new(2, &network));
    let id = one.put("nx", "1", &[5; 9000]).await;
    let is_body = |path: &str| path.contains("/bootstrap/artifacts/");
    two.links.set_rule(Some(Arc::new(move |request| {
        is_body(&request.path_and_query).then_some(LinkFault::CorruptByteAt(4000))
    })));
    let summary = two.pass_over(&one).await;
    assert_eq!((summary.count(Outcome::BadCopy), two.holds(&id)), (1, false));
    assert_eq!(two.context.staging.reserved_bytes(), 0);
    two.links.set_rule(None);
    assert_eq!(two.pass_over(&one).await.count(Outcome::Applied), 1, "although the cursor has passed the row");
    assert!(two.holds(&id));
}

#[tokio::test(start_paused = true)]
async fn a_follower_sees_a_write_as_it_happens_and_keeps_its_place() {
    let network = MemoryTransport::new();
    let (one, two) = (Node::new(1, &network), Node::new(2, &network));
    one.put("nx", "1", b"x").await;
    two.pass_over(&one).await;
    let (client, store) = (&two.engine.client, &two.engine.store);
    let store_id = one.store().stats().store_id;
    let mut source = FeedSource::begin(client, store, (&one.url, one.kura()), FeedMode::Follow).await.unwrap();
    let (page, _) = tokio::join!(source.next_page(), one.put("nx", "2", b"y"));
    assert_eq!(page.unwrap().unwrap().rows.len(), 1);
    let place = || two.store().cursor(&store_id.to_string()).unwrap().unwrap().followed;
    assert_eq!(place(), Seq(1), "the cursor waits for the page to be settled");
    source.page_settled().await.unwrap();
    assert_eq!(place(), Seq(2));
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_runs_ahead_does_not_take_the_cursor_along() {
    let network = MemoryTransport::new();
    let (one, two) = (Node::new(1, &network), Node::new(2, &network));
    // More than a page holds.
    for n in 0..1100_u32 {
        one.put("nx", &n.to_string(), b"x").await;
    }
    let (client, store) = (&two.engine.client, &two.engine.store);
    let store_id = one.store().stats().store_id;
    let mut source = FeedSource::begin(client, store, (&one.url, one.kura()), FeedMode::Pass).await.unwrap();
    let first = source.next_page().await.unwrap().unwrap().rows.len() as u64;
    let second = source.next_page().await.unwrap().unwrap().rows.len() as u64;
    assert_eq!((first + second, source.next_page().await.unwrap().is_none()), (1100, true));
    let place = || two.store().cursor(&store_id.to_string()).unwrap().map(|cursor| cursor.followed);
    assert_eq!(place(), None);
    source.page_settled().await.unwrap();
    assert_eq!(place(), Some(Seq(first)));
    source.page_settled().await.unwrap();
    assert_eq!(place(), Some(Seq(1100)));
}

#[path = "bulk_tests.rs"]
mod bulk_tests;

#[path = "bulk_pass_tests.rs"]
mod bulk_pass_tests;
