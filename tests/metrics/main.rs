//! What a node tells about itself while it runs: `/metrics`, and whatever names a metric: the table in the docs, the alert
//! rules and the dashboard. They are checked by Prometheus' own promtool, and against a real node.

#[cfg(test)]
#[expect(dead_code, reason = "each test binary uses its own part of the harness")]
#[path = "../support/mod.rs"]
mod support;

#[cfg(test)]
mod exposition;
#[cfg(test)]
mod shipped;
