//! Eviction when the disk refuses, when it ends in the middle, and while others write.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::committer::CommitOutcome;
use super::evaluate::Work;
use super::evaluate_evict::Eviction;
use super::fault_tests::file_put;
use super::group::{Answer, Pending};
use super::recount::recount;
use super::store_tests::{Bench, applied, id, local};
use super::*;
use crate::core::base::disk::{Disk, FaultDisk, RealDisk};
use crate::core::base::executor::ThreadExecutor;

const FILES: u8 = 6;

fn fill(bench: &Bench, store: &Store) {
    for n in 0..FILES {
        bench.clock.advance(Duration::from_millis(10));
        applied(store, file_put(bench, "ios", &format!("f{n}"), &[n; 5000]));
        applied(store, local("ios", &format!("k{n}"), &[n; 500]));
    }
}

fn live_files(store: &Store) -> BTreeSet<u8> {
    (0..FILES).filter(|n| store.lookup(&id("ios", &format!("f{n}"))).unwrap().is_some()).collect()
}

fn files_on_disk(bench: &Bench) -> usize {
    let folder = super::body_files::extent_path(&bench.layout(), 0);
    std::fs::read_dir(folder).map_or(0, |files| files.count())
}

fn assert_exact(store: &Store) {
    let count = recount(store).unwrap();
    assert_eq!((count.mismatches, count.garbage), (Vec::<String>::new(), 0));
}

#[test]
fn each_disk_operation_of_an_eviction_fails_once_and_the_charges_stay_exact() {
    let mut reached = 0;
    for under_pressure in [false, true] {
        for (kind, lasting) in
            [(io::ErrorKind::StorageFull, false), (io::ErrorKind::Other, false), (io::ErrorKind::Other, true)]
        {
            for failing in 0_u64.. {
                let disk = Arc::new(FaultDisk::new(Arc::new(RealDisk)));
                let bench = Bench::on(Arc::clone(&disk) as Arc<dyn Disk>);
                let store = bench.open();
                fill(&bench, &store);
                // Lasting: as if the process had died there.
                disk.set_rule(Some(Box::new(move |_, _, number| {
                    (number == failing || (lasting && number > failing)).then(|| kind.into())
                })));
                let _ = store.evict(EvictGoal { bytes: 20_000, under_pressure });
                let was_reached = disk.operations() > failing;
                disk.set_rule(None);
                assert_eq!(recount(&store).unwrap().mismatches, Vec::<String>::new(), "{kind} at {failing}");
                let left = live_files(&store);
                drop(store);
                let store = bench.open();
                assert_eq!(live_files(&store), left);
                assert_exact(&store);
                assert_eq!(files_on_disk(&bench), left.len(), "{kind} at {failing}");
                store.evict(EvictGoal { bytes: u64::MAX, under_pressure }).unwrap();
                assert_eq!((store.stats().charged_bytes, files_on_disk(&bench)), (0, 0));
                assert_exact(&store);
                if !was_reached {
                    break;
                }
                reached += 1;
            }
        }
    }
    assert!(reached >= 12, "only {reached} faults were reached");
}

#[test]
fn a_kill_between_an_eviction_and_the_removal_of_its_bodies_costs_no_byte() {
    let bench = Bench::new();
    let store = bench.open();
    fill(&bench, &store);
    let charged = store.stats().charged_bytes;
    let chosen = (0..FILES).map(|n| {
        let id = id("ios", &format!("f{n}"));
        (id, store.lookup(&id).unwrap().unwrap().seq)
    });
    let (answer, evicted) = std::sync::mpsc::channel();
    let eviction = Eviction { chosen: chosen.collect(), ..Eviction::default() };
    store.run_group(vec![Pending::new(Work::Evict(eviction), Answer::Evict(answer))]);
    let evicted = evicted.recv().unwrap().unwrap();
    // Garbage is charged until it is gone.
    assert_eq!((store.stats().charged_bytes, recount(&store).unwrap().garbage), (charged, u64::from(FILES)));
    assert_eq!(recount(&store).unwrap().mismatches, Vec::<String>::new());
    drop(store);
    let store = bench.open();
    assert_eq!((store.stats().charged_bytes, files_on_disk(&bench)), (charged - evicted.bytes, 0));
    assert_exact(&store);
}

#[test]
fn an_eviction_writes_nothing_through_the_disk_and_so_needs_no_room() {
    use crate::core::base::disk::{DiskOperation, VolumeSpace};
    let disk = Arc::new(FaultDisk::new(Arc::new(RealDisk)));
    let bench = Bench::on(Arc::clone(&disk) as Arc<dyn Disk>);
    let store = bench.open();
    fill(&bench, &store);
    disk.set_space(Some(VolumeSpace { total_bytes: 1 << 30, ..VolumeSpace::default() }));
    disk.set_rule(Some(Box::new(|operation, _, _| {
        let grows = matches!(operation, DiskOperation::Write | DiskOperation::Create | DiskOperation::Link);
        grows.then(|| io::ErrorKind::StorageFull.into())
    })));
    assert!(store.submit(local("ios", "late", b"x")).wait().is_err());
    let report = store.evict(EvictGoal { bytes: u64::MAX, under_pressure: true }).unwrap();
    assert_eq!((report.artifacts, report.rewritten), (u64::from(FILES) * 2, 0));
    assert_eq!((store.stats().charged_bytes, files_on_disk(&bench)), (0, 0));
    assert_exact(&store);
}

/// Puts one by one until told to stop; how long each took.
fn put_until(store: &Store, stop: &AtomicBool, name: &str) -> Vec<Duration> {
    let mut took = Vec::new();
    while !stop.load(Ordering::Acquire) || took.len() < 50 {
        let started = Instant::now();
        applied(store, local("builds", &format!("{name}{}", took.len()), &[7; 300]));
        took.push(started.elapsed());
        if took.len() == 20_000 {
            break;
        }
    }
    took.sort_unstable();
    took
}

fn percentile(took: &[Duration], percent: usize) -> Duration {
    took[(took.len() * percent / 100).min(took.len() - 1)]
}

#[test]
fn evicting_twenty_thousand_small_artifacts_does_not_hold_up_puts() {
    const COUNT: u64 = 20_000;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut bench = Bench::new();
    bench.executor = Arc::new(ThreadExecutor::new(runtime.handle().clone(), 4));
    let store = Arc::new(bench.open());
    for chunk in 0..COUNT / 500 {
        let tickets: Vec<_> =
            (0..500).map(|n| store.submit(local("old", &format!("{chunk}-{n}"), &[1; 300]))).collect();
        assert!(tickets.into_iter().all(|ticket| matches!(ticket.wait(), Ok(CommitOutcome::Applied(_)))));
        bench.clock.advance(Duration::from_secs(1));
    }
    let stop = AtomicBool::new(true);
    let alone = put_until(&store, &stop, "alone");
    stop.store(false, Ordering::Release);
    let goal = EvictGoal { bytes: store.stats().charged_bytes / COUNT * (COUNT - 2000), under_pressure: false };
    let (beside, report, took) = std::thread::scope(|scope| {
        let puts = scope.spawn(|| put_until(&store, &stop, "beside"));
        let started = Instant::now();
        let report = store.evict(goal).unwrap();
        stop.store(true, Ordering::Release);
        (puts.join().unwrap(), report, started.elapsed())
    });
    println!(
        "evicted {} in {took:?}; puts alone: p50 {:?}, p99 {:?}; beside: {} puts, p50 {:?}, p99 {:?}, max {:?}",
        report.artifacts,
        percentile(&alone, 50),
        percentile(&alone, 99),
        beside.len(),
        percentile(&beside, 50),
        percentile(&beside, 99),
        percentile(&beside, 100),
    );
    assert!(report.artifacts >= COUNT - 2100, "{report:?}");
    // Lenient, for machines that do other things too: an eviction in one piece would take seconds.
    assert!(percentile(&beside, 99) < percentile(&alone, 99) * 10 + Duration::from_millis(250));
    store.close().unwrap();
    drop(store);
    assert_exact(&bench.open());
}
