//! Replicated puts that go through the committer together.

use std::cell::Cell;
use std::sync::Arc;

use super::committer::{CommitOutcome, Operation, Put};
use super::error::StoreError;
use super::store_handle::StoreHandle;
use super::store_tests::{Bench, NOW_MS, applied, body, delete, local, outcome, replicated};
use super::*;
use crate::core::base::executor::ThreadExecutor;

fn replicated_put(namespace: &str, key: &str, bytes: &[u8], version_ms: u64) -> Put {
    match replicated(namespace, key, bytes, version_ms) {
        Operation::Put(put) => *put,
        other => panic!("not a put: {other:?}"),
    }
}

fn handle(bench: &Bench, store: &Arc<Store>) -> StoreHandle {
    let handle = StoreHandle::new(bench.executor.clone());
    handle.set(Some(store.clone()));
    handle
}

#[tokio::test]
async fn each_put_of_a_batch_has_its_own_outcome_in_the_order_of_the_puts() {
    let bench = Bench::new();
    let store = Arc::new(bench.open());
    let newer = applied(&store, local("ios", "b", b"newer"));
    outcome(&store, delete("gone", None));
    let puts = vec![
        replicated_put("ios", "a", b"one", NOW_MS - 5),
        replicated_put("ios", "b", b"older", NOW_MS - 5),
        replicated_put("gone", "c", b"deleted", NOW_MS - 5),
        replicated_put("ios", "a", b"two", NOW_MS - 4),
    ];
    let outcomes = handle(&bench, &store).commit_replicated(puts).await.unwrap();
    assert!(matches!(&outcomes[0], Ok(CommitOutcome::Applied(record)) if record.version_ms == NOW_MS - 5));
    assert_eq!(outcomes[1].as_ref().unwrap(), &CommitOutcome::Stale(Box::new(newer)));
    assert_eq!(outcomes[2].as_ref().unwrap(), &CommitOutcome::Tombstoned);
    assert!(matches!(&outcomes[3], Ok(CommitOutcome::Applied(record)) if record.version_ms == NOW_MS - 4));
    assert_eq!(body(&store, "ios", "a").unwrap(), b"two");
    assert!(handle(&bench, &store).commit_replicated(Vec::new()).await.unwrap().is_empty());
}

#[test]
fn a_batch_of_many_groups_is_answered_as_one_and_a_closed_store_refuses_it() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut bench = Bench::new();
    bench.executor = Arc::new(ThreadExecutor::new(runtime.handle().clone(), 4));
    let store = Arc::new(bench.open());
    let handle = handle(&bench, &store);
    let batch = |from: usize| -> Vec<Put> {
        (from..from + 2_000).map(|n| replicated_put("ios", &format!("k{n}"), b"body", NOW_MS)).collect()
    };
    runtime.block_on(async {
        let batches = (0..4).map(|n| handle.commit_replicated(batch(n * 2_000)));
        for outcomes in futures_util::future::join_all(batches).await {
            let outcomes = outcomes.unwrap();
            assert_eq!(outcomes.len(), 2_000);
            assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(CommitOutcome::Applied(_)))));
        }
    });
    assert_eq!(store.stats().artifacts, 8_000);
    store.close().unwrap();
    let late = runtime.block_on(handle.commit_replicated(batch(8_000)));
    assert!(matches!(late, Err(StoreError::NotOpen)), "{late:?}");
}

#[tokio::test]
async fn a_batch_is_not_synced_until_later_and_a_local_write_takes_it_along() {
    let bench = Bench::new();
    let store = Arc::new(bench.open());
    let is_open = |store: &Store| {
        let open = Cell::new(false);
        let sync = || {
            open.set(true);
            Ok(())
        };
        store.core().late_sync.sync(sync).unwrap();
        open.get()
    };
    let batch = || vec![replicated_put("ios", "a", b"one", NOW_MS)];
    handle(&bench, &store).commit_replicated(batch()).await.unwrap();
    assert!(is_open(&store), "nobody waits for it");
    handle(&bench, &store).commit_replicated(vec![replicated_put("ios", "b", b"two", NOW_MS)]).await.unwrap();
    applied(&store, local("ios", "c", b"acknowledged"));
    assert!(!is_open(&store), "the log is synced up to the write that somebody waits for");
}
