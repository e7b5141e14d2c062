//! The control socket against the very client that `kura doctor` uses.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::core::data_dir::layout::Layout;
use crate::core::doctor::live::{Silence, ask, ask_for_log};
use crate::core::doctor::test_support::config;
use crate::core::server::node::Seams;
use crate::core::server::startup_status::StartupStatus;
use crate::core::staging::multipart::UPLOADS_MAX;

fn node(data_dir: &Path) -> Arc<NodeContext> {
    let (config, seams) = (config(data_dir), Seams::system());
    let layout = Layout::new(&config.data_dir, &config.tmp_dir);
    let startup = StartupStatus::new(Arc::clone(&seams.clock));
    NodeContext::new(config, layout, seams, startup)
}

/// Asks until somebody answers, from a thread of its own, as the client blocks.
async fn answered(path: &Path) -> ControlStatus {
    let path = path.to_owned();
    let asking = tokio::task::spawn_blocking(move || {
        let started = std::time::Instant::now();
        loop {
            match ask(&path) {
                Ok(status) => return status,
                Err(silence) => assert!(started.elapsed() < Duration::from_secs(20), "{silence:?}"),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    asking.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_answers_on_a_socket_only_its_owner_may_use_and_takes_it_down() {
    let root = tempfile::tempdir().unwrap();
    let data_dir = root.path().join("a-data-dir-with-a-path-longer-than-a-socket-address-".repeat(4));
    std::fs::create_dir(&data_dir).unwrap();
    let node = node(&data_dir);
    let path = node.layout.control_socket();
    let serving = tokio::spawn(serve_control(Arc::clone(&node)));

    let status = answered(&path).await;
    assert_eq!(status.schema, CONTROL_SCHEMA);
    assert_eq!(status.pid, std::process::id());
    assert!(!status.readiness.ready);
    assert_eq!((status.staging.uploads_open, status.staging.uploads_max), (0, UPLOADS_MAX as u64));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    node.shutdown.cancel();
    serving.await.unwrap();
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_socket_is_replaced_and_anything_else_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let node = node(root.path());
    let path = node.layout.control_socket();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(matches!(ask(&path), Err(Silence::Unreachable { .. })));
    let serving = tokio::spawn(serve_control(Arc::clone(&node)));
    answered(&path).await;
    node.shutdown.cancel();
    serving.await.unwrap();

    std::fs::write(&path, b"mine").unwrap();
    serve_control(self::node(root.path())).await;
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_log_lines_are_there_without_what_may_be_a_password() {
    let root = tempfile::tempdir().unwrap();
    let node = node(root.path());
    let path = node.layout.control_socket();
    let serving = tokio::spawn(serve_control(Arc::clone(&node)));
    answered(&path).await;
    recent().push(b"peer_unreachable peer=http://me:hunter2@a:7443 tries=3\n");
    let log = tokio::task::spawn_blocking(move || ask_for_log(&path)).await.unwrap().unwrap();
    assert_eq!(log.lines.last().unwrap(), "peer_unreachable peer=http://…@a:7443 tries=3");
    node.shutdown.cancel();
    serving.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_the_status_and_the_log_is_there_and_callers_that_hang_do_not_block_it() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let root = tempfile::tempdir().unwrap();
    let node = node(root.path());
    let path = node.layout.control_socket();
    let serving = tokio::spawn(serve_control(Arc::clone(&node)));
    answered(&path).await;
    let _hanging = UnixStream::connect(&path).await.unwrap();
    for (request, code) in
        [("GET /", "404"), ("POST /v1/status", "405"), ("DELETE /v1/logs", "405"), ("GET /v2/status", "404")]
    {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(format!("{request} HTTP/1.1\r\nhost: kura\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{request}: {answer}");
    }
    answered(&path).await;
    node.shutdown.cancel();
    serving.await.unwrap();
}
