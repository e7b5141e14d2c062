//! Conditional and partial GETs: what `If-None-Match`, `If-Range` and `Range` ask for.
//!
//! Policy: one range of bytes is honoured; several ranges or an unknown unit get the whole body (a server may ignore
//! `Range`); a `Range` that does not parse is 400; one that lies outside is 416.

use std::ops::Range;

use axum::http::{HeaderMap, HeaderName, header};

use super::problem::Problem;
use crate::core::base::ids::Digest;

/// One range as asked for, not yet held against a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Span {
    /// `bytes=a-b`, both inclusive, the end optional.
    From(u64, Option<u64>),
    /// `bytes=-n`: the last n bytes.
    Last(u64),
}

/// What a GET asks of the body.
#[derive(Debug, Clone, Default)]
pub struct Conditions {
    none_match: Option<String>,
    if_range: Option<String>,
    span: Option<Span>,
}

/// What to send of a body of known length and digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All of it.
    Whole,
    /// These bytes, as 206.
    Part(Range<u64>),
}

/// The entity tag of a body.
pub fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

impl Conditions {
    /// Reads the headers.
    ///
    /// # Errors
    /// A `Range` of bytes that does not parse.
    pub fn parse(headers: &HeaderMap) -> Result<Self, Problem> {
        let span = match headers.get(header::RANGE) {
            None => None,
            Some(value) => {
                let text = value.to_str().map_err(|_| Problem::bad_request("the Range header is not ASCII"))?;
                parse_range(text)?
            }
        };
        Ok(Self { none_match: text(headers, &header::IF_NONE_MATCH), if_range: text(headers, &header::IF_RANGE), span })
    }

    /// The headers of a request that asks for a representation only, such as HEAD: `Range` means nothing there.
    pub fn without_range(headers: &HeaderMap) -> Self {
        Self { none_match: text(headers, &header::IF_NONE_MATCH), if_range: None, span: None }
    }

    /// Whether the client has this body already.
    pub fn not_modified(&self, digest: &Digest) -> bool {
        let Some(list) = &self.none_match else { return false };
        let tag = etag(digest);
        list.split(',').map(str::trim).any(|item| item == "*" || item.strip_prefix("W/").unwrap_or(item) == tag)
    }

    /// What to send.
    ///
    /// # Errors
    /// The range lies outside the body.
    pub fn select(&self, digest: &Digest, length: u64) -> Result<Selection, Problem> {
        let Some(span) = self.span else { return Ok(Selection::Whole) };
        if self.if_range.as_ref().is_some_and(|tag| *tag != etag(digest)) {
            return Ok(Selection::Whole);
        }
        let outside = Problem::RangeNotSatisfiable { length };
        let range = match span {
            Span::From(start, end) => start..end.map_or(length, |end| end.saturating_add(1).min(length)),
            Span::Last(count) => length.saturating_sub(count)..length,
        };
        if range.is_empty() { Err(outside) } else { Ok(Selection::Part(range)) }
    }
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// `None`: the header is to be ignored.
fn parse_range(text: &str) -> Result<Option<Span>, Problem> {
    let malformed = || Problem::bad_request("the Range header is malformed");
    let (unit, ranges) = text.split_once('=').ok_or_else(malformed)?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Ok(None);
    }
    let spans = ranges.split(',').map(|range| parse_span(range.trim()).ok_or_else(malformed));
    let spans = spans.collect::<Result<Vec<_>, _>>()?;
    Ok(match spans.as_slice() {
        [span] => Some(*span),
        _ => None,
    })
}

fn parse_span(text: &str) -> Option<Span> {
    let (start, end) = text.split_once('-')?;
    match (start.is_empty(), end.is_empty()) {
        (true, false) => number(end).map(Span::Last),
        (false, true) => Some(Span::From(number(start)?, None)),
        (false, false) => {
            let (start, end) = (number(start)?, number(end)?);
            (start <= end).then_some(Span::From(start, Some(end)))
        }
        (true, true) => None,
    }
}

/// Digits only; a number beyond u64 is simply far outside.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn asked(range: &str) -> Result<Selection, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_str(range).unwrap());
        let conditions = Conditions::parse(&headers).map_err(|problem| problem.status().as_u16())?;
        conditions.select(&Digest::default(), 10).map_err(|problem| problem.status().as_u16())
    }

    #[test]
    fn one_range_is_honoured() {
        assert_eq!(asked("bytes=0-0"), Ok(Selection::Part(0..1)));
        assert_eq!(asked("bytes=3-"), Ok(Selection::Part(3..10)));
        assert_eq!(asked("Bytes=3-99"), Ok(Selection::Part(3..10)));
        assert_eq!(asked("bytes=-4"), Ok(Selection::Part(6..10)));
        assert_eq!(asked("bytes=-99"), Ok(Selection::Part(0..10)));
    }

    #[test]
    fn several_ranges_and_unknown_units_get_the_whole() {
        assert_eq!(asked("bytes=0-1,3-4"), Ok(Selection::Whole));
        assert_eq!(asked("lines=1-2"), Ok(Selection::Whole));
    }

    #[test]
    fn outside_is_416_and_malformed_is_400() {
        for range in ["bytes=10-", "bytes=10-12", "bytes=-0", "bytes=99999999999999999999-"] {
            assert_eq!(asked(range), Err(416), "{range}");
        }
        for range in ["bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=5-2", "bytes=1", "bytes=+1-2", "bytes=0-1,x"] {
            assert_eq!(asked(range), Err(400), "{range}");
        }
    }

    #[test]
    fn if_none_match_knows_lists_weak_tags_and_the_star() {
        let digest = Digest::of(b"body");
        let tag = etag(&digest);
        for (value, matches) in [
            (tag.clone(), true),
            (format!("W/{tag}"), true),
            (format!("\"other\", {tag}"), true),
            ("*".to_owned(), true),
            ("\"other\"".to_owned(), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_str(&value).unwrap());
            assert_eq!(Conditions::parse(&headers).unwrap().not_modified(&digest), matches, "{value}");
        }
    }

    #[test]
    fn if_range_with_another_tag_gets_the_whole() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-1"));
        headers.insert(header::IF_RANGE, HeaderValue::from_static("\"old\""));
        let selection = Conditions::parse(&headers).unwrap().select(&Digest::default(), 10);
        assert_eq!(selection.unwrap(), Selection::Whole);
    }
}
