//! Nx over its self-hosted remote cache.

use crate::project::{Project, TwoNodes, npm_program, run};

fn build(cache_url: &str) -> String {
    let project = Project::fresh("nx");
    project.link_npm_packages();
    let mut command = project.command(npm_program("nx"));
    command.env("NX_DAEMON", "false").env("NX_SELF_HOSTED_REMOTE_CACHE_SERVER", cache_url);
    let said = run(command.args(["run", "app:build"]));
    assert_eq!(project.read("packages/app/dist/greeting.txt"), "hello, build cache\n");
    said
}

#[test]
fn nx_is_served_what_it_built_through_another_node() {
    let nodes = TwoNodes::start("nx");
    let first = build(&nodes.first().public_url());
    assert!(!first.contains("[remote cache]"), "{first}");
    nodes.wait_replicated();
    let second = build(&nodes.second().public_url());
    assert!(second.contains("[remote cache]"), "{second}");
    assert!(second.contains("1 out of 1 tasks"), "{second}");
    nodes.assert_hits(1.0);
}
