//! Flags, variables, file and defaults become one [`Config`], or the list of everything that is wrong with them.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::checks;
use super::errors::{ConfigErrors, ConfigFault, ConfigWarning, Folders};
use super::file::{self, ConfigFile, Entry};
use super::machine::Machine;
use super::model::{Config, Durability};
use super::settings::{Draft, Given, Kind, Preset, SETTINGS, Setting};
use super::variables::{self, Variables};
use crate::core::telemetry::logging::LogSettings;

/// Everything settings are made from.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// Flags given, by the setting's key; a repeated flag is joined by commas.
    pub flags: Vec<(&'static str, String)>,
    /// The environment.
    pub variables: Variables,
    /// The file that `--config` or `KURA_CONFIG` names.
    pub file: Option<ConfigFile>,
    /// What the machine offers.
    pub machine: Machine,
}

/// Where a value came from, the strongest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The environment.
    Variable,
    /// The file.
    File {
        /// Its path as given.
        path: String,
        /// The line, from 1.
        line: usize,
    },
    /// Nobody set it.
    Default,
}

impl Source {
    /// The place as a user would look for it: `--port`, `KURA_PORT`, `kura.toml:3 (port)`, `default of --port`.
    pub fn name(&self, key: &str) -> String {
        let (flag, variable) = super::setting(key).map(|known| (known.flag(), known.variable())).unwrap_or_default();
        match self {
            Self::Flag => format!("--{flag}"),
            Self::Variable => variable,
            Self::File { path, line } => format!("{path}:{line} ({key})"),
            Self::Default => format!("default of --{flag}"),
        }
    }
}

/// One setting with its value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedSetting {
    /// The setting.
    pub key: &'static str,
    /// Its value as text; `None` when unset.
    pub value: Option<String>,
    /// Where the value came from.
    pub source: Source,
}

/// Settings that can be used.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// What a node runs with.
    pub config: Config,
    /// How it logs.
    pub log: LogSettings,
    /// Every setting with its value and source, in the order of [`SETTINGS`].
    pub settings: Vec<ResolvedSetting>,
    /// What was given and has no effect.
    pub warnings: Vec<ConfigWarning>,
}

impl Resolved {
    /// Where a setting's value came from.
    pub fn source(&self, key: &str) -> Option<&Source> {
        self.settings.iter().find(|setting| setting.key == key).map(|setting| &setting.source)
    }
}

/// Resolves every setting; all faults come back together.
pub fn resolve(inputs: &Inputs) -> Result<Resolved, ConfigErrors> {
    let (entries, mut faults) = inputs.file.as_ref().map(file::entries).unwrap_or_default();
    let mut draft = blank();
    let mut settings = Vec::with_capacity(SETTINGS.len());
    for setting in SETTINGS {
        match resolve_one(setting, inputs, &entries, &mut draft) {
            Ok(resolved) => settings.push(resolved),
            Err(fault) => faults.push(fault),
        }
    }
    draft.config.data_dir = absolute(&inputs.machine.current_dir, &draft.config.data_dir);
    draft.config.tmp_dir = absolute(&inputs.machine.current_dir, &draft.config.tmp_dir);
    faults.extend(checks::contradictions(&draft.config, &settings));
    ConfigErrors::check(faults, || folders(&draft.config, &settings))?;
    Ok(Resolved { config: draft.config, log: draft.log, settings, warnings: inputs.variables.unread() })
}

fn folders(config: &Config, read: &[ResolvedSetting]) -> Folders {
    let if_read = |key: &str, path: &Path| read.iter().any(|setting| setting.key == key).then(|| path.to_path_buf());
    Folders { data_dir: if_read("data_dir", &config.data_dir), tmp_dir: if_read("tmp_dir", &config.tmp_dir) }
}

/// Takes the strongest source that names the setting, or its default.
fn resolve_one(
    setting: &'static Setting,
    inputs: &Inputs,
    entries: &[Entry],
    draft: &mut Draft,
) -> Result<ResolvedSetting, ConfigFault> {
    let (text, source) = match given(setting, inputs, entries)? {
        Some(found) => found,
        None => match default_text(setting, inputs, draft)? {
            Some(text) => (text, Source::Default),
            None => return Ok(ResolvedSetting { key: setting.key, value: None, source: Source::Default }),
        },
    };
    match (setting.set)(draft, text.trim()) {
        Ok(()) => Ok(ResolvedSetting { key: setting.key, value: Some(text), source }),
        Err(expected) => Err(ConfigFault::Invalid { key: setting.key, source_of: source, text, expected }),
    }
}

fn given(setting: &Setting, inputs: &Inputs, entries: &[Entry]) -> Result<Option<(String, Source)>, ConfigFault> {
    if let Some((_, text)) = inputs.flags.iter().find(|(key, _)| *key == setting.key) {
        return Ok(Some((text.clone(), Source::Flag)));
    }
    if let Some(value) = inputs.variables.get(&setting.variable()).filter(|value| !is_service_link(setting, value)) {
        let text = value.to_str().ok_or_else(|| ConfigFault::Invalid {
            key: setting.key,
            source_of: Source::Variable,
            text: value.to_string_lossy().into_owned(),
            expected: "UTF-8".to_owned(),
        })?;
        return Ok(Some((text.to_owned(), Source::Variable)));
    }
    let path = inputs.file.as_ref().map(|file| file.path.clone()).unwrap_or_default();
    let entry = entries.iter().find(|entry| entry.key == setting.key);
    Ok(entry.map(|entry| (entry.text.clone(), Source::File { path, line: entry.line })))
}

/// `KURA_PORT=tcp://…` beside a Service of that name; warned about with the other such variables.
fn is_service_link(setting: &Setting, value: &OsStr) -> bool {
    setting.kind == Kind::Port && variables::is_service_link(&setting.variable(), &value.to_string_lossy())
}

fn default_text(setting: &Setting, inputs: &Inputs, draft: &Draft) -> Result<Option<String>, ConfigFault> {
    match setting.preset {
        Preset::Text(text) => Ok(Some(text.to_owned())),
        Preset::Unset(_) => Ok(None),
        Preset::Derived(_, derive) => {
            let given = Given { draft, machine: &inputs.machine, variables: &inputs.variables };
            let no_default =
                |problem| ConfigFault::NoDefault { key: setting.key, flag: format!("--{}", setting.flag()), problem };
            derive(&given).map(Some).map_err(no_default)
        }
    }
}

fn absolute(current_dir: &Path, path: &Path) -> PathBuf {
    current_dir.join(path)
}

/// Placeholders, every one of which the loop over [`SETTINGS`] replaces or a fault covers.
fn blank() -> Draft {
    let config = Config {
        data_dir: PathBuf::new(),
        tmp_dir: PathBuf::new(),
        bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: 0,
        internal_port: 0,
        node_url: String::new(),
        tenant_id: String::new(),
        region: String::new(),
        peers: Vec::new(),
        discovery_dns_name: None,
        durability: Durability::Power,
        tmp_dir_max_bytes: 0,
        cas_capacity_bytes: None,
        max_keyvalue_bytes: 0,
        inline_max_bytes: 0,
        drain_completion_timeout: Duration::ZERO,
        bootstrap_max_concurrent_peers: 0,
        bootstrap_concurrency: 0,
        multipart_upload_ttl: Duration::ZERO,
        metadata_store_read_cache_bytes: 0,
        metadata_store_max_open_files: 0,
        tokio_worker_threads: 0,
    };
    Draft { config, log: LogSettings::default() }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
