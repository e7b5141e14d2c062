//! Runs the real binary with an environment of its own.

use std::process::{Command, Output, Stdio};

/// The binary with a home of its own; dropping it removes the home.
#[derive(Debug)]
pub struct Kura {
    home: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

/// A started process that is killed when dropped.
#[derive(Debug)]
pub struct Running(pub std::process::Child);

impl Running {
    /// Reads stderr until a line contains the words.
    pub fn wait_for(&mut self, words: &str) {
        let stderr = self.0.stderr.as_mut().expect("stderr is piped");
        let mut lines = std::io::BufRead::lines(std::io::BufReader::with_capacity(1, stderr));
        let found = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains(words)));
        found.unwrap_or_else(|| panic!("stderr ended without {words:?}")).expect("reading stderr");
    }

    /// Sends a signal by its name and waits for the end.
    pub fn signal(&mut self, name: &str) -> std::process::ExitStatus {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().expect("running kill");
        assert!(sent.success());
        self.0.wait().expect("waiting for the end")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Every path below a folder with its size and time of change: what "untouched" means.
pub fn listing(folder: &std::path::Path) -> Vec<(std::path::PathBuf, u64, std::time::SystemTime)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("reading a folder") {
        let entry = entry.expect("an entry");
        let about = entry.metadata().expect("metadata");
        if about.is_dir() {
            found.extend(listing(&entry.path()));
        }
        found.push((entry.path(), about.len(), about.modified().expect("a time")));
    }
    found.sort();
    found
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The answer.
    pub stdout: String,
    /// Progress and talk.
    pub stderr: String,
}

impl Kura {
    /// With an empty home and nothing else in the environment.
    pub fn new() -> Self {
        let home = tempfile::Builder::new().prefix("kura-cli-").tempdir().expect("making a home");
        let variables = [("HOME", home.path().display().to_string()), ("COLUMNS", "100".to_owned())];
        Self { variables: variables.map(|(name, value)| (name.to_owned(), value)).to_vec(), home }
    }

    /// Adds a variable.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A path below the home.
    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join(name)
    }

    /// Writes a file below the home and returns its path as text.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).expect("writing a file");
        path.display().to_string()
    }

    /// The command, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kura"));
        command.args(arguments).env_clear().envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).current_dir(self.home.path());
        command
    }

    /// Starts it; what it says on stderr can be read through the child.
    pub fn start(&self, arguments: &[&str]) -> Running {
        let mut command = self.command(arguments);
        Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starting kura"))
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        Ended::from(self.command(arguments).output().expect("running kura"))
    }

    /// Runs a shell script in a mount namespace of its own: `$1` is a folder below the home, `$2` the binary. Fails
    /// where this user may not make namespaces: a test that cannot run has not passed.
    pub fn in_namespace(&self, script: &str) -> Ended {
        let volume = self.path("volume");
        std::fs::create_dir_all(&volume).expect("making a mount point");
        let mut unshare = Command::new("unshare");
        unshare.args(["-rm", "sh", "-c", &format!("mount --make-rprivate / || exit 99; {script}"), "sh"]);
        unshare.arg(&volume).arg(env!("CARGO_BIN_EXE_kura")).env("HOME", self.home.path());
        let ended = Ended::from(unshare.output().expect("running unshare"));
        let was_refused = ended.code == Some(99) || ended.stderr.starts_with("unshare:");
        assert!(!was_refused, "this test needs root or user namespaces: {}", ended.stderr);
        ended
    }

    /// [`Self::in_namespace`] with a full tmpfs of 1 MiB on `$1` that holds a folder `data`.
    pub fn on_a_full_volume(&self, script: &str) -> Ended {
        let prepare = "mount -t tmpfs -o size=1m tmpfs \"$1\" || exit 99; mkdir \"$1/data\"; \
                       dd if=/dev/zero of=\"$1/fill\" bs=4k 2>/dev/null";
        self.in_namespace(&format!("{prepare}; {script}"))
    }

    /// A text with this home named `[HOME]`, for snapshots.
    pub fn without_home(&self, text: &str) -> String {
        text.replace(&self.home.path().display().to_string(), "[HOME]")
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Ended {
    /// The last words as the JSON object a script reads.
    pub fn exit_error(&self) -> serde_json::Value {
        let line = self.stderr.lines().last().expect("a line on stderr");
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }
}
