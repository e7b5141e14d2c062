//! Two nodes compared: which artifacts only one of them holds, found by narrowing down where their digests differ.
//!
//! How it works: sixteen digests of each are compared, then those of the 256 parts of each that differs, until there are
//! enough of those or [`NARROW_TIME`] is over, then the artifacts of at most [`PARTS_MAX`] parts. What one of them misses it is asked to explain, for at most
//! [`EXPLAINED_MAX`] artifacts: what it evicted, or what it got meanwhile, is no difference.
//!
//! Invariants: a comparison costs a few pages whatever is held, and has a bound in time, kept by the caller. What is
//! younger than [`GRACE_MS`] is on its way and does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;

use crate::core::base::ids::{ArtifactId, Epoch, StoreId};
use crate::core::doctor::check::chain;
use crate::core::mesh::client::PeerClient;
use crate::core::mesh::holdings::{HOLDINGS_ROWS_MAX, Holding, HoldingsPage, RANGE_DIGITS};
use crate::core::mesh::wire::{SetDigestBucket, SetDigestReply};
use crate::core::store::Store;
use crate::core::store::explain::{Explanation, State};
use crate::core::store::set_digest::{PREFIX_LEN, SetDigest};
use crate::core::store::walk::ManifestPageRequest;

/// What was written within this time may still be on its way.
pub const GRACE_MS: u64 = 30_000;
/// Narrow ranges whose artifacts are listed for one pair of nodes.
const PARTS_MAX: usize = 32;
/// How long ranges are narrowed down. A node looks through its manifests for that, at a microsecond and a half each: some
/// millions on a machine that has nothing else to do.
const NARROW_TIME: Duration = Duration::from_secs(8);
/// Pages of one narrow range; it has hundreds of artifacts in a store of a million.
const PAGES_MAX: usize = 4;
/// Artifacts that each side is asked to explain.
const EXPLAINED_MAX: usize = 32;
/// Of them, asked at the same time.
const EXPLAINED_AT_ONCE: usize = 8;

/// One of the two.
#[derive(Debug, Clone)]
pub enum Side {
    /// A node that answers at this URL, and by which name it is told.
    Node {
        /// Where it is asked.
        url: String,
        /// How it is called in findings.
        name: String,
    },
    /// The data dir of a node that does not run.
    Files {
        /// Its index, open for reading.
        store: Arc<Store>,
        /// How it is called in findings.
        name: String,
        /// Its tenant.
        tenant_id: String,
    },
}

impl Side {
    /// How it is called in findings.
    pub fn name(&self) -> &str {
        match self {
            Self::Node { name, .. } | Self::Files { name, .. } => name,
        }
    }

    /// The digests of all ranges, or of the parts of one, by prefix.
    async fn ranges(&self, client: &PeerClient, prefix: &str) -> Result<BTreeMap<String, SetDigestBucket>, String> {
        let reply = match self {
            Self::Node { url, .. } => client.ranges(url, prefix).await.map_err(|error| chain(&error))?,
            Self::Files { store, .. } => files_ranges(store, prefix)?,
        };
        Ok(reply.buckets.into_iter().map(|bucket| (bucket.prefix.clone(), bucket)).collect())
    }

    async fn page(&self, client: &PeerClient, prefix: &str, after: Option<ArtifactId>) -> Result<HoldingsPage, String> {
        match self {
            Self::Node { url, .. } => client.holdings(url, prefix, after).await.map_err(|error| chain(&error)),
            Self::Files { store, tenant_id, .. } => {
                let rows_max = HOLDINGS_ROWS_MAX;
                let request = ManifestPageRequest { after, prefix: prefix.to_owned(), rows_max, producers: &[] };
                let page = store.manifest_page(&request).map_err(|error| chain(&error))?;
                let rows = page.records.iter().map(|record| Holding::of(record, tenant_id)).collect();
                Ok(HoldingsPage { rows, next_after: page.next_after })
            }
        }
    }

    /// The artifacts of a narrow range; the flag says whether all of them.
    async fn list(&self, client: &PeerClient, prefix: &str) -> Result<(BTreeMap<ArtifactId, Holding>, bool), String> {
        let (mut found, mut after) = (BTreeMap::new(), None);
        for _ in 0..PAGES_MAX {
            let page = self.page(client, prefix, after).await?;
            found.extend(page.rows.into_iter().map(|row| (row.id, row)));
            after = page.next_after;
            if after.is_none() {
                return Ok((found, true));
            }
        }
        Ok((found, false))
    }

    async fn explain(&self, client: &PeerClient, missing: &Holding) -> Result<Explanation, String> {
        match self {
            Self::Node { url, .. } => {
                client.explain(url, &missing.id, &missing.namespace).await.map_err(|error| chain(&error))
            }
            Self::Files { store, .. } => {
                store.explain(&missing.id, Some(&missing.namespace)).map_err(|error| chain(&error))
            }
        }
    }
}

fn files_ranges(store: &Store, prefix: &str) -> Result<SetDigestReply, String> {
    let stats = store.stats();
    let names: (StoreId, Epoch) = (stats.store_id, stats.epoch);
    if prefix.is_empty() {
        let digest = store.set_digest().ok_or("the index was last written by a version without digests")?;
        return Ok(SetDigestReply::of(&digest, names, PREFIX_LEN, store.stubs()));
    }
    let parts = store.deep_digest(prefix, RANGE_DIGITS).map_err(|error| chain(&error))?;
    let empty = SetDigestReply::of(&SetDigest::default(), names, RANGE_DIGITS, store.stubs());
    Ok(empty.with_ranges(parts))
}

/// An artifact that one side holds and the other does not.
#[derive(Debug, Clone, PartialEq)]
pub struct Missing {
    /// What it is, in the version that is held.
    pub holding: Holding,
    /// Why it is not there, as far as it was asked for.
    pub why: Option<Why>,
}

/// What the side that misses an artifact says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// One word, as in the explanation of an artifact.
    pub state: String,
    /// What closes the difference, in words.
    pub closes: String,
}

/// How two nodes differ.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Difference {
    /// Of the sixteen ranges.
    pub ranges: usize,
    /// Of their parts, as far as they were looked at.
    pub parts: usize,
    /// What the first one misses.
    pub missing_on_one: Vec<Missing>,
    /// What the second one misses.
    pub missing_on_two: Vec<Missing>,
    /// Differences that are none: on their way, evicted, expired.
    pub harmless: u64,
    /// Whether everything that differs was looked at.
    pub is_whole: bool,
}

/// Compares two nodes.
pub async fn compare(client: &PeerClient, one: &Side, two: &Side, now_ms: u64) -> Result<Difference, String> {
    let ranges = differing(client, one, two, "").await?;
    let mut parts = Vec::new();
    let narrowed = tokio::time::timeout(NARROW_TIME, narrow(client, one, two, &ranges, &mut parts)).await;
    if narrowed.is_err() && parts.is_empty() {
        let seconds = NARROW_TIME.as_secs();
        return Err(format!("{} of 16 ranges differ; none could be narrowed down within {seconds} s", ranges.len()));
    }
    let are_all_narrowed = narrowed.unwrap_or(Ok(false))?;
    let is_whole = are_all_narrowed && parts.len() <= PARTS_MAX;
    let mut found = Difference { ranges: ranges.len(), parts: parts.len(), is_whole, ..Difference::default() };
    for part in parts.iter().take(PARTS_MAX) {
        let ((here, all_here), (there, all_there)) =
            futures_util::future::try_join(one.list(client, part), two.list(client, part)).await?;
        found.is_whole &= all_here && all_there;
        found.missing_on_two.extend(missing(&here, &there));
        found.missing_on_one.extend(missing(&there, &here));
    }
    let young = |missing: &Missing| missing.holding.version.version_ms.saturating_add(GRACE_MS) > now_ms;
    for (side, holder, list) in [(one, two, &mut found.missing_on_one), (two, one, &mut found.missing_on_two)] {
        let before = list.len();
        list.retain(|missing| !young(missing));
        let explained = explained(client, side, holder, std::mem::take(list), now_ms).await?;
        *list = explained;
        found.harmless += (before - list.len()) as u64;
    }
    Ok(found)
}

/// The parts that differ, range by range, until there are more than are listed; whether all ranges were looked at.
async fn narrow(
    client: &PeerClient,
    one: &Side,
    two: &Side,
    ranges: &[String],
    parts: &mut Vec<String>,
) -> Result<bool, String> {
    for range in ranges {
        if parts.len() > PARTS_MAX {
            return Ok(false);
        }
        parts.extend(differing(client, one, two, range).await?);
    }
    Ok(true)
}

/// The prefixes within a range whose digests differ.
async fn differing(client: &PeerClient, one: &Side, two: &Side, prefix: &str) -> Result<Vec<String>, String> {
    let both = futures_util::future::try_join(one.ranges(client, prefix), two.ranges(client, prefix));
    let (here, there) = both.await?;
    let all: BTreeSet<&String> = here.keys().chain(there.keys()).collect();
    Ok(all.into_iter().filter(|prefix| here.get(*prefix) != there.get(*prefix)).cloned().collect())
}

/// What is in one listing and not, or only older, in the other.
fn missing(here: &BTreeMap<ArtifactId, Holding>, there: &BTreeMap<ArtifactId, Holding>) -> Vec<Missing> {
    let newer = |row: &&Holding| there.get(&row.id).is_none_or(|other| other.version < row.version);
    here.values().filter(newer).map(|row| Missing { holding: row.clone(), why: None }).collect()
}

/// Asks the side that misses them why; what is harmless is left out. If all that were explained are, so are the others.
async fn explained(
    client: &PeerClient,
    side: &Side,
    holder: &Side,
    mut missing: Vec<Missing>,
    now_ms: u64,
) -> Result<Vec<Missing>, String> {
    let rest = missing.split_off(missing.len().min(EXPLAINED_MAX));
    let asked = missing.into_iter().map(|missing| async move {
        let told = side.explain(client, &missing.holding).await?;
        Ok::<_, String>((missing, told))
    });
    let mut answers = futures_util::stream::iter(asked).buffered(EXPLAINED_AT_ONCE);
    let mut left = Vec::new();
    while let Some(answer) = answers.next().await {
        let (missing, told) = answer?;
        if let Some(why) = why(&told, &missing.holding, holder.name(), now_ms) {
            left.push(Missing { why: Some(why), ..missing });
        }
    }
    if !left.is_empty() {
        left.extend(rest);
    }
    Ok(left)
}

/// Why an artifact is not there and what changes that; `None` if it need not be there.
fn why(told: &Explanation, offered: &Holding, holder: &str, now_ms: u64) -> Option<Why> {
    let held = told.manifest.as_ref().map(|manifest| manifest.version());
    let closes = match told.state {
        State::Held if held >= Some(offered.version) => return None,
        State::Evicted | State::BelowFloor | State::Expired => return None,
        State::Held => format!("an older version is there; it takes the newer one when it hears {holder}"),
        State::Wanted => told.wanted.as_ref().map_or_else(String::new, |row| {
            let next = row.next_try_ms.saturating_sub(now_ms).div_ceil(1000);
            let error = row.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
            format!("it is wanted there, {} tries, the next in {next} s{error}", row.attempts)
        }),
        State::Deleted | State::NamespaceDeleted => format!("it is deleted there; {holder} has not heard of that yet"),
        State::Withdrawn | State::Unreadable => "its copy was bad; it is fetched again".to_owned(),
        State::Absent | State::Unknown => format!("it has not heard of it; it does when it reaches {holder}"),
    };
    let state = serde_json::to_value(told.state).ok().and_then(|word| word.as_str().map(str::to_owned));
    Some(Why { state: state.unwrap_or_default(), closes })
}

#[cfg(test)]
#[path = "sides_tests.rs"]
mod tests;
