//! Commits whose sync is left for later: which there are, and when there are none any more.
//!
//! How it works: the committer counts each such commit before and after it is written; a sync covers those that had
//! been written when it began. So whoever sees a row and then finds nothing open here knows that the row is durable.

use std::sync::atomic::{AtomicU64, Ordering};

use super::error::StoreError;

/// The counters. Only the committer writes; anybody may sync.
#[derive(Debug, Default)]
pub(crate) struct LateSync {
    begun: AtomicU64,
    written: AtomicU64,
    synced: AtomicU64,
}

impl LateSync {
    /// Runs a write that is not synced.
    pub(crate) fn write_unsynced(&self, write: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        write()?;
        self.written.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// The committer synced the log, and with it everything that it had written before.
    pub(crate) fn all_synced(&self) {
        self.synced.fetch_max(self.written.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Syncs if a write may not be durable.
    pub(crate) fn sync(&self, sync: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
        let written = self.written.load(Ordering::SeqCst);
        if self.synced.load(Ordering::SeqCst) == self.begun.load(Ordering::SeqCst) {
            return Ok(());
        }
        sync()?;
        self.synced.fetch_max(written, Ordering::SeqCst);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn syncs(late: &LateSync) -> bool {
        let synced = Cell::new(false);
        late.sync(|| {
            synced.set(true);
            Ok(())
        })
        .unwrap();
        synced.get()
    }

    #[test]
    fn a_sync_is_made_once_for_what_was_written_before_it() {
        let late = LateSync::default();
        assert!(!syncs(&late), "nothing was left for later");
        late.write_unsynced(|| Ok(())).unwrap();
        late.write_unsynced(|| Ok(())).unwrap();
        assert!(syncs(&late));
        assert!(!syncs(&late));
        late.write_unsynced(|| Ok(())).unwrap();
        late.all_synced();
        assert!(!syncs(&late), "the committer's own sync covered it");
    }

    #[test]
    fn a_sync_beside_a_write_does_not_count_for_it() {
        let late = LateSync::default();
        late.write_unsynced(|| {
            assert!(syncs(&late), "it may be in the log already");
            Ok(())
        })
        .unwrap();
        assert!(syncs(&late));
        assert!(!syncs(&late));
    }
}
