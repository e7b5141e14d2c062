//! What happens in a scenario, as values drawn from its seed.

use kura::core::base::rng::{RngExt, SeededRng};

/// Nodes of the smallest mesh, and how many more there can be.
const NODES_MIN: u64 = 2;
const NODES_SPAN: u64 = 4;

/// Nodes of the largest mesh.
pub const NODES_MAX: usize = 5;

/// Few names, so that writes, deletes and faults meet.
pub const NAMESPACES: [&str; 3] = ["", "ios", "android"];
const KEYS: u64 = 6;

/// What a link does to the next bodies that pass it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// They end early, after this many bytes.
    Cut(u64),
    /// They stop after this many bytes, without an end.
    Stall(u64),
    /// One byte arrives changed. Only bodies of artifacts: a listing has no digest of its own.
    Corrupt(u64),
    /// The peer answers with this status instead.
    Status(u16),
}

/// Something that is done to the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// A client stores a body. Its contents follow from the number; `pause_ms` lies between its pieces.
    Put { node: usize, namespace: &'static str, key: u64, size: usize, content: u8, pause_ms: u64, once: bool },
    /// A client deletes a namespace.
    Delete { node: usize, namespace: &'static str },
    /// One direction of a link is cut.
    Cut { from: usize, to: usize },
    /// Both directions are.
    Part { one: usize, other: usize },
    /// Answers take this much longer in one direction.
    Slow { from: usize, to: usize, delay_ms: u64 },
    /// The next bodies in one direction are harmed.
    HarmNext { from: usize, to: usize, harm: Harm, count: u64 },
    /// All faults of both directions of a link end.
    Mend { one: usize, other: usize },
    /// A node dies at once.
    Crash { node: usize },
    /// It comes back with what it had; nothing happens if it is up.
    Restart { node: usize },
    /// A node's wall clock is set wrong by this much.
    Skew { node: usize, skew_ms: i64 },
    /// Time passes.
    Pass { ms: u64 },
}

/// A mesh and what happens to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    pub seed: u64,
    pub nodes: usize,
    pub operations: Vec<Operation>,
    /// Whether all nodes start anew once the faults have stopped, and not only those that are down.
    pub restart_all: bool,
}

impl Scenario {
    /// The one that belongs to the seed.
    pub fn draw(seed: u64) -> Self {
        let draw = Draw { rng: SeededRng::new(seed), nodes: 0 };
        let draw = Draw { nodes: NODES_MIN + draw.below(NODES_SPAN), ..draw };
        let length = 30 + draw.below(60);
        let operations = (0..length).flat_map(|_| draw.operations()).collect();
        Self { seed, nodes: draw.index(draw.nodes), operations, restart_all: draw.below(2) == 0 }
    }
}

struct Draw {
    rng: SeededRng,
    nodes: u64,
}

impl Draw {
    fn below(&self, bound: u64) -> u64 {
        self.rng.below(bound)
    }

    fn index(&self, number: u64) -> usize {
        usize::try_from(number).expect("a small number")
    }

    fn node(&self) -> usize {
        self.index(self.below(self.nodes))
    }

    fn pair(&self) -> (usize, usize) {
        let one = self.below(self.nodes);
        let other = (one + 1 + self.below(self.nodes - 1)) % self.nodes;
        (self.index(one), self.index(other))
    }

    fn namespace(&self) -> &'static str {
        NAMESPACES[self.index(self.below(3))]
    }

    fn operations(&self) -> Vec<Operation> {
        if self.below(12) == 0 { self.death_while_fetching() } else { vec![self.operation()] }
    }

    /// A file is stored at one node, and another dies while the body, or what goes before it, is on its way.
    fn death_while_fetching(&self) -> Vec<Operation> {
        let (from, to) = self.pair();
        let put = match self.put() {
            Operation::Put { namespace, key, size, content, .. } => {
                Operation::Put { node: to, namespace, key, size: 1_100 + size, content, pause_ms: 0, once: false }
            }
            other => other,
        };
        let delay_ms = 50 + self.below(200);
        let slow = Operation::Slow { from, to, delay_ms };
        vec![slow, put, Operation::Pass { ms: self.below(3 * delay_ms) }, Operation::Crash { node: from }]
    }

    fn operation(&self) -> Operation {
        let (from, to) = self.pair();
        match self.below(100) {
            0..38 => self.put(),
            38..44 => Operation::Delete { node: self.node(), namespace: self.namespace() },
            44..49 => Operation::Cut { from, to },
            49..52 => Operation::Part { one: from, other: to },
            52..55 => Operation::Slow { from, to, delay_ms: 1 + self.below(20_000) },
            55..63 => Operation::HarmNext { from, to, harm: self.harm(), count: 1 + self.below(4) },
            63..67 => Operation::Mend { one: from, other: to },
            67..72 => Operation::Crash { node: self.node() },
            72..78 => Operation::Restart { node: self.node() },
            78..81 => Operation::Skew { node: self.node(), skew_ms: self.skew_ms() },
            _ => self.pass(),
        }
    }

    fn put(&self) -> Operation {
        let size = if self.below(2) == 0 { 1 + self.below(900) } else { 1_100 + self.below(60_000) };
        Operation::Put {
            node: self.node(),
            namespace: self.namespace(),
            key: self.below(KEYS),
            size: self.index(size),
            content: u8::try_from(self.below(4)).expect("a small number"),
            pause_ms: if self.below(4) == 0 { self.below(3_000) } else { 0 },
            once: self.below(5) == 0,
        }
    }

    fn harm(&self) -> Harm {
        let offset = self.below(3_000);
        match self.below(5) {
            0 | 1 => Harm::Cut(offset),
            2 => Harm::Stall(offset),
            3 => Harm::Corrupt(offset),
            _ => Harm::Status([500, 502, 503, 404][self.index(self.below(4))]),
        }
    }

    fn skew_ms(&self) -> i64 {
        self.below(3_600_000).cast_signed() - 1_800_000
    }

    fn pass(&self) -> Operation {
        let ms = [5, 500, 5_000, 40_000][self.index(self.below(4))];
        Operation::Pass { ms: 1 + self.below(ms) }
    }
}
