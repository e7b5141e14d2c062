//! Reads of what only a peer has, on a node that is still filling, over links that fail in every way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;
use kura::core::mesh::circuit::CircuitState;
use kura::core::mesh::memory_transport::{LinkFault, MemoryTransport};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::harness::{PATIENCE, TestNode, noise};

const A: &str = "http://a:7443";
const B: &str = "http://b:7443";
const C: &str = "http://c:7443";

/// Above what is buffered.
const LONG: usize = 3 << 20;

/// Where bodies of peers are asked for.
const ARTIFACTS: &str = "/_internal/bootstrap/artifacts/";

/// Decides by the peer that is asked for a body.
pub type BodyFault = Arc<dyn Fn(&str) -> Option<LinkFault> + Send + Sync>;

/// Links over which no feed comes, so that whoever uses them stays behind; requests for bodies are counted.
fn links(network: &MemoryTransport, fault: BodyFault) -> (MemoryTransport, Arc<AtomicUsize>) {
    let (links, asked) = (network.with_own_links(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&asked);
    links.set_rule(Some(Arc::new(move |request| {
        if request.path_and_query.starts_with("/_internal/feed") {
            return Some(LinkFault::Status(StatusCode::INTERNAL_SERVER_ERROR));
        }
        let is_body = request.path_and_query.starts_with(ARTIFACTS);
        is_body.then(|| count.fetch_add(1, Ordering::SeqCst));
        is_body.then(|| fault(&request.peer)).flatten()
    })));
    (links, asked)
}

pub fn no_fault() -> BodyFault {
    Arc::new(|_| None)
}

/// A peer that holds these, and a node that cannot list it.
pub async fn behind(held: &[(String, Vec<u8>)], fault: BodyFault) -> (TestNode, TestNode, Arc<AtomicUsize>) {
    let network = MemoryTransport::new();
    let peer = TestNode::start_in(&network, B, &[]).await;
    for (path, body) in held {
        let stored = peer.put(path, body).await;
        assert!([200, 201, 204].contains(&stored), "{path}: {stored}");
    }
    let (links, asked) = links(&network, fault);
    let node = TestNode::start_in(&links, A, &[A, B]).await;
    (node, peer, asked)
}

pub fn cas(body: &[u8]) -> String {
    format!("/cas/{}", hex::encode(Sha256::digest(body)))
}

/// One past each kind of route and size.
fn held() -> Vec<(String, Vec<u8>)> {
    let long = noise(LONG, 9);
    vec![
        ("/v1/cache/17".to_owned(), noise(900, 1)),
        ("/api/metro/cache/m".to_owned(), noise(300 << 10, 2)),
        ("/gradle/team/0123".to_owned(), noise(1 << 20, 3)),
        ("/v8/artifacts/0123456789abcdef?slug=s".to_owned(), noise(0, 4)),
        (cas(&long), long),
        ("/v1/cache/18".to_owned(), noise(LONG + 1, 5)),
    ]
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_peer_has_is_served_and_kept() {
    let held = held();
    let (node, mut peer, _) = behind(&held, no_fault()).await;
    for (path, body) in &held {
        let reply = node.get(path).await;
        assert_eq!((reply.status, reply.whole), (200, true), "{path}");
        assert!(reply.body == *body, "{path}");
        assert_eq!(reply.header("etag"), Some(format!("\"{}\"", blake3::hash(body).to_hex()).as_str()));
    }
    for (path, _) in &held {
        eventually(path, async || node.send("HEAD", path, &[], b"").await.status == 200).await;
    }
    peer.stop().await;
    for (path, body) in &held {
        assert!(node.get(path).await.body == *body, "{path} is here now");
    }
    let state = node.settled(PATIENCE).await;
    assert_eq!((state.reserved, state.staged), (0, 0));
    assert_eq!(node.metric("kura_read_through_reads_total{result=\"hit\"}").await, held.len() as u64);
    let bytes: usize = held.iter().map(|(_, body)| body.len()).sum();
    assert_eq!(node.metric("kura_read_through_bytes_total").await, bytes as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_and_conditions_hold_for_what_comes_from_a_peer() {
    let body = noise(5000, 1);
    let long = noise(LONG, 2);
    let held = [("/api/metro/cache/m".to_owned(), body.clone()), ("/api/metro/cache/l".to_owned(), long.clone())];
    let (node, _peer, _) = behind(&held, no_fault()).await;
    let tag = |body: &[u8]| format!("\"{}\"", blake3::hash(body).to_hex());
    let fresh = node.send("GET", "/api/metro/cache/l", &[("If-None-Match", &tag(&long))], b"").await;
    let metrics = node.get("/metrics").await.text();
    let through: Vec<&str> = metrics.lines().filter(|line| line.starts_with("kura_read_through")).collect();
    assert_eq!((fresh.status, fresh.body.len()), (304, 0), "{through:#?}");
    let part = node.send("GET", "/api/metro/cache/m", &[("Range", "bytes=1000-1999")], b"").await;
    assert_eq!((part.status, part.header("content-range")), (206, Some("bytes 1000-1999/5000")));
    assert_eq!(part.body, body[1000..2000]);
    let whole = node.send("GET", "/api/metro/cache/l", &[("Range", "bytes=0-9")], b"").await;
    assert_eq!((whole.status, whole.body.len()), (200, LONG), "a long one comes whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_whether_something_is_here_are_answered_for_this_node_alone() {
    let held = [
        ("/v8/artifacts/0123456789abcdef?slug=s".to_owned(), noise(100, 1)),
        ("/api/metro/cache/m".to_owned(), noise(100, 2)),
    ];
    let (node, _peer, asked) = behind(&held, no_fault()).await;
    assert_eq!(node.send("HEAD", &held[0].0, &[], b"").await.status, 404);
    assert_eq!(node.send("HEAD", &held[1].0, &[], b"").await.status, 404);
    let module = "/api/cache/module/x?tenant_id=t&hash=h&name=n";
    assert_eq!(node.send("HEAD", module, &[], b"").await.status, 404);
    let query = br#"{"hashes":["0123456789abcdef"]}"#;
    let answer = node.send("POST", "/v8/artifacts?slug=s", &[], query).await;
    assert_eq!(answer.text(), r#"{"0123456789abcdef":null}"#);
    let id = kura::core::base::ids::ArtifactId::compute("metro", "default", "metro", "m");
    let internal = node.running().addresses().unwrap().internal;
    let seen_by_peers = TestNode::ask(internal, &format!("{ARTIFACTS}{id}")).await;
    assert_eq!(seen_by_peers.status, 404, "requests of peers do not go on to other peers");
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    assert_eq!(node.get(&held[1].0).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_with_a_peer_is_a_miss_for_every_tool_and_never_wrong_bytes() {
    let held = held();
    let faults = [
        LinkFault::CorruptByteAt(100),
        LinkFault::CutBodyAfter(100),
        LinkFault::Status(StatusCode::INTERNAL_SERVER_ERROR),
        LinkFault::Status(StatusCode::SERVICE_UNAVAILABLE),
        LinkFault::Refuse,
        LinkFault::StallHead,
    ];
    for fault in faults {
        let breaks_body = matches!(fault, LinkFault::CorruptByteAt(_) | LinkFault::CutBodyAfter(_));
        let link = fault.clone();
        let (node, _peer, _) = behind(&held, Arc::new(move |_| Some(link.clone()))).await;
        for (path, body) in held.iter().filter(|(_, body)| !body.is_empty()) {
            let reply = node.get(path).await;
            if breaks_body && body.len() > 1 << 20 && !path.starts_with("/v1/") {
                let came = (reply.status, reply.whole, reply.body.len());
                assert!(
                    !reply.whole && reply.body.len() < body.len(),
                    "{path} under {fault:?} ended cleanly: {came:?}"
                );
            } else {
                assert_eq!(reply.status, 404, "{path} under {fault:?}: {}", reply.text());
            }
        }
        let state = node.settled(PATIENCE).await;
        assert_eq!((state.reserved, state.staged, state.artifacts), (0, 0, 0), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_holder_makes_up_for_a_bad_one() {
    let network = MemoryTransport::new();
    let held = held();
    let mut peers = Vec::new();
    for url in [B, C] {
        let peer = TestNode::start_in(&network, url, &[]).await;
        for (path, body) in held.iter().filter(|(_, body)| body.len() < LONG) {
            peer.put(path, body).await;
        }
        peers.push(peer);
    }
    let bad: BodyFault = Arc::new(|peer| (peer == B).then_some(LinkFault::CorruptByteAt(7)));
    let (links, _) = links(&network, bad);
    let node = TestNode::start_in(&links, A, &[A, B, C]).await;
    for (path, body) in held.iter().filter(|(_, body)| body.len() < LONG) {
        let reply = node.get(path).await;
        assert!(reply.status == 200 && reply.body == *body, "{path}: {}", reply.status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_peer_costs_the_first_reads_and_not_the_next() {
    let network = MemoryTransport::new();
    let (held, missing) = ("/api/metro/cache/held", "/api/metro/cache/missing");
    let good = TestNode::start_in(&network, B, &[]).await;
    assert_eq!(good.put(held, b"here").await, 200);
    let _silent = TestNode::start_in(&network, C, &[]).await;
    let silent: BodyFault = Arc::new(|peer| (peer == C).then_some(LinkFault::StallHead));
    let (links, _) = links(&network, silent);
    let node = TestNode::start_in(&links, A, &[A, B, C]).await;
    let timed = async |path: &str| {
        let began = Instant::now();
        (node.get(path).await.status, began.elapsed())
    };
    let (status, took) = timed(held).await;
    assert!(status == 200 && took < Duration::from_millis(1500), "a hit waits for nobody: {status} after {took:?}");
    let (status, took) = timed(missing).await;
    assert!(status == 404 && took < Duration::from_secs(4), "bounded: {status} after {took:?}");
    let began = Instant::now();
    for _ in 0..5 {
        assert_eq!(node.get(missing).await.status, 404);
    }
    assert!(began.elapsed() < Duration::from_secs(3), "five misses took {:?}", began.elapsed());
    assert!(node.metric("kura_read_through_peer_answers_total{result=\"silent\"}").await >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_fail_open_the_circuit_of_a_peer_and_one_that_is_well_again_is_read_from_all_the_same() {
    let held = [("/api/metro/cache/m".to_owned(), noise(50_000, 1))];
    let is_sick = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let sick = Arc::clone(&is_sick);
    let fault: BodyFault =
        Arc::new(move |_| sick.load(Ordering::SeqCst).then_some(LinkFault::Status(StatusCode::INTERNAL_SERVER_ERROR)));
    let (node, _peer, _) = behind(&held, fault).await;
    let circuits = node.running().node.engine.circuits.clone();
    for n in 0..6 {
        assert_eq!(node.get(&format!("/api/metro/cache/{n}")).await.status, 404);
    }
    assert_eq!(circuits.state(B), CircuitState::Open, "passes leave it alone, too");
    is_sick.store(false, Ordering::SeqCst);
    assert_eq!(node.get(&held[0].0).await.status, 200, "a miss is not answered for a peer that has it");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_reads_of_one_artifact_one_asks() {
    let held = [("/api/metro/cache/m".to_owned(), noise(50_000, 1))];
    let slow: BodyFault = Arc::new(|_| Some(LinkFault::Delay(Duration::from_millis(500))));
    let (node, _peer, asked) = behind(&held, slow).await;
    let (path, body) = &held[0];
    let reads = join_all((0..50).map(|_| node.get(path)));
    let mut gone = node.connect().await;
    gone.write_all(format!("GET {path} HTTP/1.1\r\nHost: kura\r\n\r\n").as_bytes()).await.unwrap();
    drop(gone);
    for reply in reads.await {
        assert!(reply.status == 200 && reply.body == *body, "{}", reply.status);
    }
    let asked_for_hits = asked.load(Ordering::SeqCst);
    assert!(asked_for_hits <= 2, "{asked_for_hits} requests: one, and one more if the first client went away");
    let misses = join_all((0..50).map(|_| node.get("/api/metro/cache/absent"))).await;
    assert!(misses.iter().all(|reply| reply.status == 404));
    assert_eq!(asked.load(Ordering::SeqCst) - asked_for_hits, 1, "a miss is shared, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_here_does_not_come_back_from_a_peer() {
    let path = "/api/cache/gradle/k?tenant_id=t&namespace_id=ios";
    let held = [(path.to_owned(), noise(1000, 1))];
    let (node, _peer, _) = behind(&held, no_fault()).await;
    let cleaned = node.send("DELETE", "/api/cache/clean?tenant_id=t&namespace_id=ios", &[], b"").await;
    assert_eq!(cleaned.status, 204);
    assert_eq!(node.get(path).await.status, 404);
    assert_eq!(node.state().artifacts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_silent_from_the_start_hides_no_other_peer() {
    let network = MemoryTransport::new();
    let held = "/api/metro/cache/held";
    let good = TestNode::start_in(&network, B, &[]).await;
    assert_eq!(good.put(held, b"here").await, 200);
    let _silent = TestNode::start_in(&network, C, &[]).await;
    let links = network.with_own_links();
    links.set_rule(Some(Arc::new(|request| (request.peer == C).then_some(LinkFault::StallHead))));
    let node = TestNode::start_in(&links, A, &[A, B, C]).await;
    let began = Instant::now();
    assert_eq!(node.get(held).await.status, 200);
    assert!(began.elapsed() < Duration::from_millis(1500), "after {:?}", began.elapsed());
    assert_eq!(node.get("/api/metro/cache/absent").await.status, 404);
    assert!(began.elapsed() < Duration::from_secs(4), "after {:?}", began.elapsed());
}

async fn complete(node: &TestNode) {
    eventually("complete", async || node.running().node.readiness.snapshot().complete).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_node_asks_nobody_for_a_miss_but_for_what_is_wanted() {
    let network = MemoryTransport::new();
    let peer = TestNode::start_in(&network, B, &[]).await;
    let (here, wanted) = ("/api/metro/cache/here", "/api/metro/cache/wanted");
    // Too long for an answer with many bodies in it, so that one of them can be held back.
    let body = noise(1_500_000, 1);
    assert_eq!((peer.put(here, &body).await, peer.put(wanted, &body).await), (200, 200));
    let id = kura::core::base::ids::ArtifactId::compute("metro", "default", "metro", "wanted").to_string();
    let (links, asked) = (network.with_own_links(), Arc::new(AtomicUsize::new(0)));
    let (count, held_back) = (Arc::clone(&asked), Arc::new(std::sync::atomic::AtomicBool::new(true)));
    let holds = Arc::clone(&held_back);
    links.set_rule(Some(Arc::new(move |request| {
        if !request.path_and_query.starts_with(ARTIFACTS) {
            return None;
        }
        count.fetch_add(1, Ordering::SeqCst);
        let is_held = holds.load(Ordering::SeqCst) && request.path_and_query.ends_with(&id);
        is_held.then_some(LinkFault::Status(StatusCode::NOT_FOUND))
    })));
    let node = TestNode::start_in(&links, A, &[A, B]).await;
    complete(&node).await;
    assert_eq!(node.get(here).await.status, 200);
    assert_eq!(node.get(wanted).await.status, 404, "its holder says that it has no good copy");
    let before = asked.load(Ordering::SeqCst);
    assert_eq!(node.get("/api/metro/cache/absent").await.status, 404);
    assert_eq!(asked.load(Ordering::SeqCst), before, "a miss of a complete node is a miss");
    held_back.store(false, Ordering::SeqCst);
    assert!(node.get(wanted).await.body == body, "sooner than its next retry");
}

/// A peer of the seed era that gives bodies and cannot be listed.
fn seed_era_peer(body: &'static [u8]) -> axum::Router {
    use axum::routing::get;
    let status = serde_json::json!({"region": "eu", "tenant_id": "default", "node_url": B});
    axum::Router::new()
        .route("/_internal/status", get(move || async move { axum::Json(status) }))
        .route(&format!("{ARTIFACTS}{{id}}"), get(move || async move { body }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_the_seed_era_is_asked_and_what_it_gives_without_a_version_is_not_kept() {
    let network = MemoryTransport::new();
    let body = b"whatever is asked for";
    network.attach(B, Some(seed_era_peer(body)));
    let node = TestNode::start_in(&network, A, &[A, B]).await;
    assert_eq!(node.get("/api/metro/cache/m").await.body, body);
    let named = [("/cas/".to_owned() + &"0".repeat(64), 404), (cas(body), 200)];
    for (path, status) in named {
        assert_eq!(node.get(&path).await.status, status, "a key that names a hash is held against it");
    }
    let cleaned = node.send("DELETE", "/api/cache/clean?tenant_id=t&namespace_id=ios", &[], b"").await;
    assert_eq!(cleaned.status, 204);
    let deleted = "/api/cache/gradle/k?tenant_id=t&namespace_id=ios";
    assert_eq!(node.get(deleted).await.status, 404, "it may be what was deleted");
    assert_eq!(node.settled(PATIENCE).await.artifacts, 0);
}
