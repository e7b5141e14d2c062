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

/// What of the passes over one peer was progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Passes {
    /// How far this pass came, without rows that are left over.
    reach: Reach,
    /// How far passes came that brought nothing of what the peer had when this node joined.
    furthest_in_vain: Reach,
    /// Whether this pass brought something of that.
    fruitful: bool,
}

impl Passes {
    /// A pass begins.
    pub(super) fn begin(&mut self) {
        let furthest = self.furthest_in_vain.furthest(self.reach);
        let furthest_in_vain = if self.fruitful { Reach::default() } else { furthest };
        *self = Self { furthest_in_vain, ..Self::default() };
    }

    /// This much more came. Progress, unless an earlier pass in vain came as far: else a peer that fails in the same
    /// way in each pass, and answers quickly, would never be excused.
    pub(super) fn came(&mut self, more: Reach) -> bool {
        self.reach.pages = self.reach.pages.saturating_add(more.pages);
        self.reach.rows = self.reach.rows.saturating_add(more.rows);
        self.reach.bytes = self.reach.bytes.saturating_add(more.bytes);
        self.furthest_in_vain.furthest(self.reach) != self.furthest_in_vain
    }

    /// A row ended; whether that is progress. What is written meanwhile comes without end; only what was there when
    /// this node joined comes to one.
    pub(super) fn row_ended(&mut self, end: RowEnd, joined_ms: u64) -> bool {
        if end == RowEnd::Unsettled {
            return false;
        }
        let is_old = matches!(end, RowEnd::Applied { version_ms } if version_ms <= joined_ms);
        self.fruitful |= is_old;
        self.came(Reach { rows: 1, ..Reach::default() }) || is_old
    }
}
