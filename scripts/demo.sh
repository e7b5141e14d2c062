#!/usr/bin/env bash
# The recovery story, replayed: three nodes with real traffic, leaked staging, kill -9 of all of them at once, and a
# restart after which the mesh is whole again by itself. Exits 0 only if all of that is so.
#
# usage: scripts/demo.sh      (after `make build`; KURA_BINARY names another binary)
set -euo pipefail
cd "$(dirname "$0")/.."

kura=$(realpath "${KURA_BINARY:-bin/kura}")
command -v curl >/dev/null || scripts/install-packages.sh curl
folder=$(mktemp -d -t kura-demo-XXXXXX)
nodes="a b c"
tenant="tenant_id=demo&namespace_id=app"
declare -A port internal pid

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
note() { printf '  %s\n' "$*"; }
fail() {
  printf '\nDEMO FAILED: %s\n' "$*" >&2
  for node in $nodes; do
    printf -- '--- the last lines of node %s ---\n' "$node" >&2
    tail -n 15 "$folder/$node.log" >&2 || true
  done
  exit 1
}

cleanup() {
  for node in $nodes; do
    if [ -n "${pid[$node]:-}" ]; then kill -9 "${pid[$node]}" 2>/dev/null || true; fi
  done
  wait 2>/dev/null || true
  rm -rf "$folder"
}
trap cleanup EXIT

# A port below the range of outgoing connections to which nobody answers.
next_port=$((20000 + RANDOM % 10000))
free_port() {
  while next_port=$((next_port + 1)) && (exec 3<>"/dev/tcp/127.0.0.1/$next_port") 2>/dev/null; do :; done
}

# Puts the settings of one node into the array `settings`.
settings_of() {
  settings=(KURA_DATA_DIR="$folder/$1" KURA_PORT="${port[$1]}" KURA_INTERNAL_PORT="${internal[$1]}"
    KURA_NODE_URL="http://127.0.0.1:${internal[$1]}" KURA_REGION="$1" KURA_PEERS="$peers")
}

# Runs a kura command with the settings of one node.
on() {
  settings_of "$1"
  env "${settings[@]}" "$kura" "${@:2}"
}

start_all() {
  for node in $nodes; do
    settings_of "$node"
    # Not through a function: the process id must be the node's own and not that of a shell around it.
    env "${settings[@]}" "$kura" serve >>"$folder/$node.log" 2>&1 &
    pid[$node]=$!
    disown "${pid[$node]}"
  done
}

wait_ready() {
  local deadline=$((SECONDS + 60))
  for node in $nodes; do
    until [ "$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:${port[$node]}/ready")" = 200 ]; do
      [ "$SECONDS" -lt "$deadline" ] || fail "node $node is not ready: $(curl -s "http://127.0.0.1:${port[$node]}/ready")"
      sleep 0.1
    done
    note "node $node: /ready 200 on port ${port[$node]}"
  done
}

url() { printf 'http://127.0.0.1:%s%s' "${port[$1]}" "$2"; }
put() { curl -sf -o /dev/null -X "${4:-PUT}" --data-binary "@$3" "$(url "$1" "$2")" || fail "PUT $2 on node $1"; }
staged() { find "$folder/$1/tmp/uploads" "$folder/$1/tmp/parts" "$folder/$1/tmp/bootstrap" -mindepth 1 2>/dev/null | wc -l; }

# Everything a node holds, one line per artifact of every producer, with its version and digest.
holdings() { scripts/holdings.pl "http://127.0.0.1:${internal[$1]}" || fail "reading the log of node $1"; }

wait_equal() {
  local deadline=$((SECONDS + 30)) counts
  while :; do
    for node in $nodes; do holdings "$node" >"$folder/$node.set"; done
    counts=$(wc -l <"$folder/a.set")
    if cmp -s "$folder/a.set" "$folder/b.set" && cmp -s "$folder/a.set" "$folder/c.set" && [ "$counts" -ge "$1" ]; then
      note "all three hold the same $counts artifacts in the same versions with the same digests"
      return
    fi
    [ "$SECONDS" -lt "$deadline" ] || fail "the nodes differ: $(cd "$folder" && wc -l ./*.set | tr '\n' ' ')"
    sleep 0.2
  done
}

say "Three nodes that know each other, on free ports, data in $folder"
peers=
for node in $nodes; do
  free_port && port[$node]=$next_port
  free_port && internal[$node]=$next_port
  peers="$peers${peers:+,}http://127.0.0.1:${internal[$node]}"
done
start_all
wait_ready

say "Real traffic: every node is written to"
written=0
for index in $(seq 1 60); do
  for node in $nodes; do
    head -c $((index * index * 200)) /dev/urandom >"$folder/body"
    case $((index % 5)) in
      0) put "$node" "/v1/cache/$index$((${port[$node]}))" "$folder/body" ;;
      1) put "$node" "/cas/$(sha256sum <"$folder/body" | cut -d' ' -f1)" "$folder/body" ;;
      2) put "$node" "/gradle/team/$(printf '%027d%05d' "$index" "${port[$node]}")" "$folder/body" ;;
      3) put "$node" "/api/metro/cache/$(printf '%035x%05x' "$index" "${port[$node]}")" "$folder/body" ;;
      4) put "$node" "/api/cache/cas/$index-$node?$tenant" "$folder/body" POST ;;
    esac
    written=$((written + 1))
  done
done
note "$written artifacts from Nx, Bazel, Gradle, Metro and Xcode routes"
if command -v ccache >/dev/null && command -v gcc >/dev/null; then
  printf 'int main(void) { return 0; }\n' >"$folder/demo.c"
  compile() {
    (cd "$folder" && CCACHE_DIR="$folder/ccache-$1" CCACHE_REMOTE_ONLY=1 \
      CCACHE_REMOTE_STORAGE="$(url "$1" /ccache)" ccache gcc -c demo.c -o demo.o)
  }
  compile a
  written=$((written + 2))
  note "a compilation by ccache through node a"
fi
wait_equal "$written"

say "Things go wrong: uploads hang in the air, and staging is leaked in every area of node b"
head -c 300000 /dev/urandom >"$folder/half"
for node in $nodes; do
  curl -s -o /dev/null --limit-rate 50k -T "$folder/half" "$(url "$node" "/v1/cache/9${port[$node]}")" &
  disown $!
done
areas="$folder/b/tmp"
mkdir -p "$areas/uploads" "$areas/parts/0198c0de-0000-7000-8000-000000000000" "$areas/bootstrap"
for index in 1 2 3; do
  cp "$folder/half" "$areas/uploads/upload-0198c0de-0000-7000-8000-00000000000$index"
  cp "$folder/half" "$areas/bootstrap/bootstrap-0198c0de-0000-7000-8000-00000000000$index"
  cp "$folder/half" "$areas/parts/0198c0de-0000-7000-8000-000000000000/$index"
done
# One more whose owner held a lock on it, and is dead.
cp "$folder/half" "$areas/uploads/upload-0198c0de-0000-7000-8000-0000000000ff"
(exec 9>>"$areas/uploads/upload-0198c0de-0000-7000-8000-0000000000ff" && flock 9 && exec sleep 300) &
holder=$!
disown "$holder"
sleep 0.3
kill -9 "$holder"
note "$(staged b) entries lie in the staging areas of node b, $(du -sh "$areas" | cut -f1) in all"

say "kill -9 of all three nodes at once"
kill -9 "${pid[a]}" "${pid[b]}" "${pid[c]}"
for node in $nodes; do
  while kill -0 "${pid[$node]}" 2>/dev/null; do sleep 0.05; done
done
note "what the doctor says of node b, which is down:"
on b doctor --offline --only staging --output short | sed 's/^/    /' || true

say "Restart, all at once, and nobody helps"
restarted=$SECONDS
start_all
wait_ready
note "ready again after $((SECONDS - restarted)) s"
wait_equal "$written"
for node in $nodes; do
  [ "$(staged "$node")" = 0 ] || fail "staged entries on node $node: $(find "$folder/$node/tmp" -mindepth 2)"
  note "node $node: the staging areas hold 0 entries"
done
if [ -f "$folder/demo.c" ]; then
  compile c
  CCACHE_DIR="$folder/ccache-c" ccache --print-stats | grep -q '^direct_cache_hit.1$' || fail "ccache had no hit on node c"
  note "ccache is served by node c what it compiled through node a"
fi

say "kura doctor on each node"
for node in $nodes; do
  on "$node" doctor >"$folder/doctor" 2>&1 || { cat "$folder/doctor"; fail "doctor on node $node"; }
  note "node $node: $(grep -E 'exit 0|checks:' "$folder/doctor" | tail -n 1)"
done

say "The mesh healed itself."
