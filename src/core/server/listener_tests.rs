//! Connections without sockets: clients of HTTP/2 that take nothing, do nothing, or are sent away.

use axum::body::Body;
use axum::routing::get;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::TokioExecutor;
use tokio::io::duplex;
use tokio::time::{Instant, sleep, timeout};

use super::*;

const BODY_BYTES: usize = 1 << 20;

/// Counts the answers that are not dropped yet.
#[derive(Clone)]
struct Open(Arc<()>);

impl Open {
    fn new() -> Self {
        Self(Arc::new(()))
    }

    fn count(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

/// Answers with a large body in pieces, which holds a place in `open`.
fn app(open: &Open) -> Router {
    let held = Arc::downgrade(&open.0);
    let large = move || {
        let place = held.upgrade();
        let pieces = (0..BODY_BYTES / 4096).map(move |_| {
            let _place = &place;
            Ok::<_, std::io::Error>(bytes::Bytes::from_static(&[7; 4096]))
        });
        std::future::ready(Body::from_stream(futures_util::stream::iter(pieces)))
    };
    Router::new().route("/large", get(large)).route("/small", get(|| std::future::ready("small")))
}

type Sender = http2::SendRequest<Empty<bytes::Bytes>>;

/// A client whose streams have this window, and the task of its connection.
async fn client(app: Router, ending: &Ending, window: u32) -> (Sender, tokio::task::JoinHandle<()>) {
    let (near, far) = duplex(64 << 10);
    let ending = ending.clone();
    let serving = tokio::spawn(async move { serve_connection(far, app, &ending).await });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(window);
    let (sender, connection) = builder.handshake(TokioIo::new(near)).await.unwrap();
    tokio::spawn(connection);
    (sender, serving)
}

async fn ask(sender: &mut Sender, path: &str) -> hyper::Result<http::Response<hyper::body::Incoming>> {
    sender.ready().await?;
    sender.send_request(http::Request::get(format!("http://kura{path}")).body(Empty::new()).unwrap()).await
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_that_never_opens_its_window_loses_the_stream_and_not_the_connection() {
    let open = Open::new();
    let (mut sender, _serving) = client(app(&open), &Ending::default(), 0).await;
    let stuck = ask(&mut sender, "/large").await.unwrap();
    assert_eq!(open.count(), 1);
    let began = Instant::now();
    while open.count() > 0 {
        sleep(Duration::from_millis(100)).await;
        assert!(began.elapsed() < 2 * NO_PROGRESS_TIMEOUT, "the answer is held for ever");
    }
    assert!(began.elapsed() >= NO_PROGRESS_TIMEOUT, "given up after {:?}", began.elapsed());
    let error = stuck.into_body().collect().await.map(|_| ()).unwrap_err();
    assert!(!error.is_closed(), "the stream is reset, the connection stands: {error:?}");
    let head = ask(&mut sender, "/small").await.unwrap();
    assert_eq!(head.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_that_is_only_slow_keeps_its_stream() {
    let open = Open::new();
    let (mut sender, _serving) = client(app(&open), &Ending::default(), 32 << 10).await;
    let mut body = ask(&mut sender, "/large").await.unwrap().into_body();
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        let data = frame.expect("no reset").into_data().unwrap();
        received += data.len();
        if received % (128 << 10) == 0 {
            sleep(NO_PROGRESS_TIMEOUT - Duration::from_secs(5)).await;
        }
    }
    assert_eq!(received, BODY_BYTES);
}

#[tokio::test(start_paused = true)]
async fn an_http2_connection_without_requests_ends_although_it_answers_pings() {
    let open = Open::new();
    let (mut sender, serving) = client(app(&open), &Ending::default(), 1 << 20).await;
    let body = ask(&mut sender, "/small").await.unwrap().into_body();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "small");
    let began = Instant::now();
    timeout(3 * REQUEST_HEAD_TIMEOUT, serving).await.expect("closed").unwrap();
    assert!(began.elapsed() > REQUEST_HEAD_TIMEOUT / 2, "after {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_drain_sends_http2_clients_away_after_what_they_began_and_serves_those_that_come_back() {
    let (open, ending) = (Open::new(), Ending::default());
    let (mut sender, serving) = client(app(&open), &ending, 1 << 20).await;
    let begun = ask(&mut sender, "/large").await.unwrap();
    ending.away.cancel();
    let body = begun.into_body().collect().await.expect("what was begun ends well").to_bytes();
    assert_eq!(body.len(), BODY_BYTES);
    timeout(Duration::from_secs(5), serving).await.expect("closed").unwrap();
    assert!(ask(&mut sender, "/small").await.is_err(), "told to go");
    let (mut again, _serving) = client(app(&open), &ending, 1 << 20).await;
    assert_eq!(ask(&mut again, "/small").await.unwrap().status(), 200);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(ask(&mut again, "/small").await.unwrap().status(), 200, "and keeps its connection");
}
