//! One artifact in each of the states it can be in, told from a data dir that is not held and from peers in memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::StatusCode;

use super::*;
use crate::core::base::ids::{Digest, StoreId, Version};
use crate::core::doctor::report::Conclusion;
use crate::core::doctor::test_support::{context, context_with_peers, listing, store};
use crate::core::mesh::memory_transport::MemoryTransport;
use crate::core::mesh::wire::RECORD_HEADER;
use crate::core::staging::body_writer::{StagedBody, StagedContent};
use crate::core::staging::partials::PartialIdentity;
use crate::core::store::EvictGoal;
use crate::core::store::committer::{Carried, CommitOutcome, Operation, Put, PutMode, PutOrigin};
use crate::core::store::explain::ManifestFacts;
use crate::core::store::record::{Kind, Record};
use crate::core::store::wanted::{Wanted, WantedReason};

fn name(key: &str) -> ArtifactKey {
    ArtifactKey { producer: "gradle".into(), namespace: "main".into(), key: key.into() }
}

fn put(store: &Store, key: &str, body: &[u8]) -> Record {
    let digest = Digest::of(body);
    let content = StagedContent::Inline(Bytes::copy_from_slice(body));
    let put = Put {
        name: name(key),
        kind: Kind::Blob,
        content_type: "application/octet-stream".into(),
        attributes: BTreeMap::new(),
        carried: Carried::default(),
        body: StagedBody { length: body.len() as u64, digest, sha256: None, content },
        origin: PutOrigin::Local(PutMode::LastWriterWins),
    };
    match store.submit(Operation::Put(Box::new(put))).wait().unwrap() {
        CommitOutcome::Applied(record) => *record,
        other => panic!("not applied: {other:?}"),
    }
}

fn id(key: &str) -> ArtifactId {
    name(key).artifact_id("default")
}

/// The answer about a key, by name and by id, which have to agree; nothing is changed by asking.
fn asked(data_dir: &Path, key: &str) -> ArtifactReport {
    let before = listing(data_dir);
    let by_name = explain(&context(data_dir), &Subject::Name(name(key))).unwrap();
    let by_id = explain(&context(data_dir), &Subject::Id(id(key))).unwrap();
    assert_eq!((by_name.artifact_id, by_name.error.clone()), (by_id.artifact_id, by_id.error.clone()));
    assert_eq!(listing(data_dir), before, "looking changes nothing");
    by_name
}

fn row(key: &str, reason: WantedReason) -> Wanted {
    Wanted {
        id: id(key),
        version: Version { version_ms: 1, logical: 0, digest: Digest([1; 32]) },
        size: 5,
        name: ("gradle".into(), "main".into(), key.into()),
        holders: vec!["http://a".into()],
        reason,
        error: Some("connection refused".into()),
        attempts: 3,
        next_try_ms: 0,
    }
}

#[test]
fn what_is_here_says_where_it_lies_and_that_its_bytes_match() {
    let root = tempfile::tempdir().unwrap();
    let node = store(root.path());
    put(&node, "small", b"inside the index");
    drop(node);
    let report = asked(root.path(), "small");
    assert_eq!((report.verdict, report.conclusion()), (Verdict::Here, Conclusion::Clean), "{report:?}");
    assert_eq!(report.body.unwrap().status, "good");
    let here = report.here.unwrap();
    assert_eq!((here.body.unwrap().place.as_str(), here.manifest.unwrap().size), ("inline", 16));
    assert_eq!(report.next, None);
}

#[test]
fn what_is_not_here_says_why() {
    let root = tempfile::tempdir().unwrap();
    let node = store(root.path());
    put(&node, "evicted", &[1; 1000]);
    node.evict(EvictGoal { bytes: 1, under_pressure: false }).unwrap();
    let bad = put(&node, "withdrawn", b"bad");
    node.report_bad_body(&bad, "for the test");
    node.note_wanted(&[row("wanted", WantedReason::WaitingForPeer)]).unwrap();
    drop(node);
    let verdict = |key: &str| asked(root.path(), key).verdict;
    assert_eq!(verdict("evicted"), Verdict::Evicted);
    assert_eq!(verdict("withdrawn"), Verdict::Withdrawn);
    assert_eq!(verdict("never"), Verdict::Absent);
    let wanted = asked(root.path(), "wanted");
    assert_eq!((wanted.verdict, wanted.conclusion()), (Verdict::Wanted, Conclusion::Clean));
    assert!(wanted.message.contains("does not answer (3 tries)"), "{}", wanted.message);
    assert_eq!(wanted.here.unwrap().wanted.unwrap().holders, ["http://a"]);
}

#[test]
fn what_was_deleted_says_up_to_when() {
    let root = tempfile::tempdir().unwrap();
    let node = store(root.path());
    put(&node, "gone", b"x");
    let delete = Operation::DeleteNamespace { namespace: "main".into(), version_ms: None };
    node.submit(delete).wait().unwrap();
    drop(node);
    let gone = asked(root.path(), "gone");
    assert!(matches!(gone.verdict, Verdict::Deleted | Verdict::NamespaceDeleted), "{gone:?}");
    assert!(gone.message.contains("deleted up to 2025-06-15"), "{}", gone.message);
    let by_id = explain(&context(root.path()), &Subject::Id(id("never"))).unwrap();
    assert_eq!(by_id.verdict, Verdict::Absent, "an id alone does not tell the namespace");
}

#[test]
fn a_partial_in_staging_is_found_without_taking_its_lock() {
    let root = tempfile::tempdir().unwrap();
    drop(store(root.path()));
    let folder = root.path().join("tmp/bootstrap");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(partials::new_name());
    let file = std::fs::File::create_new(&path).unwrap();
    let version = Version { version_ms: 1, logical: 0, digest: Digest([1; 32]) };
    let identity = PartialIdentity { id: id("half"), version, size: 10_000, note: Vec::new() };
    partials::restore_header(&crate::core::base::disk::RealDisk, &file, identity).unwrap();
    let found = asked(root.path(), "half").partial.unwrap();
    assert_eq!((found.path.as_str(), found.size), (path.to_str().unwrap(), 10_000));
    assert_eq!(asked(root.path(), "other").partial, None);
}

fn explaining(told: Explanation) -> Router {
    Router::new().route("/_internal/explain/{id}", get(move || async move { axum::Json(told) }))
}

fn held(version_ms: u64) -> Explanation {
    let manifest = ManifestFacts { version_ms, size: 5, digest: Digest([3; 32]), ..ManifestFacts::default() };
    let name = Some(NameFacts::from(&name("there")));
    Explanation { state: State::Held, manifest: Some(manifest), name, ..Explanation::default() }
}

#[test]
fn peers_say_what_they_hold_and_this_node_what_it_would_do_with_it() {
    let root = tempfile::tempdir().unwrap();
    let node = store(root.path());
    put(&node, "other", b"x");
    drop(node);
    let network = MemoryTransport::new();
    let now_ms = 1_750_000_000_000;
    network.attach("http://a:1", Some(explaining(held(now_ms))));
    network.attach("http://b:1", Some(explaining(Explanation { state: State::Evicted, ..Explanation::default() })));
    // A peer of the seed era: no such route, and its answer has no record.
    let body = get(|| async { (StatusCode::PARTIAL_CONTENT, "x") });
    network.attach("http://c:1", Some(Router::new().route("/_internal/bootstrap/artifacts/{id}", body)));
    network.attach("http://d:1", Some(explaining(held(now_ms + 1_000_000_000_000))));
    let urls = ["http://a:1", "http://b:1/", "http://c:1", "http://d:1", "http://gone:1"];
    let context = context_with_peers(root.path(), &urls, Arc::new(network));
    let report = explain(&context, &Subject::Id(id("there"))).unwrap();
    let said: Vec<_> = report.peers.iter().map(|peer| (peer.url.as_str(), peer.state, peer.here)).collect();
    assert_eq!(
        said,
        [
            ("http://a:1", Some(State::Held), Some("fetched")),
            ("http://b:1", Some(State::Evicted), None),
            ("http://c:1", Some(State::Held), None),
            ("http://d:1", Some(State::Held), Some("refused: its clock is too far ahead")),
            ("http://gone:1", None, None),
        ]
    );
    assert!(report.peers[4].error.as_ref().unwrap().starts_with("connect: "), "{:?}", report.peers[4]);
    assert_eq!(report.name, Some(NameFacts::from(&name("there"))), "a peer knew it");
    assert_eq!(
        (report.verdict, report.next.is_some_and(|next| next.starts_with("kura bootstrap"))),
        (Verdict::Absent, true)
    );
}

#[test]
fn an_older_kura_peer_tells_by_the_record_beside_the_body() {
    let root = tempfile::tempdir().unwrap();
    let node = store(root.path());
    let record = put(&node, "small", b"x");
    drop(node);
    let network = MemoryTransport::new();
    let header = hex::encode(record.to_wire_bytes());
    let body = get(move || async move { (StatusCode::PARTIAL_CONTENT, [(RECORD_HEADER, header)], "x") });
    network.attach("http://a:1", Some(Router::new().route("/_internal/bootstrap/artifacts/{id}", body)));
    let context = context_with_peers(root.path(), &["http://a:1"], Arc::new(network));
    let report = explain(&context, &Subject::Name(name("small"))).unwrap();
    assert_eq!(report.peers[0].manifest.as_ref().unwrap().version(), record.version());
    assert_eq!(report.peers[0].here, Some("here already, or newer"));
}

#[test]
fn an_index_that_does_not_open_is_an_answer_and_the_peers_are_asked_all_the_same() {
    let root = tempfile::tempdir().unwrap();
    drop(store(root.path()));
    std::fs::remove_file(root.path().join("index/CURRENT")).unwrap();
    let network = MemoryTransport::new();
    let told = Explanation { store_id: StoreId([7; 16]), ..held(1) };
    network.attach("http://a:1", Some(explaining(told)));
    let context = context_with_peers(root.path(), &["http://a:1"], Arc::new(network));
    let report = explain(&context, &Subject::Name(name("there"))).unwrap();
    assert_eq!((report.verdict, report.conclusion()), (Verdict::Unknown, Conclusion::Incomplete));
    assert!(report.error.unwrap().contains("CURRENT"));
    assert_eq!(report.peers[0].state, Some(State::Held));
}
