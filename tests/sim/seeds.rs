//! Runs seed after seed, and says of a failing one how to run it again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::lies::{CursorLie, Lie};
use crate::run::{Mesh, Outcome, run, run_and_look};
use crate::scenario::{Harm, Operation, Scenario};

/// Seeds of a plain `cargo test`: what takes about a minute on two processors, unoptimised.
const SEEDS_DEFAULT: u64 = 200;

/// Scenarios at the same time; each is a thread of its own.
const THREADS: usize = 2;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}")))
}

/// One seed; the text of a failure has all that is needed to run it again.
fn run_seed(seed: u64) -> Result<Outcome, String> {
    let scenario = Scenario::draw(seed);
    let result = catch_unwind(AssertUnwindSafe(|| run(&scenario)));
    let error = match result {
        Ok(Ok(outcome)) => return Ok(outcome),
        Ok(Err(error)) => format!("{error:?}"),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            format!("panicked: {}", text.unwrap_or_default())
        }
    };
    let operations: String = scenario.operations.iter().map(|operation| format!("  {operation:?}\n")).collect();
    let mesh = Scenario { operations: Vec::new(), ..scenario };
    Err(format!("seed {seed} failed; again: SIM_SEED={seed} cargo test --test sim\n{mesh:?}\n{operations}{error}"))
}

/// `until_failure`: whether the first seed that fails is the last to begin.
fn run_seeds(first: u64, count: u64, until_failure: bool) -> Vec<Result<Outcome, String>> {
    let next = AtomicU64::new(first);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= first + count {
                        return;
                    }
                    let result = run_seed(seed);
                    if until_failure && result.is_err() {
                        next.store(first + count, Ordering::SeqCst);
                    }
                    results.lock().unwrap_or_else(PoisonError::into_inner).push(result);
                }
            });
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn every_mesh_heals_agrees_and_keeps_what_it_acknowledged() {
    let began = Instant::now();
    let (first, count) = match number("SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (number("SIM_FIRST").unwrap_or(1), number("SIM_SEEDS").unwrap_or(SEEDS_DEFAULT)),
    };
    let results = run_seeds(first, count, number("SIM_UNTIL_FAILURE").is_some());
    let sum = |part: fn(&Outcome) -> u64| results.iter().flatten().map(part).sum::<u64>();
    println!(
        "{} seeds in {:.1} s: {} writes, {} deletes, {} starts, {} exchanges; the slowest rest took {:?} ms",
        results.len(),
        began.elapsed().as_secs_f64(),
        sum(|outcome| outcome.writes),
        sum(|outcome| outcome.deletes),
        sum(|outcome| outcome.starts),
        sum(|outcome| outcome.exchanges),
        results.iter().flatten().map(|outcome| outcome.rest_ms).max(),
    );
    let failures: Vec<&String> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    if let Some(first) = failures.first() {
        let seeds: Vec<&str> = failures.iter().filter_map(|text| text.split(' ').nth(1)).collect();
        let (failed, all) = (failures.len(), results.len());
        panic!("{first}\n{failed} of {all} seeds failed ({}); the first is above", seeds.join(" "));
    }
}

#[test]
fn a_seed_replays_exactly() {
    let seed = number("SIM_SEED").unwrap_or(7);
    let (one, two) = (run_seed(seed), run_seed(seed));
    assert_eq!(one, two);
    let tight = || run(&half_the_room()).map_err(|error| format!("{error:?}"));
    assert_eq!(tight(), tight(), "also where room is short");
}

/// A mesh of two, the second of which lists this from the first.
fn told(lie: Lie, size: usize) -> Scenario {
    let put = Operation::Put { node: 0, namespace: "ios", key: 1, size, content: 1, pause_ms: 0, once: false };
    let harm = Operation::HarmNext { from: 1, to: 0, harm: Harm::Lie(lie), count: 2 };
    let pass = Operation::Pass { ms: 10_000 };
    let operations = vec![Operation::Crash { node: 1 }, put, harm, Operation::Restart { node: 1 }, pass];
    Scenario {
        seed: 1,
        nodes: 2,
        seed_era: None,
        operations,
        restart_all: false,
        capacities: Vec::new(),
        stays_sick: None,
    }
}

#[test]
fn what_a_peer_lied_about_arrives_in_the_end() {
    let lies = [
        Lie::Digests(0xff),
        Lie::Digests(0),
        Lie::Sizes(1),
        Lie::Sizes(1 << 40),
        Lie::Body(9),
        Lie::Counts(1 << 30),
        Lie::Cursor(CursorLie::Stays),
        Lie::Cursor(CursorLie::GoesBack),
        Lie::Flip(100),
        Lie::Flip(301),
        Lie::FlipRows(270),
        Lie::FlipRows(288),
        Lie::Digit(3),
        Lie::Length(1),
    ];
    for (lie, size) in lies.into_iter().flat_map(|lie| [(lie, 500), (lie, 40_000)]) {
        if let Err(error) = run(&told(lie, size)) {
            panic!("{lie:?} about {size} bytes: {error:?}");
        }
    }
}

const ARTIFACTS: u64 = 40;
const BODY_BYTES: usize = 7_000;

/// Two nodes write, and a third one comes that has room for half of it.
fn half_the_room() -> Scenario {
    let put = |key: u64| {
        let node = usize::try_from(key % 2).expect("0 or 1");
        Operation::Put { node, namespace: "ios", key, size: BODY_BYTES, content: 1, pause_ms: 0, once: false }
    };
    let mut operations = vec![Operation::Crash { node: 2 }];
    operations.extend((0..ARTIFACTS).flat_map(|key| [put(key), Operation::Pass { ms: 100 }]));
    operations.extend([Operation::Pass { ms: 10_000 }, Operation::Restart { node: 2 }]);
    operations.push(Operation::Pass { ms: 10_000 });
    let capacities = vec![None, None, Some(ARTIFACTS / 2 * 8192)];
    Scenario { seed: 1, nodes: 3, seed_era: None, operations, restart_all: false, capacities, stays_sick: None }
}

/// Two nodes write, and the second lists the rest to a third one as a node of the seed era does: by id, without an order of age.
fn half_the_room_for_a_seed_era_listing() -> Scenario {
    let put = |key: u64| {
        let put =
            Operation::Put { node: 0, namespace: "ios", key, size: BODY_BYTES, content: 1, pause_ms: 0, once: false };
        [put, Operation::Pass { ms: 100 }]
    };
    let mut operations = vec![Operation::Crash { node: 2 }, Operation::Part { one: 0, other: 2 }];
    operations.extend((0..ARTIFACTS).flat_map(put));
    operations.extend([Operation::Pass { ms: 10_000 }, Operation::Restart { node: 2 }, Operation::Pass { ms: 60_000 }]);
    Scenario { operations, seed_era: Some(1), ..half_the_room() }
}

fn keeps_the_newest(mesh: &Mesh) -> Result<()> {
    let mut all: Vec<_> = mesh.holdings(0)?.into_values().collect();
    all.sort_unstable();
    let mut held: Vec<_> = mesh.holdings(2)?.into_values().collect();
    held.sort_unstable();
    ensure!(held.len() * 4 >= all.len(), "it keeps {} of {}", held.len(), all.len());
    ensure!(all.ends_with(&held), "what it keeps is not the newest: {held:?} of {all:?}");
    let (fetched, kept) = (mesh.body_bytes(2), u64::try_from(held.len() * BODY_BYTES)?);
    ensure!((fetched - kept) * 20 <= fetched, "{fetched} bytes were fetched for {kept} that are kept");
    println!("{} of {} are kept, {fetched} bytes fetched for {kept}", held.len(), all.len());
    Ok(())
}

#[test]
fn a_node_with_half_the_room_keeps_the_newest() {
    run_and_look(&half_the_room(), keeps_the_newest).unwrap_or_else(|error| panic!("{error:?}"));
}

#[test]
fn a_node_with_half_the_room_keeps_the_newest_of_a_seed_era_listing() {
    let listed = half_the_room_for_a_seed_era_listing();
    run_and_look(&listed, keeps_the_newest).unwrap_or_else(|error| panic!("{error:?}"));
}
