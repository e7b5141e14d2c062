//! Starting: what is touched, what is refused, what the probes say.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use kura::core::server::node::Seams;
use kura::core::server::serve_error::ServeError;
use kura::core::server::startup;
use kura::core::server::startup_status::StepState;
use serde_json::Value;

use crate::harness::{PATIENCE, TestNode, settings};

/// What must hold of a value.
type Holds = fn(&Value) -> bool;

/// Every name below a folder with its size and times.
fn listing(root: &Path) -> BTreeMap<String, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                folders.push(entry.path());
            }
            found.insert(entry.path().display().to_string(), (metadata.len(), metadata.modified().unwrap()));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_node_is_refused_and_touches_nothing() {
    let node = TestNode::start().await;
    assert_eq!(node.put("/api/metro/cache/a", b"x").await, 200);
    let before = listing(node.root());
    let refused = startup::start(settings(node.root()), Seams::system()).await.unwrap_err();
    assert!(matches!(refused, ServeError::Locked { .. }), "{refused:?}");
    assert!(refused.to_string().contains("failed to acquire writer lock"));
    assert_eq!(listing(node.root()), before);
    assert_eq!(node.get("/api/metro/cache/a").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_names_its_holder() {
    let root = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = settings(root.path());
    config.port = taken.local_addr().unwrap().port();
    let refused = startup::start(config, Seams::system()).await.unwrap_err();
    assert!(refused.to_string().contains(&format!("pid {}", std::process::id())), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_peoples_directories_are_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("thesis.tex"), b"precious").unwrap();
    let before = listing(root.path());
    let refused = startup::start(settings(root.path()), Seams::system()).await.unwrap_err();
    assert!(matches!(refused, ServeError::NotADataDir { .. }), "{refused:?}");
    std::fs::create_dir(data.join("rocksdb")).unwrap();
    let refused = startup::start(settings(root.path()), Seams::system()).await.unwrap_err();
    assert!(matches!(refused, ServeError::Incompatible { .. }), "{refused:?}");
    std::fs::remove_dir(data.join("rocksdb")).unwrap();
    assert_eq!(listing(root.path()).keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_steps_of_start_up_are_named_in_their_order() {
    let node = TestNode::start().await;
    let expected = [
        "lock",
        "bind_listeners",
        "make_directories",
        "adopt_partials",
        "reclaim_staging",
        "release_ballast",
        "open_store",
        "evict_below_watermark",
        "restore_ballast",
        "discover_peers",
        "catch_up",
    ];
    let all_done = async {
        loop {
            let steps = node.running().node.startup.steps();
            if steps.len() == expected.len() && steps.iter().all(|step| step.state == StepState::Done) {
                return steps;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let steps = tokio::time::timeout(PATIENCE, all_done).await.expect("every step ends");
    let names: Vec<_> = steps.iter().map(|step| step.name).collect();
    assert_eq!(names, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_data_dir_is_made_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let node = TestNode::start().await;
    let mode = std::fs::metadata(node.data_dir()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probes_carry_every_key_of_the_contract() {
    let node = TestNode::start().await;
    let probe = async |path: &str| -> Value { serde_json::from_slice(&node.get(path).await.body).unwrap() };
    let (up, ready, rollout) = (probe("/up").await, probe("/ready").await, probe("/status/rollout").await);
    let require = |document: &Value, keys: &[(&str, Holds)]| {
        for (key, holds) in keys {
            assert!(document.get(key).is_some_and(holds), "{key} of {document}");
        }
    };
    let text: Holds = Value::is_string;
    let number: Holds = Value::is_u64;
    let list: Holds = Value::is_array;
    let flag: Holds = Value::is_boolean;
    require(
        &up,
        &[
            ("status", text),
            ("generation", number),
            ("tenant_id", text),
            ("region", text),
            ("node", text),
            ("node_url", text),
            ("connected_nodes", list),
            ("ring_members", number),
            ("members", list),
            ("nodes", list),
            ("regions", list),
        ],
    );
    require(
        &ready,
        &[
            ("status", text),
            ("generation", number),
            ("state", text),
            ("ready", flag),
            ("draining", flag),
            ("writer_lock_owned", flag),
            ("initial_discovery_completed", flag),
            ("known_peers", list),
            ("bootstrapped_peers", list),
            ("bootstrap_inflight_peers", list),
            ("http_inflight_requests", number),
            ("grpc_inflight_requests", number),
            ("reasons", list),
            ("gates", list),
            ("readiness", text),
        ],
    );
    require(
        &rollout,
        &[
            ("generation", number),
            ("ready", flag),
            ("state", text),
            ("ring_members", number),
            ("initial_discovery_completed", flag),
            ("writer_lock_owned", flag),
            ("bootstrap_known_peers", number),
            ("bootstrap_completed_peers", number),
            ("bootstrap_inflight_peers", number),
            ("http_inflight_requests", number),
            ("grpc_inflight_requests", number),
            ("outbox_messages", number),
            ("memory_pressure_state", number),
            ("fd_timeout_count", number),
            ("progress", Value::is_object),
            ("reasons", list),
        ],
    );
    assert_eq!((&ready["state"], &ready["readiness"]), (&"serving".into(), &"complete".into()));
    assert_eq!(node.metric("kura_ready_state").await, 1);
    let metrics = node.get("/metrics").await;
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4"));
}
