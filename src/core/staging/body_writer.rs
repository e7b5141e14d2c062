//! Takes a body chunk by chunk, hashes it, keeps it in memory while small and in a staged file when not.
//!
//! How it works: chunks gather in a buffer. A body that ends within the inline threshold never leaves memory. A longer
//! one is spilled buffer by buffer: each buffer is one job on the executor that grows the reservation if the length is
//! unknown, writes and hashes. What the jobs work on is a [`Spool`], which the writer, the job and (weakly) the ledger
//! share: whoever of them drops it last frees the bytes, so a writer dropped in the middle of a job leaks nothing.
//!
//! Invariants: at most one buffer per body is in memory beyond what the caller holds. No disk or hashing work of spilled
//! bytes is done on an async thread. A length is checked before its bytes are kept.
//!
//! Failure: a failed write frees the staged bytes at once, whenever the writer is dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};

use super::area::{AreaKind, Staging, StagingError};
use super::budget::{BudgetClass, Reservation, Revocable};
use super::staged_file::StagedFile;
use crate::core::base::executor;
use crate::core::base::ids::{Digest, Sha256Digest};

/// How much of a body gathers in memory before it is written: large enough that jobs and system calls do not show in a
/// profile, small enough that a thousand bodies at once fit in a few hundred MiB.
pub const WRITE_BUFFER_BYTES: usize = 256 << 10;

/// What is known of a body before its first byte.
#[derive(Debug, Clone, Copy)]
pub struct BodySpec {
    /// Where it is staged if it does not fit in memory.
    pub area: AreaKind,
    /// Whose reservation it is.
    pub class: BudgetClass,
    /// The announced length; a body of another length is refused.
    pub length: Option<u64>,
    /// The longest length allowed.
    pub length_max: u64,
    /// Whether SHA-256 is taken besides BLAKE3.
    pub sha256: bool,
}

/// A body on its way in. Dropping it at any point frees its bytes and its reservation.
#[derive(Debug)]
pub struct BodyWriter {
    staging: Staging,
    spec: BodySpec,
    received: u64,
    pending: BytesMut,
    /// The reservation of a known length, until the first spill.
    reserved: Option<Reservation>,
    spool: Option<Arc<Spool>>,
}

impl BodyWriter {
    pub(super) fn new(staging: Staging, spec: BodySpec, reserved: Option<Reservation>) -> Self {
        Self { staging, spec, received: 0, pending: BytesMut::new(), reserved, spool: None }
    }

    /// Adds bytes. Fails once the body passes its length or limit, or the disk or ledger is full.
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), StagingError> {
        self.count(chunk.len())?;
        if self.spool.is_none() && self.received <= self.staging.options().inline_max_bytes {
            self.pending.extend_from_slice(&chunk);
            return Ok(());
        }
        self.spill(chunk).await
    }

    /// Bytes taken so far.
    pub fn length(&self) -> u64 {
        self.received
    }

    /// Ends the body; its length is checked against the announced one.
    pub async fn finish(mut self) -> Result<StagedBody, StagingError> {
        if let Some(expected) = self.spec.length.filter(|expected| *expected != self.received) {
            return Err(StagingError::TooShort { received: self.received, expected });
        }
        if self.spool.is_none() && self.received <= self.staging.options().inline_max_bytes {
            return Ok(self.finish_inline());
        }
        let last = self.pending.split().freeze();
        let spool = self.spool();
        let staging = self.staging.clone();
        let length = self.received;
        self.run(move || {
            spool.append(&staging, &[last])?;
            spool.finish(&staging, length)
        })
        .await
    }

    fn count(&mut self, more: usize) -> Result<(), StagingError> {
        let received = self.received.saturating_add(u64::try_from(more).unwrap_or(u64::MAX));
        let limit = self.spec.length.unwrap_or(self.spec.length_max).min(self.spec.length_max);
        if received > limit {
            return Err(StagingError::TooLong { limit });
        }
        self.received = received;
        Ok(())
    }

    /// Small bodies are hashed in place: a job on another thread would cost more than the hash.
    fn finish_inline(&mut self) -> StagedBody {
        let body = self.pending.split().freeze();
        let mut hashers = Hashers::new(self.spec.sha256);
        hashers.update(&body);
        let (digest, sha256) = hashers.finish();
        StagedBody { length: self.received, digest, sha256, content: StagedContent::Inline(body) }
    }

    async fn spill(&mut self, chunk: Bytes) -> Result<(), StagingError> {
        if gathered(&mut self.pending, &chunk) {
            return Ok(());
        }
        let pieces = [self.pending.split().freeze(), chunk];
        let spool = self.spool();
        let staging = self.staging.clone();
        self.run(move || spool.append(&staging, &pieces)).await
    }

    fn spool(&mut self) -> Arc<Spool> {
        let reserved = self.reserved.take();
        let (staging, spec) = (&self.staging, &self.spec);
        Arc::clone(self.spool.get_or_insert_with(|| Spool::start(staging, spec, reserved)))
    }

    async fn run<R, F>(&self, work: F) -> Result<R, StagingError>
    where
        R: Send + 'static,
        F: FnOnce() -> Result<R, StagingError> + Send + 'static,
    {
        let answer = executor::run(self.staging.executor().as_ref(), work).await;
        answer
            .unwrap_or_else(|lost| Err(self.staging.io_error(self.spec.area, "run a job", std::io::Error::other(lost))))
    }
}

impl Drop for BodyWriter {
    /// Closing a long file frees its blocks, which takes a while: not on an async thread.
    fn drop(&mut self) {
        if let Some(spool) = self.spool.take() {
            self.staging.executor().execute(Box::new(move || drop(spool)));
        }
    }
}

/// Adds a chunk to a buffer if it fits; false if the buffer is to be written first. The buffer gets its whole size at
/// once, and the memory of the one written before if that is free again.
pub(super) fn gathered(pending: &mut BytesMut, chunk: &[u8]) -> bool {
    if pending.len().saturating_add(chunk.len()) >= WRITE_BUFFER_BYTES {
        return false;
    }
    pending.reserve(WRITE_BUFFER_BYTES.saturating_sub(pending.len()));
    pending.extend_from_slice(chunk);
    true
}

/// A whole body with its digests, not yet committed. Dropping it frees bytes and reservation.
#[derive(Debug)]
pub struct StagedBody {
    /// Length in bytes.
    pub length: u64,
    /// BLAKE3 of all bytes.
    pub digest: Digest,
    /// SHA-256 if it was asked for.
    pub sha256: Option<Sha256Digest>,
    /// The bytes.
    pub content: StagedContent,
}

/// Where a staged body's bytes are.
#[derive(Debug)]
pub enum StagedContent {
    /// In memory, at most the inline threshold.
    Inline(Bytes),
    /// In a staged file, body at offset 0.
    File(StagedFile),
}

/// The digests of a body as it passes.
#[derive(Debug)]
pub(super) struct Hashers {
    blake3: Box<blake3::Hasher>,
    sha256: Option<Sha256>,
}

impl Hashers {
    pub(super) fn new(sha256: bool) -> Self {
        Self { blake3: Box::default(), sha256: sha256.then(Sha256::new) }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.blake3.update(bytes);
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
    }

    pub(super) fn finish(self) -> (Digest, Option<Sha256Digest>) {
        let sha256 = self.sha256.map(|sha256| Sha256Digest(sha256.finalize().into()));
        (Digest(*self.blake3.finalize().as_bytes()), sha256)
    }
}

/// The staged part of a body, shared by its writer, the job under way and the ledger.
#[derive(Debug)]
struct Spool {
    area: AreaKind,
    state: Mutex<SpoolState>,
}

#[derive(Debug)]
enum SpoolState {
    /// Reserved or growing, nothing written yet.
    Empty(Reservation, Hashers),
    Open(OpenSpool),
    /// An older body needed the room.
    Revoked,
    /// A write failed, or the body was taken whole.
    Closed,
}

#[derive(Debug)]
struct OpenSpool {
    file: StagedFile,
    hashers: Hashers,
    written: u64,
    is_growing: bool,
}

impl Spool {
    fn start(staging: &Staging, spec: &BodySpec, reserved: Option<Reservation>) -> Arc<Self> {
        let spool = Arc::new(Self { area: spec.area, state: Mutex::new(SpoolState::Closed) });
        let reservation = reserved.unwrap_or_else(|| {
            let body: Arc<dyn Revocable> = Arc::clone(&spool) as Arc<dyn Revocable>;
            staging.ledger().start_growing(spec.class, Arc::downgrade(&body))
        });
        *spool.state() = SpoolState::Empty(reservation, Hashers::new(spec.sha256));
        spool
    }

    fn state(&self) -> MutexGuard<'_, SpoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes and hashes; a failure frees what was staged at once.
    fn append(&self, staging: &Staging, pieces: &[Bytes]) -> Result<(), StagingError> {
        let mut state = self.state();
        let taken = std::mem::replace(&mut *state, SpoolState::Closed);
        let mut open = match taken {
            SpoolState::Empty(reservation, hashers) => OpenSpool::create(staging, self.area, reservation, hashers)?,
            SpoolState::Open(open) => open,
            SpoolState::Revoked => {
                *state = SpoolState::Revoked;
                return Err(staging.exhausted(pieces.iter().map(Bytes::len).sum()));
            }
            SpoolState::Closed => {
                let source = std::io::Error::other("an earlier write of this body failed");
                return Err(staging.io_error(self.area, "write a staged body", source));
            }
        };
        open.append(staging, self.area, pieces)?;
        *state = SpoolState::Open(open);
        Ok(())
    }

    /// Takes the whole body out. It may have been revoked since its last write.
    fn finish(&self, staging: &Staging, length: u64) -> Result<StagedBody, StagingError> {
        let taken = std::mem::replace(&mut *self.state(), SpoolState::Closed);
        let SpoolState::Open(mut open) = taken else { return Err(staging.exhausted(0)) };
        if let Some(reservation) = open.file.reservation_mut() {
            reservation.settle();
        }
        let (digest, sha256) = open.hashers.finish();
        Ok(StagedBody { length, digest, sha256, content: StagedContent::File(open.file) })
    }
}

impl Revocable for Spool {
    fn revoke(&self) {
        let mut state = self.state();
        if !matches!(&*state, SpoolState::Closed) {
            drop(std::mem::replace(&mut *state, SpoolState::Revoked));
        }
    }
}

impl OpenSpool {
    fn create(
        staging: &Staging,
        area: AreaKind,
        reservation: Reservation,
        hashers: Hashers,
    ) -> Result<Self, StagingError> {
        let mut file = staging.create_file(area)?;
        let is_growing = reservation.is_growing();
        file.set_reservation(reservation);
        Ok(Self { file, hashers, written: 0, is_growing })
    }

    fn append(&mut self, staging: &Staging, area: AreaKind, pieces: &[Bytes]) -> Result<(), StagingError> {
        if self.is_growing {
            let more = pieces.iter().map(Bytes::len).sum::<usize>();
            let reservation = self.file.reservation_mut();
            reservation.map_or(Ok(()), |reservation| reservation.grow(u64::try_from(more).unwrap_or(u64::MAX)))?;
        }
        for piece in pieces {
            let written = staging.disk().write_all_at(self.file.file(), piece, self.written);
            written.map_err(|error| staging.io_error(area, "write a staged body", error))?;
            self.hashers.update(piece);
            self.written = self.written.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "body_writer_tests.rs"]
mod tests;
