//! Bad lines: thin, lossy, one-way, flapping and slow ones. Each mesh ends complete with equal sets, and what crossed the
//! lines stays within a bound of what had to.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::mesh::Mesh;
use crate::support::namespaces::Network;
use crate::support::node::Place;
use crate::support::relay::Relay;
use crate::support::traffic::Artifact;

/// How long a mesh may take to agree once its lines are whole.
const AGREE_WITHIN: Duration = Duration::from_secs(60);

/// What nodes say to each other besides bodies while a test runs: listings, status, probes of reachability.
const TALK_BYTES_MAX: u64 = 2 << 20;

fn artifacts(first_seed: u64, sizes: &[(u64, u64)]) -> Vec<Artifact> {
    let lengths = sizes.iter().flat_map(|(count, length)| (0..*count).map(|_| *length));
    lengths.enumerate().map(|(at, length)| Artifact::new(first_seed + at as u64, length)).collect()
}

fn total_bytes(artifacts: &[Artifact]) -> u64 {
    artifacts.iter().map(|artifact| artifact.len).sum()
}

fn store_all(mesh: &Mesh, at: usize, artifacts: &[Artifact]) {
    artifacts.iter().for_each(|artifact| artifact.store(&mesh.nodes[at]).expect("a write"));
}

/// Prints what crossed a line and asserts that it was at most `factor` times what was needed, and talk.
fn within(what: &str, crossed: u64, needed: u64, factor: f64) {
    let ratio = crossed as f64 / needed as f64;
    println!("{what}: {crossed} bytes crossed the line for {needed} needed, {ratio:.2} times");
    assert!(crossed as f64 <= needed as f64 * factor + TALK_BYTES_MAX as f64, "{what}: {crossed} bytes for {needed}");
}

#[test]
fn nine_nodes_killed_and_restarted_together_end_complete_with_equal_sets() {
    let mut mesh = Mesh::new(9);
    mesh.start_together();
    mesh.wait_ready(AGREE_WITHIN);
    let mut all = Vec::new();
    for at in 0..9 {
        let some = artifacts(1_000 + at as u64 * 100, &[(12, 3_000), (2, 300_000)]);
        store_all(&mesh, at, &some);
        all.extend(some);
    }
    // Not everything has reached every node.
    mesh.kill_all();
    let start = Instant::now();
    mesh.start_together();
    mesh.wait_ready(AGREE_WITHIN);
    println!("nine nodes ready again after {:?}", start.elapsed());
    mesh.wait_complete(AGREE_WITHIN);
    assert_eq!(mesh.wait_equal(AGREE_WITHIN), all.len(), "every acknowledged write is on every node");
    println!("nine nodes equal after {:?}", start.elapsed());
    let reader = &mesh.nodes[8];
    all.iter().for_each(|artifact| artifact.check(reader).expect("the bytes that were written"));
}

#[test]
fn a_thin_lossy_line_is_caught_up_over_without_fetching_anything_twice() {
    let network = Network::new(3);
    let mut mesh = network.mesh();
    mesh.begin_with(0..1);
    mesh.nodes[0].start_ready();
    let all = artifacts(3_000, &[(500, 4_000), (20, 200_000), (1, 6_000_000)]);
    store_all(&mesh, 0, &all);
    for at in 0..3 {
        network.limit(at, 60);
        network.lose(at, 1);
    }
    let start = Instant::now();
    mesh.nodes[1].start();
    mesh.nodes[2].start();
    mesh.wait_complete(AGREE_WITHIN);
    assert_eq!(mesh.wait_equal(AGREE_WITHIN), all.len());
    println!("60 Mbit/s with 1 % loss: equal after {:?}", start.elapsed());
    for at in [1, 2] {
        within("a thin lossy line", network.received_bytes(at), total_bytes(&all), 1.35);
    }
}

#[test]
fn what_a_silenced_sibling_wrote_comes_by_way_of_the_third() {
    let network = Network::new(3);
    let mut mesh = network.mesh();
    mesh.start_together();
    mesh.wait_ready(AGREE_WITHIN);
    // Packets of node 0 no longer reach node 2; the other way is open.
    network.silence(0, 2);
    let before = network.received_bytes(2);
    let all = artifacts(5_000, &[(200, 4_000), (10, 200_000)]);
    store_all(&mesh, 0, &all);
    let start = Instant::now();
    assert_eq!(mesh.wait_equal(AGREE_WITHIN), all.len(), "while the line is cut in one direction");
    println!("cut in one direction: equal after {:?}", start.elapsed());
    within("one way", network.received_bytes(2) - before, total_bytes(&all), 1.35);
    network.heal(2);
    mesh.wait_complete(AGREE_WITHIN);
    assert_eq!(mesh.wait_equal(AGREE_WITHIN), all.len());
}

#[test]
fn a_flapping_line_costs_what_was_on_its_way_and_nothing_else() {
    let network = Network::new(3);
    let mut mesh = network.mesh();
    mesh.begin_with(0..2);
    mesh.nodes[0].start();
    mesh.nodes[1].start_ready();
    mesh.nodes[0].wait_ready(AGREE_WITHIN);
    let all = artifacts(7_000, &[(800, 4_000), (40, 200_000)]);
    store_all(&mesh, 0, &all);
    network.limit(0, 80);
    network.limit(1, 80);
    let start = Instant::now();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(6) {
                network.set_line(2, false);
                std::thread::sleep(Duration::from_millis(200));
                network.set_line(2, true);
                std::thread::sleep(Duration::from_millis(700));
            }
        });
        mesh.nodes[2].start();
        mesh.wait_complete(AGREE_WITHIN);
        assert_eq!(mesh.wait_equal(AGREE_WITHIN), all.len());
        done.store(true, Ordering::Relaxed);
    });
    println!("a flapping line: equal after {:?}", start.elapsed());
    within("a flapping line", network.received_bytes(2), total_bytes(&all), 2.0);
}

#[test]
fn nodes_far_apart_agree_soon_and_write_each_body_over_the_line_once() {
    const DELAY: Duration = Duration::from_millis(40);
    // Peers dial the relays, which listen on another address of this machine at the same ports.
    const RELAYS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
    let mut mesh = Mesh::placed(vec![Place { host: RELAYS, ..Place::local() }; 3]);
    let relays: Vec<Relay> = mesh.nodes.iter().map(|node| Relay::start(RELAYS, node.internal_port, DELAY)).collect();
    mesh.start_together();
    mesh.wait_ready(AGREE_WITHIN);
    let all = artifacts(9_000, &[(300, 4_000), (20, 200_000)]);
    let start = Instant::now();
    for (at, artifact) in all.iter().enumerate() {
        artifact.store(&mesh.nodes[at % 3]).expect("a write");
    }
    println!("{} artifacts written after {:?}", all.len(), start.elapsed());
    assert_eq!(mesh.wait_equal(AGREE_WITHIN), all.len());
    println!("80 ms there and back: equal after {:?}", start.elapsed());
    let crossed = relays.iter().map(Relay::bytes).sum();
    within("80 ms there and back", crossed, total_bytes(&all) * 2, 1.35);
}
