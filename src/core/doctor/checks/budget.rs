//! What the volume is promised to: by the settings, to the ballast, and to others.

use std::path::Path;

use crate::core::base::disk::VolumeSpace;
use crate::core::base::units::ByteSize;
use crate::core::data_dir::ballast::Ballast;
use crate::core::data_dir::capacity::{self, Capacity, Levels, Measured};
use crate::core::doctor::check::{About, Category, Check, CheckError, Outcome, Pulse, QUICK_LIMIT, Reach};
use crate::core::doctor::context::{Context, Vantage, quoted};
use crate::core::doctor::finding::{Code, Evidence, Remedy, Severity};
use crate::core::store::sizes::IndexSizes;

/// Less than this part of the volume is no budget any more ...
const BUDGET_SHARE_MIN: u64 = 20;
/// ... but this much is one on a volume of any size.
const BUDGET_BYTES_MIN: u64 = 1 << 30;

/// Others' bytes are to blame from this part of the volume on; below it is the node's own doing.
const FOREIGN_SHARE_MIN: u64 = 4;

/// A budget that is set may miss this part of itself before it is called too large: what the index takes varies.
const SETTING_SLACK_SHARE: u64 = 20;

/// A ballast that lacks less than this part is whole: its size follows the volume's, which may change a little.
const BALLAST_SLACK_SHARE: u64 = 8;

/// Names looked at in the index folder; RocksDB keeps far fewer files.
const INDEX_FILES_MAX: usize = 100_000;

/// Whether the settings fit the volume together.
#[derive(Debug)]
pub struct ConfigBudgetImpossible;

impl Check for ConfigBudgetImpossible {
    fn about(&self) -> About {
        About {
            code: Code::ConfigBudgetImpossible,
            category: Category::Config,
            title: "capacity, staging and ballast fit the volume",
            reach: Reach::Offline,
            severity: Severity::Fail,
            fatal: false,
            needs: &[Code::ConfigInvalid],
            limit: QUICK_LIMIT,
        }
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let config = context.config()?;
        let total = volume_above(context, context.layout()?.data_dir())?.total_bytes;
        let needs = IndexSizes::for_volume(total).needs();
        let kept = capacity::ballast_bytes(total, &needs).saturating_add(Levels::of_bytes(total, &needs).target);
        let staging = capacity::staging_bytes(config.tmp_dir_max_bytes, total);
        let left = total.saturating_sub(kept);
        let asked = config.cas_capacity_bytes.unwrap_or(0).saturating_add(staging);
        let evidence = Evidence::new()
            .value("volume_bytes", total)
            .value("capacity_bytes", config.cas_capacity_bytes)
            .value("staging_bytes", staging)
            .value("kept_free_bytes", kept)
            .fact(format!("the volume has {}, of which {} stay free or in reserve", ByteSize(total), ByteSize(kept)))
            .fact(format!("staging may take {}", ByteSize(staging)));
        if asked < left {
            return Ok(Outcome::ok("capacity, staging and ballast fit the volume").evidence(evidence));
        }
        let Some(set) = config.cas_capacity_bytes else {
            return Ok(Outcome::fail("the volume is too small to keep anything")
                .evidence(evidence)
                .effect("whatever arrives is refused, or evicted at once")
                .remedy(Remedy::text("grow the volume, or name a larger one with --data-dir")));
        };
        let fits = left.saturating_sub(staging);
        Ok(Outcome::fail("the capacity that is set does not fit the volume beside staging and reserves")
            .evidence(evidence.fact(format!("the capacity that is set is {}", ByteSize(set))))
            .effect("the node keeps less than it was told, and evicts for uploads that are still arriving")
            .remedy(Remedy::text(format!(
                "set --cas-capacity-bytes (KURA_CAS_CAPACITY_BYTES) to {fits} or less, or leave it away, or lower \
                 --tmp-dir-max-bytes"
            ))))
    }
}

/// The volume of the nearest folder that exists: the data dir may not have been made yet.
fn volume_above(context: &Context, path: &Path) -> Result<VolumeSpace, CheckError> {
    let place = path.ancestors().find(|place| place.exists()).unwrap_or(path);
    let asked = context.world.disk.space(place);
    asked.map_err(|error| CheckError(format!("failed to ask for the space of {}: {error}", place.display())))
}

/// Whether the reserve is in place.
#[derive(Debug)]
pub struct BallastMissing;

impl Check for BallastMissing {
    fn about(&self) -> About {
        About {
            code: Code::BallastMissing,
            category: Category::Volume,
            title: "the ballast is in place",
            reach: Reach::Offline,
            severity: Severity::Warn,
            fatal: false,
            needs: &[Code::DataDirMissing],
            limit: QUICK_LIMIT,
        }
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let layout = context.layout()?;
        if !layout.identity().exists() {
            return Ok(Outcome::ok("no node has started here yet; the first start makes the ballast"));
        }
        let space = context.space()?;
        let expected = capacity::ballast_bytes(space.total_bytes, &IndexSizes::for_volume(space.total_bytes).needs());
        let found = ballast_of(context)?.bytes();
        let evidence = Evidence::new()
            .value("ballast_bytes", found)
            .value("expected_bytes", expected)
            .value("free_bytes", space.available_bytes)
            .fact(format!("{} of {} in place", ByteSize(found), ByteSize(expected)))
            .fact(format!("{} free", ByteSize(space.available_bytes)));
        if found >= expected - expected / BALLAST_SLACK_SHARE {
            return Ok(Outcome::ok(format!("{} in reserve", ByteSize(found))).evidence(evidence));
        }
        let text = match context.vantage {
            Vantage::Live(_) => "free space: the running node restores it by itself once there is room for it",
            Vantage::Offline(_) => "start kura serve: it restores the ballast once there is room for it",
        };
        Ok(Outcome::warn("the space kept in reserve is not there")
            .evidence(evidence)
            .effect("should the volume fill, deletes fail and the index may not open until space is freed by hand")
            .remedy(Remedy::text(text)))
    }
}

fn ballast_of(context: &Context) -> Result<Ballast, CheckError> {
    Ok(Ballast::new(context.layout()?, std::sync::Arc::clone(&context.world.disk)))
}

/// Whether the budget is there to be used.
#[derive(Debug)]
pub struct BudgetOvercommit;

impl Check for BudgetOvercommit {
    fn about(&self) -> About {
        About {
            code: Code::BudgetOvercommit,
            category: Category::Volume,
            title: "others leave the budget its room",
            reach: Reach::Offline,
            severity: Severity::Fail,
            fatal: false,
            needs: &[Code::ConfigInvalid, Code::DataDirMissing],
            limit: QUICK_LIMIT,
        }
    }

    fn run(&self, context: &Context, pulse: &Pulse) -> Result<Outcome, CheckError> {
        if !context.layout()?.identity().exists() {
            return Ok(Outcome::ok("no node has started here yet"));
        }
        // Beside a running node its own figure is the current one, and opening the index again would replay its log.
        let charged_bytes = match &context.vantage {
            Vantage::Live(status) => status.space.as_ref().map(|space| space.charged_bytes),
            Vantage::Offline(_) => context.index().ok().map(|index| index.stats().charged_bytes),
        };
        let Some(charged_bytes) = charged_bytes else {
            return Ok(Outcome::skip("what artifacts take is only known once the index opens"));
        };
        let staged_bytes = super::staging::staged_bytes(context, pulse).unwrap_or(0);
        let ballast_bytes = ballast_of(context)?.bytes();
        let measured = Measured { space: context.space()?, charged_bytes, ballast_bytes, wanted_bytes: 0 };
        judge(context, &measured, staged_bytes)
    }
}

fn judge(context: &Context, measured: &Measured, staged_bytes: u64) -> Result<Outcome, CheckError> {
    let (space, layout) = (&measured.space, context.layout()?);
    let needs = IndexSizes::for_volume(space.total_bytes).needs();
    let setting = context.config()?.cas_capacity_bytes;
    // What is staged goes again: it takes nothing off the budget for good.
    let settled = Measured { charged_bytes: measured.charged_bytes.saturating_add(staged_bytes), ..*measured };
    let allowed = capacity::capacity(None, &settled, &needs);
    let own = [settled.charged_bytes, settled.ballast_bytes, index_bytes(layout)]
        .iter()
        .fold(0, |sum: u64, bytes| sum.saturating_add(*bytes));
    let foreign = space.total_bytes.saturating_sub(space.free_bytes).saturating_sub(own);
    let evidence = Evidence::new()
        .value("volume_bytes", space.total_bytes)
        .value("setting_bytes", setting)
        .value("allowed_bytes", allowed.bytes)
        .value("charged_bytes", measured.charged_bytes)
        .value("foreign_bytes", foreign)
        .fact(format!("{} of {} may be artifacts", ByteSize(allowed.bytes), ByteSize(space.total_bytes)))
        .fact(format!("at least {} are not kura's", ByteSize(foreign)));
    let Some(message) = overcommitted(setting, allowed, foreign, space.total_bytes) else {
        let bytes = setting.unwrap_or(u64::MAX).min(allowed.bytes);
        return Ok(Outcome::ok(format!("room for {} of artifacts", ByteSize(bytes))).evidence(evidence));
    };
    let folder = quoted(&layout.data_dir().parent().unwrap_or(layout.data_dir()).to_string_lossy());
    Ok(Outcome::fail(message)
        .evidence(evidence)
        .effect("the node evicts down to what the volume allows, however much is set")
        .remedy(
            Remedy::text(format!(
                "set --cas-capacity-bytes (KURA_CAS_CAPACITY_BYTES) to {} or less, give the node a volume or a quota of \
                 its own, or move what is not kura's away",
                allowed.bytes
            ))
            .look(format!("du -xh --max-depth=1 {folder}")),
        ))
}

fn overcommitted(setting: Option<u64>, allowed: Capacity, foreign: u64, total: u64) -> Option<&'static str> {
    match setting {
        Some(set) if allowed.bytes < set - set / SETTING_SLACK_SHARE => {
            Some("the capacity that is set is more than the volume allows")
        }
        None if allowed.bytes < (total / BUDGET_SHARE_MIN).min(BUDGET_BYTES_MIN)
            && foreign > total / FOREIGN_SHARE_MIN =>
        {
            Some("others on the volume leave artifacts next to no room")
        }
        _ => None,
    }
}

/// What the index's files take. Bodies inside it are counted with the artifacts, too, so what is left over as others'
/// is the least it can be.
fn index_bytes(layout: &crate::core::data_dir::layout::Layout) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(layout.index()) else { return 0 };
    let found = entries.take(INDEX_FILES_MAX).flatten().filter_map(|entry| entry.metadata().ok());
    found.map(|found| found.blocks().saturating_mul(512)).sum()
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
