//! Whom a read that missed here asks, how long each may take, and what they answer.
//!
//! Policy: members whose data is not settled, and for a wanted artifact everyone who may have it. A member that did not
//! answer its last status is asked for its status first, because it may have come up since: a mesh that restarts as a
//! whole does so one process at a time. One that says that its store is opening is waited for as long as the client
//! bears, and until then nothing is a miss that it may have; but not for ever ([`OPENING_COUNTS_MAX`]), because a store
//! that does not open would turn each true miss of the mesh into a wait. Before our own store is open everybody is
//! asked. One whose circuit is open is asked all the same, because a miss must not be answered for a peer that
//! is well again, but not for long; how a read fared is told to the circuit, as of every request for a body.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::{Method, StatusCode};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::error::Elapsed;

use super::ask::{Read, Shared};
use super::metrics::PeerAnswer;
use crate::core::base::ids::Digest;
use crate::core::base::limits::STORE_OPEN_WAIT;
use crate::core::bootstrap::engine::Engine;
use crate::core::bootstrap::fetch::FetchError;
use crate::core::bootstrap::holders::note_fared;
use crate::core::mesh::circuit::{Permit, Refused};
use crate::core::mesh::client::PeerError;
use crate::core::mesh::membership::{Member, MemberKind};
use crate::core::mesh::readiness::Readiness;
use crate::core::mesh::transport::PeerResponse;

/// Peers asked at the same time for one artifact; the others follow as these answer.
const PEERS_AT_ONCE: usize = 16;

/// How long a peer may take to begin its answer: far more than a busy one needs, and what a read of a build tool bears.
const FIRST_BYTE_WAIT: Duration = Duration::from_secs(2);

/// How long one may take that let a read wait in vain lately.
const SUSPECT_WAIT: Duration = Duration::from_millis(200);

/// How long that is held against it.
const SUSPECT_FOR: Duration = Duration::from_secs(10);

/// How long a member that was silent may take to give its status.
const STATUS_WAIT: Duration = Duration::from_secs(1);

/// Beyond the wait of a peer whose store is opening, for its answer to travel.
const OPENING_SLACK: Duration = Duration::from_secs(1);

/// How long a peer's store may be opening before that is no reason any more to keep clients waiting. Opening takes a second
/// at a million artifacts and a log of its longest some more. An index that is made anew takes minutes, in which each true
/// miss of the mesh would be a wait and then a refusal; that costs builds more than making again what only that node has.
const OPENING_COUNTS_MAX: Duration = Duration::from_secs(60);

/// Before a peer whose store is opening is asked again.
pub(super) const OPENING_PAUSE: Duration = Duration::from_millis(250);

/// How long a read waits for the first round of discovery of this process.
const FIRST_ROUND_WAIT: Duration = Duration::from_secs(5);

/// Before a peer that failed in a way that passes is asked once more.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Peers that let a read wait in vain, until when that counts. As many as there are members.
#[derive(Debug, Default)]
pub(super) struct Suspects(Mutex<HashMap<String, Duration>>);

impl Suspects {
    fn note(&self, url: &str, now: Duration) {
        let mut suspects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        suspects.retain(|_, until| *until > now);
        suspects.insert(url.to_owned(), now.saturating_add(SUSPECT_FOR));
    }

    fn has(&self, url: &str, now: Duration) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(url).is_some_and(|until| *until > now)
    }
}

/// Peers whose stores are opening, since when. As many as there are members.
#[derive(Debug, Default)]
pub(super) struct Openings(Mutex<HashMap<String, Duration>>);

impl Openings {
    /// Notes what a peer's status said; whether it is opening, and not for too long.
    fn note(&self, url: &str, is_opening: bool, now: Duration) -> bool {
        let mut openings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_opening {
            openings.remove(url);
            return false;
        }
        let since = *openings.entry(url.to_owned()).or_insert(now);
        now.saturating_sub(since) < OPENING_COUNTS_MAX
    }
}

/// A member that may have it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    url: String,
    /// Whether its status is asked for first.
    is_unsure: bool,
}

/// How long one may take, and why.
#[derive(Debug, Clone, Copy)]
struct Patience {
    wait: Duration,
    is_opening: bool,
}

/// What asking one of them came to.
#[derive(Debug)]
pub(super) enum Asked {
    /// It has it.
    Offered(Offer),
    /// It cannot say before its store is open.
    Opening,
    /// It does not have it, or gave no answer.
    Nothing,
}

/// An answer with a record, and with a body if it was asked for.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) peer: String,
    pub(super) response: PeerResponse,
}

/// Waits until there was a round of discovery in this process, if there are peers to discover.
pub(super) async fn first_round(members: &watch::Receiver<Arc<Vec<Member>>>, readiness: &Readiness) {
    // An error means that nobody looks for members any more.
    if members.has_changed().unwrap_or(true) || readiness.is_alone_by_settings() {
        return;
    }
    let mut members = members.clone();
    let _ = tokio::time::timeout(FIRST_ROUND_WAIT, members.changed()).await;
}

/// What asking the peers that may have it comes to, in the order in which they answer.
pub(super) fn asked<'a>(shared: &'a Shared, read: &'a Read) -> BoxStream<'a, Asked> {
    let asked = candidates(shared, read).into_iter().map(move |candidate| ask(shared, read, candidate));
    futures_util::stream::iter(asked).buffer_unordered(PEERS_AT_ONCE).boxed()
}

fn candidates(shared: &Shared, read: &Read) -> Vec<Candidate> {
    if read.unopened.is_some() {
        return shared.members.borrow().iter().map(candidate).collect();
    }
    let unsettled: BTreeSet<String> = shared.readiness.unsettled_peers().into_iter().collect();
    let members = Arc::clone(&shared.members.borrow());
    let may_hold = |member: &&Member| unsettled.contains(&member.url) || may_hold_wanted(read, member);
    members.iter().filter(may_hold).map(candidate).collect()
}

/// Of a wanted artifact: those who listed it, and every kura node, because those say which version they send. Others
/// only if we know the digest it must have.
fn may_hold_wanted(read: &Read, member: &Member) -> bool {
    let Some(wanted) = &read.wanted else { return false };
    let can_tell = matches!(member.kind, MemberKind::Kura(_)) || wanted.version.digest != Digest::default();
    member.reachable && (can_tell || wanted.holders.contains(&member.url))
}

fn candidate(member: &Member) -> Candidate {
    let is_unsure = !member.reachable || member.is_opening() || member.kind == MemberKind::Unknown;
    Candidate { url: member.url.clone(), is_unsure }
}

/// How long this one may take; `None` if it is not to be asked.
async fn patience(shared: &Shared, read: &Read, candidate: &Candidate) -> Option<Patience> {
    let (engine, url) = (&shared.engine, &candidate.url);
    let now = engine.clock.monotonic();
    let is_left_alone = matches!(engine.circuits.refusal(url, now), Some(Refused::Open { .. }));
    let is_suspect = is_left_alone || shared.suspects.has(url, now);
    if !candidate.is_unsure {
        let wait = if is_suspect { SUSPECT_WAIT } else { FIRST_BYTE_WAIT };
        return Some(Patience { wait, is_opening: false });
    }
    let wait = if is_suspect { SUSPECT_WAIT } else { STATUS_WAIT };
    let is_opening = is_opening(shared, url, wait).await?;
    let left = read.until.saturating_duration_since(Instant::now());
    let wait = if is_opening { left.min(STORE_OPEN_WAIT.saturating_add(OPENING_SLACK)) } else { FIRST_BYTE_WAIT };
    Some(Patience { wait, is_opening })
}

/// Whether a peer says that its store is not open yet; `None` if it says nothing, or is none.
async fn is_opening(shared: &Shared, url: &str, wait: Duration) -> Option<bool> {
    let engine = &shared.engine;
    let Ok(status) = tokio::time::timeout(wait, engine.client.status(url)).await else {
        shared.suspects.note(url, engine.clock.monotonic());
        return None;
    };
    let status = status.ok()?;
    if !shared.membership.is_peer(&status).await {
        return None;
    }
    let is_opening = status.kura.is_some_and(|kura| kura.store_id.is_none());
    Some(shared.openings.note(url, is_opening, engine.clock.monotonic()))
}

/// Asks one, and once more if it failed in a way that passes.
async fn ask(shared: &Shared, read: &Read, candidate: Candidate) -> Asked {
    let url = candidate.url.clone();
    let Some(Patience { wait, is_opening }) = patience(shared, read, &candidate).await else {
        shared.metrics.peer(PeerAnswer::Unreachable);
        return Asked::Nothing;
    };
    let mut answer = ask_within(shared, read, &url, wait).await;
    if matches!(answer, Err(PeerAnswer::Failed)) && !is_opening && wait > SUSPECT_WAIT {
        tokio::time::sleep(RETRY_PAUSE).await;
        answer = ask_within(shared, read, &url, wait).await;
    }
    let (answer, asked) = match answer {
        Ok(response) => (PeerAnswer::Found, Asked::Offered(Offer { peer: url, response })),
        Err(answer @ (PeerAnswer::Failed | PeerAnswer::Silent)) => {
            // It may have been started again since its last status.
            if is_opening || is_opening_now(shared, &url).await {
                (PeerAnswer::Opening, Asked::Opening)
            } else {
                shared.suspects.note(&url, shared.engine.clock.monotonic());
                (answer, Asked::Nothing)
            }
        }
        Err(answer) => (answer, Asked::Nothing),
    };
    shared.metrics.peer(answer);
    asked
}

async fn is_opening_now(shared: &Shared, url: &str) -> bool {
    is_opening(shared, url, SUSPECT_WAIT).await == Some(true)
}

/// Silence says nothing: a read has less patience than the one who catches up.
fn tell_circuit(
    engine: &Engine,
    url: &str,
    permit: Permit,
    answered: &Result<Result<PeerResponse, PeerError>, Elapsed>,
) {
    match answered {
        Err(_) => drop(permit),
        Ok(Ok(response)) if response.status.is_server_error() => {
            let error = FetchError::Failed(format!("{url} answered with {}", response.status));
            note_fared(engine, url, permit, Some(&error));
        }
        Ok(Ok(_)) => note_fared(engine, url, permit, None),
        Ok(Err(error)) => note_fared(engine, url, permit, Some(&FetchError::Unreachable(error.to_string()))),
    }
}

async fn ask_within(shared: &Shared, read: &Read, url: &str, patience: Duration) -> Result<PeerResponse, PeerAnswer> {
    let engine = &shared.engine;
    let asked = engine.client.artifact_by(read.method.clone(), url, &read.id);
    // A circuit stands before bodies.
    let permit = (read.method == Method::GET).then(|| engine.circuits.enter(url, engine.clock.monotonic()));
    let answered = tokio::time::timeout(patience, asked).await;
    if let Some(Ok(permit)) = permit {
        tell_circuit(engine, url, permit, &answered);
    }
    let answer = match answered {
        Err(_) => PeerAnswer::Silent,
        Ok(Err(error)) if error.is_unreachable() => PeerAnswer::Unreachable,
        Ok(Err(_)) => PeerAnswer::Failed,
        Ok(Ok(response)) => match response.status {
            StatusCode::OK => return Ok(response),
            StatusCode::NOT_FOUND | StatusCode::GONE => PeerAnswer::Absent,
            _ => PeerAnswer::Failed,
        },
    };
    tracing::debug!(peer = %url, artifact = %read.id, ?answer, "read_through_answer");
    Err(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_opening_for_too_long_is_no_reason_to_wait_until_it_was_open_in_between() {
        let openings = Openings::default();
        let at = Duration::from_secs;
        assert!(openings.note("a", true, at(10)) && openings.note("a", true, at(69)));
        assert!(!openings.note("a", true, at(70)) && openings.note("b", true, at(70)));
        assert!(!openings.note("a", false, at(80)), "it is open");
        assert!(openings.note("a", true, at(90)), "and opening again");
    }
}
