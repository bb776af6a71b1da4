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
    """Every part of every model, which keeps what it counts until it is merged."""
    return [_count(study, model, part) for model in study.models for part in range(study.settings.parts)]


def _count(study: Study, model: ModelSize, part: int) -> Job:
    """The layers of a part; a model that computes them stops after the last."""
    tokens = min(study.settings.histograms.tokens or study.tokens, study.tokens)
    parts = study.settings.parts
    layers = range(model.layers * part // parts, model.layers * (part + 1) // parts)
    neurons = len(layers) * model.d_mlp
    job = Job(
        held=2 * COUNTS * neurons + reading_bytes(study, model) + opened_bytes(study),
        temporary=COUNTS * neurons,
        host=BINNED * tokens * neurons,
        on_host=True,
    )
    job.add(reading_layers(study, tokens, model, layers))
    return job


def merge_histograms(study: Study) -> list[Job]:
    """Counts of one model at a time."""
    counts = COUNTS * study.neurons
    held = 3 * COUNTS * study.largest.neurons + opened_bytes(study, len(study.models))
    return [Job(held=held, read=counts, written=counts, on_host=True)]


FORMULAS = {
    "dump": Formula(dump),
    "histograms": Formula(histograms),
    "merge_histograms": Formula(merge_histograms),
}
"""By rule."""
