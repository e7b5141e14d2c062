//! Source text as the rules look at it: without tests, without comments, function by function.
//!
//! How it works: rustfmt closes every item at the indentation it opened with, so the end of a function or a test
//! module is the first later line that is that indentation and a brace.

use std::path::{Path, PathBuf};

/// One file of the package.
#[derive(Debug)]
pub struct SourceFile {
    /// Its path from the package's root.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// One function.
#[derive(Debug)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The line of its `fn`, from 1.
    pub line: usize,
    /// Its lines, signature and braces included.
    pub lines: usize,
}

/// The package's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a folder, in order; test files that stand beside the code are left out.
pub fn files_below(folder: &str) -> Vec<SourceFile> {
    let mut paths = Vec::new();
    collect(&root().join(folder), &mut paths);
    paths.sort();
    let keep = paths.into_iter().filter(|path| !folder.starts_with("src") || !is_test_file(path));
    keep.map(|path| {
        let text = std::fs::read_to_string(&path).expect("reading a source file");
        SourceFile::new(&path.strip_prefix(root()).expect("below the root").display().to_string(), &text)
    })
    .collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("reading a source folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("node_modules") {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

fn is_test_file(path: &Path) -> bool {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let in_tests = path.components().any(|part| part.as_os_str() == "tests");
    stem.ends_with("_tests") || stem == "tests" || in_tests
}

/// Whether the line names the word, not merely ends another word with it (`println!` in `eprintln!`).
pub fn names(line: &str, word: &str) -> bool {
    let starts = line.match_indices(word).map(|(at, _)| at);
    let mut before = starts.map(|at| line.get(..at).and_then(|before| before.chars().next_back()));
    before.any(|before| !before.is_some_and(|c| c.is_alphanumeric() || c == '_'))
}

impl SourceFile {
    /// A file from its text.
    pub fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// The layer of `src/core` the file belongs to.
    pub fn core_layer(&self) -> Option<String> {
        let below = self.path.strip_prefix("src/core/")?;
        let (layer, _) = below.split_once('/')?;
        Some(layer.to_owned())
    }

    /// Lines outside `#[cfg(test)]` items, with their numbers from 1.
    pub fn production_lines(&self) -> Vec<(usize, &str)> {
        let mut kept = Vec::new();
        let mut lines = self.text.lines().enumerate();
        while let Some((index, line)) = lines.next() {
            if line.trim_start().starts_with("#[cfg(test)]") {
                let indentation = line.len() - line.trim_start().len();
                skip_item(&mut lines, indentation);
            } else {
                kept.push((index + 1, line));
            }
        }
        kept
    }

    /// [`Self::production_lines`] without whole-line comments.
    pub fn code_lines(&self) -> Vec<(usize, &str)> {
        self.production_lines().into_iter().filter(|(_, line)| !line.trim_start().starts_with("//")).collect()
    }

    /// Every function with a body outside tests.
    pub fn functions(&self) -> Vec<Function> {
        let lines = self.production_lines();
        let starts = lines.iter().enumerate().filter_map(|(at, (_, line))| Some((at, function_name(line)?)));
        starts.filter_map(|(at, name)| measure(lines.get(at..)?, name)).collect()
    }

    /// The layers of `core` that the code names, with the line.
    pub fn core_uses(&self) -> Vec<(usize, String)> {
        let lines = self.code_lines();
        let mut uses = Vec::new();
        for (at, (number, line)) in lines.iter().enumerate() {
            for prefix in self.core_prefixes() {
                for (found, _) in line.match_indices(&prefix) {
                    let preceded = line[..found].ends_with("super::");
                    let rest: Vec<&str> = lines[at..].iter().map(|(_, line)| *line).collect();
                    let text = rest.join("\n")[found + prefix.len()..].to_owned();
                    if !preceded {
                        uses.extend(heads(&text).into_iter().map(|layer| (*number, layer)));
                    }
                }
            }
        }
        uses
    }

    /// The two ways to say "core, and then": from the crate's root, and from here by `super`.
    fn core_prefixes(&self) -> [String; 2] {
        let below = self.path.strip_prefix("src/core/").unwrap_or(&self.path);
        let folders = below.matches('/').count();
        let is_module_root = below.ends_with("/mod.rs");
        let depth = if is_module_root { folders } else { folders + 1 };
        ["crate::core::".to_owned(), "super::".repeat(depth)]
    }
}

/// The first names of what follows a path prefix: one, or several in braces.
fn heads(text: &str) -> Vec<String> {
    let Some(group) = text.strip_prefix('{') else { return vec![identifier(text)] };
    let mut depth = 0_usize;
    let mut heads = vec![String::new()];
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(String::new()),
            _ if depth == 0 => heads.last_mut().expect("never empty").push(c),
            _ => {}
        }
    }
    heads.iter().map(|head| identifier(head.trim())).filter(|head| !head.is_empty()).collect()
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Goes past the item that follows an attribute: its further attributes, and its body if it has one.
fn skip_item<'a>(lines: &mut impl Iterator<Item = (usize, &'a str)>, indentation: usize) {
    let closing = format!("{}}}", " ".repeat(indentation));
    for (_, line) in lines.by_ref() {
        let is_attribute = line.trim_start().starts_with("#[") || line.trim_start().starts_with("//");
        if line == closing
            || (!is_attribute && line.len() - line.trim_start().len() == indentation && line.ends_with(';'))
        {
            return;
        }
        if !is_attribute && line.ends_with('}') && line.len() - line.trim_start().len() == indentation {
            return;
        }
    }
}

fn function_name(line: &str) -> Option<String> {
    let mut words = line.trim_start();
    for qualifier in ["pub(crate) ", "pub(super) ", "pub ", "const ", "async "] {
        words = words.strip_prefix(qualifier).unwrap_or(words);
    }
    words.strip_prefix("fn ").map(identifier)
}

/// From the signature to the closing brace; `None` for a declaration without a body.
fn measure(lines: &[(usize, &str)], name: String) -> Option<Function> {
    let (number, first) = lines.first()?;
    let indentation = " ".repeat(first.len() - first.trim_start().len());
    if first.ends_with('}') {
        return Some(Function { name, line: *number, lines: 1 });
    }
    let (closing, declared) = (format!("{indentation}}}"), format!("{indentation})"));
    let is_end = |line: &str| line == closing || (line.starts_with(&declared) && line.ends_with(';'));
    if first.ends_with(';') {
        return None;
    }
    let end = lines.iter().position(|(_, line)| is_end(line))?;
    let (last, text) = lines.get(end)?;
    (*text == closing).then(|| Function { name, line: *number, lines: last - number + 1 })
}
