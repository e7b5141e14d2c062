//! What can be wrong with settings, as values: all faults at once, each with the place it came from.

use std::path::PathBuf;

use super::resolve::Source;

/// One fault that keeps the settings from being used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigFault {
    /// A value does not read as its setting's kind, or lies outside its bounds.
    #[error("{source_name}: expected {expected}, got {text:?}", source_name = .source_of.name(.key))]
    Invalid {
        /// The setting.
        key: &'static str,
        /// Where the value came from.
        source_of: Source,
        /// What was given.
        text: String,
        /// What would have been taken.
        expected: String,
    },
    /// The file has a key that is no setting.
    #[error("{path}:{line}: unknown key `{key}`{suggestion}", suggestion = suggest(.nearest.as_deref()))]
    UnknownKey {
        /// The key as written.
        key: String,
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// The closest known key.
        nearest: Option<String>,
    },
    /// The file is no TOML.
    #[error("{path}:{line}: {problem}")]
    Syntax {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// The parser's words.
        problem: String,
    },
    /// The file cannot be read.
    #[error("{path}: cannot be read: {problem}")]
    Unreadable {
        /// The file.
        path: String,
        /// The system's words.
        problem: String,
    },
    /// Values that are fine alone and not together.
    #[error("{problem}")]
    Contradiction {
        /// The settings that disagree.
        keys: Vec<&'static str>,
        /// What disagrees, with each value and its source.
        problem: String,
    },
    /// A setting without a value whose default cannot be worked out here.
    #[error("{flag}: no default: {problem}")]
    NoDefault {
        /// The setting.
        key: &'static str,
        /// The flag that would settle it.
        flag: String,
        /// Why there is no default.
        problem: &'static str,
    },
}

fn suggest(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

/// Every fault found; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    faults: Vec<ConfigFault>,
    folders: Folders,
}

/// The folders of settings that are faulty otherwise, as far as they could be read: enough to look around in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folders {
    /// The data dir.
    pub data_dir: Option<PathBuf>,
    /// The tmp dir.
    pub tmp_dir: Option<PathBuf>,
}

impl ConfigErrors {
    /// `Err` with the faults, or `Ok` if there are none.
    pub(super) fn check(faults: Vec<ConfigFault>, folders: impl FnOnce() -> Folders) -> Result<(), Self> {
        if faults.is_empty() { Ok(()) } else { Err(Self { faults, folders: folders() }) }
    }

    /// The faults, in the order of the settings.
    pub fn faults(&self) -> &[ConfigFault] {
        &self.faults
    }

    /// The folders, as far as they could be read.
    pub fn folders(&self) -> &Folders {
        &self.folders
    }
}

impl std::fmt::Display for ConfigErrors {
    /// One line per fault; a single one stands alone.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            write!(f, "{}{fault}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Something given that has no effect; never a reason not to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigWarning {
    /// A `KURA_*` variable that is no setting.
    UnknownVariable {
        /// The variable.
        name: String,
        /// The closest known variable.
        nearest: Option<String>,
    },
    /// Variables of the seed era that kura does not support.
    UnsupportedVariables {
        /// The variables.
        names: Vec<String>,
    },
    /// Variables that Kubernetes adds beside a Service named `kura`.
    ServiceLinks {
        /// The variables.
        names: Vec<String>,
    },
}

impl std::fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownVariable { name, nearest: None } => write!(f, "{name} is not a setting"),
            Self::UnknownVariable { name, nearest: Some(nearest) } => {
                write!(f, "{name} is not a setting; did you mean {nearest}?")
            }
            Self::UnsupportedVariables { names } => write!(f, "not supported and ignored: {}", names.join(", ")),
            Self::ServiceLinks { names } => {
                write!(f, "ignored, as Kubernetes adds them beside a Service of that name: {}", names.join(", "))
            }
        }
    }
}
