//! A long body from one holder, going on where an earlier transfer ended: of this holder, of another, or of a process
//! that was killed.
//!
//! How it works: the body is taken up from staging (see [`crate::core::staging::parked`]) and asked for from there on with
//! `Range` and `If-Match`. A connection that breaks costs what was on its way; the same holder is asked again for the
//! rest as long as each connection brings something. Where this holder is given up the body is parked, so that the next
//! holder, or the next try, goes on.
//!
//! Invariants: nothing here has a limit on the whole; connecting and silence have (see
//! [`crate::core::mesh::transport`]), and so has the number of connections in a row that bring nothing. A body of unknown
//! digest (of a seed-era peer) is never pieced together. The whole is hashed, whoever sent which part; if that fails for
//! a body that did not come from one holder alone, nobody can be blamed, and it is fetched once more from the beginning.

use bytes::Bytes;
use futures_util::StreamExt;
use http::StatusCode;
use std::time::Duration;

use super::engine::Engine;
use super::fetch::{FetchError, Fetched, answered_record, body_spec, fetch_whole, verified};
use super::metrics;
use super::progress::Progress;
use crate::core::base::disk::VolumeSpace;
use crate::core::base::ids::{ArtifactId, Digest};
use crate::core::base::limits::BODY_BYTES_MAX;
use crate::core::data_dir::space::usable_bytes;
use crate::core::mesh::client::{PeerError, content_length, refusal};
use crate::core::mesh::transport::PeerResponse;
use crate::core::staging::body_writer::BodyWriter;
use crate::core::staging::partials::PartialIdentity;
use crate::core::store::error::StoreError;
use crate::core::store::record::Record;
use crate::core::store::sizes::IndexSizes;

/// Connections in a row that may break without having brought [`PROGRESS_BYTES_MIN`] before a holder is given up.
const IDLE_CUTS_MAX: u32 = 3;

/// What a connection must bring to count as progress: a holder that cuts every one after less is no use.
const PROGRESS_BYTES_MIN: u64 = 64 << 10;

/// The first and the longest pause before a holder that broke off is asked again.
const CUT_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Versions of an artifact gone after in one fetch: one that is overwritten all the time is left to its next row.
const VERSIONS_MAX: u32 = 3;

/// Whether a transfer of this body is worth going on with after a cut, and can be.
pub fn is_large(engine: &Engine, record: &Record) -> bool {
    let sizes = engine.staging.limits().resumable_bytes_min.saturating_add(1)..=BODY_BYTES_MAX;
    sizes.contains(&record.size) && record.digest != Digest::default()
}

/// Fetches a long body from one holder, or what of it is not here yet.
pub async fn fetch_large(
    engine: &Engine,
    progress: &dyn Progress,
    holder: &str,
    id: &ArtifactId,
    listed: &Record,
) -> Result<Fetched, FetchError> {
    let mut record = listed.clone();
    for _ in 0..VERSIONS_MAX {
        let mut transfer = Transfer::take_up(engine, progress, holder, *id, record).await?;
        match transfer.run().await {
            Ok(()) => match transfer.finish().await? {
                Finished::Verified(fetched) => return Ok(*fetched),
                // Pieced together and wrong: once more, from this holder alone.
                Finished::Mixed(wrong) => record = *wrong,
            },
            Err(End::Superseded(newer)) => {
                transfer.writer.discard();
                record = *newer;
            }
            Err(End::Other) => {
                transfer.writer.park().await;
                return fetch_whole(engine, progress, holder, id, listed).await;
            }
            Err(End::Failed(error)) => {
                transfer.end(&error).await;
                return Err(error);
            }
        }
    }
    Err(FetchError::Failed(format!("{holder} has another version each time")))
}

/// How a transfer ended before its end.
enum End {
    /// The holder has a newer version.
    Superseded(Box<Record>),
    /// The holder has another one, which is not a newer long one, or another length of it.
    Other,
    Failed(FetchError),
}

impl<E: Into<FetchError>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

enum Finished {
    Verified(Box<Fetched>),
    /// Its parts are not of one holder, and the whole is wrong.
    Mixed(Box<Record>),
}

/// What one connection came to.
enum Pulled {
    Whole,
    /// It broke off.
    Cut(FetchError),
}

struct Transfer<'a> {
    engine: &'a Engine,
    progress: &'a dyn Progress,
    holder: &'a str,
    id: ArtifactId,
    record: Record,
    writer: BodyWriter,
    /// Whether some bytes were here before.
    is_taken_up: bool,
}

impl<'a> Transfer<'a> {
    async fn take_up(
        engine: &'a Engine,
        progress: &'a dyn Progress,
        holder: &'a str,
        id: ArtifactId,
        record: Record,
    ) -> Result<Self, FetchError> {
        let identity =
            PartialIdentity { id, version: record.version(), size: record.size, note: record.to_wire_bytes() };
        let writer = engine.staging.resume(body_spec(&record), identity).await?;
        let is_taken_up = writer.length() > 0;
        if is_taken_up {
            engine.metrics.transfer(metrics::Transfer::TakenUp);
        }
        Ok(Self { engine, progress, holder, id, record, writer, is_taken_up })
    }

    /// Connections until the body is whole.
    async fn run(&mut self) -> Result<(), End> {
        let mut idle_cuts = 0;
        loop {
            let from = self.writer.resume_at().await?;
            if from >= self.record.size {
                return Ok(());
            }
            let cut = match self.pull(from).await? {
                Pulled::Whole => return Ok(()),
                Pulled::Cut(error) => error,
            };
            let arrived = self.writer.resume_at().await?.saturating_sub(from);
            idle_cuts = if arrived >= PROGRESS_BYTES_MIN { 0 } else { idle_cuts + 1 };
            if idle_cuts >= IDLE_CUTS_MAX {
                return Err(cut.into());
            }
            self.engine.metrics.transfer(metrics::Transfer::Cut);
            tracing::info!(peer = %self.holder, artifact = %self.id, arrived, error = %cut, "transfer_cut");
            tokio::time::sleep(self.engine.backoff(idle_cuts, CUT_PAUSE.0, CUT_PAUSE.1)).await;
        }
    }

    /// One connection.
    async fn pull(&mut self, from: u64) -> Result<Pulled, End> {
        let asked = self.engine.client.artifact_from(self.holder, &self.id, &self.record.digest, from).await;
        let response = match asked {
            Ok(response) => response,
            Err(error @ PeerError::Transport(_)) if !error.is_unreachable() => return Ok(Pulled::Cut(error.into())),
            Err(error) => return Err(error.into()),
        };
        let skipped = match response.status {
            StatusCode::PARTIAL_CONTENT if self.is_wanted_part(&response, from) => 0,
            StatusCode::OK => from,
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                return Err(FetchError::Unavailable(format!("{} has no good copy", self.holder)).into());
            }
            StatusCode::PRECONDITION_FAILED => return Err(self.other_version().await?),
            _ => return Err(refusal(response, self.holder, "/_internal/bootstrap/artifacts").await.into()),
        };
        let tenant_id = self.engine.client.tenant_id();
        let answered = answered_record(&response, tenant_id, &self.id, &self.record, self.holder)?;
        if answered.digest == self.record.digest && answered.size != self.record.size {
            // The listing gave it another length than its holder does now.
            return Err(End::Other);
        }
        let announced = content_length(&response.headers).map(|length| length.saturating_add(from - skipped));
        let announced = announced.unwrap_or(self.record.size);
        if answered.digest != self.record.digest || announced != self.record.size {
            let what = format!("{} sends {announced} bytes of {}", self.holder, answered.digest);
            return Err(FetchError::BadCopy(format!("{what}, not those that were asked for")).into());
        }
        // What a seed-era peer or an older record left open, such as the content type, is the holder's to say.
        self.record = answered;
        self.receive(response, skipped).await
    }

    fn is_wanted_part(&self, response: &PeerResponse, from: u64) -> bool {
        let size = self.record.size;
        let wanted = format!("bytes {from}-{}/{size}", size.saturating_sub(1));
        response.headers.get(http::header::CONTENT_RANGE).is_some_and(|value| value.as_bytes() == wanted.as_bytes())
    }

    async fn receive(&mut self, response: PeerResponse, skipped: u64) -> Result<Pulled, End> {
        let mut skip = usize::try_from(skipped).unwrap_or(usize::MAX);
        let mut chunks = response.body;
        while let Some(chunk) = chunks.next().await {
            let mut chunk: Bytes = match chunk {
                Ok(chunk) => chunk,
                Err(error) => {
                    let (there, size) = (self.writer.length(), self.record.size);
                    return Ok(Pulled::Cut(FetchError::Failed(format!("{error}, with {there} of {size} bytes here"))));
                }
            };
            self.progress.advanced(self.holder, 0, u64::try_from(chunk.len()).unwrap_or(u64::MAX));
            let known = chunk.split_to(skip.min(chunk.len()));
            skip -= known.len();
            if !chunk.is_empty() {
                self.writer.write(chunk).await?;
            }
        }
        if self.writer.length() < self.record.size {
            return Ok(Pulled::Cut(FetchError::Failed(format!("{} ended the body early", self.holder))));
        }
        Ok(Pulled::Whole)
    }

    /// The holder has another version: a newer one is what is wanted now.
    async fn other_version(&self) -> Result<End, End> {
        let response = self.engine.client.artifact(self.holder, &self.id).await?;
        if response.status != StatusCode::OK {
            return Err(FetchError::Unavailable(format!("{} has no good copy", self.holder)).into());
        }
        let tenant_id = self.engine.client.tenant_id();
        let theirs = answered_record(&response, tenant_id, &self.id, &self.record, self.holder)?;
        let is_newer = theirs.version() > self.record.version() && is_large(self.engine, &theirs);
        Ok(if is_newer { End::Superseded(Box::new(theirs)) } else { End::Other })
    }

    /// Holds the whole against its digest.
    async fn finish(self) -> Result<Finished, FetchError> {
        let Self { engine, holder, id, record, writer, is_taken_up, .. } = self;
        let body = writer.finish().await?;
        match verified(record.clone(), &body, holder) {
            Ok(record) => Ok(Finished::Verified(Box::new(Fetched { record, body }))),
            Err(error) if is_taken_up => {
                tracing::warn!(peer = %holder, artifact = %id, %error, "transfer_begun_anew");
                engine.metrics.transfer(metrics::Transfer::BegunAnew);
                Ok(Finished::Mixed(Box::new(record)))
            }
            Err(error) => Err(error),
        }
    }

    /// What came is kept for the next try, unless it may be what is in the way.
    async fn end(self, error: &FetchError) {
        match error {
            FetchError::DiskFull(_) | FetchError::BadCopy(_) => self.writer.discard(),
            _ => self.writer.park().await,
        }
    }
}

/// Twice what the store keeps free of puts: so that they go before a client is refused.
fn room_kept_bytes(space: &VolumeSpace) -> u64 {
    IndexSizes::for_volume(space.total_bytes).put_reserve_bytes.saturating_mul(2)
}

/// Drops parked bodies that nobody will ask for: beaten by something newer, deleted or evicted; and all of them while
/// the volume has no room for puts. Returns how many.
///
/// # Errors
/// If the store cannot be asked.
pub async fn drop_unwanted_bodies(engine: &Engine) -> Result<usize, StoreError> {
    let parked = engine.staging.parked_bodies();
    if parked.is_empty() {
        return Ok(0);
    }
    let staging = engine.staging.clone();
    let dropped = engine.store.call(move |store| {
        if staging.volume().is_ok_and(|space| usable_bytes(&space) < room_kept_bytes(&space)) {
            return Ok(staging.discard_all_parked());
        }
        let mut dropped = 0;
        for identity in parked {
            // A body whose record did not fit into its header waits for its fetch.
            let Ok(record) = Record::from_bytes(&identity.note) else { continue };
            if store.wants(&record)? != crate::core::store::Wants::Fetch {
                dropped += usize::from(staging.discard_parked(&identity.id));
            }
        }
        Ok(dropped)
    });
    dropped.await
}
