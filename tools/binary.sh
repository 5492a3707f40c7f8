#!/usr/bin/env bash
# Builds the program as the image holds it: static, without the demo, from the lock file alone, with nothing in it of the place where it is built.
#   tools/binary.sh FILE [TARGET]    for another target than this machine's, with Debian's cross compiler for it
set -euo pipefail
cd "$(dirname "$0")/.."
host=$(rustc -vV | sed -n 's/^host: //p')
target=${2:-$host}
if [[ $target != "$host" ]]; then
  gcc=${target%%-*}-linux-gnu-gcc
  # It names the static C library by its path where there is one.
  if [[ $("$gcc" -print-file-name=libc.a 2>/dev/null) != /* ]]; then
    [[ $target == aarch64-* ]] && packages="gcc-aarch64-linux-gnu libc6-dev-arm64-cross" || packages="gcc-x86-64-linux-gnu libc6-dev-amd64-cross"
    echo "tools/binary.sh: $gcc, or its C library, is missing; install Debian's $packages" >&2
    exit 1
  fi
  rustup target add --toolchain "$(rustup show active-toolchain | cut -d' ' -f1)" "$target"
  name=${target//-/_}
  export "CARGO_TARGET_${name^^}_LINKER=$gcc" "CC_$name=$gcc"
fi
# Where it was built must not be in it. Of its own sources cargo gives the paths within the project; the flags name only what two places may share, so that they share what
# is built there too. A folder's name may have spaces, so the flags are told apart by what cargo tells them apart by.
flags=(-C target-feature=+crt-static "--remap-path-prefix=${CARGO_TARGET_DIR:-$PWD/target}=/target" "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo")
# With --target the flags are for the program alone, not for what runs while building.
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; echo "${flags[*]}") cargo build --release --locked --no-default-features --target "$target"
install -D -m 0755 "${CARGO_TARGET_DIR:-target}/$target/release/meshcert" "$1"
