//! Passes that fetch many bodies to a request, and everything that can go wrong with such a request.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::core::base::clock::Clock;
use crate::core::base::ids::Digest;
use crate::core::bootstrap::pass::PassError;
use crate::core::mesh::bulk_frames::BulkRequest;
use crate::core::mesh::circuit::{CircuitState, FAILURES_MAX};
use crate::core::mesh::transport::PeerRequest;
use crate::core::staging::body_writer::{StagedBody, StagedContent};
use crate::core::store::wanted::WantedReason;

/// Larger than what rides in a feed page.
const BODY: usize = 20_000;

/// What was asked of the peers, by requests.
#[derive(Clone, Default)]
struct Asked {
    /// Items of each bulk request.
    bulk: Arc<Mutex<Vec<usize>>>,
    singles: Arc<AtomicUsize>,
}

impl Asked {
    fn bulk(&self) -> Vec<usize> {
        self.bulk.lock().unwrap().clone()
    }

    fn singles(&self) -> usize {
        self.singles.load(Ordering::SeqCst)
    }

    fn bodies(&self) -> usize {
        self.bulk().len() + self.singles()
    }
}

fn is_bulk(request: &PeerRequest) -> bool {
    request.path_and_query == "/_internal/bulk"
}

fn is_body(request: &PeerRequest) -> bool {
    is_bulk(request) || request.path_and_query.starts_with("/_internal/bootstrap/artifacts/")
}

/// Counts what a node asks for; `fault` is told which request of the kind this is, from 0.
fn watch(node: &Node, fault: impl Fn(&PeerRequest, usize) -> Option<LinkFault> + Send + Sync + 'static) -> Asked {
    let asked = Asked::default();
    let noted = asked.clone();
    node.links.set_rule(Some(Arc::new(move |request| {
        if is_bulk(request) {
            let items = serde_json::from_slice::<BulkRequest>(&request.body).unwrap().items.len();
            let at = noted.bulk().len();
            noted.bulk.lock().unwrap().push(items);
            fault(request, at)
        } else if is_body(request) {
            fault(request, noted.singles.fetch_add(1, Ordering::SeqCst))
        } else {
            fault(request, 0)
        }
    })));
    asked
}

async fn fill(node: &Node, count: usize) -> Vec<ArtifactId> {
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(node.put("nx", &n.to_string(), &vec![n as u8; BODY]).await);
    }
    ids
}

fn two() -> (Node, Node) {
    let network = MemoryTransport::new();
    (Node::new(1, &network), Node::new(2, &network))
}

fn is_at_rest(node: &Node) -> bool {
    (node.context.staging.reserved_bytes(), node.engine.flights.count()) == (0, 0)
}

#[tokio::test]
async fn a_page_of_small_bodies_takes_a_few_requests() {
    let (one, two) = two();
    let ids = fill(&one, 300).await;
    let large = one.put("nx", "large", &vec![7; (1 << 20) + 1]).await;
    let asked = watch(&two, |_, _| None);
    let summary = two.pass_over(&one).await;
    assert_eq!((summary.count(Outcome::Applied), summary.is_clean()), (301, true));
    assert_eq!(summary.bytes, 300 * BODY as u64 + (1 << 20) + 1);
    assert_eq!((asked.bulk(), asked.singles()), (vec![256, 44], 1), "what is large goes by itself");
    assert!(ids.iter().chain([&large]).all(|id| two.holds(id)) && is_at_rest(&two));
    let (ours, theirs) = (two.store().lookup(&ids[9]).unwrap().unwrap(), one.store().lookup(&ids[9]).unwrap().unwrap());
    assert_eq!((ours.version(), &ours.attributes, ours.origin), (theirs.version(), &theirs.attributes, theirs.origin));
}

#[tokio::test]
async fn a_peer_without_the_feature_is_asked_for_each_body() {
    let (one, two) = two();
    fill(&one, 20).await;
    let asked = watch(&two, |_, _| None);
    let PeerSource::Kura { store_id, artifacts, limits, .. } = one.as_peer().source else { panic!("a kura node") };
    let source = PeerSource::Kura { store_id, artifacts, limits, features: PeerFeatures::default() };
    let peer = Peer { url: one.url.clone(), source };
    let pass =
        Pass { engine: &two.engine, peer: &peer, progress: &NoProgress, log: None, dry_run: false, is_retry: false };
    assert_eq!(bootstrap_manifests_from_peer(&pass).await.unwrap().count(Outcome::Applied), 20);
    assert_eq!((asked.bulk().len(), asked.singles()), (0, 20));
}

#[tokio::test]
async fn what_a_cut_or_changed_stream_did_not_deliver_is_asked_for_again_and_nothing_else() {
    for fault in [LinkFault::CutBodyAfter(100_000), LinkFault::CorruptByteAt(100_000)] {
        let (one, two) = two();
        fill(&one, 20).await;
        let asked = watch(&two, move |_, at| (at == 0).then(|| fault.clone()));
        let summary = two.pass_over(&one).await;
        assert_eq!((summary.count(Outcome::Applied), summary.is_clean()), (20, true));
        assert_eq!(summary.bytes, 20 * BODY as u64, "no body twice");
        assert_eq!((asked.bulk(), asked.singles()), (vec![20, 16], 0), "four came before the cut");
        assert!(is_at_rest(&two));
    }
}

#[tokio::test]
async fn what_one_peer_never_delivers_comes_from_another_at_once_and_else_is_noted() {
    let network = MemoryTransport::new();
    let (one, two, three) = (Node::new(1, &network), Node::new(2, &network), Node::new(3, &network));
    let ids = fill(&one, 20).await;
    two.pass_over(&one).await;
    three.engine.set_usable_peers(vec![one.as_peer(), two.as_peer()]);
    let url = one.url.clone();
    let asked = watch(&three, move |request, _| {
        (is_body(request) && request.peer == url).then_some(LinkFault::CutBodyAfter(1000))
    });
    assert_eq!(three.pass_over(&one).await.count(Outcome::Applied), 20);
    assert_eq!((asked.bulk(), asked.singles()), (vec![20, 20], 0));

    let four = Node::new(4, &network);
    watch(&four, |request, _| is_body(request).then_some(LinkFault::CutBodyAfter(1000)));
    let summary = four.pass_over(&one).await;
    assert_eq!((summary.count(Outcome::Failed), four.holds(&ids[0])), (20, false));
    let wanted = four.store().wanted_page(None, 99).unwrap();
    assert!(wanted.len() == 20 && wanted.iter().all(|row| row.reason == WantedReason::Failed));
    four.links.set_rule(None);
    let asked = watch(&four, |_, _| None);
    assert_eq!(four.pass_over(&one).await.count(Outcome::Applied), 20, "although the cursor has passed the rows");
    assert_eq!((asked.bulk(), asked.singles()), (vec![20], 0), "together again");
    assert_eq!(four.store().wanted_page(None, 9).unwrap(), []);
}

#[tokio::test]
async fn one_bad_copy_does_not_stop_the_others_and_the_good_one_comes_from_elsewhere() {
    let network = MemoryTransport::new();
    let (one, two, three) = (Node::new(1, &network), Node::new(2, &network), Node::new(3, &network));
    let ids = fill(&one, 20).await;
    two.pass_over(&one).await;
    // Read once, so that the source takes them for good; then changed behind its back.
    let changed = one.body_files().remove(0);
    let mut bytes = std::fs::read(&changed).unwrap();
    bytes[99] ^= 1;
    std::fs::write(&changed, bytes).unwrap();
    let alone = three.pass_over(&one).await;
    assert_eq!((alone.count(Outcome::Applied), alone.count(Outcome::BadCopy)), (19, 1));
    assert_eq!(one.store().stats().artifacts, 19, "the source was told, and withdrew it");
    three.engine.set_usable_peers(vec![one.as_peer(), two.as_peer()]);
    assert_eq!(three.pass_over(&one).await.count(Outcome::Applied), 1);
    assert!(ids.iter().all(|id| three.holds(id)) && is_at_rest(&three));
}

/// A newer version of an artifact, at once.
fn overwrite(node: &Node, key: &str, body: &'static [u8]) {
    let staged = StagedBody {
        length: body.len() as u64,
        digest: Digest::of(body),
        sha256: None,
        content: StagedContent::Inline(Bytes::from_static(body)),
    };
    let put = Put {
        name: ArtifactKey { producer: "nx".to_owned(), namespace: "ns".to_owned(), key: key.to_owned() },
        kind: Kind::Blob,
        content_type: "text/plain".to_owned(),
        attributes: Default::default(),
        carried: Carried::default(),
        body: staged,
        origin: PutOrigin::Local(PutMode::LastWriterWins),
    };
    node.store().submit(Operation::Put(Box::new(put))).wait().unwrap();
}

#[tokio::test]
async fn a_version_that_was_superseded_since_it_was_listed_comes_as_the_newer_one() {
    let (one, two) = two();
    let ids = fill(&one, 4).await;
    let one = Arc::new(one);
    let writer = Arc::clone(&one);
    let asked = watch(&two, move |request, at| {
        if is_bulk(request) && at == 0 {
            overwrite(&writer, "2", b"newer");
        }
        None
    });
    let summary = two.pass_over(&one).await;
    assert_eq!((summary.count(Outcome::Applied), summary.is_clean()), (4, true));
    assert_eq!(two.store().lookup(&ids[2]).unwrap().unwrap().digest, Digest::of(b"newer"));
    assert_eq!((asked.bulk(), asked.singles()), (vec![4], 0));
}

#[tokio::test]
async fn what_was_deleted_since_it_was_listed_is_unavailable_and_the_rest_comes() {
    let (one, two) = two();
    fill(&one, 4).await;
    let gone = one.put("bazel", "ac/1", &[9; BODY]).await;
    let body_no = one.store().lookup(&gone).unwrap().unwrap();
    let one = Arc::new(one);
    let writer = Arc::clone(&one);
    watch(&two, move |request, at| {
        if is_bulk(request) && at == 0 {
            writer.store().report_bad_body(&body_no, "as if it were bad");
        }
        None
    });
    let summary = two.pass_over(&one).await;
    assert_eq!((summary.count(Outcome::Applied), summary.count(Outcome::Unavailable)), (4, 1));
    assert!(summary.is_clean(), "an absence that the holder owns up to holds back nothing");
    assert_eq!(two.store().wanted_page(None, 9).unwrap()[0].reason, WantedReason::Unavailable);
}

async fn hold_all_slots(node: &Node) -> Vec<crate::core::mesh::client::BulkStream> {
    let mut held = Vec::new();
    while let Ok(stream) = node.engine.client.bulk(&node.url, Vec::new()).await {
        held.push(stream);
    }
    held
}

#[tokio::test(start_paused = true)]
async fn a_busy_source_is_given_the_rest_it_asks_for_and_then_delivers() {
    let (one, two) = two();
    fill(&one, 20).await;
    let held = hold_all_slots(&one).await;
    let asked = watch(&two, |_, _| None);
    let started = tokio::time::Instant::now();
    let (summary, ()) = tokio::join!(two.pass_over(&one), async {
        tokio::time::sleep(Duration::from_millis(5500)).await;
        drop(held);
    });
    assert_eq!((summary.count(Outcome::Applied), summary.is_clean()), (20, true));
    assert!(asked.bodies() <= 3, "{:?}", asked.bulk());
    assert!(started.elapsed() >= Duration::from_secs(6), "5 s for a slot, then a second of rest");
    assert_eq!(two.engine.circuits.state(&one.url), CircuitState::Closed, "busy is not broken");
}

#[tokio::test(start_paused = true)]
async fn from_a_source_that_stays_busy_a_page_is_noted_for_no_sooner_than_it_asked_and_the_pass_ends() {
    let (one, two) = two();
    fill(&one, 20).await;
    let _held = hold_all_slots(&one).await;
    let asked = watch(&two, |_, _| None);
    let ended = two.try_pass_over(&one).await;
    assert!(matches!(ended, Err(PassError::LeftAlone(_))), "{ended:?}");
    assert!(asked.bodies() <= 4, "{:?}", asked.bulk());
    let wanted = two.store().wanted_page(None, 99).unwrap();
    let soonest = two.clock.now_ms() + 1000;
    assert!(wanted.len() == 20 && wanted.iter().all(|row| row.next_try_ms >= soonest));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_fails_everything_is_left_alone_and_does_not_hold_others_back() {
    let network = MemoryTransport::new();
    let (sick, good, node) = (Node::new(1, &network), Node::new(2, &network), Node::new(3, &network));
    let ids = fill(&sick, 600).await;
    good.pass_over(&sick).await;
    let late = good.put("nx", "only the good one has this", &[1; BODY]).await;
    let url = sick.url.clone();
    let fail = LinkFault::Status(http::StatusCode::INTERNAL_SERVER_ERROR);
    let asked = watch(&node, move |request, _| (is_body(request) && request.peer == url).then(|| fail.clone()));
    for _ in 0..50 {
        let _ = node.try_pass_over(&sick).await;
    }
    assert!(asked.bodies() <= FAILURES_MAX as usize + 3, "{:?} and {}", asked.bulk(), asked.singles());
    assert_eq!(node.engine.circuits.state(&sick.url), CircuitState::Open);
    let summary = node.pass_over(&good).await;
    assert!(node.holds(&late) && ids.iter().all(|id| node.holds(id)), "{summary:?}");

    node.links.set_rule(None);
    node.clock.advance(Duration::from_secs(60));
    assert!(node.pass_over(&sick).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn passes_over_two_peers_with_the_same_bodies_share_the_work_and_fetch_nothing_twice() {
    let network = MemoryTransport::new();
    let (one, two, three) = (Node::new(1, &network), Node::new(2, &network), Node::new(3, &network));
    let ids = fill(&one, 600).await;
    two.pass_over(&one).await;
    let slow = LinkFault::Delay(Duration::from_millis(50));
    let asked = watch(&three, move |request, _| is_body(request).then(|| slow.clone()));
    let (first, second) = tokio::join!(three.pass_over(&one), three.pass_over(&two));
    assert_eq!(first.count(Outcome::Applied) + second.count(Outcome::Applied), 600);
    assert_eq!(asked.bulk().iter().sum::<usize>() + asked.singles(), 600, "{:?}", asked.bulk());
    assert!(first.is_clean() && second.is_clean() && ids.iter().all(|id| three.holds(id)));
}

#[tokio::test(start_paused = true)]
async fn a_stalled_stream_of_one_peer_holds_up_the_pass_over_another_for_seconds_only() {
    let network = MemoryTransport::new();
    let (stalling, good, node) = (Node::new(1, &network), Node::new(2, &network), Node::new(3, &network));
    fill(&stalling, 20).await;
    good.pass_over(&stalling).await;
    let late = good.put("nx", "late", &[1; BODY]).await;
    let url = stalling.url.clone();
    watch(&node, move |request, _| {
        (is_body(request) && request.peer == url).then_some(LinkFault::StallBodyAfter(1000))
    });
    let started = tokio::time::Instant::now();
    let stalled = node.try_pass_over(&stalling);
    let over_good = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let summary = node.pass_over(&good).await;
        (summary.count(Outcome::WaitingForPeer), started.elapsed())
    };
    let (_, (waiting, took)) = tokio::join!(stalled, over_good);
    assert!(node.holds(&late));
    // 15 s for what is on its way elsewhere, and 2 s for the other walk to keep step.
    assert!(waiting > 0 && took <= Duration::from_secs(18), "{waiting} noted after {took:?}");
    node.engine.set_usable_peers(vec![good.as_peer()]);
    assert!(node.pass_over(&good).await.is_clean(), "what was noted is tried again");
}
