#!/usr/bin/env bash
# dvc pull takes a damaged file from the store, unless the remote says verify. Says 1 if it no longer does.
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
dvc remote add --quiet --default store "$folder/store"
echo "the model" > model
dvc add --quiet model
dvc push --quiet
stored=$(find "$folder/store" -type f)
chmod u+w "$stored" && echo "the mod3l" > "$stored" && chmod u-w "$stored"

fetch() { rm -rf model .dvc/cache; code=0; dvc pull > "$folder/said" 2>&1 || code=$?; }
echo "dvc $(dvc --version), a file in the store is damaged:"
fetch
echo "    dvc pull ends with $code, the file now holds '$(cat model)', dvc status: $(dvc status)"
[ "$code" = 0 ] && [ "$(cat model)" = "the mod3l" ] && dvc status | grep -q "up to date" || exit 1
dvc remote modify store verify true
fetch
echo "    with 'verify = true' it ends with $code: $(grep ERROR "$folder/said")"
[ "$code" != 0 ] && [ ! -e model ]
