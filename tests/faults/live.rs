//! Staging under a live node: what is being sent is never taken, and a kill in the middle leaves nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::bodies::SeededBody;
use crate::support::inspect::{metric, staged_names};
use crate::support::node::Node;
use crate::support::wait::eventually;

const BODY_BYTES: u64 = 8 << 20;

fn started() -> (Node, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("making a folder");
    let mut node = Node::new("n", folder.path());
    node.start_ready();
    (node, folder)
}

/// Sends half a body and waits until the node holds it in staging.
fn half_sent(node: &Node, body: &[u8]) -> TcpStream {
    let half = body.len() / 2;
    let stream = node.client().begin_upload("PUT", "/api/metro/cache/k", BODY_BYTES, &body[..half]).expect("an upload");
    eventually("the body to be staged", Duration::from_secs(10), || {
        let reserved = metric(node, "kura_tmp_dir_bytes", &[]);
        if reserved >= BODY_BYTES as f64 { Ok(()) } else { Err(format!("{reserved} bytes reserved")) }
    });
    stream
}

#[test]
fn an_upload_in_flight_survives_reclaim_staging_beside_it() {
    let (node, _folder) = started();
    let body = SeededBody::new(3, BODY_BYTES).into_vec();
    let mut stream = half_sent(&node, &body);
    let reply = node.client().send(
        "POST",
        "/api/cache/module/start?tenant_id=default&namespace_id=n&hash=h&name=m",
        &[],
        crate::support::http::Body::Empty,
    );
    let reply = reply.expect("a start").json().expect("JSON");
    let upload = reply["upload_id"].as_str().expect("an upload id").to_owned();
    let part = format!("/api/cache/module/part?upload_id={upload}&part_number=1");
    let sent =
        node.client().send("POST", &part, &[], crate::support::http::Body::Bytes(&body[..100_000])).expect("a part");
    assert_eq!(sent.status, 204);
    std::fs::write(node.tmp_dir().join("uploads/upload-abandoned"), vec![1; 100_000]).expect("planting a leftover");

    let freed = node.run(&["reclaim-staging", "--yes", "--output", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&freed.stdout).expect("JSON");
    assert_eq!(freed.status.code(), Some(0), "{report}");
    assert_eq!(
        (report["data_dir_in_use"].as_bool(), report["removed_files"].as_u64()),
        (Some(true), Some(1)),
        "{report}"
    );
    assert_eq!(report["areas"][1]["in_use_files"].as_u64(), Some(1), "the part is in use: {report}");

    stream.write_all(&body[body.len() / 2..]).expect("the rest");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
    let stored = node.client().get("/api/metro/cache/k").expect("a GET").bytes().expect("a body");
    assert!(stored == body, "other bytes");
    let complete = format!("/api/cache/module/complete?upload_id={upload}");
    let json = [("content-type", "application/json")];
    let completed = node.client().send("POST", &complete, &json, crate::support::http::Body::Bytes(b"{\"parts\":[1]}"));
    assert_eq!(completed.expect("a complete").status, 204);
    assert_eq!(staged_names(&node), Vec::<std::path::PathBuf>::new());
}

#[test]
fn kill_9_in_mid_upload_leaves_no_name_and_no_byte() {
    let (mut node, _folder) = started();
    let body = SeededBody::new(3, BODY_BYTES).into_vec();
    for _ in 0..5 {
        let stream = half_sent(&node, &body);
        node.kill();
        drop(stream);
        assert_eq!(staged_names(&node), Vec::<std::path::PathBuf>::new());
        node.start_ready();
        assert_eq!(metric(&node, "kura_tmp_dir_bytes", &[]), 0.0);
    }
    assert_eq!(node.client().get("/api/metro/cache/k").expect("a GET").status, 404);
}
