//! Measures what the inline threshold costs: PUT, GET and space of a real node, once per threshold.
//!
//! usage: `make bench`, or `bench_inline KURA FOLDER`      (a kura binary, and a folder on the volume to measure)
//!
//! How it works: for each threshold a fresh node takes the same mix of bodies (sizes log-uniform from 256 B to 256 KiB,
//! as build actions leave them) over a fixed number of connections, then serves each body once. Space is what the data
//! dir occupies afterwards in allocated blocks. The rows of the table are those of `docs/performance.md`.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rand::{Rng, RngCore, SeedableRng};

const THRESHOLDS_KIB: [u64; 5] = [1, 4, 16, 64, 256];
const BODIES: u64 = 4_000;
const SMALLEST_BYTES: f64 = 256.0;
const LARGEST_BYTES: f64 = 262_144.0;
/// As many requests at a time as a parallel build on a large machine makes.
const CONNECTIONS: u64 = 16;
const PORT: u16 = 19_743;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let kura = PathBuf::from(arguments.next().context("usage: bench_inline KURA FOLDER")?);
    let folder = PathBuf::from(arguments.next().context("usage: bench_inline KURA FOLDER")?);
    let runtime = tokio::runtime::Runtime::new()?;
    let mut out = io::stdout().lock();
    writeln!(out, "| threshold | PUT/s | GET/s | disk per body byte |\n|---|---|---|---|")?;
    for threshold in THRESHOLDS_KIB {
        let data = folder.join(format!("kura-bench-{threshold}"));
        let node = Node::start(&kura, &data, threshold)?;
        let measured = runtime.block_on(measure(&data))?;
        drop(node);
        std::fs::remove_dir_all(&data)?;
        let Measured { puts, gets, space } = measured;
        writeln!(out, "| {threshold} KiB | {puts:.0} | {gets:.0} | {space:.2} |")?;
    }
    Ok(())
}

struct Measured {
    puts: f64,
    gets: f64,
    space: f64,
}

async fn measure(data: &Path) -> anyhow::Result<Measured> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    wait_ready(&client).await?;
    let bodies = bodies();
    let puts = rate(&bodies, |number, len| {
        let (client, url) = (client.clone(), format!("http://127.0.0.1:{PORT}/v1/cache/{number}"));
        async move {
            client.put(url).body(body(number, len)).send().await?.error_for_status()?;
            anyhow::Ok(())
        }
    });
    let puts = puts.await?;
    let gets = rate(&bodies, |number, len| {
        let (client, url) = (client.clone(), format!("http://127.0.0.1:{PORT}/v1/cache/{number}"));
        async move {
            let bytes = client.get(url).send().await?.error_for_status()?.bytes().await?;
            anyhow::ensure!(bytes.len() as u64 == len, "{number}: {} of {len} bytes", bytes.len());
            Ok(())
        }
    });
    let gets = gets.await?;
    let total: u64 = bodies.iter().map(|(_, len)| len).sum();
    Ok(Measured { puts, gets, space: allocated_bytes(data)? as f64 / total as f64 })
}

/// Number and length of each body, the same in every run.
fn bodies() -> Vec<(u64, u64)> {
    let mut random = rand::rngs::StdRng::seed_from_u64(1);
    let span = (LARGEST_BYTES / SMALLEST_BYTES).ln();
    (0..BODIES).map(|number| (number, (SMALLEST_BYTES * (span * random.random::<f64>()).exp()) as u64)).collect()
}

/// Bytes that do not compress.
fn body(number: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    rand::rngs::StdRng::seed_from_u64(number).fill_bytes(&mut bytes);
    bytes
}

/// Requests a second over [`CONNECTIONS`] tasks that share the list.
async fn rate<F>(bodies: &[(u64, u64)], request: impl Fn(u64, u64) -> F) -> anyhow::Result<f64>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let start = Instant::now();
    let lane = |lane: u64| {
        let request = &request;
        async move {
            for (number, len) in bodies.iter().filter(|(number, _)| number % CONNECTIONS == lane) {
                request(*number, *len).await?;
            }
            anyhow::Ok(())
        }
    };
    futures_util::future::try_join_all((0..CONNECTIONS).map(lane)).await?;
    Ok(bodies.len() as f64 / start.elapsed().as_secs_f64())
}

async fn wait_ready(client: &reqwest::Client) -> anyhow::Result<()> {
    for _ in 0..600 {
        let answer = client.get(format!("http://127.0.0.1:{PORT}/ready")).send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("the node did not become ready")
}

fn allocated_bytes(folder: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(folder)? {
        let (path, meta) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
        // st_blocks counts in 512 bytes whatever the block size is.
        total += meta.blocks() * 512;
        if meta.is_dir() {
            total += allocated_bytes(&path)?;
        }
    }
    Ok(total)
}

/// A running node, killed when dropped.
struct Node(Child);

impl Node {
    fn start(kura: &Path, data: &Path, threshold_kib: u64) -> anyhow::Result<Self> {
        let mut command = Command::new(kura);
        command.arg("serve").arg("--data-dir").arg(data);
        command.args(["--port", &PORT.to_string(), "--internal-port", &(PORT + 1).to_string()]);
        command.args(["--node-url", &format!("http://127.0.0.1:{}", PORT + 1)]);
        command.args(["--inline-max-bytes", &(threshold_kib * 1024).to_string()]);
        Ok(Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("starting kura serve")?))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
