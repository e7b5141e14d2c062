#!/usr/bin/env bash
# Walks every route of the public plane with curl against a running node and compares the status codes.
#
#   KURA_URL=http://127.0.0.1:4000 tests/cli/curl.sh
#
# Exits 0 if every line answers as expected, 1 otherwise. Each run uses keys of its own, so it can be repeated.
set -euo pipefail

url=${KURA_URL:-http://127.0.0.1:4000}
run=$(date +%s%N)$$
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

body="$work/body"
printf 'kura %s' "$run" >"$body"
sha=$(sha256sum "$body" | cut -d' ' -f1)
key33=$(printf '%s' "$run" | sha256sum | cut -c1-33)
scope="tenant_id=acme&namespace_id=curl-$run"
lines=0
wrong=0

# check CODE METHOD PATH [curl arguments…]
check() {
    local expected=$1 method=$2 path=$3
    shift 3
    local flags=(-s -o "$work/answer" -w '%{http_code}' -X "$method")
    [ "$method" = HEAD ] && flags=(-s -o "$work/answer" -w '%{http_code}' -I)
    local code
    code=$(curl "${flags[@]}" "$@" "$url$path" || true)
    lines=$((lines + 1))
    if [ "$code" = "$expected" ]; then
        printf 'ok    %s  %-7s %s\n' "$code" "$method" "$path"
    else
        printf 'WRONG %s  %-7s %s  (expected %s)\n' "$code" "$method" "$path" "$expected"
        wrong=$((wrong + 1))
    fi
}

send=(-H 'Content-Type: application/octet-stream' --data-binary "@$body")

# Probes
check 200 GET    /up
check 200 GET    /ready
check 200 GET    /status/rollout
check 200 GET    /metrics

# Xcode: content-addressed store and key-value
check 404 GET    "/api/cache/cas/$run?$scope"
check 204 POST   "/api/cache/cas/$run?$scope" "${send[@]}"
check 204 POST   "/api/cache/cas/$run?$scope" "${send[@]}"
check 200 GET    "/api/cache/cas/$run?$scope"
check 200 HEAD   "/api/cache/cas/$run?$scope"
check 400 GET    "/api/cache/cas/$run"
check 404 GET    "/api/cache/keyvalue/$run?$scope"
check 204 PUT    "/api/cache/keyvalue?$scope" --data "{\"cas_id\":\"$run\",\"entries\":[{\"value\":\"v\"}]}"
check 200 GET    "/api/cache/keyvalue/$run?$scope"
check 400 PUT    "/api/cache/keyvalue?$scope" --data 'no json'

# Gradle: the Tuist plugin and stock HttpBuildCache
check 404 GET    "/api/cache/gradle/$run?$scope"
check 201 PUT    "/api/cache/gradle/$run?$scope" "${send[@]}"
check 200 PUT    "/api/cache/gradle/$run?$scope" "${send[@]}"
check 200 GET    "/api/cache/gradle/$run?$scope"
check 404 GET    "/gradle/$run"
check 201 PUT    "/gradle/$run" "${send[@]}"
check 200 PUT    "/gradle/$run" "${send[@]}"
check 200 GET    "/gradle/$run"
check 201 PUT    "/gradle/team/$run" "${send[@]}"
check 200 HEAD   "/gradle/team/$run"

# Tuist modules: start, parts, completion
module="$scope&hash=$run&name=App.zip"
check 404 HEAD   "/api/cache/module/m?$module"
check 404 GET    "/api/cache/module/m?$module"
check 200 POST   "/api/cache/module/start?$module"
upload=$(sed -n 's/.*"upload_id":"\([^"]*\)".*/\1/p' "$work/answer")
check 204 POST   "/api/cache/module/part?upload_id=$upload&part_number=1" "${send[@]}"
check 204 POST   "/api/cache/module/part?upload_id=$upload&part_number=2" "${send[@]}"
check 404 POST   "/api/cache/module/part?upload_id=unknown&part_number=1" "${send[@]}"
check 400 POST   "/api/cache/module/complete?upload_id=$upload" --data '{"parts":[2,1]}'
check 204 POST   "/api/cache/module/complete?upload_id=$upload" --data '{"parts":[1,2]}'
check 404 POST   "/api/cache/module/complete?upload_id=$upload" --data '{"parts":[1,2]}'
check 204 HEAD   "/api/cache/module/m?$module"
check 200 GET    "/api/cache/module/m?$module"
check 200 POST   "/api/cache/module/start?$module"

# Nx
check 404 GET    "/v1/cache/$run"
check 200 PUT    "/v1/cache/$run" "${send[@]}"
check 200 PUT    "/v1/cache/$run" "${send[@]}"
check 200 GET    "/v1/cache/$run"
check 403 PUT    "/v1/cache/%00" "${send[@]}"

# Metro, which uploads without a length
check 404 GET    "/api/metro/cache/$run"
check 200 PUT    "/api/metro/cache/$run" -H 'Transfer-Encoding: chunked' "${send[@]}"
check 200 GET    "/api/metro/cache/$run"

# Bazel's HTTP cache, at the root and under an instance
check 404 GET    "/cas/$sha"
check 400 PUT    "/cas/$sha" --data 'something else'
check 200 PUT    "/cas/$sha" "${send[@]}"
check 200 GET    "/cas/$sha"
check 404 GET    "/ac/$sha"
check 200 PUT    "/ac/$sha" "${send[@]}"
check 200 GET    "/ac/$sha"
check 200 PUT    "/bazel/team/app/cas/$sha" "${send[@]}"
check 200 PUT    "/bazel/team/app/ac/$sha" "${send[@]}"
check 200 GET    "/bazel/team/app/ac/$sha"
check 400 GET    "/cas/short"

# ccache: layouts flat, subdirs and bazel
check 404 GET    "/ccache/$key33"
check 200 PUT    "/ccache/$key33" "${send[@]}"
check 200 GET    "/ccache/${key33:0:2}/${key33:2}"
check 200 PUT    "/ccache/team/ac/$sha" "${send[@]}"
check 200 HEAD   "/ccache/team/ac/$sha"
check 400 GET    "/ccache/short"

# Turborepo
check 200 GET    "/v8/artifacts/status?slug=team"
check 404 GET    "/v8/artifacts/$run?slug=team"
check 200 PUT    "/v8/artifacts/$run?slug=team" -H 'x-artifact-duration: 7' -H 'x-artifact-tag: Zm9v' "${send[@]}"
check 200 GET    "/v8/artifacts/$run?slug=team"
check 200 HEAD   "/v8/artifacts/$run?slug=team"
check 200 POST   "/v8/artifacts?slug=team" --data "{\"hashes\":[\"$run\",\"absent\"]}"
check 200 POST   "/v8/artifacts/events?slug=team" --data '[{"event":"HIT"}]'
check 400 POST   "/v8/artifacts?slug=team" --data 'no json'

# Ranges and conditions
tag=$(curl -sI "$url/gradle/$run" | tr -d '\r' | sed -n 's/^[Ee][Tt]ag: //p')
check 304 GET    "/gradle/$run" -H "If-None-Match: $tag"
check 206 GET    "/gradle/$run" -H 'Range: bytes=0-3'
check 416 GET    "/gradle/$run" -H 'Range: bytes=99999-'
check 400 GET    "/gradle/$run" -H 'Range: bytes=x'
check 200 GET    "/gradle/$run" -H 'Range: bytes=0-1,3-4'
check 413 PUT    "/ac/$sha" -H 'Content-Length: 99999999999'

# Clean, and paths that are not there
check 204 DELETE "/api/cache/clean?$scope"
check 404 GET    "/api/cache/cas/$run?$scope"
check 400 DELETE /api/cache/clean
check 404 GET    /nothing
check 404 GET    /_internal/status
check 405 DELETE "/v1/cache/$run"

# HTTP/2 without TLS, on the same port
check 200 GET    "/gradle/$run" --http2-prior-knowledge

printf '\n%s lines, %s wrong\n' "$lines" "$wrong"
[ "$wrong" = 0 ]
