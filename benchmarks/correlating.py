"""Correlating against bare matrix products, and how time grows with tokens and pairs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import made
from benchmarks.measure import RUNS, Figure, in_turn, ratio, slope
from steps.core.runner import Output
from steps.neurons import correlate
from steps.neurons.activations.store import Activations, PostActivations
from steps.neurons.correlations.moments import WithinLayers

if TYPE_CHECKING:
    import torch


def correlate_pair(a: Path, b: Path, draws: int = 1) -> Path:
    """Run ``neurons.correlate`` on two ledgers whose moments lie beside them; returns its file."""
    out = a.parent / f"with-{b.parent.name}.safetensors"
    settings = correlate.Settings(draws=draws)
    moments = [[ledger.parent / "moments.safetensors"] for ledger in (a, b)]
    correlate.main(a, b, moments[0], moments[1], [], 1, 0, settings, Output(out))
    return out


def within_layers(ledger: Path) -> WithinLayers:
    """Sum the within-layer moments of a model from its dump."""
    source = Activations(ledger)
    post, sums = PostActivations(source, "float32"), WithinLayers(source.layers, source.d_mlp)
    for k in range(source.blocks):
        sums.add(post.block(k))
    sums.finish()
    return sums


def over_matmul(folder: Path, quick: bool) -> Iterator[Figure]:
    """``neurons.correlate_over_matmul``: the step and the partner's within-layer moments, from dumps.

    The other side has the same post-activations as float32 matrices in memory and calls
    ``torch.matmul`` for every block of tokens: once for the two models, once for each layer.
    ``neurons.correlate_with_moments_over_matmul`` has the whole of ``neurons.moments`` for the partner, as
    the workflow runs it once for every model: its pre-activations and top examples too.
    """
    import torch

    layers, d_mlp, tokens = (2, 32, 2048) if quick else (2, 1024, 65_536)
    ledgers = [made.activations(folder / f"model-{seed}", layers, d_mlp, tokens, seed) for seed in (1, 2)]
    for ledger in ledgers:
        made.write_moments(ledger)
    blocks = list(zip(*map(shifted_blocks, ledgers), strict=True))
    product = torch.empty(layers * d_mlp, layers * d_mlp)
    within = torch.empty(d_mlp, d_mlp)

    def step() -> None:
        correlate_pair(*ledgers)
        within_layers(ledgers[1])

    def whole_step() -> None:
        correlate_pair(*ledgers)
        made.write_moments(ledgers[1])

    def matmul() -> None:
        for a, b in blocks:
            torch.matmul(a.T, b, out=product)
            for layer in b.split(d_mlp, dim=1):
                torch.matmul(layer.T, layer, out=within)

    runs = 2 if quick else RUNS
    sides = {"correlate": step, "matmul": matmul, "correlate, all moments": whole_step}
    seconds = in_turn(sides, runs)
    multiplied = {"matmul": seconds["matmul"]}
    yield ratio(
        "neurons.correlate_over_matmul", {"correlate": seconds["correlate"], **multiplied}, "at most 1.25"
    )
    whole = {"correlate, all moments": seconds["correlate, all moments"], **multiplied}
    yield ratio("neurons.correlate_with_moments_over_matmul", whole, "")


def shifted_blocks(ledger: Path) -> list[torch.Tensor]:
    """All blocks of a model's shifted post-activations, float32."""
    source = Activations(ledger)
    post = PostActivations(source, "float32")
    return [post.block(k).clone() for k in range(source.blocks)]


def growth(folder: Path, quick: bool) -> Iterator[Figure]:
    """``neurons.tokens_slope`` (moments and correlation of a pair) and ``neurons.pairs_slope``.

    What does not grow with the tokens (pilot values, summaries, rotations, the first top examples) takes
    about 0.3 s, so small jobs flatten the slope: it was 0.87 where the smallest had 12,288 tokens.
    """
    runs = 2 if quick else RUNS
    d_mlp, smallest, block = (32, 512, 128) if quick else (256, 32_768, 4096)
    by_tokens = {}
    for tokens in (smallest, 4 * smallest, 16 * smallest):
        ledgers = [
            made.activations(folder / f"tokens-{tokens}-{seed}", 2, d_mlp, tokens, seed, block)
            for seed in (1, 2)
        ]
        by_tokens[tokens] = ledgers

    def chain(ledgers: list[Path]) -> None:
        for ledger in ledgers:
            made.write_moments(ledger)
        correlate_pair(*ledgers)

    work = {str(tokens): lambda ledgers=ledgers: chain(ledgers) for tokens, ledgers in by_tokens.items()}
    seconds = {int(tokens): times for tokens, times in in_turn(work, runs).items()}
    yield slope("neurons.tokens_slope", seconds, "0.9 to 1.1 over a factor of 16")

    models = [made.activations(folder / f"model-{seed}", 2, d_mlp, smallest, seed) for seed in range(1, 6)]
    for ledger in models:
        made.write_moments(ledger)
    pairs = list(itertools.combinations(models, 2))

    def correlate_pairs(count: int) -> None:
        for a, b in pairs[:count]:
            correlate_pair(a, b)

    work = {str(count): lambda count=count: correlate_pairs(count) for count in (1, 3, 10)}
    seconds = {int(count): times for count, times in in_turn(work, runs).items()}
    yield slope("neurons.pairs_slope", seconds, "0.9 to 1.1 over a factor of 10")
