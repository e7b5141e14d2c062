#!/usr/bin/env bash
# usage: install-packages.sh PACKAGE…     Installs those Debian packages that are not installed yet.
#
# Quick when nothing is missing: it then asks the local package database once and touches no network. As another user
# than root it goes through sudo. Where there is no apt-get it says what is missing and fails.
set -euo pipefail

missing=()
for package in "$@"; do
  state=$(dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null || true)
  [ "$state" = "install ok installed" ] || missing+=("$package")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

command -v apt-get >/dev/null || {
  echo "this machine has no apt-get; install what these Debian packages hold, then run again: ${missing[*]}" >&2
  exit 1
}
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "run as root (there is no sudo): apt-get install ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
# Two runs at once wait for each other here rather than fail on the package database's lock.
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
echo "installing ${missing[*]} ..." >&2
"${apt[@]}" update -qq >&2
"${apt[@]}" install -y -qq --no-install-recommends "${missing[@]}" >&2
