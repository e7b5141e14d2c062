//! One artifact from one holder: room is reserved, the body streamed into staging, verified, and handed over.
//!
//! Invariants: the reservation is made before the request, so a slow ledger holds no peer's connection. A body is
//! given back only if its length is the manifest's, its BLAKE3 is the record's (where the peer has one), and its
//! SHA-256 is the one its key names. Every other end drops the guard, which frees bytes and reservation.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::StatusCode;

use super::engine::Engine;
use super::large::{fetch_large, is_large};
use super::progress::Progress;
use super::settle::commit;
use crate::core::base::ids::{ArtifactId, Digest};
use crate::core::base::limits::BODY_BYTES_MAX;
use crate::core::mesh::client::{PeerError, content_length, refusal};
use crate::core::mesh::transport::PeerResponse;
use crate::core::mesh::wire::{DEFAULT_CONTENT_TYPE, RECORD_HEADER, check_name, keyed_sha256};
use crate::core::staging::area::{AreaKind, StagingError};
use crate::core::staging::body_writer::{BodySpec, BodyWriter, StagedBody};
use crate::core::staging::budget::BudgetClass;
use crate::core::store::Wants;
use crate::core::store::record::Record;

/// How long a holder's look at its copy is waited for: enough to hash the longest body from memory, where it still is. The
/// next holder is asked only then.
const LOOK_WAIT: Duration = Duration::from_secs(10);

/// A body that did not come.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    /// The holder answered that it has no good copy.
    #[error("{0}")]
    Unavailable(String),
    /// What came has the wrong length or digest.
    #[error("{0}")]
    BadCopy(String),
    /// The holder could not be reached.
    #[error("{0}")]
    Unreachable(String),
    /// Transport trouble or an error of the peer.
    #[error("{0}")]
    Failed(String),
    /// The holder is busy and says when to come back.
    #[error("{detail}")]
    Busy {
        /// In words.
        detail: String,
        /// When to come back.
        retry_after: Duration,
    },
    /// Trouble of this node's own, which says nothing of the holder.
    #[error("{0}")]
    Own(String),
    /// Our own volume is full.
    #[error("{0}")]
    DiskFull(String),
}

impl From<PeerError> for FetchError {
    fn from(error: PeerError) -> Self {
        let detail = error.to_string();
        match error.busy_for() {
            Some(retry_after) => Self::Busy { detail, retry_after },
            None if error.is_unreachable() => Self::Unreachable(detail),
            None => Self::Failed(detail),
        }
    }
}

impl From<StagingError> for FetchError {
    fn from(error: StagingError) -> Self {
        match error {
            StagingError::TooLong { .. } | StagingError::TooShort { .. } => Self::BadCopy(error.to_string()),
            StagingError::StorageFull { .. } => Self::DiskFull(error.to_string()),
            StagingError::BudgetExhausted { .. } | StagingError::Io { .. } => Self::Own(error.to_string()),
        }
    }
}

/// A verified body and the record it belongs to, which may be newer than the one that was asked for.
#[derive(Debug)]
pub struct Fetched {
    /// The record to commit.
    pub record: Record,
    /// Its body.
    pub body: StagedBody,
}

/// Room for the body of a record. A size that cannot be is not believed: the holder is asked all the same.
pub(super) fn body_spec(record: &Record) -> BodySpec {
    BodySpec {
        area: AreaKind::Bootstrap,
        class: BudgetClass::CatchUp,
        length: Some(record.size).filter(|size| *size <= BODY_BYTES_MAX),
        length_max: BODY_BYTES_MAX,
        sha256: record.sha256.is_some() || keyed_sha256(&record.name).is_some(),
    }
}

/// Fetches a body from one holder.
pub async fn fetch_artifact(
    engine: &Engine,
    progress: &dyn Progress,
    holder: &str,
    id: &ArtifactId,
    listed: &Record,
) -> Result<Fetched, FetchError> {
    let fetched = if is_large(engine, listed) {
        fetch_large(engine, progress, holder, id, listed).await
    } else {
        fetch_whole(engine, progress, holder, id, listed).await
    };
    let Err(FetchError::BadCopy(what)) = fetched else { return fetched };
    let found = tokio::time::timeout(LOOK_WAIT, has_good_copy(engine, holder, id)).await.ok().flatten();
    tracing::debug!(peer = %holder, artifact = %id, %what, is_good_there = ?found, "bad_copy_came");
    Err(FetchError::BadCopy(match found {
        Some(true) => format!("{what}, although its own copy is good"),
        Some(false) => format!("{what}, and has no good copy"),
        None => what,
    }))
}

/// Has a holder look at a copy that came wrong; it withdraws one that is bad, and fetches it itself. `None` if it does
/// not say: a long one breaks off when it proves bad, or takes longer than we wait, and is then looked at as soon as
/// somebody else reads it.
async fn has_good_copy(engine: &Engine, holder: &str, id: &ArtifactId) -> Option<bool> {
    let response = engine.client.verify_artifact(holder, id).await.ok()?;
    match response.status {
        StatusCode::PARTIAL_CONTENT if response.headers.contains_key(RECORD_HEADER) => {}
        StatusCode::NOT_FOUND => return Some(false),
        // A seed-era node, which looks at nothing, or one that is busy.
        _ => return None,
    }
    // The byte is held back until the whole is hashed, which goes on only while somebody waits for it.
    let mut chunks = response.body;
    chunks.next().await?.ok().map(|_| true)
}

/// Fetches whatever version a holder has, in one go.
pub(super) async fn fetch_whole(
    engine: &Engine,
    progress: &dyn Progress,
    holder: &str,
    id: &ArtifactId,
    listed: &Record,
) -> Result<Fetched, FetchError> {
    let mut writer = engine.staging.begin(body_spec(listed)).await?;
    let response = engine.client.artifact(holder, id).await?;
    match response.status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            return Err(FetchError::Unavailable(format!("{holder} has no good copy")));
        }
        _ => return Err(refusal(response, holder, "/_internal/bootstrap/artifacts").await.into()),
    }
    let record = answered_record(&response, engine.client.tenant_id(), id, listed, holder)?;
    if record.size != listed.size {
        drop(writer);
        writer = engine.staging.begin(body_spec(&record)).await?;
    }
    if record.size > BODY_BYTES_MAX {
        return Err(FetchError::BadCopy(format!("{holder} says that it has {} bytes", record.size)));
    }
    let is_older = record.version() < listed.version();
    if is_older && !is_wanted(engine, &record).await? {
        return Err(FetchError::Unavailable(format!("{holder} has an older version")));
    }
    let body =
        stream_response_to_temp(response, writer, record.size, &|bytes| progress.advanced(holder, 0, bytes)).await?;
    let record = verified(record, &body, holder)?;
    let fetched = Fetched { record, body };
    if is_older { Err(take_older(engine, fetched, holder).await) } else { Ok(fetched) }
}

async fn is_wanted(engine: &Engine, record: &Record) -> Result<bool, FetchError> {
    let record = record.clone();
    let wants = engine.store.call(move |store| store.wants(&record)).await;
    Ok(wants.map_err(|error| FetchError::Own(error.to_string()))? == Wants::Fetch)
}

/// A holder may have only an older version than was listed, after it lost some of its log or because the listing was
/// wrong. That one is better than what is here, and its own row may be behind the cursor; the listed one stays wanted.
async fn take_older(engine: &Engine, fetched: Fetched, holder: &str) -> FetchError {
    match commit(engine, fetched).await {
        Ok(end) if end.disk_full => FetchError::DiskFull(end.error.unwrap_or_default()),
        Ok(_) => FetchError::Unavailable(format!("{holder} has an older version, which was taken")),
        Err(error) => FetchError::Own(error.to_string()),
    }
}

/// The record that the answer belongs to: the peer's own word where it is a kura node, else what was listed.
pub(super) fn answered_record(
    response: &PeerResponse,
    tenant_id: &str,
    id: &ArtifactId,
    listed: &Record,
    holder: &str,
) -> Result<Record, FetchError> {
    let Some(header) = response.headers.get(RECORD_HEADER) else {
        let mut record = listed.clone();
        let content_type = response.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if record.content_type == DEFAULT_CONTENT_TYPE {
            content_type.unwrap_or(DEFAULT_CONTENT_TYPE).clone_into(&mut record.content_type);
        }
        return Ok(record);
    };
    let unreadable = |why: &str| FetchError::Failed(format!("{holder} sent an unreadable record: {why}"));
    let bytes = hex::decode(header.as_bytes()).map_err(|error| unreadable(&error.to_string()))?;
    read_record(&bytes, tenant_id, id, holder)
}

/// The record that a kura peer sends beside a body, if it is of the artifact asked for.
pub(super) fn read_record(bytes: &[u8], tenant_id: &str, id: &ArtifactId, holder: &str) -> Result<Record, FetchError> {
    let unreadable = |why: &str| FetchError::Failed(format!("{holder} sent an unreadable record: {why}"));
    let record = Record::from_bytes(bytes).map_err(|error| unreadable(&error.to_string()))?;
    check_name(&record.name).map_err(|reason| unreadable(&reason))?;
    if record.name.artifact_id(tenant_id) != *id {
        return Err(unreadable("it names another artifact"));
    }
    Ok(record)
}

/// Streams a response's body into staging. The guard frees everything on any error.
pub async fn stream_response_to_temp(
    response: PeerResponse,
    mut writer: BodyWriter,
    size: u64,
    arrived: &(dyn Fn(u64) + Send + Sync),
) -> Result<StagedBody, FetchError> {
    if let Some(announced) = content_length(&response.headers).filter(|announced| *announced != size) {
        return Err(FetchError::BadCopy(format!("the peer sends {announced} bytes, the manifest says {size}")));
    }
    let mut chunks = response.body;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| {
            let received = error.received_bytes;
            FetchError::Failed(format!("{error}, after {received} of {size} bytes"))
        })?;
        arrived(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        writer.write(chunk).await?;
    }
    Ok(writer.finish().await?)
}

/// Takes a body that rode along with its row.
pub async fn stage_bytes(engine: &Engine, record: Record, bytes: Bytes, peer: &str) -> Result<Fetched, FetchError> {
    let mut writer = engine.staging.begin(body_spec(&record)).await?;
    writer.write(bytes).await?;
    let body = writer.finish().await?;
    let record = verified(record, &body, peer)?;
    Ok(Fetched { record, body })
}

/// The record with the digest of its body, if that is the one it must be.
pub(super) fn verified(mut record: Record, body: &StagedBody, holder: &str) -> Result<Record, FetchError> {
    if let Some(what) = mismatch(&record, body) {
        return Err(FetchError::BadCopy(format!("{holder} sent a body whose {what} does not match")));
    }
    record.digest = body.digest;
    Ok(record)
}

/// Which digest of a body is not the one its record says, if any.
pub(super) fn mismatch(record: &Record, body: &StagedBody) -> Option<&'static str> {
    if record.digest != Digest::default() && record.digest != body.digest {
        return Some("BLAKE3 digest");
    }
    let said = [keyed_sha256(&record.name), record.sha256];
    said.into_iter().flatten().any(|said| body.sha256 != Some(said)).then_some("SHA-256")
}
