//! Epochs: each writable open of the store begins one, so that a rolled-back sequence is told from a continued one.
//!
//! How it works: rows of ordinal -> (random epoch, first sequence number), one per open, synced before any other write.
//! A cursor of an epoch that is not among them is void: this is other data, or data before a rebuild. A cursor of an
//! earlier epoch holds up to where any later one began: what was numbered above that may have been lost and numbered
//! anew.

use super::error::StoreError;
use super::index::{Batch, Index};
use super::keys::{Table, key_number, number_key};
use super::state::corrupt;
use super::tagged::Row;
use super::walk::CursorCheck;
use crate::core::base::ids::{Epoch, Seq};

/// Epochs kept; a cursor that has not moved for this many restarts walks again.
const EPOCHS_MAX: usize = 4096;

/// Puts the row of a new epoch into the batch that opens the store.
pub(crate) fn begin(index: &Index, batch: &mut Batch<'_>, epoch: Epoch, head: Seq) -> Result<(), StoreError> {
    let rows = list(index)?;
    let excess = (rows.len() + 1).saturating_sub(EPOCHS_MAX);
    for (ordinal, ..) in rows.iter().take(excess) {
        batch.delete(Table::Epochs, &number_key(*ordinal));
    }
    let ordinal = rows.last().map_or(0, |(ordinal, ..)| ordinal + 1);
    let row = Row::default().with_bytes(1, epoch.as_bytes()).with_number(2, head.0 + 1);
    batch.put(Table::Epochs, &number_key(ordinal), &row.encode());
    Ok(())
}

/// The newest epoch and its first sequence number.
pub(crate) fn current(index: &Index) -> Result<Option<(Epoch, Seq)>, StoreError> {
    Ok(list(index)?.last().map(|(_, epoch, first)| (*epoch, *first)))
}

/// Whether a cursor still holds; `head` is the newest visible row.
pub(crate) fn check(index: &Index, epoch: Epoch, seq: Seq, head: Seq) -> Result<CursorCheck, StoreError> {
    let rows = list(index)?;
    let Some(at) = rows.iter().position(|(_, known, _)| *known == epoch) else { return Ok(CursorCheck::Void) };
    let later = rows.iter().skip(at + 1).map(|(_, _, first)| first.0).min();
    Ok(match later {
        Some(first) if first <= seq.0 => CursorCheck::Clamped(Seq(first.saturating_sub(1))),
        // Nothing above the head was ever handed out in the present epoch.
        _ if seq > head => CursorCheck::Void,
        _ => CursorCheck::Valid(seq),
    })
}

fn list(index: &Index) -> Result<Vec<(u64, Epoch, Seq)>, StoreError> {
    let mut rows = Vec::new();
    for row in index.rows(Table::Epochs, &[])? {
        let (key, value) = row?;
        let row = Row::decode(&value).map_err(|error| corrupt("epochs", error))?;
        let ordinal = key_number(&key).ok_or_else(|| corrupt("epochs", "a key is not a number"))?;
        let epoch =
            row.bytes(1).and_then(Epoch::from_slice).ok_or_else(|| corrupt("epochs", "a row lacks its epoch"))?;
        rows.push((ordinal, epoch, Seq(row.number(2))));
    }
    Ok(rows)
}
