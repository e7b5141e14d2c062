//! What the data-dir lock promises: it excludes, it can be looked at, and it needs no space.

use super::*;

fn data_dir() -> (tempfile::TempDir, Layout) {
    let root = tempfile::tempdir().unwrap();
    let layout = Layout::with_default_tmp(root.path());
    (root, layout)
}

fn is_held_by_other(result: Result<DataDirLock, LockError>) -> bool {
    matches!(result, Err(LockError::Held { .. }))
}

#[test]
fn two_opens_in_one_process_exclude_each_other() {
    let (_root, layout) = data_dir();
    let first = DataDirLock::try_acquire(&layout, 1_700_000_000_000).unwrap();
    let error = DataDirLock::try_acquire(&layout, 2).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("failed to acquire writer lock"), "{text}");
    assert!(text.contains(&format!("pid {}", std::process::id())), "{text}");
    assert!(text.contains("since 2023-11-14T22:13:20Z"), "{text}");
    drop(first);
    drop(DataDirLock::try_acquire(&layout, 3).unwrap());
}

#[test]
fn a_look_sees_the_holder_and_takes_nothing() {
    let (_root, layout) = data_dir();
    assert_eq!(DataDirLock::probe(&layout).unwrap(), LockState::Free);
    assert!(!layout.lock().exists());
    let lock = DataDirLock::try_acquire(&layout, 7).unwrap();
    assert_eq!(DataDirLock::probe(&layout).unwrap(), LockState::Held(LockHolder::current(7)));
    drop(lock);
    assert_eq!(DataDirLock::probe(&layout).unwrap(), LockState::Free);
    assert!(is_held_by_other(
        DataDirLock::try_acquire(&layout, 8).and_then(|_held| DataDirLock::try_acquire(&layout, 9))
    ));
}

#[test]
fn a_seed_era_holder_excludes_and_is_seen() {
    let (_root, layout) = data_dir();
    std::fs::write(layout.lock(), "pid=4242\n").unwrap();
    let theirs = File::open(layout.lock()).unwrap();
    rustix::fs::flock(&theirs, FlockOperation::NonBlockingLockExclusive).unwrap();
    let Err(LockError::Held { holder, .. }) = DataDirLock::try_acquire(&layout, 1) else { panic!("not held") };
    assert_eq!(holder.pid, Some(4242));
    assert!(matches!(DataDirLock::probe(&layout).unwrap(), LockState::Held(holder) if holder.pid == Some(4242)));
    assert_eq!(std::fs::read_to_string(layout.lock()).unwrap(), "pid=4242\n");
}

#[test]
fn we_exclude_a_seed_era_node() {
    let (_root, layout) = data_dir();
    let _ours = DataDirLock::try_acquire(&layout, 1).unwrap();
    let theirs = File::open(layout.lock()).unwrap();
    let refused = rustix::fs::flock(&theirs, FlockOperation::NonBlockingLockExclusive);
    assert_eq!(refused, Err(Errno::WOULDBLOCK));
    assert!(std::fs::read_to_string(layout.lock()).unwrap().starts_with(&format!("pid={}\n", std::process::id())));
}

#[test]
fn the_directory_alone_excludes_and_is_seen_when_nothing_can_be_written() {
    let (root, layout) = data_dir();
    let first = DataDirLock::try_acquire_without_writing(&layout).unwrap();
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    assert!(matches!(DataDirLock::probe(&layout).unwrap(), LockState::Held(_)));
    assert!(is_held_by_other(DataDirLock::try_acquire(&layout, 1)));
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    drop(first);
    assert_eq!(DataDirLock::probe(&layout).unwrap(), LockState::Free);
}

#[test]
fn a_lock_taken_without_a_file_is_completed_later() {
    let (_root, layout) = data_dir();
    let mut lock = DataDirLock::try_acquire_without_writing(&layout).unwrap();
    assert!(lock.complete(5).unwrap());
    let theirs = File::open(layout.lock()).unwrap();
    assert_eq!(rustix::fs::flock(&theirs, FlockOperation::NonBlockingLockExclusive), Err(Errno::WOULDBLOCK));
    assert!(matches!(DataDirLock::probe(&layout).unwrap(), LockState::Held(holder) if holder.since_ms == Some(5)));
}

#[test]
fn a_shorter_holder_leaves_nothing_of_a_longer_one() {
    let (_root, layout) = data_dir();
    std::fs::write(layout.lock(), "x".repeat(5000)).unwrap();
    let _lock = DataDirLock::try_acquire(&layout, 1).unwrap();
    let text = std::fs::read_to_string(layout.lock()).unwrap();
    assert_eq!(LockHolder::parse(&text), LockHolder::current(1));
    assert!(!text.contains('x'));
}

#[test]
fn a_missing_data_dir_is_an_error_and_is_not_made() {
    let (root, _) = data_dir();
    let layout = Layout::with_default_tmp(root.path().join("absent"));
    assert!(matches!(DataDirLock::try_acquire(&layout, 1), Err(LockError::Io { .. })));
    assert!(matches!(DataDirLock::probe(&layout), Err(LockError::Io { .. })));
    assert!(!layout.data_dir().exists());
}
