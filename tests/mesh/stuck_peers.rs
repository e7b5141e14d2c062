//! Peers that answer their status and stall everything else: they cost no good peer its turn, and no read its time.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::support::inspect::metric;
use crate::support::mesh::Mesh;
use crate::support::traffic::Artifact;
use crate::support::wait::{alone, eventually};

/// Twice as many as passes run at the same time.
const STUCK_PEERS: usize = 2 * PERMITS;

/// How many that are without any setting.
const PERMITS: usize = 8;

/// A peer that says that it is complete and holds much, and then gives nothing. Its threads end with the test.
fn stuck_peer(number: usize) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let own = url.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let own = own.clone();
            std::thread::spawn(move || answer_status_only(stream, &own, number));
        }
    });
    url
}

fn answer_status_only(stream: TcpStream, url: &str, number: usize) {
    let Ok(mut answers) = stream.try_clone() else { return };
    let mut requests = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if requests.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        if !head.starts_with("GET /_internal/status") {
            std::thread::park();
        }
        let status = serde_json::json!({
            "region": "stuck", "tenant_id": "default", "node_url": url,
            "kura": {
                "store_id": format!("{number:032x}"), "instance_id": format!("{:032x}", number + 1000),
                "epoch": format!("{number:016x}"), "head_seq": 1000, "protocol": {"min": 1, "max": 1},
                "features": ["feed"], "limits": {"page_bytes_max": 1 << 20, "page_rows_max": 256, "body_bytes_max": 1 << 20},
                "now_ms": 0, "state": "serving", "complete": true, "artifacts": 1_000_000,
            }
        });
        let body = status.to_string();
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        if answers.write_all(head.as_bytes()).and_then(|()| answers.write_all(body.as_bytes())).is_err() {
            return;
        }
    }
}

#[test]
fn a_good_peer_is_caught_up_from_although_twice_as_many_as_may_pass_are_stuck() {
    let _alone = alone();
    let mut mesh = Mesh::new(2);
    let good = mesh.nodes[0].internal_url();
    let stuck: Vec<String> = (1..=STUCK_PEERS).map(stuck_peer).collect();
    mesh.nodes[0].set("PEERS", "");
    mesh.nodes[0].start_ready();
    let artifacts: Vec<Artifact> = (0..90).map(|seed| Artifact::new(seed, 1_000 + 100 * seed)).collect();
    artifacts.iter().for_each(|artifact| artifact.store(&mesh.nodes[0]).expect("a write"));

    mesh.nodes[0].kill();

    let [good_node, joining] = &mut mesh.nodes[..] else { panic!("two nodes") };
    joining.set("PEERS", &format!("{},{good}", stuck.join(",")));
    joining.start();
    eventually("every permit with a stuck peer", Duration::from_secs(30), || {
        let ready = joining.client().get("/ready").and_then(|reply| reply.json()).map_err(|error| error.to_string())?;
        let inflight = ready["bootstrap_inflight_peers"].as_array().map_or(0, Vec::len);
        if inflight >= PERMITS { Ok(()) } else { Err(ready.to_string()) }
    });
    good_node.start();
    let began = Instant::now();
    let read = || artifacts[0].check(joining).map_err(|error| error.to_string());
    eventually("a read through to the good peer", Duration::from_secs(10), read);
    println!("readable after {:?}", began.elapsed());
    // Each stuck one holds its permit for five seconds, and there are two for each permit.
    eventually("everything of the good peer", Duration::from_secs(45), || {
        let applied = metric(joining, "kura_bootstrap_applied_items_total", &[("item_type", "artifact")]);
        if applied >= artifacts.len() as f64 - 1.0 { Ok(()) } else { Err(format!("{applied} applied")) }
    });
    println!("caught up after {:?}", began.elapsed());
    let ready = joining.client().get("/ready").expect("an answer");
    assert_eq!(ready.status, 503, "peers that say they are complete are waited for, for a bounded time");
    let said = ready.text().expect("a body");
    assert!(said.contains("tombstones_pending") && said.contains(&stuck[0]), "they are named: {said}");
    let began = Instant::now();
    for seed in 1_000..1_005 {
        assert_eq!(joining.client().get(&format!("/v1/cache/{seed}")).expect("an answer").status, 404);
    }
    println!("five misses take {:?} among {STUCK_PEERS} silent peers", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(6), "five misses took {:?}", began.elapsed());
}
