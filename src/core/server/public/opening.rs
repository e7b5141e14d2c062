//! Reads that come before the store is open.
//!
//! How it works: the store is waited for alone at first, because opening takes a second at a million artifacts. Then the
//! peers are asked as well, again and again; whichever comes first answers, the open store or a peer that has it. A read
//! that neither answered when its client's patience ends is refused (503), never a miss: what no peer has may be here.
//!
//! Policy: an older version than the one here may be handed out meanwhile. It is what each sibling answers at that moment,
//! and a key of a build names its inputs, so the older one is a right answer, too; it replaces nothing here. But whoever
//! overwrote it here is told better by this node, so of what can be overwritten the own store is asked alone for longer.
//! What was deleted here is not handed out, and neither is an action result unless peers hold every blob it names.

use std::time::Duration;

use tokio::time::Instant;

use super::closure;
use super::problem::Problem;
use super::range::Conditions;
use super::read::{Source, delivery, source};
use super::rule::Target;
use crate::core::bootstrap::read_through::Through;
use crate::core::server::node::NodeContext;
use crate::core::store::committer::PutMode;
use crate::core::store::record::Record;

/// How long the store alone is waited for; most starts are over by then, and the peers are not troubled.
const STORE_ALONE_WAIT: Duration = Duration::from_secs(1);

/// The same of what can be overwritten: the peers may have an older version.
const STORE_ALONE_WAIT_NEWEST: Duration = Duration::from_secs(3);

/// Before peers that did not have it are asked again: they may be starting, too.
const ASK_AGAIN_PAUSE: Duration = Duration::from_secs(1);

/// Where a GET is answered from; `None` once the store is open.
pub(super) async fn find(
    node: &NodeContext,
    target: &Target,
    conditions: &Conditions,
    until: Instant,
) -> Result<Option<Source>, Problem> {
    let asking = first_answer(|| async {
        let through = node.read_through.get_unopened(&target.name, delivery(target), until).await;
        let found = closure::readable(target, source(through, conditions)?).await?;
        let bytes = found.bytes();
        closure::is_closed_at_peers(node, target, bytes, until).await.then_some(found)
    });
    until_open(node, target, until, asking).await
}

/// The record of an artifact that a peer holds; `None` once the store is open.
pub(super) async fn record(node: &NodeContext, target: &Target, until: Instant) -> Result<Option<Record>, Problem> {
    if target.rule.names_blobs {
        // What it names is in its body.
        let found = find(node, target, &Conditions::default(), until).await?;
        return Ok(found.map(|found| *found.into_record()));
    }
    let asking = first_answer(|| node.read_through.record_unopened(&target.name, until));
    until_open(node, target, until, asking).await
}

/// Waits for the store and for an answer of the peers at the same time.
async fn until_open<T>(
    node: &NodeContext,
    target: &Target,
    until: Instant,
    answer: impl Future<Output = T>,
) -> Result<Option<T>, Problem> {
    let left = || until.saturating_duration_since(Instant::now());
    let alone = match target.rule.mode {
        PutMode::WriteOnce => STORE_ALONE_WAIT,
        PutMode::LastWriterWins => STORE_ALONE_WAIT_NEWEST,
    };
    if node.store.ready_within(left().min(alone)).await.is_ok() {
        return Ok(None);
    }
    tokio::select! {
        biased;
        opened = node.store.ready_within(left()) => Ok(opened.map(|_| None)?),
        answer = answer => Ok(Some(answer)),
    }
}

async fn first_answer<T, F: Future<Output = Option<T>>>(ask: impl Fn() -> F) -> T {
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        tokio::time::sleep(ASK_AGAIN_PAUSE).await;
    }
}

/// Until when a read may wait for a store that opens.
pub(super) fn patience_ends(target: &Target) -> Instant {
    Instant::now() + target.rule.patience
}

/// What a read of an open store is told when no peer gave it anything.
pub(super) fn nowhere(through: &Through) -> Problem {
    match through {
        Through::Undecided => Problem::PeerNotOpen,
        _ => Problem::NotFound,
    }
}
