# What the benchmarks share; sourced by them. A node is `start NAME [PEER]`, its files lie in $folder/NAME.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

kura=$(realpath "${KURA_BINARY:-bin/kura}")
# Fills a store without a node, a hundred times as fast as requests would.
fill=${FILL_BINARY:-${CARGO_TARGET_DIR:-target}/release/examples/fill_store}
folder=$(mktemp -d -p "${FOLDER:-${TMPDIR:-/tmp}}" kura-bench-XXXXXX)
declare -A pid=() port=() internal=()
cleanup() {
  for process in "${pid[@]}"; do kill -9 "$process" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$folder"
}
trap cleanup EXIT

next_port=$((20000 + RANDOM % 10000))
free_port() {
  while next_port=$((next_port + 1)) && (exec 3<>"/dev/tcp/127.0.0.1/$next_port") 2>/dev/null; do :; done
}

# usage: ports NAME             chooses a node's ports, once
ports() { [ -n "${port[$1]:-}" ] || { free_port; port[$1]=$next_port; free_port; internal[$1]=$next_port; }; }

# usage: start NAME [PEER]      starts a node, with another one as its peer; waits for nothing
start() {
  ports "$1"
  local url="http://127.0.0.1:${internal[$1]}" peer=()
  [ -z "${2:-}" ] || peer=(--peer "http://127.0.0.1:${internal[$2]}")
  "$kura" serve --data-dir "$folder/$1" --port "${port[$1]}" --internal-port "${internal[$1]}" --node-url "$url" \
    "${peer[@]}" >>"$folder/$1.log" 2>&1 &
  pid[$1]=$!
}

# usage: stop NAME [SIGNAL]     ends a node and waits for its end
stop() {
  kill "-${2:-TERM}" "${pid[$1]}"
  wait "${pid[$1]}" 2>/dev/null || true
  unset "pid[$1]"
}

# usage: wait_for NAME PATH TEXT      until the node's public port answers the path with the text
wait_for() {
  scripts/wait-for.pl "${port[$1]}" "$2" "$3" "${WAIT_SECONDS:-1800}" && return
  echo "$1 never said $3 at $2" >&2
  tail -5 "$folder/$1.log" >&2
  exit 1
}
complete() { wait_for "$1" /ready '"complete":true'; }
ready() { wait_for "$1" /ready '"ready":true'; }

seconds() { date +%s.%N; }
since() { awk -v start="$1" -v end="$(seconds)" 'BEGIN { printf "%.3f", end - start }'; }
# usage: cpu NAME              processor seconds of a process so far, with those of its children that have ended
cpu() { awk -v hz="$(getconf CLK_TCK)" '{ printf "%.2f", ($14 + $15 + $16 + $17) / hz }' "/proc/${pid[$1]}/stat"; }
sum() { awk -v a="$1" -v b="$2" -v less="${3:-0}" 'BEGIN { printf "%.2f", a + b - less }'; }
# usage: note WHAT VALUE        keeps a figure; median WHAT takes the middle one of those kept
note() { echo "$2" >>"$folder/figures-$1"; }
median() { sort -n "$folder/figures-$1" | awk '{ value[NR] = $1 } END { print value[int((NR + 1) / 2)] }'; }
# usage: row WHAT FIGURE GOAL   a line of the table, printed here and kept for scripts/bench.sh
row() {
  printf '%s\n' "$1: $2 (goal: $3)"
  [ -z "${BENCH_TABLE:-}" ] || printf '| %s | %s | %s |\n' "$1" "$2" "$3" >>"$BENCH_TABLE"
}
