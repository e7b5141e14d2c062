//! Where a pass gets its rows from: one trait over the seed era's walk and kura's feed.

use std::future::Future;

use bytes::Bytes;
use http::StatusCode;

use crate::core::mesh::client::PeerError;
use crate::core::store::error::StoreError;
use crate::core::store::record::Record;

/// One row of a page.
#[derive(Debug, Clone)]
pub enum SourceRow {
    /// An artifact, with its body if that rode along. A record from a seed-era peer has a zero digest: not known yet.
    Artifact(Box<Record>, Option<Bytes>),
    /// A deleted namespace.
    Tombstone {
        /// Which one.
        namespace: String,
        /// Everything at or below this is deleted.
        version_ms: u64,
    },
}

impl SourceRow {
    /// The artifact with its body; `None` for a deleted namespace.
    pub(super) fn into_artifact(self) -> Option<(Box<Record>, Option<Bytes>)> {
        match self {
            Self::Artifact(record, body) => Some((record, body)),
            Self::Tombstone { .. } => None,
        }
    }
}

/// A page of rows, all to be settled or durably noted before the source moves its cursor.
#[derive(Debug, Clone, Default)]
pub struct SourcePage {
    /// The rows in the source's order.
    pub rows: Vec<SourceRow>,
    /// Rows that were not usable, with the reason.
    pub skipped: Vec<String>,
    /// What is older than this has no room here, whatever the store says at the moment.
    pub floor_ms: u64,
}

/// Listing could not go on.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The peer did not give what was asked.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// Our own store did not.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The peer's cursor did not advance; going on would never end.
    #[error("{peer} sent a cursor that does not advance: {next:?} after {after:?}")]
    Unadvancing {
        /// Who.
        peer: String,
        /// The cursor that was sent to it.
        after: String,
        /// The cursor it gave back.
        next: String,
    },
}

/// A page of fewer rows is not asked for: a peer that refuses this many refuses for another reason.
const PAGE_ROWS_MIN: usize = 16;

/// How many rows are asked for in a page: half as many each time the peer says that the request is bad, because what
/// one version takes for a page may be too much for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRows(usize);

impl PageRows {
    /// As many as we like, or as the peer said it gives.
    pub fn new(rows: usize) -> Self {
        Self(rows.max(1))
    }

    /// How many to ask for now.
    pub fn get(self) -> usize {
        self.0
    }

    /// Whether to ask again, for fewer.
    pub fn are_refused(&mut self, error: &PeerError) -> bool {
        let is_refusal = matches!(error, PeerError::Status { status, .. } if *status == StatusCode::BAD_REQUEST);
        if !is_refusal || self.0 <= PAGE_ROWS_MIN {
            return false;
        }
        self.0 = (self.0 / 2).max(PAGE_ROWS_MIN);
        tracing::info!(%error, rows = self.0, "peer_page_refused");
        true
    }
}

/// A listing of one peer's artifacts. Pages may be asked for ahead of the settling of earlier ones; they are settled in
/// the order in which they were given.
pub trait ManifestSource: Send {
    /// The next page, or `None` at the end of the listing.
    fn next_page(&mut self) -> impl Future<Output = Result<Option<SourcePage>, SourceError>> + Send;

    /// Every row of the oldest page not yet settled is settled or durably noted: the durable cursor, if there is one, may
    /// pass them.
    fn page_settled(&mut self) -> impl Future<Output = Result<(), SourceError>> + Send;

    /// How many rows this pass has in all, as far as known.
    fn rows_total(&self) -> Option<u64>;
}
