//! Runs the doctor and reads what it says.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::SystemTime;

use serde_json::Value;

use crate::support::node::Node;

/// One run with `--output json`.
#[derive(Debug)]
pub struct Diagnosis {
    /// The exit code.
    pub code: i32,
    /// `kura.doctor/v1`.
    pub report: Value,
}

impl Diagnosis {
    /// Asks about a node that runs or ran.
    pub fn of(node: &Node, arguments: &[&str]) -> Self {
        let mut all = vec!["doctor", "--output", "json"];
        all.extend(arguments);
        Self::read(&node.run(&all))
    }

    /// Reads the answer of a run.
    pub fn read(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout);
        let report = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{error}: {text}\n{}", String::from_utf8_lossy(&output.stderr)));
        Self { code: output.status.code().expect("an exit code"), report }
    }

    /// What is said of a code.
    pub fn check(&self, code: &str) -> &Value {
        let checks = self.report["checks"].as_array().expect("checks");
        checks.iter().find(|check| check["code"] == code).unwrap_or_else(|| panic!("no {code} in {}", self.report))
    }

    /// How the check of a code ended.
    pub fn status(&self, code: &str) -> &str {
        self.check(code)["status"].as_str().expect("a status")
    }

    /// Codes of the checks that ended so.
    pub fn with_status(&self, status: &str) -> Vec<&str> {
        let checks = self.report["checks"].as_array().expect("checks");
        checks.iter().filter(|check| check["status"] == status).filter_map(|check| check["code"].as_str()).collect()
    }
}

/// The binary with settings of its own.
pub fn kura(data_dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kura"));
    command.args(arguments).env_clear().env("KURA_DATA_DIR", data_dir).env("COLUMNS", "80");
    // Another process on this machine may have the default ports.
    command.envs([("KURA_PORT", "0"), ("KURA_INTERNAL_PORT", "0")]);
    command
}

/// Every path below a folder with size, and time of change: what "untouched" means. A socket and the folders' own
/// entries are in it, too.
pub fn listing(folder: &Path) -> Vec<(PathBuf, u64, SystemTime)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("reading a folder") {
        let path = entry.expect("an entry").path();
        let about = path.symlink_metadata().expect("metadata");
        if about.is_dir() {
            found.extend(listing(&path));
        }
        found.push((path, about.len(), about.modified().expect("a time")));
    }
    found.sort();
    found
}

/// All but the run record, which a running node renews with each heartbeat, and the folder it is in.
pub fn listing_beside_a_node(data_dir: &Path) -> Vec<(PathBuf, u64, SystemTime)> {
    let mut found = listing(data_dir);
    found.retain(|(path, _, _)| !path.to_string_lossy().contains("run.json"));
    found
}
