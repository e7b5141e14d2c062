//! A volume that takes no writes, by each sign of it, and the quiet one.

use super::*;
use crate::core::doctor::context::Mode;
use crate::core::doctor::finding::Status;
use crate::core::doctor::live::{ControlStatus, StoreStatus};
use crate::core::doctor::test_support::{config, context, context_with, look, world};

#[test]
fn a_volume_for_writing_is_quiet() {
    let root = tempfile::tempdir().unwrap();
    assert_ne!(look(&DataDirReadOnly, &context(root.path())).status, Status::Fail);
}

#[test]
fn a_mount_that_is_read_only_fails() {
    // Kernels mount /sys read-only in containers and /proc/sys nowhere; a bind mount needs privileges the test may
    // lack, so any read-only mount of this machine will do.
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let read_only = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (_, folder, _, options) = (words.next()?, words.next()?, words.next()?, words.next()?);
        (options.split(',').any(|option| option == "ro") && Path::new(folder).is_dir()).then(|| folder.to_owned())
    });
    for folder in read_only {
        assert_eq!(look(&DataDirReadOnly, &context(Path::new(&folder))).status, Status::Fail, "{folder}");
    }
}

/// A data dir on a volume of which `/proc` and `/sys` below a folder of their own say this.
fn told(super_options: &str, errors: &str) -> (tempfile::TempDir, Context) {
    let root = tempfile::tempdir().unwrap();
    let data_dir = root.path().join("data");
    std::fs::create_dir_all(&data_dir).unwrap();
    let device = std::fs::metadata(&data_dir).unwrap().dev();
    let device = format!("{}:{}", major(device), minor(device));
    std::fs::create_dir_all(root.path().join("proc/self")).unwrap();
    let mounts = format!(
        "22 1 0:21 / /proc rw - proc proc rw,shutdown\n\
         43 27 {device} / /data ro,relatime shared:7 - ext4 /dev/mapper/cache {super_options}\n"
    );
    std::fs::write(root.path().join("proc/self/mountinfo"), mounts).unwrap();
    std::fs::create_dir_all(root.path().join("sys/dev/block")).unwrap();
    std::os::unix::fs::symlink("../../devices/virtual/block/dm-3", root.path().join("sys/dev/block").join(&device))
        .unwrap();
    let counted = root.path().join("sys/fs/ext4/dm-3");
    std::fs::create_dir_all(&counted).unwrap();
    std::fs::write(counted.join("errors_count"), errors).unwrap();
    let world = crate::core::doctor::context::World { root: root.path().to_owned(), ..world() };
    let context = context_with(config(&data_dir), Mode::Offline, world);
    (root, context)
}

#[test]
fn a_filesystem_that_refuses_writes_on_a_mount_that_says_rw_fails() {
    for word in ["emergency_ro", "shutdown"] {
        let (_root, context) = told(&format!("rw,errors=remount-ro,{word}"), "2\n");
        let outcome = look(&DataDirReadOnly, &context);
        assert_eq!(outcome.status, Status::Fail, "{word}");
        assert_eq!(outcome.evidence.values()["option"], word);
        assert_eq!(outcome.evidence.values()["filesystem_errors"], 2);
    }
    let (_root, context) = told("rw,errors=remount-ro", "0\n");
    assert_eq!(look(&DataDirReadOnly, &context).status, Status::Ok);
}

#[test]
fn the_mount_of_a_path_that_answers_nothing_is_known_by_its_name() {
    let mounts = "22 1 0:21 / / rw - ext4 /dev/vda rw\n\
                  43 22 8:1 / /srv rw,relatime - ext4 /dev/sda rw\n\
                  44 43 8:2 / /srv/cache rw shared:7 - ext4 /dev/sdb rw\n\
                  45 44 8:3 / /srv/cache rw shared:8 - xfs /dev/sdc rw,inode64\n\
                  46 22 8:4 / /srv/cached rw - ext4 /dev/sdd rw\n";
    assert_eq!(mounted_at(mounts, Path::new("/srv/cache/kura")), Some(("xfs", "/dev/sdc")));
    assert_eq!(mounted_at(mounts, Path::new("/srv/other")), Some(("ext4", "/dev/sda")));
    assert_eq!(mounted_at("", Path::new("/srv")), None);
    assert!(is_shut_down(&std::io::Error::from_raw_os_error(5)));
    assert!(!is_shut_down(&std::io::Error::from_raw_os_error(2)));
}

#[test]
fn errors_that_no_check_has_mended_warn() {
    let (_root, context) = told("rw,errors=remount-ro", "1\n");
    let outcome = look(&DataDirReadOnly, &context);
    assert_eq!((outcome.status, &outcome.evidence.values()["filesystem_errors"]), (Status::Warn, &1.into()));
    let (_root, context) = told("rw", "what no kernel says");
    assert_eq!(look(&DataDirReadOnly, &context).status, Status::Ok, "not known");
}

#[test]
fn a_running_node_whose_writes_the_filesystem_refuses_fails() {
    let status = |reason: &str, errors: &str| {
        let (_root, mut context) = told("rw", errors);
        let store = StoreStatus { write_stopped: Some(reason.to_owned()), ..StoreStatus::default() };
        context.vantage = Vantage::Live(Box::new(ControlStatus { store: Some(store), ..ControlStatus::default() }));
        look(&DataDirReadOnly, &context).status
    };
    assert_eq!(status("IO error: While open a file: /d/index/000004.log: Read-only file system", "0"), Status::Fail);
    assert_eq!(status(&std::io::Error::from_raw_os_error(30).to_string(), "0"), Status::Fail);
    let sync = "IO error: While fdatasync: /d/index/000004.log: Input/output error";
    assert_eq!(
        (status(sync, "1"), status(sync, "0")),
        (Status::Fail, Status::Ok),
        "a disk may fail without the filesystem"
    );
    assert_eq!(status("IO error: No space left on device", "1"), Status::Warn);
}
