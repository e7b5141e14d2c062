//! Steady state in `serve`: a worker for each peer passes over it and then follows it, for as long as it is a member.
//!
//! How it works: [`run`] watches the membership and keeps one worker alive for every peer that can be caught up from.
//! A worker for a kura peer makes a pass up to the peer's head, following its feed beside a long walk, and then
//! long-polls the feed; a worker for a seed-era peer walks it again now and then and pushes deletes to it
//! ([`super::seed_turns`]). Wanted artifacts are retried on a tick of their own. What needs work is worked out
//! anew each time, so nothing is lost by a missed event.
//!
//! Large bodies are fetched beside the feed that is followed, so that small rows do not wait for them.
//!
//! Failure: whatever ends a worker's work is logged and tried again after a pause that grows and is reset by success.

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::beside::{fetch_beside, take_large};
use super::engine::{Engine, Peer, PeerSource};
use super::large::drop_unwanted_bodies;
use super::pass::{Pass, PassError, PassSummary, pass_beside};
use super::pass_permit::{Moving, with_permit};
use super::retry::Retrier;
use super::seed_turns::{TURN_TICK, WalkSchedule, seed_turn};
use super::settle::settle_page;
use super::source::ManifestSource;
use super::source_feed::{FeedMode, FeedSource};
use crate::core::mesh::membership::Member;
use crate::core::mesh::readiness::Readiness;

/// How often wanted artifacts are looked through.
const WANTED_TICK: Duration = Duration::from_secs(2);

/// The first and the longest pause after trouble with a peer.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// From one request to the next when the answer holds nothing.
const EMPTY_PAGE_PAUSE: Duration = Duration::from_millis(100);

/// The longest time of following between two passes that leave something unsettled.
const UNCLEAN_PAUSE_MAX: Duration = Duration::from_secs(60);

/// What the workers need.
#[derive(Debug, Clone)]
pub struct Follower {
    /// What every pass needs.
    pub engine: Engine,
    /// Is told how it goes.
    pub readiness: Readiness,
    /// The members after each round.
    pub members: watch::Receiver<Arc<Vec<Member>>>,
    /// Passes at the same time.
    pub passes_max: usize,
}

/// Keeps a worker for each usable peer, and what is wanted retried, until cancelled.
pub async fn run(follower: Follower, cancel: CancellationToken) {
    tokio::join!(keep_workers(&follower, &cancel), keep_retrying(&follower, &cancel));
}

async fn keep_workers(follower: &Follower, cancel: &CancellationToken) {
    let mut members = follower.members.clone();
    let passes = Arc::new(Semaphore::new(follower.passes_max.max(1)));
    let mut running: BTreeMap<String, (Id, CancellationToken)> = BTreeMap::new();
    let mut workers: JoinSet<()> = JoinSet::new();
    loop {
        let usable: Vec<Peer> = members.borrow_and_update().iter().filter_map(Peer::of).collect();
        follower.engine.set_usable_peers(usable.clone());
        stop_workers_of_strangers(&members, &running);
        for peer in usable {
            if running.contains_key(&peer.url) {
                continue;
            }
            let stop = cancel.child_token();
            let url = peer.url.clone();
            let worker = workers.spawn(work(follower.clone(), peer, Arc::clone(&passes), stop.clone()));
            running.insert(url, (worker.id(), stop));
        }
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            changed = members.changed() => if changed.is_err() { break },
            Some(ended) = workers.join_next_with_id() => note_ended(ended, &mut running),
        }
        follower.engine.metrics.observe_peers(&follower.readiness.snapshot());
    }
    running.values().for_each(|(_, stop)| stop.cancel());
    while workers.join_next().await.is_some() {}
}

fn stop_workers_of_strangers(
    members: &watch::Receiver<Arc<Vec<Member>>>,
    running: &BTreeMap<String, (Id, CancellationToken)>,
) {
    let members = members.borrow();
    let strangers = running.iter().filter(|(url, _)| !members.iter().any(|member| member.url == **url));
    for (url, (_, stop)) in strangers.filter(|(_, (_, stop))| !stop.is_cancelled()) {
        tracing::warn!(peer = %url, "peer_worker_stopped_as_it_is_no_member_any_more");
        stop.cancel();
    }
}

/// However a worker ended, its peer gets a new one if it is still a member.
fn note_ended(ended: Result<(Id, ()), JoinError>, running: &mut BTreeMap<String, (Id, CancellationToken)>) {
    let id = match ended {
        Ok((id, ())) => id,
        Err(error) => {
            tracing::error!(%error, "peer_worker_died");
            error.id()
        }
    };
    running.retain(|_, (worker, _)| *worker != id);
}

/// A holder that is slow, or stalls, delays nothing but what it is asked for.
pub(super) async fn keep_retrying(follower: &Follower, cancel: &CancellationToken) {
    let mut retrier = Retrier::new(&follower.engine, &follower.readiness);
    let mut ticks = tokio::time::interval(WANTED_TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            Some(ended) = retrier.next_end(), if retrier.is_running() => match ended {
                Ok(0) => {}
                Ok(arrived) => tracing::info!(arrived, "wanted_artifacts_arrived"),
                Err(error) => tracing::warn!(%error, "wanted_artifacts_not_retried"),
            },
            _ = ticks.tick() => tokio::select! {
                biased;
                // A look waits for the store, which may be gone for good by now.
                () = cancel.cancelled() => return,
                () = start_retries(follower, &mut retrier) => {}
            },
        }
    }
}

async fn start_retries(follower: &Follower, retrier: &mut Retrier<'_>) {
    follower.engine.metrics.observe_circuits(&follower.engine.circuits);
    if follower.engine.store.current().is_none() {
        return;
    }
    match drop_unwanted_bodies(&follower.engine).await {
        Ok(0) => {}
        Ok(bodies) => tracing::info!(bodies, "unwanted_bodies_dropped"),
        Err(error) => tracing::warn!(%error, "parked_bodies_not_checked"),
    }
    if follower.engine.usable_peers().is_empty() {
        return;
    }
    if let Err(error) = retrier.start_due().await {
        tracing::warn!(%error, "wanted_artifacts_not_retried");
    }
}

/// One peer's worker.
async fn work(follower: Follower, peer: Peer, passes: Arc<Semaphore>, stop: CancellationToken) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = work_forever(&follower, peer, &passes) => {}
    }
}

async fn work_forever(follower: &Follower, mut peer: Peer, passes: &Semaphore) {
    let mut failures = 0;
    let (mut walked, mut schedule) = (false, WalkSchedule::default());
    loop {
        let result = match &peer.source {
            PeerSource::Seed => seed_turn(follower, &peer, passes, (walked, &mut schedule)).await,
            PeerSource::Kura { .. } => kura_turn(follower, &peer, passes, failures).await,
        };
        walked = result.is_ok();
        let pause = match result {
            Ok(clean) => {
                failures = if clean { 0 } else { failures + 1 };
                let is_walked = peer.source == PeerSource::Seed;
                if is_walked { follower.engine.backoff(0, TURN_TICK, TURN_TICK) } else { Duration::ZERO }
            }
            Err(error) => {
                tracing::warn!(peer = %peer.url, %error, "peer_turn_failed");
                failures += 1;
                schedule.begin_anew();
                follower.engine.backoff(failures, RETRY_PAUSE.0, RETRY_PAUSE.1)
            }
        };
        tokio::time::sleep(pause).await;
        // Another store may be behind the same address by now. Waits while it does not answer.
        peer = follower.engine.usable_peer(&peer.url).await;
    }
}

/// `beside` follows the peer while the pass walks.
pub(super) async fn one_pass<F>(
    (follower, peer): (&Follower, &Peer),
    passes: &Semaphore,
    is_retry: bool,
    beside: Pin<&mut F>,
) -> Result<PassSummary, PassError>
where
    F: Future<Output = Result<(), PassError>> + Send,
{
    let moving = Moving::new(&follower.readiness);
    let pass = Pass { engine: &follower.engine, peer, progress: &moving, log: None, dry_run: false, is_retry };
    with_permit(passes, &peer.url, &moving, pass_beside(&pass, beside)).await
}

/// A pass, then following until something goes wrong; after an unclean pass only until it is time for the next one.
async fn kura_turn(follower: &Follower, peer: &Peer, passes: &Semaphore, failures: u32) -> Result<bool, PassError> {
    // It begins when it is first waited for: beside a walk, or after the pass.
    let mut following = pin!(follow(follower, peer));
    let clean = one_pass((follower, peer), passes, failures > 0, following.as_mut()).await?.is_clean();
    if clean {
        following.await?;
    } else {
        let pause = follower.engine.backoff(failures.saturating_add(2), RETRY_PAUSE.0, UNCLEAN_PAUSE_MAX);
        tokio::time::timeout(pause, following).await.unwrap_or(Ok(()))?;
    }
    Ok(clean)
}

/// Long polls the peer's feed for as long as it goes well.
async fn follow(follower: &Follower, peer: &Peer) -> Result<(), PassError> {
    let Some(kura) = peer.kura() else { return Ok(()) };
    let engine = &follower.engine;
    let begun = FeedSource::begin(&engine.client, &engine.store, (&peer.url, kura), FeedMode::Follow);
    let mut source = begun.await?;
    let progress = super::progress::NoProgress;
    let pass = Pass { engine, peer, progress: &progress, log: None, dry_run: false, is_retry: false };
    let mut beside = JoinSet::new();
    loop {
        let asked = engine.clock.monotonic();
        let Some(mut page) = source.next_page().await? else { return Ok(()) };
        let is_empty = page.rows.is_empty() && page.skipped.is_empty();
        let rest = rest_before_asking_again(is_empty, engine.clock.monotonic().saturating_sub(asked));
        let large = take_large(&mut page);
        settle_page(&pass, page).await?;
        fetch_beside(&pass, large, &mut beside).await?;
        source.page_settled().await?;
        tokio::time::sleep(rest).await;
    }
}

/// A peer is asked to wait for rows. One that answers with none at once would be asked in a loop as fast as it answers.
fn rest_before_asking_again(is_empty: bool, answered_after: Duration) -> Duration {
    if is_empty { EMPTY_PAGE_PAUSE.saturating_sub(answered_after) } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::bootstrap::source_feed::LONG_POLL;

    #[test]
    fn a_peer_that_answers_with_nothing_at_once_is_not_asked_in_a_loop() {
        let ms = Duration::from_millis;
        assert_eq!(rest_before_asking_again(true, ms(0)), EMPTY_PAGE_PAUSE);
        assert_eq!(rest_before_asking_again(true, ms(60)), ms(40));
        assert_eq!(rest_before_asking_again(true, LONG_POLL), ms(0), "a long poll that ran out");
        assert_eq!(rest_before_asking_again(false, ms(0)), ms(0), "rows are followed at full speed");
    }
}
