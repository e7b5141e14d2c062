//! Eviction: what goes, what stays, and that nothing that went comes back by itself.

use super::recount::recount;
use super::store_tests::{Bench, applied, body, local};
use super::*;

fn goal(bytes: u64) -> EvictGoal {
    EvictGoal { bytes, under_pressure: false }
}

#[test]
fn the_oldest_go_first_and_no_more_than_asked_for() {
    let bench = Bench::new();
    let store = bench.open();
    for n in 0..10 {
        bench.clock.advance(std::time::Duration::from_millis(10));
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
