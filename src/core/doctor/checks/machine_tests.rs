//! Limits, real listeners, and the places below volumes.

use std::net::TcpListener;

use super::*;
use crate::core::config::Config;
use crate::core::data_dir::layout::Layout;
use crate::core::data_dir::lock::DataDirLock;
use crate::core::doctor::context::Mode;
use crate::core::doctor::finding::Status;
use crate::core::doctor::test_support::{config, context, context_with, look, store, world};

#[test]
fn the_limit_of_open_files_fails_below_what_a_node_needs_and_warns_below_what_a_burst_does() {
    let status = |limit| limit_judged(limit, 512, "it").status;
    assert_eq!([831, 832, 4095, 4096].map(status), [Status::Fail, Status::Warn, Status::Warn, Status::Ok]);
    assert_eq!(status(u64::MAX), Status::Ok);
    let outcome = limit_judged(256, 128, "the running node");
    assert_eq!(outcome.message, "the running node may have 256 files open");
    assert_eq!(outcome.evidence.values()["needed"], 448);
}

#[test]
fn the_limit_that_binds_a_process_is_read_as_the_kernel_writes_it() {
    let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                  Max open files            1024                 524288               files\n";
    assert_eq!(soft_limit(limits), Some(1024));
    assert_eq!(soft_limit("Max open files  unlimited  unlimited  files"), Some(u64::MAX));
    assert_eq!(soft_limit("Max processes 1 1"), None);
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    assert_eq!(limit_of(std::process::id()), Some(own.unwrap_or(u64::MAX)));
}

#[test]
fn a_port_that_another_process_has_is_named_with_it_unless_the_data_dir_is_held() {
    let root = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let looked = || {
        let config = Config { port, internal_port: 0, ..config(root.path()) };
        look(&ListenerTaken, &context_with(config, Mode::Auto, world()))
    };
    let outcome = looked();
    assert_eq!(outcome.status, Status::Fail);
    let line = &outcome.evidence.details()[0];
    assert!(line.starts_with(&format!("127.0.0.1:{port}: pid {} (", std::process::id())), "{line}");

    let lock = DataDirLock::try_acquire(&Layout::with_default_tmp(root.path()), 1).unwrap();
    assert_eq!(looked().status, Status::Ok, "its own listener");
    drop((lock, listener));
    assert_eq!(looked().status, Status::Ok, "nobody listens any more");
}

#[test]
fn an_empty_data_dir_on_its_parents_volume_and_one_with_an_identity_are_quiet() {
    let root = tempfile::tempdir().unwrap();
    // A test's folder may itself be in a container's layer; there only the second half can be said.
    if !is_overlay(root.path()).unwrap() {
        assert_eq!(look(&DataDirUnmounted, &context(root.path())).status, Status::Ok);
    }
    store(root.path()).close().unwrap();
    assert_eq!(look(&DataDirUnmounted, &context(root.path())).status, Status::Ok);
}

#[test]
fn mount_points_are_read_from_fstab() {
    let fstab = "# comment /no ext4\nUUID=1 / ext4\nUUID=2 /srv/build\\040cache ext4 noauto 0 0\nUUID=3 none swap\n\n";
    assert_eq!(mount_points(fstab).collect::<Vec<_>>(), [PathBuf::from("/srv/build cache")]);
    assert!(is_mount_point(Path::new("/proc")) && is_mount_point(Path::new("/")));
    assert!(!is_mount_point(Path::new("/proc/self")), "a folder inside a mount");
}
