//! Where two sides differ, why something is missing, and when it is not.

use super::*;
use crate::core::base::executor::InlineExecutor;
use crate::core::base::ids::{Digest, Version};
use crate::core::doctor::test_support::{runtime, small_put, store, world};
use crate::core::mesh::http_transport::HttpTransport;
use crate::core::store::explain::ManifestFacts;
use crate::core::store::store_handle::StoreHandle;
use crate::core::store::wanted::{Wanted, WantedReason};

/// Two data dirs with 300 artifacts in common, of which each also has so many of its own.
fn compared(own: u32) -> Difference {
    let roots = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let sides = [0, 1].map(|at: usize| {
        let node = store(roots[at].path());
        let common = (0..300).map(|number| format!("both-{number}"));
        for key in common.chain((0..own).map(|number| format!("only-{at}-{number}"))) {
            node.submit(small_put(&key, key.as_bytes())).wait().unwrap();
        }
        Side::Files { store: Arc::new(node), name: format!("side {at}"), tenant_id: "default".to_owned() }
    });
    let client =
        PeerClient::new(Arc::new(HttpTransport::default()), StoreHandle::new(Arc::new(InlineExecutor)), "default");
    let an_hour_later = world().clock.now_ms() + 3_600_000;
    runtime().block_on(compare(&client, &sides[0], &sides[1], an_hour_later)).unwrap()
}

#[test]
fn a_few_differences_are_all_found() {
    assert_eq!((compared(0).ranges, compared(0).is_whole), (0, true));
    let few = compared(3);
    assert_eq!((few.missing_on_one.len(), few.missing_on_two.len(), few.is_whole), (3, 3, true));
    assert!(few.ranges <= 6 && few.parts <= 6);
}

/// Looking through a range costs each side all of its manifests there.
#[test]
fn of_many_differences_no_more_ranges_are_looked_through_than_it_takes_to_name_some() {
    let many = compared(300);
    assert!(!many.is_whole && many.ranges == 16, "{many:?}");
    // Some 36 parts of each range differ.
    assert!(many.parts > PARTS_MAX && many.parts < 3 * PARTS_MAX, "{} parts", many.parts);
    assert!(!many.missing_on_one.is_empty() && !many.missing_on_two.is_empty());
}

fn holding(id: u8, version_ms: u64) -> Holding {
    Holding {
        id: ArtifactId([id; 32]),
        version: Version { version_ms, logical: 0, digest: Digest([id; 32]) },
        producer: "metro".to_owned(),
        namespace: String::new(),
        key: format!("key-{id}"),
        size: 10,
    }
}

fn listing(rows: &[Holding]) -> BTreeMap<ArtifactId, Holding> {
    rows.iter().map(|row| (row.id, row.clone())).collect()
}

#[test]
fn an_older_version_is_missing_the_newer_one_and_not_the_other_way_round() {
    let (here, there) = (listing(&[holding(1, 9), holding(2, 5)]), listing(&[holding(1, 9), holding(2, 7)]));
    assert_eq!(missing(&here, &there), []);
    assert_eq!(missing(&there, &here), [Missing { holding: holding(2, 7), why: None }]);
}

#[test]
fn what_is_evicted_or_here_by_now_is_no_difference_and_all_else_says_what_closes_it() {
    let said = |told: Explanation| why(&told, &holding(1, 50), "http://a", 1_000);
    let told = |state| Explanation { state, ..Explanation::default() };
    for state in [State::Evicted, State::BelowFloor, State::Expired] {
        assert_eq!(said(told(state)), None);
    }
    let version = holding(1, 50).version;
    let manifest = |version_ms| ManifestFacts { version_ms, digest: version.digest, ..ManifestFacts::default() };
    assert_eq!(said(Explanation { manifest: Some(manifest(50)), ..told(State::Held) }), None);
    let older = said(Explanation { manifest: Some(manifest(40)), ..told(State::Held) }).unwrap();
    assert!(older.closes.contains("takes the newer one when it hears http://a"), "{older:?}");
    let row = Wanted {
        id: holding(1, 50).id,
        version,
        size: 10,
        name: ("metro".to_owned(), String::new(), "key".to_owned()),
        holders: Vec::new(),
        reason: WantedReason::Failed,
        error: Some("busy".to_owned()),
        attempts: 3,
        next_try_ms: 4_500,
    };
    let wanted = said(Explanation { wanted: Some(row), ..told(State::Wanted) }).unwrap();
    assert_eq!(
        (wanted.state.as_str(), wanted.closes.as_str()),
        ("wanted", "it is wanted there, 3 tries, the next in 4 s: busy")
    );
    assert_eq!(said(told(State::Absent)).unwrap().state, "absent");
    assert!(said(told(State::NamespaceDeleted)).unwrap().closes.starts_with("it is deleted there"));
}
