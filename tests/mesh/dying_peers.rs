//! `kura bootstrap` while its peers die, or its time is over: it exits 0 only if all they had is here, and its report
//! says what is.

use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::inspect::artifacts;
use crate::support::mesh::Mesh;
use crate::support::throttle::Throttle;
use crate::support::traffic::Artifact;
use crate::support::wait::eventually;

const WITHIN: Duration = Duration::from_secs(60);

/// So many artifacts of so many bytes, all of which fit into one answer and into the buffers of its socket.
const COUNT: u64 = 10;
const BYTES: u64 = 100_000;

/// Two nodes that hold the same, and a third that is not started and knows them through relays.
struct Trio {
    mesh: Mesh,
    relays: [Throttle; 2],
}

impl Trio {
    fn new() -> Self {
        let mut mesh = Mesh::new(3);
        mesh.begin_with(0..2);
        let relays = [0, 1].map(|at| Throttle::before(mesh.nodes[at].internal_port));
        mesh.nodes[2].set("PEERS", &relays.each_ref().map(Throttle::url).join(","));
        let mut trio = Self { mesh, relays };
        trio.start_peers();
        (1..=COUNT).for_each(|seed| Artifact::new(seed, BYTES).store(&trio.mesh.nodes[seed as usize % 2]).unwrap());
        for node in &trio.mesh.nodes[..2] {
            eventually("all artifacts on a peer", WITHIN, || match artifacts(node)?.len() as u64 {
                COUNT => Ok(()),
                count => Err(count.to_string()),
            });
        }
        trio
    }

    fn start_peers(&mut self) {
        self.mesh.nodes[..2].iter_mut().for_each(crate::support::node::Node::start);
        self.mesh.nodes[..2].iter_mut().for_each(|node| node.wait_ready(WITHIN));
    }

    fn kill_peers(&mut self) {
        self.mesh.nodes[..2].iter_mut().for_each(crate::support::node::Node::kill);
    }

    fn sent(&self) -> u64 {
        self.relays.iter().map(Throttle::sent).sum()
    }

    fn begin(&self, flags: &[&str]) -> Child {
        let mut run = self.mesh.nodes[2].command(&[&["bootstrap", "--output", "json"], flags].concat());
        run.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starting a run")
    }

    /// Artifacts in the data dir of the third.
    fn here(&self) -> u64 {
        let output = self.mesh.nodes[2].run(&["doctor", "--offline", "--only", "INDEX_UNREADABLE", "--output", "json"]);
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
        report["checks"][0]["evidence"]["artifacts"].as_u64().unwrap_or_else(|| panic!("{report}"))
    }

    /// The exit code, and the report if there is one.
    fn end(run: Child) -> (Option<i32>, Value) {
        let output = run.wait_with_output().expect("the end of a run");
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default())
    }
}

#[test]
fn a_run_whose_peers_die_under_it_exits_0_only_if_all_they_had_is_here() {
    let mut trio = Trio::new();
    trio.relays.iter().for_each(|relay| relay.set_rate(BYTES * 4));
    let before = trio.sent();
    let run = trio.begin(&[]);
    eventually("a part of the bodies", WITHIN, || {
        let sent = trio.sent() - before;
        if sent > BYTES * 2 { Ok(()) } else { Err(sent.to_string()) }
    });
    trio.kill_peers();
    trio.relays.iter().for_each(Throttle::cut);
    let (code, report) = Trio::end(run);
    assert_eq!((code, &report["complete"]), (Some(5), &false.into()), "{report}");
    let errors: Vec<&Value> = report["peers"].as_array().unwrap().iter().map(|peer| &peer["error"]).collect();
    assert!(errors.len() == 2 && errors.iter().all(|error| error.is_string()), "{report}");
    assert!(trio.here() < COUNT);

    let (code, report) = Trio::end(trio.begin(&[]));
    assert_eq!((code, report), (Some(13), Value::Null), "nobody is left to ask");

    trio.relays.iter().for_each(|relay| relay.set_rate(0));
    trio.start_peers();
    let (code, report) = Trio::end(trio.begin(&[]));
    assert_eq!((code, &report["complete"], trio.here()), (Some(0), &true.into(), COUNT), "{report}");
}

/// What a peer has sent before it died arrives: the run reads at its own rate what lies in the socket.
#[test]
fn a_run_whose_peers_died_when_all_was_on_its_way_may_end_well() {
    let mut trio = Trio::new();
    let before = trio.sent();
    let run = trio.begin(&["--limit-rate", "512KiB/s", "--deadline", "30s"]);
    eventually("all of the bodies in the sockets", WITHIN, || {
        let sent = trio.sent() - before;
        if sent > BYTES * COUNT { Ok(()) } else { Err(sent.to_string()) }
    });
    trio.kill_peers();
    let (code, report) = Trio::end(run);
    assert_eq!((code, &report["complete"], trio.here()), (Some(0), &true.into(), COUNT), "{report}");
}

#[test]
fn a_run_that_is_stopped_reports_what_it_applied_although_an_answer_was_under_way() {
    let trio = Trio::new();
    let (code, report) = Trio::end(trio.begin(&["--limit-rate", "200KiB/s", "--deadline", "3s"]));
    assert_eq!((code, &report["stopped_by"]), (Some(5), &"deadline".into()), "{report}");
    let (applied, here) = (report["applied"].as_u64().unwrap(), trio.here());
    // What the committer had at that moment may be there besides.
    assert!((2..COUNT).contains(&applied) && (applied..=applied + 2).contains(&here), "{here} are here: {report}");
    assert_eq!(report["applied_bytes"], applied * BYTES);
}
