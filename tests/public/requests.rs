//! What a GET, HEAD and PUT are on every route: entity tags, ranges, lengths, put modes, the drain.

use sha2::Digest as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{PATIENCE, TestNode, noise};

#[tokio::test(flavor = "multi_thread")]
async fn head_gives_the_headers_of_get_and_the_tag_saves_the_body() {
    let node = TestNode::start().await;
    for length in [0_usize, 1, 4096, 300 << 10] {
        let (path, body) = (format!("/api/metro/cache/{length}"), noise(length, 5));
        assert_eq!(node.put(&path, &body).await, 200);
        let (get, head) = (node.get(&path).await, node.send("HEAD", &path, &[], b"").await);
        assert_eq!((get.status, head.status), (200, 200));
        assert_eq!(get.body, body);
        assert!(head.body.is_empty());
        for name in ["content-length", "content-type", "etag", "accept-ranges"] {
            assert_eq!(get.header(name), head.header(name), "{name} of {length} bytes");
        }
        let tag = get.header("etag").unwrap();
        assert_eq!(tag, format!("\"{}\"", blake3::hash(&body).to_hex()));
        let unchanged = node.send("GET", &path, &[("If-None-Match", tag)], b"").await;
        assert_eq!((unchanged.status, unchanged.body.len(), unchanged.header("etag")), (304, 0, Some(tag)));
        assert_eq!(node.send("GET", &path, &[("If-None-Match", "\"other\"")], b"").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_small_and_large_bodies_are_exact() {
    let node = TestNode::start().await;
    for length in [1000_usize, 900 << 10] {
        let (path, body) = (format!("/api/metro/cache/{length}"), noise(length, 6));
        assert_eq!(node.put(&path, &body).await, 200);
        let last = length - 1;
        let spans = [(0, 0), (1, 5), (0, last), (last, last), (length / 2, last), (255 << 10, 257 << 10)];
        for (start, end) in spans.into_iter().filter(|(_, end)| *end < length) {
            let reply = node.send("GET", &path, &[("Range", &format!("bytes={start}-{end}"))], b"").await;
            assert_eq!(reply.status, 206);
            assert_eq!(reply.header("content-range").unwrap(), format!("bytes {start}-{end}/{length}"));
            assert_eq!(reply.body, body[start..=end], "{start}-{end} of {length}");
        }
        let tail = node.send("GET", &path, &[("Range", "bytes=-7")], b"").await;
        assert_eq!((tail.status, &tail.body[..]), (206, &body[length - 7..]));
        for ignored in ["bytes=0-1,3-4", "lines=0-1"] {
            let reply = node.send("GET", &path, &[("Range", ignored)], b"").await;
            assert_eq!((reply.status, reply.body.len()), (200, length), "{ignored}");
        }
        let outside = node.send("GET", &path, &[("Range", &format!("bytes={length}-"))], b"").await;
        assert_eq!((outside.status, outside.header("content-range").unwrap()), (416, &*format!("bytes */{length}")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nx_is_never_told_anything_but_200_and_404() {
    let node = TestNode::start().await;
    assert_eq!(node.put("/v1/cache/13001218900440589408", b"12345").await, 200);
    for headers in [("Range", "bytes=9-"), ("Range", "bytes=x"), ("Range", "bytes=0-1"), ("If-None-Match", "*")] {
        let reply = node.send("GET", "/v1/cache/13001218900440589408", &[headers], b"").await;
        assert_eq!((reply.status, &reply.body[..]), (200, &b"12345"[..]), "{headers:?}");
    }
    assert_eq!(node.get("/v1/cache/1").await.status, 404);
}

/// Path, status of a new and of an existing one, whether the second body replaces the first, the method.
fn routes() -> Vec<(&'static str, String, u16, u16, bool)> {
    let sha = "b".repeat(64);
    vec![
        ("POST", "/api/cache/cas/id?tenant_id=t&namespace_id=n".to_owned(), 204, 204, false),
        ("PUT", "/api/cache/gradle/key?account_handle=t&project_handle=n".to_owned(), 201, 200, false),
        ("PUT", "/gradle/key".to_owned(), 201, 200, false),
        ("PUT", "/gradle/team/key".to_owned(), 201, 200, false),
        ("PUT", "/v1/cache/42".to_owned(), 200, 200, false),
        ("PUT", "/api/metro/cache/ab".to_owned(), 200, 200, false),
        ("PUT", format!("/ac/{sha}"), 200, 200, true),
        ("PUT", format!("/bazel/team/app/ac/{sha}"), 200, 200, true),
        ("PUT", "/ccache/a7/750f919mrb75p5n9390jr6hcfrtmdkg".to_owned(), 200, 200, true),
        ("PUT", format!("/ccache/team/ac/{sha}"), 200, 200, true),
        ("PUT", "/v8/artifacts/0123456789abcdef?slug=team".to_owned(), 200, 200, true),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn write_once_routes_keep_the_first_body_and_the_others_the_last() {
    let node = TestNode::start().await;
    for length in [10_usize, 300 << 10] {
        let (first, second) = (noise(length, 1), noise(length + 1, 2));
        for (method, path, created, existing, replaces) in routes() {
            let path = path.replace("key", &format!("key{length}")).replace("id?", &format!("id{length}?"));
            let fresh = if length == 10 { created } else { node.get(&path).await.status };
            let status = node.send(method, &path, &[], &first).await.status;
            assert!(status == created || fresh == 200 && status == existing, "{path}: {status}");
            assert_eq!(node.send(method, &path, &[], &second).await.status, existing, "{path}");
            let kept = node.get(&path).await.body;
            let expected = if replaces { &second } else { &first };
            if fresh != 200 || replaces {
                assert_eq!(&kept, expected, "{path}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cas_body_must_have_the_hash_that_names_it() {
    let node = TestNode::start().await;
    for length in [5_usize, 200 << 10] {
        let body = noise(length, 8);
        let sha = hex::encode(sha2::Sha256::digest(&body));
        for path in [format!("/cas/{sha}"), format!("/bazel/a/b/cas/{sha}")] {
            assert_eq!(node.put(&path, b"other").await, 400);
            assert_eq!(node.get(&path).await.status, 404);
            assert_eq!(node.put(&path, &body).await, 200);
            assert_eq!(node.put(&path, &body).await, 200);
            assert_eq!(node.get(&path).await.body, body);
        }
    }
    assert_eq!(node.state().artifacts, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_artifact_is_answered_without_waiting_for_its_body() {
    let node = TestNode::start().await;
    assert_eq!(node.put("/api/metro/cache/a", b"first").await, 200);
    // Promises 10 MiB and never sends them.
    let request = "PUT /api/metro/cache/a HTTP/1.1\r\nHost: kura\r\nContent-Length: 10485760\r\n\r\n";
    let reply = node.send_raw(request.as_bytes()).await;
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    // With Expect the body is not asked for.
    let request = request.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(node.send_raw(request.as_bytes()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn gradle_and_nx_may_send_a_long_body_again_to_its_end() {
    let node = TestNode::start().await;
    let body = noise(6 << 20, 4);
    for (path, created) in [("/gradle/again", 201), ("/v1/cache/77", 200)] {
        assert_eq!(node.put(path, &body).await, created);
        let request = format!("PUT {path} HTTP/1.1\r\nHost: kura\r\nContent-Length: {}\r\n\r\n", body.len());
        let next = format!("GET {path} HTTP/1.1\r\nHost: kura\r\nConnection: close\r\n\r\n");
        // The whole body, then the next request on the same connection: neither is cut.
        let reply = node.send_raw(&[request.as_bytes(), &body, next.as_bytes()].concat()).await;
        assert_eq!((reply.status, reply.header("connection")), (200, None), "{path}");
        assert!(reply.text().contains("HTTP/1.1 200 OK"), "{path}: the second answer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_node_reads_on_and_takes_no_new_uploads() {
    let node = TestNode::start().await;
    assert_eq!(node.put("/api/metro/cache/a", b"kept").await, 200);
    assert_eq!(node.get("/ready").await.status, 200);
    node.running().drain();
    let ready = node.get("/ready").await;
    assert_eq!(ready.status, 503);
    let body: serde_json::Value = serde_json::from_slice(&ready.body).unwrap();
    assert_eq!((&body["state"], &body["draining"], &body["ready"]), (&"draining".into(), &true.into(), &false.into()));
    assert_eq!(node.get("/up").await.status, 200);
    let read = node.get("/api/metro/cache/a").await;
    assert_eq!((read.status, read.header("connection")), (200, Some("close")));
    let refused = node.send("PUT", "/api/metro/cache/b", &[], b"x").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(node.put("/v1/cache/1", b"x").await, 403);
    assert_eq!(node.send("POST", "/api/cache/module/start?tenant_id=t&hash=h&name=n", &[], b"").await.status, 503);
    assert_eq!(node.send("DELETE", "/api/cache/clean?tenant_id=t&namespace_id=n", &[], b"").await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_ledger_says_so_and_when_to_come_back() {
    let node = TestNode::start_with(|config| config.tmp_dir_max_bytes = 1 << 20).await;
    // An upload holds the whole ledger while another one asks.
    let mut holder = node.connect().await;
    let head = "PUT /api/metro/cache/a HTTP/1.1\r\nHost: kura\r\nContent-Length: 1048576\r\n\r\n";
    holder.write_all(head.as_bytes()).await.unwrap();
    holder.write_all(&noise(512 << 10, 1)).await.unwrap();
    while node.state().reserved == 0 {
        tokio::task::yield_now().await;
    }
    let refused = node.send("PUT", "/api/metro/cache/b", &[], &noise(512 << 10, 2)).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert!(refused.text().contains("Temporary storage budget exhausted"), "{}", refused.text());
    assert_eq!(node.put("/v1/cache/1", &noise(512 << 10, 3)).await, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_by_prior_knowledge_is_served_on_the_same_port() {
    let node = TestNode::start().await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let body = noise(3 << 20, 11);
    let url = node.url("/api/metro/cache/h2");
    let put = client.put(&url).body(body.clone()).send().await.unwrap();
    assert_eq!((put.status().as_u16(), put.version()), (200, reqwest::Version::HTTP_2));
    let got = client.get(&url).send().await.unwrap();
    assert_eq!((got.status().as_u16(), got.bytes().await.unwrap().to_vec()), (200, body));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_asked_for_only_when_it_is_wanted() {
    let node = TestNode::start().await;
    let body = noise(200 << 10, 12);
    let mut stream = node.connect().await;
    let head = format!(
        "PUT /gradle/e HTTP/1.1\r\nHost: kura\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0_u8; 25];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut interim)).await.expect("an answer in time").unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(&body).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 201"));
    // It is there now: the same request is answered without an interim answer.
    let reply = node.send_raw(head.as_bytes()).await;
    assert_eq!((reply.status, node.get("/gradle/e").await.body == body), (200, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_uploads_at_once_one_is_new_and_both_succeed() {
    let node = TestNode::start().await;
    for round in 0..10 {
        let path = format!("/gradle/race{round}");
        let (one, two) = (noise(100 << 10, 21), noise(100 << 10, 23));
        let (first, second) = tokio::join!(node.put(&path, &one), node.put(&path, &two));
        let mut statuses = [first, second];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 201]);
        let kept = node.get(&path).await.body;
        assert!(kept == if first == 201 { one } else { two }, "the one that was told it is new is kept");
    }
}
