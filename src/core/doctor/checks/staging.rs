//! Bytes not yet committed: can they be committed from where they lie, and does somebody own them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::core::base::units::ByteSize;
use crate::core::data_dir::lock::{DataDirLock, LockState};
use crate::core::data_dir::space::MountId;
use crate::core::doctor::check::{About, Category, Check, CheckError, Outcome, Pulse, QUICK_LIMIT, Reach};
use crate::core::doctor::context::Context;
use crate::core::doctor::finding::{Code, DETAILS_MAX, Evidence, Remedy, Severity};
use crate::core::staging::area::AreaKind;
use crate::core::staging::inventory::{Found, Ownership, StagedEntry, StagingFolders, StagingTree};
use crate::core::staging::reclaim::ownership_beside;

/// Whether staged files can be linked into the data dir.
#[derive(Debug)]
pub struct StagingOtherDevice;

impl Check for StagingOtherDevice {
    fn about(&self) -> About {
        About {
            code: Code::StagingOtherDevice,
            category: Category::Staging,
            title: "the tmp dir is on the data dir's mount",
            reach: Reach::Offline,
            severity: Severity::Fail,
            fatal: false,
            needs: &[Code::DataDirMissing],
            limit: QUICK_LIMIT,
        }
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let layout = context.layout()?;
        let data = mount_of(layout.data_dir())?;
        let tmp = mount_of(layout.tmp_dir())?;
        if data == tmp {
            return Ok(Outcome::ok("tmp dir and data dir are on one mount"));
        }
        let evidence = Evidence::new()
            .value("tmp_dir", layout.tmp_dir().to_string_lossy())
            .value("tmp_mount", tmp.mount)
            .value("tmp_device", tmp.device)
            .value("data_mount", data.mount)
            .value("data_device", data.device)
            .fact(format!("{}: mount {}, device {}", layout.tmp_dir().display(), tmp.mount, tmp.device))
            .fact(format!("data dir: mount {}, device {}", data.mount, data.device));
        Ok(Outcome::fail("the tmp dir is on another mount than the data dir")
            .evidence(evidence)
            .effect(
                "a staged file cannot be linked into place, so kura serve stages in <data dir>/tmp instead; \
                     budgets and mounts set up for the tmp dir have no effect",
            )
            .remedy(Remedy::text(
                "leave --tmp-dir and KURA_TMP_DIR away, or name a folder on the data dir's own mount (two subPath \
                 mounts of one volume are two mounts)",
            )))
    }
}

/// The mount a path lies on, or will lie on once it is made.
fn mount_of(path: &Path) -> Result<MountId, CheckError> {
    for place in path.ancestors() {
        match MountId::of(place) {
            Ok(mount) => return Ok(mount),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(CheckError(format!("failed to ask for the mount of {}: {error}", place.display())));
            }
        }
    }
    Err(CheckError(format!("no part of {} exists", path.display())))
}

/// What lies in the staging areas.
#[derive(Debug, Clone, Default)]
pub struct Staged {
    areas: BTreeMap<AreaKind, AreaTotals>,
    unknown: u64,
    failed: Vec<String>,
    failed_total: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct AreaTotals {
    orphans: u64,
    orphan_bytes: u64,
    owned: u64,
    owned_bytes: u64,
    /// Partial bodies without an owner: the next start goes on with them.
    partials: u64,
    partial_bytes: u64,
    oldest_ms: u64,
    newest_ms: u64,
}

/// Bytes `kura reclaim-staging` would free now, if that can be known.
pub(super) fn reclaimable_bytes(context: &Context, pulse: &Pulse) -> Option<u64> {
    let staged = staged(context, pulse).ok()?;
    Some(staged.areas.values().map(|area| area.orphan_bytes).sum())
}

/// Bytes in all staging areas, owned or not, if that can be known.
pub(super) fn staged_bytes(context: &Context, pulse: &Pulse) -> Option<u64> {
    let staged = staged(context, pulse).ok()?;
    Some(staged.areas.values().map(|area| area.orphan_bytes.saturating_add(area.owned_bytes)).sum())
}

fn staged<'a>(context: &'a Context, pulse: &Pulse) -> Result<&'a Staged, CheckError> {
    context.staged.get_or_init(|| take_stock(context, pulse)).as_ref().map_err(CheckError::clone)
}

fn take_stock(context: &Context, pulse: &Pulse) -> Result<Staged, CheckError> {
    let layout = context.layout()?;
    let ownership = ownership(context)?;
    let folders = StagingFolders::new(layout, Arc::clone(&context.world.disk));
    let mut staged = Staged::default();
    folders.scan(&AreaKind::ALL, ownership, &mut |found| {
        pulse.beat();
        match found {
            Found::Staged(entry) => staged.areas.entry(entry.path.folder.kind).or_default().add(&entry),
            Found::Unknown(_) => staged.unknown += 1,
            Found::Failed(path, error) => {
                staged.failed_total += 1;
                if staged.failed.len() < DETAILS_MAX {
                    staged.failed.push(format!("{}: {error}", path.display()));
                }
            }
        }
    });
    Ok(staged)
}

/// Without a holder nobody owns anything. A holder that does not lock what it stages cannot be told from nobody.
fn ownership(context: &Context) -> Result<Ownership, CheckError> {
    let layout = context.layout()?;
    let state = DataDirLock::probe(layout).map_err(|error| CheckError::from_error("look at the lock", &error))?;
    match state {
        LockState::Free => Ok(Ownership::Nobody),
        LockState::Held(holder) => ownership_beside(layout, &holder).ok_or_else(|| {
            CheckError("the process that holds the data dir does not say that it locks what it stages".to_owned())
        }),
    }
}

impl AreaTotals {
    fn add(&mut self, entry: &StagedEntry) {
        if entry.is_owned {
            self.owned += 1;
            self.owned_bytes += entry.bytes;
            return;
        }
        if entry.is_partial {
            self.partials += 1;
            self.partial_bytes += entry.bytes;
            return;
        }
        self.oldest_ms = if self.orphans == 0 { entry.modified_ms } else { self.oldest_ms.min(entry.modified_ms) };
        self.newest_ms = self.newest_ms.max(entry.modified_ms);
        self.orphans += 1;
        self.orphan_bytes += entry.bytes;
    }
}

/// Whether staged bytes have owners.
#[derive(Debug)]
pub struct StagingOrphans;

impl Check for StagingOrphans {
    fn about(&self) -> About {
        About {
            code: Code::StagingOrphans,
            category: Category::Staging,
            title: "every staged byte has an owner",
            reach: Reach::Offline,
            severity: Severity::Warn,
            fatal: false,
            needs: &[Code::DataDirMissing],
            limit: QUICK_LIMIT,
        }
    }

    fn run(&self, context: &Context, pulse: &Pulse) -> Result<Outcome, CheckError> {
        let staged = staged(context, pulse)?;
        let orphans: u64 = staged.areas.values().map(|area| area.orphans).sum();
        let owned: u64 = staged.areas.values().map(|area| area.owned).sum();
        if orphans == 0 && staged.failed_total > 0 {
            return Err(CheckError(format!("failed to look at {}", staged.failed.join("; "))));
        }
        if orphans == 0 {
            let message = format!("nothing is abandoned; {owned} staged files have an owner");
            return Ok(Outcome::ok(message).evidence(orphan_evidence(staged, owned, context.world.clock.now_ms())));
        }
        let bytes: u64 = staged.areas.values().map(|area| area.orphan_bytes).sum();
        let noun = if orphans == 1 { "abandoned file holds" } else { "abandoned files hold" };
        Ok(Outcome::warn(format!("{orphans} {noun} {}", ByteSize(bytes)))
            .evidence(orphan_evidence(staged, owned, context.world.clock.now_ms()))
            .effect("the space is lost until the next start, which frees it, or until it is reclaimed")
            .remedy(
                Remedy::text(format!("frees about {}", ByteSize(bytes)))
                    .change(context.command("reclaim-staging", &["--yes"])),
            ))
    }
}

/// Whether more is staged than the budget allows.
#[derive(Debug)]
pub struct StagingOverBudget;

impl Check for StagingOverBudget {
    fn about(&self) -> About {
        About {
            code: Code::StagingOverBudget,
            category: Category::Staging,
            title: "staged bytes stay within their budget",
            reach: Reach::Offline,
            severity: Severity::Fail,
            fatal: false,
            needs: &[Code::ConfigInvalid, Code::DataDirMissing],
            limit: QUICK_LIMIT,
        }
    }

    fn run(&self, context: &Context, pulse: &Pulse) -> Result<Outcome, CheckError> {
        let budget = context.config()?.tmp_dir_max_bytes;
        let staged = staged(context, pulse)?;
        let orphans: u64 = staged.areas.values().map(|area| area.orphan_bytes).sum();
        let owned: u64 = staged.areas.values().map(|area| area.owned_bytes + area.partial_bytes).sum();
        let total = orphans.saturating_add(owned);
        let line = format!("{} of {} staged", ByteSize(total), ByteSize(budget));
        let evidence = Evidence::new()
            .value("staged_bytes", total)
            .value("abandoned_bytes", orphans)
            .value("owned_bytes", owned)
            .value("budget_bytes", budget)
            .fact(line.clone());
        // The ledger lets one body that is larger than itself go alone: without orphans more than the budget is right.
        if total <= budget || orphans == 0 {
            return Ok(Outcome::ok(line).evidence(evidence));
        }
        Ok(Outcome::fail("more is staged than the budget allows")
            .evidence(evidence.fact(format!("{} of it belong to nobody", ByteSize(orphans))))
            .effect("the volume holds more unfinished bytes than was planned for; artifacts have to make room for them")
            .remedy(
                Remedy::text(format!("frees about {}; or raise --tmp-dir-max-bytes", ByteSize(orphans)))
                    .change(context.command("reclaim-staging", &["--yes"])),
            ))
    }
}

fn orphan_evidence(staged: &Staged, owned: u64, now_ms: u64) -> Evidence {
    let with_orphans = || staged.areas.values().filter(|area| area.orphans > 0);
    let mut evidence = Evidence::new();
    for (kind, area) in &staged.areas {
        evidence = evidence
            .value(&format!("{}_files", kind.name()), area.orphans)
            .value(&format!("{}_bytes", kind.name()), area.orphan_bytes);
        if area.orphans > 0 {
            evidence = evidence.fact(format!("{} {} of {}", kind.name(), area.orphans, ByteSize(area.orphan_bytes)));
        }
    }
    let oldest = with_orphans().map(|area| area.oldest_ms).min();
    let newest = with_orphans().map(|area| area.newest_ms).max();
    if let (Some(oldest), Some(newest)) = (oldest, newest) {
        let (oldest, newest) = (now_ms.saturating_sub(oldest), now_ms.saturating_sub(newest));
        evidence = evidence.value("oldest_age_ms", oldest).value("newest_age_ms", newest).fact(format!(
            "oldest {}, newest {}",
            age(oldest),
            age(newest)
        ));
    }
    let partials: u64 = staged.areas.values().map(|area| area.partials).sum();
    let partial_bytes: u64 = staged.areas.values().map(|area| area.partial_bytes).sum();
    if partials > 0 {
        let noun = if partials == 1 { "partial body" } else { "partial bodies" };
        evidence = evidence.fact(format!(
            "{partials} {noun} of {} wait for the next start (reclaim-staging --kind bootstrap frees them)",
            ByteSize(partial_bytes)
        ));
    }
    evidence
        .value("partial_files", partials)
        .value("partial_bytes", partial_bytes)
        .value("owned_files", owned)
        .value("unknown_entries", staged.unknown)
        .value("failed_entries", staged.failed_total)
        .fact(format!("{owned} belong to a live upload"))
}

/// The largest whole unit: `9 d`, `3 h`, `20 min`, `5 s`.
pub(in crate::core::doctor) fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
#[path = "staging_tests.rs"]
mod tests;
