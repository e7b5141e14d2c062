//! What must hold of a data dir whatever happened to it: it opens, nothing is half there, nothing leaks, every counter
//! equals a recount, and each artifact is what the oracle says.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use kura::core::data_dir::ballast::Ballast;
use kura::core::store::committer::CommitOutcome;
use kura::core::store::integrity::{HashBodies, VerifyRequest, verify};
use kura::core::store::record::BodyPlace;
use kura::core::store::recount::recount;

use crate::step_node::{Name, Oracle, StepNode};

/// Names that kura gives in a data dir.
const NAMES: [&str; 10] = [
    "identity",
    "run.json",
    ".kura.writer.lock",
    "index",
    "bodies",
    "tombstones.log",
    "quarantine",
    "ballast",
    "control.sock",
    "tmp",
];

const BALLAST_BYTES: u64 = 256 << 10;

/// Opens what a step left, looks at all of it, and goes on with it.
pub fn check(root: &Path, oracle: Oracle, what: &str) {
    let mut node = StepNode::at(root, oracle);
    if let Err(error) = node.start() {
        panic!("{what}: it does not start: {error:?}");
    }
    assert_sound(&node, what);
    assert_as_the_oracle_says(&node, what);
    goes_on(&mut node, what);
}

/// Nothing half, nothing leaked, exact counters.
pub fn assert_sound(node: &StepNode, what: &str) {
    let count = recount(node.store()).unwrap_or_else(|error| panic!("{what}: no recount: {error}"));
    assert_eq!(count.mismatches, Vec::<String>::new(), "{what}");
    assert_eq!(count.garbage, 0, "{what}: garbage is left");
    let request = VerifyRequest::all(HashBodies::All);
    let report = verify(node.store(), &request, &mut |_| ControlFlow::Continue(())).expect("verifying");
    let bad = (report.missing_total, report.corrupt_total, report.unreadable_total, report.corrupt_rows);
    assert_eq!(bad, (0, 0, 0, 0), "{what}: {report:?}");
    assert_eq!(report.unreferenced_total, 0, "{what}: {report:?}");
    assert_eq!(node.open().staging.reserved_bytes(), 0, "{what}: the ledger holds something");
    let layout = node.layout();
    let staged = files_below(layout.tmp_dir());
    assert_eq!(staged, Vec::<PathBuf>::new(), "{what}: staged files are left");
    let unknown: BTreeSet<String> = names_in(&node.root).into_iter().filter(|name| !NAMES.contains(&&**name)).collect();
    assert_eq!(unknown, BTreeSet::new(), "{what}: unknown names in the data dir");
    let bodies = files_below(&layout.bodies()).len() - 1;
    let names: Vec<Name> = node.oracle().values.keys().cloned().collect();
    let in_files = names.iter().filter_map(|name| node.record(name));
    let in_files = in_files.filter(|record| matches!(record.body, Some(BodyPlace::File(_)))).count();
    assert_eq!(bodies, in_files, "{what}: body files and the artifacts they are of");
}

/// Each artifact is one of the things it may be, and what is gone stays gone.
pub fn assert_as_the_oracle_says(node: &StepNode, what: &str) {
    let oracle = node.oracle().clone();
    for (name, values) in &oracle.values {
        let found = node.read(name);
        let length = |value: &Option<Vec<u8>>| value.as_ref().map(Vec::len);
        let allowed: Vec<_> = values.iter().map(length).collect();
        assert!(values.contains(&found), "{what}: {name:?} has {:?}, not one of {allowed:?}", length(&found));
    }
    for (namespace, version_ms) in &oracle.deletes {
        let Some(late) = node.offer(&(namespace, "from before the delete".into()), b"late", *version_ms) else {
            return;
        };
        assert_eq!(late, CommitOutcome::Tombstoned, "{what}: the delete of {namespace} is undone");
    }
    for (name, (record, body)) in &oracle.evicted {
        let is_written_again = oracle.values.get(name).is_some_and(|values| values != &[None]);
        let is_deleted = oracle.deletes.contains_key(name.0);
        if !is_written_again && !is_deleted {
            let Some(late) = node.offer(name, body, record.version_ms) else { return };
            assert_eq!(late, CommitOutcome::Evicted, "{what}: {name:?} was evicted and comes back");
        }
    }
}

/// It takes writes and deletes, makes its ballast, closes in order, and is found clean.
fn goes_on(node: &mut StepNode, what: &str) {
    node.clock.advance(std::time::Duration::from_secs(1));
    let (small, large) = (("after", "small".to_owned()), ("after", "large".to_owned()));
    node.put(&small, b"small").unwrap_or_else(|error| panic!("{what}: {error:?}"));
    node.put(&large, &[9; 5000]).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    node.delete("deleted after").unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let ballast = Ballast::new(&node.layout(), node.disk());
    ballast.restore(BALLAST_BYTES).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    assert!(ballast.bytes() >= BALLAST_BYTES, "{what}");
    assert_sound(node, what);
    node.stop().unwrap_or_else(|error| panic!("{what}: {error:?}"));
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("listing a folder");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// The files below a folder, however deep.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for name in names_in(&folder) {
            let path = folder.join(name);
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// Tries until no file comes or goes meanwhile: the index tidies up on a thread of its own.
const COPIES_MAX: u32 = 50;

/// An empty folder, in memory where that can be had: these tests sync a lot, and no power is lost in them.
pub fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("making a folder")
}

/// A copy of a data dir as it is now, as a kill would leave it.
pub fn copy(from: &Path) -> tempfile::TempDir {
    for _ in 0..COPIES_MAX {
        let to = folder();
        let before = files_below(from);
        if copy_into(from, to.path()).is_ok() && files_below(from) == before {
            return to;
        }
    }
    panic!("{} does not keep still", from.display());
}

fn copy_into(from: &Path, to: &Path) -> std::io::Result<()> {
    for name in names_in(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            fs::create_dir(&to)?;
            copy_into(&from, &to)?;
        } else {
            fs::copy(&from, &to)?;
        }
    }
    Ok(())
}
