//! How far this store has followed each peer, durably.

use crate::core::base::ids::{Epoch, Seq, StoreId};

/// The position in one peer's log, with the walk that is still under way.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cursor {
    /// The peer's store.
    pub store_id: StoreId,
    /// The peer's epoch the sequence numbers belong to.
    pub epoch: Epoch,
    /// Every row up to here is settled or durably wanted.
    pub followed: Seq,
    /// A backfill under way; its shape belongs to the catch-up engine.
    pub walk: Option<Walk>,
}

/// The interval a backfill covers and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Walk {
    /// Rows above this one.
    pub lo_seq: Seq,
    /// Rows up to this one.
    pub hi_seq: Seq,
    /// Where the listing goes on; opaque to the store.
    pub position: Option<String>,
}
