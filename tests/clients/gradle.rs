//! Gradle over the `HttpBuildCache` it ships with.

use crate::project::{Project, TwoNodes, run};

fn build(base_url: &str) -> String {
    let project = Project::fresh("gradle");
    let mut command = project.command("gradle");
    // TERM=dumb: no progress area between the lines that are looked at.
    command.env("KURA_URL", base_url).env("TERM", "dumb").arg("-g").arg(project.state());
    let said = run(command.args(["--no-daemon", "--build-cache", "--console=plain", "greet"]));
    assert_eq!(project.read("build/greeting.txt"), "hello, build cache\n");
    said
}

#[test]
fn gradle_is_served_what_it_built_through_another_node() {
    let nodes = TwoNodes::start("gradle");
    let first = build(&nodes.first().public_url());
    assert!(first.contains("1 actionable task: 1 executed"), "{first}");
    nodes.wait_replicated();
    let second = build(&nodes.second().public_url());
    assert!(second.contains(":greet FROM-CACHE"), "{second}");
    nodes.assert_hits(1.0);
}
