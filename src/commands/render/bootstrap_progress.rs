//! How a run of `kura bootstrap` is shown while it goes on: counted here, drawn as bars or printed as lines.
//!
//! How it works: passes only count; whoever shows looks at the counts now and then. Rows are what the bar measures,
//! because how many bytes a pass will take is not known before its end.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::bootstrap::phase;
use super::words::plural;
use crate::core::base::units::ByteSize;
use crate::core::bootstrap::progress::Progress;

/// Peers with a line of their own.
const PEERS_SHOWN_MAX: usize = 8;

/// Redraws a second at most.
const DRAWS_PER_SECOND: u8 = 10;

/// Where one peer's pass stands.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Standing {
    done: u64,
    total: Option<u64>,
    bytes: u64,
    is_over: bool,
}

/// Counts of a run that goes on.
#[derive(Debug)]
pub struct RunProgress {
    started: Instant,
    peers: Mutex<BTreeMap<String, Standing>>,
}

/// The counts of all peers together, at one moment; a `status` line of `--output jsonl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct RunStatus {
    /// The phase of the run.
    pub phase: &'static str,
    /// Rows settled.
    pub rows: u64,
    /// Rows in all, once every peer has said how many.
    pub rows_total: Option<u64>,
    /// Bytes of bodies that arrived.
    pub bytes: u64,
    /// Bytes a second since the start.
    pub bytes_per_second: u64,
    /// Milliseconds left at the rate of rows so far.
    pub eta_ms: Option<u64>,
    /// Milliseconds since the start.
    pub elapsed_ms: u64,
}

impl Default for RunProgress {
    fn default() -> Self {
        Self { started: Instant::now(), peers: Mutex::default() }
    }
}

impl RunProgress {
    fn with<R>(&self, change: impl FnOnce(&mut BTreeMap<String, Standing>) -> R) -> R {
        change(&mut self.peers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn of(&self, peer: &str, change: impl FnOnce(&mut Standing)) {
        self.with(|peers| change(peers.entry(peer.to_owned()).or_default()));
    }

    /// All peers together.
    pub fn status(&self) -> RunStatus {
        let peers: Vec<Standing> = self.with(|peers| peers.values().copied().collect());
        status(&peers, self.started.elapsed())
    }

    /// Rows, bytes, rate and time left over all peers.
    pub fn line(&self) -> String {
        phase("transfer", &words(&self.status()))
    }
}

fn status(peers: &[Standing], elapsed: Duration) -> RunStatus {
    let sum = |count: fn(&Standing) -> u64| peers.iter().map(count).fold(0_u64, u64::saturating_add);
    let (rows, bytes) = (sum(|peer| peer.done), sum(|peer| peer.bytes));
    let total = peers.iter().map(|peer| peer.total).try_fold(0_u64, |all, total| Some(all.saturating_add(total?)));
    let rows_total = total.filter(|_| !peers.is_empty()).map(|total| total.max(rows));
    let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    let left = rows_total.map(|total| total - rows).filter(|_| rows > 0);
    let per_second = u128::from(bytes) * 1000 / u128::from(elapsed_ms);
    RunStatus {
        phase: "transfer",
        rows,
        rows_total,
        bytes,
        bytes_per_second: u64::try_from(per_second).unwrap_or(u64::MAX),
        eta_ms: left.map(|left| left.saturating_mul(elapsed_ms) / rows.max(1)),
        elapsed_ms,
    }
}

fn words(status: &RunStatus) -> String {
    let of = status.rows_total.map_or_else(String::new, |total| format!(" of {total}"));
    let eta = status.eta_ms.map_or_else(String::new, |eta_ms| format!(", about {} s left", eta_ms.div_ceil(1000)));
    let (bytes, rate) = (ByteSize(status.bytes), ByteSize(status.bytes_per_second));
    format!("{}{of} rows, {bytes}, {rate}/s{eta}", status.rows)
}

impl Progress for RunProgress {
    fn started(&self, peer: &str) {
        self.of(peer, |standing| (standing.done, standing.total, standing.is_over) = (0, None, false));
    }

    fn tombstones_applied(&self, _: &str) {}

    fn total(&self, peer: &str, rows: u64) {
        self.of(peer, |standing| standing.total = Some(rows));
    }

    fn advanced(&self, peer: &str, rows: u64, bytes: u64) {
        self.of(peer, |standing| {
            standing.done = standing.done.saturating_add(rows);
            standing.bytes = standing.bytes.saturating_add(bytes);
        });
    }

    fn finished(&self, peer: &str, _: Option<&str>) {
        self.of(peer, |standing| (standing.total, standing.is_over) = (Some(standing.done), true));
    }
}

/// One bar for the run and a line for each of the first peers that are under way.
#[derive(Debug)]
pub struct Bars {
    all: MultiProgress,
    total: ProgressBar,
    peers: Vec<ProgressBar>,
}

impl Default for Bars {
    fn default() -> Self {
        Self::drawn_on(ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND))
    }
}

impl Bars {
    fn drawn_on(target: ProgressDrawTarget) -> Self {
        let all = MultiProgress::with_draw_target(target);
        let total = all.add(ProgressBar::new(0));
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {wide_msg}") {
            total.set_style(style);
        }
        Self { all, total, peers: Vec::new() }
    }

    /// Draws where the run stands now.
    pub fn draw(&mut self, progress: &RunProgress) {
        let status = progress.status();
        self.total.set_length(status.rows_total.unwrap_or(0).max(1));
        self.total.set_position(status.rows);
        self.total.set_message(words(&status));
        let lines = progress.with(|peers| peer_lines(peers));
        while self.peers.len() < lines.len() {
            let line = self.all.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("  {wide_msg}") {
                line.set_style(style);
            }
            self.peers.push(line);
        }
        for surplus in self.peers.drain(lines.len()..) {
            surplus.finish_and_clear();
            self.all.remove(&surplus);
        }
        self.peers.iter().zip(lines).for_each(|(bar, line)| bar.set_message(line));
    }

    /// Takes the bars off the screen.
    pub fn finish(&self) {
        self.peers.iter().for_each(ProgressBar::finish_and_clear);
        self.total.finish_and_clear();
    }
}

/// A line for each peer under way, and how many more there are.
fn peer_lines(peers: &BTreeMap<String, Standing>) -> Vec<String> {
    let under_way: Vec<_> = peers.iter().filter(|(_, standing)| !standing.is_over).collect();
    let line = |(url, standing): &(&String, &Standing)| {
        let of =
            standing.total.map_or_else(String::new, |total| format!(" of {}", HumanCount(total.max(standing.done))));
        format!("{url}  {}{of} rows, {}", HumanCount(standing.done), ByteSize(standing.bytes))
    };
    let mut lines: Vec<String> = under_way.iter().take(PEERS_SHOWN_MAX).map(line).collect();
    let more = under_way.len().saturating_sub(PEERS_SHOWN_MAX);
    if more > 0 {
        // In the place of the last one, so that there are never more lines than promised.
        lines.truncate(PEERS_SHOWN_MAX - 1);
        let more = u64::try_from(more + 1).unwrap_or(u64::MAX);
        lines.push(format!("and {}", plural(more, "more peer", "more peers")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(done: u64, total: Option<u64>, bytes: u64) -> Standing {
        Standing { done, total, bytes, is_over: false }
    }

    #[test]
    fn a_line_of_progress_has_rate_and_time_left() {
        let peers = [standing(400, Some(1000), 50 << 20), standing(100, Some(1000), 0)];
        let shown = words(&status(&peers, Duration::from_secs(10)));
        assert_eq!(shown, "500 of 2000 rows, 50 MiB, 5 MiB/s, about 30 s left");
        assert_eq!(words(&status(&[], Duration::ZERO)), "0 rows, 0 B, 0 B/s");
        let unknown = [standing(400, None, 0), standing(1, Some(2), 0)];
        assert_eq!(words(&status(&unknown, Duration::from_secs(1))), "401 rows, 0 B, 0 B/s");
    }

    #[test]
    fn a_retry_counts_its_rows_anew_and_keeps_its_bytes() {
        let progress = RunProgress::default();
        progress.started("a");
        progress.total("a", 10);
        progress.advanced("a", 4, 1000);
        progress.finished("a", Some("cut"));
        assert_eq!(progress.with(|peers| peer_lines(peers)), Vec::<String>::new());
        progress.started("a");
        let status = progress.status();
        assert_eq!((status.rows, status.rows_total, status.bytes), (0, None, 1000));
    }

    #[test]
    fn at_most_eight_peers_have_a_line() {
        let named = |count: usize| (0..count).map(|n| (format!("http://{n:02}"), standing(1234, Some(2000), 1 << 20)));
        let eight = peer_lines(&named(8).collect());
        assert_eq!((eight.len(), eight[0].as_str()), (8, "http://00  1,234 of 2,000 rows, 1 MiB"));
        let eleven = peer_lines(&named(11).collect());
        assert_eq!((eleven.len(), eleven[7].as_str()), (8, "and 4 more peers"));
    }

    #[test]
    fn bars_come_and_go_with_their_peers() {
        let mut bars = Bars::drawn_on(ProgressDrawTarget::hidden());
        let progress = RunProgress::default();
        for peer in ["a", "b"] {
            progress.started(peer);
        }
        bars.draw(&progress);
        assert_eq!(bars.peers.len(), 2);
        progress.finished("a", None);
        bars.draw(&progress);
        assert_eq!(bars.peers.len(), 1);
        bars.finish();
    }
}
