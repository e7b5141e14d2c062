//! One artifact, explained, by the binary: beside its node, without it, on its peers, and after its file was damaged.

use serde_json::Value;

use crate::doctor::{kura, listing};
use crate::support::node::Node;

/// The JSON answer about an artifact, and the exit code.
fn explained(node: &Node, arguments: &[&str]) -> (i32, Value) {
    let mut all = vec!["doctor", "artifact", "--output", "json"];
    all.extend(arguments);
    let output = node.run(&all);
    let text = String::from_utf8_lossy(&output.stdout);
    let answer = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}\n{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), answer)
}

#[test]
fn a_file_is_found_beside_its_node_and_offline_and_its_damage_is_named() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new("n", root.path());
    node.start_ready();
    node.client().put("/gradle/main/0c1d2e", &vec![7; 200_000]).unwrap();
    let (code, answer) = explained(&node, &["gradle", "main", "0c1d2e"]);
    assert_eq!((code, &answer["verdict"], &answer["vantage"]), (0, &"here".into(), &"live".into()), "{answer}");
    let path = answer["here"]["body"]["path"].as_str().unwrap().to_owned();
    node.kill();
    let before = listing(&node.data_dir());
    let id = answer["artifact_id"].as_str().unwrap();
    let (code, offline) = explained(&node, &[id]);
    assert_eq!((code, &offline["verdict"], &offline["vantage"]), (0, &"here".into(), &"offline".into()), "{offline}");
    assert_eq!(offline["here"], answer["here"]);
    assert_eq!(listing(&node.data_dir()), before, "looking changes nothing");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[5] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let (code, changed) = explained(&node, &[id]);
    assert_eq!((code, &changed["verdict"], changed["body"]["actual"].is_string()), (3, &"body_bad".into(), true));
    std::fs::write(&path, b"short").unwrap();
    assert!(explained(&node, &[id]).1["message"].as_str().unwrap().contains("short"));
    std::fs::remove_file(&path).unwrap();
    let (code, absent) = explained(&node, &[id]);
    assert_eq!(code, 3);
    assert!(absent["message"].as_str().unwrap().ends_with("the body is missing"), "{absent}");
}

#[test]
fn a_peer_is_asked_over_the_internal_plane_and_opens_no_body() {
    let root = tempfile::tempdir().unwrap();
    let (mut holder, mut asking) = (Node::new("holder", root.path()), Node::new("asking", root.path()));
    holder.start_ready();
    holder.client().put("/gradle/main/0c1d2e", &vec![7; 200_000]).unwrap();
    asking.start_ready();
    asking.kill();
    let url = holder.internal_url();
    let (code, answer) = explained(&asking, &["gradle", "main", "0c1d2e", "--peer", &url]);
    assert_eq!((code, &answer["verdict"]), (0, &"absent".into()), "{answer}");
    let peer = &answer["peers"][0];
    assert_eq!((&peer["url"], &peer["state"], &peer["here"]), (&url.into(), &"held".into(), &"fetched".into()));
    assert_eq!(peer["manifest"]["size"], 200_000);
    assert!(answer["next"].as_str().unwrap().starts_with("kura bootstrap"), "{answer}");
    let (_, offline) = explained(&asking, &["--offline", "gradle", "main", "0c1d2e"]);
    assert_eq!(offline["peers"].as_array().unwrap().len(), 0);
    // A bad body is told of by no one and withdrawn by no one through this.
    let (_, there) = explained(&holder, &["gradle", "main", "0c1d2e"]);
    std::fs::write(there["here"]["body"]["path"].as_str().unwrap(), b"short").unwrap();
    let (_, again) = explained(&asking, &["gradle", "main", "0c1d2e", "--peer", &holder.internal_url()]);
    assert_eq!(again["peers"][0]["state"], "held");
    assert_eq!(explained(&holder, &["gradle", "main", "0c1d2e"]).0, 3);
}

#[test]
fn what_cannot_be_looked_at_exits_4_and_misuse_2() {
    let root = tempfile::tempdir().unwrap();
    let code = |arguments: &[&str]| kura(root.path(), arguments).output().unwrap().status.code();
    assert_eq!(code(&["doctor", "artifact", "gradle", "main", "k"]), Some(4), "an empty folder has no index");
    assert_eq!(code(&["doctor", "artifact", "gradle", "main", "k", "--online"]), Some(4));
    for misuse in [
        &["doctor", "artifact"][..],
        &["doctor", "artifact", "no-id"],
        &["doctor", "artifact", "a", "b", "c", "d"],
        &["doctor", "--list", "artifact", "a", "b"],
        &["doctor", "artifact", "a", "b", "--offline", "--online"],
    ] {
        assert_eq!(code(misuse), Some(2), "{misuse:?}");
    }
}
