//! What each tool says beyond a plain GET and PUT.

use serde_json::{Value, json};

use crate::harness::{TestNode, noise};

#[tokio::test(flavor = "multi_thread")]
async fn key_value_entries_come_back_as_entries_alone_and_the_last_one_wins() {
    let node = TestNode::start().await;
    let path = "/api/cache/keyvalue?account_handle=t&namespace_id=n";
    for value in ["one", "two"] {
        let document = json!({ "cas_id": "abc", "entries": [{ "value": value }], "more": 1 }).to_string();
        assert_eq!(node.put(path, document.as_bytes()).await, 204);
        let reply = node.get("/api/cache/keyvalue/abc?tenant_id=t&project_handle=n").await;
        let found: Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(found, json!({ "entries": [{ "value": value }] }));
        assert_eq!(reply.header("content-type"), Some("application/json"));
    }
    assert_eq!(node.get("/api/cache/keyvalue/abc?tenant_id=t").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_is_joined_from_its_parts_in_order() {
    let node = TestNode::start().await;
    let named = "tenant_id=t&namespace_id=n&hash=h&name=App.zip";
    let parts = [noise(300 << 10, 1), noise(20, 2)];
    assert_eq!(node.send("HEAD", &format!("/api/cache/module/x?{named}"), &[], b"").await.status, 404);
    let started = node.send("POST", &format!("/api/cache/module/start?{named}"), &[], b"").await;
    let upload: Value = serde_json::from_slice(&started.body).unwrap();
    let upload = upload["upload_id"].as_str().unwrap().to_owned();
    for (number, part) in [(2, &parts[1]), (1, &parts[0])] {
        let path = format!("/api/cache/module/part?upload_id={upload}&part_number={number}");
        assert_eq!(node.send("POST", &path, &[], part).await.status, 204);
    }
    let complete = format!("/api/cache/module/complete?upload_id={upload}");
    assert_eq!(node.send("POST", &complete, &[], br#"{"parts":[2,1]}"#).await.status, 400);
    assert_eq!(node.send("POST", &complete, &[], br#"{"parts":[1,2]}"#).await.status, 204);
    assert_eq!(node.send("POST", &complete, &[], br#"{"parts":[1,2]}"#).await.status, 404);
    assert_eq!(node.send("HEAD", &format!("/api/cache/module/x?{named}"), &[], b"").await.status, 204);
    assert_eq!(node.get(&format!("/api/cache/module/start?{named}")).await.body, parts.concat());
    let again = node.send("POST", &format!("/api/cache/module/start?{named}"), &[], b"").await;
    assert_eq!(serde_json::from_slice::<Value>(&again.body).unwrap(), json!({ "upload_id": null }));
    assert_eq!(node.settled(crate::harness::PATIENCE).await.reserved, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_over_10_mib_is_refused_and_the_upload_stays() {
    let node = TestNode::start().await;
    let started = node.send("POST", "/api/cache/module/start?tenant_id=t&hash=h&name=n", &[], b"").await;
    let upload: Value = serde_json::from_slice(&started.body).unwrap();
    let path = format!("/api/cache/module/part?upload_id={}&part_number=1", upload["upload_id"].as_str().unwrap());
    let declared = format!("POST {path} HTTP/1.1\r\nHost: kura\r\nContent-Length: {}\r\n\r\n", (10 << 20) + 1);
    assert_eq!(node.send_raw(declared.as_bytes()).await.status, 413);
    assert_eq!(node.send("POST", &path, &[], b"small").await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn turborepo_gets_its_tag_and_duration_back_and_its_batch_answered() {
    let node = TestNode::start().await;
    let headers = [
        ("x-artifact-tag", "Zm9v"),
        ("x-artifact-duration", "1234"),
        ("x-artifact-dirty-hash", "ab"),
        ("Content-Type", "application/octet-stream"),
    ];
    assert_eq!(node.send("PUT", "/v8/artifacts/aa?slug=s", &headers, b"body").await.status, 200);
    for method in ["GET", "HEAD"] {
        let reply = node.send(method, "/v8/artifacts/aa?slug=s", &[], b"").await;
        for (name, value) in &headers[..3] {
            assert_eq!(reply.header(name), Some(*value), "{method} {name}");
        }
    }
    assert_eq!(node.get("/v8/artifacts/aa?teamId=s").await.status, 200);
    assert_eq!(node.get("/v8/artifacts/aa").await.status, 404);
    let batch = node.send("POST", "/v8/artifacts?slug=s", &[], br#"{"hashes":["aa","bb"]}"#).await;
    let answer: Value = serde_json::from_slice(&batch.body).unwrap();
    assert_eq!(answer, json!({ "aa": { "size": 4, "taskDurationMs": 1234, "tag": "Zm9v" }, "bb": null }));
    let status = node.get("/v8/artifacts/status?slug=s").await;
    assert_eq!(serde_json::from_slice::<Value>(&status.body).unwrap(), json!({ "status": "enabled" }));
    let events = node.send("POST", "/v8/artifacts/events?slug=s", &[], br#"[{"event":"HIT"}]"#).await;
    assert_eq!(events.status, 200);
    let preflight = node.send("OPTIONS", "/v8/artifacts/aa", &[], b"").await;
    assert!(preflight.header("access-control-allow-headers").unwrap().contains("Authorization"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_deletes_its_namespace_and_no_other() {
    let node = TestNode::start().await;
    for path in ["/gradle/team/k", "/gradle/other/k", "/gradle/k"] {
        assert_eq!(node.put(path, b"x").await, 201);
    }
    let clean = node.send("DELETE", "/api/cache/clean?tenant_id=t&namespace_id=team", &[], b"").await;
    assert_eq!(clean.status, 204);
    let status = async |path: &str| node.get(path).await.status;
    assert_eq!(
        (status("/gradle/team/k").await, status("/gradle/other/k").await, status("/gradle/k").await),
        (404, 200, 200)
    );
    assert_eq!(node.put("/gradle/team/k", b"again").await, 201);
    assert_eq!(node.get("/gradle/team/k").await.body, b"again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_shows_in_the_counter_of_its_producer() {
    let node = TestNode::start().await;
    let ok = |producer: &str| format!("kura_artifact_reads_total{{producer=\"{producer}\",result=\"ok\"}}");
    assert_eq!(node.put("/ccache/a7750f919mrb75p5n9390jr6hcfrtmdkg", b"x").await, 200);
    assert_eq!(node.get("/ccache/a7/750f919mrb75p5n9390jr6hcfrtmdkg").await.status, 200);
    assert_eq!((node.metric(&ok("ccache")).await, node.metric(&ok("nx")).await), (1, 0));
    let requests = "kura_http_requests_total{route=\"/ccache/{*entry}\",status=\"200\"}";
    assert_eq!(node.metric(requests).await, 2);
    node.get("/nothing").await;
    assert_eq!(node.metric("kura_http_requests_total{route=\"/_unmatched\",status=\"404\"}").await, 1);
}
