//! A data dir has one owner, and whoever comes second touches nothing.

use std::io::{Read, Write};

use rustix::process::Signal;

use crate::support::inspect::listing;
use crate::support::mesh::Mesh;
use crate::support::traffic::Artifact;

#[test]
fn a_second_serve_exits_11_and_an_upload_in_flight_goes_on() {
    let mesh = Mesh::start(1);
    let node = &mesh.nodes[0];
    Artifact::new(1, 100_000).store(node).expect("a write");
    let body = Artifact::new(0, 3_000_000).body().into_vec();
    let mut upload =
        node.client().begin_upload("PUT", "/v1/cache/77", body.len() as u64, &body[..1_000_000]).expect("half");
    // The first process stands still meanwhile, so that whatever changes is the second one's doing.
    node.signal(Signal::STOP);
    let before = listing(node);
    let second = node.run(&["serve"]);
    let after = listing(node);
    node.signal(Signal::CONT);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();

    assert_eq!(second.status.code(), Some(11), "{said}");
    assert!(said.contains("failed to acquire writer lock"), "{said}");
    assert!(said.contains(&node.pid().to_string()), "the holder's process id: {said}");
    assert_eq!(before, after, "the second process changed the data dir");

    upload.write_all(&body[1_000_000..]).expect("the rest of the upload");
    let mut answer = [0; 12];
    upload.read_exact(&mut answer).expect("an answer to the upload");
    assert_eq!(&answer, b"HTTP/1.1 200");
    let stored = node.client().get("/v1/cache/77").expect("an answer").bytes().expect("a whole body");
    assert!(stored == body, "the upload that went on is whole");
}
