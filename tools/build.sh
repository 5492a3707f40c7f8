#!/usr/bin/env bash
# Builds and installs, once, what the tests need beyond Rust: the real Prometheus and Alertmanager with their checkers,
# Python's OpenMetrics parser, a browser and axe-core. Everything but the browser goes into .cache, keyed by the files that
# pin the versions.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=$PWD/.cache
mkdir -p "$cache/bin"

need() {
  command -v "$1" >/dev/null || { echo "tools/build.sh: $1 is missing; install $2" >&2; exit 1; }
}

# Whether a target was built from exactly these files.
fresh() {
  local stamp=$cache/$1.stamp
  shift
  [[ -f $stamp && $(cat "$stamp") == "$(cat "$@" tools/build.sh | sha256sum)" ]]
}

stamp() {
  local stamp=$cache/$1.stamp
  shift
  cat "$@" tools/build.sh | sha256sum >"$stamp"
}

build_prometheus() {
  local files=(tools/prometheus/go.mod tools/prometheus/go.sum)
  fresh prometheus "${files[@]}" && return
  echo "building prometheus and promtool (some minutes, once)" >&2
  # Without the service discoveries, which bring most of the code and are not needed on loopback.
  (cd tools/prometheus && CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -tags remove_all_sd,enable_kubernetes_sd \
    -o "$cache/bin/" github.com/prometheus/prometheus/cmd/prometheus github.com/prometheus/prometheus/cmd/promtool)
  stamp prometheus "${files[@]}"
}

build_alertmanager() {
  local files=(tools/alertmanager/go.mod tools/alertmanager/go.sum)
  fresh alertmanager "${files[@]}" && return
  echo "building alertmanager and amtool (a minute, once)" >&2
  local work=$cache/alertmanager
  rm -rf "$work"
  mkdir -p "$work"
  cp "${files[@]}" "$work/"
  # The module as published lacks its built web page; any page will do, nobody looks at it here.
  (cd "$work" && go mod vendor -e 2>/dev/null
    page=vendor/github.com/prometheus/alertmanager/ui/app/dist
    mkdir -p "$page" && echo '<!doctype html><title>Alertmanager</title>' >"$page/index.html"
    CGO_ENABLED=0 go build -mod=vendor -trimpath -ldflags='-s -w' -o "$cache/bin/" \
      github.com/prometheus/alertmanager/cmd/alertmanager github.com/prometheus/alertmanager/cmd/amtool)
  rm -rf "$work"
  stamp alertmanager "${files[@]}"
}

install_python() {
  fresh python tools/requirements.txt && return
  rm -rf "$cache/venv"
  python3 -m venv "$cache/venv"
  "$cache/venv/bin/pip" install --quiet --requirement tools/requirements.txt
  stamp python tools/requirements.txt
}

install_node() {
  local files=(tools/node/package.json tools/node/package-lock.json)
  fresh node "${files[@]}" && return
  rm -rf "$cache/node"
  mkdir -p "$cache/node"
  cp "${files[@]}" "$cache/node/"
  (cd "$cache/node" && npm ci --silent --ignore-scripts --no-audit --no-fund)
  stamp node "${files[@]}"
}

# The distribution's: a browser comes with a hundred libraries that fit it.
install_browser() {
  command -v "${CHROMIUM:-chromium}" >/dev/null && command -v "${CHROMEDRIVER:-chromedriver}" >/dev/null && return
  if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    need "${CHROMIUM:-chromium}" "Chromium, or name it in CHROMIUM"
    need "${CHROMEDRIVER:-chromedriver}" "its chromedriver, or name it in CHROMEDRIVER"
  fi
  echo "installing chromium with its driver" >&2
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-dejavu-core
}

need go "Go 1.26 or newer"
need python3 "Python 3.9 or newer with the venv module"
need npm "Node.js 20 or newer"
build_prometheus
build_alertmanager
install_python
install_node
install_browser
