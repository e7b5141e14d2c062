//! Catching up from peers: what is still wanted, and from whom.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::core::doctor::check::{About, Category, Check, CheckError, Outcome, Pulse, Reach};
use crate::core::doctor::context::{Context, Vantage};
use crate::core::doctor::finding::{Code, DETAILS_MAX, Evidence, Remedy, Severity};
use crate::core::store::Store;
use crate::core::store::wanted::{WANTED_ROWS_MAX, Wanted, WantedReason};

/// Rows read at a time.
const PAGE_ROWS: usize = 1024;
/// A page of rows is read in milliseconds.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// Whether catching up has ended.
#[derive(Debug)]
pub struct BootstrapIncomplete;

impl Check for BootstrapIncomplete {
    fn about(&self) -> About {
        About {
            code: Code::BootstrapIncomplete,
            category: Category::Bootstrap,
            title: "catching up from the peers has ended",
            reach: Reach::Offline,
            severity: Severity::Warn,
            fatal: false,
            needs: &[Code::IndexUnreadable],
            limit: SILENCE_LIMIT,
        }
    }

    fn run(&self, context: &Context, pulse: &Pulse) -> Result<Outcome, CheckError> {
        let store = context.index()?;
        let tally = Tally::of(store, pulse)?;
        let cursors = store.cursors().map_err(|error| CheckError::from_error("read the cursors", &error))?;
        let walks: Vec<String> = cursors.iter().filter(|(_, cursor)| cursor.walk.is_some()).map(cursor_line).collect();
        let evidence = tally.evidence().value("peers_followed", cursors.len());
        if tally.blocking() == 0 && walks.is_empty() {
            let message = match tally.count(WantedReason::Unavailable) {
                0 => "nothing is left to catch up".to_owned(),
                count => format!("nothing is left to catch up but {count} artifacts that no peer has"),
            };
            return Ok(Outcome::ok(message).evidence(evidence));
        }
        let evidence = if walks.is_empty() { evidence } else { evidence.list("backfills", &walks, walks.len() as u64) };
        Ok(Outcome::warn(format!("{} artifacts are known and not here", tally.blocking()))
            .evidence(tally.details(evidence))
            .effect("a read of one is a miss, although a peer may have it")
            .remedy(remedy(context)))
    }
}

/// A running node goes on by itself; without one the command does.
fn remedy(context: &Context) -> Remedy {
    let text = "only what is left is fetched; what fails again is named with its peer";
    match (&context.vantage, context.config()) {
        (Vantage::Live(_), _) => Remedy::text("the running node tries again by itself; look at the peers it names"),
        (Vantage::Offline(_), Ok(config)) if config.peers.is_empty() && config.discovery_dns_name.is_none() => {
            Remedy::text(text).change(context.command("bootstrap", &["--peer", "URL"]))
        }
        _ => Remedy::text(text).change(context.command("bootstrap", &[])),
    }
}

fn cursor_line((peer, cursor): &(String, crate::core::store::cursor::Cursor)) -> String {
    let walk = cursor.walk.as_ref().map(|walk| format!(", rows {} to {} under way", walk.lo_seq, walk.hi_seq));
    format!("{peer}: followed to {}{}", cursor.followed, walk.unwrap_or_default())
}

/// Wanted rows by reason, with the first that block and their last errors.
#[derive(Debug, Default)]
struct Tally {
    counts: BTreeMap<&'static str, u64>,
    holders: BTreeMap<String, u64>,
    first: Vec<String>,
}

impl Tally {
    fn of(store: &Store, pulse: &Pulse) -> Result<Self, CheckError> {
        let mut tally = Self::default();
        let mut after = None;
        let mut seen = 0_u64;
        while seen < WANTED_ROWS_MAX {
            let page = store.wanted_page(after, PAGE_ROWS);
            let page = page.map_err(|error| CheckError::from_error("read the wanted rows", &error))?;
            pulse.beat();
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            seen += page.len() as u64;
            page.iter().for_each(|row| tally.add(row));
        }
        Ok(tally)
    }

    fn add(&mut self, row: &Wanted) {
        *self.counts.entry(word(row.reason)).or_default() += 1;
        if !blocks(row.reason) {
            return;
        }
        for holder in &row.holders {
            *self.holders.entry(holder.clone()).or_default() += 1;
        }
        if self.first.len() < DETAILS_MAX {
            let (producer, namespace, key) = &row.name;
            let error = row.error.as_deref().unwrap_or("no error noted");
            let tries = format!("{} after {} tries", word(row.reason), row.attempts);
            self.first.push(format!("{} {producer} {namespace:?} {key:?}: {tries}: {error}", row.id));
        }
    }

    fn count(&self, reason: WantedReason) -> u64 {
        self.counts.get(word(reason)).copied().unwrap_or(0)
    }

    /// What catching up still has to settle; what no peer has, or what would not stay, blocks nothing.
    fn blocking(&self) -> u64 {
        let reasons =
            [WantedReason::WaitingForPeer, WantedReason::Failed, WantedReason::BadCopy, WantedReason::Withdrawn];
        reasons.into_iter().map(|reason| self.count(reason)).sum()
    }

    fn evidence(&self) -> Evidence {
        self.counts.iter().fold(Evidence::new(), |evidence, (reason, count)| {
            evidence.value(reason, *count).fact(format!("{reason} {count}"))
        })
    }

    fn details(&self, evidence: Evidence) -> Evidence {
        let holders: Vec<String> =
            self.holders.iter().map(|(peer, count)| format!("{peer} is to give {count}")).collect();
        evidence.list("peers", &holders, holders.len() as u64).list("items", &self.first, self.blocking())
    }
}

fn blocks(reason: WantedReason) -> bool {
    !matches!(reason, WantedReason::Unavailable | WantedReason::BeyondCapacity)
}

fn word(reason: WantedReason) -> &'static str {
    match reason {
        WantedReason::Unavailable => "unavailable",
        WantedReason::WaitingForPeer => "waiting_for_peer",
        WantedReason::Failed => "failed",
        WantedReason::BadCopy => "bad_copy",
        WantedReason::BeyondCapacity => "beyond_capacity",
        WantedReason::Withdrawn => "withdrawn",
        WantedReason::Unknown => "for a reason of a later version",
    }
}

#[cfg(test)]
#[path = "bootstrap_tests.rs"]
mod tests;
