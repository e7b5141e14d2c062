//! ccache over its HTTP storage, in the layouts it has.

use std::process::Command;

use crate::project::{Project, TwoNodes, run};

/// Compiles once without a local cache and returns ccache's statistics of that.
fn compile(storage: &str) -> String {
    let project = Project::fresh("ccache");
    let with_storage = |mut command: Command| {
        command.env("CCACHE_DIR", project.state()).env("CCACHE_REMOTE_STORAGE", storage).env("CCACHE_REMOTE_ONLY", "1");
        command
    };
    run(with_storage(project.command("ccache")).args(["gcc", "-c", "greeting.c", "-o", "greeting.o"]));
    assert!(project.path().join("greeting.o").exists());
    run(with_storage(project.command("ccache")).arg("--print-stats"))
}

fn count(statistics: &str, name: &str) -> u64 {
    let line = statistics
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_else(|| panic!("no {name}: {statistics}"));
    line.trim().parse().expect("a count")
}

fn compile_twice(path: &str) {
    let nodes = TwoNodes::start("ccache");
    let first = compile(&format!("{}{path}", nodes.first().public_url()));
    assert_eq!((count(&first, "remote_storage_hit\t"), count(&first, "remote_storage_error\t")), (0, 0), "{first}");
    nodes.wait_replicated();
    let second = compile(&format!("{}{path}", nodes.second().public_url()));
    assert_eq!((count(&second, "direct_cache_hit\t"), count(&second, "remote_storage_hit\t")), (1, 1), "{second}");
    // The manifest and the result.
    nodes.assert_hits(2.0);
}

#[test]
fn ccache_is_served_what_it_compiled_through_another_node() {
    compile_twice("/ccache");
}

#[test]
fn ccache_is_served_in_the_flat_layout_under_a_namespace() {
    compile_twice("/ccache/team|layout=flat");
}

#[test]
fn ccache_is_served_in_the_bazel_layout() {
    compile_twice("/ccache|layout=bazel");
}
