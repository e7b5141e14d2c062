//! One contract over sockets and in memory.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use futures_util::StreamExt;
use http::{HeaderMap, Method, StatusCode};

use super::*;
use crate::core::mesh::http_transport::HttpTransport;
use crate::core::mesh::memory_transport::{LinkFault, MemoryTransport};

const PROMISED: u64 = 100;

/// A body that promises more than it brings, and then either fails or falls silent.
fn partial_body(silent: bool) -> http::Response<Body> {
    let first = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"0123456789"))]);
    let rest = async move {
        if silent {
            std::future::pending::<()>().await;
        }
        // The server sends what it has only when the body is not ready at once.
        tokio::task::yield_now().await;
        Err(std::io::Error::other("broken off"))
    };
    let body = Body::from_stream(first.chain(futures_util::stream::once(rest)));
    http::Response::builder().header("content-length", PROMISED).body(body).unwrap()
}

fn peer() -> Router {
    Router::new()
        .route(
            "/echo",
            get(|uri: http::Uri, body: String| async move { format!("{} {body}", uri.query().unwrap_or("")) }),
        )
        .route("/teapot", get(|| async { (StatusCode::IM_A_TEAPOT, [("x-why", "tea")], "short and stout") }))
        .route("/redirect", get(|| async { (StatusCode::FOUND, [("location", "/echo")]) }))
        .route("/cut", get(|| async { partial_body(false) }))
        .route("/silent-body", get(|| async { partial_body(true) }))
        .route("/silent", get(std::future::pending::<()>))
}

fn request(peer: &str, path: &str) -> PeerRequest {
    PeerRequest {
        method: Method::GET,
        peer: peer.to_owned(),
        path_and_query: path.to_owned(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        head_timeout: Duration::from_secs(5),
    }
}

async fn collect(response: PeerResponse) -> (Vec<u8>, Option<TransportError>) {
    let (mut bytes, mut error) = (Vec::new(), None);
    let mut body = response.body;
    while let Some(item) = body.next().await {
        match item {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(failed) => error = Some(failed),
        }
    }
    (bytes, error)
}

/// The contract, with a peer at `there` and nobody at `nowhere`.
async fn keeps_the_contract(transport: &dyn PeerTransport, there: &str, nowhere: &str) {
    let echo = PeerRequest { body: Bytes::from_static(b"hello"), ..request(there, "/echo?a=%2F") };
    let response = transport.send(echo).await.unwrap();
    assert_eq!(response.status, StatusCode::OK);
    assert_eq!(collect(response).await.0, b"a=%2F hello");

    let teapot = transport.send(request(there, "/teapot")).await.unwrap();
    assert_eq!((teapot.status, teapot.headers["x-why"].to_str().unwrap()), (StatusCode::IM_A_TEAPOT, "tea"));
    let redirect = transport.send(request(there, "/redirect")).await.unwrap();
    assert_eq!(redirect.status, StatusCode::FOUND, "redirects are not followed");

    let (bytes, error) = collect(transport.send(request(there, "/cut")).await.unwrap()).await;
    let error = error.expect("a cut body is an error");
    assert!(bytes.len() <= 10 && error.phase == TransportPhase::Body, "{error:?}");
    assert_eq!(error.received_bytes, u64::try_from(bytes.len()).unwrap());

    let refused = transport.send(request(nowhere, "/echo")).await.unwrap_err();
    assert_eq!((refused.phase, refused.peer.as_str()), (TransportPhase::Connect, nowhere));

    let hasty = PeerRequest { head_timeout: Duration::from_millis(20), ..request(there, "/silent") };
    assert_eq!(transport.send(hasty).await.unwrap_err().phase, TransportPhase::Response);

    let (_, error) = collect(transport.send(request(there, "/silent-body")).await.unwrap()).await;
    let error = error.expect("a silent body is an error");
    assert_eq!((error.phase, error.received_bytes), (TransportPhase::Body, 10));
}

#[tokio::test]
async fn sockets_keep_the_contract() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let there = format!("http://{}", listener.local_addr().unwrap());
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nowhere = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let server = tokio::spawn(async move { axum::serve(listener, peer()).await });
    let transport = HttpTransport::with_no_progress_timeout(Duration::from_millis(100));
    keeps_the_contract(&transport, &there, &nowhere).await;
    server.abort();
}

#[tokio::test(start_paused = true)]
async fn memory_keeps_the_contract() {
    let transport = MemoryTransport::new();
    transport.attach("http://there", Some(peer()));
    keeps_the_contract(&transport, "http://there", "http://nowhere").await;
}

#[tokio::test(start_paused = true)]
async fn links_in_memory_fail_as_told() {
    let transport = MemoryTransport::new();
    transport.attach("http://there", Some(peer()));
    let with_fault = |fault: LinkFault| {
        let links = transport.with_own_links();
        links.set_rule(Some(Arc::new(move |_| Some(fault.clone()))));
        async move { links.send(request("http://there", "/echo?0123456789")).await }
    };
    assert_eq!(with_fault(LinkFault::Refuse).await.unwrap_err().phase, TransportPhase::Connect);
    assert_eq!(with_fault(LinkFault::StallHead).await.unwrap_err().phase, TransportPhase::Response);
    let status = with_fault(LinkFault::Status(StatusCode::BAD_GATEWAY)).await.unwrap();
    assert_eq!(status.status, StatusCode::BAD_GATEWAY);
    let cut = collect(with_fault(LinkFault::CutBodyAfter(4)).await.unwrap()).await;
    assert_eq!((cut.0.as_slice(), cut.1.unwrap().received_bytes), (&b"0123"[..], 4));
    let stalled = collect(with_fault(LinkFault::StallBodyAfter(4)).await.unwrap()).await;
    assert_eq!(stalled.1.unwrap().message, "nothing arrived");
    let corrupt = collect(with_fault(LinkFault::CorruptByteAt(3)).await.unwrap()).await.0;
    assert_eq!(corrupt, [b"012", &[b'3' ^ 0xff][..], b"456789 "].concat());
    let late = collect(with_fault(LinkFault::Delay(Duration::from_secs(2))).await.unwrap()).await.0;
    assert_eq!(late, b"0123456789 ");
}

#[tokio::test]
async fn a_node_that_is_taken_from_memory_resets_what_is_under_way() {
    let transport = MemoryTransport::new();
    transport.attach("http://there", Some(peer()));
    let asked = tokio::spawn(transport.send(request("http://there", "/silent")));
    let begun = transport.send(request("http://there", "/silent-body")).await.unwrap();
    tokio::task::yield_now().await;
    transport.attach("http://there", None);
    assert_eq!(asked.await.unwrap().unwrap_err().phase, TransportPhase::Response);
    let (_, error) = collect(begun).await;
    assert_eq!(error.unwrap().phase, TransportPhase::Body);
    let refused = transport.send(request("http://there", "/echo")).await.unwrap_err();
    assert_eq!(refused.phase, TransportPhase::Connect);
}
