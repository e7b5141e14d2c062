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

fn bootstrap_with(kura: &Kura, peer: &str, flags: &[&str]) -> (Ended, serde_json::Value) {
    let always = ["bootstrap", "--data-dir", "data", "--output", "json", "--peer", peer];
    let ended = kura.run(&[&always, flags].concat());
    let report = serde_json::from_str(&ended.stdout).unwrap_or_default();
    (ended, report)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_rate_is_kept() {
    let (kura, peer) = (Kura::new(), SeedPeer::start().await);
    peer.fill(8, 128 << 10);
    let began = std::time::Instant::now();
    let (ended, report) = bootstrap_with(&kura, &peer.url, &["--limit-rate", "512KiB/s"]);
    assert_eq!((ended.code, &report["applied"]), (Some(0), &8.into()), "{}", ended.stderr);
    assert!(began.elapsed() >= std::time::Duration::from_millis(1800), "{:?}", began.elapsed());
    let (ended, _) = bootstrap_with(&kura, &peer.url, &["--limit-rate", "1KiB/s"]);
    assert!(ended.code == Some(2) && ended.stderr.contains("slowest"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_a_stalled_run_with_5_and_the_next_run_goes_on() {
    let (kura, peer) = (Kura::new(), SeedPeer::start().await);
    peer.fill(5, 1000);
    let id = peer.add(Artifact { fault: Some(Fault::Stalled), ..gradle("slow", vec![7; 100_000]) });
    let (ended, report) = bootstrap_with(&kura, &peer.url, &["--deadline", "2s"]);
    assert_eq!((ended.code, &report["stopped_by"]), (Some(5), &"deadline".into()), "{}", ended.stderr);
    assert_eq!((&report["complete"], &report["applied"]), (&false.into(), &5.into()));
    assert!(report["peers"][0]["error"].as_str().unwrap().contains("--deadline"), "{report}");
    assert!(ended.stderr.contains("stopped by --deadline"), "{}", ended.stderr);
    peer.with(|inner| inner.artifacts.get_mut(&id).unwrap().fault = None);
    let (ended, report) = bootstrap_with(&kura, &peer.url, &[]);
    assert_eq!((ended.code, &report["applied"], &report["stopped_by"]), (Some(0), &1.into(), &().into()));
    assert_eq!(peer.body_requests(), 7, "what arrived is not asked for again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_amount_of_bytes_ends_it_with_5_and_deletes_are_exempt_from_every_stop() {
    let (kura, peer) = (Kura::new(), SeedPeer::start().await);
    peer.fill(20, 64 << 10);
    peer.with(|inner| inner.tombstones.insert("gone".to_owned(), 1_750_000_000_000));
    let (ended, report) = bootstrap_with(&kura, &peer.url, &["--max-bytes", "0"]);
    assert_eq!((ended.code, &report["stopped_by"]), (Some(5), &"max_bytes".into()), "{}", ended.stderr);
    assert_eq!((&report["applied"], &report["tombstones_applied"]), (&0.into(), &1.into()), "{report}");
    let (ended, report) = bootstrap_with(&kura, &peer.url, &["--max-bytes", "256KiB", "--concurrency", "1"]);
    assert_eq!(ended.code, Some(5), "{}", ended.stderr);
    let applied = report["applied"].as_u64().unwrap();
    assert!((2..=6).contains(&applied), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_little_free_space_ends_it_with_10_before_anything_is_fetched() {
    let (kura, peer) = (Kura::new(), SeedPeer::start().await);
    peer.fill(3, 1000);
    let (ended, _) = bootstrap_with(&kura, &peer.url, &["--min-free", "100%"]);
    assert_eq!((ended.code, &ended.exit_error()["code"]), (Some(10), &10.into()), "{}", ended.stderr);
    assert_eq!(peer.body_requests(), 0);
    let (ended, _) = bootstrap_with(&kura, &peer.url, &["--min-free", "1MiB"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_json_follow_a_run_to_its_summary() {
    let (kura, peer) = (Kura::new(), SeedPeer::start().await);
    peer.fill(3, 1000);
    let id = peer.add(Artifact { fault: Some(Fault::Refused), ..gradle("bad", vec![7; 1000]) });
    let ended = kura.run(&["bootstrap", "--data-dir", "data", "--output", "jsonl", "--peer", &peer.url]);
    assert_eq!(ended.code, Some(5), "{}", ended.stderr);
    let lines: Vec<serde_json::Value> =
        ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    let of = |kind: &str| lines.iter().filter(|line| line["message_type"] == kind).collect::<Vec<_>>();
    assert_eq!(lines[0]["message_type"], "status");
    assert!(lines[0]["phase"].is_string() && lines[0]["bytes"].is_u64(), "{}", lines[0]);
    assert!(of("item_error").iter().any(|line| line["artifact_id"] == id && line["outcome"] == "failed"));
    assert_eq!(of("summary").len(), 1);
    let summary = lines.last().unwrap();
    assert_eq!((&summary["schema"], &summary["applied"]), (&"kura.bootstrap/v1".into(), &3.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloned_volume_gets_a_store_id_of_its_own_and_keeps_its_data() {
    let (kura, peer) = (Kura::new(), SeedPeer::start().await);
    peer.fill(3, 1000);
    let store_id = || {
        let text = std::fs::read_to_string(kura.path("data/identity")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["store_id"].clone()
    };
    assert_eq!(bootstrap(&kura, &peer.url).code, Some(0));
    let before = store_id();
    let ended = kura.run(&["bootstrap", "--data-dir", "data", "--new-identity"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let after = store_id();
    assert_ne!(before, after);
    assert!(ended.stderr.contains(after.as_str().unwrap()), "{}", ended.stderr);
    let (ended, report) = bootstrap_with(&kura, &peer.url, &[]);
    assert_eq!((ended.code, &report["applied"]), (Some(0), &0.into()), "{}", ended.stderr);
    assert_eq!((store_id(), peer.body_requests()), (after, 3));

    let mut node = kura.start(&["serve", "--data-dir", "data", "--port", "0", "--internal-port", "0"]);
    node.wait_for("store_opened");
    let ended = kura.run(&["bootstrap", "--data-dir", "data", "--new-identity"]);
    assert_eq!(ended.code, Some(11), "a running node is not renamed: {}", ended.stderr);
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

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_made_anew_from_body_files_and_the_rest_comes_from_the_peer() {
    let (kura, peer) = (Kura::new(), SeedPeer::start().await);
    peer.fill(5, 1000);
    (0..5).for_each(|n| drop(peer.add(gradle(&format!("large-{n}"), vec![n; 100_000]))));
    peer.with(|inner| inner.tombstones.insert("gone".to_owned(), 1_750_000_000_000));
    assert_eq!(bootstrap(&kura, &peer.url).code, Some(0));
    let ended = kura.run(&["bootstrap", "--data-dir", "data", "--rebuild-index"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("5 artifacts of 488.2 KiB from body files, 1 delete"), "{}", ended.stderr);

    std::fs::remove_file(kura.path("data/index/CURRENT")).unwrap();
    let doctor = kura.run(&["doctor", "--data-dir", "data", "--offline"]);
    assert_eq!(doctor.code, Some(3), "{}", doctor.stdout);
    assert!(
        doctor.stdout.contains("INDEX_UNREADABLE") && doctor.stdout.contains("--rebuild-index"),
        "{}",
        doctor.stdout
    );
    let (ended, report) = bootstrap_with(&kura, &peer.url, &["--rebuild-index"]);
    assert_eq!((ended.code, &report["applied"]), (Some(0), &5.into()), "{}", ended.stderr);
    assert_eq!((&report["already_present"], peer.body_requests()), (&5.into(), 15));
    assert_eq!(kura.run(&["doctor", "--data-dir", "data", "--offline", "--verify", "all"]).code, Some(0));
}
