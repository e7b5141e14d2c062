#!/usr/bin/env bash
# usage: cargo.sh ARGUMENTS…     Runs cargo with the machine's one RocksDB archive, which it builds first if need be.
set -euo pipefail
if [ -z "${ROCKSDB_LIB_DIR:-}" ]; then
  ROCKSDB_LIB_DIR=$("$(dirname "$0")/rocksdb-archive.sh")
  export ROCKSDB_LIB_DIR ROCKSDB_STATIC=1
fi
exec cargo "$@"
