#!/usr/bin/env bash
# Cold catch-up of an empty node from a full one, and an rsync daemon copying files of the same number and size, by turns
# in one run: what a user would pick instead. Prints a line for each turn and the ratio of the medians. A node is complete
# when all it has is durable; rsync syncs nothing, so the time until its copy is synced has a row of its own.
#
# usage: scripts/bench-catch-up.sh [COUNT BYTES [TURNS [GOAL]]]     (after `make build`; KURA_BINARY names another binary)
source "$(dirname "$0")/bench-lib.sh"
count=${1:-100000} bytes=${2:-4096} turns=${3:-3} goal=${4:-5}
scripts/install-packages.sh rsync curl

# usage: report WHAT TOOK CPU   prints a turn and keeps its figures
report() {
  note "$1" "$2"
  note "$1-cpu" "$3"
  awk -v what="$1" -v took="$2" -v cpu="$3" -v count="$count" -v bytes="$bytes" 'BEGIN {
    printf "%-6s %8.2f s  %9.0f artifacts/s  %8.1f MiB/s  %6.2f s of processors on both sides\n",
      what, took, count / took, count * bytes / took / 1048576, cpu }'
}

if [ "$bytes" -le 32768 ]; then
  "$fill" "$folder/source" "$count" "$bytes"
fi
start source
ready source
[ "$bytes" -le 32768 ] || scripts/put-load.pl "${port[source]}" "$count" "$bytes"
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
free_port
rsync_port=$next_port
printf 'port=%s\nuse chroot=no\n[files]\npath=%s\nread only=yes\n' "$rsync_port" "$folder/files" >"$folder/rsync.conf"
rsync --daemon --no-detach --config="$folder/rsync.conf" &
pid[rsync]=$!

echo "$count artifacts of $bytes bytes, $turns turns"
for _ in $(seq "$turns"); do
  rm -rf "$folder/joiner" "$folder/copy"
  sync
  # Who waits is there before: loading perl takes a tenth of a second of a processor.
  ports joiner
  scripts/wait-for.pl "${port[joiner]}" /ready '"complete":true' "${WAIT_SECONDS:-1800}" &
  pid[waiting]=$!
  sleep 0.3
  before=$(cpu source)
  began=$(seconds)
  start joiner source
  wait "${pid[waiting]}" || { tail -5 "$folder/joiner.log" >&2; exit 1; }
  took=$(since "$began")
  report kura "$took" "$(sum "$(cpu source)" "$(cpu joiner)" "$before")"
  unset "pid[waiting]"
  note memory "$(awk '/VmHWM/ { print $2 / 1024 }' "/proc/${pid[joiner]}/status")"
  stop joiner KILL
  sync
  before=$(cpu rsync)
  began=$(seconds)
  client=$({ TIMEFORMAT='%U %S'; time rsync -a --whole-file "rsync://127.0.0.1:$rsync_port/files/" "$folder/copy/"; } 2>&1)
  took=$(since "$began")
  report rsync "$took" "$(sum "$(cpu rsync)" "$(sum $client)" "$before")"
  sync -f "$folder/copy"
  note rsync-synced "$(since "$began")"
done
ratio=$(awk -v kura="$(median kura)" -v rsync="$(median rsync)" 'BEGIN { printf "%.2f", rsync / kura }')
row "cold catch-up, $count x $bytes B, by rsync's rate" "$ratio times" "at least $goal times"
ratio=$(awk -v kura="$(median kura)" -v rsync="$(median rsync-synced)" 'BEGIN { printf "%.2f", rsync / kura }')
row "the same, until what rsync copied is on the disk, too" "$ratio times ($(median kura) s, $(median rsync-synced) s)" "none"
ratio=$(awk -v kura="$(median kura-cpu)" -v rsync="$(median rsync-cpu)" 'BEGIN { printf "%.2f", rsync / kura }')
row "the same by processor seconds of both sides" "$ratio times ($(median kura-cpu) s, $(median rsync-cpu) s)" "none"
row "memory of the joining node meanwhile" "$(median memory) MiB" "under 200 MiB"
