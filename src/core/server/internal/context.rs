//! What the internal plane needs of its node, so that a simulation can have one without listeners.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::slots::Slots;
use crate::core::base::clock::Clock;
use crate::core::base::executor::StoreExecutor;
use crate::core::base::ids::InstanceId;
use crate::core::bootstrap::metrics::CatchUpMetrics;
use crate::core::config::Config;
use crate::core::mesh::membership::Membership;
use crate::core::mesh::readiness::Readiness;
use crate::core::staging::area::Staging;
use crate::core::store::store_handle::StoreHandle;

/// What the internal plane needs.
#[derive(Debug, Clone)]
pub struct InternalContext {
    /// The resolved settings.
    pub config: Arc<Config>,
    /// This run of this process.
    pub instance_id: InstanceId,
    /// The store, once it is open.
    pub store: StoreHandle,
    /// Where bodies that seed-era peers send are on the way.
    pub staging: Staging,
    /// What the status says of this node.
    pub readiness: Readiness,
    /// Is told who reached this node.
    pub membership: Arc<Membership>,
    /// The metric families of replication.
    pub metrics: CatchUpMetrics,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where blocking work runs.
    pub executor: Arc<dyn StoreExecutor>,
    /// The bulk answers that may be under way.
    pub bulk: Slots,
    /// The single bodies that may be on their way to peers.
    pub bodies: Slots,
    /// Ends long polls.
    pub shutdown: CancellationToken,
}
