#!/usr/bin/env bash
# Installs what the tests run against: the real build tools, and the file system tools of the full-volume tests.
# Idempotent, and quick when all is there. A tool that cannot be installed makes its test fail; nothing is skipped.
#
# Debian's packages go in through apt-get. The npm packages go into a folder of the user's cache, named by their
# versions, which the tests ask this script for: `install-test-tools.sh --npm-folder` prints it.
set -euo pipefail
cd "$(dirname "$0")/.."

npm_packages=(nx@24.0.6 turbo@2.11.11 metro-cache@0.84.6)
debian_packages=(bazel-bootstrap gradle ccache curl xfsprogs e2fsprogs mount iproute2 nftables prometheus)

npm_key=$(printf '%s\n' "${npm_packages[@]}" | sha256sum | cut -c1-16)
npm_cache="${XDG_CACHE_HOME:-$HOME/.cache}/kura"
npm_folder="$npm_cache/npm-$npm_key"
if [ "${1:-}" = --npm-folder ]; then
  printf '%s\n' "$npm_folder"
  exit 0
fi

# Debian's npm conflicts with the Node.js of other vendors, so it comes only where there is none at all.
command -v npm >/dev/null || debian_packages+=(npm)
command -v node >/dev/null || debian_packages+=(nodejs)
scripts/install-packages.sh "${debian_packages[@]}"

if [ ! -f "$npm_folder/complete" ]; then
  mkdir -p "$npm_folder"
  exec 9>"$npm_cache/npm.lock"
  flock 9
  if [ ! -f "$npm_folder/complete" ]; then
    echo "installing ${npm_packages[*]} ..." >&2
    printf '{"name":"kura-test-tools","private":true}\n' >"$npm_folder/package.json"
    (cd "$npm_folder" && npm install --no-audit --no-fund --no-progress --save-exact "${npm_packages[@]}") >&2
    touch "$npm_folder/complete"
  fi
fi
