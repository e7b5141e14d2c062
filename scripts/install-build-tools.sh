#!/usr/bin/env bash
# Installs what the build needs beside rustup, gcc and make: a C++ compiler and libclang with its headers, which the
# bindings of RocksDB are generated with. Does nothing where both are there already, however they got there.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
command -v "${CXX:-c++}" >/dev/null || missing+=(g++)
if [ -z "${LIBCLANG_PATH:-}" ]; then
  libraries=(/usr/lib/llvm-*/lib/libclang*.so* /usr/lib64/libclang*.so* /usr/lib/libclang*.so*)
  found=no
  for library in "${libraries[@]}"; do
    [ -e "$library" ] && found=yes
  done
  [ "$found" = yes ] || missing+=(libclang-dev)
fi
[ "${#missing[@]}" -eq 0 ] || scripts/install-packages.sh "${missing[@]}"
command -v cargo >/dev/null || { echo "cargo is not on PATH: install rustup first" >&2; exit 1; }
