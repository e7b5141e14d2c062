//! The environment as a value, and what to make of `KURA_*` variables that no setting reads.
//!
//! How it works: pods of the seed era set variables kura has no use for, and Kubernetes adds some of its own beside a
//! Service named `kura` (`KURA_PORT=tcp://10.0.0.7:4000`, `KURA_SERVICE_HOST`, ...). None of them stops a node: each
//! is named in a warning, and those two families in one warning each.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::errors::ConfigWarning;
use super::nearest::nearest;
use super::settings::SETTINGS;

/// What every variable of kura starts with.
pub(super) const PREFIX: &str = "KURA_";

/// Names the optional file; the command line reads it, not [`super::resolve`].
pub(super) const CONFIG_FILE_VARIABLE: &str = "KURA_CONFIG";

/// Variables of the seed era for which kura has no setting: whole names, or beginnings when they end in `_`.
const UNSUPPORTED: [&str; 29] = [
    "KURA_ACCELERATED_FILE_SERVING_",
    "KURA_ADVERTISED_HTTP_URL",
    "KURA_ANALYTICS_",
    "KURA_BOOTSTRAP_TIMEOUT_MS",
    "KURA_COMBINED_PORT",
    "KURA_CONTROL_PLANE_",
    "KURA_ENROLL_ON_BOOT",
    "KURA_EXTENSION_",
    "KURA_FILE_DESCRIPTOR_",
    "KURA_GEOIP_",
    "KURA_GLOBAL_DISCOVERY_DNS_NAME",
    "KURA_GRPC_",
    "KURA_HTTPS_PORT",
    "KURA_INTERNAL_TLS_",
    "KURA_MANIFEST_CACHE_MAX_BYTES",
    "KURA_MEMORY_",
    "KURA_MESH_PEERS_SYNC",
    "KURA_METADATA_STORE_",
    "KURA_MULTIPART_JANITOR_INTERVAL_MS",
    "KURA_NODE_COUNTRY",
    "KURA_NODE_SUBDIVISION",
    "KURA_OTEL_",
    "KURA_OUTBOX_MAX_DEPTH",
    "KURA_PEER_GATEWAY_URL",
    "KURA_PUBLIC_TLS_",
    "KURA_REGISTRATION_",
    "KURA_REPLICATION_",
    "KURA_SEGMENT_HANDLE_CACHE_SIZE",
    "KURA_SENTRY_DSN",
];

/// The seed era's usage reports; apart because the list above is by whole features.
const UNSUPPORTED_USAGE: &str = "KURA_USAGE_";

/// All variables of a process; tests make their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variables(BTreeMap<String, OsString>);

impl Variables {
    /// From name and value; names that are not UTF-8 cannot be kura's and are left out.
    pub fn new(pairs: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Self(pairs.into_iter().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect())
    }

    /// From texts.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect())
    }

    /// A variable's value; an empty one counts as not set, as templates of pods leave such behind.
    pub fn get(&self, name: &str) -> Option<&OsString> {
        self.0.get(name).filter(|value| !value.is_empty())
    }

    /// The optional settings file that `KURA_CONFIG` names.
    pub fn config_file(&self) -> Option<&OsString> {
        self.get(CONFIG_FILE_VARIABLE)
    }

    /// Warnings about `KURA_*` variables that no setting reads.
    pub(super) fn unread(&self) -> Vec<ConfigWarning> {
        let mut unknown = Vec::new();
        let mut unsupported = Vec::new();
        let mut service_links = Vec::new();
        for (name, value) in self.0.iter().filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty()) {
            if is_service_link(name, &value.to_string_lossy()) {
                service_links.push(name.clone());
            } else if name == CONFIG_FILE_VARIABLE || SETTINGS.iter().any(|setting| setting.variable() == *name) {
            } else if is_unsupported(name) {
                unsupported.push(name.clone());
            } else {
                unknown.push(ConfigWarning::UnknownVariable { name: name.clone(), nearest: nearest_variable(name) });
            }
        }
        let folded = [
            (!service_links.is_empty()).then_some(ConfigWarning::ServiceLinks { names: service_links }),
            (!unsupported.is_empty()).then_some(ConfigWarning::UnsupportedVariables { names: unsupported }),
        ];
        unknown.into_iter().chain(folded.into_iter().flatten()).collect()
    }
}

fn is_unsupported(name: &str) -> bool {
    UNSUPPORTED.iter().chain([&UNSUPPORTED_USAGE]).any(|known| match known.ends_with('_') {
        true => name.starts_with(known),
        false => name == *known,
    })
}

/// What Kubernetes adds for a Service whose name starts with `kura`.
pub(super) fn is_service_link(name: &str, value: &str) -> bool {
    let address = value.starts_with("tcp://") || value.starts_with("udp://");
    (name.ends_with("_PORT") && address)
        || name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || ["_TCP", "_TCP_ADDR", "_TCP_PORT", "_TCP_PROTO"].iter().any(|end| name.ends_with(end))
}

fn nearest_variable(name: &str) -> Option<String> {
    let known: Vec<String> = SETTINGS.iter().map(super::Setting::variable).collect();
    nearest(name, known.iter().map(String::as_str)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(pairs: &[(&str, &str)]) -> Vec<String> {
        Variables::from_pairs(pairs.iter().copied()).unread().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_mistyped_variable_is_named_with_its_nearest() {
        assert_eq!(
            warnings(&[("KURA_DATA_DRI", "/x")]),
            ["KURA_DATA_DRI is not a setting; did you mean KURA_DATA_DIR?"]
        );
        assert_eq!(warnings(&[("KURA_WHATEVER_THIS_IS", "1")]), ["KURA_WHATEVER_THIS_IS is not a setting"]);
    }

    #[test]
    fn variables_of_the_seed_era_are_one_warning() {
        let set = [("KURA_OTEL_SERVICE_NAME", "k"), ("KURA_USAGE_BATCH_SIZE", "1"), ("KURA_PORT", "4000")];
        assert_eq!(warnings(&set), ["not supported and ignored: KURA_OTEL_SERVICE_NAME, KURA_USAGE_BATCH_SIZE"]);
    }

    #[test]
    fn every_variable_of_a_seed_era_pod_is_known_one_way_or_the_other() {
        let pod = "PORT INTERNAL_PORT TENANT_ID REGION TMP_DIR DATA_DIR NODE_URL OTEL_SERVICE_NAME \
            OTEL_DEPLOYMENT_ENVIRONMENT GRPC_PORT PEERS DISCOVERY_DNS_NAME GLOBAL_DISCOVERY_DNS_NAME PEER_GATEWAY_URL \
            INTERNAL_TLS_CA_CERT_PATH INTERNAL_TLS_CERT_PATH INTERNAL_TLS_KEY_PATH PUBLIC_TLS_CERT_PATH \
            PUBLIC_TLS_KEY_PATH HTTPS_PORT GRPC_TLS_CERT_PATH GRPC_TLS_KEY_PATH TMP_DIR_MAX_BYTES CAS_CAPACITY_BYTES \
            DRAIN_COMPLETION_TIMEOUT_MS BOOTSTRAP_TIMEOUT_MS BOOTSTRAP_MAX_CONCURRENT_PEERS OUTBOX_MAX_DEPTH \
            REPLICATION_BANDWIDTH_LIMIT_BYTES_PER_SECOND REPLICATION_PUBLIC_LATENCY_TARGET_MS MAX_KEYVALUE_BYTES \
            MULTIPART_UPLOAD_TTL_MS MULTIPART_JANITOR_INTERVAL_MS FILE_DESCRIPTOR_POOL_SIZE \
            FILE_DESCRIPTOR_ACQUIRE_TIMEOUT_MS SEGMENT_HANDLE_CACHE_SIZE MEMORY_SOFT_LIMIT_BYTES \
            MEMORY_HARD_LIMIT_BYTES MANIFEST_CACHE_MAX_BYTES METADATA_STORE_MAX_OPEN_FILES \
            METADATA_STORE_MAX_BACKGROUND_JOBS METADATA_STORE_READ_CACHE_BYTES METADATA_STORE_WRITE_BUFFER_POOL_BYTES \
            METADATA_STORE_WRITE_BUFFER_BYTES METADATA_STORE_MAX_WRITE_BUFFERS ACCELERATED_FILE_SERVING_ENABLED \
            ACCELERATED_FILE_SERVING_MODE TOKIO_WORKER_THREADS OTEL_EXPORTER_OTLP_TRACES_ENDPOINT SENTRY_DSN \
            GEOIP_REFRESH_INTERVAL_SECS NODE_COUNTRY NODE_SUBDIVISION ANALYTICS_SERVER_URL ANALYTICS_SIGNING_KEY \
            CONTROL_PLANE_URL CONTROL_PLANE_CLIENT_ID CONTROL_PLANE_CLIENT_SECRET USAGE_WINDOW_SECS MESH_PEERS_SYNC \
            ENROLL_ON_BOOT REGISTRATION_URL ADVERTISED_HTTP_URL REGISTRATION_INTERVAL_MS EXTENSION_ENABLED \
            EXTENSION_SIGNER_A_KEY COMBINED_PORT";
        let names: Vec<String> = pod.split_whitespace().map(|name| format!("KURA_{name}")).collect();
        let unread = Variables::from_pairs(names.iter().map(|name| (name.as_str(), "1"))).unread();
        assert!(matches!(unread.as_slice(), [ConfigWarning::UnsupportedVariables { .. }]), "{unread:?}");
    }

    #[test]
    fn what_kubernetes_adds_is_one_warning() {
        let set = [
            ("KURA_PORT", "tcp://10.0.0.7:4000"),
            ("KURA_PORT_4000_TCP", "tcp://10.0.0.7:4000"),
            ("KURA_PORT_4000_TCP_ADDR", "10.0.0.7"),
            ("KURA_SERVICE_HOST", "10.0.0.7"),
            ("KURA_SERVICE_PORT_HTTP", "4000"),
        ];
        let said = warnings(&set);
        assert_eq!(said.len(), 1);
        assert!(said[0].contains("KURA_PORT, KURA_PORT_4000_TCP,"), "{said:?}");
    }

    #[test]
    fn empty_and_foreign_variables_are_nobodys_business() {
        assert_eq!(warnings(&[("KURA_DATA_DRI", ""), ("PATH", "/bin"), ("KURA_CONFIG", "/etc/kura.toml")]), [""; 0]);
    }
}
