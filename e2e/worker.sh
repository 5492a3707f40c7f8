# shellcheck shell=bash
# containerd, kubelet and kube-proxy; sourced by node.sh.

write_containerd_config() {
  cat >"$STATE/containerd.toml" <<CONFIG
version = 3
root = "$STATE/containerd"
state = "/run/containerd"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "meshcert.test/pause:1"
[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "$STATE/cni"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = false
CONFIG
  mkdir -p "$STATE/cni"
  # Point to point and not a bridge: every packet between pods is routed, so that answers from behind a Service find their way back.
  cat >"$STATE/cni/10-pods.conflist" <<CONFIG
{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp", "ipam":
  {"type": "host-local", "dataDir": "/run/cni", "ranges": [[{"subnet": "$POD_RANGE"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
CONFIG
}

write_kubelet_config() {
  cat >"$STATE/kubelet.yaml" <<CONFIG
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $NODE_ADDRESS
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $PKI/ca.crt}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /$CGROUP
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
localStorageCapacityIsolation: false
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
imageGCHighThresholdPercent: 100
resolvConf: /dev/null
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
configMapAndSecretChangeDetectionStrategy: Watch
makeIPTablesUtilChains: false
podLogsDir: $LOGS/pods
CONFIG
}

make_cgroup() {
  local mount
  awk '$3 ~ /^cgroup2?$/ {print $2}' /proc/mounts | while read -r mount; do
    mkdir -p "$mount/$CGROUP"
    # A new cpuset is empty and takes no process.
    for file in cpuset.cpus cpuset.mems; do
      [[ ! -e $mount/$CGROUP/$file ]] || cat "$mount/$file" >"$mount/$CGROUP/$file"
    done
  done
}

start_worker() {
  write_containerd_config
  component containerd containerd --config "$STATE/containerd.toml" --log-level warn
  until_true 20 "containerd" ctr version
  for image in "$IMAGES"/*.tar; do
    ctr --namespace k8s.io images import --local=true "$image"
  done
  ctr --namespace k8s.io images import --local=true --base-name meshcert.test/meshcert --index-name meshcert.test/meshcert:e2e "$MESHCERT_IMAGE"
  make_cgroup
  write_kubelet_config
  component kubelet kubelet --config "$STATE/kubelet.yaml" --kubeconfig "$STATE/kubelet.conf" --root-dir "$STATE/kubelet" \
    --hostname-override "$NODE" --node-ip "$NODE_ADDRESS"
  component kube-proxy kube-proxy --kubeconfig "$KUBECONFIG" --hostname-override "$NODE" --proxy-mode nftables --conntrack-max-per-core 0 \
    --conntrack-min 0 --cluster-cidr "$POD_RANGE"
  until_true 90 "ready node" kubectl wait --for=condition=Ready "node/$NODE" --timeout=5s
}
