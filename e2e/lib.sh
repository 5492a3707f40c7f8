# shellcheck shell=bash disable=SC2034
# What the scripts beside this one share: where everything is, and how to get into the cluster's namespaces.
set -euo pipefail

SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BIN=$SOURCE/.cache/bin
# Everything of the cluster; only LOGS outlive it.
STATE=${E2E_STATE:-$SOURCE/.cache/e2e}
LOGS=$STATE/logs
PKI=$STATE/pki
IMAGES=$SOURCE/.cache/images
# Our own, as it is shipped.
MESHCERT_IMAGE=$SOURCE/target/image/meshcert.oci.tar
# The documented Job's, as the runbook names it.
JOB_IMAGE=$(sed -n 's/^ *image: //p' "$SOURCE/docs/runbooks/MspiderHostedKubeAPICertExpiration.md" | head -n 1)
KUBECONFIG=$STATE/kubeconfig
# Of its own for each checkout: several clusters may run on a machine.
CGROUP=meshcert-e2e-$(cksum <<<"$STATE" | cut -d' ' -f1)
NODE=node
NODE_ADDRESS=10.77.0.1
POD_RANGE=10.88.0.0/16
SERVICE_RANGE=10.96.0.0/16
PATH=$BIN:/usr/sbin:/sbin:$PATH
export PATH KUBECONFIG

say() {
  echo "e2e: $*" >&2
}

fail() {
  say "$@"
  exit 1
}

# The process whose namespaces the cluster lives in, as seen from here.
init_process() {
  local pid
  pid=$(cat "$STATE/init.pid" 2>/dev/null) && kill -0 "$pid" 2>/dev/null && echo "$pid"
}

# Runs a command beside the cluster's own processes: its network, its mounts, ended with it.
inside() {
  local pid
  pid=$(init_process) || fail "no cluster is running; make e2e-up"
  nsenter --target "$pid" --net --mount --pid --wdns="$PWD" -- "$@"
}

# until_true SECONDS WHAT COMMAND...: tries until it succeeds.
until_true() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || fail "$what: not within the time; logs are in $LOGS"
    sleep 0.2
  done
}
