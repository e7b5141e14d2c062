//! A node that joins a mesh of the seed era: it fills before it is ready, and tells its peers what was deleted.

use std::time::Duration;

use super::peer::{SeedPeer, gradle};

/// Asks until the answer is as wanted; the deadline is far beyond what it takes.
async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let asked = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), asked).await.unwrap_or_else(|_| panic!("{what} did not come about"));
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_fills_from_a_seed_era_peer_follows_its_writes_and_pushes_deletes() {
    let peer = SeedPeer::start().await;
    let data_dir = tempfile::tempdir().unwrap();
    peer.fill(40, 2000);
    let (port, internal) = (free_port(), free_port());
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_kura"));
    command.env_clear().arg("serve").args(["--port", &port.to_string(), "--internal-port", &internal.to_string()]);
    command.args(["--node-url", &format!("http://127.0.0.1:{internal}"), "--peer", &peer.url]);
    command.arg("--data-dir").arg(data_dir.path()).kill_on_drop(true);
    let _node = command.stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null()).spawn().unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let base = format!("http://127.0.0.1:{port}");
    let status = async |path: &str| {
        client.get(format!("{base}{path}")).send().await.map_or(0, |answer| answer.status().as_u16())
    };
    let read = async |key: &str| status(&format!("/gradle/android/{key}")).await == 200;

    eventually("readiness", async || status("/ready").await == 200).await;
    assert!(read("key-0").await && read("key-39").await, "ready means filled");
    peer.add(gradle("later", b"written on the old node".to_vec()));
    eventually("the later write", async || read("later").await).await;

    let clean = client.delete(format!("{base}/api/cache/clean?tenant_id=default&namespace_id=android"));
    assert_eq!(clean.send().await.unwrap().status().as_u16(), 204);
    assert!(!read("key-0").await);
    eventually("the pushed delete", async || peer.with(|inner| inner.deletes == ["android"])).await;
    assert!(!read("key-0").await, "what was deleted does not come back from the peer that still lists it");
}
