//! Retries: who is asked when, and that nobody waits for somebody else.

use super::*;
use crate::core::base::executor::{Job, StoreExecutor};
use crate::core::base::ids::{Digest, Version};
use crate::core::bootstrap::follow::{Follower, keep_retrying};
use crate::core::bootstrap::retry::Retrier;
use crate::core::mesh::circuit::CircuitState;
use crate::core::mesh::readiness::Readiness;
use crate::core::staging::body_writer::{BodySpec, WRITE_BUFFER_BYTES};
use crate::core::staging::budget::BudgetClass;
use crate::core::staging::partials::PartialIdentity;
use crate::core::store::wanted::Wanted;

fn row(key: &str, size: usize, holder: &str, reason: WantedReason) -> Wanted {
    Wanted {
        id: id(key),
        version: crate::core::base::ids::Version { version_ms: 1000, ..Default::default() },
        size: size as u64,
        name: ("nx".to_owned(), "nx".to_owned(), key.to_owned()),
        holders: vec![holder.to_owned()],
        reason,
        error: None,
        attempts: 1,
        next_try_ms: 0,
    }
}

fn seed(url: &str) -> Peer {
    Peer { url: url.to_owned(), source: PeerSource::Seed }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_body_delays_no_other_retry() {
    let bench = Bench::new(1 << 20);
    let urls = ["http://stalling", "http://good"];
    let bodies = vec![("stalled", &b"a body"[..]), ("one", b"body one"), ("two", b"body two")];
    urls.iter().for_each(|url| bench.links.attach(url, Some(seed_peer(bodies.clone(), Arc::default()))));
    bench.break_bodies(vec![("stalled", LinkFault::StallHead)]);
    bench.engine.set_usable_peers(urls.map(seed).to_vec());
    let failed = WantedReason::Failed;
    let rows = [row("stalled", 6, urls[0], failed), row("one", 8, urls[0], failed), row("two", 8, urls[1], failed)];
    assert!(bench.store().note_wanted(&rows).unwrap());
    let started = tokio::time::Instant::now();
    let mut retrier = Retrier::new(&bench.engine, &NoProgress);
    retrier.start_due().await.unwrap();
    for _ in 0..2 {
        assert_eq!(retrier.next_end().await.unwrap().unwrap(), 1);
    }
    assert!(started.elapsed() < Duration::from_secs(1), "both holders' others came meanwhile");

    assert!(bench.store().note_wanted(&[row("one", 8, urls[0], failed)]).unwrap());
    retrier.start_due().await.unwrap();
    assert_eq!(retrier.next_end().await.unwrap().unwrap(), 0, "here already, and looked at while the other stalls");
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(retrier.next_end().await.unwrap().unwrap(), 0);
    assert!(started.elapsed() >= Duration::from_secs(60));
    assert!(!retrier.is_running());
    assert_eq!(bench.wanted(), [(id("stalled"), WantedReason::Failed)]);
}

#[tokio::test(start_paused = true)]
async fn a_pass_again_asks_only_for_what_is_due_or_waited_for_the_peer_and_forgets_nothing() {
    let bench = Bench::new(1 << 20);
    let fetched = Arc::new(AtomicUsize::new(0));
    let bodies = vec![("failed", &b"body one"[..]), ("waiting", b"body two")];
    bench.links.attach(PEER, Some(seed_peer(bodies, Arc::clone(&fetched))));
    let later = NOW_MS + 60_000;
    let later = |row: Wanted| Wanted { next_try_ms: later, ..row };
    let rows = [
        later(row("failed", 8, PEER, WantedReason::Failed)),
        later(row("waiting", 8, PEER, WantedReason::WaitingForPeer)),
    ];
    assert!(bench.store().note_wanted(&rows).unwrap());
    let peer = seed(PEER);
    let pass = |is_retry| Pass {
        engine: &bench.engine,
        peer: &peer,
        progress: &NoProgress,
        log: None,
        dry_run: false,
        is_retry,
    };
    let again = crate::core::bootstrap::retry::retry_wanted_of(&pass(true)).await.unwrap();
    assert_eq!((again.count(Outcome::Applied), again.count(Outcome::Failed)), (1, 1));
    assert!(!again.is_clean(), "what is not due is still missing");
    assert_eq!(fetched.load(Ordering::SeqCst), 1);
    for _ in 0..5 {
        crate::core::bootstrap::retry::retry_wanted_of(&pass(true)).await.unwrap();
    }
    assert_eq!(fetched.load(Ordering::SeqCst), 1, "a peer that comes and goes is not asked each time");
    let first = crate::core::bootstrap::retry::retry_wanted_of(&pass(false)).await.unwrap();
    assert_eq!((first.count(Outcome::Applied), first.is_clean()), (1, true), "the first pass asks at once");
}

#[tokio::test(start_paused = true)]
async fn a_dead_peer_is_not_stormed_with_what_is_wanted_from_it() {
    let bench = Bench::new(1 << 20);
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    bench.links.set_rule(Some(Arc::new(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Some(LinkFault::Refuse)
    })));
    bench.engine.set_usable_peers(vec![seed(PEER)]);
    let rows: Vec<Wanted> = (0..500).map(|n| row(&n.to_string(), 8, PEER, WantedReason::Failed)).collect();
    assert!(bench.store().note_wanted(&rows).unwrap());
    for _ in 0..300 {
        crate::core::bootstrap::retry::retry_due(&bench.engine, &NoProgress).await.unwrap();
        bench.clock.advance(Duration::from_secs(2));
    }
    let asked = asked.load(Ordering::SeqCst);
    assert!((8..40).contains(&asked), "{asked} requests in ten minutes");
    assert_ne!(bench.engine.circuits.state(PEER), CircuitState::Closed);
    assert_eq!(bench.store().wanted_page(None, 600).unwrap().len(), 500);
}

/// A process that is going down: the store is taken out, and what was to be done with it is dropped.
#[derive(Debug, Default)]
struct GoingDown(std::sync::OnceLock<StoreHandle>);

impl StoreExecutor for GoingDown {
    fn execute(&self, _: Job) {
        self.0.get().unwrap().set(None);
    }

    fn permits(&self) -> Option<Arc<tokio::sync::Semaphore>> {
        None
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_at_what_is_wanted_ends_at_once_when_the_node_goes_down_meanwhile() {
    let bench = Bench::new(1 << 30);
    let size = 8 * WRITE_BUFFER_BYTES as u64;
    let version = Version { version_ms: 1, logical: 0, digest: Digest::of(b"x") };
    let identity = PartialIdentity { id: id("long"), version, size, note: Vec::new() };
    let (area, class) = (AreaKind::Bootstrap, BudgetClass::CatchUp);
    let spec = BodySpec { area, class, length: Some(size), length_max: size, sha256: false };
    let mut writer = bench.engine.staging.resume(spec, identity).await.unwrap();
    writer.write(vec![1; 2 * WRITE_BUFFER_BYTES].into()).await.unwrap();
    writer.park().await;

    let executor = Arc::new(GoingDown::default());
    let store = StoreHandle::new(executor.clone());
    store.set(Some(bench.store()));
    executor.0.set(store.clone()).unwrap();
    let engine = Engine { store: store.clone(), ..bench.engine.clone() };
    engine.set_usable_peers(vec![seed(PEER)]);
    let readiness = Readiness::new(true, bench.clock.clone());
    let follower =
        Follower { engine, readiness, members: tokio::sync::watch::channel(Arc::default()).1, passes_max: 1 };
    let cancel = tokio_util::sync::CancellationToken::new();
    let stop = cancel.clone();
    let retrying = tokio::spawn(async move { keep_retrying(&follower, &cancel).await });
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(store.current().is_none(), "it looked");
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(1), retrying).await.expect("it ends").unwrap();
}
