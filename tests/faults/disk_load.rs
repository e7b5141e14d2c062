//! Clients that write and read while a disk fails, and what each was told.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::node::Node;
use crate::support::traffic::Artifact;
use crate::support::wait::eventually;

/// Clients that write at a time; half as many read.
pub const WRITERS: u64 = 4;

/// What must be stored before the error.
const STORED_BEFORE: u64 = 60;

/// So often each client is refused after it, but for tries that a disk which fails little by little still takes.
pub const TRIED_AFTER: u64 = 15;

/// How long a node may take for dozens of writes, and to end.
pub const DONE_WITHIN: Duration = Duration::from_secs(60);

/// Writes of one client, one after the other; every third is a body in a file, the others lie in the index.
pub fn artifact(writer: u64, number: u64) -> Artifact {
    let seed = (writer << 32) | number;
    let length = if number.is_multiple_of(3) { 150_000 + number } else { 1 + number * 97 % 9_000 };
    Artifact::new(seed, length)
}

/// What one client was told.
#[derive(Debug, Default)]
pub struct Told {
    /// Answered before there was an error.
    pub stored: Vec<Artifact>,
    /// Answered with success in the instant in which it came. Measured without kura, ext4 itself then confirms some syncs
    /// (`fdatasync` gives 0) of which nothing reached the disk, so that these may be gone.
    pub late: Vec<Artifact>,
    pub refused: Vec<String>,
    /// Reads that found nothing or were refused after the error.
    pub unread: u64,
    pub slowest: Duration,
}

impl Told {
    fn add(&mut self, other: Self) {
        self.stored.extend(other.stored);
        self.late.extend(other.late);
        self.refused.extend(other.refused);
        self.unread += other.unread;
        self.slowest = self.slowest.max(other.slowest);
    }
}

/// Tries of a client after the error; past them it takes writes.
const TRIES_MAX: u64 = 10 * TRIED_AFTER;

/// What the clients know of the disk.
#[derive(Debug, Default)]
struct Disk {
    /// It may fail from now on.
    is_failing: AtomicBool,
    /// It fails.
    has_failed: AtomicBool,
}

/// Writes until enough writes were refused.
fn write(node: &Node, writer: u64, stored: &AtomicU64, disk: &Disk) -> Told {
    let mut told = Told::default();
    let (mut number, mut tried, mut refused) = (0, 0, 0);
    while refused < TRIED_AFTER && tried < TRIES_MAX {
        let is_after = disk.has_failed.load(Ordering::SeqCst);
        let next = artifact(writer, number);
        let start = Instant::now();
        match next.store(node) {
            Ok(()) => {
                let is_late = disk.is_failing.load(Ordering::SeqCst);
                if is_late { &mut told.late } else { &mut told.stored }.push(next);
                stored.fetch_add(1, Ordering::SeqCst);
            }
            Err(error) => {
                told.refused.push(error.to_string());
                refused += u64::from(is_after);
            }
        }
        told.slowest = told.slowest.max(start.elapsed());
        tried += u64::from(is_after);
        number += 1;
    }
    told
}

/// Reads these again and again: always the very bytes, but once there was an error perhaps none.
fn read(node: &Node, artifacts: &[Artifact], disk: &Disk, is_over: &AtomicBool) -> (Told, u32) {
    let (mut told, mut reads) = (Told::default(), 0);
    while !is_over.load(Ordering::SeqCst) {
        for artifact in artifacts {
            let start = Instant::now();
            if let Err(error) = artifact.check(node) {
                let text = error.to_string();
                assert!(disk.is_failing.load(Ordering::SeqCst) && !text.contains("other bytes"), "{text}");
                told.unread += 1;
            }
            told.slowest = told.slowest.max(start.elapsed());
            reads += 1;
        }
    }
    (told, reads)
}

/// Clients write and read all the while; in the midst of it the disk fails.
pub fn load_over(node: &Node, before: &[Artifact], fail: impl FnOnce()) -> Told {
    let (stored, disk, is_over) = (AtomicU64::new(0), Disk::default(), AtomicBool::new(false));
    let mut all = Told::default();
    std::thread::scope(|scope| {
        let (stored, disk, is_over) = (&stored, &disk, &is_over);
        let writers: Vec<_> =
            (1..=WRITERS).map(|writer| scope.spawn(move || write(node, writer, stored, disk))).collect();
        let (some, others) = before.split_at(before.len() / 2);
        let readers = [some, others].map(|part| scope.spawn(move || read(node, part, disk, is_over)));
        eventually("some writes", DONE_WITHIN, || {
            let count = stored.load(Ordering::SeqCst);
            if count >= STORED_BEFORE { Ok(()) } else { Err(format!("{count} stored")) }
        });
        disk.is_failing.store(true, Ordering::SeqCst);
        fail();
        disk.has_failed.store(true, Ordering::SeqCst);
        writers.into_iter().for_each(|writer| all.add(writer.join().expect("a writer")));
        is_over.store(true, Ordering::SeqCst);
        let mut reads = 0;
        for reader in readers {
            let (told, count) = reader.join().expect("a reader");
            all.add(told);
            reads += count;
        }
        println!(
            "{} stored, {} refused, {reads} reads, {} unread, slowest {:?}",
            all.stored.len(),
            all.refused.len(),
            all.unread,
            all.slowest
        );
    });
    all
}
