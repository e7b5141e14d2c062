//! Bazel over its HTTP cache.

use crate::project::{Project, TwoNodes, run};

/// Builds the project through one cache; every build has an output base, and so an action cache, of its own.
fn build(cache_url: &str) -> String {
    let project = Project::fresh("bazel");
    let bazel = |arguments: &[&str]| {
        let base = project.state().join("base");
        let root = project.state().join("root");
        let mut command = project.command("bazel");
        // The system's rc file has to stay: with it Debian tells its bazel where its parts are.
        command.arg("--nohome_rc");
        command.arg(format!("--output_base={}", base.display()));
        command.arg(format!("--output_user_root={}", root.display()));
        command.args(arguments);
        command
    };
    let cache = format!("--remote_cache={cache_url}");
    let said = run(&mut bazel(&["build", "--spawn_strategy=local", "--color=no", &cache, "//:greeting"]));
    assert_eq!(project.read("bazel-bin/greeting.txt"), "a greeting that is worth caching\n");
    run(&mut bazel(&["shutdown"]));
    // Bazel makes its outputs read-only, folders included, and the temporary folder could not be removed.
    run(project.command("chmod").args(["-R", "u+w"]).arg(project.state()));
    said
}

fn build_twice(prefix: &str) {
    let nodes = TwoNodes::start("bazel");
    let first = build(&format!("{}{prefix}", nodes.first().public_url()));
    assert!(!first.contains("remote cache hit"), "{first}");
    nodes.wait_replicated();
    let second = build(&format!("{}{prefix}", nodes.second().public_url()));
    assert!(second.contains("1 remote cache hit"), "{second}");
    assert!(!second.contains("WARNING"), "{second}");
    // The action and at least its output.
    nodes.assert_hits(2.0);
}

#[test]
fn bazel_is_served_what_it_built_through_another_node() {
    build_twice("");
}

#[test]
fn bazel_is_served_under_an_instance_name_with_a_slash() {
    build_twice("/bazel/team/app");
}
