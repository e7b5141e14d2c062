//! Reclaiming on a full volume, by the library alone: no byte, no name and no lock file is needed first.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use kura::core::base::disk::{Disk, RealDisk};
use kura::core::base::ids::InstanceId;
use kura::core::data_dir::layout::{Layout, create_data_dir, ensure_directories};
use kura::core::data_dir::lock::{DataDirLock, LockState};
use kura::core::data_dir::run_record::{Recorded, RunRecord};
use kura::core::data_dir::space;
use kura::core::staging::reclaim::reclaim_dead_staging;

use crate::volume::{Kind, Volume, fill, hashes};

/// A data dir on a volume of its own, with some data.
fn data_dir(kind: Kind, mount_point: &Path) -> (Volume, Layout) {
    let volume = Volume::mount(kind, mount_point);
    let layout = Layout::with_default_tmp(volume.root.join("kura"));
    create_data_dir(&layout, &RealDisk).unwrap();
    ensure_directories(&layout, &RealDisk).unwrap();
    fs::create_dir(layout.bodies().join("000")).unwrap();
    for number in 0..20 {
        fs::write(layout.bodies().join(format!("000/{number:016x}")), vec![number; 50_000]).unwrap();
    }
    (volume, layout)
}

fn recovers(kind: Kind, has_lock_file: bool) {
    let mount_point = tempfile::tempdir().unwrap();
    let (volume, layout) = data_dir(kind, mount_point.path());
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    if has_lock_file {
        drop(DataDirLock::try_acquire(&layout, 1).unwrap());
    }
    let files = fill(layout.tmp_dir());
    let before = hashes(&layout.bodies());

    let mut lock = DataDirLock::try_acquire(&layout, 2).unwrap();
    assert!(matches!(DataDirLock::probe(&layout).unwrap(), LockState::Held(_)));
    assert!(DataDirLock::try_acquire(&layout, 3).is_err(), "the lock excludes on a full volume too");
    assert!(ensure_directories(&layout, disk.as_ref()).unwrap().is_complete());
    let outcome = reclaim_dead_staging(&layout, &lock, Arc::clone(&disk), 4).unwrap();
    println!("{kind:?}: {files} files, {} KiB free before, {:?}", outcome.before.free_bytes >> 10, outcome.removed());

    assert_eq!(outcome.failed.items, []);
    assert_eq!(usize::try_from(outcome.removed().files).unwrap(), files);
    assert_eq!(outcome.shortfall, None, "{} freed", outcome.after.free_bytes - outcome.before.free_bytes);
    assert_eq!(hashes(&layout.bodies()), before);
    assert!(volume.free_bytes() > 30 << 20);
    assert!(lock.complete(5).unwrap(), "with room there is a lock file");
    let record = RunRecord::starting(InstanceId([1; 16]), 6);
    assert_eq!(record.store(&layout, disk.as_ref()).unwrap(), Recorded::Written);
    assert_eq!(reclaim_dead_staging(&layout, &lock, disk, 7).unwrap().removed().files, 0);
}

#[test]
fn a_full_ext4_is_freed() {
    recovers(Kind::Ext4, true);
}

#[test]
fn a_full_xfs_is_freed() {
    recovers(Kind::Xfs, true);
}

#[test]
fn a_full_xfs_without_a_lock_file_is_locked_by_its_directory_and_freed() {
    recovers(Kind::Xfs, false);
}

#[test]
fn on_a_full_volume_the_run_record_is_overwritten_and_without_one_left_out() {
    let cases = [(Kind::Ext4, true), (Kind::Ext4, false), (Kind::Xfs, true), (Kind::Xfs, false)];
    for (kind, has_one) in cases {
        let mount_point = tempfile::tempdir().unwrap();
        let (_volume, layout) = data_dir(kind, mount_point.path());
        if has_one {
            RunRecord::starting(InstanceId([1; 16]), 1).store(&layout, &RealDisk).unwrap();
        }
        fill(layout.tmp_dir());
        let next = RunRecord::starting(InstanceId([2; 16]), 2);
        let recorded = next.store(&layout, &RealDisk).unwrap();
        let expected = if has_one { (Recorded::Written, Some(next)) } else { (Recorded::NoSpace, None) };
        assert_eq!((recorded, RunRecord::load(&layout).unwrap()), expected, "{kind:?}");
    }
}

#[test]
fn a_full_volume_is_told_by_its_figures_and_by_its_errors() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let mount_point = tempfile::tempdir().unwrap();
        let (_volume, layout) = data_dir(kind, mount_point.path());
        assert!(!space::is_short_of_space(&RealDisk, layout.data_dir(), 1 << 20).unwrap());
        fill(layout.tmp_dir());
        assert!(space::is_short_of_space(&RealDisk, layout.data_dir(), 1 << 20).unwrap());
        let error = fs::create_dir(layout.data_dir().join("new")).unwrap_err();
        assert!(space::is_storage_full(&error), "{kind:?}: {error}");
    }
}

/// Two mounts of one volume share a device number and refuse links between each other.
#[test]
fn a_tmp_dir_on_another_mount_of_the_same_volume_is_replaced_by_one_inside() {
    let mount_point = tempfile::tempdir().unwrap();
    let volume = Volume::mount(Kind::Ext4, mount_point.path());
    let (data, tmp, other) = (volume.root.join("data"), volume.root.join("tmp"), tempfile::tempdir().unwrap());
    fs::create_dir(&data).unwrap();
    fs::create_dir(&tmp).unwrap();
    let bound = std::process::Command::new("mount").arg("--bind").arg(&tmp).arg(other.path()).status().unwrap();
    assert!(bound.success());
    let layout = Layout::new(&data, other.path());
    let ensured = ensure_directories(&layout, &RealDisk);
    let unbound = std::process::Command::new("umount").arg(other.path()).status().unwrap();
    assert!(unbound.success());
    let ensured = ensured.unwrap();
    assert_eq!(ensured.layout, Layout::with_default_tmp(&data));
    let note = ensured.notes.first().unwrap().to_string();
    assert!(note.contains("is on another mount than the data directory"), "{note}");
    assert!(data.join("tmp/uploads").is_dir());
}
