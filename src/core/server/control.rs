//! The control socket: a running node answers `GET /v1/status` and `GET /v1/logs` on a Unix socket in its data dir, for
//! `kura doctor`.
//!
//! How it works: the socket is made with mode 0600 (its inode takes the mode of the unbound socket), through the data
//! dir's open handle, so that the length of the data dir's path does not matter. A dead one of an earlier process is
//! removed first: whoever calls this holds the data-dir lock. Answers come from memory only.
//!
//! Invariants: nothing can be changed through it. No user part of a URL leaves with the log's lines. At most [`CONNECTIONS_MAX`] connections, each bounded in time.
//!
//! Failure: a node serves without its control socket; why there is none is logged once, and the doctor then looks at
//! files only. kill -9 leaves a dead socket, on which nobody answers.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::node::NodeContext;
use super::space_keeper;
use super::startup_status::StepReport;
use crate::core::base::ids::StoreId;
use crate::core::doctor::live::{
    CONTROL_SCHEMA, ControlStatus, InboundStatus, LOGS_PATH, PeerStatus, ReadinessStatus, STATUS_PATH, StagingStatus,
    StepStatus, StoreStatus, with_short_path,
};
use crate::core::doctor::redaction::Secrets;
use crate::core::mesh::readiness::PeerProgress;
use crate::core::store::Store;
use crate::core::telemetry::logging::recent;
use crate::core::telemetry::recent::RecentLog;

/// Connections at a time; one doctor needs one.
const CONNECTIONS_MAX: usize = 8;
/// How long one connection may live; an answer takes microseconds.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Callers the kernel keeps waiting.
const BACKLOG: i32 = 16;
/// After a failed accept (no file descriptor left, for instance) the next is tried this much later.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Answers on the control socket until the node's shutdown is cancelled; then the socket is removed.
/// A socket that cannot be made is a warning in the log and never a failure of the node.
pub async fn serve_control(node: Arc<NodeContext>) {
    let path = node.layout.control_socket();
    let listener = match bind(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "control_socket_missing");
            return;
        }
    };
    answer_callers(&node, &listener).await;
    drop(listener);
    remove_socket(&path);
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    remove_dead_socket(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    with_short_path(path, |short| Ok(rustix::net::bind(&socket, &SocketAddrUnix::new(short)?)?))?;
    rustix::net::listen(&socket, BACKLOG)?;
    UnixListener::from_std(socket.into())
}

/// Removes what an earlier process left, and nothing that is not a socket.
fn remove_dead_socket(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is not a socket is in its place")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn remove_socket(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(path = %path.display(), %error, "control_socket_not_removed");
    }
}

async fn answer_callers(node: &Arc<NodeContext>, listener: &UnixListener) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = node.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // A caller beyond the bound is hung up on: the doctor says that nobody answers, which is near enough.
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
        let node = Arc::clone(node);
        tokio::spawn(async move {
            let shutdown = node.shutdown.clone();
            tokio::select! {
                () = shutdown.cancelled() => {}
                _ = tokio::time::timeout(CONNECTION_TIMEOUT, answer(node, stream)) => {}
            }
            drop(permit);
        });
    }
}

async fn answer(node: Arc<NodeContext>, stream: UnixStream) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(&node, &request);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(CONNECTION_TIMEOUT).keep_alive(false);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "control_connection_failed");
    }
}

fn respond(node: &NodeContext, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let answer = match request.uri().path() {
        _ if request.method() != Method::GET => Err((StatusCode::METHOD_NOT_ALLOWED, "nothing can be changed here")),
        STATUS_PATH => Ok(serde_json::to_vec(&status_of(node))),
        LOGS_PATH => Ok(serde_json::to_vec(&recent_log())),
        _ => Err((StatusCode::NOT_FOUND, "there are only GET /v1/status and GET /v1/logs here")),
    };
    let (status, body) = match answer {
        Ok(Ok(body)) => (StatusCode::OK, body),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, message(&error.to_string())),
        Err((status, why)) => (status, message(why)),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// The last log lines, without what may be a password.
fn recent_log() -> RecentLog {
    let mut log = recent().lines();
    let secrets = Secrets::default();
    log.lines.iter_mut().for_each(|line| *line = secrets.cleaned(line));
    log
}

fn message(text: &str) -> Vec<u8> {
    serde_json::json!({ "message": text }).to_string().into_bytes()
}

/// What the node says of itself; from memory only.
pub fn status_of(node: &NodeContext) -> ControlStatus {
    let addresses = node.addresses.get();
    let uploads = node.uploads.slots();
    ControlStatus {
        schema: CONTROL_SCHEMA.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        instance_id: node.instance_id.to_string(),
        now_ms: node.seams.clock.now_ms(),
        data_dir: node.layout.data_dir().to_string_lossy().into_owned(),
        node_url: node.config.node_url.clone(),
        public_address: addresses.map(|addresses| addresses.public.to_string()),
        internal_address: addresses.map(|addresses| addresses.internal.to_string()),
        readiness: readiness_of(node),
        startup: node.startup.steps().into_iter().map(step_of).collect(),
        store: node.store.current().map(|store| store_of(node, &store)),
        space: space_keeper::status_of(node),
        staging: StagingStatus {
            reserved_bytes: node.staging.reserved_bytes(),
            budget_bytes: node.config.tmp_dir_max_bytes,
            uploads_open: uploads.open as u64,
            uploads_max: uploads.limit as u64,
            uploads_idle_max_s: uploads.idle_max_s,
        },
        inflight_requests: node.drain.inflight(),
        seen_inbound: Some(node.membership.inbound_ages().into_iter().map(inbound_of).collect()),
    }
}

fn readiness_of(node: &NodeContext) -> ReadinessStatus {
    let snapshot = node.readiness.snapshot();
    ReadinessStatus {
        ready: snapshot.ready,
        complete: snapshot.complete,
        state: word_of(&snapshot.state),
        readiness: word_of(&snapshot.readiness),
        reasons: snapshot.reasons,
        peers: snapshot.peers.into_iter().map(|peer| peer_of(node, peer)).collect(),
    }
}

fn inbound_of((store_id, age): (StoreId, Duration)) -> InboundStatus {
    InboundStatus { store_id: store_id.to_string(), age_ms: ms(age) }
}

fn peer_of(node: &NodeContext, peer: PeerProgress) -> PeerStatus {
    let circuit = node.readiness.circuits().view(&peer.url, node.seams.clock.monotonic());
    let members = node.membership.watch();
    let store_id = members.borrow().iter().find(|member| member.url == peer.url).and_then(|member| member.store_id());
    PeerStatus {
        node_url: peer.node_url,
        store_id: store_id.map(|store_id| store_id.to_string()),
        circuit: circuit.state.name().to_owned(),
        failures: circuit.failures,
        next_try_in_ms: circuit.retry_in.map(ms),
        phase: word_of(&peer.phase),
        url: peer.url,
        reachable: peer.reachable,
        excused: peer.excused,
        bootstrapped: peer.bootstrapped,
        done: peer.done,
        total: peer.total,
        rate: peer.rate,
        last_advance_ms: peer.last_advance_ms,
        last_error: peer.last_error,
    }
}

/// The word by which an enum without fields travels in JSON.
fn word_of(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn step_of(step: StepReport) -> StepStatus {
    StepStatus {
        name: step.name.to_owned(),
        state: word_of(&step.state),
        started_at_ms: step.started_at_ms,
        duration_ms: step.duration_ms,
        error: step.error,
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn store_of(node: &NodeContext, store: &Store) -> StoreStatus {
    let (stats, breaker) = (store.stats(), store.breaker());
    StoreStatus {
        heartbeat_age_ms: Some(ms(node.store_beat.age(node.seams.clock.monotonic()))),
        withdrawals_per_minute: breaker.per_minute as u64,
        breaker_open: breaker.open,
        breaker_closes_in_ms: ms(breaker.closes_in),
        oldest_version_ms: stats.oldest_version_ms,
        store_id: stats.store_id.to_string(),
        epoch: stats.epoch.to_string(),
        head_seq: stats.head_seq.0,
        artifacts: stats.artifacts,
        body_bytes: stats.body_bytes,
        write_stopped: stats.write_stopped,
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
