//! Body files and what can go wrong with them: every disk operation of a put fails once, bodies rot, and whatever
//! happens no half artifact is seen, nothing leaks, and the counters equal a recount.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use super::body_files::{body_path, extent_path};
use super::committer::{CommitOutcome, Operation, PutMode, PutOrigin};
use super::error::StoreError;
use super::evaluate::number_of;
use super::integrity::{HashBodies, VerifyRequest, verify};
use super::recount::recount;
use super::store_tests::{Bench, applied, body, delete, id, local, outcome, put};
use super::wanted::WantedReason;
use super::*;
use crate::core::base::clock::Clock as _;
use crate::core::base::disk::{Disk, DiskOperation, FaultDisk, RealDisk, VolumeSpace};
use crate::core::base::executor::InlineExecutor;
use crate::core::base::ids::{BodyNo, Digest, Seq};
use crate::core::config::Durability;
use crate::core::data_dir::layout::ensure_directories;
use crate::core::staging::area::{AreaKind, Staging, StagingOptions};
use crate::core::staging::body_writer::{BodySpec, StagedBody, StagedContent};
use crate::core::staging::budget::BudgetClass;

/// Bodies above this many bytes are staged as files in these tests.
const INLINE_BYTES: u64 = 16;

fn stage(bench: &Bench, bytes: &[u8]) -> StagedBody {
    let options = StagingOptions { budget_bytes: 1 << 30, inline_max_bytes: INLINE_BYTES, client_wait: Duration::ZERO };
    let disk = Arc::clone(&bench.disk);
    ensure_directories(&bench.layout(), &RealDisk).unwrap();
    let staging = Staging::new(&bench.layout(), disk, Arc::new(InlineExecutor), options);
    let spec = BodySpec {
        area: AreaKind::Uploads,
        class: BudgetClass::Client,
        length: Some(bytes.len() as u64),
        length_max: 1 << 30,
        sha256: false,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut writer = staging.begin(spec).await.unwrap();
        writer.write(bytes::Bytes::copy_from_slice(bytes)).await.unwrap();
        writer.finish().await.unwrap()
    })
}

/// A put of a body file.
pub(super) fn file_put(bench: &Bench, namespace: &str, key: &str, bytes: &[u8]) -> Operation {
    let Operation::Put(mut put) = put(namespace, key, &[], PutOrigin::Local(PutMode::LastWriterWins)) else {
        unreachable!()
    };
    put.body = stage(bench, bytes);
    assert!(matches!(put.body.content, StagedContent::File(_)));
    Operation::Put(put)
}

fn faulty() -> (Bench, Arc<FaultDisk>) {
    let disk = Arc::new(FaultDisk::new(Arc::new(RealDisk)));
    (Bench::on(Arc::clone(&disk) as Arc<dyn Disk>), disk)
}

/// All files below `bodies`, but for the marker.
fn body_files(bench: &Bench) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for folder in fs::read_dir(bench.layout().bodies()).unwrap() {
        let folder = folder.unwrap().path();
        if folder.is_dir() {
            files.extend(fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()));
        }
    }
    files
}

fn assert_sound(bench: &Bench, store: &Store, artifacts: u64, files: usize) {
    let count = recount(store).unwrap();
    assert_eq!(count.mismatches, Vec::<String>::new());
    assert_eq!((count.artifacts, count.garbage), (artifacts, 0));
    let request = VerifyRequest::all(HashBodies::All);
    let report = verify(store, &request, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    assert_eq!((report.missing_total, report.corrupt_total, report.unreferenced_total), (0, 0, 0), "{report:?}");
    assert_eq!(body_files(bench).len(), files);
    let staged = fs::read_dir(bench.layout().tmp_dir().join("uploads")).unwrap().count();
    assert_eq!(staged, 0);
}

#[test]
fn a_large_body_becomes_a_file_with_its_footer_and_its_overwrite_removes_it() {
    let bench = Bench::new();
    let store = bench.open();
    let record = applied(&store, file_put(&bench, "ios", "a", &[7; 5000]));
    let path = body_path(&bench.layout(), number_of(&record).unwrap());
    let footer = footer::read(&fs::File::open(&path).unwrap()).unwrap().unwrap();
    assert_eq!(footer, record::Record { seq: Seq(0), ..record.clone() });
    assert_eq!(body(&store, "ios", "a").unwrap(), [7; 5000]);
    applied(&store, file_put(&bench, "ios", "a", &[8; 600]));
    assert!(!path.exists());
    assert_eq!(body(&store, "ios", "a").unwrap(), [8; 600]);
    applied(&store, local("ios", "a", b"small"));
    assert_sound(&bench, &store, 1, 0);
}

#[test]
fn each_disk_operation_of_a_put_fails_once_and_leaves_no_half_artifact() {
    let mut reached = 0;
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        for failing in 0_u64.. {
            let (bench, disk) = faulty();
            let store = bench.open();
            applied(&store, file_put(&bench, "ios", "kept", &[1; 3000]));
            applied(&store, file_put(&bench, "ios", "old", &[2; 3000]));
            let operation = file_put(&bench, "ios", "old", &[3; 4000]);
            disk.set_rule(Some(Box::new(move |_, _, number| (number == failing).then(|| kind.into()))));
            let result = store.submit(operation).wait();
            if disk.operations() <= failing {
                break;
            }
            reached += 1;
            disk.set_rule(None);
            let expected: &[u8] = if result.is_ok() { &[3; 4000] } else { &[2; 3000] };
            assert_eq!(body(&store, "ios", "old").unwrap(), expected, "{kind} at {failing}");
            if let (io::ErrorKind::StorageFull, Err(error)) = (kind, &result) {
                assert!(matches!(error, StoreError::StorageFull { .. }), "{error}");
                assert!(store.stats().write_stopped.is_none());
                applied(&store, local("ios", "next", b"goes on"));
            }
            drop(store);
            let store = bench.open();
            assert_eq!(body(&store, "ios", "old").unwrap(), expected);
            assert_eq!(body(&store, "ios", "kept").unwrap(), [1; 3000]);
            let artifacts = store.stats().artifacts;
            assert_sound(&bench, &store, artifacts, 2);
        }
    }
    assert!(reached >= 10, "only {reached} faults were reached");
}

#[test]
fn a_failed_sync_stops_writes_until_the_store_is_opened_anew() {
    let (bench, disk) = faulty();
    let store = bench.open();
    applied(&store, local("ios", "a", b"x"));
    let operation = file_put(&bench, "ios", "b", &[1; 3000]);
    disk.set_rule(Some(Box::new(|operation, _, _| {
        (operation == DiskOperation::Sync).then(|| io::Error::from_raw_os_error(5))
    })));
    assert!(store.submit(operation).wait().is_err());
    disk.set_rule(None);
    assert!(store.stats().write_stopped.unwrap().contains("sync"));
    let refused = store.submit(local("ios", "c", b"x")).wait();
    assert!(matches!(refused, Err(StoreError::WriteStopped { .. })));
    assert_eq!(body(&store, "ios", "a").unwrap(), b"x");
    assert!(store.close().is_err());
    drop(store);
    let store = bench.open();
    applied(&store, local("ios", "c", b"x"));
    assert_sound(&bench, &store, 2, 0);
}

#[test]
fn without_room_puts_are_refused_and_deletes_are_not() {
    let (bench, disk) = faulty();
    let store = bench.open();
    applied(&store, local("ios", "a", b"x"));
    let space = RealDisk.space(bench.root.path()).unwrap();
    disk.set_space(Some(VolumeSpace { available_bytes: 4096, ..space }));
    assert!(matches!(store.submit(local("ios", "b", b"x")).wait(), Err(StoreError::StorageFull { .. })));
    assert!(matches!(outcome(&store, delete("ios", None)), CommitOutcome::Deleted { .. }));
    disk.set_space(None);
    applied(&store, local("ios", "b", b"x"));
    assert_eq!(recount(&store).unwrap().mismatches, Vec::<String>::new());
}

/// An inline body is written into the log and then into a table.
#[test]
fn of_a_group_only_what_has_room_is_taken() {
    let (bench, disk) = faulty();
    let store = bench.open();
    let kept = store.core().sizes.put_reserve_bytes / 2;
    let space = RealDisk.space(bench.root.path()).unwrap();
    disk.set_space(Some(VolumeSpace { available_bytes: kept + 30_000, ..space }));
    let is_taken = |length: usize| match store.submit(local("ios", "a", &vec![1; length])).wait() {
        Ok(_) => true,
        Err(StoreError::StorageFull { .. }) => false,
        Err(other) => panic!("{other}"),
    };
    assert_eq!((is_taken(20_000), is_taken(14_000)), (false, true));
}

#[test]
fn a_body_file_without_a_manifest_is_removed_after_an_unclean_stop() {
    let bench = Bench::new();
    let store = bench.open();
    let record = applied(&store, file_put(&bench, "ios", "a", &[1; 3000]));
    let orphan = BodyNo(number_of(&record).unwrap().0 + 1);
    fs::write(body_path(&bench.layout(), orphan), vec![0; 500]).unwrap();
    drop(store);
    let (store, report) = Store::open(bench.options()).unwrap();
    assert_eq!((report.unclean, report.orphan_bodies_removed, report.orphan_bytes_removed), (true, 1, 500));
    assert_sound(&bench, &store, 1, 1);
    assert!(number_of(&applied(&store, local("ios", "b", b"x"))).unwrap() > orphan, "a number was used twice");
}

#[test]
fn a_bad_body_is_a_miss_is_set_aside_and_is_wanted_back() {
    type Harm = fn(&std::path::Path);
    let harms: [(Harm, bool); 3] = [
        (|path| fs::remove_file(path).unwrap(), false),
        (|path| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(10).unwrap(), true),
        (|path| fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(b"!", 7).unwrap(), true),
    ];
    for (harm, is_kept) in harms {
        let bench = Bench::new();
        let store = bench.open();
        let record = applied(&store, file_put(&bench, "ios", "a", &[1; 3000]));
        let body_no = number_of(&record).unwrap();
        harm(&body_path(&bench.layout(), body_no));
        assert!(store.open_body(&record).unwrap().is_none());
        assert_eq!(store.lookup(&id("ios", "a")).unwrap(), None);
        assert_eq!(bench.layout().quarantine().join(body_no.to_string()).exists(), is_kept);
        let wanted = store.wanted_page(None, 10).unwrap();
        assert_eq!((wanted.len(), wanted[0].reason, wanted[0].version), (1, WantedReason::Withdrawn, record.version()));
        // The same version may come back, and that settles it.
        assert_eq!(store.wants(&record).unwrap(), Wants::Fetch);
        applied(&store, file_put(&bench, "ios", "a", &[1; 3000]));
        assert!(store.wanted_page(None, 10).unwrap().is_empty());
        assert_sound(&bench, &store, 1, 1);
    }
}

#[test]
fn a_withdrawal_that_comes_late_leaves_the_new_body_alone() {
    let bench = Bench::new();
    let store = bench.open();
    let old = applied(&store, file_put(&bench, "ios", "a", &[1; 3000]));
    applied(&store, file_put(&bench, "ios", "a", &[2; 3000]));
    store.report_bad_body(&old, "too late");
    assert!(store.open_body(&old).unwrap().is_none());
    let late = Operation::Withdraw { id: id("ios", "a"), body_no: number_of(&old).unwrap(), reason: "late".into() };
    assert_eq!(outcome(&store, late), CommitOutcome::Withdrawn(false));
    assert_eq!(body(&store, "ios", "a").unwrap(), [2; 3000]);
    assert_eq!(store.breaker_open(), None);
}

#[test]
fn a_reader_that_was_overtaken_gets_the_version_that_overtook_it() {
    let bench = Bench::new();
    let store = bench.open();
    let old = applied(&store, file_put(&bench, "ios", "a", &[1; 3000]));
    let new = applied(&store, file_put(&bench, "ios", "a", &[2; 3000]));
    let (found, _) = store.open_current(old).unwrap().unwrap();
    assert_eq!(found, new);
    fs::remove_file(body_path(&bench.layout(), number_of(&new).unwrap())).unwrap();
    assert!(store.open_current(new).unwrap().is_none());
    assert_eq!(store.stats().artifacts, 0);
}

#[test]
fn without_its_marker_no_missing_body_is_believed() {
    let bench = Bench::new();
    let store = bench.open();
    let record = applied(&store, file_put(&bench, "ios", "a", &[1; 3000]));
    fs::rename(bench.layout().bodies(), bench.root.path().join("moved")).unwrap();
    assert!(store.open_body(&record).unwrap().is_none());
    assert!(store.lookup(&id("ios", "a")).unwrap().is_some());
    fs::rename(bench.root.path().join("moved"), bench.layout().bodies()).unwrap();
    assert_eq!(body(&store, "ios", "a").unwrap(), [1; 3000]);
}

#[test]
fn too_many_bad_bodies_at_once_open_the_breaker() {
    let bench = Bench::new();
    let store = bench.open();
    let count = breaker::WITHDRAWALS_PER_MINUTE_MAX + 5;
    let records: Vec<_> =
        (0..count).map(|n| applied(&store, file_put(&bench, "ios", &format!("k{n}"), &[n as u8; 100]))).collect();
    for file in body_files(&bench) {
        fs::remove_file(file).unwrap();
    }
    assert!(records.iter().all(|record| store.open_body(record).unwrap().is_none()));
    assert_eq!(store.stats().artifacts, 5);
    assert!(store.breaker_open().unwrap().contains("missing"));
    bench.clock.advance(Duration::from_secs(601));
    assert_eq!(store.breaker_open(), None);
    assert!(records.iter().all(|record| store.open_body(record).unwrap().is_none()));
    assert_eq!(store.stats().artifacts, 0);
    let _ = bench.clock.now_ms();
}

#[test]
fn a_verified_file_is_hashed_once_and_a_large_one_by_its_reader() {
    let bench = Bench::new();
    let store = bench.open();
    let small = applied(&store, file_put(&bench, "ios", "small", &[1; 3000]));
    let large = applied(&store, file_put(&bench, "ios", "large", &vec![2; (16 << 20) + 1]));
    let is_verified = |record| match store.open_body(record).unwrap() {
        Some(OpenBody::File(file)) => file.verified,
        other => panic!("{other:?}"),
    };
    assert!(is_verified(&small));
    assert!(!is_verified(&large));
    store.note_verified(&large);
    assert!(is_verified(&large));
    store.report_bad_body(&large, "the reader saw other bytes");
    assert_eq!(store.lookup(&id("ios", "large")).unwrap(), None);
}

#[test]
fn verify_names_what_is_missing_corrupt_or_unreferenced_and_changes_nothing() {
    let bench = Bench::new();
    let store = bench.open();
    let records: Vec<_> =
        (0..4_u8).map(|n| applied(&store, file_put(&bench, "ios", &format!("k{n}"), &[n; 3000]))).collect();
    let path = |at: usize| body_path(&bench.layout(), number_of(&records[at]).unwrap());
    fs::remove_file(path(0)).unwrap();
    fs::write(path(1), vec![9; 3200]).unwrap();
    let stray = extent_path(&bench.layout(), 0).join(BodyNo(0).to_string());
    let owned = super::open::is_owned(store.core(), BodyNo(0)).unwrap();
    store.close().unwrap();
    drop(store);

    let before = listing(bench.root.path());
    let store = Store::open_read_only(bench.options()).unwrap();
    let request = VerifyRequest::all(HashBodies::All);
    let mut last = 0;
    let report = verify(&store, &request, &mut |at| {
        last = at.artifacts;
        std::ops::ControlFlow::Continue(())
    });
    let report = report.unwrap();
    assert_eq!((report.artifacts, report.missing_total, report.corrupt_total, last), (4, 1, 1, 4));
    assert_eq!(report.missing[0].path.as_deref(), Some(path(0).as_path()));
    assert_eq!(
        (report.corrupt[0].expected, report.corrupt[0].actual),
        (records[1].digest, Some(Digest::of(&[9; 3000])))
    );
    assert!(report.bodies_marked && !report.stopped);
    let only = VerifyRequest::of(HashBodies::None, vec![id("ios", "k0"), id("ios", "k2")]);
    let some = verify(&store, &only, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    assert_eq!((some.artifacts, some.missing_total, some.hashed), (2, 1, 0));
    let stopped = verify(&store, &request, &mut |_| std::ops::ControlFlow::Break(())).unwrap();
    assert!(stopped.stopped);
    // Looking changed nothing, not even through a bad body.
    assert!(store.open_body(&records[0]).unwrap().is_none());
    assert!(matches!(store.submit(local("ios", "x", b"x")).wait(), Err(StoreError::NotOpen)));
    drop(store);
    assert_eq!(listing(bench.root.path()), before);
    assert!(owned, "{} is the first body", stray.display());
}

/// Every path below a folder with its length and time of change.
fn listing(root: &std::path::Path) -> Vec<(std::path::PathBuf, u64, std::time::SystemTime)> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            found.push((entry.path(), metadata.len(), metadata.modified().unwrap()));
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_reader_beside_a_writer_sees_what_was_committed_and_disturbs_nothing() {
    let bench = Bench::new();
    let writer = bench.open();
    applied(&writer, local("ios", "a", b"one"));
    let before = listing(bench.root.path());
    let reader = Store::open_read_only(bench.options()).unwrap();
    assert_eq!(body(&reader, "ios", "a").unwrap(), b"one");
    assert_eq!(reader.stats().store_id, writer.stats().store_id);
    assert_eq!(listing(bench.root.path()), before);
    drop(reader);
    assert_eq!(listing(bench.root.path()), before);
    applied(&writer, local("ios", "b", b"two"));
}

#[test]
fn a_deleted_namespace_is_emptied_in_bounded_batches() {
    let bench = Bench::new();
    let store = bench.open();
    let count = evaluate_purge::PURGE_ROWS_MAX * 2 + 10;
    for n in 0..count {
        applied(&store, local("ios", &format!("k{n}"), b"x"));
    }
    applied(&store, local("android", "kept", b"x"));
    assert!(matches!(outcome(&store, delete("ios", None)), CommitOutcome::Deleted { .. }));
    let recount = recount(&store).unwrap();
    assert_eq!((recount.artifacts, recount.garbage, recount.mismatches), (1, 0, Vec::new()));
}

#[test]
fn relaxed_durability_keeps_what_was_written_through_a_kill() {
    let mut bench = Bench::new();
    bench.durability = Durability::Process;
    let store = bench.open();
    for n in 0..20_u8 {
        applied(&store, file_put(&bench, "ios", &format!("k{n}"), &[n; 300]));
        applied(&store, file_put(&bench, "ios", &format!("k{n}"), &[n; 400]));
    }
    drop(store);
    let store = bench.open();
    assert_sound(&bench, &store, 20, 20);
}

/// Allocated bytes below a folder.
fn allocated(root: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = fs::read_dir(root).unwrap().filter_map(Result::ok);
    entries
        .filter_map(|entry| entry.metadata().ok().map(|metadata| (entry.path(), metadata)))
        .map(|(path, metadata)| metadata.blocks() * 512 + if metadata.is_dir() { allocated(&path) } else { 0 })
        .sum()
}

#[test]
fn on_a_volume_of_64_mib_replacing_a_few_mib_over_and_over_stays_small() {
    let (bench, disk) = faulty();
    let space = RealDisk.space(bench.root.path()).unwrap();
    disk.set_space(Some(VolumeSpace { total_bytes: 64 << 20, available_bytes: 64 << 20, ..space }));
    let store = bench.open();
    let mut peak = 0;
    for round in 0..30_u32 {
        for n in 0..256_u32 {
            // 16 KiB that do not compress, inside the index: 4 MiB live, 120 MiB written.
            let mut bytes = vec![0; 16 << 10];
            blake3::Hasher::new().update(&round.to_le_bytes()).update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
            applied(&store, local("ios", &format!("k{n}"), &bytes));
        }
        peak = peak.max(allocated(bench.root.path()));
    }
    assert!(peak < 32 << 20, "{} MiB", peak >> 20);
    assert_eq!(store.stats().body_bytes, 4 << 20);
}

#[test]
fn on_threads_many_writers_replace_and_delete_and_the_next_open_finds_all_in_order() {
    for durability in [Durability::Power, Durability::Process] {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut bench = Bench::new();
        bench.durability = durability;
        bench.executor = Arc::new(crate::core::base::executor::ThreadExecutor::new(runtime.handle().clone(), 8));
        let store = bench.open();
        std::thread::scope(|scope| {
            for writer in 0..4_u8 {
                let (store, bench) = (&store, &bench);
                scope.spawn(move || {
                    for round in 0..20_u8 {
                        let key = format!("k{}", round % 5);
                        applied(store, local("shared", &key, &[writer, round]));
                        applied(store, file_put(bench, "files", &key, &[writer ^ round; 300]));
                        if round == 10 {
                            assert!(matches!(outcome(store, delete("shared", None)), CommitOutcome::Deleted { .. }));
                        }
                        assert!(store.lookup(&id("files", &key)).unwrap().is_some());
                    }
                });
            }
        });
        store.close().unwrap();
        drop(store);
        bench.executor = Arc::new(InlineExecutor);
        let (store, report) = Store::open(bench.options()).unwrap();
        assert!(!report.unclean);
        assert_sound(&bench, &store, 10, 5);
    }
}

#[test]
fn a_relaxed_store_is_called_clean_only_once_all_of_it_is_synced() {
    let (mut bench, disk) = faulty();
    bench.durability = Durability::Process;
    let store = bench.open();
    applied(&store, file_put(&bench, "ios", "a", &[1; 3000]));
    disk.set_rule(Some(Box::new(|operation, _, _| {
        (operation == DiskOperation::Sync).then(|| io::Error::from_raw_os_error(5))
    })));
    assert!(store.close().is_err());
    disk.set_rule(None);
    drop(store);
    let (store, report) = Store::open(bench.options()).unwrap();
    assert!(report.unclean);
    store.close().unwrap();
    drop(store);
    assert!(!Store::open(bench.options()).unwrap().1.unclean);
}
