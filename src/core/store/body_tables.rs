//! The table files that inline bodies lie in, and what of them lives.

use super::error::StoreError;
use super::eviction_walk::young_from_ms;
use super::index::TableFile;
use super::keys::{Table, key_number, number_key};
use super::record::{BodyPlace, Record};
use super::state::{Core, corrupt};
use super::tagged::Row;
use crate::core::base::ids::{ArtifactId, BodyNo, Seq};

/// One table file of inline bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BodyTable {
    /// The lowest and the highest number in it.
    pub(super) first: u64,
    /// See `first`.
    pub(super) last: u64,
    /// Its size on disk.
    pub(super) bytes: u64,
    /// Whether it has left the first level, and can be dropped.
    pub(super) is_moved: bool,
}

/// All of them, by their lowest number.
pub(super) fn all(core: &Core) -> Result<Vec<BodyTable>, StoreError> {
    let files = core.index.table_files(Table::Bodies)?;
    let mut tables: Vec<BodyTable> = files.iter().filter_map(body_table).collect();
    tables.sort_unstable_by_key(|table| table.first);
    Ok(tables)
}

fn body_table(file: &TableFile) -> Option<BodyTable> {
    let (first, last) = (key_number(&file.first)?, key_number(&file.last)?);
    Some(BodyTable { first, last, bytes: file.bytes, is_moved: file.level > 0 })
}

/// What a row takes of a table besides its body, at most: key, lengths, its part of the index and of the filter. Without
/// it a table full of tiny live bodies would look mostly dead.
pub(super) const ROW_BYTES_MAX: u64 = 32;

/// What all inline bodies that live take of their tables, at most.
pub(super) fn live_bytes(core: &Core) -> Result<u64, StoreError> {
    let mut bytes = 0_u64;
    // A row for each 4,096 bodies.
    for row in core.index.rows(Table::Extents, &[])? {
        let row = Row::decode(&row?.1).map_err(|error| corrupt("extents", error))?;
        bytes = bytes.saturating_add(row.number(2)).saturating_add(row.number(1).saturating_mul(ROW_BYTES_MAX));
    }
    Ok(bytes)
}

/// One inline body that lives.
pub(super) struct LiveBody {
    pub(super) id: ArtifactId,
    pub(super) record: Record,
}

/// The live bodies of a table, in order.
fn live<'a>(
    core: &'a Core,
    table: &BodyTable,
) -> Result<impl Iterator<Item = Result<LiveBody, StoreError>> + use<'a>, StoreError> {
    let last = table.last;
    let owners = core.index.rows(Table::BodyOwner, &number_key(table.first))?;
    let owners = owners.take_while(move |row| match row {
        Ok((key, _)) => key_number(key).is_some_and(|number| number <= last),
        Err(_) => true,
    });
    Ok(owners.filter_map(|row| row.and_then(|(key, value)| live_body(core, &key, &value)).transpose()))
}

/// Files have numbers between those of inline bodies.
fn live_body(core: &Core, key: &[u8], owner: &[u8]) -> Result<Option<LiveBody>, StoreError> {
    let (Some(number), Some(id)) = (key_number(key), ArtifactId::from_slice(owner)) else { return Ok(None) };
    let record = core.readable_manifest(&id)?;
    let record = record.filter(|record| record.body == Some(BodyPlace::Inline(BodyNo(number))));
    Ok(record.map(|record| LiveBody { id, record }))
}

/// Whether anything in it lives.
pub(super) fn has_live(core: &Core, table: &BodyTable) -> Result<bool, StoreError> {
    live(core, table)?.next().transpose().map(|first| first.is_some())
}

/// What lives in a table, by what an eviction makes of it.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Neither young nor asked for.
    pub(super) doomed: Vec<(ArtifactId, Seq, u64)>,
    /// The rest.
    pub(super) staying: Vec<(ArtifactId, Seq, u64)>,
}

impl Contents {
    /// Stored bytes of what stays.
    pub(super) fn staying_bytes(&self) -> u64 {
        self.staying.iter().map(|(.., bytes)| bytes).sum()
    }
}

/// Looks at all live bodies of a table.
pub(super) fn contents(core: &Core, table: &BodyTable) -> Result<Contents, StoreError> {
    let young_ms = young_from_ms(core)?;
    let mut found = Contents::default();
    for body in live(core, table)? {
        let LiveBody { id, record } = body?;
        let part = match core.visits.contains(&id) || record.version_ms >= young_ms {
            true => &mut found.staying,
            false => &mut found.doomed,
        };
        part.push((id, record.seq, record.stored_size));
    }
    Ok(found)
}
