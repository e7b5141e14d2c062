//! The mesh at a glance: every node with its version, state and clock, and who reaches whom.
//!
//! How it works: it is made of the answers that the checks asked for; nobody is asked again. A run that asked no peer
//! has none.
//!
//! Invariants: at most [`NODES_MAX`] nodes. What nobody can tell is neither yes nor no.

use serde::Serialize;

use super::checks::mesh::clock_offset;
use super::checks::one_way::{Listener, listeners, reaches};
use super::checks::peers::{KuraAnswer, Probe};
use super::context::{Context, Vantage};
use super::live::ControlStatus;

/// Nodes in it; the checks look at more.
pub const NODES_MAX: usize = 64;

/// One node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MeshNode {
    /// Where it is reached.
    pub url: String,
    /// Whether it is the node that was asked about.
    pub this_node: bool,
    /// Its region, once it has answered.
    pub region: Option<String>,
    /// Its store, if known.
    pub store_id: Option<String>,
    /// The version of its binary.
    pub version: Option<String>,
    /// The newest protocol it speaks; none for a node of the seed era.
    pub protocol: Option<u32>,
    /// joining, serving, draining; or `seed` for a node of the seed era.
    pub state: Option<String>,
    /// Whether it has everything its peers had when it joined.
    pub complete: Option<bool>,
    /// Live artifacts.
    pub artifacts: Option<u64>,
    /// How far its clock is ahead of this machine's.
    pub clock_offset_ms: Option<i64>,
    /// How long asking it took.
    pub round_trip_ms: Option<u64>,
    /// Why it did not answer.
    pub error: Option<String>,
}

/// The mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MeshView {
    /// The nodes, this one first.
    pub nodes: Vec<MeshNode>,
    /// For each node, in that order, whether it reaches each one; `null` if nobody can tell.
    pub reaches: Vec<Vec<Option<bool>>>,
}

/// What this run saw of the mesh.
pub(super) fn of(context: &Context) -> Option<MeshView> {
    let probes = context.peers.get()?;
    let listeners = listeners(context).ok()?.unwrap_or_default();
    let own = match &context.vantage {
        Vantage::Live(status) => Some(own_node(status)),
        Vantage::Offline(_) => None,
    };
    let peers = probes.peers.iter().map(|probe| peer_node(probe, &listeners));
    let nodes: Vec<MeshNode> = own.into_iter().chain(peers).take(NODES_MAX).collect();
    let reaches = nodes.iter().map(|from| nodes.iter().map(|to| reach(from, to, &listeners)).collect()).collect();
    Some(MeshView { nodes, reaches }).filter(|view| !view.nodes.is_empty())
}

fn own_node(status: &ControlStatus) -> MeshNode {
    MeshNode {
        url: status.node_url.clone(),
        this_node: true,
        store_id: status.store.as_ref().map(|store| store.store_id.clone()),
        version: Some(status.version.clone()),
        protocol: Some(crate::core::mesh::wire::PROTOCOL_MAX),
        state: Some(status.readiness.state.clone()),
        complete: Some(status.readiness.complete),
        artifacts: status.store.as_ref().map(|store| store.artifacts),
        ..MeshNode::default()
    }
}

fn peer_node(probe: &Probe, listeners: &[Listener]) -> MeshNode {
    let known = listeners.iter().find(|listener| listener.url == probe.url);
    let bare = MeshNode {
        url: probe.url.clone(),
        store_id: known.map(|listener| listener.store_id.clone()),
        ..MeshNode::default()
    };
    let answer = match &probe.answer {
        Ok(answer) => answer,
        Err(trouble) => {
            let error = format!("{} failed after {} ms: {}", trouble.phase, probe.ms, trouble.message);
            return MeshNode { error: Some(error), ..bare };
        }
    };
    let region = Some(answer.region.clone()).filter(|region| !region.is_empty());
    let answered = MeshNode { region, round_trip_ms: Some(probe.ms), ..bare };
    match &answer.kura {
        Some(kura) => kura_node(answered, probe, kura),
        None => MeshNode { state: Some("seed".to_owned()), ..answered },
    }
}

fn kura_node(answered: MeshNode, probe: &Probe, kura: &KuraAnswer) -> MeshNode {
    MeshNode {
        store_id: kura.store_id.clone(),
        version: Some(kura.version.clone()).filter(|version| !version.is_empty()),
        protocol: Some(kura.protocol.max),
        state: Some(kura.state.clone()),
        complete: Some(kura.complete),
        artifacts: Some(kura.artifacts),
        clock_offset_ms: clock_offset(probe, kura),
        ..answered
    }
}

fn reach(from: &MeshNode, to: &MeshNode, listeners: &[Listener]) -> Option<bool> {
    let listener =
        |node: &MeshNode| listeners.iter().find(|listener| Some(&listener.store_id) == node.store_id.as_ref());
    match (listener(from), listener(to)) {
        (Some(from), Some(to)) if from.store_id != to.store_id => reaches(from, to),
        _ => None,
    }
}
