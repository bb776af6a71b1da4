#!/usr/bin/env bash
# safetensors writes the wrong values of a NumPy array that is a slice of another, without an error.
# Says 1 if it no longer does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv environment
environment/bin/python -m pip install --quiet safetensors==0.8.0 numpy==2.4.6

cat > show.py <<'PYTHON'
import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

whole = np.arange(6, dtype=np.float32).reshape(2, 3)
columns = whole[:, 1:]
save_file({"columns": columns, "copy": np.ascontiguousarray(columns)}, "x.safetensors")
found = load_file("x.safetensors")
print(f"safetensors {safetensors.__version__}, numpy {np.__version__}:")
print(f"    the array:        {columns.tolist()}")
print(f"    read back:        {found['columns'].tolist()}")
print(f"    a copy read back: {found['copy'].tolist()}")
raise SystemExit(not ((found["columns"] != columns).any() and (found["copy"] == columns).all()))
PYTHON
environment/bin/python show.py
