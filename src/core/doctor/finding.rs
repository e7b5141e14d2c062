//! What a check found: a stable code, how bad it is, measured evidence, what it leads to and what to do next.
//!
//! Invariant: a code's name is the same in the enum, on the screen, in JSON, in `--only` and as a heading of the
//! runbook; names are never changed or reused.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

/// Entries of a detail list that are shown; the evidence carries the total beside them.
pub const DETAILS_MAX: usize = 5;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// What can be found, one variant per implemented check.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[$doc])* $variant,)+
        }

        impl Code {
            /// All codes, in the order in which they are checked.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name for people, scripts and headings.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

codes! {
    /// Settings contradict each other or do not parse.
    ConfigInvalid = "CONFIG_INVALID",
    /// Something was set that is no setting.
    ConfigUnknownKey = "CONFIG_UNKNOWN_KEY",
    /// Capacity, staging and ballast together are more than the volume.
    ConfigBudgetImpossible = "CONFIG_BUDGET_IMPOSSIBLE",
    /// Few files may be open.
    FdLimitLow = "FD_LIMIT_LOW",
    /// The settings ask for more memory than there is.
    MemoryBudget = "MEMORY_BUDGET",
    /// Another process listens where this node would.
    ListenerTaken = "LISTENER_TAKEN",
    /// The data dir does not exist.
    DataDirMissing = "DATA_DIR_MISSING",
    /// The data dir is the empty place below a volume that is not mounted.
    DataDirUnmounted = "DATA_DIR_UNMOUNTED",
    /// The data dir's volume is mounted read-only.
    DataDirReadOnly = "DATA_DIR_READ_ONLY",
    /// No room to open the index or to take data.
    DiskFull = "DISK_FULL",
    /// Little room left.
    DiskNearfull = "DISK_NEARFULL",
    /// Few inodes left.
    InodesLow = "INODES_LOW",
    /// The space kept in reserve is not there.
    BallastMissing = "BALLAST_MISSING",
    /// The volume allows less than the budget.
    BudgetOvercommit = "BUDGET_OVERCOMMIT",
    /// The running node holds files open that have no name any more.
    DeletedButOpen = "DELETED_BUT_OPEN",
    /// Parts of the data dir belong to someone who is not the server.
    DataDirOwner = "DATA_DIR_OWNER",
    /// A process holds the data dir.
    DataDirLocked = "DATA_DIR_LOCKED",
    /// The last process did not stop in order, and none runs now.
    RunRecordStale = "RUN_RECORD_STALE",
    /// A process on another machine writes here, too.
    TwoWriters = "TWO_WRITERS",
    /// The index is of a format this binary cannot read, or this is not a kura data dir.
    IndexFormat = "INDEX_FORMAT",
    /// The index does not open.
    IndexUnreadable = "INDEX_UNREADABLE",
    /// The tmp dir is on another mount than the data dir.
    StagingOtherDevice = "STAGING_OTHER_DEVICE",
    /// Staged bytes without an owner.
    StagingOrphans = "STAGING_ORPHANS",
    /// More is staged than the budget allows.
    StagingOverBudget = "STAGING_OVER_BUDGET",
    /// Few uploads in parts can still be opened.
    UploadSlots = "UPLOAD_SLOTS",
    /// Manifests name bodies that are not there.
    BodyMissing = "BODY_MISSING",
    /// Body files that no manifest names.
    BodyUnreferenced = "BODY_UNREFERENCED",
    /// Bodies do not match their digest.
    BodyCorrupt = "BODY_CORRUPT",
    /// Action results name blobs that are gone without a trace.
    ActionClosureBroken = "ACTION_CLOSURE_BROKEN",
    /// Catching up from peers has not ended.
    BootstrapIncomplete = "BOOTSTRAP_INCOMPLETE",
    /// The sources of peers name nobody.
    PeersNone = "PEERS_NONE",
    /// The sources of peers name only this node.
    PeersOnlySelf = "PEERS_ONLY_SELF",
    /// Names of peers do not resolve.
    PeerDns = "PEER_DNS",
    /// Peers do not answer.
    PeerUnreachable = "PEER_UNREACHABLE",
    /// Nodes reach each other in one direction only.
    PeerOneWay = "PEER_ONE_WAY",
    /// Peers speak another version of the protocol.
    PeerVersion = "PEER_VERSION",
    /// Nodes hold different artifacts.
    PeerDiverged = "PEER_DIVERGED",
    /// Two nodes run with one store identity.
    NodeIdDuplicate = "NODE_ID_DUPLICATE",
    /// Peers' clocks differ from this one.
    ClockSkew = "CLOCK_SKEW",
    /// What peers have does not come, try after try.
    ReplicationStuck = "REPLICATION_STUCK",
    /// The running node has stopped writing to its index.
    IndexWriteStopped = "INDEX_WRITE_STOPPED",
    /// The running node's store, or the node itself, does not move.
    NoProgress = "NO_PROGRESS",
    /// So many bodies are bad that none is withdrawn any more.
    BreakerOpen = "BREAKER_OPEN",
    /// The running node does not take traffic.
    NotReady = "NOT_READY",
    /// The running node takes traffic and has little of what its peers have.
    ReadyButEmpty = "READY_BUT_EMPTY",
}

/// A text is not one of the codes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown code `{0}`")]
pub struct UnknownCode(pub String);

impl FromStr for Code {
    type Err = UnknownCode;

    /// Any case, and `-` for `_`: people type codes at night.
    fn from_str(text: &str) -> Result<Self, UnknownCode> {
        let wanted = text.trim().to_ascii_uppercase().replace('-', "_");
        Self::ALL.iter().copied().find(|code| code.as_str() == wanted).ok_or_else(|| UnknownCode(text.to_owned()))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// How bad the finding of a code is at worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Will become a failure, or costs speed.
    Warn,
    /// Something does not work.
    Fail,
}

/// How one check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Nothing wrong.
    Ok,
    /// A warning.
    Warn,
    /// A failure.
    Fail,
    /// Not asked, with the reason in the message.
    Skip,
    /// Asked and not answered: the check itself could not run.
    Error,
}

/// Measured facts: typed values for scripts, and a line for people.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evidence {
    values: Map<String, Value>,
    facts: Vec<String>,
    details: Vec<String>,
}

impl Evidence {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value for scripts. Bytes and milliseconds are integers; the key ends in the unit.
    #[must_use]
    pub fn value(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.values.insert(key.to_owned(), value.into());
        self
    }

    /// Adds a short fact for people; facts are joined on one line.
    #[must_use]
    pub fn fact(mut self, fact: impl Into<String>) -> Self {
        self.facts.push(fact.into());
        self
    }

    /// Adds a list of which the first [`DETAILS_MAX`] are kept, under `key` for scripts and one a line for people.
    /// The total goes in as `<key>_total`.
    #[must_use]
    pub fn list(mut self, key: &str, entries: &[String], total: u64) -> Self {
        let shown: Vec<String> = entries.iter().take(DETAILS_MAX).cloned().collect();
        let left_out = total.saturating_sub(u64::try_from(shown.len()).unwrap_or(u64::MAX));
        self.values.insert(key.to_owned(), shown.clone().into());
        self.values.insert(format!("{key}_total"), total.into());
        self.details.extend(shown);
        if left_out > 0 {
            self.details.push(format!("and {left_out} more"));
        }
        self
    }

    /// As [`Self::list`], with a typed value for scripts beside each line for people.
    #[must_use]
    pub fn entries(mut self, key: &str, entries: &[(Value, String)], total: u64) -> Self {
        let lines: Vec<String> = entries.iter().map(|(_, line)| line.clone()).collect();
        self = self.list(key, &lines, total);
        let values: Vec<Value> = entries.iter().take(DETAILS_MAX).map(|(value, _)| value.clone()).collect();
        self.value(key, values)
    }

    /// The values for scripts.
    pub fn values(&self) -> &Map<String, Value> {
        &self.values
    }

    /// The facts on one line.
    pub fn line(&self) -> String {
        self.facts.join(" · ")
    }

    /// Lines below the facts.
    pub fn details(&self) -> &[String] {
        &self.details
    }
}

impl Serialize for Evidence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.values.serialize(serializer)
    }
}

/// What to do about a finding. The doctor prints it and never does it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Remedy {
    /// In words.
    pub text: String,
    /// Commands to paste, in order.
    pub commands: Vec<String>,
    /// Whether a command changes something.
    pub mutates: bool,
}

impl Remedy {
    /// Something to do by hand.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// A command that only looks.
    #[must_use]
    pub fn look(mut self, command: impl Into<String>) -> Self {
        self.commands.push(command.into());
        self
    }

    /// A command that changes something.
    #[must_use]
    pub fn change(mut self, command: impl Into<String>) -> Self {
        self.commands.push(command.into());
        self.mutates = true;
        self
    }
}

/// One line of the report, as in `kura.doctor/v1`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// Which check.
    pub code: Code,
    /// Its category.
    pub category: super::check::Category,
    /// What it looks at.
    pub title: &'static str,
    /// How it ended.
    pub status: Status,
    /// How bad that is; of a check that found nothing, how bad it could have been.
    pub severity: Severity,
    /// One sentence: what is, or why it was not looked at.
    pub message: String,
    /// Measured facts.
    pub evidence: Evidence,
    /// What it leads to.
    pub effect: Option<String>,
    /// What to do.
    pub remedy: Option<Remedy>,
    /// Where the runbook has more.
    pub docs: String,
    /// How long the check took.
    pub ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_print_as_they_parse_and_none_is_twice() {
        for code in Code::ALL {
            assert_eq!(code.as_str().parse::<Code>().as_ref(), Ok(code));
            assert_eq!(code.as_str().to_lowercase().replace('_', "-").parse::<Code>().as_ref(), Ok(code));
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
            assert_eq!(screaming_snake(&format!("{code:?}")), code.as_str(), "one name per thing");
        }
        let names: std::collections::BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        assert!("DISK_FUL".parse::<Code>().is_err());
    }

    fn screaming_snake(camel: &str) -> String {
        let mut out = String::new();
        for c in camel.chars() {
            if c.is_ascii_uppercase() && !out.is_empty() {
                out.push('_');
            }
            out.push(c.to_ascii_uppercase());
        }
        out
    }

    #[test]
    fn lists_are_cut_and_the_total_is_said() {
        let entries: Vec<String> = (0..8).map(|n| format!("key-{n}")).collect();
        let evidence = Evidence::new().value("free_bytes", 17_u64).fact("17 B free").list("keys", &entries, 40);
        assert_eq!(
            serde_json::to_string(&evidence).unwrap(),
            r#"{"free_bytes":17,"keys":["key-0","key-1","key-2","key-3","key-4"],"keys_total":40}"#
        );
        assert_eq!(evidence.details().last().map(String::as_str), Some("and 35 more"));
        assert_eq!(evidence.line(), "17 B free");
    }
}
