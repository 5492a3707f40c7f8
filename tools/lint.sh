#!/usr/bin/env bash
# Shell scripts, YAML, licences.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/.cache/venv/bin
git ls-files '*.sh' .ci/run | xargs "$bin/shellcheck" --external-sources --source-path=SCRIPTDIR

# A chart's templates become YAML only when they are rendered.
git ls-files '*.yaml' '*.yml' ':!deploy/chart/templates' | xargs --no-run-if-empty "$bin/yamllint" --strict -c tools/yamllint.yaml
PATH="$bin:$PATH" cargo deny --log-level error check bans licenses sources
