//! The digest equals a recount whatever happens, two stores of one set have one digest, and old data dirs get theirs.

use super::*;
use crate::core::store::Store;
use crate::core::store::committer::Operation;
use crate::core::store::recount::recount;
use crate::core::store::store_tests::{Bench, NOW_MS, applied, body, delete, id, local, outcome, replicated};

fn whole(store: &Store) -> SetBucket {
    store.set_digest().unwrap().whole()
}

fn assert_counted(store: &Store) {
    assert_eq!(recount(store).unwrap().mismatches, Vec::<String>::new());
}

#[test]
fn the_digest_follows_every_change_and_equals_a_recount_after_a_crash() {
    let bench = Bench::new();
    let store = bench.open();
    assert_eq!(whole(&store), SetBucket::default());
    for n in 0..40 {
        applied(&store, local("ios", &n.to_string(), b"x"));
    }
    let forty = whole(&store);
    assert_eq!((forty.count, store.set_digest().unwrap().head), (40, Seq(40)));
    assert!(store.set_digest().unwrap().buckets.iter().filter(|bucket| bucket.count > 0).count() > 8);
    let replaced = applied(&store, local("ios", "7", b"y"));
    assert_eq!((whole(&store).count, whole(&store) == forty), (40, false));
    outcome(&store, Operation::Withdraw { id: id("ios", "7"), body_no: number(&replaced), reason: "bad".into() });
    assert_eq!(whole(&store).count, 39);
    assert_counted(&store);
    let before = store.set_digest();
    // Not closed: as after a crash.
    drop(store);
    let store = bench.open();
    assert_eq!(store.set_digest(), before);
    outcome(&store, delete("ios", None));
    store.close().unwrap();
    drop(store);
    let store = bench.open();
    assert_counted(&store);
    assert_eq!((whole(&store), body(&store, "ios", "1")), (SetBucket::default(), None), "a purged set is an empty one");
}

fn number(record: &Record) -> crate::core::base::ids::BodyNo {
    crate::core::store::evaluate::number_of(record).unwrap()
}

#[test]
fn two_stores_have_equal_digests_exactly_if_they_hold_the_same_versions() {
    let (one, two) = (Bench::new(), Bench::new());
    let (one, two) = (one.open(), two.open());
    for n in 0..20_u64 {
        applied(&one, replicated("ios", &n.to_string(), b"x", NOW_MS - n));
        applied(&two, replicated("ios", &(19 - n).to_string(), b"x", NOW_MS - (19 - n)));
    }
    assert_eq!(one.set_digest().unwrap().buckets, two.set_digest().unwrap().buckets, "in whichever order they came");
    applied(&one, replicated("ios", "3", b"x", NOW_MS + 1));
    assert_ne!(whole(&one), whole(&two), "a newer version of the same bytes");
    applied(&two, replicated("ios", "3", b"other", NOW_MS + 1));
    assert_ne!(whole(&one), whole(&two), "other bytes under the same version");
}

#[test]
fn the_parts_of_a_range_sum_up_to_it_and_leave_out_what_is_deleted() {
    let bench = Bench::new();
    let store = bench.open();
    (0..60).for_each(|n| drop(applied(&store, local("ios", &n.to_string(), b"x"))));
    applied(&store, local("mac", "1", b"x"));
    for (number, bucket) in store.set_digest().unwrap().buckets.into_iter().enumerate() {
        let prefix = format!("{number:x}");
        let parts = store.deep_digest(&prefix, 3).unwrap();
        assert!(
            parts.iter().all(|(part, _)| part.len() == 3 && part.starts_with(&prefix))
                && parts.is_sorted_by_key(|(part, _)| part.clone())
        );
        assert_eq!(parts.iter().fold(SetBucket::default(), |sum, (_, part)| sum.plus(*part)), bucket);
    }
    outcome(&store, delete("ios", None));
    let left: u64 =
        (0..16).flat_map(|n| store.deep_digest(&format!("{n:x}"), 3).unwrap()).map(|(_, part)| part.count).sum();
    assert_eq!(left, 1, "whether or not it is purged yet");
}

#[test]
fn a_data_dir_of_a_writer_that_keeps_no_digest_is_counted_anew() {
    let bench = Bench::new();
    let mut store = bench.open();
    for n in 0..10 {
        applied(&store, local("ios", &n.to_string(), b"x"));
    }
    let before = whole(&store);
    // As older versions leave it: the rows are those of an earlier writer, or there are none.
    for stale in [Some(Row::default().with_bytes(1, &[7; 8]).encode()), None] {
        let mut batch = store.core().index.batch();
        batch.put(Table::Buckets, &bucket_key(3), &Row::default().with_number(1, 99).encode());
        match stale {
            Some(stale) => batch.put(Table::Buckets, KEPT, &stale),
            None => batch.delete(Table::Buckets, KEPT),
        }
        store.core().index.write(batch, true).unwrap();
        drop(store);
        store = bench.open();
        assert_eq!(whole(&store), before);
        assert_counted(&store);
    }
}
