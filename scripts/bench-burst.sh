#!/usr/bin/env bash
# A burst of small writes on one node: how long after the last one all of them are on a sibling.
#
# usage: scripts/bench-burst.sh [COUNT BYTES [TURNS]]     (after `make build`)
source "$(dirname "$0")/bench-lib.sh"
count=${1:-2000} bytes=${2:-4096} turns=${3:-5}
scripts/install-packages.sh curl

for turn in $(seq "$turns"); do
  start "writer$turn"
  start "sibling$turn" "writer$turn"
  complete "sibling$turn"
  read -r write lag < <(scripts/burst.pl "${port[writer$turn]}" "${internal[sibling$turn]}" "$count" "$bytes")
  note write "$write"
  note lag "$lag"
  stop "writer$turn" KILL
  stop "sibling$turn" KILL
done
row "$count x $bytes B written in $(median write) s: on a sibling after the last" "$(median lag) s" "0.15 s"
