//! Walks that are long, interrupted and taken up again. Damaged bodies themselves are in `tests/doctor/offline.rs`.

use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;

use super::*;
use crate::core::base::ids::BodyNo;
use crate::core::doctor::context::{Asked, Mode, Settings, VerifyWatch, World};
use crate::core::doctor::finding::Status;
use crate::core::doctor::test_support::{config, listing, look, small_put, store, world};
use crate::core::doctor::verify_position::Position;
use crate::core::store::integrity::WalkPlace;
use crate::core::store::record::ArtifactKey;

/// A data dir of so many small artifacts, and their ids in order.
fn filled(data_dir: &Path, count: u64) -> Vec<ArtifactId> {
    let node = store(data_dir);
    let mut ids = Vec::new();
    for number in 0..count {
        let body = number.to_be_bytes();
        let name = ArtifactKey { producer: "xcode".into(), namespace: "ios".into(), key: number.to_string() };
        ids.push(name.artifact_id("default"));
        node.submit(small_put(&number.to_string(), &body)).wait().unwrap();
    }
    ids.sort();
    ids
}

/// Remembers where a walk began.
#[derive(Debug, Default)]
struct Seen(Mutex<Vec<VerifyProgress>>);

impl VerifyWatch for Seen {
    fn advanced(&self, progress: &VerifyProgress) {
        self.0.lock().unwrap().push(*progress);
    }

    fn ended(&self) {}
}

fn verified_all(data_dir: &Path, positions: &Path) -> (Outcome, Vec<VerifyProgress>) {
    let seen = Arc::new(Seen::default());
    let world = World { positions: Some(positions.to_owned()), watch: Some(seen.clone()), ..world() };
    let asked = Asked { mode: Mode::Auto, verify: Verify::All };
    let context = Context::new(Settings::Resolved(Arc::new(config(data_dir))), asked, world);
    let outcome = look(&BodyCorrupt, &context);
    let seen = seen.0.lock().unwrap().clone();
    (outcome, seen)
}

#[test]
fn an_interrupted_walk_goes_on_where_it_was_and_looks_again_at_what_it_had_found() {
    let root = tempfile::tempdir().unwrap();
    let (data_dir, positions) = (root.path().join("data"), root.path().join("cache"));
    std::fs::create_dir(&data_dir).unwrap();
    let ids = filled(&data_dir, 20);
    let store_id = store(&data_dir).stats().store_id;
    let before = listing(&data_dir);
    let place = Place::new(&positions, &data_dir, store_id);
    let position = Position {
        after: Some(ids[14]),
        artifacts: 15,
        hashed: 15,
        hashed_bytes: 120,
        suspects: vec![ids[3]],
        ..Position::default()
    };
    place.save(&position, 1_750_000_000_000);
    let (outcome, seen) = verified_all(&data_dir, &positions);
    assert_eq!((outcome.status, &outcome.evidence.values()["hashed"]), (Status::Ok, &20.into()), "{outcome:?}");
    assert_eq!(seen.iter().map(|at| (at.artifacts, at.hashed_bytes)).collect::<Vec<_>>(), [(20, 160)]);
    assert!(std::fs::read_dir(&positions).unwrap().next().is_none(), "a walk that ended leaves no position");
    let anew = verified_all(&data_dir, &positions).0;
    assert_eq!(anew.evidence.values()["hashed"], 20, "the next one begins anew");
    assert_eq!(listing(&data_dir), before, "nothing is written in the data dir");
}

#[test]
fn a_walk_notes_where_it_is_and_what_it_found() {
    let earlier = Position { artifacts: 5, hashed: 4, suspects: vec![ArtifactId([1; 32])], ..Position::default() };
    let place = WalkPlace { after: Some(ArtifactId([9; 32])), batch: Some((ArtifactId([10; 32]), BodyNo(70))) };
    let progress = VerifyProgress { artifacts: 2, artifacts_total: 9, hashed_bytes: 30, place };
    let bad = BadArtifact {
        id: ArtifactId([2; 32]),
        name: ArtifactKey { producer: String::new(), namespace: String::new(), key: String::new() },
        path: None,
        expected: Digest([0; 32]),
        actual: None,
        reason: String::new(),
    };
    let found = IntegrityReport { hashed: 2, missing: vec![bad], ..IntegrityReport::default() };
    let moved = earlier.moved(&progress, &found);
    assert_eq!((moved.artifacts, moved.hashed, moved.hashed_bytes, moved.place()), (7, 6, 30, place));
    assert_eq!(moved.suspects, [ArtifactId([1; 32]), ArtifactId([2; 32])]);
}
