//! Whether the blobs that action results name are here: the closure of the action cache.
//!
//! How it works: [`verify`] walks manifests in id order, reads each action result and looks its blobs up, those of its
//! trees included. A blob that is not here is explained where the store knows why (evicted, wanted, deleted); a result
//! with one that is gone without a trace is broken.
//!
//! Invariants: nothing is changed. Bytes that do not read as an action result are opaque and whole, as on the read path.
//! A result whose own body is bad is no business of this walk. Lists are bounded, counts are not.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

use super::action_result::{MESSAGE_BYTES_MAX, PRODUCER, blob_name, blobs_of_action_result, blobs_of_tree};
use super::error::StoreError;
use super::facade::{OpenBody, Store};
use super::integrity::push_bounded;
use super::keys::Table;
use super::record::{ArtifactKey, Kind, Record};
use super::state::Core;
use crate::core::base::ids::{ArtifactId, Sha256Digest};

/// An action result that names a blob which is gone without a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenResult {
    /// The result.
    pub id: ArtifactId,
    /// Its name.
    pub name: ArtifactKey,
    /// The first blob that is gone.
    pub blob: Sha256Digest,
    /// How many of its blobs are.
    pub blobs_gone: u64,
}

/// What a walk over the action cache found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClosureReport {
    /// Manifests passed.
    pub artifacts: u64,
    /// Action results read.
    pub results: u64,
    /// Those whose bytes are something else.
    pub opaque: u64,
    /// Those that are misses because a blob was evicted, deleted, or is still to be fetched.
    pub explained: u64,
    /// Those with a blob that is gone without a trace.
    pub broken_total: u64,
    /// The first of them.
    pub broken: Vec<BrokenResult>,
    /// Whether it was stopped before the end.
    pub stopped: bool,
}

/// Looks at every action result. `progress` is called after each manifest, with the number passed, and may stop the walk.
///
/// # Errors
/// If the index cannot be read.
pub fn verify(store: &Store, progress: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<ClosureReport, StoreError> {
    let core = store.core();
    let mut report = ClosureReport::default();
    for row in core.index.view().rows(Table::Manifests, &[], None)? {
        let (_, value) = row?;
        report.artifacts += 1;
        if let Some(record) = Record::from_bytes(&value).ok().filter(is_result) {
            one(core, &record, &mut report)?;
        }
        if progress(report.artifacts).is_break() {
            report.stopped = true;
            break;
        }
    }
    Ok(report)
}

fn is_result(record: &Record) -> bool {
    record.kind == Kind::Action && record.name.producer == PRODUCER
}

fn one(core: &Core, record: &Record, report: &mut ClosureReport) -> Result<(), StoreError> {
    let id = core.id_of(record);
    // What is deleted or expired is a miss by itself.
    if core.lookup(&id)?.is_none() {
        return Ok(());
    }
    report.results += 1;
    let Some(named) = bytes_of(core, record)?.as_deref().and_then(blobs_of_action_result) else {
        report.opaque += 1;
        return Ok(());
    };
    let mut blobs = named.blobs;
    for tree in &named.trees {
        blobs.extend(files_of(core, record, tree)?);
    }
    let (mut gone, mut explained) = (Vec::new(), 0_u64);
    for blob in blobs {
        match absence(core, record, &blob)? {
            Absence::Here => {}
            Absence::Explained => explained += 1,
            Absence::Gone => gone.push(blob),
        }
    }
    match gone.first() {
        Some(first) => {
            report.broken_total += 1;
            let (name, blobs_gone) = (record.name.clone(), gone.len() as u64);
            push_bounded(&mut report.broken, BrokenResult { id, name, blob: *first, blobs_gone });
        }
        None => report.explained += u64::from(explained > 0),
    }
    Ok(())
}

enum Absence {
    Here,
    Explained,
    Gone,
}

fn absence(core: &Core, result: &Record, blob: &Sha256Digest) -> Result<Absence, StoreError> {
    let namespace = &result.name.namespace;
    let id = blob_name(namespace, blob).artifact_id(&core.options.tenant_id);
    if core.lookup(&id)?.is_some() {
        return Ok(Absence::Here);
    }
    let is_explained = core.stub(&id)?.is_some()
        || core.wanted(&id)?.is_some()
        || core.tombstone(namespace)?.is_some()
        || core.stats().evicted_floor_ms >= result.version_ms;
    Ok(if is_explained { Absence::Explained } else { Absence::Gone })
}

/// The bytes of a body that is good and short enough to be looked into.
fn bytes_of(core: &Core, record: &Record) -> Result<Option<Bytes>, StoreError> {
    if record.size > MESSAGE_BYTES_MAX as u64 {
        return Ok(None);
    }
    match core.try_open_body(record) {
        Ok(Ok(OpenBody::Inline(bytes))) => Ok(Some(bytes)),
        Ok(Ok(OpenBody::File(file))) => {
            let mut buffer = vec![0; usize::try_from(file.length).unwrap_or(0)];
            Ok(file.file.read_exact_at(&mut buffer, 0).ok().map(|()| buffer.into()))
        }
        Ok(Err(_)) | Err(StoreError::Io { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The files of a tree that is here and can be read.
fn files_of(core: &Core, result: &Record, tree: &Sha256Digest) -> Result<BTreeSet<Sha256Digest>, StoreError> {
    let id = blob_name(&result.name.namespace, tree).artifact_id(&core.options.tenant_id);
    let Some(record) = core.lookup(&id)? else { return Ok(BTreeSet::new()) };
    Ok(bytes_of(core, &record)?.as_deref().and_then(blobs_of_tree).unwrap_or_default())
}
