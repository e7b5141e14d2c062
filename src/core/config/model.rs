//! What a node runs with: the resolved settings as plain values.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What an acknowledged write survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Power loss: bodies and the index log are synced before the answer.
    Power,
    /// kill -9: the kernel holds the bytes; they are synced periodically.
    Process,
}

/// Every setting, resolved and checked. Sizes are bytes.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where everything durable lies.
    pub data_dir: PathBuf,
    /// Where staging areas lie; `<data>/tmp` unless set.
    pub tmp_dir: PathBuf,
    /// The address both listeners bind to.
    pub bind: IpAddr,
    /// The public port; 0 lets the system choose.
    pub port: u16,
    /// The port for peers; 0 lets the system choose.
    pub internal_port: u16,
    /// The URL under which peers reach this node; its identity in the mesh.
    pub node_url: String,
    /// The tenant whose artifacts this mesh holds; part of every artifact id.
    pub tenant_id: String,
    /// The region this node says it is in.
    pub region: String,
    /// Base URLs of configured peers; may name this node itself.
    pub peers: Vec<String>,
    /// A DNS name whose addresses are peers.
    pub discovery_dns_name: Option<String>,
    /// What an acknowledged write survives.
    pub durability: Durability,
    /// The staging budget.
    pub tmp_dir_max_bytes: u64,
    /// Upper bound on stored artifacts, if set.
    pub cas_capacity_bytes: Option<u64>,
    /// Largest key-value entry and inline replication body.
    pub max_keyvalue_bytes: u64,
    /// Bodies up to this size lie inside the index; larger ones are files.
    pub inline_max_bytes: u64,
    /// How long a drain may take.
    pub drain_completion_timeout: Duration,
    /// Peers caught up from at the same time.
    pub bootstrap_max_concurrent_peers: usize,
    /// Artifacts fetched at the same time from one peer.
    pub bootstrap_concurrency: usize,
    /// A multipart upload without progress for this long is dropped.
    pub multipart_upload_ttl: Duration,
    /// RocksDB's block cache.
    pub metadata_store_read_cache_bytes: u64,
    /// RocksDB's open-file bound, -1 for none.
    pub metadata_store_max_open_files: i32,
    /// Threads of the async runtime.
    pub tokio_worker_threads: usize,
}
