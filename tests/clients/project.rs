//! A small project of a build tool in a fresh folder, and the running of that tool.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::support::inspect;
use crate::support::mesh::Mesh;
use crate::support::node::Node;
use crate::support::wait::eventually;

/// How long a node may take to hear of what another one was given.
const REPLICATED_WITHIN: std::time::Duration = std::time::Duration::from_secs(30);

/// A copy of one of the projects beside this file, with no state of any earlier build.
pub struct Project {
    folder: TempDir,
}

impl Project {
    /// Copies the project of this name.
    pub fn fresh(name: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("kura-client-").tempdir().expect("making a temporary folder");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/projects").join(name);
        copy_folder(&source, &folder.path().join("project"));
        fs::create_dir(folder.path().join("state")).expect("making the state folder");
        Self { folder }
    }

    /// Where the project lies.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("project")
    }

    /// Where a tool may keep its state.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Gives the project the npm packages of the test set-up.
    pub fn link_npm_packages(&self) {
        std::os::unix::fs::symlink(npm_folder().join("node_modules"), self.path().join("node_modules"))
            .expect("linking node_modules");
    }

    /// A command in the project's folder, away from any proxy and from the user's own settings of a cache.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.path()).stdin(Stdio::null());
        for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command.env("NO_COLOR", "1").env("CI", "true");
        command
    }

    /// The text of a file of the project.
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path().join(path)).unwrap_or_else(|error| panic!("reading {path}: {error}"))
    }
}

fn copy_folder(source: &Path, target: &Path) {
    fs::create_dir_all(target).expect("making a folder");
    for entry in fs::read_dir(source).expect("listing the project").flatten() {
        let (from, to) = (entry.path(), target.join(entry.file_name()));
        if from.is_dir() {
            copy_folder(&from, &to);
        } else {
            fs::copy(&from, &to).expect("copying a file");
        }
    }
}

/// Where the test set-up puts npm packages.
pub fn npm_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/install-test-tools.sh");
        let output = Command::new(script).arg("--npm-folder").output().expect("running install-test-tools.sh");
        let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        assert!(folder.join("complete").exists(), "no npm packages in {}: run `make test`", folder.display());
        folder
    })
}

/// An npm package's program.
pub fn npm_program(name: &str) -> PathBuf {
    npm_folder().join("node_modules/.bin").join(name)
}

/// Runs a tool to its successful end and returns all it said, both streams together.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} did not start: {error}"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} ended with {}:\n{text}", output.status);
    text
}

/// Two nodes of one mesh and what the second one answered so far.
pub struct TwoNodes {
    mesh: Mesh,
    producer: &'static str,
    hits_before: f64,
}

impl TwoNodes {
    /// Starts them.
    pub fn start(producer: &'static str) -> Self {
        let mesh = Mesh::start(2);
        let hits_before = inspect::hits(&mesh.nodes[1], producer);
        Self { mesh, producer, hits_before }
    }

    /// The node of the first build.
    pub fn first(&self) -> &Node {
        &self.mesh.nodes[0]
    }

    /// The node of the second build.
    pub fn second(&self) -> &Node {
        &self.mesh.nodes[1]
    }

    /// Waits until the second node has all that the first one was given.
    pub fn wait_replicated(&self) {
        assert!(self.mesh.wait_equal(REPLICATED_WITHIN) > 0, "the first build stored nothing");
    }

    /// The second node must have served at least this many reads.
    pub fn assert_hits(&self, expected: f64) {
        let read = || inspect::hits(self.second(), self.producer) - self.hits_before;
        // A read is counted when its body has gone out, which the client may see a moment earlier.
        eventually("the second node's hit counter", REPLICATED_WITHIN, || {
            let hits = read();
            if hits >= expected { Ok(()) } else { Err(format!("{hits} of {expected} hits")) }
        });
    }
}
