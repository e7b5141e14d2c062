//! Precedence, defaults and faults of settings: all faults at once, each with its source.

use super::*;

const MACHINE_MEMORY: u64 = 4 << 30;

fn inputs(flags: &[(&'static str, &str)], variables: &[(&str, &str)], file: Option<&str>) -> Inputs {
    let home = [("HOME", "/home/ann")];
    Inputs {
        flags: flags.iter().map(|(key, text)| (*key, (*text).to_owned())).collect(),
        variables: Variables::from_pairs(home.iter().chain(variables).copied()),
        file: file.map(|text| ConfigFile { path: "kura.toml".to_owned(), text: Ok(text.to_owned()) }),
        machine: Machine {
            memory_bytes: MACHINE_MEMORY,
            cpus: 4,
            open_files_max: 1024,
            current_dir: PathBuf::from("/work-here"),
        },
    }
}

fn faults(inputs: &Inputs) -> Vec<String> {
    resolve(inputs).unwrap_err().faults().iter().map(ToString::to_string).collect()
}

#[test]
fn everything_has_a_default() {
    let resolved = resolve(&inputs(&[], &[], None)).unwrap();
    let config = &resolved.config;
    assert_eq!(config.data_dir, Path::new("/home/ann/.local/state/kura"));
    assert_eq!(config.tmp_dir, Path::new("/home/ann/.local/state/kura/tmp"));
    assert_eq!((config.port, config.internal_port, config.bind.to_string()), (4000, 7443, "127.0.0.1".to_owned()));
    assert_eq!(config.node_url, "http://127.0.0.1:7443");
    assert_eq!((config.tenant_id.as_str(), config.region.as_str()), ("default", "local"));
    assert_eq!((config.durability, config.tmp_dir_max_bytes), (Durability::Power, 8 << 30));
    assert_eq!(config.drain_completion_timeout, Duration::from_secs(240));
    assert_eq!(config.multipart_upload_ttl, Duration::from_secs(900));
    assert_eq!((config.metadata_store_read_cache_bytes, config.metadata_store_max_open_files), (128 << 20, 512));
    assert_eq!((config.tokio_worker_threads, config.cas_capacity_bytes), (4, None));
    assert!(config.peers.is_empty() && config.discovery_dns_name.is_none());
    assert!(resolved.warnings.is_empty());
    assert!(resolved.settings.iter().all(|setting| setting.source == Source::Default));
    assert_eq!(resolved.settings.len(), SETTINGS.len());
}

#[test]
fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
    let file = Some("region = \"file\"\nport = 1003\ntenant_id = \"file\"\n");
    let variables = [("KURA_REGION", "variable"), ("KURA_PORT", "1002")];
    let resolved = resolve(&inputs(&[("region", "flag")], &variables, file)).unwrap();
    let config = &resolved.config;
    assert_eq!((config.region.as_str(), config.port, config.tenant_id.as_str()), ("flag", 1002, "file"));
    assert_eq!(resolved.source("region"), Some(&Source::Flag));
    assert_eq!(resolved.source("port"), Some(&Source::Variable));
    assert_eq!(resolved.source("tenant_id"), Some(&Source::File { path: "kura.toml".to_owned(), line: 3 }));
}

#[test]
fn state_home_comes_before_home_and_the_data_dir_may_have_no_default() {
    let mut given = inputs(&[], &[("XDG_STATE_HOME", "/state")], None);
    assert_eq!(resolve(&given).unwrap().config.data_dir, Path::new("/state/kura"));
    given.variables = Variables::from_pairs([("XDG_STATE_HOME", "relative")]);
    assert_eq!(faults(&given), ["--data-dir: no default: neither XDG_STATE_HOME nor HOME is set"]);
}

#[test]
fn relative_paths_become_absolute_and_tmp_follows_the_data_dir() {
    let config = resolve(&inputs(&[("data_dir", "node1")], &[], None)).unwrap().config;
    assert_eq!(
        (config.data_dir.as_path(), config.tmp_dir.as_path()),
        (Path::new("/work-here/node1"), Path::new("/work-here/node1/tmp"))
    );
}

#[test]
fn all_faults_come_at_once_each_with_its_place() {
    let file = Some("prot = 1\ntmp_dir_max_bytes = 0\n");
    let variables = [("KURA_DURABILITY", "never"), ("KURA_DRAIN_COMPLETION_TIMEOUT_MS", "0")];
    let given = inputs(&[("port", "70000"), ("peers", "http://a:1,b:2")], &variables, file);
    assert_eq!(
        faults(&given),
        [
            "kura.toml:1: unknown key `prot`; did you mean `port`?",
            "kura.toml:2 (tmp_dir_max_bytes): expected a size above 0, got \"0\"",
            "KURA_DURABILITY: expected power or process, got \"never\"",
            "--port: expected a port from 0 to 65535, got \"70000\"",
            "KURA_DRAIN_COMPLETION_TIMEOUT_MS: expected a duration above 0, got \"0\"",
            "--peer: expected a URL that starts with http:// (peers speak plain HTTP here), got \"http://a:1,b:2\"",
        ]
    );
}

#[test]
fn folders_are_told_even_if_other_settings_are_faulty() {
    let errors = resolve(&inputs(&[("port", "x"), ("data_dir", "/d"), ("tmp_dir", "")], &[], None)).unwrap_err();
    assert_eq!(errors.folders(), &Folders { data_dir: Some("/d".into()), tmp_dir: None });
}

#[test]
fn no_count_size_or_duration_may_be_zero() {
    for setting in SETTINGS.iter().filter(|known| matches!(known.kind, Kind::Size | Kind::Duration | Kind::Count)) {
        let found = faults(&inputs(&[(setting.key, "0")], &[], None));
        assert_eq!(found.len(), 1, "{}: {found:?}", setting.key);
        assert!(found[0].starts_with(&format!("--{}: expected ", setting.flag())), "{found:?}");
    }
}

#[test]
fn two_listeners_need_two_ports_unless_the_system_chooses() {
    assert_eq!(
        faults(&inputs(&[("port", "5000"), ("node_url", "http://a:5000")], &[("KURA_INTERNAL_PORT", "5000")], None)),
        ["--port 5000 and KURA_INTERNAL_PORT=5000: build tools and peers need a port each"]
    );
    assert!(resolve(&inputs(&[("port", "0"), ("internal_port", "0")], &[], None)).is_ok());
}

#[test]
fn a_node_url_names_the_internal_port() {
    assert_eq!(
        faults(&inputs(&[("node_url", "http://a:7000")], &[], None)),
        ["--node-url http://a:7000 and the default internal_port 7443: peers reach this node at its internal port, \
          so the URL must name it"]
    );
    let other = inputs(&[("node_url", "http://a:7000"), ("internal_port", "7000")], &[], None);
    assert_eq!(resolve(&other).unwrap().config.node_url, "http://a:7000");
}

#[test]
fn an_open_node_with_peers_must_say_how_to_reach_it() {
    let open = [("bind", "0.0.0.0"), ("peers", "http://b:7443")];
    assert_eq!(
        faults(&inputs(&open, &[], None)),
        ["--bind 0.0.0.0 and --peer http://b:7443 and the default node_url http://127.0.0.1:7443: \
          set --node-url to the URL under which the peers reach this node"]
    );
    assert!(resolve(&inputs(&open, &[("KURA_NODE_URL", "http://a:7443")], None)).is_ok());
    assert!(resolve(&inputs(&open[1..], &[], None)).is_ok());
    let discovering = inputs(&[("bind", "::")], &[("KURA_DISCOVERY_DNS_NAME", "kura.svc")], None);
    assert!(faults(&discovering)[0].contains("KURA_DISCOVERY_DNS_NAME=kura.svc"));
}

#[test]
fn a_node_on_another_loopback_address_says_that_one() {
    let six = resolve(&inputs(&[("bind", "::1"), ("internal_port", "7001")], &[], None)).unwrap();
    assert_eq!(six.config.node_url, "http://[::1]:7001");
}

#[test]
fn staging_has_a_folder_of_its_own() {
    let same = inputs(&[("data_dir", "/d"), ("tmp_dir", "/d/")], &[], None);
    assert_eq!(faults(&same), ["--data-dir /d and --tmp-dir /d/: staging needs a folder of its own"]);
}

#[test]
fn a_port_that_kubernetes_injects_is_ignored_with_a_warning() {
    let resolved = resolve(&inputs(&[], &[("KURA_PORT", "tcp://10.0.0.7:4000")], None)).unwrap();
    assert_eq!(resolved.config.port, 4000);
    assert_eq!(resolved.source("port"), Some(&Source::Default));
    assert!(matches!(resolved.warnings.as_slice(), [ConfigWarning::ServiceLinks { names }] if names == &["KURA_PORT"]));
}

#[test]
fn peers_are_a_list_in_every_spelling() {
    let urls = ["http://a:1".to_owned(), "http://b:2".to_owned()];
    let flag = inputs(&[("peers", "http://a:1,http://b:2")], &[], None);
    let variable = inputs(&[], &[("KURA_PEERS", "http://a:1, http://b:2/")], None);
    let file = inputs(&[], &[], Some("peers = [\"http://a:1\", \"http://b:2\"]"));
    for given in [flag, variable, file] {
        assert_eq!(resolve(&given).unwrap().config.peers, urls);
    }
}

#[test]
fn log_settings_are_settings_too() {
    let resolved = resolve(&inputs(&[("log_format", "json")], &[("KURA_LOG_LEVEL", "debug")], None)).unwrap();
    assert_eq!(resolved.log.filter, "debug");
    assert_eq!(resolved.log.format, crate::core::telemetry::logging::LogFormat::Json);
    assert!(faults(&inputs(&[("log_level", "loud")], &[], None))[0].starts_with("--log-level: expected a level"));
}

#[test]
fn a_text_that_is_not_utf8_is_a_fault_of_its_setting() {
    use std::os::unix::ffi::OsStringExt;
    let mut given = inputs(&[], &[], None);
    let bad = std::ffi::OsString::from_vec(vec![b'/', 0xff]);
    given.variables = Variables::new([("HOME".into(), "/h".into()), ("KURA_DATA_DIR".into(), bad)]);
    assert_eq!(faults(&given), ["KURA_DATA_DIR: expected UTF-8, got \"/\u{fffd}\""]);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]

    #[test]
    fn no_value_and_no_file_panics(value in ".{0,40}", other in "[-0-9a-zA-Z.:/%, ]{0,24}", file in "\\PC{0,80}") {
        for setting in SETTINGS {
            let variable = setting.variable();
            let _ = resolve(&inputs(&[(setting.key, &other)], &[(&variable, &value)], None));
            let line = format!("{} = {other}\n{file}", setting.key);
            let _ = resolve(&inputs(&[], &[(&variable, &value)], Some(&line)));
        }
    }
}
