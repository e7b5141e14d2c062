//! What a body takes on the volume, and the counters of it.
//!
//! How it works: a charge is a function of the manifest alone, so that a recount comes to the same figure. What goes in
//! is summed in the state row, which rides in the committer's batches; what the sweeper has removed is summed in a row
//! of its own, which rides in the sweeper's. Neither writes the other's row, and the difference is what is charged:
//! live bodies, and those that wait to be removed.
//!
//! Invariants: both sums only grow while a store is open. A data dir whose last writer did not keep them, which the
//! epoch beside them tells, is counted anew by the next open.

use super::error::StoreError;
use super::footer;
use super::index::Index;
use super::keys::{META_SWEPT, Table};
use super::record::{BodyPlace, Record};
use super::state::{Core, StateRow, corrupt};
use super::tagged::Row;
use crate::core::base::ids::Epoch;

/// What a file costs beside its blocks: an inode of XFS, twice one of ext4.
const INODE_BYTES: u64 = 512;

/// What an inline body costs beside its bytes: the rows of its artifact, as measured on a million small ones.
const ROWS_BYTES: u64 = 512;

/// What the body of a record takes.
pub(crate) fn charge_of(record: &Record, block_bytes: u64) -> u64 {
    match record.body {
        Some(BodyPlace::Inline(_)) => record.stored_size.saturating_add(ROWS_BYTES),
        Some(BodyPlace::File(_)) => file_charge(record.stored_size, footer::encode(record).len() as u64, block_bytes),
        None => 0,
    }
}

/// What the body of a garbage row takes. Rows of older writers do not say; theirs is taken without its footer.
pub(crate) fn charge_of_garbage(row: &Row, block_bytes: u64) -> u64 {
    match (row.number(4), row.number(1)) {
        (0, 0) => row.number(2).saturating_add(ROWS_BYTES),
        (0, _) => file_charge(row.number(2), 0, block_bytes),
        (charge, _) => charge,
    }
}

fn file_charge(stored_bytes: u64, footer_bytes: u64, block_bytes: u64) -> u64 {
    let bytes = stored_bytes.saturating_add(footer_bytes);
    bytes.div_ceil(block_bytes.max(1)).saturating_mul(block_bytes.max(1)).saturating_add(INODE_BYTES)
}

/// The row that rides in the sweeper's batches. 1: charges removed, 2: 1 = they are not exact any more.
#[derive(Debug, Clone, Default)]
pub(crate) struct SweptRow(Row);

impl SweptRow {
    pub(crate) fn load(index: &Index) -> Result<Self, StoreError> {
        match index.get(Table::Meta, META_SWEPT)? {
            Some(bytes) => Row::decode(&bytes).map(Self).map_err(|error| corrupt("meta", error)),
            None => Ok(Self::default()),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        self.0.encode()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.number(1)
    }

    pub(crate) fn add(&mut self, charge: u64) {
        self.0.set_number(1, self.bytes().saturating_add(charge));
    }

    /// A body was removed whose charge is not known: the next open counts anew.
    pub(crate) fn doubt(&mut self) {
        self.0.set_number(2, 1);
    }

    fn is_exact(&self) -> bool {
        self.0.number(2) == 0
    }
}

/// Whether the counters are those of the writer of the newest epoch, which kept them.
pub(crate) fn are_kept(state: &StateRow, swept: &SweptRow, newest: Option<Epoch>) -> bool {
    newest.is_none() || (swept.is_exact() && state.counted_under() == newest)
}

/// Counts anew, from the manifests and the garbage; what does not decode counts for nothing.
pub(crate) fn count_anew(index: &Index, block_bytes: u64, state: &mut StateRow) -> Result<(), StoreError> {
    let mut counted = StateRow::default();
    for row in index.rows(Table::Manifests, &[])? {
        let (_, value) = row?;
        if let Ok(record) = Record::from_bytes(&value) {
            counted.add(&record);
            counted.charge(charge_of(&record, block_bytes));
        }
    }
    for row in index.rows(Table::Garbage, &[])? {
        let (_, value) = row?;
        if let Ok(row) = Row::decode(&value) {
            counted.charge(charge_of_garbage(&row, block_bytes));
        }
    }
    for row in index.rows(Table::Stubs, &[])? {
        row?;
        counted.count_stub(true);
    }
    state.take_counts(&counted);
    Ok(())
}

impl Core {
    /// What the body of a record takes here.
    pub(crate) fn charge_of(&self, record: &Record) -> u64 {
        charge_of(record, self.block_bytes)
    }

    /// What the body of a peer's record will take here.
    pub(crate) fn charge_of_offered(&self, offered: &Record) -> u64 {
        if offered.size <= self.options.inline_max_bytes {
            return offered.size.saturating_add(ROWS_BYTES);
        }
        file_charge(offered.size, footer::encode(offered).len() as u64, self.block_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_charged_whole_blocks_with_its_footer() {
        assert_eq!(file_charge(0, 300, 4096), 4096 + INODE_BYTES);
        assert_eq!(file_charge(4000, 300, 4096), 2 * 4096 + INODE_BYTES);
        assert_eq!(file_charge(8192, 0, 4096), 2 * 4096 + INODE_BYTES);
    }

    #[test]
    fn garbage_of_an_older_writer_is_charged_by_its_bytes() {
        let inline = Row::default().with_number(1, 0).with_number(2, 100);
        assert_eq!(charge_of_garbage(&inline, 4096), 100 + ROWS_BYTES);
        let file = Row::default().with_number(1, 1).with_number(2, 5000);
        assert_eq!(charge_of_garbage(&file, 4096), 8192 + INODE_BYTES);
        assert_eq!(charge_of_garbage(&file.with_number(4, 77), 4096), 77);
    }
}
