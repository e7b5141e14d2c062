//! What opens a circuit, what closes it, and who is let through meanwhile.

use proptest::prelude::*;

use super::*;

const PEER: &str = "http://peer:7443";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// As if chance left nothing out.
fn whole(openings: u32) -> Duration {
    OPEN_PAUSE.0.saturating_mul(2_u32.saturating_pow(openings)).min(OPEN_PAUSE.1)
}

fn fail(circuit: &mut Circuit, times: u32, now: Duration) {
    for _ in 0..times {
        circuit.note(Role::Usual, Fared::Badly, now, whole);
    }
}

#[test]
fn failures_in_a_row_open_it_and_a_success_between_them_does_not_let_them_add_up() {
    let mut circuit = Circuit::default();
    fail(&mut circuit, FAILURES_MAX - 1, seconds(0));
    circuit.note(Role::Usual, Fared::Well, seconds(0), whole);
    fail(&mut circuit, FAILURES_MAX - 1, seconds(0));
    assert_eq!(circuit.enter(seconds(0)), Ok(Role::Usual));
    fail(&mut circuit, 1, seconds(0));
    assert_eq!(circuit.state(), CircuitState::Open);
    assert_eq!(circuit.enter(seconds(0)), Err(Refused::Open { retry_in: seconds(1) }));
    fail(&mut circuit, 9, seconds(0));
    assert_eq!(circuit.enter(seconds(0)), Err(Refused::Open { retry_in: seconds(1) }), "late failures prolong nothing");
}

#[test]
fn after_the_pause_one_probe_goes_and_decides() {
    let mut circuit = Circuit::default();
    fail(&mut circuit, FAILURES_MAX, seconds(0));
    assert_eq!(circuit.enter(seconds(1)), Ok(Role::Probe));
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
    assert!(circuit.enter(seconds(1)).is_err(), "one at a time");
    circuit.note(Role::Usual, Fared::Badly, seconds(1), whole);
    assert_eq!(circuit.state(), CircuitState::HalfOpen, "one from before decides nothing");
    circuit.note(Role::Probe, Fared::Badly, seconds(1), whole);
    assert_eq!(circuit.enter(seconds(2)), Err(Refused::Open { retry_in: seconds(1) }), "the pause doubles");
    assert_eq!(circuit.enter(seconds(3)), Ok(Role::Probe));
    circuit.note(Role::Probe, Fared::Well, seconds(3), whole);
    assert_eq!((circuit.state(), circuit.enter(seconds(3))), (CircuitState::Closed, Ok(Role::Usual)));
    fail(&mut circuit, FAILURES_MAX, seconds(4));
    assert_eq!(circuit.enter(seconds(4)), Err(Refused::Open { retry_in: seconds(1) }), "and begins anew");
}

#[test]
fn a_busy_peer_rests_as_long_as_it_says_within_a_bound_and_that_is_no_failure() {
    let mut circuit = Circuit::default();
    for _ in 0..2 * FAILURES_MAX {
        circuit.note(Role::Usual, Fared::Busy(seconds(3)), seconds(10), whole);
    }
    assert_eq!(circuit.enter(seconds(11)), Err(Refused::Resting { retry_in: seconds(2) }));
    assert_eq!((circuit.state(), circuit.enter(seconds(13))), (CircuitState::Closed, Ok(Role::Usual)));
    circuit.note(Role::Usual, Fared::Busy(seconds(86_400)), seconds(20), whole);
    assert_eq!(circuit.refusal(seconds(20)), Some(Refused::Resting { retry_in: REST_MAX }));
}

#[test]
fn a_probe_that_is_dropped_lets_the_next_one_go() {
    let circuits = Circuits::default();
    for _ in 0..FAILURES_MAX {
        let permit = circuits.enter(PEER, seconds(0)).unwrap();
        permit.fared(Fared::Badly, seconds(0), whole);
    }
    assert_eq!((circuits.state(PEER), circuits.count(CircuitState::Open)), (CircuitState::Open, 1));
    let probe = circuits.enter(PEER, seconds(5)).unwrap();
    assert!(circuits.enter(PEER, seconds(5)).is_err());
    drop(probe);
    let probe = circuits.enter(PEER, seconds(5)).unwrap();
    let changed = probe.fared(Fared::Well, seconds(6), whole);
    assert_eq!(changed, Some(Transition { from: CircuitState::HalfOpen, to: CircuitState::Closed }));
    assert_eq!(circuits.state("http://other:7443"), CircuitState::Closed, "each peer has its own");
}

#[test]
fn who_waited_for_the_end_of_a_rest_goes_but_not_through_an_open_circuit() {
    let circuits = Circuits::default();
    circuits.enter(PEER, seconds(0)).unwrap().fared(Fared::Busy(seconds(9)), seconds(0), whole);
    assert!(circuits.enter(PEER, seconds(0)).is_err());
    assert!(circuits.enter_rested(PEER, seconds(0)).is_ok());
    for _ in 0..FAILURES_MAX {
        circuits.enter_rested(PEER, seconds(0)).unwrap().fared(Fared::Badly, seconds(0), whole);
    }
    assert!(circuits.enter_rested(PEER, seconds(0)).is_err());
}

proptest! {
    /// Whatever happens, a peer that is well again is asked again, and one that is not gets one request for each pause.
    #[test]
    fn no_history_shuts_a_peer_out_for_good(steps in prop::collection::vec((0..5_u8, 0..90_u64), 0..60)) {
        let (circuits, mut now, mut held) = (Circuits::default(), Duration::ZERO, Vec::new());
        for (step, pass) in steps {
            now += seconds(pass);
            match (step, circuits.enter(PEER, now)) {
                (0, Ok(permit)) => { permit.fared(Fared::Well, now, whole); }
                (1 | 2, Ok(permit)) => { permit.fared(Fared::Badly, now, whole); }
                (3, Ok(permit)) => held.push(permit),
                (_, Ok(permit)) => drop(permit),
                (_, Err(_)) => held.clear(),
            }
        }
        held.clear();
        now += OPEN_PAUSE.1;
        let entered = circuits.enter(PEER, now);
        prop_assert!(entered.is_ok(), "{entered:?}");
        entered.unwrap().fared(Fared::Well, now, whole);
        prop_assert_eq!(circuits.state(PEER), CircuitState::Closed);
    }
}
