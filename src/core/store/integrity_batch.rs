//! A part of all artifacts, and their bodies in the order in which the disk has them.
//!
//! Why: manifests lie by id, which is a hash, and bodies inside the index lie by number. Read in the order of ids each
//! small body costs a block of its own; a batch sorted by number reads each block of the table once.
//!
//! Invariant: a batch is a range of ids, and what is passed over in it is known by number alone: a body that is written
//! later has a higher one.

use super::error::StoreError;
use super::index_view::View;
use super::integrity::WalkPlace;
use super::keys::{Table, number_key};
use super::reads::BadBody;
use super::record::{BodyPlace, Record};
use super::state::Core;
use crate::core::base::ids::{ArtifactId, BodyNo, Digest};

/// Bodies looked at between two looks at the clock, and read from the index at once.
const WINDOW_ITEMS_MAX: usize = 256;

/// Bytes of bodies after which a window ends: what is hashed again after an interruption.
const WINDOW_BYTES_MAX: u64 = 64 << 20;

/// No id is greater.
const LAST: ArtifactId = ArtifactId([0xff; 32]);

/// Where a body lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Inline,
    File,
    Nowhere,
}

/// What of a manifest a look at its body needs; some 96 bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    pub(super) id: ArtifactId,
    pub(super) digest: Digest,
    pub(super) body_no: BodyNo,
    pub(super) size: u64,
    pub(super) stored_size: u64,
    pub(super) place: Place,
}

impl Item {
    pub(super) fn of(id: ArtifactId, record: &Record) -> Self {
        let (place, body_no) = match record.body {
            Some(BodyPlace::Inline(body_no)) => (Place::Inline, body_no),
            Some(BodyPlace::File(body_no)) => (Place::File, body_no),
            None => (Place::Nowhere, BodyNo(0)),
        };
        let Record { digest, size, stored_size, .. } = *record;
        Self { id, digest, body_no, size, stored_size, place }
    }
}

/// Artifacts of a range of ids, by the numbers of their bodies.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) items: Vec<Item>,
    /// The last id of the range.
    pub(super) through: ArtifactId,
    /// Rows that do not decode.
    pub(super) corrupt_rows: u64,
}

impl Batch {
    /// The next range behind a place, of at most so many artifacts; of a range under way what is not done.
    pub(super) fn gather(view: &View<'_>, place: WalkPlace, rows_max: usize) -> Result<Self, StoreError> {
        let from = place.after.map(behind).unwrap_or_default();
        let end = place.batch.map(|(through, _)| behind(through));
        let passed = place.batch.map(|(_, passed)| passed);
        let through = place.batch.map_or(LAST, |(through, _)| through);
        let mut batch = Self { items: Vec::new(), through, corrupt_rows: 0 };
        for row in view.rows(Table::Manifests, &from, end.as_deref())? {
            let (key, value) = row?;
            let (Some(id), Ok(record)) = (ArtifactId::from_slice(&key), Record::from_bytes(&value)) else {
                batch.corrupt_rows += 1;
                continue;
            };
            let item = Item::of(id, &record);
            if passed.is_none_or(|passed| item.body_no > passed) {
                batch.items.push(item);
            }
            if batch.items.len() >= rows_max {
                batch.through = id;
                break;
            }
        }
        batch.items.sort_unstable_by_key(|item| item.body_no);
        Ok(batch)
    }

    /// Whether no range is behind it.
    pub(super) fn is_last(&self) -> bool {
        self.through == LAST
    }
}

/// The first key behind an id.
fn behind(id: ArtifactId) -> Vec<u8> {
    [id.as_bytes().as_slice(), &[0]].concat()
}

/// Cuts off what is looked at in one go.
pub(super) fn split_window(items: &[Item]) -> (&[Item], &[Item]) {
    let (mut count, mut bytes) = (0, 0_u64);
    for item in items.iter().take(WINDOW_ITEMS_MAX) {
        if bytes >= WINDOW_BYTES_MAX {
            break;
        }
        count += 1;
        bytes = bytes.saturating_add(item.size);
    }
    items.split_at(count)
}

impl Core {
    /// What is wrong with each of the bodies inside the index, read together; the others are passed over.
    pub(super) fn look_at_inline(&self, window: &[Item]) -> Result<Vec<Option<BadBody>>, StoreError> {
        let inline: Vec<&Item> = window.iter().filter(|item| item.place == Place::Inline).collect();
        let keys: Vec<_> = inline.iter().map(|item| number_key(item.body_no.0)).collect();
        let keys: Vec<&[u8]> = keys.iter().map(AsRef::as_ref).collect();
        let mut looked = Vec::with_capacity(inline.len());
        for (item, found) in inline.into_iter().zip(self.index.get_many(Table::Bodies, &keys)?) {
            looked.push(match found {
                Ok(Some(bytes)) => judge_inline(&bytes, item.digest, item.size),
                Ok(None) => Some(BadBody::Missing),
                Err(StoreError::CorruptRow { reason, .. }) => Some(BadBody::Unreadable { reason }),
                Err(error) => return Err(error),
            });
        }
        Ok(looked)
    }
}

/// What is wrong with the bytes of a body, if something is.
pub(super) fn judge_inline(bytes: &[u8], digest: Digest, size: u64) -> Option<BadBody> {
    match Digest::of(bytes) {
        actual if actual == digest => None,
        _ if (bytes.len() as u64) < size => Some(BadBody::Short { bytes: bytes.len() as u64 }),
        actual => Some(BadBody::Corrupt { actual }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(number: u64, size: u64) -> Item {
        let (id, digest) = (ArtifactId([1; 32]), Digest([2; 32]));
        Item { id, digest, body_no: BodyNo(number), size, stored_size: size, place: Place::File }
    }

    #[test]
    fn a_window_ends_at_its_number_of_bodies_or_behind_the_body_that_fills_it() {
        let small: Vec<Item> = (0..300).map(|number| item(number, 10)).collect();
        assert_eq!(split_window(&small).0.len(), WINDOW_ITEMS_MAX);
        assert_eq!(split_window(split_window(&small).1).0.len(), 300 - WINDOW_ITEMS_MAX);
        let large = [item(0, 1), item(1, u64::MAX), item(2, 1)];
        assert_eq!(split_window(&large).0.len(), 2);
        assert!(split_window(&[]).0.is_empty());
    }
}
