//! Body numbers: each is given out once in the life of a store.
//!
//! How it works: numbers come from a block of 4,096 whose end is durable in `meta` before the first of them is used;
//! an open starts behind the last block. Together with it goes the low mark: below it every body file has a manifest or
//! a garbage row, so that after an unclean stop only what lies above has to be looked at.

use super::error::StoreError;
use super::index::Index;
use super::keys::{EXTENT_BITS, META_BODY_HIGH, META_BODY_LOW, Table};
use super::state::corrupt;
use super::tagged::Row;
use crate::core::base::ids::BodyNo;

/// Numbers made usable at a time: one extent.
const STEP: u64 = 1 << EXTENT_BITS;

/// Gives out numbers.
#[derive(Debug)]
pub(crate) struct BodyNumbers {
    next: u64,
    high: u64,
    group_started_at: u64,
}

impl BodyNumbers {
    /// Starts behind everything that may have been used. With `settled`, all of that has its manifest or is gone.
    pub(crate) fn load(index: &Index, settled: bool) -> Result<Self, StoreError> {
        let high = read_mark(index, META_BODY_HIGH)?;
        let group_started_at = if settled { high } else { unsettled(index)?.start };
        Ok(Self { next: high, high, group_started_at })
    }

    /// With `settled`, everything given out before now has its manifest written or its file gone.
    pub(crate) fn begin_group(&mut self, settled: bool) {
        if settled {
            self.group_started_at = self.next;
        }
    }

    /// The number that comes next.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Takes the next number.
    pub(crate) fn allocate(&mut self, index: &Index) -> Result<BodyNo, StoreError> {
        if self.next == self.high {
            let high = self.high + STEP;
            let mut batch = index.batch();
            batch.put(Table::Meta, META_BODY_HIGH, &Row::default().with_number(1, high).encode());
            batch.put(Table::Meta, META_BODY_LOW, &Row::default().with_number(1, self.group_started_at).encode());
            index.write(batch, true)?;
            self.high = high;
        }
        let number = self.next;
        self.next += 1;
        Ok(BodyNo(number))
    }
}

/// The numbers between which body files may be without an owner after an unclean stop.
pub(crate) fn unsettled(index: &Index) -> Result<std::ops::Range<u64>, StoreError> {
    Ok(read_mark(index, META_BODY_LOW)?..read_mark(index, META_BODY_HIGH)?)
}

fn read_mark(index: &Index, key: &[u8]) -> Result<u64, StoreError> {
    let row = index.get(Table::Meta, key)?.map(|bytes| Row::decode(&bytes)).transpose();
    Ok(row.map_err(|error| corrupt("meta", error))?.map_or(0, |row| row.number(1)))
}
