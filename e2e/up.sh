#!/usr/bin/env bash
# Brings up a real single-node Kubernetes in namespaces of its own. Everything in them ends with their first process.
source "$(dirname "$0")/lib.sh"

[[ $EUID == 0 ]] || fail "must run as root: it makes namespaces, mounts and cgroups"
"$SOURCE/tools/build.sh" e2e-packages
[[ -x $BIN/kubelet && -x $BIN/containerd && -x $BIN/kube-apiserver ]] || fail "not everything is built; make e2e-tools"
[[ -e $MESHCERT_IMAGE ]] || fail "the image is not built; make image"
! init_process >/dev/null || fail "it is running already; make e2e-down"
# What an interrupted run may have left.
"$SOURCE/e2e/down.sh"

mkdir -p "$STATE" "$LOGS"
"$SOURCE/e2e/images.py" "$BIN" "$IMAGES" "$JOB_IMAGE"
# The kubelet sets these for the whole machine.
(cd /proc/sys && grep -H . vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes) >"$STATE/sysctls"
say "starting"
setsid unshare --fork --kill-child --pid --mount --net --mount-proc "$SOURCE/e2e/node.sh" >"$LOGS/node.log" 2>&1 </dev/null &
unshare=$!
first_child() {
  # The first process inside is the only child of unshare.
  pgrep --parent "$unshare" >"$STATE/init.pid"
}
until_true 10 "namespaces" first_child
readlink "/proc/$(<"$STATE/init.pid")/ns/"{pid,net,mnt} >"$STATE/namespaces"

finish() {
  local code=$?
  ((code == 0)) || { tail -n 30 "$LOGS/node.log" >&2; [[ ${E2E_KEEP:-} == 1 ]] || "$SOURCE/e2e/down.sh"; }
}
trap finish EXIT
alive_and_ready() {
  init_process >/dev/null || { say "the node ended"; exit 1; }
  [[ -e $STATE/ready ]]
}
until_true 120 "ready node" alive_and_ready
say "ready after $SECONDS s; kubeconfig $KUBECONFIG, to be used inside: e2e/inside.sh kubectl get nodes"
