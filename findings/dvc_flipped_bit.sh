#!/usr/bin/env bash
# dvc pull takes a damaged file from the store, unless the remote says verify; then it removes the whole folder
# that the file belongs to. Says 1 if either no longer holds.
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
mkdir model
echo "weights" > model/weights
echo "settings" > model/settings
echo "model/notes" > .dvcignore
dvc add --quiet model
dvc push --quiet
stored=$(grep -rl weights "$folder/store" --exclude '*.dir')
chmod u+w "$stored" && echo "wei6hts" > "$stored" && chmod u-w "$stored"
echo "not DVC's business" > model/notes

fetch() { rm -rf model/weights .dvc/cache; code=0; dvc pull > "$folder/said" 2>&1 || code=$?; }
echo "dvc $(dvc --version), one of the two files of a folder is damaged in the store:"
fetch
echo "    dvc pull ends with $code, the file now holds '$(cat model/weights)', dvc status: $(dvc status)"
[ "$code" = 0 ] && [ "$(cat model/weights)" = "wei6hts" ] && dvc status | grep -q "up to date" || exit 1
dvc remote modify store verify true
fetch
echo "    with 'verify = true' it ends with $code: $(grep ERROR "$folder/said")"
echo "    left of the folder, in which an ignored file lay too: $(ls model 2> /dev/null || echo nothing)"
[ "$code" != 0 ] && [ ! -e model ]
