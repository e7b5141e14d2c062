//! Artifacts this store knows of and does not have: durable, bounded rows with reason, attempts and next try.

use std::sync::atomic::Ordering;

use super::error::StoreError;
use super::index::Index;
use super::keys::Table;
use super::state::{Core, corrupt};
use super::tagged;
use crate::core::base::ids::{ArtifactId, Version};

/// Most rows: at a few hundred bytes each this is what may be noted without crowding out the data.
pub const WANTED_ROWS_MAX: u64 = 1_000_000;

/// Why an artifact is wanted and not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WantedReason {
    /// Every known holder answered that it has no good copy.
    Unavailable,
    /// A holder is down.
    WaitingForPeer,
    /// Transport trouble; retried with back-off.
    Failed,
    /// Wrong length or digest everywhere.
    BadCopy,
    /// It would be evicted at once.
    BeyondCapacity,
    /// Withdrawn here because its body was bad.
    Withdrawn,
}

/// One wanted artifact.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Wanted {
    /// Which artifact.
    pub id: ArtifactId,
    /// The newest version known.
    pub version: Version,
    /// Its size in bytes, as the holder says.
    pub size: u64,
    /// Producer, namespace and key, for people.
    pub name: (String, String, String),
    /// URLs of peers that listed it.
    pub holders: Vec<String>,
    /// Why it is not here.
    pub reason: WantedReason,
    /// The last error, for people.
    pub error: Option<String>,
    /// Tries so far.
    pub attempts: u32,
    /// Unix milliseconds before which it is not tried again.
    pub next_try_ms: u64,
}

/// The row on disk: a version byte, then JSON, in which later versions may add keys.
pub(crate) fn encode(row: &Wanted) -> Vec<u8> {
    let mut bytes = vec![tagged::VERSION];
    // Plain strings and numbers always serialize.
    bytes.extend(serde_json::to_vec(row).unwrap_or_default());
    bytes
}

/// Decodes a row of version byte and JSON.
pub(crate) fn decode<T: serde::de::DeserializeOwned>(table: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    match bytes.split_first() {
        Some((&tagged::VERSION, json)) => serde_json::from_slice(json).map_err(|error| corrupt(table, error)),
        _ => Err(corrupt(table, "its version is not known")),
    }
}

/// How many rows there are.
pub(crate) fn count(index: &Index) -> Result<u64, StoreError> {
    index.rows(Table::Wanted, &[])?.try_fold(0, |count, row| row.map(|_| count + 1))
}

impl Core {
    /// Notes artifacts as wanted; false, and nothing noted, when the bound would be passed.
    pub(crate) fn note_wanted(&self, rows: &[Wanted]) -> Result<bool, StoreError> {
        self.check_writable()?;
        let mut batch = self.index.batch();
        let mut added = 0;
        for row in rows {
            added += u64::from(self.index.get(Table::Wanted, row.id.as_bytes())?.is_none());
            batch.put(Table::Wanted, row.id.as_bytes(), &encode(row));
        }
        if self.wanted_rows.load(Ordering::Acquire) + added > WANTED_ROWS_MAX {
            return Ok(added == 0 && self.write_unsynced(batch).is_ok());
        }
        self.write_unsynced(batch)?;
        self.wanted_rows.fetch_add(added, Ordering::AcqRel);
        Ok(true)
    }

    /// Forgets wanted rows.
    pub(crate) fn settle_wanted(&self, ids: &[ArtifactId]) -> Result<(), StoreError> {
        self.check_writable()?;
        let mut batch = self.index.batch();
        let mut removed = 0;
        for id in ids {
            removed += u64::from(self.index.get(Table::Wanted, id.as_bytes())?.is_some());
            batch.delete(Table::Wanted, id.as_bytes());
        }
        self.write_unsynced(batch)?;
        self.wanted_rows.fetch_sub(removed, Ordering::AcqRel);
        Ok(())
    }

    /// A page of wanted rows in id order; one that does not decode is reported and passed over.
    pub(crate) fn wanted_page(&self, after: Option<ArtifactId>, rows_max: usize) -> Result<Vec<Wanted>, StoreError> {
        let from = after.map(|id| [id.as_bytes().as_slice(), &[0]].concat()).unwrap_or_default();
        let mut page = Vec::new();
        for row in self.index.rows(Table::Wanted, &from)? {
            if page.len() >= rows_max {
                break;
            }
            let (key, value) = row?;
            match decode("wanted", &value) {
                Ok(wanted) => page.push(wanted),
                Err(error) => tracing::error!(key = hex::encode(key), %error, "store_row_corrupt"),
            }
        }
        Ok(page)
    }
}
