//! Listing: manifests in id order with digests (the seed era's walk), tombstones, and the change log (the feed).

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

use super::error::StoreError;
use super::feed_rows::{FeedRows, PIECE_ROWS, log_row};
use super::index_view::View;
use super::keys::{Table, key_number, number_key};
use super::record::Record;
use super::state::{Core, corrupt, is_deleted, is_expired, tombstone_version};
use super::tagged::Row;
use crate::core::base::ids::{ArtifactId, Epoch, Seq};

/// What part of the manifests to list, in id order.
#[derive(Debug, Clone)]
pub struct ManifestPageRequest {
    /// Start behind this id.
    pub after: Option<ArtifactId>,
    /// Only ids whose hex form starts with this; lower-case hex digits.
    pub prefix: String,
    /// Most rows.
    pub rows_max: usize,
    /// Only these producers; empty = all.
    pub producers: &'static [&'static str],
}

/// A page of manifests.
#[derive(Debug, Clone)]
pub struct ManifestPage {
    /// The rows, ascending by id.
    pub records: Vec<Record>,
    /// Where the next page starts if at least one further row may exist: the last id looked at.
    pub next_after: Option<ArtifactId>,
}

/// A deleted namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    /// The namespace.
    pub namespace: String,
    /// Everything at or below this version is deleted.
    pub version_ms: u64,
    /// Its row in the log.
    pub seq: Seq,
}

/// A page of tombstones in byte order of the namespace.
#[derive(Debug, Clone)]
pub struct TombstonePage {
    /// The rows.
    pub tombstones: Vec<Tombstone>,
    /// The last namespace of the page if at least one further row exists.
    pub next_after: Option<String>,
}

/// One bucket of the seed era's digest; see `Store::digest_v1`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DigestBucket {
    /// The first hex digits of the ids in it.
    pub prefix: String,
    /// How many manifests.
    pub count: u64,
    /// SHA-256 over (id as 64 ASCII bytes, version_ms as 8 bytes little-endian) in id order, as hex.
    pub hash: String,
}

/// What part of the change log to read.
#[derive(Debug, Clone, Copy)]
pub struct FeedRequest {
    /// Rows above this sequence number.
    pub after: Seq,
    /// Rows up to this one, if bounded.
    pub up_to: Option<Seq>,
    /// Most rows.
    pub rows_max: usize,
    /// Most bytes of records and inline bodies together; at least one row is given.
    pub bytes_max: u64,
    /// Bodies up to this size ride along.
    pub inline_up_to: u64,
}

/// One row of the change log.
#[derive(Debug, Clone)]
pub enum FeedRow {
    /// An artifact, with its body if it is small enough to ride along.
    Put(Box<Record>, Option<bytes::Bytes>),
    /// A deleted namespace.
    NamespaceDelete(Tombstone),
}

/// A page of the change log, taken from one snapshot.
#[derive(Debug, Clone)]
pub struct FeedPage {
    /// The epoch the sequence numbers belong to.
    pub epoch: Epoch,
    /// The newest row of the store.
    pub head_seq: Seq,
    /// Where the next page starts: the sequence number of the last row looked at.
    pub next: Seq,
    /// The rows, ascending by sequence number.
    pub rows: Vec<FeedRow>,
}

/// Whether a cursor of (epoch, seq) from an earlier page still holds here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CursorCheck {
    /// Go on from here.
    Valid(Seq),
    /// The epoch ended earlier: rows above this one may differ; go on from it.
    Clamped(Seq),
    /// The epoch is unknown: walk again.
    Void,
}

/// Rows looked at while a page finds nothing to list, before the page ends; a filter must not hold a thread for ever.
const SCANNED_ROWS_MAX: usize = 1 << 20;

impl Core {
    /// A page of live manifests in id order.
    pub(crate) fn manifest_page(&self, request: &ManifestPageRequest) -> Result<ManifestPage, StoreError> {
        self.manifest_page_within(request, SCANNED_ROWS_MAX)
    }

    /// As above; a page that found something ends behind `scanned_max` rows, and the next one goes on from there.
    pub(crate) fn manifest_page_within(
        &self,
        request: &ManifestPageRequest,
        scanned_max: usize,
    ) -> Result<ManifestPage, StoreError> {
        let view = self.index.view();
        let mut filter = LiveFilter::new(&view, self.options.clock.now_ms());
        let mut records: Vec<Record> = Vec::new();
        let (mut last, mut looked_at) = (None, None);
        for (scanned, row) in view.rows(Table::Manifests, &first_key(request), None)?.enumerate() {
            let (key, value) = row?;
            // An empty page that goes on would look like a listing that does not advance.
            if scanned >= scanned_max && !records.is_empty() {
                return Ok(ManifestPage { records, next_after: looked_at });
            }
            let id = ArtifactId::from_slice(&key).ok_or_else(|| corrupt("manifests", "a key is no id"))?;
            if !id.to_string().starts_with(&request.prefix) {
                break;
            }
            looked_at = Some(id);
            let Some(record) = filter.live(&id, &value, request.producers)? else { continue };
            if records.len() >= request.rows_max {
                return Ok(ManifestPage { records, next_after: last });
            }
            last = Some(id);
            records.push(record);
        }
        Ok(ManifestPage { records, next_after: None })
    }

    /// The seed era's digest; see `reference` in `docs/protocols.md`.
    pub(crate) fn digest_v1(&self, prefix_len: usize, producers: &[&str]) -> Result<Vec<DigestBucket>, StoreError> {
        let view = self.index.view();
        let mut filter = LiveFilter::new(&view, self.options.clock.now_ms());
        let mut buckets: Vec<DigestBucket> = Vec::new();
        let mut hasher = Sha256::new();
        for row in view.rows(Table::Manifests, &[], None)? {
            let (key, value) = row?;
            let id = ArtifactId::from_slice(&key).ok_or_else(|| corrupt("manifests", "a key is no id"))?;
            let Some(record) = filter.live(&id, &value, producers)? else { continue };
            let text = id.to_string();
            let prefix = text.get(..prefix_len.min(text.len())).unwrap_or(&text);
            if buckets.last().is_none_or(|bucket| bucket.prefix != prefix) {
                end_bucket(&mut buckets, &mut hasher);
                buckets.push(DigestBucket { prefix: prefix.to_owned(), count: 0, hash: String::new() });
            }
            if let Some(bucket) = buckets.last_mut() {
                bucket.count += 1;
            }
            hasher.update(text.as_bytes());
            hasher.update(record.version_ms.to_le_bytes());
        }
        end_bucket(&mut buckets, &mut hasher);
        Ok(buckets)
    }

    /// A page of tombstones in byte order of the namespace.
    pub(crate) fn tombstone_page(&self, after: Option<&str>, rows_max: usize) -> Result<TombstonePage, StoreError> {
        let from = after.map_or(Vec::new(), |after| [after.as_bytes(), &[0]].concat());
        let mut tombstones: Vec<Tombstone> = Vec::new();
        for row in self.index.view().rows(Table::Tombstones, &from, None)? {
            let (key, value) = row?;
            if tombstones.len() >= rows_max {
                let next_after = tombstones.last().map(|tombstone| tombstone.namespace.clone());
                return Ok(TombstonePage { tombstones, next_after });
            }
            let namespace = String::from_utf8(key.into_vec()).map_err(|error| corrupt("tombstones", error))?;
            tombstones.push(decode_tombstone(namespace, &value)?);
        }
        Ok(TombstonePage { tombstones, next_after: None })
    }

    /// Every tombstone: namespace and version.
    pub(crate) fn all_tombstones(&self) -> Result<Vec<(String, u64)>, StoreError> {
        let page = self.tombstone_page(None, usize::MAX)?;
        Ok(page.tombstones.into_iter().map(|tombstone| (tombstone.namespace, tombstone.version_ms)).collect())
    }

    /// A page of the change log. The head is read before the snapshot is taken, so every row up to it is in there.
    pub(crate) fn feed_page(&self, request: &FeedRequest) -> Result<FeedPage, StoreError> {
        let head_seq = *self.head.borrow();
        let view = self.index.view();
        let bound = request.up_to.map_or(head_seq, |up_to| up_to.min(head_seq));
        let mut page = FeedPage { epoch: self.epoch, head_seq, next: request.after, rows: Vec::new() };
        if bound <= request.after {
            return Ok(page);
        }
        let mut rows = FeedRows::new(&view, self.options.clock.now_ms(), request.inline_up_to, request.bytes_max);
        let (from, end) = (number_key(request.after.0 + 1), number_key(bound.0.saturating_add(1)));
        let mut listed = view.rows(Table::Log, &from, Some(&end))?.take(request.rows_max.saturating_add(1)).peekable();
        let mut looked_at = 0;
        while looked_at < request.rows_max && listed.peek().is_some() {
            let mut piece = Vec::new();
            for row in listed.by_ref().take(PIECE_ROWS.min(request.rows_max - looked_at)) {
                let (key, value) = row?;
                let seq = Seq(key_number(&key).ok_or_else(|| corrupt("log", "a key is not a number"))?);
                piece.push(log_row(seq, &value));
            }
            looked_at += piece.len();
            let seqs: Vec<Seq> = piece.iter().map(|(seq, ..)| *seq).collect();
            let taken = rows.add(piece)?;
            page.next = taken.checked_sub(1).and_then(|last| seqs.get(last)).map_or(page.next, |seq| *seq);
            if taken < seqs.len() {
                page.rows = rows.finish()?;
                return Ok(page);
            }
        }
        if listed.peek().is_none() {
            page.next = bound;
        }
        page.rows = rows.finish()?;
        Ok(page)
    }
}

/// The smallest key a page can begin with.
pub(super) fn first_key(request: &ManifestPageRequest) -> Vec<u8> {
    let mut digits = request.prefix.clone();
    if digits.len() % 2 == 1 {
        digits.push('0');
    }
    let prefix = hex::decode(digits).unwrap_or_default();
    let after = request.after.map(|id| [id.as_bytes().as_slice(), &[0]].concat()).unwrap_or_default();
    prefix.max(after)
}

fn end_bucket(buckets: &mut [DigestBucket], hasher: &mut Sha256) {
    let hash = hasher.finalize_reset();
    if let Some(bucket) = buckets.last_mut() {
        bucket.hash = hex::encode(hash);
    }
}

fn decode_tombstone(namespace: String, value: &[u8]) -> Result<Tombstone, StoreError> {
    let row = Row::decode(value).map_err(|error| corrupt("tombstones", error))?;
    Ok(Tombstone { namespace, version_ms: row.number(1), seq: Seq(row.number(2)) })
}

/// Lets through what is live in a view, asking for each namespace's tombstone once.
pub(super) struct LiveFilter<'a> {
    view: &'a View<'a>,
    now_ms: u64,
    tombstones: HashMap<String, Option<u64>>,
}

/// Namespaces remembered by a filter; beyond that they are asked for again.
const FILTER_NAMESPACES_MAX: usize = 4096;

impl<'a> LiveFilter<'a> {
    pub(super) fn new(view: &'a View<'a>, now_ms: u64) -> Self {
        Self { view, now_ms, tombstones: HashMap::new() }
    }

    /// The record of a manifest row if it is live and of one of the producers; one that does not decode is reported
    /// and passed over, for one bad row never stops a listing.
    pub(super) fn live(
        &mut self,
        id: &ArtifactId,
        value: &[u8],
        producers: &[&str],
    ) -> Result<Option<Record>, StoreError> {
        let record = match Record::from_bytes(value) {
            Ok(record) => record,
            Err(reason) => {
                tracing::error!(%id, table = "manifests", %reason, "store_row_corrupt");
                return Ok(None);
            }
        };
        let listed = producers.is_empty() || producers.contains(&record.name.producer.as_str());
        if !listed || is_expired(&record, self.now_ms) || is_deleted(&record, self.tombstone(&record.name.namespace)?) {
            return Ok(None);
        }
        Ok(Some(record))
    }

    fn tombstone(&mut self, namespace: &str) -> Result<Option<u64>, StoreError> {
        if let Some(known) = self.tombstones.get(namespace) {
            return Ok(*known);
        }
        let value = self.view.get(Table::Tombstones, namespace.as_bytes())?;
        let version = value.map(|value| tombstone_version(&value)).transpose()?;
        if self.tombstones.len() >= FILTER_NAMESPACES_MAX {
            self.tombstones.clear();
        }
        self.tombstones.insert(namespace.to_owned(), version);
        Ok(version)
    }
}
