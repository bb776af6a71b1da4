#!/usr/bin/env bash
# A tokenizer.json of Llama 2's kind that transformers opens and saves again encodes a blank at the start of a text
# otherwise. Says 1 if it no longer does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv environment
environment/bin/python -m pip install --quiet transformers==5.23.0 tokenizers==0.23.3

cat > show.py <<'PYTHON'
import json
import os

import tokenizers
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, trainers

# The parts that Llama 2's own tokenizer.json names, with a small vocabulary.
own = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
own.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
own.decoder = decoders.Sequence(steps)
special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
trainer = trainers.BpeTrainer(vocab_size=300, max_token_length=6, special_tokens=special, show_progress=False)
own.train_from_iterator(["the river and the bridge"] * 9, trainer)
content = json.loads(own.to_str())
content["added_tokens"] = content["added_tokens"][:3]  # the bytes are ordinary tokens
os.makedirs("own")
with open("own/tokenizer.json", "w") as file:
    json.dump(content, file)
with open("own/tokenizer_config.json", "w") as file:
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    json.dump({"tokenizer_class": "LlamaTokenizer", "legacy": False, **names}, file)
with open("own/config.json", "w") as file:
    json.dump({"model_type": "llama"}, file)

transformers.AutoTokenizer.from_pretrained("own").save_pretrained("again")
print(f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}:")
ids = {}
for text in ("the river", " the river"):
    for name in ("own", "again"):
        encoded = Tokenizer.from_file(f"{name}/tokenizer.json").encode(text, add_special_tokens=False)
        ids[text, name] = encoded.ids
        print(f"    {text!r}, {name}: {encoded.tokens}")
alike, apart = (ids[text, "own"] == ids[text, "again"] for text in ("the river", " the river"))
raise SystemExit(not (alike and not apart))
PYTHON
environment/bin/python show.py 2> said || { cat said; exit 1; }
