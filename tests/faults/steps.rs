//! Every step of everything that changes a data dir: killed there, refused there for want of space, failed there.
//!
//! How it works: a [`Scenario`] prepares a node and then acts. The act runs once with a copy of the data dir made at each
//! of its steps, which is what a kill there leaves; and once for each step with that step failing, by ENOSPC and by EIO,
//! once and from there on. Whatever is left must open and stand up to [`check`].

use std::sync::{Arc, Mutex, PoisonError};

use crate::scenarios::{self, Scenario, name};
use crate::step_check::{assert_as_the_oracle_says, check, copy, folder};
use crate::step_disk::{BROKEN, FULL, Plan};
use crate::step_node::{Oracle, StepNode};

fn prepared(scenario: &Scenario) -> (StepNode, tempfile::TempDir) {
    let folder = folder();
    let mut node = StepNode::at(folder.path(), Oracle::default());
    node.start().expect("starting");
    (scenario.prepare)(&mut node);
    (node, folder)
}

/// Killed at each step.
fn killed_at_each_step(scenario: &Scenario) {
    let (mut node, folder) = prepared(scenario);
    let moments = Arc::new(Mutex::new(Vec::new()));
    let (root, oracle, seen) = (folder.path().to_path_buf(), Arc::clone(&node.oracle), Arc::clone(&moments));
    let look = move |number, what| {
        let oracle = oracle.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let moment = (number, what, copy(&root), oracle);
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(moment);
    };
    node.disk.set(Plan::Watch(Box::new(look)));
    (scenario.act)(&mut node).expect("without a fault it succeeds");
    node.disk.set(Plan::Count);
    let oracle = node.oracle().clone();
    node.kill();
    let moments = std::mem::take(&mut *moments.lock().unwrap_or_else(PoisonError::into_inner));
    assert!(moments.len() as u64 >= scenario.steps_min, "only {} steps", moments.len());
    println!("{} steps", moments.len());
    for (number, what, root, oracle) in moments {
        check(root.path(), oracle, &format!("killed at step {number} ({what})"));
    }
    check(folder.path(), oracle, "killed at its end");
}

/// Failed at each step, once and for good.
fn failed_at_each_step(scenario: &Scenario, errno: i32) {
    for lasting in [false, true] {
        for at in 0.. {
            let (mut node, folder) = prepared(scenario);
            node.disk.set(Plan::Fail { at, errno, lasting });
            let acted = (scenario.act)(&mut node);
            let (steps, failed) = (node.disk.steps(), node.disk.failed());
            node.disk.set(Plan::Count);
            let what = format!("errno {errno} at step {at} ({failed:?}), lasting: {lasting}; it said {acted:?}");
            if failed.is_none() {
                acted.unwrap_or_else(|error| panic!("{what}: without a fault: {error:?}"));
            }
            if node.is_open() {
                assert_as_the_oracle_says(&node, &what);
            }
            let oracle = node.oracle().clone();
            node.kill();
            check(folder.path(), oracle, &what);
            if steps <= at {
                assert!(at >= scenario.steps_min / 2, "only {at} steps");
                break;
            }
        }
    }
}

/// What a killed node left behind can be in the way of nothing.
#[test]
fn an_orphan_that_cannot_be_removed_keeps_no_node_from_starting() {
    let mut met = 0;
    for at in 0.. {
        let (mut node, folder) = prepared(&scenarios::START_WITH_AN_ORPHAN);
        node.disk.set(Plan::Fail { at, errno: BROKEN, lasting: false });
        let started = node.start();
        let (steps, failed) = (node.disk.steps(), node.disk.failed());
        node.disk.set(Plan::Count);
        if failed == Some("unlink") {
            met += 1;
            started.expect("a start beside an orphan");
            assert_eq!(node.open().report.orphan_bodies_removed, 0);
            node.put(&name("ios", "beside it"), &[1; 5000]).expect("a put beside an orphan");
            assert!(node.stop().is_err(), "the next start has to look for it");
            let oracle = node.oracle().clone();
            node.kill();
            check(folder.path(), oracle, "an orphan that is left");
        }
        if steps <= at {
            break;
        }
    }
    assert!(met > 0, "no removal was met");
}

#[test]
fn a_small_put_killed_at_each_step() {
    killed_at_each_step(&scenarios::PUT_SMALL);
}

#[test]
fn a_small_put_without_space_at_each_step() {
    failed_at_each_step(&scenarios::PUT_SMALL, FULL);
}

#[test]
fn a_small_put_with_an_error_at_each_step() {
    failed_at_each_step(&scenarios::PUT_SMALL, BROKEN);
}

#[test]
fn a_put_of_a_file_killed_at_each_step() {
    killed_at_each_step(&scenarios::PUT_FILE);
}

#[test]
fn a_put_of_a_file_without_space_at_each_step() {
    failed_at_each_step(&scenarios::PUT_FILE, FULL);
}

#[test]
fn a_put_of_a_file_with_an_error_at_each_step() {
    failed_at_each_step(&scenarios::PUT_FILE, BROKEN);
}

#[test]
fn a_put_in_a_new_extent_killed_at_each_step() {
    killed_at_each_step(&scenarios::PUT_IN_A_NEW_EXTENT);
}

#[test]
fn a_put_in_a_new_extent_without_space_at_each_step() {
    failed_at_each_step(&scenarios::PUT_IN_A_NEW_EXTENT, FULL);
}

#[test]
fn a_put_in_a_new_extent_with_an_error_at_each_step() {
    failed_at_each_step(&scenarios::PUT_IN_A_NEW_EXTENT, BROKEN);
}

#[test]
fn a_large_put_killed_at_each_step() {
    killed_at_each_step(&scenarios::PUT_LARGE);
}

#[test]
fn a_large_put_without_space_at_each_step() {
    failed_at_each_step(&scenarios::PUT_LARGE, FULL);
}

#[test]
fn a_large_put_with_an_error_at_each_step() {
    failed_at_each_step(&scenarios::PUT_LARGE, BROKEN);
}

#[test]
fn a_replicated_batch_killed_at_each_step() {
    killed_at_each_step(&scenarios::APPLY);
}

#[test]
fn a_replicated_batch_without_space_at_each_step() {
    failed_at_each_step(&scenarios::APPLY, FULL);
}

#[test]
fn a_replicated_batch_with_an_error_at_each_step() {
    failed_at_each_step(&scenarios::APPLY, BROKEN);
}

#[test]
fn overwrites_killed_at_each_step() {
    killed_at_each_step(&scenarios::OVERWRITE);
}

#[test]
fn overwrites_without_space_at_each_step() {
    failed_at_each_step(&scenarios::OVERWRITE, FULL);
}

#[test]
fn overwrites_with_an_error_at_each_step() {
    failed_at_each_step(&scenarios::OVERWRITE, BROKEN);
}

#[test]
fn a_delete_killed_at_each_step() {
    killed_at_each_step(&scenarios::DELETE);
}

#[test]
fn a_delete_without_space_at_each_step() {
    failed_at_each_step(&scenarios::DELETE, FULL);
}

#[test]
fn a_delete_with_an_error_at_each_step() {
    failed_at_each_step(&scenarios::DELETE, BROKEN);
}

#[test]
fn an_eviction_killed_at_each_step() {
    killed_at_each_step(&scenarios::EVICT);
}

#[test]
fn an_eviction_without_space_at_each_step() {
    failed_at_each_step(&scenarios::EVICT, FULL);
}

#[test]
fn an_eviction_with_an_error_at_each_step() {
    failed_at_each_step(&scenarios::EVICT, BROKEN);
}

#[test]
fn an_eviction_under_pressure_killed_at_each_step() {
    killed_at_each_step(&scenarios::EVICT_UNDER_PRESSURE);
}

#[test]
fn an_eviction_under_pressure_without_space_at_each_step() {
    failed_at_each_step(&scenarios::EVICT_UNDER_PRESSURE, FULL);
}

#[test]
fn an_eviction_under_pressure_with_an_error_at_each_step() {
    failed_at_each_step(&scenarios::EVICT_UNDER_PRESSURE, BROKEN);
}

#[test]
fn a_multipart_upload_killed_at_each_step() {
    killed_at_each_step(&scenarios::MULTIPART);
}

#[test]
fn a_multipart_upload_without_space_at_each_step() {
    failed_at_each_step(&scenarios::MULTIPART, FULL);
}

#[test]
fn a_multipart_upload_with_an_error_at_each_step() {
    failed_at_each_step(&scenarios::MULTIPART, BROKEN);
}

#[test]
fn the_ballast_killed_at_each_step() {
    killed_at_each_step(&scenarios::BALLAST);
}

#[test]
fn the_ballast_without_space_at_each_step() {
    failed_at_each_step(&scenarios::BALLAST, FULL);
}

#[test]
fn the_ballast_with_an_error_at_each_step() {
    failed_at_each_step(&scenarios::BALLAST, BROKEN);
}

#[test]
fn a_reclaim_killed_at_each_step() {
    killed_at_each_step(&scenarios::RECLAIM);
}

#[test]
fn a_reclaim_without_space_at_each_step() {
    failed_at_each_step(&scenarios::RECLAIM, FULL);
}

#[test]
fn a_reclaim_with_an_error_at_each_step() {
    failed_at_each_step(&scenarios::RECLAIM, BROKEN);
}

#[test]
fn the_first_start_killed_at_each_step() {
    killed_at_each_step(&scenarios::FIRST_START);
}

#[test]
fn the_first_start_without_space_at_each_step() {
    failed_at_each_step(&scenarios::FIRST_START, FULL);
}

#[test]
fn the_first_start_with_an_error_at_each_step() {
    failed_at_each_step(&scenarios::FIRST_START, BROKEN);
}

#[test]
fn a_start_after_a_kill_killed_at_each_step() {
    killed_at_each_step(&scenarios::START_AFTER_A_KILL);
}

#[test]
fn a_start_after_a_kill_without_space_at_each_step() {
    failed_at_each_step(&scenarios::START_AFTER_A_KILL, FULL);
}

#[test]
fn a_start_after_a_kill_with_an_error_at_each_step() {
    failed_at_each_step(&scenarios::START_AFTER_A_KILL, BROKEN);
}

#[test]
fn a_rebuild_killed_at_each_step() {
    killed_at_each_step(&scenarios::REBUILD);
}

#[test]
fn a_rebuild_without_space_at_each_step() {
    failed_at_each_step(&scenarios::REBUILD, FULL);
}

#[test]
fn a_rebuild_with_an_error_at_each_step() {
    failed_at_each_step(&scenarios::REBUILD, BROKEN);
}
