//! Watches the nodes while things happen, because what goes wrong often heals before the mesh is at rest: no node goes
//! back to an older version or takes back what went, and no cursor is ahead of what it has passed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use kura::core::base::ids::{Seq, Version};
use kura::core::store::Store;
use kura::core::store::cursor::Cursor;
use kura::core::store::record::Record;
use kura::core::store::walk::{CursorCheck, FeedRequest, FeedRow};

use crate::node::{SimNode, TENANT};
use crate::oracle::{Holdings, Name};

/// The newest version a node was seen with, and whether it is still there.
#[derive(Debug, Clone, Copy)]
struct Seen {
    newest: Version,
    is_here: bool,
}

/// What each volume was seen with.
#[derive(Debug, Default)]
pub struct Watch {
    seen: BTreeMap<usize, BTreeMap<Name, Seen>>,
}

impl Watch {
    /// A node came to another volume, or to an older state of its own.
    pub fn forget(&mut self, node: usize) {
        self.seen.remove(&node);
    }

    /// A look at what a node holds now.
    pub fn look(&mut self, node: usize, held: &Holdings) -> Result<()> {
        let seen = self.seen.entry(node).or_default();
        for (name, version) in held {
            let before = seen.insert(name.clone(), Seen { newest: *version, is_here: true });
            let Some(before) = before else { continue };
            ensure!(
                *version >= before.newest,
                "node {node}: {name:?} went back from {:?} to {version:?}",
                before.newest
            );
            ensure!(
                before.is_here || *version > before.newest,
                "node {node}: {name:?} came back after it was evicted or deleted: {version:?}"
            );
        }
        seen.iter_mut().filter(|(name, _)| !held.contains_key(*name)).for_each(|(_, seen)| seen.is_here = false);
        Ok(())
    }
}

/// Every row that a node's cursor has passed is here, beaten, or noted as wanted, whatever else may still bring it.
///
/// `lied_to`: who was told what is not so, and by whom; of those nothing can be said.
pub fn check_cursors(nodes: &[SimNode], aside: &BTreeSet<usize>, lied_to: &BTreeSet<(usize, usize)>) -> Result<()> {
    let is_watched = |number: usize| !aside.contains(&number) && nodes[number].is_up() && !nodes[number].is_dead();
    for (reader, node) in
        nodes.iter().enumerate().filter(|(reader, node)| is_watched(*reader) && node.capacity.is_none())
    {
        let (store, deletes) = (node.store()?, node.deletes()?);
        let peers = (0..nodes.len()).filter(|peer| *peer != reader && is_watched(*peer));
        for peer in peers.filter(|peer| !lied_to.contains(&(reader, *peer))) {
            let source = nodes[peer].store()?;
            let Some(cursor) = store.cursor(&source.stats().store_id.to_string())? else { continue };
            for row in passed(&source, &cursor)? {
                let is_deleted = deletes.get(&row.name.namespace).is_some_and(|until_ms| *until_ms >= row.version_ms);
                let is_settled = is_deleted || is_here_or_wanted(&store, &row)?;
                ensure!(
                    is_settled,
                    "node {reader} is past a row of {peer} in {cursor:?}: {:?} {:?}",
                    row.name,
                    row.version()
                );
            }
        }
    }
    Ok(())
}

/// The rows behind a cursor, where it holds.
fn passed(source: &Store, cursor: &Cursor) -> Result<Vec<Record>> {
    let CursorCheck::Valid(up_to) = source.check_cursor(cursor.epoch, cursor.followed)? else { return Ok(Vec::new()) };
    let request =
        FeedRequest { after: Seq(0), up_to: Some(up_to), rows_max: 4096, bytes_max: 64 << 20, inline_up_to: 0 };
    let rows = source.feed_page(&request)?.rows;
    let rows = rows.into_iter().filter_map(|row| match row {
        FeedRow::Put(record, _) => Some(*record),
        // Every pass begins with all deletes of the peer, wherever the cursor is.
        FeedRow::NamespaceDelete(_) => None,
    });
    // What a walk is to bring is not passed yet.
    let is_walked = |seq: Seq| cursor.walk.as_ref().is_some_and(|walk| seq > walk.lo_seq && seq <= walk.hi_seq);
    Ok(rows.filter(|record| !is_walked(record.seq)).collect())
}

fn is_here_or_wanted(store: &Store, record: &Record) -> Result<bool> {
    let (id, version) = (record.name.artifact_id(TENANT), record.version());
    let is_here = store.lookup(&id)?.is_some_and(|here| here.version() >= version);
    Ok(is_here || store.wanted(&id)?.is_some_and(|wanted| wanted.version >= version))
}
