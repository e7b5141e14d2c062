//! The version rules: which write of an artifact wins, and how a new one is stamped.
//!
//! Last writer wins by (version_ms, logical, digest). A write taken here is stamped after everything it must beat: the
//! clock, the key's present version, the namespace's tombstone. It is never refused for its clock. A peer's version is
//! taken as it is, unless it is so far ahead that it would drag ours along.

use super::committer::{CommitOutcome, Put, PutMode, PutOrigin};
use super::record::Record;
use super::stubs::{Stub, is_gone};
use crate::core::base::ids::{Seq, StoreId, Version};
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

/// What is known here of an artifact when a version of it is decided on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Here<'a> {
    /// The manifest as it lies there.
    pub(crate) existing: Option<&'a Record>,
    /// The same, if it is still served.
    pub(crate) live: Option<&'a Record>,
    /// Up to where its namespace is deleted.
    pub(crate) tombstone: Option<u64>,
    /// What is left of it, if it went.
    pub(crate) stub: Option<Stub>,
    /// Up to where what has neither manifest nor stub counts as evicted.
    pub(crate) floor_ms: u64,
    /// The clock.
    pub(crate) now_ms: u64,
}

/// Decides a put.
pub(crate) fn decide(put: &Put, here: Here<'_>) -> Decision {
    match (&put.origin, here.live) {
        (PutOrigin::Local(PutMode::WriteOnce), Some(live)) => {
            Decision::Refuse(CommitOutcome::AlreadyPresent(Box::new(live.clone())))
        }
        (PutOrigin::Local(_), _) => Decision::Store(local_stamp(here)),
        (PutOrigin::Replicated { version_ms: 0, created_at_ms, origin, .. }, _) => {
            Decision::Store(Stamp { created_at_ms: *created_at_ms, origin: Some(*origin), ..local_stamp(here) })
        }
        (PutOrigin::Replicated { version_ms, logical, created_at_ms, origin }, _) => {
            let version = Version { version_ms: *version_ms, logical: *logical, digest: put.body.digest };
            match refuse_replicated(version, here) {
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

fn refuse_replicated(version: Version, here: Here<'_>) -> Option<CommitOutcome> {
    if version.version_ms > here.now_ms.saturating_add(CLOCK_SKEW_MAX_MS) {
        return Some(CommitOutcome::ClockSkew { version_ms: version.version_ms });
    }
    if here.tombstone.is_some_and(|tombstone| tombstone >= version.version_ms) {
        return Some(CommitOutcome::Tombstoned);
    }
    match here.existing {
        Some(existing) if existing.version() >= version => Some(CommitOutcome::Stale(Box::new(existing.clone()))),
        Some(_) => None,
        None => is_gone(&version, here.stub, here.floor_ms).then_some(CommitOutcome::Evicted),
    }
}

/// max(now, the key's version + 1, the tombstone + 1); where the key's version stands at the skew bound, `logical`
/// rises instead, so that no chain of writes drags the version past what peers accept. Of a key that went, the version
/// that went counts: it may still be elsewhere.
fn local_stamp(here: Here<'_>) -> Stamp {
    let now_ms = here.now_ms;
    let tombstone_ms = here.tombstone.map_or(0, |tombstone| tombstone.saturating_add(1));
    let at_least_ms = now_ms.max(tombstone_ms);
    let standing = match (here.existing, here.stub) {
        (Some(existing), _) => Some((existing.version_ms, existing.logical)),
        (None, Some(stub)) => Some(stub.version()),
        (None, None) => (here.floor_ms > 0).then_some((here.floor_ms, 0)),
    };
    let (version_ms, logical) = match standing {
        Some(standing) if standing.0 >= at_least_ms => after(standing, now_ms.saturating_add(CLOCK_SKEW_MAX_MS)),
        _ => (at_least_ms, 0),
    };
    Stamp { version_ms, logical, created_at_ms: 0, origin: None }
}

fn after((version_ms, logical): (u64, u16), version_ms_max: u64) -> (u64, u16) {
    let next_ms = version_ms.saturating_add(1);
    match logical.checked_add(1) {
        Some(logical) if next_ms > version_ms_max => (version_ms, logical),
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
pub(crate) fn offered(version: Version, here: Here<'_>) -> super::facade::Wants {
    use super::facade::Wants;
    if version.version_ms > here.now_ms.saturating_add(CLOCK_SKEW_MAX_MS) {
        return Wants::ClockSkew;
    }
    if here.tombstone.is_some_and(|tombstone| tombstone >= version.version_ms) {
        return Wants::Tombstoned;
    }
    match here.existing {
        Some(existing) if existing.version() >= version => Wants::AlreadyHere,
        Some(existing) if existing.digest == version.digest => Wants::Adopt,
        None if is_gone(&version, here.stub, here.floor_ms) => Wants::Evicted,
        _ => Wants::Fetch,
    }
}
