//! On a data dir whose node is gone and whose contents were damaged.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::doctor::{Diagnosis, listing};
use crate::support::node::Node;
use crate::support::traffic::Artifact;

/// A node that stored three bodies as files and was killed.
fn killed_node(folder: &Path) -> Node {
    let mut node = Node::new("n", folder);
    node.start_ready();
    for seed in 1..=3 {
        Artifact::new(seed, 200_000).store(&node).unwrap();
    }
    node.kill();
    node
}

fn body_files(node: &Node) -> Vec<PathBuf> {
    let paths = listing(&node.data_dir().join("bodies")).into_iter().filter(|(_, length, _)| *length >= 200_000);
    let mut files: Vec<PathBuf> = paths.map(|(path, _, _)| path).filter(|path| path.is_file()).collect();
    files.sort();
    assert_eq!(files.len(), 3);
    files
}

#[test]
fn missing_and_short_bodies_are_counted_and_named() {
    let root = tempfile::tempdir().unwrap();
    let node = killed_node(root.path());
    let files = body_files(&node);
    std::fs::remove_file(&files[0]).unwrap();
    std::fs::File::options().write(true).open(&files[1]).unwrap().set_len(10).unwrap();
    let before = listing(&node.data_dir());
    let diagnosis = Diagnosis::of(&node, &[]);
    assert_eq!(diagnosis.code, 3);
    assert_eq!(diagnosis.with_status("fail"), ["BODY_MISSING"]);
    let evidence = &diagnosis.check("BODY_MISSING")["evidence"];
    assert_eq!((&evidence["missing_total"], &evidence["artifacts"]), (&2.into(), &3.into()));
    let named: Vec<&str> =
        evidence["missing"].as_array().unwrap().iter().filter_map(|bad| bad["path"].as_str()).collect();
    assert!(named.contains(&files[0].to_str().unwrap()) && named.contains(&files[1].to_str().unwrap()), "{named:?}");
    assert_eq!(listing(&node.data_dir()), before);
}

#[test]
fn a_body_with_a_flipped_byte_is_found_by_reading_all_of_them() {
    let root = tempfile::tempdir().unwrap();
    let node = killed_node(root.path());
    assert_eq!(Diagnosis::of(&node, &["--verify", "all"]).code, 0);
    let file = &body_files(&node)[1];
    let body = std::fs::File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0_u8];
    body.read_exact_at(&mut byte, 123_456).unwrap();
    body.write_all_at(&[byte[0] ^ 1], 123_456).unwrap();

    let diagnosis = Diagnosis::of(&node, &["--verify", "all"]);
    assert_eq!((diagnosis.code, diagnosis.with_status("fail")), (3, vec!["BODY_CORRUPT"]));
    let bad = &diagnosis.check("BODY_CORRUPT")["evidence"]["bodies"][0];
    assert_eq!(bad["path"].as_str(), file.to_str());
    assert_ne!(bad["expected"], bad["actual"]);
    let skipped = Diagnosis::of(&node, &["--verify", "none"]);
    assert_eq!((skipped.code, skipped.status("BODY_CORRUPT")), (0, "skip"));
}

#[test]
fn a_bodies_folder_without_its_marker_is_not_believed() {
    let root = tempfile::tempdir().unwrap();
    let node = killed_node(root.path());
    let bodies = node.data_dir().join("bodies");
    std::fs::rename(&bodies, root.path().join("elsewhere")).unwrap();
    std::fs::create_dir(&bodies).unwrap();
    let diagnosis = Diagnosis::of(&node, &[]);
    let check = diagnosis.check("BODY_MISSING");
    assert_eq!((diagnosis.code, &check["evidence"]["marker_present"]), (3, &false.into()));
    assert!(check["message"].as_str().unwrap().contains("not the one this index belongs to"));
}

#[test]
fn an_index_that_does_not_open_silences_only_what_needs_it() {
    let root = tempfile::tempdir().unwrap();
    let node = killed_node(root.path());
    std::fs::remove_file(node.data_dir().join("index/CURRENT")).unwrap();
    std::fs::create_dir_all(node.tmp_dir().join("uploads")).unwrap();
    std::fs::write(node.tmp_dir().join("uploads/left"), vec![1_u8; 70_000]).unwrap();
    let before = listing(&node.data_dir());
    let diagnosis = Diagnosis::of(&node, &[]);
    assert_eq!((diagnosis.code, diagnosis.with_status("fail")), (3, vec!["INDEX_UNREADABLE"]));
    assert_eq!(diagnosis.with_status("warn"), ["RUN_RECORD_STALE", "STAGING_ORPHANS"]);
    for code in ["BODY_MISSING", "BODY_CORRUPT", "BOOTSTRAP_INCOMPLETE"] {
        assert_eq!(diagnosis.check(code)["message"], "INDEX_UNREADABLE failed");
    }
    assert_eq!(listing(&node.data_dir()), before);
}

#[test]
fn a_body_file_that_no_manifest_names_is_counted_offline_and_beside_the_node() {
    let root = tempfile::tempdir().unwrap();
    let mut node = killed_node(root.path());
    assert_eq!(Diagnosis::of(&node, &[]).status("BODY_UNREFERENCED"), "ok");
    let files = body_files(&node);
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    // A start after a kill leaves a gap in the numbers, so that the first free one is below the newest body.
    node.start_ready();
    Artifact::new(4, 200_000).store(&node).unwrap();
    node.kill();
    let used: Vec<String> = files.iter().map(name).collect();
    let free = (0_u64..).map(|number| format!("{number:016x}")).find(|name| !used.contains(name)).unwrap();
    let stray = files[0].with_file_name(free);
    std::fs::copy(&files[0], &stray).unwrap();

    let diagnosis = Diagnosis::of(&node, &[]);
    assert_eq!((diagnosis.code, diagnosis.status("BODY_UNREFERENCED")), (0, "warn"), "{}", diagnosis.report);
    let evidence = &diagnosis.check("BODY_UNREFERENCED")["evidence"];
    assert_eq!((&evidence["files"], evidence["paths"][0].as_str()), (&1.into(), stray.to_str()));
    node.start_ready();
    assert_eq!(Diagnosis::of(&node, &[]).status("BODY_UNREFERENCED"), "warn", "a start sweeps only what arrived last");
    std::fs::remove_file(&stray).unwrap();
    assert_eq!(Diagnosis::of(&node, &[]).status("BODY_UNREFERENCED"), "ok");
}
