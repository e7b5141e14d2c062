//! Identifiers and digests, each its own type so that one is never taken for another.
//!
//! Every fixed-size identifier prints and parses as lower-case hex and travels in JSON as that string.
//!
//! Invariant: parsing accepts exactly the lower-case form that printing makes, so two texts never name one thing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest as _, Sha256};

/// A text is not the lower-case hex form of the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected_chars} lower-case hex digits, got {text:?}")]
pub struct ParseIdError {
    /// How many hex digits the identifier has.
    pub expected_chars: usize,
    /// The text that was given, cut to a printable length.
    pub text: String,
}

fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], ParseIdError> {
    let refuse = || ParseIdError { expected_chars: N * 2, text: text.chars().take(80).collect() };
    if text.len() != N * 2 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(refuse());
    }
    let mut bytes = [0_u8; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| refuse())?;
    Ok(bytes)
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Bytes in the identifier.
            pub const LEN: usize = $len;

            /// The raw bytes.
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// Takes a slice of exactly the right length.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    };
}

hex_id!(
    /// The BLAKE3 digest of a body.
    Digest,
    32
);
hex_id!(
    /// A SHA-256 digest, for keys that clients derive from content.
    Sha256Digest,
    32
);
hex_id!(
    /// Names an artifact in the whole mesh; see [`ArtifactId::compute`].
    ArtifactId,
    32
);
hex_id!(
    /// Names the data of one data dir for as long as it exists; a rebuilt or cloned store takes a new one.
    StoreId,
    16
);
hex_id!(
    /// Names one run of one process. "Self" is this, not the store id: a cloned volume shares its store id.
    InstanceId,
    16
);
hex_id!(
    /// Drawn at random by each writable open of a store, so that a rolled-back sequence is told from a continued one.
    Epoch,
    8
);

impl ArtifactId {
    /// SHA-256 of `producer 0x00 tenant 0x00 namespace 0x00 key`; the tenant is the node's own, never the request's.
    ///
    /// Callers refuse a zero byte in namespace and key first: it would let two keys share an id.
    pub fn compute(producer: &str, tenant: &str, namespace: &str, key: &str) -> Self {
        let mut hasher = Sha256::new();
        for (index, part) in [producer, tenant, namespace, key].into_iter().enumerate() {
            if index > 0 {
                hasher.update([0_u8]);
            }
            hasher.update(part.as_bytes());
        }
        Self(hasher.finalize().into())
    }
}

impl Sha256Digest {
    /// The digest of a body that is already in memory.
    pub fn of(body: &[u8]) -> Self {
        Self(Sha256::digest(body).into())
    }
}

impl Digest {
    /// The digest of a body that is already in memory.
    pub fn of(body: &[u8]) -> Self {
        Self(*blake3::hash(body).as_bytes())
    }
}

/// The position of a row in a store's change log; rises by one with each put or tombstone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

/// The number of a body in one store. Never used twice, so an unlink that comes late cannot hit a newer body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BodyNo(pub u64);

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for BodyNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Orders all writes of one artifact: the later one wins, and equal times are decided by the higher digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Version {
    /// Unix milliseconds, taken on the node that accepted the write.
    pub version_ms: u64,
    /// 0 unless `version_ms` could not be raised without passing the skew bound.
    pub logical: u16,
    /// The digest of the body, the last tie-break.
    pub digest: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artifact_ids_match_the_recorded_vectors() {
        let vectors = [
            ("xcode", "ios", "blob/artifact-1", "81da7c9260239afe7ec39f204b6d79c5d979b8cb4ac6b136fc5fd17e57d0a96c"),
            ("gradle", "android", "gradle-key-1", "31b2517504add3a564dd6ecab38a175d86f73f3e4ec7221bc540ec2b5489687b"),
            ("nx", "nx", "abc", "5e3dab3ecb81ad4c0914c54243750828e040ebc66ccdbc7d6f12547946d28f87"),
            ("xcode", "", "blob/account-artifact", "5111bc0f8adad4203bf7f2eabcaf6d9f15d283f0cead709066acca7fb8960878"),
        ];
        for (producer, namespace, key, expected) in vectors {
            assert_eq!(ArtifactId::compute(producer, "default", namespace, key).to_string(), expected);
        }
    }

    #[test]
    fn only_the_printed_form_parses() {
        let id = StoreId([0xab; 16]);
        assert_eq!(id.to_string().parse::<StoreId>(), Ok(id));
        for text in ["", "AB", &"AB".repeat(16), &"ab".repeat(15), &"ab".repeat(17), &"zz".repeat(16)] {
            assert!(text.parse::<StoreId>().is_err(), "{text:?} parsed");
        }
    }

    #[test]
    fn versions_order_by_time_then_logical_then_digest() {
        let version = |ms, logical, byte| Version { version_ms: ms, logical, digest: Digest([byte; 32]) };
        assert!(version(1, 9, 9) < version(2, 0, 0));
        assert!(version(2, 0, 9) < version(2, 1, 0));
        assert!(version(2, 1, 0) < version(2, 1, 1));
    }
}
