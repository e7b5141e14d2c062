//! Settings.

use crate::core::config::ConfigWarning;
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

/// Whether everything that was set is a setting. Unknown flags and keys of the file are faults and end every command
/// (CONFIG_INVALID); an unknown variable has no effect and only warns.
#[derive(Debug)]
pub struct ConfigUnknownKey;

impl Check for ConfigUnknownKey {
    fn about(&self) -> About {
        About {
            code: Code::ConfigUnknownKey,
            category: Category::Config,
            title: "every KURA_* variable is a setting",
            reach: Reach::Offline,
            severity: Severity::Warn,
            fatal: false,
            needs: &[Code::ConfigInvalid],
            limit: QUICK_LIMIT,
        }
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let links = |warning: &&ConfigWarning| matches!(warning, ConfigWarning::ServiceLinks { .. });
        let evidence = Evidence::new().value("service_links", context.unread.iter().any(|warning| links(&warning)));
        let unread = context.unread.iter().filter(|warning| !links(warning));
        let lines: Vec<String> = unread.map(ToString::to_string).collect();
        if lines.is_empty() {
            return Ok(Outcome::ok("every KURA_* variable is a setting").evidence(evidence));
        }
        Ok(Outcome::warn("variables are set that have no effect")
            .evidence(evidence.list("variables", &lines, lines.len() as u64))
            .effect("the node runs as if they were not set: perhaps not as somebody meant it to")
            .remedy(Remedy::text("correct the name where one is suggested, and take the others away")))
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

    #[test]
    fn a_mistyped_variable_is_named_and_what_kubernetes_injects_is_not() {
        let root = tempfile::tempdir().unwrap();
        let looked = |unread: Vec<ConfigWarning>| {
            ConfigUnknownKey.run(&context(root.path()).with_unread(unread), &Pulse::default()).unwrap()
        };
        let links = ConfigWarning::ServiceLinks { names: vec!["KURA_SERVICE_HOST".to_owned()] };
        assert_eq!(looked(Vec::new()).status, Status::Ok);
        assert_eq!(looked(vec![links.clone()]).status, Status::Ok);
        let mistyped =
            ConfigWarning::UnknownVariable { name: "KURA_PEER".to_owned(), nearest: Some("KURA_PEERS".to_owned()) };
        let outcome = looked(vec![links, mistyped]);
        assert_eq!((outcome.status, outcome.severity), (Status::Warn, Some(Severity::Warn)));
        assert_eq!(outcome.evidence.details(), ["KURA_PEER is not a setting; did you mean KURA_PEERS?"]);
    }
}
