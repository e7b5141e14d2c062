//! Backfills between whole nodes: where they begin, how they survive being broken off, and what voids them.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::core::store::cursor::Cursor;
use crate::core::store::eviction::EvictGoal;
use crate::core::store::walk::ManifestPageRequest;

fn cursor(of: &Node, at: &Node) -> Option<Cursor> {
    of.store().cursor(&at.store().stats().store_id.to_string()).unwrap()
}

/// Requests for pages of versions that reached this node's peers, by their position.
fn count_pages(node: &Node) -> Arc<std::sync::Mutex<Vec<String>>> {
    let asked: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&asked);
    node.links.set_rule(Some(Arc::new(move |request| {
        if request.path_and_query.contains("order=version") {
            noted.lock().unwrap().push(request.path_and_query.clone());
        }
        None
    })));
    asked
}

impl Node {
    /// Replaces the data dir, or parts of it, while the store is closed.
    fn while_closed<R>(&self, work: impl FnOnce(&std::path::Path) -> R) -> R {
        let store = self.store();
        self.context.store.set(None);
        store.close().unwrap();
        drop(store);
        let done = work(self.options.layout.data_dir());
        self.context.store.set(Some(Arc::new(Store::open(self.options.clone()).unwrap().0)));
        done
    }

    fn snapshot(&self) -> tempfile::TempDir {
        self.while_closed(|data_dir| {
            let copy = tempfile::tempdir().unwrap();
            copy_folder(data_dir, copy.path());
            copy
        })
    }

    fn restore(&self, snapshot: &tempfile::TempDir) {
        self.while_closed(|data_dir| {
            std::fs::remove_dir_all(data_dir).unwrap();
            copy_folder(snapshot.path(), data_dir);
        });
    }
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copy_folder(&entry.path(), &target),
            kind if kind.is_file() => drop(std::fs::copy(entry.path(), &target).unwrap()),
            _ => {}
        }
    }
}

async fn fill(node: &Node, keys: std::ops::Range<u32>) {
    for n in keys {
        node.clock.advance(Duration::from_millis(1));
        node.put("nx", &n.to_string(), b"x").await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_node_walks_below_the_head_it_took_first_and_only_follows_from_then_on() {
    let network = MemoryTransport::new();
    let (one, two) = (Node::new(1, &network), Node::new(2, &network));
    fill(&one, 0..1100).await;
    let asked = count_pages(&two);
    assert_eq!(two.pass_over(&one).await.count(Outcome::Applied), 1100);
    let stats = one.store().stats();
    let expected = Cursor { store_id: stats.store_id, epoch: stats.epoch, followed: Seq(1100), walk: None };
    assert_eq!((cursor(&two, &one), asked.lock().unwrap().len()), (Some(expected), 2));
    fill(&one, 1100..1110).await;
    assert_eq!(two.pass_over(&one).await.count(Outcome::Applied), 10);
    assert_eq!((cursor(&two, &one).unwrap().followed, asked.lock().unwrap().len()), (Seq(1110), 2), "by the feed");
}

#[tokio::test(start_paused = true)]
async fn a_walk_that_was_broken_off_goes_on_from_its_durable_position() {
    let network = MemoryTransport::new();
    let (one, two) = (Node::new(1, &network), Node::new(2, &network));
    fill(&one, 0..2500).await;
    let pages = AtomicUsize::new(0);
    two.links.set_rule(Some(Arc::new(move |request| {
        let is_page = request.path_and_query.contains("order=version");
        (is_page && pages.fetch_add(1, Ordering::SeqCst) == 1).then_some(LinkFault::CutBodyAfter(9))
    })));
    assert!(two.try_pass_over(&one).await.is_err());
    let broken_off = cursor(&two, &one).unwrap();
    let walk = broken_off.walk.clone().unwrap();
    assert_eq!((walk.lo_seq, walk.hi_seq, walk.position.is_some()), (Seq(0), Seq(2500), true));
    let held = two.store().stats().artifacts;
    assert!((1024..2500).contains(&held), "{held}");
    // Meanwhile there are new rows, and more than half of what is left gets a newer version.
    fill(&one, 0..900).await;
    let asked = count_pages(&two);
    let summary = two.pass_over(&one).await;
    assert!(summary.is_clean());
    assert_eq!(two.store().stats().artifacts, 2500);
    assert!(asked.lock().unwrap()[0].contains(&walk.position.unwrap()), "not from the newest version again");
    assert_eq!(cursor(&two, &one).unwrap().walk, None);
    let versions = |node: &Node| {
        let request = ManifestPageRequest { after: None, prefix: String::new(), rows_max: 5000, producers: &[] };
        let page = node.store().manifest_page(&request).unwrap();
        page.records.iter().map(|record| (record.name.key.clone(), record.version())).collect::<Vec<_>>()
    };
    assert_eq!(versions(&one), versions(&two));
}

#[tokio::test(start_paused = true)]
async fn pages_that_came_before_the_listing_failed_are_settled_and_not_asked_for_again() {
    let network = MemoryTransport::new();
    let (one, two) = (Node::new(1, &network), Node::new(2, &network));
    fill(&one, 0..4000).await;
    let pages = AtomicUsize::new(0);
    two.links.set_rule(Some(Arc::new(move |request| {
        let is_page = request.path_and_query.contains("order=version");
        (is_page && pages.fetch_add(1, Ordering::SeqCst) == 2).then_some(LinkFault::CutBodyAfter(9))
    })));
    assert!(two.try_pass_over(&one).await.is_err());
    assert_eq!(two.store().stats().artifacts, 3072, "a page, and one twice as long");
    let position = cursor(&two, &one).unwrap().walk.unwrap().position.unwrap();
    let asked = count_pages(&two);
    assert_eq!(two.pass_over(&one).await.count(Outcome::Applied), 928);
    assert_eq!(asked.lock().unwrap().len(), 1);
    assert!(asked.lock().unwrap()[0].contains(&position));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_was_taken_back_is_walked_again_and_what_came_back_is_found() {
    let network = MemoryTransport::new();
    let (one, two) = (Node::new(1, &network), Node::new(2, &network));
    one.put("nx", "old", b"first").await;
    one.put("nx", "kept", b"x").await;
    let snapshot = one.snapshot();
    // Beaten by a row that only the lost part of the log has, before anybody saw the first.
    one.clock.advance(Duration::from_millis(1));
    one.put("nx", "old", b"second").await;
    two.links.set_rule(Some(Arc::new(|request| {
        request.path_and_query.contains("order=version").then_some(LinkFault::CutBodyAfter(9))
    })));
    assert!(two.try_pass_over(&one).await.is_err());
    two.links.set_rule(None);
    assert_eq!(cursor(&two, &one).unwrap().followed, Seq(3));
    one.restore(&snapshot);
    one.put("nx", "new", b"y").await;
    let summary = two.pass_over(&one).await;
    assert_eq!((summary.count(Outcome::Applied), two.store().stats().artifacts), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_digest_is_its_peers_lists_nothing_and_follows_from_that_head() {
    let network = MemoryTransport::new();
    let (one, two) = (Node::new(1, &network), Node::new(2, &network));
    fill(&one, 0..50).await;
    two.pass_over(&one).await;
    let key = one.store().stats().store_id.to_string();
    two.store().save_cursor(&key, None).unwrap();
    let asked = count_pages(&two);
    assert_eq!(two.pass_over(&one).await, PassSummary::default(), "not a row");
    let expected = one.store().stats();
    let jumped = cursor(&two, &one).unwrap();
    assert_eq!((jumped.followed, jumped.epoch, jumped.walk), (expected.head_seq, expected.epoch, None));
    assert_eq!(asked.lock().unwrap().len(), 0);

    // One artifact that the other has not, on either side, and the rows are listed.
    two.put("nx", "its own", b"x").await;
    two.store().save_cursor(&key, None).unwrap();
    assert_eq!(two.pass_over(&one).await.count(Outcome::AlreadyPresent), 50);
    two.store().save_cursor(&key, None).unwrap();
    one.pass_over(&two).await;
    fill(&one, 50..51).await;
    let summary = two.pass_over(&one).await;
    assert_eq!((summary.count(Outcome::AlreadyPresent), summary.count(Outcome::Applied)), (51, 1));
}

#[tokio::test]
async fn the_digest_says_its_head_and_its_buckets_add_up() {
    let node = one();
    fill(&node, 0..40).await;
    let reply = |length: u8| {
        let node = &node;
        async move { node.get(&format!("/_internal/digest?prefix_len={length}")).await.json() }
    };
    let (whole, parts) = (reply(0).await, reply(1).await);
    assert_eq!((&whole["head_seq"], &whole["prefix_len"], &whole["stubs"]), (&40.into(), &0.into(), &0.into()));
    assert_eq!((&whole["buckets"][0]["count"], &whole["buckets"][0]["prefix"]), (&40.into(), &"".into()));
    let parts = parts["buckets"].as_array().unwrap().clone();
    let count: u64 = parts.iter().map(|bucket| bucket["count"].as_u64().unwrap()).sum();
    let sum = |bucket: &serde_json::Value| u128::from_str_radix(bucket["sum"].as_str().unwrap(), 16).unwrap();
    let total = parts.iter().map(sum).fold(0_u128, u128::wrapping_add);
    assert_eq!((count, total), (40, sum(&whole["buckets"][0])));
}

async fn pass_over_both(node: &Node, peers: [&Node; 2]) -> Vec<Result<PassSummary, PassError>> {
    let (one, two) = tokio::join!(node.try_pass_over(peers[0]), node.try_pass_over(peers[1]));
    vec![one, two]
}

#[tokio::test(start_paused = true)]
async fn what_two_peers_hold_rides_along_from_one_of_them_only() {
    let network = MemoryTransport::new();
    let (one, two, joiner) = (Node::new(1, &network), Node::new(2, &network), Node::new(3, &network));
    fill(&one, 0..3000).await;
    two.pass_over(&one).await;
    one.put("nx", "of one", b"x").await;
    two.put("nx", "of two", b"x").await;
    joiner.engine.set_usable_peers(vec![one.as_peer(), two.as_peer()]);
    // Answers take a while, or one walk would be through before the other begins.
    let asked: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&asked);
    joiner.links.set_rule(Some(Arc::new(move |request| {
        if request.path_and_query.contains("order=version") {
            noted.lock().unwrap().push(request.path_and_query.clone());
        }
        Some(LinkFault::Delay(Duration::from_millis(5)))
    })));
    for summary in pass_over_both(&joiner, [&one, &two]).await {
        assert!(summary.unwrap().is_clean());
    }
    assert_eq!(joiner.store().stats().artifacts, 3002);
    let with_bodies = asked.lock().unwrap().iter().filter(|path| !path.contains("inline_up_to=0")).count();
    assert!((2..=3).contains(&with_bodies), "{:?}", asked.lock().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stalls_does_not_hold_back_the_walk_of_another_and_gives_what_it_alone_has_later() {
    let network = MemoryTransport::new();
    let (one, two, joiner) = (Node::new(1, &network), Node::new(2, &network), Node::new(3, &network));
    fill(&one, 0..1500).await;
    two.pass_over(&one).await;
    one.put("nx", "of one", b"x").await;
    let slow = one.url.clone();
    joiner.links.set_rule(Some(Arc::new(move |request| {
        (request.peer == slow && request.path_and_query.contains("order=version")).then_some(LinkFault::StallHead)
    })));
    let began = tokio::time::Instant::now();
    tokio::select! {
        _ = joiner.try_pass_over(&one) => panic!("it stalls"),
        other = async { tokio::task::yield_now().await; joiner.try_pass_over(&two).await } => assert!(other.unwrap().is_clean()),
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(joiner.store().stats().artifacts, 1500);
    joiner.links.set_rule(None);
    assert_eq!(joiner.pass_over(&one).await.count(Outcome::Applied), 1);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_refuses_a_page_is_asked_for_smaller_ones_and_one_that_names_its_bound_at_once() {
    let network = MemoryTransport::new();
    let (one, two) = (Node::new(1, &network), Node::new(2, &network));
    fill(&one, 0..600).await;
    let asked = count_pages(&two);
    let noted = Arc::clone(&asked);
    // An older version that gives at most 100 rows, of any listing, and has not learnt to say so.
    two.links.set_rule(Some(Arc::new(move |request| {
        let path = &request.path_and_query;
        let rows = ["max_rows=", "limit="].into_iter().find_map(|name| path.split(name).nth(1));
        let rows: Option<u64> = rows.and_then(|rest| rest.split('&').next()?.parse().ok());
        if path.contains("order=version") {
            noted.lock().unwrap().push(path.clone());
        }
        rows.is_some_and(|rows| rows > 100).then_some(LinkFault::Status(StatusCode::BAD_REQUEST))
    })));
    assert_eq!(two.pass_over(&one).await.count(Outcome::Applied), 600);
    let rows =
        |number: u64| asked.lock().unwrap().iter().filter(|path| path.contains(&format!("max_rows={number}&"))).count();
    assert_eq!([1024, 512, 256, 128].map(rows), [1, 1, 1, 1], "each refused once");
    assert!(rows(64) >= 10);

    let three = Node::new(3, &network);
    let asked = count_pages(&three);
    let Peer { url, source: PeerSource::Kura { store_id, artifacts, features, limits } } = one.as_peer() else {
        panic!("it is a kura node");
    };
    let limits = PeerLimits { page_rows_max: 300, ..limits };
    let peer = Peer { url, source: PeerSource::Kura { store_id, artifacts, features, limits } };
    let (engine, progress) = (&three.engine, &NoProgress);
    let pass = Pass { engine, peer: &peer, progress, log: None, dry_run: false, is_retry: false };
    assert_eq!(bootstrap_manifests_from_peer(&pass).await.unwrap().count(Outcome::Applied), 600);
    assert!(asked.lock().unwrap().iter().all(|path| path.contains("max_rows=300&")), "{:?}", asked.lock().unwrap());
}

impl Node {
    /// This node as a peer that gives at most so many rows in a page.
    fn with_pages_of(&self, rows: u64) -> Peer {
        let mut peer = self.as_peer();
        if let PeerSource::Kura { limits, .. } = &mut peer.source {
            limits.page_rows_max = rows;
        }
        peer
    }
}

async fn pass_over_peer(node: &Node, peer: &Peer) -> PassSummary {
    let (engine, progress) = (&node.engine, &NoProgress);
    let pass = Pass { engine, peer, progress, log: None, dry_run: false, is_retry: false };
    bootstrap_manifests_from_peer(&pass).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn two_peers_with_twice_what_fits_end_with_the_newest_kept_and_little_fetched_in_vain() {
    const EACH: u32 = 1500;
    const CAPACITY: u64 = 2_000_000;
    let network = MemoryTransport::new();
    let (one, two, joiner) = (Node::new(1, &network), Node::new(2, &network), Node::new(3, &network));
    for n in 0..EACH {
        // Every second version of the union is at the other peer.
        for (node, name) in [(&one, "one"), (&two, "two")] {
            node.clock.advance(Duration::from_millis(2));
            node.put("nx", &format!("{name}-{n}"), &[1; 900]).await;
        }
    }
    joiner.store().set_capacity(Some(CAPACITY));
    joiner.links.set_rule(Some(Arc::new(|_| Some(LinkFault::Delay(Duration::from_millis(5))))));
    let keep_room = async {
        loop {
            let charged = joiner.store().stats().charged_bytes;
            if charged > CAPACITY {
                let bytes = charged - CAPACITY + CAPACITY / 100;
                joiner.store().evict(EvictGoal { bytes, under_pressure: false }).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let peers = [one.with_pages_of(20), two.with_pages_of(20)];
    let walks = async { tokio::join!(pass_over_peer(&joiner, &peers[0]), pass_over_peer(&joiner, &peers[1])) };
    let (first, second) = tokio::select! {
        summaries = walks => summaries,
        () = keep_room => unreachable!("it goes on"),
    };
    let request = ManifestPageRequest { after: None, prefix: String::new(), rows_max: 5000, producers: &[] };
    let mut kept: Vec<u64> =
        joiner.store().manifest_page(&request).unwrap().records.iter().map(|record| record.version_ms).collect();
    kept.sort_unstable();
    let (count, applied) = (kept.len() as u64, first.count(Outcome::Applied) + second.count(Outcome::Applied));
    assert!(count > 1200 && joiner.store().stats().charged_bytes <= CAPACITY, "{count}");
    assert!((applied - count) * 20 <= applied, "{applied} fetched, {count} kept");
    let newest = |node: &Node| {
        let page = node.store().manifest_page(&request).unwrap();
        page.records.iter().map(|record| record.version_ms).collect::<Vec<_>>()
    };
    let mut all = [newest(&one), newest(&two)].concat();
    all.sort_unstable();
    let cut = all[all.len() - kept.len()];
    let older = kept.iter().filter(|version_ms| **version_ms < cut).count() as u64;
    assert!(older * 20 <= count, "{older} of {count} kept are not among the newest");

    for node in [&one, &two] {
        joiner.store().save_cursor(&node.store().stats().store_id.to_string(), None).unwrap();
        let again = pass_over_peer(&joiner, &node.with_pages_of(20)).await;
        assert_eq!((again.count(Outcome::Applied), again.bytes), (0, 0), "nothing evicted is fetched again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_kura_peer_that_does_not_list_by_version_is_listed_by_number_and_loses_nothing() {
    let network = MemoryTransport::new();
    let (one, two) = (Node::new(1, &network), Node::new(2, &network));
    fill(&one, 0..1100).await;
    let asked = count_pages(&two);
    let mut old = one.as_peer();
    if let PeerSource::Kura { features, .. } = &mut old.source {
        *features = PeerFeatures::default();
    }
    assert_eq!(pass_over_peer(&two, &old).await.count(Outcome::Applied), 1100);
    assert_eq!((asked.lock().unwrap().len(), cursor(&two, &one).unwrap().followed), (0, Seq(1100)));
    // It is updated: what is behind the cursor is followed as before.
    fill(&one, 1100..1110).await;
    assert_eq!(two.pass_over(&one).await.count(Outcome::Applied), 10);
    assert_eq!(asked.lock().unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn clocks_apart_by_minutes_lose_nothing() {
    let network = MemoryTransport::new();
    let (one, two) = (Node::new(1, &network), Node::new(2, &network));
    two.clock.advance(Duration::from_secs(600));
    fill(&one, 0..20).await;
    fill(&two, 20..40).await;
    for _ in 0..2 {
        // Behind what the peer has long passed: it is behind in time only.
        fill(&one, 40..45).await;
        assert!(two.pass_over(&one).await.is_clean());
        assert!(one.pass_over(&two).await.is_clean());
    }
    assert_eq!((one.store().stats().artifacts, two.store().stats().artifacts), (45, 45));
    let digests = [&one, &two].map(|node| node.store().set_digest().unwrap().buckets);
    assert_eq!(digests[0], digests[1]);
}

#[tokio::test(start_paused = true)]
async fn a_bad_body_that_rode_along_is_asked_for_by_itself_so_that_its_holder_finds_it() {
    let network = MemoryTransport::new();
    let (one, two) = (Node::new(1, &network), Node::new(2, &network));
    let (bad, good) = (one.put("nx", "bad", b"it was good once").await, one.put("nx", "good", b"x").await);
    let record = one.store().lookup(&bad).unwrap().unwrap();
    one.store().spoil_inline_body(&record);
    let summary = two.pass_over(&one).await;
    assert_eq!((summary.count(Outcome::Applied), summary.count(Outcome::BadCopy)), (1, 0));
    assert_eq!([&bad, &good].map(|id| (one.holds(id), two.holds(id))), [(false, false), (true, true)]);
}
