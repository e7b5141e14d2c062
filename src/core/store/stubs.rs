//! What is left of an artifact that went: 16 bytes that say which version, so that it does not come back by itself.
//!
//! Layout: format 1, reason, logical (u16), version_ms (u64), the first 4 bytes of the digest; numbers big-endian. A
//! stub of a later format covers nothing and is replaced by the next one of its artifact.
//!
//! Invariants: an artifact has a manifest or a stub, never both. The number of stubs is bounded: the oldest are folded
//! into the evicted floor, at or below which an artifact without manifest and stub counts as evicted. A stub speaks
//! before the floor does. What a client writes here is stamped above both and is never refused by them.

use super::record::Record;
use crate::core::base::ids::Version;

/// Bytes of a stub.
pub(crate) const STUB_BYTES: usize = 16;

const FORMAT: u8 = 1;
const EVICTED: u8 = 1;
const WITHDRAWN: u8 = 2;

/// Why an artifact went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// To make room: this version is not wanted again.
    Evicted,
    /// Its body was bad: the same version may return.
    Withdrawn,
}

/// What is left of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stub {
    reason: Reason,
    version_ms: u64,
    logical: u16,
    digest: [u8; 4],
}

impl Stub {
    /// The stub of a record.
    pub(crate) fn of(record: &Record, reason: Reason) -> Self {
        let [a, b, c, d, ..] = record.digest.0;
        Self { reason, version_ms: record.version_ms, logical: record.logical, digest: [a, b, c, d] }
    }

    pub(crate) fn encode(&self) -> [u8; STUB_BYTES] {
        let reason = match self.reason {
            Reason::Evicted => EVICTED,
            Reason::Withdrawn => WITHDRAWN,
        };
        let [l0, l1] = self.logical.to_be_bytes();
        let [v0, v1, v2, v3, v4, v5, v6, v7] = self.version_ms.to_be_bytes();
        let [d0, d1, d2, d3] = self.digest;
        [FORMAT, reason, l0, l1, v0, v1, v2, v3, v4, v5, v6, v7, d0, d1, d2, d3]
    }

    /// `None` if it is of a later format or none.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let [FORMAT, reason, l0, l1, v0, v1, v2, v3, v4, v5, v6, v7, d0, d1, d2, d3] = *bytes else { return None };
        let reason = match reason {
            EVICTED => Reason::Evicted,
            WITHDRAWN => Reason::Withdrawn,
            _ => return None,
        };
        Some(Self {
            reason,
            version_ms: u64::from_be_bytes([v0, v1, v2, v3, v4, v5, v6, v7]),
            logical: u16::from_be_bytes([l0, l1]),
            digest: [d0, d1, d2, d3],
        })
    }

    pub(crate) fn reason(&self) -> Reason {
        self.reason
    }

    /// The version a write taken here has to exceed.
    pub(crate) fn version(&self) -> (u64, u16) {
        (self.version_ms, self.logical)
    }

    /// Whether a peer's version counts as gone.
    pub(crate) fn covers(&self, offered: &Version) -> bool {
        let [a, b, c, d, ..] = offered.digest.0;
        let offered = (offered.version_ms, offered.logical, [a, b, c, d]);
        let here = (self.version_ms, self.logical, self.digest);
        match self.reason {
            Reason::Evicted => offered <= here,
            Reason::Withdrawn => offered < here,
        }
    }
}

/// Whether a peer's version of an artifact that has no manifest here counts as evicted.
pub(crate) fn is_gone(offered: &Version, stub: Option<Stub>, floor_ms: u64) -> bool {
    match stub {
        Some(stub) => stub.covers(offered),
        None => offered.version_ms <= floor_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::base::ids::Digest;

    fn stub(reason: Reason) -> Stub {
        Stub { reason, version_ms: 1_750_000_000_000, logical: 7, digest: [5; 4] }
    }

    fn version(version_ms: u64, logical: u16, digest: u8) -> Version {
        Version { version_ms, logical, digest: Digest([digest; 32]) }
    }

    #[test]
    fn the_bytes_of_format_1_stay_what_they_are() {
        let bytes = hex::decode("01010007000001977420dc0005050505").unwrap();
        assert_eq!(stub(Reason::Evicted).encode().as_slice(), bytes);
        assert_eq!(Stub::decode(&bytes), Some(stub(Reason::Evicted)));
        assert_eq!(Stub::decode(&stub(Reason::Withdrawn).encode()), Some(stub(Reason::Withdrawn)));
        let later = [[2].as_slice(), bytes.get(1..).unwrap()].concat();
        assert_eq!((Stub::decode(&later), Stub::decode(&bytes[1..]), Stub::decode(&[])), (None, None, None));
    }

    #[test]
    fn an_evicted_version_and_older_ones_are_gone_and_a_withdrawn_one_may_return() {
        let now = 1_750_000_000_000;
        let (evicted, withdrawn) = (stub(Reason::Evicted), stub(Reason::Withdrawn));
        for older in [version(now - 1, 9, 9), version(now, 6, 9), version(now, 7, 4)] {
            assert!(evicted.covers(&older) && withdrawn.covers(&older));
        }
        assert!(evicted.covers(&version(now, 7, 5)) && !withdrawn.covers(&version(now, 7, 5)));
        for newer in [version(now + 1, 0, 0), version(now, 8, 0), version(now, 7, 6)] {
            assert!(!evicted.covers(&newer) && !withdrawn.covers(&newer));
        }
    }

    #[test]
    fn a_stub_speaks_before_the_floor() {
        let (offered, floor_ms) = (version(100, 0, 1), 200);
        assert!(is_gone(&offered, None, floor_ms));
        assert!(!is_gone(&version(201, 0, 1), None, floor_ms));
        let withdrawn = Stub { reason: Reason::Withdrawn, version_ms: 100, logical: 0, digest: [1; 4] };
        assert!(!is_gone(&offered, Some(withdrawn), floor_ms));
    }
}
