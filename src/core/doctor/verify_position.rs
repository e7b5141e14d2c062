//! How far a verification of all bodies is, so that an interrupted one goes on there.
//!
//! How it works: a small JSON file in the user's cache folder, named after the store, written beside its place and
//! renamed over it every few seconds. The next run for the same store and data dir takes it up; a run that ends removes
//! it.
//!
//! Invariants: it never lies in a data dir, in which the doctor writes nothing. What was found bad is in it by id and is
//! looked at again. A position that is old, of another data dir or of another format is as good as none, and one that
//! cannot be written costs only the resuming.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::core::base::ids::{ArtifactId, BodyNo, StoreId};
use crate::core::store::integrity::{IntegrityReport, VerifyProgress, WalkPlace};

/// The schema's name. A binary that knows no batches takes this for none and begins anew.
const SCHEMA: &str = "kura.verify-position/v2";
/// Before bodies were read in the order of their numbers; it has no batch.
const SCHEMA_V1: &str = "kura.verify-position/v1";
/// What was read longer ago than this may have rotted since: the walk begins anew.
const AGE_MAX_MS: u64 = 24 * 3600 * 1000;
/// A position is a few kilobytes.
const BYTES_MAX: u64 = 1 << 20;

/// How far a walk is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Position {
    /// [`SCHEMA`].
    pub schema: String,
    /// Which data dir; a copy of it has the same store id.
    pub data_dir: PathBuf,
    /// When it was written, Unix milliseconds.
    pub saved_at_ms: u64,
    /// Artifacts up to this id are done.
    pub after: Option<ArtifactId>,
    /// Behind it those up to this id whose bodies have numbers up to `passed_body`.
    pub through: Option<ArtifactId>,
    /// Of that range, the number of the body looked at last.
    pub passed_body: u64,
    /// Artifacts looked at.
    pub artifacts: u64,
    /// Bodies hashed.
    pub hashed: u64,
    /// Bytes of them.
    pub hashed_bytes: u64,
    /// What was found missing or bad.
    pub suspects: Vec<ArtifactId>,
}

impl Position {
    /// Where to go on.
    pub fn place(&self) -> WalkPlace {
        WalkPlace { after: self.after, batch: self.through.map(|through| (through, BodyNo(self.passed_body))) }
    }

    /// This position moved on by a walk that began at it.
    #[must_use]
    pub fn moved(&self, progress: &VerifyProgress, found: &IntegrityReport) -> Self {
        let bad = found.missing.iter().chain(&found.corrupt).map(|bad| bad.id);
        Self {
            after: progress.place.after,
            through: progress.place.batch.map(|(through, _)| through),
            passed_body: progress.place.batch.map_or(0, |(_, passed)| passed.0),
            artifacts: self.artifacts + progress.artifacts,
            hashed: self.hashed + found.hashed,
            hashed_bytes: self.hashed_bytes + progress.hashed_bytes,
            suspects: self.suspects.iter().copied().chain(bad).collect(),
            ..self.clone()
        }
    }
}

/// Where the position of one store is kept.
#[derive(Debug, Clone)]
pub struct Place {
    file: PathBuf,
    data_dir: PathBuf,
}

impl Place {
    /// The place for a store's position in this folder.
    pub fn new(folder: &Path, data_dir: &Path, store_id: StoreId) -> Self {
        Self { file: folder.join(format!("verify-{store_id}.json")), data_dir: data_dir.to_owned() }
    }

    /// The position, if there is one that can be gone on from.
    pub fn load(&self, now_ms: u64) -> Option<Position> {
        let length = std::fs::metadata(&self.file).ok()?.len();
        let bytes = (length <= BYTES_MAX).then(|| std::fs::read(&self.file).ok()).flatten()?;
        let position: Position = serde_json::from_slice(&bytes).ok()?;
        let is_young = now_ms.saturating_sub(position.saved_at_ms) <= AGE_MAX_MS;
        let is_known = [SCHEMA, SCHEMA_V1].contains(&position.schema.as_str());
        (is_known && position.data_dir == self.data_dir && is_young).then_some(position)
    }

    /// Writes a position; that it cannot be written is no reason to stop.
    pub fn save(&self, position: &Position, now_ms: u64) {
        let whole = Position {
            schema: SCHEMA.to_owned(),
            data_dir: self.data_dir.clone(),
            saved_at_ms: now_ms,
            ..position.clone()
        };
        if let Err(error) = self.replace(&whole) {
            tracing::debug!(path = %self.file.display(), %error, "verify_position_not_saved");
        }
    }

    fn replace(&self, position: &Position) -> std::io::Result<()> {
        if let Some(folder) = self.file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let fresh = self.file.with_extension("new");
        std::fs::write(&fresh, serde_json::to_vec(position)?)?;
        std::fs::rename(fresh, &self.file)
    }

    /// Removes it: the walk has ended.
    pub fn forget(&self) {
        if let Err(error) = std::fs::remove_file(&self.file) {
            tracing::debug!(path = %self.file.display(), %error, "verify_position_not_removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_750_000_000_000;

    /// A position as the first release wrote it. Never change it.
    const GOLDEN_V1: &str = r#"{"schema":"kura.verify-position/v1","data_dir":"/d","saved_at_ms":1750000000000,
        "after":"0101010101010101010101010101010101010101010101010101010101010101","artifacts":7,"hashed":6,
        "hashed_bytes":5,"suspects":["0202020202020202020202020202020202020202020202020202020202020202"],"moon":1}"#;

    /// As it is since batches are read in the order of the disk. Never change it.
    const GOLDEN_V2: &str = r#"{"schema":"kura.verify-position/v2","data_dir":"/d","saved_at_ms":1750000000000,
        "after":"0101010101010101010101010101010101010101010101010101010101010101",
        "through":"0303030303030303030303030303030303030303030303030303030303030303","passed_body":77,
        "artifacts":7,"hashed":6,"hashed_bytes":5,"suspects":[],"moon":1}"#;

    fn place(root: &Path, data_dir: &str) -> Place {
        Place::new(root, Path::new(data_dir), StoreId([5; 16]))
    }

    #[test]
    fn a_position_is_taken_up_for_its_own_store_and_data_dir_while_it_is_young() {
        let root = tempfile::tempdir().unwrap();
        let here = place(&root.path().join("made/by/need"), "/d");
        assert_eq!(here.load(NOW_MS), None);
        let position = Position { after: Some(ArtifactId([1; 32])), artifacts: 7, ..Position::default() };
        here.save(&position, NOW_MS);
        assert_eq!(here.load(NOW_MS + 1).unwrap().after, position.after);
        assert_eq!(here.load(NOW_MS + AGE_MAX_MS + 1), None, "too old");
        assert_eq!(place(&root.path().join("made/by/need"), "/copy").load(NOW_MS), None, "another data dir");
        here.forget();
        assert_eq!(here.load(NOW_MS), None);
    }

    #[test]
    fn the_files_of_formats_1_and_2_are_read_and_another_or_a_torn_one_is_none() {
        let root = tempfile::tempdir().unwrap();
        let here = place(root.path(), "/d");
        std::fs::write(&here.file, GOLDEN_V1).unwrap();
        let read = here.load(NOW_MS).unwrap();
        assert_eq!((read.artifacts, read.suspects.as_slice()), (7, [ArtifactId([2; 32])].as_slice()));
        assert_eq!(read.place(), WalkPlace { after: Some(ArtifactId([1; 32])), batch: None });
        std::fs::write(&here.file, GOLDEN_V2).unwrap();
        let batch = Some((ArtifactId([3; 32]), BodyNo(77)));
        assert_eq!(here.load(NOW_MS).unwrap().place(), WalkPlace { after: Some(ArtifactId([1; 32])), batch });
        std::fs::write(&here.file, GOLDEN_V1.replace("/v1", "/v3")).unwrap();
        assert_eq!(here.load(NOW_MS), None);
        std::fs::write(&here.file, &GOLDEN_V1[..100]).unwrap();
        assert_eq!(here.load(NOW_MS), None);
    }
}
