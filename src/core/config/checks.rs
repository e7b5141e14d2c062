//! Values that are fine alone and not together.
//!
//! Only settings that were read take part: one that is already faulty is not accused twice.

use url::Url;

use super::errors::ConfigFault;
use super::model::Config;
use super::resolve::{ResolvedSetting, Source};

/// Every contradiction, each naming its settings with their values and sources.
pub(super) fn contradictions(config: &Config, settings: &[ResolvedSetting]) -> Vec<ConfigFault> {
    let checks = [ports_collide, node_url_port, unreachable_node_url, tmp_is_data];
    checks.iter().filter_map(|check| check(config, &Read(settings))).collect()
}

/// The settings that could be read.
struct Read<'a>(&'a [ResolvedSetting]);

impl Read<'_> {
    fn has(&self, keys: &[&str]) -> bool {
        keys.iter().all(|key| self.0.iter().any(|setting| setting.key == *key))
    }

    fn is_default(&self, key: &str) -> bool {
        self.0.iter().any(|setting| setting.key == key && setting.source == Source::Default)
    }

    /// `--bind 0.0.0.0`, `KURA_PORT=4000`, ...: a setting as its source has it.
    fn quote(&self, key: &str) -> String {
        let Some(setting) = self.0.iter().find(|setting| setting.key == key) else { return key.to_owned() };
        let value = setting.value.as_deref().unwrap_or_default();
        match &setting.source {
            Source::Variable => format!("{}={value}", setting.source.name(key)),
            Source::Flag => format!("{} {value}", setting.source.name(key)),
            Source::File { path, line } => format!("{path}:{line} {key} = {value}"),
            Source::Default => format!("the default {key} {value}"),
        }
    }

    fn contradiction(&self, keys: Vec<&'static str>, problem: &str) -> ConfigFault {
        let quoted: Vec<String> = keys.iter().map(|key| self.quote(key)).collect();
        ConfigFault::Contradiction { problem: format!("{}: {problem}", quoted.join(" and ")), keys }
    }
}

fn ports_collide(config: &Config, read: &Read<'_>) -> Option<ConfigFault> {
    let keys = vec!["port", "internal_port"];
    let collide = read.has(&keys) && config.port != 0 && config.port == config.internal_port;
    collide.then(|| read.contradiction(keys, "build tools and peers need a port each"))
}

/// Peers dial the port in the URL, so it must be the one that listens; with port 0 it is not known yet.
fn node_url_port(config: &Config, read: &Read<'_>) -> Option<ConfigFault> {
    let keys = vec!["node_url", "internal_port"];
    if !read.has(&keys) || config.internal_port == 0 || read.is_default("node_url") {
        return None;
    }
    let port = Url::parse(&config.node_url).ok()?.port_or_known_default();
    (port != Some(config.internal_port))
        .then(|| read.contradiction(keys, "peers reach this node at its internal port, so the URL must name it"))
}

/// A node that others can reach, that knows of others, and tells them to call it at their own loopback address.
fn unreachable_node_url(config: &Config, read: &Read<'_>) -> Option<ConfigFault> {
    let source = if config.peers.is_empty() { "discovery_dns_name" } else { "peers" };
    let keys = vec!["bind", source, "node_url"];
    let has_source = !config.peers.is_empty() || config.discovery_dns_name.is_some();
    let contradicts = read.has(&keys) && has_source && !config.bind.is_loopback() && read.is_default("node_url");
    contradicts.then(|| read.contradiction(keys, "set --node-url to the URL under which the peers reach this node"))
}

/// Staging is emptied by folder; a tmp dir that is the data dir would put both under one roof.
fn tmp_is_data(config: &Config, read: &Read<'_>) -> Option<ConfigFault> {
    let keys = vec!["data_dir", "tmp_dir"];
    let same = read.has(&keys) && config.data_dir == config.tmp_dir;
    same.then(|| read.contradiction(keys, "staging needs a folder of its own"))
}
