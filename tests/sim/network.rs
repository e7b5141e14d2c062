//! The links between the nodes: their faults, a record of everything that passed, and a count of what arrived whole.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use kura::core::mesh::memory_transport::{LinkFault, MemoryTransport};
use kura::core::mesh::transport::{PeerRequest, PeerResponse, PeerTransport, TransportError};
use kura::core::mesh::wire::RECORD_HEADER;
use tokio::time::Instant;

use crate::scenario::{Harm, NODES_MAX};

/// Exchanges shown with a failure.
const SHOWN_MAX: usize = 60;

const ARTIFACTS: &str = "/_internal/bootstrap/artifacts/";

/// What one direction of a link does.
#[derive(Debug, Default)]
struct Link {
    cut: bool,
    delay_ms: u64,
    harm: Option<(Harm, u64)>,
}

/// A body of one version, as one node received it.
type Delivery = (usize, String);

#[derive(Debug)]
struct State {
    links: BTreeMap<(usize, usize), Link>,
    trace: blake3::Hasher,
    shown: VecDeque<String>,
    exchanges: u64,
    deliveries: BTreeMap<Delivery, u64>,
}

/// All links; cheap to clone.
#[derive(Debug, Clone)]
pub struct Network {
    pub memory: MemoryTransport,
    started: Instant,
    state: Arc<Mutex<State>>,
}

/// The base URL of a node.
pub fn url(node: usize) -> String {
    format!("http://node-{node}:7443")
}

fn number_of(url: &str) -> Option<usize> {
    url.strip_prefix("http://node-")?.strip_suffix(":7443")?.parse().ok()
}

impl Network {
    pub fn new(started: Instant) -> Self {
        let state = State {
            links: BTreeMap::new(),
            trace: blake3::Hasher::new(),
            shown: VecDeque::new(),
            exchanges: 0,
            deliveries: BTreeMap::new(),
        };
        Self { memory: MemoryTransport::new(), started, state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_link(&self, from: usize, to: usize, change: impl FnOnce(&mut Link)) {
        change(self.state().links.entry((from, to)).or_default());
    }

    pub fn cut(&self, from: usize, to: usize) {
        self.with_link(from, to, |link| link.cut = true);
    }

    pub fn slow(&self, from: usize, to: usize, delay_ms: u64) {
        self.with_link(from, to, |link| link.delay_ms = delay_ms);
    }

    pub fn harm_next(&self, from: usize, to: usize, harm: Harm, count: u64) {
        self.with_link(from, to, |link| link.harm = Some((harm, count)));
    }

    pub fn mend(&self, one: usize, other: usize) {
        self.with_link(one, other, |link| *link = Link::default());
        self.with_link(other, one, |link| *link = Link::default());
    }

    pub fn mend_all(&self) {
        self.state().links.clear();
    }

    /// A line of the record: everything that is noted has to be the same when the seed is run again.
    pub fn note(&self, line: &str) {
        let line = format!("{:>9} {line}", self.started.elapsed().as_millis());
        let mut state = self.state();
        state.trace.update(line.as_bytes());
        if state.shown.len() == SHOWN_MAX {
            state.shown.pop_front();
        }
        state.shown.push_back(line);
    }

    /// The digest of the record so far.
    pub fn trace(&self) -> String {
        self.state().trace.finalize().to_hex().to_string()
    }

    /// The last lines of the record.
    pub fn shown(&self) -> String {
        self.state().shown.iter().map(|line| format!("{line}\n")).collect()
    }

    pub fn exchanges(&self) -> u64 {
        self.state().exchanges
    }

    /// How often each body of one version arrived whole at a node.
    pub fn deliveries(&self) -> BTreeMap<Delivery, u64> {
        self.state().deliveries.clone()
    }

    /// The transport of one node.
    pub fn transport_of(&self, node: usize) -> SimTransport {
        let links = self.memory.with_own_links();
        let network = self.clone();
        links.set_rule(Some(Arc::new(move |request| network.fault(node, request))));
        SimTransport { node, links, network: self.clone() }
    }

    fn fault(&self, from: usize, request: &PeerRequest) -> Option<LinkFault> {
        let to = number_of(&request.peer)?;
        let path = &request.path_and_query;
        let fault = {
            let mut state = self.state();
            state.exchanges += 1;
            state.links.get_mut(&(from, to)).and_then(|link| link.next_fault(path))
        };
        self.note(&format!("{from} asks {to} {} {path} {fault:?}", request.method));
        fault
    }
}

impl Link {
    fn next_fault(&mut self, path: &str) -> Option<LinkFault> {
        if self.cut {
            return Some(LinkFault::Refuse);
        }
        self.harmed(path)
            .or_else(|| (self.delay_ms > 0).then(|| LinkFault::Delay(Duration::from_millis(self.delay_ms))))
    }

    fn harmed(&mut self, path: &str) -> Option<LinkFault> {
        let (harm, left) = self.harm?;
        let is_body = path.starts_with(ARTIFACTS);
        let fault = match harm {
            Harm::Corrupt(offset) if is_body => LinkFault::CorruptByteAt(offset),
            // A status without an answer says that the peer is away; that is what cuts are for.
            _ if path.ends_with("/status") => return None,
            Harm::Corrupt(_) => return None,
            Harm::Cut(bytes) => LinkFault::CutBodyAfter(bytes),
            Harm::Stall(bytes) => LinkFault::StallBodyAfter(bytes),
            Harm::Status(404) if !is_body => return None,
            Harm::Status(status) => LinkFault::Status(http::StatusCode::from_u16(status).expect("a status")),
        };
        self.harm = (left > 1).then_some((harm, left - 1));
        Some(fault)
    }
}

/// What a node reaches the others by.
#[derive(Debug)]
pub struct SimTransport {
    node: usize,
    links: MemoryTransport,
    network: Network,
}

impl PeerTransport for SimTransport {
    fn send(&self, request: PeerRequest) -> BoxFuture<'static, Result<PeerResponse, TransportError>> {
        let is_body = request.path_and_query.starts_with(ARTIFACTS);
        let latency = self.latency(&request.peer);
        let (node, network, sent) = (self.node, self.network.clone(), self.links.send(request));
        Box::pin(async move {
            let response = sent.await;
            tokio::time::sleep(latency).await;
            let response = response?;
            Ok(if is_body { counted(response, node, network) } else { response })
        })
    }
}

impl SimTransport {
    /// Each direction of each link has a latency of its own. Those who wait for one change of a node are woken in an
    /// order that the runtime draws for itself; with latencies that differ, nothing comes of it.
    fn latency(&self, peer: &str) -> Duration {
        let to = number_of(peer).unwrap_or(0);
        Duration::from_millis(1 + u64::try_from(self.node * NODES_MAX + to).expect("a small number"))
    }
}

/// Counts the body once it has arrived whole and with its digest.
fn counted(response: PeerResponse, node: usize, network: Network) -> PeerResponse {
    let header = |name: &str| response.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (Some(record), Some(etag)) = (header(RECORD_HEADER), header("etag")) else { return response };
    let digest = etag.trim_matches('"').to_owned();
    let start = (response.body, blake3::Hasher::new());
    let body = futures_util::stream::unfold(start, move |(mut body, mut hasher)| {
        let (network, record, digest) = (network.clone(), record.clone(), digest.clone());
        async move {
            let Some(chunk): Option<Result<Bytes, TransportError>> = body.next().await else {
                if hasher.finalize().to_hex().as_str() == digest {
                    *network.state().deliveries.entry((node, record)).or_default() += 1;
                }
                return None;
            };
            if let Ok(chunk) = &chunk {
                hasher.update(chunk);
            }
            Some((chunk, (body, hasher)))
        }
    });
    PeerResponse { status: response.status, headers: response.headers, body: body.boxed() }
}
