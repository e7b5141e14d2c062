//! Reads while a store opens for long: on the node itself its siblings answer, and elsewhere nothing is a miss that it may
//! hold.
//!
//! A store is kept from opening by a pipe in the place of the file that names the index's manifest: RocksDB reads it and
//! waits for as long as the test says nothing.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::support::http::{Body, Reply};
use crate::support::inspect::metric;
use crate::support::mesh::Mesh;
use crate::support::node::{Node, READY_WITHIN};
use crate::support::traffic::Artifact;
use crate::support::wait::{alone, eventually};

/// A store that is not let open yet.
pub struct HeldBack {
    pipe: File,
    current: PathBuf,
    kept: PathBuf,
}

impl HeldBack {
    /// Of a node that does not run.
    pub fn new(node: &Node) -> Self {
        let (current, kept) = (node.data_dir().join("index/CURRENT"), node.folder.join("CURRENT"));
        fs::rename(&current, &kept).expect("keeping the name of the manifest");
        assert!(Command::new("mkfifo").arg(&current).status().expect("running mkfifo").success());
        // With a writer from the start the node waits for bytes, and ends with us if we do.
        let pipe = File::options().read(true).write(true).open(&current).expect("opening the pipe");
        Self { pipe, current, kept }
    }

    pub fn let_go(mut self) {
        let name = fs::read(&self.kept).expect("the name of the manifest");
        fs::rename(&self.kept, &self.current).expect("putting the name back");
        self.pipe.write_all(&name).expect("writing to the pipe");
    }
}

fn get(node: &Node, path: &str) -> Reply {
    node.client().get(path).expect("an answer")
}

fn put(node: &Node, path: &str, bytes: &[u8]) {
    let status = node.client().put(path, bytes).expect("an answer").status;
    assert!([200, 201, 204].contains(&status), "PUT {path}: {status}");
}

fn head(node: &Node, path: &str) -> u16 {
    node.client().send("HEAD", path, &[], Body::Empty).expect("an answer").status
}

/// Waits until a node answers its probes.
fn wait_up(node: &Node) {
    eventually(&format!("{} up", node.name), READY_WITHIN, || match node.client().get("/up") {
        Ok(reply) if reply.status == 200 => Ok(()),
        Ok(reply) => Err(reply.status.to_string()),
        Err(error) => Err(error.to_string()),
    });
}

/// Starts a killed node whose store does not open until it is let.
fn start_held_back(node: &mut Node) -> HeldBack {
    let held_back = HeldBack::new(node);
    node.start();
    wait_up(node);
    held_back
}

/// Two nodes that hold the same, the first of them started again and held back.
fn with_first_held_back(mesh: &mut Mesh) -> HeldBack {
    mesh.wait_equal(READY_WITHIN);
    mesh.wait_complete(READY_WITHIN);
    mesh.nodes[0].kill();
    start_held_back(&mut mesh.nodes[0])
}

/// A field of a protobuf message with short content.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).ok().filter(|length| *length < 0x80).expect("short content");
    [&[number << 3 | 2, length], content].concat()
}

/// An action result with one output.
fn action_result(blob: &[u8]) -> Vec<u8> {
    let digest = field(1, hex::encode(Sha256::digest(blob)).as_bytes());
    field(2, &[field(1, b"a"), field(2, &digest)].concat())
}

fn cas(blob: &[u8]) -> String {
    format!("/cas/{}", hex::encode(Sha256::digest(blob)))
}

#[test]
fn siblings_answer_reads_while_the_own_store_opens_and_nothing_is_a_miss() {
    let _alone = alone();
    let mut mesh = Mesh::start(2);
    let length = |seed: u64| if seed.is_multiple_of(4) { 1_500_000 + seed } else { 3_000 + seed };
    let all: Vec<Artifact> = (0..27).map(|seed| Artifact::new(seed, length(seed / 2))).collect();
    all.iter().for_each(|artifact| artifact.store(&mesh.nodes[1]).expect("a write"));
    let held_back = with_first_held_back(&mut mesh);
    let node = &mesh.nodes[0];
    assert_eq!(get(node, "/ready").status, 503);
    std::thread::scope(|scope| {
        for artifact in &all {
            scope.spawn(|| {
                let began = Instant::now();
                artifact.check(node).expect("what the sibling holds");
                assert!(began.elapsed() < Duration::from_secs(6), "{} took {:?}", artifact.path, began.elapsed());
                assert_eq!(head(node, &artifact.path), 200, "{}", artifact.path);
            });
        }
    });
    let began = Instant::now();
    let nowhere = get(node, "/api/metro/cache/nowhere");
    assert_eq!((nowhere.status, nowhere.header("retry-after").is_some()), (503, true), "it may be here");
    let took = began.elapsed();
    assert!(took > Duration::from_secs(3) && took < Duration::from_secs(5), "Metro bears five seconds: {took:?}");
    held_back.let_go();
    mesh.wait_ready(READY_WITHIN);
    assert_eq!(get(&mesh.nodes[0], "/api/metro/cache/nowhere").status, 404);
    all.iter().for_each(|artifact| artifact.check(&mesh.nodes[0]).expect("what is here"));
    assert_eq!(mesh.wait_equal(READY_WITHIN), all.len());
}

#[test]
fn an_action_result_is_given_before_the_store_is_open_only_if_siblings_hold_what_it_names() {
    let _alone = alone();
    let mut mesh = Mesh::start(2);
    let (whole, torn) = (format!("/ac/{:064x}", 1), format!("/ac/{:064x}", 2));
    put(&mesh.nodes[1], &cas(b"held"), b"held");
    put(&mesh.nodes[1], &whole, &action_result(b"held"));
    put(&mesh.nodes[1], &torn, &action_result(b"held nowhere"));
    let held_back = with_first_held_back(&mut mesh);
    let node = &mesh.nodes[0];
    assert_eq!(get(node, &whole).bytes().expect("a body"), action_result(b"held"));
    assert_eq!(head(node, &whole), 200);
    let torn_answer = std::thread::scope(|scope| {
        let asking = scope.spawn(|| get(node, &torn).status);
        std::thread::sleep(Duration::from_secs(4));
        assert!(!asking.is_finished(), "neither a hit nor a miss");
        held_back.let_go();
        asking.join().expect("an answer")
    });
    assert_eq!(torn_answer, 404, "once the store is open nobody holds the blob");
}

#[test]
fn what_was_deleted_here_and_not_yet_there_is_not_handed_out_before_the_store_is_open() {
    let _alone = alone();
    let mut mesh = Mesh::start(2);
    let path = |namespace: &str| format!("/api/cache/gradle/k?tenant_id=t&namespace_id={namespace}");
    for namespace in ["deleted", "spared"] {
        put(&mesh.nodes[0], &path(namespace), namespace.as_bytes());
    }
    mesh.wait_equal(READY_WITHIN);
    mesh.nodes[1].kill();
    let delete = "/api/cache/clean?tenant_id=t&namespace_id=deleted";
    let cleaned = mesh.nodes[0].client().send("DELETE", delete, &[], Body::Empty).expect("an answer");
    assert_eq!(cleaned.status, 204);
    mesh.nodes[0].kill();
    mesh.nodes[1].start();
    wait_up(&mesh.nodes[1]);
    let held_back = start_held_back(&mut mesh.nodes[0]);
    assert_eq!(get(&mesh.nodes[1], &path("deleted")).status, 200, "the sibling does not know of it");
    assert_eq!(get(&mesh.nodes[0], &path("spared")).status, 200);
    let node = &mesh.nodes[0];
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| get(node, &path("deleted")).status);
        std::thread::sleep(Duration::from_secs(5));
        assert!(!asking.is_finished(), "it is not handed out");
        held_back.let_go();
        assert_eq!(asking.join().expect("an answer"), 404);
    });
    // A log of deletes with a hole in it says nothing of what is behind the hole.
    mesh.nodes[0].kill();
    let log = mesh.nodes[0].data_dir().join("tombstones.log");
    let mut bytes = fs::read(&log).expect("the log of deletes");
    bytes[20] ^= 1;
    fs::write(&log, bytes).expect("damaging the log");
    put(&mesh.nodes[1], "/api/metro/cache/there", b"there");
    let held_back = start_held_back(&mut mesh.nodes[0]);
    assert_eq!(get(&mesh.nodes[0], "/api/metro/cache/there").status, 503);
    held_back.let_go();
    mesh.wait_ready(READY_WITHIN);
    assert_eq!(get(&mesh.nodes[0], "/api/metro/cache/there").status, 200);
    assert_eq!(get(&mesh.nodes[0], &path("deleted")).status, 404);
}

#[test]
fn an_older_version_may_be_read_before_the_store_is_open_and_the_newest_after() {
    let _alone = alone();
    let mut mesh = Mesh::start(2);
    let path = format!("/ccache/aa/{:031}", 7);
    put(&mesh.nodes[0], &path, b"older");
    mesh.wait_equal(READY_WITHIN);
    mesh.nodes[1].kill();
    put(&mesh.nodes[0], &path, b"newer");
    mesh.nodes[0].kill();
    mesh.nodes[1].start();
    wait_up(&mesh.nodes[1]);
    let held_back = start_held_back(&mut mesh.nodes[0]);
    assert_eq!(get(&mesh.nodes[0], &path).bytes().expect("a body"), b"older");
    held_back.let_go();
    mesh.wait_ready(READY_WITHIN);
    assert_eq!(get(&mesh.nodes[0], &path).bytes().expect("a body"), b"newer");
    assert_eq!(mesh.wait_equal(READY_WITHIN), 1);
    assert_eq!(get(&mesh.nodes[1], &path).bytes().expect("a body"), b"newer");
}

#[test]
fn what_only_a_sibling_whose_store_opens_may_hold_is_waited_for_and_never_a_miss() {
    let _alone = alone();
    let mut mesh = Mesh::start(2);
    mesh.nodes[1].kill();
    let paths = ["/gradle/team/0123", "/api/metro/cache/m", "/v8/artifacts/0123456789abcdef?slug=s"];
    paths.iter().for_each(|path| put(&mesh.nodes[0], path, b"only here"));
    mesh.nodes[0].kill();
    // Both restart; the one that holds nothing is open at once.
    let held_back = start_held_back(&mut mesh.nodes[0]);
    mesh.nodes[1].start();
    wait_up(&mesh.nodes[1]);
    let node = &mesh.nodes[1];
    let began = Instant::now();
    let refused = get(node, paths[1]);
    let took = began.elapsed();
    assert_eq!((refused.status, refused.header("retry-after").is_some()), (503, true));
    assert!(took > Duration::from_secs(3) && took < Duration::from_secs(5), "Metro bears five seconds: {took:?}");
    assert!(metric(node, "kura_requests_refused_total", &[("limit", "peer_not_open")]) >= 1.0);
    std::thread::scope(|scope| {
        let asking = paths.map(|path| scope.spawn(move || (path, get(node, path).status)));
        // Longer than the peer itself keeps a peer waiting.
        std::thread::sleep(Duration::from_millis(2500));
        assert!(asking.iter().all(|asking| !asking.is_finished()));
        held_back.let_go();
        let answers = asking.map(|asking| asking.join().expect("an answer"));
        assert!(answers.iter().all(|(_, status)| *status == 200), "{answers:?}");
    });
    mesh.wait_ready(READY_WITHIN);
    let began = Instant::now();
    assert_eq!(get(&mesh.nodes[1], "/api/metro/cache/absent").status, 404);
    assert!(began.elapsed() < Duration::from_secs(2), "a miss is a miss again: {:?}", began.elapsed());
}

#[test]
fn a_copy_of_this_volume_is_no_sibling_before_the_store_is_open() {
    let _alone = alone();
    let mut mesh = Mesh::start(2);
    put(&mesh.nodes[0], "/api/metro/cache/m", b"here");
    mesh.wait_equal(READY_WITHIN);
    mesh.kill_all();
    let (of, at) = (mesh.nodes[0].data_dir(), mesh.nodes[1].data_dir());
    fs::remove_dir_all(&at).expect("emptying the volume");
    assert!(Command::new("cp").arg("-a").arg(of).arg(at).status().expect("running cp").success());
    mesh.nodes[1].start();
    wait_up(&mesh.nodes[1]);
    let held_back = start_held_back(&mut mesh.nodes[0]);
    assert_eq!(get(&mesh.nodes[1], "/api/metro/cache/m").status, 200);
    assert_eq!(get(&mesh.nodes[0], "/api/metro/cache/m").status, 503);
    held_back.let_go();
    eventually("its own answer", READY_WITHIN, || match get(&mesh.nodes[0], "/api/metro/cache/m").status {
        200 => Ok(()),
        status => Err(status),
    });
}
