#!/usr/bin/env bash
# Builds the program for arm64 on amd64, as quickly as that goes, and has it read a cluster under an emulator. What this machine cannot have is said aloud, and nothing is tried.
set -euo pipefail
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu
packages=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static)

skip() {
  printf '\n%s\n\n' "SKIPPED: the program for arm64: $1" >&2
  exit 0
}

[[ $(uname -m) == x86_64 ]] || skip "it is tried on amd64 alone"
if ! dpkg-query --show "${packages[@]}" >/dev/null 2>&1; then
  if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    skip "install Debian's ${packages[*]}"
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null || skip "Debian's ${packages[*]} cannot be installed"
fi
rustup target add --toolchain "$(rustup show active-toolchain | cut -d' ' -f1)" "$target" || skip "rustup cannot fetch the standard library for $target"
# What an image holds is optimised; what it does is the same.
CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=256 \
  CARGO_TARGET_DIR=$PWD/target/quick tools/binary.sh target/quick/meshcert "$target"
MESHCERT_ARM64=$PWD/target/quick/meshcert cargo test --test image the_program_for_arm64
