//! Turborepo over its remote cache.

use crate::project::{Project, TwoNodes, npm_program, run};

fn build(cache_url: &str, team: (&str, &str)) -> String {
    let project = Project::fresh("turbo");
    let mut command = project.command(npm_program("turbo"));
    command
        .env("TURBO_API", cache_url)
        .env("TURBO_TOKEN", "any")
        .env(team.0, team.1)
        .env("TURBO_TELEMETRY_DISABLED", "1");
    // The user-wide configuration and cache folders, kept away from this machine's own.
    command.env("XDG_CONFIG_HOME", project.state()).env("XDG_CACHE_HOME", project.state());
    let said = run(command.args(["run", "build"]));
    assert_eq!(project.read("packages/app/dist/greeting.txt"), "hello, build cache\n");
    said
}

fn build_twice(team: (&str, &str)) {
    let nodes = TwoNodes::start("turborepo");
    let first = build(&nodes.first().public_url(), team);
    assert!(first.contains("Remote caching enabled"), "{first}");
    assert!(first.contains("0 cached, 1 total"), "{first}");
    nodes.wait_replicated();
    let second = build(&nodes.second().public_url(), team);
    assert!(second.contains("1 cached, 1 total") && second.contains("FULL TURBO"), "{second}");
    nodes.assert_hits(1.0);
}

#[test]
fn turborepo_is_served_what_it_built_through_another_node() {
    build_twice(("TURBO_TEAM", "kura"));
}

#[test]
fn turborepo_is_served_under_a_team_id() {
    build_twice(("TURBO_TEAMID", "team_kura"));
}
