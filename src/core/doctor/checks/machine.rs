//! What the machine gives a node: open files, its two ports, and the volume below its data dir.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::read_only;
use crate::core::base::port_holder::{is_taken, port_holder};
use crate::core::data_dir::identity::{Identity, IdentityState};
use crate::core::data_dir::space::MountId;
use crate::core::doctor::check::{About, Category, Check, CheckError, Outcome, Pulse, QUICK_LIMIT, Reach};
use crate::core::doctor::context::{Context, Vantage, quoted};
use crate::core::doctor::finding::{Code, Evidence, Remedy, Severity};

/// Descriptors besides the index and connections: logs, listeners, staged and served bodies in a quiet moment.
const BASE_FILES: u64 = 64;
/// What the two listeners need at least: 64 connections each, and a body for each.
const CONNECTION_FILES_MIN: u64 = 256;
/// With fewer the listeners, which take a quarter each, hold below 1,024 connections: ten busy Bazel clients.
const COMFORTABLE_FILES: u64 = 4096;
/// Read of `/etc/fstab`; real ones have a few kilobytes.
const FSTAB_BYTES_MAX: u64 = 1 << 20;
/// What `statfs` calls an overlay, from the kernel's `magic.h`.
const OVERLAY_MAGIC: u64 = 0x794c_7630;

fn about(code: Code, title: &'static str, severity: Severity) -> About {
    let (category, reach, limit) = (Category::Config, Reach::Offline, QUICK_LIMIT);
    About { code, category, title, reach, severity, fatal: false, needs: &[Code::ConfigInvalid], limit }
}

/// Whether enough files may be open.
#[derive(Debug)]
pub struct FdLimitLow;

impl Check for FdLimitLow {
    fn about(&self) -> About {
        about(Code::FdLimitLow, "enough files may be open", Severity::Fail)
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let index = u64::try_from(context.config()?.metadata_store_max_open_files).unwrap_or(0);
        let live = match &context.vantage {
            Vantage::Live(status) => limit_of(status.pid).map(|limit| (limit, "the running node")),
            Vantage::Offline(_) => None,
        };
        // A node raises its soft limit to the hard one when it starts.
        let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
        let (limit, whose) = live.unwrap_or((own, "a node started from this shell"));
        Ok(limit_judged(limit, index, whose))
    }
}

fn limit_judged(limit: u64, index: u64, whose: &str) -> Outcome {
    let needed = index.saturating_add(BASE_FILES + CONNECTION_FILES_MIN);
    let message = format!("{whose} may have {limit} files open");
    let evidence = Evidence::new()
        .value("limit", limit)
        .value("needed", needed)
        .value("index_files", index)
        .value("comfortable", COMFORTABLE_FILES)
        .fact(format!("{needed} needed at least ({index} of them by the index), {COMFORTABLE_FILES} in a burst"));
    let outcome = match limit {
        _ if limit < needed => Outcome::fail(message),
        _ if limit < COMFORTABLE_FILES => Outcome::warn(message),
        _ => return Outcome::ok(message).evidence(evidence),
    };
    outcome
        .evidence(evidence)
        .effect("connections wait or fail in a burst, and files of the index cannot be opened")
        .remedy(Remedy::text(
            "raise the hard limit: LimitNOFILE= of the unit, ulimits of the container, ulimit -Hn of the shell",
        ))
}

/// The soft limit of a process on this machine, which is what binds it.
fn limit_of(pid: u32) -> Option<u64> {
    soft_limit(&std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?)
}

fn soft_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// Whether the node's addresses are free.
#[derive(Debug)]
pub struct ListenerTaken;

impl Check for ListenerTaken {
    fn about(&self) -> About {
        about(Code::ListenerTaken, "the node's ports are its own", Severity::Fail)
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let config = context.config()?;
        // Who holds the data dir has bound its ports, or has ended because it could not.
        if context.is_held() {
            return Ok(Outcome::ok("the process that holds the data dir has its ports"));
        }
        let asked = context.layout.as_ref().map(|layout| std::fs::metadata(layout.data_dir()));
        if let Some(Err(error)) = asked.filter(|asked| asked.as_ref().is_err_and(read_only::is_shut_down)) {
            return Ok(Outcome::skip(format!("whether a process holds the data dir cannot be seen: {error}")));
        }
        let ports = [config.port, config.internal_port].into_iter().filter(|port| *port != 0);
        let wanted: Vec<SocketAddr> = ports.map(|port| SocketAddr::new(config.bind, port)).collect();
        let taken: Vec<String> =
            wanted.iter().filter(|address| is_taken(**address)).map(|address| held(*address)).collect();
        if taken.is_empty() {
            return Ok(Outcome::ok("nobody listens on the node's ports"));
        }
        let look = wanted.iter().map(|address| format!("sport = :{}", address.port())).collect::<Vec<_>>().join(" or ");
        let total = taken.len() as u64;
        Ok(Outcome::fail("another process listens where this node would")
            .evidence(Evidence::new().list("taken", &taken, total))
            .effect("kura serve with these settings exits 1")
            .remedy(
                Remedy::text("end that process, or set --port and --internal-port (as the node itself is started)")
                    .look(format!("ss -ltnp {}", quoted(&look))),
            ))
    }
}

fn held(address: SocketAddr) -> String {
    match port_holder(address) {
        Some(holder) => format!("{address}: {holder}"),
        None => format!("{address}: a process that this user cannot see"),
    }
}

/// Whether the data dir is on the volume that is meant for it.
#[derive(Debug)]
pub struct DataDirUnmounted;

impl Check for DataDirUnmounted {
    fn about(&self) -> About {
        let about = about(Code::DataDirUnmounted, "the data dir's volume is mounted", Severity::Fail);
        About { category: Category::Volume, fatal: true, needs: &[Code::DataDirMissing], ..about }
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let layout = context.layout()?;
        let path = layout.data_dir();
        let identity = Identity::load(layout);
        let identity = identity.map_err(|error| CheckError::from_error("read the identity", &error))?;
        if !matches!(identity, IdentityState::Absent) {
            return Ok(Outcome::ok("the data dir carries its identity"));
        }
        let path = path
            .canonicalize()
            .map_err(|error| CheckError(format!("failed to resolve {}: {error}", path.display())))?;
        if is_mount_point(&path) {
            return Ok(Outcome::ok("the data dir is a mount of its own"));
        }
        let fstab = read_fstab();
        if let Some(absent) = mount_points(&fstab).find(|point| path.starts_with(point) && !is_mount_point(point)) {
            let fact = format!("/etc/fstab has a volume for {}, and nothing is mounted there", absent.display());
            return Ok(unmounted(&path, &absent, fact));
        }
        if is_overlay(&path)? {
            return Ok(unmounted(&path, &path, "the filesystem is an overlay: the container's own layer".to_owned()));
        }
        Ok(Outcome::ok("the data dir lies on its parent's volume, and no other is meant for it"))
    }
}

fn unmounted(path: &Path, point: &Path, fact: String) -> Outcome {
    let evidence = Evidence::new()
        .value("path", path.to_string_lossy())
        .value("mount_point", point.to_string_lossy())
        .value("identity_present", false)
        .fact(fact);
    Outcome::fail("the data dir is empty, and its volume is not mounted")
        .evidence(evidence)
        .effect(
            "kura serve would start empty and write to the disk below: gone with the container, or hidden by the mount",
        )
        .remedy(
            Remedy::text("mount the volume before anything starts here")
                .look(format!("findmnt --target {}", quoted(&path.to_string_lossy()))),
        )
}

/// Whether another mount begins here. What cannot be asked is not called unmounted.
fn is_mount_point(path: &Path) -> bool {
    let Some(parent) = path.parent() else { return true };
    match (MountId::of(path), MountId::of(parent)) {
        (Ok(own), Ok(parent)) => own != parent,
        _ => true,
    }
}

fn is_overlay(path: &Path) -> Result<bool, CheckError> {
    let stat = rustix::fs::statfs(path).map_err(|error| CheckError::from_error("ask for the filesystem", &error))?;
    Ok(u64::try_from(stat.f_type).is_ok_and(|kind| kind == OVERLAY_MAGIC))
}

/// Empty where there is none, as in most containers.
fn read_fstab() -> String {
    use std::io::Read as _;
    let mut text = String::new();
    let read = std::fs::File::open("/etc/fstab").and_then(|file| file.take(FSTAB_BYTES_MAX).read_to_string(&mut text));
    if read.is_err() { String::new() } else { text }
}

/// The mount points of an fstab, the root and swap left out.
fn mount_points(fstab: &str) -> impl Iterator<Item = PathBuf> {
    let lines = fstab.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let points = lines.filter_map(|line| line.split_whitespace().nth(1));
    points
        .filter(|point| point.len() > 1 && point.starts_with('/'))
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
