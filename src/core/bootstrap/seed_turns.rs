//! When a seed-era peer is walked again, and what is done between two walks.
//!
//! How it works: every few seconds there is a turn. One that is due walks the peer, which costs a digest as long as it lists
//! the same. A peer without a digest is looked through as a whole each time; as long as that brings nothing, twice as
//! much time passes before the next walk, up to [`WALK_PAUSE_MAX`]. What it writes meanwhile it pushes here by itself; the
//! walks are for what was lost. Deletes go both ways in every turn.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::engine::Peer;
use super::follow::{Follower, one_pass};
use super::pass::{Pass, PassError, PassSummary, apply_deletes};
use super::progress::NoProgress;
use super::push::push_deletes;
use super::report::Outcome;

/// Pause between two turns, before jitter.
pub(super) const TURN_TICK: Duration = Duration::from_secs(5);

/// The longest pause between two walks of a peer without a digest that bring nothing.
const WALK_PAUSE_MAX: Duration = Duration::from_secs(300);

/// When the next walk is due.
#[derive(Debug, Default)]
pub(super) struct WalkSchedule {
    /// Walks of all the peer lists that brought nothing, since one did.
    quiet: u32,
    /// When the last one ended; `None` if the next one is due in any case.
    walked_at: Option<Duration>,
}

impl WalkSchedule {
    fn is_due(&self, now: Duration) -> bool {
        let pause = match self.quiet {
            0 => Duration::ZERO,
            quiet => TURN_TICK.saturating_mul(2_u32.saturating_pow(quiet)).min(WALK_PAUSE_MAX),
        };
        self.walked_at.is_none_or(|walked_at| now.saturating_sub(walked_at) >= pause)
    }

    fn walked(&mut self, summary: &PassSummary, now: Duration) {
        let is_quiet = summary.undigested && summary.is_clean() && summary.count(Outcome::Applied) == 0;
        self.quiet = if is_quiet { self.quiet.saturating_add(1) } else { 0 };
        self.walked_at = Some(now);
    }

    /// Trouble, or another peer behind the address: what was not brought before may come now.
    pub(super) fn begin_anew(&mut self) {
        *self = Self::default();
    }
}

/// `walked` says that the turn before went to its end, so that there was no reason since to try anything early.
pub(super) async fn seed_turn(
    follower: &Follower,
    peer: &Peer,
    passes: &Semaphore,
    (walked, schedule): (bool, &mut WalkSchedule),
) -> Result<bool, PassError> {
    let engine = &follower.engine;
    let mut is_clean = true;
    if schedule.is_due(engine.clock.monotonic()) {
        let summary = one_pass((follower, peer), passes, walked, pin!(std::future::pending())).await?;
        schedule.walked(&summary, engine.clock.monotonic());
        is_clean = summary.is_clean();
    } else {
        let pass = Pass { engine, peer, progress: &NoProgress, log: None, dry_run: false, is_retry: true };
        apply_deletes(&pass).await?;
    }
    match push_deletes(engine, &peer.url).await {
        Ok(0) => {}
        Ok(deletes) => tracing::info!(peer = %peer.url, deletes, "deletes_pushed"),
        Err(error) => tracing::warn!(peer = %peer.url, %error, "deletes_not_pushed"),
    }
    Ok(is_clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(undigested: bool, ends: &[(Outcome, u64)]) -> PassSummary {
        PassSummary { undigested, outcomes: ends.iter().copied().collect(), ..PassSummary::default() }
    }

    /// Turns from the beginning in which a walk is due, if each brings this.
    fn walks(summary: &PassSummary, turns: u32) -> Vec<u32> {
        let mut schedule = WalkSchedule::default();
        let is_due = |turn: &u32| {
            let now = TURN_TICK * *turn;
            let is_due = schedule.is_due(now);
            if is_due {
                schedule.walked(summary, now);
            }
            is_due
        };
        (0..turns).filter(is_due).collect()
    }

    #[test]
    fn a_peer_without_a_digest_that_has_nothing_new_is_walked_ever_less() {
        let quiet = walk(true, &[(Outcome::AlreadyPresent, 1000)]);
        assert_eq!(walks(&quiet, 200), [0, 2, 6, 14, 30, 62, 122, 182], "from 10 s to 5 min");
        let every_turn: Vec<u32> = (0..9).collect();
        assert_eq!(walks(&walk(true, &[(Outcome::Applied, 1)]), 9), every_turn, "it has something new");
        assert_eq!(walks(&walk(true, &[(Outcome::Failed, 1)]), 9), every_turn, "something is left to fetch");
        assert_eq!(walks(&walk(false, &[]), 9), every_turn, "a digest costs little");
    }

    #[test]
    fn what_brings_something_or_fails_begins_the_pauses_anew() {
        let (quiet, brings) = (walk(true, &[]), walk(true, &[(Outcome::Applied, 1)]));
        let mut schedule = WalkSchedule::default();
        (0..4).for_each(|_| schedule.walked(&quiet, Duration::ZERO));
        assert!(!schedule.is_due(TURN_TICK * 15) && schedule.is_due(TURN_TICK * 16));
        schedule.walked(&brings, Duration::ZERO);
        assert!(schedule.is_due(TURN_TICK));
        (0..4).for_each(|_| schedule.walked(&quiet, Duration::ZERO));
        schedule.begin_anew();
        assert!(schedule.is_due(Duration::ZERO));
    }
}
