//! Under pressure: emptying whole table files of inline bodies, which can then be dropped without any room.
//!
//! How it works: tables are taken in the order of their numbers, which is that of arrival. What was visited, or is young,
//! is moved to the head if it is the smaller part of a table and there is room for it; else the table is left for a
//! second round, in which all of it goes. What has no table yet is left alone.
//!
//! Failure: a move is one batch, so an artifact has its body in one place or the other.

use super::body_tables::{self, BodyTable, Contents};
use super::error::StoreError;
use super::evaluate_evict::Eviction;
use super::eviction::Run;
use super::eviction_walk::EVICT_ROWS_MAX;
use super::thin_tables;
use super::trim;

/// What stays may be this part of a table at most, for moving it to be worth its writes.
const MOVED_SHARE: usize = 4;

/// Tables looked at for some of which little stays, before all of each goes: a second's work.
const SPARING_TABLES_MAX: usize = 16;

impl Run<'_> {
    /// Empties tables until there is room, first those of which little stays.
    pub(super) fn tables(&mut self) -> Result<(), StoreError> {
        for (spare, looked_at_max) in [(true, SPARING_TABLES_MAX), (false, usize::MAX)] {
            if self.missing() == 0 {
                break;
            }
            for table in body_tables::all(self.core)?.iter().take(looked_at_max) {
                if self.missing() > 0 && trim::is_droppable(self.core, table) {
                    self.empty(table, spare)?;
                }
            }
        }
        trim::trim_all(self.core)
    }

    fn empty(&mut self, table: &BodyTable, spare: bool) -> Result<(), StoreError> {
        let contents = body_tables::contents(self.core, table)?;
        let staying_bytes = contents.staying_bytes();
        let Contents { mut doomed, staying } = contents;
        let is_sparse = staying.len() <= (doomed.len() + staying.len()) / MOVED_SHARE;
        if spare && !staying.is_empty() {
            if !is_sparse || !thin_tables::has_room_for(self.core, staying_bytes) {
                return Ok(());
            }
            self.report.rewritten += thin_tables::relocate(self.core, &self.writer.queue, staying)?;
        } else {
            doomed.extend(staying);
        }
        for some in doomed.chunks(EVICT_ROWS_MAX) {
            let chosen = some.iter().map(|(id, seq, _)| (*id, *seq)).collect();
            self.commit(Eviction { chosen, ..Eviction::default() }, self.reason())?;
        }
        // What was chosen may have changed meanwhile; the trim at the end looks again.
        self.report.tables_emptied += 1;
        Ok(())
    }
}
