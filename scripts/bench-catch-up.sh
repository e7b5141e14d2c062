#!/usr/bin/env bash
# Cold catch-up of an empty node from a full one, and an rsync daemon copying files of the same number and size, by turns
# in one run: what a user would pick instead. Prints a line for each turn and the ratio of the medians.
#
# usage: scripts/bench-catch-up.sh [COUNT BYTES [TURNS]]     (after `make build`; KURA_BINARY names another binary)
set -euo pipefail
cd "$(dirname "$0")/.."

count=${1:-100000} bytes=${2:-4096} turns=${3:-3}
kura=$(realpath "${KURA_BINARY:-bin/kura}")
scripts/install-packages.sh rsync curl
folder=$(mktemp -d -p "${FOLDER:-${TMPDIR:-/tmp}}" kura-bench-XXXXXX)
source_pid='' joiner_pid='' rsync_pid=''
cleanup() {
  for pid in $source_pid $joiner_pid $rsync_pid; do kill -9 "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$folder"
}
trap cleanup EXIT

next_port=$((20000 + RANDOM % 10000))
free_port() {
  while next_port=$((next_port + 1)) && (exec 3<>"/dev/tcp/127.0.0.1/$next_port") 2>/dev/null; do :; done
}
free_port; source_port=$next_port; free_port; source_internal=$next_port
free_port; joiner_port=$next_port; free_port; joiner_internal=$next_port
free_port; rsync_port=$next_port

# usage: wait_for PORT TEXT      until /ready on the port says the text
wait_for() {
  local deadline=$((SECONDS + 600))
  until curl -s "http://127.0.0.1:$1/ready" | grep -q "$2"; do
    [ "$SECONDS" -lt "$deadline" ] || { echo "port $1 never said $2" >&2; exit 1; }
    sleep 0.02
  done
}
seconds() { date +%s.%N; }
# usage: report WHAT START      prints a turn and keeps its time in $folder/WHAT
report() {
  awk -v what="$1" -v start="$2" -v end="$(seconds)" -v count="$count" -v bytes="$bytes" 'BEGIN {
    took = end - start
    printf "%-6s %8.2f s  %9.0f artifacts/s  %8.1f MiB/s\n", what, took, count / took, count * bytes / took / 1048576
    print took >> "'"$folder"'/times-" what }'
}
median() { sort -n "$folder/times-$1" | awk '{ value[NR] = $1 } END { print value[int((NR + 1) / 2)] }'; }

"$kura" serve --data-dir "$folder/source" --port "$source_port" --internal-port "$source_internal" \
  --node-url "http://127.0.0.1:$source_internal" >"$folder/source.log" 2>&1 &
source_pid=$!
wait_for "$source_port" '"ready":true'
scripts/put-load.pl "$source_port" "$count" "$bytes"
perl -e '
  my ($folder, $count, $bytes) = @ARGV;
  open my $random, "<:raw", "/dev/urandom" or die;
  mkdir $folder;
  for my $number (0 .. $count - 1) {
    my $part = sprintf "%s/%x", $folder, $number >> 12;
    mkdir $part unless $number & 4095;
    open my $file, ">:raw", sprintf("%s/%08x", $part, $number) or die $!;
    for (my $left = $bytes; $left > 0;) { my $got = sysread $random, my $chunk, $left < 1 << 20 ? $left : 1 << 20; print $file $chunk; $left -= $got }
    close $file or die $!;
  }' "$folder/files" "$count" "$bytes"
printf 'port=%s\nuse chroot=no\n[files]\npath=%s\nread only=yes\n' "$rsync_port" "$folder/files" >"$folder/rsync.conf"
rsync --daemon --no-detach --config="$folder/rsync.conf" &
rsync_pid=$!

echo "$count artifacts of $bytes bytes, $turns turns"
for _ in $(seq "$turns"); do
  rm -rf "$folder/joiner" "$folder/copy"
  sync
  start=$(seconds)
  "$kura" serve --data-dir "$folder/joiner" --port "$joiner_port" --internal-port "$joiner_internal" \
    --node-url "http://127.0.0.1:$joiner_internal" --peer "http://127.0.0.1:$source_internal" >"$folder/joiner.log" 2>&1 &
  joiner_pid=$!
  wait_for "$joiner_port" '"complete":true'
  report kura "$start"
  grep VmHWM "/proc/$joiner_pid/status"
  kill -9 "$joiner_pid"; wait "$joiner_pid" 2>/dev/null || true; joiner_pid=''
  sync
  start=$(seconds)
  rsync -a --whole-file "rsync://127.0.0.1:$rsync_port/files/" "$folder/copy/"
  report rsync "$start"
done
awk -v kura="$(median kura)" -v rsync="$(median rsync)" 'BEGIN { printf "rsync takes %.2f times as long\n", rsync / kura }'
