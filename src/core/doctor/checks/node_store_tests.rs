//! A running node whose store stands still, whose bodies are bad, or that is empty.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use serde_json::json;

use super::*;
use crate::core::doctor::finding::Status;
use crate::core::doctor::live::{ReadinessStatus, SpaceStatus};
use crate::core::doctor::test_support::{context, context_with_peers, look};
use crate::core::mesh::memory_transport::MemoryTransport;

fn with(store: StoreStatus) -> ControlStatus {
    ControlStatus { store: Some(store), ..ControlStatus::default() }
}

fn looked(check: &dyn Check, status: ControlStatus) -> Outcome {
    let root = tempfile::tempdir().unwrap();
    let mut context = context(root.path());
    context.vantage = Vantage::Live(Box::new(status));
    look(check, &context)
}

#[test]
fn a_store_that_answers_is_quiet_and_one_that_has_not_for_long_fails() {
    let beat = |heartbeat_age_ms| looked(&NoProgress, with(StoreStatus { heartbeat_age_ms, ..StoreStatus::default() }));
    assert_eq!(beat(None).status, Status::Skip, "an older node does not tell");
    assert_eq!(beat(Some(12_000)).status, Status::Ok, "a busy disk");
    let outcome = beat(Some(40_000));
    assert_eq!((outcome.status, outcome.message.as_str()), (Status::Fail, "the store has not answered for 40 s"));
    assert_eq!(looked(&NoProgress, ControlStatus::default()).status, Status::Skip);
}

#[test]
fn without_a_process_nothing_is_expected_to_move() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(look(&NoProgress, &context(root.path())).status, Status::Skip);
}

#[test]
fn an_open_breaker_is_told_with_its_first_error_and_single_bad_bodies_are_not() {
    let few = StoreStatus { withdrawals_per_minute: 3, ..StoreStatus::default() };
    assert_eq!(looked(&BreakerOpen, with(few)).status, Status::Ok);
    let open = StoreStatus {
        withdrawals_per_minute: 61,
        breaker_open: Some("the body is missing".to_owned()),
        breaker_closes_in_ms: 599_500,
        ..StoreStatus::default()
    };
    let outcome = looked(&BreakerOpen, with(open));
    let line = "61 bad bodies within a minute (at most 60) · the first: the body is missing · withdrawn again in 600 s";
    assert_eq!((outcome.status, outcome.evidence.line().as_str()), (Status::Fail, line));
}

/// A ready node with so many artifacts beside a peer that answers with so many, or not at all.
fn ready(artifacts: u64, peer: Option<u64>, space: Option<SpaceStatus>) -> Outcome {
    let network = MemoryTransport::new();
    if let Some(theirs) = peer {
        let kura = json!({"store_id": "b", "instance_id": "b", "artifacts": theirs});
        let status = json!({"node_url": "http://b:7443", "tenant_id": "default", "region": "r", "kura": kura});
        let answer = move || async move { axum::Json(status) };
        network.attach("http://b:7443", Some(Router::new().route("/_internal/status", get(answer))));
    }
    let root = tempfile::tempdir().unwrap();
    let mut context = context_with_peers(root.path(), &["http://b:7443"], Arc::new(network));
    let readiness = ReadinessStatus { ready: true, ..ReadinessStatus::default() };
    let store = StoreStatus { artifacts, oldest_version_ms: 1_000, ..StoreStatus::default() };
    let status = ControlStatus { now_ms: 61_000, readiness, space, ..with(store) };
    context.vantage = Vantage::Live(Box::new(status));
    look(&ReadyButEmpty, &context)
}

#[test]
fn a_node_with_what_its_peers_have_is_quiet_and_one_with_little_of_it_warns() {
    assert_eq!(ready(90, Some(100), None).status, Status::Ok);
    assert_eq!(ready(0, Some(0), None).status, Status::Ok, "the whole mesh is empty");
    assert_eq!(ready(5, None, None).status, Status::Ok, "it is not empty");
    let outcome = ready(20, Some(100), None);
    assert_eq!(outcome.status, Status::Warn);
    assert_eq!(outcome.message, "the node takes traffic with 20 % of what the fullest peer has");
    assert_eq!(outcome.evidence.line(), "20 artifacts here, 100 there · the oldest is 60 s old");
}

#[test]
fn an_empty_node_whose_peers_are_silent_warns_and_a_full_small_one_does_not() {
    assert_eq!(ready(0, None, None).message, "the node takes traffic, is empty, and no peer answers");
    let full = SpaceStatus { capacity_bytes: 100, charged_bytes: 95, ..SpaceStatus::default() };
    assert_eq!(ready(20, Some(100), Some(full)).status, Status::Ok);
}
