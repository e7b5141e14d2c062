//! The checks that a running node makes of itself: those that cost little.
//!
//! How it works: what a running node says of itself, and what a look at settings, volume, data dir and staging tells.
//! Left out are the checks that open the index a second time, read bodies or dial peers.
//!
//! Invariants: all in the caller's thread, one after another; a panic of one is its `error`.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::check::{About, Category, Check, Outcome, Pulse, Reach};
use super::checks;
use super::context::Context;
use super::finding::{Code, Status};
use super::run::barred;

/// What one check came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Which check.
    pub code: Code,
    /// How it ended.
    pub status: Status,
    /// One sentence.
    pub message: String,
}

/// The checks that are watched.
pub fn watched() -> impl Iterator<Item = &'static dyn Check> {
    checks::ALL.iter().copied().filter(|check| is_watched(&check.about()))
}

fn is_watched(about: &About) -> bool {
    let is_cheap =
        matches!(about.category, Category::Config | Category::Volume | Category::DataDir | Category::Staging);
    match about.reach {
        Reach::Live => true,
        // It asks the node, and files only where none answers.
        Reach::Offline => is_cheap || about.code == Code::IndexWriteStopped,
        Reach::Network => false,
    }
}

/// Makes each of them once.
pub fn look(context: &Context) -> Vec<Seen> {
    let mut statuses = BTreeMap::new();
    let seen = watched().map(|check| {
        let about = check.about();
        let outcome = barred(context, &about, &statuses).unwrap_or_else(|| conduct(context, check));
        statuses.insert(about.code, outcome.status);
        Seen { code: about.code, status: outcome.status, message: outcome.message }
    });
    seen.collect()
}

fn conduct(context: &Context, check: &dyn Check) -> Outcome {
    match catch_unwind(AssertUnwindSafe(|| check.run(context, &Pulse::default()))) {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => Outcome::error(error.to_string()),
        Err(_) => Outcome::error("the check itself failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::doctor::context::Vantage;
    use crate::core::doctor::live::{ControlStatus, SpaceStatus};
    use crate::core::doctor::test_support::context;

    #[test]
    fn a_node_that_looks_at_itself_does_not_replay_its_log() {
        for space in [None, Some(SpaceStatus::default())] {
            let root = tempfile::tempdir().unwrap();
            let mut context = context(root.path());
            std::fs::create_dir_all(context.layout().unwrap().data_dir()).unwrap();
            std::fs::write(context.layout().unwrap().identity(), b"it has started here").unwrap();
            context.vantage = Vantage::Live(Box::new(ControlStatus { space, ..ControlStatus::default() }));
            look(&context);
            assert!(!context.has_opened_index());
        }
    }

    #[test]
    fn what_opens_the_index_reads_bodies_or_dials_peers_is_not_watched() {
        let codes: Vec<Code> = watched().map(|check| check.about().code).collect();
        for code in [Code::DiskFull, Code::StagingOrphans, Code::IndexWriteStopped, Code::NotReady] {
            assert!(codes.contains(&code), "{code}");
        }
        for code in [Code::IndexUnreadable, Code::BodyMissing, Code::BootstrapIncomplete, Code::PeerUnreachable] {
            assert!(!codes.contains(&code), "{code}");
        }
        for check in watched() {
            for need in check.about().needs {
                assert!(codes.contains(need), "{} needs {need}, which is not watched", check.about().code);
            }
        }
    }
}
