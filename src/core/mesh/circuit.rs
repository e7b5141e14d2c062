//! Whether a peer is asked for bodies now: a circuit for each peer, opened by failures, and the pauses it asks for.
//!
//! How it works: [`Circuit`] is a pure state machine. After [`FAILURES_MAX`] failures in a row it opens: nobody is sent to
//! the peer until a pause is over, which doubles with each time and of which chance leaves out up to a half. Then one
//! request goes as a probe; how it fares closes the circuit or opens it again. A peer that says it is busy rests for as
//! long as it says, which is no failure. [`Circuits`] holds one for each peer and hands out permits.
//!
//! Invariants: a success closes the circuit, from whichever request it comes. At most one probe is under way; one that
//! is dropped lets the next one go. What is refused costs the peer nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Failures in a row, of requests that may have been under way together, after which a peer is left alone: more than
/// one bad artifact or a short break of the link cause.
pub const FAILURES_MAX: u32 = 5;

/// The first and the longest pause of an open circuit.
pub const OPEN_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The longest rest that a peer's own word gives it.
pub const REST_MAX: Duration = Duration::from_secs(300);

/// How soon to ask again while a probe is under way.
const PROBE_WAIT: Duration = Duration::from_secs(1);

/// Peers remembered; a mesh is far smaller, and an address that is gone has nothing worth keeping.
const PEERS_MAX: usize = 1024;

/// How a circuit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CircuitState {
    /// The peer is asked.
    Closed,
    /// The peer is asked by one probe.
    HalfOpen,
    /// The peer is left alone.
    Open,
}

impl CircuitState {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Closed, Self::HalfOpen, Self::Open];

    /// The name in metrics and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// How a request that was let through fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fared {
    /// The peer answered, if only that it has not got it.
    Well,
    /// The exchange failed, or the peer had an error of its own.
    Badly,
    /// The peer asked to be left alone for so long.
    Busy(Duration),
    /// It says nothing of the peer.
    Nothing,
}

/// Why a request is not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The circuit is open, or half open with its probe under way.
    Open {
        /// Until it may be tried again.
        retry_in: Duration,
    },
    /// The peer asked to be left alone.
    Resting {
        /// Until its rest is over.
        retry_in: Duration,
    },
}

/// Whether a request that is let through decides over the circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// One of many.
    Usual,
    /// The only one.
    Probe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Closed,
    Open {
        until: Duration,
    },
    Probing,
}

/// The circuit of one peer; see the module's words. Times are monotonic.
#[derive(Debug, Clone, Default)]
pub struct Circuit {
    state: State,
    failures: u32,
    openings: u32,
    rest_until: Duration,
}

impl Circuit {
    /// How it stands.
    pub fn state(&self) -> CircuitState {
        match self.state {
            State::Closed => CircuitState::Closed,
            State::Open { .. } => CircuitState::Open,
            State::Probing => CircuitState::HalfOpen,
        }
    }

    /// What a request would be refused for now.
    pub fn refusal(&self, now: Duration) -> Option<Refused> {
        let is_later = |moment: Duration| Some(moment.saturating_sub(now)).filter(|left| !left.is_zero());
        match self.state {
            State::Probing => Some(Refused::Open { retry_in: PROBE_WAIT }),
            State::Open { until } => is_later(until).map(|retry_in| Refused::Open { retry_in }),
            State::Closed => is_later(self.rest_until).map(|retry_in| Refused::Resting { retry_in }),
        }
    }

    /// Lets a request through, or not.
    pub fn enter(&mut self, now: Duration) -> Result<Role, Refused> {
        match self.refusal(now) {
            Some(refused) => Err(refused),
            None => Ok(self.let_through()),
        }
    }

    fn let_through(&mut self) -> Role {
        match self.state {
            State::Open { .. } => {
                self.state = State::Probing;
                Role::Probe
            }
            State::Closed | State::Probing => Role::Usual,
        }
    }

    /// Takes note of how a request fared; `pause` draws the pause of an opening by how many came before it.
    pub fn note(&mut self, role: Role, fared: Fared, now: Duration, pause: impl FnOnce(u32) -> Duration) {
        match fared {
            Fared::Well => *self = Self { rest_until: self.rest_until, ..Self::default() },
            Fared::Busy(rest) => {
                let rest_until = self.rest_until.max(now.saturating_add(rest.min(REST_MAX)));
                *self = Self { rest_until, ..Self::default() };
            }
            Fared::Badly => {
                self.failures = self.failures.saturating_add(1);
                let opens = match self.state {
                    State::Closed => self.failures >= FAILURES_MAX,
                    State::Probing => role == Role::Probe,
                    State::Open { .. } => false,
                };
                if opens {
                    self.state = State::Open { until: now.saturating_add(pause(self.openings)) };
                    self.openings = self.openings.saturating_add(1);
                }
            }
            Fared::Nothing if role == Role::Probe && self.state == State::Probing => {
                self.state = State::Open { until: now };
            }
            Fared::Nothing => {}
        }
    }
}

/// A change of a circuit, for logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// How it stood.
    pub from: CircuitState,
    /// How it stands.
    pub to: CircuitState,
}

/// How a circuit stands, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitView {
    /// How it stands.
    pub state: CircuitState,
    /// Failures in a row.
    pub failures: u32,
    /// Until the peer may be asked again, if it is left alone now.
    pub retry_in: Option<Duration>,
}

/// The circuits of all peers; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Circuits {
    peers: Arc<Mutex<BTreeMap<String, Circuit>>>,
}

impl Circuits {
    fn peers(&self) -> MutexGuard<'_, BTreeMap<String, Circuit>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the circuit of a peer stands.
    pub fn state(&self, peer: &str) -> CircuitState {
        self.peers().get(peer).map_or(CircuitState::Closed, Circuit::state)
    }

    /// How the circuit of a peer stands, with its failures and its next try.
    pub fn view(&self, peer: &str, now: Duration) -> CircuitView {
        let circuit = self.peers().get(peer).cloned().unwrap_or_default();
        let retry_in = circuit.refusal(now).map(|refused| match refused {
            Refused::Open { retry_in } | Refused::Resting { retry_in } => retry_in,
        });
        CircuitView { state: circuit.state(), failures: circuit.failures, retry_in }
    }

    /// How many stand so.
    pub fn count(&self, state: CircuitState) -> usize {
        self.peers().values().filter(|circuit| circuit.state() == state).count()
    }

    /// What a request to a peer would be refused for now.
    pub fn refusal(&self, peer: &str, now: Duration) -> Option<Refused> {
        self.peers().get(peer).and_then(|circuit| circuit.refusal(now))
    }

    /// Lets a request through, or not.
    pub fn enter(&self, peer: &str, now: Duration) -> Result<Permit, Refused> {
        self.with(peer, |circuit| circuit.enter(now)).map(|role| self.permit(peer, role, now))
    }

    /// Lets a request through that has waited for the end of the peer's rest already.
    pub fn enter_rested(&self, peer: &str, now: Duration) -> Result<Permit, Refused> {
        let entered = self.with(peer, |circuit| match circuit.refusal(now) {
            Some(refused @ Refused::Open { .. }) => Err(refused),
            _ => Ok(circuit.let_through()),
        });
        entered.map(|role| self.permit(peer, role, now))
    }

    fn permit(&self, peer: &str, role: Role, entered: Duration) -> Permit {
        Permit { circuits: self.clone(), peer: peer.to_owned(), role, entered: Some(entered) }
    }

    fn with<R>(&self, peer: &str, change: impl FnOnce(&mut Circuit) -> R) -> R {
        let mut peers = self.peers();
        if peers.len() >= PEERS_MAX && !peers.contains_key(peer) {
            peers.clear();
        }
        change(peers.entry(peer.to_owned()).or_default())
    }
}

/// The right to send one request to a peer; says how it fared, or nothing if it is dropped.
#[derive(Debug)]
pub struct Permit {
    circuits: Circuits,
    peer: String,
    role: Role,
    /// When it was given; `None` once it has said how it fared.
    entered: Option<Duration>,
}

impl Permit {
    /// Says how the request fared; returns what that changed.
    pub fn fared(mut self, fared: Fared, now: Duration, pause: impl FnOnce(u32) -> Duration) -> Option<Transition> {
        self.entered = None;
        self.circuits.with(&self.peer, |circuit| {
            let from = circuit.state();
            circuit.note(self.role, fared, now, pause);
            let to = circuit.state();
            (from != to).then_some(Transition { from, to })
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(entered) = self.entered {
            // The pause that the probe has waited for is over already.
            self.circuits.with(&self.peer, |circuit| circuit.note(self.role, Fared::Nothing, entered, |_| PROBE_WAIT));
        }
    }
}

#[cfg(test)]
#[path = "circuit_tests.rs"]
mod tests;
