//! The other nodes: each is asked for its status once, and the answers are kept for all checks of this category.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Method, StatusCode};

use super::peer_names::{NameAnswer, resolve_all};
use crate::core::base::clock::Clock;
use crate::core::base::limits::PEER_CONNECT_TIMEOUT;
use crate::core::config::Config;
use crate::core::doctor::check::{About, Category, Check, CheckError, Outcome, Pulse, Reach};
use crate::core::doctor::context::{Context, Vantage};
use crate::core::doctor::finding::{Code, Evidence, Remedy, Severity};
use crate::core::mesh::discovery::{FixedResolver, PeerSources, discover_for_run, same_url};
use crate::core::mesh::transport::{PeerRequest, PeerTransport, TransportError, TransportPhase};

/// How long a peer may take for its status. It answers from memory; a peer that needs longer is in trouble.
const STATUS_TIMEOUT: Duration = Duration::from_secs(10);
/// Above all the timeouts of one exchange, so that the check tells which peer it was.
pub(super) const CHECK_LIMIT: Duration = Duration::from_secs(40);
/// Peers asked; a mesh is tens of nodes.
const PEERS_MAX: usize = 512;
/// Peers asked at the same time.
const PEERS_AT_ONCE: usize = 32;
/// A status is below a kilobyte.
const STATUS_BYTES_MAX: usize = 1 << 20;
/// Seed-era and kura nodes alike answer here.
const STATUS_PATH: &str = "/_internal/status";

/// What asking all peers brought.
#[derive(Debug)]
pub struct Probes {
    /// One entry for each address that is not this node.
    pub peers: Vec<Probe>,
    /// Addresses that turned out to be this node.
    pub own: u64,
    /// Whether this node's own URL is among those that the sources name; it is not asked.
    pub names_itself: bool,
    /// The DNS name could not be resolved: name and error.
    pub dns_error: Option<(String, String)>,
    /// What the resolver said of each name that stands for a peer.
    pub names: Vec<NameAnswer>,
}

/// One peer's answer.
#[derive(Debug)]
pub struct Probe {
    /// Its base URL.
    pub url: String,
    /// When it was asked by this machine's clock, Unix milliseconds.
    pub asked_at_ms: u64,
    /// How long the exchange took.
    pub ms: u64,
    /// What it said, or where it went wrong.
    pub answer: Result<PeerAnswer, Trouble>,
}

/// What a peer says of itself.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default)]
pub struct PeerAnswer {
    /// Its name in the mesh.
    pub node_url: String,
    /// Its tenant.
    pub tenant_id: String,
    /// Its region.
    pub region: String,
    /// What only kura says; absent from nodes of the seed era.
    pub kura: Option<KuraAnswer>,
}

/// What a kura node adds to its status.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default)]
pub struct KuraAnswer {
    /// The name of its data, once the store is open.
    pub store_id: Option<String>,
    /// This run of its process.
    pub instance_id: String,
    /// Versions of the protocol it understands.
    pub protocol: ProtocolAnswer,
    /// Its clock, Unix milliseconds.
    pub now_ms: u64,
    /// The version of its binary; empty from a node that does not tell.
    pub version: String,
    /// What it can do beyond the base protocol.
    pub features: Vec<String>,
    /// joining, serving, draining.
    pub state: String,
    /// Whether it has everything its peers had when it joined.
    pub complete: bool,
    /// Live artifacts.
    pub artifacts: u64,
    /// Bytes of their bodies.
    pub body_bytes: u64,
    /// Stores whose requests reached it within the last minute.
    pub seen_inbound: Vec<String>,
}

/// The versions a node understands, both included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct ProtocolAnswer {
    /// Oldest.
    pub min: u32,
    /// Newest.
    pub max: u32,
}

/// Where an exchange with a peer went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// dns, connect, tls, response, body, http.
    pub phase: &'static str,
    /// What went wrong.
    pub message: String,
}

impl From<TransportError> for Trouble {
    fn from(error: TransportError) -> Self {
        let phase = match error.phase {
            TransportPhase::Dns => "dns",
            TransportPhase::Connect => "connect",
            TransportPhase::Tls => "tls",
            TransportPhase::Response => "response",
            TransportPhase::Body => "body",
        };
        Self { phase, message: error.message }
    }
}

/// Whether peers answer.
#[derive(Debug)]
pub struct PeerUnreachable;

impl Check for PeerUnreachable {
    fn about(&self) -> About {
        about(Code::PeerUnreachable, "the peers answer", Severity::Fail)
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        Ok(probes(context)?.map_or_else(Outcome::skip, judged))
    }
}

/// What is fixed about the checks that ask peers.
pub(super) fn about(code: Code, title: &'static str, severity: Severity) -> About {
    let (category, reach, limit) = (Category::Peers, Reach::Network, CHECK_LIMIT);
    About { code, category, title, reach, severity, fatal: false, needs: &[Code::ConfigInvalid], limit }
}

/// The answers of all peers, asked for once; or why nobody is asked.
pub(super) fn probes(context: &Context) -> Result<Result<&Probes, &'static str>, CheckError> {
    let config = sources(context)?;
    if config.peers.is_empty() && config.discovery_dns_name.is_none() {
        return Ok(Err("no peers are configured"));
    }
    let Some(transport) = &context.world.transport else { return Ok(Err("there is no way to peers")) };
    let (runtime, clock) = (&context.world.runtime, context.world.clock.as_ref());
    Ok(Ok(context.peers.get_or_init(|| runtime.block_on(ask_all(&config, transport, clock)))))
}

/// The settings, with the peers of the running node where this shell names none: its settings may not be the node's.
fn sources(context: &Context) -> Result<Cow<'_, Config>, CheckError> {
    let config = context.config()?.as_ref();
    match &context.vantage {
        Vantage::Live(status) if config.peers.is_empty() && config.discovery_dns_name.is_none() => {
            let peers = status.readiness.peers.iter().map(|peer| peer.url.clone()).collect();
            Ok(Cow::Owned(Config { peers, node_url: status.node_url.clone(), ..config.clone() }))
        }
        _ => Ok(Cow::Borrowed(config)),
    }
}

/// Asks one peer again; `None` if it does not answer now.
pub(super) fn ask_again(context: &Context, url: &str) -> Option<PeerAnswer> {
    let transport = context.world.transport.as_ref()?;
    let asked = probe(transport, context.world.clock.as_ref(), url.to_owned());
    context.world.runtime.block_on(asked).answer.ok()
}

fn judged(probes: &Probes) -> Outcome {
    let silent: Vec<String> = probes.peers.iter().filter_map(silent_line).collect();
    let answering = probes.peers.iter().filter(|probe| probe.answer.is_ok()).count();
    let total = answering + silent.len();
    let slowest = probes.peers.iter().map(|probe| probe.ms).max().unwrap_or(0);
    let evidence = Evidence::new()
        .value("peers", total)
        .value("answering", answering)
        .value("own_addresses", probes.own)
        .value("slowest_ms", slowest);
    if total == 0 && probes.dns_error.is_some() {
        return Outcome::skip("no address is known: the discovery name does not resolve");
    }
    if total == 0 {
        return Outcome::ok("every configured address is this node itself").evidence(evidence);
    }
    if silent.is_empty() {
        return Outcome::ok(format!("{answering} of {total} peers answer, the slowest in {slowest} ms"))
            .evidence(evidence);
    }
    let message = format!("{} of {total} peers do not answer", silent.len());
    let (outcome, effect) = if answering == 0 {
        (Outcome::fail(message), "this node gets nothing from the mesh and the mesh nothing from it")
    } else {
        (Outcome::warn(message), "what only they hold is missing here until they answer")
    };
    outcome.evidence(evidence.list("unreachable", &silent, silent.len() as u64)).effect(effect).remedy(remedy(probes))
}

fn silent_line(probe: &Probe) -> Option<String> {
    let trouble = probe.answer.as_ref().err()?;
    Some(format!("{}: {} failed after {} ms: {}", probe.url, trouble.phase, probe.ms, trouble.message))
}

fn remedy(probes: &Probes) -> Remedy {
    let first = probes.peers.iter().find_map(|probe| Some((&probe.url, probe.answer.as_ref().err()?)));
    match first {
        Some((url, trouble)) => {
            let text = match trouble.phase {
                "dns" => "the name does not resolve: check the headless service and its selector",
                "connect" => {
                    "nothing takes the connection: is the peer up, is the port the internal one, does a \
                              network policy stop it"
                }
                "http" => "something else answers there: the internal port is wanted, not the public one",
                _ => "the peer took the connection and does not answer: run its own doctor",
            };
            Remedy::text(text).look(format!("curl -sv --max-time 10 {url}{STATUS_PATH}"))
        }
        None => Remedy::text("check the list of peers"),
    }
}

pub(in crate::core::doctor) fn base_url(url: &str) -> String {
    url.trim().trim_end_matches('/').to_owned()
}

/// The addresses that the sources name, and what the resolver said of the names among them.
pub(in crate::core::doctor) async fn discover(config: &Config) -> (Vec<String>, Vec<NameAnswer>) {
    let names = resolve_all(config).await;
    let sources = PeerSources {
        own_url: config.node_url.clone(),
        peers: config.peers.clone(),
        dns_name: config.discovery_dns_name.clone(),
    };
    let answers = names.iter().filter_map(|answer| Some((answer.name.clone(), answer.addresses.clone().ok()?)));
    let targets = discover_for_run(&sources, &FixedResolver { answers: answers.collect() }).await;
    (targets.urls, names)
}

async fn ask_all(config: &Config, transport: &Arc<dyn PeerTransport>, clock: &dyn Clock) -> Probes {
    let (urls, names) = discover(config).await;
    let own = &config.node_url;
    let urls: BTreeSet<String> = urls.into_iter().take(PEERS_MAX).collect();
    let before = urls.len();
    let others: Vec<String> = urls.into_iter().filter(|url| !same_url(url, own)).collect();
    let names_itself = others.len() < before;
    let asked = futures_util::stream::iter(others).map(|url| probe(transport, clock, url));
    let mut peers: Vec<Probe> = asked.buffer_unordered(PEERS_AT_ONCE).collect().await;
    let before = peers.len();
    peers.retain(|probe| !probe.answer.as_ref().is_ok_and(|answer| same_url(&answer.node_url, own)));
    peers.sort_by(|one, two| one.url.cmp(&two.url));
    let dns_error = names.iter().find(|answer| answer.is_discovery).and_then(|answer| {
        let error = answer.addresses.as_ref().err()?;
        Some((answer.name.clone(), error.clone()))
    });
    Probes { own: (before - peers.len()) as u64, names_itself, peers, dns_error, names }
}

async fn probe(transport: &Arc<dyn PeerTransport>, clock: &dyn Clock, url: String) -> Probe {
    let (asked_at_ms, started) = (clock.now_ms(), Instant::now());
    let limit = PEER_CONNECT_TIMEOUT + STATUS_TIMEOUT;
    let answer = match tokio::time::timeout(limit, ask(transport, &url)).await {
        Ok(answer) => answer,
        Err(_) => Err(Trouble { phase: "response", message: format!("no answer within {} s", limit.as_secs()) }),
    };
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Probe { url, asked_at_ms, ms, answer }
}

async fn ask(transport: &Arc<dyn PeerTransport>, url: &str) -> Result<PeerAnswer, Trouble> {
    let request = PeerRequest {
        method: Method::GET,
        peer: url.to_owned(),
        path_and_query: STATUS_PATH.to_owned(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        head_timeout: STATUS_TIMEOUT,
    };
    let mut response = transport.send(request).await?;
    if response.status != StatusCode::OK {
        return Err(Trouble { phase: "http", message: format!("{STATUS_PATH} answered {}", response.status) });
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.body.next().await {
        body.extend_from_slice(&chunk?);
        if body.len() > STATUS_BYTES_MAX {
            return Err(Trouble { phase: "http", message: "the status is far too long".to_owned() });
        }
    }
    let decoded: Result<PeerAnswer, _> = serde_json::from_slice(&body);
    decoded
        .ok()
        .filter(|answer| !answer.node_url.is_empty())
        .ok_or_else(|| Trouble { phase: "http", message: format!("{STATUS_PATH} is not the status of a node") })
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
