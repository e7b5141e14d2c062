//! The feed of a kura peer: rows in the order of its log, behind a durable cursor.
//!
//! How it works: the cursor of the peer's store is read once; pages are asked for behind it. A pass is bounded by the
//! peer's head taken with its first page, so it ends however fast the peer writes; a follower has no bound and long
//! polls. If the peer does not know the cursor any more, or only a part of it, the cursor is forgotten and the listing
//! ends with an error: the next pass plans anew, lists rows again, and fetches nothing again.
//!
//! Invariant: the durable cursor moves only in [`ManifestSource::page_settled`], page by page in the order they were
//! listed, however far ahead the listing is.

use std::collections::VecDeque;
use std::time::Duration;

use super::engine::KuraPeer;
use super::source::{ManifestSource, PageRows, SourceError, SourcePage, SourceRow};
use super::source_plan::forget_void;
use crate::core::base::ids::{Epoch, Seq, StoreId};
use crate::core::mesh::client::{FeedQuery, PeerClient, PeerError};
use crate::core::mesh::feed_frames::{FeedPageFrames, Frame, FrameStatus};
use crate::core::mesh::wire::check_name;
use crate::core::store::cursor::Cursor;
use crate::core::store::record::Record;
use crate::core::store::store_handle::StoreHandle;

/// Rows in a page: enough to keep the fetches of a page busy, few enough that a kill costs little listing.
pub const FEED_ROWS: usize = 1024;

/// Bytes of records and bodies in a page.
pub const FEED_PAGE_BYTES: u64 = 4 << 20;

/// Bodies up to this size ride along: below it a request of its own costs more than the bytes.
pub const FEED_INLINE_BYTES_MAX: u64 = 16 << 10;

/// How long a follower's request waits at the peer for a new row.
pub const LONG_POLL: Duration = Duration::from_secs(20);

/// How a feed is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedMode {
    /// Up to the head at the start.
    Pass,
    /// Up to the head at the start, without moving the durable cursor.
    Look,
    /// Without end, waiting at the peer for new rows.
    Follow,
}

/// A feed under way.
#[derive(Debug)]
pub struct FeedSource {
    client: PeerClient,
    store: StoreHandle,
    url: String,
    peer: KuraPeer,
    mode: FeedMode,
    rows: PageRows,
    /// Where the listing is.
    position: Option<Cursor>,
    up_to: Option<Seq>,
    /// For each page given and not yet settled, oldest first, the cursor behind it; `None` where it does not move.
    unsettled: VecDeque<Option<Cursor>>,
    rows_total: Option<u64>,
}

impl FeedSource {
    /// Reads the durable cursor and begins.
    pub async fn begin(
        client: &PeerClient,
        store: &StoreHandle,
        (url, peer): (&str, KuraPeer),
        mode: FeedMode,
    ) -> Result<Self, SourceError> {
        let store_id = peer.store_id;
        let cursor = store.call(move |store| store.cursor(&store_id.to_string())).await?;
        Ok(Self {
            client: client.clone(),
            store: store.clone(),
            url: url.to_owned(),
            peer,
            mode,
            rows: PageRows::new(FEED_ROWS.min(peer.page_rows_max)),
            position: cursor,
            up_to: None,
            unsettled: VecDeque::new(),
            rows_total: None,
        })
    }

    fn after(&self) -> Seq {
        self.position.as_ref().map_or(Seq(0), |cursor| cursor.followed)
    }

    fn query(&self) -> FeedQuery {
        let following = self.mode == FeedMode::Follow;
        FeedQuery {
            cursor: self.position.as_ref().map(|cursor| (cursor.store_id, cursor.epoch)),
            after: self.after(),
            up_to: self.up_to,
            origin_only: false,
            inline_up_to: FEED_INLINE_BYTES_MAX,
            // Followers of a whole mesh see each row from every sibling; its body rides along only from the first.
            inline_origin_only: following,
            wait: if following { LONG_POLL } else { Duration::ZERO },
            rows_max: self.rows.get(),
            bytes_max: FEED_PAGE_BYTES.min(self.peer.page_bytes_max),
        }
    }

    async fn fetch(&mut self) -> Result<FeedPageFrames, SourceError> {
        let after = self.after();
        let answer = loop {
            match self.client.feed(&self.url, &self.query()).await {
                Err(error) if self.rows.are_refused(&error) => {}
                answer => break answer,
            }
        };
        let void = match answer {
            // Rows up to the end of its epoch may have come back that were beaten by rows it lost.
            Ok(page) if page.header.after < after => PeerError::CursorVoid { peer: self.url.clone() },
            Err(error @ PeerError::CursorVoid { .. }) => error,
            fetched => return Ok(fetched?),
        };
        if self.mode == FeedMode::Look && self.position.take().is_some() {
            return Ok(self.client.feed(&self.url, &self.query()).await?);
        }
        Err(forget_void(&self.store, self.peer.store_id, void).await?.into())
    }

    fn note_position(&mut self, page: &FeedPageFrames) -> Result<(), SourceError> {
        let header = &page.header;
        let up_to = *self.up_to.get_or_insert(header.head_seq);
        if self.mode == FeedMode::Follow {
            self.up_to = None;
        }
        if self.rows_total.is_none() {
            let span = up_to.0.saturating_sub(header.after.0);
            self.rows_total = Some(if header.after == Seq(0) { span.min(self.peer.artifacts) } else { span });
        }
        let is_stuck = header.next <= header.after && !page.rows.is_empty();
        if is_stuck || header.next < header.after {
            let (after, next) = (header.after.to_string(), header.next.to_string());
            return Err(SourceError::Unadvancing { peer: self.url.clone(), after, next });
        }
        let behind = cursor_at(header.store_id, header.epoch, header.next);
        if self.position.as_ref() == Some(&behind) {
            // An empty answer to a pass means there is nothing up to its head.
            self.up_to = self.up_to.map(|up_to| up_to.min(behind.followed));
            self.unsettled.push_back(None);
        } else {
            self.unsettled.push_back(Some(behind.clone()));
            self.position = Some(behind);
        }
        Ok(())
    }

    /// Whether a pass has listed everything up to the head at its start.
    fn is_done(&self) -> bool {
        self.mode != FeedMode::Follow && self.up_to.is_some_and(|up_to| self.after() >= up_to)
    }
}

fn cursor_at(store_id: StoreId, epoch: Epoch, followed: Seq) -> Cursor {
    Cursor { store_id, epoch, followed, walk: None }
}

impl ManifestSource for FeedSource {
    async fn next_page(&mut self) -> Result<Option<SourcePage>, SourceError> {
        if self.is_done() {
            return Ok(None);
        }
        let frames = self.fetch().await?;
        self.note_position(&frames)?;
        let mut page = SourcePage::default();
        frames.rows.into_iter().for_each(|frame| add_row(&mut page, frame));
        Ok(Some(page))
    }

    async fn page_settled(&mut self) -> Result<(), SourceError> {
        let Some(Some(behind)) = self.unsettled.pop_front() else {
            return Ok(());
        };
        if self.mode == FeedMode::Look {
            return Ok(());
        }
        // The walk beside it moves on by itself.
        let key = behind.store_id.to_string();
        let keep_walk = move |cursor: Option<Cursor>| {
            let walk = cursor.filter(|cursor| cursor.store_id == behind.store_id).and_then(|cursor| cursor.walk);
            Some(Cursor { walk, ..behind })
        };
        Ok(self.store.call(move |store| store.change_cursor(&key, keep_walk)).await?)
    }

    fn rows_total(&self) -> Option<u64> {
        self.rows_total
    }
}

pub(super) fn add_row(page: &mut SourcePage, frame: Frame) {
    match frame {
        Frame::Tombstone { namespace, version_ms, .. } => {
            page.rows.push(SourceRow::Tombstone { namespace, version_ms });
        }
        Frame::Row { status: FrameStatus::Ok, record, body } => match Record::from_bytes(&record) {
            Err(error) => page.skipped.push(format!("a record does not decode: {error}")),
            Ok(record) => match check_name(&record.name) {
                Err(reason) => page.skipped.push(format!("{:?}: {reason}", record.name.key)),
                Ok(()) => page.rows.push(SourceRow::Artifact(Box::new(record), body)),
            },
        },
        // The peer no longer has what it once logged; its successor comes in a later row.
        Frame::Row { .. } | Frame::Header(_) | Frame::End { .. } => {}
    }
}
