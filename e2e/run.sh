#!/usr/bin/env bash
# Brings the cluster up, runs the tests in it (or those named), takes it down, whatever happens. E2E_KEEP=1 keeps it after a failure;
# E2E_PROFILE is the cargo profile of the tests.
source "$(dirname "$0")/lib.sh"
cd "$SOURCE"

end() {
  local code=$?
  trap - EXIT INT TERM
  if ((code != 0)) && [[ ${E2E_KEEP:-} == 1 ]]; then
    say "failed and kept: e2e/inside.sh kubectl get pods -A; make e2e-down ends it"
  else
    "$SOURCE/e2e/down.sh" || code=1
  fi
  ((code == 0)) || say "logs are in $LOGS"
  exit "$code"
}

! init_process >/dev/null || fail "a cluster is running already; make e2e-down"
# Built before: a compiler beside the cluster would only be in its way.
cargo test --quiet --profile "${E2E_PROFILE:=dev}" --test e2e --no-run
rm -rf "$LOGS"
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
"$SOURCE/e2e/up.sh"
# The cases share the machine's two cores, and some stop what others need: one after the other.
# In the background, for a trap waits for whoever is in front.
MESHCERT_E2E=$STATE inside cargo test --profile "$E2E_PROFILE" --test e2e -- --ignored --nocapture --test-threads=1 "$@" &
wait $!
if [[ -e $LOGS/figures.txt ]]; then
  say "what was measured:"
  cat "$LOGS/figures.txt" >&2
fi
