"""What activations and their histograms take."""

from __future__ import annotations

from steps.interp.sizes import ModelSize
from steps.neurons.activations.bins import BINS
from steps.neurons.costs.study import (
    MANY_SOURCES,
    OPENED,
    Formula,
    Job,
    Study,
    block_bytes,
    loaded_bytes,
    opened_bytes,
    reading_bytes,
    reading_layers,
    stored_bytes,
)

BINNED = 15e-9
"""Seconds of a core for each activation that is counted into a bin, as measured."""

COUNTS = 4.0 * MANY_SOURCES * BINS
"""Bytes of a neuron's histograms, by source of the text."""

SUMMED = 48.0 * BINS
"""Bytes of what becomes of their sums over sources."""


def counts_bytes(study: Study) -> float:
    """Of one model's counts by source, and of what becomes of their sums."""
    return (COUNTS + SUMMED) * study.largest.neurons


def dump(study: Study) -> list[Job]:
    """Every model once."""
    return [_dump(study, model) for model in study.models]


def _dump(study: Study, model: ModelSize) -> Job:
    kept = study.keeps_activations
    return Job(
        held=kept * (3 * block_bytes(study, model) + loaded_bytes(study, model)) + 2 * OPENED * study.tokens,
        forward=study.tokens * model.forward(study.n_ctx) if kept else 0.0,
        written=5.0 * study.tokens + (stored_bytes(study, model, study.tokens) if kept else 0.0),
    )


def histograms(study: Study) -> list[Job]:
    """One job that counts all, or puts together what parts counted: one model at a time."""
    if study.settings.parts == 1:
        return [_count(study, study.models, 0)]
    written = COUNTS * study.neurons
    held = 3 * COUNTS * study.largest.neurons + opened_bytes(study, len(study.models))
    return [Job(held=held, read=written, written=written, on_host=True)]


def histograms_part(study: Study) -> list[Job]:
    """Every part of every model, where there are several."""
    parts = range(study.settings.parts if study.settings.parts > 1 else 0)
    return [_count(study, [model], part) for model in study.models for part in parts]


def _count(study: Study, models: list[ModelSize], part: int) -> Job:
    """All layers of ``models``, or those of a part; a model that computes them stops after the last."""
    tokens = min(study.settings.histograms.tokens or study.tokens, study.tokens)
    parts = study.settings.parts
    cost = Job(on_host=True)
    shares = []
    for model in models:
        layers = range(model.layers * part // parts, model.layers * (part + 1) // parts)
        shares.append(len(layers) * model.d_mlp)
        cost.add(reading_layers(study, tokens, model, layers))
    cost.held = 2 * COUNTS * max(shares) + opened_bytes(study, len(models))
    cost.held += sum(reading_bytes(study, model) for model in models)
    cost.host = BINNED * tokens * sum(shares)
    if parts == 1:
        cost.written = COUNTS * sum(shares)
    else:
        cost.temporary = COUNTS * sum(shares)
    return cost


FORMULAS = {
    "dump": Formula(dump),
    "histograms_part": Formula(histograms_part),
    "histograms": Formula(histograms),
}
"""By rule."""
