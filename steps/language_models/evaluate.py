"""The held-out losses of the models, trained here or imported.

Reads the models' folders and the packed rows (``held_out``: ``int32 [rows, context]``, BOS first where there
is one). Each position predicts the next token of its row; the first token, BOS, is never a target. Writes a
JSON list with, for each model in turn, ``rows``, ``targets``, ``held_out_loss`` (nats per token),
``by_source`` ({label: {"targets", "held_out_loss"}}), ``parameters``, ``training_tokens`` (null where
unknown), and ``versions`` of libraries. One job for all: loading the libraries takes longer than evaluating a
small model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.core.errors import UserError
from steps.core.provenance import versions
from steps.core.runner import Output, progress, run
from steps.core.stores import Folder, write_json
from steps.interp.loading import load
from steps.language_models.learning.losses import Loss, Settings, held_out, loss_of


def evaluation(model: Path, rows: Path, settings: Settings) -> dict[str, Any]:
    """What the module's docstring says of one model.

    Raises:
        UserError: the rows were made with another tokenizer than the model's.
    """
    packed, folder = Folder(rows, "rows"), Folder(model, "language_model")
    if folder.attributes["tokenizer"] != packed.attributes["tokenizer"]:
        raise UserError(f"{model}: of another tokenizer than {rows}; delete both and build again")
    opened = load(model, settings.device, settings.dtype)
    tokens, owners = held_out(packed, settings.rows)
    loss = loss_of(opened, tokens)
    by_source = {}
    for index, label in enumerate(packed.attributes["sources"]):
        mine = Loss(loss.by_row[owners == index], loss.targets_per_row)
        if len(mine.by_row):
            targets = len(mine.by_row) * mine.targets_per_row
            by_source[label] = {"targets": targets, "held_out_loss": mine.mean}
    return {
        "rows": len(tokens),
        "targets": len(tokens) * loss.targets_per_row,
        "held_out_loss": loss.mean,
        "by_source": by_source,
        "parameters": sum(p.numel() for p in opened.parameters()),
        "training_tokens": folder.attributes.get("training_tokens"),
        "versions": versions(("numpy", "torch", "transformers")),
    }


def main(models: list[Path], rows: Path, settings: Settings, out: Output) -> None:
    """Evaluate ``models`` on held-out rows."""
    if not models:
        raise UserError("--models: found none, expected at least one to evaluate")
    label = "models evaluated"
    write_json(out, [evaluation(model, rows, settings) for model in progress(models, len(models), label)])


if __name__ == "__main__":
    run(main)
