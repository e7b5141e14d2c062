//! Action-cache hits and the blobs they name: a hit is only what a client can use.

use std::sync::Arc;

use http::StatusCode;
use kura::core::mesh::memory_transport::LinkFault;
use sha2::{Digest, Sha256};

use crate::harness::{TestNode, noise};
use crate::read_through::{behind, cas, no_fault};

/// A field of a protobuf message whose content is shorter than 16 KiB.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut bytes = vec![number << 3 | 2];
    if length < 0x80 {
        bytes.push(length as u8);
    } else {
        bytes.extend([(length & 0x7f) as u8 | 0x80, (length >> 7) as u8]);
    }
    bytes.extend_from_slice(content);
    bytes
}

fn digest(blob: &[u8]) -> Vec<u8> {
    field(1, hex::encode(Sha256::digest(blob)).as_bytes())
}

fn file(blob: &[u8]) -> Vec<u8> {
    [field(1, b"out/a"), field(2, &digest(blob))].concat()
}

/// A result with a file, a directory of one file, and both outputs; and the blobs that it names.
fn action() -> (Vec<u8>, Vec<Vec<u8>>) {
    let [out, in_tree, stdout, stderr] = [1, 2, 3, 4].map(|seed| noise(2000 + seed as usize, seed));
    let tree = field(1, &field(1, &file(&in_tree)));
    let directory = [field(1, b"out/dir"), field(3, &digest(&tree))].concat();
    let result =
        [field(2, &file(&out)), field(3, &directory), field(6, &digest(&stdout)), field(8, &digest(&stderr))].concat();
    (result, vec![out, in_tree, stdout, stderr, tree])
}

const ENTRY: &str = "/ac/1111111111111111111111111111111111111111111111111111111111111111";

#[tokio::test(flavor = "multi_thread")]
async fn an_action_result_is_a_hit_once_every_blob_it_names_is_here() {
    let node = TestNode::start().await;
    let (result, blobs) = action();
    assert_eq!(node.put(ENTRY, &result).await, 200);
    for blob in &blobs {
        assert_eq!(node.get(ENTRY).await.status, 404, "a blob is missing still");
        assert_eq!(node.send("HEAD", ENTRY, &[], b"").await.status, 404);
        assert_eq!(node.put(&cas(blob), blob).await, 200);
    }
    let reply = node.get(ENTRY).await;
    assert_eq!((reply.status, reply.body), (200, result));
    assert_eq!(node.send("HEAD", ENTRY, &[], b"").await.status, 200);
    assert_eq!(node.metric("kura_action_results_total{closure=\"incomplete\"}").await, 2 * blobs.len() as u64);
    assert_eq!(node.metric("kura_action_results_total{closure=\"whole\"}").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_of_another_instance_do_not_count() {
    let node = TestNode::start().await;
    let (result, blobs) = action();
    let entry = format!("/bazel/team{ENTRY}");
    assert_eq!(node.put(&entry, &result).await, 200);
    for blob in &blobs {
        assert_eq!(node.put(&cas(blob), blob).await, 200);
    }
    assert_eq!(node.get(&entry).await.status, 404);
    for blob in &blobs {
        assert_eq!(node.put(&format!("/bazel/team{}", cas(blob)), blob).await, 200);
    }
    assert_eq!(node.get(&entry).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_blob_turns_the_hit_into_a_miss_until_it_is_written_again() {
    let node = TestNode::start().await;
    let out = noise(2 << 20, 7);
    let result = field(2, &file(&out));
    assert_eq!((node.put(&cas(&out), &out).await, node.put(ENTRY, &result).await), (200, 200));
    assert_eq!(node.get(ENTRY).await.status, 200);
    let node = node
        .restart_after(|root| {
            let bodies = root.join("data/bodies/0");
            let first = std::fs::read_dir(bodies).unwrap().flatten().next().expect("one body file");
            std::fs::remove_file(first.path()).unwrap();
        })
        .await;
    assert_eq!(node.get(&cas(&out)).await.status, 404, "found missing and withdrawn");
    assert_eq!(node.get(ENTRY).await.status, 404);
    assert_eq!((node.put(&cas(&out), &out).await, node.get(ENTRY).await.status), (200, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_action_result_are_served_as_they_are() {
    let node = TestNode::start().await;
    for body in [&b"ccache keeps its own here"[..], &noise(5000, 3), &noise(5 << 20, 4)] {
        assert_eq!(node.put(ENTRY, body).await, 200);
        assert!(node.get(ENTRY).await.body == body);
    }
    assert_eq!(node.metric("kura_action_results_total{closure=\"opaque\"}").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_a_live_peer_holds_is_as_good_as_here() {
    let (result, blobs) = action();
    let mut held: Vec<(String, Vec<u8>)> = blobs.iter().map(|blob| (cas(blob), blob.clone())).collect();
    held.push((ENTRY.to_owned(), result.clone()));
    let (node, _peer, _) = behind(&held, no_fault()).await;
    let reply = node.get(ENTRY).await;
    assert_eq!((reply.status, reply.body), (200, result.clone()), "result and blobs from a peer");
    for blob in &blobs {
        assert!(node.get(&cas(blob)).await.body == *blob, "what was promised is kept");
    }

    let gone = Arc::new(|_: &str| Some(LinkFault::Status(StatusCode::NOT_FOUND)));
    let (node, _peer, _) = behind(&held, gone).await;
    assert_eq!(node.put(ENTRY, &result).await, 200);
    assert_eq!(node.get(ENTRY).await.status, 404, "here, but nobody has its blobs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_entry_of_a_peer_is_looked_into_before_it_is_given() {
    let blob = noise(2000, 1);
    // A raw output makes it longer than what is buffered.
    let padding = [vec![5 << 3 | 2, 0x80, 0x80, 0x80, 0x01], noise(2 << 20, 2)].concat();
    let result = [field(2, &file(&blob)), padding].concat();
    let opaque = (ENTRY.replace('1', "2"), noise(2 << 20, 3));
    let held = [(ENTRY.to_owned(), result.clone()), (cas(&blob), blob), opaque.clone()];
    let (node, _peer, _) = behind(&held, no_fault()).await;
    assert!(node.get(ENTRY).await.body == result);
    assert!(node.get(&opaque.0).await.body == opaque.1);
    let (node, _peer, _) = behind(&held[..1], no_fault()).await;
    assert_eq!(node.get(ENTRY).await.status, 404, "nobody has its blob");
    assert_eq!(node.metric("kura_action_results_total{closure=\"incomplete\"}").await, 1);
}
