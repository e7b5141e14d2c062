#!/usr/bin/env bash
# PUT and GET over HTTP beside nginx, by turns in one run: its WebDAV PUT, which syncs nothing, and its static files with
# sendfile. Prints requests per second and the ratio of the medians. The load is wrk's, on the same machine.
#
# usage: scripts/bench-http.sh [TURNS [SECONDS]]     (after `make build`; KURA_BINARY names another binary)
source "$(dirname "$0")/bench-lib.sh"
turns=${1:-3} seconds_each=${2:-3}
# nginx-full has the module for PUT. Debian starts a server of its own with it; ours is another one, on a free port.
scripts/install-packages.sh nginx-full wrk curl

KIB=1024 MIB=1048576

start_nginx() {
  mkdir -p "$folder/nginx/files" "$folder/nginx/temp"
  free_port
  port[nginx]=$next_port
  # Started by root its workers would be another user, who may not write here.
  [ "$(id -u)" -ne 0 ] || echo "user root;" >"$folder/nginx/nginx.conf"
  cat >>"$folder/nginx/nginx.conf" <<CONF
worker_processes auto;
daemon off;
pid $folder/nginx/pid;
error_log $folder/nginx/errors.log;
events { worker_connections 1024; }
http {
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000000;
  client_max_body_size 0;
  client_body_temp_path $folder/nginx/temp;
  server {
    listen 127.0.0.1:$next_port;
    root $folder/nginx/files;
    location / { dav_methods PUT; create_full_put_path on; }
  }
}
CONF
  nginx -c "$folder/nginx/nginx.conf" >/dev/null 2>&1 &
  pid[nginx]=$!
  # Killed, it would leave its workers behind.
  trap 'kill "${pid[nginx]}" 2>/dev/null; wait "${pid[nginx]}" 2>/dev/null; unset "pid[nginx]"; cleanup' EXIT
  until (exec 3<>"/dev/tcp/127.0.0.1/${port[nginx]}") 2>/dev/null; do sleep 0.05; done
}

# usage: load NAME METHOD PREFIX BYTES COUNT      requests per second of a PUT, MiB per second of a GET; stops the run if
#                                                 any failed
load() {
  local figures requests rate failed connections=32
  # So that some of the long ones end within the time.
  [ "$4" -lt "$MIB" ] || connections=8
  figures=$(wrk -t 2 -c "$connections" -d "${seconds_each}s" --timeout 60s -s scripts/wrk-artifacts.lua \
    "http://127.0.0.1:${port[$1]}" -- "$2" "$3" "$4" "$5" | grep '^figures ')
  read -r _ requests rate failed <<<"$figures"
  [ "$failed" = 0 ] || { echo "$failed requests to $1 failed" >&2; return 1; }
  if [ "$2" = PUT ]; then echo "$requests"; else echo "$rate"; fi
}

size_of() { if [ "$1" -ge "$MIB" ]; then echo "$(($1 / MIB)) MiB"; else echo "$(($1 / KIB)) KiB"; fi; }

# usage: compare WHAT KURA UNIT GOAL      a row of the table from the figures noted for kura's name and for nginx
compare() {
  local figure
  figure=$(awk -v kura="$(median "$2")" -v nginx="$(median nginx)" -v unit="$3" 'BEGIN {
    printf "%.2f times (%d and %d %s)", (nginx > 0 ? kura / nginx : 0), kura, nginx, unit }')
  row "$1" "$figure" "$4"
}

# usage: put_at BYTES      both durabilities and nginx, by turns
put_at() {
  local bytes=$1 turn mode
  for turn in $(seq "$turns"); do
    for mode in power process; do
      KURA_DURABILITY=$mode start "put-$mode-$bytes-$turn"
      ready "put-$mode-$bytes-$turn"
      note "kura-$mode-$bytes" "$(load "put-$mode-$bytes-$turn" PUT /api/metro/cache/a "$bytes" 0)"
      stop "put-$mode-$bytes-$turn" KILL
      rm -rf "$folder/put-$mode-$bytes-$turn"
    done
    note nginx "$(load nginx PUT "/put-$bytes-$turn/a" "$bytes" 0)"
    # It may still be writing what nobody waits for any more; the rest goes with the folder.
    rm -rf "$folder/nginx/files/put-$bytes-$turn" 2>/dev/null || true
    sync
  done
  compare "PUT $(size_of "$bytes") relaxed, by nginx's rate" "kura-process-$bytes" /s "at least 1 times"
  compare "PUT $(size_of "$bytes") durable, by nginx's rate, which syncs nothing" "kura-power-$bytes" /s "none"
  rm "$folder/figures-nginx"
}

# usage: get_at BYTES COUNT      the same bodies from both, by turns
get_at() {
  local bytes=$1 count=$2 number node="reader-$1" files="$folder/nginx/files/api/metro/cache"
  start "$node"
  ready "$node"
  scripts/put-load.pl "${port[$node]}" "$count" "$bytes"
  mkdir -p "$files"
  for number in $(seq 0 $((count - 1))); do
    number=$(printf '%08x' "$number")
    curl -sf -o "$files/$number" "http://127.0.0.1:${port[$node]}/api/metro/cache/$number"
  done
  for _ in $(seq "$turns"); do
    note "kura-get-$bytes" "$(load "$node" GET /api/metro/cache/ "$bytes" "$count")"
    note nginx "$(load nginx GET /api/metro/cache/ "$bytes" "$count")"
  done
  compare "GET $(size_of "$bytes"), by nginx's rate" "kura-get-$bytes" MiB/s "at least 0.8 times"
  rm "$folder/figures-nginx"
  stop "$node"
}

start_nginx
for bytes in $((4 * KIB)) $((64 * KIB)) "$MIB"; do put_at "$bytes"; done
get_at $((4 * KIB)) 500
get_at "$MIB" 64
get_at $((100 * MIB)) 1
