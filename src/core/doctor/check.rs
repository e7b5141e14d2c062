//! A check: what it is called, from where it can look, how long it may take, and the look itself.

use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::context::Context;
use super::finding::{Code, Evidence, Remedy, Severity, Status};

/// Groups of checks, in the order in which they run and are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// Settings.
    Config,
    /// The disk below the data dir.
    Volume,
    /// The data dir as a place.
    DataDir,
    /// RocksDB and the identity.
    Index,
    /// Bytes not yet committed.
    Staging,
    /// Bodies of artifacts.
    Bodies,
    /// Catching up.
    Bootstrap,
    /// The other nodes.
    Peers,
    /// The running process.
    Node,
}

impl Category {
    /// All categories in order.
    pub const ALL: [Self; 9] = [
        Self::Config,
        Self::Volume,
        Self::DataDir,
        Self::Index,
        Self::Staging,
        Self::Bodies,
        Self::Bootstrap,
        Self::Peers,
        Self::Node,
    ];

    /// The name on the screen and in `--only`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Volume => "volume",
            Self::DataDir => "data_dir",
            Self::Index => "index",
            Self::Staging => "staging",
            Self::Bodies => "bodies",
            Self::Bootstrap => "bootstrap",
            Self::Peers => "peers",
            Self::Node => "node",
        }
    }
}

impl FromStr for Category {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let wanted = text.trim().to_ascii_lowercase().replace('-', "_");
        Self::ALL.into_iter().find(|category| category.as_str() == wanted).ok_or(())
    }
}

/// From where a check can look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// Files and the system; works with or without a running node.
    Offline,
    /// Needs the answer of a running node.
    Live,
    /// Talks to peers.
    Network,
}

impl Reach {
    /// The name in `--list`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Live => "live",
            Self::Network => "network",
        }
    }
}

/// What is fixed about a check.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// What it finds.
    pub code: Code,
    /// Where it is shown.
    pub category: Category,
    /// What it looks at, as a phrase.
    pub title: &'static str,
    /// From where it can look.
    pub reach: Reach,
    /// How bad its finding is at worst.
    pub severity: Severity,
    /// Whether other checks make no sense once it failed.
    pub fatal: bool,
    /// The fatal checks without which this one makes no sense.
    pub needs: &'static [Code],
    /// How long it may go without a beat of its [`Pulse`].
    pub limit: Duration,
}

/// The time limit of most checks: a healthy disk answers in milliseconds, a hung network mount never does.
pub const QUICK_LIMIT: Duration = Duration::from_secs(10);

/// A check could not be made; says what was tried and why it failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CheckError(pub String);

impl CheckError {
    /// What was tried, on what, and the whole chain of causes.
    pub fn from_error(what: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        Self(format!("failed to {what}: {}", chain(error)))
    }
}

/// An error with its causes on one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What a check saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// Overrides the code's own severity.
    pub severity: Option<Severity>,
    /// One sentence.
    pub message: String,
    /// Measured facts.
    pub evidence: Evidence,
    /// What it leads to.
    pub effect: Option<String>,
    /// What to do.
    pub remedy: Option<Remedy>,
}

impl Outcome {
    fn new(status: Status, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, severity: None, message, evidence: Evidence::new(), effect: None, remedy: None }
    }

    /// Nothing wrong.
    pub fn ok(message: impl Into<String>) -> Self {
        Self::new(Status::Ok, message)
    }

    /// Nothing wrong, yet worth saying with evidence.
    pub fn info(message: impl Into<String>) -> Self {
        Self { severity: Some(Severity::Info), ..Self::new(Status::Ok, message) }
    }

    /// A warning.
    pub fn warn(message: impl Into<String>) -> Self {
        Self { severity: Some(Severity::Warn), ..Self::new(Status::Warn, message) }
    }

    /// A failure.
    pub fn fail(message: impl Into<String>) -> Self {
        Self { severity: Some(Severity::Fail), ..Self::new(Status::Fail, message) }
    }

    /// Not looked at, and why.
    pub fn skip(reason: impl Into<String>) -> Self {
        Self::new(Status::Skip, reason)
    }

    /// Could not be looked at, and why.
    pub fn error(reason: impl Into<String>) -> Self {
        Self::new(Status::Error, reason)
    }

    /// Adds the measured facts.
    #[must_use]
    pub fn evidence(mut self, evidence: Evidence) -> Self {
        self.evidence = evidence;
        self
    }

    /// Adds what it leads to.
    #[must_use]
    pub fn effect(mut self, effect: impl Into<String>) -> Self {
        self.effect = Some(effect.into());
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn remedy(mut self, remedy: Remedy) -> Self {
        self.remedy = Some(remedy);
        self
    }
}

/// The sign of life of a long check: the time limit counts from the last beat.
#[derive(Debug)]
pub struct Pulse {
    started: Instant,
    last_beat_ms: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { started: Instant::now(), last_beat_ms: AtomicU64::new(0) }
    }
}

impl Pulse {
    /// The check moved on.
    pub fn beat(&self) {
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_beat_ms.store(ms, Ordering::Relaxed);
    }

    /// How long ago the check moved on.
    pub fn silence(&self) -> Duration {
        let last = Duration::from_millis(self.last_beat_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(last)
    }
}

/// One check. It blocks; it runs on a thread of its own.
pub trait Check: Send + Sync {
    /// What is fixed about it.
    fn about(&self) -> About;

    /// Looks. Changes nothing.
    fn run(&self, context: &Context, pulse: &Pulse) -> Result<Outcome, CheckError>;
}
