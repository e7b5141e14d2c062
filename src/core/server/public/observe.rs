//! What every public request passes: it is counted, timed and held in the drain's count until its answer is out.
//!
//! Invariant: routes are labelled by their template, `/_unmatched` otherwise, so labels are a closed list. Probes do
//! not count as in flight: a slow scraper must not hold up a drain.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Version, header};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::problem::Limit;
use crate::core::server::drain::RequestGuard;
use crate::core::server::node::NodeContext;
use crate::core::server::probes;

/// The status of a request whose client went away before its answer: none that a client gets to see.
const CLIENT_GONE: &str = "499";

/// The label of requests that match no route.
const UNMATCHED: &str = "/_unmatched";

/// Counts a request and its answer.
pub async fn observe(State(node): State<Arc<NodeContext>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or(UNMATCHED, MatchedPath::as_str);
    let probe = probes::is_probe(request.uri().path());
    let http1 = request.version() < Version::HTTP_2;
    let inflight = (!probe).then(|| Inflight::enter(&node));
    let began = node.seams.clock.monotonic();
    let unanswered = Unanswered { node: &node, route, answered: false };
    let mut response = next.run(request).await;
    unanswered.end();
    if let Some(limit) = response.extensions().get::<Limit>() {
        node.server_metrics.refused(*limit);
    }
    let latency = node.seams.clock.monotonic().saturating_sub(began);
    node.server_metrics.public_latency.with_label_values(&["http", route]).observe(latency.as_secs_f64());
    node.server_metrics.requests.with_label_values(&[route, response.status().as_str()]).inc();
    if !probe && http1 && node.drain.is_draining() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|inner| Body::new(ObservedBody { inner, began, node, _inflight: inflight }))
}

/// A request without an answer yet. Its future is dropped when its client goes away, which is no fault of the node.
struct Unanswered<'a> {
    node: &'a NodeContext,
    route: &'a str,
    answered: bool,
}

impl Unanswered<'_> {
    fn end(mut self) {
        self.answered = true;
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.node.server_metrics.requests.with_label_values(&[self.route, CLIENT_GONE]).inc();
        }
    }
}

/// One request in the drain's count and in the gauge.
struct Inflight {
    _guard: RequestGuard,
    gauge: prometheus::IntGauge,
}

impl Inflight {
    fn enter(node: &NodeContext) -> Self {
        let gauge = node.server_metrics.inflight.clone();
        gauge.inc();
        Self { _guard: node.drain.enter(), gauge }
    }
}

impl Drop for Inflight {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// A response body that notes when it is gone.
struct ObservedBody {
    inner: Body,
    began: Duration,
    node: Arc<NodeContext>,
    _inflight: Option<Inflight>,
}

impl http_body::Body for ObservedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for ObservedBody {
    fn drop(&mut self) {
        let whole = self.node.seams.clock.monotonic().saturating_sub(self.began);
        self.node.server_metrics.request_duration.observe(whole.as_secs_f64());
    }
}
