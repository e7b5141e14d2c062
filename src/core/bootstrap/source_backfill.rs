//! The backfill of a kura peer: what it held below a head, newest version first, behind a durable position.
//!
//! How it works: the peer's cursor says which interval of its log is to be listed and how far that is. Pages are asked
//! for in falling order of versions; the position moves with the pages that are settled. At the end the walk leaves the
//! cursor, and the peer is only followed from then on.
//!
//! Invariants: the position moves only in [`ManifestSource::page_settled`], page by page in the order they were listed.
//! Positions fall strictly, or the listing ends with an error. A walk that was begun anew meanwhile is not touched.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::engine::{Engine, KuraPeer};
use super::source::{ManifestSource, PageRows, SourceError, SourcePage};
use super::source_feed::{FEED_INLINE_BYTES_MAX, FEED_PAGE_BYTES, FEED_ROWS, add_row};
use super::source_plan::forget_void;
use crate::core::base::clock::Clock;
use crate::core::mesh::client::{BackfillQuery, PeerClient};
use crate::core::store::cursor::{Cursor, Walk};
use crate::core::store::store_handle::StoreHandle;

/// A page of a walk over a fast link: each costs some hops between threads, and its bodies a table file.
pub const WALK_PAGE_BYTES_MAX: u64 = 2 * FEED_PAGE_BYTES;

/// A link on which a page comes within this time is fast: were it cut, no more than this would be fetched again.
const FAST_PAGE: Duration = Duration::from_secs(2);

/// A backfill under way.
#[derive(Debug)]
pub struct BackfillSource {
    client: PeerClient,
    store: StoreHandle,
    url: String,
    peer: KuraPeer,
    cursor: Cursor,
    /// The walk as it is listed; its position runs ahead of the durable one.
    walk: Walk,
    is_done: bool,
    rides: bool,
    /// Whether the last page came fast, so that a longer one may be asked for.
    is_fast: bool,
    /// Whether the peer refused a page as too long, so that none is asked for that is longer than need be.
    is_modest: bool,
    clock: Arc<dyn Clock>,
    rows: PageRows,
    /// Whether the durable cursor moves.
    saves: bool,
    /// For each page given and not yet settled, oldest first, the position behind it; `None` is the end.
    unsettled: VecDeque<Option<String>>,
}

impl BackfillSource {
    /// Goes on with the walk of this cursor; `None` if there is none under way.
    pub fn begin(engine: &Engine, (url, peer): (&str, KuraPeer), cursor: Cursor, saves: bool) -> Option<Self> {
        let walk = cursor.walk.clone()?;
        Some(Self {
            client: engine.client.clone(),
            store: engine.store.clone(),
            url: url.to_owned(),
            peer,
            cursor,
            walk,
            is_done: false,
            rides: true,
            is_fast: false,
            is_modest: false,
            clock: Arc::clone(&engine.clock),
            rows: PageRows::new(FEED_ROWS.min(peer.page_rows_max)),
            saves,
            unsettled: VecDeque::new(),
        })
    }

    /// Whether bodies are to ride along from the next page on.
    pub(super) fn ride(&mut self, rides: bool) {
        self.rides = rides;
    }

    /// Ends the walk, also durably: what is left is older than all that has room here.
    pub(super) async fn end(&mut self) -> Result<(), SourceError> {
        self.is_done = true;
        self.unsettled.clear();
        self.unsettled.push_back(None);
        self.page_settled().await
    }

    fn query(&self) -> BackfillQuery {
        let (times, bytes_max) = if self.is_fast { (2, WALK_PAGE_BYTES_MAX) } else { (1, FEED_PAGE_BYTES) };
        BackfillQuery {
            cursor: (self.cursor.store_id, self.cursor.epoch),
            above: self.walk.lo_seq,
            up_to: self.walk.hi_seq,
            position: self.walk.position.clone(),
            inline_up_to: if self.rides { FEED_INLINE_BYTES_MAX } else { 0 },
            rows_max: self.rows.get().saturating_mul(times).min(self.peer.page_rows_max),
            bytes_max: bytes_max.min(self.peer.page_bytes_max),
        }
    }

    fn advance(&mut self, next: Option<String>) -> Result<(), SourceError> {
        if let (Some(before), Some(next)) = (&self.walk.position, &next)
            && next >= before
        {
            let (after, next) = (before.clone(), next.clone());
            return Err(SourceError::Unadvancing { peer: self.url.clone(), after, next });
        }
        self.is_done = next.is_none();
        self.walk.position.clone_from(&next);
        self.unsettled.push_back(next);
        Ok(())
    }
}

impl ManifestSource for BackfillSource {
    async fn next_page(&mut self) -> Result<Option<SourcePage>, SourceError> {
        if self.is_done {
            return Ok(None);
        }
        let asked_at = self.clock.monotonic();
        let frames = loop {
            match self.client.backfill(&self.url, &self.query()).await {
                Ok(frames) => break frames,
                Err(error) if self.rows.are_refused(&error) => (self.is_fast, self.is_modest) = (false, true),
                Err(error) => return Err(forget_void(&self.store, self.cursor.store_id, error).await?.into()),
            }
        };
        self.is_fast = !self.is_modest && self.clock.monotonic().saturating_sub(asked_at) <= FAST_PAGE;
        self.advance(frames.header.position)?;
        let mut page = SourcePage::default();
        frames.rows.into_iter().for_each(|frame| add_row(&mut page, frame));
        Ok(Some(page))
    }

    async fn page_settled(&mut self) -> Result<(), SourceError> {
        let Some(position) = self.unsettled.pop_front() else { return Ok(()) };
        if !self.saves {
            return Ok(());
        }
        let store_id = self.cursor.store_id;
        let interval = (self.walk.lo_seq, self.walk.hi_seq);
        let move_on = move |mut cursor: Cursor| {
            cursor.walk = match cursor.walk {
                Some(walk) if (walk.lo_seq, walk.hi_seq) == interval => {
                    position.map(|position| Walk { position: Some(position), ..walk })
                }
                other => other,
            };
            cursor
        };
        let changed = move |store: &crate::core::store::Store| {
            store.change_cursor(&store_id.to_string(), |cursor| cursor.map(move_on))
        };
        Ok(self.store.call(changed).await?)
    }

    fn rows_total(&self) -> Option<u64> {
        let span = self.walk.hi_seq.0.saturating_sub(self.walk.lo_seq.0);
        Some(span.min(self.peer.artifacts))
    }
}
