//! Volumes that fill while a node serves: by its own artifacts, by somebody else's bytes, by inodes, by a second node.
//! It makes room by itself, takes its deletes at 0 bytes free, and refuses nothing for long.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::bodies::SeededBody;
use crate::support::http::Body;
use crate::support::inspect::metric;
use crate::support::node::Node;
use crate::support::wait::eventually;
use crate::volume::{Kind, Volume, fill_with};

/// How long a node may answer 507 before that counts as lasting: an eviction takes a fraction of it.
const REFUSED_MAX: Duration = Duration::from_secs(10);

/// What takes this node a moment; past it a test fails rather than hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who writes at the same time.
const CLIENTS: usize = 8;

const MIB: u64 = 1 << 20;

fn path(key: &str) -> String {
    format!("/api/metro/cache/{key}")
}

fn put(node: &Node, key: &str, length: u64) -> u16 {
    let body = SeededBody::new(length, length).into_vec();
    node.client().put(&path(key), &body).expect("a PUT").status
}

fn status_of(node: &Node, key: &str) -> u16 {
    node.client().get(&path(key)).expect("a GET").status
}

fn clean(node: &Node) -> u16 {
    let clean = "/api/cache/clean?tenant_id=t&namespace_id=metro";
    node.client().send("DELETE", clean, &[], Body::Empty).expect("a DELETE").status
}

/// A ready node whose data dir is a volume of its own.
fn on_volume(kind: Kind, more: &[&str]) -> (tempfile::TempDir, Volume, Node) {
    let folder = tempfile::tempdir().expect("making a folder");
    let mut node = Node::new("n", folder.path());
    std::fs::create_dir(node.data_dir()).expect("making the mount point");
    let volume = Volume::mount_with(kind, &node.data_dir(), more);
    node.start_ready();
    (folder, volume, node)
}

/// Puts until it is taken; how often it was refused.
fn put_patiently(node: &Node, key: &str, length: u64) -> u32 {
    let started = Instant::now();
    let mut refused = 0;
    loop {
        match put(node, key, length) {
            200 => return refused,
            507 | 503 if started.elapsed() < REFUSED_MAX => refused += 1,
            other => panic!("PUT {key}: {other} after {refused} refusals in {:?}", started.elapsed()),
        }
    }
}

/// Writes this many bytes in bodies of these lengths, in turn, by a few clients; how many bodies there were, and how often
/// one was refused.
fn write(node: &Node, name: &str, bytes: u64, lengths: &[u64]) -> (u64, u32) {
    let mut left = bytes;
    let wanted: Vec<u64> = lengths.iter().copied().cycle().take_while(|length| take(&mut left, *length)).collect();
    let next = AtomicUsize::new(0);
    let client = || {
        let mut refused = 0;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(length) = wanted.get(number) else { return refused };
            refused += put_patiently(node, &format!("{name}-{number}"), *length);
        }
    };
    let refused = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().map(|client| client.join().expect("a client")).sum()
    });
    (wanted.len() as u64, refused)
}

fn take(left: &mut u64, length: u64) -> bool {
    let is_more = *left > 0;
    *left = left.saturating_sub(length);
    is_more
}

fn ballast_bytes(node: &Node) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(node.data_dir().join("ballast")).map_or(0, |found| found.blocks() * 512)
}

/// More in bodies than the volume can keep: old ones go, new ones stay, and what must be free is.
fn turns_over(kind: Kind, bytes: u64, lengths: &[u64]) {
    let (_folder, volume, node) = on_volume(kind, &[]);
    eventually("the ballast", PATIENCE, || match ballast_bytes(&node) {
        0 => Err("there is none".to_owned()),
        _ => Ok(()),
    });
    let started = Instant::now();
    let (count, refused) = write(&node, "k", bytes, lengths);
    println!(
        "{kind:?} {lengths:?}: {count} artifacts in {:?}, {refused} refusals, {} KiB free, {} MiB kept",
        started.elapsed(),
        volume.free_bytes() >> 10,
        metric(&node, "kura_store_charged_bytes", &[]) as u64 / MIB,
    );
    assert_eq!(status_of(&node, "k-0"), 404, "the oldest is evicted");
    for number in count - 10..count {
        assert_eq!(status_of(&node, &format!("k-{number}")), 200, "the newest stay");
    }
    let kept = metric(&node, "kura_store_charged_bytes", &[]) as u64;
    assert!(kept > 16 * MIB, "only {} KiB are kept", kept >> 10);
    eventually("room and ballast again", PATIENCE, || {
        let (free, ballast) = (volume.free_bytes(), ballast_bytes(&node));
        if free >= 5 * MIB && ballast >= 3 * MIB { Ok(()) } else { Err(format!("{free} free, {ballast} of ballast")) }
    });
}

#[test]
fn bodies_in_files_turn_over_on_a_full_ext4() {
    turns_over(Kind::Ext4, 70 * MIB, &[200_000, 50_000, 700_000]);
}

#[test]
fn bodies_in_files_turn_over_on_a_full_xfs() {
    turns_over(Kind::Xfs, 70 * MIB, &[200_000, 50_000, 700_000]);
}

/// Small artifacts lie inside the index, where making room first needs some.
#[test]
fn bodies_in_the_index_turn_over_on_a_full_ext4() {
    turns_over(Kind::Ext4, 50 * MIB, &[16 << 10, 30_000]);
}

#[test]
fn bodies_in_the_index_turn_over_on_a_full_xfs() {
    turns_over(Kind::Xfs, 50 * MIB, &[16 << 10, 30_000]);
}

/// A neighbour fills the volume to the last byte beside a node that serves, and later goes.
fn gives_way_and_comes_back(kind: Kind) {
    let (_folder, volume, node) = on_volume(kind, &[]);
    write(&node, "k", 30 * MIB, &[16 << 10, 300_000]);
    let foreign = node.data_dir().join("foreign");
    let capacity = || metric(&node, "kura_store_capacity_bytes", &[]);
    let before = capacity();
    fill_with(&foreign);
    let deleted = Instant::now();
    assert_eq!(clean(&node), 204, "a delete on a volume filled to the last byte");
    println!("{kind:?}: deleted in {:?}", deleted.elapsed());
    assert_eq!(status_of(&node, "k-1"), 404);
    let refused = put_patiently(&node, "after", 100_000);
    println!("{kind:?}: {refused} refusals; took a body {:?} after the volume was full", deleted.elapsed());
    // Again, by eviction alone.
    write(&node, "l", 12 * MIB, &[300_000]);
    fill_with(&foreign);
    put_patiently(&node, "again", 100_000);
    assert_eq!(status_of(&node, "again"), 200);
    let shrunk = capacity();
    assert!(shrunk < before - 10.0 * MIB as f64, "{shrunk} of {before}");
    std::fs::remove_file(&foreign).expect("the neighbour goes");
    eventually("the budget to come back", PATIENCE, || {
        let (now, ballast) = (capacity(), ballast_bytes(&node));
        let is_back = now > before - 4.0 * MIB as f64 && ballast >= 3 * MIB;
        if is_back { Ok(()) } else { Err(format!("{now} of {before}, ballast {ballast}, {}", volume.free_bytes())) }
    });
    assert_eq!(put(&node, "last", 1 << 20), 200);
}

#[test]
fn beside_a_neighbour_that_fills_an_ext4_deletes_go_on_and_room_is_made() {
    gives_way_and_comes_back(Kind::Ext4);
}

#[test]
fn beside_a_neighbour_that_fills_an_xfs_deletes_go_on_and_room_is_made() {
    gives_way_and_comes_back(Kind::Xfs);
}

/// Killed with an unflushed log, then filled to the last byte by bytes that no reclaim may touch.
fn starts_by_itself(kind: Kind) {
    let (_folder, volume, mut node) = on_volume(kind, &[]);
    write(&node, "k", 20 * MIB, &[16 << 10, 300_000]);
    assert!(ballast_bytes(&node) >= 3 * MIB);
    node.kill();
    fill_with(&node.data_dir().join("foreign"));
    let started = Instant::now();
    node.start_ready();
    println!("{kind:?}: ready after {:?}, {} KiB free", started.elapsed(), volume.free_bytes() >> 10);
    let ready = node.client().get("/ready").expect("/ready").json().expect("JSON");
    let steps: Vec<_> = ready["startup"].as_array().expect("steps").iter().collect();
    assert!(steps.iter().all(|step| step["state"] != "failed"), "{ready}");
    put_patiently(&node, "after", 100_000);
    assert_eq!(status_of(&node, "after"), 200);
}

#[test]
fn a_node_whose_index_cannot_open_on_a_full_ext4_starts_by_itself() {
    starts_by_itself(Kind::Ext4);
}

#[test]
fn a_node_whose_index_cannot_open_on_a_full_xfs_starts_by_itself() {
    starts_by_itself(Kind::Xfs);
}

/// 400 inodes: bodies in files use them up long before the bytes.
#[test]
fn a_volume_out_of_inodes_evicts_for_inodes() {
    let (_folder, _volume, node) = on_volume(Kind::Ext4, &["-N", "400"]);
    let (count, refused) = write(&node, "k", 60 * MIB, &[60_000]);
    println!("{count} files of 60 KB with 400 inodes, {refused} refusals");
    assert_eq!(status_of(&node, &format!("k-{}", count - 1)), 200);

    let folder = node.data_dir().join("foreign");
    std::fs::create_dir(&folder).expect("a folder");
    let taken = (0..400).take_while(|n| std::fs::write(folder.join(n.to_string()), "").is_ok()).count();
    let refused = put_patiently(&node, "after", 60_000);
    println!("a neighbour took {taken} inodes; {refused} refusals");
    assert_eq!(clean(&node), 204);
    assert_eq!(put(&node, "last", 60_000), 200);
}

#[test]
fn two_nodes_on_one_volume_both_serve_and_neither_is_emptied() {
    let folder = tempfile::tempdir().expect("making a folder");
    let _volume = Volume::mount(Kind::Ext4, folder.path());
    let mut nodes = ["a", "b"].map(|name| Node::new(name, folder.path()));
    nodes.iter_mut().for_each(Node::start_ready);
    for node in &nodes {
        write(node, "k", 12 * MIB, &[200_000]);
    }
    std::thread::scope(|scope| {
        for node in &nodes {
            scope.spawn(move || write(node, "l", 40 * MIB, &[200_000, 20_000]));
        }
    });
    for node in &nodes {
        let kept = metric(node, "kura_store_charged_bytes", &[]) as u64;
        println!("{} keeps {} KiB, ballast {} KiB", node.name, kept >> 10, ballast_bytes(node) >> 10);
        assert!(kept > 4 * MIB, "{} keeps {kept}", node.name);
        put_patiently(node, "after", 500_000);
        assert_eq!(status_of(node, "after"), 200);
    }
}

/// The operator's way: what nothing else frees, the ballast does, at 0 bytes free and without a start.
fn is_released_by_command(kind: Kind) {
    let (_folder, _volume, mut node) = on_volume(kind, &[]);
    write(&node, "k", 3 * MIB, &[300_000]);
    node.kill();
    let ballast = ballast_bytes(&node);
    assert!(ballast >= 3 * MIB);
    fill_with(&node.data_dir().join("foreign"));
    let report = |arguments: &[&str]| {
        let output = node.run(arguments);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), report, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let asked = report(&["reclaim-staging", "--release-ballast", "--output", "json"]);
    assert_eq!((asked.0, ballast_bytes(&node)), (Some(6), ballast), "{asked:?}");
    let looked = report(&["reclaim-staging", "--release-ballast", "--dry-run", "--output", "json"]);
    assert_eq!((looked.0, ballast_bytes(&node)), (Some(0), ballast), "{looked:?}");
    let (code, freed, stderr) = report(&["reclaim-staging", "--release-ballast", "--yes", "--output", "json"]);
    assert_eq!((code, &freed["ballast_released"], ballast_bytes(&node)), (Some(0), &true.into(), 0), "{stderr}");
    assert!(freed["free_bytes_after"].as_u64() >= Some(3 * MIB), "{freed}");
    let (code, again, stderr) = report(&["reclaim-staging", "--release-ballast", "--yes", "--output", "json"]);
    assert_eq!((code, &again["ballast_released"]), (Some(0), &false.into()), "{stderr}");
    // The room of the ballast is the index's: the node starts and deletes. Bodies come again with room of their own.
    node.start_ready();
    assert_eq!(clean(&node), 204);
    std::fs::remove_file(node.data_dir().join("foreign")).expect("making room");
    put_patiently(&node, "after", 100_000);
    assert_eq!(status_of(&node, "after"), 200);
}

#[test]
fn the_ballast_of_a_full_ext4_is_released_by_command() {
    is_released_by_command(Kind::Ext4);
}

#[test]
fn the_ballast_of_a_full_xfs_is_released_by_command() {
    is_released_by_command(Kind::Xfs);
}

/// What a foreign file leaves is named with the command that helps, and a healthy volume is not.
#[test]
fn the_doctor_names_a_full_volume_and_the_way_out() {
    let (_folder, _volume, mut node) = on_volume(Kind::Ext4, &[]);
    write(&node, "k", 3 * MIB, &[300_000]);
    let diagnose = |node: &Node, arguments: &[&str]| -> serde_json::Value {
        let output = node.run(&[&["doctor", "--output", "json", "--only", "volume"], arguments].concat());
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let status = |report: &serde_json::Value, code: &str| -> serde_json::Value {
        let checks = report["checks"].as_array().expect("checks");
        checks.iter().find(|check| check["code"] == code).cloned().unwrap_or_default()
    };
    for code in ["DISK_FULL", "DISK_NEARFULL", "BALLAST_MISSING", "BUDGET_OVERCOMMIT"] {
        assert_eq!(status(&diagnose(&node, &[]), code)["status"], "ok", "{code} on a healthy volume");
    }
    node.kill();
    fill_with(&node.data_dir().join("foreign"));
    let full = diagnose(&node, &["--offline"]);
    let check = status(&full, "DISK_FULL");
    assert_eq!(check["status"], "fail", "{full}");
    let command = check["remedy"]["commands"][0].as_str().unwrap_or_default().to_owned();
    assert!(command.contains("reclaim-staging") && command.contains("--release-ballast"), "{check}");
    assert_eq!(node.run(&["reclaim-staging", "--release-ballast", "--yes"]).status.code(), Some(0));
    assert_eq!(status(&diagnose(&node, &["--offline"]), "BALLAST_MISSING")["status"], "warn");
}
