# ruff: noqa: N999 (named like its rule; no other module imports it)
"""Import an existing model of a known family: a local folder, or a hub id with its revision.

Reads ``config.json`` and the weights (safetensors, or ``.bin`` through torch's ``weights_only`` reader)
of the model, and the ledger of the tokenizer that all models of the study share. No code that comes
with a model is ever run.

Writes a folder of kind ``language_model`` as training does: ``config.json`` and ``model.safetensors`` in
the dtype in which the weights are stored, and where the source has them ``generation_config.json`` and
``chat_template.jinja``, which are kept as they are and never executed. Attributes: ``tokenizer``
(fingerprint), ``source`` (place, revision and file hashes), ``training_tokens`` (null).
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

from steps.core.digest import code_digest, file_digest
from steps.core.runner import Output, run
from steps.core.sources import Source, apart
from steps.core.stores import Folder, Ledger
from steps.interp.loading import (
    build,
    fetch_model,
    files_beside,
    load_tokenizer,
    quiet,
    read_config,
    read_weights,
    save,
    weight_files,
)
from steps.language_models.text.tokenizers import check_tokenizer

logger = logging.getLogger("reprise")


def main(tokenizer: Path, n_ctx: int, settings: Source, out: Output) -> None:
    """Import the model that ``settings`` names."""
    quiet()
    folder = apart(fetch_model(settings), out)
    shared = Folder(tokenizer, "tokenizer")
    check_tokenizer(folder, load_tokenizer(tokenizer))
    config = read_config(folder / "config.json", shared.attributes["vocabulary"], n_ctx)
    files = weight_files(folder)
    beside = files_beside(folder)
    digests = {path.name: file_digest(path) for path in (folder / "config.json", *files)}
    digests |= {name: hashlib.sha256(content).hexdigest() for name, content in beside.items()}
    model = build(config, read_weights(files), folder)
    made_from: dict[str, Any] = {
        "files": digests,
        "tokenizer": shared.fingerprint,
        "code": code_digest("language_models.import"),
    }
    ledger = Ledger(out, "language_model", made_from, ("safetensors", "torch", "transformers"))
    save(model, ledger)
    for name, content in beside.items():
        ledger.place(name).write_bytes(content)
        ledger.record(name)
    ledger.finish(
        {
            "tokenizer": shared.fingerprint,
            "source": {**settings.model_dump(exclude_none=True), "files": digests},
            "training_tokens": None,
        }
    )
    logger.info("imported %s with %d parameters", folder, sum(p.numel() for p in model.parameters()))


if __name__ == "__main__":
    run(main)
