//! The names behind which peers are: each is asked of the system's resolver once, and timed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use futures_util::StreamExt;
use url::Url;

use super::peers::{about, probes};
use crate::core::config::Config;
use crate::core::doctor::check::{About, Check, CheckError, Outcome, Pulse};
use crate::core::doctor::context::Context;
use crate::core::doctor::finding::{Code, Evidence, Remedy, Severity};
use crate::core::mesh::discovery::{Resolver, SystemResolver, host_of};

/// Names asked for; further ones are told by their peers' silence.
const NAMES_MAX: usize = 64;
/// Names asked for at the same time; each takes a thread of the resolver.
const NAMES_AT_ONCE: usize = 16;
/// A resolver in the same cluster answers in milliseconds; connecting to a peer waits five seconds in all.
const SLOW_MS: u64 = 1_000;
/// Where the system's resolver is named.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What the resolver said of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameAnswer {
    /// The name, without a port.
    pub name: String,
    /// Whether all its addresses are peers; else it is the host of one.
    pub is_discovery: bool,
    /// How long the answer took.
    pub ms: u64,
    /// The addresses, or why there is none.
    pub addresses: Result<Vec<IpAddr>, String>,
}

/// Asks for the discovery name and for the host of each configured peer that is given by a name.
pub(super) async fn resolve_all(config: &Config) -> Vec<NameAnswer> {
    let discovery = config.discovery_dns_name.iter().map(|name| (host_of(name), true));
    let hosts: BTreeSet<String> = config.peers.iter().filter_map(|url| host_name(url)).collect();
    let names: Vec<_> = discovery.chain(hosts.into_iter().map(|host| (host, false))).take(NAMES_MAX).collect();
    let asked = names.into_iter().map(|(name, is_discovery)| resolve(name, is_discovery));
    futures_util::stream::iter(asked).buffered(NAMES_AT_ONCE).collect().await
}

/// The host of a URL, unless it is an address.
fn host_name(url: &str) -> Option<String> {
    match Url::parse(url).ok()?.host()? {
        url::Host::Domain(name) => Some(name.to_owned()),
        url::Host::Ipv4(_) | url::Host::Ipv6(_) => None,
    }
}

async fn resolve(name: String, is_discovery: bool) -> NameAnswer {
    let started = Instant::now();
    let addresses = match SystemResolver.lookup(name.clone()).await {
        Ok(addresses) if addresses.is_empty() => Err("the name has no address".to_owned()),
        Ok(addresses) => Ok(addresses),
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Err("the resolver does not answer".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    NameAnswer { name, is_discovery, ms, addresses }
}

/// Whether the names of peers resolve, and soon enough.
#[derive(Debug)]
pub struct PeerDns;

impl Check for PeerDns {
    fn about(&self) -> About {
        about(Code::PeerDns, "the names of the peers resolve", Severity::Fail)
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let names = match probes(context)? {
            Ok(probes) => &probes.names,
            Err(reason) => return Ok(Outcome::skip(reason)),
        };
        if names.is_empty() {
            return Ok(Outcome::ok("every peer is given by its address"));
        }
        let resolvers = nameservers(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default());
        Ok(judged(names, &resolvers))
    }
}

fn judged(names: &[NameAnswer], resolvers: &[String]) -> Outcome {
    let dead: Vec<&NameAnswer> = names.iter().filter(|answer| answer.addresses.is_err()).collect();
    let slow: Vec<&NameAnswer> = names.iter().filter(|answer| answer.ms >= SLOW_MS).collect();
    let slowest = names.iter().map(|answer| answer.ms).max().unwrap_or(0);
    let evidence = Evidence::new()
        .value("names", names.len())
        .value("slowest_ms", slowest)
        .value("resolvers", resolvers.to_vec())
        .fact(format!("resolver {}", if resolvers.is_empty() { "unknown".to_owned() } else { resolvers.join(", ") }));
    let told = if dead.is_empty() { &slow } else { &dead };
    let Some(first) = told.first() else {
        return Outcome::ok(format!("{} names resolve, the slowest in {slowest} ms", names.len())).evidence(evidence);
    };
    let lines: Vec<String> = told.iter().map(|answer| line(answer)).collect();
    let evidence = evidence.list("answers", &lines, lines.len() as u64);
    let look = format!("getent ahosts {}", first.name);
    if dead.is_empty() {
        return Outcome::warn(format!("{} of {} names resolve slowly", slow.len(), names.len()))
            .evidence(evidence)
            .effect("a connection to a peer has five seconds in all, and the resolver takes its part of them")
            .remedy(
                Remedy::text("look at the resolver that is named, and at the search list in /etc/resolv.conf")
                    .look(look),
            );
    }
    Outcome::fail(format!("{} of {} names do not resolve", dead.len(), names.len()))
        .evidence(evidence)
        .effect("the peers behind these names are not found; those of the last run stand in while they answer")
        .remedy(
            Remedy::text(
                "correct the name; in Kubernetes it is that of a headless service whose selector meets the pods, with \
                 publishNotReadyAddresses",
            )
            .look(look),
        )
}

fn line(answer: &NameAnswer) -> String {
    let said = match &answer.addresses {
        Ok(addresses) => format!("{} addresses", addresses.len()),
        Err(error) => error.clone(),
    };
    format!("{} after {} ms: {said}", answer.name, answer.ms)
}

/// The servers in a resolver's settings.
fn nameservers(settings: &str) -> Vec<String> {
    let server = |line: &str| line.trim().strip_prefix("nameserver").map(|rest| rest.trim().to_owned());
    settings.lines().filter_map(server).filter(|server| !server.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::doctor::finding::Status;

    fn answer(name: &str, ms: u64, addresses: Result<Vec<IpAddr>, String>) -> NameAnswer {
        NameAnswer { name: name.to_owned(), is_discovery: false, ms, addresses }
    }

    #[test]
    fn names_that_resolve_at_once_are_quiet_slow_ones_warn_and_dead_ones_fail() {
        let good = || answer("a", 3, Ok(vec![IpAddr::from([10, 0, 0, 1])]));
        assert_eq!(judged(&[good()], &[]).status, Status::Ok);
        let slow = answer("b", 2_500, Ok(vec![IpAddr::from([10, 0, 0, 2])]));
        let outcome = judged(&[good(), slow.clone()], &["10.0.0.53".to_owned()]);
        assert_eq!((outcome.status, outcome.evidence.line().as_str()), (Status::Warn, "resolver 10.0.0.53"));
        assert_eq!(outcome.evidence.details(), ["b after 2500 ms: 1 addresses"]);
        let outcome = judged(&[good(), slow, answer("c", 12, Err("no such name".to_owned()))], &[]);
        assert_eq!((outcome.status, outcome.message.as_str()), (Status::Fail, "1 of 3 names do not resolve"));
        assert_eq!(outcome.evidence.details(), ["c after 12 ms: no such name"]);
    }

    #[test]
    fn the_resolver_is_read_from_its_settings_and_addresses_are_no_names() {
        let settings = "# a comment\nsearch default.svc\nnameserver 10.96.0.10\n nameserver  ::1\noptions ndots:5\n";
        assert_eq!(nameservers(settings), ["10.96.0.10", "::1"]);
        assert_eq!(host_name("http://kura-0.kura:7443").as_deref(), Some("kura-0.kura"));
        assert_eq!((host_name("http://10.0.0.1:7443"), host_name("http://[::1]:7443")), (None, None));
    }
}
