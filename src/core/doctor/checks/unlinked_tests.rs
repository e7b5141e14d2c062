//! Real handles to real files: the test process is the node that holds them.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;

use super::*;
use crate::core::doctor::context::Vantage;
use crate::core::doctor::finding::Status;
use crate::core::doctor::live::ControlStatus;
use crate::core::doctor::test_support::{context, look};

/// What the check says of a node that is this process.
fn looked(data_dir: &Path) -> Outcome {
    let mut context = context(data_dir);
    context.vantage = Vantage::Live(Box::new(ControlStatus { pid: std::process::id(), ..ControlStatus::default() }));
    look(&DeletedButOpen, &context)
}

fn filled(file: &File, bytes: u64) {
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
}

// One test, so that no other one of this module has files of the same volume open meanwhile.
#[test]
fn a_deleted_file_counts_while_it_is_open_and_a_named_or_staged_one_does_not() {
    let root = tempfile::tempdir().unwrap();
    let before = looked(root.path());
    assert_eq!(before.status, Status::Ok, "{before:?}");
    let path = root.path().join("body");
    let body = File::create_new(&path).unwrap();
    filled(&body, HELD_BYTES_MIN);
    assert_eq!(looked(root.path()).status, Status::Ok, "it has a name");
    let flags = i32::try_from(rustix::fs::OFlags::TMPFILE.bits()).unwrap();
    let staged = File::options().write(true).custom_flags(flags).open(root.path()).unwrap();
    filled(&staged, HELD_BYTES_MIN);
    assert_eq!(looked(root.path()).status, Status::Ok, "it never had one");
    let again = File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let outcome = looked(root.path());
    assert_eq!(outcome.status, Status::Warn, "{outcome:?}");
    let said = outcome.evidence.values();
    assert!(said["bytes"].as_u64().unwrap() >= HELD_BYTES_MIN && said["handles"].as_u64().unwrap() >= 2, "{said:?}");
    let lines = outcome.evidence.details();
    assert!(lines.iter().any(|line| line.contains(path.to_str().unwrap())), "{lines:?}");
    drop((body, again));
    assert_eq!(looked(root.path()).status, Status::Ok, "its last handle is closed");
    drop(staged);
}

#[test]
fn a_process_that_is_gone_leaves_the_check_without_an_answer() {
    assert!(held(u32::MAX, &[1]).unwrap_err().to_string().contains("/proc/4294967295/fd"));
}
