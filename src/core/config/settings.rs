//! The one list of settings: what flags, variables, file keys and the README's table are made from.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::machine::Machine;
use super::model::Config;
use super::values::{self, Expected};
use super::variables::{PREFIX, Variables};
use crate::core::base::units::ByteSize;
use crate::core::telemetry::logging::{LogFormat, LogSettings};

/// What a setting's value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Path,
    /// An IP address.
    Address,
    /// A port, 0 for any free one.
    Port,
    /// A base URL.
    Url,
    /// Base URLs: a repeated flag, a comma list in a variable, a list in the file.
    Urls,
    /// A host name.
    DnsName,
    /// A short text.
    Name,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// Bytes.
    Size,
    /// A length of time; bare numbers are milliseconds.
    Duration,
    /// A whole number.
    Count,
    /// A level, or a list of `target=level`.
    LogFilter,
}

impl Kind {
    /// The placeholder in help texts.
    pub fn value_name(self) -> String {
        match self {
            Self::Path => "DIR",
            Self::Address => "ADDRESS",
            Self::Port => "PORT",
            Self::Url | Self::Urls => "URL",
            Self::DnsName => "DNS",
            Self::Name => "NAME",
            Self::Choice(words) => return words.join("|"),
            Self::Size => "SIZE",
            Self::Duration => "DURATION",
            Self::Count => "N",
            Self::LogFilter => "LEVEL",
        }
        .to_owned()
    }

    /// What is expected when the value is not even of the right type.
    pub(super) fn expected(self) -> &'static str {
        match self {
            Self::Path => "a path",
            Self::Address => "an IP address such as 127.0.0.1 or 0.0.0.0",
            Self::Port => "a port from 0 to 65535",
            Self::Url => "a URL such as http://10.0.0.7:7443",
            Self::Urls => "a list of URLs",
            Self::DnsName => "a DNS name",
            Self::Name => "a name",
            Self::Choice(_) => "a word",
            Self::Size => "a size such as 1048576, 512KiB or 8GiB",
            Self::Duration => "milliseconds, or a duration such as 90s, 15m or 7d",
            Self::Count => "a whole number",
            Self::LogFilter => "a level",
        }
    }
}

/// Settings that stand together in help and README.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Where things lie and how long they stay.
    Storage,
    /// Listeners and names.
    Node,
    /// Other nodes.
    Mesh,
    /// Logs and threads.
    Process,
}

/// Settings while they are being put together.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) config: Config,
    pub(super) log: LogSettings,
}

/// What derived defaults derive from; settings earlier in the list are final.
pub(super) struct Given<'a> {
    pub(super) draft: &'a Draft,
    pub(super) machine: &'a Machine,
    pub(super) variables: &'a Variables,
}

/// Works a default out from what is given.
type Derive = fn(&Given<'_>) -> Result<String, &'static str>;

/// What a setting is when nobody sets it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Preset {
    /// This very text.
    Text(&'static str),
    /// Worked out; the first part says how.
    Derived(&'static str, Derive),
    /// Nothing; the text says what that means.
    Unset(&'static str),
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its name in snake_case, which is the key of the file.
    pub key: &'static str,
    /// What its value looks like.
    pub kind: Kind,
    /// Where it stands in help and README.
    pub group: Group,
    /// One line of help, without a full stop.
    pub help: &'static str,
    pub(super) preset: Preset,
    pub(super) set: fn(&mut Draft, &str) -> Result<(), Expected>,
}

impl Setting {
    /// The flag without its dashes.
    pub fn flag(&self) -> String {
        match self.key {
            "peers" => "peer".to_owned(),
            "discovery_dns_name" => "discover".to_owned(),
            key => key.replace('_', "-"),
        }
    }

    /// The variable's name in kebab-case where [`Setting::flag`] is a shorter word.
    pub fn flag_alias(&self) -> Option<String> {
        let plain = self.key.replace('_', "-");
        (plain != self.flag()).then_some(plain)
    }

    /// The environment variable.
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.key.to_ascii_uppercase())
    }

    /// The default as help and README show it.
    pub fn default_text(&self) -> &'static str {
        match self.preset {
            Preset::Text(text) | Preset::Derived(text, _) | Preset::Unset(text) => text,
        }
    }
}

/// The setting with this key.
pub fn setting(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

fn put<T>(slot: &mut T, read: Result<T, Expected>) -> Result<(), Expected> {
    *slot = read?;
    Ok(())
}

/// Bodies above this never belong into the index: extents are rewritten by compaction.
const INLINE_BYTES_MAX: u64 = 1 << 20;

/// A key-value entry is held whole in memory while it is written.
const KEYVALUE_BYTES_MAX: u64 = 64 << 20;

/// More passes or fetches at a time than this only queue in the kernel.
const CONCURRENCY_MAX: usize = 1024;

/// Every setting. A later default may derive from an earlier setting.
pub static SETTINGS: &[Setting] = &[
    Setting {
        key: "data_dir",
        kind: Kind::Path,
        group: Group::Storage,
        help: "Where everything durable lies",
        preset: Preset::Derived("`$XDG_STATE_HOME/kura` or `~/.local/state/kura`", default_data_dir),
        set: |draft, text| put(&mut draft.config.data_dir, values::path(text)),
    },
    Setting {
        key: "tmp_dir",
        kind: Kind::Path,
        group: Group::Storage,
        help: "Where bodies are staged; on the volume of the data dir",
        preset: Preset::Derived("`tmp` in the data dir", |given| Ok(text_of(&given.draft.config.data_dir.join("tmp")))),
        set: |draft, text| put(&mut draft.config.tmp_dir, values::path(text)),
    },
    Setting {
        key: "tmp_dir_max_bytes",
        kind: Kind::Size,
        group: Group::Storage,
        help: "The staging budget",
        preset: Preset::Text("8GiB"),
        set: |draft, text| put(&mut draft.config.tmp_dir_max_bytes, values::size(text)),
    },
    Setting {
        key: "cas_capacity_bytes",
        kind: Kind::Size,
        group: Group::Storage,
        help: "Upper bound on stored artifacts",
        preset: Preset::Unset("what the volume allows"),
        set: |draft, text| put(&mut draft.config.cas_capacity_bytes, values::size(text).map(Some)),
    },
    Setting {
        key: "durability",
        kind: Kind::Choice(&["power", "process"]),
        group: Group::Storage,
        help: "What an acknowledged write survives: power loss, or the death of the process",
        preset: Preset::Text("power"),
        set: |draft, text| put(&mut draft.config.durability, values::durability(text)),
    },
    Setting {
        key: "inline_max_bytes",
        kind: Kind::Size,
        group: Group::Storage,
        help: "Bodies up to this size lie inside the index, larger ones are files",
        preset: Preset::Text("32KiB"),
        set: |draft, text| put(&mut draft.config.inline_max_bytes, values::size_to(text, INLINE_BYTES_MAX)),
    },
    Setting {
        key: "max_keyvalue_bytes",
        kind: Kind::Size,
        group: Group::Storage,
        help: "Largest key-value entry and inline body from a peer",
        preset: Preset::Text("1MiB"),
        set: |draft, text| put(&mut draft.config.max_keyvalue_bytes, values::size_to(text, KEYVALUE_BYTES_MAX)),
    },
    Setting {
        key: "multipart_upload_ttl_ms",
        kind: Kind::Duration,
        group: Group::Storage,
        help: "A multipart upload without progress for this long is dropped",
        preset: Preset::Text("15m"),
        set: |draft, text| put(&mut draft.config.multipart_upload_ttl, values::duration(text)),
    },
    Setting {
        key: "metadata_store_read_cache_bytes",
        kind: Kind::Size,
        group: Group::Storage,
        help: "The index's block cache",
        preset: Preset::Derived("memory / 32, from 16 MiB to 128 MiB", |given| {
            Ok((given.machine.memory_bytes / 32).clamp(16 << 20, 128 << 20).to_string())
        }),
        set: |draft, text| put(&mut draft.config.metadata_store_read_cache_bytes, values::size(text)),
    },
    Setting {
        key: "metadata_store_max_open_files",
        kind: Kind::Count,
        group: Group::Storage,
        help: "The index's open files, -1 for no bound",
        preset: Preset::Derived("half of the file limit, from 128 to 1024", |given| {
            Ok((given.machine.open_files_max / 2).clamp(128, 1024).to_string())
        }),
        set: |draft, text| put(&mut draft.config.metadata_store_max_open_files, values::open_files(text)),
    },
    Setting {
        key: "bind",
        kind: Kind::Address,
        group: Group::Node,
        help: "The address both listeners bind to",
        preset: Preset::Text("127.0.0.1"),
        set: |draft, text| put(&mut draft.config.bind, values::address(text)),
    },
    Setting {
        key: "port",
        kind: Kind::Port,
        group: Group::Node,
        help: "The port for build tools, 0 for any free one",
        preset: Preset::Text("4000"),
        set: |draft, text| put(&mut draft.config.port, values::port(text)),
    },
    Setting {
        key: "internal_port",
        kind: Kind::Port,
        group: Group::Node,
        help: "The port for peers, 0 for any free one",
        preset: Preset::Text("7443"),
        set: |draft, text| put(&mut draft.config.internal_port, values::port(text)),
    },
    Setting {
        key: "node_url",
        kind: Kind::Url,
        group: Group::Node,
        help: "Under which peers reach this node; its identity in the mesh",
        preset: Preset::Derived("`http://127.0.0.1:<internal port>`", default_node_url),
        set: |draft, text| put(&mut draft.config.node_url, values::base_url(text)),
    },
    Setting {
        key: "tenant_id",
        kind: Kind::Name,
        group: Group::Node,
        help: "The tenant whose artifacts this mesh holds; the same on all its nodes",
        preset: Preset::Text("default"),
        set: |draft, text| put(&mut draft.config.tenant_id, values::name(text)),
    },
    Setting {
        key: "region",
        kind: Kind::Name,
        group: Group::Node,
        help: "The region this node says it is in",
        preset: Preset::Text("local"),
        set: |draft, text| put(&mut draft.config.region, values::name(text)),
    },
    Setting {
        key: "drain_completion_timeout_ms",
        kind: Kind::Duration,
        group: Group::Node,
        help: "How long a drain may take",
        preset: Preset::Text("4m"),
        set: |draft, text| put(&mut draft.config.drain_completion_timeout, values::duration(text)),
    },
    Setting {
        key: "peers",
        kind: Kind::Urls,
        group: Group::Mesh,
        help: "A peer's base URL, its own allowed; repeat the flag, or separate by commas",
        preset: Preset::Unset("none"),
        set: |draft, text| put(&mut draft.config.peers, values::base_urls(text)),
    },
    Setting {
        key: "discovery_dns_name",
        kind: Kind::DnsName,
        group: Group::Mesh,
        help: "A DNS name whose addresses are peers",
        preset: Preset::Unset("none"),
        set: |draft, text| put(&mut draft.config.discovery_dns_name, values::dns_name(text).map(Some)),
    },
    Setting {
        key: "bootstrap_max_concurrent_peers",
        kind: Kind::Count,
        group: Group::Mesh,
        help: "Peers caught up from at the same time",
        preset: Preset::Text("8"),
        set: |draft, text| put(&mut draft.config.bootstrap_max_concurrent_peers, values::count(text, CONCURRENCY_MAX)),
    },
    Setting {
        key: "bootstrap_concurrency",
        kind: Kind::Count,
        group: Group::Mesh,
        help: "Artifacts fetched from one peer at the same time",
        preset: Preset::Text("16"),
        set: |draft, text| put(&mut draft.config.bootstrap_concurrency, values::count(text, CONCURRENCY_MAX)),
    },
    Setting {
        key: "tokio_worker_threads",
        kind: Kind::Count,
        group: Group::Process,
        help: "Threads of the async runtime",
        preset: Preset::Derived("CPUs, from 2 to 16", |given| Ok(given.machine.cpus.clamp(2, 16).to_string())),
        set: |draft, text| put(&mut draft.config.tokio_worker_threads, values::count(text, CONCURRENCY_MAX)),
    },
    Setting {
        key: "log_level",
        kind: Kind::LogFilter,
        group: Group::Process,
        help: "error, warn, info, debug or trace, or a list such as info,kura::core::mesh=debug",
        preset: Preset::Text("info"),
        set: |draft, text| put(&mut draft.log.filter, LogSettings::read_filter(text)),
    },
    Setting {
        key: "log_format",
        kind: Kind::Choice(&["text", "json"]),
        group: Group::Process,
        help: "How log lines look",
        preset: Preset::Text("text"),
        set: |draft, text| put(&mut draft.log.format, LogFormat::read(text).ok_or_else(|| "text or json".to_owned())),
    },
];

/// The user's state directory; a relative `XDG_STATE_HOME` is invalid by its specification and ignored.
fn default_data_dir(given: &Given<'_>) -> Result<String, &'static str> {
    let absolute = |name: &str| given.variables.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    state.map(|state| text_of(&state.join("kura"))).ok_or("neither XDG_STATE_HOME nor HOME is set")
}

/// On this machine only; a node bound to another loopback address says that one.
fn default_node_url(given: &Given<'_>) -> Result<String, &'static str> {
    let bind = given.draft.config.bind;
    let address = if bind.is_loopback() { bind } else { IpAddr::V4(Ipv4Addr::LOCALHOST) };
    Ok(format!("http://{}", SocketAddr::new(address, given.draft.config.internal_port)))
}

fn text_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The README's table of settings.
pub fn markdown_table() -> String {
    let mut table = "| flag | variable | file key | default | meaning |\n|---|---|---|---|---|\n".to_owned();
    for setting in SETTINGS {
        let default = match setting.preset {
            Preset::Text(text) => shown(setting.kind, text),
            Preset::Derived(text, _) | Preset::Unset(text) => text.to_owned(),
        };
        let (flag, variable, key) = (setting.flag(), setting.variable(), setting.key);
        let _ = writeln!(table, "| `--{flag}` | `{variable}` | `{key}` | {default} | {} |", setting.help);
    }
    table
}

/// A literal default, sizes as people write them.
fn shown(kind: Kind, text: &str) -> String {
    match (kind, text.parse::<ByteSize>()) {
        (Kind::Size, Ok(size)) => format!("`{}`", size.to_string().replace(' ', "")),
        _ => format!("`{text}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_flags_and_variables_are_distinct_and_well_formed() {
        let mut seen = std::collections::HashSet::new();
        for setting in SETTINGS {
            assert!(setting.key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", setting.key);
            assert!(seen.insert(setting.flag()), "{}", setting.key);
            assert!(seen.insert(setting.variable()), "{}", setting.key);
            assert!(!setting.help.ends_with('.') && !setting.default_text().is_empty(), "{}", setting.key);
        }
    }

    #[test]
    fn names_are_the_same_word_in_three_spellings() {
        let setting = setting("tmp_dir_max_bytes").unwrap();
        assert_eq!((setting.flag(), setting.variable()), ("tmp-dir-max-bytes".into(), "KURA_TMP_DIR_MAX_BYTES".into()));
        let peers = super::setting("peers").unwrap();
        assert_eq!((peers.flag(), peers.flag_alias()), ("peer".into(), Some("peers".into())));
        let name = super::setting("discovery_dns_name").unwrap();
        assert_eq!((name.flag(), name.variable()), ("discover".into(), "KURA_DISCOVERY_DNS_NAME".into()));
    }
}
