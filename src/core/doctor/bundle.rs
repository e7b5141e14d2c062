//! What somebody else needs to understand a node: gathered into one archive, and read back.
//!
//! How it works: [`gather`] takes what the running node says (status, metrics, probes, its last log lines) and small files of the data dir
//! (run record, identity, the end of the index's own log). The caller adds the report and the settings, and
//! [`write`] takes the secrets out of everything and makes the archive.
//!
//! Invariants: only texts go in, each bounded, each cleaned; no body, no key of the index, no environment. The data dir
//! is only read. What cannot be had is left out and named in `bundle.json`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::context::{Context, Vantage};
use super::live::{ANSWER_TIMEOUT, ask_for_log};
use super::redaction::Secrets;
use super::run::rfc3339;
use crate::core::base::tar::{TarWriter, read_all};

/// The schema's name.
pub const SCHEMA: &str = "kura.bundle/v1";

/// What a reader takes of an archive: many times what a node writes.
const BUNDLE_BYTES_MAX: usize = 256 << 20;
/// Largest answer of the node that goes in.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Of each log its end.
const LOG_BYTES_MAX: u64 = 256 << 10;

/// The last lines that the node logged.
pub const NODE_LOG: &str = "logs/node.log";

/// `bundle.json`: what the archive is, and what is not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BundleHead {
    /// [`SCHEMA`].
    pub schema: String,
    /// The version of kura that made it.
    pub version: String,
    /// RFC 3339, UTC.
    pub made_at: String,
    /// The machine.
    pub host: String,
    /// The files beside this one.
    pub files: Vec<String>,
    /// What should have been in it and could not be had, with the reason.
    pub absent: Vec<String>,
}

/// Files of a bundle being made, and what could not be had.
#[derive(Debug, Default)]
pub struct Parts {
    files: Vec<(String, String)>,
    absent: Vec<String>,
}

impl Parts {
    /// Adds a text.
    pub fn add(&mut self, name: &str, text: String) {
        self.files.push((name.to_owned(), text));
    }

    fn try_add(&mut self, name: &str, text: io::Result<String>) {
        match text {
            Ok(text) => self.add(name, text),
            Err(error) => self.absent.push(format!("{name}: {error}")),
        }
    }
}

/// What the node and its data dir tell. Blocks.
pub fn gather(context: &Context) -> Parts {
    let mut parts = Parts::default();
    match &context.vantage {
        Vantage::Live(status) => {
            parts.try_add("status.json", serde_json::to_string_pretty(status).map_err(io::Error::from));
            let address = status.public_address.as_deref().and_then(|address| address.parse().ok());
            for (name, path) in
                [("metrics.txt", "/metrics"), ("ready.json", "/ready"), ("rollout.json", "/status/rollout")]
            {
                let asked = address.ok_or_else(|| io::Error::other("the node has no public address yet"));
                parts.try_add(name, asked.and_then(|address| asked_over_http(address, path)));
            }
            let socket = context.layout.as_ref().map(|layout| layout.control_socket());
            parts.try_add(NODE_LOG, socket.ok_or_else(|| io::ErrorKind::NotFound.into()).and_then(node_log));
        }
        Vantage::Offline(reason) => parts.absent.push(format!("status.json, metrics.txt, {NODE_LOG}: {reason}")),
    }
    let Some(layout) = &context.layout else { return parts };
    for (name, path) in [
        ("data_dir/run.json", layout.run_record()),
        ("data_dir/identity", layout.identity()),
        ("logs/index.log", layout.index().join("LOG")),
    ] {
        parts.try_add(name, end_of(&path));
    }
    parts
}

/// Cleans everything, and makes the archive.
///
/// # Errors
/// What the sink says.
pub fn write(parts: Parts, secrets: &Secrets, now_ms: u64, out: impl Write) -> io::Result<BundleHead> {
    let head = BundleHead {
        schema: SCHEMA.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        made_at: rfc3339(now_ms),
        host: crate::core::data_dir::lock::host_name(),
        files: parts.files.iter().map(|(name, _)| name.clone()).collect(),
        absent: parts.absent.iter().map(|line| secrets.cleaned(line)).collect(),
    };
    let mut archive = TarWriter::new(out, now_ms / 1000);
    archive.file("bundle.json", serde_json::to_string_pretty(&head)?.as_bytes())?;
    for (name, text) in &parts.files {
        archive.file(name, secrets.cleaned(text).as_bytes())?;
    }
    archive.finish()?;
    Ok(head)
}

/// A bundle that was read back.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// What it is.
    pub head: BundleHead,
    files: Vec<(String, Vec<u8>)>,
}

impl Bundle {
    /// Reads an archive.
    ///
    /// # Errors
    /// `InvalidData` for what is no bundle; else what the source says.
    pub fn read(source: impl Read) -> io::Result<Self> {
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let files = read_all(source, BUNDLE_BYTES_MAX)?;
        let head = files.iter().find(|(name, _)| name == "bundle.json");
        let head = head.ok_or_else(|| invalid("it has no bundle.json".to_owned()))?;
        let head: BundleHead = serde_json::from_slice(&head.1)?;
        if head.schema != SCHEMA {
            return Err(invalid(format!("it is {:?}, this reads {SCHEMA:?}", head.schema)));
        }
        Ok(Self { head, files })
    }

    /// A file in it, as text.
    pub fn text(&self, name: &str) -> Option<String> {
        let (_, content) = self.files.iter().find(|(known, _)| known == name)?;
        Some(String::from_utf8_lossy(content).into_owned())
    }
}

/// What the running node kept of its log, a line each.
fn node_log(socket: PathBuf) -> io::Result<String> {
    let log = ask_for_log(&socket).map_err(io::Error::other)?;
    let mut text = String::new();
    if log.dropped > 0 {
        text = format!("({} older lines are not kept)\n", log.dropped);
    }
    log.lines.iter().for_each(|line| text.extend([line, "\n"]));
    Ok(text)
}

/// A GET over HTTP/1.0, whose answer ends with the connection. An address that is bound to all is asked on loopback.
fn asked_over_http(address: SocketAddr, path: &str) -> io::Result<String> {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip, address.port()), ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: kura\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    body.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer was cut short"))
}

/// The end of a text file.
fn end_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::doctor::test_support::{context, listing, store};

    #[test]
    fn a_bundle_without_a_node_has_what_lies_there_and_says_what_is_absent() {
        let root = tempfile::tempdir().unwrap();
        drop(store(root.path()));
        let before = listing(root.path());
        let mut parts = gather(&context(root.path()));
        parts.add("doctor.json", "{\"url\":\"http://me:hunter2@a\"}".to_owned());
        let mut bytes = Vec::new();
        let head = write(parts, &Secrets::default(), 1_750_000_000_000, &mut bytes).unwrap();
        assert_eq!(listing(root.path()), before, "looking changes nothing");
        let bundle = Bundle::read(bytes.as_slice()).unwrap();
        assert_eq!((&bundle.head, bundle.head.made_at.as_str()), (&head, "2025-06-15T15:06:40Z"));
        assert_eq!(bundle.text("doctor.json").unwrap(), "{\"url\":\"http://…@a\"}");
        assert!(bundle.text("data_dir/identity").is_some() && bundle.text("logs/index.log").is_some(), "{head:?}");
        assert!(head.absent.iter().any(|line| line.starts_with("status.json")), "{head:?}");
    }

    #[test]
    fn what_is_no_bundle_or_of_another_kind_is_refused() {
        assert!(Bundle::read(&b"plain text"[..]).is_err());
        let mut other = TarWriter::new(Vec::new(), 0);
        other.file("bundle.json", br#"{"schema":"kura.bundle/v9"}"#).unwrap();
        let refused = Bundle::read(other.finish().unwrap().as_slice()).unwrap_err();
        assert!(refused.to_string().contains("kura.bundle/v9"), "{refused}");
    }
}
