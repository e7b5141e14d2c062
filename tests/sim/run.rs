//! Carries a scenario out, waits for the mesh to come to rest, and holds it against the oracle.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kura::core::store::record::Record;
use tokio::time::Instant;

use crate::network::Network;
use crate::node::{SimNode, Upload, locked};
use crate::oracle::{Holdings, Oracle};
use crate::scenario::{Operation, Scenario};
use crate::volume::Room;
use crate::watch::{Watch, check_cursors};

/// How long, in its own time, a mesh without faults may take to come to rest: longer than a few of the pauses after a
/// body that came wrong from everybody (30 s, doubling).
const REST_WITHIN: Duration = Duration::from_secs(30 * 60);

/// How long the nodes may take to take traffic beside one that fails everything: longer than a peer without progress is
/// waited for.
const READY_WITHIN: Duration = Duration::from_secs(5 * 60);

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How often it is looked at whether a delete was brought: one turn in five seconds, after a pass that may have to wait.
const PUSH_LOOKS: u32 = 24;

/// How often it is looked at while some time passes: what goes wrong may heal within a few exchanges.
const LOOKS: u32 = 3;

/// How long it is left alone at rest, to see whether it stays as it is.
const REST: Duration = Duration::from_secs(40);

/// Seconds within which a try for what is nowhere has asked everybody.
const VAIN_TRY_LOOKS: u32 = 60;

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
    run_and_look(scenario, |_| Ok(()))
}

/// The same with a look of one's own at the mesh at rest.
///
/// # Errors
/// What does not hold, with the end of the record.
pub fn run_and_look(scenario: &Scenario, look: impl FnOnce(&Mesh) -> Result<()>) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let memory = std::path::Path::new("/dev/shm");
    let root = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }?;
    runtime.block_on(async {
        let mut mesh = Mesh::new(scenario, root.path());
        let result = mesh.play(scenario).await.and_then(|outcome| look(&mesh).map(|()| outcome));
        // The network has the nodes and the nodes have the network: what stays up would never be freed.
        for node in &mut mesh.nodes {
            node.crash().await?;
        }
        let shown = || format!("the last exchanges:\n{}", mesh.network.shown());
        result.with_context(shown)
    })
}

pub struct Mesh {
    network: Network,
    oracle: Arc<Mutex<Oracle>>,
    nodes: Vec<SimNode>,
    /// Nodes that run on a copy of another's volume.
    clones: BTreeSet<usize>,
    watch: Watch,
}

impl Mesh {
    fn new(scenario: &Scenario, root: &std::path::Path) -> Self {
        let network = Network::new(Instant::now(), scenario.seed_era);
        let oracle = Arc::new(Mutex::new(Oracle::default()));
        let node = |number| SimNode::new(number, scenario.nodes, scenario.seed, root, &network, &oracle);
        let mut nodes: Vec<SimNode> = (0..scenario.nodes).map(node).collect();
        nodes.iter_mut().zip(&scenario.capacities).for_each(|(node, capacity)| node.capacity = *capacity);
        Self { network, oracle, nodes, clones: BTreeSet::new(), watch: Watch::default() }
    }

    pub fn holdings(&self, node: usize) -> Result<Holdings> {
        self.nodes[node].holdings()
    }

    /// Bytes of bodies that arrived at a node.
    pub fn body_bytes(&self, node: usize) -> u64 {
        self.network.body_bytes(node)
    }

    async fn play(&mut self, scenario: &Scenario) -> Result<Outcome> {
        for node in &mut self.nodes {
            node.start()?;
        }
        for (at, operation) in scenario.operations.iter().enumerate() {
            self.clear_the_dead_away().await?;
            self.network.note(&format!("operation {at}: {operation:?}"));
            let applied = self.apply(operation, scenario).await;
            applied.with_context(|| format!("operation {at}: {operation:?}"))?;
        }
        self.make_peace(scenario).await?;
        let rest_ms = self.come_to_rest().await?;
        self.check()?;
        Ok(self.outcome(rest_ms))
    }

    async fn apply(&mut self, operation: &Operation, scenario: &Scenario) -> Result<()> {
        match *operation {
            Operation::Put { node, .. } if scenario.seed_era == Some(node) || self.nodes[node].capacity.is_some() => {}
            Operation::Put { node, namespace, key, size, content, pause_ms, once } => {
                let name = (namespace.to_owned(), format!("key-{key}"));
                let body = vec![content; size];
                let pause = Duration::from_millis(pause_ms);
                self.nodes[node].put(Upload { name, body, pause, once });
                // The client's first bytes arrive before anything else happens.
                tokio::task::yield_now().await;
            }
            Operation::Delete { node, namespace } => self.nodes[node].delete(namespace).await?,
            Operation::DeletePushed { node, to, namespace } => self.bring_delete(node, to, namespace).await?,
            Operation::Crash { node } => self.nodes[node].crash().await?,
            Operation::CrashWithin { node, steps } => self.nodes[node].light_fuse(steps),
            Operation::Restart { node } => self.nodes[node].start()?,
            Operation::Fill { node, room } => self.nodes[node].fill(room),
            Operation::Skew { node, skew_ms } => self.nodes[node].clock.set_skew_ms(skew_ms),
            Operation::Pass { ms } => self.pass(Duration::from_millis(ms)).await?,
            Operation::Evict { node, bytes } => self.nodes[node].evict(bytes)?,
            Operation::Wipe { .. }
            | Operation::Snapshot { .. }
            | Operation::Restore { .. }
            | Operation::Clone { .. } => {
                self.change_volume(operation).await?;
            }
            _ => self.change_link(operation),
        }
        Ok(())
    }

    /// A client deletes at one node, and the other is told within some turns, unless one of them goes.
    async fn bring_delete(&mut self, node: usize, to: usize, namespace: &str) -> Result<()> {
        self.nodes[node].delete(namespace).await?;
        for _ in 0..PUSH_LOOKS {
            let is_away = |number: usize| !self.nodes[number].is_up() || self.clones.contains(&number);
            if is_away(node) || is_away(to) {
                return Ok(());
            }
            let deleted_ms = |number: usize| anyhow::Ok(self.nodes[number].deletes()?.get(namespace).copied());
            if deleted_ms(to)? >= deleted_ms(node)? {
                return Ok(());
            }
            self.pass(LOOK_EVERY).await?;
        }
        bail!("node {to} was not told that node {node} deleted {namespace:?}")
    }

    fn change_link(&self, operation: &Operation) {
        match *operation {
            Operation::Cut { from, to } => self.network.cut(from, to),
            Operation::Part { one, other } => {
                self.network.cut(one, other);
                self.network.cut(other, one);
            }
            Operation::Flap { from, to, turn_ms } => self.network.flap(from, to, turn_ms),
            Operation::Slow { from, to, delay_ms } => self.network.slow(from, to, delay_ms),
            Operation::Sick { node, sick } => self.network.set_sick(node, sick),
            Operation::HarmNext { from, to, harm, count } => self.network.harm_next(from, to, harm, count),
            Operation::Mend { one, other } => self.network.mend(one, other),
            _ => {}
        }
    }

    /// What has to hold at any moment.
    fn look(&mut self) -> Result<()> {
        for (number, node) in self.nodes.iter().enumerate() {
            if node.is_up() && !node.is_dead() && !self.clones.contains(&number) {
                self.watch.look(number, &node.holdings()?)?;
            }
        }
        Ok(())
    }

    async fn change_volume(&mut self, operation: &Operation) -> Result<()> {
        match *operation {
            Operation::Wipe { node } => {
                self.clones.remove(&node);
                self.watch.forget(node);
                self.nodes[node].wipe().await?;
            }
            Operation::Snapshot { node } if !self.clones.contains(&node) => self.nodes[node].keep_snapshot()?,
            Operation::Restore { node } if !self.clones.contains(&node) => {
                if self.nodes[node].restore().await? {
                    self.watch.forget(node);
                }
            }
            Operation::Clone { from, to } => {
                let folder = self.nodes[from].folder();
                self.clones.insert(to);
                self.watch.forget(to);
                self.nodes[to].become_clone_of(&folder).await?;
            }
            _ => return Ok(()),
        }
        self.note_loss()
    }

    /// After a volume was taken away: what the others have, and what it has now, is what is left.
    fn note_loss(&self) -> Result<()> {
        let mut left = Vec::new();
        for (number, node) in self.nodes.iter().enumerate() {
            // What has little room may evict what it has.
            if node.is_up() && !node.is_dead() && node.capacity.is_none() && !self.clones.contains(&number) {
                left.push((node.holdings()?, node.deletes()?));
            }
        }
        locked(&self.oracle).volume_lost(&left);
        Ok(())
    }

    /// Lets time pass. Nodes that die meanwhile are cleared away.
    async fn pass(&mut self, time: Duration) -> Result<()> {
        let (mut next, end) = (Instant::now(), Instant::now() + time);
        let deaths = Arc::clone(&self.network.deaths);
        let look_every = time / LOOKS + Duration::from_millis(1);
        loop {
            tokio::select! {
                biased;
                () = deaths.notified() => self.clear_the_dead_away().await?,
                () = tokio::time::sleep_until(next.min(end)) => {
                    self.look()?;
                    if next >= end {
                        return check_cursors(&self.nodes, &self.clones, &self.network.lied_to());
                    }
                    next += look_every;
                }
            }
        }
    }

    async fn clear_the_dead_away(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            if node.is_dead() {
                node.crash().await?;
            }
        }
        Ok(())
    }

    /// The faults stop. Clocks stay wrong: that is how they are.
    async fn make_peace(&mut self, scenario: &Scenario) -> Result<()> {
        self.network.note("peace");
        self.network.mend_all();
        self.nodes.iter().for_each(SimNode::put_out_fuse);
        self.nodes.iter_mut().for_each(|node| node.fill(Room::Plenty));
        self.clear_the_dead_away().await?;
        for number in std::mem::take(&mut self.clones) {
            self.nodes[number].wipe().await?;
            self.watch.forget(number);
            self.nodes[number].put_out_fuse();
            self.note_loss()?;
        }
        if let Some(sick) = scenario.stays_sick {
            self.network.set_sick(sick, true);
        }
        for node in &mut self.nodes {
            if scenario.restart_all {
                node.crash().await?;
            }
            node.start()?;
        }
        match scenario.stays_sick {
            None => Ok(()),
            Some(sick) => self.serve_beside(sick).await,
        }
    }

    /// All nodes take traffic, although one of them only answers for its status.
    async fn serve_beside(&self, sick: usize) -> Result<()> {
        let began = Instant::now();
        loop {
            let ready = self.nodes.iter().map(SimNode::is_ready).collect::<Result<Vec<bool>>>()?;
            if ready.iter().all(|ready| *ready) {
                break;
            }
            ensure!(began.elapsed() < READY_WITHIN, "node {sick} is sick, and the others are not ready: {ready:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.network.mend_all();
        Ok(())
    }

    fn unrest(&self) -> Result<Option<String>> {
        for node in &self.nodes {
            if let Some(unrest) = node.unrest()? {
                return Ok(Some(unrest));
            }
        }
        // The first node has room for everything.
        let first = self.nodes[0].holdings()?;
        for (number, node) in self.nodes.iter().enumerate() {
            let here = node.holdings()?;
            let agrees = match node.capacity {
                None => here == first,
                Some(_) => here.iter().all(|(name, version)| first.get(name) == Some(version)),
            };
            if !agrees {
                return Ok(Some(format!("node {number} holds {here:#?}, node 0 {first:#?}")));
            }
            let (deletes, first) = (node.deletes()?, self.nodes[0].deletes()?);
            if deletes != first {
                return Ok(Some(format!("node {number} has deleted {deletes:?}, node 0 {first:?}")));
            }
        }
        Ok(None)
    }

    async fn come_to_rest(&mut self) -> Result<u128> {
        let began = Instant::now();
        loop {
            self.look()?;
            let Some(unrest) = self.unrest()? else { break };
            if began.elapsed() > REST_WITHIN {
                bail!("no rest: {unrest}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let rest_ms = began.elapsed().as_millis();
        tokio::time::sleep(REST).await;
        self.let_vain_tries_end().await?;
        self.look()?;
        check_cursors(&self.nodes, &self.clones, &self.network.lied_to())?;
        if let Some(unrest) = self.unrest()? {
            bail!("rest did not last: {unrest}");
        }
        Ok(rest_ms)
    }

    /// The look at the end must not fall into a try for what is nowhere, which holds room meanwhile.
    async fn let_vain_tries_end(&self) -> Result<()> {
        for _ in 0..VAIN_TRY_LOOKS {
            let mut are_under_way = false;
            for node in &self.nodes {
                are_under_way |= node.asks_for_what_is_nowhere()?;
            }
            if !are_under_way {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        for (number, node) in self.nodes.iter().enumerate() {
            self.check_holdings(number, node)?;
            node.check().with_context(|| format!("node {number}"))?;
        }
        let arrived = self.network.deliveries().into_iter().filter(|(_, bytes)| *bytes > 0);
        for ((node, life, record), bytes) in arrived {
            // What a full volume did not take comes again.
            if self.nodes[node].full_lives.contains(&life) {
                continue;
            }
            // A node that dies between the last byte and the commit fetches once more in its next life.
            let record = Record::from_bytes(&hex::decode(record)?)?;
            ensure!(bytes <= record.size, "node {node} fetched {bytes} bytes in its life {life}: {record:?}");
        }
        Ok(())
    }

    fn check_holdings(&self, number: usize, node: &SimNode) -> Result<()> {
        let first = self.nodes[0].descriptions()?;
        // The seed era's listings do not say all of it.
        for (name, record) in node.descriptions()?.into_iter().filter(|_| !self.network.has_seed_era()) {
            let there = first.get(&name);
            ensure!(there == Some(&record), "node {number} says {record:?}, node 0 {there:?}");
        }
        let oracle = locked(&self.oracle);
        let complaints = match node.capacity {
            None => oracle.complaints(&node.holdings()?),
            // It holds nothing that the first one does not.
            Some(_) => Vec::new(),
        };
        ensure!(complaints.is_empty(), "node {number}: {complaints:#?}");
        let strange = oracle.strange_delete(&node.deletes()?);
        ensure!(strange.is_none(), "node {number} has deleted what nobody deleted: {strange:?}");
        Ok(())
    }

    fn outcome(&self, rest_ms: u128) -> Outcome {
        let oracle = locked(&self.oracle);
        Outcome {
            trace: self.network.trace(),
            exchanges: self.network.exchanges(),
            writes: oracle.writes,
            deletes: oracle.deletes,
            artifacts: oracle.expected(),
            starts: self.nodes.iter().map(|node| node.starts).sum(),
            rest_ms,
        }
    }
}
