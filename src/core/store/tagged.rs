//! The encoding under every row and record: a version byte, then fields in ascending order of their tags.
//!
//! A field is a tag and a length as varints (7 bits a byte, least first), then that many bytes. Numbers inside a field
//! are varints too. A reader keeps the fields it does not know, so an older binary writes back what a newer one added.

use std::collections::BTreeMap;

/// The only version of the encoding so far; fields come and go without changing it.
pub(crate) const VERSION: u8 = 1;

/// A varint of 64 bits has at most this many bytes.
const VARINT_BYTES_MAX: usize = 10;

/// Why bytes are not tagged fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TaggedError {
    /// Written by a later, incompatible encoding, or not by kura.
    #[error("encoding version {0} is not known")]
    Version(u8),
    /// The bytes end inside a field, or there are none.
    #[error("it ends too early")]
    Truncated,
    /// Tags do not rise.
    #[error("field {0} is out of order")]
    Order(u64),
    /// A number has more than 64 bits or bytes behind it.
    #[error("field {0} is not a number")]
    Number(u64),
}

/// A varint: its bytes are the first so many.
pub(crate) fn varint(mut number: u64) -> ([u8; VARINT_BYTES_MAX], usize) {
    let mut digits = [0; VARINT_BYTES_MAX];
    let mut length = 0;
    for digit in &mut digits {
        length += 1;
        *digit = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            break;
        }
        *digit |= 0x80;
    }
    (digits, length)
}

/// Appends a varint.
pub(crate) fn put_varint(bytes: &mut Vec<u8>, number: u64) {
    let (digits, length) = varint(number);
    bytes.extend_from_slice(digits.get(..length).unwrap_or_default());
}

/// Takes a varint off the front.
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for index in 0..VARINT_BYTES_MAX {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(first & 0x7f);
        if index == VARINT_BYTES_MAX - 1 && bits > 1 {
            return None;
        }
        number |= bits << (7 * index);
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Takes bytes with their length in front.
pub(crate) fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_varint(bytes)?).ok()?;
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

/// Appends bytes with their length in front.
pub(crate) fn put_bytes(bytes: &mut Vec<u8>, content: &[u8]) {
    put_varint(bytes, content.len() as u64);
    bytes.extend_from_slice(content);
}

/// Appends one field.
pub(crate) fn put_field(bytes: &mut Vec<u8>, tag: u64, content: &[u8]) {
    put_varint(bytes, tag);
    put_bytes(bytes, content);
}

/// Appends one field that consists of parts.
pub(crate) fn put_parts(bytes: &mut Vec<u8>, tag: u64, parts: &[&[u8]]) {
    put_varint(bytes, tag);
    put_varint(bytes, parts.iter().map(|part| part.len() as u64).sum());
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
}

/// Appends one field that is a number.
pub(crate) fn put_number(bytes: &mut Vec<u8>, tag: u64, number: u64) {
    let (digits, length) = varint(number);
    put_field(bytes, tag, digits.get(..length).unwrap_or_default());
}

/// A varint as a field's whole content.
pub(crate) fn number_bytes(number: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4);
    put_varint(&mut bytes, number);
    bytes
}

/// A field's whole content as a varint.
pub(crate) fn number_of(tag: u64, mut content: &[u8]) -> Result<u64, TaggedError> {
    let number = take_varint(&mut content).ok_or(TaggedError::Number(tag))?;
    if content.is_empty() { Ok(number) } else { Err(TaggedError::Number(tag)) }
}

/// Walks the fields behind the version byte.
pub(crate) fn each_field<'a, E: From<TaggedError>>(
    bytes: &'a [u8],
    mut take: impl FnMut(u64, &'a [u8]) -> Result<(), E>,
) -> Result<(), E> {
    let (version, mut rest) = bytes.split_first().ok_or(TaggedError::Truncated)?;
    if *version != VERSION {
        return Err(TaggedError::Version(*version).into());
    }
    let mut last = None;
    while !rest.is_empty() {
        let tag = take_varint(&mut rest).ok_or(TaggedError::Truncated)?;
        let content = take_bytes(&mut rest).ok_or(TaggedError::Truncated)?;
        if last.is_some_and(|last| last >= tag) {
            return Err(TaggedError::Order(tag).into());
        }
        last = Some(tag);
        take(tag, content)?;
    }
    Ok(())
}

/// A row of version byte and JSON, over the one it replaces: keys that this binary does not know are kept.
pub(crate) fn json_over(value: &impl serde::Serialize, replaced: Option<&[u8]>) -> Vec<u8> {
    use serde_json::Value;
    let replaced = replaced.and_then(|bytes| bytes.strip_prefix(&[VERSION]));
    let kept = replaced.and_then(|json| serde_json::from_slice::<Value>(json).ok());
    // Plain strings and numbers always serialize.
    let value = match (serde_json::to_value(value).unwrap_or_default(), kept) {
        (Value::Object(known), Some(Value::Object(mut kept))) => {
            kept.extend(known);
            Value::Object(kept)
        }
        (value, _) => value,
    };
    let mut bytes = vec![VERSION];
    bytes.extend(serde_json::to_vec(&value).unwrap_or_default());
    bytes
}

/// A small row of the index, held whole with the fields it does not know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Row(BTreeMap<u64, Vec<u8>>);

impl Row {
    /// Decodes a row.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, TaggedError> {
        let mut fields = BTreeMap::new();
        each_field::<TaggedError>(bytes, |tag, content| {
            fields.insert(tag, content.to_vec());
            Ok(())
        })?;
        Ok(Self(fields))
    }

    /// Encodes the row.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        for (tag, content) in &self.0 {
            put_field(&mut bytes, *tag, content);
        }
        bytes
    }

    /// The number in a field; 0 where it is absent or no number.
    pub(crate) fn number(&self, tag: u64) -> u64 {
        self.0.get(&tag).and_then(|content| number_of(tag, content).ok()).unwrap_or(0)
    }

    /// Sets a field to a number.
    pub(crate) fn set_number(&mut self, tag: u64, number: u64) {
        self.0.insert(tag, number_bytes(number));
    }

    /// Sets a field, as a builder.
    pub(crate) fn with_number(mut self, tag: u64, number: u64) -> Self {
        self.set_number(tag, number);
        self
    }

    /// The bytes of a field.
    pub(crate) fn bytes(&self, tag: u64) -> Option<&[u8]> {
        self.0.get(&tag).map(Vec::as_slice)
    }

    /// Sets a field to bytes, as a builder.
    pub(crate) fn with_bytes(mut self, tag: u64, content: &[u8]) -> Self {
        self.0.insert(tag, content.to_vec());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_round_trip_and_longer_ones_are_refused() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let bytes = number_bytes(number);
            assert_eq!(number_of(1, &bytes), Ok(number));
        }
        assert_eq!(take_varint(&mut [0xff_u8; 11].as_slice()), None);
        assert_eq!(take_varint(&mut [0x80_u8].as_slice()), None);
    }

    #[test]
    fn a_row_keeps_fields_it_does_not_know() {
        let row = Row::default().with_number(1, 7).with_bytes(900, b"later");
        let again = Row::decode(&row.encode()).unwrap();
        assert_eq!(again, row);
        assert_eq!((again.number(1), again.number(2), again.bytes(900)), (7, 0, Some(b"later".as_slice())));
    }

    #[test]
    fn broken_rows_are_refused() {
        let cases: [(&[u8], TaggedError); 5] = [
            (&[], TaggedError::Truncated),
            (&[9], TaggedError::Version(9)),
            (&[1, 1], TaggedError::Truncated),
            (&[1, 1, 5, 0], TaggedError::Truncated),
            (&[1, 2, 0, 2, 0], TaggedError::Order(2)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Row::decode(bytes), Err(expected), "{bytes:?}");
        }
    }
}
