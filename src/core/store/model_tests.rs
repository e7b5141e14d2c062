//! The store against a map: random changes with stops, kills and moving clocks, compared after each step.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use super::committer::{CommitOutcome, Operation, PutMode, PutOrigin};
use super::fault_tests::file_put;
use super::recount::recount;
use super::store_tests::{Bench, NOW_MS, applied, body, delete, id, local, outcome, put, replicated};
use super::walk::{FeedRequest, FeedRow};
use super::*;
use crate::core::base::clock::Clock as _;
use crate::core::base::disk::{Disk, DiskOperation, FaultDisk, RealDisk};
use crate::core::base::ids::{Digest, Seq, Version};
use crate::core::base::limits::CLOCK_SKEW_MAX_MS;

const KEYS: [(&str, &str); 5] = [("ios", "a"), ("ios", "b"), ("", "a"), ("android", "a"), ("android", "b")];

#[derive(Debug, Clone)]
enum Step {
    Put { key: usize, content: u8, write_once: bool },
    PutFile { key: usize, content: u8 },
    Replicated { key: usize, content: u8, version_ms: u64 },
    Delete { key: usize, version_ms: Option<u64> },
    Harm { key: usize },
    Read { key: usize },
    Evict { bytes: u64, under_pressure: bool },
    FoldStubs,
    Clock { forward_ms: u64 },
    ClockBack,
    Stop,
    Kill,
}

fn any_step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS.len();
    // Few distinct versions and contents, so that ties and adoptions happen.
    let version = prop_oneof![Just(1), (0..6_u64).prop_map(|n| NOW_MS + n), Just(NOW_MS + 2 * CLOCK_SKEW_MAX_MS)];
    prop_oneof![
        5 => (key.clone(), 0..4_u8, any::<bool>()).prop_map(|(key, content, write_once)| Step::Put { key, content, write_once }),
        2 => (key.clone(), 0..4_u8).prop_map(|(key, content)| Step::PutFile { key, content }),
        5 => (key.clone(), 0..4_u8, version.clone())
            .prop_map(|(key, content, version_ms)| Step::Replicated { key, content, version_ms }),
        2 => (key.clone(), prop::option::of(version)).prop_map(|(key, version_ms)| Step::Delete { key, version_ms }),
        1 => key.clone().prop_map(|key| Step::Harm { key }),
        1 => key.prop_map(|key| Step::Read { key }),
        2 => (1..3000_u64, any::<bool>()).prop_map(|(bytes, under_pressure)| Step::Evict { bytes, under_pressure }),
        1 => Just(Step::FoldStubs),
        1 => (0..4_u64).prop_map(|forward_ms| Step::Clock { forward_ms }),
        1 => Just(Step::ClockBack),
        1 => Just(Step::Stop),
        1 => Just(Step::Kill),
    ]
}

/// What should be there.
#[derive(Debug, Default)]
struct Model {
    artifacts: BTreeMap<usize, (Version, Vec<u8>)>,
    tombstones: BTreeMap<&'static str, u64>,
    /// What went: the version, and whether it was withdrawn, so that it may return.
    gone: BTreeMap<usize, (Version, bool)>,
    /// Up to where what is neither here nor gone counts as evicted.
    floor_ms: u64,
}

impl Model {
    fn put(&mut self, key: usize, bytes: &[u8], outcome: &CommitOutcome) {
        let CommitOutcome::Applied(record) = outcome else { panic!("not applied: {outcome:?}") };
        let newer = self.artifacts.get(&key).is_none_or(|(version, _)| *version < record.version());
        assert!(newer, "a write that was applied does not win");
        assert!(self.tombstones.get(KEYS[key].0).is_none_or(|tombstone| *tombstone < record.version_ms));
        self.artifacts.insert(key, (record.version(), bytes.to_vec()));
        if let Some((gone, may_return)) = self.gone.remove(&key) {
            assert!(record.version() > gone || (may_return && record.version() == gone), "an evicted version is back");
        }
    }

    fn is_gone(&self, key: usize, version: Version) -> bool {
        match self.gone.get(&key) {
            Some((gone, true)) => version < *gone,
            Some((gone, false)) => version <= *gone,
            None => version.version_ms <= self.floor_ms,
        }
    }

    /// What an eviction took, which may be anything but what is newer than what it left.
    fn evicted(&mut self, store: &Store, report: &EvictReport, asked: u64) {
        let left = |key: &usize| store.lookup(&id(KEYS[*key].0, KEYS[*key].1)).unwrap().is_some();
        let (kept, went): (BTreeMap<_, _>, _) =
            std::mem::take(&mut self.artifacts).into_iter().partition(|(key, _)| left(key));
        assert_eq!(report.artifacts, went.len() as u64);
        assert!(report.bytes >= asked || kept.is_empty());
        self.artifacts = kept;
        self.gone.extend(went.into_iter().map(|(key, (version, _))| (key, (version, false))));
    }

    /// What is folded is no longer known by itself.
    fn folded(&mut self, store: &Store) {
        self.floor_ms = store.stats().evicted_floor_ms;
        for (at, (namespace, key)) in KEYS.into_iter().enumerate() {
            let stub = store.core().stub(&id(namespace, key)).unwrap();
            if stub.is_none()
                && let Some((version, _)) = self.gone.remove(&at)
            {
                assert!(version.version_ms <= self.floor_ms, "a stub went without the floor");
            }
        }
    }

    fn replicated(&mut self, key: usize, bytes: &[u8], version_ms: u64, now_ms: u64, outcome: &CommitOutcome) {
        let version = Version { version_ms, logical: 0, digest: Digest::of(bytes) };
        let tombstone = self.tombstones.get(KEYS[key].0).copied();
        if version_ms > now_ms + CLOCK_SKEW_MAX_MS {
            assert_eq!(*outcome, CommitOutcome::ClockSkew { version_ms });
        } else if tombstone.is_some_and(|tombstone| tombstone >= version_ms) {
            assert_eq!(*outcome, CommitOutcome::Tombstoned);
        } else if self.artifacts.get(&key).is_some_and(|(here, _)| *here >= version) {
            assert!(matches!(outcome, CommitOutcome::Stale(_)), "{outcome:?}");
        } else if !self.artifacts.contains_key(&key) && self.is_gone(key, version) {
            assert_eq!(*outcome, CommitOutcome::Evicted);
        } else {
            self.put(key, bytes, outcome);
        }
    }

    fn delete(&mut self, key: usize, asked_ms: Option<u64>, now_ms: u64, outcome: &CommitOutcome) {
        let namespace = KEYS[key].0;
        let standing = self.tombstones.get(namespace).copied();
        match (asked_ms, outcome) {
            (Some(asked), CommitOutcome::ClockSkew { .. }) => assert!(asked > now_ms + CLOCK_SKEW_MAX_MS),
            (Some(asked), CommitOutcome::DeleteIgnored) => assert!(standing.is_some_and(|standing| standing >= asked)),
            (_, CommitOutcome::Deleted { version_ms }) => {
                assert!(asked_ms.is_none_or(|asked| asked == *version_ms));
                assert!(standing.is_none_or(|standing| standing < *version_ms));
                self.tombstones.insert(namespace, *version_ms);
                self.artifacts.retain(|key, (version, _)| {
                    KEYS[*key].0 != namespace || (asked_ms.is_some() && version.version_ms > *version_ms)
                });
            }
            other => panic!("{other:?}"),
        }
    }

    fn check(&self, store: &Store) {
        for (at, (namespace, key)) in KEYS.into_iter().enumerate() {
            let found = store.lookup(&id(namespace, key)).unwrap().map(|record| record.version());
            assert_eq!(found, self.artifacts.get(&at).map(|(version, _)| *version), "{namespace}/{key}");
            assert_eq!(body(store, namespace, key), self.artifacts.get(&at).map(|(_, bytes)| bytes.clone()));
        }
        let bytes: usize = self.artifacts.values().map(|(_, bytes)| bytes.len()).sum();
        let stats = store.stats();
        assert_eq!((stats.artifacts, stats.body_bytes), (self.artifacts.len() as u64, bytes as u64));
    }
}

/// The feed from the start shows exactly what is there, each artifact and tombstone once, in order.
fn check_feed(store: &Store, model: &Model) {
    let request =
        FeedRequest { after: Seq(0), up_to: None, rows_max: 1000, bytes_max: u64::MAX, inline_up_to: 1 << 20 };
    let page = store.feed_page(&request).unwrap();
    let mut last = Seq(0);
    let (mut puts, mut deletes) = (0, 0);
    for row in &page.rows {
        let seq = match row {
            FeedRow::Put(record, _) => {
                puts += 1;
                record.seq
            }
            FeedRow::NamespaceDelete(tombstone) => {
                deletes += 1;
                assert_eq!(model.tombstones.get(tombstone.namespace.as_str()), Some(&tombstone.version_ms));
                tombstone.seq
            }
        };
        assert!(seq > last && seq <= page.head_seq);
        last = seq;
    }
    assert_eq!((puts, deletes), (model.artifacts.len(), model.tombstones.len()));
}

fn step(bench: &Bench, store: &Store, model: &mut Model, step: &Step) {
    let now_ms = bench.clock.now_ms();
    match *step {
        Step::Put { key, content, write_once } => {
            let (bytes, (namespace, name)) = ([content; 8], KEYS[key]);
            if write_once {
                let mode = PutOrigin::Local(PutMode::WriteOnce);
                let outcome = outcome(store, put(namespace, name, &bytes, mode));
                match model.artifacts.contains_key(&key) {
                    true => assert!(matches!(outcome, CommitOutcome::AlreadyPresent(_))),
                    false => model.put(key, &bytes, &outcome),
                }
            } else {
                model.put(key, &bytes, &outcome(store, local(namespace, name, &bytes)));
            }
        }
        Step::PutFile { key, content } => {
            let bytes = [content; 100];
            model.put(key, &bytes, &outcome(store, file_put(bench, KEYS[key].0, KEYS[key].1, &bytes)));
        }
        Step::Replicated { key, content, version_ms } => {
            let bytes = [content; 8];
            let outcome = outcome(store, replicated(KEYS[key].0, KEYS[key].1, &bytes, version_ms));
            model.replicated(key, &bytes, version_ms, now_ms, &outcome);
        }
        Step::Delete { key, version_ms } => {
            model.delete(key, version_ms, now_ms, &outcome(store, delete(KEYS[key].0, version_ms)));
        }
        Step::Harm { key } => {
            if let Some(record) = store.lookup(&id(KEYS[key].0, KEYS[key].1)).unwrap() {
                store.report_bad_body(&record, "harmed");
                let (version, _) = model.artifacts.remove(&key).unwrap();
                model.gone.insert(key, (version, true));
            }
        }
        Step::Read { key } => store.note_read(&id(KEYS[key].0, KEYS[key].1)),
        Step::Evict { bytes, under_pressure } => {
            let report = store.evict(EvictGoal { bytes, under_pressure }).unwrap();
            model.evicted(store, &report, bytes);
        }
        Step::FoldStubs => {
            store.core().eviction.stubs_max.store(1, std::sync::atomic::Ordering::Release);
            store.evict(EvictGoal::default()).unwrap();
            model.folded(store);
            store.core().eviction.stubs_max.store(1000, std::sync::atomic::Ordering::Release);
        }
        Step::Clock { forward_ms } => bench.clock.advance(Duration::from_millis(forward_ms)),
        Step::ClockBack => bench.clock.set_wall_ms(NOW_MS - 1000),
        Step::Stop | Step::Kill => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_a_map_would(steps in prop::collection::vec(any_step(), 1..40)) {
        let bench = Bench::new();
        let mut store = bench.open();
        let mut model = Model::default();
        for one in &steps {
            if matches!(one, Step::Stop | Step::Kill) {
                if matches!(one, Step::Stop) {
                    store.close().unwrap();
                }
                drop(store);
                let (again, report) = Store::open(bench.options()).unwrap();
                prop_assert_eq!(report.unclean, matches!(one, Step::Kill));
                prop_assert_eq!(report.orphan_bodies_removed, 0);
                store = again;
                prop_assert_eq!(recount(&store).unwrap().mismatches, Vec::<String>::new());
            } else {
                step(&bench, &store, &mut model, one);
            }
            model.check(&store);
        }
        check_feed(&store, &model);
        let count = recount(&store).unwrap();
        prop_assert_eq!((count.mismatches, count.garbage), (Vec::<String>::new(), 0));
    }
}

#[test]
fn a_put_is_synced_named_and_its_folder_synced_in_that_order() {
    let disk = Arc::new(FaultDisk::new(Arc::new(RealDisk)));
    let bench = Bench::on(Arc::clone(&disk) as Arc<dyn Disk>);
    let store = bench.open();
    applied(&store, file_put(&bench, "ios", "first", &[1; 500]));
    let operation = file_put(&bench, "ios", "second", &[2; 500]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    disk.set_rule(Some(Box::new(move |operation, path, _| {
        log.lock()
            .unwrap()
            .push((operation, path.map(|path| path.file_name().unwrap().to_string_lossy().into_owned())));
        None
    })));
    applied(&store, operation);
    let seen = seen.lock().unwrap().clone();
    let expected = [
        (DiskOperation::Write, None),
        (DiskOperation::Write, None),
        (DiskOperation::Sync, None),
        (DiskOperation::Link, Some("0000000000000001".to_owned())),
        (DiskOperation::Sync, Some("0".to_owned())),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn with_relaxed_durability_a_put_waits_for_no_sync() {
    let disk = Arc::new(FaultDisk::new(Arc::new(RealDisk)));
    let mut bench = Bench::on(Arc::clone(&disk) as Arc<dyn Disk>);
    bench.durability = crate::core::config::Durability::Process;
    let store = bench.open();
    applied(&store, file_put(&bench, "ios", "first", &[1; 500]));
    let operation = file_put(&bench, "ios", "second", &[2; 500]);
    disk.set_rule(Some(Box::new(|operation, _, _| {
        (operation == DiskOperation::Sync).then(|| std::io::ErrorKind::Other.into())
    })));
    applied(&store, operation);
}

#[test]
fn many_files_in_one_group_share_one_sync_of_the_filesystem() {
    use super::group::{Answer, Pending};
    let disk = Arc::new(FaultDisk::new(Arc::new(RealDisk)));
    let bench = Bench::on(Arc::clone(&disk) as Arc<dyn Disk>);
    let store = bench.open();
    applied(&store, file_put(&bench, "ios", "first", &[1; 500]));
    let mut receivers = Vec::new();
    let group = (0..10_u8).map(|n| {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        receivers.push(receiver);
        let operation: Operation = file_put(&bench, "ios", &format!("k{n}"), &[n; 500]);
        Pending::new(super::evaluate::Work::Change(operation), Answer::Change(sender))
    });
    let group: Vec<_> = group.collect();
    let syncs = Arc::new(Mutex::new(0));
    let count = Arc::clone(&syncs);
    disk.set_rule(Some(Box::new(move |operation, _, number| {
        *count.lock().unwrap() += u32::from(operation == DiskOperation::Sync);
        // The third file cannot be named: it alone fails, and the rest of the group is decided again.
        (operation == DiskOperation::Link && number == 23).then(|| std::io::ErrorKind::StorageFull.into())
    })));
    store.run_group(group);
    let outcomes: Vec<_> = receivers.iter_mut().map(|receiver| receiver.try_recv().unwrap()).collect();
    let failed: Vec<_> =
        outcomes.iter().enumerate().filter(|(_, outcome)| outcome.is_err()).map(|(at, _)| at).collect();
    assert_eq!(failed, [2]);
    // One of the filesystem before the fault; after it again, and the folder's.
    assert_eq!(*syncs.lock().unwrap(), 3);
    disk.set_rule(None);
    assert_eq!(store.stats().artifacts, 10);
    for n in (0..10_u8).filter(|n| *n != 2) {
        assert_eq!(body(&store, "ios", &format!("k{n}")).unwrap(), [n; 500]);
    }
    assert_eq!(recount(&store).unwrap().mismatches, Vec::<String>::new());
}

#[test]
fn a_group_is_decided_in_order_against_its_own_changes() {
    use super::evaluate::Work;
    use super::group::{Answer, Pending};
    let bench = Bench::new();
    let store = bench.open();
    let mut receivers = Vec::new();
    let operations = [
        put("ios", "a", b"one", PutOrigin::Local(PutMode::WriteOnce)),
        put("ios", "a", b"two", PutOrigin::Local(PutMode::WriteOnce)),
        delete("ios", None),
        replicated("ios", "a", b"old", NOW_MS),
        put("ios", "a", b"three", PutOrigin::Local(PutMode::WriteOnce)),
        file_put(&bench, "ios", "a", &[4; 100]),
    ];
    let group: Vec<_> = operations
        .into_iter()
        .map(|operation| {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            receivers.push(receiver);
            Pending::new(Work::Change(operation), Answer::Change(sender))
        })
        .collect();
    store.run_group(group);
    let outcomes: Vec<_> = receivers.iter_mut().map(|receiver| receiver.try_recv().unwrap().unwrap()).collect();
    assert!(matches!(&outcomes[0], CommitOutcome::Applied(record) if record.version_ms == NOW_MS));
    assert!(matches!(&outcomes[1], CommitOutcome::AlreadyPresent(_)));
    assert!(matches!(&outcomes[2], CommitOutcome::Deleted { version_ms } if *version_ms == NOW_MS));
    assert_eq!(outcomes[3], CommitOutcome::Tombstoned);
    assert!(matches!(&outcomes[4], CommitOutcome::Applied(record) if record.version_ms == NOW_MS + 1));
    assert!(matches!(&outcomes[5], CommitOutcome::Applied(record) if record.version_ms == NOW_MS + 2));
    assert_eq!(body(&store, "ios", "a").unwrap(), [4; 100]);
    store.close().unwrap();
    drop(store);
    let store = bench.open();
    assert_eq!(recount(&store).unwrap().mismatches, Vec::<String>::new());
    assert_eq!(recount(&store).unwrap().garbage, 0);
}
