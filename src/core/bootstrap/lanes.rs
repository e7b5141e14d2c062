//! Walks over several peers at a time come down the versions together, so that all of them make one listing, newest
//! first, in which what several peers hold stands side by side.
//!
//! How it works: each walk is a lane at a height, the version above which everything it lists is settled. The oldest lane
//! leads: it settles whole pages, with the bodies that ride along in them. The others list rows without bodies and settle
//! those that lie above the leader; nearly all of them are here by then, and what is not is fetched. The leader is about
//! a page ahead of the others. When it leaves, the next oldest leads.
//!
//! Invariants: nobody waits for a lane that waits. A lane that works without moving for [`LATE_AFTER`] is late: it is
//! neither waited for nor does it lead, until it moves again; what it holds alone is taken then. And no lane waits longer
//! in all than it works, but for that time once: next to a slow peer it takes at most twice as long. Memory is three pages
//! for each peer (see [`super::walk_down`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::source::{SourcePage, SourceRow};

/// A lane that does not move for this long while it is its turn is not waited for: longer than a page of small bodies
/// takes on a slow volume, short beside what is left to walk.
pub const LATE_AFTER: Duration = Duration::from_secs(2);

/// A version without its digest: walks of different peers compare by nothing else.
pub type Height = (u64, u16);

#[derive(Debug, Clone, Copy)]
struct Lane {
    /// The version of the next row that is not settled.
    height: Height,
    /// Where it was when it got the turn before: nobody has to be further than this.
    before: Height,
    /// Since when it works without having moved; `None` while it waits.
    working_since: Option<Instant>,
    /// How long it worked, and how long it waited for others.
    worked: Duration,
    waited: Duration,
}

/// Above every row.
const SUMMIT: Height = (u64::MAX, u16::MAX);

impl Lane {
    fn new(now: Instant) -> Self {
        let (worked, waited) = (Duration::ZERO, Duration::ZERO);
        Self { height: SUMMIT, before: SUMMIT, working_since: Some(now), worked, waited }
    }

    /// How much longer it may wait.
    fn patience(&self) -> Duration {
        (self.worked + LATE_AFTER).saturating_sub(self.waited)
    }

    fn is_late(&self, now: Instant) -> bool {
        self.working_since.is_some_and(|since| now.saturating_duration_since(since) >= LATE_AFTER)
    }
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    lanes: BTreeMap<u64, Lane>,
}

/// The walks under way; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Lanes {
    table: Arc<Mutex<Table>>,
    moved: Arc<Notify>,
}

/// The place of one walk among the others; leaves when dropped.
#[derive(Debug)]
pub struct LaneGuard {
    lanes: Lanes,
    number: u64,
}

impl Lanes {
    /// A new walk, behind those that are under way.
    pub fn join(&self) -> LaneGuard {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let number = table.next;
        table.next += 1;
        table.lanes.insert(number, Lane::new(Instant::now()));
        LaneGuard { lanes: self.clone(), number }
    }
}

/// What a lane may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Settle everything at hand.
    All,
    /// Settle what lies above this.
    Above(Height),
    /// Wait for somebody to move, at most until then.
    Wait(Instant),
}

impl LaneGuard {
    fn with_table<R>(&self, work: impl FnOnce(&mut Table) -> R) -> R {
        work(&mut self.lanes.table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, change: impl FnOnce(&mut Lane)) {
        self.with_table(|table| table.lanes.get_mut(&self.number).map(change));
        self.lanes.moved.notify_waiters();
    }

    /// Whether this lane leads, so that bodies are to ride along in its pages.
    pub fn leads(&self) -> bool {
        let now = Instant::now();
        self.with_table(|table| leader(table, now).is_none_or(|number| number == self.number))
    }

    /// Waits until rows from this height on may be settled. `Some`: only those above it.
    pub async fn turn(&self, top: Height) -> Option<Height> {
        let began = Instant::now();
        self.change(|lane| {
            let worked = lane.working_since.take().map(|since| began.saturating_duration_since(since));
            lane.worked += worked.unwrap_or_default();
        });
        let until = self.wait_for_turn(top, began).await;
        self.change(|lane| {
            let now = Instant::now();
            lane.waited += now.saturating_duration_since(began);
            lane.before = lane.height.min(top);
            lane.working_since = Some(now);
        });
        until
    }

    async fn wait_for_turn(&self, top: Height, began: Instant) -> Option<Height> {
        loop {
            let moved = self.lanes.moved.notified();
            tokio::pin!(moved);
            // Before looking, so that no move between the look and the wait is missed.
            moved.as_mut().enable();
            match self.with_table(|table| decide(table, self.number, top, (began, Instant::now()))) {
                Turn::All => return None,
                Turn::Above(height) => return Some(height),
                Turn::Wait(until) => drop(tokio::time::timeout_at(until, moved).await),
            }
        }
    }

    /// Everything above this is settled.
    pub fn came_down(&self, height: Height) {
        self.change(|lane| {
            let now = Instant::now();
            let worked = lane.working_since.replace(now).map(|since| now.saturating_duration_since(since));
            lane.worked += worked.unwrap_or_default();
            lane.height = lane.height.min(height);
        });
    }
}

impl Drop for LaneGuard {
    fn drop(&mut self) {
        self.with_table(|table| table.lanes.remove(&self.number));
        self.lanes.moved.notify_waiters();
    }
}

/// The oldest lane that is not late.
fn leader(table: &Table, now: Instant) -> Option<u64> {
    table.lanes.iter().find(|(_, lane)| !lane.is_late(now)).map(|(number, _)| *number)
}

fn decide(table: &Table, own: u64, top: Height, (began, now): (Instant, Instant)) -> Turn {
    let Some(lane) = table.lanes.get(&own) else { return Turn::All };
    let impatient_at = began + lane.patience();
    if now >= impatient_at {
        return Turn::All;
    }
    let others = table.lanes.iter().filter(|(number, other)| **number != own && !other.is_late(now));
    match others.clone().find(|(number, _)| **number < own) {
        // Another one leads.
        Some((_, leader)) if top <= leader.height => Turn::Wait(impatient_at.min(late_at(leader, impatient_at))),
        Some((_, leader)) => Turn::Above(leader.height),
        // Others that are not through with the page before are waited for, so that they do not fall behind.
        None => {
            let behind = others.filter(|(_, other)| other.working_since.is_some() && other.height > lane.before);
            let late = behind.map(|(_, other)| late_at(other, impatient_at)).min();
            late.map_or(Turn::All, |late| Turn::Wait(impatient_at.min(late)))
        }
    }
}

/// When a lane that does not move counts as late; one that waits never does.
fn late_at(lane: &Lane, otherwise: Instant) -> Instant {
    lane.working_since.map_or(otherwise, |since| since + LATE_AFTER)
}

/// The height of a row; tombstones have none and come first.
pub fn height_of(row: &SourceRow) -> Height {
    match row {
        SourceRow::Artifact(record, _) => (record.version_ms, record.logical),
        SourceRow::Tombstone { .. } => SUMMIT,
    }
}

/// Takes what lies above a height off the front of a page; all of it without one.
pub fn take_above(page: &mut SourcePage, height: Option<Height>) -> SourcePage {
    let count = match height {
        Some(height) => page.rows.iter().take_while(|row| height_of(row) > height).count(),
        None => page.rows.len(),
    };
    let rest = page.rows.split_off(count);
    SourcePage {
        rows: std::mem::replace(&mut page.rows, rest),
        skipped: std::mem::take(&mut page.skipped),
        floor_ms: page.floor_ms,
    }
}

#[cfg(test)]
#[path = "lanes_tests.rs"]
mod tests;
