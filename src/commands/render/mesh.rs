//! The mesh as two small tables: its nodes, and who reaches whom.

use super::table::HouseTable;
use super::words::plural;
use crate::core::doctor::mesh_view::{MeshNode, MeshView};

/// Nodes shown: as many columns as a terminal of 80 has room for. JSON has all of them.
const SHOWN_MAX: usize = 12;
/// Below the heading.
const INDENT: &str = "  ";

/// The view as text.
pub fn mesh(view: &MeshView, width: usize) -> String {
    let shown = view.nodes.len().min(SHOWN_MAX);
    let columns = width.saturating_sub(INDENT.len());
    let has_own = view.nodes.iter().any(|node| node.this_node);
    let mut out = String::from(if has_own { "mesh (* is this node)\n" } else { "mesh\n" });
    out.push_str(&indented(&nodes(&view.nodes, shown, columns)));
    if shown > 1 {
        out.push('\n');
        out.push_str(&indented(&reaches(view, shown, columns)));
    }
    if view.nodes.len() > shown {
        let more = plural((view.nodes.len() - shown) as u64, "node", "nodes");
        out.push_str(&format!("{INDENT}and {more} more: --output json has all of them\n"));
    }
    out
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("{INDENT}{line}\n")).collect()
}

fn nodes(nodes: &[MeshNode], shown: usize, columns: usize) -> String {
    // URLs come last: they are the longest, and a URL that is cut into two lines cannot be copied.
    let table = HouseTable::new(columns).words("#").words("version").words("state");
    let mut table = table.numbers("clock").numbers("artifacts").words("node");
    for (number, node) in (1_usize..).zip(nodes).take(shown) {
        let own = if node.this_node { "*" } else { "" };
        table.row([
            format!("{number}{own}"),
            node.version.clone().unwrap_or_else(|| "?".to_owned()),
            state(node),
            node.clock_offset_ms.map_or_else(String::new, |ms| format!("{ms:+} ms")),
            node.artifacts.map_or_else(String::new, |count| count.to_string()),
            node.url.clone(),
        ]);
    }
    table.render()
}

fn state(node: &MeshNode) -> String {
    if node.error.is_some() {
        return "no answer".to_owned();
    }
    let state = node.state.clone().unwrap_or_else(|| "?".to_owned());
    match node.complete {
        Some(false) if state == "serving" => "incomplete".to_owned(),
        _ => state,
    }
}

fn reaches(view: &MeshView, shown: usize, columns: usize) -> String {
    let title = HouseTable::new(columns).words("reaches");
    let mut table = (1..=shown).fold(title, |table, number| table.words(&number.to_string()));
    for (number, row) in (1_usize..).zip(&view.reaches).take(shown) {
        let cell = |(to, reached): (usize, &Option<bool>)| match reached {
            _ if to == number => "-".to_owned(),
            Some(true) => "yes".to_owned(),
            Some(false) => "NO".to_owned(),
            None => "?".to_owned(),
        };
        let cells = (1_usize..).zip(row).take(shown).map(cell);
        table.row(std::iter::once(number.to_string()).chain(cells));
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(url: &str, state: &str) -> MeshNode {
        MeshNode {
            url: url.to_owned(),
            version: Some("0.4.0".to_owned()),
            state: Some(state.to_owned()),
            complete: Some(true),
            artifacts: Some(120_000),
            clock_offset_ms: Some(-3),
            ..MeshNode::default()
        }
    }

    #[test]
    fn a_mesh_fits_80_columns_and_says_what_nobody_knows() {
        let own =
            MeshNode { this_node: true, clock_offset_ms: None, ..node("http://kura-0.kura.cache.svc:7443", "serving") };
        let filling = MeshNode { complete: Some(false), ..node("http://kura-1.kura.cache.svc:7443", "serving") };
        let silent = MeshNode {
            url: "http://kura-2.kura.cache.svc:7443".to_owned(),
            error: Some("connect failed".to_owned()),
            ..MeshNode::default()
        };
        let reaches =
            vec![vec![None, Some(true), Some(false)], vec![Some(false), None, None], vec![Some(true), None, None]];
        let screen = mesh(&MeshView { nodes: vec![own, filling, silent], reaches }, 80);
        assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
        assert_eq!(
            screen,
            "mesh (* is this node)\n\
             \u{20} #   version  state       clock  artifacts  node\n\
             \u{20} 1*  0.4.0    serving               120000  http://kura-0.kura.cache.svc:7443\n\
             \u{20} 2   0.4.0    incomplete  -3 ms     120000  http://kura-1.kura.cache.svc:7443\n\
             \u{20} 3   ?        no answer                     http://kura-2.kura.cache.svc:7443\n\n\
             \u{20} reaches  1    2    3\n\
             \u{20} 1        -    yes  NO\n\
             \u{20} 2        NO   -    ?\n\
             \u{20} 3        yes  ?    -\n"
        );
    }

    #[test]
    fn of_a_large_mesh_the_first_nodes_are_shown_and_the_others_counted() {
        let nodes: Vec<MeshNode> = (0..20).map(|n| node(&format!("http://10.0.0.{n}:7443"), "serving")).collect();
        let view = MeshView { reaches: vec![vec![Some(true); 20]; 20], nodes };
        let screen = mesh(&view, 80);
        assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
        assert!(screen.ends_with("and 8 nodes more: --output json has all of them\n"), "{screen}");
    }
}
