//! `kura bootstrap` from outside: the ends of a run that `tests/seed_peer` does not already show.

use crate::kura::{Ended, Kura};
use crate::seed_peer::{Artifact, Fault, SeedPeer, gradle};

fn bootstrap(kura: &Kura, peer: &str) -> Ended {
    kura.run(&["bootstrap", "--data-dir", "data", "--output", "json", "--peer", peer])
}

#[tokio::test(flavor = "multi_thread")]
async fn only_bad_copies_exit_15() {
    let (kura, peer) = (Kura::new(), SeedPeer::start().await);
    peer.fill(5, 1000);
    let id = peer.add(Artifact { fault: Some(Fault::Longer), ..gradle("bad", vec![7; 1000]) });
    let ended = bootstrap(&kura, &peer.url);
    assert_eq!(ended.code, Some(15), "{} {}", ended.stdout, ended.stderr);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&report["bad_copy"], &report["applied"]), (&1.into(), &5.into()));
    assert_eq!(report["items"][0]["artifact_id"], id);
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_running_node_it_exits_11_and_says_where_to_look() {
    let (kura, peer) = (Kura::new(), SeedPeer::start().await);
    let mut node = kura.start(&["serve", "--data-dir", "data", "--port", "0", "--internal-port", "0"]);
    node.wait_for("store_opened");
    let ended = bootstrap(&kura, &peer.url);
    let error = ended.exit_error();
    assert_eq!((ended.code, &error["code"]), (Some(11), &11.into()), "{}", ended.stderr);
    assert!(error["message"].as_str().unwrap().contains(&node.0.id().to_string()), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("kura"), "{error}");
    assert_eq!(node.signal("TERM").code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_exits_10() {
    let peer = SeedPeer::start().await;
    peer.fill(5, 1000);
    let script = format!("\"$2\" bootstrap --data-dir \"$1/data\" --peer {} --output json", peer.url);
    let ended = Kura::new().on_a_full_volume(&script);
    assert_eq!((ended.code, &ended.exit_error()["code"]), (Some(10), &10.into()), "{}", ended.stderr);
}

#[test]
fn without_a_peer_it_exits_13() {
    let ended = Kura::new().run(&["bootstrap", "--data-dir", "data", "--output", "json"]);
    assert_eq!((ended.code, &ended.exit_error()["code"]), (Some(13), &13.into()), "{}", ended.stderr);
}

#[test]
fn what_is_not_there_yet_is_an_unknown_flag() {
    let ended = Kura::new().run(&["bootstrap", "--limit-rate", "1MiB/s", "--deadline", "15m"]);
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("'--limit-rate'") && ended.stderr.contains("'--deadline'"), "{}", ended.stderr);
}

#[test]
fn a_signal_ends_it_as_a_shell_expects() {
    use std::os::unix::process::ExitStatusExt;
    // Connections are accepted by the kernel and nobody ever answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    for (name, number) in [("INT", 2), ("TERM", 15)] {
        let kura = Kura::new();
        let mut run = kura.start(&["bootstrap", "--data-dir", "data", "--peer", &url]);
        run.wait_for("");
        let status = run.signal(name);
        assert_eq!((status.signal(), status.code()), (Some(number), None), "{status}");
    }
}
