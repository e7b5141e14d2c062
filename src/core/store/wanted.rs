//! Artifacts this store knows of and does not have: durable, bounded rows with reason, attempts and next try.
//!
//! Invariants: a row names the newest version known, and everyone who listed that version. Only that version, a newer
//! one, or whoever decided that it is not wanted settles it: an older copy that arrives meanwhile does not. Rows are
//! read and changed under one mutex, by the committer too, so that their number is exact.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};

use super::error::StoreError;
use super::index::{Batch, Index};
use super::keys::Table;
use super::state::{Core, corrupt};
use super::tagged;
use crate::core::base::ids::{ArtifactId, Version};

/// Most rows: at a few hundred bytes each this is what may be noted without crowding out the data.
pub const WANTED_ROWS_MAX: u64 = 1_000_000;

/// Most holders remembered of one artifact: any of them will do, and the newest word comes first.
pub const WANTED_HOLDERS_MAX: usize = 16;

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
    /// A reason of a later version of this program.
    #[serde(other)]
    Unknown,
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

impl Wanted {
    /// This row over an earlier one of the same artifact.
    fn over(mut self, earlier: Self) -> Self {
        if earlier.version > self.version {
            return earlier;
        }
        if earlier.version == self.version {
            for holder in earlier.holders {
                if self.holders.len() < WANTED_HOLDERS_MAX && !self.holders.contains(&holder) {
                    self.holders.push(holder);
                }
            }
        }
        self
    }
}

/// What a group of the committer means for the wanted row of an artifact.
#[derive(Debug)]
pub(crate) enum WantedChange {
    /// This version is here now.
    Settled(Version),
    /// It was here and is wanted back.
    Noted(Box<Wanted>),
}

/// The row on disk: a version byte, then JSON, in which later versions may add keys. Keys of the row it replaces that
/// this binary does not know are kept.
fn encode_over(row: &Wanted, replaced: Option<&[u8]>) -> Vec<u8> {
    tagged::json_over(row, replaced)
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
    fn wanted_rows(&self) -> MutexGuard<'_, u64> {
        self.wanted_rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a batch together with what it means for the wanted rows.
    pub(crate) fn write_settling(
        &self,
        batch: Batch<'_>,
        changes: HashMap<ArtifactId, WantedChange>,
        write: impl FnOnce(Batch<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (mut batch, mut rows) = (batch, self.wanted_rows());
        let mut count = *rows;
        for (id, change) in changes {
            match change {
                // Without any row there is none to look for, which is the usual case.
                WantedChange::Settled(_) if count == 0 => {}
                WantedChange::Settled(version) => {
                    if self.is_settled_by(&id, version) {
                        batch.delete(Table::Wanted, id.as_bytes());
                        count = count.saturating_sub(1);
                    }
                }
                WantedChange::Noted(row) => count += u64::from(self.put_wanted(&mut batch, &row)?),
            }
        }
        write(batch)?;
        *rows = count;
        Ok(())
    }

    /// Whether there is a row that this version settles. One that does not decode is settled by anything; one that
    /// cannot be read is left, and settled by whoever tries it again.
    fn is_settled_by(&self, id: &ArtifactId, version: Version) -> bool {
        match self.index.get(Table::Wanted, id.as_bytes()) {
            Ok(None) | Err(_) => false,
            Ok(Some(bytes)) => !decode::<Wanted>("wanted", &bytes).is_ok_and(|row| row.version > version),
        }
    }

    /// Puts a row over what is there; whether there was nothing.
    fn put_wanted(&self, batch: &mut Batch<'_>, row: &Wanted) -> Result<bool, StoreError> {
        let replaced = self.index.get(Table::Wanted, row.id.as_bytes())?;
        let earlier = replaced.as_deref().and_then(|bytes| decode::<Wanted>("wanted", bytes).ok());
        let merged = earlier.map_or_else(|| row.clone(), |earlier| row.clone().over(earlier));
        batch.put(Table::Wanted, row.id.as_bytes(), &encode_over(&merged, replaced.as_deref()));
        Ok(replaced.is_none())
    }

    /// Notes artifacts as wanted, over what is noted of them; false, and nothing noted, when the bound would be passed.
    pub(crate) fn note_wanted(&self, rows: &[Wanted]) -> Result<bool, StoreError> {
        self.check_writable()?;
        let mut once = HashMap::<ArtifactId, Wanted>::new();
        for row in rows {
            let row = match once.remove(&row.id) {
                Some(earlier) => row.clone().over(earlier),
                None => row.clone(),
            };
            once.insert(row.id, row);
        }
        let (mut batch, mut count) = (self.index.batch(), self.wanted_rows());
        let mut added = 0;
        for row in once.values() {
            added += u64::from(self.put_wanted(&mut batch, row)?);
        }
        if added > 0 && *count + added > WANTED_ROWS_MAX {
            return Ok(false);
        }
        self.write_unsynced(batch)?;
        *count += added;
        Ok(true)
    }

    /// Forgets wanted rows, each up to a version: what became wanted in a newer one meanwhile stays wanted.
    pub(crate) fn settle_wanted(&self, settled: &[(ArtifactId, Version)]) -> Result<(), StoreError> {
        self.check_writable()?;
        let (mut batch, mut count) = (self.index.batch(), self.wanted_rows());
        let mut removed = 0;
        let mut newest = HashMap::<ArtifactId, Version>::new();
        for (id, version) in settled {
            newest.entry(*id).and_modify(|known| *known = (*known).max(*version)).or_insert(*version);
        }
        for (id, version) in newest {
            if self.is_settled_by(&id, version) {
                batch.delete(Table::Wanted, id.as_bytes());
                removed += 1;
            }
        }
        self.write_unsynced(batch)?;
        *count = count.saturating_sub(removed);
        Ok(())
    }

    /// Writes down tries, each unless its row was settled meanwhile.
    pub(crate) fn note_tried(&self, rows: &[Wanted]) -> Result<(), StoreError> {
        self.check_writable()?;
        let (mut batch, _count) = (self.index.batch(), self.wanted_rows());
        for row in rows {
            if self.index.get(Table::Wanted, row.id.as_bytes())?.is_some() {
                self.put_wanted(&mut batch, row)?;
            }
        }
        self.write_unsynced(batch)
    }

    /// The wanted row of one artifact; one that does not decode is none.
    pub(crate) fn wanted(&self, id: &ArtifactId) -> Result<Option<Wanted>, StoreError> {
        let row = self.index.get(Table::Wanted, id.as_bytes())?;
        Ok(row.and_then(|bytes| decode("wanted", &bytes).ok()))
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
