//! The tables of the index and the keys in them.
//!
//! All numbers in keys are big-endian, so byte order is numeric order. Values are tagged fields (`tagged`) unless said.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | `state`, `run`, `body_high`, `body_low`, `swept`, `hand`, `purge/` + namespace | see the constants below |
//! | `epochs` | ordinal u64 | 1: epoch (8 bytes), 2: first seq |
//! | `manifests` | artifact id, 32 bytes | a record, stored form |
//! | `log` | seq u64 | [`LogRow`] |
//! | `by_version` | version_ms u64, logical u16, seq u64 | empty |
//! | `by_namespace` | length of the namespace u16, namespace, seq u64 | empty |
//! | `namespaces` | namespace | 1: newest version_ms ever put into it |
//! | `tombstones` | namespace | 1: version_ms, 2: seq |
//! | `bodies` | body_no u64 | the body as stored, nothing else |
//! | `body_owner` | body_no u64 | artifact id, 32 bytes |
//! | `extents` | body_no >> 12, u64 | 1, 2: inline bodies and their bytes; 3, 4: body files and their bytes |
//! | `garbage` | body_no u64 | 1: place (0 inline, 1 file), 2: stored bytes, 3: keep it in quarantine, 4: its charge |
//! | `wanted` | artifact id | version byte, then JSON |
//! | `cursors`, `peers` | peer's key | version byte, then JSON |
//! | `buckets` | first hex digit of the ids u8; `kept` | 1: artifacts, 2: their sum, 16 bytes; 1: epoch, see `set_digest` |
//! | `stubs` | artifact id | 16 bytes, see `stubs` |
//! | `uploads`, `quarantine` | | not written yet |
//!
//! Secondary rows hold the 8-byte seq and no id: the id is in the log row.

use crate::core::base::ids::{ArtifactId, BodyNo, Seq};

/// The column families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Table {
    Meta,
    Epochs,
    Manifests,
    Log,
    ByVersion,
    ByNamespace,
    Namespaces,
    Tombstones,
    Bodies,
    BodyOwner,
    Extents,
    Garbage,
    Stubs,
    Wanted,
    Cursors,
    Peers,
    Buckets,
    Uploads,
    Quarantine,
}

impl Table {
    /// All of them.
    pub(crate) const ALL: [Self; 19] = [
        Self::Meta,
        Self::Epochs,
        Self::Manifests,
        Self::Log,
        Self::ByVersion,
        Self::ByNamespace,
        Self::Namespaces,
        Self::Tombstones,
        Self::Bodies,
        Self::BodyOwner,
        Self::Extents,
        Self::Garbage,
        Self::Stubs,
        Self::Wanted,
        Self::Cursors,
        Self::Peers,
        Self::Buckets,
        Self::Uploads,
        Self::Quarantine,
    ];

    /// The name on disk.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Epochs => "epochs",
            Self::Manifests => "manifests",
            Self::Log => "log",
            Self::ByVersion => "by_version",
            Self::ByNamespace => "by_namespace",
            Self::Namespaces => "namespaces",
            Self::Tombstones => "tombstones",
            Self::Bodies => "bodies",
            Self::BodyOwner => "body_owner",
            Self::Extents => "extents",
            Self::Garbage => "garbage",
            Self::Stubs => "stubs",
            Self::Wanted => "wanted",
            Self::Cursors => "cursors",
            Self::Peers => "peers",
            Self::Buckets => "buckets",
            Self::Uploads => "uploads",
            Self::Quarantine => "quarantine",
        }
    }

    /// Whether a row that cannot be read costs only what it is of: it is a miss, and peers have it.
    pub(crate) fn is_missed_by_itself(self) -> bool {
        matches!(self, Self::Manifests | Self::Bodies)
    }

    /// Whether single keys are looked up in it that are often absent, so that a bloom filter pays.
    pub(crate) fn is_probed(self) -> bool {
        matches!(self, Self::Manifests | Self::Namespaces | Self::Tombstones | Self::Stubs | Self::Wanted)
    }
}

/// `meta`: head seq and counters, in every batch. 1: head seq, 2: artifacts, 3: body bytes, 4: evicted floor, ms,
/// 5: charges of all bodies that came in, 6: the epoch whose writer keeps the counters, 7: stubs, 8: evictions,
/// 9: artifacts that expire.
pub(crate) const META_STATE: &[u8] = b"state";
/// `meta`: what the sweeper removed, in each of its batches. 1: charges, 2: 1 = to be counted anew.
pub(crate) const META_SWEPT: &[u8] = b"swept";
/// `meta`: 1: the key of `by_version` behind which the hand of eviction stands.
pub(crate) const META_HAND: &[u8] = b"hand";
/// `meta`: 1: how the last writer left the store, see `recovery`.
pub(crate) const META_RUN: &[u8] = b"run";
/// `meta`: 1: body numbers below this may have been used; raised, durably, before one at or above it is.
pub(crate) const META_BODY_HIGH: &[u8] = b"body_high";
/// `meta`: 1: every body file below this number has a manifest or a garbage row.
pub(crate) const META_BODY_LOW: &[u8] = b"body_low";
/// `meta`: in front of a namespace whose deleted rows are still being removed. 2: seq of the tombstone under which the
/// removal now under way began.
pub(crate) const META_PURGE_PREFIX: &[u8] = b"purge/";

/// Body numbers share an extent, which is a folder of files and a range of inline rows, by their upper 52 bits.
pub(crate) const EXTENT_BITS: u32 = 12;

/// The extent of a body.
pub(crate) fn extent_of(body_no: BodyNo) -> u64 {
    body_no.0 >> EXTENT_BITS
}

/// A number as a key.
pub(crate) fn number_key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// A key as a number.
pub(crate) fn key_number(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}

/// The key in `by_version`.
pub(crate) fn version_key(version_ms: u64, logical: u16, seq: Seq) -> Vec<u8> {
    [version_ms.to_be_bytes().as_slice(), &logical.to_be_bytes(), &seq.0.to_be_bytes()].concat()
}

/// The version_ms at the start of a key in `by_version`.
pub(crate) fn key_version_ms(key: &[u8]) -> Option<u64> {
    key.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
}

/// What all keys of a namespace in `by_namespace` begin with.
pub(crate) fn namespace_prefix(namespace: &str) -> Vec<u8> {
    let length = u16::try_from(namespace.len()).unwrap_or(u16::MAX);
    [length.to_be_bytes().as_slice(), namespace.as_bytes()].concat()
}

/// The key in `by_namespace`.
pub(crate) fn namespace_key(namespace: &str, seq: Seq) -> Vec<u8> {
    [namespace_prefix(namespace).as_slice(), &seq.0.to_be_bytes()].concat()
}

/// The seq at the end of a secondary key.
pub(crate) fn last_seq(key: &[u8]) -> Option<Seq> {
    key.last_chunk::<8>().map(|bytes| Seq(u64::from_be_bytes(*bytes)))
}

/// The key of a purge that is under way.
pub(crate) fn purge_key(namespace: &str) -> Vec<u8> {
    [META_PURGE_PREFIX, namespace.as_bytes()].concat()
}

/// One row of the change log. Kinds 3 to 5 are reserved for artifact_delete, withdraw and noop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LogRow {
    /// An artifact was put; its manifest has the rest.
    Put { id: ArtifactId, version_ms: u64, logical: u16 },
    /// A namespace was deleted.
    NamespaceDelete { namespace: String, version_ms: u64 },
    /// A kind of a later version: passed over.
    Other(u64),
}

impl LogRow {
    /// 1: kind, 2: id or namespace, 3: version_ms, 4: logical.
    pub(crate) fn encode(&self) -> Vec<u8> {
        use super::tagged::Row;
        let row = match self {
            Self::Put { id, version_ms, logical } => Row::default()
                .with_number(1, 1)
                .with_bytes(2, id.as_bytes())
                .with_number(3, *version_ms)
                .with_number(4, u64::from(*logical)),
            Self::NamespaceDelete { namespace, version_ms } => {
                Row::default().with_number(1, 2).with_bytes(2, namespace.as_bytes()).with_number(3, *version_ms)
            }
            Self::Other(kind) => Row::default().with_number(1, *kind),
        };
        row.encode()
    }

    /// Decodes a row; the error says what is wrong.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let row = super::tagged::Row::decode(bytes).map_err(|error| error.to_string())?;
        let subject = row.bytes(2).unwrap_or_default();
        let version_ms = row.number(3);
        match row.number(1) {
            1 => {
                let id = ArtifactId::from_slice(subject).ok_or("the id has a wrong length")?;
                let logical = u16::try_from(row.number(4)).map_err(|error| error.to_string())?;
                Ok(Self::Put { id, version_ms, logical })
            }
            2 => {
                let namespace = String::from_utf8(subject.to_vec()).map_err(|error| error.to_string())?;
                Ok(Self::NamespaceDelete { namespace, version_ms })
            }
            kind => Ok(Self::Other(kind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_numbers_do() {
        assert!(version_key(1, u16::MAX, Seq(9)) < version_key(2, 0, Seq(0)));
        assert!(version_key(2, 1, Seq(9)) < version_key(2, 1, Seq(256)));
        assert!(number_key(255) < number_key(256));
        assert_eq!(last_seq(&namespace_key("ios", Seq(77))), Some(Seq(77)));
    }

    #[test]
    fn no_namespace_is_a_prefix_of_another() {
        assert!(!namespace_key("ab", Seq(0x6363_6363)).starts_with(&namespace_prefix("a")));
        assert!(!namespace_key("a", Seq(1)).starts_with(&namespace_prefix("")));
    }

    #[test]
    fn log_rows_round_trip_and_later_kinds_are_passed_over() {
        let rows = [
            LogRow::Put { id: ArtifactId([3; 32]), version_ms: 1_750_000_000_000, logical: 7 },
            LogRow::NamespaceDelete { namespace: "ios".into(), version_ms: 5 },
            LogRow::NamespaceDelete { namespace: String::new(), version_ms: 5 },
            LogRow::Other(4),
        ];
        for row in rows {
            assert_eq!(LogRow::decode(&row.encode()), Ok(row));
        }
    }
}
