#!/usr/bin/env bash
# Builds the container image and its SBOM into target/image, with buildah and without a base image: the program is built here, beside it.
#   ARCH=arm64 tools/image.sh    for another architecture than this machine's (amd64, arm64)
# On a machine with a container engine and a network `docker build .` does the same, building within.
set -euo pipefail
cd "$(dirname "$0")/.."
out=target/image
case ${ARCH:-$(uname -m)} in
  x86_64 | amd64) arch=amd64 target=x86_64-unknown-linux-gnu ;;
  aarch64 | arm64) arch=arm64 target=aarch64-unknown-linux-gnu ;;
  *) echo "tools/image.sh: no image for ${ARCH:-$(uname -m)}; amd64 and arm64 there are" >&2; exit 1 ;;
esac
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
revision=$(git rev-parse HEAD)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}

if ! command -v buildah >/dev/null; then
  if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    echo "tools/image.sh: buildah is missing; install it" >&2
    exit 1
  fi
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends buildah
fi

if [[ ! -x .cache/venv/bin/syft ]]; then
  echo "tools/image.sh: syft, which writes the SBOM, is missing; run make tools" >&2
  exit 1
fi

tools/binary.sh "$out/$arch/meshcert" "$target"

# What is in the program: of the lock file, what it is linked from.
linked=$(cargo tree --locked --no-default-features --edges normal --prefix none --format '{p}' | awk '{ print $1, substr($2, 2) }' | sort -u)
mkdir -p "$out/sbom"
awk -v linked="$linked" '
  BEGIN { RS = ""; ORS = "\n\n"; count = split(linked, lines, "\n"); for (i = 1; i <= count; i++) wanted[lines[i]] = 1 }
  !/^\[\[package\]\]/ { print; next }
  { match($0, /name = "[^"]*"/); name = substr($0, RSTART + 8, RLENGTH - 9)
    match($0, /version = "[^"]*"/); if ((name " " substr($0, RSTART + 11, RLENGTH - 12)) in wanted) print }
' Cargo.lock >"$out/sbom/Cargo.lock"
SYFT_CHECK_FOR_APP_UPDATE=false .cache/venv/bin/syft scan --quiet "file:$out/sbom/Cargo.lock" --source-name meshcert --source-version "$version" \
  --output "spdx-json=$out/meshcert.spdx.json"

export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
storage=(--root "$PWD/$out/storage" --runroot "$PWD/$out/run")
buildah "${storage[@]}" build --quiet --platform "linux/$arch" --timestamp "$SOURCE_DATE_EPOCH" --build-arg BINARY=prebuilt \
  --build-arg "VERSION=$version" --build-arg "REVISION=$revision" --tag "meshcert:$version" . >/dev/null
archive=$out/meshcert${ARCH:+-$arch}.oci.tar
rm -f "$archive"
buildah "${storage[@]}" push --quiet "meshcert:$version" "oci-archive:$archive:meshcert:$version"
buildah "${storage[@]}" rmi --all --force >/dev/null
echo "$archive: $(stat -c %s "$archive") bytes, linux/$arch"
