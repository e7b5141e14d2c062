//! Asking a holder for bodies, through its circuit: a dead peer is not stormed, and a busy one is given its rest.
//!
//! How it works: every request for a body passes [`enter`] first. An open circuit refuses it at once, so that the item
//! goes to another holder or is noted; a short rest that the peer asked for is waited out. How the request fared is told
//! to the circuit, unless it says nothing of the peer: a full volume of our own, say.

use std::time::Duration;

use super::engine::Engine;
use super::fetch::{FetchError, Fetched, fetch_artifact};
use super::metrics::BodyRequest;
use super::progress::Progress;
use crate::core::base::ids::ArtifactId;
use crate::core::base::rng::RngExt;
use crate::core::mesh::circuit::{Fared, OPEN_PAUSE, Permit, Refused};
use crate::core::store::record::Record;

/// The longest rest of a busy peer that is waited out on the spot; items that meet a longer one are noted.
pub(super) const REST_WAITED_MAX: Duration = Duration::from_secs(5);

/// A rest without a length.
pub(super) const REST_DEFAULT: Duration = Duration::from_secs(1);

/// Lets a request for bodies through to a holder.
///
/// # Errors
/// The holder is left alone for now.
pub(super) async fn enter(engine: &Engine, holder: &str) -> Result<Permit, FetchError> {
    let circuits = &engine.circuits;
    let refused = match circuits.enter(holder, engine.clock.monotonic()) {
        Ok(permit) => return Ok(permit),
        Err(refused) => refused,
    };
    let refused = match refused {
        Refused::Resting { retry_in } if retry_in <= REST_WAITED_MAX => {
            // Not all of those that wait come at the same moment.
            let spread_ms = u64::try_from(retry_in.as_millis() / 2).unwrap_or(0);
            let more = Duration::from_millis(engine.rng.below(spread_ms.saturating_add(1)));
            tokio::time::sleep(retry_in.saturating_add(more)).await;
            match circuits.enter_rested(holder, engine.clock.monotonic()) {
                Ok(permit) => return Ok(permit),
                Err(refused) => refused,
            }
        }
        refused => refused,
    };
    Err(match refused {
        Refused::Open { .. } => FetchError::Unreachable(format!("{holder} failed too often and is left alone for now")),
        Refused::Resting { retry_in } => {
            FetchError::Busy { detail: format!("{holder} asked to be left alone"), retry_after: retry_in }
        }
    })
}

/// Tells the circuit how a request that it let through fared.
pub(super) fn note_fared(engine: &Engine, holder: &str, permit: Permit, error: Option<&FetchError>) {
    let fared = error.map_or(Fared::Well, fared);
    let pause = |openings| engine.backoff(openings, OPEN_PAUSE.0, OPEN_PAUSE.1);
    let Some(changed) = permit.fared(fared, engine.clock.monotonic(), pause) else { return };
    engine.metrics.circuit_changed(changed);
    let (from, to) = (changed.from.name(), changed.to.name());
    match error {
        Some(error) => tracing::warn!(peer = %holder, %from, %to, %error, "peer_circuit_changed"),
        None => tracing::info!(peer = %holder, %from, %to, "peer_circuit_changed"),
    }
}

fn fared(error: &FetchError) -> Fared {
    match error {
        // It answered, whatever it answered.
        FetchError::Unavailable(_) | FetchError::BadCopy(_) => Fared::Well,
        FetchError::Unreachable(_) | FetchError::Failed(_) => Fared::Badly,
        FetchError::Busy { retry_after, .. } => Fared::Busy(*retry_after),
        FetchError::Own(_) | FetchError::DiskFull(_) => Fared::Nothing,
    }
}

/// Fetches one body from one holder.
pub(super) async fn fetch_from(
    engine: &Engine,
    progress: &dyn Progress,
    holder: &str,
    id: &ArtifactId,
    listed: &Record,
) -> Result<Fetched, FetchError> {
    let permit = enter(engine, holder).await?;
    engine.metrics.bodies_requested(BodyRequest::Single);
    let fetched = fetch_artifact(engine, progress, holder, id, listed).await;
    note_fared(engine, holder, permit, fetched.as_ref().err());
    fetched
}
