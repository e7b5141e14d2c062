//! `kura doctor artifact`: explains one artifact. Changes nothing.

use std::sync::Arc;

use super::context::Context;
use super::doctor::{ArtifactArgs, DoctorArgs, DoctorOutput, exit_of, mode, settings_of, world};
use super::exit::{CommandError, ExitCode};
use super::render::doctor::Style;
use super::render::doctor_artifact as render;
use super::usage::usage_error;
use crate::core::base::ids::ArtifactId;
use crate::core::doctor::artifact::{self, ArtifactReport, Subject};
use crate::core::doctor::context::{Asked, Context as Look};
use crate::core::store::record::ArtifactKey;

/// How keys are written: as the record has them, which is not always as the URL has them.
pub const EXAMPLES: &str = "\
Examples:
  kura doctor artifact 9f2c…                     by its id, 64 hex digits
  kura doctor artifact gradle main 0c1d…         a Gradle entry of the namespace `main`
  kura doctor artifact bazel \"\" cas/5e88…        a blob of Bazel (ac/… for an action result)
  kura doctor artifact nx 8817…                  Nx; its namespace is always `nx`

Exit codes: 0 told, 3 its body or manifest is bad here, 4 it could not be looked at, 2 usage.";

/// Where the producers of one namespace keep everything; of the others it is the tenant-wide one.
const FIXED_NAMESPACES: [&str; 2] = ["nx", "metro"];

/// Looks and says what was found.
///
/// # Errors
/// A subject that is none, settings without a tenant, and an unwritable stdout.
pub async fn run(args: &DoctorArgs, subject: &ArtifactArgs, context: &mut Context) -> Result<ExitCode, CommandError> {
    let subject = subject_of(&subject.subject)?;
    check_flags(args)?;
    context.resolved()?;
    let (settings, _) = settings_of(context);
    let (asked, world) = (Asked { mode: mode(args), ..Asked::default() }, world());
    let looked =
        tokio::task::spawn_blocking(move || artifact::explain(&Arc::new(Look::new(settings, asked, world)), &subject));
    let failed = |error: &dyn std::fmt::Display| CommandError::new(ExitCode::Unexpected, error.to_string());
    let report = looked.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    let exit = exit_of(report.conclusion());
    let text = rendered(&report, args.output, exit, context)?;
    context.answer(&text)?;
    Ok(exit)
}

fn rendered(
    report: &ArtifactReport,
    output: DoctorOutput,
    exit: ExitCode,
    context: &Context,
) -> Result<String, CommandError> {
    let style = Style { color: context.printer.color, width: context.printer.width };
    match output {
        DoctorOutput::Table => Ok(render::full(report, exit.code(), style)),
        DoctorOutput::Short => Ok(render::short(report)),
        DoctorOutput::Json => render::json(report),
    }
}

/// What only means something when everything is checked is refused, not passed over.
fn check_flags(args: &DoctorArgs) -> Result<(), CommandError> {
    let given = [
        ("--only", !args.only.is_empty()),
        ("--skip", !args.skip.is_empty()),
        ("--list", args.list),
        ("--explain", args.explain.is_some()),
        ("--wait", args.wait.is_some()),
        ("--bundle", args.bundle.is_some()),
        ("--from-bundle", args.from_bundle.is_some()),
    ];
    let faults: Vec<String> = given
        .iter()
        .filter(|(_, is_given)| *is_given)
        .map(|(flag, _)| format!("the argument '{flag}' cannot be used with 'doctor artifact'"))
        .collect();
    if faults.is_empty() { Ok(()) } else { Err(usage_error(&faults)) }
}

fn subject_of(words: &[String]) -> Result<Subject, CommandError> {
    let named = |producer: &str, namespace: &str, key: &str| {
        let (producer, namespace, key) = (producer.to_owned(), namespace.to_owned(), key.to_owned());
        Subject::Name(ArtifactKey { producer, namespace, key })
    };
    match words {
        [id] => match id.to_ascii_lowercase().parse::<ArtifactId>() {
            Ok(id) => Ok(Subject::Id(id)),
            Err(error) => {
                let hint = "kura doctor artifact ID, or PRODUCER NAMESPACE KEY such as: gradle main 0c1d…";
                Err(CommandError::new(ExitCode::Usage, format!("no artifact id: {error}")).hint(hint))
            }
        },
        [producer, key] if FIXED_NAMESPACES.contains(&producer.as_str()) => Ok(named(producer, producer, key)),
        [producer, key] => Ok(named(producer, "", key)),
        [producer, namespace, key] => Ok(named(producer, namespace, key)),
        _ => Err(usage_error(&["expected an id, or producer, namespace and key".to_owned()])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(words: &[&str]) -> Result<Subject, CommandError> {
        subject_of(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn an_artifact_is_named_by_its_id_or_by_producer_namespace_and_key() {
        let id = ArtifactId([0xab; 32]);
        assert_eq!(subject(&[&"AB".repeat(32)]).unwrap(), Subject::Id(id));
        let namespace = |words: &[&str]| match subject(words).unwrap() {
            Subject::Name(name) => name.namespace,
            Subject::Id(id) => panic!("{id}"),
        };
        assert_eq!(namespace(&["gradle", "main", "k"]), "main");
        assert_eq!(namespace(&["gradle", "k"]), "");
        assert_eq!(namespace(&["nx", "k"]), "nx");
        assert_eq!(subject(&["k"]).unwrap_err().exit, ExitCode::Usage);
    }
}
