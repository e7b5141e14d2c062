//! The doctor's report as a screen and as JSON.
//!
//! How it works: categories as headings, one line per check with its sign in words, and below a finding its evidence,
//! effect, fix and where to read more. Prose wraps under itself; commands never wrap, so that they can be pasted.
//!
//! Invariant: colour only repeats what the sign says.

use serde_json::json;

use super::mesh::mesh;
use super::table::HouseTable;
use super::words::plural;
use crate::commands::exit::{CommandError, ExitCode};
use crate::core::doctor::check::{About, Category};
use crate::core::doctor::finding::{Finding, Remedy, Severity, Status};
use crate::core::doctor::mesh_view::MeshView;
use crate::core::doctor::report::{Report, Summary};

/// How the screen may look.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Whether signs are coloured.
    pub color: bool,
    /// Columns.
    pub width: usize,
}

/// Columns of a sign with its gap: `FAIL  `.
const SIGN_COLUMNS: usize = 6;
/// Where the labels below a finding begin.
const LABEL_INDENT: usize = 10;
/// Columns of a label with its gap: `evidence  `.
const LABEL_COLUMNS: usize = 10;
/// What stands between a command and the words about it.
const REMARK_GAP: &str = "      ";
/// Narrower than this nothing is wrapped: it would be one word a line.
const PROSE_COLUMNS_MIN: usize = 24;

/// The whole report.
pub fn full(report: &Report, exit: u8, style: Style) -> String {
    screen(report, exit, style, (|_| true, report.mesh.as_ref()))
}

/// Only what is not ok.
pub fn short(report: &Report, exit: u8, style: Style) -> String {
    screen(report, exit, style, (|finding| !matches!(finding.status, Status::Ok | Status::Skip), None))
}

fn screen<F: Fn(&Finding) -> bool>(
    report: &Report,
    exit: u8,
    style: Style,
    (shown, view): (F, Option<&MeshView>),
) -> String {
    let mut out = header(report, style);
    out.push('\n');
    for category in Category::ALL {
        let findings: Vec<&Finding> =
            report.checks.iter().filter(|finding| finding.category == category && shown(finding)).collect();
        if !findings.is_empty() {
            out.push_str(category.as_str());
            out.push('\n');
            let runs = findings.chunk_by(|one, next| is_same_skip(one, next));
            runs.for_each(|run| out.push_str(&run_of(run, style)));
        }
    }
    if let Some(view) = view {
        out.push_str(&mesh(view, style.width));
    }
    if report.checks.iter().any(&shown) {
        out.push('\n');
    }
    out.push_str(&format!("{}      exit {exit}\n", summary(&report.summary)));
    out
}

fn header(report: &Report, style: Style) -> String {
    let place = report.data_dir.as_deref().unwrap_or("no data dir");
    let line = format!("kura doctor · {} · {place} · {} ({})", report.version, report.vantage, report.vantage_reason);
    format!("{}\n", wrapped(&line, 0, 2, style.width))
}

/// Checks that were left out for one reason are one entry: offline there are a dozen of them.
fn is_same_skip(one: &Finding, next: &Finding) -> bool {
    one.status == Status::Skip && next.status == Status::Skip && one.message == next.message
}

fn run_of(run: &[&Finding], style: Style) -> String {
    let [first, _, ..] = run else { return run.iter().map(|finding| entry(finding, style)).collect() };
    let codes: Vec<&str> = run.iter().map(|finding| finding.code.as_str()).collect();
    let (sign, color) = sign(Status::Skip);
    let sign = painted(&format!("{sign:<width$}", width = SIGN_COLUMNS), color, style);
    let said = format!("{}  {}", codes.join(", "), first.message);
    format!("  {sign}{}\n", wrapped(&said, 2 + SIGN_COLUMNS, 2 + SIGN_COLUMNS, style.width))
}

fn entry(finding: &Finding, style: Style) -> String {
    let (sign, color) = sign(finding.status);
    let said =
        if is_plain(finding) { finding.message.clone() } else { format!("{}  {}", finding.code, finding.message) };
    let sign = painted(&format!("{sign:<width$}", width = SIGN_COLUMNS), color, style);
    let mut out = format!("  {sign}{}\n", wrapped(&said, 2 + SIGN_COLUMNS, 2 + SIGN_COLUMNS, style.width));
    if !is_plain(finding) {
        out.push_str(&below(finding, style));
    }
    out
}

/// A check that found nothing is one line without its code.
fn is_plain(finding: &Finding) -> bool {
    finding.status == Status::Ok && finding.effect.is_none()
}

fn sign(status: Status) -> (&'static str, &'static str) {
    match status {
        Status::Ok => ("ok", "32"),
        Status::Warn => ("WARN", "1;33"),
        Status::Fail => ("FAIL", "1;31"),
        Status::Skip => ("skip", "2"),
        Status::Error => ("ERR", "1;35"),
    }
}

pub(super) fn painted(text: &str, color: &str, style: Style) -> String {
    if !style.color {
        return text.to_owned();
    }
    let word = text.trim_end();
    format!("\u{1b}[{color}m{word}\u{1b}[0m{}", text.get(word.len()..).unwrap_or_default())
}

/// Evidence, effect, fix and see, as far as there are any.
fn below(finding: &Finding, style: Style) -> String {
    let mut out = String::new();
    let facts = finding.evidence.line();
    let lines = std::iter::once(facts.as_str()).filter(|facts| !facts.is_empty());
    for (index, line) in lines.chain(finding.evidence.details().iter().map(String::as_str)).enumerate() {
        out.push_str(&labelled(if index == 0 { "evidence" } else { "" }, line, style));
    }
    if let Some(effect) = &finding.effect {
        out.push_str(&labelled("effect", effect, style));
    }
    if let Some(remedy) = &finding.remedy {
        out.push_str(&fix(remedy, style));
    }
    if matches!(finding.status, Status::Warn | Status::Fail) {
        out.push_str(&labelled("see", &format!("kura doctor --explain {}", finding.code), style));
    }
    out
}

fn labelled(label: &str, text: &str, style: Style) -> String {
    let at = LABEL_INDENT + LABEL_COLUMNS;
    format!("{:LABEL_INDENT$}{label:<LABEL_COLUMNS$}{}\n", "", wrapped(text, at, at, style.width))
}

/// Each command whole on its line; the words beside a single one if there is room, else below.
fn fix(remedy: &Remedy, style: Style) -> String {
    let lead = |label: &str| format!("{:LABEL_INDENT$}{label:<LABEL_COLUMNS$}", "");
    let mut out = String::new();
    let mut label = "fix";
    let mut said = remedy.text.is_empty();
    for command in &remedy.commands {
        out.push_str(&lead(label));
        out.push_str(command);
        let remark = format!("{REMARK_GAP}({})", remedy.text);
        let columns = LABEL_INDENT + LABEL_COLUMNS + command.chars().count() + remark.chars().count();
        if !said && remedy.commands.len() == 1 && columns <= style.width {
            out.push_str(&remark);
            said = true;
        }
        out.push('\n');
        label = "";
    }
    if !said {
        out.push_str(&labelled(label, &remedy.text, style));
    }
    out
}

/// Words filled up to `width`, the first line starting at column `start` and the others at `indent`.
pub(super) fn wrapped(text: &str, start: usize, indent: usize, width: usize) -> String {
    if width < indent + PROSE_COLUMNS_MIN {
        return text.to_owned();
    }
    let (mut out, mut column, mut is_fresh) = (String::new(), start, true);
    for word in text.split(' ') {
        let length = word.chars().count();
        if !is_fresh && column + 1 + length > width {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else if !is_fresh {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
        is_fresh = false;
    }
    out
}

fn summary(summary: &Summary) -> String {
    let mut parts = vec![format!("{} ok", summary.ok)];
    let mut add = |count: u64, one: &str, many: &str| {
        if count > 0 {
            parts.push(plural(count, one, many));
        }
    };
    add(summary.warn, "warning", "warnings");
    add(summary.fail, "failure", "failures");
    add(summary.error, "could not run", "could not run");
    add(summary.skip, "skipped", "skipped");
    format!("{}: {}", plural(summary.total(), "check", "checks"), parts.join(", "))
}

/// `kura.doctor/v1`.
pub fn json(report: &Report) -> Result<String, CommandError> {
    pretty(report)
}

fn pretty(value: &impl serde::Serialize) -> Result<String, CommandError> {
    let text = serde_json::to_string_pretty(value);
    let text = text.map_err(|error| CommandError::new(ExitCode::Unexpected, "cannot write JSON").caused_by(error))?;
    Ok(format!("{text}\n"))
}

/// `--list` as a table.
pub fn list(abouts: &[About], width: usize) -> String {
    let mut table = HouseTable::new(width).words("code").words("worst").words("asks").words("category").words("checks");
    for about in abouts {
        table.row([
            about.code.to_string(),
            severity_word(about.severity).to_owned(),
            about.reach.as_str().to_owned(),
            about.category.as_str().to_owned(),
            about.title.to_owned(),
        ]);
    }
    table.render()
}

fn severity_word(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warn => "warn",
        Severity::Fail => "fail",
    }
}

/// `--list` as JSON.
pub fn list_json(abouts: &[About]) -> Result<String, CommandError> {
    let checks: Vec<_> = abouts
        .iter()
        .map(|about| {
            json!({
                "code": about.code,
                "category": about.category,
                "title": about.title,
                "severity": about.severity,
                "vantage": about.reach,
                "fatal": about.fatal,
                "needs": about.needs,
            })
        })
        .collect();
    pretty(&json!({ "schema": "kura.doctor-list/v1", "checks": checks }))
}

#[cfg(test)]
#[path = "doctor_tests.rs"]
mod tests;
