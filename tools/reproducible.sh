#!/usr/bin/env bash
# Builds the program that the image holds from the last commit twice, in two places, from nothing, and compares every byte.
set -euo pipefail
cd "$(dirname "$0")/.."
unset CARGO_TARGET_DIR
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
places=("$work/one" "$work/a place called otherwise/two")
for place in "${places[@]}"; do
  git clone --quiet . "$place"
  "$place/tools/binary.sh" "$place/meshcert"
  sha256sum "$place/meshcert"
done
cmp "${places[0]}/meshcert" "${places[1]}/meshcert"
echo "the same, byte for byte"
