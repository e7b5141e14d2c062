//! Wanted rows: how many there are, what settles them, and what of them is kept.

use super::committer::{CommitOutcome, Operation};
use super::cursor::Cursor;
use super::evaluate::Work;
use super::group::{Answer, Pending};
use super::keys::Table;
use super::store_tests::{Bench, NOW_MS, id, local, name, outcome, replicated};
use super::wanted::{WANTED_HOLDERS_MAX, Wanted, WantedReason};
use super::*;
use crate::core::base::ids::{Digest, Epoch, Seq, StoreId, Version};

fn wanted(key: &str, version_ms: u64, holder: &str) -> Wanted {
    let named = name("ios", key);
    Wanted {
        id: id("ios", key),
        version: Version { version_ms, logical: 0, digest: Digest::default() },
        size: 3,
        name: (named.producer, named.namespace, named.key),
        holders: vec![holder.to_owned()],
        reason: WantedReason::WaitingForPeer,
        error: None,
        attempts: 1,
        next_try_ms: 0,
    }
}

fn pending(operation: Operation) -> Pending {
    Pending::new(Work::Change(operation), Answer::Change(tokio::sync::oneshot::channel().0))
}

fn counted(store: &Store) -> (u64, usize) {
    (*store.core().wanted_rows.lock().unwrap(), store.wanted_page(None, 1000).unwrap().len())
}

#[test]
fn two_puts_of_one_wanted_artifact_in_one_group_settle_one_row() {
    let bench = Bench::new();
    let store = bench.open();
    assert!(store.note_wanted(&[wanted("a", 100, "one")]).unwrap());
    store.run_group(vec![pending(local("ios", "a", b"x")), pending(local("ios", "a", b"y"))]);
    assert_eq!(counted(&store), (0, 0));
    assert!(store.note_wanted(&[wanted("b", 100, "one")]).unwrap(), "the bound is not reached");
}

#[test]
fn one_artifact_noted_twice_at_once_is_one_row_and_settled_twice_none() {
    let bench = Bench::new();
    let store = bench.open();
    assert!(store.note_wanted(&[wanted("a", 100, "one"), wanted("a", 100, "two")]).unwrap());
    assert_eq!(counted(&store), (1, 1));
    let settled = (id("ios", "a"), wanted("a", 100, "one").version);
    store.settle_wanted(&[settled, settled]).unwrap();
    assert_eq!(counted(&store), (0, 0));
    assert!(store.note_wanted(&[wanted("a", 200, "one")]).unwrap());
    store.settle_wanted(&[settled]).unwrap();
    assert_eq!(counted(&store), (1, 1), "a newer version became wanted meanwhile");
}

#[test]
fn an_older_copy_does_not_settle_what_is_wanted_in_a_newer_version() {
    let bench = Bench::new();
    let store = bench.open();
    store.note_wanted(&[wanted("a", 200, "down")]).unwrap();
    assert!(matches!(outcome(&store, replicated("ios", "a", b"old", 100)), CommitOutcome::Applied(_)));
    assert_eq!(store.wanted_page(None, 10).unwrap(), [wanted("a", 200, "down")]);
    assert!(matches!(outcome(&store, replicated("ios", "a", b"new", 200)), CommitOutcome::Applied(_)));
    assert_eq!(counted(&store), (0, 0));
}

#[test]
fn holders_of_one_version_add_up_within_a_bound_and_an_older_version_changes_nothing() {
    let bench = Bench::new();
    let store = bench.open();
    store.note_wanted(&[wanted("a", 200, "one")]).unwrap();
    store.note_wanted(&[wanted("a", 200, "two")]).unwrap();
    store.note_wanted(&[wanted("a", 100, "older")]).unwrap();
    assert_eq!(store.wanted_page(None, 10).unwrap()[0].holders, ["two", "one"]);
    for n in 0..2 * WANTED_HOLDERS_MAX {
        store.note_wanted(&[wanted("a", 200, &format!("h{n}"))]).unwrap();
    }
    assert_eq!(store.wanted_page(None, 10).unwrap()[0].holders.len(), WANTED_HOLDERS_MAX);
    store.note_wanted(&[wanted("a", 300, "newer")]).unwrap();
    assert_eq!(store.wanted_page(None, 10).unwrap()[0].holders, ["newer"]);
}

#[test]
fn keys_of_a_later_version_survive_in_cursors_wanted_rows_and_peers() {
    let bench = Bench::new();
    let store = bench.open();
    let cursor = Cursor { store_id: StoreId([1; 16]), epoch: Epoch([1; 8]), followed: Seq(7), walk: None };
    let write = || {
        store.save_cursor("p", Some(&cursor)).unwrap();
        store.note_wanted(&[wanted("a", NOW_MS, "one")]).unwrap();
        store.remember_peers(&["http://one".into()]).unwrap();
    };
    write();
    let wanted_id = id("ios", "a");
    let rows = [
        (Table::Cursors, b"p".as_slice()),
        (Table::Wanted, wanted_id.as_bytes().as_slice()),
        (Table::Peers, b"last_known".as_slice()),
    ];
    let read = |table, key: &[u8]| store.core().index.get(table, key).unwrap().unwrap().to_vec();
    for (table, key) in rows {
        let mut json: serde_json::Value = serde_json::from_slice(&read(table, key)[1..]).unwrap();
        json["later"] = "kept".into();
        let mut batch = store.core().index.batch();
        batch.put(table, key, &[vec![1], serde_json::to_vec(&json).unwrap()].concat());
        store.core().index.write(batch, false).unwrap();
    }
    write();
    for (table, key) in rows {
        let json: serde_json::Value = serde_json::from_slice(&read(table, key)[1..]).unwrap();
        assert_eq!(json["later"], "kept", "{table:?}");
    }
    assert_eq!(store.cursor("p").unwrap(), Some(cursor.clone()));
    assert_eq!(store.remembered_peers().unwrap(), ["http://one"]);
}

#[test]
fn only_its_own_version_or_a_newer_one_settles_a_row_and_a_try_brings_none_back() {
    let bench = Bench::new();
    let store = bench.open();
    let row = wanted("a", 200, "one");
    assert!(store.note_wanted(std::slice::from_ref(&row)).unwrap());
    let older = Version { version_ms: 100, ..row.version };
    store.settle_wanted(&[(row.id, older), (id("ios", "b"), older)]).unwrap();
    assert_eq!(counted(&store), (1, 1), "what was noted meanwhile stays");
    let tried = Wanted { attempts: 7, ..row.clone() };
    store.note_tried(std::slice::from_ref(&tried)).unwrap();
    assert_eq!(store.wanted(&row.id).unwrap().unwrap().attempts, 7);
    store.settle_wanted(&[(row.id, row.version), (row.id, row.version)]).unwrap();
    assert_eq!(counted(&store), (0, 0));
    store.note_tried(&[tried]).unwrap();
    assert_eq!(counted(&store), (0, 0), "it was settled while it was tried");
}

#[test]
fn a_row_with_a_reason_of_a_later_version_is_read_and_still_wanted() {
    let row = serde_json::to_string(&wanted("a", 100, "one")).unwrap();
    let later = row.replace("waiting_for_peer", "frozen_in_transit").replace("\"attempts\"", "\"mood\":1,\"attempts\"");
    let bytes = [&[super::tagged::VERSION][..], later.as_bytes()].concat();
    let read = super::wanted::decode::<Wanted>("wanted", &bytes).unwrap();
    assert_eq!(read, Wanted { reason: WantedReason::Unknown, ..wanted("a", 100, "one") });
}
