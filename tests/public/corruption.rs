//! Wrong bytes on disk are a miss when that is known before the header, and a reset afterwards; never a clean end.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::harness::{TestNode, noise};

const SMALL: usize = 1 << 20;
const LARGE: usize = 20 << 20;

/// Body files of the store that are at least this long.
fn body_files(root: &Path, length: usize) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(root.join("data/bodies")).unwrap().flatten().filter(|entry| entry.path().is_dir());
    let files = folders.flat_map(|folder| std::fs::read_dir(folder.path()).unwrap().flatten());
    files.filter(|file| file.metadata().unwrap().len() >= length as u64).map(|file| file.path()).collect()
}

fn flip_byte(path: &Path, offset: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0_u8];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[!byte[0]], offset).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_a_small_file_is_a_miss_and_the_artifact_can_be_stored_again() {
    let node = TestNode::start().await;
    let body = noise(SMALL, 1);
    assert_eq!(node.put("/api/metro/cache/a", &body).await, 200);
    let node = node.restart_after(|root| flip_byte(&body_files(root, SMALL)[0], 70_000)).await;
    assert_eq!(node.get("/api/metro/cache/a").await.status, 404);
    assert_eq!(node.send("HEAD", "/api/metro/cache/a", &[], b"").await.status, 404);
    assert_eq!(node.put("/api/metro/cache/a", &body).await, 200);
    assert_eq!(node.get("/api/metro/cache/a").await.body, body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_short_file_is_a_miss() {
    let node = TestNode::start().await;
    for key in ["a", "b"] {
        assert_eq!(node.put(&format!("/api/metro/cache/{key}"), &noise(SMALL, 2)).await, 200);
    }
    let damage = |root: &Path| {
        let files = body_files(root, SMALL);
        std::fs::remove_file(&files[0]).unwrap();
        std::fs::OpenOptions::new().write(true).open(&files[1]).unwrap().set_len(100).unwrap();
    };
    let node = node.restart_after(damage).await;
    for key in ["a", "b"] {
        assert_eq!(node.get(&format!("/api/metro/cache/{key}")).await.status, 404, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_a_large_file_resets_the_answer_wherever_it_lies() {
    for (offset, range) in [(10_u64, None), (LARGE as u64 - 1, None), (LARGE as u64 - 1, Some("bytes=0-99"))] {
        let node = TestNode::start().await;
        assert_eq!(node.put("/api/metro/cache/a", &noise(LARGE, 3)).await, 200);
        let node = node.restart_after(|root| flip_byte(&body_files(root, LARGE)[0], offset)).await;
        let headers: Vec<(&str, &str)> = range.iter().map(|range| ("Range", *range)).collect();
        let reply = node.send("GET", "/api/metro/cache/a", &headers, b"").await;
        assert!(!reply.whole, "offset {offset}, {range:?}: {} bytes came as if all were well", reply.body.len());
        // Found bad once, it is withdrawn: from here on an honest miss.
        assert_eq!(node.get("/api/metro/cache/a").await.status, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http2_a_bad_large_body_resets_its_stream() {
    let node = TestNode::start().await;
    assert_eq!(node.put("/api/metro/cache/a", &noise(LARGE, 6)).await, 200);
    let node = node.restart_after(|root| flip_byte(&body_files(root, LARGE)[0], LARGE as u64 / 2)).await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let answer = client.get(node.url("/api/metro/cache/a")).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    assert!(answer.bytes().await.is_err(), "the body ended as if all were well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_large_file_is_served_whole_and_in_parts_after_a_restart() {
    let node = TestNode::start().await;
    let body = noise(LARGE + 17, 4);
    assert_eq!(node.put("/api/metro/cache/a", &body).await, 200);
    let node = node.restart_after(|_| {}).await;
    let first = node.send("GET", "/api/metro/cache/a", &[("Range", "bytes=300000-900000")], b"").await;
    assert!(first.whole && first.body == body[300_000..=900_000], "a range that verifies the file");
    let whole = node.get("/api/metro/cache/a").await;
    assert!(whole.whole && whole.body == body, "the whole file, verified");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_whole_read_of_a_large_file_verifies_it() {
    let node = TestNode::start().await;
    let body = noise(LARGE, 5);
    assert_eq!(node.put("/api/metro/cache/a", &body).await, 200);
    let node = node.restart_after(|_| {}).await;
    for _ in 0..2 {
        let reply = node.get("/api/metro/cache/a").await;
        assert!(reply.whole && reply.body == body);
    }
    assert_eq!(node.metric("kura_artifact_egress_completions_total{producer=\"metro\",result=\"ok\"}").await, 2);
}

/// Files of the index that hold these bytes, and where.
fn in_index(root: &Path, needle: &[u8]) -> Vec<(PathBuf, u64)> {
    let files = std::fs::read_dir(root.join("data/index")).unwrap().flatten().map(|file| file.path());
    let found = files.filter_map(|path| {
        let bytes = std::fs::read(&path).ok()?;
        let offset = bytes.windows(needle.len()).position(|window| window == needle)?;
        Some((path, offset as u64))
    });
    found.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_an_inline_body_is_a_miss_and_takes_few_others_along() {
    let node = TestNode::start().await;
    let bodies: Vec<_> = (1..40).map(|seed| noise(3000, seed * 2)).collect();
    for (number, body) in bodies.iter().enumerate() {
        assert_eq!(node.put(&format!("/api/metro/cache/{number}"), body).await, 200);
    }
    let damage = |root: &Path| {
        let places = in_index(root, &bodies[20][100..200]);
        assert!(!places.is_empty(), "the body lies somewhere in the index");
        places.iter().for_each(|(path, offset)| flip_byte(path, *offset));
    };
    let node = node.restart_after(damage).await;
    let mut served = 0;
    for (number, body) in bodies.iter().enumerate() {
        let reply = node.get(&format!("/api/metro/cache/{number}")).await;
        // Bodies in the same block cannot be read either: misses, never wrong bytes.
        assert!(reply.status == 404 || reply.body == *body, "{number}: {} {}", reply.status, reply.text());
        assert!(number != 20 || reply.status == 404);
        served += usize::from(reply.status == 200);
    }
    assert!(served > bodies.len() / 2, "{served} of {}", bodies.len());
}
