//! Real build tools against a real mesh: each builds something small twice, its local state wiped in between, through
//! two different nodes. The second build must come from the cache, by the tool's own word and by the second node's
//! hit counter.
//!
//! `scripts/install-test-tools.sh`, which `make test` runs first, installs the tools. A tool that is not there fails its
//! test: nothing is skipped.

#[cfg(test)]
#[expect(dead_code, reason = "each test binary uses its own part of the harness")]
#[path = "../support/mod.rs"]
mod support;

#[cfg(test)]
mod project;

#[cfg(test)]
mod bazel;
#[cfg(test)]
mod ccache;
#[cfg(test)]
mod gradle;
#[cfg(test)]
mod metro;
#[cfg(test)]
mod nx;
#[cfg(test)]
mod turborepo;
