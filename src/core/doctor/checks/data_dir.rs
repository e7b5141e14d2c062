//! The data dir as a place: who owns it, who holds it.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};

use super::staging::age;
use crate::core::data_dir::layout::Layout;
use crate::core::data_dir::lock::{DataDirLock, LockHolder, LockState, host_name};
use crate::core::data_dir::run_record::{HEARTBEAT_INTERVAL, RunRecord, boot_id};
use crate::core::doctor::check::{About, Category, Check, CheckError, Outcome, Pulse, QUICK_LIMIT, Reach};
use crate::core::doctor::context::{Context, Vantage, quoted};
use crate::core::doctor::finding::{Code, Evidence, Remedy, Severity};
use crate::core::staging::area::AreaKind;

/// Files of the index whose owner is looked at: one run as the wrong user leaves a handful of them.
const INDEX_FILES_MAX: usize = 4096;

fn about(code: Code, title: &'static str, severity: Severity) -> About {
    let (category, reach, limit) = (Category::DataDir, Reach::Offline, QUICK_LIMIT);
    About { code, category, title, reach, severity, fatal: false, needs: &[Code::DataDirMissing], limit }
}

/// Whether the server may write everything it must write.
#[derive(Debug)]
pub struct DataDirOwner;

impl Check for DataDirOwner {
    fn about(&self) -> About {
        about(Code::DataDirOwner, "the server's user can write the data dir", Severity::Fail)
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let layout = context.layout()?;
        let root = std::fs::metadata(layout.data_dir())
            .map_err(|error| CheckError(format!("failed to look at {}: {error}", layout.data_dir().display())))?;
        let user = expected_user(context, &root);
        let mut barred = Vec::new();
        for path in places(layout) {
            if let Some(reason) = why_barred(&path, &root, user)? {
                barred.push(format!("{}: {reason}", path.display()));
            }
        }
        let mode = format!("{:04o}", root.mode() & 0o7777);
        if barred.is_empty() {
            return Ok(Outcome::ok(format!("uid {user} can write the data dir (owner {}, mode {mode})", root.uid())));
        }
        Ok(Outcome::fail(format!("uid {user} cannot write parts of the data dir"))
            .evidence(owner_evidence(user, &root, &mode, &barred))
            .effect("kura serve fails at the first of these files it has to write")
            .remedy(owner_remedy(layout, user, &root)))
    }
}

fn owner_evidence(user: u32, root: &Metadata, mode: &str, barred: &[String]) -> Evidence {
    Evidence::new()
        .value("expected_uid", user)
        .value("owner_uid", root.uid())
        .value("owner_gid", root.gid())
        .value("mode", mode)
        .fact(format!("the data dir belongs to {}:{}, mode {mode}", root.uid(), root.gid()))
        .list("paths", barred, barred.len() as u64)
}

fn owner_remedy(layout: &Layout, user: u32, root: &Metadata) -> Remedy {
    let folder = quoted(&layout.data_dir().to_string_lossy());
    let text = "or set the pod's fsGroup and runAsUser to the owner; run kura's commands as the server's user";
    Remedy::text(text).change(format!("chown -R {user}:{} {folder}", root.gid()))
}

/// The user that has to be able to write: who asks, or for root the process that holds the data dir, or its owner.
fn expected_user(context: &Context, root: &Metadata) -> u32 {
    let asking = rustix::process::geteuid();
    if !asking.is_root() {
        return asking.as_raw();
    }
    let holder = context.layout.as_ref().and_then(|layout| match DataDirLock::probe(layout) {
        Ok(LockState::Held(holder)) => user_of(&holder),
        _ => None,
    });
    holder.unwrap_or_else(|| root.uid())
}

/// The user of a process on this host.
fn user_of(holder: &LockHolder) -> Option<u32> {
    let here = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if holder.host.as_ref().is_some_and(|host| *host != here) {
        return None;
    }
    std::fs::metadata(format!("/proc/{}", holder.pid?)).ok().map(|process| process.uid())
}

/// What the server writes, as far as it exists; bounded.
fn places(layout: &Layout) -> Vec<PathBuf> {
    let mut places = vec![
        layout.data_dir().to_owned(),
        layout.identity(),
        layout.lock(),
        layout.run_record(),
        layout.index(),
        layout.bodies(),
        layout.tombstones_log(),
        layout.quarantine(),
        layout.ballast(),
        layout.tmp_dir().to_owned(),
    ];
    places.extend(AreaKind::ALL.map(|area| layout.tmp_dir().join(area.name())));
    let index = std::fs::read_dir(layout.index()).into_iter().flatten().flatten();
    places.extend(index.take(INDEX_FILES_MAX).map(|entry| entry.path()));
    places
}

/// Why this user cannot write a path; a path that does not exist bars nobody.
fn why_barred(path: &Path, root: &Metadata, user: u32) -> Result<Option<String>, CheckError> {
    let found = match std::fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Ok(Some("a folder above it is closed".to_owned()));
        }
        Err(error) => return Err(CheckError(format!("failed to look at {}: {error}", path.display()))),
    };
    let may_write = if user == rustix::process::geteuid().as_raw() {
        asked_kernel(path, found.is_dir())
    } else {
        by_mode(&found, root, user)
    };
    let owner = format!("belongs to {}:{}, mode {:04o}", found.uid(), found.gid(), found.mode() & 0o7777);
    Ok((!may_write).then_some(owner))
}

/// The kernel's word, access lists included. A read-only volume is another finding.
fn asked_kernel(path: &Path, is_folder: bool) -> bool {
    let wanted = Access::READ_OK | Access::WRITE_OK | if is_folder { Access::EXEC_OK } else { Access::empty() };
    let answer = rustix::fs::accessat(CWD, path, wanted, AtFlags::EACCESS);
    !matches!(answer, Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM))
}

/// For another user only owner and mode are known: his own file, one of the data dir's group, or everyone's.
fn by_mode(found: &Metadata, root: &Metadata, user: u32) -> bool {
    let needed = if found.is_dir() { 0o7 } else { 0o6 };
    let allows = |shift: u32| (found.mode() >> shift) & needed == needed;
    match (found.uid() == user, found.gid() == root.gid()) {
        _ if user == 0 => true,
        (true, _) => allows(6),
        (false, true) => allows(3) || allows(0),
        (false, false) => allows(0),
    }
}

/// Who holds the data dir.
#[derive(Debug)]
pub struct DataDirLocked;

impl Check for DataDirLocked {
    fn about(&self) -> About {
        about(Code::DataDirLocked, "who holds the data dir", Severity::Info)
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let state = DataDirLock::probe(context.layout()?);
        match state.map_err(|error| CheckError::from_error("look at the lock", &error))? {
            LockState::Free => Ok(Outcome::ok("no process holds the data dir")),
            LockState::Held(holder) => Ok(held(context, &holder)),
        }
    }
}

fn held(context: &Context, holder: &LockHolder) -> Outcome {
    let evidence = holder_evidence(holder);
    if matches!(context.vantage, Vantage::Live(_)) {
        return Outcome::info(format!("held by {holder}, which answers")).evidence(evidence);
    }
    Outcome::info("a process holds the data dir")
        .evidence(evidence)
        .effect("commands that write exit 11 until it ends")
        .remedy(Remedy::text("asks the process").look(context.command("doctor", &["--online"])))
}

fn holder_evidence(holder: &LockHolder) -> Evidence {
    Evidence::new()
        .value("pid", holder.pid)
        .value("host", holder.host.clone())
        .value("since_ms", holder.since_ms)
        .value("version", holder.version.clone())
        .fact(holder.to_string())
}

/// Whether the last process stopped in order, if none runs.
#[derive(Debug)]
pub struct RunRecordStale;

impl Check for RunRecordStale {
    fn about(&self) -> About {
        about(Code::RunRecordStale, "the last process stopped in order", Severity::Warn)
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let layout = context.layout()?;
        let path = layout.run_record();
        let record = match RunRecord::load(layout) {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(Outcome::ok("no process left a record")),
            Err(error) => return Err(CheckError(format!("failed to read {}: {error}", path.display()))),
        };
        if record.clean {
            return Ok(Outcome::ok(format!("pid {} on {} stopped in order", record.pid, record.host)));
        }
        let state = DataDirLock::probe(layout);
        match state.map_err(|error| CheckError::from_error("look at the lock", &error))? {
            LockState::Held(_) => Ok(Outcome::ok(format!("pid {} has not ended", record.pid))),
            LockState::Free => Ok(stale(context, &record)),
        }
    }
}

fn stale(context: &Context, record: &RunRecord) -> Outcome {
    let silent_ms = context.world.clock.now_ms().saturating_sub(record.heartbeat_ms);
    let is_foreign = record.host != host_name();
    let mut evidence = Evidence::new()
        .value("pid", record.pid)
        .value("host", record.host.clone())
        .value("version", record.version.clone())
        .value("started_at_ms", record.started_at_ms)
        .value("heartbeat_ms", record.heartbeat_ms)
        .value("other_host", is_foreign)
        .fact(format!(
            "pid {} on {}, last sign of life {} ago; the lock is free",
            record.pid,
            record.host,
            age(silent_ms)
        ));
    if is_foreign {
        evidence = evidence.fact("that is another host: a lock may not reach from there to here");
    }
    Outcome::warn(format!("pid {} did not stop in order, and no process runs now", record.pid))
        .evidence(evidence)
        .effect("nothing is lost: the next start replays the log and sweeps what was left behind")
        .remedy(
            Remedy::text("first make sure that it does not run on its host; its log says why it ended")
                .change(context.command("serve", &[])),
        )
}

/// A heartbeat that is no older shows a process that writes: three are missed before it counts as gone.
const FRESH_MS: u64 = 3 * HEARTBEAT_INTERVAL.as_millis() as u64 + 5_000;

/// Whether a process on another machine writes here, too.
#[derive(Debug)]
pub struct TwoWriters;

impl Check for TwoWriters {
    fn about(&self) -> About {
        About { fatal: true, ..about(Code::TwoWriters, "nobody writes here from another machine", Severity::Fail) }
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let layout = context.layout()?;
        let record = RunRecord::load(layout);
        let record =
            record.map_err(|error| CheckError(format!("failed to read {}: {error}", layout.run_record().display())))?;
        let Some(record) = record else { return Ok(Outcome::ok("no process of another machine left a record")) };
        let silent_ms = context.world.clock.now_ms().saturating_sub(record.heartbeat_ms);
        if record.clean || silent_ms > FRESH_MS {
            return Ok(Outcome::ok("no other machine's process shows a sign of life"));
        }
        // On one machine, whatever its containers are called, the lock decides and two writers are impossible.
        if !record.boot_id.is_empty() && record.boot_id == boot_id() {
            return Ok(Outcome::ok(format!("pid {} runs on this machine, where the lock holds", record.pid)));
        }
        // What a node says on its control socket it says on this machine.
        if context.live().is_ok_and(|status| status.instance_id == record.instance_id.to_string()) {
            return Ok(Outcome::ok("the process that answers wrote the record"));
        }
        let state = DataDirLock::probe(layout);
        let state = state.map_err(|error| CheckError::from_error("look at the lock", &error))?;
        Ok(two_writers(&record, &state, silent_ms))
    }
}

fn two_writers(record: &RunRecord, state: &LockState, silent_ms: u64) -> Outcome {
    let mut evidence = Evidence::new()
        .value("pid", record.pid)
        .value("host", record.host.clone())
        .value("instance_id", record.instance_id.to_string())
        .value("heartbeat_ms", record.heartbeat_ms)
        .value("heartbeat_age_ms", silent_ms)
        .value("lock_held_here", matches!(state, LockState::Held(_)))
        .fact(format!("pid {} on {} gave a sign of life {} ago", record.pid, record.host, age(silent_ms)));
    let message = match state {
        LockState::Held(holder) => {
            evidence = evidence.fact(format!("here it is held by {holder}"));
            format!("two processes write to this data dir: one here and one on {}", record.host)
        }
        LockState::Free => {
            evidence = evidence.fact("its lock does not reach here".to_owned());
            format!("a process on {} writes to this data dir, and nothing here would stop a second one", record.host)
        }
    };
    Outcome::fail(message)
        .evidence(evidence)
        .effect("two writers of one index destroy it: rows are lost and bodies are unlinked under the other one")
        .remedy(Remedy::text(
            "stop one of them (scale to 1 replica for each volume) before anything else; give each node a volume of its \
             own, ReadWriteOnce and not NFS",
        ))
}

#[cfg(test)]
#[path = "data_dir_tests.rs"]
mod tests;
