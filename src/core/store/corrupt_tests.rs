//! Rows that do not decode and peers that lie: one bad item never stops the rest, and nothing unverified is believed.

use std::ops::ControlFlow;

use super::committer::{CommitOutcome, Operation};
use super::fault_tests::file_put;
use super::index::Index;
use super::integrity::{HashBodies, VerifyRequest, verify};
use super::keys::{Table, number_key};
use super::store_tests::{Bench, applied, body, id, local, outcome, replicated};
use super::walk::{FeedRequest, ManifestPageRequest};
use super::*;
use crate::core::base::ids::Seq;
use crate::core::store::record::Record;

fn spoil(index: &Index, table: Table, key: &[u8]) {
    let mut batch = index.batch();
    batch.put(table, key, b"no row");
    index.write(batch, true).unwrap();
}

impl Store {
    /// Puts other bytes of the same length where an inline body lies.
    pub(crate) fn spoil_inline_body(&self, record: &Record) {
        let mut batch = self.core().index.batch();
        let bytes = vec![0xa5; usize::try_from(record.size).unwrap()];
        batch.put(Table::Bodies, &number_key(super::evaluate::number_of(record).unwrap().0), &bytes);
        self.core().index.write(batch, true).unwrap();
    }
}

#[test]
fn a_manifest_that_does_not_decode_stops_no_open_no_verification_and_no_refetch() {
    let bench = Bench::new();
    let store = bench.open();
    let record = applied(&store, file_put(&bench, "ios", "bad", &[1; 3000]));
    applied(&store, file_put(&bench, "ios", "good", &[2; 3000]));
    spoil(&store.core().index, Table::Manifests, id("ios", "bad").as_bytes());
    assert_eq!(store.lookup(&id("ios", "bad")).unwrap(), None, "a miss");
    assert_eq!(store.wants(&record).unwrap(), Wants::Fetch);
    let request = VerifyRequest::all(HashBodies::All);
    let report = verify(&store, &request, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((report.artifacts, report.corrupt_rows, report.unreferenced_total), (1, 1, 0));
    drop(store);
    let (store, report) = Store::open(bench.options()).unwrap();
    assert_eq!((report.unclean, report.orphan_bodies_removed), (true, 0), "in doubt nothing is removed");
    assert_eq!(body(&store, "ios", "good").unwrap(), [2; 3000]);
    applied(&store, file_put(&bench, "ios", "bad", &[3; 3000]));
    assert_eq!(body(&store, "ios", "bad").unwrap(), [3; 3000]);
}

#[test]
fn a_log_row_that_does_not_decode_hides_none_behind_it() {
    let bench = Bench::new();
    let store = bench.open();
    for key in ["a", "b", "c"] {
        applied(&store, local("ios", key, b"x"));
    }
    spoil(&store.core().index, Table::Log, &number_key(2));
    let request = FeedRequest { after: Seq(0), up_to: None, rows_max: 10, bytes_max: 1 << 20, inline_up_to: 0 };
    let page = store.feed_page(&request).unwrap();
    assert_eq!((page.rows.len(), page.next), (2, Seq(3)));
}

#[test]
fn a_listing_that_skips_many_rows_says_where_it_goes_on() {
    let bench = Bench::new();
    let store = bench.open();
    for n in 0..50 {
        applied(&store, local("ios", &format!("k{n}"), b"x"));
    }
    let listed = |producers| {
        let (mut total, mut pages, mut after) = (0, 0, None);
        loop {
            let request = ManifestPageRequest { after, prefix: String::new(), rows_max: 100, producers };
            let page = store.core().manifest_page_within(&request, 10).unwrap();
            (total, pages) = (total + page.records.len(), pages + 1);
            match page.next_after {
                Some(next) => after = Some(next),
                None => return (total, pages),
            }
        }
    };
    assert_eq!(listed(&["xcode"]), (50, 5));
    assert_eq!(listed(&["gradle"]), (0, 1));
}

#[test]
fn a_peer_that_lies_about_the_length_cannot_spoil_a_good_body_by_a_newer_version() {
    let bench = Bench::new();
    let store = bench.open();
    let record = applied(&store, replicated("ios", "a", b"same", 100));
    let lie = Record { version_ms: 150, size: 4000, stored_size: 4000, sha256: None, ..record };
    let CommitOutcome::Applied(adopted) = outcome(&store, Operation::AdoptVersion(Box::new(lie))) else { panic!() };
    assert_eq!((adopted.version_ms, adopted.size), (150, 4));
    let file = applied(&store, file_put(&bench, "ios", "file", &[1; 3000]));
    let lie = Record { version_ms: file.version_ms + 1, size: 3010, ..file };
    assert!(matches!(outcome(&store, Operation::AdoptVersion(Box::new(lie))), CommitOutcome::Applied(_)));
    assert_eq!(body(&store, "ios", "file").unwrap(), [1; 3000]);
}

#[test]
fn a_side_log_that_was_lost_or_damaged_in_the_middle_is_written_anew_from_the_index() {
    let bench = Bench::new();
    let path = bench.layout().tombstones_log();
    let store = bench.open();
    for namespace in ["one", "two", "three"] {
        outcome(&store, Operation::DeleteNamespace { namespace: namespace.into(), version_ms: Some(7) });
    }
    store.close().unwrap();
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    damaged[20] ^= 1;
    for bytes in [Some(damaged), Some(Vec::new()), None] {
        match bytes {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let store = bench.open();
        let mut names: Vec<_> = tombstone_log::read(&path).unwrap().into_iter().map(|(name, _)| name).collect();
        names.sort();
        assert_eq!(names, ["one", "three", "two"]);
        store.close().unwrap();
    }
}

#[test]
fn the_side_log_of_a_store_that_stays_open_does_not_grow_without_end() {
    let bench = Bench::new();
    let store = bench.open();
    let namespace = "n".repeat(500);
    let mut group = 0;
    while std::fs::metadata(bench.layout().tombstones_log()).unwrap().len() <= 4 << 20 {
        let deletes = (0..256).map(|_| {
            let delete = Operation::DeleteNamespace { namespace: namespace.clone(), version_ms: None };
            let answer = super::group::Answer::Change(tokio::sync::oneshot::channel().0);
            super::group::Pending::new(super::evaluate::Work::Change(delete), answer)
        });
        store.run_group(deletes.collect());
        group += 1;
        assert!(group < 100);
    }
    outcome(&store, Operation::DeleteNamespace { namespace, version_ms: None });
    assert_eq!(tombstone_log::read(&bench.layout().tombstones_log()).unwrap().len(), 2);
}

#[test]
fn a_delete_that_comes_during_the_purge_of_an_earlier_one_keeps_its_mark() {
    use super::evaluate::Work;
    use super::evaluate_purge::{PURGE_ROWS_MAX, purges_under_way};
    use super::group::{Answer, Pending};
    let bench = Bench::new();
    let store = bench.open();
    let change = |operation| Pending::new(Work::Change(operation), Answer::Change(tokio::sync::oneshot::channel().0));
    let purge = |after| {
        let work = Work::Purge { namespace: "ios".into(), after };
        store.run_group(vec![Pending::new(work, Answer::Purge(std::sync::mpsc::channel().0))]);
    };
    let delete = |version_ms| Operation::DeleteNamespace { namespace: "ios".into(), version_ms: Some(version_ms) };
    let count = PURGE_ROWS_MAX + 10;
    let version = |n| if n == 0 { 300 } else { 100 };
    store.run_group((0..count).map(|n| change(replicated("ios", &format!("k{n}"), b"x", version(n)))).collect());
    store.run_group(vec![change(delete(200))]);
    purge(Seq(0));
    store.run_group(vec![change(delete(400))]);
    purge(Seq(PURGE_ROWS_MAX as u64));
    assert_eq!(store.stats().artifacts, 1, "the first row was passed while it was live");
    assert_eq!(purges_under_way(store.core()).unwrap(), ["ios"]);
    drop(store);
    let store = bench.open();
    assert_eq!((store.stats().artifacts, purges_under_way(store.core()).unwrap().len()), (0, 0));
}
