#!/usr/bin/env bash
# All benchmarks of the mesh and of HTTP, and their figures as one table, with the load of the machine when they began and
# ended. Smaller runs: SMALL, LARGE_MIB, MILLION, BURST, LEAKED and TURNS in the environment; FOLDER is on the volume to
# measure.
set -euo pipefail
cd "$(dirname "$0")/.."
BENCH_TABLE=$(mktemp)
export BENCH_TABLE
trap 'rm -f "$BENCH_TABLE"' EXIT
turns=${TURNS:-3}
load_before=$(cut -d' ' -f1 /proc/loadavg)
scripts/bench-catch-up.sh "${SMALL:-100000}" 4096 "$turns" 5
scripts/bench-catch-up.sh 4 $((${LARGE_MIB:-512} << 20)) "$turns" 1
scripts/bench-burst.sh "${BURST:-2000}" 4096 "$turns"
scripts/bench-million.sh "${MILLION:-1000000}"
scripts/bench-http.sh "$turns"
scripts/bench-reclaim.sh "${LEAKED:-500000}" 1024 "$turns"
printf '\n| what | figure | goal |\n|---|---|---|\n'
cat "$BENCH_TABLE"
printf '\nload of %s processors: %s before, %s after; %s s in all\n' "$(nproc)" "$load_before" "$(cut -d' ' -f1 /proc/loadavg)" "$SECONDS"
