//! The feed of a kura peer: rows in the order of its log, behind a durable cursor.
//!
//! How it works: the cursor of the peer's store is read once; pages are asked for behind it. A pass is bounded by the
//! peer's head taken with its first page, so it ends however fast the peer writes; a follower has no bound and long
//! polls. If the peer no longer knows the cursor's epoch, the listing begins anew: rows are listed again, nothing is
//! fetched again.
//!
//! Invariant: the durable cursor moves only in [`ManifestSource::page_settled`], page by page in the order they were
//! listed, however far ahead the listing is.

use std::collections::VecDeque;
use std::time::Duration;

use super::source::{ManifestSource, SourceError, SourcePage, SourceRow};
use crate::core::base::ids::{Epoch, Seq, StoreId};
use crate::core::mesh::client::{FeedQuery, PeerClient, PeerError};
use crate::core::mesh::feed_frames::{FeedPageFrames, Frame, FrameStatus};
use crate::core::mesh::wire::check_name;
use crate::core::store::cursor::Cursor;
use crate::core::store::record::Record;
use crate::core::store::store_handle::StoreHandle;

/// Rows in a page: enough to keep the fetches of a page busy, few enough that a kill costs little listing.
const FEED_ROWS: usize = 1024;

/// Bytes of records and bodies in a page.
const FEED_PAGE_BYTES: u64 = 4 << 20;

/// Bodies up to this size ride along: below it a request of its own costs more than the bytes.
pub const FEED_INLINE_BYTES_MAX: u64 = 16 << 10;

/// How long a follower's request waits at the peer for a new row.
pub const LONG_POLL: Duration = Duration::from_secs(20);

/// Cursors that a peer did not know, one after another, before it is taken for broken.
const VOIDED_CURSORS_MAX: u32 = 3;

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
    peer: String,
    peer_artifacts: u64,
    mode: FeedMode,
    /// Where the listing is.
    position: Option<Cursor>,
    up_to: Option<Seq>,
    /// For each page given and not yet settled, oldest first, the cursor behind it; `None` where it does not move.
    unsettled: VecDeque<Option<Cursor>>,
    voided: u32,
    rows_total: Option<u64>,
}

impl FeedSource {
    /// Reads the durable cursor and begins. `peer_artifacts` is how many the peer says it has.
    pub async fn begin(
        client: &PeerClient,
        store: &StoreHandle,
        peer: &str,
        store_id: StoreId,
        peer_artifacts: u64,
        mode: FeedMode,
    ) -> Result<Self, SourceError> {
        let cursor = store.call(move |store| store.cursor(&store_id.to_string())).await?;
        Ok(Self {
            client: client.clone(),
            store: store.clone(),
            peer: peer.to_owned(),
            peer_artifacts,
            mode,
            position: cursor,
            up_to: None,
            unsettled: VecDeque::new(),
            voided: 0,
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
            rows_max: FEED_ROWS,
            bytes_max: FEED_PAGE_BYTES,
        }
    }

    async fn fetch(&mut self) -> Result<FeedPageFrames, SourceError> {
        loop {
            match self.client.feed(&self.peer, &self.query()).await {
                Err(PeerError::CursorVoid { peer }) if self.voided < VOIDED_CURSORS_MAX => {
                    tracing::info!(%peer, "feed_cursor_void");
                    self.voided += 1;
                    self.position = None;
                    // What was listed under the old cursor is still settled; the cursor is that of the new listing.
                    self.unsettled.iter_mut().for_each(|behind| *behind = None);
                }
                fetched => return Ok(fetched?),
            }
        }
    }

    fn note_position(&mut self, page: &FeedPageFrames) -> Result<(), SourceError> {
        let header = &page.header;
        let up_to = *self.up_to.get_or_insert(header.head_seq);
        if self.mode == FeedMode::Follow {
            self.up_to = None;
        }
        if self.rows_total.is_none() {
            let span = up_to.0.saturating_sub(header.after.0);
            self.rows_total = Some(if header.after == Seq(0) { span.min(self.peer_artifacts) } else { span });
        }
        let is_stuck = header.next <= header.after && !page.rows.is_empty();
        if is_stuck || header.next < header.after {
            let (after, next) = (header.after.to_string(), header.next.to_string());
            return Err(SourceError::Unadvancing { peer: self.peer.clone(), after, next });
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
        self.voided = 0;
        if self.mode != FeedMode::Look {
            self.store.call(move |store| store.save_cursor(&behind.store_id.to_string(), Some(&behind))).await?;
        }
        Ok(())
    }

    fn rows_total(&self) -> Option<u64> {
        self.rows_total
    }
}

fn add_row(page: &mut SourcePage, frame: Frame) {
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
