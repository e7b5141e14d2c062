//! Clients where the machine is short of something: of memory beside a full page cache, and of nearness.

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use crate::support::bodies::SeededBody;
use crate::support::memory_group::MemoryGroup;
use crate::support::node::{Node, READY_WITHIN};
use crate::support::relay::Relay;
use crate::support::traffic::Artifact;
use crate::support::wait::alone;

/// What the process and the page cache of its files get together.
const GROUP_BYTES: u64 = 256 << 20;

#[test]
fn beside_a_page_cache_that_fills_its_memory_a_node_refuses_neither_reads_nor_writes() {
    let _alone = alone();
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new("small", root.path());
    let group = MemoryGroup::new(GROUP_BYTES);
    node.start_by(&group.line(&format!("{} serve", env!("CARGO_BIN_EXE_kura"))), "/usr/bin:/bin");
    node.wait_ready(READY_WITHIN);
    let artifacts: Vec<Artifact> = (0..40).map(|seed| Artifact::new(9_000 + seed, 10 << 20)).collect();
    let (first, second) = artifacts.split_at(20);
    first.iter().for_each(|artifact| artifact.store(&node).unwrap());
    // Both at once, eight of each: writes find no pool that reads emptied, and the other way round.
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let node = &node;
            scope.spawn(move || {
                second.iter().skip(worker).step_by(8).for_each(|artifact| artifact.store(node).unwrap())
            });
            scope
                .spawn(move || first.iter().skip(worker).step_by(8).for_each(|artifact| artifact.check(node).unwrap()));
        }
    });
    artifacts.iter().for_each(|artifact| artifact.check(&node).unwrap());
    let peak = group.peak_bytes();
    assert!(peak > GROUP_BYTES / 10 * 9, "the page cache never filled the group: {peak} bytes");
    assert_eq!(node.client().get("/ready").unwrap().status, 200);
    let metrics = node.client().get("/metrics").unwrap().text().unwrap();
    let refused: Vec<&str> = metrics.lines().filter(|line| line.starts_with("kura_requests_refused_total")).collect();
    assert!(!refused.is_empty() && refused.iter().all(|line| line.ends_with(" 0")), "{refused:#?}");
    node.stop();
}

/// Half a world there and back.
const ROUND_TRIP: Duration = Duration::from_millis(192);
const FAR_BODY_BYTES: u64 = 32 << 20;
/// What HTTP/2 grants by default; with it the body would take a hundred seconds.
const SMALL_WINDOW_BYTES: u64 = 64 << 10;

/// Uploads of which one has to be fast.
const FAR_TRIES: u32 = 3;

/// How long curl takes to upload a file.
fn upload(body: &std::path::Path, url: &str, flag: &str, version: &str) -> Duration {
    let mut curl = Command::new("curl");
    curl.args(["-sS", flag, "-T"]).arg(body).args(["-w", "%{http_version} %{http_code} %{time_total}", url]);
    let output = curl.output().expect("curl is needed");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let words: Vec<&str> = said.split_whitespace().collect();
    let [spoken, status, seconds] = words[..] else { panic!("{said}") };
    assert_eq!((spoken, status.starts_with('2')), (version, true), "{said}");
    let took = Duration::from_secs_f64(seconds.parse().unwrap());
    println!("HTTP/{version}: {FAR_BODY_BYTES} bytes over {ROUND_TRIP:?} in {took:?}");
    took
}

#[test]
fn a_client_far_away_uploads_a_long_body_at_the_speed_of_its_line() {
    let _alone = alone();
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new("far", root.path());
    node.start_ready();
    let far = Ipv4Addr::new(127, 0, 0, 3);
    let _relay = Relay::start(far, node.port, ROUND_TRIP / 2);
    let body = root.path().join("body");
    let mut file = std::fs::File::create(&body).unwrap();
    std::io::copy(&mut SeededBody::new(45, FAR_BODY_BYTES), &mut file).unwrap();
    file.flush().unwrap();
    let by_small_windows = ROUND_TRIP * u32::try_from(FAR_BODY_BYTES / SMALL_WINDOW_BYTES).unwrap();
    let url = format!("http://{far}:{}/gradle/team/{:032x}", node.port, 45);
    for (flag, version) in [("--http1.1", "1.1"), ("--http2-prior-knowledge", "2")] {
        // A disk that stalls takes longer than the line once in a while; small windows would each time.
        let upload = |_| upload(&body, &url, flag, version);
        let took = (0..FAR_TRIES).map(upload).find(|took| *took < by_small_windows / 4);
        assert!(took.is_some(), "HTTP/{version}: small windows would take {by_small_windows:?}");
    }
    let mut reply = node.client().get(&format!("/gradle/team/{:032x}", 45)).unwrap();
    assert!(crate::support::traffic::equal(&mut reply, &mut SeededBody::new(45, FAR_BODY_BYTES)).unwrap());
}
