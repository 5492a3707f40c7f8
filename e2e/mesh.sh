#!/usr/bin/env bash
# Makes a hosted mesh, inside the cluster's namespaces: [MEMBERS=3] [KIND=StatefulSet] [VALIDITY=48h] [ADMIN=admin] mesh.sh NAMESPACE MESH
# Its credentials are kubeadm's, its etcd and API server are real; istiod and ckube-remote are stand-ins that use the hosted API as the real ones do.
source "$(dirname "$0")/lib.sh"
namespace=$1
mesh=$2
members=${MEMBERS:-1}
kind=${KIND:-Deployment}
validity=${VALIDITY:-48h}
# kubeadm's phase: the Subject of `super-admin` has O=system:masters, that of `admin` a group which the hosted API has to be told of.
admin=${ADMIN:-super-admin}
folder=$STATE/meshes/$namespace/$mesh
source "$SOURCE/e2e/mesh-manifests.sh"

# The names of an object's Service, from the shortest to the longest.
service_names() {
  local name=$1
  echo "$name" "$name.$namespace" "$name.$namespace.svc" "$name.$namespace.svc.cluster.local"
}

member_names() {
  local number
  for ((number = 0; number < members; number++)); do
    echo "$mesh-etcd-$number"
  done
}

# Words as a YAML list in flow style.
list() {
  echo "[$(tr -s ' \n' , <<<"$*" | sed 's/,$//')]"
}

etcd_names() {
  local member
  service_names "$mesh-etcd"
  for member in $(member_names); do
    service_names "$member"
  done
}

make_credentials() {
  local names
  mkdir -p "$folder"
  names=$(list "$(etcd_names)")
  cat >"$folder/kubeadm.yaml" <<CONFIG
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: $NODE_ADDRESS}
nodeRegistration: {name: $mesh}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v1.34.0
certificatesDir: $folder/pki
certificateValidityPeriod: $validity
apiServer: {certSANs: $(list "$(service_names "$mesh-hosted-apiserver")")}
etcd: {local: {serverCertSANs: $names, peerCertSANs: $names}}
CONFIG
  kubeadm init phase certs all --config "$folder/kubeadm.yaml"
  for phase in admin super-admin; do
    kubeadm init phase kubeconfig "$phase" --config "$folder/kubeadm.yaml" --kubeconfig-dir "$folder"
    sed -i "s#server: .*#server: https://$mesh-hosted-apiserver:6443#" "$folder/$phase.conf"
  done
}

# from_files FOLDER: an argument for each of its files.
from_files() {
  find "$1" -maxdepth 1 -type f -printf '--from-file=%p\n'
}

store_credentials() {
  local arguments
  mapfile -t arguments < <(from_files "$folder/pki")
  kubectl -n "$namespace" create secret generic "$mesh-kube-certs" "${arguments[@]}"
  mapfile -t arguments < <(from_files "$folder/pki/etcd")
  kubectl -n "$namespace" create secret generic "$mesh-etcd-certs" "${arguments[@]}"
  kubectl -n "$namespace" create secret generic "$mesh-apiserver-admin-kubeconfig" --from-file "config=$folder/$admin.conf"
}

# There is no DNS: the names are written into the pods.
host_aliases() {
  kubectl -n "$namespace" get services -l "mesh=$mesh" -o jsonpath='{range .items[*]}{.spec.clusterIP} {.metadata.name}{"\n"}{end}' |
    while read -r address name; do
      echo "- {ip: $address, hostnames: $(list "$(service_names "$name")")}"
    done
}

kubectl get namespace "$namespace" >/dev/null 2>&1 || namespace_manifest | kubectl apply -f -
# What a mesh of this name left, etcd's members among it, is not this one's.
rm -rf "$folder" "$STATE/data/$namespace/$mesh"
make_credentials >"$LOGS/kubeadm-$namespace-$mesh.log" 2>&1
store_credentials
services_manifest | kubectl apply -f -
aliases=$(host_aliases)
workloads_manifest | kubectl apply -f -
for workload in "statefulset/$mesh-etcd" "$kind/$mesh-hosted-apiserver" "deployment/istiod-$mesh-hosted"; do
  kubectl -n "$namespace" rollout status "$workload" --timeout=90s
done

# What `kubeadm init` does after phase `admin`.
if [[ $admin == admin ]]; then
  address=$(kubectl -n "$namespace" get service "$mesh-hosted-apiserver" -o jsonpath='{.spec.clusterIP}')
  hosted=(kubectl --kubeconfig "$folder/super-admin.conf" --server "https://$address:6443" --tls-server-name "$mesh-hosted-apiserver")
  until_true 20 "hosted API" "${hosted[@]}" get namespace default
  "${hosted[@]}" create clusterrolebinding kubeadm:cluster-admins --clusterrole cluster-admin --group kubeadm:cluster-admins
fi
