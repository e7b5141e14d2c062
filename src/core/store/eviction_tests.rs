//! Eviction: what goes, what stays, and that nothing that went comes back by itself.

use super::integrity::recount;
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
