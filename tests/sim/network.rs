//! The links between the nodes: their faults, a record of everything that passed, and a count of what arrived whole.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use kura::core::mesh::bulk_frames::BulkDecoder;
use kura::core::mesh::feed_frames::{Frame, FrameStatus, decode_page};
use kura::core::mesh::memory_transport::{LinkFault, MemoryTransport};
use kura::core::mesh::transport::{PeerRequest, PeerResponse, PeerTransport, TransportError};
use kura::core::mesh::wire::RECORD_HEADER;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::fuse::Fuse;
use crate::lies::{BULK, Lie, as_seed_era, path_of, told};
use crate::scenario::{Harm, NODES_MAX};

/// Exchanges shown with a failure.
const SHOWN_MAX: usize = 60;

const ARTIFACTS: &str = "/_internal/bootstrap/artifacts/";

/// What one direction of a link does.
#[derive(Debug, Default)]
struct Link {
    cut: bool,
    /// It is up and down in turns of this length.
    flaps_ms: Option<u64>,
    /// Everything but the status fails.
    sick: bool,
    delay_ms: u64,
    harm: Option<(Harm, u64)>,
}

/// A body of one version, as one life of one node received it.
type Delivery = (usize, u64, String);

#[derive(Debug)]
struct State {
    links: BTreeMap<(usize, usize), Link>,
    trace: blake3::Hasher,
    shown: VecDeque<String>,
    exchanges: u64,
    last_fault: Option<LinkFault>,
    /// Bytes of it.
    deliveries: BTreeMap<Delivery, u64>,
    /// Bytes of bodies that arrived at each node, also with the rows of feeds.
    body_bytes: BTreeMap<usize, u64>,
    /// Who was told what is not so, and by whom.
    lied_to: BTreeSet<(usize, usize)>,
}

/// All links; cheap to clone.
#[derive(Debug, Clone)]
pub struct Network {
    pub memory: MemoryTransport,
    /// Told when a node dies by itself.
    pub deaths: Arc<Notify>,
    /// The node that answers as one of the seed era does.
    seed_era: Option<usize>,
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
    pub fn new(started: Instant, seed_era: Option<usize>) -> Self {
        let state = State {
            links: BTreeMap::new(),
            trace: blake3::Hasher::new(),
            shown: VecDeque::new(),
            exchanges: 0,
            last_fault: None,
            deliveries: BTreeMap::new(),
            body_bytes: BTreeMap::new(),
            lied_to: BTreeSet::new(),
        };
        Self {
            memory: MemoryTransport::new(),
            deaths: Arc::default(),
            seed_era,
            started,
            state: Arc::new(Mutex::new(state)),
        }
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

    pub fn flap(&self, from: usize, to: usize, turn_ms: u64) {
        self.with_link(from, to, |link| link.flaps_ms = Some(turn_ms.max(1)));
    }

    /// Whether everything the others ask of this node fails, but for its status.
    pub fn set_sick(&self, node: usize, sick: bool) {
        (0..NODES_MAX).for_each(|from| self.with_link(from, node, |link| link.sick = sick));
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

    pub fn has_seed_era(&self) -> bool {
        self.seed_era.is_some()
    }

    pub fn exchanges(&self) -> u64 {
        self.state().exchanges
    }

    /// How many bytes of each body of one version arrived at each life of a node in answers that came to their end unharmed.
    pub fn deliveries(&self) -> BTreeMap<Delivery, u64> {
        self.state().deliveries.clone()
    }

    /// How many bytes of bodies arrived at a node in answers that were not changed on the way.
    pub fn body_bytes(&self, node: usize) -> u64 {
        self.state().body_bytes.get(&node).copied().unwrap_or(0)
    }

    fn arrived(&self, node: usize, bytes: u64) {
        *self.state().body_bytes.entry(node).or_default() += bytes;
    }

    /// Who was told what is not so, and by whom; a bit that changed on the way is not a lie.
    pub fn lied_to(&self) -> BTreeSet<(usize, usize)> {
        self.state().lied_to.clone()
    }

    /// The transport of one life of a node.
    pub fn transport_of(&self, node: usize, life: u64, fuse: &Arc<Fuse>) -> SimTransport {
        let links = self.memory.with_own_links();
        let network = self.clone();
        links.set_rule(Some(Arc::new(move |request| network.fault(node, request))));
        SimTransport { node, life, links, network: self.clone(), fuse: Arc::clone(fuse) }
    }

    fn fault(&self, from: usize, request: &PeerRequest) -> Option<LinkFault> {
        let to = number_of(&request.peer)?;
        let path = &request.path_and_query;
        let fault = {
            let mut state = self.state();
            state.exchanges += 1;
            let now_ms = u64::try_from(self.started.elapsed().as_millis()).expect("a scenario is short");
            let fault = state.links.get_mut(&(from, to)).and_then(|link| link.next_fault(path_of(path), now_ms));
            state.last_fault.clone_from(&fault);
            fault
        };
        self.note(&format!("{from} asks {to} {} {path} {fault:?}", request.method));
        fault
    }

    /// The lie that the next answer may tell.
    fn next_lie(&self, from: usize, to: usize, path: &str) -> Option<Lie> {
        let lie = self.state().links.get(&(from, to)).and_then(|link| link.next_lie(path))?;
        // The seed era's listings have no digest: nobody can tell that a bit of them changed.
        let undetectable = lie.is_accident() && self.seed_era == Some(to);
        (!undetectable).then_some(lie)
    }

    fn lie_was_told(&self, from: usize, to: usize, path: &str, lie: Lie) {
        let mut state = self.state();
        if let Some(link) = state.links.get_mut(&(from, to)) {
            link.harm = link.harm.and_then(|(harm, left)| (left > 1).then_some((harm, left - 1)));
        }
        if !lie.is_accident() {
            state.lied_to.insert((from, to));
        }
        drop(state);
        self.note(&format!("{to} lies to {from} about {path}: {lie:?}"));
    }
}

impl Link {
    fn next_fault(&mut self, path: &str, now_ms: u64) -> Option<LinkFault> {
        if self.cut || self.flaps_ms.is_some_and(|turn_ms| (now_ms / turn_ms) % 2 == 1) {
            return Some(LinkFault::Refuse);
        }
        if self.sick && !path.ends_with("/status") {
            return Some(LinkFault::Status(http::StatusCode::INTERNAL_SERVER_ERROR));
        }
        self.harmed(path)
            .or_else(|| (self.delay_ms > 0).then(|| LinkFault::Delay(Duration::from_millis(self.delay_ms))))
    }

    fn harmed(&mut self, path: &str) -> Option<LinkFault> {
        let (harm, left) = self.harm?;
        let is_body = path.starts_with(ARTIFACTS) || path == BULK;
        let fault = match harm {
            Harm::Lie(_) => return None,
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

    fn next_lie(&self, path: &str) -> Option<Lie> {
        let (Harm::Lie(lie), _) = self.harm? else { return None };
        let (is_feed, is_body, is_status) =
            (path.ends_with("/feed"), path.starts_with(ARTIFACTS) || path == BULK, path.ends_with("/status"));
        let fits = match lie {
            // Nearly all that is asked is the status.
            Lie::Flip(offset) => !is_status || offset % 8 == 0,
            Lie::Digit(_) => !is_feed && !is_body && !is_status,
            Lie::FlipRows(_) | Lie::FlipRiding(_) => is_feed,
            Lie::Cursor(_) => is_feed || path.ends_with("/namespace_tombstones"),
            Lie::Counts(_) => is_feed || is_status,
            Lie::Sizes(_) | Lie::Digests(_) | Lie::Body(_) => is_feed || is_body,
            Lie::Length(_) => is_body,
        };
        fits.then_some(lie)
    }
}

/// What a node reaches the others by.
#[derive(Debug)]
pub struct SimTransport {
    node: usize,
    life: u64,
    links: MemoryTransport,
    network: Network,
    fuse: Arc<Fuse>,
}

impl PeerTransport for SimTransport {
    fn send(&self, request: PeerRequest) -> BoxFuture<'static, Result<PeerResponse, TransportError>> {
        let path = path_of(&request.path_and_query).to_owned();
        let to = number_of(&request.peer).unwrap_or(0);
        let (node, network, fuse, latency) =
            (self.node, self.network.clone(), Arc::clone(&self.fuse), self.latency(to));
        let reader = (node, self.life);
        let sent = self.links.send(request);
        let is_corrupt = matches!(network.state().last_fault.take(), Some(LinkFault::CorruptByteAt(_)));
        Box::pin(async move {
            fuse.live().await;
            let response = sent.await;
            tokio::time::sleep(latency).await;
            fuse.live().await;
            let mut response = response?;
            if network.seed_era == Some(to) {
                response = as_seed_era(&path, response).await;
            }
            let mut was_told = false;
            if let Some(lie) = network.next_lie(node, to, &path) {
                (response, was_told) = told(lie, &path, response).await;
                if was_told {
                    network.lie_was_told(node, to, &path, lie);
                }
            }
            if path.starts_with(ARTIFACTS) && !was_told && !is_corrupt {
                response = counted(response, reader, network);
            } else if path == BULK && !was_told {
                response = counted_bulk(response, reader, network);
            } else if path.ends_with("/feed") && !was_told {
                response = counted_feed(response, node, network);
            }
            Ok(mortal(response, fuse))
        })
    }
}

impl SimTransport {
    /// Each direction of each link has a latency of its own. Those who wait for one change of a node are woken in an
    /// order that the runtime draws for itself; with latencies that differ, nothing comes of it.
    fn latency(&self, to: usize) -> Duration {
        Duration::from_millis(1 + u64::try_from(self.node * NODES_MAX + to).expect("a small number"))
    }
}

/// Each piece of the answer is a step of the one who reads it.
fn mortal(response: PeerResponse, fuse: Arc<Fuse>) -> PeerResponse {
    let body = response.body.then(move |chunk| {
        let fuse = Arc::clone(&fuse);
        async move {
            fuse.live().await;
            chunk
        }
    });
    PeerResponse { body: body.boxed(), ..response }
}

/// Counts the bodies of an answer that has many, each once its frame has arrived.
fn counted_bulk(response: PeerResponse, (node, life): (usize, u64), network: Network) -> PeerResponse {
    let mut decoder = BulkDecoder::new();
    let body = response.body.inspect(move |chunk| {
        let Ok(chunk) = chunk else { return };
        decoder.push(chunk);
        while let Ok(Some(item)) = decoder.next_item() {
            if matches!(item.status, FrameStatus::Ok | FrameStatus::Superseded) {
                let bytes = u64::try_from(item.body.len()).expect("a small body");
                *network.state().deliveries.entry((node, life, hex::encode(item.record))).or_default() += bytes;
                network.arrived(node, bytes);
            }
        }
    });
    PeerResponse { status: response.status, headers: response.headers, body: body.boxed() }
}

/// Counts the bodies that came with the rows of a page.
fn counted_feed(response: PeerResponse, node: usize, network: Network) -> PeerResponse {
    let mut page = Vec::new();
    let body = response.body.inspect(move |chunk| {
        page.extend_from_slice(chunk.as_ref().map_or(&[], AsRef::as_ref));
        let Ok(page) = decode_page(Bytes::copy_from_slice(&page)) else { return };
        for frame in page.rows {
            if let Frame::Row { body: Some(body), .. } = frame {
                network.arrived(node, u64::try_from(body.len()).expect("a small body"));
            }
        }
    });
    PeerResponse { status: response.status, headers: response.headers, body: body.boxed() }
}

/// Counts the bytes of an answer once it has come to its end.
fn counted(response: PeerResponse, (node, life): (usize, u64), network: Network) -> PeerResponse {
    // Of the seed era it is not known which version they are.
    let header = response.headers.get(RECORD_HEADER).and_then(|value| value.to_str().ok());
    let record = header.map(str::to_owned);
    let is_body = response.status.is_success();
    let body = futures_util::stream::unfold((response.body, Some(0)), move |(mut body, bytes)| {
        let (network, record) = (network.clone(), record.clone());
        async move {
            let Some(chunk): Option<Result<Bytes, TransportError>> = body.next().await else {
                // One that broke off is asked for again.
                if let Some(record) = record {
                    *network.state().deliveries.entry((node, life, record)).or_default() += bytes.unwrap_or(0);
                }
                network.arrived(node, bytes.filter(|_| is_body).unwrap_or(0));
                return None;
            };
            let length = chunk.as_ref().map(|chunk| u64::try_from(chunk.len()).expect("a small body"));
            let bytes = length.ok().zip(bytes).map(|(length, bytes)| length + bytes);
            Some((chunk, (body, bytes)))
        }
    });
    PeerResponse { status: response.status, headers: response.headers, body: body.boxed() }
}
