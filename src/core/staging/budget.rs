//! The ledger: reservations in bytes, with the rules by which they wait, grow and are refused.
//!
//! How it works:
//! - **Known length**: the whole length is reserved before the first byte, first come first served within a class.
//!   Catch-up holds at most 75 % of the ledger; a client's wait is bounded, catch-up waits as long as it takes.
//!   A head that does not fit may be passed by the other class, but only a bounded number of times.
//! - **Unknown length**: a [`Reservation`] grows by trying and never waits. When there is no room, the youngest growing
//!   reservation is revoked, its bytes freed on the spot, and the try is repeated; a reservation that is itself the
//!   youngest is refused; the oldest, once it is alone, may overdraw.
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
        Reservation { ledger: self.clone(), class, bytes: 0, ticket: Some(ticket) }
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
            state.take(class, waiter.bytes);
            let reservation = Reservation { ledger: self.clone(), class, bytes: waiter.bytes, ticket: None };
            grants.push((waiter.sender, reservation));
        }
        grants
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
        let class = reservation.class;
        let is_over = state.in_use.saturating_add(more) > self.inner.budget;
        if is_over || !self.fits_class(&state, class, more) {
            // Only growers whose going would help are asked to go.
            let competing = |grower: &Grower| is_over || grower.class == class;
            let mut tickets = state.growers.iter().filter(|(_, grower)| competing(grower)).map(|(ticket, _)| *ticket);
            let is_alone = tickets.clone().count() == 1;
            let youngest = tickets.next_back();
            if youngest == Some(ticket) && !is_alone {
                return Growth::Refused;
            }
            if let Some(youngest) = youngest.filter(|youngest| *youngest != ticket) {
                return Growth::Revoke(state.growers.remove(&youngest).and_then(|grower| grower.body.upgrade()));
            }
        }
        state.take(class, more);
        reservation.bytes = reservation.bytes.saturating_add(more);
        Growth::Granted
    }

    fn give_back(&self, class: BudgetClass, bytes: u64, ticket: Option<u64>) {
        let grants = {
            let mut state = self.state();
            if let Some(ticket) = ticket {
                state.growers.remove(&ticket);
            }
            state.give(class, bytes);
            self.admit(&mut state)
        };
        send(grants);
    }
}

/// What one try to grow came to.
enum Growth {
    Granted,
    Refused,
    /// Free this one (if it is still there), then try again.
    Revoke(Option<Arc<dyn Revocable>>),
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
    /// The age of a growing reservation; `None` for a fixed one.
    ticket: Option<u64>,
}

impl Reservation {
    /// Bytes reserved.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it can still grow and be revoked.
    pub fn is_growing(&self) -> bool {
        self.ticket.is_some()
    }

    /// Grows a growing reservation without waiting, revoking younger ones if there is no room. Blocks for as long as
    /// freeing their bytes takes, so it belongs on the executor.
    pub fn grow(&mut self, more: u64) -> Result<(), StagingError> {
        let ledger = self.ledger.clone();
        loop {
            match ledger.try_grow(self, more) {
                Growth::Granted => return Ok(()),
                Growth::Refused => return Err(ledger.exhausted(more)),
                Growth::Revoke(body) => body.into_iter().for_each(|body| body.revoke()),
            }
        }
    }

    /// Gives some bytes back early.
    pub fn shrink(&mut self, by: u64) {
        let by = by.min(self.bytes);
        self.bytes -= by;
        self.ledger.give_back(self.class, by, None);
    }

    /// The body is whole: what is reserved stays, and it is no longer revoked.
    pub fn settle(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.ledger.state().growers.remove(&ticket);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.ledger.give_back(self.class, self.bytes, self.ticket);
    }
}
