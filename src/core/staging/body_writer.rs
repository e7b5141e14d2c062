//! Takes a body chunk by chunk, hashes it, keeps it in memory while small and in a staged file when not.
//!
//! How it works: chunks gather in a buffer. A body that ends within the inline threshold never leaves memory. A longer
//! one is spilled buffer by buffer: each buffer is one job on the executor that grows the reservation if the length is
//! unknown, writes and hashes. What the jobs work on is a [`Spool`], which the writer, the job and (weakly) the ledger
//! share: whoever of them drops it last frees the bytes, so a writer dropped in the middle of a job leaks nothing. A body
//! that says what it is (see [`super::parked`]) is parked instead, and whoever wants it next goes on where it ended.
//!
//! Invariants: at most one buffer per body is in memory beyond what the caller holds. No disk or hashing work of spilled
//! bytes is done on an async thread. A length is checked before its bytes are kept.
//!
//! Failure: a failed write frees the staged bytes at once, whenever the writer is dropped.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};

use super::area::{AreaKind, Staging, StagingError};
use super::budget::{BudgetClass, Reservation};
use super::partials::PartialIdentity;
use super::spool::Spool;
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
    /// What it is, if it can be taken up again.
    identity: Option<PartialIdentity>,
    received: u64,
    pending: BytesMut,
    /// Bytes handed to jobs.
    spilled: u64,
    /// Whether a job was handed bytes and has not answered: after a dropped write nobody knows whether it ran.
    is_in_doubt: bool,
    /// The reservation of a known length, until the first spill.
    reserved: Option<Reservation>,
    spool: Option<Arc<Spool>>,
}

impl BodyWriter {
    pub(super) fn new(staging: Staging, spec: BodySpec, reserved: Option<Reservation>) -> Self {
        let pending = BytesMut::new();
        let (identity, spool) = (None, None);
        Self { staging, spec, identity, received: 0, pending, spilled: 0, is_in_doubt: false, reserved, spool }
    }

    /// One that can be taken up again.
    pub(super) fn resumable(
        staging: Staging,
        spec: BodySpec,
        identity: PartialIdentity,
        reserved: Option<Reservation>,
    ) -> Self {
        let mut writer = Self::new(staging, spec, reserved);
        writer.identity = Some(identity);
        writer
    }

    /// One that goes on behind what is staged.
    pub(super) fn taken_up(staging: Staging, spec: BodySpec, spool: Arc<Spool>) -> Self {
        let mut writer = Self::new(staging, spec, None);
        writer.identity = spool.identity().cloned();
        writer.received = spool.written();
        writer.spilled = writer.received;
        writer.spool = Some(spool);
        writer
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
        let (at, length) = (self.spilled, self.received);
        self.run(move || {
            spool.append(&staging, at, &[last])?;
            spool.finish(&staging, length)
        })
        .await
    }

    /// How many bytes are known to be there, from which the sender is to go on.
    pub async fn resume_at(&mut self) -> Result<u64, StagingError> {
        if let Some(spool) = self.spool.clone().filter(|_| self.is_in_doubt) {
            let written = self.run(move || Ok(spool.written())).await?;
            self.pending.clear();
            (self.received, self.spilled, self.is_in_doubt) = (written, written, false);
        }
        Ok(self.received)
    }

    /// Leaves the body to whoever wants it next; one that cannot be taken up again is dropped.
    pub async fn park(mut self) {
        let Some(parking) = self.parking() else { return };
        let parked = self.run(move || {
            parking();
            Ok(())
        });
        // A lost job means that the process ends.
        let _ = parked.await;
    }

    /// Frees what is staged: it is not wanted, or is not what it should be.
    pub fn discard(mut self) {
        self.identity = None;
        if let Some(spool) = self.spool.take() {
            self.staging.executor().execute(Box::new(move || spool.discard()));
        }
    }

    /// The work of parking, for the executor.
    fn parking(&mut self) -> Option<impl FnOnce() + Send + 'static> {
        self.identity.as_ref().filter(|_| self.received > 0)?;
        drop(self.spool());
        let spool = self.spool.take()?;
        let last = self.pending.split().freeze();
        let (staging, at, is_in_doubt) = (self.staging.clone(), self.spilled, self.is_in_doubt);
        Some(move || {
            if !is_in_doubt && !last.is_empty() {
                // What fails here frees the body, and parking finds nothing.
                let _ = spool.append(&staging, at, &[last]);
            }
            staging.keep_parked(spool);
        })
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
        let (staging, at) = (self.staging.clone(), self.spilled);
        self.spilled = self.received;
        self.is_in_doubt = true;
        let appended = self.run(move || spool.append(&staging, at, &pieces)).await;
        self.is_in_doubt = false;
        appended
    }

    fn spool(&mut self) -> Arc<Spool> {
        let (reserved, identity) = (self.reserved.take(), self.identity.clone());
        let (staging, spec) = (&self.staging, &self.spec);
        Arc::clone(self.spool.get_or_insert_with(|| Spool::start(staging, spec, identity, reserved)))
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
    /// Closing a long file frees its blocks, which takes a while, and so does parking: not on an async thread.
    fn drop(&mut self) {
        if let Some(parking) = self.parking() {
            self.staging.executor().execute(Box::new(parking));
        } else if let Some(spool) = self.spool.take() {
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

    pub(super) fn takes_sha256(&self) -> bool {
        self.sha256.is_some()
    }

    pub(super) fn finish(self) -> (Digest, Option<Sha256Digest>) {
        let sha256 = self.sha256.map(|sha256| Sha256Digest(sha256.finalize().into()));
        (Digest(*self.blake3.finalize().as_bytes()), sha256)
    }
}

#[cfg(test)]
#[path = "body_writer_tests.rs"]
mod tests;
