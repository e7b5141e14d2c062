//! A full count of the store: every counter, every secondary row.
//!
//! Invariants: nothing is changed, so it runs on a store opened for reading and on a full volume. Beside a writer what
//! it counts is between two commits, so its mismatches are to be looked at again.

use std::sync::atomic::Ordering;

use super::charge::charge_of_garbage;
use super::error::StoreError;
use super::evaluate::number_of;
use super::facade::Store;
use super::integrity::push_bounded;
use super::keys::{LogRow, Table, key_number, namespace_key, number_key, version_key};
use super::record::{BodyPlace, Record};
use super::set_digest::SetDigest;
use super::state::{Core, corrupt};
use crate::core::base::ids::ArtifactId;

/// A full count of the store, and what does not fit together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recount {
    /// Manifests.
    pub artifacts: u64,
    /// Stored bytes of their bodies.
    pub body_bytes: u64,
    /// Bodies that wait to be removed.
    pub garbage: u64,
    /// What all bodies take, these too.
    pub charged_bytes: u64,
    /// Rows of what was evicted.
    pub stubs: u64,
    /// Artifacts that expire.
    pub expiring: u64,
    /// What does not fit together; at most [`DETAILS_MAX`](super::integrity::DETAILS_MAX).
    pub mismatches: Vec<String>,
}

/// Counts everything anew and compares each manifest with its secondary rows, both ways.
///
/// # Errors
/// If the index cannot be read.
pub fn recount(store: &Store) -> Result<Recount, StoreError> {
    let core = store.core();
    let mut count = Recount::default();
    let mut extents = std::collections::BTreeMap::<u64, [u64; 4]>::new();
    for row in core.index.rows(Table::Manifests, &[])? {
        let (key, value) = row?;
        let id = ArtifactId::from_slice(&key).ok_or_else(|| corrupt("manifests", "a key is no id"))?;
        let record = Record::from_bytes(&value).map_err(|error| corrupt("manifests", error))?;
        count.artifacts += 1;
        count.body_bytes += record.stored_size;
        count.charged_bytes += core.charge_of(&record);
        count.expiring += u64::from(record.expires_at_ms.is_some());
        count_extent(&mut extents, &record);
        check_secondary_rows(core, &id, &record, &mut count.mismatches)?;
    }
    check_lengths(core, &mut count)?;
    check_extents(core, &extents, &mut count.mismatches)?;
    count_garbage(core, &mut count)?;
    count.stubs = length(core, Table::Stubs)?;
    let stats = store.stats();
    let mut counters =
        vec![("artifacts", stats.artifacts, count.artifacts), ("bytes of bodies", stats.body_bytes, count.body_bytes)];
    if core.charges_kept {
        counters.push(("charged bytes", stats.charged_bytes, count.charged_bytes));
        counters.push(("stubs", core.stubs.load(Ordering::Acquire), count.stubs));
        counters.push(("expiring artifacts", core.expiring.load(Ordering::Acquire), count.expiring));
    }
    for (what, said, counted) in counters.into_iter().filter(|(_, said, counted)| said != counted) {
        push_bounded(&mut count.mismatches, format!("the counter of {what} says {said}, there are {counted}"));
    }
    if let Some(kept) = store.set_digest() {
        let counted = SetDigest::count(&core.index, kept.head)?;
        if counted != kept {
            push_bounded(&mut count.mismatches, format!("the digest says {kept:?}, it is {counted:?}"));
        }
    }
    Ok(count)
}

fn count_garbage(core: &Core, count: &mut Recount) -> Result<(), StoreError> {
    for row in core.index.rows(Table::Garbage, &[])? {
        let (_, value) = row?;
        count.garbage += 1;
        let row = super::tagged::Row::decode(&value).map_err(|error| corrupt("garbage", error))?;
        count.charged_bytes += charge_of_garbage(&row, core.block_bytes);
    }
    Ok(())
}

fn count_extent(extents: &mut std::collections::BTreeMap<u64, [u64; 4]>, record: &Record) {
    let Some(place) = record.body else { return };
    let (is_file, body_no) = match place {
        BodyPlace::Inline(number) => (false, number),
        BodyPlace::File(number) => (true, number),
    };
    let [inline, inline_bytes, files, file_bytes] = extents.entry(super::keys::extent_of(body_no)).or_default();
    let (number, bytes) = if is_file { (files, file_bytes) } else { (inline, inline_bytes) };
    *number += 1;
    *bytes += record.stored_size;
}

fn check_secondary_rows(
    core: &Core,
    id: &ArtifactId,
    record: &Record,
    mismatches: &mut Vec<String>,
) -> Result<(), StoreError> {
    let Record { seq, version_ms, logical, .. } = *record;
    let log = core.index.get(Table::Log, &number_key(seq.0))?.map(|bytes| LogRow::decode(&bytes));
    if log != Some(Ok(LogRow::Put { id: *id, version_ms, logical })) {
        push_bounded(mismatches, format!("{id}: its log row {seq} is {log:?}"));
    }
    let secondary = [
        (Table::ByVersion, version_key(version_ms, logical, seq)),
        (Table::ByNamespace, namespace_key(&record.name.namespace, seq)),
    ];
    for (table, key) in secondary {
        if core.index.get(table, &key)?.is_none() {
            push_bounded(mismatches, format!("{id}: no row in {}", table.name()));
        }
    }
    let Some(body_no) = number_of(record) else {
        push_bounded(mismatches, format!("{id}: no body"));
        return Ok(());
    };
    let owner = core.index.get(Table::BodyOwner, &number_key(body_no.0))?;
    if owner.as_deref() != Some(id.as_bytes().as_slice()) {
        push_bounded(mismatches, format!("{id}: body {body_no} has another owner"));
    }
    if core.index.get(Table::Garbage, &number_key(body_no.0))?.is_some() {
        push_bounded(mismatches, format!("{id}: body {body_no} is garbage"));
    }
    Ok(())
}

/// Every manifest has one row in each of these; so has every tombstone in the log.
fn check_lengths(core: &Core, count: &mut Recount) -> Result<(), StoreError> {
    let tombstones = length(core, Table::Tombstones)?;
    let expected = [
        (Table::Log, count.artifacts + tombstones),
        (Table::ByVersion, count.artifacts),
        (Table::ByNamespace, count.artifacts),
        (Table::BodyOwner, count.artifacts),
    ];
    for (table, expected) in expected {
        let actual = length(core, table)?;
        if actual != expected {
            push_bounded(&mut count.mismatches, format!("{} has {actual} rows, not {expected}", table.name()));
        }
    }
    Ok(())
}

fn check_extents(
    core: &Core,
    counted: &std::collections::BTreeMap<u64, [u64; 4]>,
    mismatches: &mut Vec<String>,
) -> Result<(), StoreError> {
    let mut stored = std::collections::BTreeMap::new();
    for row in core.index.rows(Table::Extents, &[])? {
        let (key, value) = row?;
        let row = super::tagged::Row::decode(&value).map_err(|error| corrupt("extents", error))?;
        stored.insert(key_number(&key).unwrap_or_default(), [1, 2, 3, 4].map(|tag| row.number(tag)));
    }
    if *counted != stored {
        push_bounded(mismatches, format!("extents say {stored:?}, there are {counted:?}"));
    }
    Ok(())
}

fn length(core: &Core, table: Table) -> Result<u64, StoreError> {
    core.index.rows(table, &[])?.try_fold(0, |count, row| row.map(|_| count + 1))
}
