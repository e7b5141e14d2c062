//! Who reaches whom: each node says whose requests reached it within the last minute.
//!
//! How it works: a kura node asks its peers every two seconds and signs with its store, so a store that a node has not
//! seen for a minute does not reach it. This node's own list comes from its control socket. A direction that looks
//! closed is looked at again for a while, because a node that has just started has not been seen yet.

use std::time::Duration;

use super::peers::{KuraAnswer, about, ask_again, probes};
use crate::core::doctor::check::{About, Check, CheckError, Outcome, Pulse};
use crate::core::doctor::context::{Context, Vantage};
use crate::core::doctor::finding::{Code, Evidence, Remedy, Severity};
use crate::core::doctor::live::{self, ControlStatus};

/// How long a direction that looks closed is looked at: two rounds of membership with their jitter.
const LOOKED_AT: Duration = Duration::from_secs(6);

/// Between two looks, which are at most so many: beside a node that has just started, what is open shows within a round.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const LOOKS_MAX: u32 = 6;

/// A round of membership that waits for a silent peer takes about so long.
const JUST_NOW_MS: u64 = 15_000;

/// One node as far as it can be asked who reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::core::doctor) struct Listener {
    /// Where it is reached.
    pub(in crate::core::doctor) url: String,
    /// Its store.
    pub(in crate::core::doctor) store_id: String,
    /// Stores whose requests reached it; `None` if it cannot be asked.
    pub(in crate::core::doctor) heard: Option<Vec<String>>,
    /// Of them, those that did just now.
    pub(in crate::core::doctor) heard_now: Vec<String>,
    /// Its tenant: nodes of different ones do not speak to each other.
    pub(in crate::core::doctor) tenant_id: String,
    /// Whether it is this node.
    pub(in crate::core::doctor) is_own: bool,
}

/// Whether one node's requests reach another; `None` if nobody can tell.
pub(in crate::core::doctor) fn reaches(from: &Listener, to: &Listener) -> Option<bool> {
    // Of a node that does not answer, what was heard a while ago may be from before its end.
    let heard = if from.heard.is_none() && to.is_own { Some(&to.heard_now) } else { to.heard.as_ref() };
    heard.map(|heard| heard.contains(&from.store_id))
}

/// All nodes whose store is known: this one if it runs, peers that answer, and peers that this node met before.
pub(in crate::core::doctor) fn listeners(context: &Context) -> Result<Result<Vec<Listener>, &'static str>, CheckError> {
    let probes = match probes(context)? {
        Ok(probes) => probes,
        Err(reason) => return Ok(Err(reason)),
    };
    let own = match &context.vantage {
        Vantage::Live(status) => Some(status.as_ref()),
        Vantage::Offline(_) => None,
    };
    let tenant_id = &context.config()?.tenant_id;
    let mut found: Vec<Listener> = own.and_then(|status| own_listener(status, tenant_id)).into_iter().collect();
    let mut nameless = Vec::new();
    for probe in &probes.peers {
        let listener = match &probe.answer {
            Ok(answer) => answer.kura.as_ref().and_then(|kura| answering(&probe.url, &answer.tenant_id, kura)),
            Err(_) => own.and_then(|status| silent(&probe.url, tenant_id, status)),
        };
        if listener.is_none() && probe.answer.is_err() {
            nameless.push(probe.url.as_str());
        }
        // One node behind two addresses is one.
        found.extend(listener.filter(|one| found.iter().all(|other| other.store_id != one.store_id)));
    }
    found.extend(strangers(&found, &nameless, tenant_id));
    Ok(Ok(found))
}

/// Peers that never answered this node while as many stores that it does not know reach it: they are those.
fn strangers(found: &[Listener], nameless: &[&str], tenant_id: &str) -> Vec<Listener> {
    let heard = found.iter().filter(|listener| listener.is_own).flat_map(|own| &own.heard_now);
    let unknown: Vec<&String> = heard.filter(|store| found.iter().all(|one| one.store_id != **store)).collect();
    if unknown.len() < nameless.len() {
        return Vec::new();
    }
    let pairs = nameless.iter().zip(unknown);
    let stranger = |(url, store_id): (&&str, &String)| Listener {
        url: (*url).to_owned(),
        store_id: store_id.clone(),
        heard: None,
        heard_now: Vec::new(),
        tenant_id: tenant_id.to_owned(),
        is_own: false,
    };
    pairs.map(stranger).collect()
}

fn own_listener(status: &ControlStatus, tenant_id: &str) -> Option<Listener> {
    let heard = |within_ms: u64| {
        let lately = status.seen_inbound.iter().flatten().filter(|one| one.age_ms <= within_ms);
        lately.map(|one| one.store_id.clone()).collect::<Vec<_>>()
    };
    Some(Listener {
        url: status.node_url.clone(),
        store_id: status.store.as_ref()?.store_id.clone(),
        heard: status.seen_inbound.as_ref().map(|_| heard(u64::MAX)),
        heard_now: heard(JUST_NOW_MS),
        tenant_id: tenant_id.to_owned(),
        is_own: true,
    })
}

fn answering(url: &str, tenant_id: &str, kura: &KuraAnswer) -> Option<Listener> {
    Some(Listener {
        url: url.to_owned(),
        store_id: kura.store_id.clone()?,
        heard: Some(kura.seen_inbound.clone()),
        heard_now: Vec::new(),
        tenant_id: tenant_id.to_owned(),
        is_own: false,
    })
}

/// A peer that does not answer us may reach us nevertheless; the running node remembers its store.
fn silent(url: &str, tenant_id: &str, own: &ControlStatus) -> Option<Listener> {
    let peer = own.readiness.peers.iter().find(|peer| peer.url == url || peer.node_url == url)?;
    Some(Listener {
        url: url.to_owned(),
        store_id: peer.store_id.clone()?,
        heard: None,
        heard_now: Vec::new(),
        tenant_id: tenant_id.to_owned(),
        is_own: false,
    })
}

/// Whether nodes that are reached reach back.
#[derive(Debug)]
pub struct PeerOneWay;

impl Check for PeerOneWay {
    fn about(&self) -> About {
        let about = about(Code::PeerOneWay, "whom a node reaches reaches it, too", Severity::Warn);
        About { limit: about.limit + LOOKED_AT, ..about }
    }

    fn run(&self, context: &Context, pulse: &Pulse) -> Result<Outcome, CheckError> {
        let mut listeners = match listeners(context)? {
            Ok(listeners) => listeners,
            Err(reason) => return Ok(Outcome::skip(reason)),
        };
        if listeners.len() < 2 {
            return Ok(Outcome::skip("there are no two kura nodes whose store is known"));
        }
        let (clock, mut looks) = (&context.world.clock, 0);
        let until = clock.monotonic() + LOOKED_AT;
        while looks < LOOKS_MAX && clock.monotonic() < until && !closed(&listeners).is_empty() {
            std::thread::sleep(LOOK_INTERVAL);
            pulse.beat();
            look_again(context, &mut listeners)?;
            looks += 1;
        }
        Ok(judged(&listeners))
    }
}

/// Asks everybody anew who reaches them; who does not answer now keeps what was said before.
fn look_again(context: &Context, listeners: &mut [Listener]) -> Result<(), CheckError> {
    for listener in listeners {
        if listener.is_own {
            let status = live::ask(&context.layout()?.control_socket()).ok();
            if let Some(now) = status.and_then(|status| own_listener(&status, &listener.tenant_id)) {
                *listener = now;
            }
            continue;
        }
        let heard = if listener.heard.is_some() {
            ask_again(context, &listener.url).and_then(|answer| Some(answer.kura?.seen_inbound))
        } else {
            None
        };
        listener.heard = heard.or(listener.heard.take());
    }
    Ok(())
}

/// A direction in which no request comes through, although both nodes are there.
#[derive(Debug)]
struct Closed<'a> {
    from: &'a Listener,
    to: &'a Listener,
    /// Whether the other direction is open.
    back: bool,
}

fn closed(listeners: &[Listener]) -> Vec<Closed<'_>> {
    let mut found = Vec::new();
    for from in listeners {
        for to in listeners {
            let is_pair = from.store_id != to.store_id && from.tenant_id == to.tenant_id;
            let back = reaches(to, from);
            // A peer that answers nobody is told as unreachable; here it counts once it is heard.
            let is_closed = match (reaches(from, to), back) {
                (Some(false), Some(_)) => true,
                (None, Some(true)) => from.is_own,
                _ => false,
            };
            if is_pair && is_closed {
                found.push(Closed { from, to, back: back == Some(true) });
            }
        }
    }
    found
}

fn judged(listeners: &[Listener]) -> Outcome {
    let closed = closed(listeners);
    let directions = listeners.len() * (listeners.len() - 1);
    let evidence = Evidence::new().value("nodes", listeners.len()).value("directions", directions);
    if closed.is_empty() {
        return Outcome::ok(format!("{} nodes reach each other", listeners.len())).evidence(evidence);
    }
    let lines: Vec<String> = closed.iter().map(line).collect();
    let one_way = closed.iter().filter(|closed| closed.back).count();
    let first = closed.first().map(|closed| (closed.from.url.clone(), closed.to.url.clone())).unwrap_or_default();
    Outcome::warn(format!("{} of {directions} directions are closed", closed.len()))
        .evidence(evidence.value("one_way", one_way).list("closed", &lines, lines.len() as u64))
        .effect("a node fetches by itself: what only the far end of a closed direction has comes by way of others or not at all")
        .remedy(
            Remedy::text(format!(
                "on {}: is {} among its peers, does its URL lead there, does a firewall or network policy drop it",
                first.0, first.1
            ))
            .look(format!("curl -sS --max-time 10 {}/_internal/status", first.1)),
        )
}

fn line(closed: &Closed<'_>) -> String {
    let name = |listener: &Listener| match listener.is_own {
        true => format!("{} (this node)", listener.url),
        false => listener.url.clone(),
    };
    let back = if closed.back { "; the other way is open" } else { "; nor the other way" };
    format!("{} does not reach {}{back}", name(closed.from), name(closed.to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::doctor::finding::Status;

    fn listener(name: &str, heard: Option<&[&str]>, is_own: bool) -> Listener {
        let heard = heard.map(|heard| heard.iter().map(|store| (*store).to_owned()).collect());
        Listener {
            url: format!("http://{name}:7443"),
            store_id: name.to_owned(),
            heard_now: heard.clone().unwrap_or_default(),
            heard,
            tenant_id: "default".to_owned(),
            is_own,
        }
    }

    #[test]
    fn nodes_that_hear_each_other_are_quiet() {
        let both = [listener("a", Some(&["b"]), true), listener("b", Some(&["a", "x"]), false)];
        assert_eq!(judged(&both).status, Status::Ok);
        let mut strangers = [listener("a", Some(&[]), true), listener("b", Some(&[]), false)];
        strangers[1].tenant_id = "other".to_owned();
        assert_eq!(judged(&strangers).status, Status::Ok, "tenants do not speak to each other");
    }

    #[test]
    fn a_direction_in_which_nothing_comes_is_named_from_either_end() {
        let nodes = [
            listener("a", Some(&["b", "c"]), true),
            listener("b", Some(&["a", "c"]), false),
            listener("c", Some(&["b"]), false),
        ];
        let outcome = judged(&nodes);
        assert_eq!((outcome.status, outcome.message.as_str()), (Status::Warn, "1 of 6 directions are closed"));
        let told = "http://a:7443 (this node) does not reach http://c:7443; the other way is open";
        assert_eq!(outcome.evidence.details(), [told]);
        assert!(outcome.remedy.unwrap().text.starts_with("on http://a:7443: is http://c:7443 among"));
    }

    #[test]
    fn a_peer_that_reaches_us_and_does_not_answer_us_is_one_way_and_one_that_is_dead_is_not() {
        let heard = [listener("a", Some(&["b"]), true), listener("b", None, false)];
        assert_eq!(judged(&heard).evidence.values()["one_way"], 1);
        let own = [listener("a", Some(&["x"]), true)];
        let met = strangers(&own, &["http://b:7443"], "default");
        assert_eq!(
            met.iter().map(|one| (one.url.as_str(), one.store_id.as_str())).collect::<Vec<_>>(),
            [("http://b:7443", "x")]
        );
        assert_eq!(
            strangers(&own, &["http://b:7443", "http://c:7443"], "default"),
            [],
            "which of them it is nobody knows"
        );
        let dead = [listener("a", Some(&[]), true), listener("b", None, false)];
        assert_eq!(judged(&dead).status, Status::Ok, "that it is unreachable is the other finding");
    }
}
