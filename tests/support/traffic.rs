//! Artifacts as build tools would send them, over every kind of route that takes plain bytes.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use super::bodies::SeededBody;
use super::http::Body;
use super::node::Node;

/// One artifact: where it goes, and a body that can be made again.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// `PUT` or `POST`.
    method: &'static str,
    /// Path and query, for writing and for reading.
    pub path: String,
    seed: u64,
    /// Bytes of its body.
    pub len: u64,
}

impl Artifact {
    /// The artifact of a seed: its tool, its key and its bytes all follow from it.
    pub fn new(seed: u64, len: u64) -> Self {
        let (method, path) = match seed % 9 {
            0 => ("PUT", format!("/v1/cache/{seed}")),
            1 => ("PUT", format!("/api/metro/cache/{seed:040x}")),
            2 => ("PUT", format!("/gradle/team/{seed:032x}")),
            3 => ("PUT", format!("/api/cache/gradle/{seed:x}?tenant_id=acme&namespace_id=android")),
            4 => ("POST", format!("/api/cache/cas/{seed:x}?tenant_id=acme&namespace_id=ios")),
            5 => ("PUT", format!("/cas/{}", sha256_hex(SeededBody::new(seed, len)))),
            6 => ("PUT", format!("/ccache/{:02x}/{seed:031x}", seed % 256)),
            7 => ("PUT", format!("/v8/artifacts/{seed:016x}?slug=team")),
            _ => ("PUT", format!("/bazel/team/app/ac/{seed:064x}")),
        };
        Self { method, path, seed, len }
    }

    /// Its bytes.
    pub fn body(&self) -> SeededBody {
        SeededBody::new(self.seed, self.len)
    }

    /// Stores it through a node; anything but success is an error that says what was answered.
    pub fn store(&self, node: &Node) -> io::Result<()> {
        let mut body = self.body();
        let reply = node.client().send(self.method, &self.path, &[], Body::Sized(self.len, &mut body))?;
        match reply.status {
            200 | 201 | 204 => Ok(()),
            status => Err(io::Error::other(format!("{} {}: {status} {}", self.method, self.path, reply.text()?))),
        }
    }

    /// Reads it through a node and compares every byte; an error says what was wrong.
    pub fn check(&self, node: &Node) -> io::Result<()> {
        let mut reply = node.client().get(&self.path)?;
        if reply.status != 200 {
            return Err(io::Error::other(format!("GET {} on {}: {}", self.path, node.name, reply.status)));
        }
        if equal(&mut reply, &mut self.body())? {
            Ok(())
        } else {
            Err(io::Error::other(format!("GET {} on {}: other bytes than stored", self.path, node.name)))
        }
    }
}

/// Whether two streams give the same bytes.
pub fn equal(left: &mut dyn Read, right: &mut dyn Read) -> io::Result<bool> {
    let (mut left_block, mut right_block) = (vec![0; 256 * 1024], vec![0; 256 * 1024]);
    loop {
        let (left_len, right_len) = (fill(left, &mut left_block)?, fill(right, &mut right_block)?);
        if left_block[..left_len] != right_block[..right_len] {
            return Ok(false);
        }
        if left_len == 0 {
            return Ok(true);
        }
    }
}

fn fill(source: &mut dyn Read, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match source.read(&mut block[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

fn sha256_hex(mut body: SeededBody) -> String {
    let mut hasher = Sha256::new();
    io::copy(&mut body, &mut hasher).expect("reading from memory");
    hex::encode(hasher.finalize())
}
