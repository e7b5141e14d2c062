//! The disk below the data dir: is it there, is there room.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::read_only;
use crate::core::base::disk::VolumeSpace;
use crate::core::base::units::ByteSize;
use crate::core::data_dir::ballast::Ballast;
use crate::core::data_dir::capacity::Levels;
use crate::core::data_dir::layout::Layout;
use crate::core::doctor::check::{About, Category, Check, CheckError, Outcome, Pulse, QUICK_LIMIT, Reach};
use crate::core::doctor::context::{Context, quoted};
use crate::core::doctor::finding::{Code, Evidence, Remedy, Severity};
use crate::core::store::room::bytes_to_open;
use crate::core::store::sizes::IndexSizes;

/// Full is below 1 % of the volume ...
const FULL_PERCENT: u64 = 1;
/// ... but a gibibyte is room on a volume of any size.
const FULL_BYTES_MAX: u64 = 1 << 30;
/// Inodes used at which to warn; a cache makes files by the thousand.
const INODES_WARN_PERCENT: u64 = 90;
/// Inodes used at which start-up itself may find none.
const INODES_FAIL_PERCENT: u64 = 98;

pub(super) fn about(code: Code, title: &'static str, severity: Severity) -> About {
    let (category, reach, limit) = (Category::Volume, Reach::Offline, QUICK_LIMIT);
    About { code, category, title, reach, severity, fatal: false, needs: &[Code::DataDirMissing], limit }
}

/// Whether the data dir is there.
#[derive(Debug)]
pub struct DataDirMissing;

impl Check for DataDirMissing {
    fn about(&self) -> About {
        let about = about(Code::DataDirMissing, "the data dir exists", Severity::Fail);
        About { fatal: true, needs: &[], ..about }
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let Some(layout) = &context.layout else { return Ok(Outcome::skip("the settings do not name a data dir")) };
        let path = layout.data_dir();
        match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => Ok(Outcome::ok("the data dir exists")),
            Ok(_) => Ok(missing(path, "the data dir is not a directory")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(missing(path, "the data dir does not exist")),
            Err(error) if read_only::is_shut_down(&error) => {
                Ok(Outcome::skip(format!("{} cannot be looked at: {error}", path.display())))
            }
            Err(error) => Err(CheckError(format!("failed to look at {}: {error}", path.display()))),
        }
    }
}

fn missing(path: &Path, message: &str) -> Outcome {
    let parent = path.ancestors().skip(1).find_map(|parent| Some((parent, std::fs::metadata(parent).ok()?)));
    let mut evidence = Evidence::new().value("path", path.to_string_lossy()).fact(path.to_string_lossy());
    if let Some((parent, found)) = parent {
        evidence = evidence
            .value("nearest_parent", parent.to_string_lossy())
            .value("nearest_parent_device", found.dev())
            .fact(format!("the nearest folder that exists is {} (device {})", parent.display(), found.dev()));
    }
    Outcome::fail(message)
        .evidence(evidence)
        .effect("kura serve would make a new, empty data dir here; an existing one is elsewhere or not mounted")
        .remedy(Remedy::text("mount the volume, or correct --data-dir; on a first start let kura serve make it"))
}

/// Whether the index opens and a body fits.
#[derive(Debug)]
pub struct DiskFull;

impl Check for DiskFull {
    fn about(&self) -> About {
        about(Code::DiskFull, "there is room for the index and for data", Severity::Fail)
    }

    fn run(&self, context: &Context, pulse: &Pulse) -> Result<Outcome, CheckError> {
        let space = context.space()?;
        let needed = needed_bytes(context.layout()?, &space);
        let usable = context.usable_bytes(&space);
        if usable >= needed {
            let message = format!("{} of {} free", ByteSize(usable), ByteSize(space.total_bytes));
            return Ok(Outcome::ok(message).evidence(space_evidence(context, &space)));
        }
        let evidence =
            space_evidence(context, &space).value("needed_bytes", needed).fact(format!("{} needed", ByteSize(needed)));
        Ok(Outcome::fail("no space left for data")
            .evidence(evidence)
            .effect("kura serve may not start: the index must write a manifest and a log; uploads are answered 507")
            .remedy(full_remedy(context, pulse, needed.saturating_sub(usable))))
    }
}

/// Frees what was never committed, if there is any; says how much. Where that is not enough the ballast goes, too.
fn full_remedy(context: &Context, pulse: &Pulse, missing_bytes: u64) -> Remedy {
    let reclaim = context.command("reclaim-staging", &["--yes"]);
    let release = context.command("reclaim-staging", &["--release-ballast", "--yes"]);
    let ballast = context.layout.as_ref().map_or(0, |layout| ballast_bytes(context, layout));
    match super::staging::reclaimable_bytes(context, pulse) {
        Some(0) if ballast == 0 => Remedy::text(
            "nothing is staged that could be freed: start kura serve (it evicts), lower the capacity, remove what is not \
             kura's, or grow the volume",
        ),
        Some(bytes) if ballast > 0 && bytes < missing_bytes => Remedy::text(format!(
            "frees about {}; a running node evicts by itself, and one that starts releases the ballast by itself",
            ByteSize(bytes.saturating_add(ballast))
        ))
        .change(release),
        Some(bytes) => Remedy::text(format!("frees about {}", ByteSize(bytes))).change(reclaim),
        None => Remedy::text("frees what was never committed").change(reclaim),
    }
}

/// What the ballast holds.
fn ballast_bytes(context: &Context, layout: &Layout) -> u64 {
    Ballast::new(layout, Arc::clone(&context.world.disk)).bytes()
}

/// What the index needs to open, and below what uploads are refused.
fn needed_bytes(layout: &Layout, space: &VolumeSpace) -> u64 {
    let share = (space.total_bytes / 100 * FULL_PERCENT).min(FULL_BYTES_MAX);
    share.max(bytes_to_open(layout)).max(levels(space).refuse_below)
}

fn levels(space: &VolumeSpace) -> Levels {
    Levels::of_bytes(space.total_bytes, &IndexSizes::for_volume(space.total_bytes).needs())
}

fn space_evidence(context: &Context, space: &VolumeSpace) -> Evidence {
    let usable = context.usable_bytes(space);
    let mut evidence = Evidence::new()
        .value("free_bytes", usable)
        .value("total_bytes", space.total_bytes)
        .value("used_percent", used_percent(space.total_bytes, space.free_bytes))
        .fact(format!("{} of {} free", ByteSize(usable), ByteSize(space.total_bytes)));
    if let Some(layout) = &context.layout {
        let bytes = ballast_bytes(context, layout);
        let fact = if bytes > 0 { format!("ballast {} present", ByteSize(bytes)) } else { "no ballast".to_owned() };
        evidence = evidence.value("ballast_bytes", bytes).fact(fact);
    }
    if space.total_inodes > 0 {
        let used = used_percent(space.total_inodes, space.free_inodes);
        evidence = evidence.value("inodes_used_percent", used).fact(format!("inodes {used} %"));
    }
    evidence
}

/// Whole percents in use, rounded down; 0 of nothing.
fn used_percent(total: u64, free: u64) -> u64 {
    let used = u128::from(total.saturating_sub(free)) * 100;
    used.checked_div(u128::from(total)).and_then(|percent| u64::try_from(percent).ok()).unwrap_or(0)
}

/// Whether there is room for some hours.
#[derive(Debug)]
pub struct DiskNearfull;

impl Check for DiskNearfull {
    fn about(&self) -> About {
        about(Code::DiskNearfull, "the volume is not nearly full", Severity::Warn)
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let space = context.space()?;
        let enough = levels(&space).pause_below;
        let message = format!("{} % of the volume used", used_percent(space.total_bytes, space.free_bytes));
        if context.usable_bytes(&space) >= enough {
            return Ok(Outcome::ok(message));
        }
        let evidence = space_evidence(context, &space)
            .value("enough_bytes", enough)
            .fact(format!("below {} it is called nearly full", ByteSize(enough)));
        let folder = quoted(&context.layout()?.data_dir().to_string_lossy());
        Ok(Outcome::warn(message)
            .evidence(evidence)
            .effect("catching up rests until eviction has freed space; a burst of uploads may fill the volume")
            .remedy(
                Remedy::text(
                    "kura serve evicts by itself: if it does not get on, remove what is not kura's, or grow the volume",
                )
                .look(format!("du -xsh {folder}/*")),
            ))
    }
}

/// Whether files can still be made.
#[derive(Debug)]
pub struct InodesLow;

impl Check for InodesLow {
    fn about(&self) -> About {
        about(Code::InodesLow, "the volume has inodes left", Severity::Fail)
    }

    fn run(&self, context: &Context, pulse: &Pulse) -> Result<Outcome, CheckError> {
        let space = context.space()?;
        if space.total_inodes == 0 {
            return Ok(Outcome::ok("the filesystem has no fixed number of inodes"));
        }
        let used = used_percent(space.total_inodes, space.free_inodes);
        let message = format!("{used} % of inodes used");
        if used < INODES_WARN_PERCENT {
            return Ok(Outcome::ok(message));
        }
        let evidence = Evidence::new()
            .value("used_percent", used)
            .value("free_inodes", space.free_inodes)
            .value("total_inodes", space.total_inodes)
            .fact(format!("{} of {} free", space.free_inodes, space.total_inodes));
        let outcome = if used >= INODES_FAIL_PERCENT { Outcome::fail(message) } else { Outcome::warn(message) };
        Ok(outcome
            .evidence(evidence)
            .effect("without an inode no file can be made, however many bytes are free")
            .remedy(full_remedy(context, pulse, 0)))
    }
}

#[cfg(test)]
#[path = "volume_tests.rs"]
mod tests;
