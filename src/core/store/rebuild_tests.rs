//! The index made anew: everything in files is here again, nothing deleted comes back, and a kill on the way costs
//! nothing.

use std::path::Path;
use std::sync::Arc;

use super::body_files::body_path;
use super::committer::Operation;
use super::fault_tests::file_put;
use super::integrity::{HashBodies, VerifyRequest, verify};
use super::record::BodyPlace;
use super::store_tests::{Bench, NOW_MS, applied, body, id, local, outcome, replicated};
use super::*;
use crate::core::base::disk::{Disk, DiskOperation, FaultDisk, RealDisk, VolumeSpace};
use crate::core::base::ids::{BodyNo, Seq};
use crate::core::store::record::Record;

fn number(record: &Record) -> BodyNo {
    match record.body {
        Some(BodyPlace::File(number)) => number,
        other => panic!("not in a file: {other:?}"),
    }
}

/// Files, inline bodies, an overwritten one, a deleted namespace and one that was deleted and written again.
fn filled(bench: &Bench) -> Vec<Record> {
    let store = bench.open();
    let mut records: Vec<Record> =
        (0..20_u8).map(|n| applied(&store, file_put(bench, "ios", &format!("file-{n}"), &[n; 3000]))).collect();
    applied(&store, local("ios", "inline", b"small"));
    records.push(applied(&store, file_put(bench, "ios", "file-0", &[99; 4000])));
    applied(&store, file_put(bench, "gone", "a", &[1; 3000]));
    applied(&store, file_put(bench, "again", "a", &[2; 3000]));
    for namespace in ["gone", "again"] {
        outcome(&store, Operation::DeleteNamespace { namespace: namespace.into(), version_ms: None });
    }
    records.push(applied(&store, file_put(bench, "again", "b", &[3; 3000])));
    store.close().unwrap();
    records
}

fn lose(index: &Path, what: &str) {
    for entry in std::fs::read_dir(index).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with(what) || name.ends_with(what) {
            std::fs::remove_file(path).unwrap();
        }
    }
}

fn is_whole(store: &Store) {
    assert_eq!(body(store, "ios", "file-0").unwrap(), [99; 4000]);
    for n in 1..20_u8 {
        assert_eq!(body(store, "ios", &format!("file-{n}")).unwrap(), [n; 3000]);
    }
    assert_eq!(body(store, "again", "b").unwrap(), [3; 3000]);
    for (namespace, key) in [("gone", "a"), ("again", "a"), ("ios", "inline")] {
        assert_eq!(body(store, namespace, key), None, "{namespace}/{key}");
    }
    let request = VerifyRequest::all(HashBodies::All);
    let report = verify(store, &request, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    assert_eq!(
        (report.artifacts, report.missing_total, report.corrupt_total, report.unreferenced_total),
        (21, 0, 0, 0)
    );
}

#[test]
fn a_lost_index_is_made_anew_from_files_and_nothing_deleted_comes_back() {
    for what in ["CURRENT", "MANIFEST", "CURRENT overwritten with zeros", ".sst"] {
        let bench = Bench::new();
        let records = filled(&bench);
        let before = bench.open().stats();
        lose(&bench.layout().index(), what);
        if what.contains(' ') {
            std::fs::write(bench.layout().index().join("CURRENT"), [0; 16]).unwrap();
        }
        let (store, report) = Store::open(bench.options()).unwrap();
        let rebuilt = report.rebuilt.unwrap_or_else(|| panic!("{what}: not made anew"));
        assert_eq!((rebuilt.artifacts, rebuilt.tombstones, rebuilt.unusable), (21, 2, 0), "{what}: {rebuilt:?}");
        is_whole(&store);
        assert_ne!(store.stats().store_id, before.store_id, "peers must list it anew");
        // Deletes of before count for what comes late, and versions rise from what is there.
        let late = outcome(&store, replicated("gone", "a", b"old", NOW_MS - 5));
        assert!(matches!(late, committer::CommitOutcome::Tombstoned), "{late:?}");
        let newer = applied(&store, file_put(&bench, "ios", "file-1", &[7; 2000]));
        assert!(newer.version_ms > records[1].version_ms && number(&newer).0 > number(&records[20]).0);
        drop(store);
        let (_, report) = Store::open(bench.options()).unwrap();
        assert_eq!((report.rebuilt, report.orphan_bodies_removed), (None, 0), "{what}");
    }
}

#[test]
fn it_is_made_anew_when_asked_for_and_the_old_one_is_kept_for_a_look() {
    let disk = Arc::new(FaultDisk::new(Arc::new(RealDisk)));
    let space = RealDisk.space(std::path::Path::new("/")).unwrap();
    disk.set_space(Some(VolumeSpace {
        available_bytes: space.total_bytes / 2,
        free_bytes: space.total_bytes / 2,
        ..space
    }));
    let bench = Bench::on(disk);
    filled(&bench);
    Store::request_rebuild(&bench.options()).unwrap();
    let read_only = Store::open_read_only(bench.options());
    assert!(matches!(read_only, Err(error::StoreError::IndexDamaged { .. })), "what is there means nothing now");
    let (store, report) = Store::open(bench.options()).unwrap();
    assert!(report.rebuilt.is_some() && bench.layout().quarantine().join("index.old/CURRENT").exists());
    is_whole(&store);
    assert!(store.stats().head_seq > Seq(0));
}

#[test]
fn torn_files_are_set_aside_and_a_folder_in_a_files_place_stops_nothing() {
    let bench = Bench::new();
    let records = filled(&bench);
    let path = |n: usize| body_path(&bench.layout(), number(&records[n]));
    let torn = std::fs::read(path(1)).unwrap();
    std::fs::write(path(1), &torn[..torn.len() - 1]).unwrap();
    std::fs::remove_file(path(2)).unwrap();
    std::fs::create_dir(path(2)).unwrap();
    Store::request_rebuild(&bench.options()).unwrap();
    let (store, report) = Store::open(bench.options()).unwrap();
    let rebuilt = report.rebuilt.unwrap();
    assert_eq!((rebuilt.artifacts, rebuilt.unusable, rebuilt.unreadable), (19, 1, 1), "{rebuilt:?}");
    assert_eq!((body(&store, "ios", "file-1"), body(&store, "ios", "file-2")), (None, None));
    assert_eq!(body(&store, "ios", "file-3").unwrap(), [3; 3000]);
}

#[test]
fn whatever_fails_on_the_way_the_next_open_ends_it() {
    let template = Bench::new();
    filled(&template);
    let (mut at, mut failures) = (0, 0);
    loop {
        let disk = Arc::new(FaultDisk::new(Arc::new(RealDisk)));
        let bench = Bench::on(Arc::clone(&disk) as Arc<dyn Disk>);
        let mut copy = std::process::Command::new("cp");
        copy.arg("-a").arg(template.root.path().join(".")).arg(bench.root.path());
        assert!(copy.status().unwrap().success());
        // The damage is found by an open, so that the request is among the steps that fail.
        lose(&bench.layout().index(), "CURRENT");
        disk.set_rule(Some(Box::new(move |_: DiskOperation, _: Option<&Path>, number| {
            (number == at).then(|| std::io::ErrorKind::StorageFull.into())
        })));
        let opened = Store::open(bench.options());
        let reached = disk.operations() > at;
        disk.set_rule(None);
        failures += usize::from(opened.is_err());
        drop(opened);
        let (store, _) = Store::open(bench.options()).unwrap();
        is_whole(&store);
        if !reached {
            break;
        }
        at += 1;
    }
    assert!(at > 5 && failures > 3, "{at} steps, {failures} of them failed the open");
}

#[test]
fn without_the_marker_in_bodies_nothing_is_made_anew() {
    let bench = Bench::new();
    filled(&bench);
    lose(&bench.layout().index(), "CURRENT");
    std::fs::remove_file(bench.layout().bodies_marker()).unwrap();
    let opened = Store::open(bench.options()).map(|(_, report)| report);
    assert!(matches!(opened, Err(error::StoreError::CorruptIdentity { .. })), "{opened:?}");
    assert!(id("ios", "file-1").as_bytes().len() == 32 && !bench.layout().quarantine().join("index.old").exists());
}
