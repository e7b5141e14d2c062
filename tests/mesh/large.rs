//! Long bodies between real processes: broken connections, kills and slow links cost a piece and not the whole.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::support::inspect::{artifacts, metric, staged_names};
use crate::support::mesh::Mesh;
use crate::support::node::Node;
use crate::support::throttle::Throttle;
use crate::support::traffic::Artifact;
use crate::support::wait::{alone, eventually};

const MIB: u64 = 1 << 20;

/// How long a long body may take on a busy machine.
const WITHIN: Duration = Duration::from_secs(120);

/// What a kill costs: two pieces that were not synced, and what was on its way in sockets.
const KILL_COSTS_MAX: u64 = 2 * 32 * MIB + 16 * MIB;

/// What a broken connection costs: what was on its way in sockets, and the listing.
const CUT_COSTS_MAX: u64 = 16 * MIB;

/// A node that holds one body, and one that knows it through a relay and is not started yet.
struct Pair {
    mesh: Mesh,
    relay: Throttle,
    artifact: Artifact,
}

impl Pair {
    fn new(seed: u64, len: u64) -> Self {
        let mut mesh = Mesh::new(2);
        let artifact = Artifact::new(seed * 9, len);
        mesh.nodes[0].set("PEERS", "");
        mesh.nodes[0].start_ready();
        artifact.store(&mesh.nodes[0]).expect("a write");
        let relay = Throttle::before(mesh.nodes[0].internal_port);
        mesh.nodes[1].set("PEERS", &relay.url());
        Self { mesh, relay, artifact }
    }

    fn joiner(&mut self) -> &mut Node {
        &mut self.mesh.nodes[1]
    }

    fn wait_sent(&self, bytes: u64) {
        eventually("bytes through the relay", WITHIN, || {
            let sent = self.relay.sent();
            let evicted = metric(&self.mesh.nodes[0], "kura_store_evictions_total", &[]);
            // On a volume that others fill the source may have had to evict it.
            if sent >= bytes { Ok(()) } else { Err(format!("{sent} bytes; {evicted} evicted by the source")) }
        });
    }

    /// Asks the joiner for what it holds, which is no read that would go to the peer.
    fn wait_whole(&self) {
        let joiner = &self.mesh.nodes[1];
        eventually("the artifact on the joiner", WITHIN, || match artifacts(joiner)?.len() {
            1 => Ok(()),
            count => Err(format!("{count} artifacts, {} bytes sent", self.relay.sent())),
        });
        self.artifact.check(joiner).expect("the bytes that were written");
        assert_eq!(staged_names(joiner), Vec::<std::path::PathBuf>::new());
    }
}

#[test]
fn a_joiner_that_is_killed_in_mid_transfer_goes_on_where_it_was() {
    let _alone = alone();
    let mut pair = Pair::new(1, 200 * MIB);
    pair.relay.set_rate(60 * MIB);
    for percent in [40, 75] {
        pair.joiner().start();
        pair.wait_sent(pair.artifact.len * percent / 100);
        pair.joiner().kill();
        assert_eq!(staged_names(pair.joiner()).len(), 1, "the partial");
    }
    let doctor = pair.joiner().run(&["doctor", "--only", "STAGING_ORPHANS", "--output", "json"]);
    let said: serde_json::Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    assert_eq!(
        (&said["checks"][0]["status"], &said["checks"][0]["evidence"]["partial_files"]),
        (&"ok".into(), &1.into())
    );
    let reclaim = pair.joiner().run(&["reclaim-staging", "--yes", "--output", "json"]);
    let said: serde_json::Value = serde_json::from_slice(&reclaim.stdout).expect("JSON");
    assert_eq!((&said["removed_files"], &said["areas"][2]["kept_files"]), (&0.into(), &1.into()), "{said}");

    pair.relay.set_rate(0);
    pair.joiner().start();
    pair.wait_whole();
    let (sent, whole) = (pair.relay.sent(), pair.artifact.len);
    println!("{} MiB sent for {} MiB over two kills", sent / MIB, whole / MIB);
    assert!(sent <= whole + 2 * KILL_COSTS_MAX, "{sent}");
    assert!(pair.joiner().log().contains("partials_adopted"));
    assert_eq!(metric(pair.joiner(), "kura_bootstrap_long_transfers_total", &[("event", "taken_up")]), 1.0);
}

#[test]
fn a_partial_that_rotted_while_the_node_was_down_is_found_and_fetched_again() {
    let _alone = alone();
    let mut pair = Pair::new(2, 100 * MIB);
    pair.relay.set_rate(60 * MIB);
    pair.joiner().start();
    pair.wait_sent(80 * MIB);
    pair.joiner().kill();
    let partial = staged_names(pair.joiner()).remove(0);
    let file = std::fs::File::options().read(true).write(true).open(partial).expect("opening the partial");
    let mut byte = [0];
    file.read_exact_at(&mut byte, MIB).expect("reading");
    file.write_all_at(&[byte[0] ^ 1], MIB).expect("writing");
    pair.relay.set_rate(0);
    pair.joiner().start();
    pair.wait_whole();
    assert_eq!(metric(pair.joiner(), "kura_bootstrap_long_transfers_total", &[("event", "begun_anew")]), 1.0);
}

#[test]
fn reclaim_staging_takes_a_partial_only_when_its_area_is_named() {
    let _alone = alone();
    let mut pair = Pair::new(3, 100 * MIB);
    pair.relay.set_rate(60 * MIB);
    pair.joiner().start();
    pair.wait_sent(80 * MIB);
    let beside = pair.joiner().run(&["reclaim-staging", "--yes", "--kind", "bootstrap", "--output", "json"]);
    let said: serde_json::Value = serde_json::from_slice(&beside.stdout).expect("JSON");
    assert_eq!((&said["removed_files"], &said["areas"][0]["in_use_files"]), (&0.into(), &1.into()), "{said}");
    pair.joiner().kill();
    let named = pair.joiner().run(&["reclaim-staging", "--yes", "--kind", "bootstrap", "--output", "json"]);
    let said: serde_json::Value = serde_json::from_slice(&named.stdout).expect("JSON");
    assert_eq!(said["removed_files"], 1, "{said}");
    assert_eq!(staged_names(pair.joiner()), Vec::<std::path::PathBuf>::new());
}

#[test]
fn connections_that_break_cost_what_was_on_its_way() {
    let _alone = alone();
    let mut pair = Pair::new(4, 120 * MIB);
    pair.relay.set_rate(60 * MIB);
    pair.joiner().start();
    for percent in [30, 70] {
        pair.wait_sent(pair.artifact.len * percent / 100);
        pair.relay.cut();
    }
    pair.wait_whole();
    let (sent, whole) = (pair.relay.sent(), pair.artifact.len);
    println!("{} MiB sent for {} MiB over two cuts", sent / MIB, whole / MIB);
    assert!(sent <= whole + CUT_COSTS_MAX, "{sent}");
    // The listing breaks as well; where that is noticed first, the pass ends and the next one takes the body up.
    let count = |event| metric(&pair.mesh.nodes[1], "kura_bootstrap_long_transfers_total", &[("event", event)]);
    assert!(count("cut") + count("taken_up") >= 2.0, "{} cut, {} taken up", count("cut"), count("taken_up"));
}

#[test]
fn a_transfer_that_takes_longer_than_half_a_minute_and_moves_ends_on_one_connection() {
    let mut pair = Pair::new(5, 16 * MIB);
    pair.relay.set_rate(MIB / 2);
    let began = Instant::now();
    pair.joiner().start();
    pair.wait_whole();
    println!("{} MiB in {:?}", pair.artifact.len / MIB, began.elapsed());
    assert!(began.elapsed() > Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!(metric(pair.joiner(), "kura_bootstrap_long_transfers_total", &[("event", "cut")]), 0.0);
    assert!(pair.relay.sent() < pair.artifact.len + MIB, "{}", pair.relay.sent());
}
