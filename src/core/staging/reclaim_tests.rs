//! What reclaiming promises, over real directories and over a model of them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;

use super::*;
use crate::core::base::disk::{DiskOperation, FaultDisk, RealDisk};
use crate::core::base::ids::{ArtifactId, Digest, InstanceId, Version};
use crate::core::data_dir::layout::ensure_directories;
use crate::core::staging::inventory::{StagedFolder, Visit};
use crate::core::staging::partials::{PartialHeader, PartialIdentity, file_bytes};
use crate::core::staging::removal::Told;

struct Bench {
    root: tempfile::TempDir,
    layout: Layout,
    disk: Arc<FaultDisk>,
}

impl Bench {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::with_default_tmp(root.path().join("data"));
        fs::create_dir(layout.data_dir()).unwrap();
        ensure_directories(&layout, &RealDisk).unwrap();
        Self { root, layout, disk: Arc::new(FaultDisk::new(Arc::new(RealDisk))) }
    }

    fn tree(&self) -> StagingFolders {
        StagingFolders::new(&self.layout, Arc::clone(&self.disk) as Arc<dyn Disk>)
    }

    /// A file below the tmp dir.
    fn put(&self, path: &str, length: usize) -> PathBuf {
        let path = self.layout.tmp_dir().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, vec![b'x'; length]).unwrap();
        path
    }

    fn reclaim(&self, policy: &ReclaimPolicy) -> ReclaimOutcome {
        let tree = self.tree();
        apply(policy, plan(policy, &tree), &tree, &mut ()).unwrap()
    }

    fn reclaim_all(&self, ownership: Ownership) -> ReclaimOutcome {
        self.reclaim(&ReclaimPolicy::everything(ownership, now_ms()))
    }

    /// Everything below the data dir, with contents of files.
    fn listing(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        list(self.root.path(), &mut found);
        found
    }
}

fn list(folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = path.symlink_metadata().unwrap().file_type();
        if kind.is_dir() {
            found.insert(path.clone(), b"folder".to_vec());
            list(&path, found);
        } else {
            let content = if kind.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            found.insert(path, content);
        }
    }
}

fn now_ms() -> u64 {
    use crate::core::base::clock::{Clock, SystemClock};
    SystemClock::default().now_ms()
}

fn figures(outcome: &ReclaimOutcome, kind: AreaKind) -> AreaFigures {
    *outcome.areas.iter().find(|area| area.kind == kind).unwrap()
}

/// The start-up order: lock, make directories, free dead staging; data is never touched.
#[test]
fn ensure_directories_creates_expected_layout() {
    let root = tempfile::tempdir().unwrap();
    let layout = Layout::with_default_tmp(root.path().join("state").join("kura"));
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    crate::core::data_dir::layout::create_data_dir(&layout, disk.as_ref()).unwrap();
    fs::create_dir_all(layout.tmp_dir().join("uploads")).unwrap();
    fs::create_dir_all(layout.tmp_dir().join("parts/0190-upload")).unwrap();
    fs::create_dir_all(layout.bodies().join("00")).unwrap();
    for stale in ["uploads/upload-1", "parts/0190-upload/1"] {
        fs::write(layout.tmp_dir().join(stale), vec![1; 100_000]).unwrap();
    }
    let data = layout.bodies().join("00").join("0000000000000001");
    fs::write(&data, b"a real body").unwrap();

    let lock = DataDirLock::try_acquire(&layout, 1).unwrap();
    let ensured = ensure_directories(&layout, disk.as_ref()).unwrap();
    assert!(ensured.is_complete() && ensured.notes.is_empty());
    assert_eq!(ensured.layout, layout);
    for folder in ["bodies", "quarantine", "tmp/uploads", "tmp/parts", "tmp/bootstrap"] {
        assert!(layout.data_dir().join(folder).is_dir(), "{folder}");
    }
    use std::os::unix::fs::PermissionsExt;
    for made in [layout.data_dir().to_path_buf(), layout.quarantine(), layout.tmp_dir().join("bootstrap")] {
        assert_eq!(made.metadata().unwrap().permissions().mode() & 0o777, 0o700, "{}", made.display());
    }
    assert!(layout.tmp_dir().join("uploads/upload-1").exists(), "making directories frees nothing");

    let outcome = reclaim_dead_staging(&layout, &lock, Arc::clone(&disk), now_ms()).unwrap();
    assert_eq!(outcome.removed().files, 2);
    assert!(outcome.failed.items.is_empty());
    for area in AreaKind::ALL {
        assert_eq!(fs::read_dir(layout.tmp_dir().join(area.name())).unwrap().count(), 0);
    }
    assert_eq!(fs::read(&data).unwrap(), b"a real body");
    assert_eq!(ensure_directories(&layout, disk.as_ref()).unwrap().made, 0);
}

#[test]
fn areas_named_by_the_layout_are_the_areas_of_staging() {
    assert_eq!(AreaKind::ALL.map(AreaKind::name), crate::core::data_dir::layout::AREA_NAMES);
}

#[test]
fn everything_in_the_areas_goes_and_nothing_else_does() {
    let bench = Bench::new();
    bench.put("uploads/upload-1", 10_000);
    bench.put("parts/u1/1", 20_000);
    bench.put("parts/u1/deep/er/2", 5_000);
    bench.put("bootstrap/bootstrap-1", 1);
    fs::create_dir(bench.layout.tmp_dir().join("parts/empty")).unwrap();
    let beside = bench.put("notes.txt", 10);
    let outside = bench.root.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), b"precious").unwrap();
    let link = bench.layout.tmp_dir().join("uploads/link");
    std::os::unix::fs::symlink(&outside, &link).unwrap();
    let link_to_file = bench.layout.tmp_dir().join("bootstrap/link");
    std::os::unix::fs::symlink(outside.join("precious"), &link_to_file).unwrap();
    fs::write(bench.layout.bodies().join("body"), b"body").unwrap();

    let before = bench.listing();
    let tree = bench.tree();
    let planned = plan(&ReclaimPolicy::everything(Ownership::Nobody, now_ms()), &tree);
    assert_eq!(bench.listing(), before, "planning changes nothing");
    assert_eq!(planned.planned().files, 4);
    let mut unknown = planned.unknown.items.clone();
    unknown.sort();
    assert_eq!(unknown, [link_to_file.clone(), beside.clone(), link.clone()]);
    let sizes: Vec<u64> = planned.files.iter().map(|file| file.bytes).collect();
    assert!(sizes.is_sorted_by(|one, other| one >= other), "{sizes:?}");

    let outcome = bench.reclaim_all(Ownership::Nobody);
    assert_eq!(outcome.removed(), planned.planned());
    assert_eq!(figures(&outcome, AreaKind::Parts).removed.files, 2);
    let left = bench.listing();
    let gone: Vec<_> = before.keys().filter(|path| !left.contains_key(*path)).collect();
    assert_eq!(gone.len(), 4 + 4, "four files and four folders: {gone:?}");
    assert!(left.iter().all(|(path, content)| before.get(path) == Some(content)));
    assert!(link.symlink_metadata().is_ok() && outside.join("precious").exists());

    let again = bench.reclaim_all(Ownership::Nobody);
    assert_eq!((again.removed(), again.failed.total), (Amount::default(), 0));
}

#[test]
fn an_area_that_is_a_link_is_unknown_and_not_followed() {
    let bench = Bench::new();
    let outside = bench.root.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), b"precious").unwrap();
    let area = bench.layout.tmp_dir().join("uploads");
    fs::remove_dir(&area).unwrap();
    std::os::unix::fs::symlink(&outside, &area).unwrap();
    let outcome = bench.reclaim_all(Ownership::Nobody);
    assert_eq!((outcome.unknown.items, outcome.failed.total), (vec![area], 0));
    assert!(outside.join("precious").exists());
}

#[test]
fn areas_of_a_tmp_dir_elsewhere_and_inside_the_data_dir_are_both_found() {
    let bench = Bench::new();
    let elsewhere = bench.root.path().join("elsewhere");
    let layout = Layout::new(bench.layout.data_dir(), &elsewhere);
    ensure_directories(&layout, &RealDisk).unwrap();
    fs::write(elsewhere.join("uploads/upload-1"), b"x").unwrap();
    bench.put("bootstrap/bootstrap-1", 1);
    let lock = DataDirLock::try_acquire(&layout, 1).unwrap();
    let outcome = reclaim_dead_staging(&layout, &lock, Arc::new(RealDisk), now_ms()).unwrap();
    assert_eq!(outcome.removed().files, 2);

    let by_two_names = bench.root.path().join("by-link");
    std::os::unix::fs::symlink(bench.layout.tmp_dir(), &by_two_names).unwrap();
    bench.put("bootstrap/bootstrap-1", 1);
    let tree = StagingFolders::new(&Layout::new(bench.layout.data_dir(), by_two_names), Arc::new(RealDisk));
    assert_eq!(plan(&ReclaimPolicy::everything(Ownership::Nobody, 0), &tree).planned().files, 1);
}

#[test]
fn beside_a_live_server_only_what_carries_no_lock_goes() {
    let bench = Bench::new();
    let owned = bench.put("uploads/upload-owned", 8192);
    let owned_part = bench.put("parts/owned/1", 8192);
    bench.put("uploads/upload-dead", 8192);
    bench.put("parts/dead/1", 8192);
    fs::create_dir(bench.layout.tmp_dir().join("parts/owned-and-empty")).unwrap();
    let lock = |path: &Path| {
        let handle = File::open(path).unwrap();
        rustix::fs::flock(&handle, rustix::fs::FlockOperation::LockExclusive).unwrap();
        handle
    };
    let held =
        [lock(&owned), lock(owned_part.parent().unwrap()), lock(&bench.layout.tmp_dir().join("parts/owned-and-empty"))];
    let outcome = bench.reclaim_all(Ownership::ByLock);
    assert_eq!(figures(&outcome, AreaKind::Uploads).in_use, Amount { files: 1, bytes: 8192 });
    assert_eq!(figures(&outcome, AreaKind::Parts).in_use, Amount { files: 1, bytes: 8192 });
    assert_eq!(outcome.removed(), Amount { files: 2, bytes: 16384 });
    assert!(owned.exists() && owned_part.exists());
    assert!(bench.layout.tmp_dir().join("parts/owned-and-empty").exists());
    assert!(!bench.layout.tmp_dir().join("parts/dead").exists());
    drop(held);
    assert_eq!(bench.reclaim_all(Ownership::ByLock).removed().files, 2);
}

/// A partial body, as a process leaves it that was killed.
fn put_partial(bench: &Bench, name: &str) -> PathBuf {
    use std::os::unix::fs::FileExt as _;
    let path = bench.put(name, 100_000);
    let version = Version { version_ms: 1, logical: 0, digest: Digest([2; 32]) };
    let identity = PartialIdentity { id: ArtifactId([1; 32]), version, size: 100_000, note: Vec::new() };
    let header = PartialHeader { sequence: 1, identity, durable_bytes: 50_000 };
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(file_bytes(100_000)).unwrap();
    file.write_all_at(&header.encode(), header.offset()).unwrap();
    path
}

#[test]
fn partial_bodies_stay_unless_their_area_is_named() {
    let bench = Bench::new();
    let partial = put_partial(&bench, "bootstrap/partial-1");
    let elsewhere = put_partial(&bench, "uploads/partial-1");
    let nameless = put_partial(&bench, "bootstrap/bootstrap-1");
    let torn = bench.put("bootstrap/partial-2", 100_000);
    let committed = put_partial(&bench, "bootstrap/partial-3");
    fs::hard_link(&committed, bench.root.path().join("body")).unwrap();
    for ownership in [Ownership::ByLock, Ownership::Nobody] {
        let outcome = bench.reclaim_all(ownership);
        let kept = figures(&outcome, AreaKind::Bootstrap).kept;
        assert!(kept.files == 1 && kept.bytes >= 100_000, "{kept:?}");
        assert!(partial.exists());
        assert!([&elsewhere, &nameless, &torn, &committed].iter().all(|path| !path.exists()));
    }
    let everything = ReclaimPolicy::everything(Ownership::Nobody, now_ms());
    let outcome = bench.reclaim(&ReclaimPolicy { keeps_partials: false, ..everything });
    assert_eq!((outcome.removed().files, partial.exists()), (1, false));
}

#[test]
fn a_file_locked_after_planning_is_kept() {
    let bench = Bench::new();
    let path = bench.put("uploads/upload-1", 4096);
    let policy = ReclaimPolicy::everything(Ownership::ByLock, now_ms());
    let tree = bench.tree();
    let planned = plan(&policy, &tree);
    let handle = File::open(&path).unwrap();
    rustix::fs::flock(&handle, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let outcome = apply(&policy, planned, &tree, &mut ()).unwrap();
    assert_eq!((outcome.removed().files, figures(&outcome, AreaKind::Uploads).in_use.files), (0, 1));
    assert!(path.exists());
}

#[test]
fn files_that_vanish_count_as_done_and_failures_do_not_stop_the_rest() {
    let bench = Bench::new();
    for number in 0..5 {
        bench.put(&format!("uploads/upload-{number}"), 4096 * (number + 1));
    }
    let policy = ReclaimPolicy::everything(Ownership::Nobody, now_ms());
    let tree = bench.tree();
    let planned = plan(&policy, &tree);
    fs::remove_file(bench.layout.tmp_dir().join("uploads/upload-1")).unwrap();
    bench.disk.set_rule(Some(Box::new(|operation, path: Option<&Path>, _| {
        let is_chosen = operation == DiskOperation::Unlink && path == Some(Path::new("upload-3"));
        is_chosen.then(|| std::io::Error::other("on purpose"))
    })));
    let outcome = apply(&policy, planned, &tree, &mut ()).unwrap();
    assert_eq!((outcome.removed().files, outcome.failed.total), (4, 1));
    let failed = outcome.failed.items.first().unwrap();
    assert_eq!(failed.path, bench.layout.tmp_dir().join("uploads/upload-3"));
    assert_eq!(failed.error, "on purpose");
}

#[test]
fn each_removal_may_fail_once_with_any_error_and_the_next_run_finishes() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        for failing in 0..8 {
            let bench = Bench::new();
            bench.put("uploads/upload-1", 5000);
            bench.put("uploads/upload-2", 6000);
            bench.put("parts/u/1", 7000);
            bench.put("parts/u/2", 8000);
            bench.put("bootstrap/bootstrap-1", 9000);
            bench.disk.set_rule(Some(Box::new(move |_, _, number| (number == failing).then(|| kind.into()))));
            let first = bench.reclaim_all(Ownership::Nobody);
            assert!(first.removed().files >= 4 && first.failed.total <= 1, "{failing}: {first:?}");
            bench.disk.set_rule(None);
            let second = bench.reclaim_all(Ownership::Nobody);
            assert_eq!((first.removed().files + second.removed().files, second.failed.total), (5, 0));
            assert_eq!(fs::read_dir(bench.layout.tmp_dir().join("parts")).unwrap().count(), 0);
        }
    }
}

#[test]
fn kinds_and_age_narrow() {
    let bench = Bench::new();
    bench.put("uploads/upload-new", 1);
    let old = bench.put("uploads/upload-old", 1);
    bench.put("bootstrap/bootstrap-old", 1);
    let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    File::options().write(true).open(&old).unwrap().set_modified(hour_ago).unwrap();
    let policy = ReclaimPolicy {
        kinds: vec![AreaKind::Uploads],
        older_than: Some(Duration::from_secs(1800)),
        ..ReclaimPolicy::everything(Ownership::Nobody, now_ms())
    };
    let outcome = bench.reclaim(&policy);
    assert_eq!((outcome.areas.len(), outcome.removed().files), (1, 1));
    assert!(!old.exists() && bench.layout.tmp_dir().join("bootstrap/bootstrap-old").exists());
}

#[test]
fn hard_links_count_once_and_only_when_all_names_are_in_the_areas() {
    let bench = Bench::new();
    let one = bench.put("uploads/one", 8192);
    fs::hard_link(&one, bench.layout.tmp_dir().join("bootstrap/two")).unwrap();
    let body = bench.layout.bodies().join("committed");
    fs::write(&body, vec![1; 8192]).unwrap();
    fs::hard_link(&body, bench.layout.tmp_dir().join("uploads/left-behind")).unwrap();
    let tree = bench.tree();
    let planned = plan(&ReclaimPolicy::everything(Ownership::Nobody, 0), &tree);
    assert_eq!((planned.planned(), planned.linked_elsewhere), (Amount { files: 3, bytes: 8192 }, 1));
    assert_eq!(bench.reclaim_all(Ownership::Nobody).removed(), Amount { files: 3, bytes: 8192 });
    assert_eq!(fs::read(&body).unwrap(), vec![1; 8192]);
}

#[test]
fn nothing_is_written_before_the_first_removal() {
    let bench = Bench::new();
    bench.put("uploads/upload-1", 4096);
    let operations = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&operations);
    bench.disk.set_rule(Some(Box::new(move |operation, _, _| {
        seen.lock().unwrap().push(operation);
        None
    })));
    bench.reclaim_all(Ownership::Nobody);
    let operations = operations.lock().unwrap();
    assert_eq!(operations.first(), Some(&DiskOperation::Unlink));
    assert!(!operations.iter().any(|operation| matches!(operation, DiskOperation::Create | DiskOperation::Write)));
}

#[test]
fn the_record_of_a_live_server_is_believed_only_for_its_own_process() {
    let bench = Bench::new();
    let holder = LockHolder::current(1);
    assert_eq!(ownership_beside(&bench.layout, &holder), None, "a seed-era node leaves no record");
    let record = RunRecord::starting(InstanceId([1; 16]), 1);
    record.store(&bench.layout, &RealDisk).unwrap();
    assert_eq!(ownership_beside(&bench.layout, &holder), Some(Ownership::ByLock));
    let others = [
        LockHolder { pid: Some(std::process::id() + 1), ..holder.clone() },
        LockHolder { host: Some("elsewhere".to_owned()), ..holder.clone() },
        LockHolder { pid: None, ..holder.clone() },
    ];
    assert!(others.iter().all(|other| ownership_beside(&bench.layout, other).is_none()));
    record.stopped(2).store(&bench.layout, &RealDisk).unwrap();
    assert_eq!(ownership_beside(&bench.layout, &holder), None);
}

/// A model of the areas: sizes by path, with a volume that fills and empties.
#[derive(Default)]
struct Model {
    files: RefCell<BTreeMap<StagedPath, u64>>,
    stubborn: Vec<StagedPath>,
    free: Cell<u64>,
    looks: Cell<u64>,
}

impl Model {
    fn with(sizes: impl IntoIterator<Item = u64>) -> Self {
        let folders = AreaKind::ALL.map(|kind| Arc::new(StagedFolder { root: 0, kind, names: Vec::new() }));
        let path = |number: usize| StagedPath {
            folder: Arc::clone(&folders[number % 3]),
            name: OsString::from(format!("{number:06}")),
        };
        let files = sizes.into_iter().enumerate().map(|(number, bytes)| (path(number), bytes)).collect();
        Self { files: RefCell::new(files), ..Self::default() }
    }
}

impl StagingTree for Model {
    fn scan_while(&self, kinds: &[AreaKind], _ownership: Ownership, visit: &mut Visit<'_>) {
        for (path, bytes) in self.files.borrow().iter().filter(|(path, _)| kinds.contains(&path.folder.kind)) {
            let entry = StagedEntry {
                path: path.clone(),
                bytes: *bytes,
                links: 1,
                inode: 1,
                modified_ms: 0,
                is_owned: false,
                is_partial: false,
            };
            if visit(Found::Staged(entry)).is_break() {
                return;
            }
        }
    }

    fn remove_all(&self, paths: &[&StagedPath], _ownership: Ownership, told: &mut Told<'_>) {
        for (number, path) in paths.iter().enumerate() {
            if self.stubborn.contains(path) {
                told(number, Err(io::Error::other("stubborn")));
                continue;
            }
            let bytes = self.files.borrow_mut().remove(*path).unwrap_or(0);
            self.free.set(self.free.get() + bytes);
            told(number, Ok(Removal::Done));
        }
    }

    fn remove_empty_folders(&self, _kinds: &[AreaKind], _ownership: Ownership) {}

    fn space(&self) -> io::Result<VolumeSpace> {
        self.looks.set(self.looks.get() + 1);
        Ok(VolumeSpace { free_bytes: self.free.get(), total_bytes: 1 << 40, ..VolumeSpace::default() })
    }

    fn settle(&self) -> io::Result<()> {
        Ok(())
    }

    fn display(&self, path: &StagedPath) -> PathBuf {
        PathBuf::from(&path.name)
    }
}

#[test]
fn the_largest_go_first_and_no_more_than_needed() {
    let model = Model::with([1 << 20, 8 << 20, 2 << 20, 4 << 20]);
    let policy = ReclaimPolicy { until_free_bytes: Some(9 << 20), ..ReclaimPolicy::everything(Ownership::Nobody, 0) };
    let outcome = apply(&policy, plan(&policy, &model), &model, &mut ()).unwrap();
    assert!(outcome.is_target_reached);
    assert_eq!(outcome.removed(), Amount { files: 2, bytes: 12 << 20 });
    assert_eq!(model.files.borrow().values().copied().collect::<Vec<_>>(), [1 << 20, 2 << 20]);
}

#[test]
fn more_files_than_a_plan_holds_are_worked_off_in_rounds_past_stubborn_ones() {
    let count = u64::try_from(PLAN_FILES_MAX).unwrap() + 30_000;
    let mut model = Model::with((0..count).map(|number| number % 97));
    let stubborn: Vec<_> = model.files.borrow().keys().step_by(50_000).cloned().collect();
    model.stubborn = stubborn.clone();
    let policy = ReclaimPolicy::everything(Ownership::Nobody, 0);
    let planned = plan(&policy, &model);
    assert_eq!((planned.planned().files, planned.files.len(), planned.is_cut), (count, PLAN_FILES_MAX, true));
    let outcome = apply(&policy, planned, &model, &mut ()).unwrap();
    let stubborn_count = u64::try_from(stubborn.len()).unwrap();
    assert_eq!((outcome.removed().files, outcome.failed.total), (count - stubborn_count, stubborn_count));
    assert!(model.files.borrow().keys().eq(stubborn.iter()));
}

#[test]
fn progress_is_told_and_a_shortfall_is_explained() {
    #[derive(Default)]
    struct Recorder(Vec<Amount>);
    impl ReclaimProgress for Recorder {
        fn started(&mut self, planned: Amount) {
            self.0.push(planned);
        }
        fn advanced(&mut self, removed: Amount) {
            self.0.push(removed);
        }
    }
    let bench = Bench::new();
    bench.put("uploads/upload-1", 4 << 20);
    bench.put("uploads/upload-2", 4 << 20);
    let held = File::open(bench.layout.tmp_dir().join("uploads/upload-1")).unwrap();
    let frozen = bench.disk.space(bench.layout.data_dir()).unwrap();
    bench.disk.set_space(Some(frozen));
    let policy = ReclaimPolicy::everything(Ownership::Nobody, now_ms());
    let tree = bench.tree();
    let mut progress = Recorder::default();
    let outcome = apply(&policy, plan(&policy, &tree), &tree, &mut progress).unwrap();
    let amount = |files, bytes| Amount { files, bytes };
    assert_eq!(progress.0, [amount(2, 8 << 20), amount(1, 4 << 20), amount(2, 8 << 20)]);
    assert_eq!(outcome.shortfall, Some(Shortfall::HeldOrRefilled));
    drop(held);
}
