//! Peers that answer, refuse, are silent, or are something else.

use axum::Router;
use axum::routing::get;
use http::StatusCode;

use super::*;
use crate::core::doctor::finding::Status;
use crate::core::doctor::test_support::{context, context_with_peers, look};
use crate::core::mesh::http_transport::HttpTransport;
use crate::core::mesh::memory_transport::{LinkFault, MemoryTransport};

fn node(url: &'static str) -> Router {
    let status =
        move || async move { axum::Json(serde_json::json!({"node_url": url, "tenant_id": "default", "region": "r"})) };
    Router::new().route(STATUS_PATH, get(status))
}

fn looked(network: &MemoryTransport, peers: &[&str]) -> Outcome {
    let root = tempfile::tempdir().unwrap();
    look(&PeerUnreachable, &context_with_peers(root.path(), peers, Arc::new(network.clone())))
}

#[test]
fn without_peers_nobody_is_asked() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(look(&PeerUnreachable, &context(root.path())).status, Status::Skip);
}

#[test]
fn peers_that_answer_are_quiet_and_the_own_address_is_no_peer() {
    let network = MemoryTransport::new();
    network.attach("http://a:7443", Some(node("http://a:7443")));
    network.attach("http://alias:7443", Some(node("http://127.0.0.1:7443")));
    let outcome = looked(&network, &["http://a:7443/", "http://alias:7443", "http://127.0.0.1:7443"]);
    assert_eq!(outcome.status, Status::Ok, "{outcome:?}");
    assert_eq!(
        (&outcome.evidence.values()["peers"], &outcome.evidence.values()["own_addresses"]),
        (&1.into(), &1.into())
    );
}

#[test]
fn one_silent_peer_warns_and_all_of_them_fail_with_address_phase_and_time() {
    let network = MemoryTransport::new();
    network.attach("http://a:7443", Some(node("http://a:7443")));
    let one = looked(&network, &["http://a:7443", "http://gone:7443"]);
    assert_eq!((one.status, one.message.as_str()), (Status::Warn, "1 of 2 peers do not answer"));
    let line = &one.evidence.details()[0];
    assert!(line.starts_with("http://gone:7443: connect failed after "), "{line}");
    assert!(one.remedy.unwrap().commands[0].contains("http://gone:7443/_internal/status"));
    let all = looked(&network, &["http://gone:7443"]);
    assert_eq!(all.status, Status::Fail);
}

#[test]
fn something_else_behind_the_address_is_told_as_such() {
    let network = MemoryTransport::new();
    network.attach("http://public:4000", Some(Router::new()));
    let outcome = looked(&network, &["http://public:4000"]);
    assert!(outcome.evidence.details()[0].contains("http failed"), "{outcome:?}");
    let page = Router::new().route(STATUS_PATH, get(|| async { "<html>" }));
    network.attach("http://page:80", Some(page));
    assert!(looked(&network, &["http://page:80"]).evidence.details()[0].contains("not the status of a node"));
    network.set_rule(Some(Arc::new(|_| Some(LinkFault::Status(StatusCode::BAD_GATEWAY)))));
    assert!(looked(&network, &["http://page:80"]).evidence.details()[0].contains("502"));
}

#[test]
fn a_closed_port_is_named_over_real_sockets() {
    let root = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let outcome = look(&PeerUnreachable, &context_with_peers(root.path(), &[&url], Arc::new(HttpTransport::default())));
    assert_eq!(outcome.status, Status::Fail);
    assert!(outcome.evidence.details()[0].starts_with(&format!("{url}: connect failed")), "{outcome:?}");
}
