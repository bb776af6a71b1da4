"""What correlations take: their sums, rotations, resampling, other measures, and the same over training."""

from __future__ import annotations

import math

from steps.interp.sizes import ModelSize
from steps.neurons.correlations.products import STRIP
from steps.neurons.costs.study import (
    ITEM,
    OPENED,
    Formula,
    Job,
    Study,
    block_bytes,
    computed_bytes,
    loaded_bytes,
    opened_bytes,
    reading,
    reading_bytes,
    stored_bytes,
)

BINS = 101
"""Of the histograms of correlations, see ``neurons.correlate``."""

MOST_RUNS = 256
"""Of token blocks that ``neurons.clusters`` resamples."""

ROTATED = 10e-9
"""Seconds of a core for each number of a rotation, as measured: every device rotates by the same ones."""

SUMMARISED = 70e-9
"""The same for each correlation, which is ordered and counted in both views."""

DRAWN = 30e-9
"""The same for each normal number in an activation's place."""


def moment_bytes(study: Study, model: ModelSize) -> float:
    """Of the file of ``neurons.moments`` for one range."""
    return 8.0 * model.layers * model.d_mlp**2 + (72.0 + 12 * study.settings.moments.examples) * model.neurons


def product_bytes(rows: float, columns: float) -> float:
    """Of a product matrix in float64."""
    return 8.0 * rows * columns


def summary_bytes(study: Study, rows: float, columns: float) -> float:
    """Of the file of ``neurons.correlate`` for one tile."""
    of = study.settings.correlate

    def view(count: float, others: float) -> float:
        return count * (2 * 12 * min(of.top, others) + 4 * BINS + 4 * 8 + 1)

    return view(rows, columns) + view(columns, rows) + 8.0 * of.draws * rows


def summaries_bytes(study: Study, reference: bool = False) -> float:
    """Of those of all pairs; with ``reference``, of the reference's pairs."""
    tiles = study.settings.tiles
    return sum(
        tiles * summary_bytes(study, study.models[a].neurons / tiles, study.models[b].neurons)
        for a, b in study.pairs
        if a == 0 or not reference
    )


def product_flops(tokens: float, rows: float, columns: float) -> float:
    """Of all products of two models' neurons."""
    return 2.0 * tokens * rows * columns


def within_flops(tokens: float, model: ModelSize) -> float:
    """Of the products within all layers: the upper triangle, in strips."""
    return tokens * model.neurons * min(2.0 * model.d_mlp, model.d_mlp + STRIP)


def rotation_flops(draws: float, rows: float, partner: ModelSize) -> float:
    """Of the rotations of a partner, ``rows`` neurons of the other model looking on."""
    return 2.0 * draws * (rows + partner.d_mlp) * partner.neurons * partner.d_mlp


def moments(study: Study) -> list[Job]:
    """Every model and token range."""
    tokens = study.tokens / study.settings.ranges
    return [
        Job(
            held=3 * 8.0 * model.layers * model.d_mlp**2 + reading_bytes(study, model) + opened_bytes(study),
            within=within_flops(tokens, model),
            written=moment_bytes(study, model),
        ).add(reading(study, tokens, model))
        for model in study.models
        for _ in range(study.settings.ranges)
    ]


def products(study: Study) -> list[Job]:
    """Every pair, tile and token range, where there are several ranges."""
    tiles, ranges = study.settings.tiles, study.settings.ranges
    pairs = [(study.models[a], study.models[b]) for a, b in study.pairs]
    return [_products(study, a, b) for a, b in pairs for _ in range(tiles * ranges if ranges > 1 else 0)]


def _products(study: Study, a: ModelSize, b: ModelSize) -> Job:
    tokens, rows = study.tokens / study.settings.ranges, math.ceil(a.neurons / study.settings.tiles)
    matrix = product_bytes(rows, b.neurons)
    return Job(
        held=matrix + reading_bytes(study, a) + reading_bytes(study, b) + 2 * OPENED * study.tokens,
        products=product_flops(tokens, rows, b.neurons),
        temporary=matrix,
    ).add(reading(study, tokens, a, b))


def correlate(study: Study) -> list[Job]:
    """Every pair and tile."""
    pairs = [(study.models[a], study.models[b]) for a, b in study.pairs]
    return [_correlate(study, a, b) for a, b in pairs for _ in range(study.settings.tiles)]


def _correlate(study: Study, a: ModelSize, b: ModelSize) -> Job:
    rows, ranges = math.ceil(a.neurons / study.settings.tiles), study.settings.ranges
    tile, summary = product_bytes(rows, b.neurons), summary_bytes(study, rows, b.neurons)
    draws = study.settings.correlate.draws
    job = Job(
        held=4 * 8.0 * b.layers * b.d_mlp**2 + 2 * summary + 2 * OPENED * study.tokens,
        rotations=rotation_flops(draws, rows, b),
        host=ROTATED * draws * b.layers * b.d_mlp**2 + SUMMARISED * rows * b.neurons,
        read=ranges * (moment_bytes(study, a) + moment_bytes(study, b)),
        written=summary,
    )
    if ranges > 1:  # files that are mapped into memory count while there is room for them
        job.held += 3 * tile
        job.read += ranges * tile
    else:
        job.held += tile + reading_bytes(study, a) + reading_bytes(study, b)
        job.products = product_flops(study.tokens, rows, b.neurons)
        job.add(reading(study, study.tokens, a, b))
    return job


def clusters(study: Study) -> list[Job]:
    """Sums of each run of blocks: two of every neuron, one of every candidate pair; then its bootstraps."""
    of, summaries = study.settings.clusters, summaries_bytes(study)
    runs = min(MOST_RUNS, math.ceil(study.tokens / study.settings.dump.block_tokens))
    # The best of each neuron in either view, if none is in both.
    candidates = [of.candidates * (study.models[a].neurons + study.models[b].neurons) for a, b in study.pairs]
    sums = 8.0 * runs * (2 * study.neurons + sum(candidates))
    # The result of every pair, and at most eight arrays that one is made of, as measured.
    resampled = 8.0 * of.bootstraps * (sum(candidates) + 8 * max(candidates, default=0))
    job = Job(
        held=sum(reading_bytes(study, model) for model in study.models)
        + opened_bytes(study, len(study.models))
        + 2 * summaries
        + sums
        + resampled,
        products=2.0 * study.tokens * sum(candidates),
        read=summaries,
    )
    job.add(reading(study, study.tokens, *study.models))
    return [job]


def similarity(study: Study) -> list[Job]:
    """Four times (the partner and three nulls) values and 0 or 1, layer after layer of each partner."""
    first, partners = study.models[0], study.models[1:]
    tokens = min(study.settings.similarity.tokens or study.tokens, study.tokens)
    item, block = max(4.0, ITEM[study.settings.precision]), study.block_tokens
    largest = max(study.models, key=lambda model: model.d_mlp)
    passes = sum(model.layers for model in partners) + 1
    # Of a dump only the layer is read; a model computes all of them.
    again = [m for m in partners for _ in range(2 * (1 if study.keeps_activations else m.layers))]
    job = Job(
        # A layer over all tokens and its order; sums; values of the reference, shifted, as 0 or 1 and in
        # float64; those of the layer and its nulls.
        held=(item * largest.d_mlp + 8.0) * tokens
        + 4 * 2 * product_bytes(first.neurons, largest.d_mlp)
        + (4 * item + 16.0) * block * first.neurons
        + 32.0 * item * block * largest.d_mlp
        + sum(computed_bytes(study, model) for model in study.models)
        + opened_bytes(study, len(study.models)),
        products=sum(8 * product_flops(tokens, first.neurons, model.neurons) for model in partners),
        rotations=sum(2.0 * tokens * model.neurons * model.d_mlp for model in partners),
        host=DRAWN * tokens * sum(model.neurons for model in partners),
    ).add(reading(study, tokens, *[first] * passes, *again))
    return [job]


def checkpoints(study: Study) -> list[Job]:
    """Sums and rotations of every step of training that is kept; listed models have none."""
    if not study.checkpoints:
        return []
    of, first, largest = study.settings.checkpoints, study.models[0], study.largest
    tokens, steps = min(of.tokens, study.tokens), study.checkpoints
    dumped = stored_bytes(study, largest, tokens) + 2 * block_bytes(study, largest)
    job = Job(
        held=3 * (dumped + loaded_bytes(study, largest))
        + 4 * 8.0 * largest.layers * largest.d_mlp**2
        + 2 * product_bytes(first.neurons, largest.neurons)
        + opened_bytes(study),
        forward=steps * sum(tokens * model.forward(study.n_ctx) for model in study.models),
        within=steps * sum(within_flops(tokens, model) for model in study.models),
        products=steps * sum(product_flops(tokens, first.neurons, model.neurons) for model in study.models),
        rotations=steps * sum(rotation_flops(of.draws, first.neurons, model) for model in study.models[1:]),
    )
    return [job]


FORMULAS = {
    "moments": Formula(moments),
    "products": Formula(products),
    "correlate": Formula(correlate),
    "clusters": Formula(clusters),
    "similarity": Formula(similarity, on_request=True),
    "checkpoints": Formula(checkpoints, on_request=True),
}
"""By rule."""
