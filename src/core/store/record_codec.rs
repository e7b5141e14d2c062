//! The bytes of a [`Record`], version 1.
//!
//! How it works: tagged fields as in `tagged`, tags below. Absent means the default: 0, none, empty.
//!
//! | tag | field | content |
//! |---|---|---|
//! | 1 | kind | one byte: 0 blob, 1 action, others reserved |
//! | 2 | flags | number |
//! | 3, 4, 5, 6 | producer, namespace, key, content type | UTF-8 |
//! | 7 | attributes | name and value in turn, each with its length as a varint, ascending |
//! | 8, 9 | size, stored size | number; stored size defaults to size |
//! | 10 | encoding | one byte |
//! | 11 | digest | one byte of algorithm (1 = BLAKE3), 32 bytes |
//! | 12 | SHA-256 | 32 bytes |
//! | 13, 14 | version_ms, logical | number |
//! | 15, 16, 17 | created, received, expires | number, Unix ms |
//! | 18 | origin | 16 bytes |
//! | 19 | body | one byte of place (0 inline, 1 file), number; local, never on the wire |
//! | 20 | seq | number; local, never on the wire |
//!
//! Invariants: one record has one encoding; tags above 20 are kept and written back in their place; every length is
//! bounded before anything is copied.

use std::collections::BTreeMap;

use super::record::{ArtifactKey, BodyPlace, Kind, Record};
use super::tagged::{self, TaggedError, put_bytes, put_field, put_number, put_parts, take_bytes, take_varint};
use crate::core::base::ids::{BodyNo, Digest, Seq, Sha256Digest, StoreId};
use crate::core::base::limits::{
    ATTRIBUTE_BYTES_MAX, ATTRIBUTES_MAX, CONTENT_TYPE_BYTES_MAX, KEY_BYTES_MAX, NAMESPACE_BYTES_MAX,
};

/// Longest name of a producer, in bytes: they are short words of ours.
pub const PRODUCER_BYTES_MAX: usize = 64;

/// Most fields of later versions one record carries, and the most bytes in them together.
pub const UNKNOWN_FIELDS_MAX: usize = 64;
/// See [`UNKNOWN_FIELDS_MAX`].
pub const UNKNOWN_BYTES_MAX: usize = 8 << 10;

/// No record is longer than this: the bounds of its parts with room for tags.
pub const RECORD_BYTES_MAX: usize = 16 << 10;

/// The highest tag this version writes.
const LAST_TAG: u64 = 20;

/// The digest algorithm of the first byte of field 11.
const BLAKE3: u8 = 1;

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The fields do not decode.
    #[error(transparent)]
    Tagged(#[from] TaggedError),
    /// A field every record has is absent.
    #[error("the {0} is missing")]
    Missing(&'static str),
    /// A field passes its bound.
    #[error("the {0} is too long")]
    TooLong(&'static str),
    /// A field does not hold what it should.
    #[error("the {0} does not decode")]
    Invalid(&'static str),
}

impl Record {
    /// The manifest row and the footer: everything.
    pub fn to_stored_bytes(&self) -> Vec<u8> {
        encode(self, true)
    }

    /// The row on the wire: without what is local, the body's place and the sequence number.
    pub fn to_wire_bytes(&self) -> Vec<u8> {
        encode(self, false)
    }

    /// Decodes either form.
    ///
    /// # Errors
    /// If a field is missing, broken or out of bounds.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(RecordError::TooLong("record"));
        }
        let mut partial = Partial::default();
        tagged::each_field(bytes, |tag, content| partial.take(tag, content))?;
        partial.finish()
    }
}

fn encode(record: &Record, local: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    bytes.push(tagged::VERSION);
    let mut unknown = record.unknown.iter().peekable();
    for tag in 1..=LAST_TAG {
        // A record from a later version has no fields below our last tag that we do not know, but a hand-made one may.
        while let Some((early, content)) = unknown.next_if(|(known, _)| *known < tag) {
            put_field(&mut bytes, *early, content);
        }
        put_own_field(record, tag, local, &mut bytes);
    }
    for (tag, content) in unknown {
        put_field(&mut bytes, *tag, content);
    }
    bytes
}

/// Appends a field unless it has its default.
fn put_own_field(record: &Record, tag: u64, local: bool, bytes: &mut Vec<u8>) {
    match tag {
        1 => put_field(bytes, tag, &[kind_byte(record.kind)]),
        2 => put_nonzero(bytes, tag, record.flags),
        3 => put_field(bytes, tag, record.name.producer.as_bytes()),
        4 => put_field(bytes, tag, record.name.namespace.as_bytes()),
        5 => put_field(bytes, tag, record.name.key.as_bytes()),
        6 => put_field(bytes, tag, record.content_type.as_bytes()),
        7 if !record.attributes.is_empty() => put_field(bytes, tag, &attribute_bytes(&record.attributes)),
        8 => put_number(bytes, tag, record.size),
        9 if record.stored_size != record.size => put_number(bytes, tag, record.stored_size),
        10 if record.encoding != 0 => put_field(bytes, tag, &[record.encoding]),
        11 => put_parts(bytes, tag, &[&[BLAKE3], record.digest.as_bytes()]),
        12 => record.sha256.iter().for_each(|digest| put_field(bytes, tag, digest.as_bytes())),
        13 => put_number(bytes, tag, record.version_ms),
        14 => put_nonzero(bytes, tag, record.logical.into()),
        15 => put_nonzero(bytes, tag, record.created_at_ms),
        16 => put_nonzero(bytes, tag, record.received_at_ms),
        17 => record.expires_at_ms.iter().for_each(|number| put_number(bytes, tag, *number)),
        18 if record.origin != StoreId::default() => put_field(bytes, tag, record.origin.as_bytes()),
        19 if local => record.body.iter().for_each(|body| put_body(bytes, tag, *body)),
        20 if local => put_nonzero(bytes, tag, record.seq.0),
        _ => {}
    }
}

fn put_nonzero(bytes: &mut Vec<u8>, tag: u64, number: u64) {
    if number != 0 {
        put_number(bytes, tag, number);
    }
}

fn kind_byte(kind: Kind) -> u8 {
    match kind {
        Kind::Blob => 0,
        Kind::Action => 1,
        Kind::Reserved(byte) => byte,
    }
}

fn attribute_bytes(attributes: &BTreeMap<String, String>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in attributes {
        put_bytes(&mut bytes, name.as_bytes());
        put_bytes(&mut bytes, value.as_bytes());
    }
    bytes
}

fn put_body(bytes: &mut Vec<u8>, tag: u64, body: BodyPlace) {
    let (place, number) = match body {
        BodyPlace::Inline(number) => (0, number),
        BodyPlace::File(number) => (1, number),
    };
    let (digits, length) = tagged::varint(number.0);
    put_parts(bytes, tag, &[&[place], digits.get(..length).unwrap_or_default()]);
}

/// A record while its fields come in.
#[derive(Default)]
struct Partial {
    kind: Option<Kind>,
    flags: u64,
    producer: Option<String>,
    namespace: Option<String>,
    key: Option<String>,
    content_type: Option<String>,
    attributes: BTreeMap<String, String>,
    size: Option<u64>,
    stored_size: Option<u64>,
    encoding: u8,
    digest: Option<Digest>,
    sha256: Option<Sha256Digest>,
    version_ms: Option<u64>,
    logical: u16,
    created_at_ms: u64,
    received_at_ms: u64,
    expires_at_ms: Option<u64>,
    origin: StoreId,
    body: Option<BodyPlace>,
    seq: u64,
    unknown: Vec<(u64, Vec<u8>)>,
    unknown_bytes: usize,
}

impl Partial {
    fn take(&mut self, tag: u64, content: &[u8]) -> Result<(), RecordError> {
        match tag {
            1 => self.kind = Some(kind(content)?),
            2 => self.flags = tagged::number_of(tag, content)?,
            3 => self.producer = Some(text("producer", content, PRODUCER_BYTES_MAX)?),
            4 => self.namespace = Some(text("namespace", content, NAMESPACE_BYTES_MAX)?),
            5 => self.key = Some(text("key", content, KEY_BYTES_MAX)?),
            6 => self.content_type = Some(text("content type", content, CONTENT_TYPE_BYTES_MAX)?),
            7 => self.attributes = attributes(content)?,
            8 => self.size = Some(tagged::number_of(tag, content)?),
            9 => self.stored_size = Some(tagged::number_of(tag, content)?),
            10 => self.encoding = single("encoding", content)?,
            11 => self.digest = Some(digest(content)?),
            12 => self.sha256 = Some(Sha256Digest::from_slice(content).ok_or(RecordError::Invalid("SHA-256"))?),
            13 => self.version_ms = Some(tagged::number_of(tag, content)?),
            14 => {
                let logical = tagged::number_of(tag, content)?;
                self.logical = u16::try_from(logical).map_err(|_| RecordError::Invalid("logical version"))?;
            }
            15 => self.created_at_ms = tagged::number_of(tag, content)?,
            16 => self.received_at_ms = tagged::number_of(tag, content)?,
            17 => self.expires_at_ms = Some(tagged::number_of(tag, content)?),
            18 => self.origin = StoreId::from_slice(content).ok_or(RecordError::Invalid("origin"))?,
            19 => self.body = Some(body(content)?),
            20 => self.seq = tagged::number_of(tag, content)?,
            _ => self.take_unknown(tag, content)?,
        }
        Ok(())
    }

    fn take_unknown(&mut self, tag: u64, content: &[u8]) -> Result<(), RecordError> {
        self.unknown_bytes += content.len();
        if self.unknown.len() == UNKNOWN_FIELDS_MAX || self.unknown_bytes > UNKNOWN_BYTES_MAX {
            return Err(RecordError::TooLong("part of later versions"));
        }
        self.unknown.push((tag, content.to_vec()));
        Ok(())
    }

    fn finish(self) -> Result<Record, RecordError> {
        let size = self.size.ok_or(RecordError::Missing("size"))?;
        Ok(Record {
            kind: self.kind.ok_or(RecordError::Missing("kind"))?,
            flags: self.flags,
            name: ArtifactKey {
                producer: self.producer.ok_or(RecordError::Missing("producer"))?,
                namespace: self.namespace.ok_or(RecordError::Missing("namespace"))?,
                key: self.key.ok_or(RecordError::Missing("key"))?,
            },
            content_type: self.content_type.ok_or(RecordError::Missing("content type"))?,
            attributes: self.attributes,
            size,
            stored_size: self.stored_size.unwrap_or(size),
            encoding: self.encoding,
            digest: self.digest.ok_or(RecordError::Missing("digest"))?,
            sha256: self.sha256,
            version_ms: self.version_ms.ok_or(RecordError::Missing("version"))?,
            logical: self.logical,
            created_at_ms: self.created_at_ms,
            received_at_ms: self.received_at_ms,
            expires_at_ms: self.expires_at_ms,
            origin: self.origin,
            body: self.body,
            seq: Seq(self.seq),
            unknown: self.unknown,
        })
    }
}

fn single(what: &'static str, content: &[u8]) -> Result<u8, RecordError> {
    match content {
        [byte] => Ok(*byte),
        _ => Err(RecordError::Invalid(what)),
    }
}

fn kind(content: &[u8]) -> Result<Kind, RecordError> {
    Ok(match single("kind", content)? {
        0 => Kind::Blob,
        1 => Kind::Action,
        later => Kind::Reserved(later),
    })
}

fn text(what: &'static str, content: &[u8], bytes_max: usize) -> Result<String, RecordError> {
    if content.len() > bytes_max {
        return Err(RecordError::TooLong(what));
    }
    std::str::from_utf8(content).map(str::to_owned).map_err(|_| RecordError::Invalid(what))
}

fn attributes(mut content: &[u8]) -> Result<BTreeMap<String, String>, RecordError> {
    const WHAT: &str = "set of attributes";
    let mut attributes = BTreeMap::new();
    let mut bytes = 0;
    while !content.is_empty() {
        let name = take_bytes(&mut content).ok_or(RecordError::Invalid(WHAT))?;
        let value = take_bytes(&mut content).ok_or(RecordError::Invalid(WHAT))?;
        bytes += name.len() + value.len();
        if attributes.len() == ATTRIBUTES_MAX || bytes > ATTRIBUTE_BYTES_MAX {
            return Err(RecordError::TooLong(WHAT));
        }
        let name = text(WHAT, name, ATTRIBUTE_BYTES_MAX)?;
        if attributes.last_key_value().is_some_and(|(last, _)| *last >= name) {
            return Err(RecordError::Invalid(WHAT));
        }
        attributes.insert(name, text(WHAT, value, ATTRIBUTE_BYTES_MAX)?);
    }
    Ok(attributes)
}

fn digest(content: &[u8]) -> Result<Digest, RecordError> {
    match content.split_first() {
        Some((&BLAKE3, digest)) => Digest::from_slice(digest).ok_or(RecordError::Invalid("digest")),
        _ => Err(RecordError::Invalid("digest")),
    }
}

fn body(content: &[u8]) -> Result<BodyPlace, RecordError> {
    const WHAT: &str = "place of the body";
    let (place, mut rest) = content.split_first().ok_or(RecordError::Invalid(WHAT))?;
    let number = BodyNo(take_varint(&mut rest).ok_or(RecordError::Invalid(WHAT))?);
    match (place, rest) {
        (0, []) => Ok(BodyPlace::Inline(number)),
        (1, []) => Ok(BodyPlace::File(number)),
        _ => Err(RecordError::Invalid(WHAT)),
    }
}

#[cfg(test)]
#[path = "record_codec_tests.rs"]
mod tests;
