//! The ledger: reservations in bytes, with the rules by which they wait, grow and are refused.
//!
//! How it works:
//! - **Known length**: the whole length is reserved before the first byte, first come first served within a class.
//!   Catch-up holds at most 75 % of the ledger; a client's wait is bounded, catch-up waits as long as it takes.
//!   A head that does not fit may be passed by the other class, but only a bounded number of times.
//! - **Unknown length**: a [`Reservation`] grows by trying and never waits. When there is no room, the youngest growing
//!   reservation is revoked, its bytes freed on the spot, and the try is repeated; a reservation that is itself the
//!   youngest is refused; the oldest, once it is alone, may overdraw, one reservation at a time.
//! - **Idle**: what nobody works on any more (a multipart upload whose client went away) gives way to whoever waits or is
//!   refused, whatever its age.
//! - **Parked**: a body that can be taken up again keeps its reservation while nobody works on it, and gives way to
//!   whoever is short of room; to a body of its own class only if no other one of that class is on its way.
//! - **Too large**: one body larger than the whole ledger goes once nobody else holds anything.
//!
//! Invariants: nobody waits while holding some: a waiter holds nothing, a growing holder never waits. So some holder can
//! always finish, and no set of bodies deadlocks. What is reserved stays within the ledger but for the two exceptions
//! above. The ledger's own mutex is held for a few instructions, never across a wait or a revocation.
//!
//! Revocation runs while the older body's state is locked and locks the younger one's: always from old to young, so no
//! two of them wait for each other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::oneshot;

use super::area::StagingError;

/// Catch-up's share of the ledger in percent: the rest is always left to clients.
const CATCH_UP_SHARE_PERCENT: u64 = 75;

/// How often the head of one class may be passed by the other class while it does not fit. Bounds its wait.
const PASSES_MAX: u32 = 64;

/// Who asks for room; each class has its own queue and share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BudgetClass {
    /// Build tools; waits are bounded.
    Client,
    /// Catching up from peers; at most 75 % of the ledger, waits as long as it takes.
    CatchUp,
}

/// Something whose bytes can be freed by the ledger to make room for an older one.
pub trait Revocable: Send + Sync + std::fmt::Debug {
    /// Frees the bytes and drops the reservation now, unless the body is whole already.
    fn revoke(&self);

    /// Does the same if nobody has worked on it for long; returns whether it did. Never waits for a lock.
    fn revoke_if_idle(&self) -> bool {
        false
    }
}

/// Reservations of all staged bytes; cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    budget: u64,
    catch_up_max: u64,
    client_wait: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_use: u64,
    catch_up_in_use: u64,
    peak: u64,
    next_ticket: u64,
    clients: VecDeque<Waiter>,
    catch_ups: VecDeque<Waiter>,
    /// Growing reservations by age, oldest first.
    growers: BTreeMap<u64, Grower>,
    /// Parked reservations, the one parked first in front. Only catching up parks any.
    parked: BTreeMap<u64, Parked>,
    /// Bytes of the body larger than the whole ledger that goes alone now.
    too_large: u64,
    /// The one reservation that may overdraw, until it is given back.
    overdraft: Option<Overdraft>,
}

#[derive(Debug, Clone, Copy)]
struct Overdraft {
    ticket: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    bytes: u64,
    passed: u32,
    sender: oneshot::Sender<Reservation>,
}

#[derive(Debug)]
struct Grower {
    class: BudgetClass,
    body: Weak<dyn Revocable>,
}

#[derive(Debug)]
struct Parked {
    bytes: u64,
    body: Weak<dyn Revocable>,
}

/// Grants found under the ledger's mutex, sent after it is released: a receiver that is gone drops its grant at once,
/// which takes the mutex again.
type Grants = Vec<(oneshot::Sender<Reservation>, Reservation)>;

impl Ledger {
    /// A ledger of `budget` bytes in which a client waits at most `client_wait`.
    pub fn new(budget: u64, client_wait: Duration) -> Self {
        let share = u128::from(budget) * u128::from(CATCH_UP_SHARE_PERCENT) / 100;
        let catch_up_max = u64::try_from(share).unwrap_or(u64::MAX);
        Self { inner: Arc::new(Inner { budget, catch_up_max, client_wait, state: Mutex::default() }) }
    }

    /// The ledger's size in bytes.
    pub fn budget(&self) -> u64 {
        self.inner.budget
    }

    /// Bytes reserved now.
    pub fn in_use(&self) -> u64 {
        self.state().in_use
    }

    /// Most bytes ever reserved at once.
    pub fn peak(&self) -> u64 {
        self.state().peak
    }

    /// Requests that wait now.
    pub fn waiting(&self) -> usize {
        let state = self.state();
        state.clients.len() + state.catch_ups.len()
    }

    /// Reserves a known length, waiting in turn. Dropping the future gives the place in the queue back.
    pub async fn reserve(&self, class: BudgetClass, bytes: u64) -> Result<Reservation, StagingError> {
        let (sender, receiver) = oneshot::channel();
        let (ticket, grants) = {
            let mut state = self.state();
            let ticket = state.take_ticket();
            state.queue(class).push_back(Waiter { ticket, bytes, passed: 0, sender });
            (ticket, self.admit(&mut state))
        };
        send(grants);
        let _place = Place { ledger: self, class, ticket };
        let granted = match class {
            BudgetClass::Client => tokio::time::timeout(self.inner.client_wait, receiver).await.ok(),
            BudgetClass::CatchUp => Some(receiver.await),
        };
        granted.and_then(Result::ok).ok_or_else(|| self.exhausted(bytes))
    }

    /// Starts an empty reservation that grows. `body` is what is revoked when an older one needs the room.
    pub fn start_growing(&self, class: BudgetClass, body: Weak<dyn Revocable>) -> Reservation {
        let mut state = self.state();
        let ticket = state.take_ticket();
        state.growers.insert(ticket, Grower { class, body });
        Reservation { ledger: self.clone(), class, bytes: 0, ticket: Some(ticket), parked: None, is_settled: false }
    }

    /// Takes a known length if it fits now: for what was staged before this process began.
    pub fn adopt(&self, class: BudgetClass, bytes: u64) -> Option<Reservation> {
        let mut state = self.state();
        self.fits(&state, class, bytes).then(|| self.grant(&mut state, class, bytes))
    }

    /// Revokes one reservation that nobody works on any more, for somebody of this class; returns whether there was one.
    /// Blocks for as long as freeing its bytes takes.
    pub fn revoke_idle(&self, class: BudgetClass) -> bool {
        let bodies: Vec<_> = {
            let state = self.state();
            let parked_bytes: u64 = state.parked.values().map(|parked| parked.bytes).sum();
            // Another body of this class that is on its way will give its room back by itself.
            let gives_way = class == BudgetClass::Client || state.catch_up_in_use <= parked_bytes;
            let growers = state.growers.values().filter_map(|grower| grower.body.upgrade());
            let parked = state.parked.values().filter(|_| gives_way).filter_map(|parked| parked.body.upgrade());
            growers.chain(parked).collect()
        };
        bodies.iter().any(|body| body.revoke_if_idle())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn exhausted(&self, requested: u64) -> StagingError {
        StagingError::BudgetExhausted { requested, in_use: self.in_use(), budget: self.inner.budget }
    }

    fn fits(&self, state: &State, class: BudgetClass, bytes: u64) -> bool {
        if bytes > self.inner.budget {
            return state.in_use == 0;
        }
        state.in_use.saturating_add(bytes) <= self.inner.budget && self.fits_class(state, class, bytes)
    }

    /// A catch-up body larger than the class's share goes once no other catch-up body is staged.
    fn fits_class(&self, state: &State, class: BudgetClass, bytes: u64) -> bool {
        class == BudgetClass::Client
            || state.catch_up_in_use == 0
            || state.catch_up_in_use.saturating_add(bytes) <= self.inner.catch_up_max
    }

    /// Grants whatever fits, oldest head first.
    fn admit(&self, state: &mut State) -> Grants {
        let mut grants = Grants::new();
        while let Some(class) = self.next_admitted(state) {
            let Some(waiter) = state.queue(class).pop_front() else { break };
            let reservation = self.grant(state, class, waiter.bytes);
            grants.push((waiter.sender, reservation));
        }
        grants
    }

    fn grant(&self, state: &mut State, class: BudgetClass, bytes: u64) -> Reservation {
        state.too_large = state.too_large.max(if bytes > self.inner.budget { bytes } else { 0 });
        self.take(state, class, bytes);
        Reservation { ledger: self.clone(), class, bytes, ticket: None, parked: None, is_settled: true }
    }

    /// The class whose head is granted next, if any is. Counts the times a head is passed.
    fn next_admitted(&self, state: &mut State) -> Option<BudgetClass> {
        let mut heads: Vec<(u64, BudgetClass, u64, u32)> = [BudgetClass::Client, BudgetClass::CatchUp]
            .into_iter()
            .filter_map(|class| state.queue(class).front().map(|head| (head.ticket, class, head.bytes, head.passed)))
            .collect();
        heads.sort_unstable_by_key(|head| head.0);
        let mut heads = heads.into_iter();
        let (_, oldest, bytes, passed) = heads.next()?;
        if self.fits(state, oldest, bytes) {
            return Some(oldest);
        }
        let (_, younger, younger_bytes, _) = heads.next()?;
        // A head held back by its own class's share is not harmed by the other class.
        let is_own_share = bytes <= self.inner.budget && !self.fits_class(state, oldest, bytes);
        if !self.fits(state, younger, younger_bytes) || (passed >= PASSES_MAX && !is_own_share) {
            return None;
        }
        if let Some(head) = state.queue(oldest).front_mut() {
            head.passed += 1;
        }
        Some(younger)
    }

    /// One try to grow a reservation.
    fn try_grow(&self, reservation: &mut Reservation, more: u64) -> Growth {
        let mut state = self.state();
        let Some(ticket) = reservation.ticket.filter(|ticket| state.growers.contains_key(ticket)) else {
            return Growth::Refused;
        };
        match self.room(&state, ticket, reservation.class, more) {
            Room::Enough => {}
            Room::RevokeParked(ticket) => {
                return Growth::RevokeParked(state.parked.remove(&ticket).and_then(|parked| parked.body.upgrade()));
            }
            Room::Refused => return Growth::Refused,
            Room::Revoke(youngest) => {
                return Growth::Revoke(state.growers.remove(&youngest).and_then(|grower| grower.body.upgrade()));
            }
            Room::Overdraw => state.overdraft = Some(Overdraft { ticket, bytes: reservation.bytes }),
        }
        reservation.bytes = reservation.bytes.saturating_add(more);
        if let Some(overdraft) = state.overdraft.as_mut().filter(|overdraft| overdraft.ticket == ticket) {
            overdraft.bytes = reservation.bytes;
        }
        self.take(&mut state, reservation.class, more);
        Growth::Granted
    }

    /// Whether a growing reservation may have more: first of its class's share, then of the whole.
    fn room(&self, state: &State, ticket: u64, class: BudgetClass, more: u64) -> Room {
        let is_share_short = !self.fits_class(state, class, more);
        let is_whole_short = state.in_use.saturating_add(more) > self.inner.budget;
        let mut is_alone = true;
        if let Some(ticket) = state.parked.keys().next().filter(|_| is_share_short || is_whole_short) {
            return Room::RevokeParked(*ticket);
        }
        for (is_short, only) in [(is_share_short, Some(class)), (is_whole_short, None)] {
            // Only growers whose going would help are asked to go.
            let competing = |(_, grower): &(&u64, &Grower)| only.is_none_or(|class| grower.class == class);
            let mut tickets = state.growers.iter().filter(competing).map(|(ticket, _)| *ticket);
            match tickets.next_back().filter(|_| is_short) {
                Some(youngest) if youngest != ticket => return Room::Revoke(youngest),
                Some(_) => is_alone &= tickets.next_back().is_none(),
                None => {}
            }
        }
        if !is_share_short && !is_whole_short {
            return Room::Enough;
        }
        let is_other_overdrawn = state.overdraft.is_some_and(|overdraft| overdraft.ticket != ticket);
        if is_alone && !is_other_overdrawn { Room::Overdraw } else { Room::Refused }
    }

    fn take(&self, state: &mut State, class: BudgetClass, bytes: u64) {
        state.take(class, bytes);
        let exceptions = state.overdraft.map_or(0, |overdraft| overdraft.bytes).saturating_add(state.too_large);
        debug_assert!(
            state.in_use <= self.inner.budget.saturating_add(exceptions),
            "the ledger is overdrawn: {state:?}"
        );
    }

    /// Takes bytes back from a reservation that shrank or ended.
    fn give_back(&self, reservation: &Reservation, bytes: u64, is_end: bool) {
        let grants = {
            let mut state = self.state();
            let is_overdraft = |overdraft: &Overdraft| Some(overdraft.ticket) == reservation.ticket;
            if is_end {
                reservation.parked.map(|ticket| state.parked.remove(&ticket));
                reservation.ticket.map(|ticket| state.growers.remove(&ticket));
                state.overdraft = state.overdraft.filter(|overdraft| !is_overdraft(overdraft));
            } else if let Some(overdraft) = state.overdraft.as_mut().filter(|overdraft| is_overdraft(overdraft)) {
                overdraft.bytes = overdraft.bytes.saturating_sub(bytes);
            }
            if is_end && reservation.ticket.is_none() && bytes > self.inner.budget {
                state.too_large = 0;
            }
            state.give(reservation.class, bytes);
            self.admit(&mut state)
        };
        send(grants);
    }
}

/// Whether there is room for a growing reservation.
enum Room {
    Enough,
    Refused,
    Overdraw,
    /// Free this one first.
    Revoke(u64),
    /// Free this parked one first.
    RevokeParked(u64),
}

/// What one try to grow came to.
enum Growth {
    Granted,
    Refused,
    /// Free this one (if it is still there), then try again.
    Revoke(Option<Arc<dyn Revocable>>),
    /// Free this parked one (if nobody took it up meanwhile), then try again.
    RevokeParked(Option<Arc<dyn Revocable>>),
}

impl State {
    fn take_ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    fn queue(&mut self, class: BudgetClass) -> &mut VecDeque<Waiter> {
        match class {
            BudgetClass::Client => &mut self.clients,
            BudgetClass::CatchUp => &mut self.catch_ups,
        }
    }

    fn take(&mut self, class: BudgetClass, bytes: u64) {
        self.in_use = self.in_use.saturating_add(bytes);
        if class == BudgetClass::CatchUp {
            self.catch_up_in_use = self.catch_up_in_use.saturating_add(bytes);
        }
        self.peak = self.peak.max(self.in_use);
    }

    fn give(&mut self, class: BudgetClass, bytes: u64) {
        debug_assert!(self.in_use >= bytes, "more bytes given back than were taken");
        self.in_use = self.in_use.saturating_sub(bytes);
        if class == BudgetClass::CatchUp {
            self.catch_up_in_use = self.catch_up_in_use.saturating_sub(bytes);
        }
    }
}

fn send(grants: Grants) {
    for (sender, reservation) in grants {
        // A waiter that left drops its grant here, which gives the bytes back.
        drop(sender.send(reservation));
    }
}

/// A place in a queue; leaving it, granted or not, lets those behind move up.
struct Place<'ledger> {
    ledger: &'ledger Ledger,
    class: BudgetClass,
    ticket: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let grants = {
            let mut state = self.ledger.state();
            let queue = state.queue(self.class);
            let Some(position) = queue.iter().position(|waiter| waiter.ticket == self.ticket) else { return };
            queue.remove(position);
            self.ledger.admit(&mut state)
        };
        send(grants);
    }
}

/// Reserved bytes; dropping it gives them back.
#[derive(Debug)]
pub struct Reservation {
    ledger: Ledger,
    class: BudgetClass,
    bytes: u64,
    /// The age of a reservation that grows or grew; `None` for one of known length.
    ticket: Option<u64>,
    /// Its place among the parked ones, while it is one.
    parked: Option<u64>,
    /// Whether it is fixed from here on.
    is_settled: bool,
}

impl Reservation {
    /// Bytes reserved.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it can still grow and be revoked.
    pub fn is_growing(&self) -> bool {
        !self.is_settled
    }

    /// Grows a growing reservation without waiting, revoking younger ones if there is no room. Blocks for as long as
    /// freeing their bytes takes, so it belongs on the executor.
    pub fn grow(&mut self, more: u64) -> Result<(), StagingError> {
        let ledger = self.ledger.clone();
        loop {
            match ledger.try_grow(self, more) {
                Growth::Granted => return Ok(()),
                Growth::Refused if self.is_competing() && ledger.revoke_idle(self.class) => {}
                Growth::Refused => return Err(ledger.exhausted(more)),
                Growth::Revoke(body) => body.into_iter().for_each(|body| body.revoke()),
                Growth::RevokeParked(body) => body.into_iter().for_each(|body| _ = body.revoke_if_idle()),
            }
        }
    }

    /// Whether it still takes part; one that was chosen to be revoked does not.
    fn is_competing(&self) -> bool {
        let state = self.ledger.state();
        self.ticket.is_some_and(|ticket| state.growers.contains_key(&ticket))
    }

    /// Nobody works on its body for now: the bytes stay reserved until somebody else is short of room.
    pub fn park(&mut self, body: Weak<dyn Revocable>) {
        let mut state = self.ledger.state();
        let ticket = state.take_ticket();
        state.parked.insert(ticket, Parked { bytes: self.bytes, body });
        self.parked = Some(ticket);
    }

    /// Somebody works on its body again.
    pub fn unpark(&mut self) {
        if let Some(ticket) = self.parked.take() {
            self.ledger.state().parked.remove(&ticket);
        }
    }

    /// Gives some bytes back early.
    pub fn shrink(&mut self, by: u64) {
        let by = by.min(self.bytes);
        self.bytes -= by;
        self.ledger.give_back(self, by, false);
    }

    /// The body is whole: what is reserved stays, and it is no longer revoked.
    pub fn settle(&mut self) {
        self.is_settled = true;
        if let Some(ticket) = self.ticket {
            self.ledger.state().growers.remove(&ticket);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.ledger.give_back(self, self.bytes, true);
    }
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
