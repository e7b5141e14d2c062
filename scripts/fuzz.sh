#!/usr/bin/env bash
# usage: fuzz.sh SECONDS [TARGET…]     Runs each target (or those named) under libFuzzer for so many seconds.
# What it learns is kept in target/fuzz-corpus and built on by the next run; a crash is left in target/fuzz-crashes with
# the command that runs it again, and fails the script. So does an input that takes half a minute by the wall clock: a
# machine that is busy otherwise stalls a run for seconds. The corpus in the repository is only read.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
shift || true
target_dir=${CARGO_TARGET_DIR:-target}

# Coverage for libFuzzer as cargo-fuzz asks for it. Without a sanitizer for memory: there is no unsafe code to watch.
# With --target the build scripts stay plain.
flags=$(sed -n 's/^rustflags = \["\(.*\)"\]$/\1/p' .cargo/config.toml)
flags+=" --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags+=" -Cllvm-args=-sanitizer-coverage-trace-compares"
# Found before the flags are set: the archive is named by them, and RocksDB need not be covered.
if [ -z "${ROCKSDB_LIB_DIR:-}" ]; then
  ROCKSDB_LIB_DIR=$(scripts/rocksdb-archive.sh)
  export ROCKSDB_LIB_DIR ROCKSDB_STATIC=1
fi
triple=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS=$flags RUSTUP_TOOLCHAIN=nightly cargo build --release \
  --manifest-path fuzz/Cargo.toml --target "$triple" --target-dir "$target_dir/fuzz"
binary=$target_dir/fuzz/$triple/release/targets

targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(ls fuzz/corpus)
failed=()
for name in "${targets[@]}"; do
  learned=$target_dir/fuzz-corpus/$name
  crashes=$target_dir/fuzz-crashes/$name
  mkdir -p "$learned" "$crashes"
  log=$crashes/log
  if KURA_FUZZ_TARGET=$name "$binary" -max_total_time="$seconds" -timeout=30 -rss_limit_mb=1024 -max_len=16384 \
    -print_final_stats=1 -artifact_prefix="$crashes/" "$learned" "fuzz/corpus/$name" >"$log" 2>&1; then
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    peak=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")
    cover=$(grep -o 'cov: [0-9]*' "$log" | tail -1)
    printf '%-16s ok      %12s runs  %s  peak %s MiB\n' "$name" "$runs" "$cover" "$peak"
  else
    printf '%-16s FAILED  see %s; again: KURA_FUZZ_TARGET=%s %s FILE\n' "$name" "$log" "$name" "$binary"
    failed+=("$name")
  fi
done
[ ${#failed[@]} -eq 0 ]
