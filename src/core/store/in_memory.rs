//! Reads that are answered from memory alone, by callers that must not wait for a disk.
//!
//! Why: a small body that was read or written lately lies in a memtable or in the block cache. Handing the read to another
//! thread costs several times what the read itself does.
//!
//! Invariants: what is found here is live, whole and verified, exactly as on the usual way. What is not found, or is
//! not good, says nothing: the usual way decides, withdraws what is bad, and brings what lies on the disk into memory.

use bytes::Bytes;

use super::facade::{OpenBody, Store};
use super::keys::{Table, number_key};
use super::record::{BodyPlace, Record};
use super::state::{Core, is_deleted, is_expired, tombstone_version};
use crate::core::base::ids::{ArtifactId, Digest};

/// Longer bodies are hashed by threads that may be held up: this takes some ten microseconds.
const BODY_BYTES_MAX: u64 = 64 << 10;

impl Store {
    /// A small artifact with its body, if all of it lies in memory; `None` says nothing. Does not block.
    pub fn find_in_memory(&self, id: &ArtifactId) -> Option<(Record, OpenBody)> {
        let (record, bytes) = self.core().find_in_memory(id)?;
        Some((record, OpenBody::Inline(bytes)))
    }
}

impl Core {
    fn find_in_memory(&self, id: &ArtifactId) -> Option<(Record, Bytes)> {
        let record = Record::from_bytes(&self.index.get_in_memory(Table::Manifests, id.as_bytes())??).ok()?;
        let Some(BodyPlace::Inline(body_no)) = record.body else { return None };
        let tombstone = match self.index.get_in_memory(Table::Tombstones, record.name.namespace.as_bytes())? {
            Some(bytes) => Some(tombstone_version(&bytes).ok()?),
            None => None,
        };
        let is_gone = is_deleted(&record, tombstone) || is_expired(&record, self.options.clock.now_ms());
        if is_gone || record.size > BODY_BYTES_MAX {
            return None;
        }
        let bytes = self.index.get_in_memory(Table::Bodies, &number_key(body_no.0))??;
        let is_good = Digest::of(&bytes) == record.digest;
        is_good.then(|| (record, Bytes::copy_from_slice(&bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::store::fault_tests::file_put;
    use crate::core::store::store_tests::{Bench, applied, body, delete, id, local, outcome};

    fn found(store: &Store, key: &str) -> Option<Bytes> {
        match store.find_in_memory(&id("ios", key))? {
            (_, OpenBody::Inline(bytes)) => Some(bytes),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_small_body_is_found_in_memory_once_it_was_written_or_read() {
        let bench = Bench::new();
        let store = bench.open();
        applied(&store, local("ios", "a", b"one"));
        applied(&store, local("ios", "a", b"two"));
        assert_eq!(found(&store, "a").unwrap(), "two");
        assert_eq!(found(&store, "absent"), None);
        store.close().unwrap();
        drop(store);
        let store = bench.open();
        assert_eq!(found(&store, "a"), None, "on the disk");
        assert_eq!(body(&store, "ios", "a").unwrap(), b"two");
        assert_eq!(found(&store, "a").unwrap(), "two");
    }

    #[test]
    fn what_is_deleted_bad_or_long_is_left_to_the_usual_way() {
        let bench = Bench::new();
        let store = bench.open();
        applied(&store, file_put(&bench, "ios", "file", &[1; 3000]));
        assert_eq!(found(&store, "file"), None);
        let record = applied(&store, local("ios", "bad", b"it was good once"));
        assert!(found(&store, "bad").is_some());
        store.spoil_inline_body(&record);
        assert_eq!(found(&store, "bad"), None);
        applied(&store, local("ios", "deleted", b"x"));
        outcome(&store, delete("ios", None));
        assert_eq!(found(&store, "deleted"), None);
    }
}
