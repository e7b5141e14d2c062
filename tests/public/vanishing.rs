//! Clients that go away in the middle leave nothing behind, at once.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{TestNode, noise};

const CLIENTS: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_vanished_uploads_leave_the_ledger_and_the_areas_empty_within_a_second() {
    let node = TestNode::start().await;
    let half = noise(256 << 10, 1);
    let mut streams = Vec::new();
    for client in 0..CLIENTS {
        let mut stream = node.connect().await;
        let length = if client % 2 == 0 { "Content-Length: 1048576" } else { "Transfer-Encoding: chunked" };
        let head = format!("PUT /api/metro/cache/{client} HTTP/1.1\r\nHost: kura\r\n{length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        if client % 2 == 1 {
            stream.write_all(format!("{:x}\r\n", 1 << 20).as_bytes()).await.unwrap();
        }
        stream.write_all(&half).await.unwrap();
        streams.push(stream);
    }
    let all_in_flight = async {
        while node.running().node.drain.inflight() < CLIENTS as u64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(crate::harness::PATIENCE, all_in_flight).await.expect("every upload is under way");
    assert!(node.state().reserved > 0);
    drop(streams);
    let state = node.settled(Duration::from_secs(1)).await;
    assert_eq!((state.reserved, state.staged, state.artifacts), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_is_broken_off_is_counted_as_aborted() {
    let node = TestNode::start().await;
    assert_eq!(node.put("/api/metro/cache/a", &noise(48 << 20, 2)).await, 200);
    let mut stream = node.connect().await;
    stream.write_all(b"GET /api/metro/cache/a HTTP/1.1\r\nHost: kura\r\n\r\n").await.unwrap();
    stream.read_exact(&mut [0_u8; 64 << 10]).await.unwrap();
    drop(stream);
    let sample = "kura_artifact_egress_completions_total{producer=\"metro\",result=\"aborted\"}";
    let counted = async {
        while node.metric(sample).await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(crate::harness::PATIENCE, counted).await.expect("the abort is noticed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_under_way_ends_well_while_the_node_stops() {
    let mut node = TestNode::start().await;
    let body = noise(512 << 10, 3);
    let mut stream = node.connect().await;
    let head = format!("PUT /api/metro/cache/a HTTP/1.1\r\nHost: kura\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body[..1000]).await.unwrap();
    while node.state().reserved == 0 {
        tokio::task::yield_now().await;
    }
    node.running().drain();
    let (_, answer) = tokio::join!(node.stop(), async {
        stream.write_all(&body[1000..]).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    });
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    let node = node.restart_after(|_| {}).await;
    assert_eq!(node.get("/api/metro/cache/a").await.body, body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_longer_than_its_deadline() {
    let mut node = TestNode::start_with(|config| config.drain_completion_timeout = Duration::from_millis(300)).await;
    let mut stream = node.connect().await;
    stream
        .write_all(b"PUT /api/metro/cache/a HTTP/1.1\r\nHost: kura\r\nContent-Length: 1000000\r\n\r\nx")
        .await
        .unwrap();
    while node.state().reserved == 0 {
        tokio::task::yield_now().await;
    }
    tokio::time::timeout(Duration::from_secs(10), node.stop()).await.expect("the stop ends at its deadline");
    let tmp = node.data_dir().join("tmp");
    assert_eq!(crate::harness::staged_entries(&tmp), 0);
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(!rest.starts_with(b"HTTP/1.1 2"), "an upload that never arrived was not acknowledged");
}
