//! `kura serve`: runs the node and turns what ended it into an exit code with the next command to run.

use clap::Args;

use super::context::Context;
use super::exit::{CommandError, ExitCode};
use crate::core::server::serve_error::ServeError;
use crate::core::server::startup;

/// Serve artifacts to build tools and keep peers in sync
#[derive(Debug, Args)]
pub struct ServeArgs {}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// What kept the node from starting.
pub async fn run(_args: ServeArgs, context: &mut Context) -> Result<ExitCode, CommandError> {
    let config = context.config()?.clone();
    let data_dir = config.data_dir.display().to_string();
    match startup::serve(config).await {
        Ok(()) => Ok(ExitCode::Done),
        Err(error) => Err(explain(error, &data_dir)),
    }
}

fn explain(error: ServeError, data_dir: &str) -> CommandError {
    let (exit, hint) = match &error {
        ServeError::Locked { .. } => {
            (ExitCode::InUse, Some(format!("see what the holder is doing: kura doctor --data-dir {data_dir}")))
        }
        ServeError::PortTaken { .. } => {
            (ExitCode::Unexpected, Some("stop the holder, or choose others with --port and --internal-port".to_owned()))
        }
        // Start-up reclaims by itself, so the usual remedy has nothing left to free, and the hint says so.
        ServeError::DiskFull { .. } => (
            ExitCode::DiskFull,
            Some(format!(
                "dead staging is freed already (kura reclaim-staging --data-dir {data_dir} would free 0 B more): remove \
                 other files from the volume or enlarge it; what fills it: kura doctor --data-dir {data_dir}"
            )),
        ),
        ServeError::NotADataDir { .. } => {
            (ExitCode::NotADataDir, Some("name an empty or a kura data directory with --data-dir".to_owned()))
        }
        ServeError::Incompatible { .. } => (ExitCode::Incompatible, None),
        ServeError::Store(_) | ServeError::DataDir { .. } => {
            (ExitCode::Unexpected, Some(format!("look closer: kura doctor --data-dir {data_dir}")))
        }
        ServeError::Lock(_) | ServeError::Bind { .. } | ServeError::Directories(_) | ServeError::Signals(_) => {
            (ExitCode::Unexpected, None)
        }
    };
    CommandError { exit, what: chain(&error), hint, source: None }
}

/// The error and what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::data_dir::lock::LockHolder;

    #[test]
    fn each_end_has_its_code() {
        let locked = ServeError::Locked { path: "/d".into(), holder: Box::new(LockHolder::default()) };
        let error = explain(locked, "/d");
        assert_eq!(error.exit, ExitCode::InUse);
        assert!(error.what.contains("failed to acquire writer lock"));
        assert_eq!(explain(ServeError::DiskFull { path: "/d".into(), free_bytes: 0 }, "/d").exit, ExitCode::DiskFull);
        assert_eq!(explain(ServeError::NotADataDir { path: "/d".into() }, "/d").exit, ExitCode::NotADataDir);
        let taken = ServeError::PortTaken { address: ([127, 0, 0, 1], 4000).into(), holder: None };
        assert_eq!(explain(taken, "/d").exit, ExitCode::Unexpected);
    }
}
