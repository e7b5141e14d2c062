//! Several nodes that know each other.

use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::inspect;
use super::node::{Node, Place, READY_WITHIN};
use super::wait::eventually;

/// Nodes that name each other (and themselves) as peers, in one temporary folder that goes away with them.
#[derive(Debug)]
pub struct Mesh {
    /// The nodes.
    pub nodes: Vec<Node>,
    // Behind the nodes: fields are dropped in order, and a folder goes only after its process.
    _folder: TempDir,
}

impl Mesh {
    /// As many nodes as asked, not started.
    pub fn new(count: usize) -> Self {
        Self::placed(vec![Place::local(); count])
    }

    /// A node for each place, not started.
    pub fn placed(places: Vec<Place>) -> Self {
        let folder = tempfile::Builder::new().prefix("kura-mesh-").tempdir().expect("making a temporary folder");
        let placed = places.into_iter().enumerate();
        let mut nodes: Vec<Node> =
            placed.map(|(index, place)| Node::placed(&format!("node-{index}"), folder.path(), place)).collect();
        let urls: Vec<String> = nodes.iter().map(Node::internal_url).collect();
        if nodes.len() > 1 {
            for node in &mut nodes {
                node.set("PEERS", &urls.join(","));
            }
        }
        Self { nodes, _folder: folder }
    }

    /// Has these nodes name nobody but each other. A peer that never answered is waited for half a minute, so those that
    /// begin without the others say so; the others find them by their own lists.
    pub fn begin_with(&mut self, few: std::ops::Range<usize>) {
        let urls: Vec<String> = self.nodes[few.clone()].iter().map(Node::internal_url).collect();
        for node in &mut self.nodes[few] {
            node.set("PEERS", &urls.join(","));
        }
    }

    /// As many nodes as asked, all ready.
    pub fn start(count: usize) -> Self {
        let mut mesh = Self::new(count);
        mesh.start_together();
        mesh.wait_ready(READY_WITHIN);
        mesh
    }

    /// Starts all of them at once.
    pub fn start_together(&mut self) {
        self.nodes.iter_mut().for_each(Node::start);
    }

    /// Waits until every node is ready; the limit is for all of them together.
    pub fn wait_ready(&mut self, limit: Duration) {
        let start = Instant::now();
        for node in &mut self.nodes {
            node.wait_ready(limit.saturating_sub(start.elapsed()));
        }
    }

    /// Waits until every node says that it has all that its peers had.
    pub fn wait_complete(&self, limit: Duration) {
        for node in &self.nodes {
            eventually(&format!("{} complete", node.name), limit, || {
                let ready =
                    node.client().get("/ready").and_then(|reply| reply.json()).map_err(|error| error.to_string())?;
                if ready["complete"] == true { Ok(()) } else { Err(ready.to_string()) }
            });
        }
    }

    /// kill -9 of all of them.
    pub fn kill_all(&mut self) {
        self.nodes.iter_mut().for_each(Node::kill);
    }

    /// Waits until every node holds the same artifacts in the same versions, and returns how many there are.
    pub fn wait_equal(&self, limit: Duration) -> usize {
        eventually("equal artifacts on all nodes", limit, || {
            let sets = self.nodes.iter().map(inspect::artifacts).collect::<Result<Vec<_>, _>>()?;
            let counts: Vec<usize> = sets.iter().map(|set| set.len()).collect();
            let differing: Vec<String> = sets
                .iter()
                .flat_map(|set| set.symmetric_difference(&sets[0]).take(3).map(ToString::to_string))
                .collect();
            if differing.is_empty() { Ok(counts[0]) } else { Err(format!("{counts:?} artifacts; {differing:?}")) }
        })
    }
}
