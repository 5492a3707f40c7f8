#!/usr/bin/env bash
# Ends the cluster and proves that nothing of it is left: processes, namespaces, mounts, cgroups, kernel settings.
source "$(dirname "$0")/lib.sh"

# Killing the first process of a PID namespace kills all; their mounts and networks go with the last of them.
if pid=$(init_process); then
  say "stopping"
  kill -KILL "$pid"
fi

# Whether a process is in a namespace of the cluster.
anybody_left() {
  [[ -e $STATE/namespaces ]] && readlink /proc/[0-9]*/ns/{pid,net,mnt} 2>/dev/null | grep -qxFf "$STATE/namespaces"
}
nobody_left() {
  ! anybody_left
}
until_true 20 "end of all processes" nobody_left

remove_cgroups() {
  local root
  while read -r root; do
    find "$root" -depth -type d -exec rmdir {} + || return
  done < <(find /sys/fs/cgroup -maxdepth 2 -type d -name "$CGROUP")
}
until_true 20 "removal of the cgroups" remove_cgroups

if [[ -e $STATE/sysctls ]]; then
  while IFS=: read -r name value; do
    echo "$value" >"/proc/sys/$name"
  done <"$STATE/sysctls"
fi

! grep -F "$STATE/" /proc/self/mountinfo || fail "these mounts are left"
[[ -z $(find /sys/fs/cgroup -name "$CGROUP*" -print -quit) ]] || fail "cgroups are left"
if [[ -d $STATE ]]; then
  find "$STATE" -mindepth 1 -maxdepth 1 ! -name logs -exec rm -rf {} +
fi
