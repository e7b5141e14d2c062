//! Deletes that their own log knows and the index does not: a kill came between the two, or the index lost its newest
//! rows (its log was torn, an older copy of it was put back).
//!
//! Invariants: what is in the log was about to be acknowledged or was; so it counts, and a delete stays one. Only what
//! beats the index's own tombstone is put in.
//!
//! Failure: a log that cannot be read restores nothing; the index has every tombstone that it acknowledged and kept.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use super::error::StoreError;
use super::evaluate::{Evaluation, Finished};
use super::state::{Core, StateRow};
use super::tombstone_log;

/// Puts them into the index, before anything else is committed; how many there were.
pub(crate) fn restore(core: &Core, state: StateRow) -> Result<(StateRow, u64), StoreError> {
    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    for (namespace, version_ms) in logged(core)? {
        let known = newest.entry(namespace).or_default();
        *known = (*known).max(version_ms);
    }
    let mut evaluation = Evaluation::new(core, state.clone());
    let mut restored = 0;
    for (namespace, version_ms) in newest {
        if evaluation.tombstone(&namespace)?.is_none_or(|standing_ms| standing_ms < version_ms) {
            evaluation.restore_tombstone(&namespace, version_ms)?;
            restored += 1;
        }
    }
    if restored == 0 {
        return Ok((state, 0));
    }
    let Finished { batch, state, set_digest, wanted, .. } = evaluation.finish();
    core.write_settling(batch, wanted, |batch| core.index.write(batch, true))?;
    core.publish(&state, set_digest);
    tracing::warn!(restored, "store_deletes_restored");
    Ok((state, restored))
}

/// The tombstones in the log; none if it is no log.
pub(crate) fn logged(core: &Core) -> Result<Vec<(String, u64)>, StoreError> {
    let path = core.options.layout.tombstones_log();
    match tombstone_log::read(&path) {
        Err(error) if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::IsADirectory) => {
            tracing::error!(path = %path.display(), "store_tombstone_log_damaged");
            Ok(Vec::new())
        }
        read => read.map_err(|source| core.io_error("read", &path, source)),
    }
}
