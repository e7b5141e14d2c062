//! A peer's body on its way to a client: verified before or while it is handed out, and committed beside.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, try_unfold};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ask::{BUFFERED_BYTES_MAX, Delivery, Held, PLACE_WAIT, Read, Shared, Through};
use super::metrics::{PeerAnswer, ReadThroughMetrics};
use super::peers::{Asked, Offer, asked};
use super::staged;
use crate::core::base::ids::{Digest, Sha256Digest};
use crate::core::base::limits::{BODY_BYTES_MAX, CLOCK_SKEW_MAX_MS};
use crate::core::bootstrap::engine::Engine;
use crate::core::bootstrap::fetch::{FetchError, Fetched, answered_record, body_spec, stage_bytes};
use crate::core::bootstrap::report::Outcome;
use crate::core::bootstrap::settle::commit;
use crate::core::bootstrap::wanted::wanted_record;
use crate::core::mesh::client::content_length;
use crate::core::mesh::transport::{PeerResponse, TransportError};
use crate::core::mesh::wire::{RECORD_HEADER, keyed_sha256, unhashed_record};
use crate::core::staging::body_writer::BodyWriter;
use crate::core::store::Wants;
use crate::core::store::error::StoreError;
use crate::core::store::record::Record;
use crate::core::store::unopened::is_deleted;

/// A body that is taken whole before the client hears anything: between two of its pieces.
const BUFFERED_STILL_MAX: Duration = Duration::from_secs(5);

/// How long a streamed body waits for room in staging. Without it the client is served all the same, and a pass
/// brings the artifact later.
const STAGING_WAIT: Duration = Duration::from_millis(500);

/// A body that broke off after its header was sent.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ThroughError {
    /// The exchange with the peer failed.
    #[error("{0}")]
    Transport(#[from] TransportError),
    /// It was staged here, and could not be read back.
    #[error("failed to read a staged body: {reason}")]
    Staged {
        /// What the system said.
        reason: String,
    },
    /// It is not what it was said to be.
    #[error("{peer} sent a body that is not the artifact's: {reason}")]
    Bad {
        /// Who.
        peer: String,
        /// What is wrong.
        reason: &'static str,
    },
}

/// A body that is about to come, and what it has to be.
struct Incoming {
    peer: String,
    record: Record,
    chunks: BoxStream<'static, Result<Bytes, TransportError>>,
    /// Whether it is to be kept, or only handed out.
    keep: bool,
}

/// Asks the peers, and takes the first good answer.
pub(super) async fn ask(shared: &Shared, read: &Read) -> Result<Through, StoreError> {
    let mut asked = asked(shared, read);
    let mut nowhere = Through::Miss;
    while let Some(asked) = asked.next().await {
        let offer = match asked {
            Asked::Offered(offer) => offer,
            Asked::Opening => {
                nowhere = Through::Undecided;
                continue;
            }
            Asked::Nothing => continue,
        };
        let peer = offer.peer.clone();
        let taken = match described(&shared.engine, read, offer) {
            Ok(incoming) => take(shared, read, incoming).await?,
            Err(error) => Err(error),
        };
        match taken {
            Ok(Through::Miss) => {}
            Ok(answer) => return Ok(answer),
            Err(error) => {
                shared.metrics.peer(PeerAnswer::Failed);
                tracing::warn!(%peer, artifact = %read.id, %error, "read_through_failed");
            }
        }
    }
    Ok(nowhere)
}

/// The record under which a peer has it, if it may be handed out; or what is known of it without one.
pub(super) async fn record(shared: &Shared, read: &Read) -> Result<Result<Record, Held>, StoreError> {
    let mut asked = asked(shared, read);
    let mut nowhere = Held::No;
    while let Some(asked) = asked.next().await {
        match asked {
            Asked::Offered(offer) => {
                let Ok(incoming) = described(&shared.engine, read, offer) else { continue };
                if judge(shared, read, &incoming.record).await? != Judged::Refused {
                    return Ok(Ok(incoming.record));
                }
            }
            Asked::Opening => nowhere = Held::Undecided,
            Asked::Nothing => {}
        }
    }
    Ok(Err(nowhere))
}

/// The record the answer belongs to, and its body yet to be read.
fn described(engine: &Engine, read: &Read, offer: Offer) -> Result<Incoming, FetchError> {
    let Offer { peer, response } = offer;
    let length = content_length(&response.headers);
    let is_versioned = response.headers.contains_key(RECORD_HEADER) || read.wanted.is_some();
    let listed = match &read.wanted {
        Some(wanted) => wanted_record(wanted),
        // Any version will do; a peer of the seed era names none.
        None => unhashed_record(read.name.clone(), String::new(), length.unwrap_or(u64::MAX), 0, 0),
    };
    let record = answered_record(&response, engine.client.tenant_id(), &read.id, &listed, &peer)?;
    if length.is_some_and(|length| length != record.size) || record.size > BODY_BYTES_MAX {
        return Err(FetchError::BadCopy(format!("{peer} announces another length than {}", record.size)));
    }
    let PeerResponse { body: chunks, .. } = response;
    Ok(Incoming { peer, record, chunks, keep: is_versioned })
}

/// What a peer's version of an artifact is to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judged {
    /// It is handed out and kept.
    Keep,
    /// It is handed out and not kept.
    Pass,
    /// It, or a newer one, is here.
    Here,
    /// It is not handed out.
    Refused,
}

/// Nothing is handed out that was deleted here, or comes from far in the future.
async fn judge(shared: &Shared, read: &Read, record: &Record) -> Result<Judged, StoreError> {
    if let Some(unopened) = read.unopened {
        let is_ahead = record.version_ms > shared.engine.clock.now_ms().saturating_add(CLOCK_SKEW_MAX_MS);
        let is_refused = is_ahead || is_deleted(record, unopened.deleted_up_to);
        return Ok(if is_refused { Judged::Refused } else { Judged::Pass });
    }
    let record = record.clone();
    Ok(match shared.engine.store.call(move |store| store.wants(&record)).await? {
        Wants::Fetch | Wants::Adopt => Judged::Keep,
        // What was evicted, or would be at once, is served and not kept.
        Wants::Evicted | Wants::BeyondCapacity => Judged::Pass,
        Wants::AlreadyHere => Judged::Here,
        Wants::Tombstoned | Wants::ClockSkew => Judged::Refused,
    })
}

/// Hands out what may be handed out.
async fn take(shared: &Shared, read: &Read, mut incoming: Incoming) -> Result<Result<Through, FetchError>, StoreError> {
    match judge(shared, read, &incoming.record).await? {
        Judged::Keep => {}
        Judged::Pass => incoming.keep = false,
        Judged::Here => return Ok(Ok(Through::Here)),
        Judged::Refused => return Ok(Ok(Through::Miss)),
    }
    match (incoming.record.size <= BUFFERED_BYTES_MAX, read.delivery) {
        (true, _) => Ok(buffer(shared, incoming).await),
        (false, Delivery::Streamed) => Ok(Ok(stream(shared, incoming).await)),
        (false, Delivery::Whole) => Ok(bring(shared, incoming).await),
    }
}

async fn place(places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    tokio::time::timeout(PLACE_WAIT, Arc::clone(places).acquire_owned()).await.ok()?.ok()
}

async fn buffer(shared: &Shared, mut incoming: Incoming) -> Result<Through, FetchError> {
    let Some(place) = place(&shared.buffered).await else { return Ok(Through::Miss) };
    let mut check = Check::new(&incoming.record);
    let mut bytes = BytesMut::new();
    loop {
        let next = tokio::time::timeout(BUFFERED_STILL_MAX, incoming.chunks.next()).await;
        let next = next.map_err(|_| FetchError::Failed(format!("{} fell silent in mid-body", incoming.peer)))?;
        let Some(chunk) = next else { break };
        let chunk = chunk.map_err(|error| FetchError::Failed(error.to_string()))?;
        shared.metrics.arrived(chunk.len());
        check.add(&chunk).map_err(|reason| FetchError::BadCopy(reason.to_owned()))?;
        bytes.extend_from_slice(&chunk);
    }
    let digest = check.finish(&incoming.record).map_err(|reason| FetchError::BadCopy(reason.to_owned()))?;
    let record = Record { digest, ..incoming.record };
    let bytes = bytes.freeze();
    if incoming.keep {
        let (engine, record, bytes) = (shared.engine.clone(), record.clone(), bytes.clone());
        tokio::spawn(async move {
            match stage_bytes(&engine, record, bytes, &incoming.peer).await {
                Ok(fetched) => drop(keep(&engine, fetched).await),
                Err(error) => tracing::warn!(%error, "read_through_not_kept"),
            }
            drop(place);
        });
    }
    Ok(Through::Whole(Arc::new(record), bytes))
}

/// Whether it is here now.
async fn keep(engine: &Engine, fetched: Fetched) -> bool {
    match commit(engine, fetched).await {
        Ok(end) if matches!(end.outcome, Outcome::Applied | Outcome::AlreadyPresent) => return true,
        Ok(end) => tracing::warn!(outcome = ?end.outcome, error = ?end.error, "read_through_not_kept"),
        Err(error) => tracing::warn!(%error, "read_through_not_kept"),
    }
    false
}

/// Brings a long body here before anything of it is handed out. What is not kept goes out of staging.
async fn bring(shared: &Shared, mut incoming: Incoming) -> Result<Through, FetchError> {
    let Some(place) = place(&shared.streamed).await else { return Ok(Through::Miss) };
    let Some(mut writer) = room(&shared.engine, &incoming.record, PLACE_WAIT).await else { return Ok(Through::Miss) };
    let mut check = Check::new(&incoming.record);
    while let Some(chunk) = incoming.chunks.next().await {
        let chunk = chunk.map_err(|error| FetchError::Failed(error.to_string()))?;
        shared.metrics.arrived(chunk.len());
        check.add(&chunk).map_err(|reason| FetchError::BadCopy(reason.to_owned()))?;
        writer.write(chunk).await?;
    }
    let digest = check.finish(&incoming.record).map_err(|reason| FetchError::BadCopy(reason.to_owned()))?;
    let fetched = Fetched { record: Record { digest, ..incoming.record }, body: writer.finish().await? };
    if !incoming.keep {
        let executor = Arc::clone(shared.unopened.executor());
        return Ok(staged::hand_out(executor, fetched, place));
    }
    Ok(if keep(&shared.engine, fetched).await { Through::Brought } else { Through::Miss })
}

async fn stream(shared: &Shared, incoming: Incoming) -> Through {
    let Some(place) = place(&shared.streamed).await else { return Through::Miss };
    let engine = shared.engine.clone();
    let writer = if incoming.keep { room(&engine, &incoming.record, STAGING_WAIT).await } else { None };
    let record = Box::new(incoming.record.clone());
    let passing = Passing {
        engine,
        metrics: shared.metrics.clone(),
        check: Check::new(&incoming.record),
        incoming,
        writer,
        held_back: None,
        _place: place,
    };
    Through::Stream(record, try_unfold(Some(passing), Passing::next).boxed())
}

async fn room(engine: &Engine, record: &Record, wait: Duration) -> Option<BodyWriter> {
    let begun = tokio::time::timeout(wait, engine.staging.begin(body_spec(record))).await;
    begun.ok()?.inspect_err(|error| tracing::warn!(%error, "read_through_not_staged")).ok()
}

/// A long body between a peer and a client.
struct Passing {
    engine: Engine,
    metrics: ReadThroughMetrics,
    check: Check,
    incoming: Incoming,
    writer: Option<BodyWriter>,
    held_back: Option<Bytes>,
    _place: OwnedSemaphorePermit,
}

impl Passing {
    async fn next(passing: Option<Self>) -> Result<Option<(Bytes, Option<Self>)>, ThroughError> {
        let Some(mut passing) = passing else { return Ok(None) };
        while let Some(chunk) = passing.incoming.chunks.next().await {
            let chunk = chunk?;
            passing.metrics.arrived(chunk.len());
            passing.check.add(&chunk).map_err(|reason| passing.bad(reason))?;
            passing.stage(&chunk).await;
            if let Some(before) = passing.held_back.replace(chunk).filter(|before| !before.is_empty()) {
                return Ok(Some((before, Some(passing))));
            }
        }
        passing.end()
    }

    fn bad(&self, reason: &'static str) -> ThroughError {
        ThroughError::Bad { peer: self.incoming.peer.clone(), reason }
    }

    /// Trouble of our own volume is no trouble of the client.
    async fn stage(&mut self, chunk: &Bytes) {
        let Some(mut writer) = self.writer.take() else { return };
        match writer.write(chunk.clone()).await {
            Ok(()) => self.writer = Some(writer),
            Err(error) => tracing::warn!(%error, "read_through_not_staged"),
        }
    }

    /// Everything came: if it is good, the last piece may go.
    fn end(mut self) -> Result<Option<(Bytes, Option<Self>)>, ThroughError> {
        let check = std::mem::replace(&mut self.check, Check::new(&self.incoming.record));
        let digest = check.finish(&self.incoming.record).map_err(|reason| self.bad(reason))?;
        if let Some(writer) = self.writer.take() {
            let record = Record { digest, ..self.incoming.record };
            let engine = self.engine.clone();
            tokio::spawn(async move {
                match writer.finish().await {
                    Ok(body) => drop(keep(&engine, Fetched { record, body }).await),
                    Err(error) => tracing::warn!(%error, "read_through_not_staged"),
                }
            });
        }
        Ok(self.held_back.take().map(|last| (last, None)))
    }
}

/// Holds a body against its record as it comes.
struct Check {
    size: u64,
    received: u64,
    blake3: Box<blake3::Hasher>,
    sha256: Option<Sha256>,
}

impl Check {
    fn new(record: &Record) -> Self {
        let sha256 = (record.sha256.is_some() || keyed_sha256(&record.name).is_some()).then(Sha256::new);
        Self { size: record.size, received: 0, blake3: Box::default(), sha256 }
    }

    fn add(&mut self, chunk: &[u8]) -> Result<(), &'static str> {
        self.received = self.received.saturating_add(chunk.len() as u64);
        if self.received > self.size {
            return Err("it is too long");
        }
        self.blake3.update(chunk);
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(chunk);
        }
        Ok(())
    }

    /// The digest of a body that is what its record says. A peer of the seed era says no digest.
    fn finish(self, record: &Record) -> Result<Digest, &'static str> {
        if self.received != self.size {
            return Err("it is short");
        }
        let digest = Digest(*self.blake3.finalize().as_bytes());
        if record.digest != Digest::default() && record.digest != digest {
            return Err("its BLAKE3 digest is another");
        }
        let sha256 = self.sha256.map(|sha256| Sha256Digest(sha256.finalize().into()));
        let named = keyed_sha256(&record.name);
        let is_named = named.is_none() || named == sha256;
        let is_recorded = record.sha256.is_none() || record.sha256 == sha256;
        if is_named && is_recorded { Ok(digest) } else { Err("its SHA-256 is another") }
    }
}
