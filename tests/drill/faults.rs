//! Ten ways to break a node, each as it happens on an evening: nothing is done by kura's own hand.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::evening::{Drill, SMALL};
use crate::support::wait::eventually;
use crate::volume::fill;

/// Something that is broken, where, and what the doctor has to call it.
pub struct Fault {
    pub what: &'static str,
    pub code: &'static str,
    pub node: usize,
    pub induce: fn(&mut Drill),
}

pub const FAULTS: [Fault; 10] = [
    Fault { what: "uploads leaked beside a running node", code: "STAGING_ORPHANS", node: 0, induce: leak_uploads },
    Fault { what: "parts leaked beyond the staging budget", code: "STAGING_OVER_BUDGET", node: 0, induce: leak_parts },
    Fault { what: "volume full of leaked staging", code: "DISK_FULL", node: SMALL, induce: fill_volume },
    Fault { what: "leaked files took all inodes", code: "INODES_LOW", node: SMALL, induce: take_inodes },
    Fault { what: "killed, and nobody started it again", code: "RUN_RECORD_STALE", node: 2, induce: kill },
    Fault { what: "the index lost its CURRENT", code: "INDEX_UNREADABLE", node: 2, induce: lose_current },
    Fault { what: "down while the others were written to", code: "PEER_DIVERGED", node: 2, induce: miss_writes },
    Fault { what: "killed while it filled a new volume", code: "BOOTSTRAP_INCOMPLETE", node: 2, induce: break_off },
    Fault { what: "a data dir that is a copy", code: "NODE_ID_DUPLICATE", node: 2, induce: copy_data_dir },
    Fault { what: "a file that belongs to root", code: "DATA_DIR_OWNER", node: 2, induce: give_to_root },
];

/// What was written a shorter while ago is not missed yet.
const ON_ITS_WAY: Duration = Duration::from_secs(31);

/// The user of a server that is not root: nobody, on every Linux.
const NOBODY: u32 = 65534;

fn leak_uploads(drill: &mut Drill) {
    let area = drill.mesh.nodes[0].tmp_dir().join("uploads");
    for number in 0..20 {
        fs::write(area.join(format!("left-{number}")), vec![7; 100_000]).expect("leaking an upload");
    }
}

/// Sparse: what counts is what the ledger would count.
fn leak_parts(drill: &mut Drill) {
    let node = &mut drill.mesh.nodes[0];
    node.stop();
    node.set("TMP_DIR_MAX_BYTES", "67108864");
    node.start_ready();
    let upload = node.tmp_dir().join("parts/0190-abandoned");
    fs::create_dir_all(&upload).expect("leaking an upload in parts");
    for part in 1..=9 {
        let mut file = File::create(upload.join(part.to_string())).expect("leaking a part");
        file.write_all(&vec![7; 8 << 20]).expect("leaking a part");
    }
}

/// As a crash loop leaves it: each process leaked, the last one died of the full volume.
fn fill_volume(drill: &mut Drill) {
    drill.mesh.nodes[SMALL].kill();
    fill(&drill.mesh.nodes[SMALL].tmp_dir());
}

fn take_inodes(drill: &mut Drill) {
    drill.mesh.nodes[SMALL].kill();
    let area = drill.mesh.nodes[SMALL].tmp_dir().join("uploads");
    let taken = (0..100_000).find(|number| File::create(area.join(format!("left-{number}"))).is_err());
    assert!(taken.is_some_and(|number| number > 100), "{taken:?} inodes were free");
}

fn kill(drill: &mut Drill) {
    drill.mesh.nodes[2].kill();
}

fn lose_current(drill: &mut Drill) {
    drill.mesh.nodes[2].kill();
    fs::remove_file(drill.mesh.nodes[2].data_dir().join("index/CURRENT")).expect("losing a file");
}

/// A volume that was detached for a while: the others went on, and nobody has started its node again.
fn miss_writes(drill: &mut Drill) {
    drill.mesh.nodes[2].stop();
    drill.store(0, 6);
    std::thread::sleep(ON_ITS_WAY);
}

/// A new volume, and the init container that fills it is killed with most of it still to come.
fn break_off(drill: &mut Drill) {
    // One that is on its way for ten seconds: shorter ones are staged for some milliseconds each.
    drill.store_one(0, 2_000_000);
    let node = &mut drill.mesh.nodes[2];
    node.stop();
    fs::remove_dir_all(node.data_dir()).expect("emptying the volume");
    let mut run = node.command(&["bootstrap", "--limit-rate", "200KiB/s", "--progress", "none"]);
    let mut child = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starting a run");
    eventually("a body on its way", Duration::from_secs(20), || {
        if stages_a_body(child.id()) { Ok(()) } else { Err("nothing is staged") }
    });
    child.kill().expect("killing the run");
    child.wait().expect("waiting for the run");
}

/// Whether a process holds a file in the area for bodies from peers.
fn stages_a_body(process: u32) -> bool {
    let files = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    let mut targets = files.filter_map(|file| fs::read_link(file.path()).ok());
    targets.any(|target| target.to_string_lossy().contains("/tmp/bootstrap/"))
}

/// A snapshot of one node's volume, restored as another's.
fn copy_data_dir(drill: &mut Drill) {
    let [source, _, copy] = &mut drill.mesh.nodes[..] else { panic!("three nodes") };
    let snapshot = copy.folder.join("snapshot");
    source.stop();
    let copied = Command::new("cp").arg("-a").args([&source.data_dir(), &snapshot]).status().expect("copying a volume");
    assert!(copied.success());
    // The other one is up until then: a node that starts waits a while for peers that do not answer.
    source.start_ready();
    copy.stop();
    fs::remove_dir_all(copy.data_dir()).expect("emptying the volume");
    fs::rename(&snapshot, copy.data_dir()).expect("restoring the snapshot");
}

/// The server is not root, and somebody restored the identity as root.
fn give_to_root(drill: &mut Drill) {
    let node = &mut drill.mesh.nodes[2];
    node.stop();
    drill.users[2] = Some(NOBODY);
    fs::set_permissions(node.folder.parent().expect("a folder"), fs::Permissions::from_mode(0o755)).expect("opening");
    let owner = format!("{NOBODY}:{NOBODY}");
    let given = Command::new("chown").args(["-R", &owner]).arg(node.data_dir()).status().expect("giving it away");
    assert!(given.success());
    node.start_as(Some(NOBODY));
    node.wait_ready(Duration::from_secs(30));
    node.stop();
    let identity = node.data_dir().join("identity");
    chown(&identity, Some(0), Some(0)).expect("taking a file");
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o600)).expect("closing a file");
    node.start_as(Some(NOBODY));
    let ended = eventually("the end of a server that may not read", Duration::from_secs(30), || {
        node.exited().ok_or("it still runs")
    });
    assert!(!ended.success());
}
