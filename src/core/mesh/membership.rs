//! Who belongs to the mesh: rounds of discovery and status, and the table of members they keep.
//!
//! How it works: every [`TICK`], and more often while a store is opening, the sources are asked for addresses, each
//! address for its status, and the answers are applied to the table in one step by a pure function. The result is
//! published to readiness, remembered in the store when it changed, and watched by the workers that catch up.
//!
//! Invariants: this node is never a member, by whatever address it is found. A member that misses a status stays one,
//! marked as unreachable. Nothing is dialled because a peer named it: only addresses from the sources and members that
//! already answered. What is refused is refused with a named reason and tried again on the next round.
//!
//! Rounds need no open store: which one is ours says its identity, and those whom the sources name may be asked for a
//! read before the first of them gave its status.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::client::PeerClient;
use super::discovery::{PeerSources, Resolver, Targets, discover, same_url};
use super::readiness::{DiscoveryRound, PeerFacts, Readiness};
use super::wire::{KuraStatus, PROTOCOL_MAX, PROTOCOL_MIN, StatusReply};
use crate::core::base::clock::Clock;
use crate::core::base::ids::{InstanceId, StoreId};
use crate::core::base::rng::{Rng, RngExt};
use crate::core::store::store_handle::StoreHandle;
use crate::core::store::unopened::UnopenedStore;

/// Time between two rounds, before jitter.
pub const TICK: Duration = Duration::from_secs(2);

/// The same while a store is opening, here or at a member: whoever waits for it waits no longer than this.
const OPENING_TICK: Duration = Duration::from_millis(250);

/// Statuses asked at the same time.
const STATUS_CONCURRENCY: usize = 16;

/// Stores remembered as having reached us; a mesh is far smaller.
const INBOUND_MAX: usize = 1024;

/// How long a store that reached us counts as reaching us.
const INBOUND_AGE_MAX: Duration = Duration::from_secs(60);

/// What kind of node a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// It never answered this process.
    Unknown,
    /// A node of the seed era.
    Seed,
    /// A kura node and what it said last.
    Kura(Box<KuraStatus>),
}

/// A member of the mesh as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Where it is dialled.
    pub url: String,
    /// The URL it gives itself.
    pub node_url: String,
    /// Its region, once known.
    pub region: Option<String>,
    /// What it is.
    pub kind: MemberKind,
    /// Whether it answered the last round.
    pub reachable: bool,
    /// Unix milliseconds of its last answer.
    pub last_seen_ms: Option<u64>,
    /// Why it did not answer.
    pub error: Option<String>,
}

impl Member {
    /// Its store, if it is a kura node with an open one.
    pub fn store_id(&self) -> Option<StoreId> {
        match &self.kind {
            MemberKind::Kura(status) => status.store_id,
            _ => None,
        }
    }

    /// Whether it can be caught up from now.
    pub fn is_usable(&self) -> bool {
        self.reachable && (self.kind == MemberKind::Seed || self.store_id().is_some())
    }

    /// Whether it answers, and its store is not open yet.
    pub fn is_opening(&self) -> bool {
        let has_no_store = matches!(&self.kind, MemberKind::Kura(status) if status.store_id.is_none());
        self.reachable && has_no_store
    }

    fn facts(&self) -> PeerFacts {
        PeerFacts {
            url: self.url.clone(),
            node_url: self.node_url.clone(),
            region: self.region.clone(),
            reachable: self.reachable,
            answered: self.kind != MemberKind::Unknown,
            complete: match &self.kind {
                MemberKind::Unknown => false,
                MemberKind::Seed => true,
                MemberKind::Kura(status) => status.complete,
            },
            error: self.error.clone(),
        }
    }
}

/// Why an address that answers is not a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// It holds the artifacts of another tenant.
    Tenant,
    /// It speaks no version of the protocol that we do.
    Protocol,
    /// Another process has the same store id: a cloned volume.
    ClonedStore,
    /// It is another process and gives itself this node's URL.
    SameUrl,
}

/// An address that answers and is not a member.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Refusal {
    /// Where it is dialled.
    pub url: String,
    /// Why, in one word.
    pub kind: RefusalKind,
    /// Why, in words.
    pub detail: String,
}

/// Who this node is, for telling itself from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnIdentity {
    /// The URL it gives itself.
    pub node_url: String,
    /// Its tenant.
    pub tenant_id: String,
    /// This run of the process.
    pub instance_id: InstanceId,
    /// Its store, if it has one.
    pub store_id: Option<StoreId>,
}

/// An address and what it answered.
pub type Reply = (String, Result<StatusReply, String>);

/// The table: a pure value that each round replaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberTable {
    members: BTreeMap<String, Member>,
    refusals: Vec<Refusal>,
    own_urls: BTreeSet<String>,
}

/// What an answer makes of an address.
enum Verdict {
    Own,
    Refused(RefusalKind, String),
    Alias,
    Member(MemberKind),
}

/// Who was met earlier in the same round.
#[derive(Default)]
struct Met {
    instances: BTreeSet<InstanceId>,
    stores: BTreeMap<StoreId, String>,
    seed_urls: BTreeSet<String>,
}

impl MemberTable {
    /// Whom to ask this round: the addresses found, and members that still answered last time.
    pub fn addresses(&self, targets: &Targets) -> Vec<String> {
        let named: BTreeSet<&String> = targets.urls.iter().collect();
        let kept = self.members.values().filter(|member| member.reachable || !targets.dns_answered);
        let kept = kept.map(|member| &member.url).filter(|url| !named.contains(url));
        targets.urls.iter().chain(kept).filter(|url| !self.own_urls.contains(*url)).cloned().collect()
    }

    /// Applies a round: `replies` in the order of [`Self::addresses`].
    pub fn apply(&mut self, own: &OwnIdentity, replies: Vec<Reply>, now_ms: u64) {
        let mut former = std::mem::take(&mut self.members);
        let mut met = Met::default();
        self.refusals.clear();
        for (url, reply) in replies {
            match reply {
                Err(error) => {
                    let member = former.remove(&url).unwrap_or_else(|| unanswered(&url));
                    self.members.insert(url, Member { reachable: false, error: Some(error), ..member });
                }
                Ok(status) => self.answered(own, &mut met, url, status, now_ms),
            }
        }
    }

    fn answered(&mut self, own: &OwnIdentity, met: &mut Met, url: String, status: StatusReply, now_ms: u64) {
        match judge(own, met, &url, &status) {
            Verdict::Alias => {}
            Verdict::Own => {
                self.own_urls.insert(url);
            }
            Verdict::Refused(kind, detail) => self.refusals.push(Refusal { url, kind, detail }),
            Verdict::Member(kind) => {
                let member = Member {
                    url: url.clone(),
                    node_url: status.node_url,
                    region: Some(status.region),
                    kind,
                    reachable: true,
                    last_seen_ms: Some(now_ms),
                    error: None,
                };
                self.members.insert(url, member);
            }
        }
    }

    /// The members by URL.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// Whether whoever answered in the last round was refused. Then nobody was met, and nothing is known to be complete.
    fn only_strangers(&self) -> bool {
        !self.refusals.is_empty() && !self.members.values().any(|member| member.reachable)
    }

    /// What was refused in the last round.
    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }
}

fn unanswered(url: &str) -> Member {
    Member {
        url: url.to_owned(),
        node_url: url.to_owned(),
        region: None,
        kind: MemberKind::Unknown,
        reachable: false,
        last_seen_ms: None,
        error: None,
    }
}

fn judge(own: &OwnIdentity, met: &mut Met, url: &str, status: &StatusReply) -> Verdict {
    if is_own(own, status) {
        return Verdict::Own;
    }
    if let Some((kind, detail)) = refusal(own, status) {
        return Verdict::Refused(kind, detail);
    }
    let Some(kura) = &status.kura else {
        let first = met.seed_urls.insert(status.node_url.clone());
        return if first { Verdict::Member(MemberKind::Seed) } else { Verdict::Alias };
    };
    if !met.instances.insert(kura.instance_id) {
        return Verdict::Alias;
    }
    if let Some(other) = kura.store_id.and_then(|store_id| met.stores.insert(store_id, url.to_owned())) {
        return Verdict::Refused(RefusalKind::ClonedStore, format!("it has the store id of {other}"));
    }
    Verdict::Member(MemberKind::Kura(Box::new(kura.clone())))
}

fn is_own(own: &OwnIdentity, status: &StatusReply) -> bool {
    status.kura.as_ref().is_some_and(|kura| kura.instance_id == own.instance_id)
}

fn refusal(own: &OwnIdentity, status: &StatusReply) -> Option<(RefusalKind, String)> {
    if status.tenant_id != own.tenant_id {
        return Some((RefusalKind::Tenant, format!("it holds tenant {:?}, not {:?}", status.tenant_id, own.tenant_id)));
    }
    if same_url(&status.node_url, &own.node_url) {
        return Some((RefusalKind::SameUrl, format!("it gives itself our URL {}", own.node_url)));
    }
    let kura = status.kura.as_ref()?;
    let (min, max) = (kura.protocol.min, kura.protocol.max);
    if min > PROTOCOL_MAX || max < PROTOCOL_MIN {
        let ours = format!("{PROTOCOL_MIN} to {PROTOCOL_MAX}");
        return Some((RefusalKind::Protocol, format!("it speaks protocol {min} to {max}, we speak {ours}")));
    }
    let cloned = kura.store_id.is_some() && kura.store_id == own.store_id;
    cloned.then(|| (RefusalKind::ClonedStore, "it has our store id: a cloned volume".to_owned()))
}

/// What membership is made of.
#[derive(Debug)]
pub struct MembershipParts {
    /// Where peers come from.
    pub sources: PeerSources,
    /// Resolves the DNS name.
    pub resolver: Arc<dyn Resolver>,
    /// Asks peers.
    pub client: PeerClient,
    /// Remembers peers, and says which store is ours.
    pub store: StoreHandle,
    /// Says the latter while it is not open.
    pub unopened: UnopenedStore,
    /// Is told of each round.
    pub readiness: Readiness,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub rng: Arc<dyn Rng>,
    /// This run of the process.
    pub instance_id: InstanceId,
}

/// The membership of this process.
#[derive(Debug)]
pub struct Membership {
    parts: MembershipParts,
    table: Mutex<MemberTable>,
    inbound: Mutex<BTreeMap<StoreId, Duration>>,
    dns_error: Mutex<Option<String>>,
    introduced: AtomicBool,
    published: watch::Sender<Arc<Vec<Member>>>,
}

impl Membership {
    /// Nobody is known yet.
    pub fn new(parts: MembershipParts) -> Self {
        let (published, _) = watch::channel(Arc::new(Vec::new()));
        Self {
            parts,
            table: Mutex::default(),
            inbound: Mutex::default(),
            dns_error: Mutex::default(),
            introduced: AtomicBool::new(false),
            published,
        }
    }

    /// The members after each round.
    pub fn watch(&self) -> watch::Receiver<Arc<Vec<Member>>> {
        self.published.subscribe()
    }

    /// What was refused in the last round.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).refusals.clone()
    }

    /// Notes that a store reached this node.
    pub fn note_inbound(&self, store_id: StoreId) {
        let now = self.parts.clock.monotonic();
        let mut inbound = self.inbound.lock().unwrap_or_else(PoisonError::into_inner);
        if inbound.len() >= INBOUND_MAX {
            inbound.retain(|_, last| now.saturating_sub(*last) <= INBOUND_AGE_MAX);
        }
        if inbound.len() < INBOUND_MAX {
            inbound.insert(store_id, now);
        }
    }

    /// Stores that reached this node lately.
    pub fn seen_inbound(&self) -> Vec<StoreId> {
        let now = self.parts.clock.monotonic();
        let inbound = self.inbound.lock().unwrap_or_else(PoisonError::into_inner);
        inbound.iter().filter(|(_, last)| now.saturating_sub(**last) <= INBOUND_AGE_MAX).map(|(id, _)| *id).collect()
    }

    /// The same with the time since each did so last.
    pub fn inbound_ages(&self) -> Vec<(StoreId, Duration)> {
        let now = self.parts.clock.monotonic();
        let inbound = self.inbound.lock().unwrap_or_else(PoisonError::into_inner);
        let ages = inbound.iter().map(|(id, last)| (*id, now.saturating_sub(*last)));
        ages.filter(|(_, age)| *age <= INBOUND_AGE_MAX).collect()
    }

    /// Rounds until cancelled.
    pub async fn run(&self, cancel: &CancellationToken) {
        loop {
            let jitter = Duration::from_millis(self.parts.rng.below(400));
            let round = async {
                self.round().await;
                let pause = if self.is_a_store_opening() { OPENING_TICK } else { TICK + jitter };
                tokio::time::sleep(pause).await;
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = round => {}
            }
        }
    }

    fn is_a_store_opening(&self) -> bool {
        self.parts.store.current().is_none() || self.published.borrow().iter().any(Member::is_opening)
    }

    /// One round: find addresses, ask them, apply the answers, publish.
    pub async fn round(&self) {
        let remembered = self.parts.store.current().and_then(|store| store.remembered_peers().ok()).unwrap_or_default();
        let targets = discover(&self.parts.sources, self.parts.resolver.as_ref(), &remembered).await;
        self.log_dns(&targets);
        let addresses = self.table.lock().unwrap_or_else(PoisonError::into_inner).addresses(&targets);
        self.introduce(&addresses);
        let alone = addresses.is_empty() && targets.dns_answered;
        let replies = self.ask(addresses).await;
        let observed = alone || replies.iter().any(|(_, reply)| reply.is_ok());
        self.publish(replies, observed).await;
    }

    /// Names the members of the first round before they answered: one that lets its status wait must not hide the
    /// others from reads.
    fn introduce(&self, addresses: &[String]) {
        if addresses.is_empty() || self.introduced.swap(true, Ordering::Relaxed) {
            return;
        }
        let members: Vec<Member> = addresses.iter().map(|url| unanswered(url)).collect();
        self.tell_readiness(&members, false);
        self.published.send_replace(Arc::new(members));
    }

    fn tell_readiness(&self, members: &[Member], observed: bool) {
        let peers = members.iter().map(Member::facts).collect();
        let round = DiscoveryRound { configured: self.parts.sources.configured(), observed, peers };
        self.parts.readiness.update(|machine, now| machine.discovered(round, now));
    }

    /// A name that does not resolve is asked for every two seconds; only a change is worth a line.
    fn log_dns(&self, targets: &Targets) {
        let before = std::mem::replace(
            &mut *self.dns_error.lock().unwrap_or_else(PoisonError::into_inner),
            targets.dns_error.clone(),
        );
        match (&before, &targets.dns_error) {
            (_, Some(error)) if before.as_ref() != Some(error) => tracing::warn!(%error, "peer_dns_failed"),
            (Some(_), None) => tracing::info!("peer_dns_answers_again"),
            _ => {}
        }
    }

    async fn ask(&self, addresses: Vec<String>) -> Vec<Reply> {
        let asked = addresses.into_iter().map(|url| async move {
            let reply = self.parts.client.status(&url).await.map_err(|error| error.to_string());
            (url, reply)
        });
        futures_util::stream::iter(asked).buffered(STATUS_CONCURRENCY).collect().await
    }

    async fn publish(&self, replies: Vec<Reply>, observed: bool) {
        let own = self.own().await;
        let (before, after, refused) = {
            let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
            let (before, refused_before) = (table.clone(), table.refusals.clone());
            table.apply(&own, replies, self.parts.clock.now_ms());
            let fresh: Vec<Refusal> =
                table.refusals.iter().filter(|refusal| !refused_before.contains(refusal)).cloned().collect();
            (before, table.clone(), fresh)
        };
        for refusal in refused {
            tracing::warn!(peer = %refusal.url, reason = ?refusal.kind, detail = %refusal.detail, "peer_refused");
        }
        log_reachability(&before, &after);
        let only_strangers = after.only_strangers();
        let members: Vec<Member> = after.members.into_values().collect();
        self.tell_readiness(&members, observed && !only_strangers);
        self.remember(&members).await;
        self.published.send_replace(Arc::new(members));
    }

    /// Whether whoever gave this status is a peer: not this node, and nobody that a round would refuse.
    pub async fn is_peer(&self, status: &StatusReply) -> bool {
        let own = self.own().await;
        !is_own(&own, status) && refusal(&own, status).is_none()
    }

    async fn own(&self) -> OwnIdentity {
        let store_id = match self.parts.store.current() {
            Some(store) => Some(store.stats().store_id),
            None => self.parts.unopened.store_id().await,
        };
        OwnIdentity {
            node_url: self.parts.sources.own_url.clone(),
            tenant_id: self.parts.client.tenant_id().to_owned(),
            instance_id: self.parts.instance_id,
            store_id,
        }
    }

    /// Remembers members that answered, if they are others than before. Never waits for a store.
    async fn remember(&self, members: &[Member]) {
        let answered = members.iter().filter(|member| member.kind != MemberKind::Unknown);
        let urls: Vec<String> = answered.map(|member| member.url.clone()).collect();
        if urls.is_empty() || self.parts.store.current().is_none() {
            return;
        }
        // A row that does not decode is replaced: it only spares the wait for the first answer of the DNS name.
        let remembered = self.parts.store.call(move |store| {
            if store.remembered_peers().is_ok_and(|known| known == urls) { Ok(()) } else { store.remember_peers(&urls) }
        });
        if let Err(error) = remembered.await {
            tracing::warn!(%error, "peers_not_remembered");
        }
    }
}

fn log_reachability(before: &MemberTable, after: &MemberTable) {
    for gone in before.members().filter(|member| !after.members.contains_key(&member.url)) {
        tracing::warn!(peer = %gone.url, node_url = %gone.node_url, "peer_left");
    }
    for member in after.members() {
        let was = before.members.get(&member.url).map(|former| former.reachable);
        if was == Some(member.reachable) {
            continue;
        }
        match &member.error {
            Some(error) => tracing::warn!(peer = %member.url, %error, "peer_unreachable"),
            None => tracing::info!(peer = %member.url, node_url = %member.node_url, "peer_reachable"),
        }
    }
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
