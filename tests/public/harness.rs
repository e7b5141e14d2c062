//! A node in this process and a client that sends exactly the bytes it is given.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kura::core::config::{self, Config, Inputs, Machine, Variables};
use kura::core::mesh::memory_transport::MemoryTransport;
use kura::core::server::mesh_wiring;
use kura::core::server::node::Seams;
use kura::core::server::startup::{self, RunningNode};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Anything a test waits for takes far less; past it the test fails rather than hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A node over its own directory.
pub struct TestNode {
    running: Option<RunningNode>,
    root: Arc<TempDir>,
    pub base: String,
}

/// Settings of a node on free ports over `root`.
pub fn settings(root: &Path) -> Config {
    let data_dir = root.join("data").display().to_string();
    let flags = [("data_dir", data_dir), ("port", "0".to_owned()), ("internal_port", "0".to_owned())];
    let machine = Machine::of_this_process();
    let inputs = Inputs { flags: flags.to_vec(), variables: Variables::default(), file: None, machine };
    config::resolve(&inputs).expect("the defaults are valid").config
}

impl TestNode {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::over(Arc::new(tempfile::tempdir().expect("a temporary directory")), change, Seams::system()).await
    }

    /// A node over another volume, clock or network than the machine's.
    pub async fn start_over(seams: Seams) -> Self {
        Self::over(Arc::new(tempfile::tempdir().expect("a temporary directory")), |_| {}, seams).await
    }

    /// A node with this URL in a network of its own making, over the given links.
    pub async fn start_in(network: &MemoryTransport, url: &str, peers: &[&str]) -> Self {
        let seams = Seams { transport: Arc::new(network.clone()), ..Seams::system() };
        let root = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        let name = |config: &mut Config| {
            config.node_url = url.to_owned();
            config.peers = peers.iter().map(|peer| (*peer).to_owned()).collect();
        };
        let node = Self::over(root, name, seams).await;
        network.attach(url, Some(mesh_wiring::internal_router(&node.running().node)));
        node
    }

    async fn over(root: Arc<TempDir>, change: impl FnOnce(&mut Config), seams: Seams) -> Self {
        let mut config = settings(root.path());
        change(&mut config);
        let running = startup::start(config, seams).await.expect("the node starts");
        let address = running.addresses().expect("the listeners are bound").public;
        Self { running: Some(running), root, base: format!("http://{address}") }
    }

    /// Stops the node, lets `between` at its directory, and starts it again.
    pub async fn restart_after(mut self, between: impl FnOnce(&Path)) -> Self {
        self.stop().await;
        between(self.root.path());
        Self::over(Arc::clone(&self.root), |_| {}, Seams::system()).await
    }

    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
    }

    pub fn running(&self) -> &RunningNode {
        self.running.as_ref().expect("the node runs")
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.root.path().join("data")
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// One request over its own connection, bytes as given.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: kura\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) && !body.is_empty() {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.send_raw(&[head.as_bytes(), body].concat()).await
    }

    /// A GET on any port of a node.
    pub async fn ask(address: std::net::SocketAddr, path: &str) -> Reply {
        let stream = TcpStream::connect(address).await.expect("the node listens");
        let head = format!("GET {path} HTTP/1.1\r\nHost: kura\r\nConnection: close\r\n\r\n");
        Self::exchange(stream, head.as_bytes()).await
    }

    /// Bytes on a fresh connection, and everything that comes back until it closes.
    pub async fn send_raw(&self, bytes: &[u8]) -> Reply {
        Self::exchange(self.connect().await, bytes).await
    }

    async fn exchange(mut stream: TcpStream, bytes: &[u8]) -> Reply {
        let exchange = async {
            // A refused body may meet a closed connection; the answer is what counts.
            let _ = stream.write_all(bytes).await;
            let mut answer = Vec::new();
            let end = stream.read_to_end(&mut answer).await;
            Reply::parse(&answer, end.is_ok())
        };
        tokio::time::timeout(PATIENCE, exchange).await.expect("an answer in time")
    }

    pub async fn connect(&self) -> TcpStream {
        let address = self.base.strip_prefix("http://").expect("an http base");
        TcpStream::connect(address).await.expect("the node listens")
    }

    pub async fn put(&self, path: &str, body: &[u8]) -> u16 {
        self.send("PUT", path, &[], body).await.status
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"").await
    }

    /// A sample of the exposition.
    pub async fn metric(&self, sample: &str) -> u64 {
        let text = String::from_utf8(self.get("/metrics").await.body).expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{sample} is not exposed")).parse().expect("a whole number")
    }

    /// Everything a refused request must leave as it was.
    pub fn state(&self) -> State {
        let node = &self.running().node;
        let stats = node.store.current().expect("the store is open").stats();
        State {
            artifacts: stats.artifacts,
            head: stats.head_seq.0,
            reserved: node.staging.reserved_bytes(),
            staged: staged_entries(&self.data_dir().join("tmp")),
        }
    }

    /// Waits until nothing is reserved and nothing is staged.
    pub async fn settled(&self, patience: Duration) -> State {
        let deadline = std::time::Instant::now() + patience;
        loop {
            let state = self.state();
            if (state.reserved == 0 && state.staged == 0) || std::time::Instant::now() > deadline {
                return state;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub artifacts: u64,
    pub head: u64,
    pub reserved: u64,
    pub staged: usize,
}

/// Files and folders inside the staging areas.
pub fn staged_entries(tmp: &Path) -> usize {
    let areas = ["uploads", "parts", "bootstrap"].map(|area| tmp.join(area));
    areas.iter().filter_map(|area| std::fs::read_dir(area).ok()).map(Iterator::count).sum()
}

/// An answer as it came over the wire.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection ended in order and the body has the announced length.
    pub whole: bool,
}

impl Reply {
    fn parse(bytes: &[u8], ended: bool) -> Self {
        let Some(split) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Self { status: 0, headers: Vec::new(), body: Vec::new(), whole: false };
        };
        let head = String::from_utf8_lossy(&bytes[..split]).into_owned();
        if head.starts_with("HTTP/1.1 100") {
            return Self::parse(&bytes[split + 4..], ended);
        }
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let body = bytes[split + 4..].to_vec();
        let mut reply = Self { status: status.unwrap_or(0), headers, body, whole: ended };
        let announced = reply.header("content-length").and_then(|length| length.parse::<usize>().ok());
        reply.whole &= announced.is_none_or(|length| length == reply.body.len());
        reply
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Bytes that differ at every position and by seed.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state >> 16).to_le_bytes()[..6]);
    }
    bytes.truncate(length);
    bytes
}
