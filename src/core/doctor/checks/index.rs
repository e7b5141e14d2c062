//! Identity and index: can this binary read what lies there.

use crate::core::data_dir::identity::{FORMAT, Identity, IdentityState, InitState};
use crate::core::doctor::check::{About, Category, Check, CheckError, Outcome, Pulse, QUICK_LIMIT, Reach};
use crate::core::doctor::context::{Context, IndexTrouble};
use crate::core::doctor::finding::{Code, Evidence, Remedy, Severity};

/// Whether the data dir is kura's, and of a format this binary reads.
#[derive(Debug)]
pub struct IndexFormat;

impl Check for IndexFormat {
    fn about(&self) -> About {
        About {
            code: Code::IndexFormat,
            category: Category::Index,
            title: "the data dir has a format this binary reads",
            reach: Reach::Offline,
            severity: Severity::Fail,
            fatal: true,
            needs: &[Code::DataDirMissing],
            limit: QUICK_LIMIT,
        }
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let state = Identity::load(context.layout()?);
        let state = state.map_err(|error| CheckError::from_error("read the identity", &error))?;
        let supported = Evidence::new().value("supported_major", FORMAT.major);
        Ok(match state {
            IdentityState::Ok(identity) => of_tenant(context, &identity),
            IdentityState::Absent => Outcome::skip("nothing was ever stored here"),
            IdentityState::Incompatible { reason } => Outcome::fail("made by another version")
                .evidence(supported.value("reason", reason.clone()).fact(reason))
                .effect("kura serve exits 14 and touches nothing")
                .remedy(Remedy::text("run the version that made it, or catch a new data dir up with kura bootstrap")),
            IdentityState::Corrupt { reason } => Outcome::fail("the identity cannot be used")
                .evidence(supported.value("reason", reason.clone()).fact(reason))
                .effect("kura serve does not open a store whose name it cannot read")
                .remedy(Remedy::text(
                    "put the file back from a copy; else move the data dir aside and catch a new one up with kura bootstrap",
                )),
            IdentityState::Foreign { reason } => Outcome::fail("not a kura data dir")
                .evidence(supported.value("reason", reason.clone()).fact(reason))
                .effect("kura serve exits 12 and touches nothing")
                .remedy(Remedy::text("correct --data-dir, or mount the volume that belongs here")),
        })
    }
}

/// Whether the index opens.
#[derive(Debug)]
pub struct IndexUnreadable;

/// Opening replays the write-ahead log, which is bounded, from a disk that may be slow.
const OPEN_LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

impl Check for IndexUnreadable {
    fn about(&self) -> About {
        About {
            code: Code::IndexUnreadable,
            category: Category::Index,
            title: "the index opens",
            reach: Reach::Offline,
            severity: Severity::Fail,
            fatal: true,
            needs: &[Code::ConfigInvalid, Code::DataDirMissing, Code::IndexFormat],
            limit: OPEN_LIMIT,
        }
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let identity = Identity::load(context.layout()?);
        let identity = identity.map_err(|error| CheckError::from_error("read the identity", &error))?;
        if matches!(identity, IdentityState::Ok(identity) if identity.init_state == InitState::Initialising) {
            return Ok(Outcome::skip("the first start has not ended: kura serve makes the index anew"));
        }
        match context.index_trouble() {
            None => {
                let stats = context.index()?.stats();
                let message = format!("the index opens: {} artifacts", stats.artifacts);
                let evidence = Evidence::new()
                    .value("artifacts", stats.artifacts)
                    .value("body_bytes", stats.body_bytes)
                    .value("head_seq", stats.head_seq.0);
                Ok(Outcome::ok(message).evidence(evidence))
            }
            Some(trouble) => Ok(unreadable(context, trouble)),
        }
    }
}

fn unreadable(context: &Context, trouble: &IndexTrouble) -> Outcome {
    let mut evidence = Evidence::new().value("status", trouble.message.clone());
    if let Some(path) = &trouble.path {
        evidence = evidence.value("file", path.to_string_lossy());
    }
    Outcome::fail("the index does not open")
        .evidence(evidence.fact(trouble.message.clone()))
        .effect("kura serve makes an index that is damaged anew by itself; one that cannot be read just now stops it")
        .remedy(
            Remedy::text("make it anew from body files and the deletes on record; the rest comes back from peers")
                .change(context.command("bootstrap", &["--rebuild-index"])),
        )
}

/// The right format, but perhaps another mesh's data.
fn of_tenant(context: &Context, identity: &Identity) -> Outcome {
    let format = identity.format;
    let evidence = Evidence::new()
        .value("format_major", format.major)
        .value("format_minor", format.minor)
        .value("store_id", identity.store_id.to_string())
        .value("tenant", identity.tenant.clone());
    let wanted = context.config().ok().map(|config| config.tenant_id.clone());
    match wanted.filter(|wanted| *wanted != identity.tenant) {
        None => Outcome::ok(format!("format {}.{}, store {}", format.major, format.minor, identity.store_id))
            .evidence(evidence),
        Some(wanted) => Outcome::fail("the data dir belongs to another tenant")
            .evidence(
                evidence
                    .value("expected_tenant", wanted.clone())
                    .fact(format!("the data dir says {:?}, the settings say {wanted:?}", identity.tenant)),
            )
            .effect("kura serve exits 14: artifact ids of two tenants never match")
            .remedy(Remedy::text("correct --tenant-id or --data-dir")),
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
