//! Whether this node takes traffic, and why not: a state, reasons and per-peer progress. Latches once ready.
//!
//! How it works: [`ReadinessMachine`] is a pure state machine that is told facts (lock, store, rounds of discovery, how
//! each peer's catch-up goes) together with the time, and answers with a [`ReadinessSnapshot`]. [`Readiness`] is the
//! shared handle of a process around it; the probes, the peers' status and the doctor all read the same snapshot.
//!
//! A node becomes ready when the lock and the store are held, the first round of discovery is done, the tombstones of
//! all reachable peers are applied, and one of these holds: everything the reachable peers had is settled (complete);
//! what is left belongs to peers that were excused (degraded); or no reachable peer calls itself complete (a cold
//! mesh), in which case waiting for one another would never end.
//!
//! Invariants: readiness is never lost to a peer's flap, only to draining, or while the lock or the store are gone.
//! A peer is excused only after a bounded time without progress; slow progress is never excused. A pass that fails as
//! the ones before it did is no progress, however busy it is. Nothing here waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::circuit::Circuits;
use super::reach::{Passes, Reach, RowEnd};
pub use super::readiness_view::{
    Completeness, PeerPhase, PeerProgress, ReadinessSnapshot, TotalProgress, TrafficState,
};
use super::reasons::{Reason, Since};
use crate::core::base::clock::Clock;
use crate::core::base::limits::PEER_EXCUSED_AFTER;

/// Configured peers that never answered hold a node back this long: long enough for siblings that start together,
/// short enough that the last node of a mesh serves by itself.
pub const SILENT_PEER_WAIT: Duration = Duration::from_secs(30);

/// What membership knows of a peer after a round of discovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerFacts {
    /// The URL it is dialled at; the key of everything else said of it.
    pub url: String,
    /// The URL it gives itself; equal to `url` until it has answered.
    pub node_url: String,
    /// Its region, once it has answered.
    pub region: Option<String>,
    /// Whether it answered this round.
    pub reachable: bool,
    /// Whether it ever answered this process.
    pub answered: bool,
    /// Whether it says that it is complete. Seed-era peers do not say and count as complete, so that a node that joins
    /// an old mesh fills before it serves.
    pub complete: bool,
    /// Why it did not answer.
    pub error: Option<String>,
}

/// One round of discovery.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiscoveryRound {
    /// Whether any source of peers is configured.
    pub configured: bool,
    /// Whether a source named an address and at least one of them (this node's own included) answered and was not
    /// refused, or no address is left to ask.
    pub observed: bool,
    /// All members, answering or not; never this node.
    pub peers: Vec<PeerFacts>,
}

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// For waits and rates.
    pub monotonic: Duration,
    /// For people.
    pub wall_ms: u64,
}

impl Moment {
    /// Reads both clocks.
    pub fn of(clock: &dyn Clock) -> Self {
        Self { monotonic: clock.monotonic(), wall_ms: clock.now_ms() }
    }
}

/// What the machine remembers of one peer.
#[derive(Debug, Clone)]
struct PeerState {
    facts: PeerFacts,
    first_seen: Duration,
    last_advance: Option<Moment>,
    pass_started: Option<Duration>,
    in_flight: bool,
    tombstones_applied: bool,
    bootstrapped: bool,
    phase: PeerPhase,
    done: u64,
    total: Option<u64>,
    bytes: u64,
    last_error: Option<String>,
    passes: Passes,
}

impl PeerState {
    fn new(facts: PeerFacts, now: Duration) -> Self {
        Self {
            facts,
            first_seen: now,
            last_advance: None,
            pass_started: None,
            in_flight: false,
            tombstones_applied: false,
            bootstrapped: false,
            phase: PeerPhase::Waiting,
            done: 0,
            total: None,
            bytes: 0,
            last_error: None,
            passes: Passes::default(),
        }
    }

    fn begin_pass(&mut self, now: Moment) {
        self.passes.begin();
        self.in_flight = true;
        self.pass_started = Some(now.monotonic);
        (self.done, self.bytes, self.total) = (0, 0, None);
        self.phase = PeerPhase::Tombstones;
    }

    fn excused(&self, now: Duration) -> bool {
        let patience = if self.facts.answered { PEER_EXCUSED_AFTER } else { SILENT_PEER_WAIT };
        let since = self.last_advance.map_or(self.first_seen, |moment| moment.monotonic.max(self.first_seen));
        !self.bootstrapped && now.saturating_sub(since) >= patience
    }

    fn blocks(&self, now: Duration) -> bool {
        !self.bootstrapped && !self.excused(now)
    }

    fn awaits_tombstones(&self, now: Duration) -> bool {
        self.facts.reachable && !self.tombstones_applied && !self.excused(now)
    }

    fn rate(&self, now: Duration) -> u64 {
        let elapsed_ms = self.pass_started.map_or(0, |started| now.saturating_sub(started).as_millis());
        let rate = u128::from(self.done).saturating_mul(1000).checked_div(elapsed_ms.max(1)).unwrap_or(0);
        u64::try_from(rate).unwrap_or(u64::MAX)
    }

    fn progress(&self, now: Duration) -> PeerProgress {
        let rate = if self.in_flight { self.rate(now) } else { 0 };
        let left = self.total.map(|total| total.saturating_sub(self.done));
        let reachable = self.facts.reachable;
        PeerProgress {
            url: self.facts.url.clone(),
            node_url: self.facts.node_url.clone(),
            region: self.facts.region.clone(),
            reachable,
            bootstrapped: self.bootstrapped,
            excused: self.excused(now),
            phase: if reachable { self.phase } else { PeerPhase::Unreachable },
            done: self.done,
            total: self.total,
            bytes: self.bytes,
            rate,
            eta_ms: left.and_then(|left| left.saturating_mul(1000).checked_div(rate)),
            last_advance_ms: self.last_advance.map(|moment| moment.wall_ms),
            last_error: self.last_error.clone().or_else(|| self.facts.error.clone()),
            circuit: None,
        }
    }
}

/// The pure state machine; see the module's words.
#[derive(Debug, Default)]
pub struct ReadinessMachine {
    started: Duration,
    started_ms: u64,
    lock_held: bool,
    store_open: bool,
    store_stalled: bool,
    draining: bool,
    sources_configured: bool,
    discovery_observed: bool,
    generation: u64,
    ready_latched: bool,
    complete_latched: bool,
    since: Since,
    peers: BTreeMap<String, PeerState>,
}

impl ReadinessMachine {
    /// A node that just started; `sources_configured` says whether a peer list or DNS name is set.
    pub fn new(sources_configured: bool, now: Moment) -> Self {
        Self { started: now.monotonic, started_ms: now.wall_ms, sources_configured, ..Self::default() }
    }

    /// Takes over a round of discovery. Peers that are no longer members are forgotten with their progress.
    pub fn discovered(&mut self, round: DiscoveryRound, now: Moment) {
        let known_before = self.known_peers();
        let first = round.observed && !self.discovery_observed;
        self.sources_configured = round.configured;
        self.discovery_observed |= round.observed;
        let mut former = std::mem::take(&mut self.peers);
        for facts in round.peers {
            let mut peer = former.remove(&facts.url).unwrap_or_else(|| PeerState::new(facts.clone(), now.monotonic));
            if facts.answered && !peer.facts.answered {
                peer.first_seen = now.monotonic;
            }
            peer.facts = facts;
            self.peers.insert(peer.facts.url.clone(), peer);
        }
        if first || (self.discovery_observed && known_before != self.known_peers()) {
            self.generation += 1;
        }
    }

    /// Whether the data dir's lock is held.
    pub fn set_lock_held(&mut self, held: bool) {
        self.lock_held = held;
    }

    /// Whether a store is open. Peers are met before it is; what they have can be settled only from then on, so that is
    /// when they begin to owe progress.
    pub fn set_store_open(&mut self, open: bool, now: Moment) {
        if open && !std::mem::replace(&mut self.store_open, open) {
            self.peers.values_mut().for_each(|peer| peer.first_seen = now.monotonic);
        }
        self.store_open = open;
    }

    /// Whether a read of the store waits for its answer for too long.
    pub fn set_store_stalled(&mut self, stalled: bool) {
        self.store_stalled = stalled;
    }

    /// Begins the drain; final.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// A pass over this peer begins.
    pub fn pass_started(&mut self, url: &str, now: Moment) {
        self.with_peer(url, |peer| peer.begin_pass(now));
    }

    /// All tombstones of this peer are applied.
    pub fn tombstones_applied(&mut self, url: &str, now: Moment) {
        self.with_peer(url, |peer| {
            if !std::mem::replace(&mut peer.tombstones_applied, true) {
                peer.last_advance = Some(now);
            }
            peer.phase = PeerPhase::Transfer;
        });
    }

    /// Rows were settled or bytes arrived; neither means that a page did.
    pub fn advanced(&mut self, url: &str, rows: u64, bytes: u64, now: Moment) {
        self.with_peer(url, |peer| {
            peer.done = peer.done.saturating_add(rows);
            peer.bytes = peer.bytes.saturating_add(bytes);
            let pages = u64::from(rows == 0 && bytes == 0);
            if peer.passes.came(Reach { pages, rows, bytes }) {
                peer.last_advance = Some(now);
            }
        });
    }

    /// A listed row ended.
    pub fn row_ended(&mut self, url: &str, end: RowEnd, now: Moment) {
        let joined_ms = self.started_ms;
        self.with_peer(url, |peer| {
            peer.done = peer.done.saturating_add(1);
            if peer.passes.row_ended(end, joined_ms) {
                peer.last_advance = Some(now);
            }
        });
    }

    /// How many rows this pass has in all, as far as known now.
    pub fn set_total(&mut self, url: &str, total: u64) {
        self.with_peer(url, |peer| peer.total = Some(total));
    }

    /// A pass ended: `None` clean, or what went wrong.
    pub fn pass_finished(&mut self, url: &str, error: Option<String>) {
        self.with_peer(url, |peer| {
            peer.in_flight = false;
            peer.bootstrapped |= error.is_none();
            peer.phase = if peer.bootstrapped { PeerPhase::Following } else { PeerPhase::Retrying };
            peer.last_error = error;
        });
    }

    fn latch(&mut self, now: Moment) -> Gates {
        let gates = self.gates(now.monotonic);
        self.complete_latched |= gates.held && gates.complete();
        self.ready_latched |= gates.ready();
        gates
    }

    /// The state at this moment. Latches are set here.
    pub fn snapshot(&mut self, now: Moment) -> ReadinessSnapshot {
        let gates = self.latch(now);
        let able = self.lock_held && self.store_open && !self.store_stalled;
        let ready = self.ready_latched && able && !self.draining;
        let mut reasons = self.reasons(&gates, now.monotonic);
        self.since.date(&mut reasons, now.wall_ms);
        ReadinessSnapshot {
            state: self.state(),
            readiness: self.completeness(),
            ready,
            complete: self.complete_latched,
            draining: self.draining,
            writer_lock_owned: self.lock_held,
            store_open: self.store_open,
            store_stalled: self.store_stalled,
            reasons: reasons.iter().map(ToString::to_string).collect(),
            gates: reasons,
            known_peers: self.known_peers(),
            bootstrapped_peers: self.peer_urls(|peer| peer.bootstrapped),
            bootstrap_inflight_peers: self.peer_urls(|peer| peer.in_flight),
            initial_discovery_completed: gates.discovery_done,
            generation: self.generation,
            peers: self.peers.values().map(|peer| peer.progress(now.monotonic)).collect(),
        }
    }

    fn unsettled_peers(&self, now: Duration) -> Vec<String> {
        let may_hold = |peer: &&PeerState| !peer.bootstrapped && (peer.facts.reachable || !peer.excused(now));
        self.peers.values().filter(may_hold).map(|peer| peer.facts.url.clone()).collect()
    }

    fn with_peer(&mut self, url: &str, change: impl FnOnce(&mut PeerState)) {
        if let Some(peer) = self.peers.get_mut(url) {
            change(peer);
        }
    }

    fn gates(&self, now: Duration) -> Gates {
        let silent =
            self.sources_configured && !self.discovery_observed && now.saturating_sub(self.started) >= SILENT_PEER_WAIT;
        let mut reachable = self.peers.values().filter(|peer| peer.facts.reachable).peekable();
        let cold = reachable.peek().is_some() && reachable.all(|peer| !peer.facts.complete);
        Gates {
            held: self.lock_held && self.store_open,
            discovery_done: !self.sources_configured || self.discovery_observed || silent,
            silent,
            tombstones_applied: !self.peers.values().any(|peer| peer.awaits_tombstones(now)),
            settled: !self.peers.values().any(|peer| peer.blocks(now)),
            // One that never answered has nothing that this node was to have; with all of them silent, `silent` says so.
            excused: self.peers.values().any(|peer| peer.facts.answered && peer.excused(now)),
            cold_mesh: cold && self.discovery_observed,
        }
    }

    fn state(&self) -> TrafficState {
        match (self.draining, self.ready_latched) {
            (true, _) => TrafficState::Draining,
            (false, true) => TrafficState::Serving,
            (false, false) => TrafficState::Joining,
        }
    }

    fn completeness(&self) -> Completeness {
        match (self.state(), self.complete_latched) {
            (TrafficState::Draining, _) => Completeness::Draining,
            (TrafficState::Joining, _) => Completeness::Joining,
            (TrafficState::Serving, true) => Completeness::Complete,
            (TrafficState::Serving, false) => Completeness::Degraded,
        }
    }

    fn reasons(&self, gates: &Gates, now: Duration) -> Vec<Reason> {
        let facts = [
            (self.draining, "draining"),
            (!self.lock_held, "writer_lock_not_held"),
            (!self.store_open, "store_not_open"),
            (self.store_stalled, "store_stalled"),
            (!gates.discovery_done, "discovery_not_done"),
            (gates.silent, "no_peer_answered"),
            (gates.cold_mesh && !self.complete_latched, "cold_mesh"),
        ];
        let mut reasons: Vec<Reason> =
            facts.into_iter().filter(|(holds, _)| *holds).map(|(_, code)| Reason::own(code)).collect();
        if !self.complete_latched {
            reasons.extend(self.peers.values().filter_map(|peer| peer_reason(peer, now)));
        }
        reasons
    }

    fn known_peers(&self) -> Vec<String> {
        self.peer_urls(|peer| peer.facts.answered)
    }

    fn peer_urls(&self, keep: impl Fn(&PeerState) -> bool) -> Vec<String> {
        let mut urls: Vec<String> =
            self.peers.values().filter(|peer| keep(peer)).map(|peer| peer.facts.node_url.clone()).collect();
        urls.sort();
        urls
    }
}

/// What holds and what does not, at one moment.
#[derive(Debug, Clone, Copy)]
struct Gates {
    held: bool,
    discovery_done: bool,
    silent: bool,
    tombstones_applied: bool,
    settled: bool,
    excused: bool,
    cold_mesh: bool,
}

impl Gates {
    fn complete(self) -> bool {
        self.discovery_done && self.settled && !self.excused && !self.silent
    }

    fn ready(self) -> bool {
        self.held && self.discovery_done && self.tombstones_applied && (self.settled || self.cold_mesh)
    }
}

/// Why this peer is not settled.
fn peer_reason(peer: &PeerState, now: Duration) -> Option<Reason> {
    let url = &peer.facts.node_url;
    let why = peer.last_error.as_ref().or(peer.facts.error.as_ref());
    let why = why.map_or_else(String::new, |error| format!("({error})"));
    if peer.bootstrapped {
        None
    } else if peer.excused(now) {
        Some(Reason::of_peer("peer_excused", url, why))
    } else if !peer.facts.reachable {
        Some(Reason::of_peer("peer_unreachable", url, why))
    } else if !peer.tombstones_applied {
        Some(Reason::of_peer("tombstones_pending", url, why))
    } else {
        let total = peer.total.map_or_else(|| "?".to_owned(), |total| total.to_string());
        let detail = format!("{}/{total} {why}", peer.done);
        Some(Reason::of_peer("catching_up", url, detail.trim_end().to_owned()))
    }
}

/// The readiness of this process; cheap to clone.
#[derive(Debug, Clone)]
pub struct Readiness {
    machine: Arc<Mutex<ReadinessMachine>>,
    clock: Arc<dyn Clock>,
    circuits: Circuits,
}

impl Readiness {
    /// Of a node that just started; `sources_configured` says whether a peer list or DNS name is set.
    pub fn new(sources_configured: bool, clock: Arc<dyn Clock>) -> Self {
        let machine = ReadinessMachine::new(sources_configured, Moment::of(clock.as_ref()));
        Self { machine: Arc::new(Mutex::new(machine)), clock, circuits: Circuits::default() }
    }

    /// The circuits of this process's peers, which the probes show.
    pub fn circuits(&self) -> &Circuits {
        &self.circuits
    }

    /// Tells the machine something, with the time.
    pub fn update<R>(&self, change: impl FnOnce(&mut ReadinessMachine, Moment) -> R) -> R {
        let now = Moment::of(self.clock.as_ref());
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        let state_before = machine.state();
        let answer = change(&mut machine, now);
        machine.latch(now);
        let state = machine.state();
        if state != state_before {
            let reasons = machine.snapshot(now).reasons;
            drop(machine);
            tracing::info!(from = ?state_before, to = ?state, ?reasons, "traffic_state");
        }
        answer
    }

    /// Whether the data dir's lock is held.
    pub fn set_lock_held(&self, held: bool) {
        self.update(|machine, _| machine.set_lock_held(held));
    }

    /// Whether a store is open.
    pub fn set_store_open(&self, open: bool) {
        self.update(|machine, now| machine.set_store_open(open, now));
    }

    /// Whether a read of the store waits for its answer for too long.
    pub fn set_store_stalled(&self, stalled: bool) {
        self.update(|machine, _| machine.set_store_stalled(stalled));
    }

    /// Begins the drain; final.
    pub fn drain(&self) {
        self.update(|machine, _| machine.drain());
    }

    /// Whether no source of peers is configured.
    pub fn is_alone_by_settings(&self) -> bool {
        !self.machine.lock().unwrap_or_else(PoisonError::into_inner).sources_configured
    }

    /// Peers that may hold what is not here although nothing says so yet: their data is not settled, and they are not
    /// excused and silent. Empty, at the cost of a look at each peer, in the normal state of a node.
    pub fn unsettled_peers(&self) -> Vec<String> {
        let now = self.clock.monotonic();
        let machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        machine.unsettled_peers(now)
    }

    /// Everything the probes say, now.
    pub fn snapshot(&self) -> ReadinessSnapshot {
        let mut snapshot = self.update(ReadinessMachine::snapshot);
        snapshot.peers.iter_mut().for_each(|peer| peer.circuit = Some(self.circuits.state(&peer.url)));
        snapshot
    }
}

#[cfg(test)]
#[path = "readiness_tests.rs"]
mod tests;
