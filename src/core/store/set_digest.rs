//! The digest of what is here: per bucket of ids, how many artifacts and the sum of what each stands for.
//!
//! How it works: an artifact stands for 128 bits of the BLAKE3 of its id and version, and a bucket for their sum modulo
//! 2^128, so a change costs one addition whatever is there. The committer writes the buckets it touched into the batch
//! that changes their artifacts, and publishes all of them with the head of that batch.
//!
//! Invariants: the rows equal a recount at every batch, so they do after any crash. The row `kept` names the epoch whose
//! writer keeps them; a data dir whose newest epoch is another one was written by a version that does not, and is
//! counted anew by the next open.

use super::error::StoreError;
use super::index::{Batch, Index};
use super::keys::Table;
use super::record::Record;
use super::state::corrupt;
use super::tagged::Row;
use crate::core::base::ids::{ArtifactId, Epoch, Seq, Version};

/// Buckets: one for each first hex digit of an id. Few, because each that a group touches is a row in its batch.
pub const BUCKETS: usize = 16;

/// Hex digits that the ids of a bucket share.
pub const PREFIX_LEN: usize = 1;

/// `buckets`: 1: the epoch whose writer keeps the rows.
const KEPT: &[u8] = b"kept";

/// The artifacts of some ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetBucket {
    /// How many.
    pub count: u64,
    /// The sum of what they stand for, modulo 2^128.
    pub sum: u128,
}

impl SetBucket {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { count: self.count.wrapping_add(other.count), sum: self.sum.wrapping_add(other.sum) }
    }
}

/// The digest of a store at one of its heads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetDigest {
    /// The newest row at that time.
    pub head: Seq,
    /// By the first hex digit of the id.
    pub buckets: [SetBucket; BUCKETS],
}

impl SetDigest {
    /// All buckets together.
    pub fn whole(&self) -> SetBucket {
        self.buckets.iter().fold(SetBucket::default(), |sum, bucket| sum.plus(*bucket))
    }

    /// Reads what the writer of the newest epoch kept; `None` if that one did not.
    pub(crate) fn load(index: &Index, newest: Option<Epoch>, head: Seq) -> Result<Option<Self>, StoreError> {
        let kept = index.get(Table::Buckets, KEPT)?.map(|bytes| Row::decode(&bytes)).transpose();
        let kept = kept.map_err(|error| corrupt("buckets", error))?;
        if newest.is_none() || kept.and_then(|row| row.bytes(1).and_then(Epoch::from_slice)) != newest {
            return Ok(None);
        }
        let mut digest = Self { head, ..Self::default() };
        for (number, bucket) in digest.buckets.iter_mut().enumerate() {
            if let Some(bytes) = index.get(Table::Buckets, &bucket_key(number))? {
                let row = Row::decode(&bytes).map_err(|error| corrupt("buckets", error))?;
                let sum = row.bytes(2).and_then(|bytes| bytes.try_into().ok()).map(u128::from_be_bytes);
                *bucket = SetBucket { count: row.number(1), sum: sum.unwrap_or_default() };
            }
        }
        Ok(Some(digest))
    }

    /// Counts the manifests; one that does not decode counts for nothing.
    pub(crate) fn count(index: &Index, head: Seq) -> Result<Self, StoreError> {
        let mut changes = SetChanges::default();
        for row in index.rows(Table::Manifests, &[])? {
            let (key, value) = row?;
            if let (Some(id), Ok(record)) = (ArtifactId::from_slice(&key), Record::from_bytes(&value)) {
                changes.add(&id, &record);
            }
        }
        Ok(changes.on(&Self { head, ..Self::default() }))
    }

    /// Puts the row that says who keeps the digest into the batch that opens the store, and all buckets if they were
    /// counted anew.
    pub(crate) fn begin(
        index: &Index,
        batch: &mut Batch<'_>,
        epochs: (Option<Epoch>, Epoch),
        head: Seq,
    ) -> Result<Self, StoreError> {
        let (newest, beginning) = epochs;
        let digest = match Self::load(index, newest, head)? {
            Some(digest) => digest,
            None => {
                let digest = Self::count(index, head)?;
                digest.buckets.iter().enumerate().for_each(|(number, bucket)| put_bucket(batch, number, *bucket));
                digest
            }
        };
        batch.put(Table::Buckets, KEPT, &Row::default().with_bytes(1, beginning.as_bytes()).encode());
        Ok(digest)
    }
}

/// What a group changes.
#[derive(Debug, Clone, Default)]
pub(crate) struct SetChanges([SetBucket; BUCKETS]);

impl SetChanges {
    pub(crate) fn add(&mut self, id: &ArtifactId, record: &Record) {
        let one = SetBucket { count: 1, sum: stands_for(id, record.version()) };
        self.change(id, one);
    }

    pub(crate) fn remove(&mut self, id: &ArtifactId, record: &Record) {
        let none = SetBucket { count: 1_u64.wrapping_neg(), sum: stands_for(id, record.version()).wrapping_neg() };
        self.change(id, none);
    }

    fn change(&mut self, id: &ArtifactId, by: SetBucket) {
        let first = id.as_bytes().first().copied().unwrap_or_default();
        if let Some(bucket) = self.0.get_mut(usize::from(first >> 4)) {
            *bucket = bucket.plus(by);
        }
    }

    fn on(&self, before: &SetDigest) -> SetDigest {
        let mut after = before.clone();
        after.buckets.iter_mut().zip(self.0).for_each(|(bucket, change)| *bucket = bucket.plus(change));
        after
    }

    /// The digest after the group, whose changed rows join its batch.
    pub(crate) fn write(&self, batch: &mut Batch<'_>, before: &SetDigest, head: Seq) -> SetDigest {
        let after = SetDigest { head, ..self.on(before) };
        let changed =
            after.buckets.iter().zip(&before.buckets).enumerate().filter(|(_, (after, before))| after != before);
        changed.for_each(|(number, (bucket, _))| put_bucket(batch, number, *bucket));
        after
    }
}

fn bucket_key(number: usize) -> [u8; 1] {
    [u8::try_from(number).unwrap_or(u8::MAX)]
}

fn put_bucket(batch: &mut Batch<'_>, number: usize, bucket: SetBucket) {
    let row = Row::default().with_number(1, bucket.count).with_bytes(2, &bucket.sum.to_be_bytes());
    batch.put(Table::Buckets, &bucket_key(number), &row.encode());
}

/// What one version of an artifact stands for: the first 16 bytes, big-endian, of the BLAKE3 of id, version_ms (8 bytes
/// little-endian), logical (2 bytes little-endian) and digest.
pub(super) fn stands_for(id: &ArtifactId, version: Version) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(id.as_bytes());
    hasher.update(&version.version_ms.to_le_bytes());
    hasher.update(&version.logical.to_le_bytes());
    hasher.update(version.digest.as_bytes());
    let hash = hasher.finalize();
    hash.as_bytes().first_chunk::<16>().map_or(0, |bytes| u128::from_be_bytes(*bytes))
}

#[cfg(test)]
#[path = "set_digest_tests.rs"]
mod tests;
