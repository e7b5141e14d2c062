//! The walk over a seed-era peer: its digest first, then manifest pages in id order, of the buckets that differ or all.
//!
//! How it works: the peer's buckets are compared with what they said when it was last walked ([`super::walked`]), and
//! those that changed with ours. Buckets that are equal, or that only we have, are left out.
//! The first pages are listed ahead, and where a node has no room for all of it they say which is the newest that fits ([`super::cut`]).
//! If walking the others one by one would take more pages than walking everything, everything is walked.
//!
//! Invariant: each page's cursor is strictly greater than the one before, or the walk ends with an error; so a peer
//! cannot keep it going for ever. The walk has no durable cursor: what is here already costs a comparison, no fetch.

use std::collections::{HashMap, VecDeque};

use super::cut::{Histogram, SAMPLE_ROWS, part_up_to};
use super::engine::Engine;
use super::source::{ManifestSource, PageRows, SourceError, SourcePage, SourceRow};
use crate::core::base::ids::StoreId;
use crate::core::mesh::client::{LISTING_ROWS, PeerClient};
use crate::core::mesh::wire::{DIGEST_PREFIX_LEN, DigestReply, SEED_PRODUCERS};
use crate::core::store::Store;
use crate::core::store::record::Record;
use crate::core::store::walk::DigestBucket;

/// What is left to walk: prefixes in order, the empty one meaning everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalkPlan {
    /// Prefixes to walk, in reverse order so that the next one is popped.
    prefixes: Vec<String>,
    /// Rows in them, if the peer said so.
    pub rows: Option<u64>,
    /// Buckets that are equal.
    pub matched: u64,
    /// Buckets that are not.
    pub differing: u64,
}

impl WalkPlan {
    fn everything(rows: Option<u64>, matched: u64, differing: u64) -> Self {
        Self { prefixes: vec![String::new()], rows, matched, differing }
    }
}

/// Compares digests. `theirs` is `None` where the peer has none.
pub fn plan_walk(theirs: Option<&DigestReply>, ours: &[DigestBucket]) -> WalkPlan {
    let Some(theirs) = theirs else {
        return WalkPlan::everything(None, 0, 0);
    };
    let ours: HashMap<&str, &DigestBucket> = ours.iter().map(|bucket| (bucket.prefix.as_str(), bucket)).collect();
    let differs = |bucket: &&DigestBucket| ours.get(bucket.prefix.as_str()) != Some(bucket);
    let differing: Vec<&DigestBucket> = theirs.buckets.iter().filter(differs).collect();
    let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    let matched = count(theirs.buckets.len() - differing.len());
    let pages = |rows: u64| rows.div_ceil(count(LISTING_ROWS)).max(1);
    let everything = theirs.buckets.iter().fold(0_u64, |sum, bucket| sum.saturating_add(bucket.count));
    let rows = differing.iter().fold(0_u64, |sum, bucket| sum.saturating_add(bucket.count));
    let single = differing.iter().fold(0_u64, |sum, bucket| sum.saturating_add(pages(bucket.count)));
    if single > pages(everything) {
        return WalkPlan::everything(Some(everything), matched, count(differing.len()));
    }
    let prefixes = differing.iter().rev().map(|bucket| bucket.prefix.clone()).collect();
    WalkPlan { prefixes, rows: Some(rows), matched, differing: count(differing.len()) }
}

/// A walk under way.
#[derive(Debug)]
pub struct WalkSource {
    client: PeerClient,
    store_id: StoreId,
    /// The buckets that changed since the last walk.
    walked: Vec<DigestBucket>,
    peer: String,
    plan: WalkPlan,
    prefix: Option<String>,
    after: Option<String>,
    rows: PageRows,
    /// Pages that were listed ahead.
    ahead: VecDeque<SourcePage>,
    /// How listing ahead ended, if it did not go well.
    failed_ahead: Option<SourceError>,
    floor_ms: u64,
    has_digest: bool,
}

impl WalkSource {
    /// Compares digests and begins.
    pub async fn begin(engine: &Engine, peer: &str) -> Result<Self, SourceError> {
        let Engine { client, store, metrics, .. } = engine;
        let theirs = client.digest(peer).await?;
        let store_id = store.call(|store| Ok(store.stats().store_id)).await?;
        let (mut walked, has_digest) = (Vec::new(), theirs.is_some());
        let plan = match theirs {
            None => plan_walk(None, &[]),
            Some(theirs) => {
                let now = engine.clock.monotonic();
                let changed = engine.walked.changed(peer, store_id, theirs.buckets, now);
                let ours = if changed.is_empty() {
                    Vec::new()
                } else {
                    store.call(|store| store.digest_v1(DIGEST_PREFIX_LEN, &SEED_PRODUCERS)).await?
                };
                let theirs = DigestReply { buckets: changed, ..theirs };
                let plan = plan_walk(Some(&theirs), &ours);
                walked = theirs.buckets;
                plan
            }
        };
        metrics.buckets(plan.matched, plan.differing);
        let mut source = Self {
            client: client.clone(),
            store_id,
            walked,
            peer: peer.to_owned(),
            plan,
            prefix: None,
            after: None,
            rows: PageRows::new(LISTING_ROWS),
            ahead: VecDeque::new(),
            failed_ahead: None,
            floor_ms: 0,
            has_digest,
        };
        source.look_ahead(engine).await?;
        Ok(source)
    }

    /// Whether the peer has a digest; without one all of it is walked each time.
    pub fn has_digest(&self) -> bool {
        self.has_digest
    }

    /// Lists as much as makes a sample, and cuts off what has no room.
    async fn look_ahead(&mut self, engine: &Engine) -> Result<(), SourceError> {
        let Some(capacity_bytes) = engine.store.current().and_then(|store| store.stats().capacity_bytes) else {
            return Ok(());
        };
        let (mut sampled, mut is_all) = (Vec::new(), false);
        while sampled.len() < SAMPLE_ROWS && !is_all {
            match self.list().await {
                Ok(Some(page)) => {
                    sampled.extend(page.rows.iter().filter_map(artifact_of).cloned());
                    self.ahead.push_back(page);
                }
                Ok(None) => is_all = true,
                // What was listed before is settled first.
                Err(error) => {
                    self.failed_ahead = Some(error);
                    break;
                }
            }
        }
        let rows = u64::try_from(sampled.len()).unwrap_or(u64::MAX);
        let (all, part) = match self.plan.rows {
            _ if is_all => (1, 1),
            Some(all) => (all.max(rows), rows),
            None => self.after.as_deref().map_or((1, 1), part_up_to),
        };
        let weighed = move |store: &Store| {
            let missing = store.weigh_wanted(&sampled.iter().collect::<Vec<_>>())?;
            let missing: Vec<_> = missing.into_iter().map(|weight| weight.scaled(all, part)).collect();
            let charged_bytes = store.stats().charged_bytes;
            let held = if missing.is_empty() { Vec::new() } else { store.weigh_held(SAMPLE_ROWS)? };
            Ok(Histogram { missing, held, charged_bytes, capacity_bytes })
        };
        self.floor_ms = engine.store.call(weighed).await?.cut_ms();
        if self.floor_ms > 0 {
            tracing::info!(peer = %self.peer, floor_ms = self.floor_ms, "peer_walk_cut_at_the_capacity");
        }
        Ok(())
    }

    /// Everything listed is here, passed over or noted as wanted.
    pub fn is_walked(self, engine: &Engine) {
        engine.walked.note(&self.peer, self.store_id, &self.walked, engine.clock.monotonic());
    }

    fn advance(&mut self, next: Option<String>, is_empty: bool, prefix: &str) -> Result<(), SourceError> {
        let after = self.after.clone().unwrap_or_default();
        match next {
            // A peer that ignores the prefix goes on behind it; the bucket is done then.
            Some(next) if !next.starts_with(prefix) && next.as_str() > after.as_str() => self.end_prefix(),
            Some(next) if is_empty || next <= after => {
                return Err(SourceError::Unadvancing { peer: self.peer.clone(), after, next });
            }
            Some(next) => self.after = Some(next),
            None => self.end_prefix(),
        }
        Ok(())
    }

    fn end_prefix(&mut self) {
        self.prefix = None;
        self.after = None;
    }

    async fn list(&mut self) -> Result<Option<SourcePage>, SourceError> {
        if self.prefix.is_none() {
            self.prefix = self.plan.prefixes.pop();
        }
        let Some(prefix) = self.prefix.clone() else {
            return Ok(None);
        };
        let listing = loop {
            match self.client.manifests(&self.peer, self.after.as_deref(), &prefix, self.rows.get()).await {
                Err(error) if self.rows.are_refused(&error) => {}
                listed => break listed?,
            }
        };
        let is_empty = listing.records.is_empty() && listing.skipped.is_empty();
        self.advance(listing.next_after, is_empty, &prefix)?;
        let rows = listing.records.into_iter().map(|record| SourceRow::Artifact(Box::new(record), None)).collect();
        Ok(Some(SourcePage { rows, skipped: listing.skipped, floor_ms: 0 }))
    }
}

fn artifact_of(row: &SourceRow) -> Option<&Record> {
    match row {
        SourceRow::Artifact(record, _) => Some(record),
        SourceRow::Tombstone { .. } => None,
    }
}

impl ManifestSource for WalkSource {
    async fn next_page(&mut self) -> Result<Option<SourcePage>, SourceError> {
        let page = match (self.ahead.pop_front(), self.failed_ahead.take()) {
            (Some(page), failed) => {
                self.failed_ahead = failed;
                Some(page)
            }
            (None, Some(error)) => return Err(error),
            (None, None) => self.list().await?,
        };
        Ok(page.map(|page| SourcePage { floor_ms: self.floor_ms, ..page }))
    }

    async fn page_settled(&mut self) -> Result<(), SourceError> {
        Ok(())
    }

    fn rows_total(&self) -> Option<u64> {
        self.plan.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(prefix: &str, count: u64, hash: &str) -> DigestBucket {
        DigestBucket { prefix: prefix.to_owned(), count, hash: hash.to_owned() }
    }

    fn digest(buckets: &[DigestBucket]) -> DigestReply {
        DigestReply { prefix_len: 3, buckets: buckets.to_vec() }
    }

    #[test]
    fn equal_digests_walk_nothing_and_buckets_only_we_have_are_ignored() {
        let theirs = [bucket("000", 2, "a"), bucket("001", 1, "b")];
        let ours = [&theirs[..], &[bucket("fff", 9, "z")]].concat();
        let plan = plan_walk(Some(&digest(&theirs)), &ours);
        assert_eq!((plan.prefixes.len(), plan.matched, plan.differing), (0, 2, 0));
    }

    #[test]
    fn a_few_differing_buckets_are_walked_one_by_one() {
        let theirs: Vec<_> = (0..1024).map(|n| bucket(&format!("{n:03x}"), 1, "a")).collect();
        let mut ours = theirs.clone();
        ours[7].hash = "other".to_owned();
        ours.remove(900);
        let plan = plan_walk(Some(&digest(&theirs)), &ours);
        assert_eq!(plan.prefixes, ["384", "007"], "popped from the end, so in ascending order");
        assert_eq!((plan.rows, plan.matched, plan.differing), (Some(2), 1022, 2));
    }

    #[test]
    fn where_it_takes_fewer_pages_everything_is_walked() {
        let theirs: Vec<_> = (0..1024).map(|n| bucket(&format!("{n:03x}"), 1, "a")).collect();
        let plan = plan_walk(Some(&digest(&theirs)), &[]);
        assert_eq!((plan.prefixes.as_slice(), plan.rows), (&[String::new()][..], Some(1024)));
    }

    #[test]
    fn without_a_digest_everything_is_walked() {
        assert_eq!(plan_walk(None, &[]).prefixes, [String::new()]);
    }
}
