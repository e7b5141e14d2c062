//! A node on a volume that leaked staging filled to the last byte: the operator's way out, and the node's own.

use std::process::Output;
use std::time::{Duration, Instant};

use kura::core::base::disk::RealDisk;
use kura::core::base::ids::{ArtifactId, Digest, Version};
use kura::core::staging::partials::{PartialIdentity, restore_header};

use crate::support::bodies::SeededBody;
use crate::support::node::Node;
use crate::support::wait::eventually;
use crate::volume::{Kind, Volume, fill, hashes};

/// How long a node may take from its start on a full volume until it is ready.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A node whose data dir is a volume of its own, with some artifacts, killed, its volume then filled.
struct FullNode {
    node: Node,
    volume: Volume,
    _folder: tempfile::TempDir,
}

/// Sizes of the artifacts: inside the index, and files of their own.
const ARTIFACT_BYTES: [u64; 6] = [1, 500, 20_000, 100_000, 400_000, 1_000_000];

impl FullNode {
    fn new(kind: Kind) -> Self {
        let folder = tempfile::tempdir().expect("making a folder");
        let mut node = Node::new("n", folder.path());
        std::fs::create_dir(node.data_dir()).expect("making the mount point");
        let volume = Volume::mount(kind, &node.data_dir());
        node.start_ready();
        for (number, length) in ARTIFACT_BYTES.into_iter().enumerate() {
            put(&node, &format!("before-{number}"), length);
        }
        node.kill();
        let files = fill(&node.tmp_dir());
        println!("{kind:?}: full after {files} files, {} KiB free", volume.free_bytes() >> 10);
        Self { node, volume, _folder: folder }
    }

    /// Ready in time, all artifacts there, and room for a new one.
    fn assert_recovered(&mut self) {
        let start = Instant::now();
        self.node.start();
        self.node.wait_ready(READY_WITHIN);
        println!("ready after {:?}, {} KiB free", start.elapsed(), self.volume.free_bytes() >> 10);
        for (number, length) in ARTIFACT_BYTES.into_iter().enumerate() {
            assert_held(&self.node, &format!("before-{number}"), length);
        }
        put(&self.node, "after", 1 << 20);
        assert_held(&self.node, "after", 1 << 20);
    }
}

fn path(key: &str) -> String {
    format!("/api/metro/cache/{key}")
}

fn put(node: &Node, key: &str, length: u64) {
    let reply = node.client().put(&path(key), &SeededBody::new(length, length).into_vec()).expect("a PUT");
    assert_eq!(reply.status, 200, "PUT {key}");
}

fn assert_held(node: &Node, key: &str, length: u64) {
    let reply = node.client().get(&path(key)).expect("a GET");
    assert_eq!(reply.status, 200, "GET {key}");
    assert!(reply.bytes().expect("a body") == SeededBody::new(length, length).into_vec(), "{key} has other bytes");
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn is_freed_by_command(kind: Kind) {
    let mut full = FullNode::new(kind);
    let before = hashes(&full.node.data_dir().join("bodies"));
    assert!(!before.is_empty());

    let found = full.node.run(&["doctor", "--offline", "--output", "json"]);
    assert_eq!(found.status.code(), Some(3), "{}", text(&found));
    let report: serde_json::Value = serde_json::from_slice(&found.stdout).expect("JSON");
    let checks = report["checks"].as_array().expect("checks");
    let failed: Vec<_> = checks.iter().filter(|check| check["status"] == "fail").collect();
    let [failed] = failed.as_slice() else { panic!("{report}") };
    assert_eq!(failed["code"], "DISK_FULL");
    let command = failed["remedy"]["commands"][0].as_str().expect("a command");
    assert!(command.starts_with("kura reclaim-staging ") && command.contains("--yes"), "{command}");
    assert_eq!(hashes(&full.node.data_dir().join("bodies")), before);

    let asked = full.node.run(&["reclaim-staging"]);
    assert_eq!(asked.status.code(), Some(6), "{}", text(&asked));
    let freed = full.node.run(&["reclaim-staging", "--yes", "--output", "json"]);
    assert_eq!(freed.status.code(), Some(0), "{}", text(&freed));
    let report: serde_json::Value = serde_json::from_slice(&freed.stdout).expect("JSON");
    assert_eq!(report["schema"], "kura.reclaim/v1");
    assert_eq!(report["failed"], serde_json::json!([]));
    assert!(report["removed_bytes"].as_u64() > Some(20 << 20), "{report}");
    assert!(report["free_bytes_after"].as_u64() > Some(20 << 20), "{report}");
    assert_eq!(hashes(&full.node.data_dir().join("bodies")), before);

    let again = full.node.run(&["reclaim-staging", "--yes", "--output", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&again.stdout).expect("JSON");
    assert_eq!((again.status.code(), report["removed_files"].as_u64()), (Some(0), Some(0)));
    full.assert_recovered();
}

fn recovers_by_itself(kind: Kind) {
    let mut full = FullNode::new(kind);
    full.assert_recovered();
}

#[test]
fn a_full_ext4_is_freed_by_reclaim_staging_and_serves_again() {
    is_freed_by_command(Kind::Ext4);
}

#[test]
fn a_full_xfs_is_freed_by_reclaim_staging_and_serves_again() {
    is_freed_by_command(Kind::Xfs);
}

#[test]
fn a_node_on_a_full_ext4_recovers_by_itself() {
    recovers_by_itself(Kind::Ext4);
}

#[test]
fn a_node_on_a_full_xfs_recovers_by_itself() {
    recovers_by_itself(Kind::Xfs);
}

/// A partial body that fills the volume, as a joiner leaves it that was killed, is kept only where there is room.
fn gives_up_a_partial(kind: Kind, left_bytes: u64) {
    let mut full = FullNode::new(kind);
    let freed = full.node.run(&["reclaim-staging", "--yes", "--output", "json"]);
    assert_eq!(freed.status.code(), Some(0), "{}", text(&freed));
    let length = full.volume.free_bytes().saturating_sub(left_bytes) & !4095;
    let path = full.node.tmp_dir().join("bootstrap/partial-1");
    let file = std::fs::File::create_new(&path).expect("making a partial");
    let written = std::io::copy(&mut SeededBody::new(7, length), &mut &file).expect("filling the volume");
    let version = Version { version_ms: 1, logical: 0, digest: Digest([2; 32]) };
    let identity = PartialIdentity { id: ArtifactId([1; 32]), version, size: written, note: Vec::new() };
    restore_header(&RealDisk, &file, identity).expect("writing the header");
    drop(file);
    println!("{kind:?}: a partial of {} KiB leaves {} KiB", written >> 10, full.volume.free_bytes() >> 10);
    let kept = full.node.run(&["reclaim-staging", "--yes"]);
    assert!(kept.status.success() && path.exists(), "{}", text(&kept));
    full.node.start();
    full.node.wait_ready(READY_WITHIN);
    eventually("room for a put", READY_WITHIN, || {
        let reply =
            full.node.client().put(&self::path("room"), &vec![1; 1 << 20]).map_err(|error| error.to_string())?;
        if reply.status == 200 { Ok(()) } else { Err(reply.status.to_string()) }
    });
    assert!(!path.exists());
    full.node.kill();
    full.assert_recovered();
}

#[test]
fn a_partial_that_leaves_no_room_for_the_index_is_given_up() {
    gives_up_a_partial(Kind::Ext4, 256 << 10);
    gives_up_a_partial(Kind::Xfs, 256 << 10);
}

#[test]
fn a_partial_that_leaves_no_room_for_puts_is_given_up() {
    gives_up_a_partial(Kind::Ext4, 3 << 20);
}
