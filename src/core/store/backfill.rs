//! The backfill: what is here below a head, newest version first, for peers that join.
//!
//! How it works: `by_version` is read backwards. Each key ends in the sequence number of its row, so rows outside the
//! asked interval are passed over without a look at anything else. A page ends at a position, the last key it looked at,
//! and the next one begins below it.
//!
//! Invariants: positions fall strictly, so a listing ends. A row that a newer version moves while somebody lists is met
//! by that peer's feed instead, because its new sequence number lies above the head the peer took first.

use std::fmt;
use std::str::FromStr;

use super::error::StoreError;
use super::feed_rows::{FeedRows, PIECE_ROWS, log_row, readable};
use super::index_view::View;
use super::keys::{Table, last_seq};
use super::state::Core;
use super::walk::FeedRow;
use crate::core::base::ids::{Epoch, Seq};

/// Keys of `by_version` looked at for one page: rows outside the interval cost little, but must not hold a thread for
/// ever.
const SCANNED_KEYS_MAX: usize = 128 << 10;

/// Where a backfill goes on: below this (version_ms, logical, seq). As text it falls in byte order from page to page;
/// nothing else of it concerns a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackfillPosition([u8; Self::LEN]);

impl BackfillPosition {
    /// Bytes of a key of `by_version`.
    const LEN: usize = 18;
}

impl fmt::Display for BackfillPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for BackfillPosition {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; Self::LEN];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

/// What part of the versions to list.
#[derive(Debug, Clone, Copy)]
pub struct BackfillRequest {
    /// Rows above this sequence number.
    pub above: Seq,
    /// Rows up to this one.
    pub up_to: Seq,
    /// Where to go on; from the newest version if absent.
    pub below: Option<BackfillPosition>,
    /// Most rows.
    pub rows_max: usize,
    /// Most bytes of records and inline bodies together; at least one row is given.
    pub bytes_max: u64,
    /// Bodies up to this size ride along.
    pub inline_up_to: u64,
}

/// A page of versions, taken from one snapshot.
#[derive(Debug, Clone)]
pub struct BackfillPage {
    /// The epoch the sequence numbers belong to.
    pub epoch: Epoch,
    /// The newest row of the store.
    pub head_seq: Seq,
    /// Where the next page begins; `None` at the end.
    pub position: Option<BackfillPosition>,
    /// The rows, descending by version.
    pub rows: Vec<FeedRow>,
}

impl Core {
    /// A page of live artifacts, newest version first.
    pub(crate) fn backfill_page(&self, request: &BackfillRequest) -> Result<BackfillPage, StoreError> {
        self.backfill_page_within(request, SCANNED_KEYS_MAX)
    }

    /// As above, looking at no more than so many keys.
    pub(crate) fn backfill_page_within(
        &self,
        request: &BackfillRequest,
        scanned_max: usize,
    ) -> Result<BackfillPage, StoreError> {
        let head_seq = *self.head.borrow();
        let view = self.index.view();
        let mut rows = FeedRows::new(&view, self.options.clock.now_ms(), request.inline_up_to, request.bytes_max);
        let mut page = BackfillPage { epoch: self.epoch, head_seq, position: request.below, rows: Vec::new() };
        let up_to = request.up_to.min(head_seq);
        let below = request.below.map(|position| position.0);
        let mut keys = view.keys_back(Table::ByVersion, below.as_ref().map(<[u8; 18]>::as_slice))?.peekable();
        let mut scanned = 0;
        while keys.peek().is_some() && scanned < scanned_max && rows.len() < request.rows_max {
            let before = page.position;
            let mut piece: Vec<(Seq, BackfillPosition)> = Vec::new();
            let piece_rows = PIECE_ROWS.min(request.rows_max.saturating_sub(rows.len()));
            while piece.len() < piece_rows && scanned < scanned_max {
                let Some(key) = keys.next() else { break };
                let key = key?;
                scanned += 1;
                let (Some(seq), Ok(position)) = (last_seq(&key), <[u8; BackfillPosition::LEN]>::try_from(&*key)) else {
                    // One bad row must not keep every peer from all rows behind it.
                    tracing::error!(table = "by_version", "store_row_corrupt");
                    continue;
                };
                page.position = Some(BackfillPosition(position));
                if seq > request.above && seq <= up_to {
                    piece.push((seq, BackfillPosition(position)));
                }
            }
            let (taken, places) = add_places(&view, &mut rows, &piece)?;
            if taken < places.len() {
                let last = taken.checked_sub(1).and_then(|last| places.get(last));
                page.position = last.copied().or(before);
                page.rows = rows.finish()?;
                return Ok(page);
            }
        }
        if keys.peek().is_none() {
            page.position = None;
        }
        page.rows = rows.finish()?;
        Ok(page)
    }
}

/// Looks up the log rows of these places and adds them to the page. Gives how many of those that have one went in, and
/// where each of them is.
fn add_places(
    view: &View<'_>,
    rows: &mut FeedRows<'_>,
    piece: &[(Seq, BackfillPosition)],
) -> Result<(usize, Vec<BackfillPosition>), StoreError> {
    let mut ascending = piece.to_vec();
    ascending.sort_unstable_by_key(|(seq, _)| *seq);
    let mut found = Vec::with_capacity(piece.len());
    let mut left = ascending.as_slice();
    while !left.is_empty() {
        let numbers: Vec<u64> = left.iter().map(|(seq, _)| seq.0).collect();
        let ended = view.run(Table::Log, &numbers, |at, bytes| {
            found.extend(left.get(at).map(|(seq, position)| (*position, log_row(*seq, bytes))));
        });
        let Err((at, error)) = ended else { break };
        // That row is not readable; what lies behind it may be.
        readable::<()>(Err(error))?;
        left = left.get(at.saturating_add(1)..).unwrap_or_default();
    }
    found.sort_unstable_by_key(|(position, _)| std::cmp::Reverse(*position));
    let (positions, places): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    Ok((rows.add(places)?, positions))
}

#[cfg(test)]
#[path = "backfill_tests.rs"]
mod tests;
