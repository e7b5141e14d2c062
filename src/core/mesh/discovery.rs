//! Which addresses to ask: the configured list, what a DNS name resolves to, and the peers of last time.
//!
//! How it works: each round [`discover`] resolves the DNS name and returns base URLs in a fixed order, configured ones
//! first. Peers remembered from an earlier run stand in until the DNS name has answered once.
//!
//! Invariant: the node's own URL is never among them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use futures_util::future::BoxFuture;
use url::Url;

/// Most addresses asked in one round; more are a misconfigured name.
pub const TARGETS_MAX: usize = 256;

/// Longest wait for a DNS answer; the resolver's own retries are inside it.
const DNS_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// Resolves names.
pub trait Resolver: Send + Sync + std::fmt::Debug {
    /// All addresses of a name.
    fn lookup(&self, name: String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>>;
}

/// The system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn lookup(&self, name: String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let found = tokio::time::timeout(DNS_TIMEOUT, tokio::net::lookup_host((name, 0))).await;
            let addresses = found.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
            Ok(addresses.map(|address| address.ip()).collect())
        })
    }
}

/// Names and addresses fixed at will.
#[derive(Debug, Clone, Default)]
pub struct FixedResolver {
    /// The answers; a name without one is an error.
    pub answers: std::collections::HashMap<String, Vec<IpAddr>>,
}

impl Resolver for FixedResolver {
    fn lookup(&self, name: String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> {
        let answer = self.answers.get(&name).cloned();
        Box::pin(std::future::ready(answer.ok_or_else(|| std::io::ErrorKind::NotFound.into())))
    }
}

/// Where peers come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSources {
    /// The URL this node gives itself.
    pub own_url: String,
    /// Configured base URLs.
    pub peers: Vec<String>,
    /// A name whose addresses are peers.
    pub dns_name: Option<String>,
}

impl PeerSources {
    /// Whether there is any source at all.
    pub fn configured(&self) -> bool {
        self.dns_name.is_some() || self.peers.iter().any(|peer| !same_url(peer, &self.own_url))
    }
}

/// What a round found to ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Targets {
    /// Base URLs without a trailing slash; never this node's own.
    pub urls: Vec<String>,
    /// Whether the DNS name answered; true without one.
    pub dns_answered: bool,
    /// Why not.
    pub dns_error: Option<String>,
    /// Whether a source named this node itself.
    pub named_self: bool,
}

/// One form for each URL: lower-case scheme and host, explicit port, no trailing slash. `None` if it is no base URL.
pub fn normalize_url(text: &str) -> Option<String> {
    let url = Url::parse(text.trim()).ok()?;
    let host = url.host_str()?;
    let port = url.port_or_known_default()?;
    matches!(url.scheme(), "http" | "https").then(|| format!("{}://{host}:{port}", url.scheme()))
}

/// Whether two URLs name the same place.
pub fn same_url(one: &str, other: &str) -> bool {
    match (normalize_url(one), normalize_url(other)) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

/// Finds whom to ask in a run of `kura bootstrap`, which listens nowhere: this node's own URL is an address as any
/// other, because a node under the same default URL may be a fine peer; who it is will be asked.
pub async fn discover_for_run(sources: &PeerSources, resolver: &dyn Resolver) -> Targets {
    find(sources, resolver, &[], false).await
}

/// Finds whom to ask. `remembered` stands in while the DNS name has not answered.
pub async fn discover(sources: &PeerSources, resolver: &dyn Resolver, remembered: &[String]) -> Targets {
    find(sources, resolver, remembered, true).await
}

async fn find(sources: &PeerSources, resolver: &dyn Resolver, remembered: &[String], without_own: bool) -> Targets {
    let mut targets = Targets { dns_answered: true, ..Targets::default() };
    let mut named: Vec<String> = sources.peers.clone();
    if let Some(name) = &sources.dns_name {
        match resolver.lookup(host_of(name)).await {
            Ok(addresses) => named.extend(address_urls(addresses, name, &sources.own_url)),
            Err(error) => {
                targets.dns_answered = false;
                targets.dns_error = Some(format!("failed to resolve {name}: {error}"));
                named.extend_from_slice(remembered);
            }
        }
    }
    let mut seen = BTreeSet::new();
    for url in named.iter().filter_map(|url| normalize_url(url)) {
        if without_own && same_url(&url, &sources.own_url) {
            targets.named_self = true;
        } else if targets.urls.len() < TARGETS_MAX && seen.insert(url.clone()) {
            targets.urls.push(url);
        }
    }
    targets
}

/// A discovery name may carry a port of its own.
fn split_port(name: &str) -> (&str, Option<u16>) {
    match name.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => port.parse().map_or((name, None), |port| (host, Some(port))),
        _ => (name, None),
    }
}

/// The name that the resolver is asked for.
pub fn host_of(name: &str) -> String {
    split_port(name).0.to_owned()
}

/// Peers found by DNS are reached with the scheme and port of this node's own URL.
fn address_urls(mut addresses: Vec<IpAddr>, name: &str, own_url: &str) -> Vec<String> {
    let own = Url::parse(own_url).ok();
    let scheme = own.as_ref().map_or("http", |url| url.scheme()).to_owned();
    let own_port = own.as_ref().and_then(Url::port_or_known_default).unwrap_or(80);
    let port = split_port(name).1.unwrap_or(own_port);
    addresses.sort();
    addresses.dedup();
    addresses.into_iter().map(|address| format!("{scheme}://{}", SocketAddr::new(address, port))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(peers: &[&str], dns: Option<&str>) -> PeerSources {
        PeerSources {
            own_url: "http://10.0.0.1:7443".to_owned(),
            peers: peers.iter().map(|peer| (*peer).to_owned()).collect(),
            dns_name: dns.map(str::to_owned),
        }
    }

    fn resolver() -> FixedResolver {
        let addresses = ["10.0.0.2", "10.0.0.1", "10.0.0.2"].map(|text| text.parse().unwrap());
        FixedResolver { answers: [("kura".to_owned(), addresses.to_vec())].into() }
    }

    #[tokio::test]
    async fn the_own_address_is_never_a_target_however_it_is_written() {
        let peers = ["HTTP://10.0.0.1:7443/", "http://b:7443/", "http://B:7443", "not a url"];
        let targets = discover(&sources(&peers, Some("kura")), &resolver(), &[]).await;
        assert_eq!(targets.urls, ["http://b:7443", "http://10.0.0.2:7443"]);
        assert!(targets.named_self && targets.dns_answered);
    }

    #[tokio::test]
    async fn remembered_peers_stand_in_for_a_silent_name_only() {
        let remembered = ["http://c:7443".to_owned()];
        let silent = discover(&sources(&[], Some("nobody")), &resolver(), &remembered).await;
        assert_eq!(silent.urls, ["http://c:7443"]);
        assert!(!silent.dns_answered && silent.dns_error.is_some());
        let answered = discover(&sources(&[], Some("kura:9000")), &resolver(), &remembered).await;
        assert_eq!(answered.urls, ["http://10.0.0.1:9000", "http://10.0.0.2:9000"]);
    }

    #[test]
    fn naming_only_oneself_is_no_source() {
        assert!(!sources(&["http://10.0.0.1:7443/"], None).configured());
        assert!(sources(&["http://b:7443"], None).configured());
        assert!(sources(&[], Some("kura")).configured());
    }
}
