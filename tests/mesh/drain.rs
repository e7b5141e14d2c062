//! Going away: what is under way ends, clients are told, and whoever asks twice is not made to wait.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::mesh::Mesh;
use crate::support::node::Node;
use crate::support::wait::eventually;

/// Far below the default deadline of a drain, which is minutes.
const AT_ONCE: Duration = Duration::from_secs(10);

fn wait_draining(node: &Node) {
    eventually("draining", AT_ONCE, || {
        let rollout =
            node.client().get("/status/rollout").and_then(|reply| reply.json()).map_err(|error| error.to_string())?;
        if rollout["state"] == "draining" { Ok(()) } else { Err(rollout.to_string()) }
    });
}

#[test]
fn a_second_signal_ends_a_drain_that_waits_at_once() {
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::TERM), (Signal::TERM, Signal::INT)] {
        let mut mesh = Mesh::start(1);
        let node = &mut mesh.nodes[0];
        assert_eq!(node.client().put("/v1/cache/1", b"kept").expect("an answer").status, 200);
        let _upload =
            node.client().begin_upload("PUT", "/v1/cache/2", 1 << 20, b"a beginning").expect("half an upload");
        eventually("the upload in flight", AT_ONCE, || {
            let ready =
                node.client().get("/ready").and_then(|reply| reply.json()).map_err(|error| error.to_string())?;
            if ready["http_inflight_requests"] == 1 { Ok(()) } else { Err(ready.to_string()) }
        });
        node.signal(first);
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(node.exited(), None, "the upload may still end well");
        node.signal(second);
        let asked = Instant::now();
        let status = eventually("the end", AT_ONCE, || node.exited().ok_or_else(|| "still running".to_owned()));
        println!("ended {:?} after the second signal", asked.elapsed());
        assert_eq!(status.code(), Some(0));
        node.kill();
        node.start_ready();
        assert_eq!(node.client().get("/v1/cache/1").expect("an answer").bytes().expect("a body"), b"kept");
    }
}

/// One request on a connection that is kept; the value of the answer's `connection` header.
fn ask_on(connection: &mut BufReader<TcpStream>, path: &str) -> Option<String> {
    let head = format!("GET {path} HTTP/1.1\r\nhost: kura\r\n\r\n");
    connection.get_mut().write_all(head.as_bytes()).expect("a request");
    let (mut told, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        connection.read_line(&mut line).expect("an answer");
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            if line.trim_end().is_empty() {
                break;
            }
            continue;
        };
        match name {
            "connection" => told = Some(value.to_owned()),
            "content-length" => length = value.parse().expect("a length"),
            _ => {}
        }
    }
    std::io::copy(&mut std::io::Read::take(connection, length), &mut std::io::sink()).expect("a body");
    told
}

#[test]
fn a_node_told_to_drain_tells_its_clients_to_go_and_serves_reads_until_they_have() {
    let mesh = Mesh::start(1);
    let node = &mesh.nodes[0];
    assert_eq!(node.client().put("/v1/cache/1", b"kept").expect("an answer").status, 200);
    let stream = TcpStream::connect(("127.0.0.1", node.port)).expect("a connection");
    let mut kept = BufReader::new(stream);
    assert_eq!(ask_on(&mut kept, "/v1/cache/1"), None, "kept open as long as nothing is up");
    node.signal(Signal::USR1);
    wait_draining(node);
    assert_eq!(ask_on(&mut kept, "/v1/cache/1").as_deref(), Some("close"));
    assert_eq!(node.client().get("/ready").expect("an answer").status, 503);
    assert_eq!(node.client().get("/up").expect("an answer").status, 200);
    assert_eq!(node.client().put("/v1/cache/3", b"late").expect("an answer").status, 403);
    assert_eq!(node.client().get("/v1/cache/1").expect("an answer").bytes().expect("a body"), b"kept");
}
