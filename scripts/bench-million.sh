#!/usr/bin/env bash
# A node with very many small artifacts: what each takes on disk, a cold catch-up, a restart, and a rejoin after 1 % of
# as many new ones were written on its peer.
#
# usage: scripts/bench-million.sh [COUNT [BYTES]]     (after `make build`, which also builds the example that fills)
source "$(dirname "$0")/bench-lib.sh"
count=${1:-1000000} bytes=${2:-64}
scripts/install-packages.sh curl

# usage: index_bytes NAME      what the index takes on disk, without its logs
index_bytes() { find "$folder/$1/index" -name '*.sst' -printf '%b\n' | awk '{ sum += $1 } END { print sum * 512 }'; }

"$fill" "$folder/source" "$count" "$bytes"
each=$(awk -v all="$(index_bytes source)" -v count="$count" -v bytes="$bytes" 'BEGIN { printf "%.0f", all / count - bytes }')
row "metadata of an artifact on disk" "$each B" "under 300 B"

start source
ready source
began=$(seconds)
start joiner source
complete joiner
cold=$(since "$began")
row "cold catch-up of $count x $bytes B" "$cold s, $(awk -v n="$count" -v t="$cold" 'BEGIN { printf "%.0f", n / t }')/s" "none"
note memory "$(awk '/VmHWM/ { print $2 / 1024 }' "/proc/${pid[joiner]}/status")"
row "memory of the joining node meanwhile" "$(median memory) MiB" "under 200 MiB"

for kind in TERM KILL; do
  stop joiner "$kind"
  began=$(seconds)
  start joiner source
  wait_for joiner /up .
  listening=$(since "$began")
  complete joiner
  row "restart after SIG$kind with $count, to listening and to ready" "$listening s, $(since "$began") s" "1 s, 2 s"
done

stop joiner
stop source
"$fill" "$folder/source" $((count / 100)) "$bytes" "$count"
start source
ready source
began=$(seconds)
start joiner source
complete joiner
row "rejoin with $count, 1 % new" "$(since "$began") s" "under 2 s"
