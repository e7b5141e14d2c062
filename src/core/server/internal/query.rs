//! Query strings of the internal plane: unknown parameters are ignored, an empty cursor counts as absent.

use std::collections::HashMap;
use std::str::FromStr;

use super::reply::Refused;

/// The parameters of a request; of one that is given twice the first counts.
#[derive(Debug, Default)]
pub(super) struct Query(HashMap<String, String>);

impl Query {
    pub(super) fn parse(raw: Option<&str>) -> Self {
        let mut values = HashMap::new();
        for (name, value) in url::form_urlencoded::parse(raw.unwrap_or_default().as_bytes()) {
            values.entry(name.into_owned()).or_insert_with(|| value.into_owned());
        }
        Self(values)
    }

    /// The value as given, also if it is empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value unless it is empty.
    pub(super) fn filled(&self, name: &str) -> Option<&str> {
        self.text(name).filter(|value| !value.is_empty())
    }

    /// The value, parsed; absent is `None`, malformed is 400.
    pub(super) fn parsed<T: FromStr>(&self, name: &str) -> Result<Option<T>, Refused> {
        let parse = |value: &str| value.parse().map_err(|_| malformed(name, value));
        self.filled(name).map(parse).transpose()
    }

    /// The value, parsed, or a default.
    pub(super) fn parsed_or<T: FromStr>(&self, name: &str, default: T) -> Result<T, Refused> {
        Ok(self.parsed(name)?.unwrap_or(default))
    }
}

fn malformed(name: &str, value: &str) -> Refused {
    Refused::bad_request(format!("{name} is malformed: {:?}", value.chars().take(80).collect::<String>()))
}
