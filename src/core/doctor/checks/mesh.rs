//! The mesh as its members describe themselves: whom the sources name, which versions meet, whose data is a copy of
//! whose, and how far the clocks are apart.
//!
//! How it works: all of it is read from the answers that the checks of this category share; nobody is asked twice.

use std::collections::{BTreeMap, BTreeSet};

use super::peers::{KuraAnswer, Probe, Probes, about, probes};
use crate::core::data_dir::identity::{Identity, IdentityState};
use crate::core::data_dir::lock::{DataDirLock, LockState};
use crate::core::data_dir::run_record::RunRecord;
use crate::core::doctor::check::{About, Check, CheckError, Outcome, Pulse};
use crate::core::doctor::context::{Context, Vantage};
use crate::core::doctor::finding::{Code, Evidence, Remedy, Severity};
use crate::core::mesh::wire::{PROTOCOL_MAX, PROTOCOL_MIN};

/// Clocks further apart than this are worth a word: versions are ordered by them.
const SKEW_WARN_MS: u64 = 1_000;
/// Clocks further apart than this make the later of two writes lose in practice.
const SKEW_FAIL_MS: u64 = 30_000;

/// Whether the sources of peers name anybody.
#[derive(Debug)]
pub struct PeersNone;

impl Check for PeersNone {
    fn about(&self) -> About {
        about(Code::PeersNone, "the sources of peers name somebody", Severity::Warn)
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let config = context.config()?;
        let probes = match probes(context)? {
            Ok(probes) => probes,
            Err(reason) => return Ok(Outcome::skip(reason)),
        };
        let found = addresses(probes);
        let evidence = Evidence::new()
            .value("configured", config.peers.len())
            .value("discovery_dns_name", config.discovery_dns_name.clone())
            .value("addresses", found);
        if found > 0 {
            return Ok(Outcome::ok(format!("the sources name {found} addresses")).evidence(evidence));
        }
        let answer = match &probes.dns_error {
            Some((name, error)) => format!("{name}: {error}"),
            None => "the discovery name has no address".to_owned(),
        };
        Ok(Outcome::warn("the sources of peers name nobody")
            .evidence(evidence.value("answer", answer.clone()).fact(answer))
            .effect("the node waits a bounded time and then serves alone: nothing is replicated to or from it")
            .remedy(Remedy::text(
                "correct --discover, or name the peers with --peer; in Kubernetes look at the service",
            )))
    }
}

/// Addresses that the sources name, this node's own included.
fn addresses(probes: &Probes) -> u64 {
    (probes.peers.len() as u64).saturating_add(own_addresses(probes))
}

fn own_addresses(probes: &Probes) -> u64 {
    probes.own.saturating_add(u64::from(probes.names_itself))
}

/// Whether the sources of peers name anybody else.
#[derive(Debug)]
pub struct PeersOnlySelf;

impl Check for PeersOnlySelf {
    fn about(&self) -> About {
        about(Code::PeersOnlySelf, "the sources of peers name somebody else", Severity::Warn)
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let probes = match probes(context)? {
            Ok(probes) => probes,
            Err(reason) => return Ok(Outcome::skip(reason)),
        };
        let own = own_addresses(probes);
        let evidence = Evidence::new().value("own_addresses", own).value("other_addresses", probes.peers.len());
        if own == 0 || !probes.peers.is_empty() {
            let message = format!("the sources name {} other addresses", probes.peers.len());
            return Ok(Outcome::ok(message).evidence(evidence));
        }
        Ok(Outcome::warn("the sources of peers name only this node itself")
            .evidence(evidence.fact(format!("{own} addresses, all of them this node")))
            .effect("the node is ready and alone: nothing is replicated to or from it")
            .remedy(Remedy::text(
                "right with a single replica; otherwise name the others with --peer, or a discovery name that has the \
                 addresses of all nodes (a headless service)",
            )))
    }
}

/// Whether the nodes of the mesh speak one version.
#[derive(Debug)]
pub struct PeerVersion;

impl Check for PeerVersion {
    fn about(&self) -> About {
        about(Code::PeerVersion, "the peers speak this version of the protocol", Severity::Warn)
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let answered = match answered(context)? {
            Ok(answered) => answered,
            Err(reason) => return Ok(Outcome::skip(reason)),
        };
        let lines: Vec<String> = answered
            .iter()
            .filter_map(|(probe, kura)| Some(format!("{}: {}", probe.url, other_version(*kura)?)))
            .collect();
        let evidence = Evidence::new()
            .value("peers", answered.len())
            .value("protocol_min", PROTOCOL_MIN)
            .value("protocol_max", PROTOCOL_MAX);
        if lines.is_empty() {
            let message = format!("{} peers speak protocol {}", answered.len(), range(PROTOCOL_MIN, PROTOCOL_MAX));
            return Ok(Outcome::ok(message).evidence(evidence));
        }
        let total = lines.len() as u64;
        let fact = format!("this node speaks {}", range(PROTOCOL_MIN, PROTOCOL_MAX));
        Ok(Outcome::warn(format!("{total} of {} peers speak another version", answered.len()))
            .evidence(evidence.fact(fact).list("others", &lines, total))
            .effect(
                "with the seed era only whole listings are exchanged; versions without one in common exchange nothing",
            )
            .remedy(Remedy::text("finish the rollout, so that all nodes run one version")))
    }
}

/// How a peer's version differs from this one, if it does.
fn other_version(kura: Option<&KuraAnswer>) -> Option<String> {
    let Some(kura) = kura else { return Some("a node of the seed era".to_owned()) };
    let (min, max) = (kura.protocol.min, kura.protocol.max);
    let spoken = format!("speaks protocol {}", range(min, max));
    match (min, max) {
        (PROTOCOL_MIN, PROTOCOL_MAX) => None,
        _ if min > PROTOCOL_MAX || max < PROTOCOL_MIN => Some(format!("{spoken}, none in common")),
        _ => Some(spoken),
    }
}

fn range(min: u32, max: u32) -> String {
    if min == max { min.to_string() } else { format!("{min} to {max}") }
}

/// The peers that answered, with what kura nodes add; or why there is none.
type Answered<'a> = Vec<(&'a Probe, Option<&'a KuraAnswer>)>;

fn answered(context: &Context) -> Result<Result<Answered<'_>, &'static str>, CheckError> {
    let probes = match probes(context)? {
        Ok(probes) => probes,
        Err(reason) => return Ok(Err(reason)),
    };
    let peers = probes.peers.iter();
    let answered: Answered<'_> =
        peers.filter_map(|probe| Some((probe, probe.answer.as_ref().ok()?.kura.as_ref()))).collect();
    Ok(if answered.is_empty() { Err("no peer answered") } else { Ok(answered) })
}

/// Whether each store has one node.
#[derive(Debug)]
pub struct NodeIdDuplicate;

impl Check for NodeIdDuplicate {
    fn about(&self) -> About {
        about(Code::NodeIdDuplicate, "every node has a store of its own", Severity::Fail)
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let answered = match answered(context)? {
            Ok(answered) => answered,
            Err(reason) => return Ok(Outcome::skip(reason)),
        };
        let mut stores: BTreeMap<String, BTreeMap<Option<String>, BTreeSet<String>>> = BTreeMap::new();
        let mut note = |store_id: String, run: Option<String>, url: String| {
            stores.entry(store_id).or_default().entry(run).or_default().insert(url);
        };
        if let Some((store_id, run)) = own_store(context)? {
            note(store_id, run, format!("{} (this node)", context.config()?.node_url));
        }
        for (probe, kura) in &answered {
            if let Some(KuraAnswer { store_id: Some(store_id), instance_id, .. }) = kura {
                note(store_id.clone(), Some(instance_id.clone()), probe.url.clone());
            }
        }
        // One process behind several addresses is one node; a store with two processes is not.
        let shared: Vec<String> = stores
            .iter()
            .filter(|(_, runs)| runs.len() > 1)
            .map(|(store_id, runs)| {
                format!("{store_id}: {}", runs.values().flatten().cloned().collect::<Vec<_>>().join(", "))
            })
            .collect();
        Ok(one_store_each(context, stores.len(), &shared))
    }
}

fn one_store_each(context: &Context, stores: usize, shared: &[String]) -> Outcome {
    let evidence = Evidence::new().value("stores", stores);
    if shared.is_empty() {
        return Outcome::ok(format!("{stores} stores, each at one node")).evidence(evidence);
    }
    Outcome::fail("nodes share one store identity: a volume was copied")
        .evidence(evidence.list("shared", shared, shared.len() as u64))
        .effect("peers take the two for one node and skip what only one of them has; neither follows the other")
        .remedy(
            Remedy::text("stop the node on the copied volume and give it an identity of its own, on that node")
                .change(context.command("bootstrap", &["--new-identity"])),
        )
}

/// This node's store and, if it runs, the run of its process.
fn own_store(context: &Context) -> Result<Option<(String, Option<String>)>, CheckError> {
    if let Vantage::Live(status) = &context.vantage {
        return Ok(status.store.as_ref().map(|store| (store.store_id.clone(), Some(status.instance_id.clone()))));
    }
    let layout = context.layout()?;
    let Ok(IdentityState::Ok(identity)) = Identity::load(layout) else { return Ok(None) };
    let is_held = matches!(DataDirLock::probe(layout), Ok(LockState::Held(_)));
    let record = if is_held { RunRecord::load(layout).ok().flatten() } else { None };
    Ok(Some((identity.store_id.to_string(), record.map(|record| record.instance_id.to_string()))))
}

/// Whether the clocks agree.
#[derive(Debug)]
pub struct ClockSkew;

impl Check for ClockSkew {
    fn about(&self) -> About {
        about(Code::ClockSkew, "the clocks of the peers agree with this one", Severity::Fail)
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let answered = match answered(context)? {
            Ok(answered) => answered,
            Err(reason) => return Ok(Outcome::skip(reason)),
        };
        let offsets: Vec<Offset> = answered.iter().filter_map(|(probe, kura)| Offset::of(probe, (*kura)?)).collect();
        let worst = offsets.iter().map(Offset::certain_ms).max().unwrap_or(0);
        let evidence = Evidence::new().value("peers", offsets.len()).value("certain_ms_max", worst);
        if worst < SKEW_WARN_MS {
            return Ok(Outcome::ok(format!("{} clocks agree with this one", offsets.len())).evidence(evidence));
        }
        let apart: Vec<String> =
            offsets.iter().filter(|offset| offset.certain_ms() >= SKEW_WARN_MS).map(Offset::line).collect();
        let total = apart.len() as u64;
        let mut evidence = evidence.list("apart", &apart, total);
        if apart.len() == offsets.len() && total > 1 {
            evidence = evidence.fact("all of them differ: it is this machine's clock that is most likely wrong");
        }
        let message = format!("the clocks of {total} of {} peers differ", offsets.len());
        let outcome = if worst >= SKEW_FAIL_MS { Outcome::fail(message) } else { Outcome::warn(message) };
        Ok(outcome
            .evidence(evidence)
            .effect("the node whose clock is ahead wins writes of the same key; ages and expiries are wrong by as much")
            .remedy(
                Remedy::text("set the clocks by NTP on the machines that are named")
                    .look("timedatectl timesync-status"),
            ))
    }
}

/// How far a peer's clock is ahead of this one, as far as it tells.
pub(in crate::core::doctor) fn clock_offset(probe: &Probe, kura: &KuraAnswer) -> Option<i64> {
    Offset::of(probe, kura).map(|offset| offset.ms)
}

/// How far a peer's clock is from this one.
#[derive(Debug, Clone, Copy)]
struct Offset<'a> {
    url: &'a str,
    /// Positive if the peer is ahead.
    ms: i64,
    round_trip_ms: u64,
}

impl<'a> Offset<'a> {
    fn of(probe: &'a Probe, kura: &KuraAnswer) -> Option<Self> {
        if kura.now_ms == 0 {
            return None;
        }
        let middle = i64::try_from(probe.asked_at_ms.saturating_add(probe.ms / 2)).ok()?;
        let ms = i64::try_from(kura.now_ms).ok()?.checked_sub(middle)?;
        Some(Self { url: &probe.url, ms, round_trip_ms: probe.ms })
    }

    /// What the round trip cannot explain: the answer was made at any instant of it.
    fn certain_ms(&self) -> u64 {
        self.ms.unsigned_abs().saturating_sub(self.round_trip_ms.div_ceil(2))
    }

    fn line(&self) -> String {
        let direction = if self.ms > 0 { "ahead" } else { "behind" };
        format!("{}: {} ms {direction}, round trip {} ms", self.url, self.ms.unsigned_abs(), self.round_trip_ms)
    }
}

#[cfg(test)]
#[path = "mesh_tests.rs"]
mod tests;
