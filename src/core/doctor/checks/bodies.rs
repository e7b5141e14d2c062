//! Bodies of artifacts: are they there, are they what their manifests say.
//!
//! How it works: [`integrity::verify`] walks the read-only index, once for all checks of this file. Without `--verify
//! all` it ends after a moment: ids are hashes, so the part it saw is an even sample. With it, the walk notes where it is
//! (`verify_position`), and one that was interrupted goes on there. Beside a running node a body may be replaced while
//! the walk looks at an older view; whatever is found bad there is looked at once more on a fresh view of the index.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::core::base::ids::{ArtifactId, Digest};
use crate::core::base::units::ByteSize;
use crate::core::doctor::check::{About, Category, Check, CheckError, Outcome, Pulse, Reach};
use crate::core::doctor::context::{Context, Verify};
use crate::core::doctor::finding::{Code, Evidence, Remedy, Severity};
use crate::core::doctor::verify_position::Place;
use crate::core::store::Store;
use crate::core::store::integrity::{self, BadArtifact, HashBodies, IntegrityReport, VerifyProgress, VerifyRequest};

/// A walk beats every few artifacts; one body may be gigabytes on a slow disk.
const SILENCE_LIMIT: Duration = Duration::from_secs(300);
/// Between two looks at a body without a manifest beside a writer; a group commit takes milliseconds.
const ARRIVAL_PAUSE: Duration = Duration::from_secs(1);
/// A look without flags stays a look: a data dir of a million artifacts is judged by a sample of some ten thousand.
const SAMPLE_TIME_MAX: Duration = Duration::from_millis(500);
/// The same for files that nobody may own.
const FOLDERS_TIME_MAX: Duration = Duration::from_millis(300);
/// How often a long walk notes where it is: as much is read again after an interruption.
const SAVE_INTERVAL: Duration = Duration::from_secs(3);

fn about(code: Code, title: &'static str) -> About {
    About {
        code,
        category: Category::Bodies,
        title,
        reach: Reach::Offline,
        severity: Severity::Fail,
        fatal: false,
        needs: &[Code::IndexUnreadable],
        limit: SILENCE_LIMIT,
    }
}

/// Digits of a digest on the screen.
const DIGEST_CHARS: usize = 16;

/// Whether each manifest has its body.
#[derive(Debug)]
pub struct BodyMissing;

impl Check for BodyMissing {
    fn about(&self) -> About {
        about(Code::BodyMissing, "every manifest has its body")
    }

    fn run(&self, context: &Context, pulse: &Pulse) -> Result<Outcome, CheckError> {
        let report = presence(context, pulse)?;
        if !report.bodies_marked && report.missing_total > 0 {
            return unmarked(context, report);
        }
        if report.missing_total > 0 || report.corrupt_rows > 0 {
            return Ok(missing(report));
        }
        readable(report)?;
        let total = context.index()?.stats().artifacts;
        let message = if report.stopped {
            format!("a sample of {} of {total} bodies is there", report.artifacts)
        } else {
            format!("all {} bodies are there", report.artifacts)
        };
        Ok(Outcome::ok(message).evidence(
            Evidence::new()
                .value("artifacts", report.artifacts)
                .value("artifacts_total", total)
                .value("sampled", report.stopped),
        ))
    }
}

fn missing(report: &IntegrityReport) -> Outcome {
    let total = report.missing_total;
    let evidence = Evidence::new()
        .value("artifacts", report.artifacts)
        .value("undecodable_manifests", report.corrupt_rows)
        .fact(format!("{total} of {} bodies", report.artifacts))
        .entries("missing", &report.missing.iter().map(entry).collect::<Vec<_>>(), total);
    let message = match (total, report.corrupt_rows) {
        (0, rows) => format!("{rows} manifests do not decode"),
        (1, _) => "1 artifact has no whole body".to_owned(),
        (total, _) => format!("{total} artifacts have no whole body"),
    };
    Outcome::fail(message)
        .evidence(evidence)
        .effect("each is a miss when it is asked for, until a peer that has it is caught up with")
        .remedy(Remedy::text(
            "nothing by hand: kura serve withdraws each on its first read and fetches it again from a peer that has it",
        ))
}

/// Without its marker the folder is not the one the index was written beside.
fn unmarked(context: &Context, report: &IntegrityReport) -> Result<Outcome, CheckError> {
    let marker = context.layout()?.bodies_marker();
    let evidence = Evidence::new()
        .value("marker", marker.to_string_lossy())
        .value("marker_present", false)
        .value("missing", report.missing_total)
        .fact(format!("{} is absent", marker.display()))
        .fact(format!("{} of {} bodies are not there", report.missing_total, report.artifacts));
    Ok(Outcome::fail("the bodies folder is not the one this index belongs to")
        .evidence(evidence)
        .effect("no missing body is believed: kura serve answers misses and withdraws nothing")
        .remedy(Remedy::text("mount the folder or volume that belongs here; the bodies are most likely still on it")))
}

/// Whether each body file has a manifest.
#[derive(Debug)]
pub struct BodyUnreferenced;

impl Check for BodyUnreferenced {
    fn about(&self) -> About {
        About { severity: Severity::Warn, ..about(Code::BodyUnreferenced, "every body file has a manifest") }
    }

    fn run(&self, context: &Context, pulse: &Pulse) -> Result<Outcome, CheckError> {
        let first = folders(context, context.index()?, pulse)?;
        if first.unreferenced_total == 0 || !context.is_held() {
            return Ok(unreferenced(&first, &first.unreferenced, first.unreferenced_total));
        }
        // Beside a writer a body is linked an instant before its manifest is written: what it names later is none.
        std::thread::sleep(ARRIVAL_PAUSE);
        let fresh = context.open_index().map_err(|trouble| CheckError(trouble.message))?;
        let again = folders(context, &fresh, pulse)?;
        let both: Vec<PathBuf> =
            first.unreferenced.iter().filter(|path| again.unreferenced.contains(path)).cloned().collect();
        // Lists are bounded; beyond the bound the lower count stands if any of the listed ones is still there.
        let is_cut = first.unreferenced_total > first.unreferenced.len() as u64 && !both.is_empty();
        let lower = first.unreferenced_total.min(again.unreferenced_total);
        Ok(unreferenced(&again, &both, if is_cut { lower } else { both.len() as u64 }))
    }
}

fn unreferenced(report: &IntegrityReport, paths: &[PathBuf], total: u64) -> Outcome {
    if total == 0 {
        let scope = if report.stopped { "every body file of a sample" } else { "every body file" };
        return Outcome::ok(format!("{scope} has a manifest"));
    }
    let lines: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let bytes = report.unreferenced_bytes;
    let evidence = Evidence::new()
        .value("files", total)
        .value("bytes", bytes)
        .fact(format!("{} in all", ByteSize(bytes)))
        .list("paths", &lines, total);
    let noun = if total == 1 { "1 body file has" } else { &format!("{total} body files have") };
    Outcome::warn(format!("{noun} no manifest"))
        .evidence(evidence)
        .effect("they take space and are never served; no start removes them, since kura did not leave them so")
        .remedy(Remedy::text(
            "find out who put them there (a copied or restored folder); with the node stopped, move what is named aside",
        ))
}

/// Whether bodies are what their manifests say.
#[derive(Debug)]
pub struct BodyCorrupt;

impl Check for BodyCorrupt {
    fn about(&self) -> About {
        about(Code::BodyCorrupt, "bodies match their digests")
    }

    fn run(&self, context: &Context, pulse: &Pulse) -> Result<Outcome, CheckError> {
        if context.asked.verify == Verify::None {
            return Ok(Outcome::skip("reads bodies; left out by --verify none"));
        }
        let report = presence(context, pulse)?;
        if report.corrupt_total > 0 {
            return Ok(corrupt(report));
        }
        readable(report)?;
        let scope = if context.asked.verify == Verify::All { "all" } else { "a sample of" };
        let message =
            format!("{scope} {} bodies hashed, {}: each matches", report.hashed, ByteSize(report.hashed_bytes));
        Ok(Outcome::ok(message).evidence(hashed(report)))
    }
}

fn hashed(report: &IntegrityReport) -> Evidence {
    Evidence::new()
        .value("hashed", report.hashed)
        .value("hashed_bytes", report.hashed_bytes)
        .value("artifacts", report.artifacts)
}

fn corrupt(report: &IntegrityReport) -> Outcome {
    let total = report.corrupt_total;
    let evidence = hashed(report).fact(format!("{total} of {} hashed", report.hashed)).entries(
        "bodies",
        &report.corrupt.iter().map(entry).collect::<Vec<_>>(),
        total,
    );
    let message = match total {
        1 => "1 body is not what its manifest says".to_owned(),
        total => format!("{total} bodies are not what their manifests say"),
    };
    Outcome::fail(message)
        .evidence(evidence)
        .effect("none is served: each is checked before or while it is read and is then a miss")
        .remedy(
            Remedy::text("kura serve sets each aside and fetches it again; more than a few mean a failing disk")
                .look("dmesg --level=err,warn | tail -n 50"),
        )
}

/// For scripts whole, for people short.
fn entry(bad: &BadArtifact) -> (Value, String) {
    let name = &bad.name;
    let value = json!({
        "artifact_id": bad.id,
        "producer": name.producer,
        "namespace": name.namespace,
        "key": name.key,
        "reason": bad.reason,
        "expected": bad.expected,
        "actual": bad.actual,
        "path": bad.path.as_ref().map(|path| path.to_string_lossy()),
    });
    let what = match bad.actual {
        Some(actual) => format!("is {}, expected {}", short(&actual), short(&bad.expected)),
        None => bad.reason.clone(),
    };
    let place = bad.path.as_ref().map(|path| format!(" ({})", path.display())).unwrap_or_default();
    (value, format!("{} {:?} {:?}: {what}{place}", name.producer, name.namespace, name.key))
}

/// Enough of a digest to tell two apart; scripts get all of it.
fn short(digest: &Digest) -> String {
    digest.to_string().chars().take(DIGEST_CHARS).chain(['…']).collect()
}

/// A body that could not be read for a reason that says nothing of it leaves the check without an answer.
fn readable(report: &IntegrityReport) -> Result<(), CheckError> {
    match report.unreadable.first() {
        None => Ok(()),
        Some(first) => Err(CheckError(format!("{} bodies could not be read; {first}", report.unreadable_total))),
    }
}

/// The walk over manifests; made once for all checks of this file.
fn presence<'a>(context: &'a Context, pulse: &Pulse) -> Result<&'a IntegrityReport, CheckError> {
    let made = context.presence.get_or_init(|| {
        let made = confirmed(context, pulse);
        if let Some(watch) = context.world.watch.as_ref().filter(|_| context.asked.verify == Verify::All) {
            watch.ended();
        }
        made
    });
    made.as_ref().map_err(CheckError::clone)
}

/// The walk over the body folders.
fn folders(context: &Context, store: &Store, pulse: &Pulse) -> Result<IntegrityReport, CheckError> {
    let started = Instant::now();
    let is_sample = context.asked.verify != Verify::All;
    let walked = integrity::unreferenced(store, &mut |_| {
        pulse.beat();
        let is_over = is_sample && started.elapsed() >= FOLDERS_TIME_MAX;
        if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    walked.map_err(|error| CheckError::from_error("walk the body folders", &error))
}

/// How often what was found bad beside a running node is looked at again: an artifact that is replaced all the time may
/// be replaced between the opening of the index and the look at its body, but hardly each time.
const LOOKS_AGAIN_MAX: usize = 8;

/// Verifies, and beside a writer verifies what was found bad once more.
fn confirmed(context: &Context, pulse: &Pulse) -> Result<IntegrityReport, CheckError> {
    let mut report = match context.asked.verify {
        Verify::None => sample(context.index()?, HashBodies::None, pulse)?,
        Verify::Sample => sample(context.index()?, HashBodies::Sample, pulse)?,
        Verify::All => whole(context, context.index()?, pulse)?,
    };
    if report.missing_total + report.corrupt_total == 0 || !context.is_held() {
        return Ok(report);
    }
    let mut again = look_again(context, pulse, &report)?;
    for _ in 1..LOOKS_AGAIN_MAX {
        if again.missing_total + again.corrupt_total == 0 {
            break;
        }
        again = look_again(context, pulse, &again)?;
    }
    // Lists are bounded; beyond the bound the first walk's count stands if any of the listed ones was confirmed.
    let settle = |total: u64, listed: usize, confirmed: u64| {
        if total > listed as u64 && confirmed > 0 { total } else { confirmed }
    };
    report.missing_total = settle(report.missing_total, report.missing.len(), again.missing_total);
    report.corrupt_total = settle(report.corrupt_total, report.corrupt.len(), again.corrupt_total);
    (report.missing, report.corrupt) = (again.missing, again.corrupt);
    Ok(report)
}

/// What was found bad, on a view of the index opened just now.
fn look_again(context: &Context, pulse: &Pulse, found: &IntegrityReport) -> Result<IntegrityReport, CheckError> {
    let suspects: Vec<ArtifactId> = found.missing.iter().chain(&found.corrupt).map(|bad| bad.id).collect();
    let fresh = context.open_index().map_err(|trouble| CheckError(trouble.message))?;
    listed(&fresh, suspects, pulse)
}

fn listed(store: &Store, ids: Vec<ArtifactId>, pulse: &Pulse) -> Result<IntegrityReport, CheckError> {
    verified(store, &VerifyRequest::of(HashBodies::All, ids), &mut |_| {
        pulse.beat();
        ControlFlow::Continue(())
    })
}

fn sample(store: &Store, hash: HashBodies, pulse: &Pulse) -> Result<IntegrityReport, CheckError> {
    let started = Instant::now();
    let request = VerifyRequest { folders: false, ..VerifyRequest::all(hash) };
    verified(store, &request, &mut |_| {
        pulse.beat();
        if started.elapsed() >= SAMPLE_TIME_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}

/// Every body, from where an earlier walk was interrupted; what that one had found bad is looked at again.
fn whole(context: &Context, store: &Store, pulse: &Pulse) -> Result<IntegrityReport, CheckError> {
    let place = context.world.positions.as_deref().zip(context.layout.as_ref());
    let place = place.map(|(folder, layout)| Place::new(folder, layout.data_dir(), store.stats().store_id));
    let now_ms = || context.world.clock.now_ms();
    let earlier = place.as_ref().and_then(|place| place.load(now_ms())).unwrap_or_default();
    let request = VerifyRequest { folders: false, from: earlier.place(), ..VerifyRequest::all(HashBodies::All) };
    let mut saved = Instant::now();
    let mut report = integrity::verify_noting(store, &request, &mut |progress, found| {
        pulse.beat();
        let position = earlier.moved(&progress, found);
        if let Some(watch) = &context.world.watch {
            watch.advanced(&VerifyProgress {
                artifacts: position.artifacts,
                hashed_bytes: position.hashed_bytes,
                ..progress
            });
        }
        if let Some(place) = place.as_ref().filter(|_| saved.elapsed() >= SAVE_INTERVAL) {
            saved = Instant::now();
            place.save(&position, now_ms());
        }
        ControlFlow::Continue(())
    })
    .map_err(|error| CheckError::from_error("verify the bodies", &error))?;
    if !earlier.suspects.is_empty() {
        let again = listed(store, earlier.suspects.clone(), pulse)?;
        report.missing_total += again.missing_total;
        report.missing.extend(again.missing);
        report.corrupt_total += again.corrupt_total;
        report.corrupt.extend(again.corrupt);
    }
    report.artifacts += earlier.artifacts;
    report.hashed += earlier.hashed;
    report.hashed_bytes += earlier.hashed_bytes;
    if let Some(place) = place {
        place.forget();
    }
    Ok(report)
}

fn verified(
    store: &Store,
    request: &VerifyRequest,
    progress: &mut dyn FnMut(VerifyProgress) -> ControlFlow<()>,
) -> Result<IntegrityReport, CheckError> {
    integrity::verify(store, request, progress).map_err(|error| CheckError::from_error("verify the bodies", &error))
}

#[cfg(test)]
#[path = "bodies_tests.rs"]
mod tests;
