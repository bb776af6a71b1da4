"""The chapter's headline figures, its figure and its part of the report page.

Reads the models' ledgers and evaluations, the n-gram losses, and the ledgers of tokenizer and rows;
all JSON. Works for models trained here and for imported ones. Writes ``metrics.json``:

======================  ==========================================================================
name                    contents
======================  ==========================================================================
``models``              how many
``parameters``          of the largest model
``training_tokens``     targets seen by each model, null where models were imported
``vocabulary``          tokens
``context``             tokens per row
``train_rows``          rows to train on
``held_out_rows``       rows held out
``evaluated_tokens``    held-out targets behind the losses
``held_out_loss``       mean over models, nats per token
``held_out_loss/NAME``  of one model
``unigram_loss``        nats per token
``bigram_loss``         nats per token
======================  ==========================================================================

``figures/loss.svg`` with ``loss.json``, the data behind it, and ``report.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.errors import UserError
from steps.core.figures import new_figure, save_figure
from steps.core.provenance import card, provenance
from steps.core.runner import Output, run
from steps.core.stores import Folder, read_json, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOST_LINES = 8
"""Models that are drawn one by one in the legend."""


def metrics(
    names: list[str], evaluations: list[dict[str, Any]], ngrams: dict[str, Any], rows: dict[str, Any]
) -> dict[str, Any]:
    """The headline figures.

    Args:
        names: of the models.
        evaluations: of each model, in the same order.
        ngrams: the counters' losses.
        rows: attributes of the rows' ledger.
    """
    losses = [evaluation["held_out_loss"] for evaluation in evaluations]
    tokens = [evaluation["training_tokens"] for evaluation in evaluations]
    return {
        "models": len(names),
        "parameters": max(evaluation["parameters"] for evaluation in evaluations),
        "training_tokens": None if None in tokens else max(tokens),
        "vocabulary": rows["vocabulary"],
        "context": rows["n_ctx"],
        "train_rows": rows["rows"]["train"],
        "held_out_rows": rows["rows"]["held_out"],
        "evaluated_tokens": ngrams["targets"],
        "held_out_loss": sum(losses) / len(losses),
        **{f"held_out_loss/{name}": loss for name, loss in zip(names, losses, strict=True)},
        "unigram_loss": ngrams["unigram_loss"],
        "bigram_loss": ngrams["bigram_loss"],
    }


def loss_data(
    names: list[str],
    evaluations: list[dict[str, Any]],
    curves: list[list[dict[str, Any]]],
    ngrams: dict[str, Any],
) -> dict[str, Any]:
    """What the figure shows, in nats per token.

    Args:
        names: of the models.
        evaluations: of each model.
        curves: of each model; empty where it was imported.
        ngrams: the counters' losses.
    """
    return {
        "unigram_loss": ngrams["unigram_loss"],
        "bigram_loss": ngrams["bigram_loss"],
        "models": {
            name: {
                "held_out_loss": evaluation["held_out_loss"],
                "curve": [
                    {"tokens": point["tokens"], "held_out_loss": point["held_out_loss"]}
                    for point in curve
                    if point["held_out_loss"] is not None
                ],
            }
            for name, evaluation, curve in zip(names, evaluations, curves, strict=True)
        },
    }


def draw(data: dict[str, Any]) -> Figure:
    """Held-out loss against tokens of training, or of each model where none was trained here."""
    figure, axes = new_figure()
    models = data["models"]
    if any(model["curve"] for model in models.values()):
        for name, model in models.items():
            tokens = [point["tokens"] / 1e6 for point in model["curve"]]
            axes.plot(tokens, [point["held_out_loss"] for point in model["curve"]], label=name)
        axes.set_xlabel("training tokens (millions)")
    else:
        places = range(len(models))
        axes.bar(places, [model["held_out_loss"] for model in models.values()], width=0.6)
        axes.set_xticks(places, list(models), rotation=30, ha="right")
    for name, style in (("unigram", ":"), ("bigram", "--")):
        axes.axhline(data[f"{name}_loss"], color="#555555", linestyle=style, linewidth=1, label=name)
    axes.set_ylabel("held-out loss (nats per token)")
    if len(models) <= MOST_LINES:
        axes.legend()
    return figure


def tables(
    names: list[str], evaluations: list[dict[str, Any]], ledgers: list[Folder]
) -> list[dict[str, Any]]:
    """The tables of the report page: the models, and their losses by source."""
    labels = sorted({label for evaluation in evaluations for label in evaluation["by_source"]})

    def losses(label: str) -> list[float | None]:
        return [evaluation["by_source"].get(label, {}).get("held_out_loss") for evaluation in evaluations]

    return [
        {
            "title": "The models",
            "caption": "Held-out loss in nats per token. Training tokens of imported models are not known.",
            "columns": ["model", "from", "parameters", "training tokens", "held-out loss"],
            "rows": [
                [name, origin(ledger), item["parameters"], item["training_tokens"], item["held_out_loss"]]
                for name, item, ledger in zip(names, evaluations, ledgers, strict=True)
            ],
        },
        {
            "title": "Held-out loss by source of text",
            "caption": "In nats per token; a high loss means text that the models find hard to predict.",
            "columns": ["source", "tokens", *names],
            "rows": [
                [
                    label,
                    max(item["by_source"].get(label, {}).get("targets", 0) for item in evaluations),
                    *losses(label),
                ]
                for label in labels
            ],
        },
    ]


def origin(ledger: Folder) -> str:
    """Where a model comes from, in a few words."""
    source = ledger.attributes["source"]
    if "seed" in source:
        return f"seed {source['seed']}"
    return f"{source['hub']} at {source['revision']}" if "hub" in source else str(source["path"])


def main(
    study: str,
    section: str,
    models: list[Path],
    evaluations: Path,
    ngrams: Path,
    rows: Path,
    tokenizer: Path,
    metrics_out: Output,
    figure: Output,
    data: Output,
    report: Output,
) -> None:
    """Write the chapter's results; ``section`` is its configuration as JSON."""
    names = [path.parent.name for path in models]
    ledgers = [Folder(path, "language_model") for path in models]
    found = read_json(evaluations)
    if not isinstance(found, list) or len(found) != len(models) or not models:
        count = f"{len(found)} evaluations" if isinstance(found, list) else type(found).__name__
        raise UserError(
            f"{evaluations}: found {count}, expected a list of one for each of {len(models)} models; delete"
            " it and run snakemake again"
        )
    curves = [
        read_json(ledger.check("curve.json")) if "curve.json" in ledger.files else [] for ledger in ledgers
    ]
    counted, packed = read_json(ngrams), Folder(rows, "rows")
    numbers = metrics(names, found, counted, packed.attributes)
    write_json(metrics_out, numbers)
    shown = loss_data(names, found, curves, counted)
    write_json(data, shown)
    save_figure(draw(shown), figure)

    trained = numbers["training_tokens"]
    how = (
        f"trained here on {trained / 1e6:.1f} million tokens each, which differ in their seed alone"
        if trained is not None
        else "imported, not trained here"
    )
    better = numbers["bigram_loss"] - numbers["held_out_loss"]
    write_json(
        report,
        {
            "chapter": "language_models",
            "study": study,
            "title": "Language models",
            "summary": f"{len(names)} models with up to {numbers['parameters']:,} parameters, {how}."
            f" All share one tokenizer of {numbers['vocabulary']} tokens and read rows of"
            f" {numbers['context']} tokens.",
            "cards": [
                card(
                    "Held-out loss",
                    round(numbers["held_out_loss"], 3),
                    "nats per token",
                    f"mean of {len(names)} models; bigram counts reach {numbers['bigram_loss']:.3f}",
                    step="language_models.evaluate",
                    study=study,
                    inputs=[evaluations],
                ),
                card(
                    "Better than bigram counts by",
                    round(better, 3),
                    "nats per token",
                    "on the same held-out rows; above zero, models use more than the last token",
                    step="language_models.ngrams",
                    study=study,
                    inputs=[ngrams, evaluations],
                ),
                card(
                    "Models", len(names), "", how, step="language_models.report", study=study, inputs=models
                ),
            ],
            "figures": [
                {
                    "file": "figures/loss.svg",
                    "caption": "Held-out loss of the models, and of unigram and bigram counts.",
                    "data": "figures/loss.json",
                }
            ],
            "tables": tables(names, found, ledgers),
            "provenance": provenance(
                [f"language_models.{step}" for step in ("tokenizer", "rows", "evaluate", "ngrams", "report")]
                + ["language_models.train" if trained is not None else "language_models.import"],
                json.loads(section),
                [rows, tokenizer, *models, evaluations, ngrams],
            ),
        },
    )


if __name__ == "__main__":
    run(main)
