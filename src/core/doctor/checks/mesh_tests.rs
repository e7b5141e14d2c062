//! Meshes as they are after accidents: nobody named, only oneself, other versions, copied volumes, wrong clocks.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use serde_json::{Value, json};

use super::*;
use crate::core::base::ids::StoreId;
use crate::core::config::Config;
use crate::core::doctor::context::Mode;
use crate::core::doctor::finding::Status;
use crate::core::doctor::test_support::{config, context, context_with, context_with_peers, look, store, world};
use crate::core::mesh::memory_transport::MemoryTransport;

/// What a node's clock says in these tests.
const NOW_MS: u64 = 1_750_000_000_000;

fn kura(run: &str, store_id: &str) -> Value {
    let protocol = json!({"min": PROTOCOL_MIN, "max": PROTOCOL_MAX});
    json!({"store_id": store_id, "instance_id": run, "protocol": protocol, "now_ms": NOW_MS})
}

fn network(nodes: &[(&str, Value)]) -> MemoryTransport {
    let network = MemoryTransport::new();
    for (url, kura) in nodes {
        let mut status = json!({"node_url": url, "tenant_id": "default", "region": "r"});
        if !kura.is_null() {
            status["kura"] = kura.clone();
        }
        let answer = move || async move { axum::Json(status) };
        network.attach(url, Some(Router::new().route("/_internal/status", get(answer))));
    }
    network
}

fn looked(check: &dyn Check, root: &Path, nodes: &[(&str, Value)]) -> Outcome {
    let urls: Vec<&str> = nodes.iter().map(|(url, _)| *url).collect();
    look(check, &context_with_peers(root, &urls, Arc::new(network(nodes))))
}

const CHECKS: [&dyn Check; 5] = [&PeersNone, &PeersOnlySelf, &PeerVersion, &NodeIdDuplicate, &ClockSkew];

#[test]
fn a_sound_mesh_is_quiet_and_so_is_a_node_without_peers() {
    let root = tempfile::tempdir().unwrap();
    store(root.path()).close().unwrap();
    let nodes = [("http://a:7443", kura("run-a", "store-a")), ("http://b:7443", kura("run-b", "store-b"))];
    for check in CHECKS {
        let outcome = looked(check, root.path(), &nodes);
        assert_eq!(outcome.status, Status::Ok, "{}: {outcome:?}", check.about().code);
        assert_eq!(look(check, &context(root.path())).status, Status::Skip, "{}", check.about().code);
    }
}

#[test]
fn sources_that_name_nobody_are_told_with_their_answer() {
    let root = tempfile::tempdir().unwrap();
    let config = Config { discovery_dns_name: Some("nobody.invalid".to_owned()), ..config(root.path()) };
    let world = crate::core::doctor::context::World { transport: Some(Arc::new(network(&[]))), ..world() };
    let context = context_with(config, Mode::Auto, world);
    let outcome = look(&PeersNone, &context);
    assert_eq!(outcome.status, Status::Warn);
    assert!(outcome.evidence.line().contains("nobody.invalid"), "{outcome:?}");
    assert_eq!(look(&PeersOnlySelf, &context).status, Status::Ok, "that nobody is named is the other finding");
    assert_eq!(look(&ClockSkew, &context).status, Status::Skip);
}

#[test]
fn sources_that_name_only_this_node_are_told_whether_by_its_url_or_an_alias() {
    let root = tempfile::tempdir().unwrap();
    let own = "http://127.0.0.1:7443";
    let network = network(&[]);
    let status = json!({"node_url": own, "tenant_id": "default", "region": "r"});
    let answer = move || async move { axum::Json(status) };
    network.attach("http://alias:7443", Some(Router::new().route("/_internal/status", get(answer))));
    for named in [&[own][..], &["http://alias:7443"], &[own, "http://alias:7443"]] {
        let context = context_with_peers(root.path(), named, Arc::new(network.clone()));
        let outcome = look(&PeersOnlySelf, &context);
        assert_eq!(
            (outcome.status, outcome.evidence.values()["own_addresses"].as_u64()),
            (Status::Warn, Some(named.len() as u64))
        );
        assert_eq!(look(&PeersNone, &context).status, Status::Ok);
    }
}

#[test]
fn seed_era_nodes_and_other_protocols_are_named() {
    let root = tempfile::tempdir().unwrap();
    let mut later = kura("run-b", "store-b");
    later["protocol"] = json!({"min": PROTOCOL_MAX + 1, "max": PROTOCOL_MAX + 3});
    let mut wider = kura("run-c", "store-c");
    wider["protocol"] = json!({"min": PROTOCOL_MIN, "max": PROTOCOL_MAX + 1});
    let nodes = [
        ("http://a:7443", Value::Null),
        ("http://b:7443", later),
        ("http://c:7443", wider),
        ("http://d:7443", kura("run-d", "store-d")),
    ];
    let outcome = looked(&PeerVersion, root.path(), &nodes);
    assert_eq!((outcome.status, outcome.message.as_str()), (Status::Warn, "3 of 4 peers speak another version"));
    let lines = outcome.evidence.details();
    assert_eq!(lines[0], "http://a:7443: a node of the seed era");
    assert_eq!(lines[1], "http://b:7443: speaks protocol 2 to 4, none in common");
    assert_eq!(lines[2], "http://c:7443: speaks protocol 1 to 2");
}

#[test]
fn one_store_at_two_nodes_is_told_and_two_addresses_of_one_node_are_not() {
    let root = tempfile::tempdir().unwrap();
    let twice = [("http://a:7443", kura("run-a", "store-a")), ("http://10.0.0.1:7443", kura("run-a", "store-a"))];
    assert_eq!(looked(&NodeIdDuplicate, root.path(), &twice).status, Status::Ok);
    let copied = [("http://a:7443", kura("run-a", "store-a")), ("http://b:7443", kura("run-b", "store-a"))];
    let outcome = looked(&NodeIdDuplicate, root.path(), &copied);
    assert_eq!(outcome.status, Status::Fail);
    assert_eq!(outcome.evidence.details(), ["store-a: http://a:7443, http://b:7443"]);
    assert!(outcome.remedy.unwrap().commands[0].ends_with("--new-identity"));
}

#[test]
fn a_peer_that_runs_on_a_copy_of_this_data_dir_is_told_offline() {
    let root = tempfile::tempdir().unwrap();
    store(root.path()).close().unwrap();
    let Ok(IdentityState::Ok(identity)) =
        Identity::load(&crate::core::data_dir::layout::Layout::with_default_tmp(root.path()))
    else {
        panic!("an identity")
    };
    let own: StoreId = identity.store_id;
    let outcome = looked(&NodeIdDuplicate, root.path(), &[("http://a:7443", kura("run-a", &own.to_string()))]);
    assert_eq!(outcome.status, Status::Fail, "{outcome:?}");
    assert!(outcome.evidence.details()[0].contains("(this node)"));
}

#[test]
fn clocks_apart_warn_from_a_second_and_fail_from_half_a_minute() {
    let root = tempfile::tempdir().unwrap();
    let at = |now_ms: u64| {
        let mut kura = kura("run-a", "store-a");
        kura["now_ms"] = now_ms.into();
        looked(&ClockSkew, root.path(), &[("http://a:7443", kura)])
    };
    assert_eq!(at(NOW_MS + 900).status, Status::Ok);
    let ahead = at(NOW_MS + 20_000);
    assert_eq!(ahead.status, Status::Warn);
    assert!(ahead.evidence.details()[0].contains(" ms ahead, round trip "), "{ahead:?}");
    let behind = at(NOW_MS - 60_000);
    assert_eq!((behind.status, behind.severity), (Status::Fail, Some(Severity::Fail)));
    assert!(behind.evidence.details()[0].contains("behind"));
    assert_eq!(at(0).status, Status::Ok, "a node that does not tell its clock is not called wrong");
}

#[test]
fn what_a_slow_exchange_explains_is_not_called_skew() {
    let offset = Offset { url: "http://a:7443", ms: 2_500, round_trip_ms: 4_000 };
    assert_eq!(offset.certain_ms(), 500);
}
