#!/usr/bin/env bash
# Prints the folder that holds a static, optimised librocksdb.a for this machine, building it once if it is absent.
#
# RocksDB takes 13 to 22 minutes to compile on two cores. Cargo would do that again for each profile, clone and
# fuzz target; the archive is therefore built once into the user's cache folder and linked through ROCKSDB_LIB_DIR
# and ROCKSDB_STATIC, which the librocksdb-sys build script honours. The folder name is a digest of all that decides
# what is in the archive: the crate's version, the features, the compiler and the flags.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(awk '/^name = "librocksdb-sys"/ { getline; gsub(/version = |"/, ""); print }' Cargo.lock)
features=$(grep -E '^rocksdb = ' Cargo.toml)
compiler=$("${CXX:-c++}" --version | head -n 1)
key=$(printf '%s\n' "$version" "$features" "$compiler" "$(cat .cargo/config.toml)" "${RUSTFLAGS:-}" "${CXXFLAGS:-}" \
  | sha256sum | cut -c1-16)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/kura"
folder="$cache/rocksdb-${version%%+*}-$key"

if [ ! -f "$folder/librocksdb.a" ]; then
  mkdir -p "$cache"
  # One builder at a time; the others wait and then find the archive.
  exec 9>"$cache/rocksdb.lock"
  flock 9
  if [ ! -f "$folder/librocksdb.a" ]; then
    echo "building RocksDB $version once for this machine (13 to 22 minutes on two cores) ..." >&2
    build="$cache/build-$key"
    env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC CARGO_PROFILE_RELEASE_DEBUG=false CARGO_TARGET_DIR="$build" \
      cargo build --release --locked --package librocksdb-sys >&2
    archive=$(find "$build/release/build" -path '*librocksdb-sys-*/out/librocksdb.a' | head -n 1)
    [ -n "$archive" ] || { echo "the build of RocksDB left no librocksdb.a under $build" >&2; exit 1; }
    mkdir -p "$folder"
    cp "$archive" "$folder/librocksdb.a.partial"
    mv "$folder/librocksdb.a.partial" "$folder/librocksdb.a"
    rm -rf "$build"
  fi
fi
printf '%s\n' "$folder"
