# shellcheck shell=bash
# etcd, API server, controller manager and scheduler, with a PKI of kubeadm's; sourced by node.sh.

write_kubeadm_config() {
  cat >"$STATE/kubeadm.yaml" <<CONFIG
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: $NODE_ADDRESS}
nodeRegistration: {name: $NODE}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: $(kubectl version --client -o json | sed -n 's/.*"gitVersion": "\(.*\)".*/\1/p')
certificatesDir: $PKI
networking: {serviceSubnet: $SERVICE_RANGE}
CONFIG
}

make_credentials() {
  write_kubeadm_config
  kubeadm init phase certs all --config "$STATE/kubeadm.yaml"
  kubeadm init phase kubeconfig all --config "$STATE/kubeadm.yaml" --kubeconfig-dir "$STATE"
  cp "$STATE/super-admin.conf" "$KUBECONFIG"
}

start_control_plane() {
  component etcd etcd --name "$NODE" --data-dir "$STATE/etcd" --unsafe-no-fsync --listen-client-urls http://127.0.0.1:2379 \
    --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 --log-level warn
  make_credentials
  component kube-apiserver kube-apiserver --advertise-address "$NODE_ADDRESS" --secure-port 6443 --etcd-servers http://127.0.0.1:2379 \
    --service-cluster-ip-range "$SERVICE_RANGE" --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --allow-privileged \
    --tls-cert-file "$PKI/apiserver.crt" --tls-private-key-file "$PKI/apiserver.key" --client-ca-file "$PKI/ca.crt" \
    --kubelet-client-certificate "$PKI/apiserver-kubelet-client.crt" --kubelet-client-key "$PKI/apiserver-kubelet-client.key" \
    --kubelet-preferred-address-types InternalIP --service-account-issuer https://kubernetes.default.svc \
    --service-account-key-file "$PKI/sa.pub" --service-account-signing-key-file "$PKI/sa.key" \
    --audit-policy-file "$SOURCE/e2e/audit-policy.yaml" --audit-log-path "$LOGS/audit.log" --audit-log-maxsize 4000
  until_true 60 "API server" kubectl get --raw /readyz
  # With the usual limits, the pods of a fleet take minutes to be made and to be placed.
  component kube-controller-manager kube-controller-manager --kubeconfig "$STATE/controller-manager.conf" --leader-elect=false \
    --use-service-account-credentials --service-account-private-key-file "$PKI/sa.key" --root-ca-file "$PKI/ca.crt" --kube-api-qps 500 --kube-api-burst 1000
  component kube-scheduler kube-scheduler --kubeconfig "$STATE/scheduler.conf" --leader-elect=false --kube-api-qps 500 --kube-api-burst 1000
  # So that `kubectl logs` works.
  kubectl create clusterrolebinding kubelet-api --clusterrole system:kubelet-api-admin --user kube-apiserver-kubelet-client
}
