//! A node's memory does not grow with a body, and a client that vanishes leaves nothing behind.

use std::time::Duration;

use crate::support::bodies::SeededBody;
use crate::support::http::Body;
use crate::support::inspect::{
    memory_bytes, metric, nameless_files, peak_memory_bytes, reset_peak_memory, staged_names,
};
use crate::support::mesh::Mesh;
use crate::support::traffic::equal;
use crate::support::wait::{alone, eventually};

const GIB: u64 = 1 << 30;
const GROWTH_MAX_BYTES: u64 = 32 << 20;

#[test]
fn a_body_of_one_gib_goes_through_in_bounded_memory() {
    let _alone = alone();
    let mesh = Mesh::start(1);
    let node = &mesh.nodes[0];
    // Buffers and threads that the first request of a process sets up are no growth by size.
    node.client().put("/v1/cache/1", &[7; 100_000]).expect("an answer");
    node.client().get("/v1/cache/1").expect("an answer").bytes().expect("a body");

    reset_peak_memory(node);
    let before = memory_bytes(node);
    let mut body = SeededBody::new(42, GIB);
    let stored = node.client().send("PUT", "/v1/cache/2", &[], Body::Sized(GIB, &mut body)).expect("an answer");
    assert_eq!(stored.status, 200);
    let after_put = peak_memory_bytes(node).saturating_sub(before);
    let mut read = node.client().get("/v1/cache/2").expect("an answer");
    assert!(equal(&mut read, &mut SeededBody::new(42, GIB)).expect("a whole body"), "the bytes that were stored");
    let after_get = peak_memory_bytes(node).saturating_sub(before);

    println!("resident memory of {} KiB grew by {} KiB, {} KiB", before >> 10, after_put >> 10, after_get >> 10);
    assert!(after_get < GROWTH_MAX_BYTES, "grew by {after_put} in PUT, {after_get} bytes in PUT and GET");
}

#[test]
fn two_hundred_clients_that_vanish_in_mid_upload_leave_nothing_within_a_second() {
    let _alone = alone();
    let mesh = Mesh::start(1);
    let node = &mesh.nodes[0];
    let half = vec![1u8; 512 * 1024];
    let uploads: Vec<_> = (0..200)
        .map(|index| {
            let path = format!("/v1/cache/{}", 5_000 + index);
            node.client().begin_upload("PUT", &path, 1 << 20, &half).expect("half an upload")
        })
        .collect();
    eventually("uploads in the ledger", Duration::from_secs(10), || {
        let staged = metric(node, "kura_tmp_dir_bytes", &[]);
        if staged > 0.0 { Ok(()) } else { Err("nothing is staged") }
    });

    drop(uploads);
    eventually("an empty ledger and empty areas", Duration::from_secs(1), || {
        let (ledger, names, nameless) =
            (metric(node, "kura_tmp_dir_bytes", &[]), staged_names(node), nameless_files(node));
        let empty = ledger == 0.0 && names.is_empty() && nameless == 0;
        if empty { Ok(()) } else { Err(format!("ledger {ledger}, {} names, {nameless} nameless files", names.len())) }
    });
}
