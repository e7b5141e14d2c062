//! The power goes while clients write: what was acknowledged is there afterwards, in whatever state the filesystem was.
//!
//! How it works: a node writes to a filesystem in a loop mount. Its process is stopped, not killed, and the image behind
//! the mount is copied: it holds what the filesystem gave to its device so far, and nothing of what only lies in memory
//! (data, directory entries and the index's log that nobody synced). The copy is mounted, which replays the
//! filesystem's journal, and another node starts on it. Then the first one goes on, towards the next loss.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::bodies::{SeededBody, SplitMix};
use crate::support::http::{Body, Client};
use crate::support::node::Node;
use crate::support::wait::eventually;
use crate::volume::{Kind, Volume};

/// Clients at a time, each with a namespace of its own.
pub const WRITERS: u64 = 3;

/// Few, so that most writes replace a body.
const KEYS: u64 = 8;

/// How often the power goes in one test.
const LOSSES: u64 = 4;

/// How long some dozens of small writes may take on a busy machine.
const WRITTEN_WITHIN: Duration = Duration::from_secs(60);

/// A client's last word: which write of each key was acknowledged last, and what was on its way.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    written: BTreeMap<u64, u64>,
    under_way: Option<Change>,
    rounds: u64,
    writes: u64,
    deletes: u64,
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Put { key: u64, round: u64 },
    Delete,
}

fn body(writer: u64, key: u64, round: u64) -> Vec<u8> {
    let seed = (writer << 48) | (key << 32) | round;
    // Most lie inside the index, some are files of their own.
    let length = SplitMix::new(seed).next() % if round.is_multiple_of(3) { 200_000 } else { 5_000 };
    SeededBody::new(seed, 1 + length).into_vec()
}

fn path(writer: u64, key: u64) -> String {
    format!("/ccache/writer{writer}/{key:02x}/{key:031x}")
}

/// A ledger, whoever died with it.
pub fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes and deletes until told to stop. What is refused is an error: nothing here is full or broken. What had no answer
/// when it was told to stop stays under way.
pub fn write(writer: u64, client: Client, ledger: &Mutex<Ledger>, stop: &AtomicBool) {
    let mut random = SplitMix::new(writer);
    let first = lock(ledger).rounds + 1;
    for round in first.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        lock(ledger).rounds = round;
        let key = random.next() % KEYS;
        let change = if random.next().is_multiple_of(12) { Change::Delete } else { Change::Put { key, round } };
        lock(ledger).under_way = Some(change);
        let reply = match change {
            Change::Put { .. } => client.put(&path(writer, key), &body(writer, key, round)),
            Change::Delete => {
                let path = format!("/api/cache/clean?tenant_id=default&namespace_id=writer{writer}");
                client.send("DELETE", &path, &[], Body::Empty)
            }
        };
        let status = match reply {
            Ok(reply) => reply.status,
            Err(_) if stop.load(Ordering::SeqCst) => return,
            Err(error) => panic!("{change:?} of writer {writer}: {error}"),
        };
        assert!((200..300).contains(&status), "{change:?} of writer {writer}: {status}");
        let mut ledger = lock(ledger);
        ledger.under_way = None;
        match change {
            Change::Put { key, round } => {
                ledger.written.insert(key, round);
                ledger.writes += 1;
            }
            Change::Delete => {
                ledger.written.clear();
                ledger.deletes += 1;
            }
        }
    }
}

/// What is wrong with what a node holds of this writer.
pub fn complaint(writer: u64, client: Client, ledger: &Ledger) -> Option<String> {
    let mut lost = Vec::new();
    for key in 0..KEYS {
        let reply = client.get(&path(writer, key)).expect("a GET");
        let found = match reply.status {
            200 => Some(reply.bytes().expect("a body")),
            404 => None,
            status => return Some(format!("GET of key {key}: {status}")),
        };
        let is_round = |round: u64| found.as_ref() == Some(&body(writer, key, round));
        let is_expected = match ledger.written.get(&key) {
            Some(round) => is_round(*round),
            None => found.is_none(),
        };
        let is_newer = matches!(ledger.under_way, Some(Change::Put { key: at, round }) if at == key && is_round(round));
        if !is_expected && !is_newer {
            lost.push((key, ledger.written.get(&key).copied(), found.map(|body| body.len())));
        }
    }
    // A delete that was not acknowledged is there as a whole or not at all.
    let is_deleted = matches!(ledger.under_way, Some(Change::Delete))
        && lost.len() == ledger.written.len()
        && lost.iter().all(|(_, _, found)| found.is_none());
    (!lost.is_empty() && !is_deleted).then(|| format!("writer {writer}: {lost:?} of {ledger:?}"))
}

/// What of a change that had no answer has come to be, as a node shows it. Whoever was asked counts from then on.
pub fn settle_under_way(writer: u64, client: Client, ledger: &mut Ledger) {
    let is_there = |key: u64, round: u64| {
        let reply = client.get(&path(writer, key)).expect("a GET");
        reply.status == 200 && reply.bytes().expect("a body") == body(writer, key, round)
    };
    match ledger.under_way.take() {
        Some(Change::Put { key, round }) if is_there(key, round) => drop(ledger.written.insert(key, round)),
        Some(Change::Delete) if !ledger.written.iter().any(|(key, round)| is_there(*key, *round)) => {
            ledger.written.clear();
        }
        _ => {}
    }
}

/// Writes that were acknowledged.
pub fn written(ledgers: &[Mutex<Ledger>]) -> u64 {
    ledgers.iter().map(|ledger| lock(ledger).writes).sum()
}

/// Starts a node on what is left of the volume and holds it against the ledgers.
fn check(volume: &Volume, folder: &std::path::Path, loss: u64, ledgers: &[Ledger]) {
    let mut node = Node::new(&format!("after-{loss}"), folder);
    std::fs::create_dir(node.data_dir()).expect("making the mount point");
    let _left = volume.after_power_loss(&node.data_dir());
    node.start_ready();
    let complaints: Vec<String> =
        (0..).zip(ledgers).filter_map(|(writer, ledger)| complaint(writer, node.client(), ledger)).collect();
    node.kill();
    assert!(complaints.is_empty(), "after loss {loss}: {complaints:#?}");
}

fn acknowledged_writes_survive(kind: Kind) {
    let folder = tempfile::tempdir().expect("making a folder");
    let mut node = Node::new("n", folder.path());
    std::fs::create_dir(node.data_dir()).expect("making the mount point");
    let volume = Volume::mount(kind, &node.data_dir());
    node.start_ready();
    let ledgers: Vec<Mutex<Ledger>> = (0..WRITERS).map(|_| Mutex::default()).collect();
    let stop = AtomicBool::new(false);
    let mut random = SplitMix::new(1);
    std::thread::scope(|scope| {
        let _stop_at_the_end = StopAtTheEnd { stop: &stop, node: &node };
        for (writer, ledger) in (0..).zip(&ledgers) {
            let (client, stop) = (node.client(), &stop);
            scope.spawn(move || write(writer, client, ledger, stop));
        }
        for loss in 0..LOSSES {
            let enough = written(&ledgers) + 20 + random.next() % 60;
            eventually("enough writes", WRITTEN_WITHIN, || match written(&ledgers) {
                writes if writes >= enough => Ok(()),
                writes => Err(format!("{writes} of {enough}")),
            });
            std::thread::sleep(Duration::from_micros(random.next() % 20_000));
            hold(&node);
            let now: Vec<Ledger> = ledgers.iter().map(|ledger| lock(ledger).clone()).collect();
            check(&volume, folder.path(), loss, &now);
            node.signal(Signal::CONT);
        }
    });
    let deletes: u64 = ledgers.iter().map(|ledger| lock(ledger).deletes).sum();
    assert!(deletes > 0, "nothing was deleted");
    node.kill();
}

/// Stops every thread of the node. The signal only asks: on a busy machine a thread went on for two more answers, which the
/// ledgers, read at once, did not have.
pub fn hold(node: &Node) {
    node.signal(Signal::STOP);
    let tasks = format!("/proc/{}/task", node.pid());
    eventually("all threads stand still", Duration::from_secs(20), || {
        for task in std::fs::read_dir(&tasks).map_err(|error| error.to_string())?.flatten() {
            // A thread that has ended meanwhile stands still, too.
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
            if !stat.is_empty() && state != Some('T') {
                return Err(stat);
            }
        }
        Ok(())
    });
}

/// However the losses end, the writers are let go, and the node they wait for.
struct StopAtTheEnd<'a> {
    stop: &'a AtomicBool,
    node: &'a Node,
}

impl Drop for StopAtTheEnd<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.node.signal(Signal::CONT);
    }
}

#[test]
fn acknowledged_writes_survive_power_loss_on_ext4() {
    acknowledged_writes_survive(Kind::Ext4);
}

#[test]
fn acknowledged_writes_survive_power_loss_on_xfs() {
    acknowledged_writes_survive(Kind::Xfs);
}
