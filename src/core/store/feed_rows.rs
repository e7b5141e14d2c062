//! The rows of a page for peers, read a piece at a time: manifests and bodies of many rows together.
//!
//! How it works: a page hands in pieces of the log. For each piece the manifests are looked up together, in the order of
//! their ids; what is live goes into the page until its bytes are full, and the bodies that ride along are read
//! together, in the order of their numbers. Looking each row up by itself costs twice as much.
//!
//! Failure: a row that cannot be read is reported and passed over, a body that is not good does not ride along: one bad
//! row must not keep every peer from all rows behind it. Trouble of another kind ends the page.

use super::error::StoreError;
use super::index::View;
use super::keys::{LogRow, Table, number_key};
use super::record::{BodyPlace, Record};
use super::walk::{FeedRow, LiveFilter, Tombstone};
use crate::core::base::ids::{ArtifactId, BodyNo, Digest, Seq};

/// Rows looked up together. What a page looks up and has no room for is less than this.
pub(super) const PIECE_ROWS: usize = 128;

/// A place of the log: its number, what it says, and how long that is.
pub(super) type Place = (Seq, LogRow, u64);

/// A row of the log; one that does not decode is reported and as good as one of a kind that is not known.
pub(super) fn log_row(seq: Seq, bytes: &[u8]) -> Place {
    let row = LogRow::decode(bytes).unwrap_or_else(|reason| {
        tracing::error!(%seq, table = "log", %reason, "store_row_corrupt");
        LogRow::Other(0)
    });
    (seq, row, bytes.len() as u64)
}

/// Rows of a page so far.
pub(super) struct FeedRows<'a> {
    view: &'a View<'a>,
    filter: LiveFilter<'a>,
    inline_up_to: u64,
    bytes_max: u64,
    bytes: u64,
    rows: Vec<FeedRow>,
}

impl<'a> FeedRows<'a> {
    /// An empty page of at most so many bytes, though of one row at least; bodies up to `inline_up_to` ride along.
    pub(super) fn new(view: &'a View<'a>, now_ms: u64, inline_up_to: u64, bytes_max: u64) -> Self {
        let filter = LiveFilter::new(view, now_ms);
        Self { view, filter, inline_up_to, bytes_max, bytes: 0, rows: Vec::new() }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// All of them.
    pub(super) fn finish(self) -> Vec<FeedRow> {
        self.rows
    }

    /// Adds what these places stand for. Gives how many of them are dealt with: not all where the page is full.
    pub(super) fn add(&mut self, places: Vec<Place>) -> Result<usize, StoreError> {
        let manifests = self.manifests(&places)?;
        let mut bodies = Vec::new();
        let mut dealt_with = 0;
        for ((seq, row, log_bytes), manifest) in places.into_iter().zip(manifests) {
            let found = match row {
                LogRow::NamespaceDelete { namespace, version_ms } => {
                    Some((FeedRow::NamespaceDelete(Tombstone { namespace, version_ms, seq }), log_bytes, None))
                }
                LogRow::Put { id, .. } => self.live(&id, seq, manifest)?,
                LogRow::Other(_) => None,
            };
            if let Some((row, weight, body)) = found {
                if !self.rows.is_empty() && self.bytes.saturating_add(weight) > self.bytes_max {
                    break;
                }
                self.bytes = self.bytes.saturating_add(weight);
                bodies.extend(body.map(|(body_no, digest)| (body_no, digest, self.rows.len())));
                self.rows.push(row);
            }
            dealt_with += 1;
        }
        self.add_bodies(bodies)?;
        Ok(dealt_with)
    }

    /// The manifest rows of the puts among these places, in their order.
    fn manifests(&self, places: &[Place]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let mut ids: Vec<(ArtifactId, usize)> = Vec::with_capacity(places.len());
        for (at, (_, row, _)) in places.iter().enumerate() {
            if let LogRow::Put { id, .. } = row {
                ids.push((*id, at));
            }
        }
        ids.sort_unstable();
        let keys: Vec<&[u8]> = ids.iter().map(|(id, _)| id.as_bytes().as_slice()).collect();
        let mut manifests = Vec::new();
        manifests.resize_with(places.len(), || None);
        for ((_, at), row) in ids.iter().zip(self.view.get_many(Table::Manifests, &keys)?) {
            if let (Some(bytes), Some(manifest)) = (readable(row)?, manifests.get_mut(*at)) {
                *manifest = Some(bytes.to_vec());
            }
        }
        Ok(manifests)
    }

    /// What a put stands for, with its weight and the body to ride along; `None` if there is nothing to tell.
    fn live(&mut self, id: &ArtifactId, seq: Seq, manifest: Option<Vec<u8>>) -> Result<Option<Live>, StoreError> {
        let Some(value) = manifest else { return Ok(None) };
        let Some(record) = self.filter.live(id, &value, &[])?.filter(|record| record.seq == seq) else {
            return Ok(None);
        };
        let body = riding(&record, self.inline_up_to);
        let weight = (value.len() as u64).saturating_add(body.map_or(0, |_| record.size));
        Ok(Some((FeedRow::Put(Box::new(record), None), weight, body)))
    }

    /// Reads bodies and lets the good ones ride with their rows.
    fn add_bodies(&mut self, mut bodies: Vec<(BodyNo, Digest, usize)>) -> Result<(), StoreError> {
        bodies.sort_unstable_by_key(|(body_no, ..)| *body_no);
        let keys: Vec<_> = bodies.iter().map(|(body_no, ..)| number_key(body_no.0)).collect();
        let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_slice()).collect();
        for ((_, digest, at), body) in bodies.iter().zip(self.view.get_many(Table::Bodies, &keys)?) {
            let Some(bytes) = readable(body)? else { continue };
            if let Some(FeedRow::Put(_, rides)) = self.rows.get_mut(*at)
                && Digest::of(&bytes) == *digest
            {
                *rides = Some(bytes::Bytes::copy_from_slice(&bytes));
            }
        }
        Ok(())
    }
}

/// A row of the feed, its weight, and number and digest of the body to ride along.
type Live = (FeedRow, u64, Option<(BodyNo, Digest)>);

/// The body if it is inline and small enough to ride along; else the peer asks for it by itself.
fn riding(record: &Record, inline_up_to: u64) -> Option<(BodyNo, Digest)> {
    match record.body {
        Some(BodyPlace::Inline(body_no)) if record.size <= inline_up_to => Some((body_no, record.digest)),
        _ => None,
    }
}

/// A value that does not match its checksum is as good as absent.
pub(super) fn readable<T>(found: Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
    match found {
        Err(StoreError::CorruptRow { table, reason }) => {
            tracing::error!(table, %reason, "store_row_corrupt");
            Ok(None)
        }
        other => other,
    }
}
