//! The version rules: which write of an artifact wins, and how a new one is stamped.
//!
//! Last writer wins by (version_ms, logical, digest). A write taken here is stamped after everything it must beat: the
//! clock, the key's present version, the namespace's tombstone. It is never refused for its clock. A peer's version is
//! taken as it is, unless it is so far ahead that it would drag ours along.

use super::committer::{CommitOutcome, Put, PutMode, PutOrigin};
use super::record::Record;
use crate::core::base::ids::{Digest, Seq, StoreId, Version};
use crate::core::base::limits::CLOCK_SKEW_MAX_MS;

/// Whether a put is stored.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Under this stamp.
    Store(Stamp),
    /// For this reason not.
    Refuse(CommitOutcome),
}

/// What a put is stamped with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) version_ms: u64,
    pub(crate) logical: u16,
    /// 0 = when the version was made.
    pub(crate) created_at_ms: u64,
    /// `None` = this store.
    pub(crate) origin: Option<StoreId>,
}

/// Decides a put. `existing` is the manifest as it lies there, `live` the same if it is still served.
pub(crate) fn decide(
    put: &Put,
    existing: Option<&Record>,
    live: Option<&Record>,
    tombstone: Option<u64>,
    now_ms: u64,
) -> Decision {
    match (&put.origin, live) {
        (PutOrigin::Local(PutMode::WriteOnce), Some(live)) => {
            Decision::Refuse(CommitOutcome::AlreadyPresent(Box::new(live.clone())))
        }
        (PutOrigin::Local(_), _) => Decision::Store(local_stamp(existing, tombstone, now_ms)),
        (PutOrigin::Replicated { version_ms: 0, created_at_ms, origin, .. }, _) => Decision::Store(Stamp {
            created_at_ms: *created_at_ms,
            origin: Some(*origin),
            ..local_stamp(existing, tombstone, now_ms)
        }),
        (PutOrigin::Replicated { version_ms, logical, created_at_ms, origin }, _) => {
            let version = Version { version_ms: *version_ms, logical: *logical, digest: put.body.digest };
            match refuse_replicated(version, existing, tombstone, now_ms) {
                Some(outcome) => Decision::Refuse(outcome),
                None => Decision::Store(Stamp {
                    version_ms: *version_ms,
                    logical: *logical,
                    created_at_ms: *created_at_ms,
                    origin: Some(*origin),
                }),
            }
        }
    }
}

fn refuse_replicated(
    version: Version,
    existing: Option<&Record>,
    tombstone: Option<u64>,
    now_ms: u64,
) -> Option<CommitOutcome> {
    if version.version_ms > now_ms.saturating_add(CLOCK_SKEW_MAX_MS) {
        return Some(CommitOutcome::ClockSkew { version_ms: version.version_ms });
    }
    if tombstone.is_some_and(|tombstone| tombstone >= version.version_ms) {
        return Some(CommitOutcome::Tombstoned);
    }
    existing
        .filter(|existing| existing.version() >= version)
        .map(|existing| CommitOutcome::Stale(Box::new(existing.clone())))
}

/// max(now, the key's version + 1, the tombstone + 1); where the key's version stands at the skew bound, `logical`
/// rises instead, so that no chain of writes drags the version past what peers accept.
pub(crate) fn local_stamp(existing: Option<&Record>, tombstone: Option<u64>, now_ms: u64) -> Stamp {
    let floor_ms = tombstone.map_or(now_ms, |tombstone| now_ms.max(tombstone.saturating_add(1)));
    let (version_ms, logical) = match existing {
        Some(existing) if existing.version_ms >= floor_ms => after(existing, now_ms.saturating_add(CLOCK_SKEW_MAX_MS)),
        _ => (floor_ms, 0),
    };
    Stamp { version_ms, logical, created_at_ms: 0, origin: None }
}

fn after(existing: &Record, version_ms_max: u64) -> (u64, u16) {
    let next_ms = existing.version_ms.saturating_add(1);
    match existing.logical.checked_add(1) {
        Some(logical) if next_ms > version_ms_max => (existing.version_ms, logical),
        _ => (next_ms, 0),
    }
}

impl Stamp {
    /// The record of a put under this stamp; its body and seq are not known yet.
    pub(crate) fn record(self, put: &Put, store_id: StoreId, now_ms: u64) -> Record {
        Record {
            kind: put.kind,
            flags: put.carried.flags,
            name: put.name.clone(),
            content_type: put.content_type.clone(),
            attributes: put.attributes.clone(),
            size: put.body.length,
            stored_size: put.body.length,
            encoding: 0,
            digest: put.body.digest,
            sha256: put.body.sha256,
            version_ms: self.version_ms,
            logical: self.logical,
            created_at_ms: if self.created_at_ms == 0 { self.version_ms } else { self.created_at_ms },
            received_at_ms: now_ms,
            expires_at_ms: put.carried.expires_at_ms,
            origin: self.origin.unwrap_or(store_id),
            body: None,
            seq: Seq(0),
            unknown: put.carried.unknown.clone(),
        }
    }
}

/// The order of a peer's row against what is here, for callers that have no body yet.
pub(crate) fn offered(
    version: Version,
    existing: Option<(Version, Digest)>,
    tombstone: Option<u64>,
    now_ms: u64,
) -> super::facade::Wants {
    use super::facade::Wants;
    if version.version_ms > now_ms.saturating_add(CLOCK_SKEW_MAX_MS) {
        return Wants::ClockSkew;
    }
    if tombstone.is_some_and(|tombstone| tombstone >= version.version_ms) {
        return Wants::Tombstoned;
    }
    match existing {
        Some((here, _)) if here >= version => Wants::AlreadyHere,
        Some((_, digest)) if digest == version.digest => Wants::Adopt,
        _ => Wants::Fetch,
    }
}
