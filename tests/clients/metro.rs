//! Metro's `HttpStore`, the one client that uploads without a length.

use crate::project::{Project, TwoNodes, npm_folder, run};
use crate::support::node::Node;

fn store(action: &str, node: &Node) -> String {
    let project = Project::fresh("metro");
    let endpoint = format!("{}/api/metro/cache", node.public_url());
    let mut command = project.command("node");
    command.env("KURA_NPM_FOLDER", npm_folder());
    run(command.args(["store.cjs", action, &endpoint]))
}

#[test]
fn metro_is_served_what_it_stored_through_another_node() {
    let nodes = TwoNodes::start("metro");
    assert!(store("get", nodes.first()).contains("got null"), "a miss is null to Metro");
    assert!(store("set", nodes.first()).contains("stored"));
    nodes.wait_replicated();
    let second = store("get", nodes.second());
    assert!(second.contains("served from the cache"), "{second}");
    nodes.assert_hits(1.0);
}
