//! Carries a scenario out, waits for the mesh to come to rest, and holds it against the oracle.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::time::Instant;

use crate::network::Network;
use crate::node::{SimNode, Upload, locked};
use crate::oracle::Oracle;
use crate::scenario::{Operation, Scenario};

/// How long, in its own time, a mesh without faults may take to come to rest: longer than a few of the pauses after a
/// body that came wrong from everybody (30 s, doubling).
const REST_WITHIN: Duration = Duration::from_secs(30 * 60);

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long it is left alone at rest, to see whether it stays as it is.
const REST: Duration = Duration::from_secs(40);

/// What a run came to, for comparing two runs of one seed and for totals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub trace: String,
    pub exchanges: u64,
    pub writes: u64,
    pub deletes: u64,
    pub artifacts: usize,
    pub starts: u64,
    pub rest_ms: u128,
}

/// Runs a scenario under paused time, on a runtime of its own.
///
/// # Errors
/// What does not hold, with the end of the record.
pub fn run(scenario: &Scenario) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let memory = std::path::Path::new("/dev/shm");
    let root = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }?;
    runtime.block_on(async {
        let mut mesh = Mesh::new(scenario, root.path());
        let result = mesh.play(scenario).await;
        let shown = || format!("the last exchanges:\n{}", mesh.network.shown());
        result.with_context(shown)
    })
}

struct Mesh {
    network: Network,
    oracle: Arc<Mutex<Oracle>>,
    nodes: Vec<SimNode>,
}

impl Mesh {
    fn new(scenario: &Scenario, root: &std::path::Path) -> Self {
        let network = Network::new(Instant::now());
        let oracle = Arc::new(Mutex::new(Oracle::default()));
        let node = |number| SimNode::new(number, scenario.nodes, scenario.seed, root, &network, &oracle);
        let nodes = (0..scenario.nodes).map(node).collect();
        Self { network, oracle, nodes }
    }

    async fn play(&mut self, scenario: &Scenario) -> Result<Outcome> {
        for node in &mut self.nodes {
            node.start()?;
        }
        for (at, operation) in scenario.operations.iter().enumerate() {
            self.network.note(&format!("operation {at}: {operation:?}"));
            self.apply(operation).await.with_context(|| format!("operation {at}: {operation:?}"))?;
        }
        self.make_peace(scenario.restart_all).await?;
        let rest_ms = self.come_to_rest().await?;
        self.check()?;
        Ok(self.outcome(rest_ms))
    }

    async fn apply(&mut self, operation: &Operation) -> Result<()> {
        match *operation {
            Operation::Put { node, namespace, key, size, content, pause_ms, once } => {
                let name = (namespace.to_owned(), format!("key-{key}"));
                let body = vec![content; size];
                let pause = Duration::from_millis(pause_ms);
                self.nodes[node].put(Upload { name, body, pause, once });
                // The client's first bytes arrive before anything else happens.
                tokio::task::yield_now().await;
            }
            Operation::Delete { node, namespace } => self.nodes[node].delete(namespace).await?,
            Operation::Cut { from, to } => self.network.cut(from, to),
            Operation::Part { one, other } => {
                self.network.cut(one, other);
                self.network.cut(other, one);
            }
            Operation::Slow { from, to, delay_ms } => self.network.slow(from, to, delay_ms),
            Operation::HarmNext { from, to, harm, count } => self.network.harm_next(from, to, harm, count),
            Operation::Mend { one, other } => self.network.mend(one, other),
            Operation::Crash { node } => self.nodes[node].crash().await?,
            Operation::Restart { node } => self.nodes[node].start()?,
            Operation::Skew { node, skew_ms } => self.nodes[node].clock.set_skew_ms(skew_ms),
            Operation::Pass { ms } => tokio::time::sleep(Duration::from_millis(ms)).await,
        }
        Ok(())
    }

    /// The faults stop. Clocks stay wrong: that is how they are.
    async fn make_peace(&mut self, restart_all: bool) -> Result<()> {
        self.network.note("peace");
        self.network.mend_all();
        for node in &mut self.nodes {
            if restart_all {
                node.crash().await?;
            }
            node.start()?;
        }
        Ok(())
    }

    fn unrest(&self) -> Result<Option<String>> {
        for node in &self.nodes {
            if let Some(unrest) = node.unrest()? {
                return Ok(Some(unrest));
            }
        }
        let first = self.nodes[0].holdings()?;
        for (number, node) in self.nodes.iter().enumerate() {
            let here = node.holdings()?;
            if here != first {
                return Ok(Some(format!("node {number} holds {here:#?}, node 0 {first:#?}")));
            }
        }
        Ok(None)
    }

    async fn come_to_rest(&self) -> Result<u128> {
        let began = Instant::now();
        while let Some(unrest) = self.unrest()? {
            if began.elapsed() > REST_WITHIN {
                bail!("no rest: {unrest}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let rest_ms = began.elapsed().as_millis();
        tokio::time::sleep(REST).await;
        if let Some(unrest) = self.unrest()? {
            bail!("rest did not last: {unrest}");
        }
        Ok(rest_ms)
    }

    fn check(&self) -> Result<()> {
        let oracle = locked(&self.oracle);
        for (number, node) in self.nodes.iter().enumerate() {
            let complaints = oracle.complaints(&node.holdings()?);
            ensure!(complaints.is_empty(), "node {number}: {complaints:#?}");
            node.check().with_context(|| format!("node {number}"))?;
        }
        for ((node, record), count) in self.network.deliveries() {
            // A node that dies between the last byte and the commit fetches once more.
            let allowed = self.nodes[node].starts;
            ensure!(count <= allowed, "node {node} fetched one body {count} times in {allowed} lives: {record}");
        }
        Ok(())
    }

    fn outcome(&self, rest_ms: u128) -> Outcome {
        let oracle = locked(&self.oracle);
        Outcome {
            trace: self.network.trace(),
            exchanges: self.network.exchanges(),
            writes: oracle.writes,
            deletes: oracle.deletes,
            artifacts: oracle.expected().len(),
            starts: self.nodes.iter().map(|node| node.starts).sum(),
            rest_ms,
        }
    }
}
