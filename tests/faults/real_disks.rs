//! A loaded node whose filesystem meets an error: what was stored is served, what comes is refused at once, and nothing
//! that was acknowledged before is gone once the filesystem was mended.
//!
//! The filesystem is an ext4 with `errors=remount-ro`. Kernels since 6.12 then refuse each write with EROFS while the
//! mount goes on to say rw.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::node::Node;
use crate::support::traffic::Artifact;
use crate::support::wait::eventually;
use crate::volume::{Kind, Volume};

/// Clients that write at a time; half as many read.
const WRITERS: u64 = 4;

/// What must be stored before the error.
const STORED_BEFORE: u64 = 60;

/// What each client tries after it.
const TRIED_AFTER: u64 = 15;

/// An answer that takes longer counts as a hang.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// How long a node may take for dozens of writes, and to end.
const DONE_WITHIN: Duration = Duration::from_secs(60);

/// Writes of one client, one after the other; every third is a body in a file, the others lie in the index.
fn artifact(writer: u64, number: u64) -> Artifact {
    let seed = (writer << 32) | number;
    let length = if number.is_multiple_of(3) { 150_000 + number } else { 1 + number * 97 % 9_000 };
    Artifact::new(seed, length)
}

/// What one client was told.
#[derive(Debug, Default)]
struct Told {
    /// Answered before there was an error.
    stored: Vec<Artifact>,
    /// Answered with success in the instant in which it came. Measured without kura, ext4 itself then confirms some syncs
    /// (`fdatasync` gives 0) of which nothing reached the disk, so that these may be gone.
    late: Vec<Artifact>,
    refused: Vec<String>,
    slowest: Duration,
}

impl Told {
    fn add(&mut self, other: Self) {
        self.stored.extend(other.stored);
        self.late.extend(other.late);
        self.refused.extend(other.refused);
        self.slowest = self.slowest.max(other.slowest);
    }
}

/// Writes until enough writes after the error have been tried.
fn write(node: &Node, writer: u64, stored: &AtomicU64, has_error: &AtomicBool) -> Told {
    let mut told = Told::default();
    let (mut number, mut tried) = (0, 0);
    while tried < TRIED_AFTER {
        let is_after = has_error.load(Ordering::SeqCst);
        let next = artifact(writer, number);
        let start = Instant::now();
        match next.store(node) {
            Ok(()) => {
                let is_late = has_error.load(Ordering::SeqCst);
                if is_late { &mut told.late } else { &mut told.stored }.push(next);
                stored.fetch_add(1, Ordering::SeqCst);
            }
            Err(error) => told.refused.push(error.to_string()),
        }
        told.slowest = told.slowest.max(start.elapsed());
        tried += u64::from(is_after);
        number += 1;
    }
    told
}

/// Clients write and read all the while; in the midst of it the filesystem meets an error.
fn load_over_an_error(node: &Node, volume: &Volume, before: &[Artifact]) -> Told {
    let (stored, has_error, is_over) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
    let mut all = Told::default();
    std::thread::scope(|scope| {
        let (stored, has_error, is_over) = (&stored, &has_error, &is_over);
        let writers: Vec<_> =
            (1..=WRITERS).map(|writer| scope.spawn(move || write(node, writer, stored, has_error))).collect();
        let read = move |part: Range<usize>| {
            let mut reads = 0_u32;
            while !is_over.load(Ordering::SeqCst) {
                for artifact in &before[part.clone()] {
                    artifact.check(node).expect("reads of what is stored go on");
                    reads += 1;
                }
            }
            reads
        };
        let half = before.len() / 2;
        let readers = [scope.spawn(move || read(0..half)), scope.spawn(move || read(half..before.len()))];
        eventually("some writes", DONE_WITHIN, || {
            let count = stored.load(Ordering::SeqCst);
            if count >= STORED_BEFORE { Ok(()) } else { Err(format!("{count} stored")) }
        });
        has_error.store(true, Ordering::SeqCst);
        volume.meet_error();
        writers.into_iter().for_each(|writer| all.add(writer.join().expect("a writer")));
        is_over.store(true, Ordering::SeqCst);
        let reads: u32 = readers.into_iter().map(|reader| reader.join().expect("a reader")).sum();
        println!(
            "{} stored, {} refused, {reads} reads, slowest {:?}",
            all.stored.len(),
            all.refused.len(),
            all.slowest
        );
    });
    all
}

fn assert_all_there(node: &Node, artifacts: &[Artifact]) {
    for artifact in artifacts {
        artifact.check(node).expect("what was acknowledged is there");
    }
}

/// A miss, or the very bytes.
fn assert_there_or_gone(node: &Node, artifacts: &[Artifact]) {
    let lost = artifacts.iter().filter_map(|artifact| artifact.check(node).err()).map(|error| error.to_string());
    let lost: Vec<String> = lost.collect();
    println!("{} of {} lost that were synced while the error came", lost.len(), artifacts.len());
    assert!(lost.iter().all(|error| error.ends_with(": 404")), "{lost:?}");
}

/// The exit code, and the check of this code.
fn doctor(node: &Node, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = node.run(&[&["doctor", "--output", "json"], arguments].concat());
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let check = report["checks"].as_array().expect("checks").iter().find(|check| check["code"] == "DATA_DIR_READ_ONLY");
    (output.status.code(), check.expect("the check ran").clone())
}

#[test]
fn a_loaded_node_on_an_ext4_that_turns_read_only_reads_on_refuses_writes_and_loses_nothing() {
    let folder = tempfile::tempdir().expect("making a folder");
    let mut node = Node::new("n", folder.path());
    std::fs::create_dir(node.data_dir()).expect("making the mount point");
    let volume = Volume::mount_with(Kind::Ext4, &node.data_dir(), &["-e", "remount-ro"]);
    node.start_ready();
    let before: Vec<Artifact> = (0..20).map(|number| artifact(0, number)).collect();
    before.iter().for_each(|artifact| artifact.store(&node).expect("a PUT"));

    let told = load_over_an_error(&node, &volume, &before);
    assert!(told.slowest < ANSWERED_WITHIN, "a write took {:?}", told.slowest);
    assert!(told.refused.len() as u64 >= WRITERS * TRIED_AFTER / 2, "the volume takes writes: {:?}", told.refused);
    // Nx knows no other answer than 403 to a write that is not taken.
    let is_fault = |text: &String| {
        text.contains(": 503 ") || text.contains(": 507 ") || (text.contains("/v1/cache/") && text.contains(": 403 "))
    };
    let others: Vec<_> = told.refused.iter().filter(|text| !is_fault(text)).collect();
    assert!(others.is_empty(), "refused otherwise: {others:?}");
    println!("refused: {:?}", told.refused.last());
    assert_all_there(&node, &before);
    assert_all_there(&node, &told.stored);
    assert_all_there(&node, &told.late);

    let (code, check) = doctor(&node, &["--online"]);
    assert_eq!((code, check["status"].as_str()), (Some(3), Some("fail")), "{check}");
    node.signal(Signal::TERM);
    eventually("its end", DONE_WITHIN, || if node.is_running() { Err("it runs") } else { Ok(()) });
    let (code, check) = doctor(&node, &["--offline"]);
    assert_eq!((code, check["status"].as_str()), (Some(3), Some("fail")), "{check}");

    volume.mend();
    node.kill();
    node.start_ready();
    assert_all_there(&node, &before);
    assert_all_there(&node, &told.stored);
    assert_there_or_gone(&node, &told.late);
    artifact(9, 3).store(&node).expect("a PUT after it was mended");
    let (_, check) = doctor(&node, &["--online"]);
    assert_eq!(check["status"], "ok", "{check}");
}
