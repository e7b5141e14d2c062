//! Owners and holders, real ones.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::core::doctor::finding::Status;
use crate::core::doctor::test_support::{context, look};

#[test]
fn a_data_dir_of_one_user_is_quiet() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("tmp/uploads")).unwrap();
    std::fs::write(root.path().join("identity"), b"{}").unwrap();
    assert_eq!(look(&DataDirOwner, &context(root.path())).status, Status::Ok);
}

#[test]
fn files_the_servers_user_cannot_write_are_named() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("index")).unwrap();
    let foreign = root.path().join("index/CURRENT");
    std::fs::write(&foreign, b"x").unwrap();
    if rustix::process::geteuid().is_root() {
        // As after `kura bootstrap` was run as root beside a server that is not.
        for path in [root.path().to_owned(), root.path().join("index")] {
            std::os::unix::fs::chown(path, Some(10_001), Some(10_001)).unwrap();
        }
    } else {
        std::fs::set_permissions(&foreign, std::fs::Permissions::from_mode(0o400)).unwrap();
    }
    let outcome = look(&DataDirOwner, &context(root.path()));
    assert_eq!(outcome.status, Status::Fail);
    assert_eq!(outcome.evidence.values()["paths_total"], 1);
    assert!(outcome.evidence.details()[0].starts_with(foreign.to_str().unwrap()), "{:?}", outcome.evidence);
    assert!(outcome.remedy.unwrap().commands[0].starts_with("chown -R "));
}

#[test]
fn the_mode_of_another_users_file_decides_as_the_kernel_would() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let folder = std::fs::metadata(root.path()).unwrap();
    let allowed = |mode, user| {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        by_mode(&std::fs::metadata(&file).unwrap(), &folder, user)
    };
    let owner = folder.uid();
    let other = owner + 4242;
    assert!(allowed(0o600, owner) && allowed(0o660, other) && allowed(0o606, other));
    assert!(!allowed(0o600, other) && !allowed(0o644, other));
    assert!(owner == 0 || !allowed(0o400, owner));
    assert!(allowed(0o000, 0), "root may always");
}

#[test]
fn a_held_lock_is_told_with_its_holder_and_nothing_changes() {
    use crate::core::doctor::test_support::listing;
    let root = tempfile::tempdir().unwrap();
    let free = look(&DataDirLocked, &context(root.path()));
    assert_eq!((free.status, free.effect), (Status::Ok, None));

    let layout = Layout::with_default_tmp(root.path());
    let lock = DataDirLock::try_acquire(&layout, 1_750_000_000_000).unwrap();
    let before = listing(root.path());
    let held = look(&DataDirLocked, &context(root.path()));
    assert_eq!((held.status, held.severity), (Status::Ok, Some(Severity::Info)));
    assert_eq!(held.evidence.values()["pid"], std::process::id());
    assert_eq!(held.evidence.values()["since_ms"], 1_750_000_000_000_u64);
    assert_eq!(before, listing(root.path()));
    drop(lock);
    assert!(look(&DataDirLocked, &context(root.path())).effect.is_none());
}

#[test]
fn a_record_without_a_process_is_stale_and_a_live_or_clean_one_is_not() {
    use crate::core::base::ids::InstanceId;
    use crate::core::doctor::test_support::{listing, world};
    let root = tempfile::tempdir().unwrap();
    let layout = Layout::with_default_tmp(root.path());
    assert_eq!(look(&RunRecordStale, &context(root.path())).status, Status::Ok, "nothing ever ran");
    let record = RunRecord::starting(InstanceId([3; 16]), 1_749_999_990_000);
    record.store(&layout, world().disk.as_ref()).unwrap();
    let before = listing(root.path());
    let outcome = look(&RunRecordStale, &context(root.path()));
    assert_eq!(outcome.status, Status::Warn);
    assert_eq!(outcome.evidence.values()["pid"], std::process::id());
    assert!(outcome.evidence.line().contains("last sign of life 10 s ago"), "{outcome:?}");
    assert_eq!(listing(root.path()), before);

    let lock = DataDirLock::try_acquire(&layout, 1).unwrap();
    assert_eq!(look(&RunRecordStale, &context(root.path())).status, Status::Ok, "it runs");
    drop(lock);
    record.stopped(1_749_999_995_000).store(&layout, world().disk.as_ref()).unwrap();
    assert_eq!(look(&RunRecordStale, &context(root.path())).status, Status::Ok, "it stopped in order");
}

/// The record of a process of another boot (another machine), as old as said.
fn foreign_record(data_dir: &std::path::Path, age_ms: u64, clean: bool) {
    use crate::core::base::disk::RealDisk;
    use crate::core::base::ids::InstanceId;
    let now_ms = 1_750_000_000_000 - age_ms;
    let mut record = RunRecord::starting(InstanceId([7; 16]), now_ms);
    (record.boot_id, record.host, record.clean) = ("another boot".to_owned(), "kura-1".to_owned(), clean);
    record.store(&Layout::with_default_tmp(data_dir), &RealDisk).unwrap();
}

#[test]
fn a_fresh_heartbeat_of_another_machine_fails_whether_or_not_the_lock_is_held_here() {
    let root = tempfile::tempdir().unwrap();
    let looked = || look(&TwoWriters, &context(root.path()));
    assert_eq!(looked().status, Status::Ok, "nobody was ever here");
    foreign_record(root.path(), 9_000, false);
    let free = looked();
    assert_eq!(free.status, Status::Fail, "{free:?}");
    assert!(free.message.starts_with("a process on kura-1 writes"), "{}", free.message);
    assert_eq!(free.evidence.values()["lock_held_here"], false);
    let lock = DataDirLock::try_acquire(&Layout::with_default_tmp(root.path()), 1).unwrap();
    assert!(looked().message.starts_with("two processes write"));
    drop(lock);
}

#[test]
fn a_silent_a_finished_and_a_local_process_are_no_second_writer() {
    let root = tempfile::tempdir().unwrap();
    let looked = || look(&TwoWriters, &context(root.path())).status;
    foreign_record(root.path(), 60_000, false);
    assert_eq!(looked(), Status::Ok, "silent for a minute");
    foreign_record(root.path(), 1_000, true);
    assert_eq!(looked(), Status::Ok, "stopped in order");
    let layout = Layout::with_default_tmp(root.path());
    let mut local = RunRecord::starting(crate::core::base::ids::InstanceId([7; 16]), 1_750_000_000_000);
    local.host = "another-container".to_owned();
    local.store(&layout, &crate::core::base::disk::RealDisk).unwrap();
    assert_eq!(looked(), Status::Ok, "the same boot is the same kernel, and there the lock decides");
}
