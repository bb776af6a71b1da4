#!/usr/bin/env bash
# A GPT-NeoX configuration passes over rope_theta and partial_rotary_factor without a word, though it keeps them.
# Says 1 if it no longer does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv environment
environment/bin/python -m pip install --quiet transformers==5.23.0

cat > show.py <<'PYTHON'
import json
import os

import transformers

told = {"rope_theta": 500000.0, "partial_rotary_factor": 1.0}
print(f"transformers {transformers.__version__}, a config.json with {told}:")
found = {}
for kind in ("llama", "gpt_neox"):
    os.makedirs(kind)
    with open(f"{kind}/config.json", "w") as file:
        json.dump({"model_type": kind, "hidden_size": 64, "num_attention_heads": 2, **told}, file)
    config = transformers.AutoConfig.from_pretrained(kind)
    found[kind] = config.rope_parameters
    kept = getattr(config, "rope_theta", None)
    print(f"    {kind}: computes with {config.rope_parameters}; config.rope_theta is {kept}")
neox = found["gpt_neox"]
same = found["llama"]["rope_theta"] == 500000.0
raise SystemExit(not (same and (neox["rope_theta"], neox["partial_rotary_factor"]) == (10000.0, 0.25)))
PYTHON
environment/bin/python show.py 2> said || { cat said; exit 1; }
