//! What the mesh owes its clients: of each key the last word that was acknowledged, and what may have come after it.

use std::collections::BTreeMap;

use crate::support::bodies::{SeededBody, SplitMix};

/// What a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The body of this seed under this key.
    Put {
        /// Which key.
        key: u64,
        /// Which body.
        seed: u64,
    },
    /// The whole namespace.
    Delete,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// This node said that it is done.
    Acknowledged(usize),
    /// It was refused, or never reached a node.
    NotDone,
    /// The node died or fell silent: done or not.
    Unknown,
}

/// What is known of one key.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The seed of the body that is there; none = deleted.
    pub seed: Option<u64>,
    /// Who said so.
    pub said_by: usize,
    /// What later changes without an answer may have made of it.
    pub perhaps: Vec<Option<u64>>,
}

impl Known {
    /// Whether this is an honest answer; `found` = the bytes, or a miss.
    pub fn allows(&self, found: Option<&[u8]>) -> bool {
        let is = |seed: Option<u64>| match (seed, found) {
            (Some(seed), Some(found)) => found == body(seed),
            (None, None) => true,
            _ => false,
        };
        is(self.seed) || self.perhaps.iter().any(|seed| is(*seed))
    }
}

/// One client's account of its own namespace, which nobody else writes.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Each key that was ever written.
    pub keys: BTreeMap<u64, Known>,
    /// Writes that were acknowledged.
    pub writes: u64,
    /// Deletes that were acknowledged.
    pub deletes: u64,
    /// Changes without an answer.
    pub unknown: u64,
}

impl Ledger {
    /// Notes how a change ended.
    pub fn note(&mut self, change: Change, end: End) {
        match (change, end) {
            (_, End::NotDone) => {}
            (Change::Put { key, seed }, End::Acknowledged(said_by)) => {
                self.keys.insert(key, Known { seed: Some(seed), said_by, perhaps: Vec::new() });
                self.writes += 1;
            }
            (Change::Delete, End::Acknowledged(said_by)) => {
                for known in self.keys.values_mut() {
                    *known = Known { seed: None, said_by, perhaps: Vec::new() };
                }
                self.deletes += 1;
            }
            (Change::Put { key, seed }, End::Unknown) => {
                self.keys.entry(key).or_default().perhaps.push(Some(seed));
                self.unknown += 1;
            }
            (Change::Delete, End::Unknown) => {
                self.keys.values_mut().for_each(|known| known.perhaps.push(None));
                self.unknown += 1;
            }
        }
    }
}

/// The body of a seed: most lie inside the index, some are files, a few are asked for in requests of their own.
pub fn body(seed: u64) -> Vec<u8> {
    let mut random = SplitMix::new(seed);
    let length_max = match random.next() % 40 {
        0 => 3_000_000,
        1..=9 => 200_000,
        _ => 5_000,
    };
    SeededBody::new(seed, 1 + random.next() % length_max).into_vec()
}

/// Where a writer's key lies. Of last-writer kind, so that most writes replace a body.
pub fn path(writer: usize, key: u64) -> String {
    format!("/ccache/writer{writer}/{key:02x}/{key:031x}")
}

#[test]
fn a_key_is_what_was_said_last_or_what_may_have_come_after() {
    let mut ledger = Ledger::default();
    let put = |seed| Change::Put { key: 1, seed };
    ledger.note(put(1), End::Acknowledged(0));
    ledger.note(put(2), End::NotDone);
    let allows = |ledger: &Ledger, seed: Option<u64>| ledger.keys[&1].allows(seed.map(body).as_deref());
    assert!(allows(&ledger, Some(1)) && !allows(&ledger, Some(2)) && !allows(&ledger, None));
    ledger.note(put(3), End::Unknown);
    ledger.note(Change::Delete, End::Unknown);
    assert!(allows(&ledger, Some(1)) && allows(&ledger, Some(3)) && allows(&ledger, None));
    ledger.note(put(4), End::Acknowledged(2));
    assert!(allows(&ledger, Some(4)) && !allows(&ledger, Some(3)) && !allows(&ledger, None));
    ledger.note(Change::Delete, End::Acknowledged(1));
    assert!(allows(&ledger, None) && !allows(&ledger, Some(4)));
}
