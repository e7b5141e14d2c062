//! How many reads hit, against plain LRU, on traces of one seed. The figures are those of `docs/performance.md`:
//! `cargo test --release --lib eviction_trace -- --nocapture`.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::store_tests::{Bench, applied, id, local};
use super::*;
use crate::core::base::rng::{Rng, SeededRng};
use crate::core::config::Durability;

/// Artifacts that fit; each is charged alike.
const CAPACITY: usize = 500;

const REQUESTS: usize = 12_000;

/// Requests between two scans, and their length: a nightly build of everything, read once.
const SCAN: (usize, usize) = (1_500, 300);

fn draw(rng: &SeededRng) -> f64 {
    let mut bytes = [0; 8];
    rng.fill(&mut bytes);
    (u64::from_le_bytes(bytes) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Keys by a Zipf law over `keys` of them; with scans, every so often a run of keys that never come again.
fn trace(keys: usize, exponent: f64, scans: bool) -> Vec<u64> {
    let rng = SeededRng::new(7);
    let mut sums = Vec::with_capacity(keys);
    let mut sum = 0.0;
    for rank in 1..=keys {
        sum += 1.0 / (rank as f64).powf(exponent);
        sums.push(sum);
    }
    let mut requests = Vec::new();
    let mut fresh = 1 << 32;
    while requests.len() < REQUESTS {
        let point = draw(&rng) * sum;
        requests.push(sums.partition_point(|sum| *sum < point) as u64);
        if scans && requests.len().is_multiple_of(SCAN.0) {
            requests.extend(fresh..fresh + SCAN.1 as u64);
            fresh += SCAN.1 as u64;
        }
    }
    requests
}

fn lru_hits(trace: &[u64]) -> usize {
    let (mut used, mut order) = (HashMap::new(), BTreeMap::new());
    let mut hits = 0;
    for (at, key) in trace.iter().enumerate() {
        if let Some(before) = used.insert(*key, at) {
            order.remove(&before);
            hits += 1;
        }
        order.insert(at, *key);
        if used.len() > CAPACITY {
            let (_, oldest) = order.pop_first().unwrap();
            used.remove(&oldest);
        }
    }
    hits
}

fn store_hits(trace: &[u64]) -> usize {
    let mut bench = Bench::new();
    bench.durability = Durability::Process;
    let store = bench.open();
    let mut hits = 0;
    for key in trace {
        bench.clock.advance(Duration::from_millis(1));
        let name = key.to_string();
        let id = id("ios", &name);
        if store.lookup(&id).unwrap().is_some() {
            store.note_read(&id);
            hits += 1;
            continue;
        }
        let record = applied(&store, local("ios", &name, &[1; 64]));
        let capacity = store.core().charge_of(&record) * CAPACITY as u64;
        let excess = store.stats().charged_bytes.saturating_sub(capacity);
        if excess > 0 {
            // A little more than needed, as a node does; LRU is not asked to.
            store.evict(EvictGoal { bytes: excess + capacity / 50, under_pressure: false }).unwrap();
        }
    }
    assert!(store.stats().artifacts <= CAPACITY as u64);
    hits
}

#[test]
fn a_scan_does_not_push_out_what_is_read_and_plain_lru_is_not_better() {
    for (name, keys, exponent, scans, slack) in [
        ("Zipf 1.0 over 5,000 keys", 5_000, 1.0, false, 0.02),
        ("Zipf 0.7 over 5,000 keys", 5_000, 0.7, false, 0.02),
        ("Zipf 1.0 with scans", 5_000, 1.0, true, 0.005),
    ] {
        let trace = trace(keys, exponent, scans);
        let share = |hits: usize| hits as f64 / trace.len() as f64;
        let (lru, store) = (share(lru_hits(&trace)), share(store_hits(&trace)));
        println!("{name}: LRU {:.1} %, store {:.1} % of {} reads hit", lru * 100.0, store * 100.0, trace.len());
        assert!(store + slack >= lru, "{name}: {store} against {lru}");
    }
}
