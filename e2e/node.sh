#!/usr/bin/env bash
# The first process of the cluster's namespaces: lays the network, starts every component, starts it again when it ends.
source "$(dirname "$0")/lib.sh"
source "$SOURCE/e2e/control-plane.sh"
source "$SOURCE/e2e/worker.sh"

# component NAME COMMAND...: in the background, for ever.
component() {
  local name=$1
  shift
  (
    while :; do
      "$@" >>"$LOGS/$name.log" 2>&1 &
      echo $! >"$STATE/run/$name.pid"
      wait $! || true
      echo "$name ended; starting it again" >>"$LOGS/$name.log"
      sleep 0.5
    done
  ) &
}

# What the machine has in these folders is not for the cluster, and the other way round.
private_folders() {
  local folder
  for folder in /run /var/lib /var/log; do
    mount -t tmpfs tmpfs "$folder"
  done
  mkdir -p /run/lock
  # No name server can be reached: whoever asks is to be told so at once.
  mount --bind /dev/null /etc/resolv.conf
  # As on a booted machine; these are namespaces of our own.
  mount --make-rshared /
}

network() {
  ip link set lo up
  # There is no way out: the default route is there because components look for it.
  ip link add node0 type bridge
  ip address add "$NODE_ADDRESS/24" dev node0
  ip link set node0 up
  ip route add default via "${NODE_ADDRESS%.*}.254" dev node0
  echo 1 >/proc/sys/net/ipv4/ip_forward
}

trap 'exit 0' TERM
mkdir -p "$STATE/run" "$LOGS"
private_folders
network
start_control_plane
start_worker
touch "$STATE/ready"
wait
