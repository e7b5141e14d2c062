#!/usr/bin/env bash
# `kura reclaim-staging` beside `rm -rf` of the same tree of leaked staging files, on one volume, by turns in one run; who
# begins changes with each turn. Prints seconds and processor seconds of both, the ratios of the medians, and the memory
# that the reclaim took. A reclaim ends with a sync of the filesystem, `rm` does not: it is measured without and with one.
#
# usage: scripts/bench-reclaim.sh [COUNT [BYTES [TURNS]]]     (after `make build`; KURA_BINARY names another binary)
source "$(dirname "$0")/bench-lib.sh"
count=${1:-500000} bytes=${2:-1024} turns=${3:-3}
scripts/install-packages.sh curl time perl

# usage: timed NAME COMMAND…      notes its seconds, processor seconds and peak memory in KiB
timed() {
  local name=$1 seconds user system memory
  shift
  /usr/bin/time -f '%e %U %S %M' -o "$folder/time" "$@" >"$folder/$name.log" 2>&1 || { cat "$folder/$name.log" >&2; exit 1; }
  read -r seconds user system memory <"$folder/time"
  note "$name-seconds" "$seconds"
  note "$name-cpu" "$(awk -v one="$user" -v other="$system" 'BEGIN { print one + other }')"
  note "$name-memory" "$memory"
}

reclaimed() {
  scripts/leak-staging.pl "$folder/node/tmp" "$count" "$bytes"
  sync -f "$folder"
  timed kura "$kura" reclaim-staging --data-dir "$folder/node" --yes
  [ -z "$(find "$folder/node/tmp" -type f -print -quit)" ] || { echo "not all was freed" >&2; exit 1; }
}

removed() {
  mkdir "$folder/plain"
  scripts/leak-staging.pl "$folder/plain/tmp" "$count" "$bytes"
  sync -f "$folder"
  timed rm rm -rf "$folder/plain"
  local began
  began=$(seconds)
  sync -f "$folder"
  note rm-synced "$(awk -v rm="$(tail -1 "$folder/figures-rm-seconds")" -v sync="$(since "$began")" 'BEGIN { print rm + sync }')"
}

ratio() { awk -v one="$(median "$1")" -v other="$(median "$2")" 'BEGIN { printf "%.2f", one / other }'; }

# A data dir of kura's, of which nobody runs.
start node
ready node
stop node
for turn in $(seq "$turns"); do
  if [ $((turn % 2)) = 1 ]; then reclaimed; removed; else removed; reclaimed; fi
  echo "turn $turn: kura $(tail -1 "$folder/figures-kura-seconds") s, rm $(tail -1 "$folder/figures-rm-seconds") s," \
    "with a sync $(tail -1 "$folder/figures-rm-synced") s"
done
what="reclaim-staging of $count x $bytes B"
row "$what by the time of rm -rf; of rm -rf and a sync" \
  "$(ratio kura-seconds rm-seconds); $(ratio kura-seconds rm-synced) ($(median kura-seconds), $(median rm-seconds), $(median rm-synced) s)" "1"
row "$what by the processor time of rm -rf" "$(ratio kura-cpu rm-cpu) ($(median kura-cpu), $(median rm-cpu) s)" "none"
row "memory of that reclaim" "$(awk -v kib="$(median kura-memory)" 'BEGIN { printf "%.0f", kib / 1024 }') MiB" "under 64 MiB"
