//! Staged files with and without owners, on real folders.

use super::*;
use crate::core::base::rng::SystemRng;
use crate::core::data_dir::layout::Layout;
use crate::core::data_dir::run_record::RunRecord;
use crate::core::doctor::finding::Status;
use crate::core::doctor::test_support::{config, context, context_with, listing, look, world};

fn staged_file(root: &Path, area: &str, name: &str, bytes: usize) -> std::fs::File {
    let folder = root.join("tmp").join(area);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), vec![7_u8; bytes]).unwrap();
    std::fs::File::open(folder.join(name)).unwrap()
}

#[test]
fn empty_areas_are_quiet() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(look(&StagingOrphans, &context(root.path())).status, Status::Ok);
    std::fs::create_dir_all(root.path().join("tmp/uploads")).unwrap();
    assert_eq!(look(&StagingOrphans, &context(root.path())).status, Status::Ok);
}

#[test]
fn what_a_dead_process_left_is_counted_by_area() {
    let root = tempfile::tempdir().unwrap();
    staged_file(root.path(), "uploads", "a", 8192);
    staged_file(root.path(), "uploads", "b", 4096);
    staged_file(root.path(), "bootstrap", "c", 4096);
    let before = listing(root.path());
    let outcome = look(&StagingOrphans, &context(root.path()));
    assert_eq!((outcome.status, outcome.message.as_str()), (Status::Warn, "3 abandoned files hold 16 KiB"));
    let values = outcome.evidence.values();
    assert_eq!((&values["uploads_files"], &values["uploads_bytes"]), (&2.into(), &12_288.into()));
    assert_eq!(values["bootstrap_files"], 1);
    assert!(outcome.remedy.unwrap().commands[0].ends_with("--yes"));
    assert_eq!(listing(root.path()), before);
}

#[test]
fn partial_bodies_wait_for_the_next_start_and_are_not_abandoned() {
    use crate::core::base::ids::{ArtifactId, Digest, Version};
    use crate::core::staging::partials::{PartialIdentity, restore_header};
    let root = tempfile::tempdir().unwrap();
    staged_file(root.path(), "bootstrap", "partial-1", 40_000);
    let file = std::fs::File::options().write(true).open(root.path().join("tmp/bootstrap/partial-1")).unwrap();
    let version = Version { version_ms: 1, logical: 0, digest: Digest([2; 32]) };
    let identity = PartialIdentity { id: ArtifactId([1; 32]), version, size: 40_000, note: Vec::new() };
    restore_header(world().disk.as_ref(), &file, identity).unwrap();
    let outcome = look(&StagingOrphans, &context(root.path()));
    assert_eq!(outcome.status, Status::Ok);
    assert_eq!(outcome.evidence.values()["partial_files"], 1);
    staged_file(root.path(), "bootstrap", "partial-2", 40_000);
    let outcome = look(&StagingOrphans, &context(root.path()));
    assert_eq!((outcome.status, &outcome.evidence.values()["bootstrap_files"]), (Status::Warn, &1.into()));
}

#[test]
fn beside_a_live_holder_only_what_carries_no_lock_is_abandoned() {
    use rustix::fs::{FlockOperation, flock};
    let root = tempfile::tempdir().unwrap();
    let layout = Layout::with_default_tmp(root.path());
    let _lock = DataDirLock::try_acquire(&layout, 1).unwrap();
    let owned = staged_file(root.path(), "uploads", "owned", 4096);
    flock(&owned, FlockOperation::NonBlockingLockExclusive).unwrap();
    staged_file(root.path(), "uploads", "dead", 4096);

    let error = StagingOrphans.run(&context(root.path()), &Pulse::default()).unwrap_err();
    assert!(error.to_string().contains("does not say"), "a seed-era holder locks nothing: {error}");

    use crate::core::base::ids::InstanceId;
    use crate::core::base::rng::RngExt as _;
    let record = RunRecord::starting(InstanceId(SystemRng.bytes()), 1);
    record.store(&layout, world().disk.as_ref()).unwrap();
    let outcome = look(&StagingOrphans, &context(root.path()));
    assert_eq!((outcome.status, outcome.message.as_str()), (Status::Warn, "1 abandoned file holds 4 KiB"));
    assert_eq!(outcome.evidence.values()["owned_files"], 1);
}

#[test]
fn a_tmp_dir_on_another_mount_fails_and_one_inside_the_data_dir_is_quiet() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(look(&StagingOtherDevice, &context(root.path())).status, Status::Ok);
    // /proc is another mount on every Linux; the check asks and writes nothing.
    let config = crate::core::config::Config { tmp_dir: "/proc/no/such/tmp".into(), ..config(root.path()) };
    let context = context_with(config, crate::core::doctor::context::Mode::Auto, world());
    let outcome = look(&StagingOtherDevice, &context);
    assert_eq!(outcome.status, Status::Fail);
    assert_ne!(outcome.evidence.values()["tmp_mount"], outcome.evidence.values()["data_mount"]);
}

#[test]
fn ages_are_told_in_the_largest_whole_unit() {
    let ages = [5_000, 150_000, 3 * 3_600_000, 9 * 86_400_000].map(age);
    assert_eq!(ages, ["5 s", "2 min", "3 h", "9 d"]);
}

#[test]
fn more_than_the_budget_fails_only_if_some_of_it_belongs_to_nobody() {
    use crate::core::base::ids::InstanceId;
    use rustix::fs::{FlockOperation, flock};
    let root = tempfile::tempdir().unwrap();
    let looked = |budget: u64| {
        let config = crate::core::config::Config { tmp_dir_max_bytes: budget, ..config(root.path()) };
        look(&StagingOverBudget, &context_with(config, crate::core::doctor::context::Mode::Auto, world()))
    };
    assert_eq!(looked(0).status, Status::Ok, "nothing is staged");
    let left = staged_file(root.path(), "uploads", "left", 64 << 10);
    assert_eq!(looked(64 << 10).status, Status::Ok);
    let outcome = looked(32 << 10);
    assert_eq!(outcome.status, Status::Fail);
    assert_eq!(outcome.evidence.values()["abandoned_bytes"], 64 << 10);
    assert!(outcome.remedy.unwrap().commands[0].contains("reclaim-staging"));

    let layout = Layout::with_default_tmp(root.path());
    let _lock = DataDirLock::try_acquire(&layout, 1).unwrap();
    RunRecord::starting(InstanceId([4; 16]), 1).store(&layout, world().disk.as_ref()).unwrap();
    flock(&left, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(looked(32 << 10).status, Status::Ok, "one body larger than the ledger goes alone");
}
