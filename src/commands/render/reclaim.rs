//! What `kura reclaim-staging` says: one report, as a table or as JSON `kura.reclaim/v1`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::table::HouseTable;
use super::words::plural;
use crate::core::base::disk::VolumeSpace;
use crate::core::base::units::ByteSize;
use crate::core::data_dir::layout::Layout;
use crate::core::staging::area::AreaKind;
use crate::core::staging::reclaim::{AreaFigures, FailedPath, Listed, ReclaimOutcome, ReclaimPlan, Shortfall};

/// Paths of one kind shown to people; JSON has more.
const PATHS_SHOWN_MAX: usize = 5;

/// The whole answer. Field names are the JSON contract; fields are only added.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    schema: &'static str,
    dry_run: bool,
    data_dir_in_use: bool,
    areas: Vec<Area>,
    removed_files: u64,
    removed_bytes: u64,
    unknown: Vec<PathBuf>,
    unknown_total: u64,
    failed: Vec<FailedPath>,
    failed_total: u64,
    ballast_released: bool,
    /// What releasing it would free, or has freed.
    ballast_bytes: u64,
    free_bytes_before: u64,
    free_bytes_after: u64,
    total_bytes: u64,
    until_free_reached: bool,
    shortfall: Option<Shortfall>,
    #[serde(skip)]
    data_dir: PathBuf,
    #[serde(skip)]
    is_skipped: bool,
}

#[derive(Debug, serde::Serialize)]
struct Area {
    kind: AreaKind,
    planned_files: u64,
    planned_bytes: u64,
    removed_files: u64,
    removed_bytes: u64,
    in_use_files: u64,
    in_use_bytes: u64,
    kept_files: u64,
    kept_bytes: u64,
}

impl From<&AreaFigures> for Area {
    fn from(figures: &AreaFigures) -> Self {
        Self {
            kind: figures.kind,
            planned_files: figures.planned.files,
            planned_bytes: figures.planned.bytes,
            removed_files: figures.removed.files,
            removed_bytes: figures.removed.bytes,
            in_use_files: figures.in_use.files,
            in_use_bytes: figures.in_use.bytes,
            kept_files: figures.kept.files,
            kept_bytes: figures.kept.bytes,
        }
    }
}

impl Report {
    fn new(layout: &Layout, volume: VolumeSpace) -> Self {
        Self {
            schema: "kura.reclaim/v1",
            dry_run: false,
            data_dir_in_use: false,
            areas: Vec::new(),
            removed_files: 0,
            removed_bytes: 0,
            unknown: Vec::new(),
            unknown_total: 0,
            failed: Vec::new(),
            failed_total: 0,
            ballast_released: false,
            ballast_bytes: 0,
            free_bytes_before: volume.free_bytes,
            free_bytes_after: volume.free_bytes,
            total_bytes: volume.total_bytes,
            until_free_reached: false,
            shortfall: None,
            data_dir: layout.data_dir().to_path_buf(),
            is_skipped: false,
        }
    }

    /// `--if-below` was not met: nothing was looked at.
    pub fn enough_free(layout: &Layout, volume: VolumeSpace, dry_run: bool, data_dir_in_use: bool) -> Self {
        Self { dry_run, data_dir_in_use, is_skipped: true, ..Self::new(layout, volume) }
    }

    /// What would be done.
    pub fn planned(
        layout: &Layout,
        plan: &ReclaimPlan,
        volume: VolumeSpace,
        dry_run: bool,
        data_dir_in_use: bool,
    ) -> Self {
        let report = Self { dry_run, data_dir_in_use, ..Self::new(layout, volume) };
        report.with_lists(&plan.areas, &plan.unknown, &plan.failed)
    }

    /// What was done.
    pub fn done(layout: &Layout, outcome: &ReclaimOutcome, data_dir_in_use: bool) -> Self {
        let removed = outcome.removed();
        let report = Self {
            data_dir_in_use,
            removed_files: removed.files,
            removed_bytes: removed.bytes,
            free_bytes_after: outcome.after.free_bytes,
            until_free_reached: outcome.is_target_reached,
            shortfall: outcome.shortfall,
            ..Self::new(layout, outcome.before)
        };
        report.with_lists(&outcome.areas, &outcome.unknown, &outcome.failed)
    }

    /// The ballast would be released.
    #[must_use]
    pub fn with_ballast_to_release(self, bytes: u64) -> Self {
        Self { ballast_bytes: bytes, ..self }
    }

    /// The ballast was released, and this much is free then.
    #[must_use]
    pub fn with_released_ballast(self, bytes: u64, free_bytes: u64) -> Self {
        Self { ballast_released: bytes > 0, ballast_bytes: bytes, free_bytes_after: free_bytes, ..self }
    }

    /// Something beside the areas could not be removed.
    #[must_use]
    pub fn with_failure(mut self, path: PathBuf, error: &std::io::Error) -> Self {
        self.failed.push(FailedPath { path, error: error.to_string() });
        self.failed_total += 1;
        self
    }

    fn with_lists(mut self, areas: &[AreaFigures], unknown: &Listed<PathBuf>, failed: &Listed<FailedPath>) -> Self {
        self.areas = areas.iter().map(Area::from).collect();
        (self.unknown, self.unknown_total) = (unknown.items.clone(), unknown.total);
        (self.failed, self.failed_total) = (failed.items.clone(), failed.total);
        self
    }
}

/// One JSON document.
pub fn as_json(report: &Report) -> String {
    let text = serde_json::to_string(report).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"));
    format!("{text}\n")
}

/// For people.
pub fn as_text(report: &Report, width: usize) -> String {
    let mut text = String::new();
    let holder = if report.data_dir_in_use { "beside a running server" } else { "nobody holds this data dir" };
    let _ = writeln!(text, "kura reclaim-staging · {} · {holder}\n", report.data_dir.display());
    if report.is_skipped {
        let _ = writeln!(text, "nothing to do: {} are free", ByteSize(report.free_bytes_before));
        return text;
    }
    text.push_str(&areas(report, width));
    text.push_str(&kept(report));
    paths(&mut text, "not kura's, left alone", &report.unknown, report.unknown_total, |path| show(path));
    paths(&mut text, "FAILED", &report.failed, report.failed_total, |failed| {
        format!("{}: {}", show(&failed.path), failed.error)
    });
    let _ = writeln!(text, "\n{}", summary(report));
    if report.ballast_bytes > 0 {
        let verb = if report.ballast_released { "released" } else { "would be released" };
        let _ = writeln!(text, "The ballast {verb}: {}.", ByteSize(report.ballast_bytes));
    }
    if let Some(shortfall) = report.shortfall {
        let _ = writeln!(text, "The volume gained much less than was removed: {}.", explain(shortfall));
    }
    text
}

fn areas(report: &Report, width: usize) -> String {
    let verb = if report.dry_run { "to free" } else { "freed" };
    let mut table = HouseTable::new(width).words("area").numbers("files").numbers(verb).words("in use");
    for area in &report.areas {
        let (files, bytes) = match report.dry_run {
            true => (area.planned_files, area.planned_bytes),
            false => (area.removed_files, area.removed_bytes),
        };
        table.row([area.kind.name().to_owned(), files.to_string(), ByteSize(bytes).to_string(), in_use(area)]);
    }
    table.render()
}

/// Partial bodies that stay, and how they go.
fn kept(report: &Report) -> String {
    let files: u64 = report.areas.iter().map(|area| area.kept_files).sum();
    if files == 0 {
        return String::new();
    }
    let bytes: u64 = report.areas.iter().map(|area| area.kept_bytes).sum();
    let what = plural(files, "partial body", "partial bodies");
    let bytes = ByteSize(bytes);
    format!("\nkept: {what} of {bytes}, with which the next start goes on (--kind bootstrap takes them too)\n")
}

fn in_use(area: &Area) -> String {
    if area.in_use_files == 0 {
        return "-".to_owned();
    }
    format!("{} in {}", ByteSize(area.in_use_bytes), plural(area.in_use_files, "file", "files"))
}

fn paths<T>(text: &mut String, title: &str, items: &[T], total: u64, line: impl Fn(&T) -> String) {
    if items.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{title} ({total})");
    for item in items.iter().take(PATHS_SHOWN_MAX) {
        let _ = writeln!(text, "  {}", line(item));
    }
    if total > u64::try_from(PATHS_SHOWN_MAX).unwrap_or(u64::MAX) {
        let _ = writeln!(text, "  …");
    }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

fn summary(report: &Report) -> String {
    let free = |bytes| format!("{} of {} free", ByteSize(bytes), ByteSize(report.total_bytes));
    let planned_files: u64 = report.areas.iter().map(|area| area.planned_files).sum();
    let planned_bytes: u64 = report.areas.iter().map(|area| area.planned_bytes).sum();
    let files = |count| plural(count, "file", "files");
    if planned_files == 0 {
        return format!("nothing to free; {}", free(report.free_bytes_after));
    }
    if report.dry_run {
        let (files, bytes) = (files(planned_files), ByteSize(planned_bytes));
        return format!("would remove {files} and free {bytes}; {} now", free(report.free_bytes_before));
    }
    let (files, bytes) = (files(report.removed_files), ByteSize(report.removed_bytes));
    let before = ByteSize(report.free_bytes_before);
    format!("removed {files} and freed {bytes}; {} (before: {before})", free(report.free_bytes_after))
}

fn explain(shortfall: Shortfall) -> &'static str {
    match shortfall {
        Shortfall::LinkedElsewhere => "some of the files have another name outside the areas",
        Shortfall::ServerIsWriting => "the running server writes at the same time",
        Shortfall::HeldOrRefilled => {
            "other processes write to it or hold the files open, or a snapshot holds their blocks"
        }
    }
}
