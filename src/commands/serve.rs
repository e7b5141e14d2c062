//! `kura serve`: runs the node and turns what ended it into an exit code with the next command to run.

use clap::Args;

use super::context::Context;
use super::exit::{CommandError, ExitCode};
use crate::core::server::serve_error::{ServeError, chain};
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
        ServeError::Store(_) | ServeError::DataDir { .. } | ServeError::Lock(_) | ServeError::Directories(_) => {
            (ExitCode::Unexpected, Some(disk_hint(&error, data_dir)))
        }
        ServeError::Bind { .. } | ServeError::Signals(_) => (ExitCode::Unexpected, None),
    };
    CommandError { exit, what: chain(&error), hint, source: None }
}

/// The doctor's code for a disk or filesystem that fails, and where to look. The words are the C library's, which is how
/// errors come through the index.
fn disk_hint(error: &ServeError, data_dir: &str) -> String {
    let text = chain(error);
    let is_of_index = matches!(error, ServeError::Store(_));
    let code = match (text.contains("Read-only file system"), text.contains("Input/output error")) {
        (true, _) => "DATA_DIR_READ_ONLY",
        (false, true) if is_of_index => "INDEX_WRITE_STOPPED",
        (false, true) => "DATA_DIR_READ_ONLY",
        (false, false) if is_of_index && text.contains("No space left on device") => "INDEX_WRITE_STOPPED",
        (false, false) => return format!("look closer: kura doctor --data-dir {data_dir}"),
    };
    format!(
        "the disk or its filesystem fails, and a restart mends neither: kura doctor --explain {code}; what can be seen of \
         it: kura doctor --data-dir {data_dir}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::data_dir::lock::{LockError, LockHolder};
    use crate::core::store::error::StoreError;

    #[test]
    fn a_disk_that_fails_is_named_by_the_code_that_explains_it() {
        let index = |message: &str| {
            ServeError::Store(StoreError::Index { path: "/d/index".into(), message: message.to_owned() })
        };
        let lock = |error: i32| {
            let source = std::io::Error::from_raw_os_error(error);
            ServeError::Lock(LockError::Io { path: "/d".into(), source })
        };
        let named = |error: ServeError| {
            let hint = explain(error, "/d").hint.unwrap();
            assert!(hint.contains("kura doctor --data-dir /d"), "{hint}");
            hint.split_once("--explain ").and_then(|(_, rest)| rest.split(';').next()).map(str::to_owned)
        };
        let says = |code: &str| Some(code.to_owned());
        assert_eq!(named(index("IO error: While fdatasync: a: Input/output error")), says("INDEX_WRITE_STOPPED"));
        assert_eq!(named(index("IO error: No space left on device: a")), says("INDEX_WRITE_STOPPED"));
        assert_eq!(named(index("IO error: While open a file: Read-only file system")), says("DATA_DIR_READ_ONLY"));
        assert_eq!(named(index("Corruption: a")), None);
        assert_eq!([named(lock(30)), named(lock(5))], [says("DATA_DIR_READ_ONLY"), says("DATA_DIR_READ_ONLY")]);
    }

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
