#!/usr/bin/env bash
# Runs a command in the cluster's namespaces: e2e/inside.sh kubectl get pods -A
source "$(dirname "$0")/lib.sh"
inside "$@"
