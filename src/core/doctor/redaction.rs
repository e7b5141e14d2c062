//! Takes secrets out of texts that leave the machine.
//!
//! How it works: what is secret is known by where it stands: the user part of any URL, and the values of variables whose
//! names say that they are secret, or that nobody here knows. Each is blacked out wherever it turns up again, so that a
//! message which quotes a setting does not leak it.
//!
//! Invariant: a text is cleaned as the last step before it is written, whoever made it.

/// What stands in the place of a secret.
pub const BLACKED_OUT: &str = "…";

/// Shorter values are words that turn up everywhere (`1`, `on`, `yes`); blacking them out would leave nothing to read.
const SECRET_CHARS_MIN: usize = 4;

/// Parts of variable names behind which secrets are kept.
const SECRET_NAMES: [&str; 9] =
    ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "PRIVATE", "API_KEY", "ACCESS_KEY", "AUTH"];

/// The secrets of one process.
#[derive(Clone, Default)]
pub struct Secrets(Vec<String>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

impl Secrets {
    /// Those among variables, of which `is_known` says whether it is a setting of this program: the value of another
    /// `KURA_*` variable may be anything.
    pub fn of(variables: impl IntoIterator<Item = (String, String)>, is_known: impl Fn(&str) -> bool) -> Self {
        let mut secrets: Vec<String> = Vec::new();
        for (name, value) in variables {
            let upper = name.to_ascii_uppercase();
            let says_so = SECRET_NAMES.iter().any(|part| upper.contains(part)) || upper.ends_with("_KEY");
            if (says_so && !is_known(&name)) || (upper.starts_with("KURA_") && !is_known(&name)) {
                secrets.push(value.trim().to_owned());
            }
            secrets.extend(user_parts(&value));
        }
        secrets.retain(|secret| secret.chars().count() >= SECRET_CHARS_MIN);
        // The longest first: one may be a part of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        Self(secrets)
    }

    /// The text without secrets.
    pub fn cleaned(&self, text: &str) -> String {
        let mut text = without_user_parts(text);
        for secret in &self.0 {
            text = text.replace(secret.as_str(), BLACKED_OUT);
            // In JSON a secret stands escaped.
            let escaped = serde_json::to_string(secret).unwrap_or_default();
            let escaped = escaped.trim_matches('"');
            if escaped != secret && !escaped.is_empty() {
                text = text.replace(escaped, BLACKED_OUT);
            }
        }
        text
    }
}

/// Where the user part of a URL that begins here ends, if it has one: `user:word@` behind `://`.
fn user_part_bytes(after_scheme: &str) -> Option<usize> {
    let end = after_scheme.find(|c: char| c.is_whitespace() || "/?#\"'<>,".contains(c)).unwrap_or(after_scheme.len());
    after_scheme.get(..end)?.rfind('@')
}

fn without_user_parts(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        rest = match user_part_bytes(after).and_then(|end| after.get(end..)) {
            Some(host) => {
                out.push_str(BLACKED_OUT);
                host
            }
            None => after,
        };
    }
    out.push_str(rest);
    out
}

/// The user parts of all URLs in a value, whole and the password alone.
fn user_parts(value: &str) -> Vec<String> {
    let mut parts = Vec::new();
    for (at, _) in value.match_indices("://") {
        let Some(after) = value.get(at + 3..) else { continue };
        let Some(user) = user_part_bytes(after).and_then(|end| after.get(..end)) else { continue };
        parts.push(user.to_owned());
        parts.extend(user.split_once(':').map(|(_, word)| word.to_owned()));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(pairs: &[(&str, &str)]) -> Secrets {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Secrets::of(pairs, |name| name == "KURA_PEERS" || name == "KURA_NODE_URL")
    }

    #[test]
    fn the_user_part_of_a_url_is_blacked_out_wherever_it_stands() {
        let none = Secrets::default();
        assert_eq!(none.cleaned("http://me:hunter2@a:1/x http://b:2"), "http://…@a:1/x http://b:2");
        assert_eq!(none.cleaned("{\"u\":\"https://tok@a/\"}"), "{\"u\":\"https://…@a/\"}");
        assert_eq!(none.cleaned("mail a@b, http://c/d@e"), "mail a@b, http://c/d@e");
        let told = secrets(&[("KURA_PEERS", "http://me:hunter2@a:1,http://b:2")]);
        assert_eq!(
            told.cleaned("the password hunter2 was refused by http://b:2"),
            "the password … was refused by http://b:2"
        );
    }

    #[test]
    fn secret_and_unknown_variables_are_blacked_out_and_settings_are_not() {
        let told = secrets(&[
            ("KURA_SIGNING", "line one\nline two"),
            ("AWS_SECRET_ACCESS_KEY", "abc/def"),
            ("KURA_NODE_URL", "http://plain:7443"),
            ("GITHUB_TOKEN", "1"),
        ]);
        let text = "abc/def at http://plain:7443 with 1 and \"line one\\nline two\"";
        assert_eq!(told.cleaned(text), "… at http://plain:7443 with 1 and \"…\"");
        assert_eq!(format!("{told:?}"), "Secrets(2)");
    }
}
