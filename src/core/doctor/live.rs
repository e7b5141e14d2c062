//! Asking a running node: what it says of itself on its control socket, and how to ask.
//!
//! How it works: `GET /v1/status`, or `/v1/logs`, over the Unix socket in the data dir. The socket is reached through the data dir's
//! open handle under `/proc/self/fd`, because a socket's path may have no more than 107 bytes and a data dir's may.
//!
//! Invariants: the answer's fields are only added to, and each is optional to the reader, so that any two versions
//! understand each other. Asking changes nothing.
//!
//! Failure: whatever goes wrong means "nobody answers" and is said as such.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::data_dir::capacity::{Bound, Stage};
use crate::core::telemetry::recent::{self, RecentLog};

/// The answer's schema; a later, incompatible one gets another path.
pub const CONTROL_SCHEMA: &str = "kura.control/v1";

/// The path of the status.
pub const STATUS_PATH: &str = "/v1/status";

/// The path of the last log lines.
pub const LOGS_PATH: &str = "/v1/logs";

/// How long a running node may take for each piece of its answer. It answers from memory; more means it is stuck.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest answer that is read; a few hundred peers fit many times over.
const ANSWER_BYTES_MAX: u64 = 8 << 20;

/// What a running node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ControlStatus {
    /// [`CONTROL_SCHEMA`].
    pub schema: String,
    /// kura's version.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// This run of it.
    pub instance_id: String,
    /// Its clock, Unix milliseconds.
    pub now_ms: u64,
    /// Its data dir, as it was configured.
    pub data_dir: String,
    /// Its name in the mesh.
    pub node_url: String,
    /// Where clients reach it, once bound.
    pub public_address: Option<String>,
    /// Where peers reach it, once bound.
    pub internal_address: Option<String>,
    /// Whether it takes traffic.
    pub readiness: ReadinessStatus,
    /// Steps of start-up.
    pub startup: Vec<StepStatus>,
    /// The open store, if it is open.
    pub store: Option<StoreStatus>,
    /// The room on the volume, once it was looked at.
    pub space: Option<SpaceStatus>,
    /// The staging ledger.
    pub staging: StagingStatus,
    /// Requests in flight.
    pub inflight_requests: u64,
    /// Stores whose requests reached this node lately; absent from a node that does not tell.
    pub seen_inbound: Option<Vec<InboundStatus>>,
}

/// A store whose requests reached this node lately.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InboundStatus {
    /// Which.
    pub store_id: String,
    /// How long ago the last of them came.
    pub age_ms: u64,
}

/// Whether a node takes traffic, and why not.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReadinessStatus {
    /// What `/ready` answers.
    pub ready: bool,
    /// Whether everything the peers had when this node joined is settled.
    pub complete: bool,
    /// The seed era's state: joining, serving, draining.
    pub state: String,
    /// joining, complete, degraded, draining.
    pub readiness: String,
    /// Why; the gates that are closed.
    pub reasons: Vec<String>,
    /// Catch-up per peer.
    pub peers: Vec<PeerStatus>,
}

/// How far one peer has been caught up with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerStatus {
    /// The peer.
    pub url: String,
    /// Whether it answered last time.
    pub reachable: bool,
    /// Whether it no longer holds back readiness although it is not settled.
    pub excused: bool,
    /// Whether everything it had is settled.
    pub bootstrapped: bool,
    /// What is being done with it.
    pub phase: String,
    /// Rows settled in this pass.
    pub done: u64,
    /// Rows to settle in this pass, if known.
    pub total: Option<u64>,
    /// Rows a second.
    pub rate: u64,
    /// Last time anything moved, Unix milliseconds.
    pub last_advance_ms: Option<u64>,
    /// The last error.
    pub last_error: Option<String>,
    /// The URL it gives itself.
    pub node_url: String,
    /// Its store, once it answered; kept while it does not.
    pub store_id: Option<String>,
    /// How its circuit stands: closed, half_open, open.
    pub circuit: String,
    /// Requests to it that failed in a row.
    pub failures: u32,
    /// Milliseconds until it is asked again, if it is left alone now.
    pub next_try_in_ms: Option<u64>,
}

/// One step of start-up.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepStatus {
    /// Its name.
    pub name: String,
    /// running, done, failed.
    pub state: String,
    /// When it began, Unix milliseconds.
    pub started_at_ms: u64,
    /// How long it took, once ended.
    pub duration_ms: Option<u64>,
    /// Why it failed.
    pub error: Option<String>,
}

/// The open store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreStatus {
    /// The data's name.
    pub store_id: String,
    /// The current epoch.
    pub epoch: String,
    /// The newest row.
    pub head_seq: u64,
    /// Live artifacts.
    pub artifacts: u64,
    /// Bytes of their bodies.
    pub body_bytes: u64,
    /// Why writes are stopped, if they are.
    pub write_stopped: Option<String>,
    /// How long ago a lookup was answered, or first asked for in vain; absent from a node that does not tell.
    pub heartbeat_age_ms: Option<u64>,
    /// Bad bodies within a minute.
    pub withdrawals_per_minute: u64,
    /// The first of too many bad bodies, while none is withdrawn because of them.
    pub breaker_open: Option<String>,
    /// Until bodies are withdrawn again, while they are not.
    pub breaker_closes_in_ms: u64,
    /// The version of the oldest artifact; 0 = there is none.
    pub oldest_version_ms: u64,
}

/// The room on the volume, as the node last saw it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpaceStatus {
    /// How far things have gone.
    pub stage: Stage,
    /// The volume.
    pub total_bytes: u64,
    /// What the node can still write.
    pub free_bytes: u64,
    /// What its artifacts may take.
    pub capacity_bytes: u64,
    /// What the capacity follows from.
    pub capacity_bound: Bound,
    /// What its artifacts take.
    pub charged_bytes: u64,
    /// What is over, and not evicted yet.
    pub excess_bytes: u64,
    /// The ballast in place.
    pub ballast_bytes: u64,
    /// The ballast there should be.
    pub ballast_expected_bytes: u64,
    /// Why the volume could not be measured, or room not be made.
    pub error: Option<String>,
}

/// The staging ledger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StagingStatus {
    /// Bytes reserved.
    pub reserved_bytes: u64,
    /// The ledger's size.
    pub budget_bytes: u64,
    /// Uploads in parts that are open.
    pub uploads_open: u64,
    /// How many may be; 0 from a node that does not tell.
    pub uploads_max: u64,
    /// The longest time one of them has been without progress, in seconds.
    pub uploads_idle_max_s: u64,
}

/// Nobody answered on the control socket.
#[derive(Debug, thiserror::Error)]
pub enum Silence {
    /// The socket is not there, or nobody listens on it.
    #[error("no answer on {path}")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Somebody listens and does not answer as a kura node does.
    #[error("no usable answer on {path}: {reason}")]
    Unusable {
        /// The socket.
        path: PathBuf,
        /// What was wrong.
        reason: String,
    },
}

/// Asks the node that listens on this socket.
pub fn ask(socket: &Path) -> Result<ControlStatus, Silence> {
    let status: ControlStatus = asked(socket, STATUS_PATH)?;
    checked(socket, &status.schema, CONTROL_SCHEMA)?;
    Ok(status)
}

/// Asks it for its last log lines.
pub fn ask_for_log(socket: &Path) -> Result<RecentLog, Silence> {
    let log: RecentLog = asked(socket, LOGS_PATH)?;
    checked(socket, &log.schema, recent::SCHEMA)?;
    Ok(log)
}

fn asked<T: serde::de::DeserializeOwned>(socket: &Path, path: &str) -> Result<T, Silence> {
    let unusable = |reason: String| Silence::Unusable { path: socket.to_owned(), reason };
    let connected = connect(socket);
    let mut stream = connected.map_err(|source| Silence::Unreachable { path: socket.to_owned(), source })?;
    let answer = exchange(&mut stream, path).map_err(|error| unusable(error.to_string()))?;
    let body = body_of(&answer).map_err(unusable)?;
    serde_json::from_slice(body).map_err(|error| unusable(error.to_string()))
}

fn checked(socket: &Path, schema: &str, ours: &str) -> Result<(), Silence> {
    if schema == ours {
        return Ok(());
    }
    Err(Silence::Unusable { path: socket.to_owned(), reason: format!("it speaks {schema:?}, this is {ours:?}") })
}

/// Calls `with` with a path to a name in a folder that is short enough for a socket address, however long the
/// folder's own path is. The path is valid for the length of the call only.
pub fn with_short_path<T>(path: &Path, with: impl FnOnce(&Path) -> std::io::Result<T>) -> std::io::Result<T> {
    let name = path.file_name().ok_or(std::io::ErrorKind::InvalidInput)?;
    let folder = File::open(path.parent().ok_or(std::io::ErrorKind::InvalidInput)?)?;
    with(&PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name))
}

fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    let stream = with_short_path(socket, |short| UnixStream::connect(short))?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(stream)
}

/// HTTP/1.0, so that the answer is plain and ends with the connection.
fn exchange(stream: &mut UnixStream, path: &str) -> std::io::Result<Vec<u8>> {
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: kura\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}

fn body_of(answer: &[u8]) -> Result<&[u8], String> {
    let status = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    if !status.starts_with(b"HTTP/1.") || !status.windows(5).any(|window| window == b" 200 ") {
        return Err(format!("it says {:?}", String::from_utf8_lossy(status)));
    }
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    end.and_then(|end| answer.get(end + 4..)).ok_or_else(|| "the answer was cut short".to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Serves the given bytes once on a socket in a folder whose path is longer than a socket address.
    fn answered_with(answer: &'static [u8]) -> Result<ControlStatus, Silence> {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("long".repeat(40));
        std::fs::create_dir(&folder).unwrap();
        let socket = folder.join("control.sock");
        let listener = with_short_path(&socket, |short| UnixListener::bind(short)).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0_u8; 256];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(answer).unwrap();
        });
        let status = ask(&socket);
        server.join().unwrap();
        status
    }

    #[test]
    fn an_answer_with_unknown_and_missing_fields_is_understood() {
        let status =
            answered_with(b"HTTP/1.0 200 OK\r\nx: y\r\n\r\n{\"schema\":\"kura.control/v1\",\"pid\":7,\"moon\":{}}")
                .unwrap();
        assert_eq!((status.pid, status.readiness.ready), (7, false));
    }

    #[test]
    fn any_other_answer_is_silence_that_says_why() {
        let said = |answer| answered_with(answer).unwrap_err().to_string();
        assert!(said(b"HTTP/1.1 503 no\r\n\r\n{}").ends_with(r#"it says "HTTP/1.1 503 no""#));
        assert!(said(b"SSH-2.0-x\r\n").contains("SSH-2.0-x"));
        assert!(said(b"HTTP/1.1 200 OK\r\nContent").ends_with("cut short"));
        assert!(said(b"HTTP/1.1 200 OK\r\n\r\n{\"schema\":\"kura.control/v9\"}").contains("kura.control/v9"));
        assert!(said(b"HTTP/1.1 200 OK\r\n\r\nnot json").contains("expected"));
    }

    #[test]
    fn a_socket_that_is_gone_or_dead_is_silence() {
        let root = tempfile::tempdir().unwrap();
        let socket = root.path().join("control.sock");
        assert!(matches!(ask(&socket), Err(Silence::Unreachable { .. })));
        drop(UnixListener::bind(&socket).unwrap());
        assert!(socket.exists(), "what kill -9 leaves behind");
        assert!(matches!(ask(&socket), Err(Silence::Unreachable { .. })));
    }
}
