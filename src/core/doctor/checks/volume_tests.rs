//! Each finding of the volume induced, and each quiet on a healthy one.

use super::*;
use crate::core::base::disk::{Disk, FaultDisk, RealDisk};
use crate::core::doctor::finding::Status;
use crate::core::doctor::test_support::{context, context_on, look};

const GIB: u64 = 1 << 30;

/// A context on a volume that says it has this much left.
fn context_with_space(root: &Path, total: u64, free: u64, inodes: (u64, u64)) -> Context {
    let disk = FaultDisk::new(Arc::new(RealDisk));
    disk.set_space(Some(VolumeSpace {
        total_bytes: total,
        free_bytes: free,
        available_bytes: free,
        block_bytes: 4096,
        total_inodes: inodes.0,
        free_inodes: inodes.1,
    }));
    context_on(root, Arc::new(disk))
}

#[test]
fn a_data_dir_that_is_not_there_or_is_a_file_fails_with_the_nearest_parent() {
    let root = tempfile::tempdir().unwrap();
    let gone = root.path().join("a/b/c");
    let outcome = look(&DataDirMissing, &context(&gone));
    assert_eq!(outcome.status, Status::Fail);
    assert_eq!(outcome.evidence.values()["nearest_parent"], root.path().to_string_lossy().as_ref());
    std::fs::write(root.path().join("file"), b"").unwrap();
    assert_eq!(look(&DataDirMissing, &context(&root.path().join("file"))).status, Status::Fail);
    assert_eq!(look(&DataDirMissing, &context(root.path())).status, Status::Ok);
}

#[test]
fn full_is_below_one_percent_or_below_what_the_index_needs() {
    let root = tempfile::tempdir().unwrap();
    let status = |total, free| look(&DiskFull, &context_with_space(root.path(), total, free, (0, 0))).status;
    assert_eq!(status(50 * GIB, 0), Status::Fail);
    assert_eq!(status(50 * GIB, GIB / 4), Status::Fail);
    assert_eq!(status(50 * GIB, GIB), Status::Ok);
    assert_eq!(status(10_000 * GIB, GIB), Status::Ok, "a gibibyte is room on any volume");
    assert_eq!(status(64 << 20, 4 << 20), Status::Ok);
    assert_eq!(status(64 << 20, 2 << 20), Status::Fail, "uploads are refused");

    std::fs::create_dir(root.path().join("index")).unwrap();
    std::fs::write(root.path().join("index/000004.log"), vec![1_u8; 4 << 20]).unwrap();
    assert_eq!(status(64 << 20, 4 << 20), Status::Fail, "opening flushes the unflushed log");
    assert_eq!(status(64 << 20, 8 << 20), Status::Ok);
}

#[test]
fn a_full_volume_names_what_reclaiming_would_free() {
    let root = tempfile::tempdir().unwrap();
    let context = context_with_space(root.path(), 50 * GIB, 0, (0, 0));
    let outcome = look(&DiskFull, &context);
    assert!(outcome.remedy.unwrap().commands.is_empty(), "nothing is staged");

    std::fs::create_dir_all(root.path().join("tmp/uploads")).unwrap();
    std::fs::write(root.path().join("tmp/uploads/x"), vec![1_u8; 1 << 20]).unwrap();
    let remedy = look(&DiskFull, &context_with_space(root.path(), 50 * GIB, 0, (0, 0))).remedy.unwrap();
    assert_eq!(remedy.text, "frees about 1 MiB");
    assert_eq!(remedy.commands, [format!("kura reclaim-staging --data-dir {} --yes", root.path().display())]);
    assert!(remedy.mutates);
}

#[test]
fn where_staging_is_not_enough_the_ballast_is_named_too() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("ballast"), vec![1; 4 << 20]).unwrap();
    let remedy = |total| look(&DiskFull, &context_with_space(root.path(), total, 0, (0, 0))).remedy.unwrap();
    let release = format!("kura reclaim-staging --data-dir {} --release-ballast --yes", root.path().display());
    assert_eq!(remedy(64 << 20).commands, std::slice::from_ref(&release));
    std::fs::create_dir_all(root.path().join("tmp/uploads")).unwrap();
    std::fs::write(root.path().join("tmp/uploads/x"), vec![1_u8; 8 << 20]).unwrap();
    assert_ne!(remedy(64 << 20).commands, [release], "staging alone is enough");
}

#[test]
fn nearly_full_is_where_catching_up_rests_and_never_with_plenty_of_bytes() {
    let root = tempfile::tempdir().unwrap();
    let status = |total, free| look(&DiskNearfull, &context_with_space(root.path(), total, free, (0, 0))).status;
    assert_eq!(status(50 * GIB, GIB), Status::Warn);
    assert_eq!(status(50 * GIB, 2 * GIB), Status::Ok);
    assert_eq!(status(10_000 * GIB, GIB), Status::Warn);
    assert_eq!(status(10_000 * GIB, 5 * GIB), Status::Ok);
}

#[test]
fn inodes_warn_at_ninety_and_fail_at_ninety_eight_percent() {
    let root = tempfile::tempdir().unwrap();
    let status = |inodes| look(&InodesLow, &context_with_space(root.path(), GIB, GIB, inodes)).status;
    assert_eq!(status((1000, 101)), Status::Ok);
    assert_eq!(status((1000, 100)), Status::Warn);
    assert_eq!(status((1000, 20)), Status::Fail);
    assert_eq!(status((0, 0)), Status::Ok, "btrfs and others have no fixed number");
}

#[test]
fn the_real_volume_is_asked_where_no_other_is_pretended() {
    let root = tempfile::tempdir().unwrap();
    let space = RealDisk.space(root.path()).unwrap();
    let outcome = look(&DiskNearfull, &context(root.path()));
    assert!(outcome.message.contains(&used_percent(space.total_bytes, space.free_bytes).to_string()));
}
