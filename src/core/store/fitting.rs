//! How much of what peers list may be fetched before somebody looks again.
//!
//! How it works: a plan is made of what the store says at one moment, and bodies arrive long after it. What is fetched
//! beyond the room there was makes eviction begin, and that takes the oldest, which is what came last of a listing that
//! is read from the newest on. So only as much is asked for at a time as has room, or a small part of the capacity where
//! there is none: then something older is here that goes for it, and the next look knows how far that went.
//!
//! Invariant: everything here is in memory; it may be called from async code.

use std::sync::atomic::Ordering;

use super::facade::Store;
use super::record::Record;

/// Of this many parts of the capacity one may be fetched beyond the room there is: on a large volume more than any page,
/// on a small one less than what may be fetched in vain.
const PARTS: u64 = 64;

impl Store {
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
