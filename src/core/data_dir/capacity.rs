//! How much a node may keep on its volume, and what it does as free space runs out. Numbers in, decisions out.
//!
//! How it works: [`Levels`] names the amounts of free space at which something changes, [`capacity`] says how many bytes
//! of artifacts may stay, and [`SpaceController`] turns each measurement of the volume into a [`Decision`]: a [`Stage`],
//! how much to evict, whether the ballast goes or comes back. Capacity follows free space: what others put on the volume
//! shrinks it, and it comes back when they take it away.
//!
//! The order as space runs out: the store keeps itself to its capacity, so that [`Levels::target`] stays free; below
//! [`Levels::pause_below`] catching up rests; below [`Levels::press_below`] eviction stops caring for what it costs; below
//! [`Levels::refuse_below`] client bodies are refused. Deletes and metadata never are.
//!
//! Invariants: ballast that is not in place counts as not free, so nothing but metadata ever uses the room it left, and
//! its return evicts nothing. A stage is left only at the level above the one at which it began, and eviction goes on to
//! more than the target, so nothing swings at one level.
//!
//! Two nodes on one volume: both see the same free space. A node evicts for room that it took itself at once, and for room
//! that something else took only after a while, so an idle node is not emptied by a busy one that keeps to its own. And it
//! gives at a time only its share of what is missing, as large as its share of what is used: what grows by equal steps
//! and shrinks in proportion comes to equal parts, whatever it began with.

use std::collections::VecDeque;

use crate::core::base::disk::VolumeSpace;

/// Free share of the volume that eviction keeps: filesystems slow down when nearly full, and orchestrators evict pods
/// from disks with less than a tenth free.
const TARGET_PERCENT: u64 = 10;

/// This much free is enough for a volume of any size: some seconds of writes at the speed of a fast disk. More would
/// have a node on a workstation's large and nearly full disk give up its cache for nothing.
const TARGET_BYTES_MAX: u64 = 2 << 30;

/// What of a volume artifacts may take at most, however large it is: filesystems fragment beyond.
const VOLUME_SHARE_PERCENT: u64 = 95;

/// Ballast is a hundredth of the volume ...
const BALLAST_PERCENT: u64 = 1;
/// ... of which more than this helps nobody ...
const BALLAST_SHARE_BYTES_MAX: u64 = 1 << 30;
/// ... but twice the index's log and this for manifests and tables beside it ...
const BALLAST_BESIDE_LOGS_BYTES: u64 = 16 << 20;
/// ... and on a tiny volume no more than a sixteenth.
const BALLAST_SHARE_MAX: u64 = 16;

/// Staging takes at most this part of the volume.
const STAGING_SHARE: u64 = 4;

/// Eviction goes on this far below the capacity, so that the next write does not begin it again.
const SLACK_SHARE: u64 = 64;
/// Least and most of it.
const SLACK_BYTES: (u64, u64) = (1 << 20, 1 << 30);

/// Inodes that the index needs for its next tables and logs: a share of the volume's, within bounds.
const INODES_RESERVE_SHARE: u64 = 128;
/// See [`INODES_RESERVE_SHARE`].
const INODES_RESERVE: (u64, u64) = (16, 4096);

/// Looks at the volume for which somebody else's bytes are left to go away by themselves before this node evicts for them.
const FOREIGN_PATIENCE_LOOKS: u32 = 5;

/// Looks for which evicted bytes that are not free yet count as if they were: the index removes whole files of inline
/// bodies, and some filesystems free in the background.
const FREEING_LOOKS: u32 = 20;

/// However small a node's part of what is used, it gives this part of what is missing at a time ...
const LEAST_SHARE: u64 = 8;
/// ... and this much, so that it comes to an end.
const LEAST_EVICTED_BYTES: u64 = 256 << 10;

/// Growth of this node's own bytes that does not count: rows and tables move by themselves.
const OWN_GROWTH_IGNORED: u64 = 64 << 10;

/// What the index needs for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexNeeds {
    /// All of its write-ahead logs.
    pub wal_bytes: u64,
    /// What must stay free for deletes, flushes and reopening.
    pub metadata_bytes: u64,
}

/// Size of the ballast on a volume of this size.
pub fn ballast_bytes(total_bytes: u64, needs: &IndexNeeds) -> u64 {
    let share = (total_bytes / 100 * BALLAST_PERCENT).min(BALLAST_SHARE_BYTES_MAX);
    let for_index = needs.wal_bytes.saturating_mul(2).saturating_add(BALLAST_BESIDE_LOGS_BYTES);
    share.max(for_index).min(total_bytes / BALLAST_SHARE_MAX)
}

/// What may be staged at a time: what is set, but never so much that the volume is full of what has not arrived yet. One
/// body larger than that goes alone.
pub fn staging_bytes(setting: u64, total_bytes: u64) -> u64 {
    setting.min(total_bytes / STAGING_SHARE).max(1)
}

/// Amounts of something free, bytes or inodes, at which something changes; each is larger than the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels {
    /// What eviction keeps free.
    pub target: u64,
    /// Below this catching up rests.
    pub pause_below: u64,
    /// Below this eviction takes what frees space soonest.
    pub press_below: u64,
    /// Below this client bodies are refused: the rest is for deletes, flushes and reopening.
    pub refuse_below: u64,
}

impl Levels {
    /// For the bytes of a volume.
    pub fn of_bytes(total_bytes: u64, needs: &IndexNeeds) -> Self {
        let share = (total_bytes / 100 * TARGET_PERCENT).min(TARGET_BYTES_MAX);
        Self::between(needs.metadata_bytes, share.max(needs.metadata_bytes.saturating_mul(2)))
    }

    /// For the inodes of a volume; all levels are 0 where the filesystem has no fixed number.
    pub fn of_inodes(total_inodes: u64) -> Self {
        if total_inodes == 0 {
            return Self::between(0, 0);
        }
        let reserve = (total_inodes / INODES_RESERVE_SHARE).clamp(INODES_RESERVE.0, INODES_RESERVE.1);
        Self::between(reserve, reserve.saturating_mul(4))
    }

    fn between(refuse_below: u64, target: u64) -> Self {
        let gap = target.saturating_sub(refuse_below);
        Self { target, pause_below: refuse_below + gap / 2, press_below: refuse_below + gap / 4, refuse_below }
    }

    /// The stage at this much free, coming from another one.
    fn stage(&self, before: Stage, free: u64) -> Stage {
        let entered = match free {
            free if free < self.refuse_below => Stage::Refusing,
            free if free < self.press_below => Stage::Pressed,
            free if free < self.pause_below => Stage::Paused,
            _ => Stage::Normal,
        };
        let kept = match before {
            Stage::Refusing if free < self.press_below => Stage::Refusing,
            Stage::Refusing | Stage::Pressed if free < self.pause_below => Stage::Pressed,
            Stage::Normal => Stage::Normal,
            _ if free < self.pause_below + (self.target - self.pause_below) / 2 => Stage::Paused,
            _ => Stage::Normal,
        };
        entered.max(kept)
    }
}

/// How far things have gone; each includes what the ones before it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// There is room.
    #[default]
    Normal,
    /// Catching up rests.
    Paused,
    /// Eviction takes what frees space soonest.
    Pressed,
    /// Client bodies are refused.
    Refusing,
}

/// What the capacity follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// What is free now: other bytes on the volume take the rest.
    #[default]
    FreeSpace,
    /// The size of the volume, or of the quota on it.
    VolumeShare,
    /// The setting.
    Setting,
}

/// How many bytes of artifacts may stay, and why not more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capacity {
    /// In charged bytes.
    pub bytes: u64,
    /// The smallest of the bounds.
    pub bound: Bound,
}

/// One look at a volume and at what the store keeps on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Measured {
    /// The volume; a quota shows here as a smaller one.
    pub space: VolumeSpace,
    /// What the store is charged for.
    pub charged_bytes: u64,
    /// Bytes of the ballast that are in place.
    pub ballast_bytes: u64,
    /// Room that a body on its way in needs beyond the level at which bodies are refused.
    pub wanted_bytes: u64,
}

/// Free bytes that anything but metadata may use.
pub fn free_for_bodies(measured: &Measured, needs: &IndexNeeds) -> u64 {
    let owed = ballast_bytes(measured.space.total_bytes, needs).saturating_sub(measured.ballast_bytes);
    measured.space.available_bytes.saturating_sub(owed)
}

/// The smallest of the setting, the volume's share and what is free now.
pub fn capacity(setting: Option<u64>, measured: &Measured, needs: &IndexNeeds) -> Capacity {
    let total_bytes = measured.space.total_bytes;
    let levels = Levels::of_bytes(total_bytes, needs);
    let reserved = ballast_bytes(total_bytes, needs).saturating_add(needs.metadata_bytes);
    let by_share = (total_bytes / 100 * VOLUME_SHARE_PERCENT).saturating_sub(reserved);
    let held_or_free = measured.charged_bytes.saturating_add(free_for_bodies(measured, needs));
    let by_free = held_or_free.saturating_sub(levels.target);
    let bounds = [(Some(by_free), Bound::FreeSpace), (Some(by_share), Bound::VolumeShare), (setting, Bound::Setting)];
    let bounds = bounds.into_iter().filter_map(|(bytes, bound)| bytes.map(|bytes| Capacity { bytes, bound }));
    bounds.min_by_key(|capacity| capacity.bytes).unwrap_or_default()
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Decision {
    /// How far things have gone.
    pub stage: Stage,
    /// What the store may keep.
    pub capacity: Capacity,
    /// Free bytes that bodies may use before the level at which they are refused.
    pub room_bytes: u64,
    /// Free inodes that they may use.
    pub room_files: u64,
    /// Evicted bytes that are expected to be free soon.
    pub freeing_bytes: u64,
    /// Charged bytes to evict, 0 for none.
    pub evict_bytes: u64,
    /// Whether what frees space soonest goes first.
    pub under_pressure: bool,
    /// Whether the ballast has to give its room to metadata.
    pub release_ballast: bool,
    /// Whether there is room for the whole ballast.
    pub restore_ballast: bool,
}

/// Decides, look by look.
#[derive(Debug, Clone)]
pub struct SpaceController {
    setting: Option<u64>,
    needs: IndexNeeds,
    stage: Stage,
    inode_stage: Stage,
    /// Charged bytes at the last look at which enough was free.
    charged_at_peace: u64,
    /// Looks since then.
    looks_short: u32,
    /// What was evicted and is not free yet.
    freeing: Freeing,
    /// What was free for bodies and what was charged at the last look, together.
    sum_at_look: u64,
}

/// Evicted bytes that the volume has not counted as free yet: what each eviction was to free, the oldest first. There is
/// at most one for each look, and each is forgotten after some looks, so they are few.
#[derive(Debug, Clone, Default)]
struct Freeing(VecDeque<Evicted>);

/// One eviction.
#[derive(Debug, Clone, Copy)]
struct Evicted {
    bytes: u64,
    /// Free and charged bytes together before it.
    sum_before: u64,
    looks_left: u32,
}

impl Freeing {
    fn add(&mut self, bytes: u64, sum_before: u64) {
        self.0.push_back(Evicted { bytes, sum_before, looks_left: FREEING_LOOKS });
    }

    /// What is still to come at this sum of free and charged bytes. New artifacts leave the sum as it is: they take free
    /// bytes and are charged for them. An eviction takes from what is charged, and the sum is back once its bytes are free.
    fn expected(&mut self, sum: u64) -> u64 {
        self.0.retain(|evicted| evicted.looks_left > 0);
        self.0.iter_mut().for_each(|evicted| evicted.looks_left -= 1);
        let missing = self.0.front().map_or(0, |oldest| oldest.sum_before.saturating_sub(sum));
        self.0.iter().map(|evicted| evicted.bytes).sum::<u64>().min(missing)
    }
}

impl SpaceController {
    /// With the capacity that is set, if one is.
    pub fn new(setting: Option<u64>, needs: IndexNeeds) -> Self {
        let (stage, inode_stage) = (Stage::Normal, Stage::Normal);
        let freeing = Freeing::default();
        Self { setting, needs, stage, inode_stage, charged_at_peace: 0, looks_short: 0, freeing, sum_at_look: 0 }
    }

    /// This much was evicted since the last look.
    pub fn note_evicted(&mut self, bytes: u64) {
        self.freeing.add(bytes, self.sum_at_look);
    }

    /// Takes one measurement.
    pub fn look(&mut self, measured: &Measured) -> Decision {
        let space = &measured.space;
        let levels = Levels::of_bytes(space.total_bytes, &self.needs);
        let inodes = Levels::of_inodes(space.total_inodes);
        let free = free_for_bodies(measured, &self.needs);
        self.stage = levels.stage(self.stage, free);
        self.inode_stage = inodes.stage(self.inode_stage, space.free_inodes);
        let stage = self.stage.max(self.inode_stage);
        let capacity = capacity(self.setting, measured, &self.needs);
        let room_bytes = free.saturating_sub(levels.refuse_below);
        self.sum_at_look = free.saturating_add(measured.charged_bytes);
        let freeing = self.freeing.expected(self.sum_at_look);
        let for_capacity = self.over_capacity(measured, capacity, stage).saturating_sub(freeing);
        let for_inodes = if self.inode_stage == Stage::Normal { 0 } else { bytes_for_inodes(measured, inodes.target) };
        let for_bodies = bytes_for_bodies(measured, room_bytes).saturating_sub(freeing);
        let evict_bytes = for_capacity.max(for_inodes).max(for_bodies).min(measured.charged_bytes);
        let owed = ballast_bytes(space.total_bytes, &self.needs).saturating_sub(measured.ballast_bytes);
        Decision {
            stage,
            capacity,
            room_bytes,
            room_files: room_for_files(space, &inodes),
            freeing_bytes: freeing,
            evict_bytes,
            under_pressure: stage >= Stage::Pressed || for_inodes > 0,
            release_ballast: measured.ballast_bytes > 0 && is_short_for_metadata(space, &self.needs),
            restore_ballast: owed > 0 && free >= levels.target && space.free_inodes >= inodes.refuse_below,
        }
    }

    /// Charged bytes to evict to come below the capacity.
    fn over_capacity(&mut self, measured: &Measured, capacity: Capacity, stage: Stage) -> u64 {
        let charged = measured.charged_bytes;
        if charged <= capacity.bytes {
            (self.charged_at_peace, self.looks_short) = (charged, 0);
            return 0;
        }
        self.looks_short = self.looks_short.saturating_add(1);
        let has_grown = charged > self.charged_at_peace.saturating_add(OWN_GROWTH_IGNORED);
        let is_patient = capacity.bound == Bound::FreeSpace && !has_grown && stage < Stage::Pressed;
        if is_patient && self.looks_short <= FOREIGN_PATIENCE_LOOKS {
            return 0;
        }
        let slack = (capacity.bytes / SLACK_SHARE).clamp(SLACK_BYTES.0, SLACK_BYTES.1).min(capacity.bytes / 4);
        let over = charged.saturating_sub(capacity.bytes.saturating_sub(slack));
        if capacity.bound == Bound::FreeSpace { own_share(over, measured) } else { over }
    }
}

/// This node's part of what is missing on the volume: as large as its part of what is used there, and enough to get on.
fn own_share(missing: u64, measured: &Measured) -> u64 {
    let used = measured.space.total_bytes.saturating_sub(measured.space.free_bytes).max(1);
    let share = u128::from(missing) * u128::from(measured.charged_bytes) / u128::from(used);
    let share = u64::try_from(share).unwrap_or(missing);
    share.max(missing / LEAST_SHARE).max(LEAST_EVICTED_BYTES).min(missing)
}

/// Whether a delete might not find the room for its rows.
pub fn is_short_for_metadata(space: &VolumeSpace, needs: &IndexNeeds) -> bool {
    space.available_bytes < needs.metadata_bytes / 4
}

/// Inodes that bodies may use; without end where the filesystem has no fixed number.
fn room_for_files(space: &VolumeSpace, inodes: &Levels) -> u64 {
    if space.total_inodes == 0 { u64::MAX } else { space.free_inodes.saturating_sub(inodes.refuse_below) }
}

/// Charged bytes whose eviction frees the inodes that are missing, taking one inode for each block: files are larger, so
/// this is the least, and the next look goes on.
fn bytes_for_inodes(measured: &Measured, target: u64) -> u64 {
    let missing = target.saturating_sub(measured.space.free_inodes);
    missing.saturating_mul(measured.space.block_bytes)
}

/// Charged bytes whose eviction makes room for a body on its way in; none for one that nothing would make room for.
fn bytes_for_bodies(measured: &Measured, room_bytes: u64) -> u64 {
    let missing = measured.wanted_bytes.saturating_sub(room_bytes);
    if missing > measured.charged_bytes { 0 } else { missing }
}

#[cfg(test)]
#[path = "capacity_tests.rs"]
mod tests;
