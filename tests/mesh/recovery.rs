//! A mesh that is killed as a whole comes back by itself, with all it had.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::bodies::SplitMix;
use crate::support::inspect::{nameless_files, staged_names};
use crate::support::mesh::Mesh;
use crate::support::traffic::Artifact;
use crate::support::wait::alone;

const ARTIFACTS: usize = 3_000;
/// The largest, and how many of exactly that size there are.
const LARGEST_BYTES: f64 = 20e6;
const LARGEST_COUNT: usize = 8;
/// The others are log-uniform below this. Up to the largest they would be 3.5 GB in all, three times the space that
/// this test may take on three nodes; up to here all are about 1 GiB.
const OTHERS_BYTES_MAX: f64 = 5e6;
const WRITERS: usize = 6;

fn artifacts() -> Vec<Artifact> {
    let mut random = SplitMix::new(7);
    (0..ARTIFACTS)
        .map(|index| {
            let others = (OTHERS_BYTES_MAX.ln() * random.fraction()).exp();
            let len = if index < LARGEST_COUNT { LARGEST_BYTES } else { others };
            Artifact::new(100_000 + index as u64, len as u64)
        })
        .collect()
}

/// Writes all of them, each through one of the nodes.
fn write_all(mesh: &Mesh, artifacts: &[Artifact]) {
    let next = AtomicUsize::new(0);
    let write = || {
        while let Some(artifact) = artifacts.get(next.fetch_add(1, Ordering::Relaxed)) {
            artifact.store(&mesh.nodes[(artifact.len % 3) as usize]).expect("a write");
        }
    };
    std::thread::scope(|scope| (0..WRITERS).for_each(|_| drop(scope.spawn(write))));
}

#[test]
fn three_thousand_artifacts_survive_kill_9_of_the_whole_mesh() {
    let _alone = alone();
    let mut mesh = Mesh::start(3);
    let artifacts = artifacts();
    let total: u64 = artifacts.iter().map(|artifact| artifact.len).sum();
    let start = Instant::now();
    write_all(&mesh, &artifacts);
    println!("{ARTIFACTS} artifacts, {} MiB, written in {:?}", total >> 20, start.elapsed());

    mesh.kill_all();
    let start = Instant::now();
    mesh.start_together();
    mesh.wait_ready(Duration::from_secs(60));
    println!("all ready again after {:?}", start.elapsed());
    assert_eq!(mesh.wait_equal(Duration::from_secs(120)), ARTIFACTS, "every acknowledged write is there");
    println!("equal after {:?}", start.elapsed());

    for node in &mesh.nodes {
        let doctor = node.run(&["doctor", "--verify", "all"]);
        let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
        assert_eq!(doctor.status.code(), Some(0), "{}: {said}", node.name);
        assert_eq!(staged_names(node), Vec::<std::path::PathBuf>::new(), "{}", node.name);
        assert_eq!(nameless_files(node), 0, "{}", node.name);
    }
    // Bytes, through a node that they were not written through.
    for artifact in artifacts.iter().step_by(7) {
        artifact.check(&mesh.nodes[(artifact.len as usize + 1) % 3]).expect("the bytes that were written");
    }
}
