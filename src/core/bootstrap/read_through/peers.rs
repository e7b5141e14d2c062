//! Whom a read that missed here asks, how long each may take, and what they answer.
//!
//! Policy: members whose data is not settled, and for a wanted artifact everyone who may have it. A member that did not
//! answer its last status is asked for its status first, because it may have come up since: a mesh that restarts as a
//! whole does so one process at a time. One that says that its store is opening is waited for as long as it lets its
//! own clients wait. One whose circuit is open is asked all the same, because a miss must not be answered for a peer that
//! is well again, but not for long; how a read fared is told to the circuit, as of every request for a body.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::{Method, StatusCode};
use tokio::sync::watch;
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

/// A member that may have it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    url: String,
    /// Whether its status is asked for first.
    is_unsure: bool,
}

/// An answer with a body.
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

/// The answers of peers that have it, in the order in which they come.
pub(super) fn offers<'a>(shared: &'a Shared, read: &'a Read) -> BoxStream<'a, Offer> {
    let asked = candidates(shared, read).into_iter().map(move |candidate| ask(shared, read, candidate));
    futures_util::stream::iter(asked).buffer_unordered(PEERS_AT_ONCE).filter_map(std::future::ready).boxed()
}

/// Whether one of them says that it has it.
pub(super) async fn is_held(shared: &Shared, read: &Read) -> bool {
    let asked = candidates(shared, read).into_iter().map(|candidate| async move {
        let Some(patience) = patience(shared, &candidate).await else { return false };
        let request = shared.engine.client.artifact_by(Method::HEAD, &candidate.url, &read.id);
        let answered = tokio::time::timeout(patience, request).await;
        matches!(answered, Ok(Ok(response)) if response.status == StatusCode::OK)
    });
    let held = futures_util::stream::iter(asked).buffer_unordered(PEERS_AT_ONCE);
    std::pin::pin!(held.filter(|held| std::future::ready(*held))).next().await.is_some()
}

fn candidates(shared: &Shared, read: &Read) -> Vec<Candidate> {
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
    let is_opening = matches!(&member.kind, MemberKind::Kura(status) if status.store_id.is_none());
    let is_unsure = !member.reachable || is_opening || member.kind == MemberKind::Unknown;
    Candidate { url: member.url.clone(), is_unsure }
}

/// How long this one may take; `None` if it is not to be asked.
async fn patience(shared: &Shared, candidate: &Candidate) -> Option<Duration> {
    let (engine, url) = (&shared.engine, &candidate.url);
    let now = engine.clock.monotonic();
    let is_left_alone = matches!(engine.circuits.refusal(url, now), Some(Refused::Open { .. }));
    let is_suspect = is_left_alone || shared.suspects.has(url, now);
    if !candidate.is_unsure {
        return Some(if is_suspect { SUSPECT_WAIT } else { FIRST_BYTE_WAIT });
    }
    let wait = if is_suspect { SUSPECT_WAIT } else { STATUS_WAIT };
    let status = match tokio::time::timeout(wait, engine.client.status(url)).await {
        Ok(Ok(status)) if status.tenant_id == engine.client.tenant_id() => status,
        Ok(_) => return None,
        Err(_) => {
            shared.suspects.note(url, engine.clock.monotonic());
            return None;
        }
    };
    let is_opening = status.kura.is_some_and(|kura| kura.store_id.is_none());
    Some(if is_opening { STORE_OPEN_WAIT.saturating_add(OPENING_SLACK) } else { FIRST_BYTE_WAIT })
}

/// Asks one, and once more if it failed in a way that passes.
async fn ask(shared: &Shared, read: &Read, candidate: Candidate) -> Option<Offer> {
    let Some(patience) = patience(shared, &candidate).await else {
        shared.metrics.peer(PeerAnswer::Unreachable);
        return None;
    };
    let mut answer = ask_within(shared, read, &candidate.url, patience).await;
    if matches!(answer, Err(PeerAnswer::Failed)) && patience > SUSPECT_WAIT {
        tokio::time::sleep(RETRY_PAUSE).await;
        answer = ask_within(shared, read, &candidate.url, patience).await;
    }
    let (answer, offer) = match answer {
        Ok(response) => (PeerAnswer::Found, Some(Offer { peer: candidate.url, response })),
        Err(answer) => {
            if matches!(answer, PeerAnswer::Failed | PeerAnswer::Silent) {
                shared.suspects.note(&candidate.url, shared.engine.clock.monotonic());
            }
            (answer, None)
        }
    };
    shared.metrics.peer(answer);
    offer
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
    let (engine, asked) = (&shared.engine, shared.engine.client.artifact(url, &read.id));
    let permit = engine.circuits.enter(url, engine.clock.monotonic());
    let answered = tokio::time::timeout(patience, asked).await;
    if let Ok(permit) = permit {
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
