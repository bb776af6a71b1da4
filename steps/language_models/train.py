"""Train one GPT-2 model from a seed (docs/language_models.md).

Reads packed rows (``int32 [rows, context]``; arrays ``train`` and ``held_out``) and the
tokenizer's ledger. The seed decides the initial weights and the order of the rows, a permutation of
all rows for each epoch. Position t predicts token t + 1 of its row, so a row of ``n_ctx`` tokens has
``n_ctx`` - 1 targets; the last position predicts nothing.

Writes a folder of kind ``language_model``: ``config.json`` and ``model.safetensors`` (float32),
``checkpoints/step-NNNNNN`` with the same two files after that many steps, and ``curve.json``: a list of
``{"step", "tokens", "rate", "training_loss", "held_out_loss"}``, where ``tokens`` counts the targets
seen, losses are in nats per token, and ``held_out_loss`` is null between evaluations.

A training that was killed resumes from its last saved state and gives the same
bits (``steps.core.training``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.digest import code_digest
from steps.core.errors import UserError
from steps.core.runner import Output, run
from steps.core.stores import Folder, Ledger, read_array
from steps.core.training import prepare
from steps.interp.loading import quiet
from steps.language_models.learning.loop import STEP, Settings, configuration, train

if TYPE_CHECKING:
    pass


def main(rows: Path, tokenizer: Path, seed: int, settings: Settings, out: Output) -> None:
    """Train the model of ``seed``."""
    if seed < 0:
        raise UserError(f"--seed: found {seed}, expected a number from 0")
    packed = Folder(rows, "rows")
    about = packed.attributes
    wanted = Folder(tokenizer, "tokenizer").fingerprint
    if about["tokenizer"] != wanted:
        raise UserError(f"{rows}: packed with another tokenizer than {tokenizer}; delete it and build again")
    made_from: dict[str, Any] = {
        "rows": packed.fingerprint,
        "tokenizer": wanted,
        "seed": seed,
        "settings": settings.model_dump(exclude={"save_seconds"}),
        "code": code_digest(STEP),
    }
    ledger = Ledger(out, "language_model", made_from, ("numpy", "safetensors", "torch", "transformers"))
    prepare(settings.threads)
    quiet()
    config = configuration(settings, about["vocabulary"], about["n_ctx"], about["bos"])
    curve = train(read_array(packed, "train"), read_array(packed, "held_out"), config, seed, settings, ledger)
    ledger.finish(
        {
            "tokenizer": wanted,
            "source": {"seed": seed, "rows": packed.fingerprint},
            "training_tokens": curve[-1]["tokens"],
        }
    )


if __name__ == "__main__":
    run(main)
