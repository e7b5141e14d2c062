//! Listing by version: what belongs to an interval of the log comes once, newest first, however it is cut into pages.

use super::*;
use crate::core::base::ids::Digest;
use crate::core::store::Store;
use crate::core::store::evaluate::number_of;
use crate::core::store::keys::number_key;
use crate::core::store::store_tests::{Bench, NOW_MS, applied, delete, id, outcome, replicated};

fn everything(store: &Store) -> BackfillRequest {
    let up_to = store.stats().head_seq;
    BackfillRequest { above: Seq(0), up_to, below: None, rows_max: 1000, bytes_max: 1 << 20, inline_up_to: 1 << 10 }
}

fn keys(page: &BackfillPage) -> Vec<String> {
    let key = |row: &FeedRow| match row {
        FeedRow::Put(record, _) => record.name.key.clone(),
        FeedRow::NamespaceDelete(_) => panic!("a tombstone has no version among these"),
    };
    page.rows.iter().map(key).collect()
}

/// All keys, page by page, with the positions between them.
fn walk(store: &Store, first: BackfillRequest) -> (Vec<String>, Vec<BackfillPosition>) {
    let (mut listed, mut positions, mut request) = (Vec::new(), Vec::new(), first);
    loop {
        let page = store.backfill_page(&request).unwrap();
        listed.extend(keys(&page));
        let Some(position) = page.position else { return (listed, positions) };
        positions.push(position);
        request.below = Some(position);
    }
}

#[test]
fn versions_come_newest_first_once_each_however_small_the_pages() {
    let bench = Bench::new();
    let store = bench.open();
    for (n, key) in ["c", "a", "d", "b"].into_iter().enumerate() {
        applied(&store, replicated("ios", key, &[1; 100], NOW_MS - 1000 * (key.as_bytes()[0] as u64)));
        assert_eq!(store.stats().head_seq, Seq(n as u64 + 1));
    }
    let whole = store.backfill_page(&everything(&store)).unwrap();
    assert_eq!((keys(&whole), whole.position), (["a", "b", "c", "d"].map(str::to_owned).to_vec(), None));
    assert!(matches!(&whole.rows[0], FeedRow::Put(_, Some(body)) if body.len() == 100), "small bodies ride along");
    let bounds = [
        BackfillRequest { rows_max: 1, ..everything(&store) },
        BackfillRequest { rows_max: 3, ..everything(&store) },
        BackfillRequest { bytes_max: 1, ..everything(&store) },
    ];
    for bound in bounds {
        let (listed, positions) = walk(&store, bound);
        assert_eq!(listed, ["a", "b", "c", "d"], "{bound:?}");
        assert!(!positions.is_empty() && positions.windows(2).all(|pair| pair[1] < pair[0]), "{positions:?}");
        let text: Vec<String> = positions.iter().map(ToString::to_string).collect();
        assert!(text.windows(2).all(|pair| pair[1] < pair[0]), "as text they fall too");
        assert_eq!(text[0].parse(), Ok(positions[0]));
    }
    let inside = BackfillRequest { above: Seq(1), up_to: Seq(3), ..everything(&store) };
    assert_eq!(keys(&store.backfill_page(&inside).unwrap()), ["a", "d"]);
    assert!("short".parse::<BackfillPosition>().is_err());
}

#[test]
fn what_moves_or_goes_while_versions_are_listed_is_not_listed_and_nothing_else_is_lost() {
    let bench = Bench::new();
    let store = bench.open();
    for key in ["a", "b", "c", "d"] {
        applied(&store, replicated("ios", key, b"x", NOW_MS - u64::from(key.as_bytes()[0])));
    }
    applied(&store, replicated("android", "gone", b"x", NOW_MS - 98));
    let first = BackfillRequest { rows_max: 1, ..everything(&store) };
    let page = store.backfill_page(&first).unwrap();
    assert_eq!(keys(&page), ["a"]);
    // A newer version: its row is above the head that was taken, for the feed to tell.
    applied(&store, replicated("ios", "c", b"y", NOW_MS));
    outcome(&store, delete("android", Some(NOW_MS)));
    let (rest, _) = walk(&store, BackfillRequest { below: page.position, ..first });
    assert_eq!(rest, ["b", "d"]);
}

#[test]
fn a_page_looks_at_no_more_than_so_many_keys_and_still_comes_to_the_end() {
    let bench = Bench::new();
    let store = bench.open();
    for n in 0..20_u64 {
        applied(&store, replicated("ios", &n.to_string(), b"x", NOW_MS - n));
    }
    // Only the oldest version, behind nineteen that do not belong.
    let mut request = BackfillRequest { above: Seq(19), ..everything(&store) };
    let mut pages = Vec::new();
    loop {
        let page = store.core().backfill_page_within(&request, 8).unwrap();
        pages.push(page.rows.len());
        let Some(position) = page.position else { break };
        request.below = Some(position);
    }
    assert_eq!(pages, [0, 0, 1]);
}

#[test]
fn the_bodies_of_a_page_come_in_one_run_whatever_lies_between_them() {
    let bench = Bench::new();
    let store = bench.open();
    let key = |n: u64| format!("k{n:03}");
    for n in 0..120_u64 {
        applied(&store, replicated("ios", &key(n), &[n as u8; 100], NOW_MS - 1000 + n));
    }
    // Numbers without a body that rides: a few beside each other, and many.
    for n in (10..14).chain(40..80) {
        applied(&store, replicated("ios", &key(n), &[n as u8; 2000], NOW_MS + n));
    }
    let record = store.lookup(&id("ios", &key(100))).unwrap().unwrap();
    let mut batch = store.core().index.batch();
    batch.put(Table::Bodies, &number_key(number_of(&record).unwrap().0), b"of another length");
    store.core().index.write(batch, false).unwrap();
    let page = store.backfill_page(&everything(&store)).unwrap();
    let mut ridden = 0;
    for row in &page.rows {
        let FeedRow::Put(record, body) = row else { panic!() };
        let rides = record.size <= 1024 && record.name.key != key(100);
        assert_eq!(body.is_some(), rides, "{}", record.name.key);
        if let Some(body) = body {
            assert_eq!(Digest::of(body), record.digest, "{}", record.name.key);
            ridden += 1;
        }
    }
    assert_eq!((page.rows.len(), ridden), (120, 120 - 44 - 1));
}
