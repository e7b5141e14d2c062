//! What readiness shows of itself: to probes, to peers and to the doctor. Plain values, made by the machine.

use super::circuit::CircuitState;
use super::reasons::Reason;

/// The seed era's state of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrafficState {
    /// Not ready yet.
    Joining,
    /// Ready.
    Serving,
    /// Going away.
    Draining,
}

/// How much of the mesh's data this node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Completeness {
    /// Catching up, not serving yet.
    Joining,
    /// Everything the peers had when this node joined is settled.
    Complete,
    /// Serving, although something is left to catch up; the reasons say what.
    Degraded,
    /// Going away.
    Draining,
}

/// Where the catch-up from one peer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerPhase {
    /// It has not answered yet, or does not answer now.
    Unreachable,
    /// It answers; its pass has not begun.
    Waiting,
    /// Its tombstones are being applied.
    Tombstones,
    /// Its artifacts are being listed and fetched.
    Transfer,
    /// A pass ended unclean; the next one begins after a pause.
    Retrying,
    /// Everything it had is settled; its changes are followed.
    Following,
}

/// Progress of the catch-up from one peer, as shown to people and probes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PeerProgress {
    /// The URL it is dialled at.
    pub url: String,
    /// The URL it gives itself.
    pub node_url: String,
    /// Its region.
    pub region: Option<String>,
    /// Whether it answered last time.
    pub reachable: bool,
    /// Whether everything it had is settled.
    pub bootstrapped: bool,
    /// Whether it no longer holds back readiness although it is not settled.
    pub excused: bool,
    /// Where it stands.
    pub phase: PeerPhase,
    /// Rows settled in this pass.
    pub done: u64,
    /// Rows to settle in this pass, as far as known.
    pub total: Option<u64>,
    /// Bytes of bodies fetched in this pass.
    pub bytes: u64,
    /// Rows a second over this pass.
    pub rate: u64,
    /// Milliseconds left at that rate.
    pub eta_ms: Option<u64>,
    /// Unix milliseconds of the last row, page or body chunk.
    pub last_advance_ms: Option<u64>,
    /// The last error, kept until the next clean pass.
    pub last_error: Option<String>,
    /// How its circuit stands: whether it is asked for bodies now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit: Option<CircuitState>,
}

/// Everything the probes say about readiness.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ReadinessSnapshot {
    /// The seed era's word for it.
    pub state: TrafficState,
    /// kura's word for it.
    pub readiness: Completeness,
    /// Whether traffic is welcome.
    pub ready: bool,
    /// Whether everything the peers had when this node joined is settled; never lost again.
    pub complete: bool,
    /// Whether a drain has begun.
    pub draining: bool,
    /// Whether the data dir is locked by this process.
    pub writer_lock_owned: bool,
    /// Whether a store is open.
    pub store_open: bool,
    /// Whether a read of the store waits for its answer for too long.
    pub store_stalled: bool,
    /// `code`, or `code: peer detail`, each a gate that is closed or a fact worth knowing.
    pub reasons: Vec<String>,
    /// The same with their parts, and since when each holds.
    pub gates: Vec<Reason>,
    /// URLs that the peers give themselves, sorted; those of this process that answered at least once.
    pub known_peers: Vec<String>,
    /// Those of them whose data is settled.
    pub bootstrapped_peers: Vec<String>,
    /// Those of them with a pass under way.
    pub bootstrap_inflight_peers: Vec<String>,
    /// Whether the first round of discovery is done.
    pub initial_discovery_completed: bool,
    /// Rises with each change of the known peers.
    pub generation: u64,
    /// One entry for each peer, by URL.
    pub peers: Vec<PeerProgress>,
}

impl ReadinessSnapshot {
    /// All peers' catch-up together.
    pub fn progress(&self) -> TotalProgress {
        let open = || self.peers.iter().filter(|peer| !peer.bootstrapped);
        TotalProgress {
            done: open().map(|peer| peer.done).sum(),
            total: open().map(|peer| peer.total).sum(),
            rate: open().map(|peer| peer.rate).sum(),
            eta_ms: open().filter_map(|peer| peer.eta_ms).max(),
            last_advance_ms: self.peers.iter().filter_map(|peer| peer.last_advance_ms).max(),
            excused_peers: self.peers.iter().filter(|peer| peer.excused).count(),
        }
    }
}

/// Catching up as a whole: what a rollout waits for, as progress and not as a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct TotalProgress {
    /// Rows settled in the passes under way.
    pub done: u64,
    /// Rows in them, once every peer said.
    pub total: Option<u64>,
    /// Rows a second.
    pub rate: u64,
    /// Milliseconds until the last of them is through, at its rate.
    pub eta_ms: Option<u64>,
    /// Unix milliseconds of the last row, page or body chunk of any peer: what stands still is stuck.
    pub last_advance_ms: Option<u64>,
    /// Peers that are no longer waited for.
    pub excused_peers: usize,
}
