//! A mesh of which every node restarts at once serves the union of what its nodes hold, from its first second, also
//! while one of their stores opens slowly; and one whose nodes are replaced one by one over empty volumes fills each before
//! it takes traffic.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::opening::HeldBack;
use crate::support::inspect::metric;
use crate::support::mesh::Mesh;
use crate::support::node::{Node, READY_WITHIN};
use crate::support::traffic::Artifact;
use crate::support::wait::{alone, eventually};

const NODES: usize = 4;
/// Of each node, past each kind of route: two thirds inside the index, a few longer than what is buffered.
const ARTIFACTS_PER_NODE: u64 = 27;
const ROUNDS: usize = 3;
const READERS_PER_NODE: usize = 4;

/// Less than the least patient tool is kept waiting, and longer than a node waits for its own store alone.
const SLOW_OPENING: Duration = Duration::from_millis(2500);

/// What only this node holds.
fn own_artifacts(node: usize) -> Vec<Artifact> {
    let length = |seed: u64| match seed % 9 {
        0..6 => 500 + seed,
        6 | 7 => 200_000 + seed,
        _ => 1_500_000 + seed,
    };
    // The length must not go with the kind of route.
    (0..ARTIFACTS_PER_NODE)
        .map(|index| Artifact::new(1_000 * (node as u64 + 1) + index, length(index / 3 + index % 3)))
        .collect()
}

/// Nodes that were filled each by itself and then killed, with a copy of each volume beside it.
fn apart() -> (Mesh, Vec<Artifact>) {
    let mut mesh = Mesh::new(NODES);
    let peers: Vec<String> = mesh.nodes.iter().map(Node::internal_url).collect();
    let mut all = Vec::new();
    for (index, node) in mesh.nodes.iter_mut().enumerate() {
        node.set("PEERS", "");
        node.start_ready();
        let own = own_artifacts(index);
        own.iter().for_each(|artifact| artifact.store(node).expect("a write"));
        all.extend(own);
        node.kill();
        node.set("PEERS", &peers.join(","));
        copy(&node.data_dir(), &node.folder.join("apart"));
    }
    (mesh, all)
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("running cp");
    assert!(status.success());
}

/// The first moment at which every process listens on both its ports.
fn wait_listening(mesh: &Mesh) {
    for node in &mesh.nodes {
        for port in [node.port, node.internal_port] {
            let what = format!("{} listens on {port}", node.name);
            eventually(&what, READY_WITHIN, || TcpStream::connect(("127.0.0.1", port)).map(drop));
        }
    }
}

/// Reads everything from every node at once; what was not served, and why.
fn read_everything(mesh: &Mesh, all: &[Artifact]) -> Vec<String> {
    std::thread::scope(|scope| {
        let readers: Vec<_> = mesh
            .nodes
            .iter()
            .enumerate()
            .flat_map(|(index, node)| (0..READERS_PER_NODE).map(move |reader| (index, node, reader)))
            .map(|(index, node, reader)| {
                scope.spawn(move || {
                    let mine = all.iter().skip(reader).step_by(READERS_PER_NODE);
                    // Each node begins with what is not its own.
                    let rotated = mine.clone().skip(index).chain(mine.clone().take(index));
                    rotated.filter_map(|artifact| artifact.check(node).err()).map(|error| error.to_string()).collect()
                })
            })
            .collect();
        readers.into_iter().flat_map(|reader| -> Vec<String> { reader.join().expect("a reader") }).collect()
    })
}

#[test]
fn a_mesh_whose_nodes_all_restart_serves_what_any_of_them_holds_once_they_listen() {
    let _alone = alone();
    let (mut mesh, all) = apart();
    for round in 0..ROUNDS {
        for node in &mesh.nodes {
            copy(&node.folder.join("apart"), &node.data_dir());
        }
        mesh.start_together();
        wait_listening(&mesh);
        let began = Instant::now();
        let failed = read_everything(&mesh, &all);
        let through: f64 =
            mesh.nodes.iter().map(|node| metric(node, "kura_read_through_reads_total", &[("result", "hit")])).sum();
        println!(
            "round {round}: {} reads in {:?}, {through} of them through to a peer",
            all.len() * NODES,
            began.elapsed()
        );
        assert!(failed.is_empty(), "round {round}: {} reads failed, first {:?}", failed.len(), failed.first());
        assert!(through > 0.0, "the test came too late: everything was here already");
        mesh.wait_ready(READY_WITHIN);
        mesh.kill_all();
    }
}

#[test]
fn a_mesh_of_which_a_store_opens_slowly_answers_every_read_once_it_listens() {
    let _alone = alone();
    let (mut mesh, all) = apart();
    let held_back = HeldBack::new(&mesh.nodes[0]);
    mesh.start_together();
    wait_listening(&mesh);
    let began = Instant::now();
    let failed = std::thread::scope(|scope| {
        let reading = scope.spawn(|| read_everything(&mesh, &all));
        std::thread::sleep(SLOW_OPENING);
        assert!(!reading.is_finished(), "nobody else has what the slow one holds");
        held_back.let_go();
        reading.join().expect("the readers")
    });
    println!("{} reads in {:?}", all.len() * NODES, began.elapsed());
    assert!(failed.is_empty(), "{} reads failed, first {:?}", failed.len(), failed.first());
    mesh.wait_ready(READY_WITHIN);
}

#[test]
fn a_rolling_update_over_emptied_volumes_waits_for_each_node_to_fill() {
    let _alone = alone();
    let mut mesh = Mesh::start(3);
    let all: Vec<Artifact> = (0..600).map(|seed| Artifact::new(seed, 2_000 + 997 * (seed % 60))).collect();
    for (index, artifact) in all.iter().enumerate() {
        artifact.store(&mesh.nodes[index % 3]).expect("a write");
    }
    assert_eq!(mesh.wait_equal(Duration::from_secs(60)), all.len());
    mesh.wait_complete(READY_WITHIN);
    for index in 0..3 {
        let node = &mut mesh.nodes[index];
        assert_eq!(node.stop().code(), Some(0));
        std::fs::remove_dir_all(node.data_dir()).expect("emptying the volume");
        let began = Instant::now();
        node.start_ready();
        // A HEAD speaks of this node alone, where a GET would be asked of the peers.
        let absent = all.iter().filter(|artifact| {
            let reply = node.client().send("HEAD", &artifact.path, &[], crate::support::http::Body::Empty);
            reply.expect("an answer").status != 200
        });
        assert_eq!(absent.count(), 0, "{} took traffic before it was filled", node.name);
        println!("{} ready and full after {:?}", node.name, began.elapsed());
    }
    for artifact in all.iter().step_by(13) {
        mesh.nodes.iter().for_each(|node| artifact.check(node).expect("what was written"));
    }
}
