//! What went wrong with a request, and the shape in which each tool can bear to hear it.
//!
//! How it works: everything below answers with a [`Problem`]; only the edge turns it into a response, by the
//! [`Shape`] of the route. Nx fails the user's build on any GET answer but 200 and 404 and any PUT answer but 200,
//! 403 and 409; Gradle and ccache switch their cache off on errors, so they get a miss where a miss is true.

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;

use crate::core::staging::area::StagingError;
use crate::core::store::error::StoreError;
use crate::core::telemetry::repeated::Repeated;

/// Faults name paths and artifacts, so more of them are worth reading.
static FAULTS: Repeated = Repeated::new(20);

/// How trouble looks to a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The status as it is, with `{"message"}`.
    Json,
    /// As `Json`, but a body that cannot be read is a miss.
    HonestMiss,
    /// GET: 404. PUT: 403 with the reason as plain text.
    Nx,
}

/// A limit that refused a request although nothing is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The longest body of the route.
    BodyLength,
    /// Room on the volume.
    DiskSpace,
    /// Room in the staging ledger.
    StagingLedger,
    /// Open uploads in parts.
    UploadSlots,
    /// The node goes away.
    Draining,
    /// The store is not open yet.
    StoreNotOpen,
    /// The store of a peer that may have it is not open yet.
    PeerNotOpen,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::BodyLength,
        Self::DiskSpace,
        Self::StagingLedger,
        Self::UploadSlots,
        Self::Draining,
        Self::StoreNotOpen,
        Self::PeerNotOpen,
    ];

    /// The lines logged for it.
    fn lines(self) -> &'static Repeated {
        /// One is as good as many: the requests differ, the limit does not.
        static LINES: [Repeated; Limit::ALL.len()] = [const { Repeated::new(3) }; Limit::ALL.len()];
        LINES.get(self as usize).unwrap_or(&FAULTS)
    }

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::BodyLength => "body_length",
            Self::DiskSpace => "disk_space",
            Self::StagingLedger => "staging_ledger",
            Self::UploadSlots => "upload_slots",
            Self::Draining => "draining",
            Self::StoreNotOpen => "store_not_open",
            Self::PeerNotOpen => "peer_not_open",
        }
    }
}

/// Whether a request reads or writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// GET and HEAD.
    Read,
    /// Everything that stores.
    Write,
}

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The request cannot be meant.
    #[error("{0}")]
    BadRequest(String),
    /// The artifact is not here.
    #[error("artifact not found")]
    NotFound,
    /// Something else that is named is not here.
    #[error("{0}")]
    Missing(String),
    /// The body passes its limit.
    #[error("the body is longer than {limit} bytes")]
    TooLarge {
        /// The route's limit in bytes.
        limit: u64,
    },
    /// The parts of a multipart upload together pass the limit.
    #[error("{0}")]
    Unprocessable(String),
    /// The wanted range lies outside the body.
    #[error("the range lies outside the {length} bytes of the artifact")]
    RangeNotSatisfiable {
        /// Bytes of the whole body.
        length: u64,
    },
    /// No space on the volume.
    #[error("no space left for this artifact")]
    DiskFull,
    /// The staging ledger stayed full.
    #[error("{0}")]
    Busy(String),
    /// No further upload in parts may be open.
    #[error("{0}")]
    UploadSlots(String),
    /// The node takes no new uploads.
    #[error("the node is draining and takes no new uploads")]
    Draining,
    /// The store is not open yet.
    #[error("the store is not open yet")]
    NotOpen,
    /// It is not here, and the store of a peer that may have it is not open yet.
    #[error("no peer that answers has the artifact, but one that may have it is still opening its store")]
    PeerNotOpen,
    /// The body stopped arriving.
    #[error("the body did not arrive whole: {0}")]
    ClientGone(String),
    /// The store failed; the text is logged and shown.
    #[error("the store failed: {0}")]
    Store(String),
    /// Something inside failed that the client cannot help.
    #[error("{0}")]
    Internal(String),
}

impl Problem {
    /// A request that cannot be meant.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::BadRequest(message.into())
    }

    /// The status by the plain rules.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::NotFound | Self::Missing(_) => StatusCode::NOT_FOUND,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unprocessable(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::RangeNotSatisfiable { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
            Self::ClientGone(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Busy(_)
            | Self::UploadSlots(_)
            | Self::Draining
            | Self::NotOpen
            | Self::PeerNotOpen
            | Self::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whether the artifact is simply not here.
    pub fn is_miss(&self) -> bool {
        matches!(self, Self::NotFound)
    }

    /// Which limit refused the request; `None` if it was no limit, but the request itself, or a fault.
    pub fn limit(&self) -> Option<Limit> {
        match self {
            Self::TooLarge { .. } | Self::Unprocessable(_) => Some(Limit::BodyLength),
            Self::DiskFull => Some(Limit::DiskSpace),
            Self::Busy(_) => Some(Limit::StagingLedger),
            Self::UploadSlots(_) => Some(Limit::UploadSlots),
            Self::Draining => Some(Limit::Draining),
            Self::NotOpen => Some(Limit::StoreNotOpen),
            Self::PeerNotOpen => Some(Limit::PeerNotOpen),
            _ => None,
        }
    }

    /// The answer in the shape of the tool.
    pub fn respond(&self, shape: Shape, direction: Direction) -> Response {
        let mut response = self.shaped(shape, direction);
        // Whatever status a tool gets to see, the counters say which limit refused it.
        if let Some(limit) = self.limit() {
            response.extensions_mut().insert(limit);
        }
        response
    }

    /// A fault of ours is logged, but not each of many alike.
    fn log(&self) {
        let status = self.status();
        let lines = self.limit().map_or(&FAULTS, |limit| limit.lines());
        if status.is_server_error()
            && let Some(left_out) = lines.next(Instant::now())
        {
            tracing::warn!(status = status.as_u16(), error = %self, left_out, "request_failed");
        }
    }

    fn shaped(&self, shape: Shape, direction: Direction) -> Response {
        self.log();
        match (shape, direction) {
            (Shape::Nx, Direction::Read) => json(StatusCode::NOT_FOUND, &self.to_string()),
            (Shape::Nx, Direction::Write) => plain(StatusCode::FORBIDDEN, self.to_string()),
            (Shape::HonestMiss, Direction::Read) if matches!(self, Self::Store(_) | Self::Internal(_)) => {
                json(StatusCode::NOT_FOUND, &self.to_string())
            }
            _ => self.plain_response(),
        }
    }

    fn plain_response(&self) -> Response {
        let status = self.status();
        let mut response = json(status, &self.to_string());
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Self::RangeNotSatisfiable { length } = self
            && let Ok(value) = HeaderValue::from_str(&format!("bytes */{length}"))
        {
            response.headers_mut().insert(header::CONTENT_RANGE, value);
        }
        response
    }
}

/// `{"message"}` with a status.
pub fn json(status: StatusCode, message: &str) -> Response {
    (status, Json(serde_json::json!({ "message": message }))).into_response()
}

fn plain(status: StatusCode, message: String) -> Response {
    let mut response = Response::new(Body::from(message));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotOpen => Self::NotOpen,
            StoreError::StorageFull { .. } => Self::DiskFull,
            StoreError::Io { action, path, source } => {
                if source.kind() == std::io::ErrorKind::StorageFull {
                    return Self::DiskFull;
                }
                Self::Store(format!("failed to {action} {}: {source}", path.display()))
            }
            other => Self::Store(other.to_string()),
        }
    }
}

impl From<StagingError> for Problem {
    fn from(error: StagingError) -> Self {
        match error {
            StagingError::BudgetExhausted { .. } => Self::Busy(error.to_string()),
            StagingError::TooLong { limit } => Self::TooLarge { limit },
            StagingError::TooShort { .. } => Self::ClientGone(error.to_string()),
            StagingError::StorageFull { .. } => Self::DiskFull,
            StagingError::Io { action, path, source } => {
                Self::Store(format!("failed to {action} in {}: {source}", path.display()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_problem() -> Vec<Problem> {
        vec![
            Problem::bad_request("x"),
            Problem::NotFound,
            Problem::TooLarge { limit: 1 },
            Problem::RangeNotSatisfiable { length: 1 },
            Problem::DiskFull,
            Problem::Busy("x".to_owned()),
            Problem::UploadSlots("x".to_owned()),
            Problem::Draining,
            Problem::NotOpen,
            Problem::PeerNotOpen,
            Problem::ClientGone("x".to_owned()),
            Problem::Store("x".to_owned()),
            Problem::Internal("x".to_owned()),
        ]
    }

    #[test]
    fn nx_hears_only_404_on_reads_and_403_in_plain_text_on_writes() {
        for problem in every_problem() {
            assert_eq!(problem.respond(Shape::Nx, Direction::Read).status(), 404, "{problem}");
            let answer = problem.respond(Shape::Nx, Direction::Write);
            assert_eq!(answer.status(), 403, "{problem}");
            assert!(answer.headers()[header::CONTENT_TYPE].to_str().unwrap().starts_with("text/plain"));
        }
    }

    #[test]
    fn a_failed_read_is_a_miss_for_gradle_and_ccache_but_waiting_is_not() {
        let status = |problem: Problem| problem.respond(Shape::HonestMiss, Direction::Read).status().as_u16();
        assert_eq!(status(Problem::Store("x".to_owned())), 404);
        assert_eq!((status(Problem::NotOpen), status(Problem::PeerNotOpen)), (503, 503));
        assert_eq!(status(Problem::bad_request("x")), 400);
    }

    #[test]
    fn every_503_says_when_to_come_back() {
        for problem in every_problem() {
            let answer = problem.respond(Shape::Json, Direction::Write);
            assert_eq!(answer.headers().contains_key(header::RETRY_AFTER), answer.status() == 503, "{problem}");
        }
    }

    #[test]
    fn an_unsatisfiable_range_names_the_length() {
        let answer = Problem::RangeNotSatisfiable { length: 42 }.respond(Shape::Json, Direction::Read);
        assert_eq!(answer.headers()[header::CONTENT_RANGE], "bytes */42");
    }
}
