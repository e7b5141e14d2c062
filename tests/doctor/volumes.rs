//! On volumes that are full or read-only: in a mount namespace of its own, so that nothing else sees them. Where this
//! user may not make one, the tests fail: a test that cannot run has not passed.

use std::path::Path;
use std::process::{Command, Output};

use crate::doctor::Diagnosis;
use crate::support::node::Node;
use crate::support::traffic::Artifact;

/// Runs a shell script in a mount namespace of its own; `$1` is an empty folder, `$2` the binary, `$3` what else is
/// given.
fn in_namespace(folder: &Path, other: &Path, script: &str) -> Output {
    let mut unshare = Command::new("unshare");
    unshare.args(["-rm", "sh", "-c", &format!("mount --make-rprivate / || exit 99; {script}"), "sh"]);
    unshare.arg(folder).arg(env!("CARGO_BIN_EXE_kura")).arg(other);
    unshare.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    unshare.envs([("KURA_PORT", "0"), ("KURA_INTERNAL_PORT", "0")]);
    let output = unshare.output().expect("running unshare");
    let was_refused = output.status.code() == Some(99) || output.stderr.starts_with(b"unshare:");
    assert!(!was_refused, "needs root or user namespaces: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn killed_node(folder: &Path) -> Node {
    let mut node = Node::new("n", folder);
    node.start_ready();
    Artifact::new(1, 100_000).store(&node).unwrap();
    node.kill();
    // As large as the volume here asks for, which is more than the small volumes of these tests hold.
    std::fs::remove_file(node.data_dir().join("ballast")).unwrap();
    node
}

#[test]
fn a_full_volume_is_named_with_what_reclaiming_frees_and_nothing_is_written() {
    let root = tempfile::tempdir().unwrap();
    let node = killed_node(root.path());
    let volume = root.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    // The listing goes before and after the report, on standard error.
    let script = "mount -t tmpfs -o size=64m tmpfs \"$1\" || exit 99; cp -a \"$3\" \"$1/data\"; \
                  mkdir -p \"$1/data/tmp/uploads\"; dd if=/dev/zero of=\"$1/data/tmp/uploads/left\" bs=64k 2>/dev/null; \
                  dd if=/dev/zero of=\"$1/data/tmp/uploads/rest\" bs=1 2>/dev/null; \
                  ls -laR --full-time \"$1\" >&2; echo ==== >&2; \
                  \"$2\" doctor --offline --output json --data-dir \"$1/data\"; code=$?; \
                  ls -laR --full-time \"$1\" >&2; exit $code";
    let output = in_namespace(&volume, &node.data_dir(), script);
    let diagnosis = Diagnosis::read(&output);
    assert_eq!((diagnosis.code, diagnosis.with_status("fail")), (3, vec!["DISK_FULL"]), "{}", diagnosis.report);
    let check = diagnosis.check("DISK_FULL");
    assert_eq!(check["evidence"]["free_bytes"], 0);
    assert!(check["remedy"]["text"].as_str().unwrap().starts_with("frees about "), "{check}");
    assert_eq!(check["remedy"]["mutates"], true);
    assert_eq!(diagnosis.status("INDEX_UNREADABLE"), "ok", "reading needs no space");
    assert_eq!(diagnosis.status("BODY_MISSING"), "ok");
    let listings = String::from_utf8_lossy(&output.stderr).into_owned();
    let (before, after) = listings.split_once("====\n").expect("two listings");
    assert_eq!(before, after);
}

#[test]
fn a_read_only_mount_is_named_and_everything_else_is_still_looked_at() {
    let root = tempfile::tempdir().unwrap();
    let node = killed_node(root.path());
    let volume = root.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let script = "mount --bind \"$3\" \"$1\" && mount -o remount,bind,ro \"$1\" || exit 99; \
                  \"$2\" doctor --offline --verify all --output json --data-dir \"$1\"";
    let output = in_namespace(&volume, &node.data_dir(), script);
    let diagnosis = Diagnosis::read(&output);
    assert_eq!(
        (diagnosis.code, diagnosis.with_status("fail")),
        (3, vec!["DATA_DIR_READ_ONLY"]),
        "{}",
        diagnosis.report
    );
    assert_eq!(diagnosis.check("BODY_CORRUPT")["evidence"]["hashed"], 1);
}

#[test]
fn two_mounts_of_one_volume_are_two_mounts() {
    let root = tempfile::tempdir().unwrap();
    let node = killed_node(root.path());
    let volume = root.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let script = "mkdir \"$3.tmp\" && mount --bind \"$3.tmp\" \"$1\" || exit 99; \
                  \"$2\" doctor --offline --only staging --output json --data-dir \"$3\" --tmp-dir \"$1\"";
    let output = in_namespace(&volume, &node.data_dir(), script);
    let diagnosis = Diagnosis::read(&output);
    assert_eq!(diagnosis.status("STAGING_OTHER_DEVICE"), "fail", "{}", diagnosis.report);
    let evidence = &diagnosis.check("STAGING_OTHER_DEVICE")["evidence"];
    assert_eq!(evidence["tmp_device"], evidence["data_device"], "the device number does not tell");
    assert_ne!(evidence["tmp_mount"], evidence["data_mount"]);
}

#[test]
fn an_empty_data_dir_in_a_containers_layer_is_named_and_a_mount_in_it_is_quiet() {
    let root = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs tmpfs \"$1\" && cd \"$1\" && mkdir lower upper work root || exit 99; \
                  mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay root || exit 99; \
                  mkdir root/data; case $3 in */mounted) mount -t tmpfs tmpfs root/data || exit 99;; esac; \
                  \"$2\" doctor --offline --only DATA_DIR_MISSING,DATA_DIR_UNMOUNTED --output json --data-dir root/data";
    let looked = |case: &str| Diagnosis::read(&in_namespace(root.path(), &root.path().join(case), script));
    let layer = looked("layer");
    assert_eq!((layer.code, layer.with_status("fail")), (3, vec!["DATA_DIR_UNMOUNTED"]), "{}", layer.report);
    let mounted = looked("mounted");
    assert_eq!((mounted.code, mounted.status("DATA_DIR_UNMOUNTED")), (0, "ok"), "{}", mounted.report);
}
