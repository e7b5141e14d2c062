//! Whether an action-cache hit is worth giving: every blob it names must be had here, or from a peer that answers.
//!
//! A client that is told of outputs which it then cannot fetch runs the action again at best, and fails its build at
//! worst. So a result whose blobs were evicted or lost is a miss, until somebody runs the action and writes both anew.
//!
//! Policy: bytes that do not read as an action result are opaque and served. A result too long to be looked into is
//! served, too. A tree that is here is looked into; one that only a peer has is believed to be whole. Before the store is
//! open nothing is here: then each tree is asked of the peers, and looked into as well.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::problem::Problem;
use super::read::Source;
use super::rule::Target;
use crate::core::base::executor;
use crate::core::base::ids::Sha256Digest;
use crate::core::bootstrap::read_through::{Delivery, Held, Through};
use crate::core::server::metrics::ClosureResult;
use crate::core::server::node::NodeContext;
use crate::core::store::action_result::{
    MESSAGE_BYTES_MAX, NamedBlobs, blob_name, blobs_of_action_result, blobs_of_tree,
};
use crate::core::store::error::StoreError;
use crate::core::store::{OpenBody, Store};

/// Blobs asked of peers at the same time for one result.
const ASKED_AT_ONCE: usize = 8;

/// Whether the hit may be given; counted.
///
/// # Errors
/// The store failed.
pub async fn is_closed(node: &NodeContext, target: &Target, body: &OpenBody, until: Instant) -> Result<bool, Problem> {
    let named = read(node, body).await?.as_deref().and_then(blobs_of_action_result);
    let is_had = match named {
        None => None,
        Some(named) => Some(is_had(node, &target.name.namespace, named, until).await?),
    };
    let result = match is_had {
        None => ClosureResult::Opaque,
        Some(true) => ClosureResult::Whole,
        Some(false) => ClosureResult::Incomplete,
    };
    node.server_metrics.closure(result);
    Ok(result != ClosureResult::Incomplete)
}

/// What a peer gave, in memory if it names blobs and is not too long for that; nothing if it does not come whole.
pub(super) async fn readable(target: &Target, found: Source) -> Option<Source> {
    match found {
        Source::Peer(record, chunks) if target.rule.names_blobs && record.size <= MESSAGE_BYTES_MAX as u64 => {
            let bytes: BytesMut = chunks.try_collect().await.ok()?;
            Some(Source::Here(record, OpenBody::Inline(bytes.freeze())))
        }
        found => Some(found),
    }
}

/// Whether what peers gave before the store is open may be given: peers hold each blob that it names.
pub(super) async fn is_closed_at_peers(
    node: &NodeContext,
    target: &Target,
    bytes: Option<Bytes>,
    until: Instant,
) -> bool {
    if !target.rule.names_blobs {
        return true;
    }
    // It is too long to be looked into.
    let Some(bytes) = bytes else { return true };
    let Some(named) = blobs_of_action_result(&bytes) else { return true };
    let namespace = &target.name.namespace;
    let mut blobs = named.blobs;
    for tree in &named.trees {
        let name = blob_name(namespace, tree);
        let through = node.read_through.get_unopened(&name, Delivery::Whole, until).await;
        let Through::Whole(_, bytes) = through else { return false };
        blobs.extend(blobs_of_tree(&bytes).unwrap_or_default());
    }
    let asked = blobs.into_iter().map(|blob| {
        let name = blob_name(namespace, &blob);
        async move { node.read_through.record_unopened(&name, until).await.is_some() }
    });
    futures_util::stream::iter(asked).buffer_unordered(ASKED_AT_ONCE).all(std::future::ready).await
}

/// The bytes of a body that is short enough to be looked into.
async fn read(node: &NodeContext, body: &OpenBody) -> Result<Option<Bytes>, Problem> {
    match body {
        OpenBody::Inline(bytes) => Ok(Some(bytes.clone())),
        OpenBody::File(file) if file.length > MESSAGE_BYTES_MAX as u64 => Ok(None),
        OpenBody::File(file) => {
            let (file, length) = (std::sync::Arc::clone(&file.file), file.length);
            let job = move || read_file(&file, length);
            let read = executor::run(node.seams.executor.as_ref(), job).await;
            let read = read.map_err(|lost| Problem::Internal(lost.to_string()))?;
            read.map(Some).map_err(|error| Problem::Store(format!("failed to read a body: {error}")))
        }
    }
}

fn read_file(file: &std::fs::File, length: u64) -> std::io::Result<Bytes> {
    let mut buffer = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut buffer, 0)?;
    Ok(buffer.into())
}

async fn is_had(node: &NodeContext, namespace: &str, named: NamedBlobs, until: Instant) -> Result<bool, Problem> {
    if named.blobs.is_empty() {
        return Ok(true);
    }
    let (tenant_id, space) = (node.config.tenant_id.clone(), namespace.to_owned());
    let absent = node.store.call(move |store| absent_blobs(store, &tenant_id, &space, named)).await?;
    let asked = absent.into_iter().map(|blob| {
        let name = blob_name(namespace, &blob);
        async move { node.read_through.is_held(&name, until).await }
    });
    let mut asked = futures_util::stream::iter(asked).buffer_unordered(ASKED_AT_ONCE);
    let mut is_undecided = false;
    while let Some(held) = asked.next().await {
        match held? {
            Held::Yes => {}
            Held::No => return Ok(false),
            Held::Undecided => is_undecided = true,
        }
    }
    // One that is missing everywhere would be a miss whatever the others are.
    if is_undecided { Err(Problem::PeerNotOpen) } else { Ok(true) }
}

/// Those that are not here. Blocks.
fn absent_blobs(
    store: &Store,
    tenant_id: &str,
    namespace: &str,
    named: NamedBlobs,
) -> Result<Vec<Sha256Digest>, StoreError> {
    let mut all = named.blobs;
    for tree in &named.trees {
        all.extend(files_of(store, tenant_id, namespace, tree)?);
    }
    let mut absent = Vec::new();
    for blob in all {
        if store.lookup(&blob_name(namespace, &blob).artifact_id(tenant_id))?.is_none() {
            absent.push(blob);
        }
    }
    Ok(absent)
}

/// The files of a tree that is here, as far as it can be looked into.
fn files_of(
    store: &Store,
    tenant_id: &str,
    namespace: &str,
    tree: &Sha256Digest,
) -> Result<BTreeSet<Sha256Digest>, StoreError> {
    let id = blob_name(namespace, tree).artifact_id(tenant_id);
    let Some(record) = store.lookup(&id)?.filter(|record| record.size <= MESSAGE_BYTES_MAX as u64) else {
        return Ok(BTreeSet::new());
    };
    let bytes = match store.open_current(record)? {
        Some((_, OpenBody::Inline(bytes))) => bytes,
        // A tree that cannot be read now is not held against the result; a bad one was withdrawn, and is absent.
        Some((_, OpenBody::File(file))) => read_file(&file.file, file.length).unwrap_or_default(),
        None => return Ok(BTreeSet::new()),
    };
    Ok(blobs_of_tree(&bytes).unwrap_or_default())
}
