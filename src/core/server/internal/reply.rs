//! Answers of the internal plane: JSON, and errors as `{"code", "message"}`.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use tokio::time::Instant;

use crate::core::base::ids::Digest;
use crate::core::mesh::wire::{PAGE_DIGEST_HEADER, PeerErrorBody};
use crate::core::staging::area::StagingError;
use crate::core::store::error::StoreError;
use crate::core::telemetry::repeated::Repeated;

/// Seconds after which a refused peer may come back.
const RETRY_AFTER_SECONDS: &str = "1";

/// A request that is not done, with the status and words of the answer.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Refused {
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: "bad_request", message: message.into() }
    }

    pub(super) fn too_large(limit: u64) -> Self {
        let message = format!("the body is longer than {limit} bytes");
        Self { status: StatusCode::PAYLOAD_TOO_LARGE, code: "too_large", message }
    }

    pub(super) fn busy(code: &'static str, message: String) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, code, message }
    }

    fn internal(message: String) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, code: "internal", message }
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::StorageFull { .. } => Self::busy("storage_full", error.to_string()),
            StoreError::NotOpen => Self::busy("store_not_open", error.to_string()),
            _ => Self::internal(error.to_string()),
        }
    }
}

impl From<StagingError> for Refused {
    fn from(error: StagingError) -> Self {
        match error {
            StagingError::TooLong { limit } => Self::too_large(limit),
            StagingError::TooShort { .. } => Self::bad_request(error.to_string()),
            StagingError::BudgetExhausted { .. } => Self::busy("staging_budget", error.to_string()),
            StagingError::StorageFull { .. } => Self::busy("storage_full", error.to_string()),
            StagingError::Io { .. } => Self::internal(error.to_string()),
        }
    }
}

/// Peers try again by themselves, each of them.
static FAULTS: Repeated = Repeated::new(20);

impl From<Refused> for Response {
    fn from(refused: Refused) -> Self {
        if refused.status.is_server_error()
            && let Some(left_out) = FAULTS.next(Instant::now())
        {
            tracing::warn!(code = refused.code, message = %refused.message, left_out, "peer_request_failed");
        }
        let retry_after_ms = (refused.status == StatusCode::SERVICE_UNAVAILABLE).then_some(1000);
        let body = PeerErrorBody { code: refused.code.to_owned(), message: refused.message, retry_after_ms };
        let mut response = json(refused.status, &body);
        if retry_after_ms.is_some() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        response
    }
}

/// The response of a handler, whether it was done or not.
pub(super) fn answer(result: Result<Response, Refused>) -> Response {
    result.unwrap_or_else(Response::from)
}

/// A JSON answer with its digest.
pub(super) fn json(status: StatusCode, value: &impl serde::Serialize) -> Response {
    // Structs of strings, numbers and options always serialize.
    let body = serde_json::to_vec(value).unwrap_or_default();
    let digest = HeaderValue::from_str(&Digest::of(&body).to_string());
    let mut response = bytes(body.into(), "application/json");
    *response.status_mut() = status;
    if let Ok(digest) = digest {
        response.headers_mut().insert(PAGE_DIGEST_HEADER, digest);
    }
    response
}

/// An answer of bytes.
pub(super) fn bytes(body: bytes::Bytes, content_type: &'static str) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
