//! Settings.

use crate::core::doctor::check::{About, Category, Check, CheckError, Outcome, Pulse, QUICK_LIMIT, Reach};
use crate::core::doctor::context::{Context, Settings};
use crate::core::doctor::finding::{Code, Evidence, Remedy, Severity};

/// Whether the settings resolve.
#[derive(Debug)]
pub struct ConfigInvalid;

impl Check for ConfigInvalid {
    fn about(&self) -> About {
        About {
            code: Code::ConfigInvalid,
            category: Category::Config,
            title: "settings read, and make sense together",
            reach: Reach::Offline,
            severity: Severity::Fail,
            fatal: true,
            needs: &[],
            limit: QUICK_LIMIT,
        }
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let Settings::Invalid { problems, .. } = &context.settings else {
            return Ok(Outcome::ok("settings read, and make sense together"));
        };
        let total = problems.len() as u64;
        let message = match problems.as_slice() {
            [_] => "a setting is wrong".to_owned(),
            _ => format!("{total} settings are wrong"),
        };
        Ok(Outcome::fail(message)
            .evidence(Evidence::new().list("problems", problems, total))
            .effect("no command starts with these settings")
            .remedy(Remedy::text("correct each value where the line says it came from")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::doctor::finding::Status;
    use crate::core::doctor::test_support::{context, invalid_context};

    #[test]
    fn each_fault_of_the_settings_is_named() {
        let context = invalid_context(&["KURA_PORT: expected a port, got \"http\"", "--bind: no"], None);
        let outcome = ConfigInvalid.run(&context, &Pulse::default()).unwrap();
        assert_eq!((outcome.status, outcome.message.as_str()), (Status::Fail, "2 settings are wrong"));
        assert_eq!(outcome.evidence.values()["problems"][0], "KURA_PORT: expected a port, got \"http\"");
    }

    #[test]
    fn settings_that_resolve_are_quiet() {
        let root = tempfile::tempdir().unwrap();
        let outcome = ConfigInvalid.run(&context(root.path()), &Pulse::default()).unwrap();
        assert_eq!(outcome.status, Status::Ok);
    }
}
