//! What every pass needs: the peers' client, the store, staging, time, chance and the artifacts on their way.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Notify;

use super::flight::Flights;
use super::lanes::Lanes;
use super::metrics::CatchUpMetrics;
use super::walked::Walked;
use crate::core::base::clock::Clock;
use crate::core::base::ids::StoreId;
use crate::core::base::rng::{Rng, RngExt};
use crate::core::data_dir::space_watch::SpaceWatch;
use crate::core::mesh::circuit::Circuits;
use crate::core::mesh::client::PeerClient;
use crate::core::mesh::membership::{Member, MemberKind};
use crate::core::mesh::wire::{PeerFeatures, PeerLimits};
use crate::core::staging::area::Staging;
use crate::core::store::store_handle::StoreHandle;

/// How a peer is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerSource {
    /// By the seed era's walk.
    Seed,
    /// By kura's feed.
    Kura {
        /// Its store.
        store_id: StoreId,
        /// How many artifacts it says it has.
        artifacts: u64,
        /// What it can do.
        features: PeerFeatures,
        /// The bounds of what it gives.
        limits: PeerLimits,
    },
}

/// What the listing of a kura peer goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KuraPeer {
    /// Its store.
    pub store_id: StoreId,
    /// How many artifacts it says it has.
    pub artifacts: u64,
    /// Whether it lists by version.
    pub can_backfill: bool,
    /// Whether it has a digest with its head.
    pub can_digest: bool,
    /// Most rows in a page it gives.
    pub page_rows_max: usize,
    /// Largest page it gives, in bytes.
    pub page_bytes_max: u64,
}

/// A peer to catch up from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where it is dialled.
    pub url: String,
    /// How it is listed.
    pub source: PeerSource,
}

impl Peer {
    /// The peer behind a member, if it can be caught up from now.
    pub fn of(member: &Member) -> Option<Self> {
        let source = match &member.kind {
            MemberKind::Unknown => return None,
            MemberKind::Seed => PeerSource::Seed,
            MemberKind::Kura(status) => PeerSource::Kura {
                store_id: status.store_id?,
                artifacts: status.artifacts,
                features: PeerFeatures::of(&status.features),
                limits: status.limits,
            },
        };
        member.reachable.then(|| Self { url: member.url.clone(), source })
    }

    /// What its listing goes by, if it is a kura node. Limits of 0 cannot be meant.
    pub fn kura(&self) -> Option<KuraPeer> {
        let PeerSource::Kura { store_id, artifacts, features, limits } = &self.source else { return None };
        Some(KuraPeer {
            store_id: *store_id,
            artifacts: *artifacts,
            can_backfill: features.backfill,
            can_digest: features.digest,
            page_rows_max: usize::try_from(limits.page_rows_max).unwrap_or(usize::MAX).max(1),
            page_bytes_max: limits.page_bytes_max.max(1),
        })
    }

    /// Its store, if it is a kura node.
    pub fn store_id(&self) -> Option<StoreId> {
        match self.source {
            PeerSource::Seed => None,
            PeerSource::Kura { store_id, .. } => Some(store_id),
        }
    }
}

/// What every pass needs; cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    /// Asks peers.
    pub client: PeerClient,
    /// Where everything ends up.
    pub store: StoreHandle,
    /// Where bodies are on the way.
    pub staging: Staging,
    /// Whether the volume has room for them.
    pub space: SpaceWatch,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub rng: Arc<dyn Rng>,
    /// The metric families.
    pub metrics: CatchUpMetrics,
    /// The artifacts on their way.
    pub flights: Flights,
    /// The walks under way.
    pub lanes: Lanes,
    /// What seed-era peers listed when they were last walked.
    pub walked: Walked,
    /// Whether each peer is asked for bodies now.
    pub circuits: Circuits,
    /// Artifacts fetched at the same time from one peer.
    pub concurrency: usize,
    /// The peers that can be asked now.
    pub peers: Arc<RwLock<Arc<Vec<Peer>>>>,
    /// Woken when they are replaced, in the order in which they began to wait.
    pub peers_replaced: Arc<Notify>,
}

impl Engine {
    /// The peers that can be asked now.
    pub fn usable_peers(&self) -> Arc<Vec<Peer>> {
        Arc::clone(&self.peers.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the peers that can be asked.
    pub fn set_usable_peers(&self, peers: Vec<Peer>) {
        *self.peers.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(peers);
        self.peers_replaced.notify_waiters();
    }

    /// The peer at this URL, once it can be asked.
    pub async fn usable_peer(&self, url: &str) -> Peer {
        loop {
            let replaced = self.peers_replaced.notified();
            tokio::pin!(replaced);
            // Before looking, so that no change between the look and the wait is missed.
            replaced.as_mut().enable();
            if let Some(peer) = self.usable_peers().iter().find(|peer| peer.url == url) {
                return peer.clone();
            }
            replaced.await;
        }
    }

    /// A pause that doubles with each attempt from `first` to `longest`, of which a random half is left out.
    pub fn backoff(&self, attempts: u32, first: Duration, longest: Duration) -> Duration {
        let factor = 2_u32.saturating_pow(attempts.min(20));
        let whole = first.saturating_mul(factor).min(longest);
        let half_ms = u64::try_from(whole.as_millis() / 2).unwrap_or(u64::MAX);
        Duration::from_millis(half_ms.saturating_add(self.rng.below(half_ms.saturating_add(1))))
    }
}
