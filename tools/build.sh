#!/usr/bin/env bash
# Builds and installs, once, what the tests need beyond Rust, into .cache; the files in this folder pin the versions.
#   tools/build.sh        what `make test` needs: Prometheus, Alertmanager, kubectl, kubeadm, a Kubernetes API, helm, Python's OpenMetrics parser,
#                         axe-core, and Chromium from the distribution
#   tools/build.sh e2e    the rest of a real Kubernetes node, for `make e2e`; e2e-packages only what it needs of Debian
#   tools/build.sh bench  other exporters of certificates, which `make bench` measures beside meshcert
set -euo pipefail
cd "$(dirname "$0")/.."
cache=$PWD/.cache
mkdir -p "$cache/bin"

need() {
  command -v "$1" >/dev/null || { echo "tools/build.sh: $1 is missing; install $2" >&2; exit 1; }
}

# Runs build_NAME, unless it ran already just as it is now, with files of just this content. What it builds from is in tools/MODULE.
once() {
  local name=$1 time=$2 stamp=$cache/$1.stamp key
  shift 2
  key=$(cat "$@" <(declare -f go_build "build_$name") | sha256sum)
  [[ -f $stamp && $(<"$stamp") == "$key" ]] && return
  echo "building ${name//_/ } ($time, once)" >&2
  "build_$name"
  echo "$key" >"$stamp"
}

# go_build MODULE LDFLAGS ARGUMENT...: statically linked, into the cache.
go_build() {
  local module=$1 flags=$2
  shift 2
  (cd "tools/$module" && CGO_ENABLED=0 go build -trimpath -ldflags="-s -w $flags" -o "$cache/bin/" "$@")
}

build_prometheus() {
  # Without the service discoveries, which bring most of the code and are not needed on loopback.
  go_build prometheus '' -tags remove_all_sd,enable_kubernetes_sd \
    github.com/prometheus/prometheus/cmd/prometheus github.com/prometheus/prometheus/cmd/promtool
}

build_alertmanager() {
  local work=$cache/alertmanager
  rm -rf "$work"
  mkdir -p "$work"
  cp tools/alertmanager/go.{mod,sum} "$work/"
  # The module as published lacks its built web page; any page will do, nobody looks at it here.
  (cd "$work" && go mod vendor -e 2>/dev/null
    page=vendor/github.com/prometheus/alertmanager/ui/app/dist
    mkdir -p "$page" && echo '<!doctype html><title>Alertmanager</title>' >"$page/index.html"
    CGO_ENABLED=0 go build -mod=vendor -trimpath -ldflags='-s -w' -o "$cache/bin/" \
      github.com/prometheus/alertmanager/cmd/alertmanager github.com/prometheus/alertmanager/cmd/amtool)
  rm -rf "$work"
}

# kubernetes COMMAND...: with the version stamped in, without which kubeadm and the kubelet refuse to work together.
kubernetes() {
  local version package flags=''
  version=$(cd tools/kubernetes && go list -m -f '{{.Version}}' k8s.io/kubernetes)
  IFS=. read -r major minor _ <<<"${version#v}"
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags+=" -X $package.gitVersion=$version -X $package.gitMajor=$major -X $package.gitMinor=$minor -X $package.gitTreeState=clean"
  done
  go_build kubernetes "$flags" "${@/#/k8s.io/kubernetes/cmd/}"
}

build_kubernetes_clients() {
  kubernetes kubectl kubeadm
}

build_kubernetes_api() {
  kubernetes kube-apiserver
}

build_etcd() {
  go_build etcd '' -o "$cache/bin/etcd" go.etcd.io/etcd/server/v3
}

build_chart() {
  go_build chart '' helm.sh/helm/v4/cmd/helm github.com/yannh/kubeconform/cmd/kubeconform
}

# Where the sources of a module are that tools/FOLDER pins: module_folder FOLDER MODULE.
module_folder() {
  (cd "tools/$1" && go mod download -json "$2" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
}

build_schemas() {
  local kubernetes prometheus victoria crds
  kubernetes=$(module_folder kubernetes k8s.io/kubernetes)
  prometheus=$(module_folder schemas github.com/prometheus-operator/prometheus-operator)
  victoria=$(module_folder schemas github.com/VictoriaMetrics/operator)
  crds=$prometheus/example/prometheus-operator-crd/monitoring.coreos.com
  rm -rf "$cache/schemas"
  "$cache/venv/bin/python3" tools/schemas/convert.py "$kubernetes/api/openapi-spec/swagger.json" \
    "${crds}_servicemonitors.yaml" "${crds}_prometheusrules.yaml" "$victoria/config/crd/overlay/crd.yaml" "$cache/schemas"
}

build_kubernetes_node() {
  kubernetes kube-controller-manager kube-scheduler kubelet kube-proxy
}

build_containerd() {
  local commands=(containerd containerd-shim-runc-v2 ctr)
  go_build containerd '' -tags no_btrfs,no_zfs,no_devmapper "${commands[@]/#/github.com/containerd/containerd/v2/cmd/}"
}

build_kwok() {
  local stages stage
  go_build kwok '' sigs.k8s.io/kwok/cmd/kwok
  # What it plays is data: nodes that are ready and stay so, pods that run as soon as they are placed and end as soon as they are deleted.
  stages=$(module_folder kwok sigs.k8s.io/kwok)/kustomize/stage
  for stage in node/fast/node-initialize node/heartbeat-with-lease/node-heartbeat-with-lease pod/fast/pod-ready pod/fast/pod-delete; do
    cat "$stages/$stage.yaml"
    echo ---
  done >"$cache/kwok-stages.yaml"
}

build_x509_certificate_exporter() {
  go_build x509-certificate-exporter '' github.com/enix/x509-certificate-exporter/v4/cmd/x509-certificate-exporter
}

build_cert_exporter() {
  go_build cert-exporter '' github.com/joe-elliott/cert-exporter
}

build_ssl_exporter() {
  go_build ssl-exporter '' github.com/ribbybibby/ssl_exporter/v2
}

build_python() {
  rm -rf "$cache/venv"
  python3 -m venv "$cache/venv"
  "$cache/venv/bin/pip" install --quiet --requirement tools/requirements.txt
}

build_node() {
  rm -rf "$cache/node"
  mkdir -p "$cache/node"
  cp tools/node/package{,-lock}.json "$cache/node/"
  (cd "$cache/node" && npm ci --silent --ignore-scripts --no-audit --no-fund)
}

# What the manuals' commands call.
install_jq() {
  command -v jq >/dev/null && return
  can_install || need jq jq
  install_packages jq
}

can_install() {
  [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null
}

# install_packages PACKAGE...: the distribution's.
install_packages() {
  echo "installing $*" >&2
  apt-get update -qq >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

# The distribution's: a browser comes with a hundred libraries that fit it.
install_browser() {
  command -v "${CHROMIUM:-chromium}" >/dev/null && command -v "${CHROMEDRIVER:-chromedriver}" >/dev/null && return
  if ! can_install; then
    need "${CHROMIUM:-chromium}" "Chromium, or name it in CHROMIUM"
    need "${CHROMEDRIVER:-chromedriver}" "its chromedriver, or name it in CHROMEDRIVER"
  fi
  install_packages chromium chromium-driver fonts-dejavu-core
}

# What a node calls that is no Go program, or is one that Debian has.
install_node_packages() {
  local package file missing=()
  while read -r package file; do
    [[ -x $file ]] || missing+=("$package")
  done <<'PACKAGES'
util-linux /usr/bin/nsenter
procps /usr/bin/pgrep
iproute2 /usr/bin/ip
runc /usr/sbin/runc
containernetworking-plugins /usr/lib/cni/ptp
nftables /usr/sbin/nft
conntrack /usr/sbin/conntrack
busybox-static /usr/bin/busybox
bash-static /usr/bin/bash-static
PACKAGES
  ((${#missing[@]} == 0)) && return
  if ! can_install; then
    echo "tools/build.sh: missing, of Debian's packages: ${missing[*]}" >&2
    exit 1
  fi
  install_packages "${missing[@]}"
}

if [[ ${1:-} == e2e-packages ]]; then
  install_node_packages
  exit
fi
need go "Go 1.26 or newer"
case ${1:-test} in
  test)
    need python3 "Python 3.9 or newer with the venv module"
    once prometheus '3 minutes' tools/prometheus/go.{mod,sum}
    once alertmanager '1 minute' tools/alertmanager/go.{mod,sum}
    once kubernetes_clients '2 minutes' tools/kubernetes/go.{mod,sum}
    once etcd '1 minute' tools/etcd/go.{mod,sum}
    once kubernetes_api '5 minutes' tools/kubernetes/go.{mod,sum}
    once chart '2 minutes' tools/chart/go.{mod,sum}
    once python '1 minute' tools/requirements.txt
    once schemas 'seconds' tools/schemas/{go.mod,go.sum,convert.py} tools/kubernetes/go.mod
    need npm "Node.js 20 or newer"
    once node '1 minute' tools/node/package{,-lock}.json
    install_browser
    install_jq
    ;;
  e2e)
    install_node_packages
    once kubernetes_node '3 minutes' tools/kubernetes/go.{mod,sum}
    once containerd '1 minute' tools/containerd/go.{mod,sum}
    once kwok '1 minute' tools/kwok/go.{mod,sum}
    ;;
  bench)
    # Each in a shell of its own: one that cannot be had is not measured, and the bench says so.
    for peer in x509-certificate-exporter cert-exporter ssl-exporter; do
      tools/build.sh "$peer" || echo "tools/build.sh: $peer could not be built" >&2
    done
    ;;
  x509-certificate-exporter | cert-exporter | ssl-exporter)
    once "${1//-/_}" '2 minutes' "tools/$1"/go.{mod,sum}
    ;;
  *)
    echo "tools/build.sh: no such target: $1" >&2
    exit 2
    ;;
esac
