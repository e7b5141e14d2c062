//! How much of what peers list may be fetched before somebody looks again.
//!
//! How it works: a plan is made of what the store says at one moment, and bodies arrive long after it. What is fetched
//! beyond the room there was makes eviction begin, and that takes the oldest, which is what came last of a listing that
//! is read from the newest on. So only as much is asked for at a time as has room, or a small part of the capacity where
//! there is none: then something older is here that goes for it, and the next look knows how far that went.
//!
//! Invariant: [`Store::fitting`] reads memory only; it may be called from async code.

use std::sync::atomic::Ordering;

use super::error::StoreError;
use super::facade::{Store, Wants};
use super::record::Record;
use super::walk::ManifestPageRequest;

/// Of this many parts of the capacity one may be fetched beyond the room there is: on a large volume more than any page,
/// on a small one less than what may be fetched in vain.
const PARTS: u64 = 64;

/// A version and what is or would be taken by artifacts of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight {
    /// Unix milliseconds.
    pub version_ms: u64,
    /// Charged bytes.
    pub bytes: u64,
}

impl Weight {
    /// As much for each of a sample as makes up all it was taken from.
    pub fn scaled(self, all: u64, sampled: u64) -> Self {
        let bytes = u128::from(self.bytes) * u128::from(all) / u128::from(sampled.max(1));
        Self { bytes: u64::try_from(bytes).unwrap_or(u64::MAX), ..self }
    }
}

impl Store {
    /// What those of them would take that are worth fetching.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn weigh_wanted(&self, offered: &[&Record]) -> Result<Vec<Weight>, StoreError> {
        let wants = self.wants_all(offered)?;
        let wanted = offered.iter().zip(wants).filter(|(_, (_, wants))| *wants == Wants::Fetch);
        let weight =
            |record: &Record| Weight { version_ms: record.version_ms, bytes: self.core().charge_of_offered(record) };
        Ok(wanted.map(|(record, _)| weight(record)).collect())
    }

    /// What is here, by a sample of so many rows, each for as many as there are to one of it: ids are hashes, so the
    /// first ones are as good as any.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn weigh_held(&self, rows_max: usize) -> Result<Vec<Weight>, StoreError> {
        let request = ManifestPageRequest { after: None, prefix: String::new(), rows_max, producers: &[] };
        let page = self.manifest_page(&request)?;
        let sampled = u64::try_from(page.records.len()).unwrap_or(u64::MAX);
        let all = if page.next_after.is_none() { sampled } else { self.stats().artifacts.max(sampled) };
        let weight = |record: &Record| {
            let bytes = self.core().charge_of(record);
            Weight { version_ms: record.version_ms, bytes }.scaled(all, sampled)
        };
        Ok(page.records.iter().map(weight).collect())
    }

    /// How many of these, from the first on, may be fetched now; one at least. What would be passed over anyway takes
    /// no room.
    pub fn fitting<'a>(&self, offered: impl Iterator<Item = &'a Record> + Clone) -> usize {
        let core = self.core();
        let (capacity, count) = (core.capacity_bytes.load(Ordering::Acquire), offered.clone().count());
        if capacity == u64::MAX {
            return count;
        }
        let mut left = capacity.saturating_sub(core.charged_bytes()).max(capacity / PARTS);
        for (at, record) in offered.enumerate() {
            if core.is_beyond_capacity(record) {
                continue;
            }
            match left.checked_sub(core.charge_of_offered(record)) {
                Some(rest) => left = rest,
                None => return at.max(1),
            }
        }
        count
    }
}
