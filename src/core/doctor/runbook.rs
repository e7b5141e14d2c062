//! The runbook of each code, compiled in from `docs/operations.md`, so that `--explain` works where no page opens.

use super::finding::Code;

const OPERATIONS: &str = include_str!("../../../docs/operations.md");

/// Codes are headings of this level.
const HEADING: &str = "### ";

/// The section of a code, heading included; `None` only if the document lacks it, which a test rules out.
pub fn section(code: Code) -> Option<&'static str> {
    sections().find(|(name, _)| *name == code.as_str()).map(|(_, text)| text)
}

/// The anchor of a code's section.
pub fn anchor(code: Code) -> String {
    format!("docs/operations.md#{}", code.as_str().to_lowercase())
}

/// All sections of the document that are named like a code, in order.
pub fn sections() -> impl Iterator<Item = (&'static str, &'static str)> {
    let mut starts: Vec<usize> = Vec::new();
    let mut position = 0;
    for line in OPERATIONS.split_inclusive('\n') {
        if line.starts_with('#') {
            starts.push(position);
        }
        position += line.len();
    }
    let ends: Vec<usize> = starts.iter().skip(1).copied().chain([OPERATIONS.len()]).collect();
    starts.into_iter().zip(ends).filter_map(|(start, end)| {
        let text = OPERATIONS.get(start..end)?;
        let name = text.strip_prefix(HEADING)?.lines().next()?.trim();
        Some((name, text.trim_end()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_section_and_every_section_a_code() {
        let written: Vec<&str> = sections().map(|(name, _)| name).collect();
        let known: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(written, known, "docs/operations.md has one section per code, in the order of the checks");
    }

    #[test]
    fn a_section_says_what_to_do_and_what_not() {
        for code in Code::ALL {
            let text = section(*code).unwrap();
            for part in ["**Means.**", "**Confirm.**", "**Do.**", "**Do not.**"] {
                assert!(text.contains(part), "{code} lacks {part}");
            }
        }
    }
}
