//! Walks over all bodies: in the order of the disk, batch by batch, and broken off anywhere.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;

use super::body_files::body_path;
use super::evaluate::number_of;
use super::fault_tests::file_put;
use super::integrity::{HashBodies, IntegrityReport, VerifyRequest, WalkPlace, verify};
use super::integrity_batch::Batch;
use super::store_tests::{Bench, applied, id, local};
use super::*;
use crate::core::base::ids::ArtifactId;

/// More than two windows.
const COUNT: u32 = 600;

fn fill(store: &Store) {
    (0..COUNT).for_each(|number| drop(applied(store, local("ios", &format!("k{number}"), &number.to_be_bytes()))));
}

/// Goes on at a place for one window; what it found, and where it was then, unless that was the end.
fn one_window(store: &Store, from: WalkPlace) -> (IntegrityReport, Option<WalkPlace>) {
    let request = VerifyRequest { from, folders: false, ..VerifyRequest::all(HashBodies::All) };
    let mut place = None;
    let report = verify(store, &request, &mut |at| {
        place = Some(at.place);
        ControlFlow::Break(())
    });
    (report.unwrap(), place)
}

#[test]
fn a_walk_that_is_broken_off_at_each_window_looks_at_each_body_once() {
    let bench = Bench::new();
    let store = bench.open();
    fill(&store);
    let (mut looked, mut bytes, mut windows, mut from) = (0, 0, 0, WalkPlace::default());
    while let (report, Some(place)) = one_window(&store, from) {
        looked += report.artifacts;
        bytes += report.hashed_bytes;
        windows += 1;
        from = place;
    }
    assert_eq!((looked, bytes), (u64::from(COUNT), u64::from(COUNT) * 4));
    assert_eq!(windows, 3);
}

#[test]
fn what_is_written_behind_a_walk_that_was_broken_off_is_looked_at_when_it_goes_on() {
    let bench = Bench::new();
    let store = bench.open();
    fill(&store);
    let (_, place) = one_window(&store, WalkPlace::default());
    // The first body of all was passed; the one that takes its place was not.
    let record = applied(&store, file_put(&bench, "ios", "k0", &[7; 3000]));
    fs::remove_file(body_path(&bench.layout(), number_of(&record).unwrap())).unwrap();
    let request = VerifyRequest { from: place.unwrap(), folders: false, ..VerifyRequest::all(HashBodies::All) };
    let report = verify(&store, &request, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((report.missing_total, report.missing[0].id), (1, id("ios", "k0")));
    assert_eq!(report.artifacts, u64::from(COUNT) - 256 + 1);
}

#[test]
fn batches_are_ranges_of_ids_that_join_and_each_is_in_the_order_of_body_numbers() {
    let bench = Bench::new();
    let store = bench.open();
    fill(&store);
    let view = store.core().index.view();
    let (mut seen, mut after): (BTreeSet<ArtifactId>, Option<ArtifactId>) = (BTreeSet::new(), None);
    loop {
        let batch = Batch::gather(&view, WalkPlace { after, batch: None }, 250).unwrap();
        assert!(batch.items.len() <= 250 && batch.items.is_sorted_by_key(|item| item.body_no));
        for item in &batch.items {
            assert!(after.is_none_or(|after| item.id > after) && item.id <= batch.through);
            assert!(seen.insert(item.id));
        }
        if let [.., middle, _] = batch.items.as_slice() {
            let place = WalkPlace { after, batch: Some((batch.through, middle.body_no)) };
            let rest = Batch::gather(&view, place, 250).unwrap();
            assert_eq!((rest.items.len(), rest.through), (1, batch.through), "what is left of it");
        }
        if batch.is_last() {
            break;
        }
        after = Some(batch.through);
    }
    assert_eq!(seen.len(), COUNT as usize);
}
