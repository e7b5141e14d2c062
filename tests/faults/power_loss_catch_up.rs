//! The power goes while a node catches up from a peer: what it had is there and sound, nothing that its cursor passed is
//! missing, and it goes on to the end without fetching again what was durable.
//!
//! How it works: as in `power_loss`, a node in a loop mount is stopped and the image behind the mount is copied. Bodies from
//! a peer take other ways than those of clients: small ones ride in pages and go into the index as table files, without
//! a sync of the log that names them; longer ones come many to a request; long ones are pieced together in staging, the
//! longest as partials. So the copy is opened before a node starts on it, and held against what the peer has. A node on the
//! copy loses power once more on its way, so that each second life begins from what a loss left.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use kura::core::staging::partials::read_header;
use kura::core::store::record::Record;

use crate::left_behind::{assert_accounts_agree, assert_cursor_is_not_ahead, open, records};
use crate::power_loss::hold;
use crate::support::bodies::SplitMix;
use crate::support::inspect::{artifacts, metric, staged_names};
use crate::support::node::Node;
use crate::support::throttle::Throttle;
use crate::support::traffic::Artifact;
use crate::support::wait::{alone, eventually};
use crate::volume::{Kind, Volume};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Room for all of it, and so much that bodies ride along.
const VOLUME_BYTES: u64 = 640 * MIB;

/// Small bodies that are written between two long ones.
const SMALL: u64 = 1_500;

/// Long ones, newest last; the second is so long that it is kept as a partial, with a piece or two of it durable.
const LONG_BYTES: [u64; 4] = [24 * MIB, 96 * MIB, 21 * MIB, 24 * MIB];

/// Bytes a second while the power may go.
const RATE: u64 = 10 * MIB;

/// When the power goes.
#[derive(Debug, Clone, Copy)]
enum Point {
    /// So many bytes were sent to the node.
    Sent(u64),
    /// A piece of the partial is durable, by what its header says in the running node.
    InPartial,
}

/// When it goes first, and then under the node that goes on from there: among the first pages, among later ones, and in the
/// midst of the partial.
const LOST_AT: [(Point, Point); 3] = [
    (Point::Sent(4 * MIB), Point::Sent(32 * MIB)),
    (Point::Sent(34 * MIB), Point::InPartial),
    (Point::InPartial, Point::Sent(16 * MIB)),
];

/// What was applied so long before a loss has to be there: the log is synced each second, on a busy machine somewhat later.
const DURABLE_WITHIN: Duration = Duration::from_secs(4);

/// The same of what a partial says of itself.
const PARTIAL_DURABLE_WITHIN: Duration = Duration::from_secs(1);

/// What may be fetched again: a page whose bodies are here while the cursor waits for its last one, and the two that may be
/// under way behind it.
const FETCHED_AGAIN_MAX: u64 = 3 * 8 * MIB;

/// The listing, and the heads of frames and answers.
const OVERHEAD_BYTES: u64 = 3 * MIB;

const WITHIN: Duration = Duration::from_secs(180);

/// The peer, what it has, and the way to it.
struct Source {
    node: Node,
    store_id: String,
    rows: Vec<Record>,
}

impl Source {
    fn fill(folder: &Path) -> Self {
        let mut node = Node::new("source", folder);
        // Only a kill would tell, and it gets none.
        node.set("DURABILITY", "process");
        node.start_ready();
        let (mut seed, mut random) = (1, SplitMix::new(7));
        let mut next = |length: u64| {
            seed += 1;
            Artifact::new(seed, length)
        };
        for long in LONG_BYTES {
            let mut some: Vec<Artifact> = (0..SMALL).map(|_| next(1 + random.next() % (9 * KIB))).collect();
            // Inside the index, but too long to ride along; and files.
            some.extend((0..60).map(|_| next(24 * KIB)));
            some.extend((0..12).map(|_| next(100 * KIB)));
            std::thread::scope(|scope| {
                for part in some.chunks(some.len() / 4) {
                    let node = &node;
                    scope.spawn(move || part.iter().for_each(|one| one.store(node).expect("a write")));
                }
            });
            next(long).store(&node).expect("a write");
        }
        assert!(node.stop().success());
        let store = open(&node);
        let (store_id, rows) = (store.stats().store_id.to_string(), records(&store));
        drop(store);
        node.start_ready();
        Self { node, store_id, rows }
    }

    fn bytes(&self) -> u64 {
        self.rows.iter().map(|row| row.size).sum()
    }

    /// A way to it of its own for a node.
    fn relay_for(&self, node: &mut Node, rate: u64) -> Throttle {
        let relay = Throttle::before(self.node.internal_port);
        relay.set_rate(rate);
        node.set("PEERS", &relay.url());
        relay
    }
}

/// What a loss left, by the index and by the headers of partials.
#[derive(Debug, Clone, Copy)]
struct Durable {
    artifacts: usize,
    bytes: u64,
    partial_bytes: u64,
}

/// Nothing is corrupt, the accounts agree, and no cursor is ahead.
fn check_left(source: &Source, node: &Node) -> Durable {
    let doctor = node.run(&["doctor", "--offline", "--verify", "all", "--output", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    let checks = report["checks"].as_array().expect("checks");
    let failed: Vec<_> = checks.iter().filter(|check| check["status"] == "fail").collect();
    assert!(failed.is_empty(), "{}: {failed:#?}", node.name);
    let looked_through = checks.iter().find(|check| check["code"] == "BODY_CORRUPT").expect("a look at bodies");
    assert_eq!(looked_through["status"], "ok", "{}: {looked_through:#}", node.name);
    let store = open(node);
    assert_accounts_agree(&store);
    let passed = assert_cursor_is_not_ahead(&store, (&source.store_id, &source.rows));
    let held = records(&store);
    let bytes = held.iter().map(|row| row.size).sum();
    let durable = Durable { artifacts: held.len(), bytes, partial_bytes: partial_bytes(node) };
    println!("{}: {durable:?}, {passed} rows passed", node.name);
    durable
}

/// What partials say is durable of them.
fn partial_bytes(node: &Node) -> u64 {
    let headers = staged_names(node).into_iter().filter_map(|path| {
        // It may be committed just now.
        read_header(&File::open(path).ok()?).ok()?
    });
    headers.map(|header| header.durable_bytes).sum()
}

/// What a node had some time before a loss, and has to have after it.
#[derive(Debug, Clone, Copy, Default)]
struct Before {
    artifacts: u64,
    partial_bytes: u64,
}

/// Waits for the point, and stops every thread of the node there.
fn stop_at(node: &Node, relay: &Throttle, point: Point, random: &mut SplitMix) -> Before {
    let mut looks: Vec<(Instant, Before)> = Vec::new();
    eventually(&format!("{point:?} of {}", node.name), WITHIN, || {
        looks.push((Instant::now(), Before { artifacts: held(node), partial_bytes: partial_bytes(node) }));
        let sent = relay.sent();
        let is_there = match point {
            Point::Sent(bytes) => sent >= bytes,
            Point::InPartial => partial_before(&looks, Instant::now()) > 0,
        };
        if is_there { Ok(()) } else { Err(format!("{sent} bytes sent")) }
    });
    std::thread::sleep(Duration::from_micros(random.next() % 200_000));
    let lost_at = Instant::now();
    hold(node);
    let artifacts = looks.iter().filter(|(at, _)| lost_at - *at >= DURABLE_WITHIN).map(|(_, before)| before.artifacts);
    Before { artifacts: artifacts.max().unwrap_or(0), partial_bytes: partial_before(&looks, lost_at) }
}

/// What the partial said a while ago, if it is still one.
fn partial_before(looks: &[(Instant, Before)], now: Instant) -> u64 {
    let is_one = looks.last().is_some_and(|(_, last)| last.partial_bytes > 0);
    let then = looks.iter().rfind(|(at, _)| now - *at >= PARTIAL_DURABLE_WITHIN);
    then.filter(|_| is_one).map_or(0, |(_, before)| before.partial_bytes)
}

fn held(node: &Node) -> u64 {
    let reply = node.client().get("/metrics");
    reply.map_or(0, |_| metric(node, "kura_store_artifacts", &[]) as u64)
}

fn assert_kept(node: &Node, durable: Durable, before: Before) {
    let kept = u64::try_from(durable.artifacts).expect("a number");
    assert!(kept >= before.artifacts, "{}: {before:?}, {DURABLE_WITHIN:?} later {durable:?} is left", node.name);
    let is_kept = durable.partial_bytes >= before.partial_bytes;
    assert!(is_kept, "{}: {before:?}, {PARTIAL_DURABLE_WITHIN:?} later {durable:?} is left", node.name);
}

/// A node on what is left comes to hold all there is, and fetches no more than what was missing.
fn complete(source: &Source, node: &mut Node, durable: Durable) {
    let relay = source.relay_for(node, 0);
    node.start_ready();
    eventually(&format!("{} complete", node.name), WITHIN, || {
        let ready = node.client().get("/ready").and_then(|reply| reply.json()).map_err(|error| error.to_string())?;
        if ready["complete"] == true { Ok(()) } else { Err(ready.to_string()) }
    });
    let fetched = relay.sent();
    let (theirs, ours) = (artifacts(&source.node).expect("a listing"), artifacts(node).expect("a listing"));
    let missing: Vec<_> = theirs.difference(&ours).take(3).collect();
    assert!(missing.is_empty(), "{}: {} of {}, without {missing:?}", node.name, ours.len(), theirs.len());
    let needed = source.bytes() - durable.bytes - durable.partial_bytes;
    println!("{}: {fetched} bytes fetched, {needed} were missing", node.name);
    let allowed = needed + FETCHED_AGAIN_MAX.min(durable.bytes) + OVERHEAD_BYTES;
    assert!(fetched <= allowed, "{}: {fetched} bytes fetched, {needed} were missing", node.name);
    let verified = node.run(&["doctor", "--verify", "all", "--only", "BODY_CORRUPT"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

/// A node on what the first loss left loses power once more, and completes from what is left then.
fn lose_again(source: &Source, (volume, name, before): (&Volume, &str, Before), point: Point, random: &mut SplitMix) {
    let folder = source.node.folder.parent().expect("the folder of all nodes");
    let mut node = Node::new(name, folder);
    std::fs::create_dir(node.data_dir()).expect("making the mount point");
    let left = volume.after_power_loss(&node.data_dir());
    let durable = check_left(source, &node);
    assert_kept(&node, durable, before);
    let relay = source.relay_for(&mut node, 2 * RATE);
    node.start();
    let before = stop_at(&node, &relay, point, random);
    let again = left.lose_power(|| node.kill());
    let durable_again = check_left(source, &node);
    assert_kept(&node, durable_again, before);
    assert!(durable_again.artifacts >= durable.artifacts, "{durable_again:?}");
    complete(source, &mut node, durable_again);
    node.kill();
    drop(again);
}

fn catching_up_survives(kind: Kind) {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("making a folder");
    let source = Source::fill(folder.path());
    let mut node = Node::new("n", folder.path());
    std::fs::create_dir(node.data_dir()).expect("making the mount point");
    let image = tempfile::tempdir().expect("making a folder for the image");
    let volume = Volume::make(kind, &node.data_dir(), image, VOLUME_BYTES, &[]);
    let relay = source.relay_for(&mut node, RATE);
    node.start();
    let mut random = SplitMix::new(kind as u64);
    for (loss, (first, second)) in LOST_AT.into_iter().enumerate() {
        let before = stop_at(&node, &relay, first, &mut random);
        lose_again(&source, (&volume, &format!("after-{loss}"), before), second, &mut random);
        node.signal(rustix::process::Signal::CONT);
    }
    node.kill();
}

#[test]
fn catching_up_survives_power_loss_on_ext4() {
    catching_up_survives(Kind::Ext4);
}

#[test]
fn catching_up_survives_power_loss_on_xfs() {
    catching_up_survives(Kind::Xfs);
}
