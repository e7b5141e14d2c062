//! A transport that takes bodies no faster than a rate: what a run beside real traffic is given.
//!
//! How it works: all exchanges share one schedule. Each piece of a body books the time that its bytes take at the rate
//! and is handed on when that time has come. Reading stops meanwhile, so the peer is held back by its own socket.
//!
//! Invariants: no byte is dropped or held longer than its booking. The limits for silence are those of the transport
//! inside: waiting here is not silence of the peer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use super::transport::{PeerRequest, PeerResponse, PeerTransport, TransportError};
use crate::core::base::clock::Clock;

/// The slowest rate: below it a single piece of a body would wait so long that the peer gives the exchange up.
pub const RATE_BYTES_MIN: u64 = 64 << 10;

/// Pieces are cut to this, so that exchanges take turns.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// Unused time that may be caught up on: smooths bursts without letting an idle minute be spent at once.
const CREDIT: Duration = Duration::from_millis(100);

/// Limits what is inside it.
#[derive(Debug, Clone)]
pub struct RateLimitedTransport {
    inner: Arc<dyn PeerTransport>,
    schedule: Arc<Schedule>,
}

#[derive(Debug)]
struct Schedule {
    clock: Arc<dyn Clock>,
    bytes_per_second: u64,
    /// When everything booked so far is through, in monotonic time.
    booked_until: Mutex<Duration>,
}

impl RateLimitedTransport {
    /// Takes bodies through `inner` at no more than this rate, over all peers together.
    pub fn new(inner: Arc<dyn PeerTransport>, clock: Arc<dyn Clock>, bytes_per_second: u64) -> Self {
        let bytes_per_second = bytes_per_second.max(RATE_BYTES_MIN);
        Self { inner, schedule: Arc::new(Schedule { clock, bytes_per_second, booked_until: Mutex::default() }) }
    }
}

impl PeerTransport for RateLimitedTransport {
    fn send(&self, request: PeerRequest) -> BoxFuture<'static, Result<PeerResponse, TransportError>> {
        let (inner, schedule) = (Arc::clone(&self.inner), Arc::clone(&self.schedule));
        Box::pin(async move {
            let response = inner.send(request).await?;
            Ok(PeerResponse { body: paced(response.body, schedule), ..response })
        })
    }
}

fn paced(
    body: BoxStream<'static, Result<Bytes, TransportError>>,
    schedule: Arc<Schedule>,
) -> BoxStream<'static, Result<Bytes, TransportError>> {
    let state = (body, Bytes::new(), schedule);
    let stream = futures_util::stream::unfold(state, |(mut body, mut rest, schedule)| async move {
        if rest.is_empty() {
            match body.next().await? {
                Ok(chunk) => rest = chunk,
                Err(error) => return Some((Err(error), (body, rest, schedule))),
            }
        }
        let piece = rest.split_to(rest.len().min(PIECE_BYTES_MAX));
        tokio::time::sleep(schedule.book(piece.len())).await;
        Some((Ok(piece), (body, rest, schedule)))
    });
    stream.boxed()
}

impl Schedule {
    /// Books the time for these bytes and says how long to wait for it.
    fn book(&self, bytes: usize) -> Duration {
        let now = self.clock.monotonic();
        let takes_nanos = u128::try_from(bytes).unwrap_or(u128::MAX).saturating_mul(1_000_000_000);
        let takes = takes_nanos / u128::from(self.bytes_per_second.max(1));
        let takes = Duration::from_nanos(u64::try_from(takes).unwrap_or(u64::MAX));
        let mut booked_until = self.booked_until.lock().unwrap_or_else(PoisonError::into_inner);
        let until = (*booked_until).max(now.saturating_sub(CREDIT)).saturating_add(takes);
        *booked_until = until;
        until.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::core::base::clock::ManualClock;

    /// The runtime's paused time.
    #[derive(Debug)]
    struct PausedClock(tokio::time::Instant);

    impl Clock for PausedClock {
        fn now_ms(&self) -> u64 {
            0
        }

        fn monotonic(&self) -> Duration {
            self.0.elapsed()
        }
    }

    /// Answers with a body of one large chunk.
    #[derive(Debug)]
    struct OneChunk(usize);

    impl PeerTransport for OneChunk {
        fn send(&self, _: PeerRequest) -> BoxFuture<'static, Result<PeerResponse, TransportError>> {
            let chunk = Bytes::from(vec![7; self.0]);
            let body = futures_util::stream::iter([Ok(chunk)]).boxed();
            Box::pin(async move { Ok(PeerResponse { status: StatusCode::OK, headers: HeaderMap::new(), body }) })
        }
    }

    fn request() -> PeerRequest {
        PeerRequest {
            method: http::Method::GET,
            peer: "http://a".to_owned(),
            path_and_query: "/".to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            head_timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn bookings_follow_one_another_and_unused_time_is_lost_but_for_a_little() {
        let clock = Arc::new(ManualClock::at(0));
        clock.advance(Duration::from_secs(10));
        let schedule = Schedule {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            bytes_per_second: 1 << 20,
            booked_until: Mutex::default(),
        };
        assert_eq!(schedule.book(1 << 20), Duration::from_millis(900), "the credit is 100 ms, not 10 s");
        assert_eq!(schedule.book(1 << 19), Duration::from_millis(1400));
        clock.advance(Duration::from_secs(1));
        assert_eq!(schedule.book(0), Duration::from_millis(400));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_comes_whole_and_takes_its_time_over_all_exchanges() {
        let began = tokio::time::Instant::now();
        let transport = RateLimitedTransport::new(Arc::new(OneChunk(3 << 20)), Arc::new(PausedClock(began)), 1 << 20);
        let fetch = || async {
            let response = transport.send(request()).await.unwrap();
            let pieces: Vec<Bytes> = response.body.map(Result::unwrap).collect().await;
            assert!(pieces.iter().all(|piece| piece.len() <= PIECE_BYTES_MAX));
            pieces.iter().map(Bytes::len).sum::<usize>()
        };
        let (one, other) = tokio::join!(fetch(), fetch());
        assert_eq!((one, other), (3 << 20, 3 << 20));
        let took = began.elapsed();
        assert!((Duration::from_millis(5900)..Duration::from_millis(6200)).contains(&took), "{took:?}");
    }
}
