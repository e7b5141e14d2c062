//! Frees what was never committed: a policy becomes a plan, the plan is applied, and the outcome is measured.
//!
//! How it works: a scan of the areas feeds a [`Planner`], which knows nothing of disks. The plan totals everything that
//! has no owner and keeps the largest files up to a bound; applying removes them largest first and, while the bound cut
//! the plan short, scans and plans again. One failure does not stop the rest. Afterwards the volume is asked again.
//!
//! Invariants: nothing is written before the first removal, and nothing but names inside the areas is ever removed. What
//! has an owner is kept: with the data-dir lock nobody owns anything ([`Ownership::Nobody`]); beside a live server that
//! locks what it stages, a file goes only under its own lock. Partial bodies, which say themselves what they are, are
//! kept for the next start unless the policy says otherwise. Age never proves anything, it only narrows.
//! Memory is bounded whatever the number of files.
//!
//! Failure: a crash in the middle leaves fewer files; the next run finds the rest.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::area::AreaKind;
use super::inventory::{Found, Ownership, Removal, StagedEntry, StagedPath, StagingFolders, StagingTree};
use crate::core::base::disk::{Disk, VolumeSpace};
use crate::core::data_dir::layout::Layout;
use crate::core::data_dir::lock::{DataDirLock, LockHolder};
use crate::core::data_dir::run_record::RunRecord;

/// Files one plan holds, largest first: about 30 MB. A longer list is worked off in rounds, which look at each file again.
pub const PLAN_FILES_MAX: usize = 262_144;

/// Files with several names that are remembered to count their bytes once. Staging makes none but by accident.
const LINKED_FILES_MAX: usize = 65_536;

/// Paths listed of what is unknown or failed; more are only counted.
pub const PATHS_LISTED_MAX: usize = 100;

/// Rounds of planning: enough for 60 million files, and an end for a tree that grows as fast as it is freed.
const ROUNDS_MAX: usize = 1000;

/// Files removed between two looks at the free space when a target is set and they are small.
const FILES_PER_LOOK: usize = 64;

/// A file at least this large is followed by a look at the free space when a target is set.
const BYTES_PER_LOOK: u64 = 1 << 20;

/// Looks at the free space after the last removal, and the pause between them: filesystems free blocks late.
const SETTLE_LOOKS_MAX: u32 = 10;
/// See [`SETTLE_LOOKS_MAX`].
const SETTLE_PAUSE: Duration = Duration::from_millis(50);

/// What to reclaim.
#[derive(Debug, Clone)]
pub struct ReclaimPolicy {
    /// The areas; empty means all.
    pub kinds: Vec<AreaKind>,
    /// What is known about owners.
    pub ownership: Ownership,
    /// Unix milliseconds now.
    pub now_ms: u64,
    /// Only files not changed for this long.
    pub older_than: Option<Duration>,
    /// Stop once this many bytes are free.
    pub until_free_bytes: Option<u64>,
    /// Whether partial bodies stay, with which the next start goes on.
    pub keeps_partials: bool,
}

impl ReclaimPolicy {
    /// Everything without an owner and without a use.
    pub fn everything(ownership: Ownership, now_ms: u64) -> Self {
        let (older_than, until_free_bytes) = (None, None);
        Self { kinds: Vec::new(), ownership, now_ms, older_than, until_free_bytes, keeps_partials: true }
    }

    fn kinds(&self) -> &[AreaKind] {
        if self.kinds.is_empty() { &AreaKind::ALL } else { &self.kinds }
    }

    fn is_old_enough(&self, entry: &StagedEntry) -> bool {
        let Some(older_than) = self.older_than else { return true };
        let age_ms = self.now_ms.saturating_sub(entry.modified_ms);
        u128::from(age_ms) >= older_than.as_millis()
    }
}

/// A number of files and the bytes allocated to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Amount {
    /// Files.
    pub files: u64,
    /// Allocated bytes, a file of several names once.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// One area's figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AreaFigures {
    /// Which area.
    pub kind: AreaKind,
    /// Without an owner, and not left out by the policy.
    pub planned: Amount,
    /// Removed.
    pub removed: Amount,
    /// Owned, and kept.
    pub in_use: Amount,
    /// Partial bodies without an owner, kept for the next start.
    pub kept: Amount,
}

/// A bounded list of paths with what was found there, and how many there are in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    /// The first of them.
    pub items: Vec<T>,
    /// All of them.
    pub total: u64,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self { items: Vec::new(), total: 0 }
    }
}

impl<T> Listed<T> {
    fn push(&mut self, item: T) {
        self.total += 1;
        if self.items.len() < PATHS_LISTED_MAX {
            self.items.push(item);
        }
    }
}

/// A path and what the system said.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FailedPath {
    /// Where.
    pub path: PathBuf,
    /// What the system said.
    pub error: String,
}

/// A file to remove. Ordered by bytes, then backwards in the order in which they were found: files of one folder stay
/// together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlannedFile {
    /// Bytes its removal frees as far as the areas tell.
    pub bytes: u64,
    /// How many were found before it.
    pub found: Reverse<u64>,
    /// Which file.
    pub path: StagedPath,
}

/// What would be removed.
#[derive(Debug, Clone, Default)]
pub struct ReclaimPlan {
    /// Figures by area; nothing is removed yet.
    pub areas: Vec<AreaFigures>,
    /// The largest files, largest first.
    pub files: Vec<PlannedFile>,
    /// Whether there are more files than are listed.
    pub is_cut: bool,
    /// Names that are not kura's to touch.
    pub unknown: Listed<PathBuf>,
    /// What could not be looked at.
    pub failed: Listed<FailedPath>,
    /// Planned files that also have a name outside the areas: removing them frees nothing.
    pub linked_elsewhere: u64,
}

impl ReclaimPlan {
    /// All that is planned.
    pub fn planned(&self) -> Amount {
        self.areas.iter().fold(Amount::default(), |sum, area| Amount {
            files: sum.files + area.planned.files,
            bytes: sum.bytes.saturating_add(area.planned.bytes),
        })
    }
}

/// Turns what a scan finds into a plan. Pure: it knows nothing of disks.
#[derive(Debug)]
pub struct Planner<'policy> {
    policy: &'policy ReclaimPolicy,
    plan: ReclaimPlan,
    /// All files as long as they fit.
    files: Vec<PlannedFile>,
    /// Once they do not: the largest so far, smallest on top.
    largest: BinaryHeap<Reverse<PlannedFile>>,
    files_max: usize,
    files_found: u64,
    /// Names seen so far of files that have several.
    linked: HashMap<u64, u32>,
    skip: &'policy HashSet<StagedPath>,
}

impl<'policy> Planner<'policy> {
    /// An empty plan of at most `files_max` listed files; `skip` names files that failed before.
    pub fn new(policy: &'policy ReclaimPolicy, files_max: usize, skip: &'policy HashSet<StagedPath>) -> Self {
        let figures = |kind: &AreaKind| AreaFigures {
            kind: *kind,
            planned: Amount::default(),
            removed: Amount::default(),
            in_use: Amount::default(),
            kept: Amount::default(),
        };
        let plan = ReclaimPlan { areas: policy.kinds().iter().map(figures).collect(), ..ReclaimPlan::default() };
        let (files, largest) = (Vec::new(), BinaryHeap::new());
        Self { policy, plan, files, largest, files_max, files_found: 0, linked: HashMap::new(), skip }
    }

    /// Takes one find into account.
    pub fn consider(&mut self, found: Found) {
        match found {
            Found::Unknown(path) => self.plan.unknown.push(path),
            Found::Failed(path, error) => self.plan.failed.push(FailedPath { path, error: error.to_string() }),
            Found::Staged(entry) => self.consider_file(entry),
        }
    }

    fn is_full(&self) -> bool {
        self.files.len().max(self.largest.len()) >= self.files_max
    }

    /// The finished plan.
    pub fn finish(mut self) -> ReclaimPlan {
        self.plan.linked_elsewhere = u64::try_from(self.linked.len()).unwrap_or(u64::MAX);
        self.plan.files = self.files;
        self.plan.files.extend(self.largest.into_iter().map(|Reverse(file)| file));
        self.plan.files.sort_unstable_by(|one, other| other.cmp(one));
        self.plan
    }

    fn consider_file(&mut self, entry: StagedEntry) {
        if entry.is_owned {
            self.figures(entry.path.folder.kind, |area| area.in_use.add(entry.bytes));
            return;
        }
        if entry.is_partial && self.policy.keeps_partials {
            self.figures(entry.path.folder.kind, |area| area.kept.add(entry.bytes));
            return;
        }
        if !self.policy.is_old_enough(&entry) || self.skip.contains(&entry.path) {
            return;
        }
        let bytes = self.freed_bytes(&entry);
        self.figures(entry.path.folder.kind, |area| area.planned.add(bytes));
        let file = PlannedFile { bytes, found: Reverse(self.files_found), path: entry.path };
        self.files_found += 1;
        if self.largest.is_empty() && self.files.len() < self.files_max {
            self.files.push(file);
            return;
        }
        self.plan.is_cut = true;
        self.largest.extend(std::mem::take(&mut self.files).into_iter().map(Reverse));
        // Of files that are all alike none that comes later takes the place of another.
        if self.largest.peek().is_some_and(|smallest| smallest.0 < file) {
            self.largest.pop();
            self.largest.push(Reverse(file));
        }
    }

    /// A file of several names is freed with the last of them: its bytes count once all names were met.
    fn freed_bytes(&mut self, entry: &StagedEntry) -> u64 {
        if entry.links <= 1 {
            return entry.bytes;
        }
        if self.linked.len() >= LINKED_FILES_MAX && !self.linked.contains_key(&entry.inode) {
            return 0;
        }
        let seen = self.linked.entry(entry.inode).or_insert(0);
        *seen += 1;
        if *seen < entry.links {
            return 0;
        }
        self.linked.remove(&entry.inode);
        entry.bytes
    }

    fn figures(&mut self, kind: AreaKind, change: impl FnOnce(&mut AreaFigures)) {
        if let Some(area) = self.plan.areas.iter_mut().find(|area| area.kind == kind) {
            change(area);
        }
    }
}

/// Plans what a policy would remove; changes nothing.
pub fn plan(policy: &ReclaimPolicy, tree: &dyn StagingTree) -> ReclaimPlan {
    let nothing = HashSet::new();
    let mut planner = Planner::new(policy, PLAN_FILES_MAX, &nothing);
    tree.scan(policy.kinds(), policy.ownership, &mut |found| planner.consider(found));
    planner.finish()
}

/// The next files after a plan that was cut: as they come, since all of them are smaller than those before, so that a
/// round looks at little more than it removes.
fn plan_next(policy: &ReclaimPolicy, tree: &dyn StagingTree, skip: &HashSet<StagedPath>) -> ReclaimPlan {
    let mut planner = Planner::new(policy, PLAN_FILES_MAX, skip);
    tree.scan_while(policy.kinds(), policy.ownership, &mut |found| {
        planner.consider(found);
        if planner.is_full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let mut plan = planner.finish();
    plan.is_cut = plan.files.len() >= PLAN_FILES_MAX;
    plan
}

/// Told how far a reclaim is.
pub trait ReclaimProgress {
    /// What is about to be removed.
    fn started(&mut self, planned: Amount);
    /// What is removed so far.
    fn advanced(&mut self, removed: Amount);
}

impl ReclaimProgress for () {
    fn started(&mut self, _planned: Amount) {}

    fn advanced(&mut self, _removed: Amount) {}
}

/// Why the volume gained much less than was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shortfall {
    /// Some removed files have another name outside the areas.
    LinkedElsewhere,
    /// A running server writes at the same time.
    ServerIsWriting,
    /// Another process writes to the volume or holds removed files open, or a snapshot holds their blocks.
    HeldOrRefilled,
}

/// What a reclaim came to.
#[derive(Debug, Clone)]
pub struct ReclaimOutcome {
    /// Figures by area.
    pub areas: Vec<AreaFigures>,
    /// Names that are not kura's to touch.
    pub unknown: Listed<PathBuf>,
    /// What could not be looked at or removed.
    pub failed: Listed<FailedPath>,
    /// The volume before the first removal.
    pub before: VolumeSpace,
    /// The volume after the last one.
    pub after: VolumeSpace,
    /// Whether the wanted free space was reached before everything was removed.
    pub is_target_reached: bool,
    /// Set if the volume gained much less than was removed.
    pub shortfall: Option<Shortfall>,
}

impl ReclaimOutcome {
    /// All that was removed.
    pub fn removed(&self) -> Amount {
        self.areas.iter().fold(Amount::default(), |sum, area| Amount {
            files: sum.files + area.removed.files,
            bytes: sum.bytes.saturating_add(area.removed.bytes),
        })
    }
}

/// Applies a plan. A file that went meanwhile counts as removed, one that is owned after all as in use.
///
/// # Errors
/// Only if the volume cannot be asked for its space before the first removal; everything later is in the outcome.
pub fn apply(
    policy: &ReclaimPolicy,
    plan: ReclaimPlan,
    tree: &dyn StagingTree,
    progress: &mut dyn ReclaimProgress,
) -> io::Result<ReclaimOutcome> {
    let before = tree.space()?;
    progress.started(plan.planned());
    let linked_elsewhere = plan.linked_elsewhere;
    let mut run = Run { policy, tree, progress, skip: HashSet::new(), outcome: start(&plan, before) };
    run.work_off(plan);
    tree.remove_empty_folders(policy.kinds(), policy.ownership);
    run.measure(linked_elsewhere);
    Ok(run.outcome)
}

fn start(plan: &ReclaimPlan, before: VolumeSpace) -> ReclaimOutcome {
    ReclaimOutcome {
        areas: plan.areas.clone(),
        unknown: plan.unknown.clone(),
        failed: plan.failed.clone(),
        before,
        after: before,
        is_target_reached: false,
        shortfall: None,
    }
}

struct Run<'run> {
    policy: &'run ReclaimPolicy,
    tree: &'run dyn StagingTree,
    progress: &'run mut dyn ReclaimProgress,
    /// Files that could not be removed; not tried again.
    skip: HashSet<StagedPath>,
    outcome: ReclaimOutcome,
}

impl Run<'_> {
    /// Works off the plan and, while it was cut short and something gives way, further ones.
    fn work_off(&mut self, first: ReclaimPlan) {
        let mut plan = first;
        for _ in 0..ROUNDS_MAX {
            let removed_before = self.outcome.removed().files;
            if self.is_enough() || !self.remove_all(&plan.files) {
                self.outcome.is_target_reached = true;
                return;
            }
            if !plan.is_cut || self.outcome.removed().files == removed_before || self.skip.len() > PLAN_FILES_MAX {
                return;
            }
            plan = plan_next(self.policy, self.tree, &self.skip);
        }
    }

    /// False once enough is free. With a target a few go at a time, and the volume is asked in between.
    fn remove_all(&mut self, files: &[PlannedFile]) -> bool {
        let mut left = files;
        while !left.is_empty() {
            let (some, rest) = left.split_at(self.until_next_look(left));
            left = rest;
            let paths: Vec<&StagedPath> = some.iter().map(|file| &file.path).collect();
            let (tree, ownership) = (self.tree, self.policy.ownership);
            tree.remove_all(&paths, ownership, &mut |number, removed| {
                if let Some(file) = some.get(number) {
                    self.account(file, removed);
                }
            });
            if self.is_enough() {
                return false;
            }
        }
        true
    }

    /// How many of these files are removed before the volume is asked again.
    fn until_next_look(&self, files: &[PlannedFile]) -> usize {
        if self.policy.until_free_bytes.is_none() {
            return files.len();
        }
        let mut bytes = 0_u64;
        let small = files.iter().take_while(|file| {
            let is_due = bytes >= BYTES_PER_LOOK;
            bytes = bytes.saturating_add(file.bytes);
            !is_due
        });
        small.take(FILES_PER_LOOK).count()
    }

    fn account(&mut self, file: &PlannedFile, removed: io::Result<Removal>) {
        let area = self.outcome.areas.iter_mut().find(|area| area.kind == file.path.folder.kind);
        match (removed, area) {
            (Ok(Removal::Done), Some(area)) => {
                area.removed.add(file.bytes);
                self.progress.advanced(self.outcome.removed());
            }
            (Ok(Removal::InUse), Some(area)) => {
                area.in_use.add(file.bytes);
                self.skip.insert(file.path.clone());
            }
            (Err(error), _) => {
                let path = self.tree.display(&file.path);
                self.outcome.failed.push(FailedPath { path, error: error.to_string() });
                self.skip.insert(file.path.clone());
            }
            (Ok(_), None) => {}
        }
    }

    /// Whether the wanted free space is reached.
    fn is_enough(&mut self) -> bool {
        let Some(wanted) = self.policy.until_free_bytes else { return false };
        self.tree.space().is_ok_and(|space| space.free_bytes >= wanted)
    }

    /// Waits a bounded time for freed blocks to show, and explains it if they do not.
    fn measure(&mut self, linked_elsewhere: u64) {
        let removed = self.outcome.removed();
        if removed.files == 0 {
            return;
        }
        if let Err(error) = self.tree.settle() {
            tracing::debug!(%error, "reclaim_not_synced");
        }
        for _ in 0..SETTLE_LOOKS_MAX {
            match self.tree.space() {
                Ok(space) => self.outcome.after = space,
                Err(error) => {
                    tracing::warn!(%error, "volume_not_measured");
                    return;
                }
            }
            if !self.is_short(removed) {
                return;
            }
            std::thread::sleep(SETTLE_PAUSE);
        }
        self.outcome.shortfall = Some(match self.policy.ownership {
            _ if linked_elsewhere > 0 => Shortfall::LinkedElsewhere,
            Ownership::ByLock => Shortfall::ServerIsWriting,
            Ownership::Nobody => Shortfall::HeldOrRefilled,
        });
    }

    /// Much less: by more than a tenth and more than a MiB, which the filesystem's own bookkeeping may take.
    fn is_short(&self, removed: Amount) -> bool {
        let gained = self.outcome.after.free_bytes.saturating_sub(self.outcome.before.free_bytes);
        let missing = removed.bytes.saturating_sub(gained);
        missing > removed.bytes / 10 && missing > 1 << 20
    }
}

/// Frees all dead staging at start-up. The lock is the proof that nobody owns anything.
///
/// # Errors
/// Only if the volume cannot be asked for its space.
pub fn reclaim_dead_staging(
    layout: &Layout,
    _lock: &DataDirLock,
    disk: Arc<dyn Disk>,
    now_ms: u64,
) -> io::Result<ReclaimOutcome> {
    let policy = ReclaimPolicy::everything(Ownership::Nobody, now_ms);
    let tree = StagingFolders::new(layout, disk);
    let planned = plan(&policy, &tree);
    apply(&policy, planned, &tree, &mut ())
}

/// Whether the process that holds the data dir locks what it stages, by its own run record: then what carries no lock is
/// dead. A seed-era node has no run record, and the record of another process says nothing about this one.
pub fn ownership_beside(layout: &Layout, holder: &LockHolder) -> Option<Ownership> {
    let record = RunRecord::load(layout).ok().flatten()?;
    let is_of_holder = holder.pid == Some(record.pid) && holder.host.as_ref() == Some(&record.host);
    (record.staging_locks && !record.clean && is_of_holder).then_some(Ownership::ByLock)
}

#[cfg(test)]
#[path = "reclaim_tests.rs"]
mod tests;
