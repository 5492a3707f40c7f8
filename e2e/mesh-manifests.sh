# shellcheck shell=bash disable=SC2154
# The objects of a hosted mesh; sourced by mesh.sh, whose variables they take.

# Once per namespace: who the documented Job runs as, the ckube-remote that all meshes share, and a plain istiod that belongs to something else.
namespace_manifest() {
  cat <<MANIFEST
apiVersion: v1
kind: Namespace
metadata: {name: $namespace}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: mspider-mcpc, namespace: $namespace}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: mspider-mcpc, namespace: $namespace}
rules: [{apiGroups: [''], resources: [secrets], verbs: [get, patch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: mspider-mcpc, namespace: $namespace}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: mspider-mcpc}
subjects: [{kind: ServiceAccount, name: mspider-mcpc, namespace: $namespace}]
$(idle_deployment mspider-mcpc-ckube-remote)
$(idle_deployment istiod)
MANIFEST
}

idle_deployment() {
  cat <<MANIFEST
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: $1, namespace: $namespace}
spec:
  selector: {matchLabels: {app: $1}}
  template:
    metadata: {labels: {app: $1}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: $JOB_IMAGE, command: [tail, -f, /dev/null]}]
MANIFEST
}

services_manifest() {
  local member
  service "$mesh-etcd" "{app: $mesh-etcd}" '[{name: client, port: 2379}]'
  service "$mesh-hosted-apiserver" "{app: $mesh-hosted-apiserver}" '[{name: https, port: 6443}]'
  for member in $(member_names); do
    service "$member" "{statefulset.kubernetes.io/pod-name: $member}" '[{name: client, port: 2379}, {name: peer, port: 2380}]'
  done
}

# Members find each other before they are ready.
service() {
  cat <<MANIFEST
---
apiVersion: v1
kind: Service
metadata: {name: $1, namespace: $namespace, labels: {mesh: $mesh}}
spec: {selector: $2, ports: $3, publishNotReadyAddresses: $([[ $1 == *-etcd-* ]] && echo true || echo false)}
MANIFEST
}

workloads_manifest() {
  etcd_manifest
  api_server_manifest
  istiod_manifest
}

# each SEPARATOR FORMAT: the format for every member, its name in place of %.
each() {
  local member out=''
  for member in $(member_names); do
    out+=${out:+$1}${2//%/$member}
  done
  echo "$out"
}

etcd_manifest() {
  cat <<MANIFEST
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: $mesh-etcd, namespace: $namespace}
spec:
  serviceName: $mesh-etcd
  replicas: $members
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: $mesh-etcd}}
  template:
    metadata: {labels: {app: $mesh-etcd}}
    spec:
      terminationGracePeriodSeconds: 5
      hostAliases:
${aliases//- /      - }
      volumes:
      - {name: certs, secret: {secretName: $mesh-etcd-certs}}
      - {name: data, hostPath: {path: $STATE/data/$namespace/$mesh, type: DirectoryOrCreate}}
      containers:
      - name: etcd
        image: meshcert.test/etcd:1
        env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
        args:
        - --name=\$(POD_NAME)
        - --data-dir=/var/lib/etcd/\$(POD_NAME)
        - --initial-cluster=$(each , '%=https://%:2380')
        - --initial-advertise-peer-urls=https://\$(POD_NAME):2380
        - --advertise-client-urls=https://\$(POD_NAME):2379
        - --listen-peer-urls=https://0.0.0.0:2380
        - --listen-client-urls=https://0.0.0.0:2379
        - --listen-metrics-urls=http://0.0.0.0:2381
        - --cert-file=/etc/kubernetes/pki/etcd/server.crt
        - --key-file=/etc/kubernetes/pki/etcd/server.key
        - --trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt
        - --client-cert-auth
        - --peer-cert-file=/etc/kubernetes/pki/etcd/peer.crt
        - --peer-key-file=/etc/kubernetes/pki/etcd/peer.key
        - --peer-trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt
        - --peer-client-cert-auth
        # Behind a Service of its own a member's address is not the one that its name resolves to.
        - --peer-skip-client-san-verification
        - --unsafe-no-fsync
        readinessProbe: {httpGet: {path: /readyz, port: 2381}, periodSeconds: 1}
        volumeMounts:
        - {name: certs, mountPath: /etc/kubernetes/pki/etcd, readOnly: true}
        - {name: data, mountPath: /var/lib/etcd}
MANIFEST
}

api_server_manifest() {
  local pki=/etc/kubernetes/pki
  cat <<MANIFEST
---
apiVersion: apps/v1
kind: $kind
metadata: {name: $mesh-hosted-apiserver, namespace: $namespace}
spec:
$([[ $kind == Deployment ]] || echo "  serviceName: $mesh-hosted-apiserver")
  replicas: 1
  selector: {matchLabels: {app: $mesh-hosted-apiserver}}
  template:
    metadata: {labels: {app: $mesh-hosted-apiserver}}
    spec:
      terminationGracePeriodSeconds: 5
      hostAliases:
${aliases//- /      - }
      volumes:
      - {name: kube-certs, secret: {secretName: $mesh-kube-certs}}
      - {name: etcd-certs, secret: {secretName: $mesh-etcd-certs}}
      containers:
      - name: kube-apiserver
        image: meshcert.test/kube-apiserver:1
        args:
        - --etcd-servers=$(each , 'https://%:2379')
        - --etcd-cafile=$pki/etcd/ca.crt
        - --etcd-certfile=$pki/apiserver-etcd-client.crt
        - --etcd-keyfile=$pki/apiserver-etcd-client.key
        - --tls-cert-file=$pki/apiserver.crt
        - --tls-private-key-file=$pki/apiserver.key
        - --client-ca-file=$pki/ca.crt
        - --kubelet-client-certificate=$pki/apiserver-kubelet-client.crt
        - --kubelet-client-key=$pki/apiserver-kubelet-client.key
        - --proxy-client-cert-file=$pki/front-proxy-client.crt
        - --proxy-client-key-file=$pki/front-proxy-client.key
        - --requestheader-client-ca-file=$pki/front-proxy-ca.crt
        - --requestheader-allowed-names=front-proxy-client
        - --requestheader-username-headers=X-Remote-User
        - --requestheader-group-headers=X-Remote-Group
        - --requestheader-extra-headers-prefix=X-Remote-Extra-
        - --service-account-key-file=$pki/sa.pub
        - --service-account-signing-key-file=$pki/sa.key
        - --service-account-issuer=https://kubernetes.default.svc
        - --service-cluster-ip-range=10.200.0.0/16
        - --authorization-mode=Node,RBAC
        - --endpoint-reconciler-type=none
        - --secure-port=6443
        readinessProbe: {httpGet: {scheme: HTTPS, path: /readyz, port: 6443}, periodSeconds: 1}
        volumeMounts:
        - {name: kube-certs, mountPath: $pki, readOnly: true}
        - {name: etcd-certs, mountPath: $pki/etcd, readOnly: true}
MANIFEST
}

# Reads the kubeconfig once, as istiod does, and then counts in the hosted API for ever: without a restart it breaks with its certificate.
istiod_manifest() {
  cat <<MANIFEST
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: istiod-$mesh-hosted, namespace: $namespace}
spec:
  selector: {matchLabels: {app: istiod-$mesh-hosted}}
  template:
    metadata: {labels: {app: istiod-$mesh-hosted}}
    spec:
      terminationGracePeriodSeconds: 0
      hostAliases:
${aliases//- /      - }
      volumes: [{name: kubeconfig, secret: {secretName: $mesh-apiserver-admin-kubeconfig}}]
      containers:
      - name: discovery
        image: $JOB_IMAGE
        env: [{name: KUBECONFIG, value: /tmp/kubeconfig}]
        command: [bash, -c]
        args:
        - |
          cp /etc/istiod/config "\$KUBECONFIG"
          while sleep 1; do
            kubectl -n default annotate configmap istiod "beat=\$HOSTNAME-\$((++beat))" --overwrite ||
              kubectl -n default create configmap istiod
          done
        volumeMounts: [{name: kubeconfig, mountPath: /etc/istiod}]
MANIFEST
}
