//! Several nodes, and what goes wrong between and within them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::doctor::{Diagnosis, kura, listing};
use crate::support::mesh::Mesh;
use crate::support::namespaces::Network;
use crate::support::node::Node;
use crate::support::traffic::Artifact;
use crate::support::wait::eventually;

/// How long a finding may take to come or to go: pauses between tries, and a minute in which a store counts as heard.
const WITHIN: Duration = Duration::from_secs(100);

/// Asks until a check ends so, and gives what it said then.
fn until(node: &Node, code: &str, status: &str) -> Diagnosis {
    eventually(&format!("{code} {status} on {}", node.name), WITHIN, || {
        let diagnosis = Diagnosis::of(node, &["--only", code]);
        if diagnosis.status(code) == status { Ok(diagnosis) } else { Err(diagnosis.check(code).to_string()) }
    })
}

fn is_live(node: &Node) {
    eventually("an answer on the control socket", WITHIN, || {
        let diagnosis = Diagnosis::of(node, &["--only", "NOT_READY"]);
        if diagnosis.report["vantage"] == "live" { Ok(()) } else { Err("not live") }
    });
}

#[test]
fn names_that_do_not_resolve_are_told_with_the_answer_and_names_that_do_are_quiet() {
    let root = tempfile::tempdir().unwrap();
    let asked = |arguments: &[&str]| {
        let all =
            [&["doctor", "--output", "json", "--only", "PEER_DNS", "--node-url", "http://127.0.0.2:7443"], arguments];
        Diagnosis::read(&kura(root.path(), &all.concat()).output().unwrap())
    };
    let peer = asked(&["--peer", "http://kura-0.nobody.invalid:7443", "--peer", "http://localhost:7443"]);
    assert_eq!((peer.code, peer.status("PEER_DNS")), (3, "fail"), "{}", peer.report);
    assert_eq!(peer.check("PEER_DNS")["message"], "1 of 2 names do not resolve");
    let line = peer.check("PEER_DNS")["evidence"]["answers"][0].as_str().unwrap();
    assert!(line.starts_with("kura-0.nobody.invalid after "), "{line}");
    assert_eq!(asked(&["--discover", "kura.nobody.invalid"]).status("PEER_DNS"), "fail");
    assert_eq!(asked(&["--discover", "localhost"]).status("PEER_DNS"), "ok");
    assert_eq!(asked(&["--peer", "http://localhost:7443", "--peer", "http://127.0.0.1:7443"]).status("PEER_DNS"), "ok");
}

#[test]
fn a_direction_that_is_closed_is_named_from_both_ends_and_quiet_once_it_is_open() {
    let network = Network::new(2);
    network.refuse_calls(0, 1);
    let mut mesh = network.mesh();
    mesh.start_together();
    mesh.nodes.iter().for_each(is_live);
    let told = format!("{} does not reach {}", mesh.nodes[0].internal_url(), mesh.nodes[1].internal_url());
    let here = until(&mesh.nodes[0], "PEER_ONE_WAY", "warn");
    let line = here.check("PEER_ONE_WAY")["evidence"]["closed"][0].as_str().unwrap();
    assert_eq!(line.replace(" (this node)", ""), format!("{told}; the other way is open"), "{}", here.report);
    let there = until(&mesh.nodes[1], "PEER_ONE_WAY", "warn");
    let line = there.check("PEER_ONE_WAY")["evidence"]["closed"][0].as_str().unwrap();
    assert_eq!(line.replace(" (this node)", ""), format!("{told}; the other way is open"), "{}", there.report);
    network.heal(1);
    let quiet = until(&mesh.nodes[0], "PEER_ONE_WAY", "ok");
    assert_eq!(quiet.check("PEER_ONE_WAY")["message"], "2 nodes reach each other");
    assert_eq!(until(&mesh.nodes[1], "PEER_ONE_WAY", "ok").code, 0);
}

#[test]
fn a_process_that_stands_still_is_named_and_quiet_once_it_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new("still", root.path());
    node.start_ready();
    assert_eq!(until(&node, "NO_PROGRESS", "ok").report["vantage"], "live");
    node.signal(Signal::STOP);
    let told = until(&node, "NO_PROGRESS", "fail");
    assert_eq!((told.code, told.report["vantage"].as_str()), (3, Some("offline")));
    assert_eq!(told.check("NO_PROGRESS")["evidence"]["pid"], node.pid());
    let look = told.check("NO_PROGRESS")["remedy"]["commands"][0].as_str().unwrap();
    let state = std::process::Command::new("sh").args(["-c", look]).output().unwrap();
    assert!(String::from_utf8_lossy(&state.stdout).contains("T (stopped)"), "{state:?}");
    node.signal(Signal::CONT);
    assert_eq!(until(&node, "NO_PROGRESS", "ok").code, 0);
}

fn body_files(node: &Node, at_least: u64) -> Vec<PathBuf> {
    let found = listing(&node.data_dir().join("bodies")).into_iter();
    found.filter(|(path, length, _)| path.is_file() && *length >= at_least).map(|(path, _, _)| path).collect()
}

/// A body that cannot be opened, and that nobody would call missing.
fn make_unreadable(path: &Path) {
    std::fs::rename(path, path.with_extension("aside")).unwrap();
    std::os::unix::fs::symlink(path.file_name().unwrap(), path).unwrap();
}

fn make_readable(path: &Path) {
    std::fs::rename(path.with_extension("aside"), path).unwrap();
}

#[test]
fn a_peer_that_is_there_and_does_not_deliver_is_named_with_its_oldest_artifact() {
    let mut mesh = Mesh::new(2);
    mesh.begin_with(0..1);
    mesh.nodes[0].start_ready();
    for seed in 1..=12 {
        Artifact::new(seed, 200_000).store(&mesh.nodes[0]).unwrap();
    }
    let files = body_files(&mesh.nodes[0], 200_000);
    assert_eq!(files.len(), 12);
    files.iter().for_each(|path| make_unreadable(path));
    mesh.nodes[1].start();
    let told = until(&mesh.nodes[1], "REPLICATION_STUCK", "warn");
    let evidence = &told.check("REPLICATION_STUCK")["evidence"]["stuck"][0];
    assert_eq!(evidence["peer"], mesh.nodes[0].internal_url(), "{}", told.report);
    assert!(evidence["failures"].as_u64().unwrap() >= 5 || evidence["oldest"]["attempts"].as_u64().unwrap() >= 5);
    files.iter().for_each(|path| make_readable(path));
    until(&mesh.nodes[1], "REPLICATION_STUCK", "ok");
    assert_eq!(mesh.wait_equal(WITHIN), 12, "what was tried in vain comes");
}

#[test]
fn so_many_bad_bodies_that_the_volume_is_the_cause_are_named_and_one_is_not() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new("lost", root.path());
    node.start_ready();
    let artifacts: Vec<Artifact> = (1..=70).map(|seed| Artifact::new(seed, 40_000)).collect();
    artifacts.iter().for_each(|artifact| artifact.store(&node).unwrap());
    let files = body_files(&node, 40_000);
    assert_eq!(files.len(), 70);
    std::fs::remove_file(&files[0]).unwrap();
    artifacts.iter().for_each(|artifact| drop(artifact.check(&node)));
    let one = Diagnosis::of(&node, &["--only", "BREAKER_OPEN"]);
    assert_eq!((one.code, one.status("BREAKER_OPEN")), (0, "ok"), "{}", one.report);
    assert_eq!(one.check("BREAKER_OPEN")["evidence"]["withdrawals_per_minute"], 1);
    files.iter().skip(1).for_each(|path| std::fs::remove_file(path).unwrap());
    artifacts.iter().for_each(|artifact| drop(artifact.check(&node)));
    let many = Diagnosis::of(&node, &["--only", "BREAKER_OPEN"]);
    assert_eq!((many.code, many.status("BREAKER_OPEN")), (3, "fail"), "{}", many.report);
    let evidence = &many.check("BREAKER_OPEN")["evidence"];
    assert_eq!(
        (&evidence["withdrawals_per_minute"], &evidence["first_error"]),
        (&61.into(), &"the body is missing".into())
    );
}

#[test]
fn a_node_that_is_ready_and_empty_because_its_peer_is_gone_is_named_until_the_peer_is_back() {
    let mut mesh = Mesh::new(2);
    mesh.begin_with(0..1);
    mesh.nodes[0].start_ready();
    Artifact::new(1, 100_000).store(&mesh.nodes[0]).unwrap();
    mesh.nodes[0].kill();
    mesh.nodes[1].start();
    let told = until(&mesh.nodes[1], "READY_BUT_EMPTY", "warn");
    let finding = told.check("READY_BUT_EMPTY");
    assert_eq!(finding["message"], "the node takes traffic, is empty, and no peer answers", "{finding}");
    mesh.nodes[0].start_ready();
    mesh.wait_equal(WITHIN);
    let quiet = until(&mesh.nodes[1], "READY_BUT_EMPTY", "ok");
    assert_eq!(quiet.check("READY_BUT_EMPTY")["evidence"]["coverage_percent"], 100);
}

#[test]
fn a_healthy_mesh_is_quiet() {
    let network = Network::new(3);
    let mut mesh = network.mesh();
    mesh.start_together();
    mesh.wait_ready(WITHIN);
    for at in 0..3 {
        Artifact::new(at as u64 + 1, 100_000).store(&mesh.nodes[at]).unwrap();
    }
    mesh.wait_equal(WITHIN);
    for node in &mesh.nodes {
        let diagnosis = Diagnosis::of(node, &["--skip", "volume", "--skip", "CONFIG_BUDGET_IMPOSSIBLE"]);
        let told = [diagnosis.with_status("warn"), diagnosis.with_status("fail"), diagnosis.with_status("error")];
        assert_eq!((diagnosis.code, told.concat()), (0, Vec::new()), "{}", diagnosis.report);
        assert_eq!(diagnosis.check("PEER_ONE_WAY")["message"], "3 nodes reach each other");
        assert_eq!(diagnosis.check("PEER_DIVERGED")["message"], "3 nodes hold the same");
        let mesh = &diagnosis.report["mesh"];
        let seen: Vec<&serde_json::Value> = mesh["nodes"].as_array().unwrap().iter().collect();
        assert_eq!(
            (seen.len(), &seen[0]["this_node"], &seen[0]["url"]),
            (3, &true.into(), &node.internal_url().into())
        );
        assert!(seen.iter().all(|seen| seen["complete"] == true && seen["artifacts"] == 3), "{mesh}");
        let (no, yes) = (serde_json::Value::Null, serde_json::Value::Bool(true));
        let row = |own: usize| (0..3).map(|to| if to == own { no.clone() } else { yes.clone() }).collect::<Vec<_>>();
        assert_eq!(mesh["reaches"], serde_json::json!([row(0), row(1), row(2)]));
    }
}

#[test]
fn the_mesh_is_seen_from_a_machine_without_a_node_on_a_screen_of_80_columns() {
    let mesh = Mesh::start(2);
    Artifact::new(1, 100_000).store(&mesh.nodes[0]).unwrap();
    mesh.wait_equal(WITHIN);
    let (one, two) = (mesh.nodes[0].internal_url(), mesh.nodes[1].internal_url());
    let dead = format!("http://127.0.0.1:{}", crate::support::ports::free_port());
    let root = tempfile::tempdir().unwrap();
    let peers = ["--peer", &one, "--peer", &two, "--peer", &dead, "--node-url", "http://127.0.0.9:7443"];
    let asked = |arguments: &[&str]| kura(&root.path().join("none"), &[arguments, &peers].concat()).output().unwrap();
    let seen = Diagnosis::read(&asked(&["doctor", "--only", "peers", "--output", "json"]));
    assert_eq!(seen.check("PEER_DIVERGED")["message"], "2 nodes hold the same", "{}", seen.report);
    assert_eq!(seen.report["mesh"]["nodes"].as_array().unwrap().len(), 3);
    let screen = asked(&["doctor", "--only", "peers"]);
    let screen = String::from_utf8(screen.stdout).unwrap();
    println!("{screen}");
    let table = screen.split_once("\nmesh\n").expect("the mesh").1;
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{screen}");
    assert!(table.contains(&dead) && table.contains("no answer") && table.contains("yes"), "{screen}");
    // A shell that knows the data dir only asks the peers of the node that runs there.
    let own = kura(&mesh.nodes[0].data_dir(), &["doctor", "--only", "peers", "--output", "json"]).output().unwrap();
    let own = Diagnosis::read(&own);
    assert_eq!(own.check("PEER_DIVERGED")["message"], "2 nodes hold the same", "{}", own.report);
    assert_eq!((own.code, own.report["mesh"]["nodes"][0]["this_node"].as_bool()), (0, Some(true)), "{}", own.report);
    let short = String::from_utf8(asked(&["doctor", "--only", "peers", "--output", "short"]).stdout).unwrap();
    assert!(!short.contains("\nmesh\n"), "{short}");
}

#[test]
fn artifacts_that_only_one_node_has_are_named_and_quiet_once_they_have_come() {
    let network = Network::new(2);
    // Node 1 cannot fetch from node 0, and node 0 can ask it all the same.
    network.refuse_calls(1, 0);
    let mut mesh = network.mesh();
    mesh.start_together();
    mesh.nodes[0].wait_ready(WITHIN);
    let all: Vec<Artifact> = (1..=7).map(|seed| Artifact::new(seed, 50_000)).collect();
    all.iter().for_each(|artifact| artifact.store(&mesh.nodes[0]).unwrap());
    is_live(&mesh.nodes[1]);
    // They count one by one, as each has been there for half a minute.
    let told = eventually("all of them named", WITHIN, || {
        let told = until(&mesh.nodes[0], "PEER_DIVERGED", "warn");
        let total = told.check("PEER_DIVERGED")["evidence"]["missing_total"].clone();
        if total == 7 { Ok(told) } else { Err(total.to_string()) }
    });
    let finding = told.check("PEER_DIVERGED");
    let missing = &finding["evidence"]["missing"][0];
    assert_eq!((&missing["missing_on"], &missing["state"]), (&mesh.nodes[1].internal_url().into(), &"absent".into()));
    let command = finding["remedy"]["commands"][0].as_str().unwrap();
    assert!(command.ends_with(&format!("artifact {}", missing["artifact_id"].as_str().unwrap())), "{command}");
    // The same from the files of a stopped node.
    mesh.nodes[1].stop();
    network.heal(0);
    network.heal(1);
    let offline = until(&mesh.nodes[1], "PEER_DIVERGED", "warn");
    assert_eq!(offline.report["vantage"], "offline");
    let commands = &offline.check("PEER_DIVERGED")["remedy"]["commands"];
    assert_eq!(
        commands,
        &serde_json::json!([format!("kura bootstrap --data-dir {}", mesh.nodes[1].data_dir().display())])
    );
    let evidence = &offline.check("PEER_DIVERGED")["evidence"];
    assert_eq!(
        (&evidence["missing"][0]["missing_on"], &evidence["missing_total"]),
        (&"this data dir".into(), &7.into())
    );
    mesh.nodes[1].start();
    mesh.wait_equal(WITHIN);
    assert_eq!(until(&mesh.nodes[0], "PEER_DIVERGED", "ok").check("PEER_DIVERGED")["message"], "2 nodes hold the same");
}

#[test]
fn a_peer_that_answers_its_status_and_nothing_else_is_an_error_and_no_hang() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut mesh = Mesh::start(1);
    let own = mesh.nodes[0].internal().get("/_internal/status").unwrap().json().unwrap();
    let mut status = own.clone();
    status["node_url"] = url.clone().into();
    status["kura"]["store_id"] = "f".repeat(32).into();
    status["kura"]["instance_id"] = "e".repeat(32).into();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, body) = (stream.unwrap(), status.to_string());
            std::thread::spawn(move || {
                let mut request = [0_u8; 4096];
                let read = stream.read(&mut request).unwrap_or(0);
                if request[..read].starts_with(b"GET /_internal/status") {
                    let head =
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                    stream.write_all((head + &body).as_bytes()).unwrap();
                } else {
                    std::thread::sleep(Duration::from_secs(300));
                }
            });
        }
    });
    mesh.nodes[0].set("PEERS", &url);
    let began = std::time::Instant::now();
    let diagnosis = Diagnosis::of(&mesh.nodes[0], &["--only", "PEER_DIVERGED"]);
    assert_eq!((diagnosis.code, diagnosis.status("PEER_DIVERGED")), (4, "error"), "{}", diagnosis.report);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}
