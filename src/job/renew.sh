#!/usr/bin/env bash
# Runs in the renewing Job: what the documented script does, but what it writes are the staged copies that the environment names.
set -euo pipefail
umask 077
mounted=${PKI:-/etc/kubernetes/pki}

# Before anything else, whether this account may write the copies: a patch that changes nothing. meshcert knows the exit code.
for secret in "$KUBE_CERT_SECRET" "$ETCD_CERT_SECRET" "$KUBECONFIG_SECRET"; do
  kubectl -n "$NAMESPACE" patch secret "$secret" --type merge -p '{}' || exit 3
done

if ! [ -f "$mounted/ca.crt" ]; then
  echo "ca.crt is missing" >&2
  exit 1
fi
pki=$(mktemp -d)
mkdir "$pki/etcd"
cp -L "$mounted"/*.* "$pki/"
cp -L "$mounted"/etcd/*.* "$pki/etcd/"
said=$(kubeadm certs renew all --cert-dir "$pki") || { echo "$said"; exit 1; }
echo "$said"

patch() { # SECRET FILE...: a merge patch of the files that are no longer as they were mounted
  local secret=$1 data='' file old new
  shift
  for file in "$@"; do
    new=$(base64 -w0 "$file")
    old=''
    if [ -f "$mounted/${file#"$pki"/}" ]; then old=$(base64 -w0 "$mounted/${file#"$pki"/}"); fi
    if [ "$new" != "$old" ]; then data="$data,\"${file##*/}\":\"$new\""; fi
  done
  printf '{"data":{%s}}' "${data#,}" > "$pki/patch"
  kubectl -n "$NAMESPACE" patch secret "$secret" --type merge --patch-file "$pki/patch"
}

patch "$KUBE_CERT_SECRET" "$pki"/*.*
patch "$ETCD_CERT_SECRET" "$pki"/etcd/*.*
# Without a version kubeadm asks the internet for one, and waits ten seconds where there is none.
kubeadm init phase kubeconfig admin --cert-dir "$pki" --kubeconfig-dir "$pki" --kubernetes-version "$(kubeadm version -o short)"
sed -i "s#server: .*#server: https://$MESH_ID-hosted-apiserver:6443#" "$pki/admin.conf"
mv "$pki/admin.conf" "$pki/$KUBECONFIG_KEY"
patch "$KUBECONFIG_SECRET" "$pki/$KUBECONFIG_KEY"

# What kubeadm skipped with success, for the audit's words. Other kubeconfigs are never there.
while IFS= read -r line; do
  case $line in
    *kubeconfig*) ;;
    *MISSING* | *xternal*) echo "$line" ;;
  esac
done <<< "$said" > "${SAID:-/dev/termination-log}"
