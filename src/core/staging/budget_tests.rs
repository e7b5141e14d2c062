//! What the ledger promises: everybody who may wait is served, nobody deadlocks, and the budget holds.

use proptest::prelude::*;

use super::*;

const WAIT: Duration = Duration::from_secs(5);

async fn is_pending<F: Future + Unpin>(future: &mut F) -> bool {
    futures_util::poll!(future).is_pending()
}

#[tokio::test(start_paused = true)]
async fn a_class_is_served_in_order_and_a_large_head_is_not_overtaken_by_its_own_class() {
    let ledger = Ledger::new(100, WAIT);
    let first = ledger.reserve(BudgetClass::Client, 60).await.unwrap();
    let mut large = Box::pin(ledger.reserve(BudgetClass::Client, 80));
    let mut small = Box::pin(ledger.reserve(BudgetClass::Client, 10));
    assert!(is_pending(&mut large).await && is_pending(&mut small).await);
    drop(first);
    let large = large.await.unwrap();
    assert_eq!((large.bytes(), small.await.unwrap().bytes()), (80, 10));
}

#[tokio::test(start_paused = true)]
async fn a_clients_wait_is_bounded_and_names_the_budget() {
    let ledger = Ledger::new(100, WAIT);
    let _held = ledger.reserve(BudgetClass::Client, 100).await.unwrap();
    let error = ledger.reserve(BudgetClass::Client, 1).await.unwrap_err();
    assert_eq!(error.to_string(), "Temporary storage budget exhausted: 1 bytes asked, 100 of 100 in use");
    assert_eq!((ledger.waiting(), ledger.in_use()), (0, 100));
}

#[tokio::test(start_paused = true)]
async fn catch_up_leaves_a_quarter_to_clients_and_waits_as_long_as_it_takes() {
    let ledger = Ledger::new(100, WAIT);
    let held = ledger.reserve(BudgetClass::CatchUp, 70).await.unwrap();
    let mut waiting = Box::pin(ledger.reserve(BudgetClass::CatchUp, 10));
    assert!(tokio::time::timeout(WAIT * 1000, &mut waiting).await.is_err());
    let client = ledger.reserve(BudgetClass::Client, 30).await.unwrap();
    drop(held);
    assert_eq!(waiting.await.unwrap().bytes(), 10);
    drop(client);
    assert_eq!(ledger.in_use(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_head_is_passed_by_the_other_class_only_so_often() {
    let ledger = Ledger::new(100, WAIT);
    let mut held = ledger.reserve(BudgetClass::Client, 50).await.unwrap();
    let mut waiting = Box::pin(ledger.reserve(BudgetClass::CatchUp, 70));
    assert!(is_pending(&mut waiting).await);
    let mut passes = 0;
    while let Ok(next) = ledger.reserve(BudgetClass::Client, 50).await {
        held = next;
        passes += 1;
    }
    assert_eq!(passes, PASSES_MAX);
    drop(held);
    assert_eq!(waiting.await.unwrap().bytes(), 70);
}

#[tokio::test(start_paused = true)]
async fn a_body_larger_than_the_ledger_goes_alone() {
    let ledger = Ledger::new(100, WAIT);
    let held = ledger.reserve(BudgetClass::Client, 1).await.unwrap();
    let mut large = Box::pin(ledger.reserve(BudgetClass::CatchUp, 1000));
    assert!(is_pending(&mut large).await);
    drop(held);
    let large = large.await.unwrap();
    assert!(ledger.reserve(BudgetClass::Client, 1).await.is_err());
    drop(large);
    assert_eq!(ledger.reserve(BudgetClass::CatchUp, 90).await.unwrap().bytes(), 90, "larger than its share, alone");
}

#[tokio::test(start_paused = true)]
async fn waiters_that_leave_make_way() {
    let ledger = Ledger::new(100, WAIT);
    let held = ledger.reserve(BudgetClass::Client, 60).await.unwrap();
    let mut large = Box::pin(ledger.reserve(BudgetClass::Client, 80));
    let mut small = Box::pin(ledger.reserve(BudgetClass::Client, 40));
    assert!(is_pending(&mut large).await && is_pending(&mut small).await);
    drop(large);
    assert_eq!(small.await.unwrap().bytes(), 40);
    let mut granted_and_dropped = Box::pin(ledger.reserve(BudgetClass::Client, 100));
    assert!(is_pending(&mut granted_and_dropped).await);
    drop(held);
    drop(granted_and_dropped);
    assert_eq!((ledger.in_use(), ledger.waiting()), (0, 0));
}

/// A growing body without a disk.
#[derive(Debug, Default)]
struct Growing {
    reservation: Mutex<Option<Reservation>>,
}

impl Growing {
    fn start(ledger: &Ledger, class: BudgetClass) -> Arc<Self> {
        let body = Arc::new(Self::default());
        let weak: Weak<Self> = Arc::downgrade(&body);
        *body.reservation.lock().unwrap() = Some(ledger.start_growing(class, weak));
        body
    }

    fn grow(&self, more: u64) -> Result<(), StagingError> {
        let mut slot = self.reservation.lock().unwrap();
        let exhausted = StagingError::BudgetExhausted { requested: more, in_use: 0, budget: 0 };
        let grown = slot.as_mut().map_or(Err(exhausted), |reservation| reservation.grow(more));
        if grown.is_err() {
            *slot = None;
        }
        grown
    }

    fn settle(&self) -> Option<Reservation> {
        let mut reservation = self.reservation.lock().unwrap().take()?;
        reservation.settle();
        Some(reservation)
    }

    fn bytes(&self) -> u64 {
        self.reservation.lock().unwrap().as_ref().map_or(0, Reservation::bytes)
    }
}

impl Revocable for Growing {
    fn revoke(&self) {
        self.reservation.lock().unwrap().take();
    }
}

#[test]
fn only_one_reservation_overdraws_at_a_time_even_once_it_is_whole() {
    let ledger = Ledger::new(100, WAIT);
    let first = Growing::start(&ledger, BudgetClass::Client);
    first.grow(150).unwrap();
    let whole = first.settle().unwrap();
    let second = Growing::start(&ledger, BudgetClass::Client);
    assert!(second.grow(1).is_err());
    drop(whole);
    let third = Growing::start(&ledger, BudgetClass::Client);
    third.grow(500).unwrap();
    assert_eq!(ledger.in_use(), 500);
}

#[test]
fn the_youngest_goes_first_and_only_of_the_class_that_is_short() {
    let ledger = Ledger::new(100, WAIT);
    let bodies: Vec<_> = (0..4).map(|_| Growing::start(&ledger, BudgetClass::CatchUp)).collect();
    let client = Growing::start(&ledger, BudgetClass::Client);
    client.grow(20).unwrap();
    for body in &bodies {
        body.grow(18).unwrap();
    }
    bodies[0].grow(4).unwrap();
    let held: Vec<u64> = bodies.iter().map(|body| body.bytes()).collect();
    assert_eq!((held, client.bytes()), (vec![22, 18, 18, 0], 20), "the share is short, the client is not asked");
    bodies[1].grow(30).unwrap();
    assert_eq!((bodies[2].bytes(), client.bytes(), bodies[0].bytes(), bodies[1].bytes()), (0, 20, 22, 48));
    bodies[0].grow(12).unwrap();
    assert_eq!((client.bytes(), bodies[1].bytes(), bodies[0].bytes()), (20, 0, 34), "its own class goes first");
}

#[derive(Debug, Clone, Copy)]
struct Holder {
    class: BudgetClass,
    is_known: bool,
    /// In percent of the artifact size of the run.
    size_percent: u64,
    steps: u64,
    starts_at: u64,
    vanishes_after: Option<u64>,
}

fn holder() -> impl Strategy<Value = Holder> {
    let class = prop_oneof![Just(BudgetClass::Client), Just(BudgetClass::CatchUp)];
    let vanishes = prop_oneof![3 => Just(None), 1 => (0_u64..20).prop_map(Some)];
    (class, any::<bool>(), 1_u64..=100, 1_u64..8, 0_u64..20, vanishes).prop_map(
        |(class, is_known, size_percent, steps, starts_at, vanishes_after)| Holder {
            class,
            is_known,
            size_percent,
            steps,
            starts_at,
            vanishes_after,
        },
    )
}

async fn hold_known(ledger: Ledger, holder: Holder, bytes: u64) -> bool {
    let Ok(reservation) = ledger.reserve(holder.class, bytes).await else { return false };
    tokio::time::sleep(Duration::from_millis(holder.steps)).await;
    drop(reservation);
    true
}

async fn hold_growing(ledger: Ledger, holder: Holder, bytes: u64) -> bool {
    let body = Growing::start(&ledger, holder.class);
    for _ in 0..holder.steps {
        if body.grow(bytes.div_ceil(holder.steps)).is_err() {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let Some(mut whole) = body.settle() else { return false };
    tokio::time::sleep(Duration::from_millis(1)).await;
    whole.shrink(bytes / 2);
    tokio::time::sleep(Duration::from_millis(1)).await;
    true
}

/// Whether the holder got all it wanted, and whether it vanished before.
async fn run_holder(ledger: Ledger, holder: Holder, artifact: u64) -> (bool, bool) {
    tokio::time::sleep(Duration::from_millis(holder.starts_at)).await;
    let bytes = (artifact * holder.size_percent / 100).max(1);
    let held = async {
        if holder.is_known {
            hold_known(ledger, holder, bytes).await
        } else {
            hold_growing(ledger, holder, bytes).await
        }
    };
    match holder.vanishes_after {
        None => (held.await, false),
        Some(after) => {
            let vanished = tokio::time::timeout(Duration::from_millis(after), held).await;
            let is_vanished = vanished.is_err();
            (vanished.unwrap_or(false), is_vanished)
        }
    }
}

/// Runs all holders to their ends; returns how each ended.
fn run_all(budget: u64, artifact: u64, holders: &[Holder]) -> Vec<(bool, bool)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let ledger = Ledger::new(budget, WAIT);
    let all =
        futures_util::future::join_all(holders.iter().map(|holder| run_holder(ledger.clone(), *holder, artifact)));
    // Virtual time: anything that still waits after an hour waits for ever. That the budget holds is asserted by the
    // ledger itself with every byte it gives.
    let ends =
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(3600), all).await.expect("a deadlock") });
    assert_eq!((ledger.in_use(), ledger.waiting()), (0, 0));
    ends
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn holders_of_every_kind_never_deadlock_and_never_pass_the_budget(
        holders in prop::collection::vec(holder(), 1..40),
    ) {
        for (numerator, denominator) in [(1, 2), (1, 1), (2, 1), (8, 1), (16, 1)] {
            let artifact = 1600;
            let ends = run_all(artifact * numerator / denominator, artifact, &holders);
            for (holder, (succeeded, vanished)) in holders.iter().zip(ends) {
                let waits_for_ever = holder.is_known && holder.class == BudgetClass::CatchUp;
                prop_assert!(succeeded || vanished || !waits_for_ever, "{holder:?} was not served");
            }
            // A single holder of unknown length is always the oldest alone.
            if let [only] = holders.as_slice() {
                let alone = run_all(artifact * numerator / denominator, artifact, &[*only]);
                prop_assert!(alone.iter().all(|(succeeded, vanished)| *succeeded || *vanished));
            }
        }
    }
}
