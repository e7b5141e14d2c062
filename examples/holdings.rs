//! Prints what a node holds: one line of id, version and digest for each artifact of every producer, sorted.
//!
//! usage: `cargo run --example holdings -- http://127.0.0.1:7443`      (the URL by which peers reach the node)
//!
//! Two nodes hold the same exactly if their lines are the same: `scripts/demo.sh` compares three of them so.

#[path = "../tests/support/holdings.rs"]
mod holdings;

use std::io::Write;

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    let url = std::env::args().nth(1).context("usage: holdings URL")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let get = |path: &str| {
        let request = client.get(format!("{url}{path}"));
        let body = async { anyhow::Ok(request.send().await?.error_for_status()?.bytes().await?) };
        anyhow::Ok(runtime.block_on(body)?.to_vec())
    };
    let lines: Vec<String> = holdings::holdings(get)?.into_iter().collect();
    let mut out = std::io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(())
}
