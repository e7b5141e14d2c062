//! The order of the checks: by category, and a check stands behind those it needs.

use super::{
    bodies, bootstrap, budget, closure, config, data_dir, index, machine, memory, mesh, node, peers, staging, unlinked,
    volume,
};
use super::{diverged, node_store, one_way, peer_names, read_only, replication};
use crate::core::doctor::check::Check;

/// Every check.
pub static ALL: [&dyn Check; 45] = [
    &config::ConfigInvalid,
    &config::ConfigUnknownKey,
    &budget::ConfigBudgetImpossible,
    &machine::FdLimitLow,
    &memory::MemoryBudget,
    &machine::ListenerTaken,
    &volume::DataDirMissing,
    &machine::DataDirUnmounted,
    &read_only::DataDirReadOnly,
    &volume::DiskFull,
    &volume::DiskNearfull,
    &volume::InodesLow,
    &budget::BallastMissing,
    &budget::BudgetOvercommit,
    &unlinked::DeletedButOpen,
    &data_dir::DataDirOwner,
    &data_dir::DataDirLocked,
    &data_dir::RunRecordStale,
    &data_dir::TwoWriters,
    &index::IndexFormat,
    &index::IndexUnreadable,
    &staging::StagingOtherDevice,
    &staging::StagingOrphans,
    &staging::StagingOverBudget,
    &node::UploadSlots,
    &bodies::BodyMissing,
    &bodies::BodyUnreferenced,
    &bodies::BodyCorrupt,
    &closure::ActionClosureBroken,
    &bootstrap::BootstrapIncomplete,
    &mesh::PeersNone,
    &mesh::PeersOnlySelf,
    &peer_names::PeerDns,
    &peers::PeerUnreachable,
    &one_way::PeerOneWay,
    &mesh::PeerVersion,
    &diverged::PeerDiverged,
    &mesh::NodeIdDuplicate,
    &mesh::ClockSkew,
    &replication::ReplicationStuck,
    &node::IndexWriteStopped,
    &node_store::NoProgress,
    &node_store::BreakerOpen,
    &node::NotReady,
    &node_store::ReadyButEmpty,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::core::doctor::finding::Code;

    #[test]
    fn each_code_has_exactly_one_check_in_the_order_of_the_codes() {
        let checked: Vec<Code> = ALL.iter().map(|check| check.about().code).collect();
        assert_eq!(checked, Code::ALL);
    }

    #[test]
    fn categories_run_in_order() {
        let categories: Vec<_> = ALL.iter().map(|check| check.about().category).collect();
        assert!(categories.is_sorted(), "{categories:?}");
    }

    #[test]
    fn what_a_check_needs_is_fatal_and_runs_before_it() {
        let mut before = BTreeSet::new();
        for about in ALL.iter().map(|check| check.about()) {
            for need in about.needs {
                assert!(before.contains(need), "{} needs {need}, which is not fatal or runs later", about.code);
            }
            if about.fatal {
                before.insert(about.code);
            }
        }
    }

    #[test]
    fn every_check_has_a_title_and_a_limit() {
        for about in ALL.iter().map(|check| check.about()) {
            assert!(!about.title.is_empty() && !about.limit.is_zero(), "{}", about.code);
        }
    }
}
