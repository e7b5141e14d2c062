//! A loaded node whose disk or filesystem fails: what was stored is served as far as the disk gives it, what comes is
//! refused at once, the doctor names it, a start says why it does not come to be, and nothing that was acknowledged
//! before is gone once the disk was mended.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::disk_load::{DONE_WITHIN, TRIED_AFTER, Told, WRITERS, artifact, load_over};
use crate::failing_volume::{FailingVolume, Failure};
use crate::support::node::Node;
use crate::support::traffic::Artifact;
use crate::support::wait::eventually;
use crate::volume::{Kind, Volume};

/// An answer that takes longer counts as a hang.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

fn assert_all_there(node: &Node, artifacts: &[Artifact]) {
    for artifact in artifacts {
        artifact.check(node).expect("what was acknowledged is there");
    }
}

/// A miss, or the very bytes.
fn assert_there_or_gone(node: &Node, artifacts: &[Artifact]) {
    let lost = artifacts.iter().filter_map(|artifact| artifact.check(node).err()).map(|error| error.to_string());
    let lost: Vec<String> = lost.collect();
    println!("{} of {} lost that were synced while the error came", lost.len(), artifacts.len());
    assert!(lost.iter().all(|error| error.ends_with(": 404")), "{lost:?}");
}

/// What the doctor says: its exit code and the codes that failed.
fn doctor(node: &Node, arguments: &[&str]) -> (Option<i32>, Vec<String>) {
    let output = node.run(&[&["doctor", "--output", "json"], arguments].concat());
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let checks = report["checks"].as_array().expect("checks").iter();
    let failed = checks.filter(|check| ["fail", "error"].contains(&check["status"].as_str().expect("a status")));
    let failed = failed.map(|check| {
        println!("  {} {}: {} {}", check["status"], check["code"], check["message"], check["evidence"]);
        check["code"].as_str().expect("a code").to_owned()
    });
    let failed = failed.collect();
    println!("doctor {arguments:?}: {failed:?}");
    (output.status.code(), failed)
}

/// A running node that was under load when its disk failed.
fn assert_refused_by_name(told: &Told) {
    assert!(told.slowest < ANSWERED_WITHIN, "an answer took {:?}", told.slowest);
    assert!(told.refused.len() as u64 >= WRITERS * TRIED_AFTER / 2, "the volume takes writes: {:?}", told.refused);
    // Nx knows no other answer than 403 to a write that is not taken.
    let is_fault = |text: &String| {
        text.contains(": 503 ") || text.contains(": 507 ") || (text.contains("/v1/cache/") && text.contains(": 403 "))
    };
    let others: Vec<_> = told.refused.iter().filter(|text| !is_fault(text)).collect();
    assert!(others.is_empty(), "refused otherwise: {others:?}");
    println!("refused: {:?}", told.refused.last());
}

/// A node whose data dir is this mount point, running, with some artifacts.
fn loaded_node(node: &mut Node) -> Vec<Artifact> {
    node.start_ready();
    let before: Vec<Artifact> = (0..20).map(|number| artifact(0, number)).collect();
    before.iter().for_each(|artifact| artifact.store(node).expect("a PUT"));
    before
}

fn assert_ends(node: &mut Node) {
    node.signal(Signal::TERM);
    eventually("its end", DONE_WITHIN, || if node.is_running() { Err("it runs") } else { Ok(()) });
    node.kill();
}

#[test]
fn a_loaded_node_on_an_ext4_that_turns_read_only_reads_on_refuses_writes_and_loses_nothing() {
    let folder = tempfile::tempdir().expect("making a folder");
    let mut node = Node::new("n", folder.path());
    std::fs::create_dir(node.data_dir()).expect("making the mount point");
    let volume = Volume::mount_with(Kind::Ext4, &node.data_dir(), &["-e", "remount-ro"]);
    let before = loaded_node(&mut node);

    let told = load_over(&node, &before, || volume.meet_error());
    assert_refused_by_name(&told);
    assert_eq!(told.unread, 0, "reads of what is stored go on");
    assert_all_there(&node, &before);
    assert_all_there(&node, &told.stored);
    assert_all_there(&node, &told.late);

    let (code, failed) = doctor(&node, &["--online"]);
    assert!(code == Some(3) && failed.contains(&"DATA_DIR_READ_ONLY".to_owned()), "{failed:?}");
    assert_ends(&mut node);
    assert_eq!(doctor(&node, &["--offline"]), (Some(3), vec!["DATA_DIR_READ_ONLY".to_owned()]));

    volume.mend();
    node.start_ready();
    assert_all_there(&node, &before);
    assert_all_there(&node, &told.stored);
    assert_there_or_gone(&node, &told.late);
    artifact(9, 3).store(&node).expect("a PUT after it was mended");
    let (_, failed) = doctor(&node, &["--online"]);
    assert!(failed.is_empty(), "{failed:?}");
}

/// What a start on the failing volume says last; it must end by itself.
fn start_fails(node: &mut Node) -> String {
    let logged = node.log().len();
    node.start();
    eventually("its end", DONE_WITHIN, || if node.is_running() { Err("it runs") } else { Ok(()) });
    let said = node.log().split_off(logged);
    let code = node.exited().and_then(|status| status.code());
    node.kill();
    assert_eq!(code, Some(1), "{said}");
    let error: Vec<_> = said.lines().skip_while(|line| !line.starts_with("error:")).collect();
    println!("{}", error.join("\n"));
    error.join("\n")
}

/// Each start ends by itself and says on which path, and what explains it; the doctor names the same.
fn assert_each_start_is_named(node: &mut Node) {
    for _ in 0..2 {
        let said = start_fails(node);
        let (exit, failed) = doctor(node, &["--offline"]);
        assert_eq!(exit, Some(3), "{failed:?}");
        assert!(failed.iter().all(|code| CODES.contains(&code.as_str())), "{failed:?}");
        assert!(said.contains(&node.data_dir().display().to_string()), "{said}");
        assert!(CODES.iter().any(|code| said.contains(&format!("kura doctor --explain {code}"))), "{said}");
    }
}

/// What names a disk that fails: by what its filesystem says of itself, or by what the last writer was told.
const CODES: [&str; 2] = ["DATA_DIR_READ_ONLY", "INDEX_WRITE_STOPPED"];

fn failing_volume(folder: &tempfile::TempDir, kind: Kind, failure: Failure) -> (Node, FailingVolume) {
    let node = Node::new("n", folder.path());
    std::fs::create_dir(node.data_dir()).expect("making the mount point");
    let disk = FailingVolume::mount(kind, &node.data_dir(), failure);
    (node, disk)
}

fn assert_healed(node: &mut Node, before: &[Artifact], told: &Told) {
    node.start_ready();
    assert_all_there(node, before);
    assert_all_there(node, &told.stored);
    assert_there_or_gone(node, &told.late);
    let late = artifact(9, 3);
    late.store(node).expect("a PUT after it was mended");
    late.check(node).expect("it is there");
    let (_, failed) = doctor(node, &["--online"]);
    assert!(failed.is_empty(), "{failed:?}");
}

/// Under load, at an end in order, at the next starts, and once the disk is good again; then failing between two starts.
fn is_named_and_heals(kind: Kind, failure: Failure) {
    let folder = tempfile::tempdir().expect("making a folder");
    let (mut node, disk) = failing_volume(&folder, kind, failure);
    let before = loaded_node(&mut node);
    let told = load_over(&node, &before, || disk.fail());
    assert_refused_by_name(&told);
    let (exit, failed) = doctor(&node, &[]);
    assert!(exit == Some(3) && failed.iter().all(|code| CODES.contains(&code.as_str())), "{failed:?}");
    assert_ends(&mut node);
    assert_each_start_is_named(&mut node);
    disk.mend();
    assert_healed(&mut node, &before, &told);

    if failure == Failure::NothingBelow {
        // A start may find all it writes in blocks that the disk has already.
        return;
    }
    assert!(node.stop().success());
    disk.fail();
    assert_each_start_is_named(&mut node);
    disk.mend();
    assert_healed(&mut node, &before, &told);
}

#[test]
fn an_ext4_whose_disk_fails_is_named_under_load_and_at_starts_and_loses_nothing() {
    is_named_and_heals(Kind::Ext4, Failure::Eio);
}

#[test]
fn an_xfs_whose_disk_fails_is_named_under_load_and_at_starts_and_loses_nothing() {
    is_named_and_heals(Kind::Xfs, Failure::Eio);
}

#[test]
fn an_ext4_with_nothing_left_below_it_is_named_under_load_and_at_starts_and_loses_nothing() {
    is_named_and_heals(Kind::Ext4, Failure::NothingBelow);
}

#[test]
fn an_xfs_with_nothing_left_below_it_is_named_under_load_and_at_starts_and_loses_nothing() {
    is_named_and_heals(Kind::Xfs, Failure::NothingBelow);
}

/// Once its log cannot be written an XFS answers EIO to everything, reads as well.
#[test]
fn an_xfs_that_shuts_down_below_a_loaded_node_is_named_and_loses_nothing() {
    let folder = tempfile::tempdir().expect("making a folder");
    let (mut node, disk) = failing_volume(&folder, Kind::Xfs, Failure::Eio);
    let before = loaded_node(&mut node);
    let root = std::fs::File::open(node.data_dir()).expect("the mount point");
    let told = load_over(&node, &before, || {
        disk.fail();
        rustix::fs::syncfs(&root).expect_err("the log cannot be written");
    });
    assert_refused_by_name(&told);
    let error = std::fs::metadata(node.data_dir()).expect_err("it is shut down");
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    let by_name = (Some(3), vec!["DATA_DIR_READ_ONLY".to_owned()]);
    assert_eq!(doctor(&node, &[]), by_name);
    assert_eq!(node.client().get("/up").expect("an answer").status, 200, "it lives");
    assert_ends(&mut node);
    assert_eq!(doctor(&node, &["--offline"]), by_name);
    let said = start_fails(&mut node);
    let path = node.data_dir().display().to_string();
    assert!(said.contains(&path) && said.contains("--explain DATA_DIR_READ_ONLY"), "{said}");
    drop(root);
    disk.mend();
    assert_healed(&mut node, &before, &told);
}

/// The kernel makes no volume read-only on which a node has files open for writing; one that was made so before is named.
#[test]
fn a_volume_remounted_read_only_is_refused_while_it_is_written_and_named_at_a_start() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let folder = tempfile::tempdir().expect("making a folder");
        let mut node = Node::new("n", folder.path());
        std::fs::create_dir(node.data_dir()).expect("making the mount point");
        let volume = Volume::mount(kind, &node.data_dir());
        let before = loaded_node(&mut node);
        assert!(!volume.remount("ro"), "the kernel lets writers be cut off");
        artifact(1, 1).store(&node).expect("a PUT");
        assert!(node.stop().success());
        assert!(volume.remount("ro"));
        let said = start_fails(&mut node);
        assert!(said.contains("--explain DATA_DIR_READ_ONLY"), "{said}");
        assert_eq!(doctor(&node, &["--offline"]), (Some(3), vec!["DATA_DIR_READ_ONLY".to_owned()]));
        assert!(volume.remount("rw"));
        node.start_ready();
        assert_all_there(&node, &before);
        artifact(1, 1).check(&node).expect("what was acknowledged is there");
    }
}
