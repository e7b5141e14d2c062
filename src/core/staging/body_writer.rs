//! Takes a body chunk by chunk, hashes it, keeps it in memory while small and in a staged file when not.

use bytes::Bytes;

use super::area::{AreaKind, StagingError};
use super::budget::BudgetClass;
use super::staged_file::StagedFile;
use crate::core::base::ids::{Digest, Sha256Digest};

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
pub struct BodyWriter {}

impl BodyWriter {
    /// Adds bytes. Fails once the body passes its length or limit, or the disk or ledger is full.
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), StagingError> {
        let _ = chunk;
        todo!()
    }

    /// Bytes taken so far.
    pub fn length(&self) -> u64 {
        todo!()
    }

    /// Ends the body; its length is checked against the announced one.
    pub async fn finish(self) -> Result<StagedBody, StagingError> {
        todo!()
    }
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
