//! How walks wait for each other, and how long.

use tokio::time::sleep;

use super::*;

fn height(version_ms: u64) -> Height {
    (version_ms, 0)
}

/// Comes down through pages of these versions, each taking so long, and notes what was settled when.
async fn walk(lane: LaneGuard, pages: Vec<Vec<u64>>, page_takes: Duration, settled: &Mutex<Vec<u64>>) -> Instant {
    for mut page in pages {
        while let Some(top) = page.first().copied() {
            let until = lane.turn(height(top)).await;
            let count = page.iter().take_while(|row| until.is_none_or(|until| height(**row) > until)).count();
            let rest = page.split_off(count);
            sleep(page_takes).await;
            settled.lock().unwrap().extend(&page);
            lane.came_down(height(page[page.len() - 1]));
            page = rest;
        }
    }
    Instant::now()
}

fn pages(versions: impl DoubleEndedIterator<Item = u64>, size: usize) -> Vec<Vec<u64>> {
    versions.rev().collect::<Vec<_>>().chunks(size).map(<[u64]>::to_vec).collect()
}

#[tokio::test(start_paused = true)]
async fn walks_come_down_together_within_a_page_of_the_first() {
    let (lanes, settled) = (Lanes::default(), Mutex::default());
    let [first, second, third] = [lanes.join(), lanes.join(), lanes.join()];
    assert_eq!((first.leads(), second.leads()), (true, false));
    let took = Duration::from_millis(10);
    tokio::join!(
        walk(first, pages(0..400, 20), took, &settled),
        walk(second, pages((0..134).map(|n| 3 * n), 50), took, &settled),
        // Nothing that the others have.
        walk(third, pages(100..200, 7), took, &settled),
    );
    let settled = settled.into_inner().unwrap();
    assert_eq!(settled.len(), 400 + 134 + 100);
    let mut lowest = u64::MAX;
    for version in settled {
        assert!(version <= lowest.saturating_add(2 * 20), "{version} after {lowest}");
        lowest = lowest.min(version);
    }
}

#[tokio::test(start_paused = true)]
async fn a_walk_that_stands_still_costs_the_others_a_bounded_time_once() {
    let (lanes, settled) = (Lanes::default(), Mutex::default());
    let (stuck, second) = (lanes.join(), lanes.join());
    let began = Instant::now();
    let walking = walk(second, pages(0..100, 10), Duration::from_millis(1), &settled);
    let standing = async {
        stuck.turn(height(99)).await;
        sleep(Duration::from_secs(60)).await;
    };
    let (ended, ()) = tokio::join!(walking, standing);
    assert_eq!(settled.lock().unwrap().len(), 100);
    assert_eq!(ended - began, LATE_AFTER + Duration::from_millis(10));
    // It moves again and is waited for again.
    stuck.came_down(height(50));
    let third = lanes.join();
    assert_eq!((stuck.leads(), third.leads()), (true, false));
    assert_eq!(third.turn(height(99)).await, Some(height(50)));
}

#[tokio::test(start_paused = true)]
async fn next_to_a_slow_peer_a_fast_one_takes_at_most_twice_as_long() {
    for slow_is_first in [true, false] {
        let (lanes, settled) = (Lanes::default(), Mutex::default());
        let (first, second) = (lanes.join(), lanes.join());
        let (slow, fast) = if slow_is_first { (first, second) } else { (second, first) };
        let (quick, tardy) = (Duration::from_millis(10), LATE_AFTER - Duration::from_millis(100));
        let began = Instant::now();
        let slow_walk = walk(slow, pages(0..3000, 10), tardy, &settled);
        let fast_walk = walk(fast, pages(0..3000, 10), quick, &settled);
        let ended = tokio::select! { ended = fast_walk => ended, _ = slow_walk => panic!("it is slow") };
        // By itself it would take 3 s.
        assert!(ended - began <= Duration::from_secs(2 * 3) + LATE_AFTER + quick, "{:?}", ended - began);
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_leader_leaves_the_next_one_leads() {
    let lanes = Lanes::default();
    let [first, second, third] = [lanes.join(), lanes.join(), lanes.join()];
    first.turn(height(9)).await;
    let waiting = async {
        assert_eq!(second.turn(height(9)).await, None);
        second.leads()
    };
    let leaving = async {
        sleep(Duration::from_millis(1)).await;
        drop(first);
    };
    assert!(tokio::join!(waiting, leaving).0);
    assert!(!third.leads());
}
