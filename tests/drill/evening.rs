//! Asks the doctor, runs what it prints, and looks whether that was the cure.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::faults::{FAULTS, Fault};
use crate::support::mesh::Mesh;
use crate::support::node::READY_WITHIN;
use crate::support::traffic::Artifact;
use crate::support::wait::eventually;
use crate::volume::{Kind, Volume};

/// The node whose data dir is a small volume of its own.
pub const SMALL: usize = 1;
/// Few enough that leaked files can take all of them.
const INODES: &str = "1024";
/// How long a finding may stay once its command has run and the node is up.
const QUIET_WITHIN: Duration = Duration::from_secs(60);

/// The mesh that is broken, and what it has to hold at the end.
#[derive(Debug)]
pub struct Drill {
    pub mesh: Mesh,
    pub artifacts: Vec<Artifact>,
    /// The user of a node's process, where it is not this one.
    pub users: [Option<u32>; 3],
    folder: tempfile::TempDir,
    volume: Option<Volume>,
}

impl Drill {
    /// Three nodes with some artifacts in the index and some in files.
    fn begin() -> Self {
        let mut mesh = Mesh::new(3);
        let root = mesh.nodes[SMALL].data_dir();
        fs::create_dir(&root).expect("making the mount point");
        let volume = Volume::mount_with(Kind::Ext4, &root, &["-N", INODES]);
        fs::remove_dir(root.join("lost+found")).expect("emptying the volume");
        mesh.start_together();
        mesh.wait_ready(READY_WITHIN);
        let folder = tempfile::tempdir().expect("making a folder for the commands");
        symlink(env!("CARGO_BIN_EXE_kura"), folder.path().join("kura")).expect("naming the binary");
        // Another user goes through it on his way to the binary.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("opening the folder");
        let mut drill = Self { mesh, artifacts: Vec::new(), users: [None; 3], folder, volume: Some(volume) };
        drill.store(0, 12);
        drill.mesh.wait_equal(READY_WITHIN);
        drill
    }

    /// Writes artifacts through a node, small and larger ones by turns.
    pub fn store(&mut self, node: usize, count: u64) {
        let first = self.artifacts.len() as u64 + 1;
        for seed in first..first + count {
            self.store_one(node, if seed.is_multiple_of(2) { 2_000 } else { 200_000 });
        }
    }

    pub fn store_one(&mut self, node: usize, size: u64) {
        let artifact = Artifact::new(self.artifacts.len() as u64 + 1, size);
        artifact.store(&self.mesh.nodes[node]).expect("storing an artifact");
        self.artifacts.push(artifact);
    }

    /// Everything the doctor says of a node.
    fn diagnosis(&self, node: usize) -> Value {
        let output = self.mesh.nodes[node].run(&["doctor", "--output", "json"]);
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Runs a printed line in a shell where `kura` is this binary, with the node's settings in the environment, as in
    /// its pod. A line that starts a server does not end: it becomes the node's process.
    fn run(&mut self, node: usize, line: &str) -> Result<(), String> {
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.folder.path().display());
        if line.starts_with("kura serve") {
            self.mesh.nodes[node].start_by(line, &path);
            return Ok(());
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).envs(self.mesh.nodes[node].environment()).env("PATH", path).stdin(Stdio::null());
        let output = shell.output().expect("running a shell");
        if output.status.success() {
            return Ok(());
        }
        Err(format!("`{line}` ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr)))
    }

    /// What a supervisor does: a process that has ended is started again.
    fn supervise(&mut self, node: usize) {
        let user = self.users[node];
        let node = &mut self.mesh.nodes[node];
        if !node.is_running() {
            node.start_as(user);
        }
    }

    /// One fault from its making to its cure.
    fn take(&mut self, fault: &Fault) -> Row {
        let (before, node) = (status(&self.diagnosis(fault.node), fault.code), fault.node);
        assert_eq!(before.as_deref(), Some("ok"), "{}: {} is there before the fault", fault.what, fault.code);
        (fault.induce)(self);
        let began = Instant::now();
        let mut row = Row { what: fault.what, code: fault.code, command: String::new(), healed: Ok(Duration::ZERO) };
        row.healed = self.cure(node, fault.code, &mut row.command).map(|()| began.elapsed());
        row
    }

    fn cure(&mut self, node: usize, code: &str, printed: &mut String) -> Result<(), String> {
        let report = self.diagnosis(node);
        let found = check(&report, code).filter(|check| check["status"] == "fail" || check["status"] == "warn");
        let found = found.ok_or_else(|| format!("not found; found is {}", findings(&report)))?;
        let commands: Vec<String> =
            serde_json::from_value(found["remedy"]["commands"].clone()).map_err(|error| error.to_string())?;
        *printed = commands.join(" && ");
        if commands.is_empty() {
            return Err(format!("no command is printed: {found}"));
        }
        for line in &commands {
            self.run(node, line)?;
        }
        self.supervise(node);
        self.mesh.nodes[node].wait_ready(READY_WITHIN);
        let quiet = |report: &Value| status(report, code).as_deref() == Some("ok") && report["summary"]["fail"] == 0;
        let what = format!("nothing more of {code} on node {node}");
        eventually(&what, QUIET_WITHIN, || {
            let report = self.diagnosis(node);
            if quiet(&report) { Ok(()) } else { Err(findings(&report)) }
        });
        self.mesh.wait_equal(READY_WITHIN);
        for artifact in &self.artifacts {
            artifact.check(&self.mesh.nodes[node]).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

impl Drop for Drill {
    fn drop(&mut self) {
        // The volume can go only behind the process that writes to it.
        self.mesh.kill_all();
        self.volume = None;
    }
}

/// One line of the table.
struct Row {
    what: &'static str,
    code: &'static str,
    command: String,
    healed: Result<Duration, String>,
}

fn check<'a>(report: &'a Value, code: &str) -> Option<&'a Value> {
    report["checks"].as_array()?.iter().find(|check| check["code"] == code)
}

fn status(report: &Value, code: &str) -> Option<String> {
    check(report, code)?["status"].as_str().map(ToOwned::to_owned)
}

fn findings(report: &Value) -> String {
    let checks = report["checks"].as_array().into_iter().flatten();
    let found = checks.filter(|check| check["status"] == "fail" || check["status"] == "error");
    found.map(|check| format!("{}: {}; ", check["code"], check["message"])).collect()
}

fn table(rows: &[Row], folder: &Path) -> String {
    let prefix = format!("{}/", folder.display());
    let mut text = format!("{:<44}  {:<20}  {:<58}  healed\n", "fault", "code", "command");
    for row in rows {
        let healed = match &row.healed {
            Ok(took) => format!("in {:.1} s", took.as_secs_f64()),
            Err(reason) => format!("NOT: {reason}"),
        };
        let command = row.command.replace(&prefix, "");
        let _ = writeln!(text, "{:<44}  {:<20}  {:<58}  {healed}", row.what, row.code, command);
    }
    text
}

#[test]
fn an_evening_of_ten_faults_is_cured_by_the_printed_commands_alone() {
    let mut drill = Drill::begin();
    let mut rows: Vec<Row> = Vec::new();
    // Behind one that is not healed the next would be induced on a mesh that is broken already.
    for fault in &FAULTS {
        if rows.iter().all(|row| row.healed.is_ok()) {
            rows.push(drill.take(fault));
        }
    }
    let folder = drill.mesh.nodes[0].folder.parent().expect("a folder");
    let table = table(&rows, folder);
    println!("\n{table}");
    assert!(rows.iter().all(|row| row.healed.is_ok()), "\n{table}");
    let codes: std::collections::BTreeSet<&str> = rows.iter().map(|row| row.code).collect();
    assert_eq!((rows.len(), codes.len()), (10, 10), "ten faults, each with a code of its own");
}
