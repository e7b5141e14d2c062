//! How far this store has followed each peer, durably.

use std::sync::PoisonError;

use super::error::StoreError;
use super::index::Batch;
use super::keys::Table;
use super::state::Core;
use super::{tagged, wanted};
use crate::core::base::ids::{Epoch, Seq, StoreId};

/// Peers remembered across restarts; more than a mesh has.
pub const REMEMBERED_PEERS_MAX: usize = 256;

/// The one row of `peers`.
const PEERS_KEY: &[u8] = b"last_known";

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

/// The one row of `peers`: an object, so that later versions may say more of each peer beside the list.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct PeersRow {
    peers: Vec<String>,
}

impl Core {
    /// Writes rows outside the committer. The log keeps the order of writes, so after a power loss a row is never
    /// there without what was written before it, and no sync is needed. RocksDB takes no write after one that failed
    /// until it is opened anew, so a failure here stops writes as one of the committer does.
    pub(crate) fn write_unsynced(&self, batch: Batch<'_>) -> Result<(), StoreError> {
        self.index.write(batch, false).inspect_err(|error| self.stop_writes(error))
    }

    /// One cursor.
    pub(crate) fn cursor(&self, peer: &str) -> Result<Option<Cursor>, StoreError> {
        let bytes = self.index.get(Table::Cursors, peer.as_bytes())?;
        bytes.map(|bytes| wanted::decode("cursors", &bytes)).transpose()
    }

    /// All cursors; one that does not decode is reported and passed over: its peer is walked again.
    pub(crate) fn cursors(&self) -> Result<Vec<(String, Cursor)>, StoreError> {
        let mut cursors = Vec::new();
        for row in self.index.rows(Table::Cursors, &[])? {
            let (key, value) = row?;
            let peer = String::from_utf8_lossy(&key).into_owned();
            match wanted::decode("cursors", &value) {
                Ok(cursor) => cursors.push((peer, cursor)),
                Err(error) => tracing::error!(peer, %error, "store_row_corrupt"),
            }
        }
        Ok(cursors)
    }

    /// Replaces a cursor by what becomes of it. One that does not decode counts as absent: its peer is walked again.
    pub(crate) fn change_cursor(
        &self,
        peer: &str,
        change: impl FnOnce(Option<Cursor>) -> Option<Cursor>,
    ) -> Result<(), StoreError> {
        let _alone = self.cursor_changes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.cursor(peer).unwrap_or_else(|error| {
            tracing::error!(peer, %error, "store_row_corrupt");
            None
        });
        let after = change(before.clone());
        if before == after { Ok(()) } else { self.save_cursor(peer, after.as_ref()) }
    }

    /// Saves or forgets a cursor.
    pub(crate) fn save_cursor(&self, peer: &str, cursor: Option<&Cursor>) -> Result<(), StoreError> {
        self.check_writable()?;
        let mut batch = self.index.batch();
        match cursor {
            Some(cursor) => {
                let replaced = self.index.get(Table::Cursors, peer.as_bytes())?;
                batch.put(Table::Cursors, peer.as_bytes(), &tagged::json_over(cursor, replaced.as_deref()));
            }
            None => batch.delete(Table::Cursors, peer.as_bytes()),
        }
        self.write_unsynced(batch)
    }

    /// Last-known peers.
    pub(crate) fn remembered_peers(&self) -> Result<Vec<String>, StoreError> {
        let bytes = self.index.get(Table::Peers, PEERS_KEY)?;
        Ok(bytes.map_or_else(|| Ok(PeersRow::default()), |bytes| wanted::decode("peers", &bytes))?.peers)
    }

    /// Replaces them.
    pub(crate) fn remember_peers(&self, peers: &[String]) -> Result<(), StoreError> {
        self.check_writable()?;
        let row = PeersRow { peers: peers.iter().take(REMEMBERED_PEERS_MAX).cloned().collect() };
        let replaced = self.index.get(Table::Peers, PEERS_KEY)?;
        let mut batch = self.index.batch();
        batch.put(Table::Peers, PEERS_KEY, &tagged::json_over(&row, replaced.as_deref()));
        self.write_unsynced(batch)
    }
}
