//! Every malformed query, header, path, range, document and hash with its answer. Each changes nothing.

use crate::harness::{TestNode, noise};

/// Method, path, headers, body, status.
struct Case(&'static str, String, Vec<(&'static str, String)>, Vec<u8>, u16);

fn case(method: &'static str, path: impl Into<String>, status: u16) -> Case {
    Case(method, path.into(), Vec::new(), Vec::new(), status)
}

fn sending(method: &'static str, path: impl Into<String>, body: impl Into<Vec<u8>>, status: u16) -> Case {
    Case(method, path.into(), Vec::new(), body.into(), status)
}

fn with(method: &'static str, path: impl Into<String>, header: (&'static str, String), status: u16) -> Case {
    Case(method, path.into(), vec![header], Vec::new(), status)
}

const TENANT: &str = "tenant_id=t";

fn long(length: usize) -> String {
    "k".repeat(length)
}

fn paths_and_queries() -> Vec<Case> {
    let sha = "a".repeat(64);
    let mut cases = vec![
        case("GET", "/api/cache/cas/a", 400),
        case("GET", "/api/cache/cas/a?tenant_id=", 400),
        case("GET", "/api/cache/cas/a?tenant=t", 400),
        case("GET", "/api/cache/cas/a?tenant_id=%f", 400),
        case("GET", "/api/cache/cas/a?tenant_id=%ff", 400),
        case("GET", format!("/api/cache/cas/a?{TENANT}&namespace_id=%00"), 400),
        case("GET", format!("/api/cache/cas/a?{TENANT}&namespace_id={}", long(257)), 400),
        case("GET", format!("/api/cache/cas/a?{}", "a=1&".repeat(100)), 400),
        case("GET", format!("/api/cache/cas/%zz?{TENANT}"), 400),
        case("GET", format!("/api/cache/cas/%?{TENANT}"), 400),
        case("GET", format!("/api/cache/cas/%ff?{TENANT}"), 400),
        case("GET", format!("/api/cache/cas/a%00b?{TENANT}"), 400),
        case("GET", format!("/api/cache/cas/{}?{TENANT}", long(1020)), 400),
        case("GET", format!("/api/cache/cas/?{TENANT}"), 404),
        case("GET", format!("/api/cache/cas/a/b?{TENANT}"), 404),
        case("GET", "/api/cache/keyvalue/a", 400),
        case("GET", "/api/cache/gradle/a", 400),
        case("HEAD", "/api/cache/gradle/a", 400),
        case("GET", format!("/api/cache/gradle/{}?{TENANT}", long(1025)), 400),
        case("GET", "/gradle/a/b/c", 400),
        case("GET", "/gradle/a//b", 400),
        case("GET", format!("/gradle/{}/key", long(257)), 400),
        case("GET", format!("/api/cache/module/x?{TENANT}&name=n"), 400),
        case("GET", format!("/api/cache/module/x?{TENANT}&hash=h"), 400),
        case("GET", "/api/cache/module/x?hash=h&name=n", 400),
        case("HEAD", format!("/api/cache/module/x?{TENANT}"), 400),
        case("GET", "/api/metro/cache/%00", 400),
        case("GET", format!("/api/metro/cache/{}", long(1025)), 400),
        case("GET", format!("/ac/{}", &sha[1..]), 400),
        case("GET", format!("/ac/{}", sha.to_uppercase()), 400),
        case("GET", format!("/cas/{sha}0"), 400),
        case("GET", format!("/cas/{}", "g".repeat(64)), 400),
        case("GET", format!("/bazel/team/blobs/{sha}"), 400),
        case("GET", format!("/bazel/{sha}"), 400),
        case("GET", format!("/bazel//ac/{sha}"), 400),
        case("GET", format!("/bazel/{}/ac/{sha}", long(257)), 400),
        case("GET", "/ccache/short", 400),
        case("GET", format!("/ccache/a7/{}", "w".repeat(31)), 400),
        case("GET", "/ccache/ac/abc", 400),
        case("GET", "/ccache/a/b/c/d", 400),
        case("GET", format!("/v8/artifacts/{}", long(1025)), 400),
        case("GET", format!("/v8/artifacts/a?slug={}", long(257)), 400),
        // Nx takes nothing but 404 on reads and 403 on writes.
        case("GET", format!("/v1/cache/{}", long(1025)), 404),
        case("GET", "/v1/cache/%00", 404),
        sending("PUT", format!("/v1/cache/{}", long(1025)), "x", 403),
        sending("PUT", "/v1/cache/%00", "x", 403),
        case("DELETE", "/api/cache/clean", 400),
        case("DELETE", format!("/api/cache/clean?{TENANT}&namespace_id={}", long(257)), 400),
        case("DELETE", format!("/api/cache/clean?{TENANT}&namespace_id=%00"), 400),
    ];
    cases
        .extend(["/", "/nothing", "/_internal/status", "/v1", "/v8", "/gradle/", "/cas/"].map(|p| case("GET", p, 404)));
    cases
}

fn methods() -> Vec<Case> {
    vec![
        sending("PUT", format!("/api/cache/cas/a?{TENANT}"), "x", 405),
        sending("POST", format!("/api/cache/gradle/a?{TENANT}"), "x", 405),
        case("DELETE", "/v1/cache/1", 405),
        case("GET", format!("/api/cache/clean?{TENANT}"), 405),
        case("DELETE", "/ccache/a7750f919mrb75p5n9390jr6hcfrtmdkg", 405),
        sending("POST", "/metrics", "x", 405),
        case("PATCH", "/up", 405),
    ]
}

fn documents() -> Vec<Case> {
    let keyvalue = format!("/api/cache/keyvalue?{TENANT}");
    let big = format!(r#"{{"cas_id":"a","entries":[{{"value":"{}"}}]}}"#, long(2 << 20));
    let hashes = format!(r#"{{"hashes":[{}"a"]}}"#, "\"a\",".repeat(5000));
    vec![
        sending("PUT", &keyvalue, "", 400),
        sending("PUT", &keyvalue, "{", 400),
        sending("PUT", &keyvalue, "[]", 400),
        sending("PUT", &keyvalue, r#"{"cas_id":"a"}"#, 400),
        sending("PUT", &keyvalue, r#"{"cas_id":1,"entries":[]}"#, 400),
        sending("PUT", &keyvalue, r#"{"cas_id":"a","entries":["x"]}"#, 400),
        sending("PUT", &keyvalue, r#"{"cas_id":"","entries":[]}"#, 400),
        sending("PUT", &keyvalue, r#"{"cas_id":"a\u0000b","entries":[]}"#, 400),
        sending("PUT", &keyvalue, format!(r#"{{"cas_id":"{}","entries":[]}}"#, long(1020)), 400),
        sending("PUT", &keyvalue, &b"{\"cas_id\":\"\xff\",\"entries\":[]}"[..], 400),
        sending("PUT", "/api/cache/keyvalue", r#"{"cas_id":"a","entries":[]}"#, 400),
        sending("PUT", &keyvalue, big, 413),
        sending("POST", "/v8/artifacts", "", 400),
        sending("POST", "/v8/artifacts", "[]", 400),
        sending("POST", "/v8/artifacts", r#"{"hashes":[1]}"#, 400),
        sending("POST", "/v8/artifacts", r#"{"hashes":[""]}"#, 400),
        sending("POST", "/v8/artifacts", hashes, 400),
        sending("POST", "/v8/artifacts", long(2 << 20), 413),
        sending("POST", "/v8/artifacts/events", "{}", 400),
        sending("POST", "/v8/artifacts/events", "no json", 400),
        sending("POST", "/api/cache/module/start", "", 400),
        sending("POST", format!("/api/cache/module/start?{TENANT}&name=n"), "", 400),
        sending("POST", "/api/cache/module/part", "x", 400),
        sending("POST", "/api/cache/module/part?upload_id=u", "x", 400),
        sending("POST", "/api/cache/module/part?upload_id=u&part_number=-1", "x", 400),
        sending("POST", "/api/cache/module/part?upload_id=u&part_number=4294967296", "x", 400),
        sending("POST", "/api/cache/module/part?upload_id=../../x&part_number=1", "x", 404),
        sending("POST", "/api/cache/module/complete", r#"{"parts":[1]}"#, 400),
        sending("POST", "/api/cache/module/complete?upload_id=u", r#"{"parts":1}"#, 400),
        sending("POST", "/api/cache/module/complete?upload_id=u", r#"{"parts":[-1]}"#, 400),
        sending("POST", "/api/cache/module/complete?upload_id=u", r#"{"parts":[1]}"#, 404),
    ]
}

fn lengths_hashes_and_headers() -> Vec<Case> {
    let declared =
        |method, path: String, length: u64, status| with(method, path, ("Content-Length", length.to_string()), status);
    let sha = "a".repeat(64);
    let gib2 = 2_u64 << 30;
    let turbo_tag = ("x-artifact-tag", long(4000));
    vec![
        declared("POST", format!("/api/cache/cas/a?{TENANT}"), (256 << 20) + 1, 413),
        declared("PUT", format!("/api/cache/keyvalue?{TENANT}"), (1 << 20) + 1, 413),
        declared("PUT", format!("/api/cache/gradle/a?{TENANT}"), gib2 + 1, 413),
        declared("PUT", "/gradle/a".to_owned(), gib2 + 1, 413),
        declared("PUT", "/api/metro/cache/a".to_owned(), gib2 + 1, 413),
        declared("PUT", format!("/ac/{sha}"), (64 << 20) + 1, 413),
        declared("PUT", format!("/cas/{sha}"), gib2 + 1, 413),
        declared("PUT", "/ccache/a7750f919mrb75p5n9390jr6hcfrtmdkg".to_owned(), gib2 + 1, 413),
        declared("PUT", "/v8/artifacts/a".to_owned(), gib2 + 1, 413),
        declared("PUT", "/v1/cache/1".to_owned(), gib2 + 1, 403),
        with("PUT", "/api/metro/cache/a", ("Content-Length", "x".to_owned()), 400),
        with("PUT", "/api/metro/cache/a", ("Content-Length", "-1".to_owned()), 400),
        Case("PUT", format!("/cas/{sha}"), Vec::new(), b"not its hash".to_vec(), 400),
        Case("PUT", "/v8/artifacts/a".to_owned(), vec![turbo_tag], b"x".to_vec(), 400),
        Case("PUT", "/v8/artifacts/a".to_owned(), vec![("x-artifact-tag", "\u{fc}".to_owned())], b"x".to_vec(), 400),
    ]
}

fn ranges() -> Vec<Case> {
    let malformed = ["bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=5-2", "bytes=1", "bytes=0-1,x", "bytes=+1-2"];
    let outside = ["bytes=5-", "bytes=100-200", "bytes=-0", "bytes=99999999999999999999-"];
    let range = |text: &str, status| with("GET", "/api/metro/cache/present", ("Range", text.to_owned()), status);
    malformed.iter().map(|text| range(text, 400)).chain(outside.iter().map(|text| range(text, 416))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_malformed_request_gets_its_4xx_and_changes_nothing() {
    let node = TestNode::start().await;
    assert_eq!(node.put("/api/metro/cache/present", b"12345").await, 200);
    let before = node.state();
    let groups = [paths_and_queries(), methods(), documents(), lengths_hashes_and_headers(), ranges()];
    let mut wrong = Vec::new();
    for Case(method, path, headers, body, status) in groups.into_iter().flatten() {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let reply = node.send(method, &path, &headers, &body).await;
        let described = method == "HEAD"
            || reply.status == 0
            || !reply.body.is_empty()
            || headers.iter().any(|(n, _)| *n == "Content-Length");
        if reply.status != status || !described {
            wrong.push(format!(
                "{method} {} -> {} {:?}, not {status}",
                &path[..path.len().min(80)],
                reply.status,
                reply.text()
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(node.settled(crate::harness::PATIENCE).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_messages_in_json_and_plain_text_for_nx() {
    let node = TestNode::start().await;
    for path in ["/api/cache/cas/a", "/nothing", "/api/metro/cache/absent", "/gradle/absent"] {
        let reply = node.get(path).await;
        let document: serde_json::Value = serde_json::from_slice(&reply.body).expect(path);
        assert!(document["message"].is_string(), "{path}: {document}");
    }
    let reply = node.send("PUT", "/v1/cache/%00", &[], b"x").await;
    assert!(reply.header("content-type").unwrap().starts_with("text/plain"));
    assert!(reply.text().contains("zero byte"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let node = TestNode::start().await;
    let head = |extra: &str| {
        format!(
            "POST /api/cache/cas/a?tenant_id=t HTTP/1.1\r\nHost: kura\r\nContent-Length: {}\r\n{extra}\r\n",
            (256_u64 << 20) + 1
        )
    };
    // Nothing of the body is ever sent, so an answer proves that it was not waited for.
    for extra in ["", "Expect: 100-continue\r\n"] {
        let reply = node.send_raw(head(extra).as_bytes()).await;
        assert_eq!(reply.status, 413, "{extra:?}");
        assert_eq!(reply.header("connection"), Some("close"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_is_cut_off_at_the_limit() {
    let node = TestNode::start().await;
    let body = noise((64 << 20) + 4096, 3);
    let mut request = b"PUT /ac/".to_vec();
    request.extend_from_slice("0".repeat(64).as_bytes());
    request.extend_from_slice(b" HTTP/1.1\r\nHost: kura\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n");
    for chunk in body.chunks(1 << 20) {
        request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        request.extend_from_slice(chunk);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(node.send_raw(&request).await.status, 413);
    let state = node.settled(crate::harness::PATIENCE).await;
    assert_eq!((state.artifacts, state.reserved, state.staged), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_cannot_escape_their_place_on_disk() {
    let node = TestNode::start().await;
    let body = noise(300 << 10, 9);
    let paths = [
        "/api/metro/cache/..%2f..%2f..%2f..%2fescaped".to_owned(),
        "/api/metro/cache/%2fescaped".to_owned(),
        "/v1/cache/..".to_owned(),
        "/v1/cache/.%2f..%2fescaped".to_owned(),
        "/gradle/..%2f..%2fescaped/..".to_owned(),
        format!("/bazel/..%2f../../escaped/ac/{}", "0".repeat(64)),
        "/v8/artifacts/..%2f..%2fescaped?slug=..%2f..%2fescaped".to_owned(),
    ];
    let names = |path: &std::path::Path| {
        let mut names: Vec<_> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let (root, data) = (names(node.root()), names(&node.data_dir()));
    for path in &paths {
        assert!(matches!(node.put(path, &body).await, 200 | 201), "{path}");
        assert_eq!(node.get(path).await.body, body, "{path}");
    }
    assert_eq!((names(node.root()), names(&node.data_dir())), (root, data));
}
