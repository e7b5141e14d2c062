//! Many bodies in one answer.

use super::*;
use crate::core::base::ids::{Digest, Version};
use crate::core::mesh::bulk_frames::{BULK_BODY_BYTES_MAX, BULK_ITEMS_MAX, BulkAnswer, BulkItem};
use crate::core::mesh::feed_frames::FrameStatus;
use crate::core::store::record::Record;

fn asked(node: &Node, id: &ArtifactId) -> BulkItem {
    BulkItem::new(*id, node.store().lookup(id).unwrap().unwrap().version())
}

/// A name nobody has.
fn unknown() -> BulkItem {
    BulkItem::new(ArtifactId([9; 32]), Version { version_ms: 1, logical: 0, digest: Digest([9; 32]) })
}

async fn ask(of: &Node, items: Vec<BulkItem>) -> Vec<BulkAnswer> {
    let mut stream = of.engine.client.bulk(&of.url, items).await.unwrap();
    let mut answers = Vec::new();
    while let Some(item) = stream.next(&|_| {}).await.unwrap() {
        answers.push(item);
    }
    answers
}

#[tokio::test]
async fn a_bulk_answer_has_a_frame_for_each_item_asked_for() {
    let node = one();
    let (small, file) = (node.put("nx", "small", b"inline").await, node.put("nx", "file", &[7; 50_000]).await);
    let large = node.put("nx", "large", &vec![8; BULK_BODY_BYTES_MAX as usize + 1]).await;
    let old = asked(&node, &small);
    node.clock.advance(Duration::from_millis(5));
    node.put("nx", "small", b"a newer one").await;
    let newer = BulkItem { version_ms: NOW_MS + 99, ..asked(&node, &file) };
    let items = vec![old, asked(&node, &file), asked(&node, &large), unknown(), newer];
    let answers = ask(&node, items).await;
    let places: Vec<u32> = answers.iter().map(|answer| answer.place).collect();
    assert_eq!(places, [0, 1, 2, 3, 4]);
    let record = |at: usize| Record::from_bytes(&answers[at].record).unwrap();
    let status = |at: usize| answers[at].status;
    assert_eq!((status(0), &answers[0].body[..]), (FrameStatus::Superseded, &b"a newer one"[..]));
    assert_eq!(record(0).digest, Digest::of(b"a newer one"));
    assert_eq!((status(1), &answers[1].body[..]), (FrameStatus::Ok, &[7; 50_000][..]));
    assert_eq!((record(1).digest, record(1).attributes.len()), (Digest::of(&[7; 50_000]), 1));
    assert_eq!((status(2), answers[2].body.len(), record(2).size), (FrameStatus::Ok, 0, BULK_BODY_BYTES_MAX + 1));
    assert_eq!((status(3), answers[3].record.len()), (FrameStatus::Evicted, 0), "never there");
    assert_eq!((status(4), answers[4].body.len()), (FrameStatus::Evicted, 0), "only an older version is here");
    assert_eq!(record(4).digest, Digest::of(&[7; 50_000]), "and it is named");
}

#[tokio::test]
async fn an_answer_that_is_long_enough_names_the_rest_without_bodies() {
    let node = one();
    let mut items = Vec::new();
    for n in 0..17_u8 {
        let id = node.put("nx", &n.to_string(), &vec![n; BULK_BODY_BYTES_MAX as usize]).await;
        items.push(asked(&node, &id));
    }
    let answers = ask(&node, items).await;
    let bodies = answers.iter().filter(|answer| !answer.body.is_empty()).count();
    assert_eq!((answers.len(), bodies), (17, 16));
}

#[tokio::test]
async fn a_body_that_is_not_here_whole_is_told_as_corrupt_and_withdrawn() {
    let node = one();
    let mut items = Vec::new();
    for key in ["lost", "good"] {
        let id = node.put("nx", key, &[7; 5000]).await;
        items.push(asked(&node, &id));
    }
    let mut files = node.body_files();
    files.sort();
    std::fs::remove_file(&files[0]).unwrap();
    let answers = ask(&node, items.clone()).await;
    let statuses: Vec<_> = answers.iter().map(|answer| (answer.status, answer.body.len())).collect();
    assert_eq!(statuses, [(FrameStatus::Corrupt, 0), (FrameStatus::Ok, 5000)]);
    assert!(!node.holds(&items[0].id), "and wanted back");
    assert_eq!(node.store().wanted_page(None, 9).unwrap().len(), 1);
}

#[tokio::test]
async fn a_bulk_request_beyond_the_bounds_is_refused() {
    let node = one();
    let many = serde_json::json!({"items": vec![unknown(); BULK_ITEMS_MAX + 1]});
    let just = serde_json::json!({"items": vec![unknown(); BULK_ITEMS_MAX], "of_a_later_version": true});
    let call = async |body: String| node.call(Method::POST, "/_internal/bulk", &[], body.as_bytes()).await.status;
    assert_eq!(call(many.to_string()).await, 400);
    assert_eq!(call(just.to_string()).await, 200);
    assert_eq!(call("{}".to_owned()).await, 400);
    assert_eq!(call(" ".repeat(300 << 10)).await, 413);
}

#[tokio::test(start_paused = true)]
async fn a_source_with_all_its_slots_taken_says_when_to_come_back_and_a_slot_ends_with_its_answer() {
    let node = one();
    let id = node.put("nx", "1", &[7; 50_000]).await;
    let mut held = Vec::new();
    loop {
        match node.engine.client.bulk(&node.url, vec![asked(&node, &id)]).await {
            Ok(stream) => held.push(stream),
            Err(PeerError::Status { status, .. }) => break assert_eq!(status, 503),
            Err(other) => panic!("{other}"),
        }
        assert!(held.len() < 100, "there is a bound");
    }
    assert_eq!(held.len(), 16);
    let body = serde_json::json!({"items": [unknown()]}).to_string();
    let busy = node.call(Method::POST, "/_internal/bulk", &[], body.as_bytes()).await;
    assert_eq!((busy.status, busy.headers[header::RETRY_AFTER].to_str().unwrap()), (503, "1"));
    assert_eq!(busy.json()["retry_after_ms"], 1000);
    held.pop();
    assert_eq!(ask(&node, vec![asked(&node, &id)]).await.len(), 1, "one that is dropped makes room");
    held.clear();
    for _ in 0..40 {
        assert_eq!(ask(&node, vec![asked(&node, &id)]).await.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn single_bodies_on_their_way_are_bounded_too_and_a_slot_ends_with_its_answer() {
    let node = one();
    let id = node.put("nx", "1", &[7; 50_000]).await;
    let mut held = Vec::new();
    loop {
        let response = node.engine.client.artifact(&node.url, &id).await.unwrap();
        if response.status != 200 {
            break assert_eq!(
                (response.status.as_u16(), response.headers[header::RETRY_AFTER].to_str().unwrap()),
                (503, "1")
            );
        }
        held.push(response);
        assert!(held.len() < 1000, "there is a bound");
    }
    assert_eq!(held.len(), 256);
    held.truncate(255);
    for _ in 0..3 {
        let response = node.engine.client.artifact(&node.url, &id).await.unwrap();
        assert_eq!(response.status, 200, "one that is dropped makes room");
    }
}

#[tokio::test]
async fn a_bulk_answer_that_is_cut_or_changed_on_the_way_keeps_what_came_before() {
    let network = MemoryTransport::new();
    let (one, two) = (Node::new(1, &network), Node::new(2, &network));
    let mut items = Vec::new();
    for n in 0..4 {
        let id = one.put("nx", &n.to_string(), &[n; 3000]).await;
        items.push(asked(&one, &id));
    }
    for fault in [LinkFault::CutBodyAfter(8000), LinkFault::CorruptByteAt(8000)] {
        two.links.set_rule(Some(Arc::new(move |_| Some(fault.clone()))));
        let mut stream = two.engine.client.bulk(&one.url, items.clone()).await.unwrap();
        let mut came = 0;
        let error = loop {
            match stream.next(&|_| {}).await {
                Ok(Some(item)) => came += usize::from(item.body.len() == 3000),
                Ok(None) => panic!("taken for whole"),
                Err(error) => break error,
            }
        };
        assert_eq!(came, 2, "{error}");
    }
}
