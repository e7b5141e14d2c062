//! Keeps this process's run record: written at start, renewed with a heartbeat, marked clean at the end, and with what
//! stopped the store's writes while that lasts.
//!
//! Failure: a record that cannot be written is a warning once per change of mind, never the end of the node; on a
//! full volume there is none until space is freed.

use std::sync::Arc;

use super::node::NodeContext;
use crate::core::base::executor;
use crate::core::data_dir::run_record::{HEARTBEAT_INTERVAL, Recorded, RunRecord};

/// Writes the first record of this process, with fields of later versions kept.
pub async fn begin(node: &Arc<NodeContext>) -> RunRecord {
    let before = RunRecord::load(&node.layout).ok().flatten();
    let mut record = RunRecord::starting(node.instance_id, node.seams.clock.now_ms());
    record.unknown = before.map(|before| before.unknown).unwrap_or_default();
    record.control_socket = node.layout.control_socket().to_str().map(str::to_owned);
    record.port = node.addresses.get().map(|bound| bound.public.port());
    record.internal_port = node.addresses.get().map(|bound| bound.internal.port());
    write(node, record.clone()).await;
    record
}

/// Renews the heartbeat until the node's shutdown.
pub async fn keep(node: Arc<NodeContext>, record: RunRecord) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(HEARTBEAT_INTERVAL) => {}
            () = node.shutdown.cancelled() => return,
        }
        let now_ms = node.seams.clock.now_ms();
        let stopped = node.store.current().and_then(|store| store.stats().write_stopped);
        write(&node, record.clone().with_trouble(stopped, now_ms).with_heartbeat(now_ms)).await;
    }
}

/// Marks the end as clean, with what kept the store from being written; it is closed by now.
pub async fn end(node: &Arc<NodeContext>, record: RunRecord, trouble: Option<String>) {
    let now_ms = node.seams.clock.now_ms();
    write(node, record.with_trouble(trouble, now_ms).stopped(now_ms)).await;
}

async fn write(node: &Arc<NodeContext>, record: RunRecord) {
    let owner = Arc::clone(node);
    let job = move || record.store(&owner.layout, owner.seams.disk.as_ref());
    match executor::run(node.seams.executor.as_ref(), job).await {
        Ok(Ok(Recorded::Written)) | Err(_) => {}
        Ok(Ok(Recorded::NoSpace)) => tracing::warn!("run_record_without_space"),
        Ok(Err(error)) => tracing::warn!(%error, "run_record_not_written"),
    }
}
