//! Eviction: what goes, what stays, and that nothing that went comes back by itself.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::committer::{CommitOutcome, Operation, PutMode, PutOrigin};
use super::record::Record;
use super::recount::recount;
use super::store_tests::{Bench, NOW_MS, applied, body, id, local, name, outcome, put, replicated};
use super::*;

fn goal(bytes: u64) -> EvictGoal {
    EvictGoal { bytes, under_pressure: false }
}

#[test]
fn the_oldest_go_first_and_no_more_than_asked_for() {
    let bench = Bench::new();
    let store = bench.open();
    for n in 0..10 {
        bench.clock.advance(Duration::from_millis(10));
        applied(&store, local("ios", &format!("k{n}"), &[n; 1000]));
    }
    let report = store.evict(goal(2500)).unwrap();
    let left: Vec<_> = (0..10).filter(|n| body(&store, "ios", &format!("k{n}")).is_some()).collect();
    assert_eq!(left.len() as u64, 10 - report.artifacts);
    assert_eq!(left, (10 - left.len() as u8..10).collect::<Vec<_>>());
    assert!((2500..3500 + 1024).contains(&report.bytes), "{report:?}");
    assert_eq!(recount(&store).unwrap().mismatches, Vec::<String>::new());
    assert_eq!(recount(&store).unwrap().garbage, 0);
}

#[test]
fn a_data_dir_whose_last_writer_kept_no_charges_is_counted_once_on_open() {
    use super::keys::{META_STATE, META_SWEPT, Table};
    use super::tagged::Row;
    let bench = Bench::new();
    let store = bench.open();
    applied(&store, local("ios", "a", b"inline"));
    applied(&store, super::fault_tests::file_put(&bench, "ios", "b", &[1; 5000]));
    applied(&store, super::fault_tests::file_put(&bench, "ios", "b", &[2; 3000]));
    let charged = store.stats().charged_bytes;
    assert_eq!(recount(&store).unwrap().charged_bytes, charged);
    assert!(charged > 3000 + 6);
    // As an older binary leaves it: its own epoch, and a state row of which it knows four fields.
    let index = &store.core().index;
    let state = Row::decode(&index.get(Table::Meta, META_STATE).unwrap().unwrap()).unwrap();
    let older = (1..=4).fold(Row::default(), |row, tag| row.with_number(tag, state.number(tag)));
    let mut batch = index.batch();
    batch.put(Table::Meta, META_STATE, &older.encode());
    batch.delete(Table::Meta, META_SWEPT);
    index.write(batch, true).unwrap();
    drop(store);
    let reader = Store::open_read_only(bench.options()).unwrap();
    assert_eq!(recount(&reader).unwrap().mismatches, Vec::<String>::new());
    drop(reader);
    let (store, report) = Store::open(bench.options()).unwrap();
    assert!(report.counted);
    assert_eq!(store.stats().charged_bytes, charged);
    applied(&store, local("ios", "a", b"inline too"));
    drop(store);
    let (store, report) = Store::open(bench.options()).unwrap();
    assert!(!report.counted);
    assert_eq!(recount(&store).unwrap().mismatches, Vec::<String>::new());
}

pub(crate) fn later(bench: &Bench) {
    bench.clock.advance(Duration::from_millis(10));
}

/// Keys k0 to k(n-1), each 10 ms after the one before.
pub(crate) fn fill(bench: &Bench, store: &Store, count: usize) -> Vec<Record> {
    let put = |n| {
        later(bench);
        applied(store, local("ios", &format!("k{n}"), &[n as u8; 1000]))
    };
    (0..count).map(put).collect()
}

pub(crate) fn left(store: &Store, count: usize) -> Vec<usize> {
    (0..count).filter(|n| store.lookup(&id("ios", &format!("k{n}"))).unwrap().is_some()).collect()
}

pub(crate) fn assert_exact(store: &Store) {
    let count = recount(store).unwrap();
    assert_eq!((count.mismatches, count.garbage), (Vec::<String>::new(), 0));
}

#[test]
fn nothing_evicted_is_wanted_again_and_no_older_value_comes_back() {
    let bench = Bench::new();
    let store = bench.open();
    let record = applied(&store, replicated("ios", "a", b"one", NOW_MS));
    assert_eq!(store.evict(goal(1)).unwrap().artifacts, 1);
    let offered = |version_ms| Record { version_ms, ..record.clone() };
    let check = |store: &Store| {
        assert_eq!(store.wants(&offered(NOW_MS)).unwrap(), Wants::Evicted);
        assert_eq!(store.wants(&offered(NOW_MS - 1)).unwrap(), Wants::Evicted);
        assert_eq!(store.wants(&offered(NOW_MS + 1)).unwrap(), Wants::Fetch);
        assert_eq!(outcome(store, replicated("ios", "a", b"one", NOW_MS)), CommitOutcome::Evicted);
        assert_eq!(outcome(store, replicated("ios", "a", b"old", NOW_MS - 1)), CommitOutcome::Evicted);
        assert_eq!(outcome(store, Operation::AdoptVersion(Box::new(offered(NOW_MS)))), CommitOutcome::Evicted);
        let newer = Operation::AdoptVersion(Box::new(offered(NOW_MS + 1)));
        assert_eq!(outcome(store, newer), CommitOutcome::BodyNeeded);
        assert_eq!((store.stats().artifacts, store.stats().evictions), (0, 1));
        assert_exact(store);
    };
    check(&store);
    drop(store);
    let store = bench.open();
    check(&store);
    applied(&store, replicated("ios", "a", b"two", NOW_MS + 1));
    assert_eq!(recount(&store).unwrap().stubs, 0);
    assert_exact(&store);
}

#[test]
fn a_clients_write_is_always_taken_and_is_newer_than_what_was_evicted() {
    let bench = Bench::new();
    let store = bench.open();
    let first = applied(&store, local("ios", "a", b"one"));
    store.evict(goal(1)).unwrap();
    bench.clock.set_wall_ms(NOW_MS - 60_000);
    let second = applied(&store, put("ios", "a", b"one", PutOrigin::Local(PutMode::WriteOnce)));
    assert!(second.version() > first.version());
    assert_eq!((recount(&store).unwrap().stubs, body(&store, "ios", "a").unwrap()), (0, b"one".to_vec()));
    assert_exact(&store);
}

#[test]
fn a_withdrawn_version_may_return_and_an_older_one_may_not() {
    let bench = Bench::new();
    let store = bench.open();
    let record = applied(&store, replicated("ios", "a", b"one", NOW_MS));
    store.report_bad_body(&record, "a test says so");
    assert_eq!(outcome(&store, replicated("ios", "a", b"old", NOW_MS - 1)), CommitOutcome::Evicted);
    assert_eq!(store.wants(&record).unwrap(), Wants::Fetch);
    applied(&store, replicated("ios", "a", b"one", NOW_MS));
    assert_eq!(recount(&store).unwrap().stubs, 0);
    assert_exact(&store);
}

#[test]
fn what_was_read_is_passed_over_once_and_the_hand_goes_on_where_it_stood_also_after_a_reopen() {
    let bench = Bench::new();
    let store = bench.open();
    fill(&bench, &store, 40);
    for n in [0, 2] {
        store.note_read(&id("ios", &format!("k{n}")));
    }
    let one = store.stats().charged_bytes / 40;
    store.evict(goal(one * 2)).unwrap();
    assert_eq!(left(&store, 40)[..4], [0, 2, 4, 5]);
    drop(store);
    let store = bench.open();
    let report = store.evict(goal(one)).unwrap();
    // Not k0, whose mark is gone: the hand is past it.
    assert_eq!(left(&store, 40)[..4], [0, 2, 5, 6]);
    assert_eq!(report.floor_ms, NOW_MS + 50);
    assert_eq!(store.stats().oldest_version_ms, NOW_MS + 10);
    assert_exact(&store);
}

#[test]
fn the_youngest_are_spared_while_there_is_anything_older() {
    let bench = Bench::new();
    let store = bench.open();
    fill(&bench, &store, 80);
    // Everything old was read, nothing young was.
    for n in 0..70 {
        store.note_read(&id("ios", &format!("k{n}")));
    }
    let one = store.stats().charged_bytes / 80;
    store.evict(goal(one * 70)).unwrap();
    assert_eq!(left(&store, 80), (70..80).collect::<Vec<_>>());
    store.evict(goal(u64::MAX)).unwrap();
    assert_eq!((store.stats().artifacts, store.stats().charged_bytes), (0, 0));
    assert_eq!(store.stats().oldest_version_ms, 0);
    assert_exact(&store);
}

#[test]
fn an_artifact_overwritten_since_it_was_chosen_stays() {
    use super::evaluate::Work;
    use super::evaluate_evict::Eviction;
    use super::group::{Answer, Pending};
    let bench = Bench::new();
    let store = bench.open();
    let old = applied(&store, local("ios", "a", b"old"));
    applied(&store, local("ios", "b", b"goes"));
    let b = store.lookup(&id("ios", "b")).unwrap().unwrap();
    let chosen = vec![(id("ios", "a"), old.seq), (id("ios", "b"), b.seq), (id("ios", "never"), b.seq)];
    let (answer, evicted) = std::sync::mpsc::channel();
    let (overwritten, mut overwrite) = tokio::sync::oneshot::channel();
    store.run_group(vec![
        Pending::new(Work::Change(local("ios", "a", b"new")), Answer::Change(overwritten)),
        Pending::new(Work::Evict(Eviction { chosen, ..Eviction::default() }), Answer::Evict(answer)),
    ]);
    assert!(matches!(overwrite.try_recv().unwrap().unwrap(), CommitOutcome::Applied(_)));
    assert_eq!(evicted.recv().unwrap().unwrap().artifacts, 1);
    assert_eq!(body(&store, "ios", "a").unwrap(), b"new");
    assert_eq!(body(&store, "ios", "b"), None);
    drop(store);
    assert_exact(&bench.open());
}

#[test]
fn stubs_are_bounded_and_the_oldest_become_the_floor() {
    let bench = Bench::new();
    let store = bench.open();
    let records = fill(&bench, &store, 100);
    store.report_bad_body(&records[1], "a test says so");
    store.core().eviction.stubs_max.store(60, Ordering::Release);
    store.evict(goal(u64::MAX)).unwrap();
    let stats = store.stats();
    let stubs = recount(&store).unwrap().stubs;
    assert!(stubs <= 75 && stubs > 60, "{stubs}");
    store.evict(goal(1)).unwrap();
    assert!(recount(&store).unwrap().stubs <= 60);
    assert!((NOW_MS + 10..NOW_MS + 1000).contains(&stats.evicted_floor_ms));
    // Folded, or with a stub: no version of them is wanted. The withdrawn one may still return.
    for (n, record) in records.iter().enumerate() {
        let expected = if n == 1 { Wants::Fetch } else { Wants::Evicted };
        assert_eq!(store.wants(record).unwrap(), expected, "{n}");
    }
    // What is live and newer is not touched by the floor.
    let floor_ms = store.stats().evicted_floor_ms;
    assert_eq!(outcome(&store, replicated("ios", "never seen", b"x", floor_ms)), CommitOutcome::Evicted);
    applied(&store, replicated("ios", "new", b"x", floor_ms + 1));
    let old = Record { version_ms: floor_ms - 5, ..records[5].clone() };
    bench.clock.set_wall_ms(floor_ms - 100);
    assert!(applied(&store, local("ios", "k5", b"again")).version_ms > floor_ms);
    assert_eq!(store.wants(&old).unwrap(), Wants::AlreadyHere);
    drop(store);
    let store = bench.open();
    assert_eq!(store.stats().evicted_floor_ms, floor_ms);
    assert_exact(&store);
}

#[test]
fn what_has_expired_goes_first() {
    let bench = Bench::new();
    let store = bench.open();
    fill(&bench, &store, 5);
    let Operation::Put(mut put) = replicated("ios", "brief", b"x", NOW_MS + 50) else { unreachable!() };
    put.carried.expires_at_ms = Some(NOW_MS + 1000);
    applied(&store, Operation::Put(put));
    store.note_read(&id("ios", "brief"));
    bench.clock.advance(Duration::from_secs(2));
    assert_eq!(store.evict(goal(1)).unwrap().artifacts, 1);
    assert_eq!(left(&store, 5).len(), 5);
    assert_exact(&store);
    assert_eq!(recount(&store).unwrap().expiring, 0);
}

#[test]
fn a_full_store_passes_over_what_it_would_evict_at_once_and_takes_what_is_newer() {
    let bench = Bench::new();
    let store = bench.open();
    let records = fill(&bench, &store, 20);
    let charged = store.stats().charged_bytes;
    let offered = |version_ms| Record { version_ms, ..Record { name: name("ios", "other"), ..records[0].clone() } };
    store.set_capacity(Some(charged));
    let floor_ms = store.evict(goal(1)).unwrap().floor_ms;
    assert_eq!(store.wants(&offered(floor_ms)).unwrap(), Wants::BeyondCapacity);
    assert_eq!(store.wants(&offered(floor_ms + 1)).unwrap(), Wants::Fetch);
    // Of what is here in an older version the newer one is wanted.
    applied(&store, replicated("ios", "other", b"older", floor_ms - 8));
    assert_eq!(store.wants(&offered(floor_ms - 5)).unwrap(), Wants::Fetch);
    store.set_capacity(Some(charged * 2));
    assert_eq!(store.wants(&Record { name: name("ios", "third"), ..offered(floor_ms) }).unwrap(), Wants::Fetch);
    store.set_capacity(Some(charged));
    drop(store);
    let store = bench.open();
    store.set_capacity(Some(charged));
    assert_eq!(
        store.wants(&Record { name: name("ios", "third"), ..offered(floor_ms) }).unwrap(),
        Wants::BeyondCapacity
    );
}

#[test]
fn a_store_that_has_not_evicted_is_filled_to_the_brim_and_no_further_with_what_is_older() {
    let bench = Bench::new();
    let store = bench.open();
    let records = fill(&bench, &store, 4);
    let charged = store.stats().charged_bytes;
    let one = charged / 4;
    let offered = |version_ms| Record { version_ms, ..Record { name: name("ios", "other"), ..records[0].clone() } };
    let older: Vec<Record> = (1..=9).map(|n| offered(NOW_MS - n)).collect();
    let newer: Vec<Record> = (1..=9).map(|n| offered(NOW_MS + 1000 + n)).collect();
    assert_eq!(store.fitting(older.iter()), 9, "without a bound");
    store.set_capacity(Some(charged + 3 * one));
    assert_eq!((store.wants(&older[0]).unwrap(), store.fitting(older.iter())), (Wants::Fetch, 3));
    store.set_capacity(Some(charged + one - 1));
    assert_eq!(store.wants(&older[0]).unwrap(), Wants::BeyondCapacity);
    assert_eq!(store.fitting(older.iter()), 9, "what is passed over takes no room");
    assert_eq!((store.wants(&newer[0]).unwrap(), store.fitting(newer.iter())), (Wants::Fetch, 1));
    store.set_capacity(Some(charged * 64));
    assert_eq!(store.fitting(newer.iter().cycle().take(1000)), 63 * 4);
    assert_eq!(store.fitting([].iter()), 0);
}

#[test]
fn under_pressure_files_go_before_inline_bodies() {
    let bench = Bench::new();
    let store = bench.open();
    fill(&bench, &store, 8);
    for n in 0..4_u8 {
        later(&bench);
        applied(&store, super::fault_tests::file_put(&bench, "ios", &format!("f{n}"), &[n; 9000]));
    }
    let report = store.evict(EvictGoal { bytes: 40_000, under_pressure: true }).unwrap();
    assert_eq!(left(&store, 8), (0..8).collect::<Vec<_>>());
    assert_eq!((report.artifacts, report.tables_emptied), (4, 0));
    let bodies = std::fs::read_dir(super::body_files::extent_path(&bench.layout(), 0)).unwrap();
    assert_eq!(bodies.count(), 0);
    assert_exact(&store);
}
