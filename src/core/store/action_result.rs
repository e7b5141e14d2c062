//! Reads the digests of blobs that Bazel's action results and trees name, out of bytes that anybody may have sent.
//!
//! How it works: the two protobuf messages of the remote execution API are walked field by field, to a fixed depth and
//! without building them. Only what leads to a digest is looked at; every other field is passed over by its wire type.
//!
//! Invariants: no bytes make this panic, and none make it do more than one walk over them. What does not read as the
//! message, as a whole, is none: the action cache is also used for bytes of other kinds, which are served as they are.

use std::collections::BTreeSet;

use super::record::ArtifactKey;
use crate::core::base::ids::Sha256Digest;

/// Whose action results name blobs.
pub const PRODUCER: &str = "bazel";

/// Longest message that is looked into. A result with ten thousand outputs has about 1.5 MiB.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Most blobs that one message is held to; each costs a lookup.
pub const BLOBS_MAX: usize = 16_384;

/// Most directory trees of one result that are looked into.
pub const TREES_MAX: usize = 64;

/// What an action result names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamedBlobs {
    /// Every blob, trees included.
    pub blobs: BTreeSet<Sha256Digest>,
    /// Those that are trees, and name blobs in turn.
    pub trees: BTreeSet<Sha256Digest>,
}

/// The name under which a namespace keeps a blob.
pub fn blob_name(namespace: &str, blob: &Sha256Digest) -> ArtifactKey {
    ArtifactKey { producer: PRODUCER.to_owned(), namespace: namespace.to_owned(), key: format!("cas/{blob}") }
}

/// The blobs of an action result; `None` if the bytes are none, or too many.
pub fn blobs_of_action_result(bytes: &[u8]) -> Option<NamedBlobs> {
    let mut named = NamedBlobs::default();
    each_field(bytes, &mut |number, value| match number {
        // output_files: path 1, digest 2.
        2 => named.note(digest_within(value, 2)?),
        // output_directories: path 1, tree_digest 3.
        3 => {
            let tree = digest_within(value, 3)?;
            if named.trees.len() < TREES_MAX {
                named.trees.extend(tree);
            }
            named.note(tree)
        }
        // stdout_digest and stderr_digest.
        6 | 8 => named.note(digest(value.message()?)?),
        _ => Some(()),
    })?;
    Some(named)
}

/// The files of a tree; `None` if the bytes are none, or too many.
pub fn blobs_of_tree(bytes: &[u8]) -> Option<BTreeSet<Sha256Digest>> {
    let mut named = NamedBlobs::default();
    each_field(bytes, &mut |number, directory| match number {
        // root and children: each a Directory with files in field 1, whose digest is field 2.
        1 | 2 => each_field_of(directory.message()?, &mut |number, file| match number {
            1 => named.note(digest_within(file, 2)?),
            _ => Some(()),
        }),
        _ => Some(()),
    })?;
    Some(named.blobs)
}

impl NamedBlobs {
    /// The empty blob is neither sent nor asked for by Bazel: nobody needs to have it.
    fn note(&mut self, digest: Option<Sha256Digest>) -> Option<()> {
        let empty = Sha256Digest(EMPTY_SHA256);
        if self.blobs.len() < BLOBS_MAX {
            self.blobs.extend(digest.filter(|digest| *digest != empty));
        }
        Some(())
    }
}

/// SHA-256 of no bytes.
const EMPTY_SHA256: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae, 0x41,
    0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

/// The value of one field.
#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    /// A number of any kind.
    Number,
    /// A text, bytes or a message.
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    fn message(self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Number => None,
        }
    }
}

/// The digest in this field of a message, if the message has it.
fn digest_within(value: Value<'_>, field: u64) -> Option<Option<Sha256Digest>> {
    let mut found = None;
    each_field_of(value.message()?, &mut |number, value| {
        if number == field {
            found = digest(value.message()?)?;
        }
        Some(())
    })?;
    Some(found)
}

/// A Digest message: hash 1, size_bytes 2. One without a hash is as good as absent.
fn digest(bytes: &[u8]) -> Option<Option<Sha256Digest>> {
    let mut found = None;
    each_field_of(bytes, &mut |number, value| {
        if number == 1 {
            let text = std::str::from_utf8(value.message()?).ok()?;
            found = if text.is_empty() { None } else { Some(text.parse().ok()?) };
        }
        Some(())
    })?;
    Some(found)
}

/// What is done with each field; `None` says that the message is none.
type Visit<'v> = dyn FnMut(u64, Value<'_>) -> Option<()> + 'v;

fn each_field(bytes: &[u8], visit: &mut Visit<'_>) -> Option<()> {
    if bytes.len() > MESSAGE_BYTES_MAX { None } else { each_field_of(bytes, visit) }
}

fn each_field_of(bytes: &[u8], visit: &mut Visit<'_>) -> Option<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let value = match tag & 7 {
            0 => {
                varint(&mut rest)?;
                Value::Number
            }
            1 => {
                take(&mut rest, 8)?;
                Value::Number
            }
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                Value::Bytes(take(&mut rest, length)?)
            }
            5 => {
                take(&mut rest, 4)?;
                Value::Number
            }
            // Groups were never used by these messages; 6 and 7 do not exist.
            _ => return None,
        };
        let number = tag >> 3;
        if number == 0 {
            return None;
        }
        visit(number, value)?;
    }
    Some(())
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, left) = rest.split_first()?;
        *rest = left;
        // Bits beyond the 64th of a tenth byte are dropped, as protobuf readers do.
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
#[path = "action_result_tests.rs"]
mod tests;
