//! What has to hold after each kill.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kura::core::base::clock::SystemClock;
use kura::core::base::disk::RealDisk;
use kura::core::base::executor::InlineExecutor;
use kura::core::base::ids::InstanceId;
use kura::core::base::rng::SystemRng;
use kura::core::config::Durability;
use kura::core::data_dir::layout::Layout;
use kura::core::store::recount::recount;
use kura::core::store::{Store, StoreOptions};

use super::ledger::{Ledger, path};
use crate::support::http::Client;
use crate::support::mesh::Mesh;
use crate::support::node::Node;

/// How long a node that was started may be without an answer to a read.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// Opens what a dead node left, changing nothing, and counts it: the figures it kept and all its rows must agree.
pub fn assert_accounts_agree(node: &Node) {
    let options = StoreOptions {
        layout: Layout::with_default_tmp(node.data_dir()),
        tenant_id: "default".to_owned(),
        instance_id: InstanceId::default(),
        durability: Durability::Power,
        inline_max_bytes: 0,
        read_cache_bytes: 1 << 20,
        open_files_max: 64,
        clock: Arc::new(SystemClock::default()),
        rng: Arc::new(SystemRng),
        disk: Arc::new(RealDisk),
        executor: Arc::new(InlineExecutor),
    };
    let store = Store::open_read_only(options).expect("opening what the dead node left");
    let count = recount(&store).expect("counting it");
    assert_eq!(count.mismatches, Vec::<String>::new(), "{}: {count:?}", node.name);
}

/// Asks each key's last word of the node that said it; the complaints.
pub fn complaints_at_once(writer: usize, nodes: &[Client], ledger: &Ledger) -> Vec<String> {
    let asked = ledger.keys.iter().filter_map(|(key, known)| {
        let found = read(nodes[known.said_by], &path(writer, *key));
        let is_right = known.allows(found.as_deref());
        (!is_right).then(|| complaint(writer, *key, known.said_by, ledger, found))
    });
    asked.collect()
}

/// Asks every key of every node; the complaints.
pub fn complaints_in_the_end(writer: usize, nodes: &[Client], ledger: &Ledger) -> Vec<String> {
    let mut complaints = Vec::new();
    for (node, client) in nodes.iter().enumerate() {
        for (key, known) in &ledger.keys {
            let found = read(*client, &path(writer, *key));
            if !known.allows(found.as_deref()) {
                complaints.push(complaint(writer, *key, node, ledger, found));
            }
        }
    }
    complaints
}

fn complaint(writer: usize, key: u64, node: usize, ledger: &Ledger, found: Option<Vec<u8>>) -> String {
    let found = found.map(|bytes| bytes.len());
    format!(
        "writer {writer}, key {key} on node {node}: {:?} was said, a body of {found:?} bytes is there",
        ledger.keys[&key]
    )
}

/// The first answer counts; until there is one the node may still be starting.
fn read(node: Client, path: &str) -> Option<Vec<u8>> {
    let started = Instant::now();
    loop {
        let answer = node.get(path).and_then(|reply| Ok((reply.status, reply.bytes()?)));
        match answer {
            Ok((200, bytes)) => return Some(bytes),
            Ok((404, _)) => return None,
            Ok((503, _)) if started.elapsed() < ANSWERS_WITHIN => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && started.elapsed() < ANSWERS_WITHIN => {}
            other => panic!("GET {path}: {:?} after {:?}", other.map(|(status, _)| status), started.elapsed()),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Reclaims a node's staging twice beside its server: nothing may be there without an owner.
pub fn assert_nothing_to_reclaim(node: &Node) {
    for _ in 0..2 {
        let output = node.run(&["reclaim-staging", "--yes", "--output", "json"]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let said = (output.status.code(), report["removed_files"].as_u64());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said, (Some(0), Some(0)), "{}: {report} {stderr}", node.name);
    }
}

/// Everything that can be checked beside the running nodes, bodies included.
pub fn assert_doctor_finds_nothing(mesh: &Mesh) {
    for node in &mesh.nodes {
        let output = node.run(&["doctor", "--verify", "all", "--fail-on", "fail"]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{}: {said}", node.name);
    }
}
