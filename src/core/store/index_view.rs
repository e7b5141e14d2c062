//! The index at one instant: reading many rows that belong together.

use rocksdb::{DBPinnableSlice, Direction, IteratorMode, ReadOptions};

use super::error::StoreError;
use super::index::{Index, index_error, row_error};
use super::keys::{Table, key_number, number_key};

/// What is read ahead of a run of bodies: a page of the smallest is read in one piece, a page of larger ones in some dozen.
const RUN_READAHEAD_BYTES: usize = 256 << 10;

/// Numbers stepped over in a run before searching for the next one.
const RUN_STEPS_MAX: u64 = 8;

/// The index at one instant.
pub(crate) struct View<'a> {
    index: &'a Index,
    snapshot: rocksdb::Snapshot<'a>,
}

/// A row's key and value.
pub(crate) type KeyValue = (Box<[u8]>, Box<[u8]>);

/// One of many values.
pub(crate) type Found<'a> = Result<Option<DBPinnableSlice<'a>>, StoreError>;

impl<'a> View<'a> {
    pub(super) fn of(index: &'a Index, snapshot: rocksdb::Snapshot<'a>) -> Self {
        Self { index, snapshot }
    }

    /// One value.
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.snapshot
            .get_cf(self.index.family(table)?, key)
            .map_err(|error| self.index.failed(index_error(&self.index.path, &error)))
    }

    /// Many values at once, in the order of the keys, which ascend. A value that cannot be read is an error of its own.
    pub(crate) fn get_many(&self, table: Table, keys: &[&[u8]]) -> Result<Vec<Found<'a>>, StoreError> {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        let family = self.index.family(table)?;
        Ok(self
            .index
            .found(table, self.index.db.batched_multi_get_cf_opt(family, keys.iter().copied(), true, &options)))
    }

    /// The values of these numbers, which ascend, handed to `each` with their place among them; what is absent is passed
    /// over. Made for long runs: reads ahead, and leaves what it read out of the cache, where it would take the place of
    /// what is looked up again. With an error, what was handed in before it is good.
    pub(crate) fn run(
        &self,
        table: Table,
        numbers: &[u64],
        mut each: impl FnMut(usize, &[u8]),
    ) -> Result<(), (usize, StoreError)> {
        let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else { return Ok(()) };
        let family = self.index.family(table).map_err(|error| (0, error))?;
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_readahead_size(RUN_READAHEAD_BYTES);
        if let Some(end) = last.checked_add(1) {
            options.set_iterate_upper_bound(number_key(end));
        }
        let mut rows = self.snapshot.raw_iterator_cf_opt(family, options);
        rows.seek(number_key(*first));
        for (at, number) in numbers.iter().enumerate() {
            let mut steps = 0;
            while let Some(key) = rows.key().and_then(key_number).filter(|key| key < number) {
                // Neighbours are a step apart; over a wide gap a search is cheaper.
                if steps < RUN_STEPS_MAX && number.saturating_sub(key) <= RUN_STEPS_MAX {
                    rows.next();
                } else {
                    rows.seek(number_key(*number));
                }
                steps += 1;
            }
            match rows.item() {
                Some((key, value)) if key == number_key(*number) => each(at, value),
                Some(_) => {}
                None => {
                    let ended = rows.status().map_err(|error| (at, row_error(&self.index.path, table, &error)));
                    return ended;
                }
            }
        }
        Ok(())
    }

    /// Rows from a key on, ascending, up to but without `end` if it is given.
    pub(crate) fn rows(
        &self,
        table: Table,
        from: &[u8],
        end: Option<&[u8]>,
    ) -> Result<impl Iterator<Item = Result<KeyValue, StoreError>> + use<'_, 'a>, StoreError> {
        let mut options = ReadOptions::default();
        if let Some(end) = end {
            options.set_iterate_upper_bound(end);
        }
        let index = self.index;
        let mode = IteratorMode::From(from, Direction::Forward);
        let rows = self.snapshot.iterator_cf_opt(self.index.family(table)?, options, mode);
        Ok(rows.map(move |row| row.map_err(|error| index.failed(index_error(&index.path, &error)))))
    }

    /// Keys below `below`, or from the last one if it is absent, descending.
    pub(crate) fn keys_back(
        &self,
        table: Table,
        below: Option<&[u8]>,
    ) -> Result<impl Iterator<Item = Result<Box<[u8]>, StoreError>> + use<'_, 'a>, StoreError> {
        let mut options = ReadOptions::default();
        if let Some(below) = below {
            options.set_iterate_upper_bound(below);
        }
        let index = self.index;
        let rows = self.snapshot.iterator_cf_opt(self.index.family(table)?, options, IteratorMode::End);
        Ok(rows.map(move |row| row.map(|(key, _)| key).map_err(|error| index.failed(index_error(&index.path, &error)))))
    }

    /// The last row of a table.
    pub(crate) fn last(&self, table: Table) -> Result<Option<KeyValue>, StoreError> {
        let mut rows = self.snapshot.iterator_cf(self.index.family(table)?, IteratorMode::End);
        rows.next().transpose().map_err(|error| self.index.failed(index_error(&self.index.path, &error)))
    }
}
