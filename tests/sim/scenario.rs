//! What happens in a scenario, as values drawn from its seed.

use kura::core::base::rng::{RngExt, SeededRng};

use crate::lies::{CursorLie, Lie};
use crate::volume::Room;

/// Nodes of the largest mesh.
pub const NODES_MAX: usize = 9;

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
    /// One byte of an artifact's body arrives changed.
    Corrupt(u64),
    /// The peer answers with this status instead.
    Status(u16),
    /// The peer says what is not so.
    Lie(Lie),
}

/// Something that is done to the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// A client stores a body. Its contents follow from the number; `pause_ms` lies between its pieces.
    Put { node: usize, namespace: &'static str, key: u64, size: usize, content: u8, pause_ms: u64, once: bool },
    /// A client deletes a namespace.
    Delete { node: usize, namespace: &'static str },
    /// The same, and it is brought to a node that asks nobody.
    DeletePushed { node: usize, to: usize, namespace: &'static str },
    /// One direction of a link is cut.
    Cut { from: usize, to: usize },
    /// Both directions are.
    Part { one: usize, other: usize },
    /// One direction is up and down in turns.
    Flap { from: usize, to: usize, turn_ms: u64 },
    /// A node answers for its status and fails everything else, or is well again.
    Sick { node: usize, sick: bool },
    /// Answers take this much longer in one direction.
    Slow { from: usize, to: usize, delay_ms: u64 },
    /// The next bodies in one direction are harmed.
    HarmNext { from: usize, to: usize, harm: Harm, count: u64 },
    /// All faults of both directions of a link end.
    Mend { one: usize, other: usize },
    /// A node dies at once.
    Crash { node: usize },
    /// A node dies at one of its next steps, whatever that is.
    CrashWithin { node: usize, steps: u64 },
    /// It comes back with what it had; nothing happens if it is up.
    Restart { node: usize },
    /// A node dies and comes back with an empty volume.
    Wipe { node: usize },
    /// A copy of a node's volume is kept.
    Snapshot { node: usize },
    /// A node dies and comes back with the volume that was kept, if one was.
    Restore { node: usize },
    /// A node dies and comes back with a copy of another's volume, until the faults stop: then it is emptied.
    Clone { from: usize, to: usize },
    /// A node whose room is bounded frees this much.
    Evict { node: usize, bytes: u64 },
    /// A node's volume is full, or has room again.
    Fill { node: usize, room: Room },
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
    /// A node that the others take for one of the seed era. It takes no writes: such a peer lists versions without
    /// digests, so two writes of one millisecond would not meet.
    pub seed_era: Option<usize>,
    pub operations: Vec<Operation>,
    /// Whether all nodes start anew once the faults have stopped, and not only those that are down.
    pub restart_all: bool,
    /// What bodies may take at each node, if that is bounded: then no client writes there, because what is evicted may
    /// have been nowhere else. The first one keeps everything.
    pub capacities: Vec<Option<u64>>,
    /// A node that stays sick for a while when the other faults have stopped: the others must not wait for it.
    pub stays_sick: Option<usize>,
}

impl Scenario {
    /// The one that belongs to the seed.
    pub fn draw(seed: u64) -> Self {
        let draw = Draw { rng: SeededRng::new(seed), nodes: 0, is_tight: false, seed_era: None };
        let nodes = match draw.below(10) {
            0..6 => 2 + draw.below(3),
            6..9 => 4 + draw.below(3),
            _ => 7 + draw.below(3),
        };
        let draw = Draw { nodes, ..draw };
        let some_node = |one_in: u64| (draw.below(one_in) == 0 && nodes > 2).then(|| draw.node());
        let (seed_era, stays_sick) = (some_node(8), some_node(6));
        let is_tight = draw.below(4) == 0;
        let mut capacities: Vec<Option<u64>> = (0..nodes).map(|_| draw.capacity().filter(|_| is_tight)).collect();
        capacities[0] = None;
        let draw = Draw { is_tight, seed_era, ..draw };
        let length = 30 + draw.below(60);
        let operations = (0..length).flat_map(|_| draw.operations()).collect();
        Self {
            seed,
            nodes: draw.index(nodes),
            seed_era,
            operations,
            restart_all: draw.below(2) == 0,
            capacities,
            stays_sick: stays_sick.filter(|_| seed_era.is_none()),
        }
    }
}

struct Draw {
    rng: SeededRng,
    nodes: u64,
    is_tight: bool,
    seed_era: Option<usize>,
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

    /// Less than the bodies of a scenario take, for two nodes of three.
    fn capacity(&self) -> Option<u64> {
        (self.below(3) > 0).then(|| 20_000 + self.below(300_000))
    }

    fn namespace(&self) -> &'static str {
        NAMESPACES[self.index(self.below(3))]
    }

    fn operations(&self) -> Vec<Operation> {
        if self.is_tight && self.below(6) == 0 {
            return vec![Operation::Evict { node: self.node(), bytes: 1 + self.below(100_000) }];
        }
        match self.below(40) {
            0 | 1 => self.death_while_fetching(),
            2 => self.race(),
            3 => self.race_of_writes(),
            4 => self.rollback(),
            5 => self.death_while_following(),
            6 => self.listed_again(),
            7 => self.listed_badly(),
            8 => self.told_wrong(),
            9 => self.overtaken_in_part(),
            11 => self.full_volume(),
            10 => self.seed_era.map_or_else(|| vec![self.operation()], |node| self.brought_a_delete(node)),
            _ => vec![self.operation()],
        }
    }

    /// A namespace is deleted at one node while a client still sends to another.
    fn race(&self) -> Vec<Operation> {
        let (one, other) = self.pair();
        let Operation::Put { namespace, key, size, content, .. } = self.put() else { return Vec::new() };
        let pause_ms = 1 + self.below(50);
        let put = Operation::Put { node: one, namespace, key, size, content, pause_ms, once: false };
        vec![put, Operation::Pass { ms: self.below(4 * pause_ms) }, Operation::Delete { node: other, namespace }]
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

    /// A file is stored at one node, and a newer one at another while the first is on its way there.
    fn race_of_writes(&self) -> Vec<Operation> {
        let (from, to) = self.pair();
        let Operation::Put { namespace, key, size, content, .. } = self.put() else { return Vec::new() };
        let delay_ms = 50 + self.below(200);
        let put =
            |node, content, size| Operation::Put { node, namespace, key, size, content, pause_ms: 0, once: false };
        vec![
            Operation::Mend { one: from, other: to },
            Operation::Slow { from, to, delay_ms },
            put(to, content, 1_100 + size % 8_000),
            // The listing takes the delay, and the body once more.
            Operation::Pass { ms: delay_ms + self.below(delay_ms) },
            put(from, content + 4, 1 + size % 900),
            Operation::Pass { ms: 1 + self.below(3 * delay_ms) },
        ]
    }

    /// A node goes back to what it was before its last start, and writes on before anybody has asked it since.
    fn rollback(&self) -> Vec<Operation> {
        let node = self.node();
        let others = || (0..self.index(self.nodes)).filter(move |other| *other != node);
        let put = || match self.put() {
            Operation::Put { namespace, key, size, content, .. } => {
                Operation::Put { node, namespace, key, size, content, pause_ms: 0, once: false }
            }
            other => other,
        };
        let puts = |count: u64| (0..count).flat_map(|_| [put(), Operation::Pass { ms: 2 }]).collect::<Vec<_>>();
        let mut operations = vec![Operation::Restart { node }, Operation::Snapshot { node }];
        operations.extend([Operation::Crash { node }, Operation::Restart { node }]);
        operations.extend(puts(1 + self.below(3)));
        operations.push(Operation::Pass { ms: 1 + self.below(3_000) });
        operations.extend(others().map(|other| Operation::Part { one: node, other }));
        operations.push(Operation::Restore { node });
        operations.extend(puts(2 + self.below(4)));
        operations.extend(others().map(|other| Operation::Mend { one: node, other }));
        operations.push(Operation::Pass { ms: 1 + self.below(10_000) });
        operations
    }

    /// A node dies at one of the steps that it takes because of a write elsewhere.
    fn death_while_following(&self) -> Vec<Operation> {
        let (from, to) = self.pair();
        let Operation::Put { namespace, key, size, content, .. } = self.put() else { return Vec::new() };
        let size = 1 + size % 8_000;
        vec![
            Operation::Mend { one: from, other: to },
            Operation::Restart { node: from },
            Operation::Pass { ms: 1_000 },
            Operation::Put { node: to, namespace, key, size, content, pause_ms: 0, once: false },
            Operation::CrashWithin { node: from, steps: 1 + self.below(24) },
            Operation::Pass { ms: 1 + self.below(2_000) },
            Operation::Restart { node: from },
        ]
    }

    /// All that a node holds is listed to it anew, by one that lost its volume.
    fn listed_again(&self) -> Vec<Operation> {
        let (from, to) = self.pair();
        vec![
            Operation::Mend { one: from, other: to },
            Operation::Evict { node: from, bytes: 1 + self.below(60_000) },
            Operation::Pass { ms: 1 + self.below(1_000) },
            Operation::Wipe { node: to },
            Operation::Pass { ms: 1 + self.below(20_000) },
        ]
    }

    /// A node lists writes and deletes of another, and what it is told is changed on the way.
    fn listed_badly(&self) -> Vec<Operation> {
        let (from, to) = self.pair();
        let Operation::Put { namespace, key, size, content, .. } = self.put() else { return Vec::new() };
        let (lie, size) = match self.below(4) {
            0 => (Lie::Digit(self.below(1 << 20)), size),
            // Most of a page's header says nothing that matters; the first rows lie about here.
            1 => (Lie::FlipRows(220 + self.below(140)), size),
            // Small enough to come with its record, of which nothing but the page's digest vouches for most.
            _ => (Lie::FlipRiding(self.below(1 << 20)), 1 + size % 900),
        };
        vec![
            Operation::Mend { one: from, other: to },
            Operation::Restart { node: to },
            Operation::Crash { node: from },
            Operation::Delete { node: to, namespace: self.namespace() },
            Operation::Put { node: to, namespace, key, size, content, pause_ms: 0, once: false },
            Operation::HarmNext { from, to, harm: Harm::Lie(lie), count: 1 },
            Operation::Restart { node: from },
            Operation::Pass { ms: 1 + self.below(5_000) },
        ]
    }

    /// A long body is cut on its way, and a newer one of the same name is stored before it is asked for again.
    fn overtaken_in_part(&self) -> Vec<Operation> {
        let (from, to) = self.pair();
        let Operation::Put { namespace, key, content, .. } = self.put() else { return Vec::new() };
        let size = self.index(12_000 + self.below(40_000));
        let put = |content| Operation::Put { node: to, namespace, key, size, content, pause_ms: 0, once: false };
        let harm = Harm::Cut(2_000 + self.below(8_000));
        vec![
            Operation::Mend { one: from, other: to },
            Operation::Restart { node: to },
            Operation::Restart { node: from },
            Operation::Pass { ms: 1_000 },
            // Listings are shorter than that and pass, but count.
            Operation::HarmNext { from, to, harm, count: 5 },
            put(content),
            Operation::Pass { ms: 1 + self.below(2_000) },
            put(content + 4),
            Operation::Pass { ms: 1 + self.below(5_000) },
        ]
    }

    /// A node's volume is full while there are writes and deletes, here and elsewhere, and perhaps a start.
    fn full_volume(&self) -> Vec<Operation> {
        let (node, other) = self.pair();
        let put = |node| match self.put() {
            Operation::Put { namespace, key, size, content, pause_ms, once, .. } => {
                Operation::Put { node, namespace, key, size, content, pause_ms, once }
            }
            other => other,
        };
        let room = if self.below(3) == 0 { Room::NoName } else { Room::NoBlock };
        let mut operations = vec![Operation::Mend { one: node, other }, Operation::Restart { node: other }];
        operations.extend([Operation::Restart { node }, Operation::Pass { ms: 1 + self.below(1_000) }]);
        operations.extend([put(other), Operation::Pass { ms: self.below(200) }, Operation::Fill { node, room }]);
        operations.extend([put(other), put(node), put(other), Operation::Pass { ms: 1 + self.below(2_000) }]);
        operations.push(Operation::Delete {
            node: if self.below(2) == 0 { node } else { other },
            namespace: self.namespace(),
        });
        if self.below(3) == 0 {
            operations.extend([Operation::CrashWithin { node, steps: self.steps() }, Operation::Pass { ms: 500 }]);
            operations.extend([Operation::Restart { node }, put(other)]);
        }
        operations.push(Operation::Pass { ms: 1 + self.below(5_000) });
        operations.push(Operation::Fill { node, room: Room::Plenty });
        operations
    }

    /// A node of the seed era asks nobody for deletes once it serves: they are brought to it.
    fn brought_a_delete(&self, to: usize) -> Vec<Operation> {
        let node = (to + 1 + self.index(self.below(self.nodes - 1))) % self.index(self.nodes);
        let others = (0..self.index(self.nodes)).filter(|other| *other != to);
        let mut operations = vec![Operation::Restart { node }, Operation::Restart { node: to }];
        operations.extend(others.clone().map(|other| Operation::Mend { one: to, other }));
        operations.extend(others.map(|other| Operation::Cut { from: to, to: other }));
        operations.push(Operation::DeletePushed { node, to, namespace: self.namespace() });
        operations
    }

    /// Everybody is told another digest of a write than it has: the version that they look for is nowhere, and the true one
    /// counts as older.
    fn told_wrong(&self) -> Vec<Operation> {
        let node = self.node();
        let others = || (0..self.index(self.nodes)).filter(move |other| *other != node);
        let mut operations = vec![Operation::Restart { node }];
        operations.extend(
            others().flat_map(|other| [Operation::Mend { one: node, other }, Operation::Restart { node: other }]),
        );
        operations.push(Operation::Pass { ms: 1_000 });
        let harm = Harm::Lie(Lie::Digests(0xff));
        operations.extend(others().map(|other| Operation::HarmNext { from: other, to: node, harm, count: 1 }));
        if let Operation::Put { namespace, size, content, .. } = self.put() {
            // No other write is to take its place.
            operations.push(Operation::Put { node, namespace, key: KEYS, size, content, pause_ms: 0, once: false });
        }
        operations.push(Operation::Pass { ms: 1 + self.below(3_000) });
        operations
    }

    fn operation(&self) -> Operation {
        let (from, to) = self.pair();
        match self.below(200) {
            0..72 => self.put(),
            72..82 => Operation::Delete { node: self.node(), namespace: self.namespace() },
            82..90 => Operation::Cut { from, to },
            90..94 => Operation::Part { one: from, other: to },
            94..98 => {
                Operation::Flap { from, to, turn_ms: 1 + self.below([200, 5_000, 60_000][self.index(self.below(3))]) }
            }
            98..104 => Operation::Slow { from, to, delay_ms: 1 + self.below(20_000) },
            104..124 => Operation::HarmNext { from, to, harm: self.harm(), count: 1 + self.below(4) },
            124..132 => Operation::Mend { one: from, other: to },
            132..136 => Operation::Sick { node: from, sick: self.below(3) > 0 },
            136..142 => Operation::Crash { node: self.node() },
            142..152 => Operation::CrashWithin { node: self.node(), steps: self.steps() },
            152..164 => Operation::Restart { node: self.node() },
            164..166 => Operation::Wipe { node: self.node() },
            166..168 => Operation::Snapshot { node: self.node() },
            168..170 => Operation::Restore { node: self.node() },
            170 => Operation::Clone { from, to },
            171..176 => Operation::Skew { node: self.node(), skew_ms: self.skew_ms() },
            _ => self.pass(),
        }
    }

    /// From the very next to some hundreds later, the near ones more often.
    fn steps(&self) -> u64 {
        1 + self.below(1 << self.below(10))
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
        match self.below(10) {
            0..3 => Harm::Cut(offset),
            3 => Harm::Stall(offset),
            4 => Harm::Corrupt(offset),
            5 | 6 => Harm::Status([500, 502, 503, 404][self.index(self.below(4))]),
            _ => Harm::Lie(self.lie()),
        }
    }

    fn lie(&self) -> Lie {
        match self.below(11) {
            10 => Lie::Digit(self.below(1 << 20)),
            0..4 => Lie::Flip(self.below(1 << 20)),
            4 => Lie::Cursor(if self.below(2) == 0 { CursorLie::Stays } else { CursorLie::GoesBack }),
            5 => Lie::Sizes([1, 4096, 1 << 31, 1 << 40][self.index(self.below(4))]),
            6 => Lie::Digests(u8::try_from(self.below(256)).expect("a byte")),
            7 => Lie::Counts(1 << self.below(40)),
            8 => Lie::Body(u8::try_from(self.below(256)).expect("a byte")),
            _ => Lie::Length(1 + self.below(3)),
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
