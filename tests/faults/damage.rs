//! A data dir that somebody or something damaged: each file of it removed, cut, emptied, changed, replaced by a folder.
//!
//! What must hold: the node starts, or names what is wrong; it never serves other bytes, never undoes a delete, never
//! begins anew silently, takes writes, and starts again the same way. What the damage took is a miss.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kura::core::data_dir::layout::Layout;
use kura::core::store::error::StoreError;
use kura::core::store::record::BodyPlace;

use crate::scenarios::{file, name, small};
use crate::step_check::{copy, files_below, folder};
use crate::step_node::{Name, Oracle, StepNode};

/// What is done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Remove,
    Empty,
    CutInHalf,
    CutTheEnd,
    Flip,
    FlipNearTheEnd,
    Folder,
}

const HARMS: [Harm; 7] =
    [Harm::Remove, Harm::Empty, Harm::CutInHalf, Harm::CutTheEnd, Harm::Flip, Harm::FlipNearTheEnd, Harm::Folder];

fn harm(path: &Path, harm: Harm) {
    let bytes = fs::read(path).expect("reading what is to be damaged");
    let flipped = |at: usize| {
        let mut bytes = bytes.clone();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = !*byte;
        }
        bytes
    };
    // Preallocated ends are zeros; the end meant is that of what was written.
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let damaged = match harm {
        Harm::Remove => return fs::remove_file(path).expect("removing"),
        Harm::Folder => {
            fs::remove_file(path).expect("removing");
            return fs::create_dir(path).expect("making a folder");
        }
        Harm::Empty => Vec::new(),
        Harm::CutInHalf => bytes[..end / 2].to_vec(),
        Harm::CutTheEnd => bytes[..end.saturating_sub(7)].to_vec(),
        Harm::Flip => flipped(end / 2),
        Harm::FlipNearTheEnd => flipped(end.saturating_sub(10)),
    };
    fs::write(path, damaged).expect("damaging");
}

/// A node that was stopped, ran again, and was killed: rows in tables and in the log.
fn template() -> (tempfile::TempDir, Oracle) {
    let folder = folder();
    let mut node = StepNode::at(folder.path(), Oracle::default());
    node.start().expect("starting");
    for round in 0..2_u8 {
        for n in 0..20_u8 {
            node.clock.advance(Duration::from_millis(10));
            let fill = round * 100 + n;
            node.put(&name("ios", &format!("small-{round}-{n}")), &small(fill)).expect("a put");
            node.put(&name("ios", &format!("file-{round}-{n}")), &file(fill)).expect("a put");
        }
        let gone = ["gone first", "gone second"][usize::from(round)];
        node.put(&name(gone, "small"), &small(7)).expect("a put");
        node.put(&name(gone, "file"), &file(7)).expect("a put");
        node.delete(gone).expect("a delete");
        if round == 0 {
            node.stop().expect("stopping");
            node.start().expect("starting again");
        }
    }
    let oracle = node.oracle().clone();
    node.kill();
    (folder, oracle)
}

/// The namespace of what is put once it was damaged.
const AFTER: &str = "after";

/// What a damaged data dir came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    files_kept: usize,
    inline_kept: usize,
    was_rebuilt: bool,
}

/// Opens what is left of it twice, looks at it and goes on with it.
fn comes_to(root: &Path, oracle: &Oracle, what: &str) -> End {
    let mut oracle = oracle.clone();
    oracle.may_go(|_| true);
    let mut node = StepNode::at(root, oracle);
    node.clock.advance(Duration::from_secs(60));
    node.start().unwrap_or_else(|error| panic!("{what}: it does not start: {error:?}"));
    let mut was_rebuilt = node.open().report.rebuilt.is_some();
    let mut kept = holds(&node, what);
    // What a reader, a peer or an eviction would come across sooner or later.
    let _ = kura::core::store::recount::recount(node.store());
    if node.store().damage().is_some() {
        (was_rebuilt, kept) = (true, made_anew(&mut node, what));
    }
    let deletes = node.oracle().deletes.clone();
    for (namespace, version_ms) in deletes {
        let name = (namespace, "late".into());
        let late = node.offer(&name, b"late", version_ms).unwrap_or_else(|| {
            (was_rebuilt, kept) = (true, made_anew(&mut node, what));
            node.offer(&name, b"late", version_ms).expect("a store that takes writes")
        });
        let is_deleted = late == kura::core::store::committer::CommitOutcome::Tombstoned;
        assert!(is_deleted, "{what}: the delete of {namespace} is undone: {late:?}");
    }
    for n in 0..3_u8 {
        let names = [(name(AFTER, &format!("file-{n}")), file(n)), (name(AFTER, &format!("small-{n}")), small(n))];
        for (name, body) in names {
            // A compaction may have come across it only now; the keeper looks each second.
            if node.put(&name, &body).is_err() && node.store().damage().is_some() {
                (was_rebuilt, kept) = (true, made_anew(&mut node, what));
            }
            node.put(&name, &body).unwrap_or_else(|error| panic!("{what}: it takes no {name:?}: {error:?}"));
        }
    }
    let mut before = holds(&node, what);
    if !stops_in_order(&mut node, what) {
        was_rebuilt = true;
        before = holds(&node, what);
        kept = before;
        assert!(stops_in_order(&mut node, what), "{what}: it is still damaged after it was made anew");
    }
    node.start().unwrap_or_else(|error| panic!("{what}: it does not start again: {error:?}"));
    assert!(node.open().report.rebuilt.is_none(), "{what}: it is made anew at each start");
    assert_eq!(holds(&node, what), before, "{what}: the next start has something else");
    End { was_rebuilt, files_kept: kept.0, inline_kept: kept.1 }
}

/// False if a compaction came across the damage only while it closed; then it runs again, with its index made anew.
fn stops_in_order(node: &mut StepNode, what: &str) -> bool {
    let Err(error) = node.stop() else { return true };
    let is_damage = matches!(error.downcast_ref(), Some(StoreError::IndexDamaged { .. }));
    assert!(is_damage, "{what}: it does not stop: {error:?}");
    node.start().unwrap_or_else(|error| panic!("{what}: it does not start after that: {error:?}"));
    let _ = kura::core::store::recount::recount(node.store());
    made_anew(node, what);
    false
}

/// What it holds once its keeper has made the index anew, if that was damaged.
fn made_anew(node: &mut StepNode, what: &str) -> (usize, usize) {
    node.oracle().may_go(|_| true);
    node.keep_store().unwrap_or_else(|error| panic!("{what}: it is not made anew: {error:?}"));
    holds(node, what)
}

/// How many artifacts of the template are there, in files and in the index. None has other bytes than it should.
fn holds(node: &StepNode, what: &str) -> (usize, usize) {
    let oracle = node.oracle().clone();
    let (mut files, mut inline) = (0, 0);
    for (name, values) in &oracle.values {
        let place = node.record(name).and_then(|record| record.body);
        let found = node.read(name);
        assert!(values.contains(&found), "{what}: {name:?} has other bytes");
        match place {
            Some(_) if found.is_none() || name.0 == AFTER => {}
            Some(BodyPlace::File(_)) => files += 1,
            Some(BodyPlace::Inline(_)) => inline += 1,
            None => {}
        }
    }
    (files, inline)
}

fn index_files(layout: &Layout, is_meant: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let files = files_below(&layout.index()).into_iter();
    files.filter(|path| path.file_name().is_some_and(|name| is_meant(&name.to_string_lossy()))).collect()
}

/// Every harm to each of these files; told what it came to.
fn each_harm(files: impl Fn(&Layout) -> Vec<PathBuf>, judge: impl Fn(Harm, &Path, End)) {
    let (template, oracle) = template();
    let mut tried = 0;
    for number in 0.. {
        let Some(meant) = files(&Layout::with_default_tmp(template.path())).into_iter().nth(number) else { break };
        for harm_done in HARMS {
            let root = copy(template.path());
            let path = root.path().join(meant.strip_prefix(template.path()).expect("a path in the data dir"));
            harm(&path, harm_done);
            let file = path.file_name().map(Path::new).expect("a name").to_path_buf();
            let end = comes_to(root.path(), &oracle, &format!("{harm_done:?} of {}", file.display()));
            println!("{harm_done:?} of {}: {end:?}", file.display());
            judge(harm_done, &file, end);
            tried += 1;
        }
    }
    assert!(tried >= HARMS.len(), "nothing was damaged");
}

/// All there is in files.
const FILES: usize = 40;

#[test]
fn a_damaged_beginning_of_the_index_is_made_anew_from_body_files() {
    let files = |layout: &Layout| index_files(layout, |name| name == "CURRENT" || name.starts_with("MANIFEST"));
    each_harm(files, |_, _, end| assert!(end.files_kept == FILES, "{end:?}"));
}

#[test]
fn damaged_tables_of_the_index_cost_no_body_that_lies_in_a_file() {
    let files = |layout: &Layout| index_files(layout, |name| name.ends_with(".sst"));
    each_harm(files, |_, _, end| assert!(end.files_kept == FILES, "{end:?}"));
}

/// What only the log knew is lost with it, but for deletes.
#[test]
fn a_damaged_log_of_the_index_undoes_no_delete_and_costs_only_what_it_held() {
    let files = |layout: &Layout| index_files(layout, |name| name.ends_with(".log"));
    each_harm(files, |_, _, end| assert!(end.files_kept >= FILES / 2, "{end:?}"));
}

#[test]
fn damaged_options_and_the_name_of_the_index_cost_nothing() {
    let files = |layout: &Layout| index_files(layout, |name| name.starts_with("OPTIONS") || name == "IDENTITY");
    each_harm(files, |harm, _, end| {
        let is_all_there = end.inline_kept == FILES || harm == Harm::Folder;
        assert!(end.files_kept == FILES && is_all_there, "{harm:?}: {end:?}");
    });
}

#[test]
fn a_damaged_log_of_deletes_undoes_none() {
    let files = |layout: &Layout| vec![layout.tombstones_log()];
    each_harm(files, |_, _, end| assert!(end.files_kept == FILES && end.inline_kept == FILES, "{end:?}"));
}

#[test]
fn each_damaged_body_is_a_miss_and_no_other_is() {
    let files = |layout: &Layout| {
        let mut bodies = files_below(&layout.bodies().join("0"));
        bodies.truncate(2);
        bodies
    };
    each_harm(files, |harm, _, end| {
        // A byte of the footer is none of the body.
        let lost = usize::from(harm != Harm::CutTheEnd && harm != Harm::FlipNearTheEnd);
        assert!(end.files_kept + lost >= FILES && end.inline_kept == FILES, "{harm:?}: {end:?}");
    });
}

/// An operator puts a copy of the index back that is older than the rest.
#[test]
fn an_older_copy_of_the_index_undoes_no_delete_and_takes_writes() {
    let folder = folder();
    let mut node = StepNode::at(folder.path(), Oracle::default());
    node.start().expect("starting");
    node.put(&name("ios", "first"), &file(1)).expect("a put");
    node.put(&name("gone", "first"), &file(1)).expect("a put");
    node.kill();
    let copied = copy(&node.layout().index());
    // Some opens later, numbers have risen by extents.
    for round in 0..3_u8 {
        node.start().expect("starting");
        node.put(&name("ios", &format!("later-{round}")), &file(round)).expect("a put");
        if round == 1 {
            node.delete("gone").expect("a delete");
        }
        node.kill();
    }
    fs::remove_dir_all(node.layout().index()).expect("removing the index");
    fs::rename(copied.path(), node.layout().index()).expect("putting the copy back");
    let oracle = node.oracle().clone();
    comes_to(folder.path(), &oracle, "an older index");
}

#[test]
fn without_its_identity_a_data_dir_is_refused_and_left_alone() {
    for harm_done in HARMS {
        let (template, oracle) = template();
        let before = files_below(template.path());
        let identity = Layout::with_default_tmp(template.path()).identity();
        let whole = fs::read(&identity).expect("the identity");
        harm(&identity, harm_done);
        let mut node = StepNode::at(template.path(), oracle.clone());
        let Err(error) = node.start() else {
            // What was changed says nothing that matters.
            assert!(matches!(harm_done, Harm::Flip | Harm::FlipNearTheEnd), "{harm_done:?} goes unnoticed");
            continue;
        };
        println!("{harm_done:?}: {error:#}");
        if identity.is_dir() {
            fs::remove_dir(&identity).expect("removing the folder");
        }
        fs::write(&identity, whole).expect("putting the identity back");
        assert_eq!(files_below(template.path()), before, "{harm_done:?}: something was touched");
        let end = comes_to(template.path(), &oracle, "with its identity again");
        assert_eq!((end.files_kept, end.inline_kept, end.was_rebuilt), (FILES, FILES, false));
    }
}

/// The marker tells a bodies folder that is not there from one whose bodies are gone.
#[test]
fn without_the_marker_nothing_is_believed_gone() {
    let (template, oracle) = template();
    let marker = Layout::with_default_tmp(template.path()).bodies_marker();
    fs::remove_file(&marker).expect("removing the marker");
    let bodies = Layout::with_default_tmp(template.path()).bodies();
    let aside = template.path().join("tmp/aside");
    fs::create_dir_all(template.path().join("tmp")).expect("a folder");
    fs::rename(&bodies, &aside).expect("moving the bodies away");
    fs::create_dir(&bodies).expect("an empty folder");
    let mut node = StepNode::at(template.path(), oracle.clone());
    let names: Vec<Name> = oracle.values.keys().filter(|name| name.1.starts_with("file-")).cloned().collect();
    if node.start().is_ok() {
        for name in &names {
            assert_eq!(node.read(name), None);
            assert!(node.record(name).is_some(), "{name:?} was withdrawn although its folder is gone");
        }
        node.kill();
    }
}
