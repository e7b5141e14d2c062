//! A real `kura serve` process with a data dir of its own.
//!
//! All its settings are `KURA_*` variables, so that `kura doctor` and the other commands are run on exactly the same
//! node by handing them the same variables.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::http::Client;
use super::ports::free_port;
use super::wait::eventually;

/// Lines of a log shown when a test fails.
const LOG_LINES_SHOWN: usize = 60;

/// How long a node may take until it answers at all, and until it is ready.
pub const READY_WITHIN: Duration = Duration::from_secs(60);

/// Where a node runs and how it is reached.
#[derive(Debug, Clone)]
pub struct Place {
    /// The address peers dial.
    pub host: Ipv4Addr,
    /// The address the test dials.
    pub control: Ipv4Addr,
    /// The network namespace of the process, if not this one's.
    pub namespace: Option<String>,
}

impl Place {
    /// This machine's loopback.
    pub fn local() -> Self {
        Self { host: Ipv4Addr::LOCALHOST, control: Ipv4Addr::LOCALHOST, namespace: None }
    }
}

/// One node. Dropping it kills the process.
#[derive(Debug)]
pub struct Node {
    /// Shown in messages; also its region.
    pub name: String,
    /// Everything of this node lies in here.
    pub folder: PathBuf,
    /// The public port.
    pub port: u16,
    /// The port for peers.
    pub internal_port: u16,
    place: Place,
    settings: Vec<(String, String)>,
    child: Option<Child>,
}

impl Node {
    /// A node below `folder` that is not started yet.
    pub fn new(name: &str, folder: &Path) -> Self {
        Self::placed(name, folder, Place::local())
    }

    /// The same, somewhere else.
    pub fn placed(name: &str, folder: &Path, place: Place) -> Self {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).expect("making the node's folder");
        let mut node = Self {
            name: name.to_owned(),
            folder,
            port: free_port(),
            internal_port: free_port(),
            place,
            settings: Vec::new(),
            child: None,
        };
        node.set("DATA_DIR", &node.data_dir().display().to_string());
        node.set("PORT", &node.port.to_string());
        node.set("INTERNAL_PORT", &node.internal_port.to_string());
        node.set("NODE_URL", &node.internal_url());
        node.set("REGION", name);
        if node.place.namespace.is_some() {
            node.set("BIND", &Ipv4Addr::UNSPECIFIED.to_string());
        }
        node
    }

    /// A setting by its name without `KURA_`, for the next start.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// Its data dir.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The staging areas' root.
    pub fn tmp_dir(&self) -> PathBuf {
        self.data_dir().join("tmp")
    }

    /// What peers know it by.
    pub fn internal_url(&self) -> String {
        format!("http://{}:{}", self.place.host, self.internal_port)
    }

    /// Where build tools reach it.
    pub fn public_url(&self) -> String {
        format!("http://{}:{}", self.place.control, self.port)
    }

    /// Speaks to the public plane.
    pub fn client(&self) -> Client {
        Client::at(self.place.control, self.port)
    }

    /// Speaks to the internal plane.
    pub fn internal(&self) -> Client {
        Client::at(self.place.control, self.internal_port)
    }

    /// The command line of a kura command with this node's settings and nothing else from the environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let binary = env!("CARGO_BIN_EXE_kura");
        let mut command = match &self.place.namespace {
            None => Command::new(binary),
            Some(namespace) => {
                // It becomes the command it runs, so its process is the node's.
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, binary]);
                command
            }
        };
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KURA_") {
                command.env_remove(name);
            }
        }
        command.args(arguments).envs(self.environment());
        command
    }

    /// Runs a kura command on this node to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().expect("running kura")
    }

    /// Starts the process; does not wait for anything.
    pub fn start(&mut self) {
        self.start_as(None);
    }

    /// Starts it as another user, of the group of the same number.
    pub fn start_as(&mut self, user: Option<u32>) {
        let mut command = self.command(&["serve"]);
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        self.spawn(command);
    }

    /// Starts it by a line for a shell that finds its commands on `path`.
    pub fn start_by(&mut self, line: &str, path: &str) {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec {line}")]).envs(self.environment()).env("PATH", path);
        self.spawn(command);
    }

    fn spawn(&mut self, mut command: Command) {
        assert!(!self.is_running(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(self.log_path()).expect("opening the log");
        let shared = log.try_clone().expect("sharing the log");
        let child = command.stdin(Stdio::null()).stdout(shared).stderr(log).spawn().expect("starting kura serve");
        self.child = Some(child);
    }

    /// Whether its process has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.is_some() && self.exited().is_none()
    }

    /// Its settings as variables.
    pub fn environment(&self) -> impl Iterator<Item = (String, &String)> {
        self.settings.iter().map(|(name, value)| (format!("KURA_{name}"), value))
    }

    /// Waits until `/ready` answers 200.
    pub fn wait_ready(&mut self, limit: Duration) {
        let what = format!("/ready of {}", self.name);
        eventually(&what, limit, || {
            if let Some(status) = self.exited() {
                panic!("{} ended before it was ready: {status}", self.name);
            }
            let reply = self.client().get("/ready").map_err(|error| error.to_string())?;
            match reply.status {
                200 => Ok(()),
                status => Err(format!("{status} {}", reply.text().unwrap_or_default())),
            }
        });
    }

    /// Starts it and waits until it is ready.
    pub fn start_ready(&mut self) {
        self.start();
        self.wait_ready(READY_WITHIN);
    }

    /// The process id of the running node.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running node").id()
    }

    /// How the process ended, if it did by itself.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().expect("asking for the process"))
    }

    /// kill -9, and waits until the process is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killing the process");
            child.wait().expect("waiting for the process");
        }
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.child.take().expect("a running node").wait().expect("waiting for the process")
    }

    /// Sends a signal to the running process.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("signalling the process");
    }

    /// The node's log so far.
    pub fn log(&self) -> String {
        std::fs::read(self.log_path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            eprintln!("--- end of the log of {} ---\n{}\n---", self.name, shown.join("\n"));
        }
    }
}
