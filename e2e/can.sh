#!/usr/bin/env bash
# Tries what a cluster needs of this machine, and takes it back. Where something cannot be had, says on one line what, and exits with 1.
source "$(dirname "$0")/lib.sh"

cannot() {
  echo "$*"
  exit 1
}

[[ $(uname -s) == Linux ]] || cannot "this is not Linux"
[[ $EUID == 0 ]] || cannot "this is not root, who alone may make namespaces, mounts and cgroups"
(($(awk '$1 == "MemTotal:" {print $2}' /proc/meminfo) >= 6000000)) || cannot "this machine has less than 6 GB of memory"
"$SOURCE/tools/build.sh" e2e-packages || cannot "Debian's packages for it are missing and cannot be installed"
# The kubelet ends without these two.
(: </dev/kmsg) 2>/dev/null || cannot "/dev/kmsg cannot be read"
# shellcheck disable=SC2094 # the same value
cat /proc/sys/vm/overcommit_memory >/proc/sys/vm/overcommit_memory || cannot "the kernel's settings cannot be written"

# A cgroup with a process in it, below every hierarchy that the kubelet uses.
try_cgroup() {
  local folder=$1/$CGROUP-try
  mkdir "$folder" && bash -c "echo \$\$ >'$folder/cgroup.procs'"
}
TRIED=$STATE/try
mkdir -p "$TRIED"
take_back() {
  find /sys/fs/cgroup -depth -type d -name "$CGROUP-try" -exec rmdir {} +
  rm -rf "$TRIED"
}
trap take_back EXIT
mapfile -t hierarchies < <(awk '$3 == "cgroup2" || $3 == "cgroup" && $4 ~ /(^|,)(memory|pids|cpu|devices)(,|$)/ {print $2}' /proc/mounts)
((${#hierarchies[@]} > 0)) || cannot "no cgroups are mounted"
for hierarchy in "${hierarchies[@]}"; do
  try_cgroup "$hierarchy" || cannot "no cgroup can be made in $hierarchy"
done

# Says what failed.
try_namespaces() {
  unshare --fork --kill-child --pid --mount --net --mount-proc bash -euE -s "$TRIED" <<'TRIAL'
trap 'echo "$what"' ERR
what="no tmpfs can be mounted"
mount -t tmpfs tmpfs /run
what="no overlay can be mounted on the file system of the checkout"
mkdir "$1"/{lower,upper,work,merged}
mount -t overlay overlay -o "lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work" "$1/merged"
what="no bridge can be made"
ip link add try0 type bridge
what="no pair of virtual Ethernet devices can be made"
ip link add try1 type veth peer name try2
what="packets cannot be forwarded"
echo 1 >/proc/sys/net/ipv4/ip_forward
what="nftables cannot translate addresses"
nft -f - <<'RULES'
table ip try {
  chain out { type nat hook postrouting priority srcnat; masquerade; }
}
RULES
TRIAL
}
why=$(try_namespaces) || cannot "${why:-no namespaces can be made}"
