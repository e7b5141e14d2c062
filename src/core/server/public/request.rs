//! Reads paths and queries strictly: each percent-escape must be whole and each value UTF-8.
//!
//! Invariant: a path is cut at its slashes *before* it is decoded, so an escaped slash stays inside its segment.

use super::problem::Problem;

/// Most parameters of one query; more is not a cache client.
const QUERY_PARAMETERS_MAX: usize = 64;

/// The decoded segments of a path behind `prefix`, which ends with a slash.
///
/// # Errors
/// An empty segment, a broken escape, or bytes that are not UTF-8.
pub fn segments(path: &str, prefix: &str) -> Result<Vec<String>, Problem> {
    let rest = path.strip_prefix(prefix).unwrap_or_default();
    rest.split('/').map(segment).collect()
}

fn segment(raw: &str) -> Result<String, Problem> {
    if raw.is_empty() {
        return Err(Problem::bad_request("the path has an empty segment"));
    }
    decode(raw, false)
}

/// The decoded last segment of a path, for routes of the form `…/{key}`.
///
/// # Errors
/// As [`segments`].
pub fn last_segment(path: &str) -> Result<String, Problem> {
    segment(path.rsplit('/').next().unwrap_or_default())
}

/// The parameters of a query.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Splits and decodes; an absent query has no parameters.
    ///
    /// # Errors
    /// A broken escape, bytes that are not UTF-8, or too many parameters.
    pub fn parse(raw: Option<&str>) -> Result<Self, Problem> {
        let mut parameters = Vec::new();
        for pair in raw.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            if parameters.len() == QUERY_PARAMETERS_MAX {
                return Err(Problem::bad_request(format!("more than {QUERY_PARAMETERS_MAX} query parameters")));
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            parameters.push((decode(name, true)?, decode(value, true)?));
        }
        Ok(Self(parameters))
    }

    /// The first non-empty value under one of the names.
    pub fn get(&self, names: &[&str]) -> Option<&str> {
        let mut found = self.0.iter().filter(|(name, value)| names.contains(&name.as_str()) && !value.is_empty());
        found.next().map(|(_, value)| value.as_str())
    }

    /// As [`Query::get`], but the parameter must be there.
    ///
    /// # Errors
    /// It is absent or empty.
    pub fn require(&self, names: &[&str]) -> Result<&str, Problem> {
        let missing = || Problem::bad_request(format!("the query parameter {} is required", names.join(" or ")));
        self.get(names).ok_or_else(missing)
    }
}

/// The namespace of the Tuist routes: tenant required, namespace optional, each under its older name too. The tenant
/// does not enter the artifact id (that is the node's own), it only has to be there.
///
/// # Errors
/// No tenant, or a malformed query.
pub fn tuist_namespace(query: &Query) -> Result<String, Problem> {
    query.require(&["tenant_id", "account_handle"])?;
    Ok(query.get(&["namespace_id", "project_handle"]).unwrap_or_default().to_owned())
}

fn decode(raw: &str, form: bool) -> Result<String, Problem> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => escaped(rest.next(), rest.next())?,
            b'+' if form => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| Problem::bad_request("an escaped value is not UTF-8"))
}

fn escaped(high: Option<u8>, low: Option<u8>) -> Result<u8, Problem> {
    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
    let value = digit(high).zip(digit(low)).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
    value.ok_or_else(|| Problem::bad_request("a percent-escape is not two hex digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escaped_slash_stays_inside_its_segment() {
        assert_eq!(segments("/gradle/a%2Fb/c", "/gradle/").unwrap(), ["a/b", "c"]);
        assert_eq!(last_segment("/v1/cache/..%2f..%2fetc").unwrap(), "../../etc");
    }

    #[test]
    fn broken_escapes_and_empty_segments_are_refused() {
        for path in ["/p/%", "/p/%2", "/p/%zz", "/p/%ff", "/p//a", "/p/"] {
            assert!(segments(path, "/p/").is_err(), "{path}");
        }
    }

    #[test]
    fn a_query_takes_the_first_value_under_either_name() {
        let query = Query::parse(Some("account_handle=a+b&project_handle=&namespace_id=%C3%BC&x")).unwrap();
        assert_eq!(query.get(&["tenant_id", "account_handle"]), Some("a b"));
        assert_eq!(tuist_namespace(&query).unwrap(), "ü");
        assert!(query.require(&["x"]).is_err());
        assert!(Query::parse(Some("a=%f")).is_err());
        assert!(Query::parse(Some(&"a=1&".repeat(65))).is_err());
    }
}
