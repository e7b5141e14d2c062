//! What the checks of one run share: settings, names on disk, the vantage, and looks that more than one check needs.
//!
//! How it works: looks that cost something (the read-only index, the staging inventory, the peers) are made once, by
//! the first check that asks, and kept with their errors.
//!
//! Invariant: making a context and everything it hands out changes nothing on disk.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use super::check::{CheckError, chain};
use super::live::{self, ControlStatus};
use crate::core::base::clock::Clock;
use crate::core::base::disk::{Disk, VolumeSpace};
use crate::core::base::executor::InlineExecutor;
use crate::core::base::ids::InstanceId;
use crate::core::base::rng::SystemRng;
use crate::core::config::{Config, ConfigWarning};
use crate::core::data_dir::layout::Layout;
use crate::core::data_dir::lock::{DataDirLock, LockState};
use crate::core::mesh::transport::PeerTransport;
use crate::core::store::error::StoreError;
use crate::core::store::integrity::{IntegrityReport, VerifyProgress};
use crate::core::store::{Store, StoreOptions};

/// The doctor reads each block about once; a cache beyond this helps nothing.
const READ_CACHE_BYTES: u64 = 8 << 20;
/// Tries at opening the index beside a writer, and the pause between them.
const OPEN_TRIES_BESIDE_WRITER: u32 = 5;
/// See [`OPEN_TRIES_BESIDE_WRITER`].
const OPEN_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// What the settings came to.
#[derive(Debug, Clone)]
pub enum Settings {
    /// They make sense.
    Resolved(Arc<Config>),
    /// They do not; the paths are given if at least those are known.
    Invalid {
        /// Each fault, naming the variable, flag or file and line.
        problems: Vec<String>,
        /// The data dir.
        data_dir: Option<PathBuf>,
        /// The tmp dir.
        tmp_dir: Option<PathBuf>,
    },
}

/// Whom to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The running node if one answers, and the peers.
    #[default]
    Auto,
    /// Files only: neither a running node nor peers.
    Offline,
    /// A running node must answer; that none does is an error of each live check.
    Online,
}

/// How many bodies are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// None.
    None,
    /// A bounded sample.
    #[default]
    Sample,
    /// Each one.
    All,
}

/// What was asked of the doctor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// Whom to ask.
    pub mode: Mode,
    /// How many bodies to read.
    pub verify: Verify,
}

/// The outside world.
#[derive(Debug, Clone)]
pub struct World {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The volume; only its space is asked for.
    pub disk: Arc<dyn Disk>,
    /// The way to peers; without one network checks are skipped.
    pub transport: Option<Arc<dyn PeerTransport>>,
    /// Where exchanges with peers run.
    pub runtime: tokio::runtime::Handle,
    /// Below this lie `/proc` and `/sys`.
    pub root: PathBuf,
    /// Where a long verification notes how far it is; nowhere if that is not known.
    pub positions: Option<PathBuf>,
    /// Who is told how far it is.
    pub watch: Option<Arc<dyn VerifyWatch>>,
}

/// Is told how far a verification of all bodies is.
pub trait VerifyWatch: Send + Sync + std::fmt::Debug {
    /// One more body was looked at.
    fn advanced(&self, progress: &VerifyProgress);

    /// All of them were.
    fn ended(&self);
}

/// From where this run looks.
#[derive(Debug, Clone)]
pub enum Vantage {
    /// A running node answered.
    Live(Box<ControlStatus>),
    /// Files only, and why.
    Offline(String),
}

impl Vantage {
    /// The name in JSON and in the header.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Live(_) => "live",
            Self::Offline(_) => "offline",
        }
    }

    /// Why this vantage, for people.
    pub fn reason(&self) -> String {
        match self {
            Self::Live(status) => format!("answered by pid {}", status.pid),
            Self::Offline(reason) => reason.clone(),
        }
    }
}

/// What the checks of one run share.
#[derive(Debug)]
pub struct Context {
    /// The settings.
    pub settings: Settings,
    /// The names on disk, if the data dir is known.
    pub layout: Option<Layout>,
    /// What was set and has no effect.
    pub unread: Vec<ConfigWarning>,
    /// What was asked.
    pub asked: Asked,
    /// From where this run looks.
    pub vantage: Vantage,
    /// The outside world.
    pub world: World,
    pub(super) peers: OnceLock<super::checks::peers::Probes>,
    pub(super) staged: OnceLock<Result<super::checks::staging::Staged, CheckError>>,
    pub(super) presence: OnceLock<Result<IntegrityReport, CheckError>>,
    index: OnceLock<Result<Arc<Store>, IndexTrouble>>,
}

impl Context {
    /// Looks whether a running node answers; blocks for at most [`live::ANSWER_TIMEOUT`] for each step of that.
    pub fn new(settings: Settings, asked: Asked, world: World) -> Self {
        let layout = layout_of(&settings);
        let vantage = find_vantage(layout.as_ref(), asked.mode);
        Self {
            settings,
            layout,
            unread: Vec::new(),
            asked,
            vantage,
            world,
            peers: OnceLock::new(),
            staged: OnceLock::new(),
            presence: OnceLock::new(),
            index: OnceLock::new(),
        }
    }

    /// The same, knowing what was set and has no effect.
    #[must_use]
    pub fn with_unread(mut self, unread: Vec<ConfigWarning>) -> Self {
        self.unread = unread;
        self
    }

    /// The settings, for checks that need them.
    pub fn config(&self) -> Result<&Arc<Config>, CheckError> {
        match &self.settings {
            Settings::Resolved(config) => Ok(config),
            Settings::Invalid { .. } => Err(CheckError("the settings do not resolve (CONFIG_INVALID)".to_owned())),
        }
    }

    /// The names on disk.
    pub fn layout(&self) -> Result<&Layout, CheckError> {
        self.layout.as_ref().ok_or_else(|| CheckError("the settings do not name a data dir".to_owned()))
    }

    /// The index as it was when the first check asked for it, opened for reading only.
    pub fn index(&self) -> Result<&Arc<Store>, CheckError> {
        let opened = self.index.get_or_init(|| self.open_index());
        opened.as_ref().map_err(|trouble| CheckError(format!("the index does not open: {}", trouble.message)))
    }

    /// Whether a check has asked for the index.
    #[cfg(test)]
    pub fn has_opened_index(&self) -> bool {
        self.index.get().is_some()
    }

    /// Why the index does not open, if it does not.
    pub fn index_trouble(&self) -> Option<&IndexTrouble> {
        self.index.get_or_init(|| self.open_index()).as_ref().err()
    }

    /// The index as it is now. Beside a writer a file may vanish between two steps of opening; a few tries settle that.
    pub fn open_index(&self) -> Result<Arc<Store>, IndexTrouble> {
        let is_held = self.is_held();
        let mut left = if is_held { OPEN_TRIES_BESIDE_WRITER } else { 1 };
        loop {
            left -= 1;
            match Store::open_read_only(self.store_options(is_held)?) {
                Ok(store) => return Ok(Arc::new(store)),
                Err(error) if left == 0 => return Err(IndexTrouble::of(&error)),
                Err(_) => std::thread::sleep(OPEN_PAUSE),
            }
        }
    }

    /// Whether a process holds the data dir, as far as it can be seen.
    pub fn is_held(&self) -> bool {
        let probed = self.layout.as_ref().map(DataDirLock::probe);
        matches!(probed, Some(Ok(LockState::Held(_)))) || matches!(self.vantage, Vantage::Live(_))
    }

    /// Beside a writer all tables are opened at once and held, since it may remove any of them.
    fn store_options(&self, is_held: bool) -> Result<StoreOptions, IndexTrouble> {
        let config = self.config().map_err(|error| IndexTrouble { message: error.0, path: None })?;
        Ok(StoreOptions {
            layout: Layout::new(&config.data_dir, &config.tmp_dir),
            tenant_id: config.tenant_id.clone(),
            instance_id: InstanceId::default(),
            durability: config.durability,
            inline_max_bytes: config.inline_max_bytes,
            read_cache_bytes: READ_CACHE_BYTES,
            open_files_max: if is_held { -1 } else { config.metadata_store_max_open_files },
            clock: Arc::clone(&self.world.clock),
            rng: Arc::new(SystemRng),
            disk: Arc::clone(&self.world.disk),
            executor: Arc::new(InlineExecutor),
        })
    }

    /// The answer of the running node, for live checks.
    pub fn live(&self) -> Result<&ControlStatus, CheckError> {
        match &self.vantage {
            Vantage::Live(status) => Ok(status),
            Vantage::Offline(reason) => Err(CheckError(format!("no running node answers: {reason}"))),
        }
    }

    /// Space on the data dir's volume.
    pub fn space(&self) -> Result<VolumeSpace, CheckError> {
        let path = self.layout()?.data_dir();
        let asked = self.world.disk.space(path);
        asked.map_err(|error| CheckError(format!("failed to ask for the space of {}: {error}", path.display())))
    }

    /// What of the free space the server can use: only root may use a filesystem's reserved blocks, and who asks may be
    /// root while the server is not.
    pub fn usable_bytes(&self, space: &VolumeSpace) -> u64 {
        let root_owned = || {
            let found = self.layout.as_ref().and_then(|layout| std::fs::metadata(layout.data_dir()).ok());
            found.is_some_and(|found| found.uid() == 0)
        };
        if rustix::process::geteuid().is_root() && root_owned() { space.free_bytes } else { space.available_bytes }
    }

    /// A command of this binary on this data dir, ready to be pasted into a shell.
    pub fn command(&self, verb: &str, arguments: &[&str]) -> String {
        let mut words = vec!["kura".to_owned(), verb.to_owned()];
        if let Some(layout) = &self.layout {
            words.extend(["--data-dir".to_owned(), quoted(&layout.data_dir().to_string_lossy())]);
            if layout.tmp_dir() != layout.data_dir().join("tmp") {
                words.extend(["--tmp-dir".to_owned(), quoted(&layout.tmp_dir().to_string_lossy())]);
            }
        }
        words.extend(arguments.iter().map(|word| (*word).to_owned()));
        words.join(" ")
    }
}

/// Why the index does not open.
#[derive(Debug, Clone)]
pub struct IndexTrouble {
    /// The whole chain.
    pub message: String,
    /// The file or folder it is about.
    pub path: Option<PathBuf>,
}

impl IndexTrouble {
    fn of(error: &StoreError) -> Self {
        let path = match error {
            StoreError::Io { path, .. }
            | StoreError::Index { path, .. }
            | StoreError::IndexDamaged { path, .. }
            | StoreError::Incompatible { path, .. }
            | StoreError::StorageFull { path } => Some(path.clone()),
            _ => None,
        };
        Self { message: chain(error), path }
    }
}

fn layout_of(settings: &Settings) -> Option<Layout> {
    match settings {
        Settings::Resolved(config) => Some(Layout::new(&config.data_dir, &config.tmp_dir)),
        Settings::Invalid { data_dir: Some(data_dir), tmp_dir: Some(tmp_dir), .. } => {
            Some(Layout::new(data_dir, tmp_dir))
        }
        Settings::Invalid { data_dir: Some(data_dir), .. } => Some(Layout::with_default_tmp(data_dir)),
        Settings::Invalid { data_dir: None, .. } => None,
    }
}

fn find_vantage(layout: Option<&Layout>, mode: Mode) -> Vantage {
    let Some(layout) = layout else { return Vantage::Offline("the settings do not name a data dir".to_owned()) };
    if mode == Mode::Offline {
        return Vantage::Offline("as asked by --offline".to_owned());
    }
    match live::ask(&layout.control_socket()) {
        Ok(status) => Vantage::Live(Box::new(status)),
        Err(silence) => Vantage::Offline(match DataDirLock::probe(layout) {
            Ok(LockState::Held(_)) => format!("held by a process that does not answer: {silence}"),
            Ok(LockState::Free) => "no server holds this data dir".to_owned(),
            Err(_) if matches!(layout.data_dir().try_exists(), Ok(false)) => "there is no such data dir".to_owned(),
            Err(_) => silence.to_string(),
        }),
    }
}

/// A word as a POSIX shell reads it back.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("/var/cache/kura"), "/var/cache/kura");
        for word in ["/srv/build cache", "it's", "$HOME", "", "a;rm b", "ä"] {
            let echoed = std::process::Command::new("sh").args(["-c", &format!("printf %s {}", quoted(word))]).output();
            assert_eq!(String::from_utf8(echoed.unwrap().stdout).unwrap(), word);
        }
    }
}
