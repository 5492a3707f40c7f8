#!/usr/bin/env bash
# Builds the program that the image holds from the last commit twice, in two places, from nothing, and compares every byte.
#   tools/reproducible.sh again    only the program itself once more, elsewhere, from the present files, beside what it depends on; and compares it with the image's
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
elsewhere="$work/a place called otherwise/two"

# again IMAGES: unless this one was found the same already.
again() {
  local known=$1.same
  [[ -f $known && $(<"$known") == $(sha256sum <"$1") ]] && return
  mkdir -p "$elsewhere"
  git ls-files -z | xargs -0 cp --parents -t "$elsewhere"
  # Cargo tells the two places apart by nothing that it keeps.
  rm -rf target/*/release/.fingerprint/meshcert-*
  CARGO_TARGET_DIR=$root/target "$elsewhere/tools/binary.sh" "$work/meshcert"
  cmp "$1" "$work/meshcert"
  sha256sum <"$1" >"$known"
}

twice() {
  unset CARGO_TARGET_DIR
  for place in "$work/one" "$elsewhere"; do
    git clone --quiet . "$place"
    "$place/tools/binary.sh" "$place/meshcert"
    sha256sum "$place/meshcert"
  done
  cmp "$work/one/meshcert" "$elsewhere/meshcert"
}

case ${1:-} in
  again) again "target/image/$([[ $(uname -m) == aarch64 ]] && echo arm64 || echo amd64)/meshcert" ;;
  '') twice ;;
  *) echo "tools/reproducible.sh: again, or nothing" >&2; exit 2 ;;
esac
echo "the same, byte for byte"
