//! What the rest of the process knows of the room on the volume, and how it asks for some.
//!
//! How it works: whoever keeps the room (see `store::room`) publishes a [`SpaceStatus`] after each look. Catching up asks
//! [`SpaceWatch::may_catch_up`]; an upload asks [`SpaceWatch::admit`], which takes its length off the room that is left,
//! or asks for eviction and waits a bounded time. The keeper is woken, so that room is made before anything is refused.
//!
//! Invariants: nobody waits while holding room. Where nobody keeps the room everything is admitted.
//!
//! Failure: the room is an estimate between two looks. A body that passes it and meets a full volume all the same is
//! refused where it is written, and wakes the keeper.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::capacity::{Bound, Stage};

/// What the keeper saw at its last look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpaceStatus {
    /// How far things have gone.
    pub stage: Stage,
    /// The volume.
    pub total_bytes: u64,
    /// What this process can still write.
    pub free_bytes: u64,
    /// What the store may keep, in charged bytes.
    pub capacity_bytes: u64,
    /// What the capacity follows from.
    pub bound: Bound,
    /// What the store is charged for.
    pub charged_bytes: u64,
    /// The ballast in place.
    pub ballast_bytes: u64,
    /// The ballast there should be.
    pub ballast_expected_bytes: u64,
    /// Charged bytes that are over, and that eviction has not freed yet.
    pub excess_bytes: u64,
    /// Whether eviction finds nothing more.
    pub is_exhausted: bool,
    /// Why the volume could not be measured or room not be made, if so.
    pub error: Option<String>,
}

/// What bodies may take until the next look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes.
    pub bytes: u64,
    /// Files, each an inode.
    pub files: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self { bytes: u64::MAX, files: u64::MAX }
    }
}

/// What is left of a [`Room`].
#[derive(Debug)]
struct RoomLeft {
    left: AtomicU64,
    /// Below this the next look is due at once, so that room is made before it is missed.
    low: AtomicU64,
}

impl Default for RoomLeft {
    fn default() -> Self {
        Self { left: AtomicU64::new(u64::MAX), low: AtomicU64::new(0) }
    }
}

impl RoomLeft {
    fn set(&self, room: u64) {
        self.low.store(if room == u64::MAX { 0 } else { room / 4 * 3 }, Ordering::Release);
        self.left.store(room, Ordering::Release);
    }

    /// Takes some off; whether there was as much, and whether little is left.
    fn take(&self, some: u64) -> (bool, bool) {
        let take = |left: u64| if left == u64::MAX { Some(left) } else { left.checked_sub(some) };
        let taken = self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, take);
        let is_low = taken.is_ok_and(|left| left.saturating_sub(some) < self.low.load(Ordering::Acquire));
        (taken.is_ok(), is_low)
    }
}

/// The way between the keeper of the room and those who use it; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct SpaceWatch(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// `None` until the first look.
    status: watch::Sender<Option<SpaceStatus>>,
    bytes: RoomLeft,
    files: RoomLeft,
    /// The longest body that waits for room.
    wanted_bytes: AtomicU64,
    wake: Notify,
}

impl SpaceWatch {
    /// What was seen at the last look; `None` before the first.
    pub fn status(&self) -> Option<SpaceStatus> {
        self.0.status.borrow().clone()
    }

    /// How far things have gone.
    pub fn stage(&self) -> Stage {
        self.0.status.borrow().as_ref().map_or(Stage::Normal, |status| status.stage)
    }

    /// Whether bodies may be fetched from peers now. Deletes always may.
    pub fn may_catch_up(&self) -> bool {
        self.stage() == Stage::Normal
    }

    /// Has the keeper look now: something met a full volume.
    pub fn wake(&self) {
        self.0.wake.notify_one();
    }

    /// Has the keeper look now, and waits until it has, but not for longer than this; not at all if nobody keeps room.
    pub async fn looked(&self, wait: Duration) {
        if self.0.status.borrow().is_none() {
            return;
        }
        let mut looks = self.0.status.subscribe();
        self.wake();
        // Too late, or the keeper is gone: the caller goes on as if it had looked.
        let _ = tokio::time::timeout(wait, looks.changed()).await;
    }

    /// Room for a body of this length (0 for an unknown one), made by eviction if need be, within a bounded wait.
    /// False: the body is to be refused.
    pub async fn admit(&self, length: u64, wait: Duration) -> bool {
        if self.take(length) {
            return true;
        }
        tokio::time::timeout(wait, self.take_once_there_is(length)).await.unwrap_or(false)
    }

    async fn take_once_there_is(&self, length: u64) -> bool {
        let mut looks = self.0.status.subscribe();
        loop {
            self.0.wanted_bytes.fetch_max(length.max(1), Ordering::AcqRel);
            self.wake();
            if looks.changed().await.is_err() {
                return true;
            }
            if self.take(length) {
                return true;
            }
            if looks.borrow_and_update().as_ref().is_some_and(|status| status.is_exhausted) {
                return false;
            }
        }
    }

    /// Takes room off what is left until the next look.
    fn take(&self, length: u64) -> bool {
        if self.stage() == Stage::Refusing {
            return false;
        }
        let (has_files, few_files) = self.0.files.take(1);
        let (has_bytes, few_bytes) = if has_files { self.0.bytes.take(length) } else { (false, true) };
        if few_files || few_bytes {
            self.wake();
        }
        has_files && has_bytes
    }

    /// For the keeper: waits until somebody wants a look.
    pub async fn woken(&self) {
        self.0.wake.notified().await;
    }

    /// For the keeper: the room that somebody waited for since the last look.
    pub fn take_wanted(&self) -> u64 {
        self.0.wanted_bytes.swap(0, Ordering::AcqRel)
    }

    /// For the keeper: tells why it saw nothing; what it saw before stands.
    pub fn publish_error(&self, error: String) {
        self.0.status.send_modify(|status| status.get_or_insert_default().error = Some(error));
    }

    /// For the keeper: tells what it saw, and how much bodies may take until the next look.
    pub fn publish(&self, status: SpaceStatus, room: Room) {
        self.0.bytes.set(room.bytes);
        self.0.files.set(room.files);
        self.0.status.send_replace(Some(status));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(5);

    fn status(stage: Stage, is_exhausted: bool) -> SpaceStatus {
        SpaceStatus { stage, is_exhausted, ..SpaceStatus::default() }
    }

    fn room(bytes: u64) -> Room {
        Room { bytes, files: 5 }
    }

    #[tokio::test(start_paused = true)]
    async fn inodes_are_room_too() {
        let watch = SpaceWatch::default();
        watch.publish(status(Stage::Normal, true), Room { bytes: 1000, files: 1 });
        assert!(watch.admit(1, WAIT).await && !watch.admit(1, WAIT).await);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_keeper_everything_is_admitted() {
        let watch = SpaceWatch::default();
        assert!(watch.admit(u64::MAX, WAIT).await && watch.may_catch_up());
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_taken_off_until_the_next_look_makes_some() {
        let watch = SpaceWatch::default();
        watch.publish(status(Stage::Normal, false), room(10));
        assert!(watch.admit(6, WAIT).await);
        let keeper = async {
            watch.woken().await;
            assert_eq!(watch.take_wanted(), 6);
            watch.publish(status(Stage::Normal, false), room(7));
        };
        let (admitted, ()) = tokio::join!(watch.admit(6, WAIT), keeper);
        assert!(admitted && !watch.admit(2, WAIT).await, "one byte is left");
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_eviction_makes_room_for_is_refused_at_once_and_what_waits_is_bounded() {
        let watch = SpaceWatch::default();
        watch.publish(status(Stage::Refusing, false), room(0));
        assert!(!watch.may_catch_up());
        let began = tokio::time::Instant::now();
        assert!(!watch.admit(0, WAIT).await);
        assert_eq!(began.elapsed(), WAIT);
        let keeper = async {
            watch.woken().await;
            watch.publish(status(Stage::Refusing, true), room(0));
        };
        let (admitted, ()) = tokio::join!(watch.admit(1, WAIT), keeper);
        assert!(!admitted);
        assert_eq!(began.elapsed(), WAIT);
    }
}
