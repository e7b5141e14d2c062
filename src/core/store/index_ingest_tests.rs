//! Bodies of a page that go into the index as a table file: durable before what names them, and none left over.

use std::sync::Arc;

use super::body_tables;
use super::committer::{CommitOutcome, Operation, Put, PutOrigin};
use super::eviction_tests::assert_exact;
use super::store_handle::StoreHandle;
use super::store_tests::{Bench, NOW_MS, applied, body, delete, local, outcome, replicated};
use super::*;
use crate::core::base::ids::BodyNo;

const COUNT: u32 = 1200;

/// 4 KiB, different for each number.
fn noise(n: u32) -> Vec<u8> {
    n.to_le_bytes().repeat(1024)
}

fn handle(bench: &Bench, store: &Arc<Store>) -> StoreHandle {
    let handle = StoreHandle::new(bench.executor.clone());
    handle.set(Some(store.clone()));
    handle
}

fn page(from: u32) -> Vec<Put> {
    let put = |n: u32| match replicated("ios", &format!("k{n}"), &noise(n), NOW_MS) {
        Operation::Put(put) => *put,
        other => panic!("not a put: {other:?}"),
    };
    (from..from + COUNT).map(put).collect()
}

async fn commit(bench: &Bench, store: &Arc<Store>, from: u32) {
    let outcomes = handle(bench, store).commit_replicated(page(from)).await.unwrap();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(CommitOutcome::Applied(_)))));
}

fn assert_readable(store: &Store, numbers: std::ops::Range<u32>) {
    for n in numbers {
        assert_eq!(body(store, "ios", &format!("k{n}")).unwrap(), noise(n));
    }
}

/// First and last number of each table of bodies.
fn tables(store: &Store) -> Vec<(u64, u64)> {
    body_tables::all(store.core()).unwrap().iter().map(|table| (table.first, table.last)).collect()
}

fn unfinished(bench: &Bench) -> usize {
    let entries = std::fs::read_dir(bench.layout().index()).unwrap();
    entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("ingest-")).count()
}

#[tokio::test]
async fn the_bodies_of_a_page_go_in_as_one_table_and_outlive_a_kill() {
    let bench = Bench::new();
    let store = Arc::new(bench.open());
    commit(&bench, &store, 0).await;
    assert_eq!(tables(&store), [(0, u64::from(COUNT) - 1)]);
    assert_eq!(unfinished(&bench), 0);
    assert_readable(&store, 0..COUNT);
    assert_exact(&store);
    drop(store);
    let (store, report) = Store::open(bench.options()).unwrap();
    assert!(report.unclean);
    assert_readable(&store, 0..COUNT);
    assert_eq!(tables(&store), [(0, u64::from(COUNT) - 1)]);
    assert_exact(&store);
}

#[tokio::test]
async fn tables_do_not_overlap_with_what_came_one_by_one_before_and_between_them() {
    let bench = Bench::new();
    let store = Arc::new(bench.open());
    for round in 0..3 {
        applied(&store, local("ios", &format!("alone {round}"), b"one by one"));
        commit(&bench, &store, round * COUNT).await;
    }
    applied(&store, local("ios", "last", b"one by one"));
    store.core().index.flush().unwrap();
    let tables = tables(&store);
    assert_eq!(tables.len(), 7, "{tables:?}");
    assert!(tables.windows(2).all(|pair| pair[0].1 < pair[1].0), "{tables:?}");
    assert_readable(&store, 0..3 * COUNT);
    assert_exact(&store);
}

#[tokio::test]
async fn what_went_in_without_its_manifests_is_gone_after_the_next_open() {
    let bench = Bench::new();
    let store = Arc::new(bench.open());
    commit(&bench, &store, 0).await;
    let first = u64::from(COUNT) + 7;
    let orphans: Vec<_> = (first..first + 100).map(|number| (BodyNo(number), noise(1).into())).collect();
    store.core().index.ingest_bodies(&orphans).unwrap();
    assert_eq!(tables(&store).len(), 2);
    std::fs::write(bench.layout().index().join("ingest-0000000000000fff"), b"half a table").unwrap();
    drop(store);
    let store = bench.open();
    assert_eq!(tables(&store), [(0, u64::from(COUNT) - 1)]);
    assert_eq!(unfinished(&bench), 0);
    assert_readable(&store, 0..COUNT);
    assert_exact(&store);
}

#[tokio::test]
async fn where_no_table_can_be_written_the_bodies_go_in_with_their_manifests() {
    let bench = Bench::new();
    let store = Arc::new(bench.open());
    std::fs::create_dir(bench.layout().index().join("ingest-0000000000000000")).unwrap();
    commit(&bench, &store, 0).await;
    assert_eq!(tables(&store), []);
    assert_readable(&store, 0..COUNT);
    assert_exact(&store);
}

#[tokio::test]
async fn what_was_beaten_meanwhile_stays_beaten_also_where_the_page_goes_in_as_a_table() {
    let bench = Bench::new();
    let store = Arc::new(bench.open());
    let newer = applied(&store, local("ios", "k7", b"newer"));
    outcome(&store, delete("gone", None));
    let deleted = match replicated("gone", "k", &noise(1), NOW_MS - 5) {
        Operation::Put(put) => *put,
        other => panic!("not a put: {other:?}"),
    };
    let mut puts = page(0);
    puts.iter_mut().for_each(|put| match &mut put.origin {
        PutOrigin::Replicated { version_ms, .. } => *version_ms = NOW_MS - 5,
        PutOrigin::Local(_) => panic!("not a peer's"),
    });
    puts.push(deleted);
    let outcomes = handle(&bench, &store).commit_replicated(puts).await.unwrap();
    assert_eq!(outcomes[7].as_ref().unwrap(), &CommitOutcome::Stale(Box::new(newer)));
    assert_eq!(outcomes.last().unwrap().as_ref().unwrap(), &CommitOutcome::Tombstoned);
    let applied = outcomes.iter().filter(|outcome| matches!(outcome, Ok(CommitOutcome::Applied(_)))).count();
    assert_eq!(applied, COUNT as usize - 1);
    assert_eq!(body(&store, "ios", "k7").unwrap(), b"newer");
    assert!(tables(&store).iter().any(|(first, last)| last - first >= u64::from(COUNT) - 2), "{:?}", tables(&store));
    assert_exact(&store);
}

#[tokio::test]
async fn a_few_bodies_make_no_table() {
    let bench = Bench::new();
    let store = Arc::new(bench.open());
    let few: Vec<Put> = page(0).into_iter().take(50).collect();
    handle(&bench, &store).commit_replicated(few).await.unwrap();
    assert_eq!(tables(&store), []);
    assert_readable(&store, 0..50);
}
