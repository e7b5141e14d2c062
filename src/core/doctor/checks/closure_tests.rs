//! Action results as Bazel writes them, with blobs that are here, were evicted, or are gone.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::core::base::ids::{Digest, Sha256Digest};
use crate::core::doctor::finding::Status;
use crate::core::doctor::test_support::{context, look, store};
use crate::core::staging::body_writer::{StagedBody, StagedContent};
use crate::core::store::action_result::blob_name;
use crate::core::store::committer::{Carried, CommitOutcome, Operation, Put, PutMode, PutOrigin};
use crate::core::store::record::{ArtifactKey, Kind};
use crate::core::store::{EvictGoal, Store};

fn put(store: &Store, name: ArtifactKey, kind: Kind, body: &[u8]) {
    let content = StagedContent::Inline(Bytes::copy_from_slice(body));
    let put = Put {
        name,
        kind,
        content_type: "application/octet-stream".into(),
        attributes: BTreeMap::new(),
        carried: Carried::default(),
        body: StagedBody { length: body.len() as u64, digest: Digest::of(body), sha256: None, content },
        origin: PutOrigin::Local(PutMode::LastWriterWins),
    };
    let outcome = store.submit(Operation::Put(Box::new(put))).wait().unwrap();
    assert!(matches!(outcome, CommitOutcome::Applied(_)));
}

fn blob(store: &Store, body: &[u8]) -> Sha256Digest {
    let digest = Sha256Digest::of(body);
    put(store, blob_name("main", &digest), Kind::Blob, body);
    digest
}

fn field(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
}

/// An action result with these output files.
fn result(store: &Store, key: &str, files: &[Sha256Digest]) {
    let output = |file: &Sha256Digest| field(2, &field(2, &field(1, file.to_string().as_bytes())));
    let body: Vec<u8> = files.iter().flat_map(output).collect();
    let name = ArtifactKey { producer: "bazel".into(), namespace: "main".into(), key: format!("ac/{key}") };
    put(store, name, Kind::Action, &body);
}

#[test]
fn a_result_whose_blobs_are_here_is_quiet_and_one_that_names_a_lost_blob_is_named() {
    let root = tempfile::tempdir().unwrap();
    let node = store(root.path());
    let here = blob(&node, b"here");
    result(&node, "whole", &[here]);
    drop(node);
    let looked = || look(&ActionClosureBroken, &context(root.path()));
    let quiet = looked();
    assert_eq!((quiet.status, &quiet.evidence.values()["results"]), (Status::Ok, &1.into()), "{quiet:?}");
    let node = store(root.path());
    let lost = Sha256Digest::of(b"never written");
    result(&node, "broken", &[here, lost]);
    drop(node);
    let found = looked();
    assert_eq!((found.status, &found.evidence.values()["broken"]), (Status::Fail, &1.into()), "{found:?}");
    let line = &found.evidence.details()[0];
    assert!(line.contains("\"ac/broken\": 1 gone") && line.ends_with(&format!("cas/{lost}")), "{line}");
}

#[test]
fn a_result_whose_blob_was_evicted_is_a_miss_with_a_reason_and_no_finding() {
    let root = tempfile::tempdir().unwrap();
    let node = store(root.path());
    let evicted = blob(&node, &[1; 500]);
    node.evict(EvictGoal { bytes: 1, under_pressure: false }).unwrap();
    result(&node, "evicted", &[evicted]);
    drop(node);
    let outcome = look(&ActionClosureBroken, &context(root.path()));
    assert_eq!((outcome.status, &outcome.evidence.values()["explained"]), (Status::Ok, &1.into()), "{outcome:?}");
}

#[test]
fn bytes_of_another_kind_are_opaque() {
    let root = tempfile::tempdir().unwrap();
    let node = store(root.path());
    let name = ArtifactKey { producer: "bazel".into(), namespace: "main".into(), key: "ac/x".into() };
    put(&node, name, Kind::Action, b"\x07 no message at all");
    drop(node);
    let outcome = look(&ActionClosureBroken, &context(root.path()));
    assert_eq!((outcome.status, &outcome.evidence.values()["opaque"]), (Status::Ok, &1.into()), "{outcome:?}");
}
