//! Every exit code that can be reached, reached by the real binary.

use kura::commands::exit::ExitCode;

use crate::kura::{Ended, Kura, listing};

/// `kura serve` on free ports, run to its end.
fn serve(kura: &Kura, arguments: &[&str]) -> Ended {
    let all: Vec<&str> = ["serve", "--port", "0", "--internal-port", "0"].iter().chain(arguments).copied().collect();
    kura.run(&all)
}

#[test]
fn codes_are_the_documented_numbers() {
    let codes: Vec<u8> = ExitCode::ALL.iter().map(|(code, _)| code.code()).collect();
    assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 15]);
}

#[test]
fn a_closed_pipe_is_a_normal_end() {
    use std::process::Stdio;
    let kura = Kura::new();
    let mut child = kura.command(&["completions", "bash"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn an_answer_that_cannot_be_written_exits_1() {
    let kura = Kura::new();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let ended = kura.command(&["completions", "bash"]).stdout(full).output().unwrap();
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: cannot write to stdout\n  caused by: No space left on device"), "{stderr}");
}

#[test]
fn faulty_settings_exit_2_before_anything_is_made() {
    let kura = Kura::new();
    let ended = serve(&kura, &["--data-dir", "data", "--region", ""]);
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(!kura.path("data").exists());
}

#[test]
fn a_folder_of_something_else_exits_12_and_stays_as_it_was() {
    let kura = Kura::new();
    std::fs::create_dir(kura.path("photos")).unwrap();
    kura.file("photos/cat.jpg", "miaow");
    let before = listing(&kura.path("photos"));
    let ended = serve(&kura, &["--data-dir", "photos"]);
    assert_eq!(ended.code, Some(12), "{}", ended.stderr);
    assert_eq!(listing(&kura.path("photos")), before);
}

#[test]
fn a_data_dir_of_the_seed_era_exits_14_and_stays_as_it_was() {
    let kura = Kura::new();
    std::fs::create_dir_all(kura.path("data/rocksdb")).unwrap();
    std::fs::create_dir_all(kura.path("data/segments")).unwrap();
    kura.file("data/rocksdb/CURRENT", "MANIFEST-000001\n");
    let before = listing(&kura.path("data"));
    let ended = serve(&kura, &["--data-dir", "data"]);
    assert_eq!(ended.code, Some(14), "{}", ended.stderr);
    assert_eq!(listing(&kura.path("data")), before);
}

#[test]
fn a_held_lock_exits_11_and_names_the_holder() {
    let kura = Kura::new();
    std::fs::create_dir(kura.path("data")).unwrap();
    let lock = std::fs::File::create(kura.path("data/.kura.writer.lock")).unwrap();
    lock.lock().unwrap();
    std::io::Write::write_all(&mut &lock, b"pid=4242\n").unwrap();
    let before = listing(&kura.path("data"));
    let ended = serve(&kura, &["--data-dir", "data"]);
    assert_eq!(ended.code, Some(11), "{}", ended.stderr);
    assert!(ended.stderr.contains("failed to acquire writer lock"), "{}", ended.stderr);
    assert!(ended.stderr.contains("4242"), "{}", ended.stderr);
    assert_eq!(listing(&kura.path("data")), before);
}

#[test]
fn a_taken_port_exits_1_and_names_the_holder() {
    let kura = Kura::new();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let ended = kura.run(&["serve", "--data-dir", "data", "--internal-port", "0", "--port", &port]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains(&port) && ended.stderr.contains(&std::process::id().to_string()), "{}", ended.stderr);
}

const FREE_PORTS: [&str; 5] = ["serve", "--port", "0", "--internal-port", "0"];

#[test]
fn a_node_that_is_told_to_stop_exits_0() {
    for signal in ["TERM", "INT"] {
        let kura = Kura::new();
        let mut node = kura.start(&FREE_PORTS);
        node.wait_for("store_opened");
        assert_eq!(node.signal(signal).code(), Some(0), "{signal}");
    }
}

#[test]
fn a_second_node_exits_11_and_leaves_the_first_alone() {
    let kura = Kura::new();
    let mut first = kura.start(&FREE_PORTS);
    first.wait_for("store_opened");
    let second = kura.run(&FREE_PORTS);
    assert_eq!(second.code, Some(11), "{}", second.stderr);
    assert!(second.stderr.contains("failed to acquire writer lock"), "{}", second.stderr);
    assert!(second.stderr.contains(&first.0.id().to_string()), "{}", second.stderr);
    assert!(second.stderr.contains("hint: "), "{}", second.stderr);
    assert_eq!(first.signal("TERM").code(), Some(0));
}

#[test]
fn a_data_dir_of_another_tenant_exits_14() {
    let kura = Kura::new();
    let mut node = kura.start(&FREE_PORTS);
    node.wait_for("store_opened");
    assert_eq!(node.signal("TERM").code(), Some(0));
    let ended = serve(&kura, &["--tenant-id", "other"]);
    assert_eq!(ended.code, Some(14), "{}", ended.stderr);
    assert!(ended.stderr.contains("other") && ended.stderr.contains("default"), "{}", ended.stderr);
}

#[test]
fn a_full_disk_exits_10_and_names_what_frees_it() {
    let script = "\"$2\" serve --port 0 --internal-port 0 --data-dir \"$1/data\"";
    let ended = Kura::new().on_a_full_volume(script);
    assert_eq!(ended.code, Some(10), "{}", ended.stderr);
    assert!(ended.stderr.contains("\nhint: ") && ended.stderr.contains("kura reclaim-staging"), "{}", ended.stderr);
}
