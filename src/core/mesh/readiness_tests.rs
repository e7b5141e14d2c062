//! The readiness machine, told facts with the time: when a node serves, when it waits, and what it says meanwhile.

use super::*;
use crate::core::base::clock::ManualClock;

fn at(seconds: u64) -> Moment {
    Moment { monotonic: Duration::from_secs(seconds), wall_ms: 1_700_000_000_000 + seconds * 1000 }
}

fn peer(name: &str, complete: bool) -> PeerFacts {
    PeerFacts {
        url: format!("http://{name}:7443"),
        node_url: format!("http://{name}:7443"),
        region: Some("local".to_owned()),
        reachable: true,
        answered: true,
        complete,
        error: None,
    }
}

fn silent(name: &str) -> PeerFacts {
    PeerFacts { reachable: false, answered: false, error: Some("refused".to_owned()), ..peer(name, false) }
}

fn round(peers: Vec<PeerFacts>) -> DiscoveryRound {
    DiscoveryRound { configured: true, observed: peers.iter().any(|peer| peer.reachable), peers }
}

fn joining() -> ReadinessMachine {
    let mut machine = ReadinessMachine::new(true, at(0));
    machine.set_lock_held(true);
    machine.set_store_open(true, at(0));
    machine
}

fn settle(machine: &mut ReadinessMachine, name: &str, now: Moment) {
    let url = format!("http://{name}:7443");
    machine.pass_started(&url, now);
    machine.tombstones_applied(&url, now);
    machine.pass_finished(&url, None);
}

#[test]
fn a_node_without_peer_sources_is_ready_at_once() {
    let mut machine = ReadinessMachine::new(false, at(0));
    assert_eq!(machine.snapshot(at(0)).reasons, ["writer_lock_not_held", "store_not_open"]);
    machine.set_lock_held(true);
    machine.set_store_open(true, at(0));
    let snapshot = machine.snapshot(at(0));
    assert!(snapshot.ready && snapshot.complete && snapshot.reasons.is_empty());
    assert_eq!((snapshot.state, snapshot.readiness), (TrafficState::Serving, Completeness::Complete));
}

#[test]
fn a_node_that_discovers_only_itself_is_ready_at_once() {
    let mut machine = joining();
    assert_eq!(machine.snapshot(at(1)).reasons, ["discovery_not_done"]);
    machine.discovered(DiscoveryRound { configured: true, observed: true, peers: Vec::new() }, at(1));
    assert!(machine.snapshot(at(1)).ready);
    assert_eq!(machine.snapshot(at(1)).generation, 1);
}

#[test]
fn configured_but_silent_means_a_bounded_wait_and_then_degraded() {
    let mut machine = joining();
    machine.discovered(round(vec![silent("b")]), at(1));
    assert!(!machine.snapshot(at(29)).ready);
    let snapshot = machine.snapshot(at(31));
    assert!(snapshot.ready && !snapshot.complete);
    assert_eq!(snapshot.readiness, Completeness::Degraded);
    assert_eq!(snapshot.reasons, ["no_peer_answered", "peer_excused: http://b:7443 (refused)"]);
}

#[test]
fn a_configured_peer_that_never_answered_delays_complete_and_does_not_prevent_it() {
    let mut machine = joining();
    machine.discovered(round(vec![peer("b", true), silent("c")]), at(1));
    settle(&mut machine, "b", at(2));
    assert!(!machine.snapshot(at(3)).complete, "it may still be starting");
    let snapshot = machine.snapshot(at(40));
    assert!(snapshot.complete && snapshot.ready, "{snapshot:?}");
    let named: Vec<_> = snapshot.peers.iter().map(|peer| (peer.url.as_str(), peer.excused)).collect();
    assert_eq!(named, [("http://b:7443", false), ("http://c:7443", true)]);
}

#[test]
fn a_node_fills_from_a_complete_peer_before_it_serves() {
    let mut machine = joining();
    machine.discovered(round(vec![peer("b", true)]), at(1));
    assert_eq!(machine.snapshot(at(2)).reasons, ["tombstones_pending: http://b:7443"]);
    machine.pass_started("http://b:7443", at(2));
    machine.tombstones_applied("http://b:7443", at(3));
    machine.set_total("http://b:7443", 10);
    machine.advanced("http://b:7443", 5, 500, at(4));
    let snapshot = machine.snapshot(at(4));
    assert_eq!(snapshot.reasons, ["catching_up: http://b:7443 5/10"]);
    assert_eq!(snapshot.bootstrap_inflight_peers, ["http://b:7443"]);
    let progress = &snapshot.peers[0];
    assert_eq!((progress.rate, progress.eta_ms, progress.bytes), (2, Some(2500), 500));
    machine.pass_finished("http://b:7443", None);
    let snapshot = machine.snapshot(at(5));
    assert!(snapshot.ready && snapshot.complete);
    assert_eq!(snapshot.bootstrapped_peers, ["http://b:7443"]);
}

#[test]
fn a_mesh_whose_nodes_all_restart_serves_once_tombstones_are_in() {
    let mut machine = joining();
    machine.discovered(round(vec![peer("b", false), peer("c", false)]), at(1));
    assert!(!machine.snapshot(at(1)).ready, "deletes first");
    for url in ["http://b:7443", "http://c:7443"] {
        machine.pass_started(url, at(1));
        machine.tombstones_applied(url, at(1));
    }
    let snapshot = machine.snapshot(at(1));
    assert!(snapshot.ready && !snapshot.complete);
    assert!(snapshot.reasons.contains(&"cold_mesh".to_owned()));
    machine.pass_finished("http://b:7443", None);
    machine.pass_finished("http://c:7443", None);
    assert_eq!(machine.snapshot(at(2)).readiness, Completeness::Complete);
}

#[test]
fn an_unclean_pass_holds_back_until_the_peer_makes_no_progress_for_long() {
    let mut machine = joining();
    machine.discovered(round(vec![peer("b", true)]), at(0));
    machine.pass_started("http://b:7443", at(0));
    machine.tombstones_applied("http://b:7443", at(0));
    machine.pass_finished("http://b:7443", Some("3 artifacts failed".to_owned()));
    assert!(!machine.snapshot(at(60)).ready);
    machine.advanced("http://b:7443", 1, 1, at(100));
    assert!(!machine.snapshot(at(219)).ready, "slow is not stuck");
    let snapshot = machine.snapshot(at(220));
    assert!(snapshot.ready && !snapshot.complete && snapshot.peers[0].excused);
    assert_eq!(snapshot.reasons, ["peer_excused: http://b:7443 (3 artifacts failed)"]);
}

/// One pass over `b` that settles `settled` rows, leaves one over, and fetches `bytes` in vain.
fn failing_pass(machine: &mut ReadinessMachine, settled: u64, bytes: u64, seconds: u64) {
    let url = "http://b:7443";
    machine.pass_started(url, at(seconds));
    machine.advanced(url, 0, 0, at(seconds));
    machine.tombstones_applied(url, at(seconds));
    for _ in 0..settled {
        machine.row_ended(url, RowEnd::Settled, at(seconds));
    }
    machine.advanced(url, 0, bytes, at(seconds));
    machine.row_ended(url, RowEnd::Unsettled, at(seconds));
    machine.pass_finished(url, Some("1 artifacts failed".to_owned()));
}

#[test]
fn a_peer_that_fails_alike_in_every_pass_is_excused_however_often_it_is_tried() {
    let mut machine = joining();
    machine.discovered(round(vec![peer("b", true)]), at(0));
    for seconds in (0..120).step_by(5) {
        failing_pass(&mut machine, 3, 1000, seconds);
        assert!(!machine.snapshot(at(seconds)).ready, "at {seconds}");
    }
    failing_pass(&mut machine, 3, 1000, 120);
    let snapshot = machine.snapshot(at(120));
    assert!(snapshot.ready && !snapshot.complete && snapshot.peers[0].excused);
}

#[test]
fn a_retry_that_brings_what_was_there_before_is_progress_and_what_is_new_is_not() {
    let mut machine = joining();
    machine.discovered(round(vec![peer("b", true)]), at(0));
    let (old, new) = (at(0).wall_ms, at(1).wall_ms);
    failing_pass(&mut machine, 3, 1000, 0);
    failing_pass(&mut machine, 3, 1000, 100);
    machine.row_ended("http://b:7443", RowEnd::Applied { version_ms: old }, at(101));
    assert!(!machine.snapshot(at(220)).ready, "one more of the old ones came");
    failing_pass(&mut machine, 3, 1000, 220);
    for seconds in [230, 300, 339] {
        failing_pass(&mut machine, 2, 1000, seconds);
        machine.row_ended("http://b:7443", RowEnd::Applied { version_ms: new }, at(seconds));
    }
    assert!(machine.snapshot(at(341)).ready, "a busy mesh writes for ever");
}

#[test]
fn a_retry_that_comes_further_than_the_ones_before_is_progress() {
    let mut machine = joining();
    machine.discovered(round(vec![peer("b", true)]), at(0));
    for (seconds, bytes) in [(0, 1000), (100, 2000), (200, 3000), (300, 4000)] {
        failing_pass(&mut machine, 3, bytes, seconds);
        assert!(!machine.snapshot(at(seconds)).ready, "at {seconds}");
    }
    assert!(machine.snapshot(at(420)).ready);
}

#[test]
fn readiness_survives_a_peers_flap_but_not_the_loss_of_lock_or_store() {
    let mut machine = joining();
    machine.discovered(round(vec![peer("b", true)]), at(0));
    settle(&mut machine, "b", at(0));
    assert!(machine.snapshot(at(1)).ready);
    machine.discovered(round(vec![PeerFacts { reachable: false, ..peer("b", true) }]), at(2));
    assert!(machine.snapshot(at(200)).ready);
    machine.discovered(round(vec![peer("b", true), peer("c", true)]), at(201));
    let snapshot = machine.snapshot(at(201));
    assert!(snapshot.ready && snapshot.complete && snapshot.generation == 2);
    machine.set_store_open(false, at(202));
    assert!(!machine.snapshot(at(202)).ready);
    machine.set_store_open(true, at(203));
    assert!(machine.snapshot(at(203)).ready);
}

#[test]
fn peers_that_are_met_before_the_store_is_open_owe_progress_from_then_on() {
    let mut machine = ReadinessMachine::new(true, at(0));
    machine.set_lock_held(true);
    machine.discovered(DiscoveryRound { configured: true, observed: true, peers: Vec::new() }, at(1));
    assert!(!machine.snapshot(at(1)).complete, "nobody knows yet what is here, and who will be met");
    machine.discovered(round(vec![peer("b", true)]), at(2));
    machine.set_store_open(true, at(600));
    let snapshot = machine.snapshot(at(601));
    assert!(!snapshot.ready && !snapshot.peers[0].excused, "its tombstones are waited for: {:?}", snapshot.reasons);
    settle(&mut machine, "b", at(602));
    assert!(machine.snapshot(at(602)).ready);
}

#[test]
fn draining_is_final() {
    let clock = Arc::new(ManualClock::at(1_700_000_000_000));
    let readiness = Readiness::new(false, clock);
    readiness.set_lock_held(true);
    readiness.set_store_open(true);
    assert!(readiness.snapshot().ready);
    readiness.drain();
    let snapshot = readiness.snapshot();
    assert!(!snapshot.ready && snapshot.draining);
    assert_eq!((snapshot.state, snapshot.readiness), (TrafficState::Draining, Completeness::Draining));
    assert_eq!(snapshot.reasons, ["draining"]);
}

#[test]
fn the_snapshot_uses_the_seed_eras_words() {
    let mut machine = joining();
    machine.discovered(round(vec![peer("b", true)]), at(0));
    let json = serde_json::to_value(machine.snapshot(at(0))).unwrap();
    assert_eq!(json["state"], "joining");
    assert_eq!(json["known_peers"], serde_json::json!(["http://b:7443"]));
    assert_eq!(json["initial_discovery_completed"], true);
    assert_eq!(json["peers"][0]["phase"], "waiting");
}

#[test]
fn a_peer_that_answers_its_status_and_fails_everything_else_is_excused_and_named() {
    let mut machine = joining();
    machine.discovered(round(vec![peer("b", true), peer("c", true)]), at(0));
    settle(&mut machine, "b", at(1));
    let mut second = 0;
    while second < 120 {
        machine.pass_started("http://c:7443", at(second));
        machine.pass_finished("http://c:7443", Some("reset".to_owned()));
        let snapshot = machine.snapshot(at(second));
        assert!(!snapshot.ready, "at {second}");
        assert_eq!(snapshot.reasons, ["tombstones_pending: http://c:7443 (reset)"]);
        second += 7;
    }
    let snapshot = machine.snapshot(at(120));
    assert!(snapshot.ready && !snapshot.complete);
    assert_eq!(snapshot.reasons, ["peer_excused: http://c:7443 (reset)"]);
}

#[test]
fn an_excused_peer_that_comes_back_is_caught_up_before_the_node_calls_itself_complete() {
    let mut machine = joining();
    machine.discovered(round(vec![peer("b", true)]), at(0));
    machine.pass_started("http://b:7443", at(0));
    machine.tombstones_applied("http://b:7443", at(0));
    machine.discovered(round(vec![PeerFacts { reachable: false, ..peer("b", true) }]), at(10));
    assert_eq!(machine.snapshot(at(60)).reasons, ["peer_unreachable: http://b:7443"]);
    let snapshot = machine.snapshot(at(130));
    assert!(snapshot.ready && !snapshot.complete && snapshot.peers[0].excused);
    machine.discovered(round(vec![peer("b", true)]), at(140));
    settle(&mut machine, "b", at(141));
    let snapshot = machine.snapshot(at(141));
    assert!(snapshot.complete && snapshot.reasons.is_empty(), "{snapshot:?}");
}

#[test]
fn one_complete_peer_makes_a_mesh_that_is_not_cold() {
    let mut machine = joining();
    machine.discovered(round(vec![peer("b", false), peer("c", true)]), at(0));
    for url in ["http://b:7443", "http://c:7443"] {
        machine.pass_started(url, at(0));
        machine.tombstones_applied(url, at(0));
    }
    assert!(!machine.snapshot(at(1)).ready, "there is one to fill from");
    machine.discovered(round(vec![peer("b", false), PeerFacts { reachable: false, ..peer("c", true) }]), at(2));
    let snapshot = machine.snapshot(at(2));
    assert!(snapshot.ready && !snapshot.complete, "the only complete one went away: {snapshot:?}");
}

#[test]
fn a_store_that_hangs_closes_ready_and_opens_it_again() {
    let mut machine = joining();
    machine.discovered(DiscoveryRound { configured: true, observed: true, peers: Vec::new() }, at(0));
    assert!(machine.snapshot(at(0)).ready);
    machine.set_store_stalled(true);
    let snapshot = machine.snapshot(at(1));
    assert!(!snapshot.ready && snapshot.store_stalled);
    assert_eq!(snapshot.reasons, ["store_stalled"]);
    machine.set_store_stalled(false);
    assert!(machine.snapshot(at(2)).ready);
}

#[test]
fn each_reason_says_since_when_it_holds() {
    let mut machine = joining();
    machine.discovered(round(vec![peer("b", true)]), at(3));
    assert_eq!(machine.snapshot(at(4)).gates[0].since_ms, at(4).wall_ms);
    machine.pass_started("http://b:7443", at(5));
    machine.tombstones_applied("http://b:7443", at(6));
    assert_eq!(machine.snapshot(at(7)).gates[0].since_ms, at(7).wall_ms, "another one");
    machine.advanced("http://b:7443", 5, 500, at(9));
    let gate = &machine.snapshot(at(9)).gates[0];
    assert_eq!((gate.code.as_str(), gate.peer.as_deref()), ("catching_up", Some("http://b:7443")));
    assert_eq!((gate.detail.as_deref(), gate.since_ms), (Some("5/?"), at(7).wall_ms));
}

#[test]
fn peers_may_hold_more_until_they_are_settled_or_excused_and_silent() {
    let mut machine = joining();
    let held_by = |machine: &ReadinessMachine, seconds| machine.unsettled_peers(at(seconds).monotonic);
    assert!(held_by(&machine, 0).is_empty());
    machine.discovered(round(vec![peer("b", true), silent("c")]), at(0));
    assert_eq!(held_by(&machine, 1), ["http://b:7443", "http://c:7443"], "it may be starting");
    assert_eq!(held_by(&machine, 31), ["http://b:7443"], "it is not");
    settle(&mut machine, "b", at(32));
    assert!(held_by(&machine, 33).is_empty());
    machine.discovered(round(vec![peer("b", true), peer("c", true)]), at(40));
    assert_eq!(held_by(&machine, 41), ["http://c:7443"], "it came after all");
}

#[test]
fn progress_as_a_whole_sums_what_is_not_settled() {
    let mut machine = joining();
    machine.discovered(round(vec![peer("b", true), peer("c", true), peer("d", true)]), at(0));
    settle(&mut machine, "d", at(1));
    for (url, rows) in [("http://b:7443", 10), ("http://c:7443", 30)] {
        machine.pass_started(url, at(2));
        machine.advanced(url, rows, 100, at(4));
        machine.set_total(url, 100);
    }
    let progress = machine.snapshot(at(12)).progress();
    assert_eq!((progress.done, progress.total, progress.rate), (40, Some(200), 4));
    assert_eq!((progress.eta_ms, progress.last_advance_ms), (Some(90_000), Some(at(4).wall_ms)));
}

#[test]
fn the_snapshot_says_which_peers_are_left_alone() {
    use crate::core::mesh::circuit::{CircuitState, FAILURES_MAX, Fared};
    let readiness = Readiness::new(true, Arc::new(ManualClock::at(1_700_000_000_000)));
    readiness.update(|machine, now| machine.discovered(round(vec![peer("a", true), peer("b", true)]), now));
    for _ in 0..FAILURES_MAX {
        let permit = readiness.circuits().enter("http://b:7443", Duration::ZERO).unwrap();
        permit.fared(Fared::Badly, Duration::ZERO, |_| Duration::from_secs(1));
    }
    let circuits: Vec<_> = readiness.snapshot().peers.into_iter().map(|peer| peer.circuit.unwrap()).collect();
    assert_eq!(circuits, [CircuitState::Closed, CircuitState::Open]);
}
