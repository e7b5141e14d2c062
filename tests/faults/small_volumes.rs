//! A node on a small volume of its own catches up from three peers that hold more than fits there, with staging budgets
//! from half an artifact to sixteen: it ends, it keeps the newest, it fetches next to
//! nothing that it evicts again, and it never stages more than it may.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::support::bodies::SeededBody;
use crate::support::inspect::{artifacts, metric};
use crate::support::mesh::Mesh;
use crate::support::node::Node;
use crate::support::wait::eventually;
use crate::volume::{Kind, Volume};

/// Bytes of each artifact; each is a file of its own.
const ARTIFACT_BYTES: u64 = 512 << 10;

/// Together more than a volume of 64 MiB holds.
const ARTIFACTS: u64 = 100;

/// Staging budgets in halves of an artifact.
const BUDGETS_IN_HALVES: [u64; 5] = [1, 2, 4, 16, 32];

/// What an eviction frees beyond what is missing, on a volume of this size: 1 MiB.
const EVICTED_AHEAD: f64 = 2.0;

/// How long catching up of one node may take; alone it is a second or two.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(60);

/// Versions that a node holds, without their ids.
fn versions(node: &Node) -> Result<BTreeSet<String>, String> {
    let held = artifacts(node)?;
    Ok(held.iter().filter_map(|line| line.split(' ').nth(1)).map(str::to_owned).collect())
}

/// Whether it serves and has settled all that its peers had, noting the most that was staged.
fn look(node: &Node, staged_max: &mut f64) -> Result<(), String> {
    let ready = node.client().get("/ready").map_err(|error| error.to_string())?;
    *staged_max = staged_max.max(metric(node, "kura_tmp_dir_bytes", &[]));
    let status = ready.status;
    let told = ready.json().map_err(|error| error.to_string())?;
    if status == 200 && told["complete"] == true { Ok(()) } else { Err(told.to_string()) }
}

/// One node joins on an empty volume.
fn joins(node: &mut Node, kind: Kind, halves: u64, peers_have: &BTreeSet<String>) {
    let budget = ARTIFACT_BYTES / 2 * halves;
    let volume = Volume::mount(kind, &node.data_dir());
    node.set("TMP_DIR_MAX_BYTES", &budget.to_string());
    node.start();
    let (start, mut staged_max) = (Instant::now(), 0.0);
    let what = format!("{kind:?}, a budget of {halves} halves, caught up");
    eventually(&what, CAUGHT_UP_WITHIN, || look(node, &mut staged_max));
    let took = start.elapsed();
    // A body larger than the whole budget goes alone.
    assert!(staged_max <= budget.max(ARTIFACT_BYTES) as f64, "{staged_max} bytes staged, {budget} may be");
    let held = versions(node).expect("what it holds");
    let fetched = metric(node, "kura_bootstrap_applied_items_total", &[("item_type", "artifact")]);
    println!("{what}: {took:?}, {} held of {fetched} fetched, at most {staged_max} of {budget} staged", held.len());
    // The newest of the peers. Near the oldest that stay some are missing: under pressure goes what frees space soonest.
    let sure = held.len() * 8 / 10;
    let gone: Vec<_> = peers_have.iter().rev().take(sure).filter(|version| !held.contains(*version)).collect();
    assert!(held.len() > 50 && gone.is_empty(), "{} held, of the newest {sure} not {gone:?}", held.len());
    // An eviction frees some more than is missing.
    let in_vain = fetched - held.len() as f64;
    assert!(in_vain <= fetched / 20.0 + EVICTED_AHEAD, "{fetched} fetched, {} held", held.len());
    node.kill();
    drop(volume);
}

fn catches_up(kind: Kind) {
    let mut mesh = Mesh::new(4);
    mesh.begin_with(0..3);
    for node in &mut mesh.nodes[..3] {
        node.set("DURABILITY", "process");
        node.start();
    }
    for node in &mut mesh.nodes[..3] {
        node.wait_ready(CAUGHT_UP_WITHIN);
    }
    for number in 0..ARTIFACTS {
        let path = format!("/api/metro/cache/{number:x}");
        let body = SeededBody::new(number, ARTIFACT_BYTES).into_vec();
        let node = &mesh.nodes[(number % 3) as usize];
        assert_eq!(node.client().put(&path, &body).expect("a PUT").status, 200);
    }
    let peers_have = eventually("equal peers", CAUGHT_UP_WITHIN, || {
        let held = mesh.nodes[..3].iter().map(versions).collect::<Result<Vec<_>, _>>()?;
        let is_all = held.iter().all(|versions| versions.len() as u64 == ARTIFACTS);
        if is_all {
            Ok(held[0].clone())
        } else {
            Err(format!("{:?}", held.iter().map(BTreeSet::len).collect::<Vec<_>>()))
        }
    });
    let joiner = &mut mesh.nodes[3];
    std::fs::create_dir(joiner.data_dir()).expect("making the mount point");
    for halves in BUDGETS_IN_HALVES {
        joins(joiner, kind, halves, &peers_have);
    }
}

#[test]
fn a_small_ext4_catches_up_from_three_peers_with_any_staging_budget() {
    catches_up(Kind::Ext4);
}

#[test]
fn a_small_xfs_catches_up_from_three_peers_with_any_staging_budget() {
    catches_up(Kind::Xfs);
}
