//! A node that cannot do everything: no space on the volume, or a store that is not open yet.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use axum::body::Body;
use http::{Request, StatusCode};
use kura::core::base::clock::SystemClock;
use kura::core::base::disk::{DiskOperation, FaultDisk, RealDisk};
use kura::core::base::executor::{Job, StoreExecutor};
use kura::core::data_dir::layout::Layout;
use kura::core::server::node::{NodeContext, Seams};
use kura::core::server::public;
use kura::core::server::startup_status::StartupStatus;
use tokio::io::AsyncWriteExt;
use tower::ServiceExt;

use crate::harness::{PATIENCE, TestNode, noise, settings};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_507_and_403_for_nx_and_passes_by_itself() {
    let full = Arc::new(AtomicBool::new(false));
    let disk = FaultDisk::new(Arc::new(RealDisk));
    let is_full = Arc::clone(&full);
    disk.set_rule(Some(Box::new(move |operation, _, _| {
        let fails = operation == DiskOperation::Write && is_full.load(Ordering::SeqCst);
        fails.then(|| std::io::ErrorKind::StorageFull.into())
    })));
    let seams = Seams { disk: Arc::new(disk), ..Seams::system() };
    let node = TestNode::start_over(seams).await;
    let body = noise(600 << 10, 1);
    assert_eq!(node.put("/api/metro/cache/before", &body).await, 200);
    full.store(true, Ordering::SeqCst);
    let refused = node.send("PUT", "/api/metro/cache/a", &[], &body).await;
    assert_eq!(refused.status, 507, "{}", refused.text());
    assert_eq!(node.put("/v1/cache/1", &body).await, 403);
    assert_eq!(node.put("/gradle/1", &body).await, 507);
    assert_eq!(node.get("/api/metro/cache/before").await.body, body);
    full.store(false, Ordering::SeqCst);
    assert_eq!(node.put("/api/metro/cache/a", &body).await, 200);
    let state = node.settled(PATIENCE).await;
    assert_eq!((state.reserved, state.staged, state.artifacts), (0, 0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_writes_stopped_serves_reads_and_takes_writes_again_without_a_restart() {
    let broken = Arc::new(AtomicBool::new(false));
    let disk = FaultDisk::new(Arc::new(RealDisk));
    let is_broken = Arc::clone(&broken);
    disk.set_rule(Some(Box::new(move |operation, _, _| {
        let fails = operation == DiskOperation::Sync && is_broken.load(Ordering::SeqCst);
        fails.then(|| std::io::Error::other("on purpose"))
    })));
    let seams = Seams { disk: Arc::new(disk), ..Seams::system() };
    let node = TestNode::start_over(seams).await;
    let body = noise(600 << 10, 1);
    assert_eq!(node.put("/api/metro/cache/before", &body).await, 200);
    broken.store(true, Ordering::SeqCst);
    assert_eq!(node.put("/api/metro/cache/a", &body).await, 503);
    let stopped = || node.running().node.store.current().and_then(|store| store.stats().write_stopped);
    assert!(stopped().is_some());
    // Long enough for the keeper to have asked the volume, which takes no write yet.
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(node.get("/api/metro/cache/before").await.body, body, "reads go on meanwhile");
    assert!(stopped().is_some());
    broken.store(false, Ordering::SeqCst);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while node.put("/api/metro/cache/a", &body).await != 200 {
        assert!(tokio::time::Instant::now() < deadline, "still stopped: {:?}", stopped());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(node.get("/api/metro/cache/before").await.body, body);
    assert_eq!(node.get("/api/metro/cache/a").await.body, body);
    assert_eq!(node.send("GET", "/ready", &[], &[]).await.status, 200);
    let state = node.settled(PATIENCE).await;
    assert_eq!((state.reserved, state.staged, state.artifacts), (0, 0, 2));
}

/// A node whose store never opens, and its public plane.
fn unopened(root: &std::path::Path) -> (Arc<NodeContext>, axum::Router) {
    let config = settings(root);
    let layout = Layout::new(&config.data_dir, &config.tmp_dir);
    let status = StartupStatus::new(Arc::new(SystemClock::default()));
    let node = NodeContext::new(config, layout, Seams::system(), status);
    (Arc::clone(&node), public::router(node))
}

#[tokio::test(start_paused = true)]
async fn requests_before_the_store_is_open_wait_and_then_say_so() {
    let root = tempfile::tempdir().unwrap();
    let (_node, router) = unopened(root.path());
    let ask = async |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path).body(Body::from("x")).unwrap();
        let began = tokio::time::Instant::now();
        let answer = router.clone().oneshot(request).await.unwrap();
        (answer.status(), began.elapsed().as_secs())
    };
    assert_eq!(ask("GET", "/up").await, (StatusCode::OK, 0));
    assert_eq!(ask("GET", "/ready").await, (StatusCode::SERVICE_UNAVAILABLE, 0));
    assert_eq!(ask("GET", "/metrics").await, (StatusCode::OK, 0));
    // Each tool is kept waiting for less than it bears.
    let module = "/api/cache/module/x?tenant_id=t&hash=h&name=n";
    let cas = format!("/cas/{:064x}", 1);
    let waits = [
        ("/api/metro/cache/a", 4),
        ("/ccache/aa/0123456789abcdefghijklmnopqrstu", 8),
        (module, 10),
        ("/v8/artifacts/a?slug=s", 15),
        ("/gradle/a", 25),
        (&cas, 30),
    ];
    for (path, seconds) in waits {
        for method in ["GET", "HEAD"] {
            assert_eq!(ask(method, path).await, (StatusCode::SERVICE_UNAVAILABLE, seconds), "{method} {path}");
        }
    }
    assert_eq!(ask("GET", "/v1/cache/1").await, (StatusCode::NOT_FOUND, 20));
    assert_eq!(ask("PUT", "/v1/cache/1").await, (StatusCode::FORBIDDEN, 10));
    assert_eq!(ask("PUT", "/ac/".to_owned().as_str()).await.0, StatusCode::NOT_FOUND);
    assert_eq!(ask("PUT", "/v8/artifacts/a").await, (StatusCode::SERVICE_UNAVAILABLE, 10));
    assert_eq!(ask("GET", "/api/metro/cache/%00").await, (StatusCode::BAD_REQUEST, 0));
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_stalls_is_given_up_after_a_minute() {
    let node = TestNode::start().await;
    let router = public::router(Arc::clone(&node.running().node));
    let never = futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
    let request = Request::builder().method("PUT").uri("/api/metro/cache/a");
    let request = request.header("content-length", "1048576").body(Body::from_stream(never)).unwrap();
    let began = tokio::time::Instant::now();
    let answer = router.oneshot(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
    assert_eq!(began.elapsed().as_secs(), 60);
    assert_eq!(node.settled(PATIENCE).await.reserved, 0);
}

/// Threads whose jobs stand still on command, as they do when a disk hangs.
#[derive(Debug)]
struct Hanging {
    threads: Arc<dyn StoreExecutor>,
    hangs: Arc<(Mutex<bool>, Condvar)>,
}

impl Hanging {
    fn new() -> (Arc<Self>, Arc<(Mutex<bool>, Condvar)>) {
        let (threads, hangs) = (Seams::system().executor, Arc::<(Mutex<bool>, Condvar)>::default());
        (Arc::new(Self { threads, hangs: Arc::clone(&hangs) }), hangs)
    }
}

impl StoreExecutor for Hanging {
    fn execute(&self, job: Job) {
        let hangs = Arc::clone(&self.hangs);
        self.threads.execute(Box::new(move || {
            let (state, changed) = &*hangs;
            drop(changed.wait_while(state.lock().unwrap(), |hangs| *hangs).unwrap());
            job();
        }));
    }

    fn permits(&self) -> Option<Arc<tokio::sync::Semaphore>> {
        self.threads.permits()
    }
}

fn hang(hangs: &(Mutex<bool>, Condvar), on: bool) {
    *hangs.0.lock().unwrap() = on;
    hangs.1.notify_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn liveness_and_probes_answer_while_the_store_hangs_and_ready_says_so() {
    let (executor, hangs) = Hanging::new();
    let node = TestNode::start_over(Seams { executor, ..Seams::system() }).await;
    assert_eq!(node.put("/api/metro/cache/a", b"x").await, 200);
    assert_eq!(node.get("/ready").await.status, 200);
    hang(&hangs, true);
    // More reads than there are threads, and then some.
    let mut stuck = Vec::new();
    for _ in 0..100 {
        let mut stream = node.connect().await;
        stream.write_all(b"GET /api/metro/cache/a HTTP/1.1\r\nHost: kura\r\n\r\n").await.unwrap();
        stuck.push(stream);
    }
    let began = std::time::Instant::now();
    for path in ["/up", "/ready", "/status/rollout", "/metrics"] {
        assert_eq!(node.get(path).await.status, 200, "{path}");
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(1), "the probes took {:?}", began.elapsed());
    let ready = async |status: u16| {
        while node.get("/ready").await.status != status {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ready(503)).await.expect("a store that hangs is no ready one");
    let said = node.get("/ready").await.text();
    assert!(said.contains("store_stalled"), "{said}");
    assert_eq!(node.get("/up").await.status, 200, "and no reason to kill the node");
    hang(&hangs, false);
    tokio::time::timeout(PATIENCE, ready(200)).await.expect("it answers again");
    assert_eq!(node.get("/api/metro/cache/a").await.body, b"x");
}

/// Samples of a family that are not zero, by their labels.
async fn counted(node: &TestNode, family: &str) -> Vec<String> {
    let text = node.get("/metrics").await.text();
    let lines = text.lines().filter(|line| line.starts_with(family) && !line.ends_with(" 0"));
    lines.map(|line| line[family.len()..].to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_vanished_clients_are_counted_as_what_they_are_and_not_as_faults() {
    let (executor, hangs) = Hanging::new();
    let node = TestNode::start_over(Seams { executor, ..Seams::system() }).await;
    assert!(counted(&node, "kura_requests_refused_total").await.is_empty(), "each is there from the start, at zero");
    assert_eq!(node.metric("kura_requests_refused_total{limit=\"staging_ledger\"}").await, 0);

    hang(&hangs, true);
    let mut gone = node.connect().await;
    gone.write_all(b"GET /api/metro/cache/a HTTP/1.1\r\nHost: kura\r\n\r\n").await.unwrap();
    while node.running().node.drain.inflight() == 0 {
        tokio::task::yield_now().await;
    }
    drop(gone);
    let vanished = async {
        while !counted(&node, "kura_http_requests_total").await.iter().any(|line| line.contains("status=\"499\"")) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, vanished).await.expect("499");
    hang(&hangs, false);

    let mut cut = node.connect().await;
    cut.write_all(b"PUT /api/metro/cache/b HTTP/1.1\r\nHost: kura\r\nContent-Length: 1000\r\n\r\nhalf").await.unwrap();
    drop(cut);
    let too_long = [("Content-Length", "3000000000")];
    assert_eq!(node.send("PUT", "/api/metro/cache/c", &too_long, b"").await.status, 413);
    node.running().drain();
    assert_eq!(node.put("/api/metro/cache/d", b"x").await, 503);
    assert_eq!(node.put("/v1/cache/1", b"x").await, 403, "Nx hears another status, the counter does not");
    let refused = counted(&node, "kura_requests_refused_total").await;
    assert_eq!(refused, ["{limit=\"body_length\"} 1", "{limit=\"draining\"} 2"]);
    let server_errors: Vec<String> = counted(&node, "kura_http_requests_total").await;
    let faults: Vec<&String> = server_errors.iter().filter(|line| line.contains("status=\"5")).collect();
    assert_eq!(faults.len(), 1, "only the drain, which says when to come back: {faults:?}");
}
