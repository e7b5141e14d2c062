//! Each finding about the budget induced on a pretended volume, and each quiet on a healthy one.

use std::sync::Arc;

use super::*;
use crate::core::base::disk::{FaultDisk, RealDisk};
use crate::core::config::Config;
use crate::core::doctor::context::Mode;
use crate::core::doctor::finding::Status;
use crate::core::doctor::test_support::{config, context_with, look, store, world};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn pretending(root: &Path, total: u64, free: u64, change: impl FnOnce(&mut Config)) -> Context {
    let disk = FaultDisk::new(Arc::new(RealDisk));
    let space = VolumeSpace { total_bytes: total, free_bytes: free, available_bytes: free, ..VolumeSpace::default() };
    disk.set_space(Some(VolumeSpace { block_bytes: 4096, ..space }));
    let mut config = config(root);
    change(&mut config);
    context_with(config, Mode::Offline, crate::core::doctor::context::World { disk: Arc::new(disk), ..world() })
}

#[test]
fn a_capacity_that_does_not_fit_beside_staging_is_told_with_one_that_does() {
    let root = tempfile::tempdir().unwrap();
    let set =
        |bytes| move |config: &mut Config| (config.cas_capacity_bytes, config.tmp_dir_max_bytes) = (bytes, 8 * GIB);
    let status = |total, bytes| look(&ConfigBudgetImpossible, &pretending(root.path(), total, total, set(bytes)));
    assert_eq!(status(100 * GIB, Some(80 * GIB)).status, Status::Ok);
    assert_eq!(status(100 * GIB, None).status, Status::Ok);
    assert_eq!(status(64 * MIB, None).status, Status::Ok, "without a capacity the volume decides");
    let found = status(100 * GIB, Some(90 * GIB));
    assert_eq!(found.status, Status::Fail);
    let text = found.remedy.unwrap().text;
    let suggested: u64 = text.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
    assert_eq!(status(100 * GIB, Some(suggested - 1)).status, Status::Ok, "{text}");
    assert_eq!(status(4 * MIB, None).status, Status::Fail, "nothing fits");
}

#[test]
fn a_volume_of_a_data_dir_that_is_not_made_yet_is_asked_above_it() {
    let root = tempfile::tempdir().unwrap();
    let context = pretending(&root.path().join("not/yet"), 100 * GIB, 100 * GIB, |_| {});
    assert_eq!(look(&ConfigBudgetImpossible, &context).status, Status::Ok);
}

#[test]
fn a_missing_ballast_warns_once_a_node_has_started_there() {
    let root = tempfile::tempdir().unwrap();
    let context = || pretending(root.path(), 64 * MIB, 30 * MIB, |_| {});
    assert_eq!(look(&BallastMissing, &context()).status, Status::Ok, "nobody has started here");
    drop(store(root.path()));
    let found = look(&BallastMissing, &context());
    assert_eq!((found.status, &found.evidence.values()["expected_bytes"]), (Status::Warn, &(4 * MIB).into()));
    let ballast = ballast_of(&context()).unwrap();
    ballast.restore(2 * MIB).unwrap();
    assert_eq!(look(&BallastMissing, &context()).status, Status::Warn, "half of one");
    ballast.restore(4 * MIB).unwrap();
    assert_eq!(look(&BallastMissing, &context()).status, Status::Ok);
}

#[test]
fn others_that_take_the_volume_are_told_and_a_quota_is_a_volume() {
    let root = tempfile::tempdir().unwrap();
    drop(store(root.path()));
    let look_at = |total, free, set: Option<u64>| {
        let context = pretending(root.path(), total, free, |config| config.cas_capacity_bytes = set);
        look(&BudgetOvercommit, &context)
    };
    assert_eq!(look_at(100 * GIB, 95 * GIB, None).status, Status::Ok);
    assert_eq!(look_at(100 * GIB, 95 * GIB, Some(80 * GIB)).status, Status::Ok);
    assert_eq!(look_at(100 * GIB, 40 * GIB, None).status, Status::Ok, "the budget shrinks, and that is all");
    let shared = look_at(100 * GIB, 40 * GIB, Some(80 * GIB));
    assert_eq!(shared.status, Status::Fail);
    assert!(shared.evidence.values()["foreign_bytes"].as_u64() > Some(50 * GIB), "{:?}", shared.evidence);
    assert_eq!(look_at(100 * GIB, 2 * GIB, None).status, Status::Fail, "no room at all");
    assert_eq!(look_at(10 * GIB, 10 * GIB, Some(80 * GIB)).status, Status::Fail, "a quota of 10 GiB");
}

#[test]
fn staging_that_fills_the_volume_is_not_called_somebody_elses() {
    let root = tempfile::tempdir().unwrap();
    drop(store(root.path()));
    std::fs::create_dir_all(root.path().join("tmp/uploads")).unwrap();
    std::fs::write(root.path().join("tmp/uploads/left"), vec![1; 55 << 20]).unwrap();
    let context = pretending(root.path(), 64 * MIB, 0, |_| {});
    assert_eq!(look(&BudgetOvercommit, &context).status, Status::Ok);
}
