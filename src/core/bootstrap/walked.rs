//! What seed-era peers listed when they were last walked to the end, so that walking them again costs one digest as
//! long as they list the same, however little of it has room here.
//!
//! How it works: after a clean walk the peer's buckets are remembered. A bucket that says the same as then has nothing
//! new: what it lists is here, or was passed over, evicted or noted as wanted. Ours are not looked at for those.
//!
//! Invariants: what is remembered belongs to one store of ours, and is forgotten after a while, because room may have
//! come for what was passed over. Memory is one digest for each of a bounded number of peers.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::core::base::ids::StoreId;
use crate::core::store::walk::DigestBucket;

/// How long it counts: a walk that finds nothing is a few pages for each thousand artifacts, so this makes it cheap.
const WALK_AGAIN_AFTER: Duration = Duration::from_secs(600);

/// Peers remembered: a digest of the usual length takes half a megabyte.
const PEERS_MAX: usize = 32;

/// Buckets remembered of a peer: those of the usual length of prefixes.
const BUCKETS_MAX: usize = 4096;

#[derive(Debug)]
struct Memory {
    store_id: StoreId,
    /// When everything was walked.
    since: Duration,
    buckets: HashMap<String, DigestBucket>,
}

/// The buckets of all seed-era peers; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Walked {
    peers: Arc<Mutex<BTreeMap<String, Memory>>>,
}

impl Walked {
    /// Those of the peer's buckets that say something else than when it was last walked.
    pub fn changed(
        &self,
        peer: &str,
        store_id: StoreId,
        theirs: Vec<DigestBucket>,
        now: Duration,
    ) -> Vec<DigestBucket> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.retain(|_, memory| now.saturating_sub(memory.since) < WALK_AGAIN_AFTER && memory.store_id == store_id);
        let Some(memory) = peers.get(peer) else { return theirs };
        theirs.into_iter().filter(|bucket| memory.buckets.get(&bucket.prefix) != Some(bucket)).collect()
    }

    /// All that changed was walked to the end.
    pub fn note(&self, peer: &str, store_id: StoreId, changed: &[DigestBucket], now: Duration) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= PEERS_MAX && !peers.contains_key(peer) {
            return;
        }
        let new = || Memory { store_id, since: now, buckets: HashMap::new() };
        let memory = peers.entry(peer.to_owned()).or_insert_with(new);
        for bucket in changed {
            if memory.buckets.len() < BUCKETS_MAX || memory.buckets.contains_key(&bucket.prefix) {
                memory.buckets.insert(bucket.prefix.clone(), bucket.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(prefix: &str, hash: &str) -> DigestBucket {
        DigestBucket { prefix: prefix.to_owned(), count: 1, hash: hash.to_owned() }
    }

    #[test]
    fn only_what_changed_since_the_last_walk_of_this_store_is_walked_and_everything_now_and_then() {
        let (walked, ours, now) = (Walked::default(), StoreId([1; 16]), Duration::from_secs(7));
        let theirs = vec![bucket("000", "a"), bucket("001", "b")];
        let changed = |peer: &str, store: StoreId, theirs: &[DigestBucket], now| {
            walked.changed(peer, store, theirs.to_vec(), now)
        };
        assert_eq!(changed("p", ours, &theirs, now), theirs, "never walked");
        walked.note("p", ours, &theirs, now);
        assert!(changed("p", ours, &theirs, now).is_empty());
        assert_eq!(changed("q", ours, &theirs, now), theirs, "another peer");
        let other = vec![bucket("000", "a"), bucket("001", "c"), bucket("002", "d")];
        let just_new = changed("p", ours, &other, now);
        assert_eq!(just_new, other[1..]);
        walked.note("p", ours, &just_new, now + WALK_AGAIN_AFTER / 2);
        assert!(changed("p", ours, &other, now + WALK_AGAIN_AFTER / 2).is_empty());
        assert_eq!(changed("p", ours, &other, now + WALK_AGAIN_AFTER), other, "counted from the first walk");
        walked.note("p", ours, &other, now);
        assert_eq!(changed("p", StoreId([2; 16]), &other, now), other, "a rebuilt store may have lost any of it");
    }
}
