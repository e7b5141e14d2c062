//! The house's tables: no borders, two spaces between columns, numbers to the right.
//!
//! Invariant: the caller fixes the width; nothing here looks at a terminal, so that tests and pipes see the same.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// Between two columns.
const COLUMN_GAP: u16 = 2;

/// What is left of each end of a shortened digest.
const DIGEST_END_CHARS: usize = 8;

/// A table being filled.
#[derive(Debug)]
pub struct HouseTable {
    table: Table,
    titles: Vec<String>,
    numeric: Vec<bool>,
}

impl HouseTable {
    /// An empty table, at most `width` columns of text wide.
    pub fn new(width: usize) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(u16::try_from(width).unwrap_or(u16::MAX)).force_no_tty();
        Self { table, titles: Vec::new(), numeric: Vec::new() }
    }

    /// Adds a column of words.
    #[must_use]
    pub fn words(self, title: &str) -> Self {
        self.column(title, false)
    }

    /// Adds a column of numbers, aligned to the right.
    #[must_use]
    pub fn numbers(self, title: &str) -> Self {
        self.column(title, true)
    }

    fn column(mut self, title: &str, numeric: bool) -> Self {
        self.titles.push(title.to_owned());
        self.numeric.push(numeric);
        self
    }

    /// Adds a row, one cell per column.
    pub fn row<I: IntoIterator<Item = String>>(&mut self, cells: I) -> &mut Self {
        self.table.add_row(cells.into_iter().collect::<Vec<String>>());
        self
    }

    /// The text, a newline after each line and no space before one.
    pub fn render(mut self) -> String {
        self.table.set_header(self.titles);
        let last = self.numeric.len().saturating_sub(1);
        for (index, (column, numeric)) in self.table.column_iter_mut().zip(&self.numeric).enumerate() {
            column.set_padding((0, if index == last { 0 } else { COLUMN_GAP }));
            column.set_cell_alignment(if *numeric { CellAlignment::Right } else { CellAlignment::Left });
        }
        self.table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

/// A digest with its middle left out; paths are never shortened.
pub fn short_digest(digest: &str) -> String {
    let chars: Vec<char> = digest.chars().collect();
    match (chars.first_chunk::<DIGEST_END_CHARS>(), chars.last_chunk::<DIGEST_END_CHARS>()) {
        (Some(start), Some(end)) if chars.len() > 2 * DIGEST_END_CHARS + 1 => {
            format!("{}…{}", start.iter().collect::<String>(), end.iter().collect::<String>())
        }
        _ => digest.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_no_borders_two_space_gaps_and_numbers_to_the_right() {
        let mut table = HouseTable::new(80).words("kind").numbers("files").numbers("bytes").words("path");
        table.row(["uploads", "412", "11.2 GiB", "/d/tmp/uploads"].map(str::to_owned));
        table.row(["parts", "0", "0 B", "/d/tmp/parts"].map(str::to_owned));
        assert_eq!(
            table.render(),
            "kind     files     bytes  path\n\
             uploads    412  11.2 GiB  /d/tmp/uploads\n\
             parts        0       0 B  /d/tmp/parts\n"
        );
    }

    #[test]
    fn a_table_keeps_to_its_width() {
        let mut table = HouseTable::new(30).words("peer").words("error");
        table.row(["http://a:1".to_owned(), "the peer answered with something long".to_owned()]);
        assert!(table.render().lines().all(|line| line.chars().count() <= 30));
    }

    #[test]
    fn digests_lose_their_middle() {
        assert_eq!(short_digest(&"ab".repeat(32)), "abababab…abababab");
        assert_eq!(short_digest("short"), "short");
    }
}
