//! The clients: writers that keep account of what they were told, and one that never finishes what it begins.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::ledger::{Change, End, Ledger, body, path};
use crate::support::bodies::SplitMix;
use crate::support::http::{Body, Client};

/// Keys of each writer: few, so that most writes replace a body.
const KEYS: u64 = 24;

/// One change in so many is a delete of the whole namespace.
const DELETE_ONE_IN: u64 = 60;

/// How long an upload that is never finished is left lying.
const ABANDONED_AFTER: Duration = Duration::from_millis(50);

/// Waits for whoever holds the ledger.
pub fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the clients share.
#[derive(Debug, Clone, Copy)]
pub struct Load<'run> {
    /// Everything they do follows from it.
    pub seed: u64,
    /// Whom they ask.
    pub nodes: &'run [Client],
    /// What a writer rests after each change.
    pub pause: Duration,
    /// Set at the end.
    pub stop: &'run AtomicBool,
}

impl Load<'_> {
    /// Writes and deletes through any node until told to stop. Who holds the ledger makes it rest.
    pub fn write(self, writer: usize, ledger: &Mutex<Ledger>) {
        let mut random = SplitMix::new(self.seed ^ (writer as u64) << 32);
        while !self.stop.load(Ordering::SeqCst) {
            let node = (random.next() % self.nodes.len() as u64) as usize;
            let change = if random.next().is_multiple_of(DELETE_ONE_IN) {
                Change::Delete
            } else {
                Change::Put { key: random.next() % KEYS, seed: random.next() }
            };
            let mut ledger = lock(ledger);
            let end = end_of(send(writer, self.nodes[node], change), node, change);
            ledger.note(change, end);
            drop(ledger);
            std::thread::sleep(self.pause);
        }
    }

    /// Begins uploads of either kind and lets them lie until told to stop.
    pub fn abandon(self) {
        let mut random = SplitMix::new(self.seed);
        let bytes = vec![1; 300_000];
        while !self.stop.load(Ordering::SeqCst) {
            let node = self.nodes[(random.next() % self.nodes.len() as u64) as usize];
            let key = random.next();
            // Whatever becomes of them is right, as long as nothing of them stays.
            let upload = node.begin_upload("PUT", &format!("/api/metro/cache/{key:x}"), 2_000_000, &bytes);
            if random.next().is_multiple_of(8) {
                let _ = begin_module(node, key, &bytes);
            }
            std::thread::sleep(ABANDONED_AFTER);
            drop(upload);
        }
    }
}

fn send(writer: usize, node: Client, change: Change) -> io::Result<u16> {
    let reply = match change {
        Change::Put { key, seed } => node.put(&path(writer, key), &body(seed)),
        Change::Delete => {
            let path = format!("/api/cache/clean?tenant_id=default&namespace_id=writer{writer}");
            node.send("DELETE", &path, &[], Body::Empty)
        }
    };
    reply.map(|reply| reply.status)
}

fn end_of(answer: io::Result<u16>, node: usize, change: Change) -> End {
    match answer {
        Ok(200..300) => End::Acknowledged(node),
        // Its store is not open yet.
        Ok(503) => End::NotDone,
        Ok(status) => panic!("{change:?} on node {node}: {status}"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => End::NotDone,
        Err(_) => End::Unknown,
    }
}

fn begin_module(node: Client, key: u64, part: &[u8]) -> io::Result<()> {
    let started = format!("/api/cache/module/start?tenant_id=default&namespace_id=n&hash={key:x}&name=m");
    let answer = node.send("POST", &started, &[], Body::Empty)?.json()?;
    let upload = answer["upload_id"].as_str().unwrap_or_default();
    let path = format!("/api/cache/module/part?upload_id={upload}&part_number=1");
    node.send("POST", &path, &[], Body::Bytes(part)).map(drop)
}
