#!/usr/bin/env bash
# DVC records the parameters of the day for a frozen stage that it did not run. Says 1 if it no longer does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv environment
environment/bin/python -m pip install --quiet dvc==3.67.1
PATH="$folder/environment/bin:$PATH"
export DVC_NO_ANALYTICS=1 DVC_SITE_CACHE_DIR="$folder/site"

mkdir repository && cd repository
dvc init --quiet --no-scm
echo "rate: 1" > params.yaml
cat > dvc.yaml <<'YAML'
stages:
  train:
    cmd: cp params.yaml model
    params: [rate]
    outs: [model]
YAML
dvc repro --quiet
dvc freeze --quiet train
echo "rate: 2" > params.yaml
dvc repro --quiet --force

echo "dvc $(dvc --version): the frozen stage was not run,"
echo "    model:    $(cat model)"
echo "and yet dvc.lock names the new parameter:"
sed 's/^/    /' dvc.lock
dvc unfreeze --quiet train
echo "No longer frozen, dvc status says: $(dvc status)"
grep -q "rate: 1" model && grep -q "rate: 2" dvc.lock && dvc status | grep -q "up to date"
