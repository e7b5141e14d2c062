//! A node that joins beside live writes comes to its end, and does not hold in memory what it brings over.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::inspect::peak_memory_bytes;
use crate::support::mesh::Mesh;
use crate::support::traffic::Artifact;
use crate::support::wait::alone;

const JOINED_WITHIN: Duration = Duration::from_secs(60);

/// What was there before, and how much of it may be in memory at once: a few pages, and the index's own buffers.
const BEFORE: u64 = 120;
const BEFORE_BYTES: u64 = 1_000_000;
const MEMORY_BYTES_MAX: u64 = 100 << 20;

/// Between two writes of a writer: so that the joiner gets processor time, too, and the test waits for the mesh and not for
/// its own writers. Three of them still write some hundred artifacts a second.
const WRITE_PAUSE: Duration = Duration::from_millis(5);

/// Writes until told to end, or until the test has failed by time.
fn write_on(mesh: &Mesh, first_seed: u64, done: &AtomicBool, written: &AtomicU64) {
    let start = Instant::now();
    for seed in first_seed.. {
        if done.load(Ordering::Relaxed) || start.elapsed() > JOINED_WITHIN * 2 {
            return;
        }
        Artifact::new(seed, 4_000).store(&mesh.nodes[0]).expect("a write");
        written.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(WRITE_PAUSE);
    }
}

#[test]
fn a_node_joins_beside_writes_without_end_and_keeps_its_memory_small() {
    let _alone = alone();
    let mut mesh = Mesh::new(2);
    mesh.begin_with(0..1);
    mesh.nodes[0].start_ready();
    let node = &mesh.nodes[0];
    let write_some = |first: u64| {
        (first..BEFORE).step_by(4).for_each(|seed| {
            Artifact::new(seed, BEFORE_BYTES).store(node).expect("a write");
        });
    };
    std::thread::scope(|scope| (0..4).for_each(|first| drop(scope.spawn(move || write_some(first)))));
    let (done, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Instant::now();
    mesh.nodes[1].start();
    std::thread::scope(|scope| {
        (1..4).for_each(|writer| {
            drop(scope.spawn({
                let (mesh, done, written) = (&mesh, &done, &written);
                move || write_on(mesh, writer * 1_000_000, done, written)
            }))
        });
        mesh.wait_complete(JOINED_WITHIN);
        assert!(written.load(Ordering::Relaxed) > 20, "writes went on beside it");
        println!("complete after {:?}, {} writes beside it", start.elapsed(), written.load(Ordering::Relaxed));
        done.store(true, Ordering::Relaxed);
    });
    let all = BEFORE + written.load(Ordering::Relaxed);
    assert_eq!(mesh.wait_equal(JOINED_WITHIN) as u64, all, "every write is on both");
    let peak = peak_memory_bytes(&mesh.nodes[1]);
    println!("{} MiB brought over with at most {} MiB in memory", (BEFORE * BEFORE_BYTES) >> 20, peak >> 20);
    assert!(peak < MEMORY_BYTES_MAX, "{peak} bytes resident");
}
