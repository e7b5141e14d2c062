//! Knows what must be in every node in the end: of each artifact the newest acknowledged write that no acknowledged
//! delete beats.
//!
//! How it works: writes and deletes are *kept* unless the only volume that had them was taken away; then they are
//! *loose*: they may come back from a node that was down, or be gone.

use std::collections::{BTreeMap, BTreeSet};

use kura::core::base::ids::{Digest, Version};

/// Namespace and key.
pub type Name = (String, String);

/// What a node holds.
pub type Holdings = BTreeMap<Name, Version>;

/// Until when namespaces are deleted.
pub type Deletes = BTreeMap<String, u64>;

#[derive(Debug, Default)]
pub struct Oracle {
    /// Each acknowledged version, and whether it is kept.
    acknowledged: BTreeMap<Name, BTreeMap<Version, bool>>,
    /// Writes whose client never got an answer: they may be there or not.
    unanswered: BTreeMap<Name, Vec<Digest>>,
    /// Each delete, and whether it is kept.
    deleted: BTreeMap<String, BTreeMap<u64, bool>>,
    pub writes: u64,
    pub deletes: u64,
}

impl Oracle {
    pub fn write_begun(&mut self, name: &Name, digest: Digest) {
        self.unanswered.entry(name.clone()).or_default().push(digest);
    }

    /// The client was told that nothing was stored, or that it was (`version`).
    pub fn write_answered(&mut self, name: &Name, digest: Digest, version: Option<Version>) {
        let begun = self.unanswered.entry(name.clone()).or_default();
        if let Some(at) = begun.iter().position(|begun| *begun == digest) {
            begun.remove(at);
        }
        if let Some(version) = version {
            self.acknowledged.entry(name.clone()).or_default().insert(version, true);
            self.writes += 1;
        }
    }

    pub fn deleted(&mut self, namespace: &str, version_ms: u64) {
        self.deleted.entry(namespace.to_owned()).or_default().insert(version_ms, true);
        self.deletes += 1;
    }

    /// A delete was not answered: it may be there or not, with a version up to about `now_ms`, or above all it deleted.
    pub fn delete_unanswered(&mut self, namespace: &str, now_ms: u64) {
        let in_it = self.acknowledged.iter().filter(|(name, _)| name.0 == namespace);
        let newest_ms = in_it.filter_map(|(_, versions)| Some(versions.last_key_value()?.0.version_ms)).max();
        let version_ms = now_ms.max(newest_ms.unwrap_or(0)).saturating_add(1);
        self.deleted.entry(namespace.to_owned()).or_default().entry(version_ms).or_insert(false);
    }

    /// A volume was taken away: what none of these nodes has any more is loose.
    pub fn volume_lost(&mut self, left: &[(Holdings, Deletes)]) {
        let is_deleted = |namespace: &str, version_ms: u64| {
            left.iter().any(|(_, deletes)| deletes.get(namespace).is_some_and(|until_ms| *until_ms >= version_ms))
        };
        for (name, versions) in &mut self.acknowledged {
            for (version, kept) in versions {
                let is_held = left.iter().any(|(held, _)| held.get(name).is_some_and(|held| held >= version));
                *kept = *kept && (is_held || is_deleted(&name.0, version.version_ms));
            }
        }
        for (namespace, versions) in &mut self.deleted {
            for (version_ms, kept) in versions {
                *kept = *kept && is_deleted(namespace, *version_ms);
            }
        }
    }

    /// What is deleted here though nobody deleted it, if anything.
    pub fn strange_delete(&self, deletes: &Deletes) -> Option<String> {
        let is_known = |(namespace, version_ms): &(&String, &u64)| {
            let known = self.deleted.get(*namespace);
            // The version of one that was not answered is not known, but it is below a bound.
            known.is_some_and(|known| {
                known.contains_key(*version_ms) || known.range(**version_ms..).any(|(_, kept)| !kept)
            })
        };
        deletes.iter().find(|delete| !is_known(delete)).map(|(namespace, ms)| format!("{namespace:?} up to {ms}"))
    }

    fn deleted_ms(&self, namespace: &str, also_loose: bool) -> u64 {
        let deletes = self.deleted.get(namespace).into_iter().flatten();
        deletes.filter(|(_, kept)| **kept || also_loose).map(|(version_ms, _)| *version_ms).max().unwrap_or(0)
    }

    fn newest_kept(&self, name: &Name) -> Option<Version> {
        let versions = self.acknowledged.get(name)?;
        versions.iter().rev().find(|(_, kept)| **kept).map(|(version, _)| *version)
    }

    /// Whether this has to be somewhere still. What was on a lost volume only is wanted for ever, and so is what never was.
    pub fn is_kept(&self, name: &Name, version: &Version) -> bool {
        self.acknowledged.get(name).is_some_and(|versions| versions.get(version) == Some(&true))
    }

    /// Whether somebody wrote this.
    fn is_real(&self, name: &Name, version: &Version) -> bool {
        self.acknowledged.get(name).is_some_and(|versions| versions.contains_key(version))
            || self.unanswered.get(name).is_some_and(|digests| digests.contains(&version.digest))
    }

    /// How many artifacts every node must hold, apart from unanswered writes.
    pub fn expected(&self) -> usize {
        let must_be = |name: &&Name| {
            self.newest_kept(name).is_some_and(|newest| newest.version_ms > self.deleted_ms(&name.0, true))
        };
        self.acknowledged.keys().filter(must_be).count()
    }

    /// What is wrong with these holdings; nothing if they are what they must be.
    pub fn complaints(&self, holdings: &Holdings) -> Vec<String> {
        let names: BTreeSet<&Name> = self.acknowledged.keys().chain(holdings.keys()).collect();
        names.into_iter().filter_map(|name| self.complaint(name, holdings.get(name))).collect()
    }

    fn complaint(&self, name: &Name, held: Option<&Version>) -> Option<String> {
        let newest = self.newest_kept(name);
        let is_right = match held {
            None => newest.is_none_or(|newest| newest.version_ms <= self.deleted_ms(&name.0, true)),
            Some(held) => {
                self.is_real(name, held)
                    && newest.is_none_or(|newest| *held >= newest)
                    && held.version_ms > self.deleted_ms(&name.0, false)
            }
        };
        let deletes = self.deleted.get(&name.0);
        (!is_right).then(|| format!("{name:?}: holds {held:?}, the newest write is {newest:?}, deletes {deletes:?}"))
    }
}
