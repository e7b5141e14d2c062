//! The optional settings file: flat TOML, one key per setting.
//!
//! Failure: a text that is no TOML gives its faults with their lines; a value of a kind no setting takes (a float, a
//! table) is a fault of its setting, not of the file.

use toml::de::{DeTable, DeValue};

use super::errors::ConfigFault;
use super::nearest::nearest;
use super::settings::{Kind, SETTINGS, Setting};

/// A settings file as it was read, its text not yet understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// The path as the user gave it, for messages.
    pub path: String,
    /// The text, or why it could not be read.
    pub text: Result<String, String>,
}

impl ConfigFile {
    /// Reads the file; a failure is kept and becomes a fault of the settings.
    pub fn read(path: &std::path::Path) -> Self {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
        Self { path: path.display().to_string(), text }
    }
}

/// One key of the file that is a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: &'static str,
    pub(super) line: usize,
    pub(super) text: String,
}

/// The settings of a file, and every fault in it.
pub(super) fn entries(file: &ConfigFile) -> (Vec<Entry>, Vec<ConfigFault>) {
    let text = match &file.text {
        Ok(text) => text,
        Err(problem) => {
            let fault = ConfigFault::Unreadable { path: file.path.clone(), problem: problem.clone() };
            return (Vec::new(), vec![fault]);
        }
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    // Only the first: the parser goes on, and what it says after a fault is mostly an echo of that fault.
    let mut faults: Vec<ConfigFault> = errors.first().map(|error| syntax(file, text, error)).into_iter().collect();
    let mut entries = Vec::new();
    let mut keys: Vec<_> = table.get_ref().iter().collect();
    keys.sort_unstable_by_key(|(name, _)| name.span().start);
    for (name, value) in keys {
        let line = line_of(text, name.span().start);
        match SETTINGS.iter().find(|setting| setting.key == name.get_ref().as_ref()) {
            Some(setting) => match as_text(setting, value.get_ref()) {
                Some(text) => entries.push(Entry { key: setting.key, line, text }),
                None => faults.push(wrong_kind(file, setting, value.get_ref(), line)),
            },
            None => faults.push(unknown(file, name.get_ref(), line)),
        }
    }
    (entries, faults)
}

fn syntax(file: &ConfigFile, text: &str, error: &toml::de::Error) -> ConfigFault {
    let line = error.span().map_or(1, |span| line_of(text, span.start));
    ConfigFault::Syntax { path: file.path.clone(), line, problem: error.message().to_owned() }
}

fn unknown(file: &ConfigFile, key: &str, line: usize) -> ConfigFault {
    let nearest = nearest(key, SETTINGS.iter().map(|setting| setting.key)).map(str::to_owned);
    ConfigFault::UnknownKey { key: key.to_owned(), path: file.path.clone(), line, nearest }
}

fn wrong_kind(file: &ConfigFile, setting: &Setting, value: &DeValue<'_>, line: usize) -> ConfigFault {
    ConfigFault::Invalid {
        key: setting.key,
        source_of: super::Source::File { path: file.path.clone(), line },
        text: value.type_str().to_owned(),
        expected: setting.kind.expected().to_owned(),
    }
}

/// The value as the text a flag would have: numbers as their digits, lists joined by commas.
fn as_text(setting: &Setting, value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().trim_start_matches('+').to_owned()),
        DeValue::Array(items) if setting.kind == Kind::Urls => {
            let texts: Option<Vec<&str>> = items.iter().map(|item| item.get_ref().as_str()).collect();
            texts.map(|texts| texts.join(","))
        }
        _ => None,
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<(&'static str, usize, String)>, Vec<String>) {
        let file = ConfigFile { path: "kura.toml".to_owned(), text: Ok(text.to_owned()) };
        let (entries, faults) = entries(&file);
        let entries = entries.into_iter().map(|entry| (entry.key, entry.line, entry.text)).collect();
        (entries, faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn strings_numbers_and_lists_become_the_text_of_a_flag() {
        let (mut entries, faults) =
            read("# a comment\nport = 4_000\nregion = \"eu\"\n\npeers = [\"http://a:1\", \"http://b:2\"]\n");
        entries.sort_unstable();
        assert_eq!(faults, [""; 0]);
        let expected = [("peers", 5, "http://a:1,http://b:2"), ("port", 2, "4000"), ("region", 3, "eu")];
        assert_eq!(entries, expected.map(|(key, line, text)| (key, line, text.to_owned())));
    }

    #[test]
    fn every_fault_of_a_file_is_named_with_its_line() {
        let (_, faults) = read("prot = 1\nport = 1.5\n[staging]\nregion = 5\n");
        assert_eq!(
            faults,
            [
                "kura.toml:1: unknown key `prot`; did you mean `port`?",
                "kura.toml:2 (port): expected a port from 0 to 65535, got \"float\"",
                "kura.toml:3: unknown key `staging`",
            ]
        );
    }

    #[test]
    fn a_broken_file_names_its_line() {
        let (_, faults) = read("region = \"eu\"\nport = = 5\n");
        assert!(faults.len() == 1 && faults[0].starts_with("kura.toml:2: "), "{faults:?}");
    }

    #[test]
    fn a_missing_file_is_a_fault() {
        let (_, faults) = entries(&ConfigFile::read(std::path::Path::new("/nonexistent/kura.toml")));
        assert_eq!(
            faults[0].to_string(),
            "/nonexistent/kura.toml: cannot be read: No such file or directory (os error 2)"
        );
    }
}
