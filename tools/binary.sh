#!/usr/bin/env bash
# Builds the program as the image holds it: static, without the demo, from the lock file alone, with nothing in it of the place where it is built.
#   tools/binary.sh FILE
set -euo pipefail
cd "$(dirname "$0")/.."
host=$(rustc -vV | sed -n 's/^host: //p')
# Where it was built must not be in it.
paths="--remap-path-prefix=$PWD=/src --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
# With --target the flags are for the program alone, not for what runs while building.
RUSTFLAGS="-C target-feature=+crt-static $paths" cargo build --release --locked --no-default-features --target "$host"
install -D -m 0755 "target/$host/release/meshcert" "$1"
