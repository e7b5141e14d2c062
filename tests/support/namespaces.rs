//! A small network of its own for each test: nodes in network namespaces on one bridge, whose lines can be made thin,
//! lossy, one-way, or cut.
//!
//! How it works: each node's namespace has two lines. The one called `mesh` goes to a bridge; over it the nodes speak to
//! each other, and all trouble is made on it. The one called `control` goes to this process, which asks the nodes how
//! they are whatever happens to the mesh.
//!
//! Needs root, `ip` and `tc` (iproute2) and `nft` (nftables). What is not there makes the test fail with the reason.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

use super::mesh::Mesh;
use super::node::Place;

/// Names of interfaces have at most 15 characters.
const MESH: &str = "mesh";
const CONTROL: &str = "control";

/// A bridge and as many namespaces as nodes. Dropping it removes both.
#[derive(Debug)]
pub struct Network {
    name: String,
    /// Tells this network's control addresses from those of others on this machine.
    salt: u16,
    count: u8,
}

impl Network {
    /// A network with this many namespaces, all lines whole.
    pub fn new(count: u8) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let salt = (process.wrapping_mul(31) + u32::from(number)) as u16;
        let network = Self { name: format!("k{process:x}{number:x}"), salt, count };
        network.sweep();
        run(&["ip", "link", "add", &network.bridge(), "type", "bridge"]);
        run(&["ip", "link", "set", &network.bridge(), "up"]);
        (0..count).for_each(|at| network.add(at));
        network
    }

    /// The nodes of a mesh in it, one to a namespace, not started.
    pub fn mesh(&self) -> Mesh {
        let places = (0..self.count).map(|at| Place {
            host: self.mesh_address(at),
            control: self.control_address(at, 2),
            namespace: Some(self.namespace(at)),
        });
        Mesh::placed(places.collect())
    }

    fn add(&self, at: u8) {
        let (space, outer_mesh, outer_control) = (self.namespace(at), self.outer("m", at), self.outer("c", at));
        run(&["ip", "netns", "add", &space]);
        run(&["ip", "link", "add", &outer_mesh, "type", "veth", "peer", "name", MESH, "netns", &space]);
        run(&["ip", "link", "set", &outer_mesh, "master", &self.bridge(), "up"]);
        run(&["ip", "link", "add", &outer_control, "type", "veth", "peer", "name", CONTROL, "netns", &space]);
        run(&["ip", "address", "add", &format!("{}/30", self.control_address(at, 1)), "dev", &outer_control]);
        run(&["ip", "link", "set", &outer_control, "up"]);
        let inside = |arguments: &[&str]| self.inside(at, arguments);
        inside(&["ip", "link", "set", "lo", "up"]);
        inside(&["ip", "address", "add", &format!("{}/24", self.mesh_address(at)), "dev", MESH]);
        inside(&["ip", "link", "set", MESH, "up"]);
        inside(&["ip", "address", "add", &format!("{}/30", self.control_address(at, 2)), "dev", CONTROL]);
        inside(&["ip", "link", "set", CONTROL, "up"]);
        inside(&["nft", "add", "table", "ip", "faults"]);
        inside(&["nft", "add", "chain", "ip", "faults", "in", "{ type filter hook input priority 0; }"]);
    }

    /// What a node sends over the mesh is let through at this rate.
    pub fn limit(&self, at: u8, mbit: u32) {
        let rate = format!("{mbit}mbit");
        let tbf = ["tc", "qdisc", "replace", "dev", MESH, "root", "tbf", "rate", &rate, "burst", "64kbit"];
        self.inside(at, &[tbf.as_slice(), &["latency", "200ms"]].concat());
    }

    /// This share of the packets that reach a node over the mesh is lost.
    pub fn lose(&self, at: u8, percent: u32) {
        let rule = format!("iifname {MESH} numgen random mod 100 < {percent} drop");
        self.inside(at, &["nft", "add", "rule", "ip", "faults", "in", &rule]);
    }

    /// Nothing that one node sends over the mesh reaches the other any more.
    pub fn silence(&self, from: u8, to: u8) {
        let rule = format!("iifname {MESH} ip saddr {} drop", self.mesh_address(from));
        self.inside(to, &["nft", "add", "rule", "ip", "faults", "in", &rule]);
    }

    /// What one node begins to say to the other does not get through; it still answers what the other begins.
    pub fn refuse_calls(&self, from: u8, to: u8) {
        let rule = format!("iifname {MESH} ip saddr {} tcp flags & (syn | ack) == syn drop", self.mesh_address(from));
        self.inside(to, &["nft", "add", "rule", "ip", "faults", "in", &rule]);
    }

    /// Takes back what [`Network::lose`] and [`Network::silence`] did to a node.
    pub fn heal(&self, at: u8) {
        self.inside(at, &["nft", "flush", "chain", "ip", "faults", "in"]);
    }

    /// Takes a node's line to the mesh down or up.
    pub fn set_line(&self, at: u8, up: bool) {
        self.inside(at, &["ip", "link", "set", MESH, if up { "up" } else { "down" }]);
    }

    /// Bytes that reached a node over the mesh, with everything that TCP adds and sends again.
    pub fn received_bytes(&self, at: u8) -> u64 {
        let path = format!("/sys/class/net/{MESH}/statistics/rx_bytes");
        let text = output(&["ip", "netns", "exec", &self.namespace(at), "cat", &path]);
        text.trim().parse().expect("a number of bytes")
    }

    fn inside(&self, at: u8, arguments: &[&str]) {
        run(&[&["ip", "netns", "exec", &self.namespace(at)], arguments].concat());
    }

    fn namespace(&self, at: u8) -> String {
        format!("{}n{at}", self.name)
    }

    fn outer(&self, kind: &str, at: u8) -> String {
        format!("{}{kind}{at}", self.name)
    }

    fn bridge(&self) -> String {
        format!("{}b", self.name)
    }

    /// Each namespace has a network stack of its own, so that all tests may use the same addresses in the mesh.
    fn mesh_address(&self, at: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, 7, 1 + at)
    }

    /// These are on this machine's side too, so they differ by process and network.
    fn control_address(&self, at: u8, side: u8) -> Ipv4Addr {
        let [high, low] = self.salt.to_be_bytes();
        Ipv4Addr::new(100, 64 + high % 64, low, at * 4 + side)
    }

    /// Removes what is there of it, whether or not it is.
    fn sweep(&self) {
        for at in 0..self.count {
            // A namespace takes the inner ends with it, and those the outer ones.
            quietly(&["ip", "netns", "delete", &self.namespace(at)]);
        }
        quietly(&["ip", "link", "delete", &self.bridge()]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.sweep();
    }
}

fn output(arguments: &[&str]) -> String {
    let (program, rest) = arguments.split_first().expect("a program");
    let output = Command::new(program).args(rest).output();
    let output = output
        .unwrap_or_else(|error| panic!("{program} does not run ({error}); scripts/install-test-tools.sh installs it"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "network namespaces are needed, as root: {arguments:?}: {} {said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn run(arguments: &[&str]) {
    output(arguments);
}

fn quietly(arguments: &[&str]) {
    if let Some((program, rest)) = arguments.split_first() {
        drop(Command::new(program).args(rest).output());
    }
}
