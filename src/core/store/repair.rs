//! After a manifest that did not decode was replaced: taking away what it left behind.
//!
//! How it works: such a manifest does not say which rows and which body are its own, so the replacing commit leaves them
//! and marks the state row. The next open for writing then looks through the tables that point at manifests, and drops
//! what points at none; bodies become garbage. Until then they are charged, as they should be: they are there.
//!
//! Invariants: what belongs to a manifest that still does not decode stays. A body is given up only if its artifact has
//! another one.
//!
//! Failure: the mark goes with the batch that opens the store, so a crash in here repeats it.

use std::collections::{BTreeMap, BTreeSet};

use super::body_files::body_path;
use super::error::StoreError;
use super::evaluate::number_of;
use super::index::{Batch, Index};
use super::keys::{LogRow, Table, extent_of, key_number, last_seq, number_key, version_key};
use super::record::{BodyPlace, Record};
use super::set_digest;
use super::tagged::Row;
use crate::core::base::ids::{ArtifactId, BodyNo};
use crate::core::data_dir::layout::Layout;

/// Rows dropped with one batch.
const BATCH_ROWS_MAX: usize = 4096;

/// What a manifest row is.
enum Found {
    Absent,
    Undecodable,
    Here(Box<Record>),
}

/// Takes away what points at no manifest.
pub(crate) fn repair(index: &Index, layout: &Layout) -> Result<(), StoreError> {
    let mut repair = Repair { index, batch: index.batch(), rows: 0, dropped: 0 };
    repair.owners(layout)?;
    repair.log()?;
    repair.write()?;
    repair.namespaces()?;
    repair.extents()?;
    set_digest::forget(&mut repair.batch);
    repair.write()?;
    tracing::warn!(rows = repair.dropped, "store_repaired");
    Ok(())
}

struct Repair<'a> {
    index: &'a Index,
    batch: Batch<'a>,
    rows: usize,
    dropped: u64,
}

impl Repair<'_> {
    fn owners(&mut self, layout: &Layout) -> Result<(), StoreError> {
        for row in self.index.rows(Table::BodyOwner, &[])? {
            let (key, value) = row?;
            let (Some(body_no), Some(id)) = (key_number(&key).map(BodyNo), ArtifactId::from_slice(&value)) else {
                continue;
            };
            let is_its_own = match self.manifest(&id)? {
                Found::Absent => false,
                Found::Undecodable => true,
                Found::Here(record) => number_of(&record) == Some(body_no),
            };
            if !is_its_own {
                let inline = self.index.get(Table::Bodies, &key)?.map(|bytes| bytes.len() as u64);
                let (place, bytes) = match inline {
                    Some(bytes) => (0, bytes),
                    None => (1, std::fs::metadata(body_path(layout, body_no)).map_or(0, |file| file.len())),
                };
                let garbage = Row::default().with_number(1, place).with_number(2, bytes);
                self.batch.put(Table::Garbage, &key, &garbage.encode());
                self.drop_row(Table::BodyOwner, &key)?;
            }
        }
        Ok(())
    }

    fn log(&mut self) -> Result<(), StoreError> {
        for row in self.index.rows(Table::Log, &[])? {
            let (key, value) = row?;
            let (Some(seq), Ok(LogRow::Put { id, version_ms, logical })) = (last_seq(&key), LogRow::decode(&value))
            else {
                continue;
            };
            let is_its_own = match self.manifest(&id)? {
                Found::Absent => false,
                Found::Undecodable => true,
                Found::Here(record) => record.seq == seq,
            };
            if !is_its_own {
                self.batch.delete(Table::ByVersion, &version_key(version_ms, logical, seq));
                self.drop_row(Table::Log, &key)?;
            }
        }
        Ok(())
    }

    fn namespaces(&mut self) -> Result<(), StoreError> {
        for row in self.index.rows(Table::ByNamespace, &[])? {
            let (key, _) = row?;
            let Some(seq) = last_seq(&key) else { continue };
            if self.index.get(Table::Log, &number_key(seq.0))?.is_none() {
                self.drop_row(Table::ByNamespace, &key)?;
            }
        }
        Ok(())
    }

    /// Counts the extents anew.
    fn extents(&mut self) -> Result<(), StoreError> {
        let mut counted = BTreeMap::<u64, Row>::new();
        for row in self.index.rows(Table::Manifests, &[])? {
            let (_, value) = row?;
            let Some((place, record)) = Record::from_bytes(&value).ok().and_then(|record| Some((record.body?, record)))
            else {
                continue;
            };
            let (tag, body_no) = match place {
                BodyPlace::Inline(number) => (1, number),
                BodyPlace::File(number) => (3, number),
            };
            let row = counted.entry(extent_of(body_no)).or_default();
            row.set_number(tag, row.number(tag) + 1);
            row.set_number(tag + 1, row.number(tag + 1).saturating_add(record.stored_size));
        }
        let mut stale = BTreeSet::new();
        for row in self.index.rows(Table::Extents, &[])? {
            stale.extend(key_number(&row?.0));
        }
        for (extent, row) in counted {
            stale.remove(&extent);
            self.batch.put(Table::Extents, &number_key(extent), &row.encode());
        }
        stale.into_iter().try_for_each(|extent| self.drop_row(Table::Extents, &number_key(extent)))
    }

    fn manifest(&self, id: &ArtifactId) -> Result<Found, StoreError> {
        Ok(match self.index.get(Table::Manifests, id.as_bytes()) {
            Ok(None) => Found::Absent,
            Ok(Some(bytes)) => {
                Record::from_bytes(&bytes).map_or(Found::Undecodable, |record| Found::Here(record.into()))
            }
            Err(StoreError::CorruptRow { .. }) => Found::Undecodable,
            Err(error) => return Err(error),
        })
    }

    fn drop_row(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        self.batch.delete(table, key);
        self.rows += 1;
        self.dropped += 1;
        if self.rows >= BATCH_ROWS_MAX { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), StoreError> {
        self.rows = 0;
        let batch = std::mem::replace(&mut self.batch, self.index.batch());
        if batch.is_empty() { Ok(()) } else { self.index.write(batch, false) }
    }
}
