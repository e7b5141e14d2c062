//! Bytes not yet committed: can they be committed from where they lie, and does somebody own them.

use std::io;
use std::path::Path;

use crate::core::data_dir::space::MountId;
use crate::core::doctor::check::{About, Category, Check, CheckError, Outcome, Pulse, QUICK_LIMIT, Reach};
use crate::core::doctor::context::Context;
use crate::core::doctor::finding::{Code, Evidence, Remedy, Severity};

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

/// Bytes `kura reclaim-staging` would free now, if that can be known.
pub(super) fn reclaimable_bytes(_context: &Context) -> Option<u64> {
    None
}
