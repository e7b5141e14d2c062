//! The power goes under a node that catches up from one peer while clients write to it and another peer follows it.
//!
//! How it works: what such a node takes from its peer is handed on before it is durable, so the follower may know rows that
//! the loss takes back; the numbers they had are given to others afterwards. The node is started again where it was, under
//! its own address, several times, each time while the follower follows. In the end all must agree, and no client may miss
//! what it was promised.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::left_behind::{assert_accounts_agree, open};
use crate::power_loss::{Ledger, WRITERS, complaint, hold, lock, settle_under_way, write, written};
use crate::support::bodies::SplitMix;
use crate::support::inspect::{artifacts, metric};
use crate::support::node::Node;
use crate::support::throttle::Throttle;
use crate::support::traffic::Artifact;
use crate::support::wait::{alone, eventually};
use crate::volume::{Kind, Volume};

const MIB: u64 = 1 << 20;

/// So much that bodies ride along.
const VOLUME_BYTES: u64 = 512 * MIB;

/// What the peer has: small bodies, and a long one among them.
const SMALL: u64 = 5_000;
const LONG_BYTES: u64 = 22 * MIB;

/// Bytes a second, for the node that catches up.
const RATE: u64 = 5 * MIB;

/// How often the power goes, and after how many more artifacts and writes at least.
const LOSSES: u64 = 4;
const ARTIFACTS_BETWEEN: u64 = 300;
const WRITES_BETWEEN: u64 = 20;

const WITHIN: Duration = Duration::from_secs(120);

fn fill(source: &Node) {
    std::thread::scope(|scope| {
        for part in 0..4 {
            scope.spawn(move || {
                for number in (part..SMALL).step_by(4) {
                    let length = 1 + SplitMix::new(number).next() % 9_000;
                    Artifact::new(number + 1, length).store(source).expect("a write");
                }
            });
        }
    });
    Artifact::new(SMALL + 1, LONG_BYTES).store(source).expect("a write");
}

fn held(node: &Node) -> u64 {
    metric(node, "kura_store_artifacts", &[]) as u64
}

/// Clients write until the power goes. What is left of the volume, and each client's last word.
fn lose_power(node: &mut Node, volume: Volume, ledgers: &[Mutex<Ledger>], random: &mut SplitMix) -> Volume {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (writer, ledger) in (0..).zip(ledgers) {
            let (client, stop) = (node.client(), &stop);
            scope.spawn(move || write(writer, client, ledger, stop));
        }
        let (artifacts, writes) = (held(node) + ARTIFACTS_BETWEEN, written(ledgers) + WRITES_BETWEEN);
        eventually("artifacts and writes", WITHIN, || match (held(node), written(ledgers)) {
            (held, written) if held >= artifacts && written >= writes => Ok(()),
            (held, written) => Err(format!("{held} of {artifacts} artifacts, {written} of {writes} writes")),
        });
        std::thread::sleep(Duration::from_micros(random.next() % 300_000));
        hold(node);
        stop.store(true, Ordering::SeqCst);
        println!("{} artifacts were asked for, {} writes acknowledged", artifacts, written(ledgers));
        volume.lose_power(|| node.kill())
    })
}

/// What was promised is there, and what had no answer is settled one way or the other.
fn check_promises(node: &Node, ledgers: &[Mutex<Ledger>]) {
    for (writer, ledger) in (0..).zip(ledgers) {
        let mut ledger = lock(ledger);
        let complaint = complaint(writer, node.client(), &ledger);
        assert_eq!(complaint, None, "{}", node.name);
        settle_under_way(writer, node.client(), &mut ledger);
    }
}

fn check_left(node: &Node) {
    let doctor = node.run(&["doctor", "--offline", "--verify", "all", "--fail-on", "fail"]);
    assert!(doctor.status.success(), "{}", String::from_utf8_lossy(&doctor.stdout));
    assert_accounts_agree(&open(node));
}

fn serving_survives(kind: Kind) {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("making a folder");
    let [mut source, mut node, mut follower] = ["source", "n", "follower"].map(|name| Node::new(name, folder.path()));
    source.set("DURABILITY", "process");
    source.start_ready();
    fill(&source);
    let relay = Throttle::before(source.internal_port);
    relay.set_rate(RATE);
    node.set("PEERS", &relay.url());
    follower.set("PEERS", &node.internal_url());
    std::fs::create_dir(node.data_dir()).expect("making the mount point");
    let image = tempfile::tempdir().expect("making a folder for the image");
    let mut volume = Volume::make(kind, &node.data_dir(), image, VOLUME_BYTES, &[]);
    let ledgers: Vec<Mutex<Ledger>> = (0..WRITERS).map(|_| Mutex::default()).collect();
    let mut random = SplitMix::new(kind as u64);
    node.start();
    follower.start();
    for loss in 0..LOSSES {
        wait_for_answers(&node);
        volume = lose_power(&mut node, volume, &ledgers, &mut random);
        check_left(&node);
        node.start();
        wait_for_answers(&node);
        println!("after loss {loss}: {} artifacts, the follower has {}", held(&node), held(&follower));
        check_promises(&node, &ledgers);
    }
    relay.set_rate(0);
    eventually("all agree", WITHIN, || {
        let [theirs, ours, followed] = [artifacts(&source)?, artifacts(&node)?, artifacts(&follower)?];
        let missing = theirs.difference(&ours).count();
        let differing: Vec<_> = ours.symmetric_difference(&followed).take(3).collect();
        if missing == 0 && differing.is_empty() { Ok(()) } else { Err(format!("{missing} missing, {differing:?}")) }
    });
    check_promises(&node, &ledgers);
    check_promises(&follower, &ledgers);
    node.kill();
    drop(volume);
}

/// Reads are answered from memory and disk long before all is here.
fn wait_for_answers(node: &Node) {
    eventually(&format!("answers of {}", node.name), WITHIN, || {
        let reply = node
            .client()
            .get("/ccache/writer0/00/0000000000000000000000000000000")
            .map_err(|error| error.to_string())?;
        if reply.status == 503 { Err("503") } else { Ok(()) }.map_err(ToOwned::to_owned)
    });
}

#[test]
fn serving_while_catching_up_survives_power_loss_on_ext4() {
    serving_survives(Kind::Ext4);
}

#[test]
fn serving_while_catching_up_survives_power_loss_on_xfs() {
    serving_survives(Kind::Xfs);
}
