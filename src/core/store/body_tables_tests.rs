//! Table files of inline bodies: they are dropped whole, and nothing that died stays for long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::body_tables::{self, BodyTable};
use super::eviction_tests::{assert_exact, fill, later, left};
use super::keys::{Table, number_key};
use super::store_tests::{Bench, applied, body, id, local};
use super::trim;
use super::*;
use crate::core::base::disk::{Disk, FaultDisk, RealDisk, VolumeSpace};

const BODY: usize = 16 << 10;

/// A store on what says it is a volume of 64 MiB, so that its table files are small.
fn small_volume() -> Bench {
    let disk = Arc::new(FaultDisk::new(Arc::new(RealDisk)));
    let bench = Bench::on(Arc::clone(&disk) as Arc<dyn Disk>);
    let space = RealDisk.space(bench.root.path()).unwrap();
    disk.set_space(Some(VolumeSpace { total_bytes: 64 << 20, available_bytes: 30 << 20, ..space }));
    bench
}

/// Incompressible and different for each number.
fn noise(number: u32) -> Vec<u8> {
    let mut state = u64::from(number) + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..BODY).map(|_| next()).collect()
}

fn fill_with_noise(bench: &Bench, store: &Store, count: u32) {
    for number in 0..count {
        later(bench);
        applied(store, local("ios", &format!("k{number}"), &noise(number)));
    }
}

/// All table files, once the index has moved on what it has written.
fn moved_tables(store: &Store) -> Vec<BodyTable> {
    let started = Instant::now();
    loop {
        let tables = body_tables::all(store.core()).unwrap();
        if tables.iter().all(|table| table.is_moved) {
            return tables;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{tables:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn bytes(tables: &[BodyTable]) -> u64 {
    tables.iter().map(|table| table.bytes).sum()
}

#[test]
fn under_pressure_whole_tables_of_inline_bodies_go_and_what_is_read_moves_to_the_head() {
    let bench = Bench::new();
    let store = bench.open();
    fill(&bench, &store, 30);
    // A close writes out what is in memory.
    drop(store);
    let store = bench.open();
    let before = moved_tables(&store);
    bench.clock.advance(Duration::from_secs(60));
    applied(&store, local("ios", "newest", b"stays"));
    for n in [3, 7] {
        store.note_read(&id("ios", &format!("k{n}")));
    }
    let report = store.evict(EvictGoal { bytes: 20_000, under_pressure: true }).unwrap();
    assert_eq!(left(&store, 30), [3, 7]);
    assert_eq!((report.artifacts, report.tables_emptied, report.rewritten), (28, 1, 2), "{report:?}");
    let tables = body_tables::all(store.core()).unwrap();
    assert!(tables.iter().all(|table| !before.contains(table)), "{tables:?}");
    assert_eq!(body(&store, "ios", "k7").unwrap(), [7; 1000]);
    assert_exact(&store);
    drop(store);
    let store = bench.open();
    assert_eq!(body(&store, "ios", "k3").unwrap(), [3; 1000]);
    assert_exact(&store);
}

#[test]
fn under_pressure_no_more_tables_go_than_are_needed() {
    let bench = small_volume();
    let store = bench.open();
    fill_with_noise(&bench, &store, 800);
    drop(store);
    let store = bench.open();
    applied(&store, local("ios", "newest", b"not in a table"));
    let before = moved_tables(&store);
    assert!(before.len() > 4, "{before:?}");
    let report = store.evict(EvictGoal { bytes: 100_000, under_pressure: true }).unwrap();
    assert_eq!(report.tables_emptied, 1, "{report:?}");
    assert!(report.bytes > 500_000 && report.bytes < 4 * store.core().sizes.table_file_bytes, "{report:?}");
    assert_eq!(store.lookup(&id("ios", "k0")).unwrap(), None, "the lowest numbers go");
    assert!(store.lookup(&id("ios", "k700")).unwrap().is_some());
    // RocksDB may write one of them again at its leisure, some bytes shorter.
    let numbers = |tables: &[BodyTable]| tables.iter().map(|table| (table.first, table.last)).collect::<Vec<_>>();
    let after = body_tables::all(store.core()).unwrap();
    assert_eq!(numbers(&after), numbers(&before[1..]), "its file is dropped at once");
    assert_exact(&store);
}

/// What died must not need a compaction to go: on a full volume there is no room for one.
#[test]
fn what_turns_over_leaves_no_dead_tables_behind() {
    let bench = small_volume();
    let store = bench.open();
    for round in 0..4 {
        fill_with_noise(&bench, &store, 400);
        let goal = EvictGoal { bytes: u64::MAX, under_pressure: round % 2 == 1 };
        store.evict(goal).unwrap();
        assert_eq!(store.stats().artifacts, 0);
        let tables = moved_tables(&store);
        assert!(tables.windows(2).all(|pair| pair[0].last < pair[1].first), "{tables:?}");
        // As the sweep of later deaths would.
        trim::trim_all(store.core()).unwrap();
    }
    drop(store);
    let store = bench.open();
    moved_tables(&store);
    store.thin_out().unwrap();
    store.evict(EvictGoal { bytes: 1, under_pressure: true }).unwrap();
    let most = 5 * store.core().sizes.table_file_bytes;
    let tables = body_tables::all(store.core()).unwrap();
    assert!(bytes(&tables) <= most, "{} bytes in {} tables with nothing in them", bytes(&tables), tables.len());
    assert_exact(&store);
}

/// A row that says so would lie in a file with newer bodies, which then overlaps the file of the dead one.
#[test]
fn no_row_of_a_dead_body_is_ever_deleted() {
    let bench = Bench::new();
    let store = bench.open();
    let number = super::evaluate::number_of(&applied(&store, local("ios", "a", b"one"))).unwrap();
    applied(&store, local("ios", "a", b"two"));
    drop(store);
    let store = bench.open();
    assert_exact(&store);
    let row = store.core().index.get(Table::Bodies, &number_key(number.0)).unwrap();
    assert_eq!(row.as_deref(), Some(b"one".as_slice()));
}

/// Each round would move them again.
#[test]
fn a_table_of_tiny_live_bodies_does_not_look_dead() {
    let bench = Bench::new();
    let store = bench.open();
    for number in 0..3000 {
        later(&bench);
        applied(&store, local("ios", &format!("k{number}"), &[number as u8; 4]));
    }
    drop(store);
    let store = bench.open();
    let (taken, live) = (bytes(&moved_tables(&store)), body_tables::live_bytes(store.core()).unwrap());
    assert!(taken > 3000 * 4 * 3 / 2, "{taken} bytes: rows take more than their bodies");
    assert!(live >= taken, "{live} of {taken} bytes live");
}

#[test]
fn bodies_that_died_here_and_there_give_their_room_back() {
    let bench = small_volume();
    let store = bench.open();
    fill_with_noise(&bench, &store, 1200);
    drop(store);
    let store = bench.open();
    let before = bytes(&moved_tables(&store));
    assert_eq!(store.thin_out().unwrap(), 0, "nothing has died");
    for number in (0..1200).filter(|number| number % 3 != 0) {
        later(&bench);
        applied(&store, local("ios", &format!("k{number}"), &[1; 100]));
    }
    let moved: u64 = (0..4).map(|_| store.thin_out().unwrap()).sum();
    assert!(moved > 100, "{moved}");
    drop(store);
    let store = bench.open();
    let after = bytes(&moved_tables(&store));
    assert!(after < before * 3 / 4, "{after} of {before}");
    for number in (0..1200).step_by(3) {
        assert_eq!(body(&store, "ios", &format!("k{number}")).unwrap(), noise(number));
    }
    assert_exact(&store);
}
