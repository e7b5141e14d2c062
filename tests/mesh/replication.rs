//! What one node was given, the others have.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::http::Body;
use crate::support::inspect::metric;
use crate::support::mesh::Mesh;
use crate::support::node::{Node, READY_WITHIN};
use crate::support::traffic::Artifact;
use crate::support::wait::{alone, eventually};

/// How long replication may take on a busy machine; what it takes at best is a test of its own.
const WITHIN: Duration = Duration::from_secs(20);

/// One past each kind of route, small (inside the index) and large (a file).
fn one_of_each_kind() -> Vec<Artifact> {
    (0..18).map(|seed| Artifact::new(seed, if seed < 9 { 700 + seed } else { 300_000 + seed })).collect()
}

fn wait_for(artifact: &Artifact, node: &Node) {
    eventually(&format!("{} on {}", artifact.path, node.name), WITHIN, || artifact.check(node));
}

#[test]
fn what_is_written_through_one_node_is_read_on_all() {
    let mesh = Mesh::start(3);
    let artifacts = one_of_each_kind();
    for (index, artifact) in artifacts.iter().enumerate() {
        artifact.store(&mesh.nodes[index % 3]).expect("a write");
    }
    for artifact in &artifacts {
        mesh.nodes.iter().for_each(|node| wait_for(artifact, node));
    }
    assert_eq!(mesh.wait_equal(WITHIN), artifacts.len());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/holdings.pl");
    let listed = Command::new(script).arg(mesh.nodes[1].internal_url()).output().expect("running holdings.pl");
    assert_eq!(
        String::from_utf8_lossy(&listed.stdout).lines().count(),
        artifacts.len(),
        "as the demo lists them: {listed:?}"
    );
}

#[test]
fn a_key_value_entry_and_a_multipart_module_reach_the_siblings() {
    let mesh = Mesh::start(3);
    let [first, _, last] = &mesh.nodes[..] else { panic!("three nodes") };
    let entry = br#"{"cas_id":"abc","entries":[{"value":"one"},{"value":"two"}]}"#;
    assert_eq!(put_json(first, "/api/cache/keyvalue?tenant_id=acme", entry), 204);
    let module = "tenant_id=acme&namespace_id=ios&hash=0f0f&name=Core.xcframework.zip";
    let parts = [vec![1u8; 200_000], vec![2u8; 100_000]];
    upload_module(first, module, &parts);

    let read_entry = || {
        let reply = last.client().get("/api/cache/keyvalue/abc?tenant_id=acme").map_err(|error| error.to_string())?;
        if reply.status == 200 {
            reply.json().map_err(|error| error.to_string())
        } else {
            Err(reply.status.to_string())
        }
    };
    let value = eventually("the entry on a sibling", WITHIN, read_entry);
    assert_eq!(value, serde_json::json!({"entries": [{"value": "one"}, {"value": "two"}]}));
    let joined = eventually("the module on a sibling", WITHIN, || {
        let reply = last.client().get(&format!("/api/cache/module/0?{module}")).map_err(|error| error.to_string())?;
        if reply.status == 200 {
            reply.bytes().map_err(|error| error.to_string())
        } else {
            Err(reply.status.to_string())
        }
    });
    assert!(joined == parts.concat(), "the parts joined in order");
}

fn put_json(node: &Node, path: &str, json: &[u8]) -> u16 {
    let headers = [("content-type", "application/json")];
    node.client().send("PUT", path, &headers, Body::Bytes(json)).expect("an answer").status
}

fn upload_module(node: &Node, module: &str, parts: &[Vec<u8>]) {
    let post = |path: &str, body: &[u8]| {
        let headers = [("content-type", "application/json")];
        node.client().send("POST", path, &headers, Body::Bytes(body)).expect("an answer")
    };
    let started = post(&format!("/api/cache/module/start?{module}"), b"");
    assert_eq!(started.status, 200);
    let upload_id = started.json().expect("JSON")["upload_id"].as_str().expect("an upload id").to_owned();
    for (index, part) in parts.iter().enumerate() {
        let path = format!("/api/cache/module/part?upload_id={upload_id}&part_number={}", index + 1);
        assert_eq!(post(&path, part).status, 204);
    }
    let numbers: Vec<usize> = (1..=parts.len()).collect();
    let body = serde_json::json!({ "parts": numbers }).to_string();
    let complete = post(&format!("/api/cache/module/complete?tenant_id=acme&upload_id={upload_id}"), body.as_bytes());
    assert_eq!((complete.status, complete.text().expect("a body")), (204, String::new()));
}

#[test]
fn a_cleaned_namespace_is_gone_on_all_and_stays_gone_for_a_node_that_was_away() {
    let mut mesh = Mesh::start(3);
    let cleaned = Artifact::new(4, 50_000);
    let kept = Artifact::new(0, 50_000);
    for artifact in [&cleaned, &kept] {
        artifact.store(&mesh.nodes[0]).expect("a write");
        mesh.nodes.iter().for_each(|node| wait_for(artifact, node));
    }
    mesh.nodes[2].kill();
    let path = "/api/cache/clean?tenant_id=acme&namespace_id=ios";
    let answer = mesh.nodes[1].client().send("DELETE", path, &[], Body::Empty).expect("an answer");
    assert_eq!(answer.status, 204);
    mesh.nodes[2].start_ready();
    for node in &mesh.nodes {
        eventually(&format!("the delete on {}", node.name), WITHIN, || {
            let status = node.client().get(&cleaned.path).map_err(|error| error.to_string())?.status;
            if status == 404 { Ok(()) } else { Err(status.to_string()) }
        });
        kept.check(node).expect("another namespace is untouched");
    }
    assert_eq!(mesh.wait_equal(WITHIN), 1);
}

#[test]
fn a_node_that_lost_its_volume_is_filled_before_it_is_ready_and_hears_what_comes() {
    let mut mesh = Mesh::start(3);
    let (early, late) = (Artifact::new(9, 400_000), Artifact::new(10, 900));
    early.store(&mesh.nodes[0]).expect("a write");
    mesh.nodes.iter().for_each(|node| wait_for(&early, node));
    mesh.wait_complete(WITHIN);

    mesh.nodes[2].kill();
    std::fs::remove_dir_all(mesh.nodes[2].data_dir()).expect("removing the volume's content");
    mesh.nodes[2].start_ready();
    // Ready means filled: no waiting here.
    early.check(&mesh.nodes[2]).expect("what was there before it joined");
    late.store(&mesh.nodes[2]).expect("a write on the new node");
    mesh.nodes.iter().for_each(|node| wait_for(&late, node));
}

#[test]
fn a_node_that_joins_takes_small_bodies_many_to_a_request() {
    let bodies: u64 = std::env::var("KURA_TEST_BODIES").ok().and_then(|count| count.parse().ok()).unwrap_or(300);
    let mut mesh = Mesh::new(2);
    mesh.begin_with(0..1);
    mesh.nodes[0].start();
    mesh.nodes[0].wait_ready(READY_WITHIN);
    let artifacts: Vec<Artifact> = (0..bodies).map(|seed| Artifact::new(seed, 65_536)).collect();
    artifacts.iter().for_each(|artifact| artifact.store(&mesh.nodes[0]).expect("a write"));
    let started = Instant::now();
    mesh.nodes[1].start();
    mesh.wait_complete(WITHIN);
    let took = started.elapsed();
    let requests = |kind: &str| metric(&mesh.nodes[1], "kura_bootstrap_body_requests_total", &[("kind", kind)]);
    println!("{bodies} bodies of 64 KiB in {took:?}: {} requests and {}", requests("bulk"), requests("single"));
    assert!(requests("bulk") + requests("single") <= 4.0 + artifacts.len() as f64 / 64.0);
    artifacts.iter().for_each(|artifact| artifact.check(&mesh.nodes[1]).expect("what it lists it has"));
    assert_eq!(mesh.wait_equal(WITHIN), artifacts.len());
}

#[test]
fn a_write_is_readable_on_a_sibling_within_a_quarter_second() {
    let _alone = alone();
    let mesh = Mesh::start(2);
    let mut delays: Vec<Duration> = (0..100)
        .map(|round| {
            let artifact = Artifact::new(1_000 + round, 2_000);
            artifact.store(&mesh.nodes[0]).expect("a write");
            let written = Instant::now();
            while artifact.check(&mesh.nodes[1]).is_err() {
                assert!(written.elapsed() < WITHIN, "{} never arrived", artifact.path);
                std::thread::sleep(Duration::from_millis(1));
            }
            written.elapsed()
        })
        .collect();
    delays.sort();
    println!("readable on a sibling after: p50 {:?}, p99 {:?}, max {:?}", delays[49], delays[98], delays[99]);
    assert!(delays[98] < Duration::from_millis(250), "p99 {:?} of {delays:?}", delays[98]);
}
