//! Under pressure: emptying whole extents of inline bodies, whose table files can then be dropped without any room.
//!
//! How it works: extents are taken in the order of their numbers, which is that of arrival. What was visited, or is
//! young, is moved to the head if it is the smaller part of an extent and there is room for it; else the extent is left
//! for a second round, in which all of it goes. The newest extent is still being filled and is left alone. Of an extent
//! no more goes than is missing, from its lowest number on, but enough for a whole table file to be dropped.
//!
//! Failure: a move is one batch, so an artifact has its body in one place or the other.

use std::collections::VecDeque;

use super::error::StoreError;
use super::evaluate::Work;
use super::evaluate_evict::Eviction;
use super::eviction::Run;
use super::eviction_walk::{EVICT_ROWS_MAX, young_from_ms};
use super::index::KeyValue;
use super::keys::{EXTENT_BITS, Table, extent_of, key_number, number_key};
use super::maintenance::Maintenance;
use super::record::{BodyPlace, Record};
use super::state::{Core, corrupt};
use super::tagged::Row;
use super::trim;
use crate::core::base::ids::{ArtifactId, BodyNo, Seq};

/// What stays may be this part of an extent at most, for moving it to be worth its writes.
const MOVED_SHARE: usize = 4;

/// Bodies being moved at a time: they are in memory meanwhile.
const MOVES_MAX: usize = 32;

/// The inline bodies of one extent.
#[derive(Debug, Default)]
struct Extent {
    doomed: Vec<(ArtifactId, Seq)>,
    staying: Vec<(ArtifactId, Seq, u64)>,
}

impl Run<'_> {
    /// Empties extents until there is room, first those of which little stays.
    pub(super) fn extents(&mut self) -> Result<(), StoreError> {
        for spare in [true, false] {
            if self.missing() == 0 {
                break;
            }
            let newest = core_newest_extent(self.core);
            // Many rows change while this goes on; the list is 16 bytes for each 4,096 bodies.
            let rows = self.core.index.rows(Table::Extents, &[])?.collect::<Result<Vec<_>, _>>()?;
            for row in &rows {
                let extent = inline_extent(row)?.filter(|extent| Some(*extent) < newest);
                if let (Some(extent), true) = (extent, self.missing() > 0) {
                    self.empty(extent, spare)?;
                }
            }
        }
        trim::trim_all(self.core)
    }

    fn empty(&mut self, extent: u64, spare: bool) -> Result<(), StoreError> {
        let Extent { mut doomed, staying } = look_at(self.core, extent)?;
        let staying_bytes: u64 = staying.iter().map(|(.., bytes)| bytes).sum();
        let is_sparse = staying.len() <= (doomed.len() + staying.len()) / MOVED_SHARE;
        if spare && !staying.is_empty() {
            if !is_sparse || !self.has_room_for(staying_bytes) {
                return Ok(());
            }
            self.relocate(staying)?;
        } else {
            doomed.extend(staying.into_iter().map(|(id, seq, _)| (id, seq)));
        }
        let enough = self.report.bytes.saturating_add(self.missing().max(self.least_emptied_bytes()));
        let mut left = doomed.as_slice();
        while !left.is_empty() && self.report.bytes < enough {
            let (some, rest) = left.split_at(left.len().min(EVICT_ROWS_MAX));
            self.commit(Eviction { chosen: some.to_vec(), ..Eviction::default() }, self.reason())?;
            left = rest;
        }
        self.report.extents_dropped += u64::from(left.is_empty());
        Ok(())
    }

    /// An extent may hold a whole small store, so only what is missing goes. Less than two table files of neighbouring numbers may not hold one whole file.
    fn least_emptied_bytes(&self) -> u64 {
        self.core.sizes.table_file_bytes.saturating_mul(2)
    }

    fn has_room_for(&self, bytes: u64) -> bool {
        let options = &self.core.options;
        let needed = self.core.sizes.put_reserve_bytes.saturating_add(bytes.saturating_mul(2));
        options.disk.space(options.layout.data_dir()).is_ok_and(|space| space.available_bytes >= needed)
    }

    fn relocate(&mut self, staying: Vec<(ArtifactId, Seq, u64)>) -> Result<(), StoreError> {
        let mut under_way = VecDeque::new();
        for (id, seq, bytes) in staying {
            if under_way.len() == MOVES_MAX {
                self.moved(under_way.pop_front())?;
            }
            under_way.push_back(self.writer.queue.start(Work::Relocate { id, seq, bytes }));
        }
        while !under_way.is_empty() {
            self.moved(under_way.pop_front())?;
        }
        Ok(())
    }

    fn moved(&mut self, answer: Option<super::commit_queue::Started>) -> Result<(), StoreError> {
        let Some(answer) = answer else { return Ok(()) };
        let moved = answer.recv().unwrap_or(Err(StoreError::NotOpen))?;
        Maintenance::new(self.core).sweep_these(&moved.garbage);
        self.report.rewritten += moved.garbage.len() as u64;
        if let Some(metrics) = self.core.metrics.get() {
            metrics.relocated(moved.garbage.len() as u64);
        }
        Ok(())
    }
}

fn core_newest_extent(core: &Core) -> Option<u64> {
    let settled = core.bodies_settled_below.load(std::sync::atomic::Ordering::Acquire);
    settled.checked_sub(1).map(|last| extent_of(BodyNo(last)))
}

/// The extent of a row of `extents`, if there are inline bodies in it.
fn inline_extent((key, value): &KeyValue) -> Result<Option<u64>, StoreError> {
    let row = Row::decode(value).map_err(|error| corrupt("extents", error))?;
    Ok(key_number(key).filter(|_| row.number(1) > 0))
}

fn look_at(core: &Core, extent: u64) -> Result<Extent, StoreError> {
    let young_ms = young_from_ms(core)?;
    let (from, end) = (extent << EXTENT_BITS, (extent + 1) << EXTENT_BITS);
    let mut found = Extent::default();
    for row in core.index.rows(Table::BodyOwner, &number_key(from))? {
        let (key, value) = row?;
        let Some(body_no) = key_number(&key).filter(|number| *number < end) else { break };
        let Some(id) = ArtifactId::from_slice(&value) else { continue };
        let Some(Record { seq, stored_size, version_ms, .. }) =
            core.readable_manifest(&id)?.filter(|record| record.body == Some(BodyPlace::Inline(BodyNo(body_no))))
        else {
            continue;
        };
        if core.visits.contains(&id) || version_ms >= young_ms {
            found.staying.push((id, seq, stored_size));
        } else {
            found.doomed.push((id, seq));
        }
    }
    Ok(found)
}
