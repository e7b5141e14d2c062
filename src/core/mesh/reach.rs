//! What of a pass over a peer is progress: how rows end, and how far a pass came.

/// How one listed row ended, as far as progress is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowEnd {
    /// Its artifact arrived, in this version.
    Applied {
        /// Unix milliseconds of the version; what is younger than this process is no part of joining.
        version_ms: u64,
    },
    /// There is nothing left to do about it.
    Settled,
    /// It is tried again later.
    Unsettled,
}

/// How far a pass came. A pass that only repeats an earlier one is no progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Reach {
    /// Pages of tombstones.
    pub(super) pages: u64,
    /// Rows that are settled.
    pub(super) rows: u64,
    /// Bytes of bodies.
    pub(super) bytes: u64,
}

impl Reach {
    /// The further of both, each by itself.
    pub(super) fn furthest(self, other: Self) -> Self {
        Self { pages: self.pages.max(other.pages), rows: self.rows.max(other.rows), bytes: self.bytes.max(other.bytes) }
    }
}
