//! What the store says of one artifact: here, gone, or never here.

use super::State;
use crate::core::base::ids::{Digest, Version};
use crate::core::store::committer::{Operation, PutMode, PutOrigin};
use crate::core::store::keys::Table;
use crate::core::store::store_tests::{Bench, NOW_MS, applied, delete, id, local, name, outcome, put};
use crate::core::store::wanted::{Wanted, WantedReason};
use crate::core::store::{EvictGoal, Store, Wants};

fn state(store: &Store, key: &str) -> State {
    store.explain(&id("ios", key), Some("ios")).unwrap().state
}

#[test]
fn each_state_is_told_apart_on_an_open_store_and_read_only() {
    let bench = Bench::new();
    let store = bench.open();
    assert_eq!(state(&store, "nothing"), State::Absent);
    let held = applied(&store, local("ios", "held", b"inline"));
    applied(&store, super::super::fault_tests::file_put(&bench, "ios", "file", &[1; 5000]));
    applied(&store, local("ios", "torn", b"torn"));
    let mut batch = store.core().index.batch();
    batch.put(Table::Manifests, id("ios", "torn").as_bytes(), b"no record");
    store.core().index.write(batch, true).unwrap();
    let bad = applied(&store, local("ios", "bad", b"bad"));
    store.report_bad_body(&bad, "for the test");
    store.note_wanted(&[wanted("wanted")]).unwrap();
    let check = |store: &Store| {
        let told = store.explain(&id("ios", "held"), None).unwrap();
        assert_eq!((told.state, told.manifest.unwrap().version()), (State::Held, held.version()));
        assert_eq!(told.body.unwrap().place, "inline");
        let file = store.explain(&id("ios", "file"), None).unwrap().body.unwrap();
        assert!(file.place == "file" && std::path::Path::new(&file.path.unwrap()).is_file());
        assert_eq!(state(store, "torn"), State::Unreadable);
        assert_eq!(state(store, "bad"), State::Withdrawn);
        assert_eq!(state(store, "wanted"), State::Wanted);
    };
    check(&store);
    store.close().unwrap();
    check(&Store::open_read_only(bench.options()).unwrap());
}

fn wanted(key: &str) -> Wanted {
    Wanted {
        id: id("ios", key),
        version: Version { version_ms: NOW_MS, logical: 0, digest: Digest([1; 32]) },
        size: 5,
        name: ("xcode".into(), "ios".into(), key.into()),
        holders: vec!["http://a".into()],
        reason: WantedReason::WaitingForPeer,
        error: None,
        attempts: 1,
        next_try_ms: 0,
    }
}

#[test]
fn what_was_evicted_or_deleted_says_so_and_what_would_become_of_a_peers_version() {
    let bench = Bench::new();
    let store = bench.open();
    let evicted = applied(&store, local("ios", "evicted", &[1; 1000]));
    store.evict(EvictGoal { bytes: 1, under_pressure: false }).unwrap();
    let told = store.explain(&id("ios", "evicted"), None).unwrap();
    assert_eq!((told.state, told.stub.unwrap().version_ms), (State::Evicted, evicted.version_ms));
    let would = |key: &str, version| store.would_take(&name("ios", key), version, 1000).unwrap();
    assert_eq!(would("evicted", evicted.version()), Wants::Evicted);
    assert_eq!(would("new", evicted.version()), Wants::Fetch);

    let gone = applied(&store, local("ios", "gone", b"gone"));
    outcome(&store, delete("ios", None));
    let told = store.explain(&id("ios", "gone"), Some("ios")).unwrap();
    assert!(matches!(told.state, State::Deleted | State::NamespaceDeleted), "{told:?}");
    assert!(told.tombstone_version_ms.is_some_and(|version_ms| version_ms >= gone.version_ms));
    assert_eq!(would("gone", gone.version()), Wants::Tombstoned);
    assert_eq!(state(&store, "never"), State::NamespaceDeleted);
}

#[test]
fn an_artifact_whose_time_is_over_is_told_from_one_that_is_served() {
    let bench = Bench::new();
    let store = bench.open();
    let Operation::Put(mut expiring) = put("ios", "short", b"x", PutOrigin::Local(PutMode::LastWriterWins)) else {
        panic!("a put");
    };
    expiring.carried.expires_at_ms = Some(NOW_MS + 10);
    applied(&store, Operation::Put(expiring));
    assert_eq!(state(&store, "short"), State::Held);
    bench.clock.advance(std::time::Duration::from_millis(20));
    assert_eq!(state(&store, "short"), State::Expired);
}

#[test]
fn the_json_of_an_older_and_of_a_later_version_is_read() {
    let older: super::Explanation = serde_json::from_str(r#"{"state":"held"}"#).unwrap();
    assert_eq!(older.state, State::Held);
    let later: super::Explanation =
        serde_json::from_str(r#"{"state":"frozen","moon":1,"stub":{"reason":"melted"}}"#).unwrap();
    assert_eq!((later.state, later.stub.unwrap().reason.as_str()), (State::Unknown, "melted"));
}
