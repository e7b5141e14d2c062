//! The walk of the hand through the queue: what goes next.
//!
//! How it works: a walk has laps. In the first ones it passes over what was visited, which costs the mark, and over the
//! youngest part of the queue; the last one takes whatever comes. So a walk that is asked for more than there is ends
//! with an empty store, and one that is asked for a little rarely ends its first lap.

use std::sync::atomic::Ordering;

use super::error::StoreError;
use super::evaluate_evict::Eviction;
use super::eviction::Run;
use super::keys::{LogRow, Table, key_version_ms, last_seq, number_key};
use super::metrics::EvictionReason;
use super::record::{BodyPlace, Record};
use super::state::{Core, corrupt, is_expired};
use crate::core::base::ids::{ArtifactId, Seq};

/// Artifacts evicted at a time: few enough that no put behind them waits for long.
pub(crate) const EVICT_ROWS_MAX: usize = 128;

/// Rows looked at for one batch: a hand among visited artifacts goes on with the next one.
const SCAN_ROWS_MAX: usize = 4096;

/// Rows a walk over files looks at in all: among inline bodies it has to give way to dropping whole table files.
const FILE_SCAN_ROWS_MAX: usize = 200_000;

/// The youngest part of the queue that is spared, as a share of its span of versions.
const YOUNG_SHARE: u64 = 8;

/// Manifests looked at for expired ones in one eviction.
const EXPIRED_SCAN_ROWS_MAX: usize = 8192;

/// How often a walk has come around.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lap(u32);

impl Lap {
    /// From where the hand stands.
    pub(crate) const FIRST: Self = Self(0);
    /// After a lap that may have begun in the middle, one that took all marks, and one that found what had none.
    pub(crate) const LAST: Self = Self(3);

    fn takes_all(self) -> bool {
        self >= Self::LAST
    }
}

/// A walk through `by_version`.
#[derive(Debug)]
pub(crate) struct Walk {
    position: Vec<u8>,
    lap: Lap,
    lap_max: Lap,
    only_files: bool,
    rows_left: usize,
}

impl Walk {
    /// Over everything, from a position on.
    pub(crate) fn over_all(position: Vec<u8>) -> Self {
        Self { position, lap: Lap::FIRST, lap_max: Lap::LAST, only_files: false, rows_left: usize::MAX }
    }

    /// Over artifacts whose body is a file. One that begins in its last lap takes them all.
    pub(crate) fn over_files(position: Vec<u8>, lap: Lap) -> Self {
        let lap_max = if lap.takes_all() { Lap::LAST } else { Lap(Lap::LAST.0 - 1) };
        Self { position, lap, lap_max, only_files: true, rows_left: FILE_SCAN_ROWS_MAX }
    }

    /// Behind which key it stands.
    pub(crate) fn position(&self) -> &[u8] {
        &self.position
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.lap > self.lap_max || self.rows_left == 0
    }

    /// The next artifacts that go, together about as large as asked for. None: go on if the walk has not ended.
    pub(crate) fn choose(&mut self, core: &Core, bytes: u64) -> Result<Vec<(ArtifactId, Seq)>, StoreError> {
        let mut chosen = Vec::new();
        let mut found = 0;
        let young_ms = if self.lap.takes_all() { u64::MAX } else { young_from_ms(core)? };
        let now_ms = core.options.clock.now_ms();
        let mut rows = core.index.rows(Table::ByVersion, &self.position)?;
        for _ in 0..SCAN_ROWS_MAX.min(self.rows_left) {
            if found >= bytes || chosen.len() >= EVICT_ROWS_MAX {
                return Ok(chosen);
            }
            let Some((key, _)) = rows.next().transpose()? else { return Ok(self.end_lap(chosen)) };
            if key_version_ms(&key).is_some_and(|version_ms| version_ms >= young_ms) {
                return Ok(self.end_lap(chosen));
            }
            self.rows_left = self.rows_left.saturating_sub(1);
            self.position = [&key, [0].as_slice()].concat();
            let Some((id, record)) = artifact_at(core, &key)? else { continue };
            if self.takes(core, &id, &record, now_ms) {
                found += core.charge_of(&record);
                chosen.push((id, record.seq));
            }
        }
        Ok(chosen)
    }

    fn takes(&self, core: &Core, id: &ArtifactId, record: &Record, now_ms: u64) -> bool {
        if self.only_files && !matches!(record.body, Some(BodyPlace::File(_))) {
            return false;
        }
        // The mark is taken in any case.
        let was_visited = core.visits.take(id);
        !was_visited || self.lap.takes_all() || is_expired(record, now_ms)
    }

    fn end_lap(&mut self, chosen: Vec<(ArtifactId, Seq)>) -> Vec<(ArtifactId, Seq)> {
        self.lap.0 += 1;
        self.position.clear();
        chosen
    }
}

/// The version from which on artifacts are young.
pub(super) fn young_from_ms(core: &Core) -> Result<u64, StoreError> {
    let newest = core.index.view().last(Table::ByVersion)?.and_then(|(key, _)| key_version_ms(&key)).unwrap_or(0);
    // A clock that is ahead somewhere must not make everything else old.
    let newest = newest.min(core.options.clock.now_ms());
    let span = newest.saturating_sub(core.oldest_version_ms());
    Ok(newest.saturating_sub(span / YOUNG_SHARE))
}

/// The artifact of a row of `by_version`; what does not fit together is passed over.
fn artifact_at(core: &Core, key: &[u8]) -> Result<Option<(ArtifactId, Record)>, StoreError> {
    let seq = last_seq(key).ok_or_else(|| corrupt("by_version", "a key is short"))?;
    let Some(row) = core.index.get(Table::Log, &number_key(seq.0))? else { return Ok(None) };
    let Ok(LogRow::Put { id, .. }) = LogRow::decode(&row) else { return Ok(None) };
    Ok(core.readable_manifest(&id)?.filter(|record| record.seq == seq).map(|record| (id, record)))
}

impl Run<'_> {
    /// What has expired goes first. Few artifacts expire, so they are looked for among all, a bounded piece each time.
    pub(super) fn expired(&mut self) -> Result<(), StoreError> {
        let core = self.core;
        if core.expiring.load(Ordering::Acquire) == 0 || self.missing() == 0 {
            return Ok(());
        }
        let now_ms = core.options.clock.now_ms();
        let mut patrol = core.eviction.patrol();
        let mut chosen = Vec::new();
        let mut rows = core.index.rows(Table::Manifests, &patrol)?;
        for _ in 0..EXPIRED_SCAN_ROWS_MAX {
            let Some((key, value)) = rows.next().transpose()? else {
                patrol.clear();
                break;
            };
            *patrol = [&key, [0].as_slice()].concat();
            let (Some(id), Ok(record)) = (ArtifactId::from_slice(&key), Record::from_bytes(&value)) else { continue };
            if is_expired(&record, now_ms) {
                chosen.push((id, record.seq));
            }
        }
        for some in chosen.chunks(EVICT_ROWS_MAX) {
            self.commit(Eviction { chosen: some.to_vec(), ..Eviction::default() }, EvictionReason::Expired)?;
        }
        Ok(())
    }
}
