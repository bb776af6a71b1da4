"""What explanations take."""

from __future__ import annotations

import math

from steps.interp.sizes import ModelSize
from steps.neurons.activations.bins import BINS
from steps.neurons.costs.study import (
    COLUMNS,
    TOP_TOKEN,
    Formula,
    Job,
    Study,
    computed_bytes,
    embedding_bytes,
    opened_bytes,
    reading_layers,
)

EXPLAINED = 50e-9
"""Seconds of a core for each activation that is explained, in both readings together, as measured."""

MANY_FEATURES = 1000
"""How many features of token ids are assumed: 207, unigram groups and topics."""


def profile_bytes(study: Study, model: ModelSize) -> float:
    """Of a model's arrays in the file of ``neurons.explain``."""
    return (8.0 * study.n_ctx + 4.0 * BINS) * model.neurons


def text(study: Study) -> list[Job]:
    """Labels of all tokens, features of the vocabulary, and one embedding after the other."""
    tokens = min(study.settings.explain.tokens or study.tokens, study.tokens)
    features = float(MANY_FEATURES) * max(model.vocabulary for model in study.models)
    embeddings = [embedding_bytes(model) for model in study.models]
    return [
        Job(
            held=400.0 * tokens + 12.0 * features + max(embeddings) + opened_bytes(study, len(study.models)),
            read=sum(embeddings),
            temporary=12.0 * tokens + features,
            on_host=True,
        )
    ]


def explain(study: Study) -> list[Job]:
    """Every part of every model."""
    return [_explain(study, model, part) for model in study.models for part in range(study.settings.parts)]


def _explain(study: Study, model: ModelSize, part: int) -> Job:
    """Sums by token id of some of the neurons of a part at a time.

    Bytes, per token id and neuron: three sums in float64 and a maximum in float32 (``first_pass``), and
    four more arrays in float64 while the best tokens are ranked. A block is there as values, squares, labels
    and what is made of them; the text as labels and codes. Tables and profiles are kept. A model that
    computes activations stops after the last layer that is read.
    """
    of, parts = study.settings.explain, study.settings.parts
    tokens = min(of.tokens or study.tokens, study.tokens)
    count = min(of.neurons_at_once or model.neurons, model.neurons)
    # An accelerator holds the sums, and forms them in a fraction of the time of its forward passes.
    cost, explained = Job(on_host=of.device == "cpu"), 0
    runs = math.ceil(model.neurons / count)
    for number in range(runs * part // parts, runs * (part + 1) // parts):
        start, stop = number * count, min((number + 1) * count, model.neurons)
        layers = range(start // model.d_mlp, (stop - 1) // model.d_mlp + 1)
        cost.add(reading_layers(study, 2 * tokens, model, layers))
        explained += stop - start
    profiles = profile_bytes(study, model) * explained / model.neurons
    cost.temporary = profiles + (300.0 + 30 * 2 * of.top_tokens) * explained
    cost.held = (
        (28.0 + 32.0) * model.vocabulary * count
        + (40.0 * study.block_tokens + 64.0 * study.n_ctx + 48.0 * MANY_FEATURES) * count
        + 12.0 * model.vocabulary * MANY_FEATURES
        + 400.0 * tokens
        + (COLUMNS + 2 * TOP_TOKEN * of.top_tokens) * explained
        + 2 * profiles
        + computed_bytes(study, model)
        + opened_bytes(study)
    )
    if of.device == "cpu":
        cost.host = EXPLAINED * tokens * explained
    return cost


def merge_explanations(study: Study) -> list[Job]:
    """Tables and profiles of all models."""
    profiles = sum(profile_bytes(study, model) for model in study.models)
    top = study.settings.explain.top_tokens
    written = profiles + (300.0 + 30 * 2 * top) * study.neurons
    held = 3 * profiles + (COLUMNS + 2 * TOP_TOKEN * top) * study.neurons
    held += opened_bytes(study, len(study.models))
    return [Job(held=held, read=written, written=written, on_host=True)]


FORMULAS = {
    "text": Formula(text),
    "explain": Formula(explain),
    "merge_explanations": Formula(merge_explanations),
}
"""By rule."""
