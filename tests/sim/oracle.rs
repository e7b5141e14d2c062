//! Knows what must be in every node in the end: of each artifact the newest acknowledged write that no acknowledged
//! delete beats.

use std::collections::{BTreeMap, BTreeSet};

use kura::core::base::ids::{Digest, Version};

/// Namespace and key.
pub type Name = (String, String);

/// What a node holds.
pub type Holdings = BTreeMap<Name, Version>;

#[derive(Debug, Default)]
pub struct Oracle {
    acknowledged: BTreeMap<Name, BTreeSet<Version>>,
    /// Writes whose client never got an answer: they may be there or not.
    unanswered: BTreeMap<Name, Vec<Digest>>,
    deleted: BTreeMap<String, u64>,
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
            self.acknowledged.entry(name.clone()).or_default().insert(version);
            self.writes += 1;
        }
    }

    pub fn deleted(&mut self, namespace: &str, version_ms: u64) {
        let newest = self.deleted.entry(namespace.to_owned()).or_default();
        *newest = version_ms.max(*newest);
        self.deletes += 1;
    }

    /// What every node must hold, apart from unanswered writes.
    pub fn expected(&self) -> Holdings {
        let newest = |(name, versions): (&Name, &BTreeSet<Version>)| {
            let deleted_ms = self.deleted.get(&name.0).copied();
            let newest = *versions.last()?;
            deleted_ms.is_none_or(|deleted_ms| newest.version_ms > deleted_ms).then(|| (name.clone(), newest))
        };
        self.acknowledged.iter().filter_map(newest).collect()
    }

    /// What is wrong with these holdings; nothing if they are what they must be.
    pub fn complaints(&self, holdings: &Holdings) -> Vec<String> {
        let expected = self.expected();
        let names: BTreeSet<&Name> = expected.keys().chain(holdings.keys()).collect();
        names.into_iter().filter_map(|name| self.complaint(name, expected.get(name), holdings.get(name))).collect()
    }

    fn complaint(&self, name: &Name, expected: Option<&Version>, held: Option<&Version>) -> Option<String> {
        if expected == held {
            return None;
        }
        let unanswered = self.unanswered.get(name);
        if let Some(held) = held {
            let deleted_ms = self.deleted.get(&name.0).copied().unwrap_or(0);
            let may_be = unanswered.is_some_and(|digests| digests.contains(&held.digest));
            if may_be && expected.is_none_or(|expected| held > expected) && held.version_ms > deleted_ms {
                return None;
            }
        }
        let deleted_ms = self.deleted.get(&name.0);
        Some(format!("{name:?}: holds {held:?}, must hold {expected:?}, deleted at {deleted_ms:?}"))
    }
}
