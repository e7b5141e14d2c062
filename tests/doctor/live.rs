//! Beside a running node.

use std::time::Duration;

use crate::doctor::{Diagnosis, listing_beside_a_node};
use crate::support::node::Node;
use crate::support::traffic::Artifact;

/// What is not looked at without peers.
const ABOUT_PEERS: [&str; 10] = [
    "PEERS_NONE",
    "PEERS_ONLY_SELF",
    "PEER_DNS",
    "PEER_UNREACHABLE",
    "PEER_ONE_WAY",
    "PEER_VERSION",
    "PEER_DIVERGED",
    "NODE_ID_DUPLICATE",
    "CLOCK_SKEW",
    "REPLICATION_STUCK",
];

#[test]
fn a_healthy_node_is_quiet_and_is_left_as_it_was() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new("healthy", root.path());
    node.start_ready();
    for (seed, length) in [(1, 100), (2, 40_000), (3, 3 << 20)] {
        Artifact::new(seed, length).store(&node).unwrap();
    }
    let before = listing_beside_a_node(&node.data_dir());
    let diagnosis = Diagnosis::of(&node, &["--verify", "all"]);
    assert_eq!(diagnosis.code, 0, "{}", diagnosis.report);
    assert_eq!(diagnosis.report["vantage"], "live");
    assert_eq!(diagnosis.with_status("skip"), ABOUT_PEERS, "no peers are configured");
    assert_eq!(diagnosis.with_status("error"), Vec::<&str>::new());
    assert_eq!(diagnosis.check("DATA_DIR_LOCKED")["severity"], "info");
    assert_eq!(diagnosis.check("DATA_DIR_LOCKED")["evidence"]["pid"], node.pid());
    assert_eq!(diagnosis.check("BODY_CORRUPT")["evidence"]["hashed"], 3);
    assert_eq!(diagnosis.status("NOT_READY"), "ok");
    assert_eq!(listing_beside_a_node(&node.data_dir()), before);
}

#[test]
fn bodies_that_are_replaced_while_the_doctor_looks_are_not_called_missing() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new("busy", root.path());
    node.start_ready();
    let client = node.client();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut diagnoses = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0_u8;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                round = round.wrapping_add(1);
                for key in 0..8 {
                    let path = format!("/ccache/{key:02x}/{:031x}", key);
                    let _ = client.put(&path, &vec![round; 100_000]);
                }
            }
        });
        // Nothing is asserted while the writer runs: the scope would wait for it for ever.
        diagnoses.extend((0..5).map(|_| Diagnosis::of(&node, &["--verify", "all"])));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    for diagnosis in diagnoses {
        assert_eq!(diagnosis.code, 0, "{}", diagnosis.report);
    }
}

#[test]
fn a_node_that_waits_for_its_peers_is_not_ready_and_the_peer_is_named() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new("waiting", root.path());
    // Nobody listens there: the port was free a moment ago.
    let silent = format!("http://127.0.0.1:{}", crate::support::ports::free_port());
    node.set("PEERS", &silent);
    node.start();
    let answers = || Some(Diagnosis::of(&node, &[])).filter(|diagnosis| diagnosis.report["vantage"] == "live");
    let diagnosis =
        crate::support::wait::eventually("an answer on the control socket", Duration::from_secs(20), || {
            answers().ok_or("not live")
        });
    assert_eq!(diagnosis.code, 3, "{}", diagnosis.report);
    assert_eq!(diagnosis.status("NOT_READY"), "fail");
    assert!(!diagnosis.check("NOT_READY")["evidence"]["reasons"].as_array().unwrap().is_empty());
    let peers = diagnosis.check("PEER_UNREACHABLE");
    assert_eq!(peers["status"], "fail", "the only one is silent");
    let line = peers["evidence"]["unreachable"][0].as_str().unwrap();
    assert!(line.starts_with(&format!("{silent}: connect failed after ")), "{line}");
}

#[test]
fn a_node_that_was_killed_leaves_a_dead_socket_and_is_looked_at_offline() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new("killed", root.path());
    node.start_ready();
    Artifact::new(1, 50_000).store(&node).unwrap();
    node.kill();
    assert!(node.data_dir().join("control.sock").exists());
    let before = crate::doctor::listing(&node.data_dir());
    let diagnosis = Diagnosis::of(&node, &["--verify", "all"]);
    assert_eq!((diagnosis.code, diagnosis.report["vantage"].as_str()), (0, Some("offline")), "{}", diagnosis.report);
    let asks_a_node = ["INDEX_WRITE_STOPPED", "NO_PROGRESS", "BREAKER_OPEN", "NOT_READY", "READY_BUT_EMPTY"];
    assert_eq!(
        diagnosis.with_status("skip"),
        [&["DELETED_BUT_OPEN", "UPLOAD_SLOTS"], &ABOUT_PEERS[..], &asks_a_node].concat()
    );
    assert_eq!(diagnosis.status("RUN_RECORD_STALE"), "warn");
    assert_eq!(crate::doctor::listing(&node.data_dir()), before);
    assert_eq!(Diagnosis::of(&node, &["--online", "--only", "node"]).code, 4, "insisting makes it an error");
}
