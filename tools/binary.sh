#!/usr/bin/env bash
# Builds the program as the image holds it: static, without the demo, from the lock file alone, with nothing in it of the place where it is built.
#   tools/binary.sh FILE [TARGET]    for another target than this machine's, with a linker for it: Debian's gcc-aarch64-linux-gnu
set -euo pipefail
cd "$(dirname "$0")/.."
target=${2:-$(rustc -vV | sed -n 's/^host: //p')}
if [[ $target == aarch64-* && $(uname -m) != aarch64 ]]; then
  rustup target add --toolchain "$(rustup show active-toolchain | cut -d' ' -f1)" "$target"
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
fi
# Where it was built must not be in it. A folder's name may have spaces, so the flags are told apart by what cargo tells them apart by.
flags=(-C target-feature=+crt-static "--remap-path-prefix=$PWD=/src" "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo")
# With --target the flags are for the program alone, not for what runs while building.
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; echo "${flags[*]}") cargo build --release --locked --no-default-features --target "$target"
install -D -m 0755 "${CARGO_TARGET_DIR:-target}/$target/release/meshcert" "$1"
