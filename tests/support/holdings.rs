//! What a node holds, read from its change log as a sibling reads it.

use std::collections::{BTreeMap, BTreeSet};

use kura::core::mesh::feed_frames::{Frame, decode_page};
use kura::core::store::record::Record;

/// The tenant of nodes without that setting.
const TENANT_ID: &str = "default";

/// Every artifact of every producer as `id version digest`. `get` asks the node's internal plane for a path.
pub fn holdings(mut get: impl FnMut(&str) -> anyhow::Result<Vec<u8>>) -> anyhow::Result<BTreeSet<String>> {
    let (mut records, mut tombstones) = (Vec::new(), BTreeMap::new());
    let mut after = 0;
    loop {
        let path =
            format!("/_internal/feed?order=seq&after={after}&max_rows=1000&max_bytes=4194304&inline_up_to=0&wait_ms=0");
        let page = decode_page(get(&path)?.into())?;
        for row in page.rows {
            match row {
                Frame::Row { record, .. } => records.push(Record::from_bytes(&record)?),
                Frame::Tombstone { version_ms, namespace, .. } => drop(tombstones.insert(namespace, version_ms)),
                Frame::Header(_) | Frame::End { .. } => {}
            }
        }
        if page.header.next.0 <= after || page.header.next >= page.header.head_seq {
            break;
        }
        after = page.header.next.0;
    }
    // A deleted row that waits for being purged is gone for every reader.
    let live =
        |record: &Record| tombstones.get(&record.name.namespace).is_none_or(|deleted| record.version_ms > *deleted);
    Ok(records.iter().filter(|record| live(record)).map(line).collect())
}

fn line(record: &Record) -> String {
    format!("{} {}.{} {}", record.name.artifact_id(TENANT_ID), record.version_ms, record.logical, record.digest)
}
