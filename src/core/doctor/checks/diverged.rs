//! Whether the nodes of the mesh hold the same, and which artifacts exactly one of them lacks.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::peers::{about, probes};
use super::staging::age;
use crate::core::base::executor::InlineExecutor;
use crate::core::doctor::check::{About, Check, CheckError, Outcome, Pulse};
use crate::core::doctor::context::{Context, Vantage};
use crate::core::doctor::finding::{Code, Evidence, Remedy, Severity};
use crate::core::doctor::sides::{Difference, Missing, Side, compare};
use crate::core::mesh::client::PeerClient;
use crate::core::mesh::holdings::FEATURE;
use crate::core::store::store_handle::StoreHandle;

/// Peers compared with one node; in a mesh whose nodes follow each other, what one lacks a few comparisons show.
const COMPARED_MAX: usize = 8;
/// How long one comparison may take: a few dozen small answers.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(15);

/// Whether the peers hold the same artifacts.
#[derive(Debug)]
pub struct PeerDiverged;

impl Check for PeerDiverged {
    fn about(&self) -> About {
        about(Code::PeerDiverged, "the nodes hold the same artifacts", Severity::Warn)
    }

    fn run(&self, context: &Context, pulse: &Pulse) -> Result<Outcome, CheckError> {
        let (one, others) = match sides(context)? {
            Ok(sides) => sides,
            Err(reason) => return Ok(Outcome::skip(reason)),
        };
        let Some(transport) = &context.world.transport else { return Ok(Outcome::skip("there is no way to peers")) };
        let tenant_id = &context.config()?.tenant_id;
        // Without a store of its own it does not count as a node that reached them.
        let client = PeerClient::new(Arc::clone(transport), StoreHandle::new(Arc::new(InlineExecutor)), tenant_id);
        let is_stopped = matches!(one, Side::Files { .. });
        let mut compared = Compared { one: one.name().to_owned(), is_stopped, ..Compared::default() };
        let now_ms = context.world.clock.now_ms();
        let (client, first) = (&client, &one);
        let comparisons = others.iter().map(|two| async move {
            let ended = tokio::time::timeout(COMPARE_TIMEOUT, compare(client, first, two, now_ms)).await;
            (two, ended.unwrap_or_else(|_| Err(format!("no end within {} s", COMPARE_TIMEOUT.as_secs()))))
        });
        pulse.beat();
        let all = futures_util::future::join_all(comparisons);
        for (two, ended) in context.world.runtime.block_on(all) {
            compared.note(two.name(), ended);
        }
        Ok(compared.judged(context, now_ms))
    }
}

/// The node to compare with, and the others: this one if there is one, else the first peer.
fn sides(context: &Context) -> Result<Result<(Side, Vec<Side>), &'static str>, CheckError> {
    let probes = match probes(context)? {
        Ok(probes) => probes,
        Err(reason) => return Ok(Err(reason)),
    };
    let tenant_id = &context.config()?.tenant_id;
    let comparable = probes.peers.iter().filter_map(|probe| {
        let answer = probe.answer.as_ref().ok()?;
        let kura = answer.kura.as_ref().filter(|_| answer.tenant_id == *tenant_id)?;
        let can = kura.store_id.is_some() && kura.features.iter().any(|feature| feature == FEATURE);
        can.then(|| Side::Node { url: probe.url.clone(), name: probe.url.clone() })
    });
    let mut others: Vec<Side> = comparable.take(COMPARED_MAX).collect();
    if others.is_empty() {
        return Ok(Err("no peer answers that can be compared"));
    }
    let one = match own_side(context)? {
        Some(own) => own,
        None => others.remove(0),
    };
    if others.is_empty() { Ok(Err("there is only one node to be seen")) } else { Ok(Ok((one, others))) }
}

fn own_side(context: &Context) -> Result<Option<Side>, CheckError> {
    if let Vantage::Live(status) = &context.vantage {
        let address = status.internal_address.as_deref().filter(|_| status.store.is_some());
        let url = address.and_then(|address| address.parse().ok()).map(own_url);
        return Ok(url.map(|url| Side::Node { url, name: format!("{} (this node)", status.node_url) }));
    }
    let tenant_id = context.config()?.tenant_id.clone();
    let files = |store: &Arc<_>| Side::Files { store: Arc::clone(store), name: "this data dir".to_owned(), tenant_id };
    Ok(context.index().ok().map(files))
}

/// Where a node on this machine answers that listens on this address.
fn own_url(address: std::net::SocketAddr) -> String {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{address}")
}

/// All comparisons with one node.
#[derive(Debug, Default)]
struct Compared {
    one: String,
    /// Whether `one` is the data dir of a node that does not run.
    is_stopped: bool,
    pairs: Vec<(String, Difference)>,
    failed: Vec<String>,
}

impl Compared {
    fn note(&mut self, two: &str, ended: Result<Difference, String>) {
        match ended {
            Ok(difference) => self.pairs.push((two.to_owned(), difference)),
            Err(error) => self.failed.push(format!("{two}: {error}")),
        }
    }

    fn judged(&self, context: &Context, now_ms: u64) -> Outcome {
        let lines: Vec<(Value, String)> = self.pairs.iter().flat_map(|pair| self.lines(pair, now_ms)).collect();
        let pairs: Vec<Value> =
            self.pairs.iter().map(|(two, difference)| summary(&self.one, two, difference)).collect();
        let failed = self.failed.len() as u64;
        let harmless: u64 = self.pairs.iter().map(|(_, difference)| difference.harmless).sum();
        let evidence =
            Evidence::new().value("pairs", pairs).value("harmless", harmless).list("failed", &self.failed, failed);
        if lines.is_empty() && failed > 0 {
            return Outcome::error(format!("{failed} peers could not be compared")).evidence(evidence);
        }
        let differing = self.pairs.iter().filter(|(_, difference)| difference.is_there()).count();
        if lines.is_empty() {
            let way = if harmless > 0 { format!("; {harmless} are on their way or evicted") } else { String::new() };
            return Outcome::ok(format!("{} nodes hold the same{way}", self.pairs.len() + 1)).evidence(evidence);
        }
        let at_least = if self.pairs.iter().all(|(_, difference)| difference.is_whole) { "" } else { "at least " };
        let total = lines.len() as u64;
        let artifact = lines.first().and_then(|(value, _)| value["artifact_id"].as_str()).unwrap_or_default();
        Outcome::warn(format!("{at_least}{total} artifacts are not on all of the nodes compared"))
            .evidence(
                evidence
                    .fact(format!("{differing} of {} pairs differ", self.pairs.len()))
                    .entries("missing", &lines, total),
            )
            .effect("reads miss where they are not, and a build does the work again; nothing that is there is lost")
            .remedy(self.remedy(context, artifact))
    }

    /// What a stopped node lacks a run fetches; running ones close it by themselves, or something is in the way.
    fn remedy(&self, context: &Context, artifact: &str) -> Remedy {
        if self.is_stopped && self.pairs.iter().any(|(_, difference)| !difference.missing_on_one.is_empty()) {
            return Remedy::text("the node fetches by itself once it runs; or fill its volume before it starts")
                .change(context.command("bootstrap", &[]));
        }
        Remedy::text(
            "each line says what its node waits for: PEER_ONE_WAY and REPLICATION_STUCK name what is in the way; a node \
             that follows its peers closes the rest by itself",
        )
        .look(context.command("doctor", &["artifact", artifact]))
    }

    fn lines(&self, (two, difference): &(String, Difference), now_ms: u64) -> Vec<(Value, String)> {
        let line = |missing: &Missing, on: &str, held_by: &str| entry(missing, on, held_by, now_ms);
        let on_one = difference.missing_on_one.iter().map(|missing| line(missing, &self.one, two));
        on_one.chain(difference.missing_on_two.iter().map(|missing| line(missing, two, &self.one))).collect()
    }
}

impl Difference {
    fn is_there(&self) -> bool {
        !self.missing_on_one.is_empty() || !self.missing_on_two.is_empty()
    }
}

fn summary(one: &str, two: &str, difference: &Difference) -> Value {
    json!({
        "one": one, "two": two, "ranges_differing": difference.ranges, "parts_differing": difference.parts,
        "missing_on_one": difference.missing_on_one.len(), "missing_on_two": difference.missing_on_two.len(),
        "harmless": difference.harmless, "whole": difference.is_whole,
    })
}

fn entry(missing: &Missing, on: &str, held_by: &str, now_ms: u64) -> (Value, String) {
    let Missing { holding, why } = missing;
    let written = age(now_ms.saturating_sub(holding.version.version_ms));
    let closes = why.as_ref().map(|why| format!(": {}", why.closes)).unwrap_or_default();
    let line = format!("{} {:?} ({written} old) is not on {on}{closes}", holding.producer, holding.key);
    let value = json!({
        "artifact_id": holding.id.to_string(), "producer": holding.producer, "namespace": holding.namespace,
        "key": holding.key, "size_bytes": holding.size, "version_ms": holding.version.version_ms,
        "missing_on": on, "held_by": held_by,
        "state": why.as_ref().map(|why| why.state.clone()), "closes": why.as_ref().map(|why| why.closes.clone()),
    });
    (value, line)
}
