//! Looks into the data dir of a node that is gone, without changing anything: what it holds, whether it counted right, and
//! whether a cursor is ahead of what it has passed.

use std::sync::Arc;

use kura::core::base::clock::SystemClock;
use kura::core::base::disk::RealDisk;
use kura::core::base::executor::InlineExecutor;
use kura::core::base::ids::{InstanceId, Seq};
use kura::core::base::rng::SystemRng;
use kura::core::config::Durability;
use kura::core::data_dir::layout::Layout;
use kura::core::store::cursor::Cursor;
use kura::core::store::record::Record;
use kura::core::store::recount::recount;
use kura::core::store::walk::ManifestPageRequest;
use kura::core::store::{Store, StoreOptions};

use crate::support::node::Node;

/// The tenant of nodes without that setting.
const TENANT_ID: &str = "default";

/// Opens what a node left, for reading.
pub fn open(node: &Node) -> Store {
    let options = StoreOptions {
        layout: Layout::with_default_tmp(node.data_dir()),
        tenant_id: TENANT_ID.to_owned(),
        instance_id: InstanceId::default(),
        durability: Durability::Power,
        inline_max_bytes: 0,
        read_cache_bytes: 1 << 20,
        open_files_max: 64,
        clock: Arc::new(SystemClock::default()),
        rng: Arc::new(SystemRng),
        disk: Arc::new(RealDisk),
        executor: Arc::new(InlineExecutor),
    };
    Store::open_read_only(options).expect("opening what the node left")
}

/// Everything a store holds.
pub fn records(store: &Store) -> Vec<Record> {
    let request = ManifestPageRequest { after: None, prefix: String::new(), rows_max: usize::MAX, producers: &[] };
    let page = store.manifest_page(&request).expect("listing what the node left");
    assert_eq!(page.next_after, None, "a page has everything");
    page.records
}

/// The figures that the node kept and all its rows must agree.
pub fn assert_accounts_agree(store: &Store) {
    let count = recount(store).expect("counting it");
    assert_eq!(count.mismatches, Vec::<String>::new(), "{count:?}");
}

/// Each row of the peer that a cursor has passed must be here, beaten, or noted as wanted. Returns how many there are.
pub fn assert_cursor_is_not_ahead(store: &Store, (peer, rows): (&str, &[Record])) -> usize {
    let Some(cursor) = store.cursor(peer).expect("reading the cursor") else { return 0 };
    let passed: Vec<&Record> = rows.iter().filter(|row| has_passed(&cursor, row)).collect();
    let missing: Vec<_> = passed.iter().filter(|row| !is_here_or_wanted(store, row)).collect();
    let some = missing.first().map(|row| (&row.name, row.version(), row.seq, row.size));
    assert!(missing.is_empty(), "{} of {} rows are missing behind {cursor:?}: {some:?}", missing.len(), passed.len());
    passed.len()
}

fn has_passed(cursor: &Cursor, row: &Record) -> bool {
    let walk = cursor.walk.as_ref().filter(|walk| row.seq > walk.lo_seq && row.seq <= walk.hi_seq);
    match walk {
        None => row.seq <= cursor.followed,
        // A walk lists the newest first, and its position is the key of the last row that it has passed.
        Some(walk) => walk.position.as_ref().is_some_and(|position| *position <= place(row)),
    }
}

fn place(row: &Record) -> String {
    let Seq(seq) = row.seq;
    format!("{:016x}{:04x}{seq:016x}", row.version_ms, row.logical)
}

fn is_here_or_wanted(store: &Store, row: &Record) -> bool {
    let (id, version) = (row.name.artifact_id(TENANT_ID), row.version());
    let here = store.lookup(&id).expect("a lookup");
    let is_here = here.is_some_and(|here| here.version() >= version);
    is_here || store.wanted(&id).expect("a lookup").is_some_and(|wanted| wanted.version >= version)
}
