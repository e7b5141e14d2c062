//! Long bodies between whole nodes in memory: whatever breaks, what came is not fetched again.

use std::sync::Mutex;

use http::StatusCode;

use super::*;
use crate::core::bootstrap::large::drop_unwanted_bodies;
use crate::core::bootstrap::progress::Progress;
use crate::core::mesh::transport::PeerRequest;
use crate::core::mesh::wire::VERIFY_HEADER;
use crate::core::staging::parked::ResumeLimits;

/// Small, so that the bodies of these tests are long ones.
pub(super) const LIMITS: ResumeLimits =
    ResumeLimits { resumable_bytes_min: 100 << 10, partial_bytes_min: 1 << 20, sync_every_bytes: 256 << 10 };

const SIZE: u64 = 3 << 20;

/// What may be on its way when a connection breaks.
const PIECE: u64 = 512 << 10;

fn body(seed: u32) -> Vec<u8> {
    (0..u32::try_from(SIZE).unwrap()).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed as u8).collect()
}

/// Counts the bytes that arrived.
#[derive(Debug, Default)]
struct Arrived(Mutex<u64>);

impl Arrived {
    fn bytes(&self) -> u64 {
        *self.0.lock().unwrap()
    }
}

impl Progress for Arrived {
    fn started(&self, _: &str) {}
    fn tombstones_applied(&self, _: &str) {}
    fn total(&self, _: &str, _: u64) {}
    fn advanced(&self, _: &str, _: u64, bytes: u64) {
        *self.0.lock().unwrap() += bytes;
    }
    fn finished(&self, _: &str, _: Option<&str>) {}
}

/// The faults of the requests for bodies, one after the other; then none.
fn in_turn(node: &Node, faults: Vec<Option<LinkFault>>) -> Arc<Mutex<Vec<String>>> {
    let (asked, faults) = (Arc::new(Mutex::new(Vec::new())), Mutex::new(faults.into_iter()));
    let log = Arc::clone(&asked);
    node.links.set_rule(Some(Arc::new(move |request: &PeerRequest| {
        if !request.path_and_query.contains("/bootstrap/artifacts/") {
            return None;
        }
        let range = request.headers.get(header::RANGE).map_or("whole", |value| value.to_str().unwrap());
        log.lock().unwrap().push(format!("{} {range}", request.peer));
        faults.lock().unwrap().next().flatten()
    })));
    asked
}

async fn pass(node: &Node, over: &Node, progress: &dyn Progress) -> PassSummary {
    let peer = over.as_peer();
    let pass = Pass { engine: &node.engine, peer: &peer, progress, log: None, dry_run: false, is_retry: false };
    bootstrap_manifests_from_peer(&pass).await.unwrap()
}

/// Three nodes of which the first two hold a long body.
async fn three() -> (Node, Node, Node, ArtifactId) {
    let network = MemoryTransport::new();
    let (one, two, three) = (Node::new(1, &network), Node::new(2, &network), Node::new(3, &network));
    let id = one.put("nx", "long", &body(1)).await;
    assert_eq!(two.pass_over(&one).await.count(Outcome::Applied), 1);
    three.engine.set_usable_peers(vec![one.as_peer(), two.as_peer()]);
    (one, two, three, id)
}

fn assert_whole(node: &Node, id: &ArtifactId) {
    let record = node.store().lookup(id).unwrap().expect("the artifact");
    assert_eq!(record.size, SIZE);
    assert_eq!(std::fs::read(node.body_files().remove(0)).unwrap()[..body(1).len()], body(1));
    assert_eq!(node.context.staging.reserved_bytes(), 0);
    assert_eq!(std::fs::read_dir(node.context.staging.folder(AreaKind::Bootstrap)).unwrap().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_transfer_that_is_cut_twice_goes_on_where_it_was_cut() {
    let (one, _two, three, id) = three().await;
    let cut = |percent: u64| Some(LinkFault::CutBodyAfter(SIZE * percent / 100));
    let asked = in_turn(&three, vec![cut(30), cut(40)]);
    let arrived = Arrived::default();
    let summary = pass(&three, &one, &arrived).await;
    assert_eq!(summary.count(Outcome::Applied), 1);
    assert_whole(&three, &id);
    assert_eq!(arrived.bytes(), SIZE, "no byte came twice");
    let (first, second) = (SIZE * 30 / 100, SIZE * 30 / 100 + SIZE * 40 / 100);
    let url = &one.url;
    let expected = [format!("{url} whole"), format!("{url} bytes={first}-"), format!("{url} bytes={second}-")];
    assert_eq!(*asked.lock().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_transfer_that_its_holder_gives_up_goes_on_from_another_holder() {
    let (one, two, three, id) = three().await;
    let asked = in_turn(&three, vec![Some(LinkFault::CutBodyAfter(SIZE * 70 / 100)), Some(LinkFault::Refuse)]);
    let arrived = Arrived::default();
    assert_eq!(pass(&three, &one, &arrived).await.count(Outcome::Applied), 1);
    assert_whole(&three, &id);
    assert!(arrived.bytes() <= SIZE + PIECE, "{}", arrived.bytes());
    let last = asked.lock().unwrap().last().cloned();
    assert_eq!(last, Some(format!("{} bytes={}-", two.url, SIZE * 70 / 100)));
}

#[tokio::test(start_paused = true)]
async fn what_came_before_every_holder_failed_is_not_fetched_again_by_the_retry() {
    let (one, _two, three, id) = three().await;
    let mut faults = vec![Some(LinkFault::StallBodyAfter(SIZE / 2))];
    faults.resize(6, Some(LinkFault::Status(StatusCode::SERVICE_UNAVAILABLE)));
    in_turn(&three, faults);
    let arrived = Arrived::default();
    assert_eq!(pass(&three, &one, &arrived).await.count(Outcome::Failed), 1);
    assert_eq!(three.context.staging.parked_bodies().len(), 1);
    assert_eq!(three.context.staging.reserved_bytes(), SIZE, "it is in the ledger");
    assert_eq!(drop_unwanted_bodies(&three.engine).await.unwrap(), 0, "it is wanted");
    three.links.set_rule(None);
    three.clock.advance(Duration::from_secs(10));
    assert_eq!(retry_due(&three.engine, &arrived).await.unwrap(), 1);
    assert_whole(&three, &id);
    assert_eq!(arrived.bytes(), SIZE);
}

#[tokio::test(start_paused = true)]
async fn a_holder_whose_connections_bring_nothing_is_given_up_and_one_that_brings_little_is_not() {
    let (one, two, three, id) = three().await;
    let asked = in_turn(&three, vec![Some(LinkFault::CutBodyAfter(10)); 3]);
    assert_eq!(pass(&three, &one, &NoProgress).await.count(Outcome::Applied), 1);
    assert_eq!(asked.lock().unwrap().iter().filter(|line| line.starts_with(&one.url)).count(), 3);
    assert_eq!(asked.lock().unwrap().last(), Some(&format!("{} bytes=30-", two.url)));
    assert_whole(&three, &id);
    // Many connections that each bring a little.
    let network = MemoryTransport::new();
    let (five, six) = (Node::new(5, &network), Node::new(6, &network));
    let id = five.put("nx", "long", &body(1)).await;
    let asked = in_turn(&six, vec![Some(LinkFault::CutBodyAfter(100_000)); 40]);
    let arrived = Arrived::default();
    assert_eq!(pass(&six, &five, &arrived).await.count(Outcome::Applied), 1);
    assert_eq!((arrived.bytes(), asked.lock().unwrap().len()), (SIZE, SIZE.div_ceil(100_000) as usize));
    assert_whole(&six, &id);
}

#[tokio::test(start_paused = true)]
async fn a_slow_transfer_that_moves_is_never_given_up() {
    let (one, _two, three, id) = three().await;
    let asked = in_turn(&three, vec![Some(LinkFault::SlowBody(Duration::from_secs(50)))]);
    let began = tokio::time::Instant::now();
    assert_eq!(pass(&three, &one, &NoProgress).await.count(Outcome::Applied), 1);
    assert!(began.elapsed() >= Duration::from_secs(500), "{:?}", began.elapsed());
    assert_eq!(asked.lock().unwrap().len(), 1, "one connection");
    assert_whole(&three, &id);
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_is_dropped_half_way_leaves_its_bytes_to_the_next_one() {
    let (one, _two, three, id) = three().await;
    in_turn(&three, vec![Some(LinkFault::StallBodyAfter(SIZE / 2))]);
    let arrived = Arrived::default();
    let dropped = tokio::time::timeout(Duration::from_secs(30), pass(&three, &one, &arrived)).await;
    assert!(dropped.is_err());
    assert_eq!(three.context.staging.parked_bodies().len(), 1);
    assert_eq!(pass(&three, &one, &arrived).await.count(Outcome::Applied), 1);
    assert_whole(&three, &id);
    assert!(arrived.bytes() <= SIZE + PIECE, "{}", arrived.bytes());
}

#[tokio::test(start_paused = true)]
async fn parts_of_which_one_is_wrong_are_told_by_the_digest_and_fetched_once_more() {
    let (one, _two, three, id) = three().await;
    let faults = vec![Some(LinkFault::CorruptAndCut(1000, SIZE / 2)), Some(LinkFault::Refuse)];
    in_turn(&three, faults);
    let arrived = Arrived::default();
    assert_eq!(pass(&three, &one, &arrived).await.count(Outcome::Applied), 1);
    assert_whole(&three, &id);
    assert_eq!(arrived.bytes(), 2 * SIZE, "half, the other half, and the whole");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_body_of_one_holder_is_its_bad_copy_and_is_not_kept() {
    let network = MemoryTransport::new();
    let (one, two) = (Node::new(1, &network), Node::new(2, &network));
    one.put("nx", "long", &body(1)).await;
    in_turn(&two, vec![Some(LinkFault::CorruptByteAt(SIZE / 2))]);
    assert_eq!(pass(&two, &one, &NoProgress).await.count(Outcome::BadCopy), 1);
    assert_eq!((two.context.staging.parked_bodies().len(), two.context.staging.reserved_bytes()), (0, 0));
    assert_eq!(one.store().stats().artifacts, 1, "the holder's own copy is good");
    let said = two.store().wanted_page(None, 9).unwrap().remove(0).error.unwrap();
    assert!(said.ends_with("although its own copy is good"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_rots_after_it_was_verified_is_found_by_its_holder_as_soon_as_a_peer_says_so() {
    for size in [50 << 10, SIZE] {
        let network = MemoryTransport::new();
        let (one, two) = (Node::new(1, &network), Node::new(2, &network));
        let id = one.put("nx", "file", &body(1)[..size as usize]).await;
        assert_eq!(one.get(&format!("/_internal/bootstrap/artifacts/{id}")).await.status, 200, "read and found good");
        damage(&one, 20_000);
        assert_eq!(pass(&two, &one, &NoProgress).await.count(Outcome::BadCopy), 1);
        assert!(!one.holds(&id), "withdrawn, so that nobody is served a bad copy");
    }
}

#[tokio::test]
async fn a_copy_that_is_doubted_is_looked_at_by_the_next_reader_if_the_one_that_doubts_does_not_wait() {
    let (node, id, _) = unread(None).await;
    let path = format!("/_internal/bootstrap/artifacts/{id}");
    assert_eq!(node.get(&path).await.body.len(), UNVERIFIED_BYTES, "read and found good");
    damage(&node, 5_000_000);
    let doubting = http::Request::get(&path).header(header::RANGE, "bytes=0-0").header(VERIFY_HEADER, "1");
    let response = router(Arc::clone(&node.context)).oneshot(doubting.body(Body::empty()).unwrap()).await.unwrap();
    drop(response);
    assert!(node.holds(&id), "hashing it took too long");
    assert!(node.get(&path).await.body.is_empty() && !node.holds(&id), "the answer breaks off");
}

#[tokio::test(start_paused = true)]
async fn another_holder_is_not_kept_waiting_by_one_that_looks_at_its_bad_copy() {
    let (one, two, three, id) = three().await;
    let faults = vec![Some(LinkFault::CorruptByteAt(SIZE / 2)), Some(LinkFault::StallHead)];
    let asked = in_turn(&three, faults);
    let began = tokio::time::Instant::now();
    assert_eq!(pass(&three, &one, &NoProgress).await.count(Outcome::Applied), 1);
    assert_whole(&three, &id);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let expected = [format!("{} whole", one.url), format!("{} bytes=0-0", one.url), format!("{} whole", two.url)];
    assert_eq!(*asked.lock().unwrap(), expected);
}

/// Changes a byte of a node's one body file.
fn damage(node: &Node, at: u64) {
    use std::os::unix::fs::FileExt as _;
    let path = node.body_files().remove(0);
    let byte = std::fs::read(&path).unwrap()[at as usize];
    std::fs::File::options().write(true).open(path).unwrap().write_all_at(&[byte ^ 1], at).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_version_that_was_replaced_meanwhile_is_not_gone_after() {
    let (one, _two, three, id) = three().await;
    three.engine.set_usable_peers(vec![one.as_peer()]);
    let mut faults = vec![Some(LinkFault::CutBodyAfter(SIZE / 2))];
    faults.resize(4, Some(LinkFault::Status(StatusCode::BAD_GATEWAY)));
    in_turn(&three, faults);
    assert_eq!(pass(&three, &one, &NoProgress).await.count(Outcome::Failed), 1);
    assert_eq!(three.context.staging.parked_bodies().len(), 1);
    three.links.set_rule(None);
    one.clock.advance(Duration::from_secs(5));
    three.clock.advance(Duration::from_secs(10));
    one.put("nx", "long", &body(2)).await;
    // The retry asks for the old version and is told of the new one.
    assert_eq!(retry_due(&three.engine, &NoProgress).await.unwrap(), 1);
    let (ours, theirs) = (three.store().lookup(&id).unwrap().unwrap(), one.store().lookup(&id).unwrap().unwrap());
    assert_eq!(ours.version(), theirs.version());
    assert_eq!((three.context.staging.parked_bodies().len(), three.context.staging.reserved_bytes()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_parked_body_that_nobody_wants_any_more_is_dropped() {
    let (one, _two, three, _id) = three().await;
    three.engine.set_usable_peers(vec![one.as_peer()]);
    let mut faults = vec![Some(LinkFault::CutBodyAfter(SIZE / 2))];
    faults.resize(4, Some(LinkFault::Status(StatusCode::BAD_GATEWAY)));
    in_turn(&three, faults);
    pass(&three, &one, &NoProgress).await;
    assert_eq!(three.context.staging.parked_bodies().len(), 1);
    let delete = Operation::DeleteNamespace { namespace: "ns".to_owned(), version_ms: None };
    three.context.store.commit(delete).await.unwrap();
    assert_eq!(drop_unwanted_bodies(&three.engine).await.unwrap(), 1);
    assert_eq!((three.context.staging.parked_bodies().len(), three.context.staging.reserved_bytes()), (0, 0));
    assert_eq!(std::fs::read_dir(three.context.staging.folder(AreaKind::Bootstrap)).unwrap().count(), 0);
}

/// More than is hashed before the first byte.
const UNVERIFIED_BYTES: usize = 20 << 20;

/// A node whose store has not read its one body yet, as after a start.
async fn unread(damaged_at: Option<usize>) -> (Node, ArtifactId, Vec<u8>) {
    let node = one();
    let body: Vec<u8> = (0..UNVERIFIED_BYTES).map(|at| (at % 251) as u8).collect();
    let id = node.put("nx", "long", &body).await;
    if let Some(at) = damaged_at {
        damage(&node, at as u64);
    }
    (node, id, body)
}

#[tokio::test]
async fn a_long_file_goes_out_while_it_is_hashed_and_never_ends_cleanly_when_it_is_wrong() {
    let (node, id, body) = unread(None).await;
    let path = format!("/_internal/bootstrap/artifacts/{id}");
    let whole = node.get(&path).await;
    assert!(whole.status == 200 && whole.body == body);

    let (node, id, _) = unread(Some(5_000_000)).await;
    let path = format!("/_internal/bootstrap/artifacts/{id}");
    let request = http::Request::get(&path).body(Body::empty()).unwrap();
    let response = router(Arc::clone(&node.context)).oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200, "the header is out before the file is hashed");
    let mut frames = response.into_body().into_data_stream();
    let (mut received, mut ended) = (0, None);
    while let Some(frame) = futures_util::StreamExt::next(&mut frames).await {
        match frame {
            Ok(bytes) => received += bytes.len(),
            Err(error) => ended = Some(error),
        }
    }
    assert!(ended.is_some() && received < UNVERIFIED_BYTES, "{received} bytes, {ended:?}");
    assert!(!node.holds(&id), "and it is withdrawn");
    assert_eq!(node.get(&path).await.status, 404);
}

#[tokio::test]
async fn a_part_asked_for_by_digest_goes_out_at_once_and_another_part_only_from_a_good_file() {
    let (node, id, body) = unread(Some(100)).await;
    let path = format!("/_internal/bootstrap/artifacts/{id}");
    let digest = node.store().lookup(&id).unwrap().unwrap().digest;
    let (etag, range) = (format!("\"{digest}\""), format!("bytes={}-", UNVERIFIED_BYTES - 1000));
    let by_digest = [(header::RANGE, range.as_str()), (header::IF_MATCH, etag.as_str())];
    let part = node.call(Method::GET, &path, &by_digest, b"").await;
    assert_eq!((part.status, &part.body[..]), (206, &body[UNVERIFIED_BYTES - 1000..]));
    assert!(node.holds(&id), "nobody looked at the rest");
    let any = [(header::RANGE, range.as_str()), (header::IF_MATCH, "*")];
    assert!(node.call(Method::GET, &path, &any, b"").await.body.is_empty(), "who has no digest cannot check");
    let (node, id, _) = unread(Some(100)).await;
    let path = format!("/_internal/bootstrap/artifacts/{id}");
    let part = node.call(Method::GET, &path, &[(header::RANGE, range.as_str())], b"").await;
    assert!(part.body.is_empty() && !node.holds(&id), "it ends with an error and is withdrawn");
}

#[tokio::test(start_paused = true)]
async fn a_holder_whose_long_body_is_corrupt_finds_it_and_another_holder_delivers() {
    let network = MemoryTransport::new();
    let (one, two, three) = (Node::new(1, &network), Node::new(2, &network), Node::new(3, &network));
    let body: Vec<u8> = (0..UNVERIFIED_BYTES).map(|at| (at % 251) as u8).collect();
    // At one moment, so that it is one version; nobody has read it yet.
    let id = one.put("nx", "long", &body).await;
    two.put("nx", "long", &body).await;
    damage(&one, 7_000_000);
    three.engine.set_usable_peers(vec![one.as_peer(), two.as_peer()]);
    let arrived = Arrived::default();
    assert_eq!(pass(&three, &one, &arrived).await.count(Outcome::Applied), 1);
    assert!(three.holds(&id) && !one.holds(&id), "the holder withdrew its own");
    assert!(arrived.bytes() <= 2 * UNVERIFIED_BYTES as u64, "{}", arrived.bytes());
}
