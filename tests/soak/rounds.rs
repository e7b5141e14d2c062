//! The loop: load, a kill, what has to hold, and again.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::checks::{
    assert_accounts_agree, assert_doctor_finds_nothing, assert_nothing_to_reclaim, complaints_at_once,
    complaints_in_the_end,
};
use super::ledger::Ledger;
use super::load::{Load, lock};
use crate::support::bodies::SplitMix;
use crate::support::http::Client;
use crate::support::mesh::Mesh;
use crate::support::node::{Node, READY_WITHIN};

const NODES: usize = 3;
const WRITERS: usize = 4;

/// Rounds of the ordinary test run, and the longest time between two of their kills.
const ROUNDS_DEFAULT: u64 = 30;
const GAP_MAX_DEFAULT: Duration = Duration::from_millis(300);
/// The same of a run that was asked for.
const GAP_MAX_ASKED: Duration = Duration::from_secs(3);

/// What a writer rests after each change. Versions are milliseconds: what two nodes are told in one has no order.
const PAUSE_ASKED: Duration = Duration::from_millis(2);
/// The same in the ordinary run, which shares its machine with other tests.
const PAUSE_DEFAULT: Duration = Duration::from_millis(20);

/// Rounds between two looks at everything everywhere.
const SETTLE_EVERY: u64 = 10;

/// How long the nodes may take to hold the same once the load rests.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// How long one run goes on.
#[derive(Debug, Clone, Copy)]
enum Extent {
    Rounds(u64),
    For(Duration),
}

/// How hard it is.
#[derive(Debug, Clone, Copy)]
struct Pace {
    gap_max: Duration,
    pause: Duration,
}

impl Extent {
    fn of_environment() -> (Self, Pace) {
        let asked = Pace { gap_max: GAP_MAX_ASKED, pause: PAUSE_ASKED };
        match (number("SOAK_ROUNDS"), number("SOAK_MINUTES")) {
            (Some(rounds), _) => (Self::Rounds(rounds), asked),
            (None, Some(minutes)) => (Self::For(Duration::from_secs(60 * minutes)), asked),
            (None, None) => (Self::Rounds(ROUNDS_DEFAULT), Pace { gap_max: GAP_MAX_DEFAULT, pause: PAUSE_DEFAULT }),
        }
    }

    fn is_over(self, rounds: u64, elapsed: Duration) -> bool {
        match self {
            Self::Rounds(wanted) => rounds >= wanted,
            Self::For(wanted) => elapsed >= wanted,
        }
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[derive(Debug, Default)]
struct Figures {
    rounds: u64,
    kills: u64,
    all_at_once: u64,
    writes: u64,
    deletes: u64,
    unknown: u64,
    lost: u64,
    longest_to_answers: Duration,
    longest_to_ready: Duration,
    longest_to_equal: Duration,
}

impl Figures {
    fn note_lost(&mut self, complaints: Vec<String>) {
        self.lost += complaints.len() as u64;
        assert!(complaints.is_empty(), "{complaints:#?}\n{self:?}");
    }
}

/// One, two or all of them.
fn victims(random: &mut SplitMix) -> BTreeSet<usize> {
    let count = 1 + random.next() as usize % NODES;
    let mut victims = BTreeSet::new();
    while victims.len() < count {
        victims.insert(random.next() as usize % NODES);
    }
    victims
}

/// The mesh and what it owes.
struct Soak {
    mesh: Mesh,
    clients: Vec<Client>,
    ledgers: Arc<Vec<Mutex<Ledger>>>,
    figures: Figures,
}

impl Soak {
    fn start() -> Self {
        let mesh = Mesh::start(NODES);
        let clients = mesh.nodes.iter().map(Node::client).collect();
        let ledgers = Arc::new((0..WRITERS).map(|_| Mutex::default()).collect());
        Self { mesh, clients, ledgers, figures: Figures::default() }
    }

    /// Kills some nodes, counts what they left, starts them, and asks for all that was acknowledged.
    fn round(&mut self, random: &mut SplitMix) {
        let victims = victims(random);
        victims.iter().for_each(|node| self.mesh.nodes[*node].kill());
        self.figures.kills += victims.len() as u64;
        self.figures.all_at_once += u64::from(victims.len() == NODES);
        victims.iter().for_each(|node| assert_accounts_agree(&self.mesh.nodes[*node]));
        let started = Instant::now();
        victims.iter().for_each(|node| self.mesh.nodes[*node].start());
        let ledgers = (0..).zip(self.ledgers.iter());
        let complaints = ledgers.flat_map(|(writer, ledger)| complaints_at_once(writer, &self.clients, &lock(ledger)));
        let complaints = complaints.collect();
        self.figures.note_lost(complaints);
        self.figures.longest_to_answers = self.figures.longest_to_answers.max(started.elapsed());
        self.mesh.wait_ready(READY_WITHIN);
        self.figures.longest_to_ready = self.figures.longest_to_ready.max(started.elapsed());
        victims.iter().for_each(|node| assert_nothing_to_reclaim(&self.mesh.nodes[*node]));
        self.figures.rounds += 1;
    }

    /// Lets the load rest until all nodes hold the same, and asks each of them for everything.
    fn settle(&mut self) {
        let resting: Vec<_> = self.ledgers.iter().map(lock).collect();
        let started = Instant::now();
        self.mesh.wait_complete(SETTLED_WITHIN);
        self.mesh.wait_equal(SETTLED_WITHIN);
        self.figures.longest_to_equal = self.figures.longest_to_equal.max(started.elapsed());
        let ledgers = (0..).zip(&resting);
        let complaints = ledgers.flat_map(|(writer, ledger)| complaints_in_the_end(writer, &self.clients, ledger));
        self.figures.note_lost(complaints.collect());
    }

    /// With the load gone: everything is looked at, and the nodes end in order.
    fn finish(&mut self) {
        self.settle();
        assert_doctor_finds_nothing(&self.mesh);
        for node in &mut self.mesh.nodes {
            assert!(node.stop().success(), "{} ends in order", node.name);
            assert_accounts_agree(node);
        }
        for ledger in self.ledgers.iter() {
            let ledger = lock(ledger);
            self.figures.writes += ledger.writes;
            self.figures.deletes += ledger.deletes;
            self.figures.unknown += ledger.unknown;
        }
    }
}

/// However the rounds end, the clients are let go.
struct StopAtTheEnd<'a>(&'a AtomicBool);

impl Drop for StopAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn what_is_acknowledged_survives_kill_9_in_a_loop() {
    let (extent, pace) = Extent::of_environment();
    let seed = number("SOAK_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("SOAK_SEED={seed}, {extent:?}, {pace:?}");
    let mut random = SplitMix::new(seed);
    let mut soak = Soak::start();
    let stop = AtomicBool::new(false);
    let (clients, ledgers) = (soak.clients.clone(), Arc::clone(&soak.ledgers));
    let started = Instant::now();
    std::thread::scope(|scope| {
        let _stop = StopAtTheEnd(&stop);
        for (writer, ledger) in ledgers.iter().enumerate() {
            let (clients, stop) = (&clients, &stop);
            let load = Load { seed, nodes: clients, pause: pace.pause, stop };
            scope.spawn(move || load.write(writer, ledger));
        }
        let load = Load { seed, nodes: &clients, pause: pace.pause, stop: &stop };
        scope.spawn(move || load.abandon());
        while !extent.is_over(soak.figures.rounds, started.elapsed()) {
            std::thread::sleep(pace.gap_max.mul_f64(random.fraction()));
            soak.round(&mut random);
            if soak.figures.rounds.is_multiple_of(SETTLE_EVERY) {
                soak.settle();
                println!("{:?}: {:?}", started.elapsed(), soak.figures);
            }
        }
    });
    soak.finish();
    println!("{:?}: {:#?}", started.elapsed(), soak.figures);
    assert!(soak.figures.writes > 0 && soak.figures.deletes > 0, "there was a load");
}
