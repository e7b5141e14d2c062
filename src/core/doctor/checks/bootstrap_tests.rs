//! Wanted rows and cursors in a real store.

use super::*;
use crate::core::base::ids::{ArtifactId, Epoch, Seq, StoreId, Version};
use crate::core::doctor::finding::Status;
use crate::core::doctor::test_support::{context, look, store};
use crate::core::store::cursor::{Cursor, Walk};

fn wanted(key: &str, reason: WantedReason) -> Wanted {
    Wanted {
        id: ArtifactId::compute("gradle", "default", "", key),
        version: Version { version_ms: 1, logical: 0, digest: crate::core::base::ids::Digest::of(b"") },
        size: 1,
        name: ("gradle".to_owned(), String::new(), key.to_owned()),
        holders: vec!["http://a:7443".to_owned()],
        reason,
        error: Some("the peer answered 500".to_owned()),
        attempts: 3,
        next_try_ms: 0,
    }
}

#[test]
fn a_store_that_wants_nothing_is_quiet_and_so_is_what_no_peer_has() {
    let root = tempfile::tempdir().unwrap();
    let open = store(root.path());
    assert_eq!(look(&BootstrapIncomplete, &context(root.path())).message, "nothing is left to catch up");
    open.note_wanted(&[wanted("lost", WantedReason::Unavailable)]).unwrap();
    open.close().unwrap();
    let outcome = look(&BootstrapIncomplete, &context(root.path()));
    assert_eq!(outcome.status, Status::Ok);
    assert_eq!(outcome.evidence.values()["unavailable"], 1);
}

#[test]
fn failed_items_are_counted_and_named_with_peer_and_error() {
    let root = tempfile::tempdir().unwrap();
    let open = store(root.path());
    let rows: Vec<Wanted> = (0..7).map(|n| wanted(&format!("k{n}"), WantedReason::Failed)).collect();
    open.note_wanted(&rows).unwrap();
    open.note_wanted(&[wanted("bad", WantedReason::BadCopy)]).unwrap();
    open.close().unwrap();
    let outcome = look(&BootstrapIncomplete, &context(root.path()));
    assert_eq!((outcome.status, outcome.message.as_str()), (Status::Warn, "8 artifacts are known and not here"));
    let values = outcome.evidence.values();
    assert_eq!((&values["failed"], &values["bad_copy"], &values["items_total"]), (&7.into(), &1.into(), &8.into()));
    assert_eq!(outcome.evidence.details()[0], "http://a:7443 is to give 8");
    assert!(outcome.evidence.details()[1].ends_with("after 3 tries: the peer answered 500"));
}

#[test]
fn a_backfill_under_way_is_a_warning() {
    let root = tempfile::tempdir().unwrap();
    let open = store(root.path());
    let walk = Some(Walk { lo_seq: Seq(0), hi_seq: Seq(90), position: None });
    let cursor = Cursor { store_id: StoreId([1; 16]), epoch: Epoch::default(), followed: Seq(90), walk };
    open.save_cursor("peer", Some(&cursor)).unwrap();
    open.close().unwrap();
    let outcome = look(&BootstrapIncomplete, &context(root.path()));
    assert_eq!(outcome.status, Status::Warn);
    assert!(outcome.evidence.details()[0].contains("rows 0 to 90 under way"), "{outcome:?}");
}
