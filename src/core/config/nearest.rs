//! "Did you mean": the known name closest to a mistyped one.

/// Names differing in more than this share of their letters (one in three) are no suggestion,
const LETTERS_PER_MISTAKE: usize = 3;

/// but two letters swapped, which count as two edits, always may.
const MISTAKES_MIN: usize = 2;

/// Shorter names would be close to anything.
const NAME_BYTES_MIN: usize = 4;

/// Longer input is not compared: the cost is its length times that of each known name.
const NAME_BYTES_MAX: usize = 128;

/// The known name with the fewest edits, if it is close enough to be a typing mistake.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if !(NAME_BYTES_MIN..=NAME_BYTES_MAX).contains(&typed.len()) {
        return None;
    }
    let scored = known.into_iter().map(|name| (edits(typed, name), name));
    let (distance, name) = scored.min_by_key(|(distance, _)| *distance)?;
    (distance <= (typed.len().max(name.len()) / LETTERS_PER_MISTAKE).max(MISTAKES_MIN)).then_some(name)
}

/// Levenshtein distance in bytes, one row at a time.
fn edits(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = i;
        let mut previous = i + 1;
        let mut next = Vec::with_capacity(row.len());
        next.push(previous);
        for (b, above) in right.bytes().zip(row.iter().skip(1).copied()) {
            let cost = (diagonal + usize::from(a != b)).min(above + 1).min(previous + 1);
            diagonal = above;
            previous = cost;
            next.push(cost);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_levenshteins() {
        let pairs = [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("prot", "port", 2), ("a", "", 1)];
        for (left, right, distance) in pairs {
            assert_eq!(edits(left, right), distance, "{left} {right}");
        }
    }

    #[test]
    fn only_a_typing_mistake_is_a_suggestion() {
        let known = ["data_dir", "tmp_dir", "internal_port"];
        assert_eq!(nearest("data_dri", known), Some("data_dir"));
        assert_eq!(nearest("internal-port", known), Some("internal_port"));
        assert_eq!(nearest("prot", ["port", "bind"]), Some("port"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest("por", ["port"]), None);
        assert_eq!(nearest(&"x".repeat(1000), known), None);
    }
}
