//! The rows of a page for peers, read a piece at a time: manifests and bodies of many rows together.
//!
//! How it works: a page hands in pieces of the log. For each piece the manifests are looked up together, in the order of
//! their ids; what is live goes into the page until its bytes are full. At its end the bodies that ride along are read
//! in one run, in the order of their numbers. Looking each row up by itself costs twice as much.
//!
//! Failure: a row that cannot be read is reported and passed over, a body that is not good does not ride along: one bad
//! row must not keep every peer from all rows behind it. Trouble of another kind ends the page.

use super::error::StoreError;
use super::index_view::View;
use super::keys::{LogRow, Table};
use super::record::{BodyPlace, Record};
use super::walk::{FeedRow, LiveFilter, Tombstone};
use bytes::BytesMut;

use crate::core::base::ids::{ArtifactId, BodyNo, Seq};

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
    riding: Vec<Riding>,
}

impl<'a> FeedRows<'a> {
    /// An empty page of at most so many bytes, though of one row at least; bodies up to `inline_up_to` ride along.
    pub(super) fn new(view: &'a View<'a>, now_ms: u64, inline_up_to: u64, bytes_max: u64) -> Self {
        let filter = LiveFilter::new(view, now_ms);
        Self { view, filter, inline_up_to, bytes_max, bytes: 0, rows: Vec::new(), riding: Vec::new() }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// All of them, with their bodies.
    pub(super) fn finish(mut self) -> Result<Vec<FeedRow>, StoreError> {
        self.add_bodies()?;
        Ok(self.rows)
    }

    /// Adds what these places stand for. Gives how many of them are dealt with: not all where the page is full.
    pub(super) fn add(&mut self, places: Vec<Place>) -> Result<usize, StoreError> {
        let manifests = self.manifests(&places)?;
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
                let at = self.rows.len();
                self.riding.extend(body.map(|(body_no, length)| Riding { body_no, length, row: at }));
                self.rows.push(row);
            }
            dealt_with += 1;
        }
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

    /// Reads the bodies that ride with their rows. They are not hashed here: whoever takes them holds each against its
    /// record, and asks for a bad one by itself, by which we find it.
    fn add_bodies(&mut self) -> Result<(), StoreError> {
        let mut riding = std::mem::take(&mut self.riding);
        riding.sort_unstable();
        let mut left = riding.as_slice();
        while !left.is_empty() {
            let numbers: Vec<u64> = left.iter().map(|riding| riding.body_no.0).collect();
            let mut bytes = BytesMut::with_capacity(left.iter().map(|riding| riding.length).sum());
            let mut read = Vec::with_capacity(left.len());
            let ended = self.view.run(Table::Bodies, &numbers, |at, body| {
                bytes.extend_from_slice(body);
                read.push((at, body.len()));
            });
            for (at, length) in read {
                let body = bytes.split_to(length).freeze();
                if let Some(riding) = left.get(at).filter(|riding| riding.length == length)
                    && let Some(FeedRow::Put(_, rides)) = self.rows.get_mut(riding.row)
                {
                    *rides = Some(body);
                }
            }
            let Err((at, error)) = ended else { break };
            // That one is not readable; what lies behind it may be.
            readable::<()>(Err(error))?;
            left = left.get(at.saturating_add(1)..).unwrap_or_default();
        }
        Ok(())
    }
}

/// A row of the feed, its weight, and number and length of the body to ride along.
type Live = (FeedRow, u64, Option<(BodyNo, usize)>);

/// A body that is to ride along with a row of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Riding {
    body_no: BodyNo,
    length: usize,
    row: usize,
}

/// The body if it is inline and small enough to ride along; else the peer asks for it by itself.
fn riding(record: &Record, inline_up_to: u64) -> Option<(BodyNo, usize)> {
    match record.body {
        Some(BodyPlace::Inline(body_no)) if record.size <= inline_up_to => {
            Some((body_no, usize::try_from(record.stored_size).ok()?))
        }
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
